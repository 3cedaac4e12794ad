//! The byte stream to the daemon: a plain socket, or TLS with a daemon that has proved to be the right one.
//! Must not know: WebSocket, frames.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};

use crate::wrapper::trust::{Trust, Tunnel};

/// How the daemon is reached, as the dispatch says.
#[derive(Clone, Debug)]
pub enum Security {
    /// `ws://`
    Plain,
    /// `wss://`
    Tls(Trust),
}

/// Where to connect to, taken from the URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// A name, or an IP address without brackets.
    pub host: String,
    pub port: u16,
}

/// A non-blocking connection.
#[derive(Debug)]
pub struct Channel {
    socket: TcpStream,
    tunnel: Option<Tunnel>,
}

impl Security {
    /// From the URL, `SP_TLS_PIN` and `SP_TLS_CA` (the pin is enough, and counts where there are both). The error is the
    /// line for stderr.
    pub fn of(url: &str, pin: Option<&str>, authority: Option<&OsStr>) -> Result<Security, String> {
        if url.starts_with("ws://") {
            return Ok(Security::Plain);
        }
        if url.starts_with("wss://") {
            return Trust::of(pin, authority).map(Security::Tls);
        }
        Err("SP_WEBSOCKET_URL must begin with ws:// or wss://".to_string())
    }
}

impl Address {
    /// From a URL that [`Security::of`] has accepted. The error is the line for stderr.
    pub fn of(url: &str) -> Result<Address, String> {
        let uri = url.parse::<tungstenite::http::Uri>().ok();
        let found = uri.as_ref().and_then(|uri| {
            let authority = uri.authority()?;
            let host = authority.host().trim_start_matches('[').trim_end_matches(']');
            let usual = if url.starts_with("wss:") { 443 } else { 80 };
            let (_, behind) = authority
                .as_str()
                .rsplit_once(']')
                .unwrap_or(("", authority.as_str()));
            let port = match behind.rsplit_once(':') {
                Some((_, port)) => port.parse().ok()?,
                None => usual,
            };
            (!host.is_empty()).then(|| Address {
                host: host.to_string(),
                port,
            })
        });
        found.ok_or_else(|| "invalid SP_WEBSOCKET_URL: expected ws://host:port/".to_string())
    }
}

impl Channel {
    /// Takes over a non-blocking socket to `host`; nothing is sent yet.
    pub fn new(socket: TcpStream, security: &Security, host: &str) -> Result<Channel, String> {
        let tunnel = match security {
            Security::Plain => None,
            Security::Tls(trust) => Some(trust.tunnel(host)?),
        };
        Ok(Channel { socket, tunnel })
    }

    /// Verifies the other end. True: it is the expected daemon (a channel without TLS cannot tell).
    /// False: the socket has to be waited for, see [`Channel::wants_write`].
    pub fn shake_hands(&mut self) -> io::Result<bool> {
        match &mut self.tunnel {
            None => Ok(true),
            Some(tunnel) => tunnel.shake_hands(&mut self.socket),
        }
    }

    /// There is more to be sent than the socket took.
    pub fn wants_write(&self) -> bool {
        self.tunnel.as_ref().is_some_and(Tunnel::wants_write)
    }

    /// The peer's identity is verified.
    pub fn is_verified(&self) -> bool {
        self.tunnel.is_some()
    }
}

impl Read for Channel {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.tunnel {
            None => self.socket.read(buffer),
            Some(tunnel) => tunnel.read(&mut self.socket, buffer),
        }
    }
}

impl Write for Channel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.tunnel {
            None => self.socket.write(bytes),
            Some(tunnel) => tunnel.write(&mut self.socket, bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.tunnel {
            None => Ok(()),
            Some(tunnel) => tunnel.flush(&mut self.socket),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_port() {
        let address = |url: &str| Address::of(url).ok().map(|address| (address.host, address.port));
        assert_eq!(address("ws://h:1/?token=t"), Some(("h".into(), 1)));
        assert_eq!(address("ws://[::1]:8889/"), Some(("::1".into(), 8889)));
        assert_eq!(address("ws://10.0.0.1"), Some(("10.0.0.1".into(), 80)));
        assert_eq!(address("wss://h/x"), Some(("h".into(), 443)));
        for odd in [
            "ws://",
            "ws:///x",
            "ws://h:99999/",
            "ws://h:x/",
            "ws://a b/",
            "ws://:1/",
        ] {
            assert_eq!(address(odd), None, "{odd}");
        }
    }
}
