//! With a real Salt master: the cost of a dispatch, and how soon its wrappers have started. As many real minions as the host
//! can run; beyond that simulated ones that start real wrappers (`../salt/lab/farm.py`), and the helper alone.
//! `SALTPETER_TEST_SALT=off` skips it.

use std::io::{self, BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use chrono::{DateTime, Datelike, Timelike};
use saltpeter::clock::{self, Wall};
use serde_json::{Value, json};

use crate::daemon::{Daemon, NEVER, Setup, scheduled_on};
use crate::lab::bridge::{Bridge, new_jid};
use crate::lab::{Lab, Plan, farm, processes};
use crate::report::{By, Figure, Reach, quantile};
use crate::{Bench, procfs, timing};

/// Real minions of one run.
const MINIONS: [usize; 3] = [1, 3, 10];
/// Runs due in one second, each on three real minions.
const RUNS: [usize; 3] = [10, 30, 100];
const MINIONS_OF_EACH: usize = 3;
/// Simulated minions of one run. One more does not respond.
const FARMS: [usize; 3] = [100, 300, 1_000];
/// Simulated returns.
const RETURNS: [usize; 3] = [1_000, 3_000, 10_000];
/// Runs per sample of CPU time, which the kernel reports in ticks of 10 ms.
const ROUND: usize = 5;
/// From writing the configuration to the due second.
const AHEAD_S: i64 = 8;
const LIMIT_MS: u64 = 300_000;
const LOOK_MS: u64 = 100;
const SLOWEST: &str = "longest turn of the engine, at most";

/// One run after the other, on some real minions.
pub fn run_one(bench: &mut Bench) -> io::Result<()> {
    let Some(lab) = lab(MINIONS[MINIONS.len() - 1]) else {
        return Ok(());
    };
    // a lab that has just come up is still busy with itself
    Raw::measure(&lab, 1, ROUND)?;
    for minions in MINIONS {
        let rounds = bench.repetitions(5);
        let raw = Raw::measure(&lab, minions, rounds * ROUND)?;
        let text = job("one", &lab_ids(minions), NEVER);
        let mut daemon = start(bench, &lab, text)?;
        // cold caches are no part of it
        run_once(bench, &mut daemon, minions)?;
        let (mut times, mut costs) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let before = Cpu::read(&lab, &daemon);
            for _ in 0..ROUND {
                times.push(run_once(bench, &mut daemon, minions)?);
            }
            costs.push(Cpu::read(&lab, &daemon).since(before).per(ROUND));
        }
        daemon.stop()?;
        let size = format!("{minions} minions");
        let first = raw.first_ms;
        let raw_first = vec![("bare LocalClient, cmd.run_all: first return (p50)", first)];
        times_figures(bench, &size, &times, raw_first);
        cpu_figures(bench, &size, &costs, Some(&raw));
    }
    Ok(())
}

/// Many runs due in one second, on real minions.
pub fn run_burst(bench: &mut Bench) -> io::Result<()> {
    let Some(lab) = lab(MINIONS_OF_EACH) else {
        return Ok(());
    };
    for runs in RUNS {
        let (mut times, mut costs, mut turns) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..bench.repetitions(3) {
            let due = Wall::from_secs(clock::wall().secs() + AHEAD_S);
            let name = |number: usize| format!("burst_{number}");
            let text = (0..runs)
                .map(|number| job(&name(number), &lab_ids(MINIONS_OF_EACH), &when(due)))
                .collect();
            let mut daemon = start(bench, &lab, text)?;
            if clock::wall() > due {
                return Err(io::Error::other("the daemon was ready only after the due second"));
            }
            timing::wait_for_wall(due.0 as u64 * 1_000);
            let before = Cpu::read(&lab, &daemon);
            for number in 0..runs {
                let results = daemon.wait_for_end(&name(number), LIMIT_MS, LOOK_MS)?;
                check(bench, &results, MINIONS_OF_EACH, 0);
                times.push(Times::of(&results, due));
            }
            costs.push(Cpu::read(&lab, &daemon).since(before).per(runs));
            turns.push(slowest_turn_ms(&mut daemon)?);
            daemon.stop()?;
        }
        let size = format!("{runs} runs due in one second, on {MINIONS_OF_EACH} minions each");
        times_figures(bench, &size, &times, Vec::new());
        cpu_figures(bench, &size, &costs, None);
        figure(bench, SLOWEST, &size, "ms", turns, Vec::new());
    }
    Ok(())
}

/// One run on very many minions, one of which does not respond.
pub fn run_fleet(bench: &mut Bench) -> io::Result<()> {
    let Some(lab) = lab(1) else { return Ok(()) };
    for minions in FARMS {
        let _farm = farm::Farm::start(&lab, minions + 1, 1);
        let text = scheduled_on(farm::TARGETS, "one", NEVER, "true", "");
        let mut daemon = start(bench, &lab, text)?;
        let (mut times, mut costs) = (Vec::new(), Vec::new());
        for _ in 0..bench.repetitions(3) {
            let before = Cpu::read(&lab, &daemon);
            let fired = clock::wall();
            daemon.run("one")?;
            let results = daemon.wait_for_end("one", LIMIT_MS, 10 * LOOK_MS)?;
            check(bench, &results, minions, 1);
            times.push(Times::of(&results, fired));
            costs.push(Cpu::read(&lab, &daemon).since(before));
        }
        let size = format!("{minions} simulated minions, real wrappers");
        let turn_ms = slowest_turn_ms(&mut daemon)?;
        daemon.stop()?;
        times_figures(bench, &size, &times, Vec::new());
        cpu_figures(bench, &size, &costs, None);
        figure(bench, SLOWEST, &size, "ms", vec![turn_ms], Vec::new());
    }
    Ok(())
}

/// The helper alone: returns of minions that do not exist.
pub fn run_returns(bench: &mut Bench) -> io::Result<()> {
    let Some(lab) = lab(1) else { return Ok(()) };
    for returns in RETURNS {
        let (mut ms, mut cpu) = (Vec::new(), Vec::new());
        let raw = raw_returns(&lab, returns)?;
        for _ in 0..bench.repetitions(3) {
            let mut bridge = Bridge::start(&lab);
            let jid = new_jid();
            bridge.run(json!({
                "tgt": lab_ids(1), "fun": "test.sleep", "arg": [60], "jid": jid, "timeout": 120,
            }));
            bridge.wait_for(30, |event| event["ev"] == "pub");
            let helper = bridge.child.id();
            let before = procfs::cpu(helper).own_s;
            let mut fire = farm::fire_returns(&lab, &jid, returns);
            let (mut seen, mut begun) = (0, 0);
            bridge.events_for(LIMIT_MS, |event| {
                if event["ev"] == "ret" && seen == 0 {
                    begun = timing::mono_ns();
                }
                seen += usize::from(event["ev"] == "ret");
                seen == returns
            });
            ms.push(timing::ms_since(begun));
            cpu.push((procfs::cpu(helper).own_s - before) * 1e3 / returns as f64);
            let _ = fire.wait();
            if seen != returns {
                bench
                    .report
                    .wrong(bench.name, format!("{seen} of {returns} returns"));
            }
        }
        let size = format!("{returns} simulated returns");
        let said = vec![("a bare reader of the event bus", raw.0)];
        figure(bench, "first to last handed on", &size, "ms", ms, said);
        let said = vec![("a bare reader of the event bus", raw.1)];
        figure(bench, "CPU of the helper", &size, "ms each", cpu, said);
    }
    Ok(())
}

fn lab(minions: usize) -> Option<Lab> {
    Lab::set_up(Plan {
        minions: (0..minions).map(lab_id).collect(),
        log_level: "error",
        network: None,
    })
}

fn lab_id(number: usize) -> String {
    format!("minion{number}")
}

fn lab_ids(minions: usize) -> String {
    (0..minions).map(lab_id).collect::<Vec<_>>().join(",")
}

fn job(name: &str, ids: &str, when: &str) -> String {
    scheduled_on(ids, name, when, "true", "  target_type: list\n")
}

fn when(due: Wall) -> String {
    let at = due.utc();
    let (second, minute, hour) = (at.second(), at.minute(), at.hour());
    format!(
        "{second} {minute} {hour} {} {} * {}",
        at.day(),
        at.month(),
        at.year()
    )
}

fn start(bench: &Bench, lab: &Lab, text: String) -> io::Result<Daemon> {
    let daemon = Daemon::start(Setup {
        program: &bench.daemon,
        directory: bench.directory.join("daemon"),
        machines: &[],
        wrapper: &bench.sp_wrapper,
        files: vec![("jobs.yaml".into(), text)],
        settings: json!({"executor": "salt", "salt_config": lab.config(), "salt_python": lab.python}),
    })?;
    let log = daemon.directory.join("daemon.log");
    // what Salt's packages cost to import is no part of a run
    let is_up = || {
        std::fs::read_to_string(&log)
            .ok()?
            .contains("salt: version")
            .then_some(())
    };
    match timing::until(LIMIT_MS, 50, is_up) {
        Some(()) => Ok(daemon),
        None => Err(io::Error::other("the daemon has no helper")),
    }
}

fn run_once(bench: &mut Bench, daemon: &mut Daemon, minions: usize) -> io::Result<Times> {
    let fired = clock::wall();
    daemon.run("one")?;
    let results = daemon.wait_for_end("one", LIMIT_MS, 20)?;
    check(bench, &results, minions, 0);
    Ok(Times::of(&results, fired))
}

/// Checks that all have ended with 0, except silent ones with 255.
fn check(bench: &mut Bench, results: &Value, well: usize, silent: usize) {
    let codes = results.as_object().into_iter().flatten();
    let codes: Vec<i64> = codes
        .map(|(_, result)| result["retcode"].as_i64().unwrap_or(-1))
        .collect();
    let count = |code: i64| codes.iter().filter(|known| **known == code).count();
    if count(0) != well || count(255) != silent || codes.len() != well + silent {
        let what = format!("not {well} with 0 and {silent} with 255, but {results}");
        bench.report.wrong(bench.name, what);
    }
}

/// Milliseconds from a run's due time, of the machines that ended with 0.
struct Times {
    first_started: f64,
    last_started: f64,
    last_ended: f64,
}

impl Times {
    fn of(results: &Value, due: Wall) -> Times {
        let results: Vec<&Value> = results
            .as_object()
            .into_iter()
            .flat_map(|map| map.values())
            .collect();
        let after = |field: &str| {
            let well = results.iter().filter(|result| result["retcode"] == 0);
            let mut ms: Vec<f64> = well
                .filter_map(|result| DateTime::parse_from_rfc3339(result[field].as_str()?).ok())
                .map(|at| (at.timestamp_micros() - due.0) as f64 / 1e3)
                .collect();
            ms.sort_by(f64::total_cmp);
            ms
        };
        let (started, ended) = (after("starttime"), after("endtime"));
        Times {
            first_started: quantile(&started, 0.0),
            last_started: quantile(&started, 1.0),
            last_ended: quantile(&ended, 1.0),
        }
    }
}

/// CPU milliseconds.
#[derive(Clone, Copy)]
struct Cpu {
    helper: f64,
    daemon: f64,
    master: f64,
}

impl Cpu {
    fn read(lab: &Lab, daemon: &Daemon) -> Cpu {
        Cpu {
            helper: helper(daemon).map_or(f64::NAN, |pid| procfs::cpu(pid).own_s * 1e3),
            daemon: daemon.cpu().own_s * 1e3,
            master: master_cpu_ms(lab),
        }
    }

    fn since(self, before: Cpu) -> Cpu {
        Cpu {
            helper: self.helper - before.helper,
            daemon: self.daemon - before.daemon,
            master: self.master - before.master,
        }
    }

    fn per(self, runs: usize) -> Cpu {
        let runs = runs as f64;
        Cpu {
            helper: self.helper / runs,
            daemon: self.daemon / runs,
            master: self.master / runs,
        }
    }
}

fn master_cpu_ms(lab: &Lab) -> f64 {
    let pids = processes::of_session(lab.session("master"));
    pids.iter().map(|pid| procfs::cpu(*pid as u32).own_s * 1e3).sum()
}

fn helper(daemon: &Daemon) -> Option<u32> {
    let is_helper = |pid: &i32| {
        processes::parent(*pid) == Some(daemon.pid() as i32)
            && String::from_utf8_lossy(&processes::arguments(*pid)).contains("saltpeter-salt-helper")
    };
    processes::all().into_iter().find(is_helper).map(|pid| pid as u32)
}

/// The same without Saltpeter: Salt's own client, in a process that keeps running.
struct Raw {
    first_ms: f64,
    client_cpu_ms: f64,
    master_cpu_ms: f64,
}

const RAW: &str = "
import sys, time, salt.client, salt.config
client = salt.client.LocalClient(mopts=salt.config.client_config(sys.argv[1] + '/master'))
def once():
    begun = time.monotonic()
    firsts = [time.monotonic() - begun for _ in client.cmd_iter(sys.argv[2], 'cmd.run_all', ['true'], tgt_type='list')]
    return firsts[0]
once()
used = time.process_time()
firsts = sorted(once() for _ in range(int(sys.argv[3])))
print(firsts[len(firsts) // 2] * 1e3, (time.process_time() - used) * 1e3 / len(firsts))
";

impl Raw {
    fn measure(lab: &Lab, minions: usize, runs: usize) -> io::Result<Raw> {
        let before = master_cpu_ms(lab);
        let output = Command::new(&lab.python)
            .args(["-c", RAW])
            .arg(lab.config())
            .args([lab_ids(minions), runs.to_string()])
            .output()?;
        let [first_ms, client_cpu_ms] = two_numbers(&String::from_utf8_lossy(&output.stdout))?;
        Ok(Raw {
            first_ms,
            client_cpu_ms,
            // it makes one more, cold
            master_cpu_ms: (master_cpu_ms(lab) - before) / (runs + 1) as f64,
        })
    }
}

const RAW_RETURNS: &str = "
import subprocess, sys, time, salt.config, salt.utils.event
opts = salt.config.client_config(sys.argv[1] + '/master')
bus = salt.utils.event.get_master_event(opts, opts['sock_dir'], listen=True)
bus.connect_pub(timeout=10)
print('ready', flush=True)
wanted, seen, used = int(sys.argv[2]), 0, time.process_time()
while seen < wanted:
    event = bus.get_event(wait=60, tag='salt/job/', full=True, match_type='startswith')
    if event['tag'].startswith('salt/job/raw/ret/'):
        seen += 1
        begun = time.monotonic() if seen == 1 else begun
print((time.monotonic() - begun) * 1e3, (time.process_time() - used) * 1e3 / wanted)
";

/// Milliseconds from first to last, and CPU milliseconds each.
fn raw_returns(lab: &Lab, returns: usize) -> io::Result<(f64, f64)> {
    let mut reader = Command::new(&lab.python)
        .args(["-c", RAW_RETURNS])
        .arg(lab.config())
        .arg(returns.to_string())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdout = BufReader::new(reader.stdout.take().expect("it was asked for"));
    let mut text = String::new();
    let is_ready = stdout.read_line(&mut text);
    let mut fire = farm::fire_returns(lab, "raw", returns);
    text.clear();
    let read = stdout.read_to_string(&mut text);
    fire.wait()?;
    reader.wait()?;
    is_ready.and(read)?;
    let [ms, cpu_ms] = two_numbers(&text)?;
    Ok((ms, cpu_ms))
}

fn two_numbers(text: &str) -> io::Result<[f64; 2]> {
    let numbers = text.split_whitespace().filter_map(|word| word.parse().ok());
    let numbers: Vec<f64> = numbers.collect();
    let numbers = numbers.try_into();
    numbers.map_err(|_| io::Error::other(format!("a raw limit's script said '{text}'")))
}

/// The longest turn of the engine so far: the bound of its bucket.
fn slowest_turn_ms(daemon: &mut Daemon) -> io::Result<f64> {
    let mut body = Vec::new();
    daemon
        .api
        .download("/metrics", |piece| body.extend_from_slice(piece))?;
    let text = String::from_utf8_lossy(&body);
    let buckets: Vec<(f64, u64)> = text
        .lines()
        .filter_map(|line| {
            line.strip_prefix("saltpeter_engine_turn_seconds_bucket{le=\"")?
                .split_once("\"} ")
        })
        .filter_map(|(bound, count)| Some((bound.parse().ok()?, count.parse().ok()?)))
        .collect();
    let all = buckets.last().map(|(_, count)| *count);
    let slowest = buckets.iter().find(|(_, count)| Some(*count) == all);
    Ok(slowest.map_or(f64::NAN, |(bound, _)| bound * 1e3))
}

fn times_figures(bench: &Bench, size: &str, times: &[Times], raw: Vec<(&'static str, f64)>) {
    let pick = |of: fn(&Times) -> f64| times.iter().map(of).collect();
    let what = "due to first wrapper connected and started";
    figure(bench, what, size, "ms", pick(|times| times.first_started), raw);
    let what = "due to last wrapper connected and started";
    figure(
        bench,
        what,
        size,
        "ms",
        pick(|times| times.last_started),
        Vec::new(),
    );
    figure(
        bench,
        "due to all ended",
        size,
        "ms",
        pick(|times| times.last_ended),
        Vec::new(),
    );
}

fn cpu_figures(bench: &Bench, size: &str, costs: &[Cpu], raw: Option<&Raw>) {
    let pick = |of: fn(&Cpu) -> f64| costs.iter().map(of).collect();
    let client = raw.map(|raw| ("bare LocalClient, cmd.run_all", raw.client_cpu_ms));
    let master = raw.map(|raw| ("bare LocalClient, cmd.run_all", raw.master_cpu_ms));
    let unit = "ms a run";
    figure(
        bench,
        "CPU of the helper",
        size,
        unit,
        pick(|cpu| cpu.helper),
        client.into_iter().collect(),
    );
    figure(
        bench,
        "CPU of the daemon",
        size,
        unit,
        pick(|cpu| cpu.daemon),
        Vec::new(),
    );
    figure(
        bench,
        "CPU of the Salt master",
        size,
        unit,
        pick(|cpu| cpu.master),
        master.into_iter().collect(),
    );
}

fn figure(
    bench: &Bench,
    what: &str,
    size: &str,
    unit: &str,
    samples: Vec<f64>,
    raw: Vec<(&'static str, f64)>,
) {
    bench.report.figure(Figure {
        bench: bench.name,
        what,
        size: size.to_string(),
        unit,
        samples,
        reach: Reach::Nothing,
        by: By::Median,
        raw,
    });
}
