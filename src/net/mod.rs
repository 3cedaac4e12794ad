//! Sockets: listening, accepting, TLS, upgrading to WebSocket, one thread for each connection.
//! Must not know: frames' meaning, the engine, HTTP routes.

pub mod accept;
pub mod capacity;
pub mod connection;
pub mod identity;
pub mod outbox;
pub mod stream;
pub mod upgrade;

use std::io;
use std::net::{SocketAddr, TcpListener};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::limits;

/// Listens with a backlog that a whole fleet's reconnect fits into. `what` and `setting` are for the message: which
/// port of ours this is, and which setting names it.
pub fn listen(address: SocketAddr, what: &str, setting: &str) -> Result<TcpListener, String> {
    open(address).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "cannot listen for {what} on {address}: port {} is in use by another process; stop it, or set {setting}",
            address.port()
        ),
        _ => format!("cannot listen for {what} on {address}: {error}; see {setting}"),
    })
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, limits::LISTEN_BACKLOG)?;
    Ok(TcpListener::from(socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_named_with_its_address_and_setting() {
        let first = listen(([127, 0, 0, 1], 0).into(), "machines", "machines_ws_port").unwrap();
        let address = first.local_addr().unwrap();
        let error = listen(address, "machines", "machines_ws_port").unwrap_err();
        assert!(error.contains(&address.to_string()), "{error}");
        assert!(error.contains("is in use"), "{error}");
        assert!(error.contains("machines_ws_port"), "{error}");
    }
}
