//! Virtual time: one queue of actions, a monotonic clock, a wall clock that may step, and the trace.
//! Must not know: what the promises are (checker.rs).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use saltpeter::clock::{Mono, Now, Wall};
use saltpeter::config::Config;
use saltpeter::engine::event::Event;
use saltpeter::engine::notice::{DeliveryError, Message};
use saltpeter::protocol::{DaemonFrame, WrapperFrame};

use crate::checker::Checker;
use crate::daemon::Daemon;
use crate::executor::{Executor, Launch};
use crate::network::{Conn, Owner};
use crate::plan::Fault;
use crate::rng::Rng;
use crate::setup::{Behaviour, JobSetup, Machine};
use crate::storage::Storage;
use crate::wrapper::{Timer, Wrapper};

/// Seconds since the epoch at virtual time 0.
pub const EPOCH_S: i64 = 1_795_000_000;
/// The monotonic clock at virtual time 0.
const BOOT_MS: u64 = 5_000_000;

/// Something that will happen at a moment of virtual time.
#[derive(Debug)]
pub enum Action {
    Tick { life: u32 },
    Bulk { life: u32 },
    Control { life: u32, event: Box<Event> },
    Commit { life: u32 },
    StallEnd { life: u32 },
    Backlog { conn: u64 },
    StartDaemon,
    Listen { life: u32 },
    Exit { life: u32 },
    UpFrame { conn: u64, frame: Box<WrapperFrame> },
    DownFrame { conn: u64, frame: Box<DaemonFrame> },
    Opened { conn: u64 },
    WrapperSeesClose { conn: u64 },
    DaemonSeesClose { conn: u64 },
    Wrapper { wrapper: usize, timer: Timer },
    Launch(Box<Launch>),
    Fault(Fault),
}

/// Everything.
pub struct World {
    pub now_ms: u64,
    pub wall_offset_us: i64,
    pub queue: BTreeMap<(u64, u64), Action>,
    next_action: u64,
    pub rng: Rng,
    /// What the world does to slow things down; off in scenarios, which want exact moments.
    pub jitter: bool,
    /// Wrappers forget to beat.
    pub beatless: bool,
    pub daemon: Option<Daemon>,
    pub life: u32,
    /// A daemon exists or will be started.
    pub restart_pending: bool,
    pub storage: Storage,
    pub executor: Executor,
    pub wrappers: Vec<Wrapper>,
    pub conns: BTreeMap<u64, Conn>,
    pub next_conn: u64,
    pub checker: Checker,
    pub machines: Vec<Machine>,
    pub jobs: BTreeMap<String, JobSetup>,
    pub behaviours: BTreeMap<String, Behaviour>,
    pub config: Arc<Config>,
    /// The faults are over.
    pub healed: bool,
    pub failure: Option<String>,
    pub tracing: bool,
    pub trace: VecDeque<String>,
    pub turns: u64,
    /// What a destination of notices does with a message at that moment; None: takes it.
    pub receiver: Option<Receiver>,
    /// `heartbeat_url` is set.
    pub has_heartbeat: bool,
}

/// See [`World::receiver`].
pub type Receiver = fn(u64, &Message) -> Result<(), DeliveryError>;

/// Writes a line into the trace, if it is wanted.
#[macro_export]
macro_rules! trace {
    ($world:expr, $($arg:tt)*) => {
        if $world.tracing {
            let line = format!($($arg)*);
            $world.note(line);
        }
    };
}

impl World {
    pub fn new(seed: u64, jobs: Vec<JobSetup>, machines: Vec<Machine>) -> World {
        let mut rng = Rng::new(seed);
        let jobs: BTreeMap<_, _> = jobs.into_iter().map(|j| (j.name.clone(), j)).collect();
        let mut world = World {
            now_ms: 0,
            wall_offset_us: 0,
            queue: BTreeMap::new(),
            next_action: 0,
            rng: rng.fork(),
            jitter: true,
            beatless: false,
            daemon: None,
            life: 0,
            restart_pending: false,
            storage: Storage::default(),
            executor: Executor::default(),
            wrappers: Vec::new(),
            conns: BTreeMap::new(),
            next_conn: 1,
            checker: Checker::default(),
            machines,
            jobs,
            behaviours: BTreeMap::new(),
            config: Arc::default(),
            healed: false,
            failure: None,
            tracing: false,
            trace: VecDeque::new(),
            turns: 0,
            receiver: None,
            has_heartbeat: false,
        };
        world.rebuild_config();
        world
    }

    pub fn wall(&self) -> Wall {
        self.wall_at(self.now_ms)
    }

    fn wall_at(&self, ms: u64) -> Wall {
        Wall(EPOCH_S * 1_000_000 + ms as i64 * 1_000 + self.wall_offset_us)
    }

    pub fn mono(&self) -> Mono {
        Mono(BOOT_MS + self.now_ms)
    }

    pub fn now(&self) -> Now {
        Now {
            mono: self.mono(),
            wall: self.wall(),
        }
    }

    /// Virtual milliseconds until the wall clock reaches its next whole second.
    pub fn to_next_second_ms(&self) -> u64 {
        let into = self.wall().0.rem_euclid(1_000_000);
        ((1_000_000 - into) as u64).div_ceil(1_000)
    }

    pub fn at(&mut self, ms: u64, action: Action) {
        let key = (ms.max(self.now_ms), self.next_action);
        self.next_action += 1;
        self.queue.insert(key, action);
    }

    pub fn after(&mut self, ms: u64, action: Action) {
        self.at(self.now_ms + ms, action);
    }

    /// A small random delay, or none where exact moments are wanted.
    pub fn delay(&mut self, low: u64, high: u64) -> u64 {
        if self.jitter {
            self.rng.range(low, high)
        } else {
            low
        }
    }

    /// Lets everything happen up to that moment, or until a promise is broken.
    pub fn run_until(&mut self, ms: u64) {
        while self.failure.is_none() {
            match self.queue.first_key_value() {
                Some(((at, _), _)) if *at <= ms => {}
                _ => break,
            }
            if let Some(((at, _), action)) = self.queue.pop_first() {
                self.now_ms = at;
                self.act(action);
            }
        }
        if self.failure.is_none() {
            self.now_ms = self.now_ms.max(ms);
        }
    }

    pub fn run_for(&mut self, ms: u64) {
        self.run_until(self.now_ms + ms);
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Tick { life } => self.ticker(life),
            Action::Bulk { life } => self.bulk_ready(life),
            Action::Control { life, event } => {
                if life == self.life {
                    self.control(*event);
                }
            }
            Action::Commit { life } => self.commit(life),
            Action::StallEnd { life } => self.stall_end(life),
            Action::Backlog { conn } => self.read_backlog(conn),
            Action::StartDaemon => self.start_daemon(),
            Action::Listen { life } => self.listen(life),
            Action::Exit { life } => {
                if life == self.life {
                    self.exit_in_order();
                }
            }
            Action::UpFrame { conn, frame } => self.frame_arrives(conn, *frame),
            Action::DownFrame { conn, frame } => self.frame_arrives_down(conn, *frame),
            Action::Opened { conn } => match self.conns.get(&conn).map(|c| c.owner) {
                Some(Owner::Wrapper(wrapper)) => self.wrapper_opened(wrapper, conn),
                _ => self.intruder_opened(conn),
            },
            Action::WrapperSeesClose { conn } => self.wrapper_sees_close(conn),
            Action::DaemonSeesClose { conn } => self.daemon_sees_close(conn),
            Action::Wrapper { wrapper, timer } => self.wrapper_timer(wrapper, timer),
            Action::Launch(launch) => self.launch_wrapper(*launch),
            Action::Fault(fault) => self.fault(fault),
        }
    }

    pub fn note(&mut self, line: String) {
        let wall = self.wall().iso();
        let line = format!("{:>10} {} {line}", self.now_ms, &wall[11..23]);
        if self.trace.len() >= 400_000 {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }

    /// A promise is broken. The first one stops the world.
    pub fn fail(&mut self, promise: &str, what: String) {
        if self.failure.is_none() {
            let text = format!(
                "[{promise}] at {} ms ({}): {what}",
                self.now_ms,
                self.wall().iso()
            );
            trace!(self, "FAILURE {text}");
            self.failure = Some(text);
        }
    }
}
