//! Named threads, and a handle that stops and joins one on drop.
//! Must not know: what the threads do.

use std::io;
use std::thread::JoinHandle;

/// Starts a named thread with a stack of `stack_bytes`. The name (15 bytes of it) shows in `ps -T` and in panics.
#[allow(clippy::disallowed_methods, reason = "the one place that spawns threads")]
pub fn spawn<T: Send + 'static>(
    name: &str,
    stack_bytes: usize,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    std::thread::Builder::new()
        .name(name.to_string())
        .stack_size(stack_bytes)
        .spawn(body)
}

/// A running thread, which is stopped and joined on drop. `stop` must make the thread's loop end.
pub struct Actor {
    stop: Option<Box<dyn FnOnce() + Send + Sync>>,
    thread: Option<JoinHandle<()>>,
}

impl Actor {
    /// Combines a thread with what makes it end (dropping its sender, waking it).
    pub fn new(thread: JoinHandle<()>, stop: impl FnOnce() + Send + Sync + 'static) -> Actor {
        Actor {
            stop: Some(Box::new(stop)),
            thread: Some(thread),
        }
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop();
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("a thread panicked, see the message above");
        }
    }
}
