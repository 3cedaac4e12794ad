//! The thread that notices changes of the configuration directory: the kernel tells (inotify), and a look now and
//! then is the belt, for links and for file systems where the kernel is silent.
//! Must not know: what the files say.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use super::{Config, Loader, listing};
use crate::clock::Mono;
use crate::thread::Actor;
use crate::wake::{self, Waker};
use crate::{clock, limits, thread};

/// The running watch; stopped and joined on drop.
pub struct Watcher {
    waker: Arc<Waker>,
    poked: Arc<AtomicBool>,
    _thread: Actor,
}

/// Starts the watch. `on_change` is called on its thread with each new content, not with the one that the loader
/// had before; to log its problems is up to that.
pub fn start(loader: Loader, on_change: impl FnMut(Arc<Config>) + Send + 'static) -> io::Result<Watcher> {
    let waker = Arc::new(Waker::new()?);
    let poked = Arc::new(AtomicBool::new(false));
    let stopped = Arc::new(AtomicBool::new(false));
    let watch = Watch {
        directory: Directory::new(loader.dir().to_path_buf()),
        sweep: Sweep::default(),
        known: loader.current(),
        loader,
        on_change: Box::new(on_change),
        waker: waker.clone(),
        poked: poked.clone(),
        stopped: stopped.clone(),
        told_error: None,
    };
    let thread = thread::spawn("config", limits::STACK_BYTES, move || watch.run())?;
    let stopper = waker.clone();
    let stop = move || {
        stopped.store(true, Ordering::Release);
        stopper.wake();
    };
    Ok(Watcher {
        waker,
        poked,
        _thread: Actor::new(thread, stop),
    })
}

impl Watcher {
    /// Has the directory read now (SIGHUP), whatever the kernel says.
    pub fn poke(&self) {
        self.poked.store(true, Ordering::Release);
        self.waker.wake();
    }
}

struct Watch {
    loader: Loader,
    on_change: Box<dyn FnMut(Arc<Config>) + Send>,
    waker: Arc<Waker>,
    poked: Arc<AtomicBool>,
    stopped: Arc<AtomicBool>,
    directory: Directory,
    sweep: Sweep,
    known: Option<Arc<Config>>,
    /// Why the directory could not be read at all, when that was logged.
    told_error: Option<String>,
}

impl Watch {
    fn run(mut self) {
        self.directory.watch();
        // between the caller's load and this thread's start something may have changed
        self.load();
        self.loader.save_last_good();
        let mut pending = Pending::default();
        while !self.stopped.load(Ordering::Acquire) {
            let now = clock::mono();
            let next = pending
                .due()
                .map_or(self.sweep.next, |due| due.min(self.sweep.next));
            let fd = self.directory.inotify.as_ref().map(AsFd::as_fd);
            let waited = wake::wait(fd, false, &self.waker, Some(next.since_ms(now)));
            if let Err(error) = waited {
                log::error!("waiting for configuration changes: {error}; they are not noticed any more");
                return;
            }
            let now = clock::mono();
            self.directory.read_events(&mut pending, now);
            let poked = self.poked.swap(false, Ordering::AcqRel);
            let due = pending.due().is_some_and(|due| due <= now);
            if poked || due || (now >= self.sweep.next && self.sweep_finds_change(now)) {
                pending = Pending::default();
                self.load();
            }
        }
    }

    fn load(&mut self) {
        match self.loader.load() {
            Ok(config) => {
                self.told_error = None;
                if self
                    .known
                    .as_ref()
                    .is_none_or(|known| !Arc::ptr_eq(known, &config))
                {
                    self.known = Some(config.clone());
                    log::info!("configuration: {} jobs in force", config.jobs.len());
                    (self.on_change)(config);
                    self.loader.save_last_good();
                }
            }
            Err(error) if self.told_error.as_ref() != Some(&error) => {
                log::error!("{error}");
                self.told_error = Some(error);
            }
            Err(_) => {}
        }
        let now = clock::mono();
        let full = Mono::plus_ms(now, limits::CONFIG_FULL_SWEEP_MS);
        let (files, links) = self.loader.links();
        self.sweep = Sweep {
            next: now.plus_ms(limits::CONFIG_POLL_MS),
            full,
            links: looked_at(&links),
            files,
        };
    }

    /// A look of the cheapest kind that suffices: with few files, or where the kernel is silent, at everything.
    fn sweep_finds_change(&mut self, now: Mono) -> bool {
        self.sweep.next = now.plus_ms(limits::CONFIG_POLL_MS);
        let replaced = self.directory.is_replaced();
        if replaced {
            self.directory.watch();
        }
        replaced
            || self.directory.inotify.is_none()
            || self.sweep.files <= limits::CONFIG_SWEEP_FILES
            || now >= self.sweep.full
            || self.loader.is_unsettled()
            || self.sweep.links != looked_at(self.sweep.links.iter().map(|(path, _)| path))
    }
}

/// When to look without being told, and what was seen.
#[derive(Default)]
struct Sweep {
    next: Mono,
    full: Mono,
    links: Vec<(PathBuf, Option<LinkStamp>)>,
    files: usize,
}

/// Enough of a link's target to see it change: device, inode, size, time of change.
type LinkStamp = (u64, u64, u64, i64, i64);

fn looked_at<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Vec<(PathBuf, Option<LinkStamp>)> {
    paths.into_iter().map(|path| (path.clone(), look(path))).collect()
}

fn look(path: &Path) -> Option<LinkStamp> {
    let metadata = fs::metadata(path).ok()?;
    Some((
        metadata.dev(),
        metadata.ino(),
        metadata.size(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    ))
}

/// What the kernel told and was not read yet.
#[derive(Default)]
struct Pending {
    first: Option<Mono>,
    last: Mono,
    /// Files written to and not closed yet.
    open: BTreeSet<OsString>,
}

impl Pending {
    fn note(&mut self, now: Mono) {
        self.first.get_or_insert(now);
        self.last = now;
    }

    /// When the files should be read: once all is quiet, but not endlessly later.
    fn due(&self) -> Option<Mono> {
        let latest = self.first?.plus_ms(limits::CONFIG_PATIENCE_MS);
        if self.open.is_empty() {
            return Some(latest.min(self.last.plus_ms(limits::CONFIG_QUIET_MS)));
        }
        Some(latest)
    }
}

/// The directory and the kernel's watch of it.
struct Directory {
    path: PathBuf,
    /// None: the kernel does not tell.
    inotify: Option<OwnedFd>,
    /// Device and inode that are watched.
    watched: Option<(u64, u64)>,
}

impl Directory {
    fn new(path: PathBuf) -> Directory {
        Directory {
            path,
            inotify: None,
            watched: None,
        }
    }

    /// Watches what the path leads to now.
    fn watch(&mut self) {
        self.watched = self.identity();
        let flags = WatchFlags::CREATE
            | WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::ATTRIB
            | WatchFlags::ONLYDIR;
        let opened = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).and_then(|fd| {
            inotify::add_watch(&fd, &self.path, flags)?;
            Ok(fd)
        });
        self.inotify = opened
            .inspect_err(|error| {
                log::debug!(
                    "the kernel does not tell of changes in '{}': {error}",
                    self.path.display()
                );
            })
            .ok();
    }

    /// Whether the path leads elsewhere than what is watched (a link was moved, the directory made anew).
    fn is_replaced(&self) -> bool {
        self.identity() != self.watched || (self.inotify.is_none() && self.watched.is_some())
    }

    fn identity(&self) -> Option<(u64, u64)> {
        fs::metadata(&self.path)
            .ok()
            .map(|metadata| (metadata.dev(), metadata.ino()))
    }

    fn read_events(&mut self, pending: &mut Pending, now: Mono) {
        let Some(inotify) = &self.inotify else { return };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(inotify, &mut buffer);
        loop {
            let event = match events.next() {
                Ok(event) => event,
                Err(Errno::INTR) => continue,
                // WOULDBLOCK: all read; anything else shows in the next sweep
                Err(_) => return,
            };
            let what = event.events();
            let name = event
                .file_name()
                .map(|name| OsStr::from_bytes(name.to_bytes()).to_os_string());
            match name {
                Some(name) if listing::is_job_file(&name) => {
                    if what.contains(ReadFlags::MODIFY) {
                        pending.open.insert(name);
                    } else if !what.contains(ReadFlags::ATTRIB) {
                        pending.open.remove(&name);
                    }
                    pending.note(now);
                }
                Some(name) if listing::has_short_suffix(&name) => pending.note(now),
                Some(_) => {}
                // the queue overflowed, or something befell the directory itself
                None => {
                    if what.contains(ReadFlags::IGNORED) {
                        // gone; a new one may get the same inode
                        self.watched = None;
                    }
                    pending.note(now);
                }
            }
        }
    }
}
