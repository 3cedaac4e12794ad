//! What descends from a command: nothing survives a kill, daemons that a command leaves behind do.

use saltpeter::clock;

use crate::support::fake_daemon::{FakeDaemon, order};
use crate::support::run::{Family, launch, pids_in};
use crate::support::{Scratch, is_alive, signal, until};
use rustix::process::Signal;

/// 13: a killed job with a `setsid` child that held the pipe never ended.
#[test]
fn after_a_kill_nothing_that_descends_lives_on() {
    let scratch = Scratch::new();
    let file = scratch.path().join("pids");
    let command = format!(
        "setsid sh -c 'trap \"\" TERM; echo $$ >> {0}; sleep 1000 & echo $! >> {0}; wait' & \
         (setsid sleep 1000 > /dev/null 2>&1 & echo $! >> {0}); wait",
        file.display()
    );
    let daemon = FakeDaemon::with_command(&command);
    let _run = launch(&daemon, "setsid");
    let pids = pids_in(&file, 3);
    let family = Family::of(&daemon);
    daemon.kill();
    assert_eq!(daemon.outcome(), 143);
    for pid in pids.into_iter().chain([family.command]) {
        assert!(!is_alive(pid), "{pid} lives on");
    }
    family.until_gone();
}

/// 13: a run with a background child ended only when the child did.
#[test]
fn a_child_that_holds_the_pipe_after_the_end_is_named_and_left_alone() {
    let daemon = FakeDaemon::with_command("echo begun; sleep 1000 & echo $!; exit 6");
    let _run = launch(&daemon, "background");
    let began_at = daemon.until("output", |told| (!told.output.is_empty()).then(clock::mono));
    assert_eq!(daemon.outcome(), 6);
    let took_ms = daemon.told(|told| told.completed_at) - began_at.0;
    assert!(took_ms < 5_000, "{took_ms} ms");
    let pid: i32 = daemon.text().lines().nth(1).unwrap().parse().unwrap();
    let notices = daemon.notices();
    assert!(
        notices.contains("left running") && notices.contains(&format!("sleep (pid {pid})")),
        "{notices}"
    );
    assert!(is_alive(pid));
    signal(pid, Signal::KILL);
}

#[test]
fn a_child_that_holds_nothing_is_neither_waited_for_nor_named() {
    let scratch = Scratch::new();
    let file = scratch.path().join("pids");
    let command = format!(
        "setsid sleep 1000 > /dev/null 2>&1 & echo $! > {}; echo done",
        file.display()
    );
    let daemon = FakeDaemon::with_command(&command);
    let _run = launch(&daemon, "service");
    assert_eq!(daemon.outcome(), 0);
    assert_eq!(daemon.notices(), "");
    let pid = pids_in(&file, 1)[0];
    assert!(is_alive(pid));
    signal(pid, Signal::KILL);
}

#[test]
fn a_command_that_closes_its_output_and_runs_on_is_waited_for() {
    let daemon = FakeDaemon::with_command("echo before; exec >&- 2>&-; sleep 1; exit 9");
    let _run = launch(&daemon, "silent");
    assert_eq!(daemon.outcome(), 9);
    assert_eq!(daemon.text(), "before\n");
}

#[test]
fn a_child_that_floods_the_pipe_after_the_end_does_not_delay_it() {
    let mut job = order("yes & echo $! >&2; exit 0");
    job.env.insert("SP_SPOOL_LIMIT".into(), "4000000".into());
    let daemon = FakeDaemon::with_job(job);
    daemon.change(|script| script.keep_bytes = Some(1_000));
    let _run = launch(&daemon, "flood");
    let family = Family::of(&daemon);
    assert_eq!(daemon.outcome(), 0);
    let notices = daemon.notices();
    let (_, pid) = notices
        .split_once("yes (pid ")
        .expect("the notice names what was left");
    let pid: i32 = pid.split_once(')').unwrap().0.parse().unwrap();
    family.until_gone();
    // nothing else would ever end it
    signal(pid, Signal::KILL);
}

#[test]
fn orphans_that_die_early_leave_no_zombies() {
    let mut job = order("for i in 1 2 3 4 5; do (sleep 0.01 &) ; done; echo ready; sleep 1000");
    job.timeout = 0;
    let daemon = FakeDaemon::with_job(job);
    let _run = launch(&daemon, "zombies");
    daemon.until("output", |told| (!told.output.is_empty()).then_some(()));
    let family = Family::of(&daemon);
    until("only the command below the guardian", || {
        let list = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", family.guardian)).ok()?;
        (list.split_ascii_whitespace().collect::<Vec<_>>() == [family.command.to_string()]).then_some(())
    });
    daemon.kill();
    assert_eq!(daemon.outcome(), 143);
}
