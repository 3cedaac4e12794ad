//! Processes of this host, as /proc shows them.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

/// Every process id.
pub fn all() -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap();
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

/// Fields of `/proc/PID/stat` after the name: state, parent, group, session...
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let rest = &text[text.rfind(')')? + 2..];
    Some(rest.split(' ').map(str::to_string).collect())
}

pub fn parent(pid: i32) -> Option<i32> {
    stat(pid)?[1].parse().ok()
}

/// Living members of a session.
pub fn of_session(session: i32) -> Vec<i32> {
    let is_member =
        |pid: &i32| stat(*pid).is_some_and(|fields| fields[3].parse() == Ok(session) && fields[0] != "Z");
    all().into_iter().filter(is_member).collect()
}

/// The arguments, separated by NUL bytes.
pub fn arguments(pid: i32) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

/// The environment it was started with.
pub fn environment(pid: i32) -> Vec<(String, String)> {
    let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    String::from_utf8_lossy(&environ)
        .split('\0')
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect()
}

/// The wrapper of that machine run: the outermost process that was given its environment.
pub fn wrapper(instance: &str, machine: &str) -> Option<i32> {
    let wanted = [
        format!("SP_JOB_INSTANCE={instance}").into_bytes(),
        format!("SP_MACHINE_ID={machine}").into_bytes(),
    ];
    let is_ours = |pid: &i32| {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let has = |line: &Vec<u8>| environ.split(|byte| *byte == 0).any(|part| part == line);
        let is_wrapper = fs::read_link(format!("/proc/{pid}/exe"))
            .is_ok_and(|exe| exe.to_string_lossy().contains("sp-wrapper"));
        is_wrapper && wanted.iter().all(has)
    };
    let family: Vec<i32> = all().into_iter().filter(is_ours).collect();
    let is_outermost = |pid: &&i32| parent(**pid).is_some_and(|parent| !family.contains(&parent));
    family.iter().find(is_outermost).copied()
}

pub fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}
