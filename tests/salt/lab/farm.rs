//! Minions that do not exist, by the hundred or thousand, on the lab's master: `farm.py`. Whatever runs on them is real.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::Lab;

/// Matches all of a farm, and none of the lab's own minions.
pub const TARGETS: &str = "farm*";

pub struct Farm {
    child: Child,
}

impl Farm {
    /// Starts one of that size; `silent` of them answer nothing.
    pub fn start(lab: &Lab, minions: usize, silent: usize) -> Farm {
        let mut child = Command::new(&lab.python)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/salt/lab/farm.py"))
            .arg(lab.config())
            .arg(minions.to_string())
            .args((0..silent).map(id))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "the farm did not start");
        Farm { child }
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        // it takes its keys away
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Puts returns of minions `m0`, `m1`... on the master's event bus.
const RETURNS: &str = "
import sys, time, salt.config, salt.utils.event
opts = salt.config.client_config(sys.argv[1] + '/master')
bus = salt.utils.event.get_master_event(opts, opts['sock_dir'], listen=False)
for number in range(int(sys.argv[3])):
    data = {'id': 'm%d' % number, 'jid': sys.argv[2], 'return': True, 'retcode': 0, 'success': True}
    bus.fire_event(data, 'salt/job/%s/ret/m%d' % (sys.argv[2], number))
time.sleep(3)
";

/// Starts a process that fires returns for that job which no minion has sent.
pub fn fire_returns(lab: &Lab, jid: &str, count: usize) -> Child {
    Command::new(&lab.python)
        .args(["-c", RETURNS])
        .arg(lab.config())
        .args([jid, &count.to_string()])
        .spawn()
        .unwrap()
}

/// The id of the one with that number.
pub fn id(number: usize) -> String {
    format!("farm{number:05}")
}
