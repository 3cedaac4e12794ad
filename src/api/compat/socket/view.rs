//! What one UI connection is sent, frame by frame: each is made only when the socket can take it, so a slow client
//! costs one frame of memory. Pure: time, boards and texts come from outside.
//! Must not know: sockets, JSON, storage.
//!
//! A round is: `config` if it has changed, output of machines that the UI knows to be running, `status`, output of
//! machines that only this `status` has named, `details`. Then it rests until there is a new board or reason to go on.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::follow::{Acks, Follow, Naming, TextChunk};
use super::frames::Overlays;
use super::source::Source;
use crate::clock::Mono;
use crate::config::{Config, Maintenance};
use crate::engine::board::Board;
use crate::limits;

/// Pieces of output sent in a row before `status` and `details` have their turn.
const PORTIONS: usize = 16;

/// A frame to be sent.
#[derive(Debug)]
pub enum Frame {
    Config,
    Status(Overlays),
    EmptyTimeline,
    Chunk { job: Arc<str>, portion: TextChunk },
    Details { job: Arc<str> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Config,
    /// Output of machines that a `status` has named before; so many pieces yet.
    Known(usize),
    Status,
    Timeline,
    /// Output of machines that only now were named.
    New(usize),
    Details,
    Rest,
}

/// One connection's view.
#[derive(Debug)]
pub struct View {
    /// What is being shown.
    board: Arc<Board>,
    phase: Phase,
    /// What the last `config` showed.
    config: Option<(Arc<Config>, Maintenance)>,
    has_timeline: bool,
    follows: BTreeMap<Arc<str>, Follow>,
    /// Whose output has its turn.
    turn: usize,
    /// What the last `status` showed.
    status: Arc<Board>,
    status_stamp: Option<u64>,
    status_at: Mono,
    status_forced: bool,
    was_overlaid: bool,
    acks: Acks,
    /// Another round is due at once.
    goes_on: bool,
    next_due: Mono,
}

impl View {
    /// A connection that was sent nothing yet.
    pub fn new(board: Arc<Board>, now: Mono) -> View {
        View {
            board,
            phase: Phase::Config,
            config: None,
            has_timeline: false,
            follows: BTreeMap::new(),
            turn: 0,
            status: Arc::default(),
            status_stamp: None,
            status_at: now,
            status_forced: true,
            was_overlaid: false,
            acks: Acks::default(),
            goes_on: false,
            next_due: now,
        }
    }

    /// What is being shown: frames are made from this.
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// A round has ended: a new board would be taken.
    pub fn is_at_rest(&self) -> bool {
        self.phase == Phase::Rest
    }

    /// Begins a round; with a new board, if there is one.
    pub fn look(&mut self, board: Option<Arc<Board>>, now: Mono, source: &impl Source) {
        if let Some(board) = board {
            self.board = board;
        }
        self.goes_on = false;
        self.next_due = self.status_at.plus_ms(limits::COMPAT_IDLE_STATUS_MS);
        for follow in self.follows.values_mut().filter(|follow| follow.is_active) {
            follow.update(&self.board, now, source);
        }
        self.phase = Phase::Config;
    }

    /// When the next round begins at the latest.
    pub fn next_round(&self, now: Mono) -> Mono {
        if self.goes_on || self.phase != Phase::Rest {
            now
        } else {
            self.next_due
        }
    }

    /// Follows jobs, or sends what is followed from the start. Returns the names that are too many.
    pub fn subscribe(&mut self, jobs: &[String]) -> Vec<String> {
        let mut refused = Vec::new();
        let mut is_full = false;
        for name in jobs {
            if !self.follows.contains_key(name.as_str()) && self.follows.len() >= limits::COMPAT_SUBSCRIPTIONS
            {
                if !is_full {
                    self.follows.retain(|_, follow| follow.is_active);
                    is_full = self.follows.len() >= limits::COMPAT_SUBSCRIPTIONS;
                }
                if is_full {
                    refused.push(name.clone());
                    continue;
                }
            }
            let job: Arc<str> = name.as_str().into();
            let follow = self
                .follows
                .entry(job.clone())
                .or_insert_with(|| Follow::new(job));
            follow.subscribe(&self.board, &self.status);
        }
        self.status_forced = true;
        // before everything else, but for what every connection begins with
        if self.config.is_some() && self.has_timeline {
            self.phase = Phase::Status;
        }
        refused
    }

    /// Follows them no longer.
    pub fn unsubscribe(&mut self, jobs: &[String]) {
        for name in jobs {
            if let Some(follow) = self.follows.get_mut(name.as_str()) {
                follow.unsubscribe();
            }
        }
    }

    /// The client has that much.
    pub fn ack(&mut self, job: &str, machine: &str, position: u64, now: Mono) {
        self.acks.last = Some(now);
        let follow = self.follows.get_mut(job);
        self.goes_on |= follow.is_some_and(|follow| follow.ack(machine, position));
    }

    /// The next frame; None: that was the round.
    pub fn next(&mut self, now: Mono, source: &impl Source) -> Option<Frame> {
        loop {
            match self.phase {
                Phase::Config => {
                    self.phase = Phase::Known(PORTIONS);
                    let board = &self.board;
                    let is_same = |(config, maintenance): &(Arc<Config>, Maintenance)| {
                        Arc::ptr_eq(config, &board.config) && *maintenance == board.maintenance
                    };
                    if !self.config.as_ref().is_some_and(is_same) {
                        self.config = Some((board.config.clone(), board.maintenance.clone()));
                        // a config makes the old UI forget who runs
                        self.status_forced = true;
                        return Some(Frame::Config);
                    }
                }
                Phase::Known(left) => match self.next_chunk(left, now, source) {
                    Some(frame) => {
                        self.phase = Phase::Known(left - 1);
                        return Some(frame);
                    }
                    None => self.phase = Phase::Status,
                },
                Phase::Status => {
                    self.phase = if std::mem::replace(&mut self.has_timeline, true) {
                        Phase::New(PORTIONS)
                    } else {
                        Phase::Timeline
                    };
                    if let Some(overlays) = self.next_status(now, source) {
                        return Some(Frame::Status(overlays));
                    }
                }
                Phase::Timeline => {
                    self.phase = Phase::New(PORTIONS);
                    return Some(Frame::EmptyTimeline);
                }
                Phase::New(left) => match self.next_chunk(left, now, source) {
                    Some(frame) => {
                        self.phase = Phase::New(left - 1);
                        return Some(frame);
                    }
                    None => self.phase = Phase::Details,
                },
                Phase::Details => match self.next_details(now) {
                    Some(job) => return Some(Frame::Details { job }),
                    None => self.end_round(now, source),
                },
                Phase::Rest => return None,
            }
        }
    }

    fn next_chunk(&mut self, left: usize, now: Mono, source: &impl Source) -> Option<Frame> {
        let active = self.follows.values().filter(|follow| follow.is_active).count();
        if left == 0 || active == 0 {
            return None;
        }
        // each job in turn, so that a talkative one does not hold up the others
        let first = self.turn % active;
        for place in (first..active).chain(0..first) {
            let mut follows = self.follows.iter_mut().filter(|(_, follow)| follow.is_active);
            let (job, follow) = follows.nth(place)?;
            if let Some(portion) = follow.next_portion(now, self.acks, source) {
                self.turn = place + 1;
                let job = job.clone();
                return Some(Frame::Chunk { job, portion });
            }
        }
        None
    }

    fn next_status(&mut self, now: Mono, source: &impl Source) -> Option<Overlays> {
        let board = &self.board;
        let active = self.follows.iter_mut().filter(|(_, follow)| follow.is_active);
        let plans: Vec<(&Arc<str>, &mut Follow, Naming)> = active
            .map(|(job, follow)| {
                let naming = follow.naming(board);
                (job, follow, naming)
            })
            .collect();
        let stamp = source.status_stamp(board);
        let is_overlaid = plans.iter().any(|(_, _, naming)| is_bending(naming));
        let is_due = self.status_forced
            || self.status_stamp != Some(stamp)
            || now.since_ms(self.status_at) >= limits::COMPAT_IDLE_STATUS_MS
            || (self.was_overlaid && !is_overlaid)
            || plans.iter().any(|(_, _, naming)| naming.is_new);
        if !is_due {
            return None;
        }
        let mut overlays = Overlays::new();
        for (job, follow, naming) in plans {
            if is_bending(&naming) {
                overlays.insert(job.clone(), naming.overlay.clone());
            }
            self.goes_on |= follow.note_named(naming);
        }
        self.status = board.clone();
        self.status_stamp = Some(stamp);
        self.status_at = now;
        self.status_forced = false;
        self.was_overlaid = is_overlaid;
        Some(overlays)
    }

    fn next_details(&mut self, now: Mono) -> Option<Arc<str>> {
        for (job, follow) in &mut self.follows {
            if follow.take_due_details(&self.board, now, &mut self.next_due) {
                return Some(job.clone());
            }
        }
        None
    }

    fn end_round(&mut self, now: Mono, source: &impl Source) {
        self.phase = Phase::Rest;
        self.next_due = self
            .next_due
            .min(self.status_at.plus_ms(limits::COMPAT_IDLE_STATUS_MS));
        for follow in self.follows.values_mut().filter(|follow| follow.is_active) {
            self.goes_on |= follow.next_run_if_due(&self.board, now, source) || follow.has_more();
            if follow.is_waiting() {
                self.next_due = self.next_due.min(now.plus_ms(limits::COMPAT_LOOK_MS));
            }
        }
    }
}

fn is_bending(naming: &Naming) -> bool {
    naming.overlay.named.is_some() || !naming.overlay.hidden.is_empty()
}
