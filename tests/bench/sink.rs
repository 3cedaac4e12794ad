//! The raw limit of thousands of connections: a process that accepts, reads and discards.
//! Must not know: any protocol.

use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use rustix::event::epoll;

use crate::{procfs, timing};

/// The listener among the tokens.
const LISTENER: u64 = u64::MAX;
const LISTEN_BACKLOG: i32 = 4_096;

/// Percent of a core that a bare reader of `count` connections takes, each sending `bytes` every `every_ms`.
pub fn percent_of_core(count: usize, bytes: usize, every_ms: u64, window_ms: u64) -> io::Result<f64> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("sink")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let measured = feed(&mut child, count, bytes, every_ms, window_ms);
    child.kill()?;
    child.wait()?;
    measured
}

fn feed(child: &mut Child, count: usize, bytes: usize, every_ms: u64, window_ms: u64) -> io::Result<f64> {
    let mut port = [0; 6];
    let stdout = child
        .stdout
        .as_mut()
        .ok_or_else(|| io::Error::other("no stdout"))?;
    stdout.read_exact(&mut port)?;
    let port: u16 = String::from_utf8_lossy(&port)
        .trim()
        .parse()
        .map_err(io::Error::other)?;
    let address: SocketAddr = ([127, 0, 0, 1], port).into();
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        sockets.push(socket);
    }
    let message = vec![b'x'; bytes];
    let before = procfs::cpu(child.id()).own_s;
    let begun = timing::mono_ns();
    let beats = count as u64 * window_ms / every_ms;
    for beat in 0..beats {
        let due_ms = (beat * every_ms) as f64 / count as f64;
        while timing::ms_since(begun) < due_ms {
            timing::pass_ms(1);
        }
        sockets[beat as usize % count].write_all(&message)?;
    }
    let used_s = procfs::cpu(child.id()).own_s - before;
    Ok(100.0 * used_s / (timing::ms_since(begun) / 1e3))
}

/// The other side: prints its port as six digits, then reads.
pub fn serve() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    rustix::net::listen(&listener, LISTEN_BACKLOG)?;
    print!("{:6}", listener.local_addr()?.port());
    io::stdout().flush()?;
    let poller = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    add(&poller, &listener, LISTENER)?;
    let mut sockets: Vec<TcpStream> = Vec::new();
    let mut events = [MaybeUninit::uninit(); 256];
    let mut piece = [0; 4_096];
    loop {
        let (ready, _) = epoll::wait(&poller, &mut events, None)?;
        for event in ready {
            match event.data.u64() {
                LISTENER => {
                    let (socket, _) = listener.accept()?;
                    add(&poller, &socket, sockets.len() as u64)?;
                    sockets.push(socket);
                }
                at => {
                    // a read of nothing: the feeder is gone, and ends this process
                    let _ = (&sockets[at as usize]).read(&mut piece)?;
                }
            }
        }
    }
}

fn add(poller: impl AsFd, socket: impl AsFd, token: u64) -> io::Result<()> {
    let token = epoll::EventData::new_u64(token);
    Ok(epoll::add(poller, socket, token, epoll::EventFlags::IN)?)
}
