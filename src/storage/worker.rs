//! The storage thread.

use std::path::Path;

use crossbeam_channel::Receiver;

use crate::engine::record::Recovered;

use super::{Ports, Request};

pub(super) struct Worker {}

pub(super) fn open(_state_dir: &Path) -> Result<(Worker, Recovered), String> {
    Ok((Worker {}, Recovered::default()))
}

impl Worker {
    pub(super) fn run(&mut self, requests: &Receiver<Request>, _ports: &Ports) {
        for _request in requests {}
    }
}
