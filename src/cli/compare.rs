//! `saltpeter compare`: which due times two daemons started, by their job logs; for a day beside the old one.
//! Must not know: how a job log is written.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::ExitCode;

use super::Arguments;
use crate::clock::Wall;
use crate::config::Loader;
use crate::limits;

pub const HELP: &str = "\
usage: saltpeter compare LOGDIR [-c DIR]

Compares the starts in another daemon's job logs (LOGDIR/*.log) with those in the configuration's own logdir, for the
time that both cover, and prints what only one of them started. Starts within 15 seconds of each other are the same.

exit codes: 0 both started the same, 1 they did not, or a directory cannot be read
";

/// When each job was started, in seconds since 1970, in order.
type Starts = BTreeMap<String, Vec<i64>>;

/// Compares and prints.
pub fn run(arguments: &Arguments) -> ExitCode {
    let loaded = Loader::new(arguments.config_dir()).load();
    let both = loaded.and_then(|config| {
        let ours = &config.settings.logdir;
        Ok((read(ours)?, read(Path::new(&arguments.words[0]))?))
    });
    match both {
        Ok((ours, theirs)) => {
            let (text, is_same) = report(ours, theirs);
            super::print(&text);
            if is_same {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("saltpeter: {error}");
            ExitCode::FAILURE
        }
    }
}

fn read(logdir: &Path) -> Result<Starts, String> {
    let told = |path: &Path, error: io::Error| format!("reading '{}': {error}", path.display());
    let mut starts = Starts::new();
    for entry in fs::read_dir(logdir).map_err(|error| told(logdir, error))? {
        let path = entry.map_err(|error| told(logdir, error))?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let file = File::open(&path).map_err(|error| told(&path, error))?;
            let mut line = Vec::new();
            let mut lines = BufReader::new(file);
            while lines
                .read_until(b'\n', &mut line)
                .map_err(|error| told(&path, error))?
                > 0
            {
                if let Some((job, at)) = start(&String::from_utf8_lossy(&line)) {
                    starts.entry(job).or_default().push(at);
                }
                line.clear();
            }
        }
    }
    for times in starts.values_mut() {
        times.sort_unstable();
        times.dedup();
    }
    Ok(starts)
}

/// The job and the second it fired, of a line that says that a run starts, or that it would have if the one before had
/// ended.
fn start(line: &str) -> Option<(String, i64)> {
    let rest = line
        .strip_prefix("###### Starting ")
        .or_else(|| line.strip_prefix("###### Overlap detected on "))?;
    let (instance, _) = rest.rsplit_once(" at ")?;
    let (name, last) = instance.rsplit_once('_')?;
    let seconds = |text: &str| {
        let is_time = (9..=11).contains(&text.len());
        text.parse().ok().filter(|_| is_time)
    };
    if let Some(at) = seconds(last) {
        return Some((name.to_string(), at));
    }
    // a collision: NAME_SECONDS_2
    last.parse::<u16>().ok()?;
    let (name, time) = name.rsplit_once('_')?;
    Some((name.to_string(), seconds(time)?))
}

/// What to print, and whether both did the same.
fn report(ours: Starts, theirs: Starts) -> (String, bool) {
    let span = |starts: &Starts| {
        let times = || starts.values().flatten().copied();
        Some((times().min()?, times().max()?))
    };
    let (Some((our_first, our_last)), Some((first, last))) = (span(&ours), span(&theirs)) else {
        return ("one of the two has started nothing\n".to_string(), false);
    };
    let tolerance = limits::COMPARE_TOLERANCE_S;
    let (from, to) = (our_first.max(first), our_last.min(last));
    let mut text = format!("from {} to {}\n", time(from), time(to));
    let jobs: std::collections::BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let (mut same, mut only_ours, mut only_theirs) = (0, 0, 0);
    for job in &jobs {
        let none = Vec::new();
        let (a, b) = (ours.get(*job).unwrap_or(&none), theirs.get(*job).unwrap_or(&none));
        let (matched, in_a, in_b) = differences(a, b, tolerance);
        // at the borders one of the two may have been just too early
        let within = |times: Vec<i64>| -> Vec<i64> {
            let inside = |at: &i64| (from + tolerance..=to - tolerance).contains(at);
            times.into_iter().filter(inside).collect()
        };
        let (in_a, in_b) = (within(in_a), within(in_b));
        same += matched;
        only_ours += in_a.len();
        only_theirs += in_b.len();
        text.push_str(&told(job, "only here", &in_a));
        text.push_str(&told(job, "only there", &in_b));
    }
    let jobs = jobs.len();
    text.push_str(&format!(
        "{jobs} jobs, {same} starts in both, {only_ours} only here, {only_theirs} only there\n"
    ));
    (text, only_ours + only_theirs == 0)
}

/// How many are in both, and what is in one alone. Both are in order.
fn differences(a: &[i64], b: &[i64], tolerance: i64) -> (usize, Vec<i64>, Vec<i64>) {
    let (mut a, mut b) = (a.iter().copied().peekable(), b.iter().copied().peekable());
    let (mut same, mut in_a, mut in_b) = (0, Vec::new(), Vec::new());
    loop {
        match (a.peek().copied(), b.peek().copied()) {
            (Some(x), Some(y)) if (x - y).abs() <= tolerance => {
                same += 1;
                a.next();
                b.next();
            }
            (Some(x), y) if y.is_none_or(|y| x < y) => {
                in_a.push(x);
                a.next();
            }
            (_, Some(y)) => {
                in_b.push(y);
                b.next();
            }
            _ => return (same, in_a, in_b),
        }
    }
}

fn told(job: &str, where_found: &str, times: &[i64]) -> String {
    const SHOWN: usize = 5;
    if times.is_empty() {
        return String::new();
    }
    let shown: Vec<String> = times.iter().take(SHOWN).map(|at| time(*at)).collect();
    let more = match times.len() - shown.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "{}: {where_found}: {}{more}\n",
        job.escape_debug(),
        shown.join(", ")
    )
}

fn time(seconds: i64) -> String {
    let time = Wall::from_secs(seconds).utc();
    time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_read_from_a_job_log_and_a_machines_block_is_none() {
        let of = |line: &str| start(line).map(|(job, at)| format!("{job} {at}"));
        let line = "###### Starting my_job_1762250000 at 2025-11-04 10:00:00.1+00:00 ################\n";
        assert_eq!(of(line).as_deref(), Some("my_job 1762250000"));
        let line = "###### Starting my_job_1762250000_2 at 2025-11-04 ################\n";
        assert_eq!(of(line).as_deref(), Some("my_job 1762250000"));
        let line = "###### Overlap detected on my_job_1762250000 at 2025-11-04 ################\n";
        assert_eq!(of(line).as_deref(), Some("my_job 1762250000"));
        assert_eq!(
            of("###### Starting my_job_1762250000 on web01 at 2025-11-04 ####\n"),
            None
        );
        assert_eq!(of("some output\n"), None);
    }

    #[test]
    fn what_only_one_of_them_started_is_named_and_a_late_start_is_the_same() {
        let starts = |times: &[i64]| Starts::from([("job".to_string(), times.to_vec())]);
        let (t, hour) = (1_762_250_000, 3_600);
        let ours: Vec<i64> = (0..24).map(|n| t + n * hour).collect();
        let mut theirs: Vec<i64> = ours.iter().map(|at| at + 8).collect();
        let (text, is_same) = report(starts(&ours), starts(&theirs));
        assert!(is_same, "{text}");
        theirs.remove(12);
        let (text, is_same) = report(starts(&ours), starts(&theirs));
        assert!(!is_same);
        assert!(text.contains("job: only here: 2025-11-04T21:53:20Z\n"), "{text}");
        assert!(
            text.ends_with("1 jobs, 23 starts in both, 1 only here, 0 only there\n"),
            "{text}"
        );
    }
}
