//! How many connections this process can hold: std aborts the process when a thread's stack cannot be mapped, so the
//! cap stays below what the kernel allows.
//! Must not know: who connects.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::limits;

/// Mappings that the kernel counts for one thread: stack, its guard, and the same for signals.
const MAPPINGS_PER_THREAD: usize = 4;
/// Descriptors of one connection: its socket and its waker.
const DESCRIPTORS_PER_CONNECTION: usize = 2;
/// What Linux allows unless told otherwise.
const DEFAULT_MAX_MAP_COUNT: usize = 65_530;

/// Counts what is connected, up to a cap.
#[derive(Clone, Debug)]
pub struct Capacity {
    live: Arc<AtomicUsize>,
    cap: usize,
}

/// One connection's place; given back on drop.
#[derive(Debug)]
pub struct Slot(Arc<AtomicUsize>);

impl Capacity {
    /// Room for `cap` connections.
    pub fn new(cap: usize) -> Capacity {
        Capacity {
            live: Arc::default(),
            cap,
        }
    }

    /// A place, unless all are taken.
    pub fn take(&self) -> Option<Slot> {
        let taken = self
            .live
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |live| {
                (live < self.cap).then_some(live + 1)
            });
        taken.ok().map(|_| Slot(self.live.clone()))
    }

    /// Places that are taken.
    pub fn live(&self) -> usize {
        self.live.load(Ordering::Acquire)
    }

    /// Places there are.
    pub fn cap(&self) -> usize {
        self.cap
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Raises the soft limit of descriptors to the hard one and says how many there may be. Wrappers that the local
/// executor starts inherit it.
pub fn raise_descriptor_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            log::warn!(
                "cannot raise the limit of open descriptors: {error}; fewer machines can be connected"
            );
        }
    }
    // None: unlimited
    getrlimit(Resource::Nofile)
        .current
        .map_or(usize::MAX, |current| current as usize)
}

/// How many wrappers may be connected, given `descriptors`.
pub fn machine_connections(descriptors: usize) -> usize {
    let mappings = std::fs::read_to_string("/proc/sys/vm/max_map_count")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(DEFAULT_MAX_MAP_COUNT);
    cap_for(descriptors, mappings)
}

/// How many API connections fit into what is left beside the wrappers' share.
pub fn api_connections(descriptors: usize) -> usize {
    // a UI connection is one descriptor; the rest is for files and for local wrappers' launches
    (reserved(descriptors) * 3 / 5).clamp(8, limits::API_CONNECTIONS)
}

fn reserved(descriptors: usize) -> usize {
    (descriptors / 40).clamp(64, limits::RESERVED_DESCRIPTORS)
}

fn cap_for(descriptors: usize, mappings: usize) -> usize {
    let by_descriptors = descriptors.saturating_sub(reserved(descriptors)) / DESCRIPTORS_PER_CONNECTION;
    let by_mappings = mappings.saturating_sub(limits::RESERVED_MAPPINGS) / MAPPINGS_PER_THREAD;
    limits::MACHINE_CONNECTIONS
        .min(by_descriptors)
        .min(by_mappings)
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_thousand_descriptors_hold_nine_thousand_wrappers_and_two_hundred_uis() {
        assert_eq!(cap_for(20_000, 65_530), 9_750);
        assert_eq!(api_connections(20_000), 300);
        assert_eq!(cap_for(524_288, 65_530), 15_882);
        assert_eq!(cap_for(usize::MAX, usize::MAX), limits::MACHINE_CONNECTIONS);
        assert_eq!(cap_for(100, 65_530), 18);
    }

    #[test]
    fn a_place_is_free_again_when_its_holder_is_gone() {
        let capacity = Capacity::new(1);
        let slot = capacity.take().unwrap();
        assert!(capacity.take().is_none());
        drop(slot);
        assert!(capacity.take().is_some());
    }
}
