//! The helper's life: it is started with the first Python that has Salt, asked for signs of life, and started again when
//! it is lost. Must not know: what it is asked for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::process::{self, Process};
use super::{NOT_STARTED, Salt, protocol};
use crate::clock::{self, Mono};
use crate::engine::event::Event;
use crate::limits;

/// The helper process.
pub(super) enum Helper {
    /// None runs; the next is started at that moment.
    Down { retry_at: Mono },
    /// Started, has not said hello.
    Starting {
        process: Process,
        python: PathBuf,
        since: Mono,
        /// Pythons not tried yet, and what became of those that were.
        others: Vec<PathBuf>,
        failed: Vec<String>,
    },
    Up {
        process: Process,
        asked: Mono,
        /// Signs of life asked for since its last word.
        unanswered: u32,
    },
}

impl Salt {
    pub(super) fn supervise(&mut self, now: Mono) {
        match &mut self.helper {
            Helper::Down { retry_at } if *retry_at <= now => {
                let mut pythons = process::pythons(self.settings.read().salt_python.as_deref());
                pythons.reverse();
                self.try_next(pythons, Vec::new());
            }
            Helper::Down { .. } => {}
            Helper::Starting { process, since, .. } => {
                if now.since_ms(*since) > limits::HELPER_HELLO_MS {
                    self.lost("it did not say hello in time");
                } else if let Err(error) = process.write() {
                    self.lost(&error.to_string());
                }
            }
            Helper::Up {
                process,
                asked,
                unanswered,
            } => {
                if now.since_ms(*asked) < limits::HELPER_STATUS_MS {
                    return;
                }
                if *unanswered >= limits::HELPER_UNANSWERED {
                    return self.lost("it hangs");
                }
                *asked = now;
                *unanswered += 1;
                process.say(&protocol::status(0));
            }
        }
    }

    /// Starts it with the next Python of the list (best last). With none left there is no Salt.
    fn try_next(&mut self, mut pythons: Vec<PathBuf>, mut failed: Vec<String>) {
        let config = self.settings.read().salt_config.clone();
        while let Some(python) = pythons.pop() {
            match Process::start(&python, Path::new(&config)) {
                Ok(process) => {
                    self.generation += 1;
                    self.helper = Helper::Starting {
                        process,
                        python,
                        since: clock::mono(),
                        others: pythons,
                        failed,
                    };
                    return;
                }
                Err(error) => failed.push(format!("{}: {error}", python.display())),
            }
        }
        let tried = if failed.is_empty() {
            "there is no python3".to_string()
        } else {
            failed.join("; ")
        };
        self.no_salt = Some(format!(
            "no Python with a working Salt was found ({tried}): install the Salt master here, or set salt_python or \
             salt_config in saltpeter_config"
        ));
        self.retry_later();
        self.show_trouble();
        self.give_up();
    }

    pub(super) fn hello(&mut self, proto: u32, salt: &str, python: &str, exe: &str) {
        let helper = std::mem::replace(&mut self.helper, Helper::Down { retry_at: Mono(0) });
        let process = match helper {
            Helper::Starting { process, .. } => process,
            // the answer to a status
            other => {
                self.helper = other;
                return;
            }
        };
        if proto != protocol::PROTO {
            // cannot be: the helper is part of this program
            log::error!("salt helper speaks protocol {proto}, not {}", protocol::PROTO);
            return self.retry_later();
        }
        log::info!("salt: version {salt}, {exe} (Python {python})");
        let major = salt.split('.').next().and_then(|major| major.parse::<u32>().ok());
        if major.is_none_or(|major| major < limits::SALT_OLDEST) {
            log::warn!(
                "salt: version {salt} was never tried; {} and later were",
                limits::SALT_OLDEST
            );
        }
        self.helper = Helper::Up {
            process,
            asked: clock::mono(),
            unanswered: 0,
        };
        self.no_salt = None;
        self.is_bus_down = None;
        self.show_trouble();
    }

    fn retry_later(&mut self) {
        self.helper = Helper::Down {
            retry_at: clock::mono().plus_ms(self.backoff_ms),
        };
        self.backoff_ms = (self.backoff_ms * 2).min(limits::HELPER_BACKOFF_MAX_MS);
    }

    /// The helper is gone, or has to go. What it was asked is asked again of the next.
    pub(super) fn lost(&mut self, why: &str) {
        let helper = std::mem::replace(&mut self.helper, Helper::Down { retry_at: Mono(0) });
        match helper {
            Helper::Starting {
                mut process,
                python,
                others,
                mut failed,
                ..
            } => {
                let mut lines = Vec::new();
                // its standard error tells more than its end
                let _ = process.read(&mut lines);
                if process.was_killed() {
                    log::warn!("salt helper was killed while it started; it is started again");
                    return self.retry_later();
                }
                let said = match process.last_words.as_str() {
                    "" => why.to_string(),
                    words => words.to_string(),
                };
                failed.push(format!("{}: {said}", python.display()));
                self.try_next(others, failed);
            }
            Helper::Up { .. } => {
                log::warn!(
                    "salt helper lost: {why}; it is started again in {} s",
                    self.backoff_ms / 1_000
                );
                for pending in self.pending.values_mut() {
                    if pending.send_at.is_none() {
                        pending.send_at = Some(Mono(0));
                        pending.shorten(clock::mono());
                    }
                }
                self.retry_later();
            }
            Helper::Down { .. } => {}
        }
    }

    /// There is no Salt: everything that waits for it ends, and says why. What it was asked already may go on, as while
    /// Salt is being upgraded.
    fn give_up(&mut self) {
        let Some(reason) = self.no_salt.clone() else {
            return;
        };
        let (sent, waiting): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|(_, pending)| pending.was_sent);
        self.pending = sent;
        for pending in waiting.into_values() {
            self.end_failed(pending, NOT_STARTED, &reason);
        }
    }

    pub(super) fn show_trouble(&mut self) {
        let bus = self.is_bus_down.as_ref();
        let trouble = self
            .no_salt
            .clone()
            .or_else(|| bus.map(|why| format!("the Salt master is out of reach: {why}")));
        if trouble != self.trouble {
            self.trouble.clone_from(&trouble);
            self.report(Event::ExecutorTrouble { reason: trouble });
        }
    }
}

impl Helper {
    pub(super) fn process(&self) -> Option<&Process> {
        match self {
            Helper::Down { .. } => None,
            Helper::Starting { process, .. } | Helper::Up { process, .. } => Some(process),
        }
    }
}
