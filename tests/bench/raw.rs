//! Raw limits: what the machine can do without Saltpeter, in the same run and directory.
//! Must not know: the daemon.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::{procfs, timing};

const STACK_BYTES: usize = 1 << 20;
const MEGABYTE: f64 = 1e6;

/// MB/s of appending `total` bytes in pieces, each followed by fdatasync.
pub fn append_and_sync(directory: &Path, total: usize, piece: usize) -> io::Result<f64> {
    let path = directory.join("raw-append");
    let mut file = File::create(&path)?;
    let bytes = vec![b'x'; piece];
    let begun = timing::mono_ns();
    for _ in 0..total / piece {
        file.write_all(&bytes)?;
        file.sync_data()?;
    }
    let ms = timing::ms_since(begun);
    std::fs::remove_file(path)?;
    Ok(total as f64 / MEGABYTE / (ms / 1e3))
}

/// MB/s of bare SQLite: blobs of `piece` bytes, `group` of them a commit; WAL, synchronous FULL, pages of 64 KiB.
pub fn sqlite(directory: &Path, total: usize, piece: usize, group: usize) -> io::Result<f64> {
    let path = directory.join("raw.db");
    for name in ["raw.db", "raw.db-wal", "raw.db-shm"] {
        let _ = std::fs::remove_file(directory.join(name));
    }
    let measured = fill(&path, total, piece, group).map_err(io::Error::other);
    for name in ["raw.db", "raw.db-wal", "raw.db-shm"] {
        let _ = std::fs::remove_file(directory.join(name));
    }
    measured
}

fn fill(path: &Path, total: usize, piece: usize, group: usize) -> rusqlite::Result<f64> {
    let database = rusqlite::Connection::open(path)?;
    database.execute_batch(
        "PRAGMA page_size = 65536; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         CREATE TABLE output (machine_run INTEGER, seq INTEGER, data BLOB, PRIMARY KEY (machine_run, seq)) WITHOUT ROWID;",
    )?;
    let bytes = vec![b'x'; piece];
    let begun = timing::mono_ns();
    for commit in 0..(total / piece).div_ceil(group) {
        database.execute_batch("BEGIN")?;
        let mut insert = database.prepare_cached("INSERT INTO output VALUES (1, ?1, ?2)")?;
        for number in 0..group {
            insert.execute(rusqlite::params![(commit * group + number) as i64, bytes])?;
        }
        database.execute_batch("COMMIT")?;
    }
    Ok(total as f64 / MEGABYTE / (timing::ms_since(begun) / 1e3))
}

/// MB/s of one loopback connection.
pub fn loopback(total: usize, piece: usize) -> io::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let sender = saltpeter::thread::spawn("raw-sender", STACK_BYTES, move || {
        let bytes = vec![b'x'; piece];
        let mut socket = TcpStream::connect(address)?;
        (0..total / piece).try_for_each(|_| socket.write_all(&bytes))
    })?;
    let (mut socket, _) = listener.accept()?;
    let begun = timing::mono_ns();
    let mut bytes = vec![0; piece];
    let mut read = 0;
    loop {
        match socket.read(&mut bytes)? {
            0 => break,
            count => read += count,
        }
    }
    let ms = timing::ms_since(begun);
    sender
        .join()
        .map_err(|_| io::Error::other("the sender panicked"))??;
    Ok(read as f64 / MEGABYTE / (ms / 1e3))
}

/// CPU milliseconds of `/bin/sh -c true`, spawned and waited for.
pub fn shell_cpu_ms(count: u32) -> io::Result<f64> {
    let before = procfs::cpu(std::process::id()).all_s();
    for _ in 0..count {
        Command::new("/bin/sh").args(["-c", "true"]).status()?;
    }
    let used_s = procfs::cpu(std::process::id()).all_s() - before;
    Ok(used_s * 1e3 / f64::from(count))
}

/// Milliseconds until `count` processes are spawned and have ended; the first wait follows the last spawn.
pub fn spawns_ms(count: usize) -> io::Result<f64> {
    let begun = timing::mono_ns();
    let mut children = Vec::with_capacity(count);
    for _ in 0..count {
        children.push(Command::new("/bin/sh").args(["-c", "exit 0"]).spawn()?);
    }
    for child in &mut children {
        child.wait()?;
    }
    Ok(timing::ms_since(begun))
}

/// Milliseconds from a full second until processes that are spawned on it, `at_once` in a row, have recorded the time; for
/// several seconds.
pub fn stamps_after_the_second_ms(directory: &Path, seconds: usize, at_once: usize) -> io::Result<Vec<f64>> {
    let path = directory.join("raw-stamps");
    let _ = std::fs::remove_file(&path);
    let program = std::env::current_exe()?;
    for _ in 0..seconds {
        timing::wait_for_wall((timing::wall_ns() / 1_000_000_000 + 1) * 1_000_000_000);
        let spawn = |_| Command::new(&program).arg("stamp").arg(&path).spawn();
        let children = (0..at_once).map(spawn).collect::<io::Result<Vec<_>>>()?;
        for mut child in children {
            child.wait()?;
        }
    }
    let stamps = crate::roles::stamps(&path);
    Ok(stamps
        .iter()
        .map(|ns| (ns % 1_000_000_000) as f64 / 1e6)
        .collect())
}

/// Milliseconds from SIGTERM to the end of a bare `sleep`.
pub fn kills_ms(count: usize) -> io::Result<Vec<f64>> {
    let mut samples = Vec::with_capacity(count);
    for _ in 0..count {
        let mut child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn()?;
        timing::pass_ms(2);
        let begun = timing::mono_ns();
        if let Some(pid) = rustix::process::Pid::from_raw(child.id() as i32) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        }
        child.wait()?;
        samples.push(timing::ms_since(begun));
    }
    Ok(samples)
}
