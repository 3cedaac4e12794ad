//! Tests that wait long and work little: all of them are started by the first that is asked for, and each test
//! takes its own result. So they take as long as the longest, however few threads the test runner has.

use std::panic::AssertUnwindSafe;
use std::sync::OnceLock;

use parking_lot::{Condvar, Mutex};
use saltpeter::thread;

type Scenario = (&'static str, fn());

/// The results of a group of scenarios.
pub struct Together {
    started: OnceLock<()>,
    ended: Mutex<Vec<(&'static str, Result<(), String>)>>,
    changed: Condvar,
}

impl Together {
    pub const fn new() -> Together {
        Together {
            started: OnceLock::new(),
            ended: Mutex::new(Vec::new()),
            changed: Condvar::new(),
        }
    }

    /// Starts all, the first time; waits for the end of `wanted`.
    pub fn result(&'static self, scenarios: &'static [Scenario], wanted: &str) {
        self.started.get_or_init(|| {
            for (name, scenario) in scenarios {
                thread::spawn(name, 2 << 20, move || self.run(name, *scenario)).unwrap();
            }
        });
        let mut ended = self.ended.lock();
        loop {
            if let Some((_, result)) = ended.iter().find(|(name, _)| *name == wanted) {
                return result.clone().unwrap_or_else(|why| panic!("{why}"));
            }
            self.changed.wait(&mut ended);
        }
    }

    fn run(&self, name: &'static str, scenario: fn()) {
        let result = std::panic::catch_unwind(AssertUnwindSafe(scenario)).map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()))
                .unwrap_or_else(|| "it panicked".into())
        });
        self.ended.lock().push((name, result));
        self.changed.notify_all();
    }
}

/// Makes a test of each of these functions, run together.
macro_rules! together {
    ($($name:ident),* $(,)?) => {
        static TOGETHER: $crate::support::together::Together = $crate::support::together::Together::new();
        const SCENARIOS: &[(&str, fn())] = &[$((stringify!($name), $name)),*];
        mod together {
            $(#[test]
            fn $name() {
                super::TOGETHER.result(super::SCENARIOS, stringify!($name));
            })*
        }
    };
}
pub(crate) use together;
