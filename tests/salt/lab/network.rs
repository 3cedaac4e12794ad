//! A network of this kernel alone: the master's host and five machines, each a network namespace with a wire to the
//! master's, and a stranger beside one of them. A wire can be listened on, and cut. Nothing of it is seen outside, and
//! all of it goes with this process.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::thread::{LinkNameSpaceType, Pid, UnshareFlags, gettid, move_into_link_name_space};
use saltpeter::thread;

use super::Lab;

/// Tests run side by side: each has machines, and so wires, of its own.
pub const MINIONS: [&str; 5] = ["edge-a", "edge-b", "edge-c", "edge-d", "edge-e"];
/// The master's host, as the minions find it.
pub const MASTER: &str = "10.77.0.1";
/// An address of the master's host that the stranger has as well.
pub const DISPUTED: &str = "10.77.0.9";

#[derive(Clone)]
pub struct Network {
    master: Place,
    machines: [(&'static str, Place); MINIONS.len()],
    stranger: Place,
}

/// A network namespace; it lives as long as the thread that made it, which is for ever.
#[derive(Clone, Copy)]
pub struct Place {
    thread: Pid,
}

/// The calling thread is in a place, and so is what it starts, until this goes.
pub struct Stay {
    home: File,
}

/// Keeps what passes on a wire.
pub struct Tap {
    child: Child,
    says: BufReader<ChildStdout>,
    file: PathBuf,
}

/// Arguments: the device, and the file for what is heard. The end of its standard input ends it.
const LISTENER: &str = "
import select, socket, struct, sys
ALL, SO_RCVBUFFORCE, SOL_PACKET, PACKET_STATISTICS = 3, 33, 263, 6
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL))
wire.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
wire.bind((sys.argv[1], ALL))
print('LISTENING', flush=True)
with open(sys.argv[2], 'wb') as heard:
    while True:
        ready = select.select([wire, 0], [], [])[0]
        if wire not in ready:
            break
        heard.write(wire.recv(1 << 17))
print(struct.unpack('II', wire.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1], 'missed')
";

impl Network {
    /// Sets it all up. The error says why there cannot be one here.
    pub fn set_up() -> Result<Network, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("network namespaces need root".to_string());
        }
        fetch_ip();
        let network = Network {
            master: Place::new()?,
            machines: [
                (MINIONS[0], Place::new()?),
                (MINIONS[1], Place::new()?),
                (MINIONS[2], Place::new()?),
                (MINIONS[3], Place::new()?),
                (MINIONS[4], Place::new()?),
            ],
            stranger: Place::new()?,
        };
        for (number, (name, machine)) in (1..).zip(network.machines) {
            let peer = machine.thread.as_raw_nonzero();
            network.master.try_ip(&format!(
                "link add to-{name} type veth peer name eth0 netns {peer}"
            ))?;
            network
                .master
                .ip(&format!("address add 10.77.{number}.1/24 dev to-{name}"));
            network.master.ip(&format!("link set to-{name} up"));
            machine.ip(&format!("address add 10.77.{number}.2/24 dev eth0"));
            machine.ip("link set eth0 up");
            machine.ip(&format!("route add default via 10.77.{number}.1"));
        }
        network.master.ip(&format!("address add {MASTER}/32 dev lo"));
        network.master.ip(&format!("address add {DISPUTED}/32 dev lo"));
        let (misled, stranger) = (network.machines[0].1, network.stranger);
        let peer = stranger.thread.as_raw_nonzero();
        misled.ip(&format!(
            "link add to-stranger type veth peer name eth0 netns {peer}"
        ));
        misled.ip("address add 10.77.101.1/24 dev to-stranger");
        misled.ip("link set to-stranger up");
        stranger.ip("address add 10.77.101.2/24 dev eth0");
        stranger.ip("link set eth0 up");
        stranger.ip("route add default via 10.77.101.1");
        stranger.ip(&format!("address add {DISPUTED}/32 dev lo"));
        Ok(network)
    }

    pub fn master(&self) -> Place {
        self.master
    }

    pub fn stranger(&self) -> Place {
        self.stranger
    }

    pub fn machine(&self, name: &str) -> Place {
        let found = self.machines.iter().find(|(known, _)| *known == name);
        found.unwrap().1
    }

    /// Pulls the machine's cable, at the master's end.
    pub fn cut(&self, name: &str) {
        self.master.ip(&format!("link set to-{name} down"));
    }

    /// Plugs it in again.
    pub fn mend(&self, name: &str) {
        self.master.ip(&format!("link set to-{name} up"));
    }

    /// The first machine takes the stranger for the holder of the disputed address, or the master's host again.
    pub fn mislead(&self, is_misled: bool) {
        let verb = if is_misled { "add" } else { "delete" };
        self.machines[0]
            .1
            .ip(&format!("route {verb} {DISPUTED} via 10.77.101.2"));
    }
}

impl Place {
    fn new() -> Result<Place, String> {
        let (sender, made) = crossbeam_channel::bounded(1);
        thread::spawn("place", 64 << 10, move || {
            #[allow(unsafe_code)]
            // SAFETY: it is about descriptors, which stay shared
            let unshared = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) };
            let _ = sender.send(unshared.map(|()| gettid()));
            while unshared.is_ok() {
                std::thread::park();
            }
        })
        .unwrap();
        let made = made.recv().unwrap();
        let thread = made.map_err(|error| format!("a network namespace cannot be made: {error}"))?;
        let place = Place { thread };
        place.ip("link set lo up");
        Ok(place)
    }

    pub fn enter(self) -> Stay {
        let thread = self.thread.as_raw_nonzero();
        let home = File::open("/proc/thread-self/ns/net").unwrap();
        go(&File::open(format!("/proc/self/task/{thread}/ns/net")).unwrap());
        Stay { home }
    }

    /// Whether that process is here.
    pub fn has(self, process: i32) -> bool {
        let here = format!("/proc/self/task/{}/ns/net", self.thread.as_raw_nonzero());
        fs::read_link(format!("/proc/{process}/ns/net")).unwrap() == fs::read_link(here).unwrap()
    }

    fn ip(self, arguments: &str) {
        self.try_ip(arguments).unwrap();
    }

    fn try_ip(self, arguments: &str) -> Result<(), String> {
        let _stay = self.enter();
        let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            Ok(())
        } else {
            Err(format!("ip {arguments}: {}", said.trim()))
        }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        go(&self.home);
    }
}

fn go(place: &File) {
    move_into_link_name_space(place.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

/// `ip` is the one tool that makes such a network.
fn fetch_ip() {
    let is_there = || Command::new("ip").arg("-V").output().is_ok();
    if is_there() {
        return;
    }
    for arguments in [
        &["update", "-qq"][..],
        &["install", "-y", "-qq", "--no-install-recommends", "iproute2"],
    ] {
        let _ = Command::new("apt-get")
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .output();
    }
    assert!(
        is_there(),
        "the tests with a real network need 'ip' (package iproute2), and apt-get could not install it"
    );
}

impl Tap {
    /// Listens on a device of a place.
    pub fn on(lab: &Lab, place: Place, device: &str) -> Tap {
        let file = lab
            .root
            .join(format!("heard-{}-{device}", place.thread.as_raw_nonzero()));
        let _stay = place.enter();
        let mut child = Command::new(&lab.python)
            .args(["-c", LISTENER, device])
            .arg(&file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let says = BufReader::new(child.stdout.take().unwrap());
        let mut tap = Tap { child, says, file };
        assert_eq!(tap.line(), "LISTENING\n");
        tap
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.says.read_line(&mut line).unwrap();
        line
    }

    /// All that passed, frame by frame.
    pub fn stop(mut self) -> Vec<u8> {
        drop(self.child.stdin.take());
        assert_eq!(self.line(), "0 missed\n");
        let _ = self.child.wait();
        fs::read(&self.file).unwrap()
    }
}
