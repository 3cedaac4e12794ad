//! Information of the kernel about a process: CPU time, memory, its file.
//! Must not know: what the process is.

use std::path::Path;

/// USER_HZ: the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;
/// The unit in which memory is reported.
pub const MEBIBYTE: f64 = 1_048_576.0;

/// CPU seconds, user and system.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    /// Of the process.
    pub own_s: f64,
    /// Of its descendants that were waited for.
    pub children_s: f64,
}

impl Cpu {
    /// The sum.
    pub fn all_s(self) -> f64 {
        self.own_s + self.children_s
    }
}

/// CPU time of a process so far, in the kernel's ticks of 10 ms.
pub fn cpu(pid: u32) -> Cpu {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // the name, in parentheses, may hold anything
    let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = rest.split(' ').collect();
    let seconds = |at: usize| {
        let ticks = fields.get(at).and_then(|text| text.parse::<f64>().ok());
        ticks.unwrap_or(0.0) / TICKS_PER_SECOND
    };
    Cpu {
        own_s: seconds(11) + seconds(12),
        children_s: seconds(13) + seconds(14),
    }
}

/// The process's share of memory (PSS), bytes.
pub fn pss_bytes(pid: u32) -> u64 {
    kilobytes(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

/// The largest resident memory of the process so far, bytes.
pub fn peak_bytes(pid: u32) -> u64 {
    kilobytes(&format!("/proc/{pid}/status"), "VmHWM:")
}

/// Processes that run this file.
pub fn running(program: &Path) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program))
        .collect()
}

fn kilobytes(path: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or(0) * 1_024
}
