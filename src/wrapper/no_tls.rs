//! In place of `trust.rs` in a wrapper that was built without TLS: nothing is verified.
//! Must not know: anything.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::io;

/// There is none.
#[derive(Clone, Debug)]
pub struct Trust(Infallible);

/// There is none.
#[derive(Debug)]
pub struct Tunnel(Infallible);

impl Trust {
    pub fn of(_pin: Option<&str>, _authority: Option<&OsStr>) -> Result<Trust, String> {
        Err(
            "SP_WEBSOCKET_URL asks for TLS, which this wrapper was built without: install one that has it, or set \
             'wrapper_tls: false' in saltpeter_config"
                .to_string(),
        )
    }

    pub fn tunnel(&self, _host: &str) -> Result<Tunnel, String> {
        match self.0 {}
    }
}

impl Tunnel {
    pub fn shake_hands<W>(&mut self, _wire: &mut W) -> io::Result<bool> {
        match self.0 {}
    }

    pub fn wants_write(&self) -> bool {
        match self.0 {}
    }

    pub fn read<W>(&mut self, _wire: &mut W, _buffer: &mut [u8]) -> io::Result<usize> {
        match self.0 {}
    }

    pub fn write<W>(&mut self, _wire: &mut W, _bytes: &[u8]) -> io::Result<usize> {
        match self.0 {}
    }

    pub fn flush<W>(&mut self, _wire: &mut W) -> io::Result<()> {
        match self.0 {}
    }
}
