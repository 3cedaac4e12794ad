//! Two runs of a job exclude each other: ours, those of the Python wrapper, and whatever lies where locks lie.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::fs::FlockOperation;
use rustix::process::Signal;
use saltpeter::protocol::JobOrder;

use crate::support::fake_daemon::{FakeDaemon, order};
use crate::support::run::{Family, Run, launch, pids_in};
use crate::support::{Scratch, is_alive, is_root, signal, until};

/// Puts something at a path.
type Leave<'a> = &'a dyn Fn(&Path);

/// What the Python wrapper does about its lock, and nothing else it does.
const PYTHON_LOCK: &str = r#"
lock=${SP_LOCKFILE:-/tmp/sp_wrapper_$SP_JOB_NAME.lock}
mkdir -p "$(dirname "$lock")"
if [ -e "$lock" ]; then
    pid=$(cat "$lock")
    if [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null; then echo "LOCKFILE ERROR"; exit 254; fi
fi
echo $$ > "$lock" && echo "taken" > "$MARK"
read end
rm -f "$lock"
"#;

/// An exclusive job, with an explicit lock file or the default one.
fn exclusive(command: &str, lockfile: Option<&Path>) -> JobOrder {
    let mut job = order(command);
    job.allow_overlap = false;
    job.lockfile = lockfile.map(|path| path.to_string_lossy().into_owned());
    job
}

/// A job name that no other test has: the default lock is the host's.
fn unique(name: &str) -> String {
    format!("{name}{}", std::process::id())
}

fn python(scratch: &Scratch, job: &str, lockfile: Option<&Path>) -> Child {
    let program = scratch.path().join("sp_wrapper.py");
    std::fs::write(&program, PYTHON_LOCK).unwrap();
    let mut command = Command::new("/bin/sh");
    command
        .arg(&program)
        .env("SP_JOB_NAME", job)
        .env("MARK", scratch.path().join("mark"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    if let Some(path) = lockfile {
        command.env("SP_LOCKFILE", path);
    }
    command.spawn().unwrap()
}

fn end(mut python: Child) -> Option<i32> {
    drop(python.stdin.take());
    python.wait().unwrap().code()
}

/// Runs the job to its end.
fn outcome_of(job: JobOrder, name: &str) -> (i64, String) {
    let daemon = FakeDaemon::with_job(job);
    let _run = launch(&daemon, name);
    (daemon.outcome(), daemon.notices())
}

#[test]
fn ours_does_not_start_beside_a_python_wrapper() {
    let scratch = Scratch::new();
    let explicit = scratch.path().join("directory").join("lock");
    let name = unique("pythonfirst");
    for lockfile in [None, Some(explicit.as_path())] {
        let holder = python(&scratch, &name, lockfile);
        until("the Python wrapper's lock", || {
            scratch.path().join("mark").exists().then_some(())
        });
        let (code, notices) = outcome_of(exclusive("true", lockfile), &name);
        assert_eq!(code, 254, "{notices}");
        assert!(notices.starts_with("LOCKFILE ERROR: "), "{notices}");
        assert_eq!(end(holder), Some(0));
        std::fs::remove_file(scratch.path().join("mark")).unwrap();
        assert_eq!(outcome_of(exclusive("true", lockfile), &name).0, 0);
    }
}

#[test]
fn a_python_wrapper_does_not_start_beside_ours() {
    let scratch = Scratch::new();
    let explicit = scratch.path().join("directory").join("lock");
    let name = unique("oursfirst");
    for lockfile in [None, Some(explicit.as_path())] {
        let daemon = FakeDaemon::with_job(exclusive("sleep 1000", lockfile));
        let _run = launch(&daemon, &name);
        let _ = daemon.pid();
        assert_eq!(end(python(&scratch, &name, lockfile)), Some(254), "{lockfile:?}");
        daemon.kill();
        assert_eq!(daemon.outcome(), 143);
        assert_eq!(end(python(&scratch, &name, lockfile)), Some(0), "{lockfile:?}");
    }
}

#[test]
fn a_pid_that_has_come_to_mean_another_process_holds_nothing() {
    let scratch = Scratch::new();
    let explicit = scratch.path().join("lock");
    let name = unique("reused");
    let default = PathBuf::from(format!("/tmp/sp_wrapper_{name}.lock"));
    for (path, lockfile) in [(&default, None), (&explicit, Some(explicit.as_path()))] {
        std::fs::write(path, std::process::id().to_string()).unwrap();
        let (code, notices) = outcome_of(exclusive("true", lockfile), &name);
        assert_eq!(code, 0, "{notices}");
    }
    let _ = std::fs::remove_file(default);
}

#[test]
fn nothing_that_another_user_leaves_where_locks_lie_keeps_a_job_from_running() {
    if !is_root("nothing_that_another_user_leaves_where_locks_lie_keeps_a_job_from_running") {
        return;
    }
    let for_all = Scratch::new();
    std::fs::set_permissions(for_all.path(), PermissionsExt::from_mode(0o1777)).unwrap();
    let name = unique("foreign");
    let explicit = for_all.path().join("lock");
    let default = PathBuf::from(format!("/tmp/sp_wrapper_{name}.lock"));
    let own = |path: &Path| chown(path, Some(65534), Some(65534)).unwrap();
    let leave: [(&str, Leave<'_>); 5] = [
        ("file", &|path| {
            std::fs::write(path, std::process::id().to_string()).unwrap();
            own(path);
        }),
        ("link", &|path| {
            std::os::unix::fs::symlink("/etc/passwd", path).unwrap()
        }),
        ("dangling link", &|path| {
            std::os::unix::fs::symlink("/no/such/file", path).unwrap()
        }),
        ("directory", &|path| {
            std::fs::create_dir(path).unwrap();
            own(path);
        }),
        ("fifo", &|path| {
            let made = Command::new("mkfifo").arg(path).status().unwrap();
            assert!(made.success());
            own(path);
        }),
    ];
    for (what, leave) in leave {
        for (path, lockfile) in [(&default, None), (&explicit, Some(explicit.as_path()))] {
            let _ = std::fs::remove_file(path);
            let _ = std::fs::remove_dir(path);
            leave(path);
            let (code, notices) = outcome_of(exclusive("true", lockfile), &name);
            assert_eq!(code, 0, "{what} at {}: {notices}", path.display());
        }
    }
    assert!(std::fs::read_to_string("/etc/passwd").unwrap().contains("root"));
    for entry in std::fs::read_dir("/tmp").unwrap().flatten() {
        if entry.file_name().to_string_lossy().contains(&name) {
            let _ = std::fs::remove_file(entry.path());
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}

#[test]
fn a_foreign_flock_of_a_file_that_others_can_open_does_not_block() {
    let scratch = Scratch::new();
    let path = scratch.path().join("lock");
    let foreign = std::fs::File::create(&path).unwrap();
    foreign.set_permissions(PermissionsExt::from_mode(0o644)).unwrap();
    rustix::fs::flock(&foreign, FlockOperation::NonBlockingLockExclusive).unwrap();
    let (code, notices) = outcome_of(exclusive("true", Some(&path)), &unique("flocked"));
    assert_eq!(code, 0, "{notices}");
}

/// Neither can react: both are stopped before they are killed. The guardian goes first: a stopped process group that the
/// end of a parent orphans is continued by the kernel.
fn kill_at_once(family: &Family) {
    for end in [Signal::STOP, Signal::KILL] {
        signal(family.guardian, end);
        signal(family.wrapper, end);
    }
    until("the wrapper's end", || (!is_alive(family.wrapper)).then_some(()));
    until("the guardian's end", || {
        (!is_alive(family.guardian)).then_some(())
    });
}

/// `prepare` makes a wrapper of another user of it.
fn what_survives_holds_the_lock(
    name: &str,
    scratch: &Scratch,
    user: Option<&str>,
    prepare: impl Fn(Run) -> Run,
) {
    let pids = scratch.path().join("pids");
    let name = unique(name);
    let command = format!("(trap '' TERM; sleep 1000) & echo $! > {}; wait", pids.display());
    let with_user = |command: &str| JobOrder {
        user: user.map(str::to_string),
        ..exclusive(command, None)
    };
    let first = FakeDaemon::with_job(with_user(&command));
    let _first = prepare(Run::new(&first, &name)).launched();
    let family = Family::of(&first);
    let survivor = pids_in(&pids, 1)[0];
    kill_at_once(&family);
    // the kernel ends the command, and what it has started holds the lock
    until("the command's end", || (!is_alive(family.command)).then_some(()));
    assert!(is_alive(survivor));
    let second = FakeDaemon::with_job(with_user("true"));
    let _second = prepare(Run::new(&second, &name)).launched();
    assert_eq!(second.outcome(), 254, "{}", second.notices());
    signal(survivor, Signal::KILL);
    until("the survivor's end", || (!is_alive(survivor)).then_some(()));
    let third = FakeDaemon::with_job(with_user("true"));
    let _third = prepare(Run::new(&third, &name)).launched();
    assert_eq!(third.outcome(), 0, "{}", third.notices());
}

/// 9: the command ran on unwatched, with its lock free, and the next run started beside it.
#[test]
fn what_survives_a_kill_of_wrapper_and_guardian_holds_the_lock() {
    let scratch = Scratch::new();
    what_survives_holds_the_lock("orphaned", &scratch, None, |run| run);
}

#[test]
fn what_survives_as_another_user_holds_the_lock() {
    if !is_root("what_survives_as_another_user_holds_the_lock") {
        return;
    }
    let scratch = Scratch::new();
    std::fs::set_permissions(scratch.path(), PermissionsExt::from_mode(0o777)).unwrap();
    what_survives_holds_the_lock("orphanedofnobody", &scratch, Some("nobody"), |run| run);
}

#[test]
fn what_survives_of_a_wrapper_that_is_not_root_holds_the_lock() {
    if !is_root("what_survives_of_a_wrapper_that_is_not_root_holds_the_lock") {
        return;
    }
    let scratch = Scratch::new();
    std::fs::set_permissions(scratch.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let cache = scratch.path().join("cache");
    std::fs::create_dir(&cache).unwrap();
    chown(&cache, Some(65534), Some(65534)).unwrap();
    std::fs::set_permissions(&cache, PermissionsExt::from_mode(0o700)).unwrap();
    // nobody need not be able to reach the build's directory
    let program = scratch.path().join("sp-wrapper");
    std::fs::copy(env!("CARGO_BIN_EXE_sp-wrapper"), &program).unwrap();
    what_survives_holds_the_lock("orphanedbynobody", &scratch, None, |mut run| {
        let mut command = Command::new(&program);
        command
            .env_clear()
            .envs(
                run.command
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .env("XDG_CACHE_HOME", &cache)
            .stdin(Stdio::null())
            .uid(65534)
            .gid(65534);
        run.command = command;
        run
    });
}
