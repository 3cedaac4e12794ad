//! What systemd is told: ready, alive, what we are at, stopping (the sd_notify protocol: one datagram a message).
//! Without systemd nothing is said. Must not know: what jobs and runs are.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::clock::Mono;
use crate::limits;

/// The way to the service manager.
#[derive(Debug, Default)]
pub struct Systemd {
    socket: Option<UnixDatagram>,
    /// How often it wants to hear that the engine turns. None: it does not ask.
    watchdog_ms: Option<u64>,
    /// When a sign of life is due again.
    beat_due: Mono,
    status: String,
}

impl Systemd {
    /// From NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID. A socket that cannot be reached is logged, and no more.
    pub fn from_environment() -> Systemd {
        let Some(address) = std::env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty()) else {
            return Systemd::default();
        };
        match connect(&address) {
            Ok(socket) => Systemd {
                socket: Some(socket),
                watchdog_ms: watchdog_ms(|name| std::env::var_os(name), std::process::id()),
                ..Systemd::default()
            },
            Err(error) => {
                log::warn!("NOTIFY_SOCKET '{}': {error}", address.to_string_lossy());
                Systemd::default()
            }
        }
    }

    /// Start-up is over.
    pub fn ready(&mut self) {
        self.send("READY=1\n");
    }

    /// The engine turns: says so as often as systemd wants it.
    pub fn alive(&mut self, now: Mono) {
        let message = self.watchdog_message(now);
        if !message.is_empty() {
            self.send(message);
        }
    }

    fn watchdog_message(&mut self, now: Mono) -> &'static str {
        match self.watchdog_ms {
            Some(watchdog_ms) if self.socket.is_some() && now >= self.beat_due => {
                self.beat_due = now.plus_ms(watchdog_ms / limits::WATCHDOG_SHARE);
                "WATCHDOG=1\n"
            }
            _ => "",
        }
    }

    /// The engine turns; `status` is asked for what it is at. Called once a second: says the one as often as systemd
    /// wants it, the other when it has changed.
    pub fn beat(&mut self, now: Mono, status: impl FnOnce() -> String) {
        if self.socket.is_none() {
            return;
        }
        let mut message = self.watchdog_message(now).to_string();
        let status = status();
        if status != self.status {
            message.push_str(&format!("STATUS={status}\n"));
            self.status = status;
        }
        if !message.is_empty() {
            self.send(&message);
        }
    }

    /// What is left to do takes a moment: no more runs are started.
    pub fn stopping(&mut self) {
        self.send("STOPPING=1\nSTATUS=stopping, running jobs go on\n");
    }

    /// A service manager that does not read must not hold us up, and one that is gone needs no news.
    fn send(&self, message: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(message.as_bytes())
        {
            log::debug!("telling systemd: {error}");
        }
    }
}

/// A path, or `@` and the name of an abstract socket.
fn connect(address: &OsStr) -> io::Result<UnixDatagram> {
    let bytes = address.as_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(OsStr::from_bytes(bytes))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

/// The watchdog's patience, if it is meant for the process `own_pid`.
fn watchdog_ms(variable: impl Fn(&str) -> Option<OsString>, own_pid: u32) -> Option<u64> {
    let number = |name: &str| variable(name).and_then(|text| text.to_str().map(str::parse::<u64>));
    match number("WATCHDOG_PID") {
        Some(Ok(pid)) if pid != u64::from(own_pid) => return None,
        _ => {}
    }
    let patience_us = number("WATCHDOG_USEC")?.ok()?;
    (patience_us > 0).then_some(patience_us / 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        socket.recv(&mut buffer).map_or_else(
            |_| String::new(),
            |length| String::from_utf8(buffer[..length].to_vec()).unwrap(),
        )
    }

    #[test]
    fn a_turning_engine_is_reported_as_often_as_asked_and_a_status_when_it_changes() {
        let name = format!("saltpeter-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        manager.set_nonblocking(true).unwrap();
        let mut systemd = Systemd {
            socket: Some(connect(OsStr::new(&format!("@{name}"))).unwrap()),
            watchdog_ms: Some(30_000),
            ..Systemd::default()
        };
        systemd.ready();
        assert_eq!(told(&manager), "READY=1\n");
        systemd.beat(Mono(1_000), || "idle".into());
        assert_eq!(told(&manager), "WATCHDOG=1\nSTATUS=idle\n");
        systemd.beat(Mono(2_000), || "idle".into());
        assert_eq!(told(&manager), "");
        systemd.beat(Mono(3_000), || "busy".into());
        assert_eq!(told(&manager), "STATUS=busy\n");
        systemd.beat(Mono(11_000), || "busy".into());
        assert_eq!(told(&manager), "WATCHDOG=1\n");
        systemd.stopping();
        assert!(told(&manager).starts_with("STOPPING=1\n"));
        drop(manager);
        systemd.beat(Mono(30_000), || "nobody listens".into());
    }

    #[test]
    fn a_watchdog_meant_for_another_process_is_not_fed() {
        let variables = |pid: Option<&'static str>, usec: &'static str| {
            move |name: &str| match name {
                "WATCHDOG_PID" => pid.map(OsString::from),
                _ => Some(OsString::from(usec)),
            }
        };
        assert_eq!(watchdog_ms(variables(Some("7"), "30000000"), 7), Some(30_000));
        assert_eq!(watchdog_ms(variables(None, "30000000"), 7), Some(30_000));
        assert_eq!(watchdog_ms(variables(Some("8"), "30000000"), 7), None);
        assert_eq!(watchdog_ms(variables(None, "0"), 7), None);
        assert_eq!(watchdog_ms(variables(None, "soon"), 7), None);
    }
}
