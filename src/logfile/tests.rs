//! Job logs as operators read them, checked on real files.

use super::*;
use crate::budget::Chunk;
use crate::clock::Wall;
use crate::engine::effect::{StorageOrder, Write as StorageWrite};
use crate::engine::id::MachineRunId;
use crate::engine::record::OutputRow;
use crate::storage::{self, Callbacks, Request, Storage};

struct TempDir(PathBuf);

impl TempDir {
    fn new(name: &str) -> TempDir {
        let path = std::env::temp_dir().join(format!("saltpeter-log-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        TempDir(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const DAY: i64 = 20_000;
const AT: &str = "1970-01-01T00:00:01.000000+00:00";

/// A storage that holds `output` of machine run 1.
fn storage(dir: &TempDir, output: &[u8]) -> Storage {
    let (opened, _) = storage::open(&dir.0.join("state")).unwrap();
    let storage = opened
        .start(Callbacks {
            deliver: Box::new(|_, _| ()),
            report: Box::new(|_| ()),
        })
        .unwrap();
    let write = StorageWrite {
        output: vec![OutputRow {
            machine_run: MachineRunId(1),
            day: DAY,
            row: 0,
            seq: Some(0),
            byte_offset: 0,
            utf16_offset: 0,
            data: Chunk::free(output.to_vec()),
        }],
        ..StorageWrite::default()
    };
    storage
        .try_send(Request::Order(StorageOrder::Commit(Box::new(write))))
        .unwrap();
    let (done, wait) = crossbeam_channel::bounded(1);
    storage.try_send(Request::Sync(done)).unwrap();
    wait.recv().unwrap();
    storage
}

fn entry(job: &str, what: JobLogLine) -> JobLogEntry {
    JobLogEntry {
        job: job.into(),
        instance: format!("{job}_1"),
        at: Wall::from_secs(1),
        what,
    }
}

fn result(limit_bytes: u64) -> JobLogLine {
    JobLogLine::Result {
        machine: "web01".into(),
        retcode: 3,
        output: OutputRef {
            machine_run: MachineRunId(1),
            day: DAY,
            limit_bytes,
        },
    }
}

#[test]
fn a_job_log_reads_as_it_always_did() {
    let dir = TempDir::new("format");
    let storage = storage(&dir, b"10%\r100%\nend");
    let log = start(dir.0.join("new/logs"), storage.reader()).unwrap();
    let machine = || "web01".to_string();
    let lines = [
        JobLogLine::Starting,
        JobLogLine::StartingOn { machine: machine() },
        result(0),
        JobLogLine::Finished,
        JobLogLine::Overlap,
        JobLogLine::NoTargets,
    ];
    for line in lines {
        log.try_send(entry("backup", line)).unwrap();
    }
    drop(log);
    let expected = format!(
        "###### Starting backup_1 at {AT} ################\n\
         ###### Starting backup_1 on web01 at {AT} ################\n\
         ########## web01 from backup_1 ################\n\
         **** Exit Code 3 ******\n\
         100%\nend\n\
         ####### END web01 from backup_1 at {AT} #########\n\
         ###### Finished backup_1 at {AT} ################\n\
         ###### Overlap detected on backup_1 at {AT} ################\n\
         !!!!!! No targets matched for backup_1 !!!!!!\n"
    );
    assert_eq!(
        fs::read_to_string(dir.0.join("new/logs/backup.log")).unwrap(),
        expected
    );
}

#[test]
fn output_beyond_its_limit_says_what_is_left_out() {
    let dir = TempDir::new("limit");
    let storage = storage(&dir, &[b'x'; 1_000]);
    let log = start(dir.0.clone(), storage.reader()).unwrap();
    log.try_send(entry("../x", result(10))).unwrap();
    drop(log);
    let written = fs::read_to_string(dir.0.join("%2E.%2Fx.log")).unwrap();
    assert!(
        written.contains("******\nxxxxx\n[990 bytes left out]\nxxxxx\n#######"),
        "{written}"
    );
}

#[test]
fn a_rotated_log_is_noticed_without_a_signal() {
    let dir = TempDir::new("rotate");
    let storage = storage(&dir, b"");
    let path = dir.0.join("job.log");
    let mut writer = Writer {
        logdir: dir.0.clone(),
        reader: storage.reader(),
        changes: Arc::default(),
        open: HashMap::new(),
        in_trouble: HashSet::new(),
        entries: 0,
    };
    writer.log(&entry("job", JobLogLine::Starting));
    fs::rename(&path, dir.0.join("job.log.1")).unwrap();
    writer.log(&entry("job", JobLogLine::Finished));
    let read = |name: &str| fs::read_to_string(dir.0.join(name)).unwrap();
    assert!(read("job.log.1").contains("Starting") && !read("job.log.1").contains("Finished"));
    assert!(read("job.log").contains("Finished"));
    // what cannot be written is no end: it goes on when it is mended
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    writer.log(&entry("job", JobLogLine::Starting));
    writer.log(&entry("job", JobLogLine::Starting));
    assert_eq!(writer.in_trouble.len(), 1);
    fs::remove_dir(&path).unwrap();
    writer.log(&entry("job", JobLogLine::Overlap));
    assert!(writer.in_trouble.is_empty() && read("job.log").contains("Overlap"));
}

#[test]
fn only_so_many_log_files_stay_open() {
    let dir = TempDir::new("many");
    let storage = storage(&dir, b"");
    let log = start(dir.0.clone(), storage.reader()).unwrap();
    for _ in 0..2 {
        for job in 0..limits::JOB_LOG_FILES + 10 {
            log.try_send(entry(&format!("job{job}"), JobLogLine::Starting))
                .unwrap();
        }
    }
    log.set_logdir(dir.0.clone());
    log.reopen();
    drop(log);
    let lines = fs::read_to_string(dir.0.join("job3.log")).unwrap();
    assert_eq!(lines.lines().count(), 2);
}
