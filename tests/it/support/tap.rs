//! Somebody on the network between wrapper and daemon: passes everything on, and keeps it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;

use parking_lot::Mutex;
use saltpeter::thread;

use super::heard;

pub struct Tap {
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    target: Mutex<u16>,
    heard: Mutex<Vec<u8>>,
    connections: Mutex<u64>,
}

impl Tap {
    /// Listens on loopback, and passes on to that port.
    pub fn to(target: u16) -> Tap {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            target: Mutex::new(target),
            heard: Mutex::default(),
            connections: Mutex::default(),
        });
        let accepting = shared.clone();
        thread::spawn("tap", 1 << 20, move || {
            for near in listener.incoming().flatten() {
                *accepting.connections.lock() += 1;
                let target = *accepting.target.lock();
                if let Ok(far) = TcpStream::connect(("127.0.0.1", target)) {
                    accepting.pass(near.try_clone().unwrap(), far.try_clone().unwrap());
                    accepting.pass(far, near);
                }
            }
        })
        .unwrap();
        Tap { port, shared }
    }

    /// New connections lead there.
    pub fn turn_to(&self, target: u16) {
        *self.shared.target.lock() = target;
    }

    pub fn connections(&self) -> u64 {
        *self.shared.connections.lock()
    }

    /// How much went by in both directions.
    pub fn heard_bytes(&self) -> usize {
        self.shared.heard.lock().len()
    }

    /// Whether this went by.
    pub fn heard(&self, what: &str) -> bool {
        heard::is_in(&self.shared.heard.lock(), what)
    }
}

impl Shared {
    fn pass(self: &Arc<Self>, mut from: TcpStream, mut to: TcpStream) {
        let shared = self.clone();
        thread::spawn("tap-pass", 1 << 20, move || {
            let mut piece = vec![0; 64 << 10];
            while let Ok(count @ 1..) = from.read(&mut piece) {
                shared.heard.lock().extend_from_slice(&piece[..count]);
                if to.write_all(&piece[..count]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Write);
        })
        .unwrap();
    }
}
