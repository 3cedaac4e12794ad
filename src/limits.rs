//! Every bound and timeout, with its reason. Names end with the unit.
//! Must not know: who uses them.

// -- heartbeats and a machine run's windows (rules.md 1-10)

/// Interval of a wrapper's heartbeats: a third of the default deadline.
pub const HEARTBEAT_INTERVAL_MS: u64 = 5_000;
/// A job's note of missed due times that nobody marks as seen is shown this long: whoever looks once a day sees it.
pub const MISSED_SHOWN_MS: i64 = 86_400_000;
/// Default of `heartbeat_timeout`: after this long without a start or a heartbeat a wrapper is lost (253).
pub const HEARTBEAT_TIMEOUT_MS: u64 = 15_000;
/// Default of `start_timeout`: from launch to the wrapper's connect (254).
pub const START_TIMEOUT_MS: u64 = 30_000;
/// From the wrapper's connect to its `start`.
pub const CONNECT_TO_START_MS: u64 = 15_000;
/// From passing a dispatch to the executor to its report that the wrapper was launched (255).
pub const DISPATCH_TIMEOUT_MS: u64 = 60_000;
/// A machine run that has not ended this long after its kill is ended by the daemon (143).
pub const KILL_GIVE_UP_MS: u64 = 30_000;
/// Interval at which a pending kill is sent again.
pub const KILL_REPEAT_MS: u64 = 1_000;
/// How long past a job's `timeout` the daemon waits for the wrapper's own 124.
pub const TIMEOUT_SECOND_LINE_MS: u64 = 30_000;
/// A Python wrapper that reports SIGTERM without a kill this shortly before its `timeout` ended the command itself.
pub const TIMEOUT_SLACK_MS: u64 = 2_000;
/// Kill and timeout deadlines move with output that is still arriving, at most by this (rules.md 5).
pub const DRAIN_EXTENSION_MS: u64 = 600_000;
/// A longer gap between two turns of the engine is a stall: deadlines move by it (rules.md 3).
pub const STALL_MS: u64 = 2_000;
/// From SIGTERM to SIGKILL of the command's process group.
pub const TERM_TO_KILL_MS: u64 = 5_000;
/// How long the wrapper waits for a pipe that other processes hold, after the command has ended.
pub const PIPE_DRAIN_MS: u64 = 2_000;

// -- schedule

/// Default of `start_deadline`: a passed-over due time no older than this is started late (rules.md 13).
pub const START_DEADLINE_S: i64 = 60;
/// More consecutive misses of one job than this become one record.
pub const MISSED_RECORDS: usize = 100;
/// How often the time of the last look at the schedules is stored if nothing else is: after a crash at most this
/// much of the past is evaluated again, and stored verdicts win.
pub const LAST_LOOK_STORE_S: i64 = 10;
/// Verdicts newer than that look that are read at the start: far more than those seconds contain, unless the clock was
/// set back.
pub const RECOVERED_VERDICTS: usize = 100_000;

// -- frames

/// Largest frame from a wrapper: a Python wrapper flushes its whole buffer in one frame on a kill,
/// escaped to up to 12 bytes per character (rules.md 22).
pub const WRAPPER_FRAME_BYTES: usize = 32 << 20;
/// Largest frame from the daemon to a wrapper (a job with its environment).
pub const DAEMON_FRAME_BYTES: usize = 4 << 20;
/// Output in one frame of sp-wrapper, before JSON escapes.
pub const OUTPUT_CHUNK_BYTES: usize = 128 << 10;
/// Unacknowledged output frames of one session (feature `window`).
pub const WINDOW_FRAMES: usize = 64;
/// Unacknowledged output bytes of one session (feature `window`).
pub const WINDOW_BYTES: usize = 4 << 20;
/// tungstenite's read buffer, which is resident and zeroed for each connection: keep it small.
pub const SOCKET_READ_BUFFER_BYTES: usize = 4 << 10;
/// Largest content of a socket's write buffer before the connection counts as stuck.
pub const SOCKET_WRITE_BUFFER_BYTES: usize = 8 << 20;

// -- the machines port

/// Concurrent wrapper connections; more are refused with 503. Each takes two descriptors.
pub const MACHINE_CONNECTIONS: usize = 16_000;
/// Descriptors reserved for everything else: databases, logs, listeners, launches.
pub const RESERVED_DESCRIPTORS: usize = 136;
/// Memory mappings reserved for everything except connection threads (each of those takes four).
pub const RESERVED_MAPPINGS: usize = 2_000;
/// Threads that perform handshakes.
pub const HANDSHAKE_THREADS: usize = 4;
/// A socket that has not completed its handshake by then is closed.
pub const HANDSHAKE_MS: u64 = 10_000;
/// Sockets waiting for a handshake thread.
pub const HANDSHAKE_QUEUE: usize = 4_096;
/// Sockets above the limit that are answered with 503 at a time; more are closed without an answer.
pub const REFUSED_AT_A_TIME: usize = 32;
/// How soon accepting is retried when there are no descriptors left.
pub const ACCEPT_RETRY_MS: u64 = 100;
/// Frames read from one socket before its outbox is served.
pub const READ_PORTION_FRAMES: usize = 32;
/// How long a closing connection waits for its peer to read the closing message.
pub const CLOSE_LINGER_MS: u64 = 2_000;
/// How long an output frame waits for room in the bulk lane before it is dropped (the wrapper sends it again).
pub const BULK_WAIT_MS: u64 = 50;
/// How often the budget is checked after output was dropped; the output is requested again when a quarter is free.
pub const BUDGET_RETRY_MS: u64 = 20;
/// A connection without a valid frame is closed after this.
pub const FIRST_FRAME_MS: u64 = 30_000;
/// A connection that sends nothing at all for this long is closed (a half-open TCP connection).
pub const SILENT_CONNECTION_MS: u64 = 600_000;
/// Frames waiting for a slow wrapper; a connection with a full outbox is closed, and resumes by sequence number.
pub const OUTBOX_FRAMES: usize = 1_024;
/// Stack of a connection thread (64 KiB overflow in debug builds with TLS).
pub const CONNECTION_STACK_BYTES: usize = 128 << 10;
/// Stack of every other thread.
pub const STACK_BYTES: usize = 1 << 20;
/// The kernel's queue of connections that are not accepted yet (the default of std is 128).
pub const LISTEN_BACKLOG: i32 = 4_096;

// -- queues of the daemon

/// Control events waiting for the engine: heartbeats, connects, kills, completions, ticks, API calls.
pub const CONTROL_QUEUE: usize = 65_536;
/// Output events waiting for the engine.
pub const BULK_QUEUE: usize = 8_192;
/// Output of all wrappers held in memory between socket and disk.
pub const OUTPUT_BUDGET_BYTES: usize = 128 << 20;
/// Writes waiting for the storage thread.
pub const STORAGE_QUEUE: usize = 65_536;
/// Beyond this the storage queue accepts only writes that contain facts (rules.md 15).
pub const STORAGE_QUEUE_FOR_OUTPUT: usize = 49_152;
/// Entries waiting for the job log thread.
pub const JOB_LOG_QUEUE: usize = 65_536;
/// Entries waiting to be logged; more are dropped and counted.
pub const LOG_QUEUE: usize = 16_384;
/// Requests waiting for the executor.
pub const EXECUTOR_QUEUE: usize = 4_096;
/// Output events that the engine handles before it checks for control events again.
pub const BULK_PORTION: usize = 64;
/// Consecutive control events before the engine handles output.
pub const CONTROL_PORTION: usize = 1_024;
/// How soon an effect that a full queue refused is offered again.
pub const PENDING_RETRY_MS: u64 = 5;
/// Wrappers that the local executor has launched and that have not returned yet, at a time: two descriptors each.
pub const LOCAL_LAUNCHES: usize = 32;
/// A wrapper that has not returned after this is no longer counted in [`LOCAL_LAUNCHES`].
pub const LOCAL_LAUNCH_SLOW_MS: u64 = 2_000;
/// How much of a failed wrapper's standard error is kept.
pub const LAUNCH_STDERR_BYTES: usize = 4 << 10;
/// A longer turn of the engine is logged with its event.
pub const SLOW_TURN_MS: u64 = 100;
/// Shortest time between two boards.
pub const BOARD_INTERVAL_MS: u64 = 10;
/// Boards waiting until their content is stored.
pub const PUBLISH_QUEUE: usize = 64;
/// With a disk that hangs, a board is published after this even if its content is not stored.
pub const BOARD_STORED_MS: u64 = 1_000;
/// A second of the clock that has not come by then: the engine's turns no longer count as signs of life.
pub const TICK_OVERDUE_MS: u64 = 30_000;
/// Notifications to systemd's watchdog within its timeout: some may be late, and none is sent too often.
pub const WATCHDOG_SHARE: u64 = 4;
/// From SIGTERM to the daemon's exit.
pub const SHUTDOWN_MS: u64 = 2_000;
/// How long an exit that cannot wait for everything waits for the log.
pub const LOG_FLUSH_MS: u64 = 100;

// -- storage

/// Default of `output_limit`: bytes kept of one machine run's output (half head, half tail).
pub const OUTPUT_LIMIT_BYTES: u64 = 100 << 20;
/// Default of `history_days`.
pub const HISTORY_DAYS: u32 = 30;
/// Disk space held back for facts when the disk is full (rules.md 16).
pub const DISK_RESERVE_BYTES: u64 = 16 << 20;
/// How often a full disk is tried again.
pub const DISK_RETRY_MS: u64 = 1_000;
/// Rows that retention removes in one step, between commits.
pub const RETENTION_STEP_ROWS: usize = 500;
/// Pause between two steps of retention while commits are waiting.
pub const RETENTION_PAUSE_MS: u64 = 250;
/// How much a day file is truncated in one step before it is removed: unlinking gigabytes at once takes seconds.
pub const RETENTION_STEP_BYTES: u64 = 256 << 20;
/// Bytes in one commit: tens of milliseconds of disk work.
pub const COMMIT_BYTES: usize = 8 << 20;
/// Writes in one commit.
pub const COMMIT_WRITES: usize = 4_096;
/// What a fact counts for in [`COMMIT_BYTES`].
pub const FACT_BYTES: usize = 1_024;
/// Output in a day file's WAL before a checkpoint: more is not faster, and makes the checkpoint longer
/// (measured: 16 MiB about 100 ms, 64 MiB 300 to 500 ms).
pub const OUTPUT_WAL_BYTES: usize = 16 << 20;
/// Day files that the storage thread, and each reader, keeps open.
pub const OPEN_DAY_FILES: usize = 4;
/// Largest row of output: a row is read as a whole, even if little of it is wanted. As large as a frame of sp-wrapper;
/// a larger frame of a Python wrapper becomes several rows.
pub const OUTPUT_ROW_BYTES: usize = OUTPUT_CHUNK_BYTES;
/// Output read from storage at once, rounded up to whole rows.
pub const OUTPUT_READ_BYTES: usize = 256 << 10;
/// How long the audit log is kept, however short `history_days` is.
pub const AUDIT_DAYS: i64 = 400;
/// Runs in one page of history.
pub const HISTORY_PAGE: usize = 1_000;

// -- job logs

/// Log files kept open.
pub const JOB_LOG_FILES: usize = 64;
/// A part of a line between two `\r` that is held back until it is known to be the last; a longer one is read again.
pub const JOB_LOG_SEGMENT_BYTES: usize = 64 << 10;

// -- the engine's memory

/// How long ended runs stay in the engine's memory for late frames; older ones are loaded on demand.
pub const ENDED_RUN_KEPT_MS: u64 = 600_000;

// -- the API port

/// Concurrent HTTP connections, as far as wrappers leave descriptors.
pub const API_CONNECTIONS: usize = 1_024;
/// HTTP connections that are reserved: wrappers cannot take their descriptors.
pub const API_CONNECTIONS_GUARANTEED: usize = 24;
/// Connections reserved for `control.sock`.
pub const CONTROL_CONNECTIONS: usize = 8;
/// Largest head of a request.
pub const HTTP_HEAD_BYTES: usize = 16 << 10;
/// Largest body of a request.
pub const HTTP_BODY_BYTES: usize = 1 << 20;
/// Deadline for a request's head and body.
pub const HTTP_REQUEST_MS: u64 = 10_000;
/// How long a connection is kept alive without a request.
pub const HTTP_IDLE_MS: u64 = 60_000;
/// Shortest time between two checks of the API's certificate files.
pub const KEYS_LOOK_MS: u64 = 2_000;
/// Deadline for the engine's answer to an API call.
pub const API_ANSWER_MS: u64 = 10_000;
/// Wrong tokens from one address within [`AUTH_WINDOW_MS`]; after that its requests are refused.
pub const AUTH_FAILURES: u32 = 20;
/// The time over which wrong tokens are counted.
pub const AUTH_WINDOW_MS: u64 = 60_000;
/// Addresses for which wrong tokens are counted.
pub const AUTH_ADDRESSES: usize = 4_096;
/// Concurrent login sessions; the oldest ends first.
pub const SESSIONS: usize = 1_024;
/// How long a login session lasts.
pub const SESSION_MS: u64 = 12 * 3_600_000;
/// How often a request that follows output checks whether its client is still connected.
pub const FOLLOW_LOOK_MS: u64 = 1_000;
/// How often a request that follows output checks for output that is being committed.
pub const FOLLOW_COMMIT_MS: u64 = 20;
/// Smaller responses are not compressed: they fit into one packet.
pub const GZIP_LEAST_BYTES: usize = 1_200;
/// Browsers that are told of changes at a time; the others go on polling.
pub const STREAMS: usize = 256;
/// Shortest time between two messages of such a stream.
pub const STREAM_GAP_MS: u64 = 400;
/// Longest time without one: proxies cut idle connections.
pub const STREAM_BEAT_MS: u64 = 15_000;
/// Results shown with each job in a list.
pub const RECENT_RUNS: u64 = 5;
/// Ends of outputs that API threads cache, so that polling `/status` does not read the disk.
pub const STATUS_CACHE_BYTES: usize = 32 << 20;
/// `ret` in `/status`: the last part of an output.
pub const STATUS_RET_BYTES: usize = 64 << 10;

/// Default duration of a maintenance switch.
pub const SWITCH_S: i64 = 3_600;
/// Longest duration of a maintenance switch: what lasts longer belongs in the files.
pub const SWITCH_MAX_S: i64 = 7 * 86_400;
/// Characters of a reason given by a user, and of a machine's name.
pub const REASON_CHARS: usize = 1_000;
/// Paused jobs, and maintenance switches, at a time.
pub const CONTROLS: usize = 20_000;
/// Machines that one request for a run may name.
pub const RUN_MACHINES: usize = 20_000;

/// Runs in the grid of a job: what fits on a screen.
pub const GRID_RUNS: usize = 60;
/// Machines in the grid of a job; those with the most failures remain.
pub const GRID_MACHINES: usize = 100;
/// Machine runs read for one grid: about 0.1 s.
pub const GRID_SCAN: usize = 50_000;

/// Longest range of one request for the timeline.
pub const TIMELINE_RANGE_S: i64 = 31 * 86_400;
/// Ended runs that started longer than this before the range are left out: to find them, all of history would be read.
pub const TIMELINE_LOOKBACK_S: i64 = 86_400;
/// Runs read for one request: about 0.3 s.
pub const TIMELINE_RUNS: usize = 100_000;
/// Records of due times that started nothing, read for one request.
pub const TIMELINE_VERDICTS: usize = 20_000;
/// Future due times in one answer, and of one job.
pub const TIMELINE_DUES: usize = 50_000;
pub const TIMELINE_JOB_DUES: usize = 500;

// -- the legacy React UI's WebSocket

/// Shortest time between two looks of a UI connection at the board.
pub const COMPAT_LOOK_MS: u64 = 100;
/// `status` is sent this often even if nothing changed: every 2 s, with tolerance for a busy machine.
pub const COMPAT_IDLE_STATUS_MS: u64 = 1_800;
/// How often `details` are sent that differ only in heartbeats and lengths of outputs.
pub const COMPAT_PROGRESS_MS: u64 = 1_000;
/// Largest message from a client.
pub const COMPAT_MESSAGE_BYTES: usize = 1 << 20;
/// Room for the text of an output frame after JSON escapes (wire-protocol.md section 2 limits the frame).
pub const COMPAT_CHUNK_JSON_BYTES: usize = 240 << 10;
/// Outputs are read in blocks of this size, so that all connections that follow one output share them.
pub const COMPAT_BLOCK_BYTES: u64 = 64 << 10;
/// Blocks kept for other connections; at most twice this.
pub const COMPAT_CACHE_BYTES: usize = 8 << 20;
/// UTF-16 code units of one subscription that may be in flight without an `ack`, for a client that sends acks.
pub const COMPAT_WINDOW_UTF16: u64 = 1 << 20;
/// If a client's last `ack` is older than this, more is sent regardless: the daemon's own count is authoritative.
pub const COMPAT_ACK_PATIENCE_MS: u64 = 5_000;
/// Output sent to all UI connections together per second: the engine needs the rest of the machine.
pub const COMPAT_OUTPUT_BYTES_PER_S: u64 = 64 << 20;
/// How long a connection waits for output that a machine run should have and storage does not have.
pub const COMPAT_OUTPUT_PATIENCE_MS: u64 = 10_000;
/// Largest part of a client's message that is kept and repeated in an answer; also of a job's name.
pub const COMPAT_ECHO_BYTES: usize = 4 << 10;
/// Lengths of texts of outputs beyond their limit that are kept: each takes a look into storage.
pub const COMPAT_LENGTHS: usize = 20_000;
/// Jobs that one UI connection follows, or has followed.
pub const COMPAT_SUBSCRIPTIONS: usize = 1_000;
/// Runs that ended between two looks and are shown one after the other; more are skipped.
pub const COMPAT_PAST_RUNS: usize = 8;
/// Answers waiting for a UI connection; while there are this many, nothing more is read from it.
pub const COMPAT_REPLIES: usize = 64;
/// A UI connection that has accepted nothing for this long is closed.
pub const COMPAT_STUCK_MS: u64 = 30_000;
/// How often the permission of a UI connection, or of a request that follows output, is checked again; it is also
/// checked when settings change.
pub const ADMIT_AGAIN_MS: u64 = 10_000;

// -- configuration

/// Largest value of a parameter: it becomes an environment variable.
pub const PARAMETER_BYTES: usize = 4 << 10;
/// Longest name of a parameter.
pub const PARAMETER_NAME_BYTES: usize = 64;

/// How often job files are checked where the kernel reports no changes.
pub const CONFIG_POLL_MS: u64 = 1_000;
/// Largest job file that is read.
pub const CONFIG_FILE_BYTES: u64 = 64 << 20;
/// Values in one job file, including what aliases repeat: 10,000 jobs have 200,000.
pub const CONFIG_NODES: usize = 4_000_000;
/// Larger files are parsed in pieces of about this size.
pub const CONFIG_PIECE_BYTES: usize = 128 << 10;
/// Up to this many files, each is checked every `CONFIG_POLL_MS` even where the kernel reports changes.
pub const CONFIG_SWEEP_FILES: usize = 256;
/// How often all files are checked if there are more; links are checked every `CONFIG_POLL_MS` in any case.
pub const CONFIG_FULL_SWEEP_MS: u64 = 30_000;
/// Job files are read when nothing was written for this long: a half-written file must not be read.
pub const CONFIG_QUIET_MS: u64 = 100;
/// A file that is still being written is read after this anyway.
pub const CONFIG_PATIENCE_MS: u64 = 1_000;
/// A file that changed this shortly before it was read may change again with the same timestamp: it is read again.
pub const CONFIG_UNSETTLED_MS: i64 = 100;

/// `saltpeter compare`: the Python version starts jobs up to this late (8.5 s, measured on an idle machine).
pub const COMPARE_TOLERANCE_S: i64 = 15;

// -- the wrapper

/// Pause between attempts to reach the daemon.
pub const RECONNECT_MS: u64 = 2_000;
/// How long a wrapper keeps trying after its command has ended, and before it has its permission.
pub const WRAPPER_PATIENCE_MS: u64 = 3_600_000;
/// Output waiting in the wrapper's memory before it goes to disk. Output in flight (at most `WINDOW_BYTES`) comes on
/// top; this is as large again, so that a daemon that is committing does not send output to disk.
pub const SPOOL_MEMORY_BYTES: usize = 4 << 20;
/// Default of `SP_SPOOL_LIMIT`: the spool on disk keeps the first and the last half of this much.
pub const SPOOL_DISK_BYTES: u64 = 1 << 30;
/// Default of `SP_OUTPUT_INTERVAL_MS`: how long output is collected before it is sent.
pub const OUTPUT_INTERVAL_MS: u64 = 1_000;
/// If there are unacknowledged frames and no ack for this long, the wrapper reconnects.
pub const ACK_TIMEOUT_MS: u64 = 20_000;
/// Spool files of dead wrappers older than this are removed.
pub const SPOOL_LEFTOVER_MS: u64 = 86_400_000;
/// Size of a spool file, as long as [`SPOOL_SEGMENTS`] are enough: the spool is a sequence of files, so that delivered
/// output frees its space.
pub const SPOOL_SEGMENT_BYTES: u64 = 16 << 20;
/// Spool files at a time: each is an open descriptor. Where the limit needs more, the files are larger.
pub const SPOOL_SEGMENTS: u64 = 64;
/// Smallest size of a spool file, however small the limit.
pub const SPOOL_SEGMENT_LEAST_BYTES: u64 = 64 << 10;
/// How long output that follows silence is collected: a burst becomes one frame, and still appears immediate.
pub const OUTPUT_GATHER_MS: u64 = 20;
/// A sequence of valid UTF-8 this long between invalid bytes is sent as text again.
pub const TEXT_STRETCH_BYTES: usize = 16 << 10;
/// Size of the command's output pipe, where the kernel allows it.
pub const OUTPUT_PIPE_BYTES: usize = 1 << 20;
/// How long the guardian keeps killing processes that do not die (held by the kernel).
pub const END_ALL_MS: u64 = 2_000;
/// How long the wrapper waits for the guardian's answer past the guardian's own deadlines.
pub const GUARDIAN_ANSWER_MS: u64 = 1_000;
/// If the daemon's host has not confirmed sent data for this long, the connection is dead. Shorter than the heartbeat
/// timeout minus a reconnect, longer than three lost packets.
pub const LINK_DEAD_MS: u32 = 8_000;
/// From the start of a connection attempt to the end of the handshake, per address.
pub const LINK_CONNECT_MS: u64 = 5_000;
/// The kernel's send buffer for one wrapper: a heartbeat waits behind at most this much on a slow line.
pub const LINK_SEND_BUFFER_BYTES: usize = 256 << 10;
/// Events waiting for the wrapper's main loop.
pub const WRAPPER_QUEUE: usize = 256;
/// A wrapper that received SIGTERM exits without delivering everything if the daemon has been silent for this long
/// after the command has ended: longer than a restart of the daemon, shorter than a host's shutdown waits (systemd: 90 s).
pub const STOP_PATIENCE_MS: u64 = 10_000;
/// From the last acknowledgment to the wrapper's exit, for the closing frame.
pub const LINK_CLOSE_MS: u64 = 500;
/// A lock file that is replaced again and again under our hands is given up.
pub const LOCK_ATTEMPTS: usize = 8;
/// A lock file may seem older than the process that wrote it by this much: both clocks count in steps.
pub const LOCK_CLOCK_SLACK_S: i64 = 2;
/// Kept of a process's arguments and environment.
pub const PROCESS_TEXT_BYTES: u64 = 1 << 20;
/// The command's descriptor of its lock has this number or a higher one: scripts use the low ones.
pub const LOCK_DESCRIPTOR: i32 = 200;
/// Stack of the wrapper's threads: name services run on one of them.
pub const WRAPPER_STACK_BYTES: usize = 512 << 10;
/// Longest reason in the wrapper's log.
pub const LOG_LINE_BYTES: usize = 4 << 10;

// -- the command line

/// Deadline of the command line for connecting, per address.
pub const CLI_CONNECT_MS: u64 = 10_000;
/// How long `--wait` and `logs -f` wait for a daemon that cannot be reached (an upgrade restarts it).
pub const CLI_AWAY_MS: u64 = 60_000;
/// A connection that a followed output was read over this long was of use, also if nothing came: proxies cut idle ones.
pub const CLI_STEADY_MS: u64 = 5_000;
/// Deadline for the daemon's answer to the command line.
pub const CLI_ANSWER_MS: u64 = 30_000;
/// How often the command line polls while it waits.
pub const CLI_LOOK_MS: u64 = 500;
/// How long the command line waits for the result of a test: longer than a webhook or sendmail may take.
pub const CLI_TEST_MS: u64 = 90_000;
/// Outputs followed at a time.
pub const CLI_FOLLOWED: usize = 64;
/// A longer line in the merged output of several machines is split.
pub const CLI_LINE_BYTES: u64 = 64 << 10;

// -- the engine's own

/// A connection thread that has not answered a probe by then is considered gone.
pub const PROBE_ANSWER_MS: u64 = 30_000;
/// Deadline for the executor's answer to which machines are up; the run then continues with what is known.
pub const RESOLVE_TIMEOUT_MS: u64 = 150_000;
// it is the executor's word that ends it
const _: () = assert!(RESOLVE_TIMEOUT_MS > PING_PATIENCE_MS + PING_BUSY_MS + PING_GRACE_MS);
/// Instances being loaded from storage at a time.
pub const LOADING_INSTANCES: usize = 1_024;
/// Frames held for one instance that is being loaded.
pub const LOADING_FRAMES: usize = 256;
/// Due times that are found or given a verdict in one turn of the engine: a few ms; the rest follows in the next turns.
pub const TURN_DUE_TIMES: usize = 200;
/// Runs without machines for too long that are continued in one turn.
pub const TURN_RUNS: usize = 50;
/// Machine runs that are checked, resumed, stored once more or leave memory in one turn.
pub const TURN_MACHINES: usize = 500;
/// A run counts as this many machine runs besides its own.
pub const TURN_RUN_WEIGHT: usize = 9;
/// Machine runs that are looked through for what is due in one turn: comparisons alone, about 20 ns each.
pub const TURN_SCANNED: usize = 50_000;
/// Pauses and switches that end in one turn.
pub const TURN_CONTROLS: usize = 500;
/// The wall clock has stepped if it moved by this much more, or less, than the monotonic one.
pub const CLOCK_STEP_S: i64 = 3;
/// After a step, or a start, the wall clock is in doubt until the daemon has been awake this long without another.
pub const CLOCK_TRUST_MS: u64 = 600_000;
/// While it is in doubt, it may be ahead by this much and is believed: an ordinary correction, a restart.
pub const CLOCK_TOLERANCE_MS: i64 = 120_000;
/// A clock that shows an earlier time than this (2024-01-01) has not been set.
pub const CLOCK_FLOOR_S: i64 = 1_704_067_200;
/// Verdicts that memory keeps while the clock is in doubt; with more it is believed at once.
pub const DOUBT_VERDICTS: usize = 200_000;
/// Stretches of misses that are kept for a job while storage refuses them: before and after a step of the clock, and a
/// few more for one that steps again.
pub const UNSTORED_STRETCHES: usize = 4;
/// How long a start waits for the lock of a state directory whose daemon was killed: a child of it that has not
/// executed its program yet still holds the lock.
pub const STATE_LOCK_WAIT_MS: u64 = 3_000;
/// How often it looks meanwhile.
pub const STATE_LOCK_POLL_MS: u64 = 20;
/// How often old history is removed.
pub const RETENTION_INTERVAL_MS: u64 = 3_600_000;

// -- notifications

/// Destinations: each may have a thread of its own.
pub const NOTIFIERS: usize = 64;
/// Longest name of one.
pub const NOTIFIER_NAME_BYTES: usize = 64;
/// Entries of a job's `quiet`.
pub const QUIET_HOURS: usize = 8;
/// Default deadline of a notifier's command, and the longest that may be set: its destination waits meanwhile.
pub const NOTIFY_COMMAND_MS: u64 = 30_000;
pub const NOTIFY_COMMAND_MAX_MS: u64 = 600_000;

/// Failed machines that a notice names, and those in its one line: more are a number.
pub const NOTICE_MACHINES: usize = 20;
pub const NOTICE_MACHINES_IN_LINE: usize = 5;
/// Judged runs that are remembered, for outcomes that are revised.
pub const NOTICE_JUDGED: usize = 8;
/// A job flaps if its outcome changed this often within so many runs...
pub const FLAPPING_CHANGES: u32 = 6;
pub const FLAPPING_RUNS: u32 = 21;
/// ...until so many in a row agree.
pub const FLAPPING_END: u32 = 5;
/// What arrives within this time makes one message, so that an outage of many machines is one.
pub const NOTICE_GROUP_MS: u64 = 10_000;
/// Between two messages to a destination.
pub const NOTICE_PAUSE_MS: u64 = 60_000;
/// Pauses before the tries of a message; from then on one an hour, [`NOTICE_TRIES`] in all, which is a day.
pub const NOTICE_RETRY_MS: [u64; 6] = [5_000, 30_000, 120_000, 600_000, 1_800_000, 3_600_000];
pub const NOTICE_TRIES: u32 = 29;
/// A receiver may ask for a longer pause, up to this.
pub const NOTICE_RETRY_MAX_S: u64 = 3_600;
/// A message that was refused as such so often no longer holds up those behind it.
pub const NOTICE_REFUSALS: u32 = 3;
/// Notices that wait for a destination: beyond it the oldest is given up.
pub const NOTICES_WAITING: usize = 1_000;
/// Notices that are done and kept to be looked at, besides `history_days`.
pub const NOTICES_KEPT: usize = 10_000;
/// Notices of one message; the rest follows in the next.
pub const NOTICES_IN_MESSAGE: usize = 200;
/// A delivery that has not answered by then is taken for failed: longer than any time-out of a channel.
pub const NOTICE_ANSWER_MS: u64 = NOTIFY_COMMAND_MAX_MS + 120_000;
/// Characters kept of the reason why a delivery failed.
pub const NOTICE_ERROR_CHARS: usize = 400;
/// Reminders, late and long runs that are looked at in one turn.
pub const TURN_WATCHES: usize = 500;
/// Deadline of a webhook's request, from the look-up of the name to the answer's head.
pub const NOTIFY_HTTP_MS: u64 = 30_000;
/// Deadline for connecting, per address.
pub const NOTIFY_CONNECT_MS: u64 = 10_000;
/// Read of an answer that is no success, and for how long: it only explains the status.
pub const NOTIFY_REPLY_BYTES: u64 = 4 << 10;
pub const NOTIFY_REPLY_MS: u64 = 2_000;
/// Characters of it that are shown.
pub const NOTIFY_REPLY_CHARS: usize = 150;
/// Deadline of `sendmail`: with a queue it takes milliseconds, without one as long as the mail server.
pub const SENDMAIL_MS: u64 = 60_000;
/// Kept of a program's standard error.
pub const NOTIFY_SAID_BYTES: usize = 4 << 10;
/// How often a program is looked at that closes its pipes and does not end.
pub const NOTIFY_LOOK_MS: u64 = 50;
/// Read of a file that holds a secret.
pub const SECRET_FILE_BYTES: u64 = 4 << 10;
/// Jobs that a message lists; more are a number.
pub const NOTICE_JOBS: usize = 20;
/// Machines of a message whose last lines are shown, and how much of each.
pub const NOTICE_TAILS: usize = 3;
pub const NOTICE_TAIL_BYTES: usize = 4 << 10;
pub const NOTICE_TAIL_LINES: usize = 20;
/// A payload that is larger goes without outputs: Standard Webhooks advises 20 kB.
pub const NOTICE_JSON_BYTES: usize = 20_000;
/// Longest text of a chat message: Slack and Teams cut or refuse much longer ones.
pub const NOTICE_TEXT_BYTES: usize = 12_000;
/// Interval of `heartbeat_url`.
pub const HEARTBEAT_URL_MS: u64 = 60_000;

// -- Salt

/// From the helper's start to its first line: importing Salt takes 0.3 s, on a busy machine 3 s and more.
pub const HELPER_HELLO_MS: u64 = 30_000;
/// Interval at which the helper is asked for a sign of life.
pub const HELPER_STATUS_MS: u64 = 10_000;
/// A helper that has left this many of them unanswered hangs.
pub const HELPER_UNANSWERED: u32 = 3;
/// Pause before a helper that ended is restarted; it doubles each time, until a publish succeeds.
pub const HELPER_BACKOFF_MIN_MS: u64 = 1_000;
pub const HELPER_BACKOFF_MAX_MS: u64 = 30_000;
/// Requests waiting to be read by the helper: beyond this, no more are passed to it.
pub const HELPER_OUTGOING_BYTES: usize = 4 << 20;
/// Read from the helper at once.
pub const HELPER_READ_BYTES: usize = 256 << 10;
/// Longest line of the helper: it cuts texts in returns at 64 Ki characters.
pub const HELPER_LINE_BYTES: usize = 16 << 20;
/// Longest line of the helper's log.
pub const HELPER_LOG_LINE_BYTES: usize = 16 << 10;
/// Requests that Salt has not answered; further orders wait in the executor's queue.
pub const SALT_REQUESTS: usize = 16_384;
/// Minions that have not answered a ping by then are down.
pub const PING_TIMEOUT_MS: u64 = 20_000;
/// The same for minions that answer other requests meanwhile.
pub const PING_BUSY_MS: u64 = 40_000;
/// Deadline of a ping right after the master was unavailable: minions that did not answer are pinged again.
pub const PING_AGAIN_MS: u64 = 5_000;
/// A publish that took this long went to a master that had just started (30 to 40 ms are usual, 2.7 s was the slowest of
/// fifty at once): minions that did not answer are pinged again.
pub const SALT_SLOW_PUBLISH_MS: u64 = 2_000;
/// From the order to a published ping: how long to wait for a master that restarts.
pub const PING_PATIENCE_MS: u64 = 60_000;
/// From the end of that time to the helper's report: the helper may have to be restarted.
pub const PING_GRACE_MS: u64 = 30_000;
/// Answers to a ping are reported together when no further one came for this long...
pub const PING_QUIET_MS: u64 = 250;
/// ...or the first has waited this long.
pub const PING_GATHER_MS: u64 = 1_500;
/// How often an executor reports launches that are still waiting: well within `DISPATCH_TIMEOUT_MS`.
pub const WAITING_TOLD_MS: u64 = 10_000;
/// Runs with the same targets share a ping that was published no longer ago than this.
pub const PING_SHARED_MS: u64 = 2_000;
/// From a dispatch, or its publish, to the minions' returns: a little less than `DISPATCH_TIMEOUT_MS`, so that Salt's own
/// report ends it.
pub const LAUNCH_PATIENCE_MS: u64 = 58_000;
/// The same for a minion that answers other requests meanwhile: it is busy. A hundred jobs due in one second keep a minion
/// on a busy host occupied for a minute.
pub const LAUNCH_BUSY_MS: u64 = 300_000;
/// From the end of that time to the helper's report.
pub const LAUNCH_GRACE_MS: u64 = 30_000;
/// How soon a publish is retried that failed because the master was unavailable.
pub const SALT_RETRY_MS: u64 = 2_000;
/// How much is kept of a minion's message about a wrapper that did not start.
pub const LAUNCH_TEXT_BYTES: usize = 16 << 10;
/// Oldest major version of Salt that is tested.
pub const SALT_OLDEST: u32 = 3006;
/// Default of `default_wrapper_path` with the Salt executor (rules.md 23).
pub const SALT_WRAPPER_PATH: &str = "/usr/local/bin/sp_wrapper.py";
/// How often minions are asked about commands without a wrapper.
pub const PLAIN_LOOK_MS: u64 = 30_000;
/// Deadline for the answer.
pub const PLAIN_ANSWER_MS: u64 = 15_000;
/// A minion that has started a command without a wrapper and has not answered since is given up after this: its return
/// may be late, as after a reboot.
pub const PLAIN_AWAY_MS: u64 = 600_000;
/// If a command was not running any more this many times in a row, and there is no return, there will be none.
pub const PLAIN_GONE: u32 = 2;
/// From the SIGKILL of a command without a wrapper to its presumed end.
pub const PLAIN_KILLED_MS: u64 = 2_000;
/// Characters kept of the output of a command without a wrapper, which arrives as a whole.
pub const PLAIN_OUTPUT_CHARS: usize = 4 << 20;
