//! The wrapper alone, as it is installed, with a daemon of a few lines: how soon it connects, its memory and CPU while its
//! command sleeps, its size.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

use saltpeter::clock;
use saltpeter::protocol::{self, ConnectAck, DaemonFrame, ErrorCode, JobOrder, SessionKey, WrapperBody};
use tungstenite::{Message, WebSocket};

use crate::report::{By, Figure, Reach};
use crate::{Bench, procfs, raw, timing};

const STARTS: usize = 50;
/// Wrappers that are idle at a time.
const SIZES: [usize; 3] = [1, 10, 100];
const LIMIT_MS: u64 = 30_000;
const IDLE_MS: u64 = 20_000;

pub fn run(bench: &mut Bench) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let bytes = std::fs::metadata(&bench.sp_wrapper)?.len() as f64;
    bench.report.figure(Figure {
        bench: bench.name,
        what: "on disk",
        size: "1 file".to_string(),
        unit: "MB",
        samples: vec![bytes / 1e6],
        reach: Reach::AtMost(1.0),
        by: By::Worst,
        raw: vec![],
    });
    starts(bench, &listener)?;
    SIZES
        .iter()
        .try_for_each(|count| idle_wrappers(bench, &listener, *count))
}

/// From spawn to the connect frame.
fn starts(bench: &Bench, listener: &TcpListener) -> io::Result<()> {
    let raw_ms = raw::spawns_ms(100)? / 100.0;
    let mut connected = Vec::new();
    for _ in 0..bench.repetitions(STARTS) {
        let (ms, mut wrapper) = start(bench, listener)?;
        connected.push(ms);
        wrapper.refuse()?;
    }
    bench.report.figure(Figure {
        bench: bench.name,
        what: "spawn to connect frame read",
        size: format!("{} starts", connected.len()),
        unit: "ms",
        samples: connected,
        reach: Reach::AtMost(10.0),
        by: By::P99,
        raw: vec![("spawning /bin/sh and waiting, each", raw_ms)],
    });
    Ok(())
}

/// Memory and CPU while `count` commands sleep.
fn idle_wrappers(bench: &Bench, listener: &TcpListener, count: usize) -> io::Result<()> {
    let mut wrappers = Vec::new();
    for _ in 0..count {
        let (_, mut wrapper) = start(bench, listener)?;
        wrapper.give_job()?;
        wrappers.push(wrapper);
    }
    timing::pass_ms(2_000);
    // wrapper and guardian of each; those refused before have gone
    let only_these = || (procfs::running(&bench.sp_wrapper).len() == 2 * count).then_some(());
    if timing::until(LIMIT_MS, 20, only_these).is_none() {
        return Err(io::Error::other(
            "there are other wrappers than those started here",
        ));
    }
    let (memory, percent) = idle(bench, count);
    let figure = |what, unit, samples, most| {
        bench.report.figure(Figure {
            bench: bench.name,
            what,
            size: format!("{count} wrappers"),
            unit,
            samples,
            reach: Reach::AtMost(most),
            by: By::Worst,
            raw: vec![],
        });
    };
    figure("memory (PSS), guardian included", "MiB", memory, 3.0);
    figure("idle CPU", "% of a core each", percent, 0.1);
    wrappers.iter_mut().try_for_each(Wrapper::end)
}

/// Megabytes and percent of a core of each while there are only heartbeats.
fn idle(bench: &Bench, count: usize) -> (Vec<f64>, Vec<f64>) {
    let all = procfs::running(&bench.sp_wrapper);
    let sum = |of: &dyn Fn(u32) -> f64| all.iter().map(|pid| of(*pid)).sum::<f64>() / count as f64;
    let memory = sum(&|pid| procfs::pss_bytes(pid) as f64 / procfs::MEBIBYTE);
    let before = sum(&|pid| procfs::cpu(pid).own_s);
    timing::pass_ms(IDLE_MS);
    let used_s = sum(&|pid| procfs::cpu(pid).own_s) - before;
    (vec![memory], vec![100.0 * used_s / (IDLE_MS as f64 / 1e3)])
}

/// A wrapper that has connected.
struct Wrapper {
    socket: WebSocket<TcpStream>,
    key: SessionKey,
}

fn start(bench: &Bench, listener: &TcpListener) -> io::Result<(f64, Wrapper)> {
    let url = format!("ws://{}/?token=bench", listener.local_addr()?);
    let begun = timing::mono_ns();
    let mut child = Command::new(&bench.sp_wrapper)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("SP_WEBSOCKET_URL", url)
        .env("SP_JOB_NAME", "bench")
        .env("SP_JOB_INSTANCE", "bench_1")
        .env("SP_MACHINE_ID", "m")
        .env("SP_WRAPPER_LOGDIR", bench.directory.join("wrapper-log"))
        .env("SP_WRAPPER_LOGLEVEL", "off")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    let (stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let mut socket = tungstenite::accept(stream).map_err(|error| io::Error::other(error.to_string()))?;
    let frame = read(&mut socket)?;
    let ms = timing::ms_since(begun);
    child.wait()?;
    match frame.body {
        WrapperBody::Connect { .. } => Ok((
            ms,
            Wrapper {
                socket,
                key: frame.key,
            },
        )),
        other => Err(io::Error::other(format!("the first frame is {other:?}"))),
    }
}

impl Wrapper {
    /// Sends the permission with a command that sleeps, and waits for the start.
    fn give_job(&mut self) -> io::Result<()> {
        let features = ["job", "data_base64", "window", "resume"];
        self.send(&DaemonFrame::ConnectAck(Box::new(ConnectAck {
            features: Some(features.map(String::from).to_vec()),
            job: Some(JobOrder {
                command: "exec sleep 1000".into(),
                allow_overlap: true,
                ..JobOrder::default()
            }),
            last_seq: Some(-1),
        })))?;
        loop {
            match read(&mut self.socket)?.body {
                WrapperBody::Start { .. } => return self.send(&DaemonFrame::StartAck),
                WrapperBody::Heartbeat => {}
                other => return Err(io::Error::other(format!("instead of start: {other:?}"))),
            }
        }
    }

    /// Refuses its start, and waits for its exit.
    fn refuse(&mut self) -> io::Result<()> {
        self.send(&DaemonFrame::Error {
            code: ErrorCode::JobNotFound,
            message: "enough".into(),
        })?;
        while read(&mut self.socket).is_ok() {}
        Ok(())
    }

    /// Kills it, and waits for its exit.
    fn end(&mut self) -> io::Result<()> {
        self.send(&DaemonFrame::Kill {
            key: self.key.clone(),
        })?;
        loop {
            // it goes when its completion is acked
            let Ok(frame) = read(&mut self.socket) else {
                return Ok(());
            };
            match frame.body {
                WrapperBody::Complete { seq, .. } => self.send(&DaemonFrame::CompleteAck { seq })?,
                WrapperBody::Output(output) => self.send(&DaemonFrame::OutputAck {
                    seq: output.seq.unwrap_or(0),
                })?,
                _ => {}
            }
        }
    }

    fn send(&mut self, frame: &DaemonFrame) -> io::Result<()> {
        let text = protocol::encode_daemon_frame(frame, clock::wall());
        self.socket
            .send(Message::text(text))
            .map_err(|error| io::Error::other(error.to_string()))
    }
}

fn read(socket: &mut WebSocket<TcpStream>) -> io::Result<protocol::WrapperFrame> {
    loop {
        let message = socket
            .read()
            .map_err(|error| io::Error::other(error.to_string()))?;
        if let Message::Text(text) = message {
            return protocol::decode_wrapper_frame(&text).map_err(|bad| io::Error::other(bad.0));
        }
    }
}
