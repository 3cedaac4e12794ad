//! What a command inherits is the same whoever launched its wrapper, and as under cron or systemd.

use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use crate::support::fake_daemon::{FakeDaemon, order};
use crate::support::run::{Run, launch, pids_in};
use crate::support::{Scratch, is_alive, signal, until};

/// A launcher with everything odd about it: mask, signals ignored, a limit, an open descriptor.
const ODD_LAUNCHER: &str =
    "umask 077; ulimit -Sn 333; trap '' HUP USR1 PIPE TERM CHLD; exec 7</dev/null; exec \"$0\"";

const SHOW: &str = r#"
umask
ulimit -n
echo "$TZ $LANG"
readlink /proc/self/fd/0
grep -E '^Sig(Blk|Ign)' /proc/$$/status
[ "$(cut -d ' ' -f 6 /proc/$$/stat)" = $$ ] && echo session
for fd in /proc/$$/fd/*; do number=${fd##*/}; [ "$number" -gt 2 ] && readlink "$fd"; done
true
"#;

#[test]
fn a_command_inherits_what_the_table_says() {
    let mut job = order(SHOW);
    job.allow_overlap = false;
    let daemon = FakeDaemon::with_job(job);
    let mut run = Run::new(&daemon, "inherits");
    let mut odd = Command::new("/bin/sh");
    odd.args(["-c", ODD_LAUNCHER])
        .arg(run.command.get_program())
        .env_clear()
        .envs(
            run.command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .env("TZ", "Asia/Tokyo")
        .env("LANG", "C.UTF-8");
    run.command = odd;
    let _run = run.launched();
    assert_eq!(daemon.outcome(), 0);
    let text = daemon.text();
    let mut lines: Vec<&str> = text.lines().collect();
    // the one descriptor: the lock's, as long as the command lives
    let lock = lines.pop().unwrap();
    assert!(lock.contains("sp-wrapper") && lock.ends_with(".lock"), "{text}");
    let expected = [
        "0022",
        "333",
        "Asia/Tokyo C.UTF-8",
        "/dev/null",
        "SigBlk:\t0000000000000000",
        "SigIgn:\t0000000000000000",
        "session",
    ];
    assert_eq!(lines, expected, "{text}");
}

/// 20: it failed with E2BIG.
#[test]
fn a_command_of_any_length_runs_as_a_short_one_does() {
    let comment = "# ".to_string() + &"x".repeat(140_000);
    let job = order(&format!(
        "{comment}\necho \"$0\"; ls /proc/self/fd | wc -l; echo 'it''s'; exit 7"
    ));
    let daemon = FakeDaemon::with_job(job);
    let _run = launch(&daemon, "long");
    assert_eq!(daemon.outcome(), 7, "{}", daemon.notices());
    let short = FakeDaemon::with_command("echo \"$0\"; ls /proc/self/fd | wc -l; echo 'it''s'; exit 7");
    let _short = launch(&short, "short");
    assert_eq!(short.outcome(), 7);
    assert_eq!(daemon.text(), short.text());
}

/// 19: it died of SIGPIPE as soon as nobody read any more.
#[test]
fn what_a_command_leaves_running_can_go_on_writing() {
    let scratch = Scratch::new();
    let (pids, count) = (scratch.path().join("pid"), scratch.path().join("count"));
    let command = format!(
        "(while echo tick; do echo >> {}; sleep 0.02; done) & echo $! > {}",
        count.display(),
        pids.display()
    );
    let daemon = FakeDaemon::with_command(&command);
    let run = launch(&daemon, "service");
    let service = pids_in(&pids, 1)[0];
    let _command = daemon.pid();
    assert_eq!(daemon.outcome(), 0);
    until("the wrapper's exit", || {
        run.log().contains("outcome delivered").then_some(())
    });
    let written = || std::fs::metadata(&count).map_or(0, |found| found.len());
    let before = written();
    until("a hundred lines more", || {
        (written() > before + 100).then_some(())
    });
    let pipe = std::fs::read_link(format!("/proc/{service}/fd/1")).unwrap();
    assert_eq!(readers_of(&pipe).len(), 1);
    signal(service, Signal::KILL);
    until("the service's end", || (!is_alive(service)).then_some(()));
    until("the reader's end", || readers_of(&pipe).is_empty().then_some(()));
}

/// The processes that read a pipe for what a command has left running.
fn readers_of(pipe: &Path) -> Vec<i32> {
    let mut readers = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        let reads = std::fs::read_link(entry.path().join("fd/0")).is_ok_and(|found| found == pipe);
        if name == "sp-drain\n"
            && reads
            && let Ok(pid) = entry.file_name().to_string_lossy().parse()
        {
            readers.push(pid);
        }
    }
    readers
}
