//! The local executor: plays machines on this host. Starts wrappers, and waits for each to say by its exit code that
//! it works on detached.
//! Must not know: runs, what a wrapper does once launched.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStderr, ExitStatus};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::CurrentSettings;
use super::endpoint::Endpoint;
use super::launch::{self, Programs};
use crate::clock::{self, Mono};
use crate::config::{JobSpec, Settings, glob};
use crate::ending::code;
use crate::engine::effect::{Dispatch, ExecutorOrder};
use crate::engine::event::Event;
use crate::engine::id::{MachineRunId, RunId};
use crate::limits;
use crate::process::host::short_name;
use crate::wake::{Interest, Waker, poll_any};

/// A machine run whose wrapper could not be started.
const NOT_STARTED: i32 = code::NOT_STARTED;

/// The executor's thread.
pub struct Local {
    endpoint: Endpoint,
    settings: CurrentSettings,
    events: Sender<Event>,
    orders: Receiver<ExecutorOrder>,
    waker: Arc<Waker>,
    programs: Programs,
    /// Dispatches with machines that are not started yet.
    waiting: VecDeque<Dispatch>,
    /// When the engine was told last what waits.
    told_waiting: Mono,
    launched: Vec<Launched>,
}

/// A wrapper that has not returned yet.
struct Launched {
    machine_run: MachineRunId,
    program: String,
    child: Child,
    /// Becomes readable when the process has ended. None: out of descriptors, so it is looked after now and then.
    end: Option<OwnedFd>,
    stderr: Option<ChildStderr>,
    said: Vec<u8>,
    since: Mono,
}

impl Local {
    /// `endpoint`: where wrappers connect to. `waker` is woken when there are orders, or when they end.
    pub fn new(
        endpoint: Endpoint,
        settings: CurrentSettings,
        events: Sender<Event>,
        orders: Receiver<ExecutorOrder>,
        waker: Arc<Waker>,
    ) -> Local {
        Local {
            endpoint,
            settings,
            events,
            orders,
            waker,
            programs: Programs::find(),
            waiting: VecDeque::new(),
            told_waiting: clock::mono(),
            launched: Vec::new(),
        }
    }

    /// Serves until the orders end.
    pub fn run(mut self) {
        loop {
            loop {
                match self.orders.try_recv() {
                    Ok(ExecutorOrder::Resolve { run, spec }) => self.resolve(run, &spec),
                    Ok(ExecutorOrder::Dispatch(mut dispatch)) => {
                        // taken from the end
                        dispatch.machines.reverse();
                        self.waiting.push_back(*dispatch);
                    }
                    // it runs nothing without a wrapper
                    Ok(ExecutorOrder::Terminate { .. }) => {}
                    Err(TryRecvError::Empty) => break,
                    // the daemon ends; what it has launched lives on
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            self.launch_waiting();
            self.tell_waiting();
            match self.wait() {
                Ok(ready) => self.reap(&ready),
                Err(error) => return log::error!("waiting for wrappers to return: {error}"),
            }
        }
    }

    fn resolve(&self, run: RunId, spec: &JobSpec) {
        let settings = self.settings.read().clone();
        let ids = settings
            .local_machines
            .clone()
            .unwrap_or_else(|| vec![short_name()]);
        let mut known: Vec<String> = Vec::with_capacity(ids.len());
        let mut seen = std::collections::HashSet::new();
        known.extend(ids.into_iter().filter(|id| seen.insert(id.clone())));
        let (up, error) = match glob::select(&spec.targets, &spec.target_type, &known) {
            Ok(up) => (up, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        self.report(Event::Resolved {
            run,
            up,
            down: Vec::new(),
            finished: true,
            error,
        });
    }

    /// Starts as many as may be starting at a time.
    fn launch_waiting(&mut self) {
        let now = clock::mono();
        let is_quick = |launched: &&Launched| now.since_ms(launched.since) < limits::LOCAL_LAUNCH_SLOW_MS;
        let mut under_way = self.launched.iter().filter(is_quick).count();
        let settings = self.settings.read().clone();
        while under_way < limits::LOCAL_LAUNCHES
            && let Some(dispatch) = self.waiting.front_mut()
        {
            let Some((machine_run, machine)) = dispatch.machines.pop() else {
                self.waiting.pop_front();
                continue;
            };
            match start(&self.programs, &settings, dispatch, &machine, &self.endpoint) {
                Ok((program, child, end)) => {
                    under_way += 1;
                    self.launched
                        .push(Launched::new(machine_run, program, child, end));
                    // the spawn is the launch (rules.md 10): one that does not return is not waited for
                    self.report(Event::Launched { machine_run });
                }
                Err(text) => self.report(Event::LaunchFailed {
                    machine_run,
                    retcode: NOT_STARTED,
                    text,
                }),
            }
        }
    }

    /// Tells the engine which launches still wait for their turn here, so that the time allowed for them starts over.
    fn tell_waiting(&mut self) {
        let now = clock::mono();
        if now.since_ms(self.told_waiting) < limits::WAITING_TOLD_MS {
            return;
        }
        self.told_waiting = now;
        let waiting = self.waiting.iter().flat_map(|dispatch| &dispatch.machines);
        let machine_runs: Vec<_> = waiting.map(|(machine_run, _)| *machine_run).collect();
        if !machine_runs.is_empty() {
            self.report(Event::LaunchPending { machine_runs });
        }
    }

    /// Which of the launched have something to say, or may have ended.
    fn wait(&self) -> io::Result<Vec<bool>> {
        let mut slots = Vec::with_capacity(2 * self.launched.len() + 1);
        slots.push(Interest::readable(self.waker.as_fd()));
        for launched in &self.launched {
            slots.extend(launched.end.iter().map(|end| Interest::readable(end.as_fd())));
            let stderr = launched.stderr.iter();
            slots.extend(stderr.map(|stderr| Interest::readable(stderr.as_fd())));
        }
        // a wrapper that does not return gives up its place without any event
        let is_unseen = |launched: &Launched| launched.end.is_none();
        let must_look = !self.waiting.is_empty() || self.launched.iter().any(is_unseen);
        let seen = poll_any(&slots, must_look.then_some(100))?;
        if seen[0].readable {
            self.waker.clear();
        }
        let mut events = seen[1..].iter().map(|seen| seen.readable);
        let ready = self.launched.iter().map(|launched| {
            let has_ended = launched.end.is_none() | launched.end.iter().any(|_| events.next() == Some(true));
            let speaks = launched.stderr.iter().any(|_| events.next() == Some(true));
            has_ended | speaks
        });
        Ok(ready.collect())
    }

    /// Looks at those that are `ready`; each system call saved counts when a thousand start in one second.
    fn reap(&mut self, ready: &[bool]) {
        let launched = std::mem::take(&mut self.launched);
        for (mut launched, is_ready) in launched.into_iter().zip(ready) {
            if !is_ready {
                self.launched.push(launched);
                continue;
            }
            launched.listen();
            match launched.child.try_wait() {
                Ok(None) => self.launched.push(launched),
                Ok(Some(status)) => {
                    launched.listen();
                    if let Some(failed) = launched.failure(status) {
                        self.report(failed);
                    }
                }
                Err(error) => self.report(Event::LaunchFailed {
                    machine_run: launched.machine_run,
                    retcode: NOT_STARTED,
                    text: format!("waiting for the wrapper '{}': {error}", launched.program),
                }),
            }
        }
    }

    fn report(&self, event: Event) {
        // the engine is gone: the daemon ends
        let _ = self.events.send(event);
    }
}

impl Launched {
    fn new(machine_run: MachineRunId, program: String, mut child: Child, end: Option<OwnedFd>) -> Launched {
        let stderr = child.stderr.take().filter(|stderr| {
            // a wrapper that keeps its standard error open must not hold this thread
            rustix::io::ioctl_fionbio(stderr, true).is_ok()
        });
        Launched {
            machine_run,
            program,
            child,
            end,
            stderr,
            said: Vec::new(),
            since: clock::mono(),
        }
    }

    /// Takes what it says on standard error, and keeps a little of it.
    fn listen(&mut self) {
        let Some(stderr) = &mut self.stderr else { return };
        let mut piece = [0; 1_024];
        loop {
            match stderr.read(&mut piece) {
                Ok(count) if count > 0 => {
                    let room = limits::LAUNCH_STDERR_BYTES.saturating_sub(self.said.len());
                    self.said.extend_from_slice(&piece[..count.min(room)]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                _ => break,
            }
        }
        self.stderr = None;
    }

    /// What is to be told of a wrapper that has returned, if it did not succeed.
    fn failure(&self, status: ExitStatus) -> Option<Event> {
        let machine_run = self.machine_run;
        if status.success() {
            return None;
        }
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exited with {code}"),
            (None, Some(signal)) => format!("was killed by signal {signal}"),
            (None, None) => "ended".to_string(),
        };
        let said = String::from_utf8_lossy(&self.said);
        let text = match said.trim() {
            "" => format!("the wrapper '{}' {how}", self.program),
            said => format!("the wrapper '{}' {how}: {said}", self.program),
        };
        Some(Event::LaunchFailed {
            machine_run,
            retcode: NOT_STARTED,
            text,
        })
    }
}

fn start(
    programs: &Programs,
    settings: &Settings,
    dispatch: &Dispatch,
    machine: &str,
    endpoint: &Endpoint,
) -> Result<(String, Child, Option<OwnedFd>), String> {
    let program = programs.wrapper(&dispatch.spec, settings);
    let name = program.path.display().to_string();
    launch::check(&program.path)?;
    let route = endpoint.local_route(&dispatch.spec, settings);
    let environment = launch::environment(
        dispatch,
        machine,
        &program.path,
        &route,
        settings,
        std::env::vars_os(),
    );
    let child = launch::spawn(&program, &environment)
        .map_err(|error| format!("cannot start the wrapper '{name}': {error}"))?;
    // a child's id fits and is not 0
    let pid = Pid::from_raw(child.id() as i32).ok_or("the wrapper has no process id")?;
    Ok((name, child, pidfd_open(pid, PidfdFlags::empty()).ok()))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;
    use crate::config::{ExecutorKind, Targets};
    use crate::engine::record::Handover;
    use crate::executor::{self, Executor};

    fn executor(machines: &[&str], wrapper: &str) -> (Executor, Receiver<Event>) {
        let settings = Settings {
            local_machines: Some(machines.iter().map(|id| id.to_string()).collect()),
            default_wrapper_path: Some(wrapper.to_string()),
            ..Settings::default()
        };
        let settings = Arc::new(parking_lot::RwLock::new(Arc::new(settings)));
        let (sender, events) = crossbeam_channel::bounded(limits::CONTROL_QUEUE);
        let endpoint = Endpoint {
            local_host: "127.0.0.1".into(),
            port: 1,
            pin: format!("sha256:{}", "00".repeat(32)).parse().unwrap(),
            starts_sp_wrapper_by_default: true,
        };
        let executor = executor::start(ExecutorKind::Local, endpoint, settings, sender).unwrap();
        (executor, events)
    }

    fn dispatch(machines: u64) -> ExecutorOrder {
        ExecutorOrder::Dispatch(Box::new(Dispatch {
            run: RunId(1),
            job: "j".into(),
            instance: "j_1".into(),
            token: "t".into(),
            spec: Arc::default(),
            machines: (0..machines)
                .map(|n| (MachineRunId(n), format!("m{n}")))
                .collect(),
            handover: Handover::OverSocket,
            at: Default::default(),
            again: false,
        }))
    }

    fn next(events: &Receiver<Event>) -> Event {
        events.recv_timeout(Duration::from_secs(20)).unwrap()
    }

    /// A script of its own for each test, written by another process: a descriptor of ours that is open for writing
    /// could be inherited by a wrapper that another test starts right now, and the script would be "text file busy".
    fn script(name: &str, body: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("saltpeter-local-{name}-{}", std::process::id()));
        let written = std::process::Command::new("/bin/sh")
            .args(["-c", r#"printf '#!/bin/sh\n%s\n' "$1" > "$0" && chmod 700 "$0""#])
            .arg(&path)
            .arg(body)
            .status();
        assert!(written.unwrap().success());
        path
    }

    #[test]
    fn targets_are_found_among_the_local_machines() {
        let (executor, events) = executor(&["web01", "db01", "web01"], "/bin/true");
        let spec = Arc::new(JobSpec {
            targets: Targets::Text("web*".into()),
            target_type: "glob".into(),
            ..JobSpec::default()
        });
        executor
            .try_send(ExecutorOrder::Resolve { run: RunId(7), spec })
            .unwrap();
        match next(&events) {
            Event::Resolved {
                run: RunId(7),
                up,
                finished: true,
                error: None,
                ..
            } => {
                assert_eq!(up, ["web01"]);
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_wrapper_that_returns_0_is_launched_and_many_are_launched_quickly() {
        let (executor, events) = executor(&["m"], "/bin/true");
        let begun = clock::mono();
        executor.try_send(dispatch(200)).unwrap();
        for _ in 0..200 {
            assert!(matches!(next(&events), Event::Launched { .. }));
        }
        println!("200 launches: {} ms", clock::mono().since_ms(begun));
    }

    #[test]
    fn a_wrapper_that_fails_says_why() {
        let path = script("fails", "echo no such thing >&2; exit 3");
        let (executor, events) = executor(&["m"], path.to_str().unwrap());
        executor.try_send(dispatch(1)).unwrap();
        assert!(matches!(next(&events), Event::Launched { .. }));
        match next(&events) {
            Event::LaunchFailed {
                retcode: 254, text, ..
            } => {
                assert!(text.ends_with("exited with 3: no such thing"), "{text}")
            }
            other => panic!("{other:?}"),
        }
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_wrapper_that_is_not_there_is_named() {
        let (executor, events) = executor(&["m"], "/nowhere/sp-wrapper");
        executor.try_send(dispatch(1)).unwrap();
        match next(&events) {
            Event::LaunchFailed {
                retcode: 254, text, ..
            } => {
                assert!(text.contains("'/nowhere/sp-wrapper'"), "{text}");
                assert!(text.contains("No such file"), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_wrapper_that_never_returns_keeps_nobody_else_from_starting() {
        let path = script("stays", "test \"$SP_MACHINE_ID\" = m32 && exit 0; exec sleep 30");
        let (executor, events) = executor(&["m"], path.to_str().unwrap());
        executor
            .try_send(dispatch(limits::LOCAL_LAUNCHES as u64 + 1))
            .unwrap();
        let launched = |event| match event {
            Event::Launched { machine_run } => machine_run.0,
            other => panic!("{other:?}"),
        };
        let mut all: Vec<u64> = (0..=limits::LOCAL_LAUNCHES)
            .map(|_| launched(next(&events)))
            .collect();
        assert_eq!(all.last(), Some(&32));
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), limits::LOCAL_LAUNCHES + 1);
        std::fs::remove_file(path).unwrap();
    }
}
