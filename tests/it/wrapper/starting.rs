//! From the launch to the command: detaching, permission, environment, user, directory, lock.

use rustix::process::Signal;
use saltpeter::clock;
use saltpeter::protocol::ErrorCode;

use crate::support::fake_daemon::{FakeDaemon, Script, all_features, order};
use crate::support::run::{Family, Run, launch};
use crate::support::{is_alive, is_root, never_within, signal, until};

#[test]
fn the_launcher_returns_at_once_and_says_so() {
    let daemon = FakeDaemon::with_command("sleep 1000");
    let mut run = Run::new(&daemon, "launch");
    let before = clock::mono();
    let output = run.launch();
    assert!(clock::mono().since_ms(before) < 1_000);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.starts_with("sp-wrapper ") && text.ends_with("\nWrapper started successfully\n"),
        "{text}"
    );
    let family = Family::of(&daemon);
    daemon.kill();
    assert_eq!(daemon.outcome(), 143);
    family.until_gone();
}

#[test]
fn missing_settings_are_one_line_and_exit_1() {
    let daemon = FakeDaemon::with_command("true");
    for missing in ["SP_WEBSOCKET_URL", "SP_JOB_NAME", "SP_JOB_INSTANCE"] {
        let mut run = Run::new(&daemon, "missing");
        run.command.env_remove(missing);
        let output = run.launch();
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(missing) && text.lines().count() == 1, "{text}");
    }
    for url in ["http://h:1/", "ws://", "ws:///x", "ws://h:99999/", "ws://a b/"] {
        let mut run = Run::new(&daemon, "missing").env("SP_WEBSOCKET_URL", url);
        let output = run.launch();
        assert_eq!(output.status.code(), Some(1), "{url}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(
            text.contains("SP_WEBSOCKET_URL") && text.lines().count() == 1,
            "{text}"
        );
    }
    never_within(300, "a wrapper without settings connected", || {
        daemon.told(|told| told.connects > 0)
    });
}

#[test]
fn a_job_runs_and_its_output_and_code_arrive() {
    let daemon = FakeDaemon::with_command("echo out; echo err >&2; printf tail; exit 7");
    let run = launch(&daemon, "simple");
    assert_eq!(daemon.outcome(), 7);
    assert_eq!(daemon.text(), "out\nerr\ntail");
    assert_eq!(daemon.notices(), "");
    daemon.told(|told| assert_eq!((told.connects, told.starts, told.completes), (1, 1, 1)));
    for secret in ["sesame", "echo out"] {
        assert!(!run.log().contains(secret));
    }
}

#[test]
fn of_two_askers_only_the_permitted_one_starts() {
    let daemon = FakeDaemon::with_command("echo started; sleep 1000");
    let _first = launch(&daemon, "twice");
    let family = Family::of(&daemon);
    let second = launch(&daemon, "twice");
    until("the refusal", || {
        second.log().contains("NOT_STARTED_AGAIN").then_some(())
    });
    daemon.told(|told| {
        assert_eq!(told.starts, 1);
        assert_ne!(told.wrapper_ids[0], told.wrapper_ids[1]);
    });
    assert!(is_alive(family.command));
    daemon.kill();
    assert_eq!(daemon.outcome(), 143);
}

#[test]
fn a_refused_wrapper_exits_without_a_start() {
    for code in [ErrorCode::JobNotFound, ErrorCode::NotStartedAgain] {
        let daemon = FakeDaemon::with_command("echo started");
        daemon.change(|script| script.refuse = Some(code));
        let run = launch(&daemon, "refused");
        until("the refusal", || run.log().contains(code.as_str()).then_some(()));
        never_within(300, "it started", || daemon.told(|told| told.starts > 0));
    }
}

#[test]
fn a_daemon_that_is_away_at_first_is_asked_until_it_answers() {
    let daemon = FakeDaemon::with_command("echo late");
    daemon.change(|script| script.down = true);
    let run = launch(&daemon, "late");
    until("a failed attempt", || {
        run.log().contains("reaching the daemon").then_some(())
    });
    daemon.change(|script| script.down = false);
    assert_eq!(daemon.outcome(), 0);
    assert_eq!(daemon.text(), "late\n");
}

#[test]
fn without_command_and_without_job_it_completes_with_254() {
    let daemon = FakeDaemon::start(Script::default());
    let _run = launch(&daemon, "nojob");
    assert_eq!(daemon.outcome(), 254);
    assert!(
        daemon.notices().contains("SP_COMMAND is not set"),
        "{}",
        daemon.notices()
    );
    assert_eq!(daemon.told(|told| told.starts), 0);
}

#[test]
fn the_classic_way_brings_its_own_command_and_does_not_offer_job() {
    let daemon = FakeDaemon::start(Script {
        features: all_features(),
        ..Script::default()
    });
    let run = Run::new(&daemon, "classic")
        .env("SP_COMMAND", "env; pwd")
        .env("MINE", "a b")
        .env("SP_CWD", "/usr");
    let _run = run.launched();
    assert_eq!(daemon.outcome(), 0);
    let text = daemon.text();
    assert!(
        text.contains("\nMINE=a b\n") || text.starts_with("MINE=a b\n"),
        "{text}"
    );
    assert!(text.ends_with("/usr\n"));
    assert!(
        !text.contains("sesame") && !text.contains("SP_COMMAND") && !text.contains("SP_WRAPPER"),
        "{text}"
    );
    assert!(daemon.told(|told| !told.accepts.contains(&"job".to_string())));
}

#[test]
fn the_environment_is_the_agreed_one_and_nothing_else() {
    let mut job = order("env | sort");
    job.env.insert("ODD".into(), "it's \"$HOME\" \\ ü".into());
    job.timeout = 99;
    let daemon = FakeDaemon::with_job(job);
    let run = Run::new(&daemon, "env").env("LANG", "C.UTF-8").env("SECRET", "x");
    let _run = run.launched();
    assert_eq!(daemon.outcome(), 0);
    let text = daemon.text();
    for line in [
        "LANG=C.UTF-8",
        "ODD=it's \"$HOME\" \\ ü",
        "PATH=/usr/bin:/bin",
        "PYTHONUNBUFFERED=1",
        "SP_JOB_INSTANCE=env_1",
        "SP_JOB_INSTANCE_NAME=env_1",
        "SP_JOB_NAME=env",
        "SP_MACHINE_ID=m",
        "SP_TIMEOUT=99",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
    let known = [
        "HOME",
        "LANG",
        "LOGNAME",
        "ODD",
        "PATH",
        "PWD",
        "PYTHONUNBUFFERED",
        "SHELL",
        "SHLVL",
        "USER",
        "_",
        "OLDPWD",
    ];
    for line in text.lines() {
        let name = line.split('=').next().unwrap();
        let agreed = known.contains(&name)
            || [
                "SP_JOB_NAME",
                "SP_JOB_INSTANCE",
                "SP_JOB_INSTANCE_NAME",
                "SP_MACHINE_ID",
                "SP_TIMEOUT",
            ]
            .contains(&name);
        assert!(agreed, "{line}");
    }
}

/// 9: `user: nobody` kept root's group, groups and HOME.
#[test]
fn a_user_is_become_whole() {
    if !is_root("a_user_is_become_whole") {
        return;
    }
    let mut job = order(
        "id -u; id -g; id -G; echo $HOME $USER $LOGNAME; cat /proc/self/status | grep ^Groups; cat /etc/shadow; pwd",
    );
    job.user = Some("nobody".into());
    let daemon = FakeDaemon::with_job(job);
    let _run = launch(&daemon, "nobody");
    assert_eq!(daemon.outcome(), 0);
    let text = daemon.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[..4],
        ["65534", "65534", "65534", "/nonexistent nobody nobody"],
        "{text}"
    );
    assert_eq!(lines[4].trim_end(), "Groups:\t65534");
    assert!(lines[5].contains("Permission denied"), "{text}");
    assert_eq!(lines[6], "/", "a home that does not exist is no failure");
}

#[test]
fn a_user_may_open_his_standard_streams_anew() {
    if !is_root("a_user_may_open_his_standard_streams_anew") {
        return;
    }
    let mut job = order("echo out > /dev/stdout; echo err > /dev/stderr");
    job.user = Some("nobody".into());
    let daemon = FakeDaemon::with_job(job);
    let _run = launch(&daemon, "streams");
    assert_eq!(daemon.outcome(), 0);
    assert_eq!(daemon.text(), "out\nerr\n");
}

/// 10: a missing directory or user was noticed after 31 s, as 254.
#[test]
fn what_cannot_be_started_is_a_reported_255_that_names_the_fault() {
    let mut cwd = order("true");
    cwd.cwd = Some("/no/such/directory".into());
    let mut user = order("true");
    user.user = Some("no-such-user".into());
    let mut file = order("true");
    file.cwd = Some("/etc/passwd".into());
    let mut large = order("true");
    large.env.insert("LARGE".into(), "x".repeat(200_000));
    for (job, fault) in [
        (cwd, "/no/such/directory"),
        (user, "no-such-user"),
        (file, "/etc/passwd"),
        (large, "its environment is too large"),
    ] {
        let daemon = FakeDaemon::with_job(job);
        let _run = launch(&daemon, "cannot");
        assert_eq!(daemon.outcome(), 255);
        let notices = daemon.notices();
        assert!(
            notices.contains(fault) && notices.contains("SALTPETER ERROR"),
            "{notices}"
        );
        assert_eq!(daemon.told(|told| told.starts), 0);
    }
}

#[test]
fn a_held_lock_is_254_and_is_free_after_the_end() {
    let mut job = order("sleep 1000");
    job.allow_overlap = false;
    let scratch = crate::support::Scratch::new();
    job.lockfile = Some(scratch.path().join("lock").to_string_lossy().into_owned());
    let holder = FakeDaemon::with_job(job.clone());
    let _first = launch(&holder, "locked");
    let family = Family::of(&holder);
    job.command = "echo free".into();
    let second = FakeDaemon::with_job(job.clone());
    let _second = launch(&second, "locked");
    assert_eq!(second.outcome(), 254);
    assert!(
        second.notices().starts_with("LOCKFILE ERROR: "),
        "{}",
        second.notices()
    );
    assert!(is_alive(family.command));

    signal(family.wrapper, Signal::KILL);
    family.until_gone();
    assert!(!is_alive(family.command));
    let third = FakeDaemon::with_job(job);
    let _third = launch(&third, "locked");
    assert_eq!(third.outcome(), 0);
    assert_eq!(third.text(), "free\n");
}

/// Whoever hears of the end may start the next run at once, and that must not find the lock held.
#[test]
fn a_lock_is_free_when_the_outcome_is_told() {
    let scratch = crate::support::Scratch::new();
    let lock = scratch.path().join("lock");
    let held = std::fs::File::create(&lock).unwrap();
    for _ in 0..50 {
        let mut job = order("true");
        job.allow_overlap = false;
        job.lockfile = Some(lock.to_string_lossy().into_owned());
        let daemon = FakeDaemon::with_job(job);
        daemon.change(|script| script.withhold_complete_acks = true);
        let _run = launch(&daemon, "free");
        daemon.until("the completion", |told| (told.completes > 0).then_some(()));
        let taken = rustix::fs::flock(&held, rustix::fs::FlockOperation::NonBlockingLockExclusive);
        assert_eq!(taken, Ok(()), "the lock is still held");
        rustix::fs::flock(&held, rustix::fs::FlockOperation::Unlock).unwrap();
        daemon.change(|script| script.withhold_complete_acks = false);
        daemon.cut();
        assert_eq!(daemon.outcome(), 0);
    }
}

#[test]
fn a_kill_before_the_start_is_obeyed() {
    // an old daemon acknowledges the connect only when asked again: the kill comes first
    let daemon = FakeDaemon::with_command("sleep 1000");
    let _run = launch(&daemon, "early");
    daemon.until("the connect", |told| (told.connects > 0).then_some(()));
    daemon.kill();
    let family_gone = daemon.outcome();
    assert_eq!(family_gone, 143);
}
