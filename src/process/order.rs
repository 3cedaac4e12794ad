//! The messages between wrapper and guardian over their socket pair: length, tag, fields; bytes stay bytes.
//! Must not know: who acts on them.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// From the wrapper.
#[derive(Debug, PartialEq, Eq)]
pub enum GuardianOrder {
    /// Start the command; once in a guardian's life.
    Start(Box<CommandSpec>),
    /// SIGTERM to the command's group and to all that descends from it.
    Terminate,
    /// SIGKILL to all of them; answered by [`Report::AllEnded`].
    EndAll,
    /// Name what still lives; answered by [`Report::Leftovers`].
    NameLeftovers,
    /// The command's end has been dealt with: free the lock and exit, leave what lives alone.
    Finish,
}

/// All that the guardian needs to start a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandSpec {
    pub command: OsString,
    pub cwd: Option<OsString>,
    pub user: Option<OsString>,
    /// Comes first: PATH, locale (the classic way: all that the launcher gave).
    pub inherited: Vec<(OsString, OsString)>,
    /// Comes last and wins: the run's names and the job's own.
    pub own: Vec<(OsString, OsString)>,
    /// None: overlap is allowed, no lock is taken.
    pub lock: Option<LockRequest>,
    /// Its limit of open descriptors, where the launcher raised its own. None: the wrapper's.
    pub descriptors: Option<u64>,
}

/// Which lock to hold while the command lives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockRequest {
    /// None: the default path for job and machine.
    pub path: Option<OsString>,
    pub job: OsString,
    pub machine: OsString,
}

/// From the guardian.
#[derive(Debug, PartialEq, Eq)]
pub enum Report {
    Started {
        pid: i32,
    },
    /// Another run holds the lock, or the lock cannot be trusted.
    Locked {
        message: String,
    },
    /// The command could not be started.
    NotStarted {
        message: String,
    },
    Exited(Exit),
    /// After the command's end: nothing that descends from it lives.
    Empty,
    /// The answer to `EndAll`; false: something resists SIGKILL (the kernel holds it).
    AllEnded {
        clean: bool,
    },
    Leftovers {
        names: String,
    },
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

/// Larger frames are refused: a job comes in a frame of at most 4 MiB.
const LARGEST_BYTES: usize = 64 << 20;

/// Writes an order, whole.
pub fn send_order(to: &mut impl Write, order: &GuardianOrder) -> io::Result<()> {
    let mut out = Fields::default();
    match order {
        GuardianOrder::Start(spec) => {
            out.number(1);
            out.bytes(spec.command.as_bytes());
            out.maybe(spec.cwd.as_ref());
            out.maybe(spec.user.as_ref());
            out.pairs(&spec.inherited);
            out.pairs(&spec.own);
            out.number(i32::from(spec.lock.is_some()));
            if let Some(lock) = &spec.lock {
                out.maybe(lock.path.as_ref());
                out.bytes(lock.job.as_bytes());
                out.bytes(lock.machine.as_bytes());
            }
            let descriptors = spec.descriptors.map(|limit| OsString::from(limit.to_string()));
            out.maybe(descriptors.as_ref());
        }
        GuardianOrder::Terminate => out.number(2),
        GuardianOrder::EndAll => out.number(3),
        GuardianOrder::NameLeftovers => out.number(4),
        GuardianOrder::Finish => out.number(5),
    }
    out.send(to)
}

/// Reads an order. None: the other side has gone.
pub fn receive_order(from: &mut impl Read) -> io::Result<Option<GuardianOrder>> {
    let Some(body) = receive(from)? else {
        return Ok(None);
    };
    let mut body = &body[..];
    let order = match take_number(&mut body)? {
        1 => GuardianOrder::Start(Box::new(CommandSpec {
            command: take_os(&mut body)?,
            cwd: take_maybe(&mut body)?,
            user: take_maybe(&mut body)?,
            inherited: take_pairs(&mut body)?,
            own: take_pairs(&mut body)?,
            lock: match take_number(&mut body)? {
                0 => None,
                _ => Some(LockRequest {
                    path: take_maybe(&mut body)?,
                    job: take_os(&mut body)?,
                    machine: take_os(&mut body)?,
                }),
            },
            descriptors: take_maybe(&mut body)?.and_then(|limit| limit.to_str()?.parse().ok()),
        })),
        2 => GuardianOrder::Terminate,
        3 => GuardianOrder::EndAll,
        4 => GuardianOrder::NameLeftovers,
        5 => GuardianOrder::Finish,
        _ => return Err(garbled()),
    };
    Ok(Some(order))
}

/// Writes a report, whole.
pub fn send_report(to: &mut impl Write, report: &Report) -> io::Result<()> {
    let mut out = Fields::default();
    let (tag, number, text) = match report {
        Report::Started { pid } => (1, *pid, ""),
        Report::Locked { message } => (2, 0, message.as_str()),
        Report::NotStarted { message } => (3, 0, message.as_str()),
        Report::Exited(Exit::Code(code)) => (4, *code, ""),
        Report::Exited(Exit::Signal(signal)) => (5, *signal, ""),
        Report::Empty => (6, 0, ""),
        Report::AllEnded { clean } => (7, i32::from(*clean), ""),
        Report::Leftovers { names } => (8, 0, names.as_str()),
    };
    out.number(tag);
    out.number(number);
    out.bytes(text.as_bytes());
    out.send(to)
}

/// Reads a report. None: the guardian has gone.
pub fn receive_report(from: &mut impl Read) -> io::Result<Option<Report>> {
    let Some(body) = receive(from)? else {
        return Ok(None);
    };
    let mut body = &body[..];
    let tag = take_number(&mut body)?;
    let number = take_number(&mut body)?;
    let text = take_os(&mut body)?.to_string_lossy().into_owned();
    Ok(Some(match tag {
        1 => Report::Started { pid: number },
        2 => Report::Locked { message: text },
        3 => Report::NotStarted { message: text },
        4 => Report::Exited(Exit::Code(number)),
        5 => Report::Exited(Exit::Signal(number)),
        6 => Report::Empty,
        7 => Report::AllEnded { clean: number != 0 },
        8 => Report::Leftovers { names: text },
        _ => return Err(garbled()),
    }))
}

#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    fn number(&mut self, value: i32) {
        self.0.extend_from_slice(&value.to_ne_bytes());
    }

    fn bytes(&mut self, value: &[u8]) {
        // frames above LARGEST_BYTES are refused in send, long before a length overflows
        self.number(value.len().min(i32::MAX as usize) as i32);
        self.0.extend_from_slice(value);
    }

    fn maybe(&mut self, value: Option<&OsString>) {
        self.number(i32::from(value.is_some()));
        if let Some(value) = value {
            self.bytes(value.as_bytes());
        }
    }

    fn pairs(&mut self, pairs: &[(OsString, OsString)]) {
        self.number(pairs.len() as i32);
        for (name, value) in pairs {
            self.bytes(name.as_bytes());
            self.bytes(value.as_bytes());
        }
    }

    fn send(self, to: &mut impl Write) -> io::Result<()> {
        if self.0.len() > LARGEST_BYTES {
            return Err(io::Error::other("the job is too large to be handed on"));
        }
        let mut frame = (self.0.len() as u32).to_ne_bytes().to_vec();
        frame.extend_from_slice(&self.0);
        to.write_all(&frame)
    }
}

fn receive(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0u8; 4];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = u32::from_ne_bytes(length) as usize;
    if length > LARGEST_BYTES {
        return Err(garbled());
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    Ok(Some(body))
}

fn take_number(body: &mut &[u8]) -> io::Result<i32> {
    let (number, rest) = body.split_first_chunk::<4>().ok_or_else(garbled)?;
    *body = rest;
    Ok(i32::from_ne_bytes(*number))
}

fn take_os(body: &mut &[u8]) -> io::Result<OsString> {
    let length = take_number(body)? as usize;
    let (value, rest) = body.split_at_checked(length).ok_or_else(garbled)?;
    *body = rest;
    Ok(OsString::from_vec(value.to_vec()))
}

fn take_maybe(body: &mut &[u8]) -> io::Result<Option<OsString>> {
    match take_number(body)? {
        0 => Ok(None),
        _ => take_os(body).map(Some),
    }
}

fn take_pairs(body: &mut &[u8]) -> io::Result<Vec<(OsString, OsString)>> {
    (0..take_number(body)?)
        .map(|_| Ok((take_os(body)?, take_os(body)?)))
        .collect()
}

fn garbled() -> io::Error {
    io::Error::other("wrapper and guardian do not understand each other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_and_reports_arrive_as_they_were_sent() {
        let odd = OsString::from_vec(vec![b'a', 0xff, b'\n']);
        let spec = CommandSpec {
            command: odd.clone(),
            cwd: Some("/".into()),
            user: None,
            inherited: vec![("PATH".into(), odd.clone())],
            own: vec![],
            lock: Some(LockRequest {
                path: None,
                job: "j".into(),
                machine: odd,
            }),
            descriptors: Some(u64::MAX),
        };
        let orders = [
            GuardianOrder::Start(Box::new(spec)),
            GuardianOrder::Start(Box::default()),
            GuardianOrder::Terminate,
            GuardianOrder::EndAll,
            GuardianOrder::NameLeftovers,
            GuardianOrder::Finish,
        ];
        for order in orders {
            let mut wire = Vec::new();
            send_order(&mut wire, &order).unwrap();
            assert_eq!(receive_order(&mut &wire[..]).unwrap(), Some(order));
        }
        let reports = [
            Report::Started { pid: 5 },
            Report::Locked { message: "m".into() },
            Report::NotStarted {
                message: "grüße".into(),
            },
            Report::Exited(Exit::Code(3)),
            Report::Exited(Exit::Signal(9)),
            Report::Empty,
            Report::AllEnded { clean: true },
            Report::Leftovers { names: "n".into() },
        ];
        for report in reports {
            let mut wire = Vec::new();
            send_report(&mut wire, &report).unwrap();
            assert_eq!(receive_report(&mut &wire[..]).unwrap(), Some(report));
        }
        assert_eq!(receive_order(&mut &[][..]).unwrap(), None);
    }
}
