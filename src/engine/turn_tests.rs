//! How much one turn of the engine does: a bounded part of the work, whatever there is of it, and the rest in the turns after,
//! between which everybody else is served.

use std::sync::Arc;

use chrono_tz::Tz;

use super::*;
use crate::clock::Mono;
use crate::config::notify::JobNotices;
use crate::config::{Job, JobSpec, RawJob};
use crate::engine::event::Ask;
use crate::engine::id::RequestId;
use crate::engine::record::{
    Control, JobRecord, MachineRecord, MachineStage, PauseRecord, RunRecord, RunStage, StoredRun, Verdict,
};
use crate::limits;
use crate::schedule::{Fields, Schedule};

const START_S: i64 = 1_795_000_000;
const JOBS: usize = 10_000;
const WEEK_S: i64 = 7 * 86_400;

fn now(second: u64) -> Now {
    Now {
        mono: Mono(second * 1_000),
        wall: Wall::from_secs(START_S + second as i64),
    }
}

/// Jobs due each minute.
fn minutely(count: usize, serial: u64) -> Arc<Config> {
    let field = |text: &str| text.to_string();
    let fields = Fields {
        sec: field("0"),
        min: field("*"),
        hour: field("*"),
        dom: field("*"),
        mon: field("*"),
        dow: field("*"),
        year: field("*"),
    };
    let schedule = Schedule::parse(&fields, Tz::UTC).unwrap();
    let mut config = Config::default();
    for number in 0..count {
        let name = format!("job{number:05}");
        let job = Job {
            name: name.clone(),
            group: "g".into(),
            enabled: true,
            description: serial.to_string(),
            schedule: schedule.clone(),
            spec: Arc::new(JobSpec {
                start_deadline_s: Some(60),
                ..JobSpec::default()
            }),
            notices: JobNotices::default(),
            raw: RawJob::default(),
        };
        config.jobs.insert(name, Arc::new(job));
    }
    Arc::new(config)
}

fn known(count: usize, since_s: i64) -> Vec<JobRecord> {
    let record = |number| JobRecord {
        job: format!("job{number:05}"),
        active_since: Some(Wall::from_secs(since_s)),
        ..JobRecord::default()
    };
    (0..count).map(record).collect()
}

/// An engine that goes on from what was stored, and what its turns have done.
struct Turns {
    engine: Engine,
    effects: Vec<Effect>,
    /// The most effects that one turn has had.
    most: usize,
    turns: usize,
}

impl Turns {
    fn new(config: Arc<Config>, recovered: Recovered) -> Turns {
        let recovered = Recovered {
            next_run: 1_000_000,
            next_machine_run: 1_000_000,
            ..recovered
        };
        Turns {
            engine: Engine::new(EngineSettings::default(), config, recovered, now(0)),
            effects: Vec::new(),
            most: 0,
            turns: 0,
        }
    }

    fn turn(&mut self, second: u64, event: Event) {
        let before = self.effects.len();
        self.engine.handle(now(second), event, &mut self.effects);
        self.most = self.most.max(self.effects.len() - before);
        self.turns += 1;
    }

    /// All that is left for the turns after.
    fn finish(&mut self, second: u64) {
        let begun = self.turns;
        while self.engine.has_more() {
            self.turn(second, Event::More);
            assert!(self.turns - begun < 20_000, "it never ends");
        }
    }

    fn facts(&self) -> impl Iterator<Item = &Fact> {
        self.effects.iter().flat_map(|effect| match effect {
            Effect::Store(StorageOrder::Commit(write)) => write.facts.as_slice(),
            _ => &[],
        })
    }
}

#[test]
fn a_week_down_with_ten_thousand_minutely_jobs_is_taken_up_in_small_turns() {
    let last_s = START_S - WEEK_S;
    let recovered = Recovered {
        last_look: Some(Wall::from_secs(last_s)),
        jobs: known(JOBS, last_s - 86_400),
        ..Recovered::default()
    };
    let mut turns = Turns::new(minutely(JOBS, 1), recovered);
    turns.turn(0, Event::Listening);
    turns.turn(0, Event::Tick);
    assert!(turns.engine.has_more());
    // who asks for something meanwhile has it at once
    let pause = Ask::Pause {
        job: "job09999".into(),
        until: None,
        reason: "r".into(),
    };
    let request = Event::Request {
        request: RequestId(1),
        ask: pause,
        who: "ops".into(),
    };
    turns.turn(0, request);
    assert!(turns.engine.jobs["job09999"].paused.is_some());
    turns.finish(0);
    // a handful of effects for each of the due times of one turn
    assert!(
        turns.most <= 10 * limits::TURN_DUE_TIMES,
        "{} effects in one turn",
        turns.most
    );
    let missed: u64 = turns
        .facts()
        .map(|fact| match fact {
            Fact::Verdict(record) if matches!(record.verdict, Verdict::Missed { .. }) => record.count,
            _ => 0,
        })
        .sum();
    let passed_over = (WEEK_S / 60) as u64 * JOBS as u64;
    let latest = JOBS as u64;
    assert_eq!(
        missed,
        passed_over - latest,
        "the latest of each job is no older than 60 s"
    );
}

#[test]
fn an_hour_down_records_each_due_time_by_itself_in_small_turns() {
    let last_s = START_S - 3_600;
    let recovered = Recovered {
        last_look: Some(Wall::from_secs(last_s)),
        jobs: known(1_000, last_s - 86_400),
        ..Recovered::default()
    };
    let mut turns = Turns::new(minutely(1_000, 1), recovered);
    turns.turn(0, Event::Listening);
    turns.turn(0, Event::Tick);
    turns.finish(0);
    // what one job has missed is not split: up to MISSED_RECORDS more than a turn's share
    let bound = 5 * (limits::TURN_DUE_TIMES + limits::MISSED_RECORDS);
    assert!(turns.most <= bound, "{} effects in one turn", turns.most);
    let verdicts = turns
        .facts()
        .filter(|fact| matches!(fact, Fact::Verdict(_)))
        .count();
    assert_eq!(verdicts, 60 * 1_000);
}

#[test]
fn a_configuration_that_changes_ten_thousand_jobs_plans_them_in_small_turns_and_passes_nothing_over() {
    let mut turns = Turns::new(minutely(JOBS, 1), Recovered::default());
    turns.turn(0, Event::Listening);
    turns.turn(0, Event::Tick);
    turns.finish(0);
    let planned = |turns: &Turns| turns.engine.due.len();
    assert_eq!(planned(&turns), JOBS);
    let until_due = (60 - START_S.rem_euclid(60)) as u64;
    for second in 1..until_due {
        turns.turn(second, Event::Tick);
    }
    turns.effects.clear();
    // in the second in which all are due, before any of them was taken up
    turns.turn(until_due - 1, Event::Config(minutely(JOBS, 2)));
    let at_once = planned(&turns);
    assert!(at_once <= limits::TURN_DUE_TIMES, "{at_once} planned in one turn");
    turns.turn(until_due, Event::Tick);
    turns.turn(until_due, Event::Config(minutely(JOBS, 3)));
    turns.finish(until_due);
    let mut fired: Vec<&str> = turns
        .facts()
        .filter_map(|fact| match fact {
            Fact::Start(run) => Some(run.job.as_str()),
            _ => None,
        })
        .collect();
    fired.sort_unstable();
    fired.dedup();
    assert_eq!(fired.len(), JOBS);
    assert_eq!(planned(&turns), JOBS);
}

#[test]
fn twenty_thousand_pauses_and_switches_end_in_small_turns_before_anything_is_due() {
    let until = Wall::from_secs(START_S - 10);
    let pauses = (0..JOBS).map(|number| {
        Control::Pause(PauseRecord {
            job: format!("job{number:05}"),
            until: Some(until),
            ..PauseRecord::default()
        })
    });
    let switches = (0..2 * JOBS).map(|number| {
        Control::Switch(SwitchRecord {
            machine: Some(format!("web{number:05}")),
            is_on: true,
            until,
            ..SwitchRecord::default()
        })
    });
    let last_s = START_S - 30;
    let recovered = Recovered {
        last_look: Some(Wall::from_secs(last_s)),
        jobs: known(JOBS, last_s - 86_400),
        controls: pauses.chain(switches).collect(),
        ..Recovered::default()
    };
    let mut turns = Turns::new(minutely(JOBS, 1), recovered);
    turns.turn(0, Event::Listening);
    turns.turn(0, Event::Tick);
    assert!(turns.engine.has_more());
    turns.finish(0);
    assert!(turns.engine.switches.is_empty());
    assert!(turns.engine.maintenance.machines.is_empty());
    assert!(turns.engine.jobs.values().all(|state| state.paused.is_none()));
    let bound = 10 * limits::TURN_DUE_TIMES.max(limits::TURN_CONTROLS);
    assert!(turns.most <= bound, "{} effects in one turn", turns.most);
    // no due time met a pause whose time was over
    let is_paused = |fact: &&Fact| matches!(fact, Fact::Verdict(record) if matches!(record.verdict, Verdict::Paused { .. }));
    assert_eq!(turns.facts().filter(is_paused).count(), 0);
}

/// Runs with ten machines each.
fn stored_runs(count: u64, stage: RunStage, machine_stage: MachineStage) -> Vec<StoredRun> {
    let run = |id: u64| {
        let machine = |number: u64| {
            let machine = MachineRecord {
                id: MachineRunId(10 * id + number),
                run: RunId(id),
                machine: format!("web{number}"),
                position: number as u32,
                stage: machine_stage,
                wrapper_id: Some("w".into()),
                started: Some(Wall::from_secs(START_S - 100)),
                ended: (machine_stage == MachineStage::Ended).then(|| Wall::from_secs(START_S - 50)),
                retcode: (machine_stage == MachineStage::Ended).then_some(0),
                ..MachineRecord::default()
            };
            (machine, record::OutputPosition::default())
        };
        StoredRun {
            run: RunRecord {
                id: RunId(id),
                instance: format!("job{:05}_{id}", id % 100),
                job: format!("job{:05}", id % 100),
                started: Wall::from_secs(START_S - 100),
                stage,
                spec: Arc::new(JobSpec {
                    use_wrapper: true,
                    heartbeat_timeout_ms: 15_000,
                    ..JobSpec::default()
                }),
                ..RunRecord::default()
            },
            machines: (0..10).map(machine).collect(),
        }
    };
    (1..=count).map(run).collect()
}

#[test]
fn ten_thousand_machine_runs_without_a_sign_of_life_end_in_small_turns() {
    let recovered = Recovered {
        runs: stored_runs(1_000, RunStage::Running, MachineStage::Started),
        ..Recovered::default()
    };
    let mut turns = Turns::new(Arc::default(), recovered);
    turns.turn(0, Event::Listening);
    turns.finish(0);
    for second in 1..=16 {
        turns.turn(second, Event::Tick);
    }
    assert!(turns.engine.has_more());
    turns.finish(16);
    let lost = turns
        .facts()
        .filter(|fact| matches!(fact, Fact::Machine(m) if m.given_by == Some(crate::ending::GivenBy::Lost)));
    assert_eq!(lost.count(), 10_000);
    let bound = 10 * (limits::TURN_MACHINES + 10);
    assert!(turns.most <= bound, "{} effects in one turn", turns.most);
}

#[test]
fn runs_that_have_ended_leave_memory_in_small_portions() {
    let recovered = Recovered {
        runs: stored_runs(1_000, RunStage::Ended, MachineStage::Ended),
        ..Recovered::default()
    };
    let mut turns = Turns::new(Arc::default(), recovered);
    turns.turn(0, Event::Listening);
    let mut left = turns.engine.runs.len();
    assert_eq!(left, 1_000);
    for second in 1..limits::ENDED_RUN_KEPT_MS / 1_000 + 100 {
        turns.turn(second, Event::Tick);
        let now_left = turns.engine.runs.len();
        assert!(
            left - now_left <= limits::TURN_MACHINES / 10,
            "{left} to {now_left}"
        );
        left = now_left;
    }
    assert_eq!(left, 0);
}
