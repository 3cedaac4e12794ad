//! One job as one connection follows it: which run is being shown, how far each machine's text was sent, and what
//! `status` has to say so that the old UI begins each text at the right moment. Pure.
//! Must not know: sockets, JSON, other jobs.
//!
//! The old UI clears a machine's text when a `status` names it as running that did not before, and only ever appends
//! after that. So of a machine's new run nothing is sent before a `status` without the machine, then one with it, has
//! gone out; and while the end of a text is still on its way the machine stays named.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::frames::Overlay;
use super::source::Source;
use super::text::{Cursor, Next, Piece, TextSource};
use crate::clock::{Mono, Wall};
use crate::engine::board::{Board, JobBoard, MachineBoard, RunBoard};
use crate::engine::id::{MachineRunId, RunId};
use crate::limits;

/// A followed job.
#[derive(Debug, Default)]
pub struct Follow {
    job: Arc<str>,
    /// Subscribed now. What the UI holds of it is remembered in any case.
    pub is_active: bool,
    run: Option<Arc<RunBoard>>,
    /// A newer run exists: what is left of this one is sent, then comes the next. Since then.
    past_since: Option<Mono>,
    /// Runs that passed meanwhile.
    queue: VecDeque<Arc<RunBoard>>,
    /// Of the run's machines, in their order.
    texts: Vec<Text>,
    /// TextCache that the UI holds of earlier runs, or from before it unsubscribed.
    held: HashMap<String, Held>,
    /// Machines that the last `status` named for other runs of the job.
    named_before: HashSet<String>,
    /// The last `status` named machines that had ended already.
    was_bent: bool,
    /// Whose turn it is.
    turn: usize,
    unacked_utf16: u64,
    /// The window is closed.
    is_blocked: bool,
    /// `details` must follow even if nothing has changed.
    pub details_forced: bool,
    details: Option<(Arc<JobBoard>, Mono)>,
}

/// One machine's text.
#[derive(Clone, Debug, Default)]
struct Text {
    id: MachineRunId,
    cursor: Cursor,
    /// How far it was ever sent: sending it again, the pieces are cut exactly there.
    high_utf16: u64,
    acked_utf16: u64,
    /// A `status` has named it, or none was needed: its text may be sent.
    is_announced: bool,
    /// The last `status` named the machine.
    is_named: bool,
    /// The UI holds another run's text.
    replaces: bool,
    /// All of it was sent, that many bytes of output.
    complete_bytes: Option<u64>,
    /// Nothing more for now.
    is_paused: bool,
    /// It has ended, and storage does not have all of it: since then.
    short_since: Option<Mono>,
}

/// A text that the UI holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    id: MachineRunId,
    high_utf16: u64,
}

/// What the next `status` has to say of the job.
#[derive(Debug, Default)]
pub struct Naming {
    pub overlay: Overlay,
    /// Something differs from what the last one said.
    pub is_new: bool,
    /// By machine: named.
    named: Vec<bool>,
    others: HashSet<String>,
}

/// A piece of a machine's text, or its end.
#[derive(Debug)]
pub struct TextChunk {
    pub machine: String,
    pub at: Cursor,
    pub piece: Option<Arc<Piece>>,
    pub total_utf16: u64,
    pub is_complete: bool,
}

/// How a client takes what it is sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Acks {
    /// None: it never acks.
    pub last: Option<Mono>,
}

/// What makes `details` urgent.
#[derive(PartialEq, Eq)]
struct Milestones {
    run: Option<RunId>,
    machines: usize,
    started: usize,
    ended: usize,
    times: [Option<Wall>; 3],
    overlap: bool,
    result_ok: Option<bool>,
}

impl Follow {
    /// Not active yet.
    pub fn new(job: Arc<str>) -> Follow {
        Follow {
            job,
            ..Follow::default()
        }
    }

    /// Subscribed (again): everything is sent from the start. `last_status` is what the last `status` showed.
    pub fn subscribe(&mut self, board: &Board, last_status: &Board) {
        self.details_forced = true;
        if std::mem::replace(&mut self.is_active, true) {
            for place in 0..self.texts.len() {
                self.rewind(place);
            }
            return;
        }
        self.named_before = named_machines(last_status, &self.job, None);
        if let Some(last) = self.last_on(board) {
            self.begin(last, None);
            let run = self.run.clone();
            for (machine, text) in run.iter().flat_map(|run| &run.machines).zip(&mut self.texts) {
                // of what has ended before, nobody has to be told that it runs
                text.is_announced = is_ended(machine) && !text.replaces;
            }
        }
    }

    /// Not followed any more; what the UI holds is kept in mind.
    pub fn unsubscribe(&mut self) {
        self.remember();
        *self = Follow {
            held: std::mem::take(&mut self.held),
            ..Follow::new(self.job.clone())
        };
    }

    /// Takes a new board, or looks again.
    pub fn update(&mut self, board: &Board, now: Mono, source: &impl Source) {
        self.is_blocked = false;
        self.texts.iter_mut().for_each(|text| text.is_paused = false);
        if self.past_since.is_some() {
            return;
        }
        let Some(last) = self.last_on(board) else { return };
        match &self.run {
            None => self.begin(last, None),
            Some(run) if run.run.id == last.run.id => self.renew(last),
            Some(run) if run.run.id > last.run.id => {}
            // its late output is not for the UI any more
            Some(run) if board.running.contains_key(run.run.instance.as_str()) => self.begin(last, None),
            Some(run) => {
                let mut passed = source.past_runs(&self.job, run.run.id, last.run.id);
                if passed.first().is_some_and(|first| first.run.id == run.run.id) {
                    let whole = passed.remove(0);
                    self.renew(whole);
                }
                self.past_since = Some(now);
                self.queue = passed.into();
            }
        }
    }

    /// Goes on to the next run where one is due. True: something is to be done at once.
    pub fn next_run_if_due(&mut self, board: &Board, now: Mono, source: &impl Source) -> bool {
        let Some(since) = self.past_since else {
            return self.was_bent && !self.is_bent();
        };
        let is_over = self.texts.iter().all(|text| text.complete_bytes.is_some())
            || now.since_ms(since) > limits::COMPAT_OUTPUT_PATIENCE_MS;
        let (true, Some(run)) = (is_over, &self.run) else {
            return false;
        };
        let Some(last) = self.last_on(board) else {
            return false;
        };
        if self.queue.is_empty() && last.run.id > run.run.id {
            let next = RunId(run.run.id.0 + 1);
            self.queue = source.past_runs(&self.job, next, last.run.id).into();
        }
        match self.queue.pop_front() {
            Some(run) => self.begin(run, Some(now)),
            None => self.begin(last, None),
        }
        true
    }

    /// What the next `status` has to say.
    pub fn naming(&self, board: &Board) -> Naming {
        let Some(run) = &self.run else {
            return Naming::default();
        };
        let mut naming = Naming {
            others: named_machines(board, &self.job, Some(run.run.id)),
            ..Naming::default()
        };
        if self.past_since.is_some() {
            // the newer run's turn comes later
            naming.overlay.hidden.extend(naming.others.drain());
        }
        let mut bent = Vec::new();
        for (machine, text) in run.machines.iter().zip(&self.texts) {
            let name = &machine.record.machine;
            let is_open = !self.is_ended(machine);
            let has_gap_to_come = !text.is_announced && text.is_named && text.replaces;
            let is_outstanding = !is_open && text.complete_bytes.is_none();
            let is_named = if !text.is_announced {
                !has_gap_to_come
            } else {
                is_open || (is_outstanding && text.is_named) || naming.others.contains(name)
            };
            if has_gap_to_come {
                naming.overlay.hidden.push(name.clone());
                naming.others.remove(name);
            }
            if is_named && !is_open && !naming.others.contains(name) {
                bent.push(name.clone());
            }
            naming.is_new |= is_named != text.is_named || !text.is_announced;
            naming.named.push(is_named);
        }
        if !bent.is_empty() {
            naming.overlay.named = Some((run.clone(), bent));
        }
        naming
    }

    /// That `status` goes out. True: another one must follow at once.
    pub fn note_named(&mut self, naming: Naming) -> bool {
        let mut needs_another = false;
        for (place, is_named) in naming.named.into_iter().enumerate() {
            let text = &self.texts[place];
            let is_news = is_named && !text.is_named;
            let (was_announced, was_named) = (text.is_announced, text.is_named);
            if is_news && was_announced {
                // the UI clears what it had
                self.rewind(place);
            }
            let text = &mut self.texts[place];
            text.is_named = is_named;
            text.is_announced |= is_named;
            needs_another |= !was_announced && was_named && !is_named;
        }
        self.was_bent = naming.overlay.named.is_some();
        self.named_before = naming.others;
        needs_another
    }

    /// Some more output, if there is any and the client keeps up.
    pub fn next_portion(&mut self, now: Mono, acks: Acks, source: &impl Source) -> Option<TextChunk> {
        let run = self.run.clone()?;
        let keeps_quiet = |last: Mono| {
            self.unacked_utf16 >= limits::COMPAT_WINDOW_UTF16
                && now.since_ms(last) < limits::COMPAT_ACK_PATIENCE_MS
        };
        if acks.last.is_some_and(keeps_quiet) {
            self.is_blocked = true;
            return None;
        }
        let count = self.texts.len();
        for _ in 0..count {
            let place = self.turn % count;
            if self.is_ready(place)
                && let Some(portion) = self.portion(place, &run, now, source)
            {
                return Some(portion);
            }
            self.turn = place + 1;
        }
        None
    }

    /// There is output that was not looked at yet.
    pub fn has_more(&self) -> bool {
        !self.is_blocked && (0..self.texts.len()).any(|place| self.is_ready(place))
    }

    /// Output is waited for that should be there already, or for acks.
    pub fn is_waiting(&self) -> bool {
        let is_behind = |(machine, text): (&Arc<MachineBoard>, &Text)| {
            text.is_announced && text.complete_bytes.is_none() && {
                let place = self.place(machine);
                place.is_ended
                    || (text.cursor.byte < place.output_bytes
                        && (place.output.limit_bytes == 0
                            || text.cursor.byte + 4 < place.output.limit_bytes / 2))
            }
        };
        let machines = self.run.iter().flat_map(|run| &run.machines);
        self.is_blocked || machines.zip(&self.texts).any(is_behind)
    }

    /// `details` are due. `next_due` is brought forward to when they will be.
    pub fn take_due_details(&mut self, board: &Board, now: Mono, next_due: &mut Mono) -> bool {
        let Some(job) = board.jobs.get(&self.job).filter(|_| self.is_active) else {
            return false;
        };
        // its output comes first
        if self.texts.iter().any(|text| !text.is_announced) {
            return false;
        }
        if self.details_forced {
            if self.has_more() {
                return false;
            }
        } else if let Some((shown, at)) = &self.details {
            if self.past_since.is_some() || Arc::ptr_eq(shown, job) {
                return false;
            }
            let due = at.plus_ms(limits::COMPAT_PROGRESS_MS);
            if due > now && milestones(shown) == milestones(job) {
                *next_due = (*next_due).min(due);
                return false;
            }
        }
        self.details_forced = false;
        self.details = Some((job.clone(), now));
        true
    }

    /// The client has that much of a machine's text. True: the window opens.
    pub fn ack(&mut self, machine: &str, position: u64) -> bool {
        let machines = self.run.iter().flat_map(|run| &run.machines);
        let found = machines
            .zip(&mut self.texts)
            .find(|(known, _)| known.record.machine == machine);
        let Some((_, text)) = found else { return false };
        // it may speak of an earlier run
        let position = position.min(text.cursor.utf16);
        if position > text.acked_utf16 {
            self.unacked_utf16 = self.unacked_utf16.saturating_sub(position - text.acked_utf16);
            text.acked_utf16 = position;
        }
        self.is_blocked && self.unacked_utf16 < limits::COMPAT_WINDOW_UTF16
    }

    fn portion(
        &mut self,
        place: usize,
        run: &RunBoard,
        now: Mono,
        source: &impl Source,
    ) -> Option<TextChunk> {
        let machine = &run.machines[place];
        let where_it_is = self.place(machine);
        let text = &mut self.texts[place];
        let at = text.cursor;
        let stop = (at.utf16 < text.high_utf16).then_some(text.high_utf16);
        let piece = match source.next(&where_it_is, at, stop) {
            Next::Piece(piece) => Some(piece),
            Next::End => None,
            Next::Later => {
                text.is_paused = true;
                return None;
            }
            Next::Nothing => {
                text.is_paused = true;
                let since = *text.short_since.get_or_insert(now);
                if !where_it_is.is_ended || now.since_ms(since) < limits::COMPAT_OUTPUT_PATIENCE_MS {
                    return None;
                }
                None
            }
        };
        text.short_since = None;
        if let Some(piece) = &piece {
            text.cursor = at.after(piece);
            text.high_utf16 = text.high_utf16.max(text.cursor.utf16);
            self.unacked_utf16 += piece.utf16;
        }
        let is_cut =
            where_it_is.output.limit_bytes > 0 && where_it_is.output_bytes > where_it_is.output.limit_bytes;
        let is_at_end = text.cursor.byte >= where_it_is.output_bytes && (!is_cut || text.cursor.is_tail);
        let is_complete = where_it_is.is_ended && (piece.is_none() || is_at_end);
        text.complete_bytes = is_complete.then_some(where_it_is.output_bytes);
        Some(TextChunk {
            machine: machine.record.machine.clone(),
            at,
            total_utf16: if is_cut { 0 } else { machine.output_utf16 },
            piece,
            is_complete,
        })
    }

    fn is_ready(&self, place: usize) -> bool {
        let text = &self.texts[place];
        text.is_announced && !text.is_paused && text.complete_bytes.is_none()
    }

    /// A `status` names machines of the run that have ended.
    fn is_bent(&self) -> bool {
        let machines = self.run.iter().flat_map(|run| &run.machines);
        machines
            .zip(&self.texts)
            .any(|(machine, text)| text.is_named && self.is_ended(machine) && text.complete_bytes.is_none())
    }

    fn is_ended(&self, machine: &MachineBoard) -> bool {
        self.past_since.is_some() || is_ended(machine)
    }

    fn place(&self, machine: &MachineBoard) -> TextSource {
        let run = self.run.as_ref().map(|run| &run.run);
        let output = run.map(|run| run.output_of(machine.record.id));
        TextSource {
            output: output.unwrap_or_default(),
            output_bytes: machine.output_bytes,
            is_ended: self.is_ended(machine),
        }
    }

    fn last_on(&self, board: &Board) -> Option<Arc<RunBoard>> {
        board.jobs.get(&self.job)?.last.clone()
    }

    /// From here on that run is shown.
    fn begin(&mut self, run: Arc<RunBoard>, past_since: Option<Mono>) {
        self.remember();
        let machines = self.run.iter().flat_map(|run| &run.machines);
        let named = machines
            .zip(&self.texts)
            .filter(|(_, text)| text.is_named)
            .map(|(machine, _)| machine.record.machine.clone());
        self.named_before.extend(named);
        self.texts.clear();
        self.turn = 0;
        self.unacked_utf16 = 0;
        self.past_since = past_since;
        self.renew(run);
    }

    /// The same run, as it is now.
    fn renew(&mut self, run: Arc<RunBoard>) {
        let is_past = self.past_since.is_some();
        for (machine, text) in run.machines.iter().zip(&mut self.texts) {
            let has_more = text
                .complete_bytes
                .is_some_and(|bytes| bytes != machine.output_bytes);
            if has_more || !(is_past || is_ended(machine)) {
                text.complete_bytes = None;
            }
        }
        for machine in run.machines.iter().skip(self.texts.len()) {
            let name = machine.record.machine.as_str();
            let held = self.held.get(name);
            self.texts.push(Text {
                id: machine.record.id,
                high_utf16: held
                    .filter(|held| held.id == machine.record.id)
                    .map_or(0, |held| held.high_utf16),
                is_named: self.named_before.contains(name),
                replaces: held.is_some_and(|held| held.id != machine.record.id),
                ..Text::default()
            });
        }
        self.run = Some(run);
    }

    fn remember(&mut self) {
        let machines = self.run.iter().flat_map(|run| &run.machines);
        for (machine, text) in machines.zip(&self.texts).filter(|(_, text)| text.is_announced) {
            let held = Held {
                id: text.id,
                high_utf16: text.high_utf16,
            };
            self.held.insert(machine.record.machine.clone(), held);
        }
    }

    /// Its text is sent from the start.
    fn rewind(&mut self, place: usize) {
        let text = &mut self.texts[place];
        self.unacked_utf16 = self
            .unacked_utf16
            .saturating_sub(text.cursor.utf16 - text.acked_utf16);
        text.cursor = Cursor::default();
        text.acked_utf16 = 0;
        text.complete_bytes = None;
        text.is_paused = false;
    }
}

/// Machines that run for a job, but for the run `except`.
fn named_machines(board: &Board, job: &str, except: Option<RunId>) -> HashSet<String> {
    let runs = board
        .running
        .values()
        .filter(|run| run.run.job == job && Some(run.run.id) != except);
    runs.flat_map(|run| &run.machines)
        .filter(|machine| !is_ended(machine))
        .map(|machine| machine.record.machine.clone())
        .collect()
}

fn is_ended(machine: &MachineBoard) -> bool {
    machine.record.ended.is_some()
}

fn milestones(job: &JobBoard) -> Milestones {
    let machines = job.last.as_ref().map_or(&[][..], |run| &run.machines);
    let count = |test: fn(&MachineBoard) -> bool| machines.iter().filter(|machine| test(machine)).count();
    Milestones {
        run: job.last.as_ref().map(|run| run.run.id),
        machines: machines.len(),
        started: count(|machine| machine.record.started.is_some()),
        ended: count(is_ended),
        times: [job.next_run, job.record.last_run, job.record.last_success],
        overlap: job.record.overlap,
        result_ok: job.record.result_ok,
    }
}
