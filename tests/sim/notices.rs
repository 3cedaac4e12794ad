//! Who is told of what, in virtual time: each change once, grouped, tried again, over restarts.
//! Must not know: the engine's insides.

use saltpeter::config::notify::{JobNotices, NoticeKind, NotifyRule};
use saltpeter::engine::event::Ask;
use saltpeter::engine::notice::{DeliveryError, Message, NoticeStage};

use crate::setup::{Behaviour, JobSetup, Kind, Machine};
use crate::world::{Action, World};

/// A job that tells `ops` of these kinds.
fn job(name: &str, on: &[NoticeKind]) -> JobSetup {
    let rule = NotifyRule {
        to: Some(vec!["ops".into()]),
        on: (!on.is_empty()).then(|| on.to_vec()),
        ..NotifyRule::default()
    };
    JobSetup {
        notices: JobNotices {
            rule,
            ..JobNotices::default()
        },
        ..JobSetup::new(name, Kind::OursJob)
    }
}

fn world(jobs: Vec<JobSetup>) -> World {
    let mut world = World::new(11, jobs, vec![Machine::new("web00"), Machine::new("web01")]);
    world.jitter = false;
    world.tracing = true;
    world.at(0, Action::StartDaemon);
    world.run_for(500);
    world
}

fn run_for(world: &mut World, s: u64) {
    world.run_for(s * 1_000);
    if let Some(failure) = &world.failure {
        panic!("{failure}");
    }
}

/// A run of that job which ends with that code, to its end.
fn run(world: &mut World, job: &str, code: i32) {
    world
        .behaviours
        .insert(job.into(), Behaviour::simple(1_000, code));
    world
        .ask(Ask::Run { job: job.into() })
        .expect("the daemon listens");
    run_for(world, 4);
}

/// What each message that was taken said, in order: kind and job.
fn told(world: &World) -> Vec<Vec<String>> {
    let messages = world.checker.seen.messages.iter();
    messages.map(|(_, message)| kinds(message)).collect()
}

fn kinds(message: &Message) -> Vec<String> {
    let notices = message.notices.iter();
    notices
        .map(|notice| format!("{} {}", notice.facts.kind.word(), notice.facts.job))
        .collect()
}

fn stages(world: &World) -> Vec<NoticeStage> {
    world
        .storage
        .notices
        .values()
        .map(|notice| notice.stage)
        .collect()
}

fn down(_: u64, _: &Message) -> Result<(), DeliveryError> {
    Err(DeliveryError {
        reason: "connection refused".into(),
        ..DeliveryError::default()
    })
}

#[test]
fn a_failure_is_told_once_and_its_recovery_too() {
    let mut world = world(vec![job("a", &[])]);
    run(&mut world, "a", 0);
    run(&mut world, "a", 3);
    run(&mut world, "a", 3);
    run_for(&mut world, 20);
    assert_eq!(told(&world), [["failure a"]]);
    let notice = &world.checker.seen.messages[0].1.notices[0];
    assert_eq!(
        notice.facts.summary(),
        "a failed on 2 of 2 machines (web00: exit code 3, web01: exit code 3)"
    );
    run(&mut world, "a", 0);
    run_for(&mut world, 70);
    assert_eq!(told(&world), [["failure a"], ["recovery a"]]);
    assert_eq!(stages(&world), [NoticeStage::Sent, NoticeStage::Sent]);
}

#[test]
fn what_comes_together_is_one_message_and_the_next_follows_a_minute_later() {
    let jobs = ["a", "b", "c"].map(|name| job(name, &[]));
    let mut world = world(jobs.to_vec());
    for name in ["a", "b"] {
        run(&mut world, name, 1);
    }
    run_for(&mut world, 10);
    run(&mut world, "c", 1);
    run_for(&mut world, 90);
    assert_eq!(told(&world), [vec!["failure a", "failure b"], vec!["failure c"]]);
    let at: Vec<u64> = world.checker.seen.messages.iter().map(|(at, _)| *at).collect();
    assert!((60_000..63_000).contains(&(at[1] - at[0])), "{at:?}");
}

#[test]
fn a_kill_by_a_user_is_no_failure() {
    let mut world = world(vec![job("a", &[])]);
    world.behaviours.insert("a".into(), Behaviour::simple(600_000, 0));
    world.ask(Ask::Run { job: "a".into() });
    run_for(&mut world, 5);
    world.ask(Ask::Kill {
        job: "a".into(),
        machine: None,
        instance: None,
    });
    run_for(&mut world, 60);
    assert!(world.checker.seen.board.running.is_empty());
    assert_eq!(told(&world), Vec::<Vec<String>>::new());
}

#[test]
fn a_machine_that_was_lost_and_comes_back_with_0_is_recalled() {
    let mut world = world(vec![job("a", &[])]);
    world.behaviours.insert("a".into(), Behaviour::simple(60_000, 0));
    world.ask(Ask::Run { job: "a".into() });
    run_for(&mut world, 5);
    world.machines[0].cut_off = true;
    let of_web00 = world.wrappers.iter().filter(|wrapper| wrapper.machine == 0);
    let conn = of_web00
        .filter_map(|wrapper| wrapper.conn)
        .next()
        .expect("connected");
    world.cut(conn, 100, 100);
    run_for(&mut world, 90);
    assert_eq!(told(&world), [["lost a"]]);
    world.machines[0].cut_off = false;
    run_for(&mut world, 120);
    assert_eq!(told(&world), [["lost a"], ["recovery a"]]);
    assert!(world.checker.seen.messages[1].1.notices[0].facts.is_revised);
}

#[test]
fn a_missed_due_time_is_told_once_for_an_outage() {
    let mut setup = job("a", &[]);
    (setup.min, setup.hour) = ("*".into(), "*".into());
    let mut world = world(vec![setup]);
    world.behaviours.insert("a".into(), Behaviour::simple(1_000, 0));
    run_for(&mut world, 70);
    world.crash();
    world.restart_in(600_000);
    run_for(&mut world, 600);
    run_for(&mut world, 30);
    assert_eq!(told(&world), [["missed a"]]);
    let facts = &world.checker.seen.messages[0].1.notices[0].facts;
    assert!(
        facts.summary().contains("the daemon was not running"),
        "{}",
        facts.summary()
    );
}

#[test]
fn a_run_that_is_late_or_long_or_short_is_told_once() {
    let on = [NoticeKind::Late, NoticeKind::Long, NoticeKind::Short];
    let mut setup = job("a", &on);
    (setup.min, setup.hour) = ("*/10".into(), "*".into());
    setup.notices.expect_within_s = 300;
    setup.notices.warn_after_s = 120;
    setup.notices.min_runtime_ms = 5_000;
    let mut world = world(vec![setup]);
    world.behaviours.insert("a".into(), Behaviour::simple(420_000, 0));
    let wait = 600 - world.wall().secs() as u64 % 600;
    run_for(&mut world, wait + 150);
    assert_eq!(told(&world), [["long a"]]);
    // over a restart it is still known that this was told
    world.crash();
    world.restart_in(1_000);
    run_for(&mut world, 200);
    assert_eq!(told(&world), [["long a"], ["late a"]]);
    world.behaviours.insert("a".into(), Behaviour::simple(1_000, 0));
    run_for(&mut world, 1_000);
    assert_eq!(told(&world), [["long a"], ["late a"], ["short a"]]);
}

#[test]
fn quiet_hours_hold_the_message_and_what_recovered_meanwhile_is_part_of_it() {
    let mut setup = job("a", &[]);
    // all of this day, whichever it is
    let rule = saltpeter::config::quiet::Quiet::of("00:00-24:00").expect("valid");
    setup.notices.rule.quiet = Some(vec![rule]);
    let mut world = world(vec![setup]);
    run(&mut world, "a", 1);
    run(&mut world, "a", 0);
    run_for(&mut world, 600);
    assert_eq!(told(&world), Vec::<Vec<String>>::new());
    assert_eq!(stages(&world), [NoticeStage::Waiting, NoticeStage::Waiting]);
    assert!(
        world
            .storage
            .notices
            .values()
            .all(|notice| notice.not_before.is_some())
    );
}

#[test]
fn a_destination_that_is_down_is_tried_again_for_a_day_with_the_same_id_and_then_given_up() {
    let mut world = world(vec![job("a", &[])]);
    world.receiver = Some(down);
    run(&mut world, "a", 1);
    run_for(&mut world, 60);
    let tries = &world.checker.seen.messages;
    assert!((5_000..7_000).contains(&(tries[1].0 - tries[0].0)));
    assert!((30_000..33_000).contains(&(tries[2].0 - tries[1].0)));
    let trouble = world.checker.seen.board.troubles.join("\n");
    assert!(
        trouble.contains("1 notifications to 'ops' cannot be delivered"),
        "{trouble}"
    );
    assert!(trouble.contains("connection refused"), "{trouble}");
    // over a restart
    world.crash();
    world.restart_in(5_000);
    run_for(&mut world, 26 * 3_600);
    let ids: std::collections::BTreeSet<&str> = world
        .checker
        .seen
        .messages
        .iter()
        .map(|(_, message)| message.id.as_str())
        .collect();
    assert_eq!(ids.len(), 1);
    assert!(
        (27..=30).contains(&world.checker.seen.messages.len()),
        "{}",
        world.checker.seen.messages.len()
    );
    assert_eq!(stages(&world), [NoticeStage::Failed]);
    let trouble = world.checker.seen.board.troubles.join("\n");
    assert!(
        trouble.contains("1 notifications to 'ops' were given up"),
        "{trouble}"
    );
    world.receiver = None;
    run(&mut world, "a", 0);
    run_for(&mut world, 90);
    assert_eq!(world.checker.seen.board.troubles, Vec::<String>::new());
}

#[test]
fn a_crash_at_any_moment_loses_no_notice_and_repeats_one_only_under_its_id() {
    for ms in (200..25_000).step_by(700) {
        let mut world = world(vec![job("a", &[])]);
        world.behaviours.insert("a".into(), Behaviour::simple(1_000, 9));
        world.ask(Ask::Run { job: "a".into() });
        world.run_for(ms);
        world.crash();
        world.restart_in(2_000);
        run_for(&mut world, 150);
        let messages = &world.checker.seen.messages;
        let ids: std::collections::BTreeSet<&str> =
            messages.iter().map(|(_, message)| message.id.as_str()).collect();
        let kinds: Vec<NoticeKind> = world
            .storage
            .notices
            .values()
            .map(|notice| notice.facts.kind)
            .collect();
        // before its start was stored there was no run
        let runs = world.storage.runs.len();
        assert_eq!(
            (ids.len(), kinds.len()),
            (runs, runs),
            "killed after {ms} ms: {kinds:?}"
        );
        assert!(
            stages(&world).iter().all(|stage| *stage == NoticeStage::Sent),
            "{ms}"
        );
    }
}

#[test]
fn a_failure_that_lasts_is_told_again_and_only_after_so_many_runs() {
    let mut setup = job("a", &[]);
    setup.notices.rule.after = Some(2);
    setup.notices.rule.repeat_s = Some(3_600);
    let mut world = world(vec![setup]);
    run(&mut world, "a", 1);
    run_for(&mut world, 60);
    assert_eq!(told(&world).len(), 0);
    run(&mut world, "a", 1);
    run_for(&mut world, 3_000);
    assert_eq!(told(&world), [["failure a"]]);
    world.crash();
    world.restart_in(1_000);
    run_for(&mut world, 3_700);
    assert_eq!(told(&world), [["failure a"], ["failure a"]]);
    let facts = &world.checker.seen.messages[1].1.notices[0].facts;
    assert!(
        facts.is_reminder && facts.summary().contains("still failing since"),
        "{}",
        facts.summary()
    );
}

#[test]
fn the_heartbeat_stops_while_storage_takes_no_writes() {
    let mut world = world(vec![]);
    world.has_heartbeat = true;
    world.rebuild_config();
    world.reload();
    run_for(&mut world, 300);
    let beats = world.checker.seen.heartbeats;
    assert!((4..=7).contains(&beats), "{beats}");
    world.set_full(crate::storage::Full::ForAll);
    run_for(&mut world, 600);
    assert!(world.checker.seen.heartbeats <= beats + 1);
    world.set_full(crate::storage::Full::Room);
    run_for(&mut world, 180);
    assert!(world.checker.seen.heartbeats >= beats + 2);
}
