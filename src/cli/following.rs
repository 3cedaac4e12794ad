//! An output that is followed, over as many connections as it takes: a proxy may cut one that is idle, and a restart of
//! the daemon ends all.
//! Must not know: what is done with the output.

use std::io::{self, ErrorKind, Read};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::bounded;

use super::client::{Client, Failure, UNREACHABLE};
use crate::clock::{self, Mono};
use crate::limits;

/// Reads an output from its beginning to its end.
pub struct Following {
    client: Arc<Client>,
    path: String,
    stream: Option<Box<dyn Read + Send>>,
    connected: Mono,
    /// Bytes that were read.
    at: u64,
    /// No connection has been of use since then.
    away_since: Option<Mono>,
}

impl Following {
    /// Connects; fails when the output cannot be read at all.
    pub fn begin(client: &Arc<Client>, path: String) -> Result<Following, Failure> {
        let stream = client.stream(&path, 0)?;
        Ok(Following {
            client: client.clone(),
            path,
            stream: Some(stream),
            connected: clock::mono(),
            at: 0,
            away_since: None,
        })
    }

    /// Waits, then connects again where the last connection ended.
    fn reconnect(&mut self, cause: io::Error) -> io::Result<()> {
        self.stream = None;
        let now = clock::mono();
        if now.since_ms(self.connected) >= limits::CLI_STEADY_MS {
            self.away_since = None;
        }
        let since = *self.away_since.get_or_insert(now);
        let mut cause = cause;
        let (_never, pause) = bounded::<()>(0);
        while clock::mono().since_ms(since) < limits::CLI_AWAY_MS {
            let _ = pause.recv_timeout(Duration::from_millis(limits::CLI_LOOK_MS));
            match self.client.stream(&self.path, self.at) {
                Ok(stream) => {
                    self.stream = Some(stream);
                    self.connected = clock::mono();
                    return Ok(());
                }
                Err(failure) if failure.code == UNREACHABLE => cause = io::Error::other(failure.message),
                Err(failure) => return Err(io::Error::other(failure.message)),
            }
        }
        Err(cause)
    }
}

impl Read for Following {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = match &mut self.stream {
                Some(stream) => stream.read(into),
                None => Err(ErrorKind::NotConnected.into()),
            };
            match read {
                Ok(count) => {
                    self.at += count as u64;
                    self.away_since = None;
                    return Ok(count);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => self.reconnect(error)?,
            }
        }
    }
}
