//! Everything that descends from this process: finding, signalling, reaping, naming it.
//! Must not know: why it has to end.

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, kill_process, kill_process_group, waitid,
    waitpid,
};

use crate::clock;
use crate::limits;
use crate::process::order::Exit;

/// One process that descends from this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relative {
    pub pid: Pid,
    pub name: String,
    group: i32,
    zombie: bool,
}

/// How `command`, our child, ended; None while it runs. It stays unreaped, so its pid and the id of its group
/// cannot come to mean somebody else.
pub fn exit_of(command: Pid) -> Option<Exit> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let status = waitid(WaitId::Pid(command), options).ok().flatten()?;
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Some(Exit::Code(code)),
        (None, Some(signal)) => Some(Exit::Signal(signal)),
        (None, None) => None,
    }
}

/// SIGTERM to the command's group first, then to what has left it. Stopped processes are woken to hear it.
pub fn terminate(command: Pid) {
    // looked for before: what ends meanwhile could hide its siblings
    let relatives = descendants();
    let _ = kill_process_group(command, Signal::TERM);
    let _ = kill_process_group(command, Signal::CONT);
    for relative in relatives {
        if relative.group != command.as_raw_nonzero().get() && !relative.zombie {
            let _ = kill_process(relative.pid, Signal::TERM);
        }
    }
}

/// SIGKILL to the command's group and all that descends from this process, again and again until nothing lives
/// or the time is up (false). `pause` waits a few milliseconds or for a child's end.
pub fn end_all(command: Option<Pid>, mut pause: impl FnMut()) -> bool {
    let until = clock::mono().plus_ms(limits::END_ALL_MS);
    loop {
        if let Some(command) = command {
            let _ = kill_process_group(command, Signal::KILL);
        }
        for relative in descendants() {
            let _ = kill_process(relative.pid, Signal::KILL);
        }
        reap_others(command);
        if living(command).is_empty() {
            return true;
        }
        if clock::mono() >= until {
            return false;
        }
        pause();
    }
}

/// Reaps every dead child but the command.
pub fn reap_others(command: Option<Pid>) {
    for child in children() {
        if Some(child) != command {
            let _ = waitpid(Some(child), WaitOptions::NOHANG);
        }
    }
}

/// True when this process has no child but the (dead) command.
pub fn is_alone(command: Pid) -> bool {
    children().iter().all(|&child| child == command)
}

/// What descends from this process and is not dead, the command included while it runs.
pub fn living(command: Option<Pid>) -> Vec<Relative> {
    let mut relatives = descendants();
    relatives.retain(|relative| !relative.zombie);
    if let Some(command) = command
        && exit_of(command).is_some()
    {
        relatives.retain(|relative| relative.pid != command);
    }
    relatives
}

/// `name (pid 1), name (pid 2)`, ten at most.
pub fn names(relatives: &[Relative]) -> String {
    let mut names: Vec<String> = relatives
        .iter()
        .take(10)
        .map(|relative| format!("{} (pid {})", relative.name, relative.pid.as_raw_nonzero()))
        .collect();
    if relatives.len() > names.len() {
        names.push(format!("{} more", relatives.len() - names.len()));
    }
    names.join(", ")
}

/// From parent to child by the kernel's lists, so that the cost is that of the family and not of the host. A list may
/// miss somebody while others of it are reaped; but what lives has a living ancestor among our own children, and that
/// list is complete, for only we reap them: as long as anything lives, something is found.
fn descendants() -> Vec<Relative> {
    let me = getpid();
    if listed_children(me, me).is_none() {
        return descendants_among(processes());
    }
    let mut found = Vec::new();
    let mut open = started_by(me);
    while let Some((parent, pid)) = open.pop() {
        let Some((their_parent, relative)) = look_at(pid.as_raw_nonzero().get()) else {
            continue;
        };
        // gone, and its pid given to a stranger; or ours by now, and found the next time
        if their_parent != parent.as_raw_nonzero().get() {
            continue;
        }
        open.extend(started_by(pid));
        found.push(relative);
    }
    found
}

fn descendants_among(mut others: Vec<(i32, Relative)>) -> Vec<Relative> {
    let mut found = Vec::new();
    let mut parents = vec![getpid().as_raw_nonzero().get()];
    while let Some(parent) = parents.pop() {
        others.retain(|(their_parent, relative)| {
            let ours = *their_parent == parent;
            if ours {
                parents.push(relative.pid.as_raw_nonzero().get());
                found.push(relative.clone());
            }
            !ours
        });
    }
    found
}

/// The kernel's own list where it keeps one, else a look through /proc.
fn children() -> Vec<Pid> {
    let me = getpid();
    listed_children(me, me).unwrap_or_else(|| {
        processes()
            .into_iter()
            .filter(|(parent, _)| *parent == me.as_raw_nonzero().get())
            .map(|(_, relative)| relative.pid)
            .collect()
    })
}

/// What a thread of that process has started. None: it is gone, or this kernel keeps no lists.
fn listed_children(pid: Pid, thread: Pid) -> Option<Vec<Pid>> {
    let path = format!(
        "/proc/{}/task/{}/children",
        pid.as_raw_nonzero(),
        thread.as_raw_nonzero()
    );
    let list = std::fs::read_to_string(path).ok()?;
    let pids = list.split_ascii_whitespace();
    Some(pids.filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect())
}

/// A process with each of its children, whichever of its threads has started it.
fn started_by(pid: Pid) -> Vec<(Pid, Pid)> {
    let threads = std::fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero()));
    let threads = threads.into_iter().flatten().flatten();
    threads
        .filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
        .filter_map(|thread| listed_children(pid, thread))
        .flatten()
        .map(|child| (pid, child))
        .collect()
}

/// Every process there is, with its parent's pid.
fn processes() -> Vec<(i32, Relative)> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            look_at(name.to_str()?.parse().ok()?)
        })
        .collect()
}

/// A process and its parent's pid.
fn look_at(pid: i32) -> Option<(i32, Relative)> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(pid, &String::from_utf8_lossy(&stat))
}

/// `pid (name) state ppid pgrp ...`; the name may hold anything, parentheses too.
fn parse_stat(pid: i32, stat: &str) -> Option<(i32, Relative)> {
    let open = stat.find('(')?;
    let close = stat.rfind(')')?;
    let mut fields = stat.get(close + 1..)?.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let relative = Relative {
        pid: Pid::from_raw(pid)?,
        name: stat
            .get(open + 1..close)?
            .chars()
            .map(|c| if c.is_control() { '?' } else { c })
            .collect(),
        group,
        zombie: matches!(state, "Z" | "X"),
    };
    Some((parent, relative))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_with_an_evil_name_is_read() {
        let (parent, relative) = parse_stat(7, "7 (a) b) (c\n) S 3 5 5 0 -1 4194560").unwrap();
        assert_eq!((parent, relative.group, relative.zombie), (3, 5, false));
        assert_eq!(relative.name, "a) b) (c?");
        assert!(parse_stat(8, "8 (x) Z 1 8 8").unwrap().1.zombie);
        assert_eq!(parse_stat(9, "rubbish"), None);
    }

    #[test]
    fn a_grandchild_in_a_session_of_its_own_is_found_both_ways() {
        let mut shell = std::process::Command::new("/bin/sh")
            .args([
                "-c",
                "setsid sleep 1000 >&- & echo $!; sleep 1001 >&- & echo $!; exec >&-; wait",
            ])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let said = std::io::read_to_string(shell.stdout.take().unwrap()).unwrap();
        let sleepers: Vec<Pid> = said
            .lines()
            .take(2)
            .map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap())
            .collect();
        let (listed, searched) = (descendants(), descendants_among(processes()));
        for pid in &sleepers {
            let _ = kill_process(*pid, Signal::KILL);
        }
        shell.wait().unwrap();
        for pid in sleepers {
            assert!(listed.iter().any(|relative| relative.pid == pid), "{listed:?}");
            assert!(
                searched.iter().any(|relative| relative.pid == pid),
                "{searched:?}"
            );
        }
    }

    #[test]
    fn long_lists_of_names_are_cut() {
        let one = parse_stat(7, "7 (sh) S 3 5 5").unwrap().1;
        assert_eq!(names(std::slice::from_ref(&one)), "sh (pid 7)");
        assert!(names(&vec![one; 12]).ends_with(", 2 more"));
    }
}
