//! Output between the command's pipe and the session: a queue of bytes, in memory while it is short, else in a
//! row of files; above its limit the middle is left out. One thread appends, the owner takes.
//! Must not know: frames, the daemon.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::process::geteuid;

use crate::clock;
use crate::limits;
use crate::process::private;
use crate::safe_name::safe_name;
use crate::wake::Waker;
use crate::wrapper::chunk;

/// The queue. Shared by the reader of the pipe and the owner.
#[derive(Debug)]
pub struct Spool {
    queue: Mutex<Queue>,
    /// Rung when there is room again for a reader that was refused.
    room: Waker,
}

/// What became of bytes that were offered.
#[derive(Debug, PartialEq, Eq)]
pub enum Appended {
    /// Taken; `wake`: the owner has asked to be told by now.
    Taken { wake: bool },
    /// No room for more than the first `taken`, and nothing may be left out: wait for the room waker, then offer
    /// the rest.
    Full { taken: usize },
}

#[derive(Debug)]
struct Queue {
    /// Taken out of the rest, not yet cut into a frame.
    staged: Vec<u8>,
    memory: VecDeque<u8>,
    segments: VecDeque<Segment>,
    dir: SpoolDir,
    limit_bytes: u64,
    /// While the daemon takes output nothing is left out: the reader waits instead.
    may_leave_out: bool,
    reader_waits: bool,
    /// Left out behind everything that is queued.
    left_out_at_end: u64,
    last_byte: u8,
    /// `append` wakes the owner once when so many bytes wait.
    wake_at: u64,
    is_woken: bool,
    /// What was left when `take` last had nothing to give.
    rest_seen: u64,
    /// The pipe's last bytes come: they are taken whatever the limit says.
    closing: bool,
    complained: bool,
}

#[derive(Debug)]
struct Segment {
    file: Arc<File>,
    path: PathBuf,
    read: u64,
    written: u64,
    /// Left out between the segment before and this one.
    left_out_before: u64,
}

/// The directory of this wrapper's spool files, made when the first is needed.
#[derive(Debug)]
struct SpoolDir {
    root: PathBuf,
    name: String,
    /// Locked as long as this process lives, so that its files are not taken for a dead wrapper's.
    lock: Option<File>,
    next_segment: u64,
}

/// Where appended bytes go.
enum Destination {
    Memory,
    Disk { file: Arc<File>, offset: u64, room: u64 },
    LeftOut,
    Nowhere,
}

impl Spool {
    /// An empty spool whose files would lie in a directory `name` of its own under `root`.
    pub fn new(root: PathBuf, name: &str, limit_bytes: u64) -> io::Result<Spool> {
        Ok(Spool {
            queue: Mutex::new(Queue {
                staged: Vec::new(),
                memory: VecDeque::new(),
                segments: VecDeque::new(),
                dir: SpoolDir {
                    root,
                    name: safe_name(name),
                    lock: None,
                    next_segment: 0,
                },
                limit_bytes,
                may_leave_out: true,
                reader_waits: false,
                left_out_at_end: 0,
                last_byte: b'\n',
                wake_at: 1,
                is_woken: false,
                rest_seen: 0,
                closing: false,
                complained: false,
            }),
            room: Waker::new()?,
        })
    }

    /// Changes the limit on disk (a job's environment may).
    pub fn set_limit_bytes(&self, limit_bytes: u64) {
        self.queue.lock().limit_bytes = limit_bytes;
    }

    /// Whether output may be left out when the limit is reached; if not, the reader waits.
    pub fn set_may_leave_out(&self, may: bool) {
        let mut queue = self.queue.lock();
        queue.may_leave_out = may;
        if may && std::mem::take(&mut queue.reader_waits) {
            self.room.wake();
        }
    }

    /// Rung when a refused reader may try again.
    pub fn room(&self) -> &Waker {
        &self.room
    }

    /// Appends `bytes`. Only for the one reader. Writes files without holding the lock.
    pub fn append(&self, mut bytes: &[u8]) -> Appended {
        let offered = bytes.len();
        while !bytes.is_empty() {
            let place = self.queue.lock().destination_for(bytes.len());
            let taken = match place {
                Destination::Memory => {
                    self.queue.lock().memory.extend(bytes);
                    bytes.len()
                }
                Destination::Disk { file, offset, room } => {
                    let length = bytes.len().min(room as usize);
                    let written = file.write_all_at(&bytes[..length], offset);
                    self.queue.lock().wrote(length, written)
                }
                Destination::LeftOut => {
                    self.queue.lock().left_out_at_end += bytes.len() as u64;
                    bytes.len()
                }
                Destination::Nowhere => 0,
            };
            if taken == 0 {
                return Appended::Full {
                    taken: offered - bytes.len(),
                };
            }
            bytes = &bytes[taken..];
        }
        let mut queue = self.queue.lock();
        let wake = !queue.is_woken && queue.length() >= queue.wake_at;
        queue.is_woken |= wake;
        Appended::Taken { wake }
    }

    /// Bytes that wait, the notices of what was left out not counted.
    pub fn length(&self) -> u64 {
        self.queue.lock().length()
    }

    /// True when nothing is left to take.
    pub fn is_empty(&self) -> bool {
        let queue = self.queue.lock();
        queue.length() == 0 && queue.left_out_at_end == 0
    }

    /// From now on no limit holds: what is still in the pipe, a bounded rest, is taken. Wakes a refused reader.
    pub fn close(&self) {
        self.queue.lock().closing = true;
        self.room.wake();
    }

    /// Has `append` wake once when more waits than `take` could give. True: it does already.
    pub fn ring_when_more(&self) -> bool {
        let mut queue = self.queue.lock();
        let wake_at = queue.rest_seen + 1;
        queue.wake_at(wake_at)
    }

    /// Has `append` wake once when so many bytes wait. True: they do already.
    pub fn wake_at(&self, length: usize) -> bool {
        self.queue.lock().wake_at(length as u64)
    }

    /// Removes the files. Only when their content is no longer needed.
    pub fn discard(&self) {
        self.queue.lock().discard();
    }

    /// The next frame's bytes. None: nothing, or only the beginning of a sequence whose rest may come.
    pub fn take(&self, is_last: bool) -> Option<Vec<u8>> {
        let mut queue = self.queue.lock();
        queue.stage();
        let length = chunk::cut(&queue.staged, is_last && queue.beyond_staged() == 0);
        if length == 0 {
            queue.rest_seen = queue.length();
            return None;
        }
        let rest = queue.staged.split_off(length);
        let frame = std::mem::replace(&mut queue.staged, rest);
        queue.last_byte = *frame.last()?;
        if std::mem::take(&mut queue.reader_waits) {
            self.room.wake();
        }
        Some(frame)
    }

    /// The last byte that was taken: tells whether a notice begins a line.
    pub fn ends_with_newline(&self) -> bool {
        self.queue.lock().last_byte == b'\n'
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.queue.get_mut().discard();
    }
}

impl Queue {
    fn wake_at(&mut self, length: u64) -> bool {
        self.wake_at = length;
        self.is_woken = self.length() >= length;
        self.is_woken
    }

    fn discard(&mut self) {
        for segment in self.segments.drain(..) {
            let _ = std::fs::remove_file(segment.path);
        }
        if self.dir.lock.take().is_some() {
            let _ = std::fs::remove_dir(self.dir.path());
        }
    }

    fn length(&self) -> u64 {
        self.staged.len() as u64 + self.beyond_staged()
    }

    fn beyond_staged(&self) -> u64 {
        self.memory.len() as u64 + self.disk_bytes()
    }

    fn disk_bytes(&self) -> u64 {
        self.segments
            .iter()
            .map(|segment| segment.written - segment.read)
            .sum()
    }

    fn destination_for(&mut self, length: usize) -> Destination {
        // the writer itself calls this: it is not writing now
        if let [only] = self.segments.make_contiguous()
            && only.read == only.written
            && only.left_out_before == 0
        {
            let _ = std::fs::remove_file(&only.path);
            self.segments.clear();
        }
        // once something was left out at the end, what follows must come after the notice of it
        let in_memory = self.segments.is_empty() && self.left_out_at_end == 0;
        if in_memory && self.memory.len() + length <= limits::SPOOL_MEMORY_BYTES {
            return Destination::Memory;
        }
        let segment_bytes = self.segment_bytes();
        if let Some(last) = self.segments.back()
            && self.left_out_at_end == 0
            && last.written < segment_bytes
        {
            return last.place(segment_bytes);
        }
        let is_full = self.disk_bytes() + segment_bytes > self.limit_bytes
            || self.segments.len() > limits::SPOOL_SEGMENTS as usize;
        if is_full && !self.closing {
            if !self.may_leave_out {
                self.reader_waits = true;
                return Destination::Nowhere;
            }
            self.leave_out_middle();
        }
        match self.new_segment() {
            Ok(place) => place,
            Err(error) => self.without_disk(&error),
        }
    }

    fn segment_bytes(&self) -> u64 {
        let usual =
            (self.limit_bytes / 16).clamp(limits::SPOOL_SEGMENT_LEAST_BYTES, limits::SPOOL_SEGMENT_BYTES);
        usual.max(self.limit_bytes / limits::SPOOL_SEGMENTS)
    }

    fn new_segment(&mut self) -> io::Result<Destination> {
        let segment_bytes = self.segment_bytes();
        let (path, file) = self.dir.create_file()?;
        let segment = Segment {
            file: Arc::new(file),
            path,
            read: 0,
            written: 0,
            left_out_before: std::mem::take(&mut self.left_out_at_end),
        };
        let place = segment.place(segment_bytes);
        self.segments.push_back(segment);
        Ok(place)
    }

    fn without_disk(&mut self, error: &io::Error) -> Destination {
        if !std::mem::replace(&mut self.complained, true) {
            log::error!(
                "spooling to {}: {error}; output is held back or left out",
                self.dir.root.display()
            );
        }
        if self.may_leave_out || self.closing {
            return Destination::LeftOut;
        }
        self.reader_waits = true;
        Destination::Nowhere
    }

    /// Gives up the oldest file of the second half: the first half stays as it is, the second keeps the newest.
    fn leave_out_middle(&mut self) {
        let mut before = 0;
        let half = self.limit_bytes / 2;
        let gap = self
            .segments
            .iter()
            .position(|segment| segment.left_out_before > 0);
        let middle = gap.unwrap_or_else(|| {
            let past_half = self.segments.iter().position(|segment| {
                before += segment.written - segment.read;
                before > half
            });
            past_half.unwrap_or(0)
        });
        if let Some(segment) = self.segments.remove(middle) {
            let left_out = segment.left_out_before + segment.written - segment.read;
            let _ = std::fs::remove_file(segment.path);
            match self.segments.get_mut(middle) {
                Some(next) => next.left_out_before += left_out,
                None => self.left_out_at_end += left_out,
            }
        }
    }

    /// Accounts for a write; how many of the bytes are dealt with.
    fn wrote(&mut self, length: usize, written: io::Result<()>) -> usize {
        match (written, self.segments.back_mut()) {
            (Ok(()), Some(last)) => {
                last.written += length as u64;
                length
            }
            // the owner never removes a file that is not full yet unless it was read to its end: see `stage`
            (Ok(()), None) => length,
            (Err(error), _) => {
                self.drop_unused_segment();
                match self.without_disk(&error) {
                    Destination::LeftOut => {
                        self.left_out_at_end += length as u64;
                        length
                    }
                    _ => 0,
                }
            }
        }
    }

    /// On a full disk a file can still be made, but not filled: each would hold a descriptor, until the connection to
    /// the daemon finds none.
    fn drop_unused_segment(&mut self) {
        if self.segments.back().is_some_and(|last| last.written == 0)
            && let Some(last) = self.segments.pop_back()
        {
            let _ = std::fs::remove_file(last.path);
            self.left_out_at_end += last.left_out_before;
        }
    }

    /// Fills `staged` up to one frame, from memory first: it is older than what lies on disk.
    fn stage(&mut self) {
        while self.staged.len() < limits::OUTPUT_CHUNK_BYTES {
            let wanted = limits::OUTPUT_CHUNK_BYTES - self.staged.len();
            if !self.memory.is_empty() {
                self.stage_memory(wanted);
            } else if !self.segments.is_empty() {
                if !self.stage_segment(wanted) {
                    break;
                }
            } else {
                let left_out = std::mem::take(&mut self.left_out_at_end);
                self.stage_notice(left_out);
                break;
            }
        }
    }

    fn stage_memory(&mut self, wanted: usize) {
        let length = wanted.min(self.memory.len());
        let (front, back) = self.memory.as_slices();
        let from_front = length.min(front.len());
        self.staged.extend_from_slice(&front[..from_front]);
        self.staged.extend_from_slice(&back[..length - from_front]);
        self.memory.drain(..length);
        if self.memory.is_empty() && self.memory.capacity() > limits::OUTPUT_CHUNK_BYTES {
            self.memory = VecDeque::new();
        }
    }

    /// False: the reader is in the middle of the first write to the only file.
    fn stage_segment(&mut self, wanted: usize) -> bool {
        let segment_bytes = self.segment_bytes();
        let is_only = self.segments.len() == 1;
        let Some(first) = self.segments.front_mut() else {
            return false;
        };
        let left_out = std::mem::take(&mut first.left_out_before);
        let (file, offset) = (first.file.clone(), first.read);
        let length = (wanted as u64).min(first.written - first.read) as usize;
        first.read += length as u64;
        self.stage_notice(left_out);
        let start = self.staged.len();
        self.staged.resize(start + length, 0);
        if let Err(error) = file.read_exact_at(&mut self.staged[start..], offset) {
            log::error!("reading the spool: {error}; {length} bytes are left out");
            self.staged.truncate(start);
            self.stage_notice(length as u64);
        }
        let Some(first) = self.segments.front() else {
            return false;
        };
        if first.read < first.written {
            return true;
        }
        // the last file may be written to at this moment, unless it is full or something was left out behind it
        if is_only && first.written < segment_bytes && self.left_out_at_end == 0 {
            return false;
        }
        let _ = std::fs::remove_file(&first.path);
        self.segments.pop_front();
        true
    }

    fn stage_notice(&mut self, left_out: u64) {
        if left_out > 0 {
            let last = self.staged.last().copied().unwrap_or(self.last_byte);
            let fresh_line = if last == b'\n' { "" } else { "\n" };
            let notice = format!("{fresh_line}[{left_out} bytes left out]\n");
            self.staged.extend_from_slice(notice.as_bytes());
        }
    }
}

impl Segment {
    fn place(&self, segment_bytes: u64) -> Destination {
        Destination::Disk {
            file: self.file.clone(),
            offset: self.written,
            room: segment_bytes - self.written,
        }
    }
}

impl SpoolDir {
    fn path(&self) -> PathBuf {
        self.root.join(&self.name)
    }

    fn create_file(&mut self) -> io::Result<(PathBuf, File)> {
        if self.lock.is_none() {
            private::make_private(&self.root)?;
            private::make_private(&self.path())?;
            let directory = open_directory(&self.path())?;
            flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
            self.lock = Some(directory);
        }
        let path = self.path().join(self.next_segment.to_string());
        self.next_segment += 1;
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        Ok((path, file))
    }
}

/// `/var/lib/sp-wrapper` as root, else in the user's cache directory.
pub fn root() -> PathBuf {
    if geteuid().is_root() {
        return PathBuf::from("/var/lib/sp-wrapper");
    }
    private::private_directory().join("sp-wrapper").join("spool")
}

/// Removes what wrappers that are dead for more than a day have left under `root`.
pub fn remove_leftovers(root: &Path) {
    let Ok(entries) = std::fs::read_dir(root) else {
        return;
    };
    let now_s = clock::wall().secs();
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let Ok(found) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        let age_ms = now_s.saturating_sub(found.mtime()).max(0) as u64 * 1_000;
        if !found.is_dir() || found.uid() != geteuid().as_raw() || age_ms < limits::SPOOL_LEFTOVER_MS {
            continue;
        }
        let dead = open_directory(&path)
            .is_ok_and(|directory| flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok());
        if dead && let Err(error) = std::fs::remove_dir_all(&path) {
            log::warn!("removing the old spool {}: {error}", path.display());
        }
    }
}

fn open_directory(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: usize = limits::SPOOL_MEMORY_BYTES;

    fn spool(name: &str, limit_bytes: u64) -> (Spool, PathBuf) {
        let root = std::env::temp_dir().join(format!("sp-spool-{name}-{}", std::process::id()));
        (Spool::new(root.clone(), "j_1", limit_bytes).unwrap(), root)
    }

    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|at| b'a' + (at / 7 % 26) as u8).collect()
    }

    fn append(spool: &Spool, bytes: &[u8]) {
        for piece in bytes.chunks(100_000) {
            assert!(matches!(spool.append(piece), Appended::Taken { .. }));
        }
    }

    fn take_all(spool: &Spool) -> Vec<u8> {
        std::iter::from_fn(|| spool.take(true)).flatten().collect()
    }

    #[test]
    fn short_output_stays_in_memory_and_long_output_comes_back_from_disk() {
        let (spool, root) = spool("long", 1 << 30);
        append(&spool, &pattern(MEMORY - 100_000));
        assert!(!root.exists());
        let bytes = pattern(3 * MEMORY);
        append(&spool, &bytes);
        assert!(root.exists());
        let all = take_all(&spool);
        assert_eq!(all.len(), 4 * MEMORY - 100_000);
        assert!(all.ends_with(&bytes));
        assert!(spool.is_empty());
        append(&spool, b"again");
        assert_eq!(take_all(&spool), b"again");
        drop(spool);
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0);
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn above_the_limit_head_and_tail_are_kept_and_the_gap_is_named() {
        let (spool, root) = spool("limit", 1 << 20);
        let bytes = pattern(MEMORY + (10 << 20));
        append(&spool, &bytes);
        let all = take_all(&spool);
        let text = String::from_utf8(all).unwrap();
        let (head, rest) = text.split_once("\n[").unwrap();
        let (count, tail) = rest.split_once(" bytes left out]\n").unwrap();
        assert!(head.len() >= MEMORY - 100_000 + (1 << 19) && bytes.starts_with(head.as_bytes()));
        assert!(tail.len() >= (1 << 19) - (128 << 10) && bytes.ends_with(tail.as_bytes()));
        assert_eq!(
            head.len() + tail.len() + count.parse::<usize>().unwrap(),
            bytes.len()
        );
        assert!(head.len() + tail.len() <= MEMORY + (1 << 20));
        drop(spool);
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn while_the_daemon_takes_output_nothing_is_left_out_the_reader_waits() {
        let (spool, root) = spool("waits", 1 << 20);
        spool.set_may_leave_out(false);
        let bytes = pattern(MEMORY + (3 << 20));
        let mut all = Vec::new();
        let mut refused = 0;
        for mut piece in bytes.chunks(50_000) {
            while let Appended::Full { taken } = spool.append(piece) {
                refused += 1;
                piece = &piece[taken..];
                all.extend(spool.take(false).unwrap());
            }
        }
        all.extend(take_all(&spool));
        assert!(refused > 0);
        assert!(all == bytes);
        drop(spool);
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn without_a_disk_what_does_not_fit_is_left_out_and_said() {
        let file = std::env::temp_dir().join(format!("sp-spool-file-{}", std::process::id()));
        std::fs::write(&file, "").unwrap();
        let spool = Spool::new(file.join("x"), "j_1", 1 << 30).unwrap();
        append(&spool, &pattern(MEMORY / 100_000 * 100_000));
        append(&spool, &pattern(100_000));
        append(&spool, &pattern(100_000));
        let all = String::from_utf8(take_all(&spool)).unwrap();
        assert!(all.ends_with("\n[200000 bytes left out]\n"));
        std::fs::remove_file(file).unwrap();
    }

    /// What a full disk says to a write; the file itself can be made.
    fn fail_to_write(spool: &Spool, length: usize) {
        let mut queue = spool.queue.lock();
        if let Destination::Disk { .. } = queue.destination_for(length) {
            queue.wrote(length, Err(io::ErrorKind::StorageFull.into()));
        }
    }

    #[test]
    fn a_full_disk_costs_no_descriptors() {
        let (spool, root) = spool("full", 1 << 30);
        append(&spool, &pattern(MEMORY / 100_000 * 100_000));
        for _ in 0..1_000 {
            fail_to_write(&spool, 100_000);
        }
        assert_eq!(spool.queue.lock().segments.len(), 0);
        // a disk that takes something now and then
        for _ in 0..1_000 {
            fail_to_write(&spool, 100_000);
            append(&spool, b"x");
        }
        assert!(spool.queue.lock().segments.len() <= limits::SPOOL_SEGMENTS as usize + 1);
        let all = String::from_utf8(take_all(&spool)).unwrap();
        let left_out: u64 = all
            .lines()
            .filter_map(|line| {
                line.strip_prefix('[')?
                    .strip_suffix(" bytes left out]")?
                    .parse::<u64>()
                    .ok()
            })
            .sum();
        let kept = all.bytes().filter(|&byte| byte == b'x').count() as u64;
        assert!(kept > 0);
        // `pattern` has an x of its own now and then
        let own = pattern(MEMORY / 100_000 * 100_000)
            .iter()
            .filter(|&&byte| byte == b'x')
            .count() as u64;
        assert_eq!(left_out + kept - own, 2_000 * 100_000 + 1_000);
        drop(spool);
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn what_is_left_out_behind_a_file_that_is_not_full_is_said_at_the_end() {
        let (spool, root) = spool("behind", 1 << 30);
        append(&spool, &pattern(MEMORY / 100_000 * 100_000));
        append(&spool, &pattern(100_000));
        fail_to_write(&spool, 70_000);
        let all = String::from_utf8(take_all(&spool)).unwrap();
        assert!(all.ends_with("\n[70000 bytes left out]\n"));
        assert!(spool.is_empty(), "the outcome waits for this");
        drop(spool);
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_disk_that_is_full_while_the_daemon_takes_output_makes_the_reader_wait() {
        let (spool, root) = spool("busy", 1 << 30);
        spool.set_may_leave_out(false);
        append(&spool, &pattern(MEMORY / 100_000 * 100_000));
        append(&spool, &pattern(100_000));
        if let Some(last) = spool.queue.lock().segments.back_mut() {
            // open for reading only: each write fails
            last.file = Arc::new(File::open(&last.path).unwrap());
        }
        assert_eq!(spool.append(b"more"), Appended::Full { taken: 0 });
        assert!(spool.queue.lock().reader_waits);
        drop(spool);
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn however_large_its_limit_a_spool_is_a_short_row_of_files() {
        for limit_bytes in [0, 1 << 20, 1 << 30, 1 << 40, u64::MAX] {
            let (spool, _) = spool("large", limit_bytes);
            let segment_bytes = spool.queue.lock().segment_bytes();
            assert!(
                limit_bytes / segment_bytes <= limits::SPOOL_SEGMENTS,
                "{limit_bytes}"
            );
        }
    }

    #[test]
    fn the_owner_is_rung_once_per_asking() {
        let (spool, _) = spool("wakes", 1 << 20);
        assert_eq!(spool.append(b"a"), Appended::Taken { wake: true });
        assert_eq!(spool.append(b"b"), Appended::Taken { wake: false });
        assert!(!spool.wake_at(4));
        assert_eq!(spool.append(b"c"), Appended::Taken { wake: false });
        assert_eq!(spool.append(b"d"), Appended::Taken { wake: true });
        assert_eq!(spool.take(false).unwrap(), b"abcd");
    }

    #[test]
    fn only_leftovers_of_the_dead_are_removed() {
        let root = std::env::temp_dir().join(format!("sp-spool-leftovers-{}", std::process::id()));
        let old = rustix::fs::Timestamps {
            last_access: rustix::fs::Timespec {
                tv_sec: 1,
                tv_nsec: 0,
            },
            last_modification: rustix::fs::Timespec {
                tv_sec: 1,
                tv_nsec: 0,
            },
        };
        for name in ["dead", "alive", "young"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
            std::fs::write(root.join(name).join("0"), "x").unwrap();
        }
        let alive = open_directory(&root.join("alive")).unwrap();
        flock(&alive, FlockOperation::NonBlockingLockExclusive).unwrap();
        rustix::fs::futimens(&alive, &old).unwrap();
        rustix::fs::futimens(open_directory(&root.join("dead")).unwrap(), &old).unwrap();
        remove_leftovers(&root);
        assert!(!root.join("dead").exists());
        assert!(root.join("alive").exists() && root.join("young").exists());
        std::fs::remove_dir_all(root).unwrap();
    }
}
