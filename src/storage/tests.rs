//! Promises of storage, checked on real files.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::budget::Chunk;
use crate::clock::Wall;
use crate::config::JobSpec;
use crate::engine::effect::{Fact, StorageOrder, Write};
use crate::engine::event::StoreOutcome;
use crate::engine::id::{MachineRunId, RunId, Ticket};
use crate::engine::record::*;

/// Long enough for a busy machine; nothing waits that long when it works.
const DEADLINE: Duration = Duration::from_secs(60);
const DAY: i64 = 20_000;

/// A directory that is removed with its content.
pub(crate) struct TempDir(pub PathBuf);

impl TempDir {
    pub(crate) fn new(name: &str) -> TempDir {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("saltpeter-{name}-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        TempDir(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A storage whose answers can be waited for.
struct Fixture {
    storage: Storage,
    acks: Receiver<(ConnectionId, DaemonFrame)>,
    events: Receiver<Event>,
}

impl Fixture {
    fn open(dir: &Path) -> (Fixture, Recovered) {
        let (opened, recovered) = open(dir).unwrap();
        let (ack_in, acks) = crossbeam_channel::bounded(100_000);
        let (event_in, events) = crossbeam_channel::bounded(100_000);
        let storage = opened
            .start(Callbacks {
                deliver: Box::new(move |connection, frame| ack_in.send((connection, frame)).unwrap()),
                report: Box::new(move |event| event_in.send(event).unwrap()),
            })
            .unwrap();
        let fixture = Fixture {
            storage,
            acks,
            events,
        };
        (fixture, recovered)
    }

    fn commit(&self, write: Write) {
        self.storage
            .try_send(Request::Order(StorageOrder::Commit(Box::new(write))))
            .unwrap();
    }

    fn sync(&self) {
        let (done, wait) = crossbeam_channel::bounded(1);
        self.storage.try_send(Request::Sync(done)).unwrap();
        wait.recv_timeout(DEADLINE).unwrap();
    }

    /// Commits and waits for the outcome.
    fn outcome(&self, mut write: Write) -> StoreOutcome {
        write.ticket = Some(Ticket(7));
        self.commit(write);
        loop {
            if let Event::Stored { outcome, .. } = self.events.recv_timeout(DEADLINE).unwrap() {
                return outcome;
            }
        }
    }
}

fn run_record(id: u64, job: &str, started: Wall, limit: u64) -> RunRecord {
    RunRecord {
        id: RunId(id),
        instance: format!("{job}_{id}"),
        job: job.into(),
        due: Some(Wall(started.0 - 5)),
        asked_by: None,
        started,
        stage: RunStage::Running,
        token: "secret".into(),
        spec: Arc::new(JobSpec {
            group: "ops".into(),
            command: "true".into(),
            output_limit_bytes: limit,
            ..JobSpec::default()
        }),
        ..RunRecord::default()
    }
}

fn machine_record(id: u64, run: u64) -> MachineRecord {
    MachineRecord {
        id: MachineRunId(id),
        run: RunId(run),
        machine: format!("web{id:02}"),
        stage: MachineStage::Started,
        wrapper_id: Some("w".into()),
        pid: Some(42),
        started: Some(Wall(77)),
        kill_asked: Some(Wall(78)),
        ..MachineRecord::default()
    }
}

fn ended(mut run: RunRecord, success: bool) -> RunRecord {
    run.stage = RunStage::Ended;
    run.ended = Some(Wall(run.started.0 + 1_000_000));
    run.success = Some(success);
    run
}

fn started_at(day: i64) -> Wall {
    Wall::from_secs(day * 86_400 + 3_600)
}

fn row(machine_run: u64, row: u64, byte_offset: u64, data: &[u8]) -> OutputRow {
    OutputRow {
        machine_run: MachineRunId(machine_run),
        day: DAY,
        row,
        seq: Some(row),
        byte_offset,
        utf16_offset: byte_offset,
        data: Chunk::free(data.to_vec()),
    }
}

fn facts(facts: Vec<Fact>) -> Write {
    Write {
        facts,
        ..Write::default()
    }
}

fn output(rows: Vec<OutputRow>) -> Write {
    Write {
        output: rows,
        ..Write::default()
    }
}

fn begin_run(id: u64, limit: u64) -> Write {
    let run = run_record(id, "backup", started_at(DAY), limit);
    facts(vec![
        Fact::Start(Box::new(run)),
        Fact::Machine(Box::new(machine_record(id, id))),
    ])
}

fn output_ref(machine_run: u64, day: i64, limit_bytes: u64) -> OutputRef {
    OutputRef {
        machine_run: MachineRunId(machine_run),
        day,
        limit_bytes,
    }
}

fn whole(reader: &Reader, machine_run: u64, limit: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    reader
        .read_output(output_ref(machine_run, DAY, limit), 0..u64::MAX, &mut bytes)
        .unwrap();
    bytes
}

#[test]
fn a_daemon_finds_everything_again() {
    let dir = TempDir::new("recover");
    let run = run_record(4, "backup", started_at(DAY), 100);
    let machine = machine_record(9, 4);
    let old = ended(run_record(2, "backup", started_at(DAY), 100), true);
    let last = ended(run_record(3, "backup", started_at(DAY), 100), false);
    let job = JobRecord {
        job: "backup".into(),
        result_ok: Some(false),
        missed: 3,
        ..JobRecord::default()
    };
    {
        let (fixture, empty) = Fixture::open(&dir.0);
        assert_eq!(
            (empty.next_run, empty.next_machine_run, empty.last_look),
            (1, 1, None)
        );
        let mut write = facts(vec![
            Fact::Start(Box::new(run.clone())),
            Fact::Machine(Box::new(machine.clone())),
            Fact::Run(Box::new(old)),
            Fact::Run(Box::new(last.clone())),
            Fact::Job(job.clone()),
            Fact::LastLook(Wall(99)),
        ]);
        let euro = "a€".as_bytes();
        write.output = vec![
            row(9, 0, 0, &euro[..2]),
            row(9, 1, 2, &[&euro[2..], b"b"].concat()),
        ];
        write.output[1].utf16_offset = 1;
        assert_eq!(fixture.outcome(write), StoreOutcome::Committed);
    }
    let (_fixture, recovered) = Fixture::open(&dir.0);
    assert_eq!((recovered.next_run, recovered.next_machine_run), (5, 10));
    assert_eq!(recovered.last_look, Some(Wall(99)));
    assert_eq!(recovered.jobs, [job]);
    let position = OutputPosition {
        next_seq: 2,
        next_row: 2,
        bytes: 5,
        utf16: 3,
        last_bytes: "€b".as_bytes().to_vec(),
        tail_from_row: None,
    };
    let unfinished = StoredRun {
        run,
        machines: vec![(machine, position)],
    };
    let last_ended = StoredRun {
        run: last,
        machines: Vec::new(),
    };
    assert_eq!(recovered.runs, [last_ended, unfinished]);
}

#[test]
fn a_due_time_starts_once_and_a_refused_write_leaves_nothing() {
    let dir = TempDir::new("start");
    let (fixture, _) = Fixture::open(&dir.0);
    assert_eq!(fixture.outcome(begin_run(1, 0)), StoreOutcome::Committed);
    let mut again = begin_run(2, 0);
    again.output = vec![row(2, 0, 0, b"never")];
    again.acks = vec![(ConnectionId(2), DaemonFrame::StartAck)];
    assert_eq!(fixture.outcome(again), StoreOutcome::AlreadyStarted);
    let mut same_name = run_record(3, "backup", started_at(DAY), 0);
    same_name.instance = "backup_1".into();
    same_name.due = None;
    let write = facts(vec![Fact::Start(Box::new(same_name))]);
    assert_eq!(fixture.outcome(write), StoreOutcome::NameTaken);
    assert!(fixture.acks.is_empty());
    let reader = fixture.storage.reader();
    assert_eq!(reader.run("backup_2").unwrap(), None);
    assert_eq!(whole(&reader, 2, 0), b"");
}

#[test]
fn two_starts_in_one_group_do_not_both_start() {
    let dir = TempDir::new("group");
    let (opened, _) = open(&dir.0).unwrap();
    let (event_in, events) = crossbeam_channel::bounded(10);
    // queued before the thread runs: one group
    let (sender, receiver) = crossbeam_channel::bounded(10);
    for id in [1, 2] {
        let mut write = begin_run(id, 0);
        write.ticket = Some(Ticket(id));
        sender
            .send(Request::Order(StorageOrder::Commit(Box::new(write))))
            .unwrap();
    }
    drop(sender);
    let callbacks = Callbacks {
        deliver: Box::new(|_, _| ()),
        report: Box::new(move |event| event_in.send(event).unwrap()),
    };
    let OpenStore { mut worker, .. } = opened;
    worker.run(&receiver, &callbacks);
    let outcomes: Vec<_> = events.try_iter().map(|event| format!("{event:?}")).collect();
    assert!(
        outcomes[0].contains("Committed") && outcomes[1].contains("AlreadyStarted"),
        "{outcomes:?}"
    );
}

#[test]
fn a_due_time_keeps_its_first_verdict_but_a_start_is_never_hidden() {
    let dir = TempDir::new("verdict");
    let (fixture, _) = Fixture::open(&dir.0);
    let due = Wall(started_at(DAY).0 - 5);
    let verdict = |verdict| VerdictRecord {
        job: "backup".into(),
        due,
        until: due,
        count: 1,
        verdict,
    };
    let missed = Verdict::Missed {
        reason: "full".into(),
    };
    fixture.commit(facts(vec![
        Fact::Verdict(verdict(missed)),
        Fact::Verdict(verdict(Verdict::Overlap)),
    ]));
    fixture.sync();
    let state = rusqlite::Connection::open(dir.0.join("state.db")).unwrap();
    let stored = || {
        state
            .query_row("SELECT group_concat(verdict) FROM verdicts", [], |row| {
                row.get::<_, String>(0)
            })
            .unwrap()
    };
    assert_eq!(stored(), "missed");
    assert_eq!(fixture.outcome(begin_run(1, 0)), StoreOutcome::Committed);
    fixture.commit(facts(vec![Fact::Verdict(verdict(Verdict::Overlap))]));
    fixture.sync();
    assert_eq!(stored(), "started");
    assert_eq!(fixture.outcome(begin_run(2, 0)), StoreOutcome::AlreadyStarted);
}

#[test]
fn acks_leave_in_order_and_after_their_rows_can_be_read() {
    let dir = TempDir::new("acks");
    let (opened, _) = open(&dir.0).unwrap();
    let reader = opened.reader();
    let (ack_in, acks) = crossbeam_channel::bounded(1_000);
    let deliver = move |connection: ConnectionId, _| {
        let stored = reader.output_len(output_ref(1, DAY, 0)).unwrap();
        ack_in.send((connection.0, stored)).unwrap();
    };
    let storage = opened
        .start(Callbacks {
            deliver: Box::new(deliver),
            report: Box::new(|_| ()),
        })
        .unwrap();
    for at in 0..500 {
        let mut write = output(vec![row(1, at, at * 3, b"abc")]);
        write.acks = vec![(ConnectionId(at), DaemonFrame::OutputAck { seq: at })];
        storage
            .try_send(Request::Order(StorageOrder::Commit(Box::new(write))))
            .unwrap();
    }
    drop(storage);
    let acked: Vec<_> = acks.try_iter().collect();
    assert_eq!(acked.len(), 500);
    for (at, (connection, stored)) in acked.into_iter().enumerate() {
        assert_eq!(connection, at as u64);
        assert!(stored >= (at as u64 + 1) * 3);
    }
}

#[test]
fn beyond_its_limit_an_output_keeps_head_and_tail_exactly() {
    let dir = TempDir::new("limit");
    let (fixture, _) = Fixture::open(&dir.0);
    let limit = 40;
    assert_eq!(fixture.outcome(begin_run(1, limit)), StoreOutcome::Committed);
    // head rows up to half of the limit, then tail rows; the tail's front is trimmed as it moves on
    let stream: String = (0..40).map(|at| format!("{at:02}€")).collect();
    let stream = stream.as_bytes();
    let mut rows = vec![row(1, 0, 0, &stream[..20])];
    rows.extend((0..18).map(|at| {
        let from = 20 + at as usize * 10;
        row(1, 1 + at, from as u64, &stream[from..from + 10])
    }));
    fixture.commit(output(rows));
    let trim = vec![crate::engine::effect::Trim {
        machine_run: MachineRunId(1),
        day: DAY,
        from_row: 10,
        below_row: 17,
    }];
    fixture.commit(Write {
        trim,
        ..Write::default()
    });
    fixture.sync();
    let reader = fixture.storage.reader();
    let total = 200;
    // 20 bytes: the sequences at both borders are whole
    let head = &stream[..20];
    let tail = &stream[total - 20..];
    let presented = whole(&reader, 1, limit);
    let expected = [head, b"\n[160 bytes left out]\n", tail].concat();
    assert_eq!(
        String::from_utf8_lossy(&presented),
        String::from_utf8_lossy(&expected)
    );
    // a limit whose halves cut sequences: both shrink, and the line counts that
    for (limit, head, tail) in [(36, 17, 18), (34, 17, 15), (39, 17, 19)] {
        let shape = reader.output_shape(output_ref(1, DAY, limit)).unwrap();
        assert_eq!(
            (shape.head_bytes, shape.tail_bytes),
            (head, tail),
            "limit {limit}"
        );
        assert_eq!(shape.left_out_bytes(), 200 - head - tail);
    }
    let length = reader.output_len(output_ref(1, DAY, limit)).unwrap();
    for from in 0..=length {
        let mut part = Vec::new();
        let range = from..(from + 15).min(length);
        reader
            .read_output(output_ref(1, DAY, limit), range.clone(), &mut part)
            .unwrap();
        assert_eq!(part, expected[range.start as usize..range.end as usize]);
    }
    let (tail, is_cut) = reader.output_tail(output_ref(1, DAY, limit), 6).unwrap();
    assert_eq!((String::from_utf8(tail).unwrap().as_str(), is_cut), ("39€", true));
    drop(fixture);
    let (_fixture, recovered) = Fixture::open(&dir.0);
    let position = &recovered.runs[0].machines[0].1;
    assert_eq!(
        (position.tail_from_row, position.next_row, position.bytes),
        (Some(17), 19, 200)
    );
}

#[test]
fn a_number_that_has_output_is_never_given_again() {
    let dir = TempDir::new("numbers");
    {
        // as a crash between the commit of the output and that of its facts leaves it
        let (fixture, _) = Fixture::open(&dir.0);
        fixture.commit(output(vec![row(50, 0, 0, b"one")]));
    }
    let (_fixture, recovered) = Fixture::open(&dir.0);
    assert_eq!(recovered.next_machine_run, 51);
}

#[test]
fn a_damaged_day_file_stops_neither_start_nor_output() {
    let dir = TempDir::new("damaged");
    let day_file = output::path_of_day(&dir.0, DAY);
    let damage = || std::fs::write(&day_file, vec![b'x'; 200_000]).unwrap();
    {
        let (fixture, _) = Fixture::open(&dir.0);
        let mut write = begin_run(1, 0);
        write.output = vec![row(1, 0, 0, b"one")];
        assert_eq!(fixture.outcome(write), StoreOutcome::Committed);
    }
    damage();
    let kept = dir.0.join("output-2024-10-04.db.damaged");
    {
        let (fixture, recovered) = Fixture::open(&dir.0);
        assert_eq!(recovered.runs[0].machines[0].1, OutputPosition::default());
        assert!(kept.exists());
        // and again while it is not open
        damage();
        let write = output(vec![row(2, 0, 0, b"two")]);
        assert_eq!(fixture.outcome(write), StoreOutcome::Committed);
        assert_eq!(whole(&fixture.storage.reader(), 2, 0), b"two");
    }
}

#[test]
fn a_faulty_write_is_refused_alone() {
    let dir = TempDir::new("faulty");
    let (fixture, _) = Fixture::open(&dir.0);
    fixture.commit(output(vec![row(1, 0, 0, b"one")]));
    let mut twice = output(vec![row(1, 0, 0, b"one")]);
    twice.acks = vec![(ConnectionId(1), DaemonFrame::StartAck)];
    twice.ticket = Some(Ticket(1));
    fixture.commit(twice);
    let mut good = output(vec![row(1, 1, 3, b"two")]);
    good.acks = vec![(ConnectionId(2), DaemonFrame::StartAck)];
    fixture.commit(good);
    assert_eq!(fixture.acks.recv_timeout(DEADLINE).unwrap().0, ConnectionId(2));
    fixture.sync();
    assert!(format!("{:?}", fixture.events.try_recv().unwrap()).contains("Failed"));
    assert_eq!(whole(&fixture.storage.reader(), 1, 0), b"onetwo");
}

#[test]
fn a_run_is_loaded_with_what_was_queued_before() {
    let dir = TempDir::new("load");
    let (fixture, _) = Fixture::open(&dir.0);
    let mut write = begin_run(1, 0);
    write.output = vec![row(1, 0, 0, b"text")];
    fixture.commit(write);
    for instance in ["backup_1", "nothing"] {
        let instance = instance.to_string();
        fixture
            .storage
            .try_send(Request::Order(StorageOrder::LoadRun { instance }))
            .unwrap();
    }
    let Event::RunLoaded { run: Some(run), .. } = fixture.events.recv_timeout(DEADLINE).unwrap() else {
        panic!("not loaded");
    };
    assert_eq!(run.machines[0].1.bytes, 4);
    assert!(matches!(
        fixture.events.recv_timeout(DEADLINE).unwrap(),
        Event::RunLoaded { run: None, .. }
    ));
}

#[test]
fn runs_are_found_by_what_people_ask_for() {
    let dir = TempDir::new("runs");
    let (fixture, _) = Fixture::open(&dir.0);
    for id in 1..=9 {
        let job = if id % 2 == 0 { "even" } else { "odd" };
        let run = run_record(id, job, Wall::from_secs(id as i64), 0);
        let run = if id == 9 { run } else { ended(run, id < 5) };
        let machine = machine_record(id, id);
        fixture.commit(facts(vec![
            Fact::Run(Box::new(run)),
            Fact::Machine(Box::new(machine)),
        ]));
    }
    fixture.sync();
    let reader = fixture.storage.reader();
    let ids = |filter: RunFilter, before: Option<u64>, limit| -> Vec<u64> {
        let before = before.map(RunId);
        let runs = reader.runs(&filter, PageOf { before, limit }).unwrap();
        runs.iter().map(|run| run.id.0).collect()
    };
    let all = RunFilter::default();
    assert_eq!(ids(all.clone(), None, 3), [9, 8, 7]);
    assert_eq!(ids(all, Some(7), 2), [6, 5]);
    let of_job = RunFilter {
        job: Some("even".into()),
        outcome: Some(RunOutcome::Succeeded),
        group: Some("ops".into()),
        ..RunFilter::default()
    };
    assert_eq!(ids(of_job, None, 10), [4, 2]);
    let of_machine = RunFilter {
        machine: Some("web03".into()),
        from: Some(Wall::from_secs(3)),
        until: Some(Wall::from_secs(4)),
        ..RunFilter::default()
    };
    assert_eq!(ids(of_machine, None, 10), [3]);
    let unfinished = RunFilter {
        outcome: Some(RunOutcome::Unfinished),
        ..RunFilter::default()
    };
    assert_eq!(ids(unfinished, None, 10), [9]);
}

#[test]
fn old_history_goes_but_nothing_unfinished_and_no_number_twice() {
    let dir = TempDir::new("retain");
    {
        let (fixture, _) = Fixture::open(&dir.0);
        for id in 1..=4 {
            // day by day; run 2 never ended, run 3 is the job's last ended one
            let day = DAY + id as i64;
            let run = run_record(id, "backup", started_at(day), 0);
            let run = if id == 2 || id == 4 { run } else { ended(run, true) };
            let machine = Fact::Machine(Box::new(machine_record(id * 10, id)));
            let mut write = facts(vec![Fact::Run(Box::new(run)), machine]);
            write.output = vec![row(id * 10, 0, 0, b"text")];
            write.output[0].day = day;
            fixture.commit(write);
        }
        let gone = ended(run_record(90, "gone", started_at(DAY), 0), true);
        let later = ended(run_record(91, "gone", started_at(DAY), 0), true);
        fixture.commit(facts(vec![
            Fact::Run(Box::new(gone)),
            Fact::Run(Box::new(later)),
            Fact::Machine(Box::new(machine_record(900, 90))),
        ]));
        let before = started_at(DAY + 4);
        fixture
            .storage
            .try_send(Request::Order(StorageOrder::PruneHistory { before }))
            .unwrap();
        fixture.sync();
        let reader = fixture.storage.reader();
        let deadline = crate::clock::mono().plus_ms(60_000);
        let (done, wait) = crossbeam_channel::bounded(1);
        let text = |machine_run, day| reader.output_len(output_ref(machine_run, day, 0)).unwrap();
        while reader.run("gone_90").unwrap().is_some()
            || reader.run("backup_1").unwrap().is_some()
            || text(30, DAY + 3) > 0
        {
            assert!(crate::clock::mono() < deadline, "old runs are still there");
            fixture.storage.try_send(Request::Sync(done.clone())).unwrap();
            wait.recv_timeout(DEADLINE).unwrap();
        }
        for kept in ["backup_2", "backup_3", "backup_4", "gone_91"] {
            assert!(reader.run(kept).unwrap().is_some(), "{kept}");
        }
        let lengths: Vec<u64> = (1..=4).map(|id| text(id * 10, DAY + id as i64)).collect();
        assert_eq!(lengths, [0, 4, 0, 4]);
    }
    let (_fixture, recovered) = Fixture::open(&dir.0);
    assert_eq!((recovered.next_run, recovered.next_machine_run), (92, 901));
}

#[test]
fn history_ages_from_the_end_of_a_run_with_its_output() {
    let dir = TempDir::new("ages");
    let (fixture, _) = Fixture::open(&dir.0);
    // both started 31 days before the limit; the first ended after it
    for (id, ended_on) in [(1, DAY + 40), (2, DAY), (3, DAY + 50)] {
        let mut run = ended(run_record(id, "long", started_at(DAY + id as i64), 0), true);
        run.ended = Some(started_at(ended_on));
        let machine = Fact::Machine(Box::new(machine_record(id * 10, id)));
        let mut write = facts(vec![Fact::Run(Box::new(run)), machine]);
        write.output = vec![row(id * 10, 0, 0, b"text")];
        write.output[0].day = DAY + id as i64;
        fixture.commit(write);
    }
    let before = started_at(DAY + 31);
    fixture
        .storage
        .try_send(Request::Order(StorageOrder::PruneHistory { before }))
        .unwrap();
    fixture.sync();
    let reader = fixture.storage.reader();
    let deadline = crate::clock::mono().plus_ms(60_000);
    let (done, wait) = crossbeam_channel::bounded(1);
    let length = |id: u64| {
        reader
            .output_len(output_ref(id * 10, DAY + id as i64, 0))
            .unwrap()
    };
    while reader.run("long_2").unwrap().is_some() || length(2) > 0 {
        assert!(crate::clock::mono() < deadline, "the old run is still there");
        fixture.storage.try_send(Request::Sync(done.clone())).unwrap();
        wait.recv_timeout(DEADLINE).unwrap();
    }
    assert!(reader.run("long_1").unwrap().is_some());
    assert_eq!((length(1), length(3)), (4, 4));
}

#[test]
fn a_state_dir_that_cannot_be_used_is_named_with_the_reason() {
    let dir = TempDir::new("refuse");
    let state = dir.0.join("state");
    let error = |path: &Path| open(path).map(drop).unwrap_err();
    let (opened, _) = open(&state).unwrap();
    let message = error(&state);
    assert!(message.contains("another saltpeter") && message.contains(&std::process::id().to_string()));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&state), 0o700);
    for file in ["state.db", "state.db-wal", "state.db-shm", "lock", "reserve"] {
        assert_eq!(mode(&state.join(file)), 0o600, "{file}");
    }
    drop(opened);
    std::fs::write(state.join("state.db"), vec![b'x'; 100_000]).unwrap();
    let message = error(&state);
    assert!(
        message.contains("state.db' is damaged") && message.contains("backup"),
        "{message}"
    );
    assert!(error(&dir.0.join("a/b")).contains("the directory above it does not exist"));
    assert!(error(Path::new("/tmp")).contains("belongs to others too"));
    assert!(error(Path::new("/proc/saltpeter")).contains("cannot make state_dir '/proc/saltpeter'"));
    let file = dir.0.join("file");
    std::fs::write(&file, "").unwrap();
    assert!(error(&file).contains("is not a directory"));
}

#[test]
fn tables_of_an_older_version_are_brought_up_to_date_and_those_of_a_newer_one_refused() {
    let dir = TempDir::new("versions");
    {
        let (fixture, _) = Fixture::open(&dir.0);
        let mut write = begin_run(1, 0);
        write.output = vec![row(1, 0, 0, b"one")];
        assert_eq!(fixture.outcome(write), StoreOutcome::Committed);
    }
    let state = dir.0.join("state.db");
    let tables = || -> Vec<String> {
        let database = rusqlite::Connection::open(&state).unwrap();
        let mut query = database
            .prepare("SELECT sql FROM sqlite_schema ORDER BY name")
            .unwrap();
        let rows = query
            .query_map([], |row| row.get::<_, Option<String>>(0))
            .unwrap();
        rows.map(|row| row.unwrap().unwrap_or_default()).collect()
    };
    let newest = tables();
    for version in 1..schema::STATE.len() {
        for file in ["state.db", "state.db-wal", "state.db-shm"] {
            let _ = std::fs::remove_file(dir.0.join(file));
        }
        std::fs::write(&state, "").unwrap();
        let older = schema::Layout {
            migrations: &schema::STATE[..version],
            ..schema::STATE_LAYOUT
        };
        drop(schema::open(&state, &older).unwrap());
        drop(Fixture::open(&dir.0));
        assert_eq!(tables(), newest, "from version {version}");
    }
    for path in [output::path_of_day(&dir.0, DAY), state.clone()] {
        let database = rusqlite::Connection::open(path).unwrap();
        database
            .execute_batch("INSERT INTO migrations VALUES(99, 0)")
            .unwrap();
        drop(database);
        let refusal = super::open(&dir.0).err().unwrap();
        assert!(
            refusal.contains("written by a newer saltpeter") && refusal.ends_with("install the newer one"),
            "{refusal}"
        );
    }
}

/// Not a test of its own: the process that [`what_is_acked_survives_a_kill`] kills.
#[test]
fn child_of_the_kill_test() {
    let Some(dir) = std::env::var_os("SP_STORAGE_CHILD") else {
        return;
    };
    let (opened, _) = open(Path::new(&dir)).unwrap();
    let storage = opened
        .start(Callbacks {
            deliver: Box::new(|connection, _| println!("acked {}", connection.0)),
            report: Box::new(|_| ()),
        })
        .unwrap();
    let mut write = begin_run(1, 0);
    for at in 0.. {
        write.output = vec![row(1, at, at * 1_000, &[b'a' + (at % 26) as u8; 1_000])];
        write.facts.push(Fact::LastLook(Wall(at as i64)));
        write.acks = vec![(ConnectionId(at), DaemonFrame::OutputAck { seq: at })];
        let mut request = Request::Order(StorageOrder::Commit(Box::new(std::mem::take(&mut write))));
        while let Err(refused) = storage.try_send(request) {
            std::thread::yield_now();
            request = refused;
        }
    }
}

#[test]
fn what_is_acked_survives_a_kill() {
    let dir = TempDir::new("kill");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "storage::tests::child_of_the_kill_test", "--nocapture"])
        .env("SP_STORAGE_CHILD", &dir.0)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let acked = |line: &String| {
        line.rsplit_once("acked ")
            .and_then(|(_, number)| number.parse::<u64>().ok())
    };
    let reached = lines
        .by_ref()
        .map_while(Result::ok)
        .filter_map(|line| acked(&line))
        .find(|at| *at >= 3_000);
    assert!(reached.is_some());
    child.kill().unwrap();
    child.wait().unwrap();
    // what it had said until it was killed; its last line may be torn
    let rest = lines.map_while(Result::ok).filter_map(|line| acked(&line));
    let highest = rest.max().map_or(3_000, |rest| rest.max(3_000)) / 10 * 10;
    let (fixture, recovered) = Fixture::open(&dir.0);
    let position = &recovered.runs[0].machines[0].1;
    assert!(position.next_seq >= highest, "{position:?}, acked {highest}");
    assert!(recovered.last_look >= Some(Wall(highest as i64 - 1)));
    let stored = whole(&fixture.storage.reader(), 1, 0);
    assert_eq!(stored.len() as u64, position.bytes);
    for (at, row) in stored.chunks(1_000).enumerate() {
        assert!(row.iter().all(|byte| *byte == b'a' + (at % 26) as u8));
    }
}

#[test]
fn a_full_disk_holds_output_back_and_still_takes_facts() {
    let dir = TempDir::new("full");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=24m,mode=0700", "saltpeter-test"])
        .arg(&dir.0)
        .stderr(Stdio::null())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!(
            "SKIPPED a_full_disk_holds_output_back_and_still_takes_facts: cannot mount a tmpfs here (needs root)"
        );
        return;
    }
    let result = std::panic::catch_unwind(|| fill_the_disk(&dir.0));
    assert!(Command::new("umount").arg(&dir.0).status().unwrap().success());
    result.unwrap();
}

/// Bytes of one row of output, and how many are written.
const PIECE_BYTES: u64 = 128 << 10;
const PIECES: u64 = 40;

fn fill_the_disk(dir: &Path) {
    // 24 MiB, of which the reserve takes 16
    let ballast = dir.join("ballast");
    let (fixture, _) = Fixture::open(dir);
    assert_eq!(fixture.outcome(begin_run(1, 0)), StoreOutcome::Committed);
    std::fs::write(&ballast, vec![0; 5 << 20]).unwrap();
    write_more_than_fits(&fixture);
    let Event::StorageTrouble { reason: Some(reason) } = fixture.events.recv_timeout(DEADLINE).unwrap()
    else {
        panic!("no trouble");
    };
    assert!(
        reason.contains("output-2024-10-04.db") && reason.contains("full"),
        "{reason}"
    );
    // other facts go on
    let mut other = run_record(2, "other", started_at(DAY), 0);
    other.due = None;
    assert_eq!(
        fixture.outcome(facts(vec![Fact::Start(Box::new(other))])),
        StoreOutcome::Committed
    );
    let reader = fixture.storage.reader();
    let stage = || reader.run("backup_1").unwrap().unwrap().run.stage;
    let stored = || reader.output_len(output_ref(1, DAY, 0)).unwrap();
    assert_eq!(stage(), RunStage::Running);
    let acked = fixture.acks.try_iter().count() as u64;
    assert!(acked < PIECES);
    assert_eq!(stored(), acked * PIECE_BYTES, "acked is what is stored");
    use_up_the_reserve(&fixture);
    // room again
    std::fs::remove_file(&ballast).unwrap();
    grow(dir);
    loop {
        if let Event::StorageTrouble { reason: None } = fixture.events.recv_timeout(DEADLINE).unwrap() {
            break;
        }
    }
    fixture.sync();
    let late = fixture.acks.try_iter().map(|(connection, _)| connection.0);
    let expected: Vec<u64> = (acked..PIECES).chain([39, 99]).collect();
    assert_eq!(late.collect::<Vec<_>>(), expected);
    assert_eq!(stored(), PIECES * PIECE_BYTES);
    assert_eq!(stage(), RunStage::Ended);
}

/// Output of the first run, an ack that covers all of it, and the end of the run, which depends on it.
fn write_more_than_fits(fixture: &Fixture) {
    let piece = vec![b'x'; PIECE_BYTES as usize];
    for at in 0..PIECES {
        let mut write = output(vec![row(1, at, at * PIECE_BYTES, &piece)]);
        write.acks = vec![(ConnectionId(at), DaemonFrame::OutputAck { seq: at })];
        fixture.commit(write);
    }
    // a later ack would cover what is held
    fixture.commit(Write {
        acks: vec![(ConnectionId(39), DaemonFrame::OutputAck { seq: PIECES })],
        ..Write::default()
    });
    // an end that depends on held output waits with it
    let mut end = ended(run_record(1, "backup", started_at(DAY), 0), true);
    end.note = Some("the end".into());
    let mut write = facts(vec![Fact::Run(Box::new(end))]);
    write.after_output_of = Some(MachineRunId(1));
    write.acks = vec![(ConnectionId(99), DaemonFrame::StartAck)];
    fixture.commit(write);
}

/// Facts live on the reserve, until that is gone too.
fn use_up_the_reserve(fixture: &Fixture) {
    let mut committed = 0;
    let failure = loop {
        let mut fact = run_record(1_000 + committed, "many", started_at(DAY), 0);
        fact.due = None;
        fact.note = Some("n".repeat(200_000));
        match fixture.outcome(facts(vec![Fact::Start(Box::new(fact))])) {
            StoreOutcome::Committed => committed += 1,
            StoreOutcome::Failed(reason) => break reason,
            refused => panic!("{refused:?}"),
        }
    };
    assert!(
        committed >= 5,
        "only {committed} facts fitted into the reserve: {failure}"
    );
    assert!(failure.contains("state.db"), "{failure}");
}

fn grow(dir: &Path) {
    let grown = Command::new("mount")
        .args(["-o", "remount,size=96m"])
        .arg(dir)
        .status();
    assert!(grown.unwrap().success());
}

#[test]
fn runs_from_before_there_were_counts_get_theirs() {
    let dir = TempDir::new("counts");
    let path = dir.0.join("state.db");
    std::fs::write(&path, "").unwrap();
    let before = schema::Layout {
        migrations: &schema::STATE[..2],
        ..schema::STATE_LAYOUT
    };
    let old = schema::open(&path, &before).unwrap();
    old.execute_batch(
        "INSERT INTO specs VALUES(1, x'00', '{}');
         INSERT INTO runs VALUES(1, 'a_1', 'a', 'g', NULL, NULL, 1, 9, 'ended', 0, NULL, NULL, 't', 1, NULL);
         INSERT INTO runs VALUES(2, 'a_2', 'a', 'g', NULL, NULL, 1, NULL, 'running', NULL, NULL, NULL, 't', 1, NULL);",
    )
    .unwrap();
    for (id, run, retcode, not_counted) in [
        (1, 1, Some(0), 0),
        (2, 1, Some(3), 0),
        (3, 1, Some(0), 1),
        (4, 2, None, 0),
    ] {
        old.execute(
            "INSERT INTO machine_runs VALUES(?1, ?2, 'm', 1, 'ended', 0, NULL, 1, NULL, NULL, NULL, NULL, 9, ?3, 0, NULL,
                 NULL, NULL, NULL, NULL, 0, ?4)",
            rusqlite::params![id, run, retcode, not_counted],
        )
        .unwrap();
    }
    drop(old);
    schema::open(&path, &schema::STATE_LAYOUT).unwrap();
    let recent = Reader::new(&dir.0).recent("a", 10).unwrap();
    let counts: Vec<Option<MachineCounts>> = recent.iter().map(|run| run.counts).collect();
    let of_the_ended = MachineCounts {
        total: 2,
        ended: 2,
        failed: 1,
        killed: 0,
    };
    assert_eq!(counts, [None, Some(of_the_ended)]);
}

#[test]
fn rows_from_before_it_was_stored_who_gave_an_outcome_keep_what_their_codes_said() {
    let dir = TempDir::new("given-by");
    let path = dir.0.join("state.db");
    std::fs::write(&path, "").unwrap();
    let before = schema::Layout {
        migrations: &schema::STATE[..4],
        ..schema::STATE_LAYOUT
    };
    let old = schema::open(&path, &before).unwrap();
    old.execute_batch(
        "INSERT INTO specs VALUES(1, x'00', '{}');
         INSERT INTO runs VALUES(1, 'a_1', 'a', 'g', NULL, NULL, 1, 9, 'ended', 0, 5, NULL, 't', 1, NULL, 5, 5);
         INSERT INTO runs VALUES(2, 'a_2', 'a', 'g', NULL, NULL, 1, 9, 'ended', 0, 5, NULL, 't', 1, NULL, 1, 1);",
    )
    .unwrap();
    for (id, run, retcode, not_counted) in [
        (1, 1, 124, 0),
        (2, 1, 143, 0),
        (3, 1, 253, 0),
        (4, 1, 3, 0),
        (5, 1, 0, 1),
        (6, 2, 143, 0),
    ] {
        old.execute(
            "INSERT INTO machine_runs VALUES(?1, ?2, 'm', ?1, 'ended', 0, NULL, 1, NULL, NULL, NULL, NULL, 9, ?3, 0, NULL,
                 NULL, NULL, NULL, NULL, 0, ?4)",
            rusqlite::params![id, run, retcode, not_counted],
        )
        .unwrap();
    }
    drop(old);
    schema::open(&path, &schema::STATE_LAYOUT).unwrap();
    let reader = Reader::new(&dir.0);
    let run = reader.run("a_1").unwrap().unwrap();
    let words: Vec<Option<&str>> = run
        .machines
        .iter()
        .map(|(machine, _)| machine.outcome())
        .collect();
    let expected = ["timeout", "killed", "lost", "failed", "maintenance"];
    assert_eq!(words, expected.map(Some));
    assert!(!run.run.is_killed());
    let recent = reader.recent("a", 10).unwrap();
    let killed: Vec<bool> = recent.iter().map(|run| run.is_killed).collect();
    assert_eq!(killed, [true, false]);
    let filter = RunFilter {
        outcome: Some(RunOutcome::Killed),
        ..RunFilter::default()
    };
    let page = PageOf {
        before: None,
        limit: 10,
    };
    let found = reader.runs(&filter, page).unwrap();
    assert!(found.len() == 1 && found[0].is_killed(), "{found:?}");
    let outcomes = reader.tally("a_1", 10).unwrap().outcomes;
    assert_eq!(outcomes[&Some("killed")], 1);
}

#[test]
fn the_lock_of_a_killed_daemon_is_waited_for_and_that_of_a_living_one_is_not() {
    let dir = TempDir::new("lock");
    let path = dir.0.clone();
    let held = directory::take_lock(&path).unwrap();
    let refused = directory::take_lock(&path).unwrap_err();
    assert!(refused.contains("is in use by another"), "{refused}");
    // a pid beyond what the kernel gives
    std::fs::write(path.join("lock"), "2147483647\n").unwrap();
    let (told, result) = std::sync::mpsc::channel();
    let waiting = path.clone();
    std::thread::scope(|scope| {
        scope.spawn(move || told.send(directory::take_lock(&waiting).map(drop)));
        assert!(result.recv_timeout(Duration::from_millis(100)).is_err());
        drop(held);
        assert_eq!(result.recv().unwrap(), Ok(()));
    });
    let text = std::fs::read_to_string(path.join("lock")).unwrap();
    assert_eq!(text, format!("{}\n", std::process::id()));
}
