//! Every way in which a run ends: kill, time-out, signals, what dies and what refuses to.

use rustix::process::Signal;
use saltpeter::clock;
use saltpeter::protocol::ErrorCode;

use crate::support::fake_daemon::{FakeDaemon, order};
use crate::support::run::{Family, Run, launch};
use crate::support::{is_alive, never_within, signal, until};

/// 4: a kill was -15, -9 or -13, and only the shell was signalled.
#[test]
fn a_kill_ends_the_whole_group_with_143() {
    let daemon = FakeDaemon::with_command("echo begun; sleep 1000 & sleep 1000 | cat; echo never");
    let _run = launch(&daemon, "kill");
    daemon.until("output", |told| told.output.starts_with(b"begun\n").then_some(()));
    let family = Family::of(&daemon);
    daemon.kill();
    assert_eq!(daemon.outcome(), 143);
    assert_eq!(daemon.text(), "begun\n");
    assert_eq!(daemon.notices(), "[Job terminated by user request]\n");
    assert!(daemon.told(|told| told.killed) >= 1);
    assert!(!is_alive(family.command));
    family.until_gone();
}

#[test]
fn a_command_that_ignores_sigterm_is_killed_after_five_seconds() {
    let daemon = FakeDaemon::with_command("trap '' TERM; printf begun; while :; do sleep 1; done");
    let _run = launch(&daemon, "stubborn");
    daemon.until("output", |told| told.output.starts_with(b"begun").then_some(()));
    let family = Family::of(&daemon);
    let asked_at = clock::mono();
    daemon.kill();
    assert_eq!(daemon.outcome(), 143);
    let took_ms = daemon.told(|told| told.completed_at) - asked_at.0;
    assert!((4_900..8_000).contains(&took_ms), "{took_ms} ms");
    assert_eq!(
        daemon.notices(),
        "\n[Job terminated by user request]\n",
        "the notice begins a line"
    );
    assert!(!is_alive(family.command));
}

#[test]
fn a_command_that_ends_well_on_sigterm_is_still_143() {
    let daemon =
        FakeDaemon::with_command("trap 'echo bye; exit 0' TERM; echo begun; while :; do sleep 0.1; done");
    let _run = launch(&daemon, "polite");
    daemon.until("output", |told| told.output.starts_with(b"begun\n").then_some(()));
    daemon.kill();
    assert_eq!(daemon.outcome(), 143);
    // some shells also tell of the sleep that was terminated
    assert!(daemon.text().ends_with("bye\n"), "{}", daemon.text());
}

/// 4: a time-out signalled only the shell and gave a negative code.
#[test]
fn a_timeout_ends_the_whole_group_with_124() {
    let mut job = order("sleep 1000 & sleep 1000; echo never");
    job.timeout = 1;
    let daemon = FakeDaemon::with_job(job);
    let _run = launch(&daemon, "timeout");
    let family = Family::of(&daemon);
    assert_eq!(daemon.outcome(), 124);
    assert!(
        daemon.notices().contains("Job timed out after 1 seconds"),
        "{}",
        daemon.notices()
    );
    assert!(!is_alive(family.command));
}

/// A file system that answers nothing, like a hung NFS server's. None where this host allows no such mount.
struct Hung {
    server: std::process::Child,
    directory: std::path::PathBuf,
}

impl Hung {
    fn mount(directory: std::path::PathBuf) -> Option<Hung> {
        std::fs::create_dir(&directory).unwrap();
        let script = "exec 5<>/dev/fuse && mount -i -t fuse -o fd=5,rootmode=40000,user_id=0,group_id=0 hung \"$0\" \
                      && echo mounted && read end";
        let mut server = std::process::Command::new("/bin/sh")
            .args(["-c", script])
            .arg(&directory)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut said = [0; 8];
        let told = std::io::Read::read_exact(server.stdout.as_mut().unwrap(), &mut said);
        if told.is_err() {
            let _ = server.wait();
            eprintln!("SKIPPED: this host allows no FUSE mount");
            return None;
        }
        Some(Hung { server, directory })
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.directory)
            .status();
        drop(self.server.stdin.take());
        let _ = self.server.wait();
    }
}

/// 20: the guardian itself waited for the directory, and nobody heard of the kill.
#[test]
fn a_directory_on_a_hung_mount_keeps_neither_a_kill_nor_a_timeout_from_its_end() {
    let scratch = crate::support::Scratch::new();
    let Some(hung) = Hung::mount(scratch.path().join("hung")) else {
        return;
    };
    let mut job = order("echo never");
    job.cwd = Some(hung.directory.to_string_lossy().into_owned());
    let killed = FakeDaemon::with_job(job.clone());
    let run = launch(&killed, "hungkill");
    killed.until("the connect", |told| (told.connects > 0).then_some(()));
    until("the permission", || run.log().contains("connected").then_some(()));
    killed.kill();
    assert_eq!(killed.outcome(), 143);
    job.timeout = 1;
    let late = FakeDaemon::with_job(job);
    let _run = launch(&late, "hungtime");
    assert_eq!(late.outcome(), 124);
    assert_eq!(late.text() + &killed.text(), "");
}

/// 10: `timeout: 0` killed at once.
#[test]
fn a_timeout_of_zero_is_none() {
    let daemon = FakeDaemon::with_command("sleep 0.3; echo done");
    let _run = launch(&daemon, "forever");
    assert_eq!(daemon.outcome(), 0);
    assert_eq!(daemon.text(), "done\n");
}

#[test]
fn a_command_that_dies_of_a_signal_is_128_and_the_signal() {
    let daemon = FakeDaemon::with_command("kill -9 $$");
    let _run = launch(&daemon, "suicide");
    assert_eq!(daemon.outcome(), 137);
}

/// 5: a killed wrapper left the command running, unwatched.
#[test]
fn a_wrapper_that_is_killed_takes_everything_with_it() {
    let daemon = FakeDaemon::with_command(
        "setsid sleep 1000 & echo $!; sleep 1000 & echo $!; trap '' TERM; sleep 1000",
    );
    let _run = launch(&daemon, "orphan");
    let pids = daemon.until("pids", |told| {
        (told.output.iter().filter(|&&b| b == b'\n').count() == 2).then(|| {
            String::from_utf8_lossy(&told.output)
                .lines()
                .map(|line| line.parse().unwrap())
                .collect::<Vec<i32>>()
        })
    });
    let family = Family::of(&daemon);
    signal(family.wrapper, Signal::KILL);
    family.until_gone();
    for pid in pids.into_iter().chain([family.command]) {
        assert!(!is_alive(pid), "{pid} lives on");
    }
}

#[test]
fn a_guardian_that_is_killed_ends_the_run_with_255() {
    let daemon = FakeDaemon::with_command("setsid sleep 1000 & echo $!; trap '' TERM; sleep 1000");
    let _run = launch(&daemon, "unguarded");
    let pid: i32 = daemon.until("a pid", |told| {
        String::from_utf8_lossy(&told.output).trim().parse().ok()
    });
    let family = Family::of(&daemon);
    signal(family.guardian, Signal::KILL);
    assert_eq!(daemon.outcome(), 255);
    assert!(daemon.notices().contains("guardian"), "{}", daemon.notices());
    assert!(!is_alive(family.command) && !is_alive(pid));
}

#[test]
fn a_wrapper_that_is_told_to_stop_ends_the_command_and_reports_255() {
    let daemon = FakeDaemon::with_command("sleep 1000");
    let _run = launch(&daemon, "stop");
    let family = Family::of(&daemon);
    signal(family.wrapper, Signal::TERM);
    assert_eq!(daemon.outcome(), 255);
    assert_eq!(daemon.notices(), "[wrapper was told to stop]\n");
    assert!(!is_alive(family.command));
    family.until_gone();
}

/// A host that shuts down waited 90 s for each of them.
#[test]
fn a_wrapper_that_is_told_to_stop_does_not_wait_for_a_daemon_that_is_gone() {
    let daemon = FakeDaemon::with_command("echo begun; sleep 1000");
    let run = launch(&daemon, "forsaken");
    let family = Family::of(&daemon);
    daemon.change(|script| script.down = true);
    signal(family.wrapper, Signal::TERM);
    family.until_gone();
    assert!(!is_alive(family.command));
    let log = run.log();
    assert!(log.contains("end of forsaken_1 on m, exit code 255"), "{log}");
}

#[test]
fn a_limit_on_the_size_of_files_does_not_kill_the_wrapper_but_holds_for_the_command() {
    let scratch = crate::support::Scratch::new();
    let file = scratch.path().join("large");
    let command = format!("echo x; (echo y > {}); echo $?", file.display());
    let daemon = FakeDaemon::with_command(&command);
    let mut run = Run::new(&daemon, "fsize");
    let mut limited = std::process::Command::new("/bin/sh");
    limited
        .args(["-c", "ulimit -f 0; exec \"$0\""])
        .arg(run.command.get_program())
        .env_clear()
        .envs(
            run.command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
    run.command = limited;
    let _run = run.launched();
    assert_eq!(daemon.outcome(), 0);
    assert!(
        daemon.text().starts_with("x\n") && daemon.text().ends_with("153\n"),
        "{}",
        daemon.text()
    );
}

#[test]
fn a_wrapper_that_is_told_to_stop_while_no_daemon_answers_keeps_its_outcome_in_its_log_and_exits() {
    let daemon = FakeDaemon::with_command("true");
    daemon.change(|script| script.down = true);
    let run = launch(&daemon, "alone");
    let log = until("a failed attempt", || {
        Some(run.log()).filter(|log| log.contains("reaching the daemon"))
    });
    let (_, rest) = log.split_once('[').unwrap();
    let wrapper: i32 = rest.split_once(']').unwrap().0.parse().unwrap();
    signal(wrapper, Signal::TERM);
    until("its exit", || (!is_alive(wrapper)).then_some(()));
    let log = run.log();
    assert!(
        log.contains("[wrapper was told to stop]") && log.contains("exit code 255"),
        "{log}"
    );
}

#[test]
fn sigterm_to_the_whole_family_is_reported_all_the_same() {
    let daemon = FakeDaemon::with_command("sleep 1000");
    let _run = launch(&daemon, "service");
    let family = Family::of(&daemon);
    signal(family.guardian, Signal::TERM);
    never_within(200, "the guardian died of SIGTERM", || !is_alive(family.guardian));
    signal(family.wrapper, Signal::TERM);
    assert_eq!(daemon.outcome(), 255);
}

#[cfg(debug_assertions)]
#[test]
fn a_panic_in_the_wrapper_ends_the_command_and_reports_255() {
    let daemon = FakeDaemon::with_command("sleep 1000");
    let run = Run::new(&daemon, "panic")
        .env("SP_TEST_PANIC", "start")
        .launched();
    assert_eq!(daemon.outcome(), 255);
    assert!(
        daemon.notices().contains("the wrapper failed"),
        "{}",
        daemon.notices()
    );
    assert!(run.log().contains("asked to panic"));
}

/// 6: after a short cut of the network a kill did not reach the wrapper any more.
#[test]
fn a_kill_reaches_the_wrapper_after_a_cut() {
    let daemon = FakeDaemon::with_command("sleep 1000");
    let _run = launch(&daemon, "cutkill");
    daemon.pid();
    daemon.cut();
    daemon.until("the second connect", |told| (told.connects == 2).then_some(()));
    daemon.kill();
    assert_eq!(daemon.outcome(), 143);
}

/// 7: with the server away the command blocked; the result of a run that ended meanwhile was lost.
#[test]
fn an_outcome_waits_for_the_daemon_and_the_command_does_not() {
    let scratch = crate::support::Scratch::new();
    let flag = scratch.path().join("done");
    let gate = scratch.path().join("gate");
    let command = format!(
        "echo first; while [ ! -e {} ]; do sleep 0.05; done; head -c 20000000 /dev/zero | tr '\\0' x; touch {}; exit 3",
        gate.display(),
        flag.display()
    );
    let daemon = FakeDaemon::with_command(&command);
    let _run = launch(&daemon, "away");
    daemon.until("output", |told| (!told.output.is_empty()).then_some(()));
    daemon.change(|script| script.down = true);
    std::fs::write(gate, "").unwrap();
    until("the command's end without a daemon", || {
        flag.exists().then_some(())
    });
    daemon.change(|script| script.down = false);
    assert_eq!(daemon.outcome(), 3);
    daemon.told(|told| {
        assert_eq!(told.output.len(), 6 + 20_000_000);
        assert!(told.output[6..].iter().all(|&byte| byte == b'x'));
        assert_eq!(told.duplicates, 0);
    });
}

#[test]
fn a_lost_completion_ack_is_asked_for_again() {
    let daemon = FakeDaemon::with_command("echo x; exit 4");
    daemon.change(|script| script.withhold_complete_acks = true);
    let run = launch(&daemon, "lostack");
    daemon.until("the completion", |told| (told.completes > 0).then_some(()));
    daemon.change(|script| script.withhold_complete_acks = false);
    daemon.cut();
    assert_eq!(daemon.outcome(), 4);
    assert_eq!(daemon.text(), "x\n");
    until("the delivery", || {
        run.log().contains("outcome delivered").then_some(())
    });
}

#[test]
fn a_daemon_that_has_forgotten_the_run_leaves_the_output_in_the_local_log() {
    let daemon = FakeDaemon::with_command("echo first; sleep 1; echo last; exit 5");
    let run = launch(&daemon, "forgotten");
    daemon.until("output", |told| (!told.output.is_empty()).then_some(()));
    daemon.change(|script| script.refuse = Some(ErrorCode::JobNotFound));
    daemon.cut();
    until("the log", || run.log().contains("exit code 5").then_some(()));
    let log = run.log();
    assert!(log.contains("not delivered ####\nlast\n"), "{log}");
}

#[test]
fn beats_come_from_the_connect_on_while_output_floods_and_until_the_end_is_acknowledged() {
    let mut job = order("yes | head -c 3000000000");
    job.timeout = 12;
    job.env.insert("SP_SPOOL_LIMIT".into(), "4000000".into());
    let daemon = FakeDaemon::with_job(job);
    daemon.change(|script| {
        script.withhold_complete_acks = true;
        script.keep_bytes = Some(0);
    });
    let _run = launch(&daemon, "beats");
    let beats = daemon.until("four beats", |told| {
        (told.beats.len() >= 4).then(|| told.beats.clone())
    });
    for pair in beats.windows(2) {
        assert!((4_500..7_000).contains(&(pair[1] - pair[0])), "{beats:?}");
    }
    daemon.until("the completion", |told| (told.completes > 0).then_some(()));
    daemon.change(|script| script.withhold_complete_acks = false);
    daemon.cut();
    daemon.outcome();
}
