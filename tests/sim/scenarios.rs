//! Named cases of rules.md in virtual time, each asserting what a user would see.
//! Must not know: the engine's insides.

use saltpeter::config::Success;
use saltpeter::engine::effect::{Answer, Done, JobLogLine, Refusal};
use saltpeter::engine::event::Ask;
use saltpeter::engine::record::{MachineRecord, RunRecord, RunStage, Verdict};

use crate::setup::{Behaviour, End, JobSetup, Kind, Machine};
use crate::world::{Action, World};

/// An installation without jitter, its daemon up; `count` machines web00, web01...
fn quiet(jobs: Vec<JobSetup>, count: usize) -> World {
    let machines = (0..count).map(|n| Machine::new(&format!("web{n:02}"))).collect();
    let mut world = World::new(7, jobs, machines);
    world.jitter = false;
    world.checker.keep_all = true;
    world.tracing = true;
    world.at(0, Action::StartDaemon);
    world.run_for(500);
    world
}

fn job(kind: Kind) -> JobSetup {
    JobSetup::new("backup", kind)
}

fn with(mut world: World, behaviour: Behaviour) -> World {
    world.behaviours.insert("backup".into(), behaviour);
    world
}

fn ask(world: &mut World, ask: Ask) -> Answer {
    let request = world.ask(ask).expect("the daemon listens");
    world.run_for(100);
    check(world);
    world
        .checker
        .seen
        .answers
        .get(&request)
        .cloned()
        .expect("answered")
}

fn start(world: &mut World) -> String {
    match ask(world, Ask::Run { job: "backup".into() }) {
        Ok(Done::Started { instance }) => instance,
        other => panic!("not started: {other:?}"),
    }
}

fn kill(world: &mut World) -> Answer {
    ask(
        world,
        Ask::Kill {
            job: "backup".into(),
            machine: None,
            instance: None,
        },
    )
}

fn check(world: &World) {
    if let Some(failure) = &world.failure {
        for line in world.trace.iter().rev().take(40).rev() {
            println!("{line}");
        }
        panic!("{failure}");
    }
}

fn run_for(world: &mut World, s: u64) {
    world.run_for(s * 1_000);
    check(world);
}

fn run_of(world: &World, instance: &str) -> RunRecord {
    world.storage.runs[&world.storage.names[instance]].clone()
}

fn machine(world: &World, instance: &str, name: &str) -> MachineRecord {
    let run = world.storage.names[instance];
    let mut machines = world.storage.machines_of(run);
    machines
        .find(|m| m.machine == name)
        .cloned()
        .expect("a machine run")
}

fn output(world: &World, record: &MachineRecord) -> String {
    let rows = world.storage.rows.get(&record.id);
    let bytes: Vec<u8> = rows.into_iter().flatten().flat_map(|r| r.data.clone()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn seconds(from: Option<saltpeter::clock::Wall>, to: Option<saltpeter::clock::Wall>) -> f64 {
    match (from, to) {
        (Some(from), Some(to)) => (to.0 - from.0) as f64 / 1e6,
        other => panic!("a time is missing: {other:?}"),
    }
}

fn logged(world: &World, is_it: impl Fn(&JobLogLine) -> bool) -> usize {
    world
        .checker
        .seen
        .log
        .iter()
        .filter(|entry| is_it(&entry.what))
        .count()
}

fn ended(world: &World, instance: &str) -> Option<bool> {
    let run = run_of(world, instance);
    assert_eq!(run.stage, RunStage::Ended, "{run:?}");
    assert!(world.checker.seen.board.running.is_empty());
    run.success
}

#[test]
fn a_simple_run_succeeds_with_all_its_output() {
    for kind in [Kind::OursJob, Kind::OursEnv, Kind::Python] {
        let mut world = with(quiet(vec![job(kind)], 2), Behaviour::simple(4_000, 0));
        let instance = start(&mut world);
        run_for(&mut world, 10);
        assert_eq!(ended(&world, &instance), Some(true));
        for name in ["web00", "web01"] {
            let record = machine(&world, &instance, name);
            assert_eq!((record.retcode, record.presumed), (Some(0), false));
            let text = output(&world, &record);
            assert_eq!(text.lines().count(), 3, "{kind:?} {text}");
        }
        assert_eq!(logged(&world, |l| matches!(l, JobLogLine::Starting)), 1);
        assert_eq!(logged(&world, |l| matches!(l, JobLogLine::StartingOn { .. })), 2);
        assert_eq!(
            logged(&world, |l| matches!(l, JobLogLine::Result { retcode: 0, .. })),
            2
        );
        assert_eq!(logged(&world, |l| matches!(l, JobLogLine::Finished)), 1);
    }
}

#[test]
fn a_machine_that_does_not_answer_ends_at_once_with_255() {
    let mut world = with(quiet(vec![job(Kind::OursJob)], 2), Behaviour::simple(4_000, 0));
    world.machines[1].up = false;
    let instance = start(&mut world);
    run_for(&mut world, 1);
    let record = machine(&world, &instance, "web01");
    assert_eq!(record.retcode, Some(255));
    assert!(output(&world, &record).contains("Target did not respond"));
    run_for(&mut world, 10);
    assert_eq!(ended(&world, &instance), Some(false));
}

#[test]
fn no_machine_matches_and_the_run_ends_and_says_so() {
    let mut nobody = job(Kind::OursJob);
    nobody.targets = vec!["db77".into()];
    let mut world = quiet(vec![nobody], 1);
    let instance = start(&mut world);
    run_for(&mut world, 2);
    assert_ne!(ended(&world, &instance), Some(true));
    assert_eq!(logged(&world, |l| matches!(l, JobLogLine::NoTargets)), 1);
}

#[test]
fn a_dead_wrapper_is_lost_15_to_17_s_after_its_last_beat() {
    for (kind, machine_too) in [
        (Kind::OursJob, true),
        (Kind::OursJob, false),
        (Kind::Python, true),
        (Kind::Python, false),
    ] {
        let mut world = with(quiet(vec![job(kind)], 1), Behaviour::simple(3_000_000, 0));
        let instance = start(&mut world);
        run_for(&mut world, 21);
        world.wrapper_killed(0, machine_too);
        run_for(&mut world, 20);
        let record = machine(&world, &instance, "web00");
        assert_eq!(record.retcode, Some(253), "{record:?}");
        let silence = seconds(record.last_heartbeat, record.ended);
        assert!((15.0..=17.0).contains(&silence), "{silence}");
        let text = output(&world, &record);
        assert!(
            text.contains("[SALTPETER ERROR: Job lost connection - no heartbeat for "),
            "{text}"
        );
        assert_eq!(ended(&world, &instance), Some(false));
    }
}

#[test]
fn output_without_beats_does_not_keep_a_wrapper_alive() {
    let chatty = Behaviour {
        chunks: 10_000,
        chunk_every_ms: 500,
        ..Behaviour::simple(600_000, 0)
    };
    let mut world = with(quiet(vec![job(Kind::OursJob)], 1), chatty);
    world.beatless = true;
    let instance = start(&mut world);
    run_for(&mut world, 120);
    // it goes on sending output, which is stored and brings it back as little as it kept it alive
    let results = || {
        logged(&world, |l| {
            matches!(l, JobLogLine::Result { .. } | JobLogLine::Revised { .. })
        })
    };
    let record = machine(&world, &instance, "web00");
    assert_eq!(
        (record.retcode, record.presumed, record.revised_from),
        (Some(253), true, None)
    );
    assert_eq!(results(), 1);
    let before = output(&world, &record).len();
    run_for(&mut world, 60);
    assert!(output(&world, &record).len() > before);
    // its own word counts
    run_for(&mut world, 500);
    let record = machine(&world, &instance, "web00");
    assert_eq!((record.retcode, record.revised_from), (Some(0), Some(253)));
    let revised = logged(&world, |l| matches!(l, JobLogLine::Revised { .. }));
    assert_eq!(revised, 1);
}

#[test]
fn a_wrapper_that_is_lost_again_and_again_has_its_output_in_the_log_twice_at_most() {
    let mut world = with(quiet(vec![job(Kind::OursJob)], 1), Behaviour::simple(200_000, 0));
    let instance = start(&mut world);
    run_for(&mut world, 10);
    for _ in 0..3 {
        world.machines[0].cut_off = true;
        if let Some(conn) = world.wrappers[0].conn {
            world.cut(conn, 100, 100);
        }
        run_for(&mut world, 25);
        assert_eq!(machine(&world, &instance, "web00").retcode, Some(253));
        world.machines[0].cut_off = false;
        run_for(&mut world, 15);
        assert_eq!(machine(&world, &instance, "web00").retcode, None);
    }
    run_for(&mut world, 120);
    assert_eq!(machine(&world, &instance, "web00").retcode, Some(0));
    let blocks = logged(&world, |l| {
        matches!(l, JobLogLine::Result { .. } | JobLogLine::Revised { .. })
    });
    let again = logged(
        &world,
        |l| matches!(l, JobLogLine::Note { text } if text.ends_with("exit code 253 again")),
    );
    assert_eq!((blocks, again), (2, 2));
}

#[test]
fn the_late_truth_replaces_a_presumed_253() {
    for kind in [Kind::OursJob, Kind::OursEnv, Kind::Python] {
        let mut world = with(quiet(vec![job(kind)], 1), Behaviour::simple(30_000, 0));
        let instance = start(&mut world);
        run_for(&mut world, 10);
        world.machines[0].cut_off = true;
        let conn = world.wrappers[0].conn.expect("connected");
        world.cut(conn, 100, 100);
        run_for(&mut world, 25);
        let record = machine(&world, &instance, "web00");
        assert_eq!((record.retcode, record.presumed), (Some(253), true));
        assert_eq!(ended(&world, &instance), Some(false));
        run_for(&mut world, 20);
        world.machines[0].cut_off = false;
        run_for(&mut world, 10);
        let record = machine(&world, &instance, "web00");
        assert_eq!(
            (record.retcode, record.revised_from, record.presumed),
            (Some(0), Some(253), false)
        );
        assert_eq!(ended(&world, &instance), Some(true));
        assert_eq!(
            logged(&world, |l| matches!(
                l,
                JobLogLine::Revised {
                    from: 253,
                    retcode: 0,
                    ..
                }
            )),
            1
        );
        assert_eq!(
            world.checker.seen.board.jobs["backup"].record.result_ok,
            Some(true)
        );
    }
}

/// Its connection stands, and its command prints nothing: the beats alone must bring it back.
#[test]
fn a_wrapper_that_was_lost_and_beats_again_counts_as_running_and_can_be_killed() {
    for kind in [Kind::OursJob, Kind::Python] {
        let mut world = with(quiet(vec![job(kind)], 1), Behaviour::silent(3_000_000, 0));
        let instance = start(&mut world);
        run_for(&mut world, 10);
        world.wrappers[0].stopped = true;
        run_for(&mut world, 25);
        let record = machine(&world, &instance, "web00");
        assert_eq!((record.retcode, record.presumed), (Some(253), true));
        world.wrapper_goes_on(0);
        run_for(&mut world, 10);
        let record = machine(&world, &instance, "web00");
        assert_eq!(
            (record.retcode, record.revised_from),
            (None, Some(253)),
            "{kind:?}"
        );
        assert_eq!(kill(&mut world), Ok(Done::KillSent { machines: 1 }));
        run_for(&mut world, 10);
        assert_eq!(machine(&world, &instance, "web00").retcode, Some(143));
    }
}

#[test]
fn a_wrapper_that_never_connects_gives_254_after_30_s() {
    let mut world = quiet(vec![job(Kind::OursJob)], 1);
    world.executor.stillborn = true;
    let instance = start(&mut world);
    run_for(&mut world, 33);
    let record = machine(&world, &instance, "web00");
    assert_eq!(record.retcode, Some(254));
    let waited = seconds(record.dispatched, record.ended);
    assert!((30.0..=32.0).contains(&waited), "{waited}");
}

#[test]
fn a_launch_that_fails_gives_the_executors_code_and_words() {
    let mut world = quiet(vec![job(Kind::OursJob)], 1);
    let error = (254, "No such file: /usr/bin/sp-wrapper".to_string());
    world.executor.launch_error.insert("web00".into(), error);
    let instance = start(&mut world);
    run_for(&mut world, 1);
    let record = machine(&world, &instance, "web00");
    assert_eq!(record.retcode, Some(254));
    assert!(output(&world, &record).contains("No such file: /usr/bin/sp-wrapper"));
}

#[test]
fn a_kill_before_the_launch_ends_at_once_and_the_late_wrapper_starts_nothing() {
    let mut world = with(quiet(vec![job(Kind::OursJob)], 1), Behaviour::simple(4_000, 0));
    world.machines[0].frozen_until_ms = 120_000;
    let instance = start(&mut world);
    run_for(&mut world, 5);
    assert_eq!(kill(&mut world), Ok(Done::KillSent { machines: 1 }));
    run_for(&mut world, 1);
    let record = machine(&world, &instance, "web00");
    assert_eq!(record.retcode, Some(143));
    assert!(output(&world, &record).contains("[Job killed before execution]"));
    run_for(&mut world, 180);
    assert_eq!(world.wrappers.len(), 1);
    assert!(!world.wrappers[0].started() && !world.wrappers[0].alive);
    assert_eq!(machine(&world, &instance, "web00").retcode, Some(143));
}

#[test]
fn a_kill_between_batches_and_the_rest_never_starts() {
    let mut batched = job(Kind::OursJob);
    batched.batch_size = 1;
    let mut world = with(quiet(vec![batched], 3), Behaviour::simple(60_000, 0));
    let instance = start(&mut world);
    run_for(&mut world, 10);
    assert_eq!(kill(&mut world), Ok(Done::KillSent { machines: 3 }));
    run_for(&mut world, 5);
    assert_eq!(ended(&world, &instance), Some(false));
    let machines: Vec<_> = ["web00", "web01", "web02"]
        .map(|m| machine(&world, &instance, m))
        .into();
    assert!(machines.iter().all(|m| m.retcode == Some(143)), "{machines:?}");
    let killed_before = machines
        .iter()
        .filter(|m| output(&world, m).contains("[Job killed before execution]"));
    assert_eq!(killed_before.count(), 2);
    assert_eq!(world.wrappers.len(), 1);
}

#[test]
fn a_kill_while_the_first_batch_is_launched_launches_no_other() {
    let mut batched = job(Kind::OursJob);
    batched.batch_size = 1;
    let mut world = with(quiet(vec![batched], 3), Behaviour::simple(60_000, 0));
    world.executor.stillborn = true;
    let instance = start(&mut world);
    run_for(&mut world, 2);
    assert_eq!(kill(&mut world), Ok(Done::KillSent { machines: 3 }));
    run_for(&mut world, 5);
    assert_eq!(ended(&world, &instance), Some(false));
    assert_eq!(world.executor.dispatched.len(), 1);
}

#[test]
fn a_kill_is_obeyed_and_reported_by_every_kind_of_wrapper() {
    for (kind, ignores_term) in [
        (Kind::OursJob, false),
        (Kind::OursEnv, true),
        (Kind::Python, false),
        (Kind::Python, true),
    ] {
        let behaviour = Behaviour {
            ignores_term,
            ..Behaviour::simple(600_000, 0)
        };
        let mut world = with(quiet(vec![job(kind)], 1), behaviour);
        let instance = start(&mut world);
        run_for(&mut world, 10);
        assert_eq!(kill(&mut world), Ok(Done::KillSent { machines: 1 }));
        run_for(&mut world, 7);
        let record = machine(&world, &instance, "web00");
        assert_eq!((record.retcode, record.presumed), (Some(143), false), "{kind:?}");
        assert!(output(&world, &record).contains("[Job terminated by user request]"));
    }
}

#[test]
fn a_kill_is_repeated_every_second_and_given_up_after_30() {
    let stuck = Behaviour {
        stuck: true,
        ..Behaviour::silent(3_000_000, 0)
    };
    let mut world = with(quiet(vec![job(Kind::OursJob)], 1), stuck);
    let instance = start(&mut world);
    run_for(&mut world, 5);
    kill(&mut world).unwrap();
    run_for(&mut world, 29);
    assert!(world.checker.kill_frames >= 25, "{}", world.checker.kill_frames);
    assert_eq!(machine(&world, &instance, "web00").retcode, None);
    run_for(&mut world, 3);
    let record = machine(&world, &instance, "web00");
    assert_eq!((record.retcode, record.presumed), (Some(143), true));
    assert!(!output(&world, &record).is_empty());
}

#[test]
fn a_kill_of_what_is_not_running_is_an_error() {
    let mut world = quiet(vec![job(Kind::OursJob)], 1);
    assert!(matches!(kill(&mut world), Err(Refusal::Conflict(_))));
    let unknown = Ask::Kill {
        job: "nothing".into(),
        machine: None,
        instance: None,
    };
    let job = "nothing".into();
    assert_eq!(ask(&mut world, unknown), Err(Refusal::UnknownJob { job }));
}

#[test]
fn the_wrapper_keeps_the_timeout_and_the_daemon_is_the_second_line() {
    let mut short = job(Kind::OursJob);
    short.timeout_s = 10;
    let mut world = with(quiet(vec![short.clone()], 1), Behaviour::silent(600_000, 0));
    let instance = start(&mut world);
    run_for(&mut world, 12);
    let record = machine(&world, &instance, "web00");
    assert_eq!((record.retcode, record.presumed), (Some(124), false));
    let stuck = Behaviour {
        stuck: true,
        ..Behaviour::silent(600_000, 0)
    };
    let mut world = with(quiet(vec![short], 1), stuck);
    let instance = start(&mut world);
    run_for(&mut world, 38);
    assert_eq!(machine(&world, &instance, "web00").retcode, None);
    run_for(&mut world, 4);
    let record = machine(&world, &instance, "web00");
    assert_eq!((record.retcode, record.presumed), (Some(124), true));
    let lasted = seconds(record.started, record.ended);
    assert!((40.0..=42.0).contains(&lasted), "{lasted}");
}

#[test]
fn a_command_that_prints_nothing_for_an_hour_lives_on() {
    for kind in [Kind::OursJob, Kind::Python] {
        let mut patient = job(kind);
        patient.timeout_s = 0;
        let mut world = with(quiet(vec![patient], 1), Behaviour::silent(3_700_000, 5));
        let instance = start(&mut world);
        run_for(&mut world, 3_600);
        assert_eq!(machine(&world, &instance, "web00").retcode, None);
        run_for(&mut world, 110);
        let record = machine(&world, &instance, "web00");
        assert_eq!(
            (record.retcode, record.presumed, record.revised_from),
            (Some(5), false, None)
        );
    }
}

#[test]
fn a_machine_in_maintenance_is_noted_with_code_0_and_left_out() {
    let mut world = with(quiet(vec![job(Kind::OursJob)], 2), Behaviour::simple(2_000, 0));
    world.set_maintenance(false, &["web01".into()]);
    world.reload();
    let instance = start(&mut world);
    run_for(&mut world, 6);
    assert_eq!(ended(&world, &instance), Some(true));
    assert_eq!(world.wrappers.len(), 1);
    let stored = logged(
        &world,
        |l| matches!(l, JobLogLine::Result { machine, retcode: 0, .. } if machine == "web01"),
    );
    assert_eq!(stored, 1);
}

#[test]
fn all_machines_in_maintenance_is_skipped_not_failed() {
    let mut world = with(quiet(vec![job(Kind::OursJob)], 2), Behaviour::simple(2_000, 0));
    world.set_maintenance(false, &["web00".into(), "web01".into()]);
    world.reload();
    let instance = start(&mut world);
    run_for(&mut world, 6);
    assert_eq!(world.wrappers.len(), 0);
    assert_ne!(ended(&world, &instance), Some(false));
    assert_ne!(
        world.checker.seen.board.jobs["backup"].record.result_ok,
        Some(false)
    );
}

#[test]
fn in_global_maintenance_nothing_starts() {
    let mut minutely = job(Kind::OursJob);
    (minutely.min, minutely.hour) = ("*".into(), "*".into());
    let mut world = with(quiet(vec![minutely], 1), Behaviour::simple(2_000, 0));
    world.set_maintenance(true, &[]);
    world.reload();
    assert!(matches!(
        ask(&mut world, Ask::Run { job: "backup".into() }),
        Err(Refusal::Conflict(_))
    ));
    run_for(&mut world, 130);
    assert_eq!(world.storage.runs.len(), 0);
    let verdicts: Vec<_> = world
        .storage
        .verdicts
        .values()
        .map(|v| v.verdict.clone())
        .collect();
    assert_eq!(verdicts, [Verdict::Maintenance, Verdict::Maintenance]);
    world.set_maintenance(false, &[]);
    world.reload();
    run_for(&mut world, 60);
    assert_eq!(world.storage.runs.len(), 1);
}

#[test]
fn number_of_targets_draws_of_those_that_are_up() {
    let mut some = job(Kind::OursJob);
    some.number_of_targets = 2;
    let mut world = with(quiet(vec![some.clone()], 5), Behaviour::simple(2_000, 0));
    world.machines[0].up = false;
    world.machines[4].up = false;
    let instance = start(&mut world);
    run_for(&mut world, 6);
    assert_eq!(world.wrappers.len(), 2);
    assert_eq!(ended(&world, &instance), Some(true));
    some.number_of_targets = 4;
    let mut world = with(quiet(vec![some], 5), Behaviour::simple(2_000, 0));
    world.machines[0].up = false;
    world.machines[4].up = false;
    let instance = start(&mut world);
    run_for(&mut world, 6);
    assert_eq!(world.wrappers.len(), 3);
    assert_eq!(ended(&world, &instance), Some(false));
}

#[test]
fn batches_are_never_larger_than_asked_for() {
    let mut batched = job(Kind::OursJob);
    batched.batch_size = 2;
    let mut world = with(quiet(vec![batched], 5), Behaviour::simple(10_000, 0));
    let instance = start(&mut world);
    run_for(&mut world, 5);
    assert_eq!(world.wrappers.len(), 2);
    run_for(&mut world, 10);
    assert_eq!(world.wrappers.len(), 4);
    run_for(&mut world, 30);
    assert_eq!(ended(&world, &instance), Some(true));
}

fn every(sec: &str) -> JobSetup {
    let mut often = job(Kind::OursJob);
    (often.sec, often.min, often.hour) = (sec.into(), "*".into(), "*".into());
    often
}

fn verdicts(world: &World) -> (usize, usize, u64) {
    let all = world.storage.verdicts.values();
    let started = all
        .clone()
        .filter(|v| matches!(v.verdict, Verdict::Started { .. }))
        .count();
    let overlap = all.clone().filter(|v| v.verdict == Verdict::Overlap).count();
    let missed = all
        .filter(|v| matches!(v.verdict, Verdict::Missed { .. }))
        .map(|v| v.count)
        .sum();
    (started, overlap, missed)
}

#[test]
fn after_an_outage_the_latest_due_time_runs_and_the_others_are_missed() {
    let mut world = with(quiet(vec![every("0")], 1), Behaviour::simple(1_000, 0));
    run_for(&mut world, 65);
    let (before, _, _) = verdicts(&world);
    world.crash();
    // four due times pass, the last one 20 to 40 s ago
    let wait = 240_000 - world.wall().0.rem_euclid(60_000_000) as u64 / 1_000 + 30_000;
    world.restart_in(wait);
    world.run_for(wait + 3_000);
    check(&world);
    let (started, overlap, missed) = verdicts(&world);
    assert_eq!((started - before, overlap, missed), (1, 0, 3));
    world.dues_settled();
    check(&world);
}

/// How many due times were skipped: paused, in maintenance.
fn skipped(world: &World) -> (u64, u64) {
    let all = world.storage.verdicts.values();
    let paused = all
        .clone()
        .filter(|v| matches!(v.verdict, Verdict::Paused { .. }));
    let maintenance = all.filter(|v| v.verdict == Verdict::Maintenance);
    (paused.map(|v| v.count).sum(), maintenance.map(|v| v.count).sum())
}

#[test]
fn time_paused_or_in_maintenance_is_neither_missed_nor_caught_up_though_nobody_looked() {
    for sec in ["0", "*/2"] {
        for is_pause in [true, false] {
            let mut world = with(quiet(vec![every(sec)], 1), Behaviour::simple(100, 0));
            // to second 5 of a minute
            let to_the_minute = 65_000 - world.wall().0.rem_euclid(60_000_000) as u64 / 1_000;
            world.run_for(to_the_minute);
            let (before, overlap, _) = verdicts(&world);
            let until = world.wall().plus_ms(60_000);
            let reason = "disk swap".to_string();
            let job = "backup".to_string();
            let ask_for = if is_pause {
                Ask::Pause {
                    job,
                    until: Some(until),
                    reason,
                }
            } else {
                Ask::Switch {
                    machine: None,
                    is_on: true,
                    until,
                    reason,
                }
            };
            ask(&mut world, ask_for).unwrap();
            world.crash();
            // the pause ends 15 s before the daemon is back
            let wait = 75_000;
            world.restart_in(wait);
            world.run_for(wait + 4_500);
            check(&world);
            let (started, late, missed) = verdicts(&world);
            let (paused, maintenance) = skipped(&world);
            let (held, other) = if is_pause {
                (paused, maintenance)
            } else {
                (maintenance, paused)
            };
            if sec == "0" {
                assert_eq!(
                    (started - before, missed, held, other),
                    (0, 0, 1, 0),
                    "{is_pause}"
                );
            } else {
                // of the times after it, the latest starts and the others are missed
                assert_eq!((held, other), (30, 0), "{is_pause}");
                assert!(
                    started > before && (5..=8).contains(&missed),
                    "{started} {missed}"
                );
            }
            assert_eq!(late, overlap);
            assert_eq!(world.checker.seen.board.jobs["backup"].record.missed, missed);
            world.dues_settled();
            check(&world);
        }
    }
}

#[test]
fn a_schedule_that_was_edited_while_the_daemon_was_down_only_looks_forward() {
    for is_edited in [false, true] {
        let mut seldom = every("0");
        seldom.min = if is_edited { "0".into() } else { "*".into() };
        let mut world = with(quiet(vec![seldom], 1), Behaviour::simple(100, 0));
        run_for(&mut world, 5);
        let (before, ..) = verdicts(&world);
        world.crash();
        // back 20 s after a minute
        let wait = 200_000 - world.wall().0.rem_euclid(60_000_000) as u64 / 1_000;
        if is_edited {
            world.jobs.get_mut("backup").expect("the job").min = "*".into();
            world.rebuild_config();
        }
        world.restart_in(wait);
        world.run_for(wait + 5_000);
        check(&world);
        let (started, _, missed) = verdicts(&world);
        let wanted = if is_edited { (0, 0) } else { (1, 2) };
        assert_eq!((started - before, missed), wanted, "{is_edited}");
        run_for(&mut world, 60);
        assert_eq!(verdicts(&world).0 - before, wanted.0 + 1, "{is_edited}");
    }
}

#[test]
fn not_every_machine_has_to_succeed_if_the_job_says_so() {
    let enough = [
        (Success::All, false),
        (Success::Any, true),
        (Success::Machines(2), true),
        (Success::Machines(3), false),
        (Success::Percent(67), false),
        (Success::Percent(66), true),
    ];
    for (success, wanted) in enough {
        let mut backup = job(Kind::OursJob);
        backup.success = success;
        let mut world = with(quiet(vec![backup], 3), Behaviour::simple(100, 0));
        // one of three is down
        world.machines[0].up = false;
        let instance = start(&mut world);
        run_for(&mut world, 5);
        assert_eq!(ended(&world, &instance), Some(wanted), "{success:?}");
        let board = &world.checker.seen.board.jobs["backup"].record;
        assert_eq!((board.result_ok, board.last_failed_count), (Some(wanted), 1));
    }
}

#[test]
fn after_too_many_failures_no_other_batch_starts_not_even_after_a_restart() {
    for (most, ran) in [(None, 5), (Some(0), 1), (Some(2), 3), (Some(9), 5)] {
        for restarts in [false, true] {
            let mut batched = job(Kind::OursJob);
            (batched.batch_size, batched.max_failures) = (1, most);
            let mut world = with(quiet(vec![batched], 5), Behaviour::simple(10_000, 1));
            let instance = start(&mut world);
            run_for(&mut world, 5);
            if restarts {
                world.crash();
                world.restart_in(7_000);
            }
            run_for(&mut world, 100);
            let run = run_of(&world, &instance);
            let codes: Vec<Option<i32>> = world.storage.machines_of(run.id).map(|m| m.retcode).collect();
            let count = |code| codes.iter().filter(|found| **found == Some(code)).count();
            assert_eq!(
                (count(1), count(254)),
                (ran, 5 - ran),
                "{most:?} {restarts}: {codes:?}"
            );
            assert_eq!(run.success, Some(false));
        }
    }
}

#[test]
fn a_due_time_older_than_the_deadline_is_missed_too() {
    let mut hourly = every("0");
    hourly.min = "0".into();
    let mut world = with(quiet(vec![hourly], 1), Behaviour::simple(1_000, 0));
    run_for(&mut world, 15);
    world.crash();
    let to_the_hour = 3_600_000 - world.wall().0.rem_euclid(3_600_000_000) as u64 / 1_000;
    world.restart_in(to_the_hour + 90_000);
    world.run_for(to_the_hour + 100_000);
    check(&world);
    assert_eq!(verdicts(&world), (0, 0, 1));
}

#[test]
fn more_than_100_misses_become_one_record() {
    let mut world = with(quiet(vec![every("*/10")], 1), Behaviour::simple(1_000, 0));
    run_for(&mut world, 25);
    world.crash();
    world.restart_in(1_500_000);
    world.run_for(1_505_000);
    check(&world);
    let stretches: Vec<_> = world.storage.verdicts.values().filter(|v| v.count > 1).collect();
    assert_eq!(stretches.len(), 1, "{stretches:?}");
    assert!(stretches[0].count > 140, "{stretches:?}");
    world.dues_settled();
    check(&world);
}

#[test]
fn a_clock_set_back_fires_nothing_twice_and_goes_on() {
    let mut world = with(quiet(vec![every("0")], 1), Behaviour::simple(1_000, 0));
    run_for(&mut world, 125);
    let before = world.storage.runs.len();
    assert_eq!(before, 2);
    world.step_wall(-90_000_000);
    run_for(&mut world, 240);
    // 90 s of it are a repetition
    let dues: Vec<_> = world.storage.runs.values().filter_map(|r| r.due).collect();
    let mut unique = dues.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(dues.len(), unique.len());
    assert!((4..=5).contains(&dues.len()), "{dues:?}");
}

#[test]
fn a_clock_set_forward_records_what_it_jumped_over() {
    let mut world = with(quiet(vec![every("0")], 1), Behaviour::simple(1_000, 0));
    run_for(&mut world, 10);
    world.step_wall(600_000_000);
    run_for(&mut world, 5);
    let (started, _, missed) = verdicts(&world);
    assert_eq!((started, missed), (1, 9));
}

/// What is set for an hour: a pause, a machine's switch and the global one, all told apart by what is left of them.
fn set_for_an_hour(world: &mut World) {
    let until = world.wall().plus_ms(3_600_000);
    let reason = || "disk swap".to_string();
    let pause = Ask::Pause {
        job: "backup".into(),
        until: Some(until),
        reason: reason(),
    };
    ask(world, pause).unwrap();
    for machine in [None, Some("web00".to_string())] {
        let switch = Ask::Switch {
            machine,
            is_on: true,
            until,
            reason: reason(),
        };
        ask(world, switch).unwrap();
    }
}

fn in_force(world: &World) -> (bool, bool, bool) {
    let board = &world.checker.seen.board;
    (
        board.jobs["backup"].paused.is_some(),
        board.maintenance.global,
        board.maintenance.machines.contains("web00"),
    )
}

#[test]
fn a_clock_that_is_ahead_for_a_moment_ends_no_pause_and_no_maintenance() {
    const ALL: (bool, bool, bool) = (true, true, true);
    let year_s = 365 * 86_400;
    for (ahead_s, for_s) in [(4 * year_s, 3), (2 * 86_400, 60), (5 * 3_600, 300)] {
        for restarts in [false, true] {
            let mut world = quiet(vec![job(Kind::OursJob)], 1);
            run_for(&mut world, 700);
            set_for_an_hour(&mut world);
            run_for(&mut world, 60);
            if restarts {
                world.crash();
                world.restart_in(5_000);
            }
            world.step_wall(ahead_s * 1_000_000);
            for _ in 0..for_s + 6 {
                run_for(&mut world, 1);
                assert!(
                    world.checker.seen.board.jobs.is_empty() || in_force(&world) == ALL,
                    "{ahead_s} {restarts}"
                );
            }
            world.step_wall(-ahead_s * 1_000_000);
            run_for(&mut world, 3_600 - 60 - for_s as u64 - 60);
            assert_eq!(in_force(&world), ALL, "{ahead_s} {restarts}");
            // and it ends in its own time
            run_for(&mut world, 120);
            assert_eq!(in_force(&world), (false, false, false), "{ahead_s} {restarts}");
        }
    }
}

#[test]
fn a_clock_that_starts_in_1970_and_one_that_goes_back_end_no_pause_early_and_none_late() {
    for back_s in [0, 7 * 3_600] {
        let mut world = quiet(vec![job(Kind::OursJob)], 1);
        run_for(&mut world, 700);
        set_for_an_hour(&mut world);
        world.crash();
        let back_us = if back_s == 0 {
            world.wall().0
        } else {
            back_s * 1_000_000
        };
        world.step_wall(-back_us);
        world.restart_in(2_000);
        run_for(&mut world, 60);
        assert_eq!(in_force(&world), (true, true, true), "{back_s}");
        world.step_wall(back_us);
        run_for(&mut world, 60);
        assert_eq!(in_force(&world), (true, true, true), "{back_s}");
        // in doubt for ten minutes, an hour has passed all the same
        run_for(&mut world, 3_600);
        assert_eq!(in_force(&world), (false, false, false), "{back_s}");
    }
}

#[test]
fn a_job_that_still_runs_is_marked_overlap() {
    let mut world = with(quiet(vec![every("0")], 1), Behaviour::silent(90_000, 0));
    run_for(&mut world, 100);
    let (started, overlap, missed) = verdicts(&world);
    assert_eq!((started, overlap, missed), (1, 1, 0));
    assert_eq!(logged(&world, |l| matches!(l, JobLogLine::Overlap)), 1);
    assert!(world.checker.seen.board.jobs["backup"].record.overlap);
    assert!(matches!(
        ask(&mut world, Ask::Run { job: "backup".into() }),
        Ok(Done::Started { .. }) | Err(Refusal::Conflict(_))
    ));
}

#[test]
fn a_disabled_job_never_runs_and_starts_at_its_next_due_time_when_enabled() {
    let mut off = every("0");
    off.enabled = false;
    let mut world = with(quiet(vec![off], 1), Behaviour::simple(1_000, 0));
    run_for(&mut world, 190);
    assert_eq!(world.storage.runs.len(), 0);
    world.jobs.get_mut("backup").expect("the job").enabled = true;
    world.rebuild_config();
    world.reload();
    run_for(&mut world, 61);
    assert_eq!(verdicts(&world), (1, 0, 0));
}

#[test]
fn a_restart_loses_nothing_of_a_run_in_progress() {
    for kind in [Kind::OursJob, Kind::OursEnv, Kind::Python] {
        let steady = Behaviour {
            chunks: 30,
            chunk_every_ms: 2_000,
            ..Behaviour::simple(70_000, 3)
        };
        let mut world = with(quiet(vec![job(kind)], 1), steady);
        let instance = start(&mut world);
        run_for(&mut world, 15);
        world.crash();
        world.restart_in(30_000);
        run_for(&mut world, 100);
        let record = machine(&world, &instance, "web00");
        assert_eq!(
            (record.retcode, record.revised_from, record.presumed),
            (Some(3), None, false),
            "{kind:?}"
        );
        let text = output(&world, &record);
        assert_eq!(text.matches(":line").count(), 30, "{text}");
    }
}

#[test]
fn a_stall_of_the_daemon_loses_nobody() {
    for frozen in [false, true] {
        let mut world = with(
            quiet(vec![job(Kind::OursJob), JobSetup::new("other", Kind::Python)], 2),
            Behaviour::simple(120_000, 0),
        );
        world
            .behaviours
            .insert("other".into(), Behaviour::simple(120_000, 0));
        start(&mut world);
        ask(&mut world, Ask::Run { job: "other".into() }).unwrap();
        run_for(&mut world, 12);
        world.stall(60_000, frozen);
        run_for(&mut world, 130);
        let codes: Vec<_> = world
            .storage
            .machines
            .values()
            .map(|m| (m.retcode, m.revised_from))
            .collect();
        assert_eq!(codes, [(Some(0), None); 4], "frozen: {frozen}");
    }
}

#[test]
fn the_clocks_of_machines_do_not_matter() {
    let mut world = with(quiet(vec![job(Kind::OursJob)], 2), Behaviour::simple(60_000, 0));
    world.machines[0].skew_ms = -7_200_000;
    world.machines[1].skew_ms = 86_400_000;
    let instance = start(&mut world);
    run_for(&mut world, 65);
    assert_eq!(ended(&world, &instance), Some(true));
    for name in ["web00", "web01"] {
        let record = machine(&world, &instance, name);
        let lasted = seconds(record.started, record.ended);
        assert!((59.0..62.0).contains(&lasted), "{lasted}");
    }
}

#[test]
fn the_command_s_own_signal_gives_128_and_its_number() {
    for kind in [Kind::OursJob, Kind::Python] {
        let died = Behaviour {
            end: End::Signal(11),
            ..Behaviour::simple(2_000, 0)
        };
        let mut world = with(quiet(vec![job(kind)], 1), died);
        let instance = start(&mut world);
        run_for(&mut world, 5);
        assert_eq!(machine(&world, &instance, "web00").retcode, Some(139));
    }
}

#[test]
fn a_command_s_own_code_is_its_own_failure_whatever_the_code_means_to_us() {
    for kind in [Kind::OursJob, Kind::OursEnv, Kind::Python] {
        for code in [124, 143, 253, 254, 255] {
            let mut world = with(quiet(vec![job(kind)], 1), Behaviour::simple(2_000, code));
            let instance = start(&mut world);
            run_for(&mut world, 5);
            let record = machine(&world, &instance, "web00");
            assert_eq!(
                (record.retcode, record.outcome()),
                (Some(code), Some("failed")),
                "{kind:?}"
            );
            assert!(!run_of(&world, &instance).is_killed());
            let counts = world.checker.seen.board.jobs["backup"].counts.machines.clone();
            assert_eq!(counts, [("failed", 1)].into(), "{kind:?} {code}");
        }
    }
}

#[test]
fn what_we_ended_says_so_and_a_kill_says_who_asked() {
    for kind in [Kind::OursJob, Kind::Python] {
        let mut world = with(quiet(vec![job(kind)], 1), Behaviour::simple(600_000, 0));
        let instance = start(&mut world);
        run_for(&mut world, 10);
        kill(&mut world).unwrap();
        run_for(&mut world, 7);
        let record = machine(&world, &instance, "web00");
        assert_eq!(record.outcome(), Some("killed"), "{kind:?}");
        let run = run_of(&world, &instance);
        assert!(run.is_killed() && run.killed_by.is_some(), "{run:?}");
        assert_eq!(record.killed_by, run.killed_by);

        let mut limited = job(kind);
        limited.timeout_s = 5;
        let mut world = with(quiet(vec![limited], 1), Behaviour::simple(600_000, 0));
        let instance = start(&mut world);
        run_for(&mut world, 20);
        assert_eq!(
            machine(&world, &instance, "web00").outcome(),
            Some("timeout"),
            "{kind:?}"
        );
        assert!(!run_of(&world, &instance).is_killed());
    }
}

#[test]
fn the_note_of_missed_due_times_stays_until_it_is_seen_or_a_day_has_passed() {
    let missed = |world: &World| world.checker.seen.board.jobs["backup"].record.missed;
    for is_seen in [true, false] {
        let mut hourly = every("0");
        hourly.min = "0".into();
        let mut world = with(quiet(vec![hourly], 1), Behaviour::simple(1_000, 0));
        run_for(&mut world, 15);
        world.crash();
        let to_the_hour = 3_600_000 - world.wall().0.rem_euclid(3_600_000_000) as u64 / 1_000;
        world.restart_in(to_the_hour + 90_000);
        world.run_for(to_the_hour + 100_000);
        check(&world);
        assert_eq!(missed(&world), 1);
        // the next start on time is no reason to forget it, nor is a restart
        run_for(&mut world, 3_700);
        assert_eq!((verdicts(&world).0, missed(&world)), (1, 1));
        world.crash();
        world.restart_in(2_000);
        run_for(&mut world, 10);
        assert_eq!(missed(&world), 1);
        if is_seen {
            ask(&mut world, Ask::Seen { job: "backup".into() }).unwrap();
        } else {
            run_for(&mut world, 86_400 - 5_000);
            assert_eq!(missed(&world), 1);
            run_for(&mut world, 5_000);
        }
        assert_eq!(missed(&world), 0);
        world.crash();
        world.restart_in(2_000);
        run_for(&mut world, 10);
        assert_eq!(missed(&world), 0);
    }
}

#[test]
fn a_python_wrapper_resynchronizes_after_a_reconnect() {
    let steady = Behaviour {
        chunks: 40,
        chunk_every_ms: 1_000,
        ..Behaviour::simple(45_000, 0)
    };
    let mut world = with(quiet(vec![job(Kind::Python)], 1), steady);
    let instance = start(&mut world);
    for _ in 0..3 {
        run_for(&mut world, 9);
        let conn = world.wrappers[0].conn.expect("connected");
        world.cut(conn, 200, 4_000);
    }
    run_for(&mut world, 30);
    let record = machine(&world, &instance, "web00");
    assert_eq!((record.retcode, record.revised_from), (Some(0), None));
    assert_eq!(output(&world, &record).matches(":line").count(), 40);
}

#[test]
fn what_a_python_wrapper_has_lost_is_named() {
    let steady = Behaviour {
        chunks: 40,
        chunk_every_ms: 1_000,
        ..Behaviour::simple(60_000, 0)
    };
    let mut world = with(quiet(vec![job(Kind::Python)], 1), steady);
    let instance = start(&mut world);
    run_for(&mut world, 9);
    let conn = world.wrappers[0].conn.expect("connected");
    world.machines[0].cut_off = true;
    world.cut(conn, 10, 10);
    run_for(&mut world, 6);
    // it forgets what it had not delivered
    let lost = std::mem::take(&mut world.wrappers[0].pending);
    assert!(!lost.is_empty());
    world.wrappers[0].lost.extend(&lost);
    world.machines[0].cut_off = false;
    run_for(&mut world, 10);
    // and offers what comes after it again and again
    for _ in 0..2 {
        if let Some(conn) = world.wrappers[0].conn {
            world.cut(conn, 10, 10);
        }
        run_for(&mut world, 9);
    }
    run_for(&mut world, 60);
    let record = machine(&world, &instance, "web00");
    let text = output(&world, &record);
    let (from, to) = (lost.first().expect("some"), lost.last().expect("some"));
    assert!(
        text.contains(&format!(
            "[output messages {from}..{to} were lost by the wrapper]"
        )),
        "{text}"
    );
    assert_eq!(record.retcode, Some(0));
}

#[test]
fn of_too_much_output_head_and_tail_are_kept() {
    let mut limited = job(Kind::OursJob);
    limited.output_limit_bytes = 2_000;
    let flood = Behaviour {
        chunks: 300,
        chunk_every_ms: 20,
        chunk_bytes: 60,
        ..Behaviour::simple(10_000, 0)
    };
    let mut world = with(quiet(vec![limited], 1), flood);
    let instance = start(&mut world);
    run_for(&mut world, 15);
    let record = machine(&world, &instance, "web00");
    assert_eq!(record.retcode, Some(0));
    let text = output(&world, &record);
    assert!((1_900..=2_200).contains(&text.len()), "{}", text.len());
    assert!(text.starts_with("w0:0:line") && text.contains("w0:299:line"));
    assert!(record.left_out_bytes > 15_000, "{}", record.left_out_bytes);
}

#[test]
fn a_full_disk_holds_output_back_and_loses_none() {
    let steady = Behaviour {
        chunks: 60,
        chunk_every_ms: 1_000,
        ..Behaviour::simple(70_000, 0)
    };
    let mut world = with(quiet(vec![job(Kind::OursJob)], 2), steady);
    let instance = start(&mut world);
    run_for(&mut world, 5);
    world.set_full(crate::storage::Full::ForOutput);
    run_for(&mut world, 40);
    assert_eq!(world.wrappers[0].acked, world.wrappers[1].acked);
    assert!(world.wrappers[0].acked < 10);
    world.set_full(crate::storage::Full::Room);
    run_for(&mut world, 60);
    assert_eq!(ended(&world, &instance), Some(true));
    let record = machine(&world, &instance, "web01");
    assert_eq!(output(&world, &record).matches(":line").count(), 60);
}

#[test]
fn an_outcome_that_could_not_be_stored_for_long_is_stored_when_there_is_room() {
    let silent = Behaviour {
        chunks: 0,
        ..Behaviour::simple(20_000, 0)
    };
    let mut world = with(quiet(vec![job(Kind::OursJob)], 1), silent);
    let instance = start(&mut world);
    run_for(&mut world, 10);
    world.set_full(crate::storage::Full::ForAll);
    run_for(&mut world, 15);
    // it has reported its outcome, and is never heard of again
    world.wrapper_killed(0, true);
    // longer than an ended run is kept in memory
    run_for(&mut world, 15 * 60);
    assert_eq!(machine(&world, &instance, "web00").retcode, None);
    world.set_full(crate::storage::Full::Room);
    run_for(&mut world, 30);
    assert_eq!(machine(&world, &instance, "web00").retcode, Some(0));
    assert_eq!(ended(&world, &instance), Some(true));
}

/// The disk is full for 13 minutes. Meanwhile one wrapper reports its end and goes on, one reports it and dies, and one dies
/// before it can report anything.
fn full_for_long(restarts: bool) -> (World, String) {
    let silent = Behaviour {
        chunks: 0,
        ..Behaviour::simple(20_000, 0)
    };
    let mut world = with(quiet(vec![job(Kind::OursJob)], 3), silent);
    let instance = start(&mut world);
    run_for(&mut world, 10);
    world.set_full(crate::storage::Full::ForAll);
    world.wrapper_killed(2, true);
    run_for(&mut world, 15);
    world.wrapper_killed(1, true);
    run_for(&mut world, 5 * 60);
    if restarts {
        world.crash();
        world.restart_in(10_000);
    }
    run_for(&mut world, 8 * 60);
    world.set_full(crate::storage::Full::Room);
    run_for(&mut world, 60);
    (world, instance)
}

#[test]
fn after_13_minutes_of_a_full_disk_every_outcome_is_stored_without_a_restart() {
    let (world, instance) = full_for_long(false);
    let outcome = |name| machine(&world, &instance, name).retcode;
    assert_eq!(outcome("web00"), Some(0));
    assert_eq!(outcome("web01"), Some(0));
    assert_eq!(outcome("web02"), Some(253));
    assert_eq!(ended(&world, &instance), Some(false));
}

#[test]
fn after_a_restart_on_a_full_disk_every_run_ends_and_is_stored_when_there_is_room() {
    let (world, instance) = full_for_long(true);
    let outcome = |name| machine(&world, &instance, name).retcode;
    assert_eq!(
        outcome("web00"),
        Some(0),
        "its wrapper reports again what was not acknowledged"
    );
    // nobody is left who knows the truth
    assert_eq!(outcome("web01"), Some(253));
    assert_eq!(outcome("web02"), Some(253));
    assert_eq!(ended(&world, &instance), Some(false));
}

#[test]
fn a_python_wrapper_that_ends_its_command_shortly_before_the_daemons_time_is_up_reports_a_timeout() {
    for (signal, ms, retcode) in [(15, 28_500, 124), (15, 27_000, 143), (9, 28_500, 137)] {
        let mut python = job(Kind::Python);
        python.timeout_s = 30;
        let behaviour = Behaviour {
            end: End::Signal(signal),
            ..Behaviour::silent(ms, 0)
        };
        let mut world = with(quiet(vec![python], 1), behaviour);
        let instance = start(&mut world);
        run_for(&mut world, 40);
        assert_eq!(
            machine(&world, &instance, "web00").retcode,
            Some(retcode),
            "signal {signal} after {ms} ms"
        );
    }
}
