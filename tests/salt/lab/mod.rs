//! A Salt master and its minions on loopback, below a temporary directory: for the tests in `tests/salt`, one with three
//! minions for all that run in one process, and for `tests/bench`. The packages live in a virtual environment below the
//! target directory. Everything is taken down by `watchdog.py`. `farm.rs` plays minions by the thousand on it, `bridge.rs`
//! speaks to the helper alone, `network.rs` gives the minions hosts of their own.

pub mod bridge;
pub mod farm;
pub mod network;
pub mod processes;
pub mod wait;

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use rustix::fs::FlockOperation;
use rustix::process::Signal;
use serde_json::json;

use bridge::Bridge;
use network::{Network, Stay};

/// The Salt that is tested unless the environment says otherwise.
pub const VERSION: &str = "3008.5";
/// None is the host's name; one shares a beginning with another.
pub const MINIONS: [&str; 3] = ["web-a", "web-b", "db1"];
/// From the start of Salt to the first answer of all minions, on a busy machine.
const READY_S: u64 = 120;

/// What a lab is to be like.
pub struct Plan {
    pub minions: Vec<String>,
    /// What master and minions log to their files.
    pub log_level: &'static str,
    /// Where the minions are; None: where their master is. The thread that sets the lab up is where the master is to be.
    pub network: Option<Network>,
}

pub struct Lab {
    pub root: PathBuf,
    pub python: PathBuf,
    plan: Plan,
    sessions: Mutex<Vec<(String, Child)>>,
    /// Held by all who need Salt as it is; alone by those who break it.
    calm: RwLock<()>,
    _watchdog: Child,
}

/// Salt, for as long as this lives: not disturbed by others, or not disturbing them.
#[allow(dead_code)] // held, not read
pub enum Hold {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

/// The lab, for a test that leaves Salt alone. None: left out by request.
pub fn shared() -> Option<(&'static Lab, Hold)> {
    let lab = lab()?;
    loop {
        let calm = lab.calm.read();
        if lab.is_whole() {
            return Some((lab, Hold::Shared(calm)));
        }
        drop(calm);
        let alone = lab.calm.write();
        lab.mend();
        drop(alone);
    }
}

/// The lab, for a test that stops, freezes or restarts parts of Salt. It should leave all of it running.
pub fn alone() -> Option<(&'static Lab, Hold)> {
    let lab = lab()?;
    let alone = lab.calm.write();
    lab.mend();
    Some((lab, Hold::Alone(alone)))
}

fn lab() -> Option<&'static Lab> {
    static LAB: OnceLock<Option<Lab>> = OnceLock::new();
    LAB.get_or_init(|| {
        Lab::set_up(Plan {
            minions: MINIONS.map(String::from).to_vec(),
            log_level: "debug",
            network: None,
        })
    })
    .as_ref()
}

/// The lab whose minions each have a host of their own, as far as the network goes; the calling thread moves to the
/// master's. None: left out by request, or because there can be no such network.
pub fn on_network() -> Option<(&'static Lab, Stay)> {
    static LAB: OnceLock<Option<Lab>> = OnceLock::new();
    let set_up = || {
        if is_left_out() {
            return None;
        }
        let why = match Network::set_up() {
            Ok(network) => {
                let _stay = network.master().enter();
                return Lab::set_up(Plan {
                    minions: network::MINIONS.map(String::from).to_vec(),
                    log_level: "info",
                    network: Some(network),
                });
            }
            Err(why) => why,
        };
        // not captured by the test harness
        let _ = writeln!(std::io::stderr(), "SKIPPED the tests with a real network: {why}");
        None
    };
    let lab = LAB.get_or_init(set_up);
    let lab = lab.as_ref()?;
    Some((lab, lab.network().master().enter()))
}

impl Lab {
    /// Starts one, and waits until all of it answers. None: left out by request.
    pub fn set_up(plan: Plan) -> Option<Lab> {
        if is_left_out() {
            return None;
        }
        let venv = environment();
        let python = venv.join("bin/python");
        // short, because the names of Unix sockets are
        let kind = if plan.network.is_some() { "n" } else { "" };
        let root = PathBuf::from(format!("/tmp/sp.{}{kind}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir(&root).unwrap();
        fs::write(root.join("sessions"), "").unwrap();
        let watchdog = Command::new(&python)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/salt/lab/watchdog.py"))
            .arg(&root)
            .stdin(Stdio::piped())
            // a Ctrl-C is for the tests; this one cleans up after them
            .process_group(0)
            .spawn()
            .unwrap();
        let lab = Lab {
            root,
            python,
            plan,
            sessions: Mutex::default(),
            calm: RwLock::default(),
            _watchdog: watchdog,
        };
        lab.configure();
        lab.start("master");
        for minion in &lab.plan.minions {
            lab.start(minion);
        }
        lab.wait_until_ready();
        Some(lab)
    }

    /// For as long as this is held, nobody disturbs Salt.
    pub fn hold(&'static self) -> Hold {
        Hold::Shared(self.calm.read())
    }

    /// The network of the lab that has one.
    pub fn network(&self) -> &Network {
        self.plan.network.as_ref().unwrap()
    }

    /// Directory of the master's configuration.
    pub fn config(&self) -> PathBuf {
        self.root.join("m")
    }

    fn configure(&self) {
        let user = Command::new("id").arg("-un").output().unwrap().stdout;
        let user = String::from_utf8(user).unwrap().trim().to_string();
        let [publish, ret] = free_ports();
        let address = self
            .plan
            .network
            .as_ref()
            .map_or("127.0.0.1", |_| network::MASTER);
        let states = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/salt");
        let master = json!({
            "root_dir": self.config(), "interface": address, "publish_port": publish, "ret_port": ret,
            "user": user, "auto_accept": true, "worker_threads": 2, "keysize": 2048,
            "log_level_logfile": self.plan.log_level,
            "file_roots": {"base": [states, self.root.join("files")]},
            "pillar_roots": {"base": [self.root.join("pillar")]},
            "nodegroups": {"edge": "L@web-b,db1"},
        });
        fs::create_dir_all(self.config()).unwrap();
        fs::create_dir_all(self.root.join("files")).unwrap();
        fs::create_dir_all(self.root.join("pillar")).unwrap();
        // JSON is YAML
        let top = json!({"base": {"web*": ["web"]}});
        fs::write(self.root.join("pillar/top.sls"), top.to_string()).unwrap();
        fs::write(
            self.root.join("pillar/web.sls"),
            json!({"tier": "front"}).to_string(),
        )
        .unwrap();
        fs::write(self.config().join("master"), master.to_string()).unwrap();
        for minion in &self.plan.minions {
            let directory = self.root.join(minion);
            let role = if minion.starts_with("db") { "db" } else { "web" };
            let config = json!({
                "root_dir": directory, "id": minion, "master": address, "publish_port": publish,
                "master_port": ret, "user": user, "multiprocessing": true, "acceptance_wait_time": 1,
                "random_reauth_delay": 1, "enable_fqdns_grains": false, "enable_gpu_grains": false,
                "log_level_logfile": self.plan.log_level, "grains": {"role": role},
            });
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("minion"), config.to_string()).unwrap();
        }
    }

    /// Starts the master or a minion in a session of its own.
    pub fn start(&self, name: &str) {
        let bin = self.python.parent().unwrap();
        let (program, directory) = match name {
            "master" => ("salt-master", self.config()),
            minion => ("salt-minion", self.root.join(minion)),
        };
        // a reused pid would make it believe that it runs already
        for file in ["salt-minion.pid", "process_responsibility_salt-minion.pid"] {
            let _ = fs::remove_file(directory.join("var/run").join(file));
        }
        let log = File::create(directory.join("out")).unwrap();
        let mut command = Command::new("setsid");
        command.arg(self.python.with_file_name("python"));
        command.arg(bin.join(program)).arg("-c").arg(&directory);
        if name != "master" {
            command.arg("--disable-keepalive");
        }
        let network = self.plan.network.as_ref().filter(|_| name != "master");
        let _stay = network.map(|network| network.machine(name).enter());
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut list = File::options()
            .append(true)
            .open(self.root.join("sessions"))
            .unwrap();
        writeln!(list, "{}", child.id()).unwrap();
        self.sessions.lock().push((name.to_string(), child));
    }

    fn is_whole(&self) -> bool {
        self.sessions.lock().len() == self.plan.minions.len() + 1
    }

    /// Starts and wakes what a test that failed has left stopped or frozen.
    fn mend(&self) {
        for name in ["master"]
            .into_iter()
            .chain(self.plan.minions.iter().map(String::as_str))
        {
            let runs = self.sessions.lock().iter().any(|(known, _)| *known == name);
            if runs {
                self.signal(name, Signal::CONT)
            } else {
                self.start(name)
            }
        }
        self.wait_until_ready();
    }

    /// The session of the master or a minion.
    pub fn session(&self, name: &str) -> i32 {
        let sessions = self.sessions.lock();
        let (_, child) = sessions.iter().find(|(known, _)| *known == name).unwrap();
        child.id() as i32
    }

    /// Sends a signal to every process of the master or a minion.
    pub fn signal(&self, name: &str, signal: Signal) {
        for pid in processes::of_session(self.session(name)) {
            processes::signal(pid, signal);
        }
    }

    /// SIGKILL for every process of it.
    pub fn kill(&self, name: &str) {
        let session = self.session(name);
        wait::until("a session's end", 20, || {
            self.signal(name, Signal::KILL);
            processes::of_session(session).is_empty().then_some(())
        });
        self.forget(name);
    }

    /// Its first process has been killed; what it has started may live on.
    pub fn forget(&self, name: &str) {
        let mut sessions = self.sessions.lock();
        let place = sessions.iter().position(|(known, _)| *known == name).unwrap();
        let (_, mut child) = sessions.remove(place);
        let _ = child.wait();
    }

    /// Pings once a second until all minions have answered one of the pings.
    pub fn wait_until_ready(&self) {
        let mut bridge = Bridge::start(self);
        let mut silent: Vec<&str> = self.plan.minions.iter().map(String::as_str).collect();
        let mut asked = 0;
        wait::until("answers of all minions", READY_S, || {
            let master = self.sessions.lock();
            assert!(!master.is_empty());
            drop(master);
            asked += 1;
            bridge.run(json!({"tgt": "*", "fun": "test.ping", "timeout": 100}));
            bridge.events_for(1_000, |event| {
                if matches!(event["ev"].as_str(), Some("ret" | "late")) {
                    silent.retain(|minion| event["minion"] != *minion);
                }
                silent.is_empty()
            });
            silent.is_empty().then_some(())
        });
    }
}

fn is_left_out() -> bool {
    let is_off = std::env::var("SALTPETER_TEST_SALT").as_deref() == Ok("off");
    if is_off {
        // not captured by the test harness
        let _ = writeln!(
            std::io::stderr(),
            "LEFT OUT: what needs a real Salt (SALTPETER_TEST_SALT=off)"
        );
    }
    is_off
}

/// Two ports that were free a moment ago.
fn free_ports() -> [u16; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    free_ports()[0]
}

/// The virtual environment with that Salt; made when it is not there.
fn environment() -> PathBuf {
    let version = std::env::var("SALTPETER_TEST_SALT_VERSION").unwrap_or(VERSION.into());
    let target = Path::new(env!("CARGO_BIN_EXE_saltpeter"))
        .ancestors()
        .nth(2)
        .unwrap();
    let venv = target.join(format!("salt-venv-{version}"));
    let lock = File::create(target.join(format!("salt-venv-{version}.lock"))).unwrap();
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
    if venv.join("ok").exists() {
        return venv;
    }
    let requirements = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/salt/lab/requirements.txt");
    let pip = venv.join("bin/pip");
    let salt = format!("salt=={version}");
    let steps: [(&Path, Vec<&str>); 3] = [
        (Path::new("python3"), vec!["-m", "venv", venv.to_str().unwrap()]),
        (&pip, vec!["install", "-q", "--no-deps", &salt]),
        (&pip, vec!["install", "-q", "-r", requirements.to_str().unwrap()]),
    ];
    for (program, arguments) in steps {
        let output = Command::new(program).args(&arguments).output();
        let said = match &output {
            Ok(output) if output.status.success() => continue,
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        panic!(
            "the tests with a real Salt need Python 3 with venv and a package index: '{} {}' failed: {said}\n\
             (SALTPETER_TEST_SALT=off leaves them out)",
            program.display(),
            arguments.join(" ")
        );
    }
    fs::write(venv.join("ok"), "").unwrap();
    venv
}
