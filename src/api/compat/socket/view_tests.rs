//! Views against a model of the deployed UI: it clears a machine's text when a `status` names the machine that the one
//! before did not, drops a chunk below its own count whole, and appends everything else.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::frames::{self, Overlays};
use super::source::Source;
use super::text::{Cursor, Next, Piece, TextSource};
use super::view::{Frame, View};
use crate::clock::{Mono, Wall};
use crate::config::Config;
use crate::engine::board::{Board, JobBoard, MachineBoard, RunBoard};
use crate::engine::id::{MachineRunId, RunId};
use crate::engine::record::{JobRecord, MachineRecord, RunRecord};
use crate::limits;

/// Runs of the job `j` on its machines; a run's number times 100 and the machine's place is its machine run.
#[derive(Default)]
struct World {
    version: u64,
    config: Arc<Config>,
    runs: BTreeMap<u64, Vec<Machine>>,
    /// What storage holds may be behind what was put out.
    stored: HashMap<MachineRunId, String>,
    /// Bytes in one piece at most.
    piece_bytes: usize,
    stamps: RefCell<(u64, String)>,
    /// Others have their turn.
    is_busy: bool,
}

#[derive(Clone, Debug)]
struct Machine {
    name: &'static str,
    output: String,
    is_ended: bool,
}

/// The deployed UI, as it was measured.
#[derive(Default)]
struct Ui {
    named: BTreeSet<String>,
    texts: BTreeMap<String, String>,
    counts: BTreeMap<String, u64>,
    seen: Vec<String>,
    complete: BTreeSet<String>,
}

impl World {
    fn start(&mut self, run: u64, machines: &[&'static str]) {
        let machine = |name: &&'static str| Machine {
            name,
            output: String::new(),
            is_ended: false,
        };
        self.runs.insert(run, machines.iter().map(machine).collect());
    }

    fn print(&mut self, run: u64, place: usize, text: &str) {
        self.runs.get_mut(&run).unwrap()[place].output.push_str(text);
        self.store();
    }

    fn end(&mut self, run: u64) {
        for machine in self.runs.get_mut(&run).unwrap() {
            machine.is_ended = true;
        }
    }

    fn store(&mut self) {
        for (run, machines) in &self.runs {
            for (place, machine) in machines.iter().enumerate() {
                self.stored.insert(id(*run, place), machine.output.clone());
            }
        }
    }

    /// A whole short run.
    fn quick(&mut self, run: u64, text: &str) {
        self.start(run, &["m"]);
        self.print(run, 0, text);
        self.end(run);
    }

    fn board_of(&self, run: u64) -> Arc<RunBoard> {
        let machines = self.runs[&run].iter().enumerate().map(|(place, machine)| {
            Arc::new(MachineBoard {
                record: MachineRecord {
                    id: id(run, place),
                    machine: machine.name.into(),
                    ended: machine.is_ended.then_some(Wall(9)),
                    retcode: machine.is_ended.then_some(0),
                    ..MachineRecord::default()
                },
                last_seq: None,
                output_bytes: machine.output.len() as u64,
                output_utf16: machine.output.encode_utf16().count() as u64,
            })
        });
        Arc::new(RunBoard {
            run: RunRecord {
                id: RunId(run),
                instance: format!("j_{run}"),
                job: "j".into(),
                ..RunRecord::default()
            },
            machines: machines.collect(),
        })
    }

    fn board(&mut self) -> Arc<Board> {
        self.version += 1;
        let mut board = Board {
            version: self.version,
            config: self.config.clone(),
            ..Board::default()
        };
        for run in self.runs.keys() {
            let shown = self.board_of(*run);
            if self.runs[run].iter().any(|machine| !machine.is_ended) {
                board.running.insert(format!("j_{run}").into(), shown);
            }
        }
        let last = self.runs.keys().last().map(|run| self.board_of(*run));
        let record = JobRecord {
            last_run: last.as_ref().map(|_| Wall(1)),
            ..JobRecord::default()
        };
        let job = JobBoard {
            record,
            last,
            ..JobBoard::default()
        };
        board.jobs.insert("j".into(), Arc::new(job));
        Arc::new(board)
    }
}

fn id(run: u64, place: usize) -> MachineRunId {
    MachineRunId(run * 100 + place as u64)
}

impl Source for World {
    fn status_stamp(&self, board: &Arc<Board>) -> u64 {
        let text = frames::status(board, &Overlays::new());
        let mut stamps = self.stamps.borrow_mut();
        if stamps.1 != text {
            *stamps = (stamps.0 + 1, text);
        }
        stamps.0
    }

    fn next(&self, source: &TextSource, cursor: Cursor, stop: Option<u64>) -> Next {
        if self.is_busy {
            return Next::Later;
        }
        let text = self
            .stored
            .get(&source.output.machine_run)
            .map_or("", String::as_str);
        let text = &text[..text.len().min(source.output_bytes as usize)];
        if cursor.byte >= source.output_bytes {
            return if source.is_ended { Next::End } else { Next::Nothing };
        }
        let mut piece = Piece::default();
        let mut taken = String::new();
        for character in text[cursor.byte as usize..].chars() {
            let utf16 = character.len_utf16() as u64;
            let is_too_far = stop.is_some_and(|stop| cursor.utf16 + piece.utf16 + utf16 > stop);
            if is_too_far || (self.piece_bytes > 0 && taken.len() >= self.piece_bytes) {
                break;
            }
            taken.push(character);
            piece.utf16 += utf16;
        }
        if taken.is_empty() {
            return Next::Nothing;
        }
        piece.next_byte = cursor.byte + taken.len() as u64;
        piece.json = serde_json::to_string(&taken).unwrap();
        Next::Piece(Arc::new(piece))
    }

    fn past_runs(&self, _: &str, from: RunId, before: RunId) -> Vec<Arc<RunBoard>> {
        let ended = |run: &&u64| self.runs[*run].iter().all(|machine| machine.is_ended);
        let passed = self
            .runs
            .range(from.0..before.0)
            .map(|(run, _)| run)
            .filter(ended);
        passed.map(|run| self.board_of(*run)).collect()
    }
}

impl Ui {
    fn hear(&mut self, board: &Board, frame: Frame) {
        match frame {
            Frame::Config => self.seen.push("config".into()),
            Frame::EmptyTimeline => self.seen.push("timeline".into()),
            Frame::Details { .. } => self.seen.push("details".into()),
            Frame::Status(overlays) => self.hear_status(&frames::status(board, &overlays)),
            Frame::Chunk { portion, .. } => {
                let machine = portion.machine;
                let text: String = portion
                    .piece
                    .map(|piece| serde_json::from_str(&piece.json).unwrap())
                    .unwrap_or_default();
                self.seen.push(format!("{machine}@{}", portion.at.utf16));
                if portion.is_complete {
                    self.complete.insert(machine.clone());
                }
                let count = self.counts.entry(machine.clone()).or_default();
                assert!(portion.at.utf16 <= *count, "a gap in the text of {machine}");
                if portion.at.utf16 == *count {
                    *count += text.encode_utf16().count() as u64;
                    self.texts.entry(machine).or_default().push_str(&text);
                }
            }
        }
    }

    fn hear_status(&mut self, text: &str) {
        let frame: serde_json::Value = serde_json::from_str(text).unwrap();
        let mut named = BTreeSet::new();
        for run in frame["running"].as_object().unwrap().values() {
            for machine in run["machines"].as_array().unwrap() {
                named.insert(machine.as_str().unwrap().to_string());
            }
        }
        for machine in named.difference(&self.named) {
            self.texts.insert(machine.clone(), String::new());
            self.counts.insert(machine.clone(), 0);
            self.complete.remove(machine);
        }
        let all: Vec<&str> = named.iter().map(String::as_str).collect();
        self.seen.push(format!("status[{}]", all.join(",")));
        self.named = named;
    }

    fn take_seen(&mut self) -> String {
        std::mem::take(&mut self.seen).join(" ")
    }
}

/// A view with its UI, subscribed to the job.
struct Pair {
    view: View,
    ui: Ui,
    now: Mono,
}

impl Pair {
    fn new(world: &mut World) -> Pair {
        let now = Mono(1_000);
        let mut pair = Pair {
            view: View::new(world.board(), now),
            ui: Ui::default(),
            now,
        };
        pair.drain(world);
        assert_eq!(pair.ui.take_seen().split(' ').next(), Some("config"));
        pair.view.subscribe(&["j".to_string()]);
        pair
    }

    fn frames(&mut self, world: &World, most: usize) -> bool {
        for _ in 0..most {
            if self.view.is_at_rest() {
                if self.view.next_round(self.now) > self.now {
                    return false;
                }
                self.view.look(None, self.now, world);
            }
            let board = self.view.board().clone();
            if let Some(frame) = self.view.next(self.now, world) {
                let board = match &frame {
                    Frame::Status(_) => self.view.board().clone(),
                    _ => board,
                };
                self.ui.hear(&board, frame);
            }
        }
        true
    }

    fn drain(&mut self, world: &World) {
        assert!(!self.frames(world, 10_000), "it goes on for ever");
    }

    fn look(&mut self, world: &mut World) {
        self.now = self.now.plus_ms(limits::COMPAT_LOOK_MS);
        let board = world.board();
        self.view.look(Some(board), self.now, world);
        self.drain(world);
    }

    fn text(&self) -> &str {
        self.ui.texts.get("m").map_or("", String::as_str)
    }
}

#[test]
fn a_connection_begins_with_config_status_timeline_and_then_is_quiet_but_for_status() {
    let mut world = World::default();
    world.quick(1, "old");
    let mut pair = Pair {
        view: View::new(world.board(), Mono(0)),
        ui: Ui::default(),
        now: Mono(0),
    };
    pair.drain(&world);
    assert_eq!(pair.ui.take_seen(), "config status[] timeline");
    pair.look(&mut world);
    assert_eq!(pair.ui.take_seen(), "");
    pair.now = pair.now.plus_ms(limits::COMPAT_IDLE_STATUS_MS);
    pair.drain(&world);
    assert_eq!(pair.ui.take_seen(), "status[]");
}

#[test]
fn a_subscription_is_answered_with_status_output_and_details_each_time() {
    let mut world = World::default();
    world.quick(1, "a\u{1f600}b");
    let mut pair = Pair::new(&mut world);
    pair.drain(&world);
    assert_eq!(pair.ui.take_seen(), "status[] m@0 details");
    assert_eq!(pair.text(), "a\u{1f600}b");
    pair.view.subscribe(&["j".to_string()]);
    pair.drain(&world);
    assert_eq!(pair.ui.take_seen(), "status[] m@0 details");
    assert_eq!(pair.text(), "a\u{1f600}b");
}

#[test]
fn output_streams_between_the_status_with_and_the_status_without() {
    let mut world = World::default();
    let mut pair = Pair::new(&mut world);
    pair.drain(&world);
    pair.ui.take_seen();
    world.start(1, &["m"]);
    pair.look(&mut world);
    assert_eq!(pair.ui.take_seen(), "status[m] details");
    world.print(1, 0, "one ");
    pair.look(&mut world);
    assert_eq!(pair.ui.take_seen(), "m@0");
    world.print(1, 0, "two");
    world.end(1);
    pair.look(&mut world);
    assert_eq!(pair.ui.take_seen(), "m@4 status[] details");
    assert_eq!(pair.text(), "one two");
    assert!(pair.ui.complete.contains("m"));
}

#[test]
fn runs_shorter_than_any_look_are_shown_one_after_the_other() {
    let mut world = World::default();
    let mut pair = Pair::new(&mut world);
    pair.drain(&world);
    pair.ui.take_seen();
    world.quick(1, "first");
    pair.look(&mut world);
    assert_eq!(pair.ui.take_seen(), "status[m] m@0 details status[]");
    assert_eq!(pair.text(), "first");
    world.quick(2, "2nd");
    world.quick(3, "third");
    pair.look(&mut world);
    assert_eq!(
        pair.ui.take_seen(),
        "status[m] m@0 status[] status[m] m@0 details status[]"
    );
    assert_eq!(pair.text(), "third");
}

#[test]
fn a_run_that_follows_at_once_begins_after_the_end_of_the_one_before() {
    let mut world = World::default();
    let mut pair = Pair::new(&mut world);
    world.start(1, &["m"]);
    world.print(1, 0, "begin ");
    pair.look(&mut world);
    assert_eq!(pair.text(), "begin ");
    pair.ui.take_seen();
    world.print(1, 0, "end");
    world.end(1);
    world.start(2, &["m"]);
    world.print(2, 0, "new");
    pair.look(&mut world);
    assert_eq!(pair.ui.take_seen(), "m@6 status[] status[m] m@0 details");
    assert_eq!(pair.text(), "new");
}

#[test]
fn an_older_run_that_goes_on_is_not_sent_any_more() {
    let mut world = World::default();
    let mut pair = Pair::new(&mut world);
    world.start(1, &["m"]);
    world.print(1, 0, "old ");
    pair.look(&mut world);
    world.start(2, &["m"]);
    world.print(2, 0, "new");
    world.print(1, 0, "late");
    pair.ui.take_seen();
    pair.look(&mut world);
    assert_eq!(pair.ui.take_seen(), "status[] status[m] m@0 details");
    world.end(1);
    world.print(2, 0, " more");
    world.end(2);
    pair.look(&mut world);
    assert_eq!(pair.text(), "new more");
    assert_eq!(pair.ui.named.len(), 0);
}

#[test]
fn what_storage_does_not_have_yet_is_waited_for_and_the_machine_stays_named() {
    let mut world = World::default();
    let mut pair = Pair::new(&mut world);
    world.start(1, &["m"]);
    pair.look(&mut world);
    world.runs.get_mut(&1).unwrap()[0].output = "late commit".into();
    world.end(1);
    pair.ui.take_seen();
    pair.look(&mut world);
    assert!(pair.ui.named.contains("m"));
    assert_eq!(pair.text(), "");
    world.store();
    pair.now = pair.now.plus_ms(limits::COMPAT_LOOK_MS);
    pair.drain(&world);
    assert_eq!(pair.text(), "late commit");
    assert!(pair.ui.named.is_empty());
    assert!(pair.ui.complete.contains("m"));
}

#[test]
fn output_that_never_comes_is_given_up() {
    let mut world = World::default();
    let mut pair = Pair::new(&mut world);
    world.start(1, &["m"]);
    pair.look(&mut world);
    world.runs.get_mut(&1).unwrap()[0].output = "lost".into();
    world.end(1);
    for _ in 0..=limits::COMPAT_OUTPUT_PATIENCE_MS / limits::COMPAT_LOOK_MS + 1 {
        pair.look(&mut world);
    }
    assert!(pair.ui.named.is_empty());
    assert!(pair.ui.complete.contains("m"));
}

#[test]
fn a_share_that_is_long_in_coming_is_not_taken_for_lost_output() {
    let mut world = World::default();
    let mut pair = Pair::new(&mut world);
    world.quick(1, "all of it");
    world.is_busy = true;
    for _ in 0..=2 * limits::COMPAT_OUTPUT_PATIENCE_MS / limits::COMPAT_LOOK_MS {
        pair.look(&mut world);
    }
    assert!(!pair.ui.complete.contains("m"));
    world.is_busy = false;
    pair.look(&mut world);
    assert_eq!(pair.text(), "all of it");
    assert!(pair.ui.complete.contains("m"));
}

#[test]
fn subscribing_again_cuts_exactly_where_the_ui_stands_wherever_that_was() {
    for sent in 0..8 {
        let mut world = World {
            piece_bytes: 3,
            ..World::default()
        };
        world.start(1, &["m"]);
        world.print(1, 0, "ab\u{1f600}cd\u{20ac}efghij");
        let mut pair = Pair::new(&mut world);
        pair.frames(&world, sent);
        pair.view.unsubscribe(&["j".to_string()]);
        pair.frames(&world, 2);
        pair.view.subscribe(&["j".to_string()]);
        pair.frames(&world, sent / 2);
        pair.view.subscribe(&["j".to_string()]);
        pair.drain(&world);
        assert_eq!(pair.text(), "ab\u{1f600}cd\u{20ac}efghij", "after {sent} frames");
    }
}

#[test]
fn another_run_meanwhile_clears_what_the_ui_held_from_before_it_unsubscribed() {
    for is_running in [false, true] {
        let mut world = World::default();
        let mut pair = Pair::new(&mut world);
        world.start(1, &["m"]);
        world.print(1, 0, "a long old text");
        pair.look(&mut world);
        pair.view.unsubscribe(&["j".to_string()]);
        world.end(1);
        world.quick(2, "new");
        if is_running {
            world.start(3, &["m"]);
            world.print(3, 0, "x");
        }
        pair.view.subscribe(&["j".to_string()]);
        pair.look(&mut world);
        assert_eq!(pair.text(), if is_running { "x" } else { "new" });
    }
}

#[test]
fn a_client_that_acks_is_sent_a_window_and_one_that_does_not_is_sent_all() {
    let long = "x".repeat(3 * limits::COMPAT_WINDOW_UTF16 as usize);
    for acks in [false, true] {
        let mut world = World {
            piece_bytes: 100_000,
            ..World::default()
        };
        world.quick(1, &long);
        let mut pair = Pair::new(&mut world);
        if acks {
            pair.view.ack("j", "m", 0, pair.now);
        }
        pair.drain(&world);
        let got = pair.text().len() as u64;
        if !acks {
            assert_eq!(got, long.len() as u64);
            continue;
        }
        assert!(
            (limits::COMPAT_WINDOW_UTF16..limits::COMPAT_WINDOW_UTF16 + 100_001).contains(&got),
            "{got}"
        );
        while pair.text().len() < long.len() {
            let had = pair.text().len();
            pair.view.ack("j", "m", had as u64, pair.now);
            pair.drain(&world);
            assert!(pair.text().len() > had);
        }
        // a client that has gone quiet gets the rest all the same
        pair.view.subscribe(&["j".to_string()]);
        pair.ui.counts.clear();
        pair.ui.texts.clear();
        pair.drain(&world);
        for _ in 0..3 {
            pair.now = pair.now.plus_ms(limits::COMPAT_ACK_PATIENCE_MS);
            pair.drain(&world);
        }
        assert_eq!(pair.text().len(), long.len());
    }
}

#[test]
fn a_run_that_is_taken_up_again_is_sent_anew() {
    let mut world = World::default();
    let mut pair = Pair::new(&mut world);
    world.quick(1, "lost connection\n");
    pair.look(&mut world);
    world.runs.get_mut(&1).unwrap()[0].is_ended = false;
    world.print(1, 0, "back again\n");
    pair.look(&mut world);
    assert_eq!(pair.text(), "lost connection\nback again\n");
    world.print(1, 0, "done\n");
    world.end(1);
    pair.look(&mut world);
    assert_eq!(pair.text(), "lost connection\nback again\ndone\n");
    assert!(pair.ui.complete.contains("m"));
}

#[test]
fn whatever_happens_in_whatever_order_the_ui_ends_with_the_last_runs_text() {
    for seed in 0..400_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut draw = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let mut world = World {
            piece_bytes: 5,
            ..World::default()
        };
        let mut pair = Pair::new(&mut world);
        let mut run = 0;
        for _ in 0..40 {
            match draw(9) {
                0 if run == 0 || world.runs[&run].iter().all(|machine| machine.is_ended) => {
                    run += 1;
                    world.start(run, &["m", "n"]);
                }
                1 if run > 0 => world.end(run),
                2 | 3 if run > 0 && !world.runs[&run][0].is_ended => {
                    let text = format!("<{run}\u{1f600}{}>", draw(1_000));
                    world.print(run, draw(2) as usize, &text);
                }
                4 => pair.view.unsubscribe(&["j".to_string()]),
                5 => drop(pair.view.subscribe(&["j".to_string()])),
                6 => {
                    pair.frames(&world, draw(6) as usize);
                }
                _ if pair.view.is_at_rest() => {
                    pair.now = pair.now.plus_ms(limits::COMPAT_LOOK_MS);
                    let board = world.board();
                    pair.view.look(Some(board), pair.now, &world);
                    pair.frames(&world, draw(8) as usize);
                }
                _ => {}
            }
        }
        drop(pair.view.subscribe(&["j".to_string()]));
        pair.drain(&world);
        if run > 0 {
            world.end(run);
        }
        pair.look(&mut world);
        pair.drain(&world);
        for (place, machine) in ["m", "n"].iter().enumerate() {
            let expected = world.runs.get(&run).map_or("", |run| run[place].output.as_str());
            let got = pair.ui.texts.get(*machine).map_or("", String::as_str);
            assert_eq!(got, expected, "seed {seed}: {}", pair.ui.seen.join(" "));
        }
        assert!(pair.ui.named.is_empty(), "seed {seed}");
    }
}
