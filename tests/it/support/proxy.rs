//! A network between wrapper and daemon that can be cut.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;

use parking_lot::Mutex;
use saltpeter::thread;

pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    daemon_port: u16,
    is_down: Mutex<bool>,
    streams: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// Leads to that port of this host.
    pub fn to(daemon_port: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            daemon_port,
            is_down: Mutex::new(false),
            streams: Mutex::default(),
        });
        let accepting = shared.clone();
        thread::spawn("proxy", 1 << 20, move || {
            for stream in listener.incoming().flatten() {
                accepting.admit(stream);
            }
        })
        .unwrap();
        Proxy { port, shared }
    }

    /// Ends all connections; what was under way is lost.
    pub fn cut(&self) {
        for stream in self.shared.streams.lock().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Lets nobody through until it is called with false.
    pub fn set_down(&self, is_down: bool) {
        *self.shared.is_down.lock() = is_down;
        if is_down {
            self.cut();
        }
    }
}

impl Shared {
    fn admit(&self, near: TcpStream) {
        if *self.is_down.lock() {
            return;
        }
        let Ok(far) = TcpStream::connect(("127.0.0.1", self.daemon_port)) else {
            return;
        };
        let mut streams = self.streams.lock();
        for (from, to) in [(&near, &far), (&far, &near)] {
            let _ = from.set_nodelay(true);
            let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            thread::spawn("proxy-pipe", 1 << 20, move || {
                let mut piece = vec![0; 64 << 10];
                while let Ok(count) = from.read(&mut piece)
                    && count > 0
                    && to.write_all(&piece[..count]).is_ok()
                {}
                let _ = to.shutdown(Shutdown::Both);
                let _ = from.shutdown(Shutdown::Both);
            })
            .unwrap();
        }
        streams.push(near);
        streams.push(far);
    }
}
