//! How many connections this process can hold: std aborts the process when a thread's stack cannot be mapped, so the
//! cap stays below what the kernel allows.
//! Must not know: the clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::limits;

/// Mappings that the kernel counts for one thread: stack, its guard, and the same for signals.
const MAPPINGS_PER_THREAD: usize = 4;
/// Descriptors of one wrapper connection: its socket and its waker.
const DESCRIPTORS_PER_WRAPPER: usize = 2;
/// Descriptors of one API connection: its socket, and a second handle by which an idle one is closed for another.
const DESCRIPTORS_PER_API_CONNECTION: usize = 2;
/// Descriptors that no connection of the fleet's may take.
const KEPT_DESCRIPTORS: usize = limits::RESERVED_DESCRIPTORS
    + (limits::API_CONNECTIONS_GUARANTEED + limits::CONTROL_CONNECTIONS) * DESCRIPTORS_PER_API_CONNECTION;
/// What Linux allows unless told otherwise.
const DEFAULT_MAX_MAP_COUNT: usize = 65_530;

/// Descriptors for connections, shared by both ports: a fleet may have them all, but for what is guaranteed.
#[derive(Clone, Debug)]
pub struct Pool(Arc<AtomicUsize>);

/// Counts what is connected, up to a cap.
#[derive(Clone, Debug)]
pub struct Capacity {
    live: Arc<AtomicUsize>,
    cap: usize,
    /// So many need nothing of the pool.
    guaranteed: usize,
    /// Each further one takes so much of it.
    cost: usize,
    pool: Pool,
}

/// One connection's place; given back on drop.
#[derive(Debug)]
pub struct Slot {
    live: Arc<AtomicUsize>,
    from_pool: Option<(Pool, usize)>,
}

impl Pool {
    /// What `descriptors` leave for connections.
    pub fn new(descriptors: usize) -> Pool {
        Pool(Arc::new(AtomicUsize::new(
            descriptors.saturating_sub(KEPT_DESCRIPTORS),
        )))
    }

    fn take(&self, cost: usize) -> bool {
        let taken = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(cost));
        taken.is_ok()
    }
}

impl Capacity {
    /// Room for `cap` connections that need no descriptors of the pool.
    pub fn new(cap: usize) -> Capacity {
        Capacity {
            live: Arc::default(),
            cap,
            guaranteed: cap,
            cost: 0,
            pool: Pool(Arc::default()),
        }
    }

    /// Room for wrappers, given the process's `descriptors`.
    pub fn of_machines(descriptors: usize, pool: &Pool) -> Capacity {
        let cost = DESCRIPTORS_PER_WRAPPER;
        Capacity {
            guaranteed: 0,
            cost,
            pool: pool.clone(),
            ..Capacity::new(machine_connections(descriptors))
        }
    }

    /// Room for API connections: a few always, more while the fleet leaves descriptors.
    pub fn of_api(pool: &Pool) -> Capacity {
        let guaranteed = limits::API_CONNECTIONS_GUARANTEED;
        Capacity {
            guaranteed,
            cost: DESCRIPTORS_PER_API_CONNECTION,
            pool: pool.clone(),
            ..Capacity::new(limits::API_CONNECTIONS)
        }
    }

    /// A place, unless all are taken.
    pub fn take(&self) -> Option<Slot> {
        let counted = self
            .live
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |live| {
                (live < self.cap).then_some(live + 1)
            });
        let before = counted.ok()?;
        let mut slot = Slot {
            live: self.live.clone(),
            from_pool: None,
        };
        if before >= self.guaranteed {
            if !self.pool.take(self.cost) {
                return None;
            }
            slot.from_pool = Some((self.pool.clone(), self.cost));
        }
        Some(slot)
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
        self.live.fetch_sub(1, Ordering::AcqRel);
        if let Some((pool, cost)) = self.from_pool.take() {
            pool.0.fetch_add(cost, Ordering::AcqRel);
        }
    }
}

/// How many wrappers may be connected, given `descriptors`.
fn machine_connections(descriptors: usize) -> usize {
    let mappings = std::fs::read_to_string("/proc/sys/vm/max_map_count")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(DEFAULT_MAX_MAP_COUNT);
    cap_for(descriptors, mappings)
}

fn cap_for(descriptors: usize, mappings: usize) -> usize {
    let by_descriptors = descriptors.saturating_sub(KEPT_DESCRIPTORS) / DESCRIPTORS_PER_WRAPPER;
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
    fn twenty_thousand_descriptors_hold_a_fleet_or_two_hundred_uis_beside_most_of_it() {
        assert_eq!(cap_for(20_000, 65_530), 9_900);
        assert_eq!(cap_for(524_288, 65_530), 15_882);
        assert_eq!(cap_for(usize::MAX, usize::MAX), limits::MACHINE_CONNECTIONS);
        let pool = Pool::new(20_000);
        let (machines, api) = (Capacity::of_machines(20_000, &pool), Capacity::of_api(&pool));
        let mut uis: Vec<Slot> = (0..300).map_while(|_| api.take()).collect();
        assert_eq!(uis.len(), 300);
        let wrappers: Vec<Slot> = std::iter::from_fn(|| machines.take()).collect();
        assert!(wrappers.len() >= 9_600, "{}", wrappers.len());
        uis.clear();
        let more: Vec<Slot> = std::iter::from_fn(|| machines.take()).collect();
        assert_eq!(wrappers.len() + more.len(), 9_900);
        // people still get in
        assert!(
            (0..limits::API_CONNECTIONS_GUARANTEED)
                .map_while(|_| api.take())
                .count()
                > 0
        );
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
