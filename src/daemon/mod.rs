//! The daemon: opens everything, starts its threads, turns the engine, and ends in order.
//! Must not know: what jobs and runs are.
//!
//! Reading order: `open.rs` what can be wrong before anything runs; `turns.rs` the engine's loop; `perform.rs` effects;
//! `publisher.rs` what becomes visible when; `ticker.rs`, `signals.rs` small threads; `systemd.rs` what the
//! service manager is told.

mod open;
mod perform;
mod publisher;
mod signals;
mod systemd;
mod ticker;
mod turns;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::RwLock;

use crate::address::is_loopback;
use crate::api::{self, Api, Feed, Requests, Shared};
use crate::budget::Budget;
use crate::config::{self, Config, ExecutorKind, Settings, watch};
use crate::engine::board::Board;
use crate::engine::effect::ConnectionOrder;
use crate::engine::event::Event;
use crate::engine::{Engine, EngineSettings};
use crate::executor::endpoint::Endpoint;
use crate::executor::{self, CurrentSettings};
use crate::logfile::{self, JobLog};
use crate::machines::{self, Connections, Lanes};
use crate::net::accept::Acceptor;
use crate::net::capacity::{Capacity, Pool};
use crate::net::identity::Identity;
use crate::notify::Notifications;
use crate::process::descriptors;
use crate::storage::{self, Request};
use crate::thread::Actor;
use crate::{clock, limits, logging};

use open::{Addresses, Opened};
use perform::{Pending, Performer};
use publisher::Publisher;
use signals::SignalHandler;
use systemd::Systemd;
use turns::{Inbox, Turns};

/// Serves the configuration in `config_dir` until SIGTERM. The error is one line for people: why it could not start.
pub fn serve(config_dir: &Path) -> Result<(), String> {
    let signals = SignalHandler::new().map_err(|error| format!("cannot catch signals: {error}"))?;
    let descriptors = descriptors::raise_limit();
    let opened = open::open(config_dir)?;
    let ready_line = opened.ports.ready_line();
    let log = logging::to_background().map_err(|error| format!("cannot start: {error}"))?;
    let (mut turns, intake) = start(opened, signals, descriptors).map_err(|error| {
        format!("cannot start: {error}; are threads or descriptors limited too narrowly?")
    })?;
    logging::say_ready(&ready_line);
    turns.systemd = Systemd::from_environment();
    turns.systemd.ready();
    let (performer, mut systemd) = turns.run();
    systemd.stopping();
    end(performer, intake);
    drop(log);
    Ok(())
}

/// What lets the outside in; dropped first, so that nothing new comes while the rest ends.
struct Intake {
    _signals: Actor,
    _ticker: Actor,
    _api: Api,
    _machines: Acceptor,
}

/// Starts every thread, those that others need first.
#[allow(clippy::too_many_lines, reason = "the wiring of all threads, in order")]
fn start(opened: Opened, signals: SignalHandler, descriptors: usize) -> io::Result<(Turns, Intake)> {
    let Opened {
        loader,
        config,
        settings,
        storage,
        recovered,
        api,
        machines,
        identity,
        ports,
    } = opened;
    let (lanes, inbox) = lanes();
    let connections = Arc::new(Connections::default());
    let mut engine = Engine::new(
        engine_settings(&settings, &ports)?,
        config.clone(),
        recovered,
        clock::now(),
    );
    let feed = Arc::new(Feed::new(first_board(&mut engine, &config)));
    let requests = Arc::new(Requests::new(lanes.control.clone()));
    let storage = storage.start(storage_callbacks(&lanes, &connections))?;
    let (reader, lanes_for_notices) = (storage.reader(), lanes.control.clone());
    let shared = Shared::new(
        feed.clone(),
        requests.clone(),
        storage.reader(),
        &settings.state_dir,
    )?;
    let shared = Arc::new(shared);
    let job_log = Arc::new(logfile::start(settings.logdir.clone(), storage.reader())?);
    let current: CurrentSettings = Arc::new(RwLock::new(settings.clone()));
    let endpoint = endpoint(&settings, &ports, &identity);
    let executor = executor::start(
        settings.executor,
        endpoint,
        current.clone(),
        lanes.control.clone(),
    )?;
    let reload = on_reload(
        settings.clone(),
        config.clone(),
        current,
        job_log.clone(),
        lanes.control.clone(),
    );
    let watcher = watch::start(loader, reload)?;
    let budget = Budget::new(limits::OUTPUT_BUDGET_BYTES);
    let pool = Pool::new(descriptors);
    let machines = machines::start(
        machines,
        Capacity::of_machines(descriptors, &pool),
        identity.config.clone(),
        lanes.clone(),
        budget,
        connections.clone(),
    )?;
    // the machines' own key is for wrappers, which know its pin: no browser would trust it
    let pair = settings.tls_cert.as_ref().zip(settings.tls_key.as_ref());
    let keys = pair.map(|(certificate, key)| api::Keys::new(certificate, key, identity.config));
    let listeners = api::Listeners::new(api, keys, &settings.state_dir);
    let api = api::start(listeners, Capacity::of_api(&pool), shared)?;
    let _ = lanes.control.send(Event::Listening);
    let ticker = ticker::start(lanes.control.clone(), connections.clone())?;
    let hung_up = job_log.clone();
    let on_hangup = move || {
        hung_up.reopen();
        watcher.poke();
    };
    let on_end = move || {
        let _ = lanes.control.send(Event::Shutdown);
    };
    let performer = Performer {
        connections,
        publisher: Publisher::start(feed, requests)?,
        answers: Vec::new(),
        executor,
        job_log,
        storage,
        pending: Pending::default(),
        notifications: Notifications::new(reader, lanes_for_notices),
    };
    let intake = Intake {
        _signals: signals.start(on_end, on_hangup)?,
        _ticker: ticker,
        _api: api,
        _machines: machines,
    };
    Ok((Turns::new(engine, inbox, performer), intake))
}

/// Ends in order: no more comes in, what waits is handed to storage, storage commits, the job logs are written.
/// [`signals`] sees to it that this has an end.
fn end(mut performer: Performer, intake: Intake) {
    drop(intake);
    let (never, pause) = bounded::<()>(0);
    while performer.has_pending() {
        let _ = pause.recv_timeout(Duration::from_millis(limits::PENDING_RETRY_MS));
        performer.retry();
    }
    drop(never);
    let (synced, done) = bounded(1);
    if performer.storage.try_send(Request::Sync(synced)).is_ok() {
        let _ = done.recv_timeout(Duration::from_millis(limits::SHUTDOWN_MS));
    }
    let Performer {
        executor,
        job_log,
        storage,
        ..
    } = performer;
    drop(executor);
    // its thread reads outputs from storage's files
    drop(job_log);
    drop(storage);
    log::info!("stopped");
}

fn lanes() -> (Lanes, Inbox) {
    let (control, control_events): (Sender<Event>, Receiver<Event>) = bounded(limits::CONTROL_QUEUE);
    let (bulk, bulk_events) = bounded(limits::BULK_QUEUE);
    let inbox = Inbox {
        control: control_events,
        bulk: bulk_events,
    };
    (Lanes { control, bulk }, inbox)
}

fn engine_settings(settings: &Settings, ports: &Addresses) -> io::Result<EngineSettings> {
    let mut seed = [0; 32];
    rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())?;
    let is_local = settings.executor == ExecutorKind::Local;
    Ok(EngineSettings {
        seed,
        is_link_confidential: is_local && is_loopback(ports.local_address().ip()),
        starts_sp_wrapper_by_default: is_local,
        machines_share_a_host: is_local,
    })
}

fn endpoint(settings: &Settings, ports: &Addresses, identity: &Identity) -> Endpoint {
    let local = ports.local_address();
    Endpoint {
        local_host: local.ip().to_string(),
        port: local.port(),
        pin: identity.pin,
        starts_sp_wrapper_by_default: settings.executor == ExecutorKind::Local,
    }
}

/// The API must never see a board without settings: they hold the tokens and roles.
fn first_board(engine: &mut Engine, config: &Arc<Config>) -> Arc<Board> {
    engine.take_board().unwrap_or_else(|| {
        Arc::new(Board {
            config: config.clone(),
            ..Board::default()
        })
    })
}

fn storage_callbacks(lanes: &Lanes, connections: &Arc<Connections>) -> storage::Callbacks {
    let connections = connections.clone();
    let control = lanes.control.clone();
    storage::Callbacks {
        deliver: Box::new(move |connection, frame| {
            connections.push(connection, ConnectionOrder::Send(frame));
        }),
        report: Box::new(move |event| {
            // the engine takes from this lane whatever storage does; it is gone only at the end
            let _ = control.send(event);
        }),
    }
}

/// What a changed configuration leads to, besides the engine's own doings.
fn on_reload(
    at_start: Arc<Settings>,
    mut told: Arc<Config>,
    current: CurrentSettings,
    job_log: Arc<JobLog>,
    control: Sender<Event>,
) -> impl FnMut(Arc<Config>) + Send + 'static {
    move |config| {
        let config = open::with_own_problems(config, &at_start);
        config::log_problems(&told.problems, &config.problems);
        told = config.clone();
        *current.write() = config.settings.clone();
        logging::set_debug(config.settings.debug);
        job_log.set_logdir(config.settings.logdir.clone());
        let _ = control.send(Event::Config(config));
    }
}
