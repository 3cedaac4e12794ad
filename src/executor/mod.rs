//! What reaches machines: finds out which match, and starts wrappers on them.
//! Must not know: the engine's state, what becomes of a run.

pub mod endpoint;
mod launch;
pub mod local;
mod salt;

use std::io;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError};
use parking_lot::RwLock;

use crate::config::{ExecutorKind, Settings};
use crate::engine::effect::ExecutorOrder;
use crate::engine::event::Event;
use crate::limits;
use crate::thread::{self, Actor};
use crate::wake::Waker;
use endpoint::Endpoint;

/// The settings in force, shared with the thread that reloads them.
pub type CurrentSettings = Arc<RwLock<Arc<Settings>>>;

/// The running executor thread; dropping it ends the thread, launched wrappers live on.
pub struct Executor {
    // declared before the thread: the queue closes first
    orders: Sender<ExecutorOrder>,
    waker: Arc<Waker>,
    _thread: Actor,
}

/// Starts the executor of that kind. `endpoint` is where wrappers connect to.
pub fn start(
    kind: ExecutorKind,
    endpoint: Endpoint,
    settings: CurrentSettings,
    events: Sender<Event>,
) -> io::Result<Executor> {
    let (orders, queue) = crossbeam_channel::bounded(limits::EXECUTOR_QUEUE);
    let waker = Arc::new(Waker::new()?);
    let thread = match kind {
        ExecutorKind::Local => {
            let local = local::Local::new(endpoint, settings, events, queue, waker.clone());
            thread::spawn("executor", limits::STACK_BYTES, move || local.run())?
        }
        ExecutorKind::None => {
            log::warn!("executor: none: nothing is started on any machine");
            thread::spawn("executor", limits::STACK_BYTES, move || shadow(queue, &events))?
        }
        ExecutorKind::Salt => {
            let salt = salt::Salt::new(endpoint, settings, events, queue, waker.clone());
            thread::spawn("executor", limits::STACK_BYTES, move || salt.run())?
        }
    };
    let ring = waker.clone();
    Ok(Executor {
        orders,
        waker,
        _thread: Actor::new(thread, move || ring.wake()),
    })
}

impl Executor {
    /// Queues an order. Hands it back when the queue is full.
    pub fn try_send(&self, order: ExecutorOrder) -> Result<(), ExecutorOrder> {
        match self.orders.try_send(order) {
            Ok(()) => {
                self.waker.wake();
                Ok(())
            }
            Err(TrySendError::Full(order) | TrySendError::Disconnected(order)) => Err(order),
        }
    }
}

/// Shadow mode: every run ends at once, without machines, and says why.
fn shadow(orders: Receiver<ExecutorOrder>, events: &Sender<Event>) {
    for order in orders {
        if let ExecutorOrder::Resolve { run, .. } = order {
            let _ = events.send(Event::Resolved {
                run,
                up: Vec::new(),
                down: Vec::new(),
                finished: true,
                error: Some("shadow mode: nothing is started (executor: none)".to_string()),
            });
        }
        // other orders concern runs from before the restart: they are left alone
    }
}
