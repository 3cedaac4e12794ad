//! Every bound and time-out, with its reason. Units stand last in the names.
//! Must not know: who uses them.

// -- heartbeats and a machine run's windows (rules.md 1-10)

/// A wrapper's beat. Three may be lost before the deadline.
pub const HEARTBEAT_INTERVAL_MS: u64 = 5_000;
/// Default of `heartbeat_timeout`: this long without start or beat is a lost wrapper (253).
pub const HEARTBEAT_TIMEOUT_MS: u64 = 15_000;
/// Default of `start_timeout`: from launch to the wrapper's connect (254).
pub const START_TIMEOUT_MS: u64 = 30_000;
/// From the wrapper's connect to its `start`.
pub const CONNECT_TO_START_MS: u64 = 15_000;
/// From handing a dispatch to the executor to its word that the wrapper was launched (255).
pub const DISPATCH_TIMEOUT_MS: u64 = 60_000;
/// A kill that has not been answered by an end after this is ended by the daemon (143).
pub const KILL_GIVE_UP_MS: u64 = 30_000;
/// A pending kill is sent again this often.
pub const KILL_REPEAT_MS: u64 = 1_000;
/// The daemon waits this long past a job's `timeout` for the wrapper's own 124.
pub const TIMEOUT_SECOND_LINE_MS: u64 = 30_000;
/// Kill and timeout deadlines move with output that still drains, at most this much (rules.md 5).
pub const DRAIN_EXTENSION_MS: u64 = 600_000;
/// A gap between two turns of the engine longer than this is a stall: deadlines move by it (rules.md 3).
pub const STALL_MS: u64 = 2_000;
/// From SIGTERM to SIGKILL of the command's process group.
pub const TERM_TO_KILL_MS: u64 = 5_000;
/// How long the wrapper waits for a pipe that others hold, after the command's own end.
pub const PIPE_DRAIN_MS: u64 = 2_000;

// -- schedule

/// A passed-over due time no older than this is started late; older ones are recorded missed (rules.md 13).
pub const START_DEADLINE_S: i64 = 60;
/// More misses of one job in a row than this become one record.
pub const MISSED_RECORDS: usize = 100;
/// How often the last look at the wall clock is stored when nothing else is: a crash makes at most this
/// much of the past be looked at again, and verdicts already stored win.
pub const LAST_LOOK_STORE_S: i64 = 10;
/// Verdicts newer than that look that a start reads: far more than those seconds hold, but where the clock was set back.
pub const RECOVERED_VERDICTS: usize = 100_000;

// -- frames

/// Largest frame a wrapper may send: a Python wrapper flushes its whole buffer in one frame on a kill,
/// escaped up to 12 bytes a character (rules.md 22).
pub const WRAPPER_FRAME_BYTES: usize = 32 << 20;
/// Largest frame the daemon sends to a wrapper (a job with its environment).
pub const DAEMON_FRAME_BYTES: usize = 4 << 20;
/// Command output in one frame of our wrapper, before JSON escapes.
pub const OUTPUT_CHUNK_BYTES: usize = 128 << 10;
/// Unacked output frames of one session (feature `window`).
pub const WINDOW_FRAMES: usize = 64;
/// Unacked output bytes of one session (feature `window`).
pub const WINDOW_BYTES: usize = 4 << 20;
/// tungstenite's read buffer is resident and zeroed for each connection: keep it small.
pub const SOCKET_READ_BUFFER_BYTES: usize = 4 << 10;
/// Most that waits in one socket's write buffer before the connection counts as stuck.
pub const SOCKET_WRITE_BUFFER_BYTES: usize = 8 << 20;

// -- the machines port

/// Connections at a time; above, they are refused politely. Two descriptors each.
pub const MACHINE_CONNECTIONS: usize = 16_000;
/// Descriptors kept for everything that is no connection: databases, logs, listeners, launches.
pub const RESERVED_DESCRIPTORS: usize = 136;
/// Memory mappings kept for everything that is no connection thread (each of those takes four).
pub const RESERVED_MAPPINGS: usize = 2_000;
/// Threads that do handshakes.
pub const HANDSHAKE_THREADS: usize = 4;
/// A socket that has not finished its handshake by then is dropped.
pub const HANDSHAKE_MS: u64 = 10_000;
/// Sockets that wait for a handshake thread.
pub const HANDSHAKE_QUEUE: usize = 4_096;
/// Sockets above the cap that are told so at a time; more than that are dropped without a word.
pub const REFUSED_AT_A_TIME: usize = 32;
/// Out of descriptors, accepting is tried again this often.
pub const ACCEPT_RETRY_MS: u64 = 100;
/// Frames read from one socket before its outbox gets its turn.
pub const READ_PORTION_FRAMES: usize = 32;
/// A closing connection's peer has this long to take the last words.
pub const CLOSE_LINGER_MS: u64 = 2_000;
/// An output frame waits this long for room in the bulk lane before it is dropped (the wrapper sends it again).
pub const BULK_WAIT_MS: u64 = 50;
/// After dropped output, the budget is looked at this often; output is asked for again when a quarter is free.
pub const BUDGET_RETRY_MS: u64 = 20;
/// A connection that never sent a valid frame is dropped after this.
pub const FIRST_FRAME_MS: u64 = 30_000;
/// A connection that sends nothing at all for this long is dropped (a half-open TCP connection).
pub const SILENT_CONNECTION_MS: u64 = 600_000;
/// Frames that wait for a slow wrapper; a connection whose outbox is full is dropped and resumes by seq.
pub const OUTBOX_FRAMES: usize = 1_024;
/// Stack of a connection thread (64 KiB overflow in debug builds with TLS).
pub const CONNECTION_STACK_BYTES: usize = 128 << 10;
/// Stack of every other thread.
pub const STACK_BYTES: usize = 1 << 20;
/// The kernel's queue of connections not yet accepted (std's default is 128).
pub const LISTEN_BACKLOG: i32 = 4_096;

// -- queues of the daemon

/// Control events that wait for the engine: beats, connects, kills, completions, ticks, API calls.
pub const CONTROL_QUEUE: usize = 65_536;
/// Output events that wait for the engine.
pub const BULK_QUEUE: usize = 8_192;
/// Output of all wrappers held in memory between socket and disk.
pub const OUTPUT_BUDGET_BYTES: usize = 128 << 20;
/// Writes that wait for the storage thread.
pub const STORAGE_QUEUE: usize = 65_536;
/// From here on the storage queue takes only writes that carry facts (rules.md 15).
pub const STORAGE_QUEUE_FOR_OUTPUT: usize = 49_152;
/// Entries that wait for the job log thread.
pub const JOB_LOG_QUEUE: usize = 65_536;
/// Entries that wait to be logged; more are counted as lost.
pub const LOG_QUEUE: usize = 16_384;
/// Requests that wait for the executor.
pub const EXECUTOR_QUEUE: usize = 4_096;
/// Output events that the engine takes before it looks at control again.
pub const BULK_PORTION: usize = 64;
/// Control events in a row before output gets a turn too.
pub const CONTROL_PORTION: usize = 1_024;
/// What a full queue handed back is offered again this often.
pub const PENDING_RETRY_MS: u64 = 5;
/// Wrappers that the local executor has launched and that have not yet returned, at a time: two descriptors each.
pub const LOCAL_LAUNCHES: usize = 32;
/// A wrapper that has not returned after this no longer counts for [`LOCAL_LAUNCHES`].
pub const LOCAL_LAUNCH_SLOW_MS: u64 = 2_000;
/// What is kept of a failed wrapper's standard error.
pub const LAUNCH_STDERR_BYTES: usize = 4 << 10;
/// An engine turn longer than this is logged with its event.
pub const SLOW_TURN_MS: u64 = 100;
/// The board is published at most this often.
pub const BOARD_INTERVAL_MS: u64 = 10;
/// Boards that wait until what they show is stored.
pub const PUBLISH_QUEUE: usize = 64;
/// With a disk that hangs, a board is shown after this all the same.
pub const BOARD_STORED_MS: u64 = 1_000;
/// Signs of life that systemd's watchdog gets within its patience: some may come late, and none too many is sent.
pub const WATCHDOG_SHARE: u64 = 4;
/// From SIGTERM to the daemon's exit.
pub const SHUTDOWN_MS: u64 = 2_000;
/// That an exit that cannot wait for everything still waits for what was logged.
pub const LOG_FLUSH_MS: u64 = 100;

// -- storage

/// Default of `output_limit`: bytes kept of one machine run's output (half head, half tail).
pub const OUTPUT_LIMIT_BYTES: u64 = 100 << 20;
/// Default of `history_days`.
pub const HISTORY_DAYS: u32 = 30;
/// Disk space held back for facts when the disk is full (rules.md 16).
pub const DISK_RESERVE_BYTES: u64 = 16 << 20;
/// A full disk is tried again this often.
pub const DISK_RETRY_MS: u64 = 1_000;
/// Rows that retention removes in one step, between commits.
pub const RETENTION_STEP_ROWS: usize = 500;
/// Between two steps of retention while commits wait.
pub const RETENTION_PAUSE_MS: u64 = 250;
/// A day file is cut down by this much a step before it is removed: unlinking gigabytes at once takes seconds.
pub const RETENTION_STEP_BYTES: u64 = 256 << 20;
/// Bytes in one commit: tens of milliseconds of the disk's work.
pub const COMMIT_BYTES: usize = 8 << 20;
/// Writes in one commit.
pub const COMMIT_WRITES: usize = 4_096;
/// What a fact counts for in [`COMMIT_BYTES`].
pub const FACT_BYTES: usize = 1_024;
/// Output in a day file's WAL before it is moved into the file: more is no faster, and takes longer at once
/// (measured: 16 MiB some 100 ms, 64 MiB 300 to 500 ms).
pub const OUTPUT_WAL_BYTES: usize = 16 << 20;
/// Day files that the storage thread, and each reader, keeps open.
pub const OPEN_DAY_FILES: usize = 4;
/// Longest row of output: a row is read whole, however little of it is wanted. As long as a frame of our wrapper; what a
/// Python wrapper flushes at once becomes several rows.
pub const OUTPUT_ROW_BYTES: usize = OUTPUT_CHUNK_BYTES;
/// Output read from storage in one go, and up to a row more.
pub const OUTPUT_READ_BYTES: usize = 256 << 10;
/// What people did is kept this long, however short `history_days` is.
pub const AUDIT_DAYS: i64 = 400;
/// Runs in one page of history at most.
pub const HISTORY_PAGE: usize = 1_000;

// -- job logs

/// Log files kept open.
pub const JOB_LOG_FILES: usize = 64;
/// A part of a line between two `\r` that is held back until it is known to be the last; a longer one is read again.
pub const JOB_LOG_SEGMENT_BYTES: usize = 64 << 10;

// -- the engine's memory

/// Runs that have ended stay in the engine's memory this long for late frames; older ones are loaded on demand.
pub const ENDED_RUN_KEPT_MS: u64 = 600_000;

// -- the API port

/// HTTP connections at a time, as far as the fleet leaves descriptors.
pub const API_CONNECTIONS: usize = 1_024;
/// HTTP connections that the fleet cannot crowd out.
pub const API_CONNECTIONS_GUARANTEED: usize = 24;
/// Connections of `control.sock` that nobody can crowd out.
pub const CONTROL_CONNECTIONS: usize = 8;
/// Request head.
pub const HTTP_HEAD_BYTES: usize = 16 << 10;
/// Request body.
pub const HTTP_BODY_BYTES: usize = 1 << 20;
/// A request's head and body must have arrived by then.
pub const HTTP_REQUEST_MS: u64 = 10_000;
/// Keep-alive without a request.
pub const HTTP_IDLE_MS: u64 = 60_000;
/// The files of the API's certificate are looked at no more often.
pub const KEYS_LOOK_MS: u64 = 2_000;
/// The engine's answer to an API call.
pub const API_ANSWER_MS: u64 = 10_000;
/// Wrong tokens from one address within [`AUTH_WINDOW_MS`]; more are refused.
pub const AUTH_FAILURES: u32 = 20;
/// Wrong tokens are counted over this time.
pub const AUTH_WINDOW_MS: u64 = 60_000;
/// Addresses whose wrong tokens are counted.
pub const AUTH_ADDRESSES: usize = 4_096;
/// Browsers logged in at a time; the oldest has to log in again.
pub const SESSIONS: usize = 1_024;
/// A login lasts this long.
pub const SESSION_MS: u64 = 12 * 3_600_000;
/// A follower of an output looks this often whether its peer is still there.
pub const FOLLOW_LOOK_MS: u64 = 1_000;
/// A follower looks this often for output that is on its way to the disk.
pub const FOLLOW_COMMIT_MS: u64 = 20;
/// Results shown with each job in a list.
pub const RECENT_RUNS: u64 = 5;
/// Outputs' ends that API threads keep, so that polling `/status` does not read the disk.
pub const STATUS_CACHE_BYTES: usize = 32 << 20;
/// `ret` in `/status`: the last part of an output.
pub const STATUS_RET_BYTES: usize = 64 << 10;

/// A job that is paused, or maintenance that is switched, unless said otherwise, for an hour.
pub const SWITCH_S: i64 = 3_600;
/// The longest time that maintenance may be switched for: what lasts longer belongs into the files.
pub const SWITCH_MAX_S: i64 = 7 * 86_400;
/// Characters of a reason that somebody gives, and of a machine's name.
pub const REASON_CHARS: usize = 1_000;
/// Paused jobs, and maintenance switches, at a time.
pub const CONTROLS: usize = 20_000;
/// Machines that one run may be asked for.
pub const RUN_MACHINES: usize = 20_000;

// -- the UI's WebSocket

/// A UI connection looks at what changed at most this often: ten times a second.
pub const COMPAT_LOOK_MS: u64 = 100;
/// `status` is sent after this even when nothing changed: every 2 s, with room for a busy machine.
pub const COMPAT_IDLE_STATUS_MS: u64 = 1_800;
/// `details` that differ only in beats and lengths of outputs are sent this often.
pub const COMPAT_PROGRESS_MS: u64 = 1_000;
/// A client message.
pub const COMPAT_MESSAGE_BYTES: usize = 1 << 20;
/// No frame of output is larger (wire-protocol.md section 2); this is left for its text after JSON escapes.
pub const COMPAT_CHUNK_JSON_BYTES: usize = 240 << 10;
/// Outputs are read in blocks of this size, so that all who follow one share what was read.
pub const COMPAT_BLOCK_BYTES: u64 = 64 << 10;
/// Blocks that were read are kept for the others who follow, twice this at most.
pub const COMPAT_CACHE_BYTES: usize = 8 << 20;
/// UTF-16 code units of one subscription that may be on their way without an `ack`, from a client that acks.
pub const COMPAT_WINDOW_UTF16: u64 = 1 << 20;
/// A client whose last `ack` is older than this is sent more all the same: the daemon's own count is the truth.
pub const COMPAT_ACK_PATIENCE_MS: u64 = 5_000;
/// Output that all UI connections together are sent in a second: what is left of the machine belongs to the engine.
pub const COMPAT_OUTPUT_BYTES_PER_S: u64 = 64 << 20;
/// Output that a machine run should have, and storage does not, is waited for this long.
pub const COMPAT_OUTPUT_PATIENCE_MS: u64 = 10_000;
/// What a UI connection says is kept, and told again in an answer, only up to this size; a job's name too.
pub const COMPAT_ECHO_BYTES: usize = 4 << 10;
/// Jobs that one UI connection follows, or has followed.
pub const COMPAT_SUBSCRIPTIONS: usize = 1_000;
/// Runs that passed between two looks and are shown one after the other; more are skipped.
pub const COMPAT_PAST_RUNS: usize = 8;
/// Answers that wait for a UI connection; while there are so many, nothing more is read from it.
pub const COMPAT_REPLIES: usize = 64;
/// A UI connection that has taken nothing for this long is closed.
pub const COMPAT_STUCK_MS: u64 = 30_000;
/// Whether a UI connection, or one that follows an output, may still see what it sees is asked this often, and when
/// settings change.
pub const ADMIT_AGAIN_MS: u64 = 10_000;

// -- configuration

/// A parameter's value: it becomes an environment variable.
pub const PARAMETER_BYTES: usize = 4 << 10;
/// A parameter's name.
pub const PARAMETER_NAME_BYTES: usize = 64;

/// How often the job files are looked at where the kernel does not tell of changes.
pub const CONFIG_POLL_MS: u64 = 1_000;
/// Largest job file that is read.
pub const CONFIG_FILE_BYTES: u64 = 64 << 20;
/// Values in one job file, counting what aliases repeat: 10,000 jobs have 200,000.
pub const CONFIG_NODES: usize = 4_000_000;
/// Larger files are parsed in pieces of about this size.
pub const CONFIG_PIECE_BYTES: usize = 128 << 10;
/// Up to so many files, each is looked at every `CONFIG_POLL_MS` even where the kernel tells of changes.
pub const CONFIG_SWEEP_FILES: usize = 256;
/// More files than that are all looked at this often; links always every `CONFIG_POLL_MS`.
pub const CONFIG_FULL_SWEEP_MS: u64 = 30_000;
/// Job files are read when nothing was written for this long: a half-written file is no news.
pub const CONFIG_QUIET_MS: u64 = 100;
/// A file that is still being written is read after this all the same.
pub const CONFIG_PATIENCE_MS: u64 = 1_000;
/// A file changed this shortly before it was read may change again without a newer time stamp: it is read again.
pub const CONFIG_UNSETTLED_MS: i64 = 100;

/// `saltpeter compare`: the old daemon starts jobs up to this late (8.5 s, measured on a quiet machine).
pub const COMPARE_TOLERANCE_S: i64 = 15;

// -- the wrapper

/// Pause between attempts to reach the daemon.
pub const RECONNECT_MS: u64 = 2_000;
/// How long a wrapper goes on trying after its command's end, and before its permission.
pub const WRAPPER_PATIENCE_MS: u64 = 3_600_000;
/// Output that waits in the wrapper's memory before it goes to disk. What is in flight (at most `WINDOW_BYTES`)
/// is held beside it; as large again, so that a daemon in mid-commit does not send output to disk.
pub const SPOOL_MEMORY_BYTES: usize = 4 << 20;
/// Default of `SP_SPOOL_LIMIT`: the spool on disk keeps head and tail of this much.
pub const SPOOL_DISK_BYTES: u64 = 1 << 30;
/// Default of `SP_OUTPUT_INTERVAL_MS`: output is gathered this long at most before it is sent.
pub const OUTPUT_INTERVAL_MS: u64 = 1_000;
/// Unacked frames without any ack for this long: the connection is made anew.
pub const ACK_TIMEOUT_MS: u64 = 20_000;
/// Spool files of dead wrappers older than this are removed.
pub const SPOOL_LEFTOVER_MS: u64 = 86_400_000;
/// Largest spool file, as long as [`SPOOL_SEGMENTS`] are enough: the spool on disk is a row of such files, so that what was sent frees its space.
pub const SPOOL_SEGMENT_BYTES: u64 = 16 << 20;
/// Spool files at a time: each is an open descriptor. Where the limit needs more, they are larger.
pub const SPOOL_SEGMENTS: u64 = 64;
/// What a spool file holds at least, however small the limit.
pub const SPOOL_SEGMENT_LEAST_BYTES: u64 = 64 << 10;
/// Output that comes after silence is gathered this long: a burst is one frame, and still feels immediate.
pub const OUTPUT_GATHER_MS: u64 = 20;
/// A stretch of valid UTF-8 this long between bytes that are not travels as text again.
pub const TEXT_STRETCH_BYTES: usize = 16 << 10;
/// The command's output pipe, where the kernel allows it.
pub const OUTPUT_PIPE_BYTES: usize = 1 << 20;
/// How long the guardian goes on killing what does not die (a process held by the kernel).
pub const END_ALL_MS: u64 = 2_000;
/// Past the guardian's own bounds its answer is not waited for.
pub const GUARDIAN_ANSWER_MS: u64 = 1_000;
/// Sent data that the daemon's host has not confirmed for this long: the connection is dead. Shorter than the
/// heartbeat timeout less a reconnect, longer than three lost packets.
pub const LINK_DEAD_MS: u32 = 8_000;
/// From the first address tried to the end of the handshake, per address.
pub const LINK_CONNECT_MS: u64 = 5_000;
/// What the kernel holds of one wrapper's frames: a beat waits behind no more than this on a slow line.
pub const LINK_SEND_BUFFER_BYTES: usize = 256 << 10;
/// Events that wait for the wrapper's owner loop.
pub const WRAPPER_QUEUE: usize = 256;
/// A wrapper that was told to stop leaves what it cannot deliver when the daemon has been silent for this long after the
/// command's end: longer than the daemon's restart takes, shorter than a host waits that shuts down (systemd: 90 s).
pub const STOP_PATIENCE_MS: u64 = 10_000;
/// From the last acknowledgement to the wrapper's exit: the closing frame's time.
pub const LINK_CLOSE_MS: u64 = 500;
/// Stack of the wrapper's threads: name services run on one of them.
pub const WRAPPER_STACK_BYTES: usize = 512 << 10;
/// Kept of a reason in the wrapper's log.
pub const LOG_LINE_BYTES: usize = 4 << 10;

// -- the command line

/// From the command line's attempt to connect to its success, for each address.
pub const CLI_CONNECT_MS: u64 = 10_000;
/// A daemon that is away (an update restarts it) is waited for this long while a run is waited for.
pub const CLI_AWAY_MS: u64 = 60_000;
/// The daemon's answer to the command line.
pub const CLI_ANSWER_MS: u64 = 30_000;
/// While it waits, the command line looks this often.
pub const CLI_LOOK_MS: u64 = 500;
/// Outputs that are followed at a time.
pub const CLI_FOLLOWED: usize = 64;
/// A line of several outputs' that is longer is cut in two.
pub const CLI_LINE_BYTES: u64 = 64 << 10;

// -- the engine's own

/// A connection thread that has not answered a probe by then counts as gone.
pub const PROBE_ANSWER_MS: u64 = 30_000;
/// The executor's answer to which machines are up; after it the run ends with what is known.
pub const RESOLVE_TIMEOUT_MS: u64 = 150_000;
// it is the executor's word that ends it
const _: () = assert!(RESOLVE_TIMEOUT_MS > PING_PATIENCE_MS + PING_BUSY_MS + PING_GRACE_MS);
/// Instances that are being looked for in storage at a time, and frames held for each meanwhile.
pub const LOADING_INSTANCES: usize = 1_024;
/// Frames held for an instance that is being looked for.
pub const LOADING_FRAMES: usize = 256;
/// Passed-over due times of one job that are counted one by one; a longer stretch is recorded with this count.
pub const MISSED_COUNTED: u64 = 10_000;
/// How often history is thinned out.
pub const RETENTION_INTERVAL_MS: u64 = 3_600_000;

// -- Salt

/// From the helper's start to its first line: importing Salt takes 0.3 s, on a busy machine 3 s and more.
pub const HELPER_HELLO_MS: u64 = 30_000;
/// The helper is asked for a sign of life this often.
pub const HELPER_STATUS_MS: u64 = 10_000;
/// A helper that has left so many of them unanswered hangs.
pub const HELPER_UNANSWERED: u32 = 3;
/// A helper that ended is started again after this; twice as long each time, until a publish succeeds.
pub const HELPER_BACKOFF_MIN_MS: u64 = 1_000;
pub const HELPER_BACKOFF_MAX_MS: u64 = 30_000;
/// Requests that wait to be read by the helper: above, no more are handed over.
pub const HELPER_OUTGOING_BYTES: usize = 4 << 20;
/// Taken from the helper at once.
pub const HELPER_READ_BYTES: usize = 256 << 10;
/// Longest line of the helper: it cuts texts in returns at 64 Ki characters.
pub const HELPER_LINE_BYTES: usize = 16 << 20;
/// Kept of a line of the helper's log that has no end.
pub const HELPER_LOG_LINE_BYTES: usize = 16 << 10;
/// Requests that Salt has not answered; further orders wait in the executor's queue.
pub const SALT_REQUESTS: usize = 16_384;
/// Minions that have not answered a ping by then are down.
pub const PING_TIMEOUT_MS: u64 = 20_000;
/// The same for those that answer other things meanwhile.
pub const PING_BUSY_MS: u64 = 40_000;
/// The window of a ping where the master has just been away: those that did not answer are pinged again.
pub const PING_AGAIN_MS: u64 = 5_000;
/// A publish that took this long went to a master that had just come up (30 to 40 ms are usual, 2.7 s the worst of a
/// storm of fifty): who is silent is pinged again.
pub const SALT_SLOW_PUBLISH_MS: u64 = 2_000;
/// From the order to a ping that is published: a master that restarts is waited for.
pub const PING_PATIENCE_MS: u64 = 60_000;
/// From the end of that window to the helper's word for it: the helper may have to be started again.
pub const PING_GRACE_MS: u64 = 30_000;
/// Answers to a ping are told together when none came for this long...
pub const PING_QUIET_MS: u64 = 250;
/// ...or the first has waited this long.
pub const PING_GATHER_MS: u64 = 1_500;
/// How often an executor tells what still waits for its turn: well within `DISPATCH_TIMEOUT_MS`.
pub const WAITING_TOLD_MS: u64 = 10_000;
/// Runs with the same targets share a ping that was published no longer ago than this.
pub const PING_SHARED_MS: u64 = 2_000;
/// From a dispatch, or its publish, to the minions' returns: a little less than `DISPATCH_TIMEOUT_MS`, so that it is
/// Salt's word that ends it.
pub const LAUNCH_PATIENCE_MS: u64 = 58_000;
/// A minion that has not answered a launch by then, and answers other things meanwhile, has much to do: it is given up
/// after this only. A hundred jobs due in one second keep a minion on a busy host occupied for a minute.
pub const LAUNCH_BUSY_MS: u64 = 300_000;
/// From the end of that window to the helper's word for it.
pub const LAUNCH_GRACE_MS: u64 = 30_000;
/// What a master that is away refused is tried again after this.
pub const SALT_RETRY_MS: u64 = 2_000;
/// Kept of what a minion says about a wrapper that did not start.
pub const LAUNCH_TEXT_BYTES: usize = 16 << 10;
/// First major version of Salt that was tried.
pub const SALT_OLDEST: u32 = 3006;
/// Default of `default_wrapper_path` with the Salt executor (rules.md 23).
pub const SALT_WRAPPER_PATH: &str = "/usr/local/bin/sp_wrapper.py";
/// What has become of a command without a wrapper is asked this often.
pub const PLAIN_LOOK_MS: u64 = 30_000;
/// The answer to that.
pub const PLAIN_ANSWER_MS: u64 = 15_000;
/// A minion that has run a command without a wrapper, and has not answered since, is given up after this: its return
/// may come late, as after a reboot.
pub const PLAIN_AWAY_MS: u64 = 600_000;
/// Found gone so many times in a row, without a return: it will not come.
pub const PLAIN_GONE: u32 = 2;
/// From the SIGKILL of a command without a wrapper to its end, as far as anybody can tell.
pub const PLAIN_KILLED_MS: u64 = 2_000;
/// Characters kept of the output of a command without a wrapper: it comes in one piece.
pub const PLAIN_OUTPUT_CHARS: usize = 4 << 20;
