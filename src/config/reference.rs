//! What people and editors read of the fields: type, default, example, meaning; the JSON Schema and the reference that
//! are made of it. A test holds it against what the code knows.
//! Must not know: how a field is read.

use serde_json::{Map, Value, json};

use super::notifiers::FORMATS;
use super::notify::NOTICE_KINDS;
use super::settings::{CONFIG_SECTION, MAINTENANCE_SECTION};
use super::{job_fields, validate};

/// One field of a job, of `saltpeter_config` or of `saltpeter_maintenance`.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub name: &'static str,
    pub kind: Kind,
    /// As it stands in a file; empty: none.
    pub default: &'static str,
    /// As it stands in a file.
    pub example: &'static str,
    /// Markdown, one line.
    pub meaning: &'static str,
}

/// What a field takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Flag,
    Whole,
    /// Fractions allowed.
    Seconds,
    /// One of the seven fields of a schedule: the smallest and the largest number.
    Schedule(u16, u16),
    /// A text or a list of texts.
    Texts,
    Choice(&'static [&'static str]),
    /// Names to values.
    Mapping,
    Port,
    Tokens,
    Notify,
    Notifiers,
    /// `all`, `any`, a number or a share in percent.
    Success,
    /// Taken, warned about, without effect.
    Ignored,
}

const fn field(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    example: &'static str,
    meaning: &'static str,
) -> Field {
    Field {
        name,
        kind,
        default,
        example,
        meaning,
    }
}

const LEVELS: &[&str] = &["normal", "debug", "off"];
const DELIVERIES: &[&str] = &["auto", "env", "socket"];

/// A job's fields, in the order in which one writes them.
#[rustfmt::skip]
pub const JOB: &[Field] = &[
    field("description", Kind::Text, "", "nightly dump", "for people; shown beside the job"),
    field("enabled", Kind::Flag, "true", "false", "`false`: never due, and cannot be started by hand"),
    field("schedule", Kind::Text, "", "'30 2 * * mon-fri'", "the schedule as one text instead of the seven fields that follow: 5 fields as in a crontab (min hour dom mon dow), 6 with sec first, 7 with year last, or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`; required unless those are there"),
    field("sec", Kind::Schedule(0, 59), "0", "30", "seconds of the minute, 0 to 59"),
    field("min", Kind::Schedule(0, 59), "required", "'*/5'", "minutes, 0 to 59"),
    field("hour", Kind::Schedule(0, 23), "required", "2", "hours, 0 to 23"),
    field("dom", Kind::Schedule(1, 31), "required", "'*'", "days of the month, 1 to 31; `L` is the last; a job is due when `dom` and `dow` both match"),
    field("mon", Kind::Schedule(1, 12), "required", "1-6", "months, 1 to 12 or `jan` to `dec`"),
    field("dow", Kind::Schedule(0, 7), "required", "mon-fri", "days of the week, 0 or `sun` to 6 or `sat`; 7 is Sunday, too"),
    field("year", Kind::Schedule(1970, 2099), "'*'", "'2027'", "years; one that is past: never due"),
    field("timezone", Kind::Text, "the setting `timezone`", "Europe/Berlin", "the IANA zone whose wall clock the schedule means"),
    field("utc", Kind::Flag, "false", "false", "`true`: UTC, whatever the setting `timezone` says; in the old daemon it had no effect"),
    field("command", Kind::Text, "required", "/usr/local/bin/dump --all", "run by `/bin/sh -c` on each machine"),
    field("targets", Kind::Texts, "required", "'web*'", "which machines: a text or a list, read as `target_type` says"),
    field("target_type", Kind::Choice(&validate::TARGET_TYPES), "glob", "glob", "Salt's name for the kind of `targets`; the local executor knows glob, list and pcre"),
    field("number_of_targets", Kind::Whole, "0", "1", "so many of the matching machines that are up, drawn at random; 0: all"),
    field("batch_size", Kind::Whole, "0", "10", "so many at a time, shuffled: the next starts when one has ended; 0: all at once"),
    field("success", Kind::Success, "all", "80%", "how many of the machines have to end with 0 for the run to have succeeded: `all`, `any`, a number, or a share in percent; machines in maintenance do not count, and of none a run fails"),
    field("max_failures", Kind::Whole, "", "0", "with `batch_size`: once more machines than this have failed, those still waiting are not started (254)"),
    field("cwd", Kind::Text, "the user's home", "/srv/app", "the directory that the command starts in"),
    field("user", Kind::Text, "the wrapper's (root)", "postgres", "the user that the command runs as, with that user's groups and `HOME`"),
    field("env", Kind::Mapping, "{}", "{MODE: full}", "the command's environment; quote what should arrive as you write it"),
    field("parameters", Kind::Mapping, "{}", "{day: today}", "values that a run by hand may be given, with their defaults; the command finds `day` as `SP_PARAM_DAY`"),
    field("timeout", Kind::Seconds, "3600", "600", "seconds until SIGTERM to all the command started; SIGKILL 5 seconds later; ends with 124; 0: none"),
    field("allow_overlap", Kind::Text, "", "i know what i am doing!", "exactly this text lets a run start while the one before is still running"),
    field("lockfile", Kind::Text, "one per job and machine", "/run/lock/dump", "two runs with the same lock file never run on a machine at a time"),
    field("catch_up", Kind::Choice(&["latest", "none", "skip"]), "latest", "none", "`latest`: the latest due time that was passed over (daemon down, machine stalled) is started late; `none` or `skip`: never"),
    field("start_deadline", Kind::Seconds, "60", "300", "the oldest that a passed-over due time may be, in seconds, to be started late"),
    field("output_limit", Kind::Whole, "the setting", "1048576", "bytes kept of one machine's output, the first and the last half; 0: no limit"),
    field("heartbeat_timeout", Kind::Seconds, "the setting", "60", "seconds without a sign of life from the wrapper until the machine's run counts as lost (253)"),
    field("start_timeout", Kind::Seconds, "the setting", "60", "seconds from a wrapper's launch until it must have connected (254)"),
    field("notify", Kind::Notify, "the setting", "{to: [ops], on: [failure, recovery]}", "who is told of its outcomes: `to`, `on`, `after`, `repeat`, `quiet` (notifications.md); `none`: nobody"),
    field("expect_within", Kind::Seconds, "", "7200", "seconds after a due time until which a run of it is expected to have ended; else `late` is told"),
    field("warn_after", Kind::Seconds, "", "3600", "seconds after which a run that is still running is told as `long`"),
    field("min_runtime", Kind::Seconds, "", "10", "seconds that a run takes at least; one that succeeds sooner is told as `short`"),
    field("use_wrapper", Kind::Flag, "true", "false", "`false`: plain Salt execution, without live output"),
    field("wrapper_path", Kind::Text, "the setting `default_wrapper_path`", "/opt/bin/sp-wrapper", "the wrapper on the machines"),
    field("wrapper_delivery", Kind::Choice(DELIVERIES), "the setting", "auto", "how command and environment reach the wrapper: `socket` over its own connection, `env` with the dispatch; `auto`: `socket` where that is private and the wrapper is ours"),
    field("wrapper_loglevel", Kind::Choice(LEVELS), "the setting `default_wrapper_loglevel`", "debug", "what the wrapper writes to its own log on the machine"),
    field("wrapper_logdir", Kind::Text, "the setting `default_wrapper_logdir`", "/var/log/sp_wrapper", "the directory of that log"),
    field("saltpeter_server_host", Kind::Text, "the setting `default_saltpeter_server_host`", "cron.example.com", "the name under which the machines reach the daemon"),
    field("hard_timeout", Kind::Ignored, "", "", "ignored, as it has long been; rename it to `timeout`"),
    field("soft_timeout", Kind::Ignored, "", "", "ignored, as it has long been; rename it to `timeout`"),
    field("group", Kind::Ignored, "", "", "ignored: a job's group is its file's name"),
    field("name", Kind::Ignored, "", "", "ignored: a job's name is its key in the file"),
];

/// The keys of `saltpeter_config`.
#[rustfmt::skip]
pub const SETTINGS: &[Field] = &[
    field("executor", Kind::Choice(&["salt", "local", "none"]), "salt", "local", "what reaches machines: a Salt master on this host; this host itself; nothing (shadow mode). Until restart"),
    field("local_machines", Kind::Texts, "the host's name", "[web01, db01]", "the machines that the local executor plays"),
    field("timezone", Kind::Text, "UTC", "Europe/Berlin", "the zone of jobs that name none"),
    field("logdir", Kind::Text, "/var/log/saltpeter", "/var/log/saltpeter", "job logs, `<job>.log` each; relative: below the configuration directory"),
    field("state_dir", Kind::Text, "/var/lib/saltpeter", "/var/lib/saltpeter", "what the daemon must not forget. Until restart"),
    field("history_days", Kind::Whole, "30", "90", "days that runs and their output are kept after the end of the run; 0: ended runs are removed within the hour. The last ended run of each job stays"),
    field("output_limit", Kind::Whole, "104857600", "1048576", "bytes kept of one machine's output, where a job says nothing; 0: no limit"),
    field("debug", Kind::Flag, "false", "true", "log each heartbeat and more"),
    field("api_ws", Kind::Flag, "true", "false", "`false`: no page, no HTTP over TCP; the control socket stays"),
    field("api_ws_port", Kind::Port, "8888", "8888", "the page and the HTTP API; 0: any free port. Until restart"),
    field("api_ws_bind_addr", Kind::Text, "127.0.0.1", "0.0.0.0", "beyond loopback only with `api_tokens`. Until restart"),
    field("api_hosts", Kind::Texts, "[]", "[cron.example.com]", "names beyond loopback under which browsers may call the API"),
    field("api_allowed_origins", Kind::Texts, "[]", "[https://ui.example.org]", "origins of other web pages that may use the API; a page on another port of the same host is another origin"),
    field("api_tokens", Kind::Tokens, "[]", "[{name: ops, role: operate, sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08}]", "who may read, operate or administer; `saltpeter token NAME ROLE` makes an entry; the lists of several files are united"),
    field("api_open", Kind::Flag, "false", "true", "on loopback, acting needs no token: any local user may run and kill jobs"),
    field("machines_ws_port", Kind::Port, "8889", "8889", "where wrappers connect; 0: any free port. Until restart"),
    field("machines_ws_bind_addr", Kind::Text, "0.0.0.0", "10.0.0.1", "the address of that port. Until restart"),
    field("default_saltpeter_server_host", Kind::Text, "the host's name", "cron.example.com", "the name under which the machines reach the daemon"),
    field("default_wrapper_path", Kind::Text, "/usr/local/bin/sp_wrapper.py with Salt; the daemon's own with local", "/usr/bin/sp-wrapper", "the wrapper on the machines"),
    field("default_wrapper_loglevel", Kind::Choice(LEVELS), "normal", "debug", "what wrappers write to their own log"),
    field("default_wrapper_logdir", Kind::Text, "/var/log/sp_wrapper", "/var/log/sp_wrapper", "the directory of that log, on the machines"),
    field("wrapper_delivery", Kind::Choice(DELIVERIES), "auto", "env", "how command and environment reach wrappers, where a job says nothing"),
    field("start_timeout", Kind::Seconds, "30", "60", "seconds from a wrapper's launch until it must have connected"),
    field("heartbeat_timeout", Kind::Seconds, "15", "60", "seconds without a sign of life until a machine's run counts as lost; wrappers beat every 5"),
    field("wrapper_tls", Kind::Flag, "true", "false", "sp-wrapper connects with TLS and verifies the daemon's key"),
    field("tls_cert", Kind::Text, "the daemon's own", "/etc/saltpeter/tls/cert.pem", "certificate chain, PEM, of the machines port (until restart) and, where given, of the API's, which reads it again when it changes; needs `tls_key`"),
    field("tls_key", Kind::Text, "the daemon's own", "/etc/saltpeter/tls/key.pem", "its key, PEM"),
    field("notifiers", Kind::Notifiers, "{}", "{ops: {webhook: 'https://hooks.example.com/T1', format: slack}}", "destinations of notices by name: `webhook`, `mail` or `command` (notifications.md); those of several files are united"),
    field("notify", Kind::Notify, "", "{to: [ops]}", "who is told of outcomes, where a job says nothing"),
    field("heartbeat_url", Kind::Text, "", "https://hc.example.com/ping/1", "requested every minute while the engine turns and storage takes writes: a monitor elsewhere notices the daemon's death"),
    field("salt_config", Kind::Text, "/etc/salt", "/etc/salt", "the Salt master's configuration, a directory or a file"),
    field("salt_python", Kind::Text, "found by itself", "/opt/saltstack/salt/bin/python3", "the Python that has Salt"),
    field("elasticsearch", Kind::Text, "", "http://search:9200", "taken, not used yet"),
    field("elasticsearch_index", Kind::Text, "saltpeter", "saltpeter", "taken, not used yet"),
    field("opensearch", Kind::Text, "", "http://search:9200", "taken, not used yet"),
    field("opensearch_index", Kind::Text, "saltpeter", "saltpeter", "taken, not used yet"),
];

/// The keys of `saltpeter_maintenance`.
#[rustfmt::skip]
pub const MAINTENANCE: &[Field] = &[
    field("global", Kind::Flag, "false", "true", "no run starts; running ones go on"),
    field("machines", Kind::Texts, "[]", "[web01]", "machines left out of every run"),
];

/// The names that the code takes, of jobs and of settings.
pub fn known() -> (Vec<&'static str>, Vec<&'static str>) {
    (
        job_fields::known_fields().collect(),
        super::settings::KEYS.to_vec(),
    )
}

/// The JSON Schema of a job file.
pub fn schema() -> Value {
    let section = |about: &str, fields: &[Field]| json!({"description": about, "type": ["object", "null"], "properties": properties(fields), "additionalProperties": false});
    let required: Vec<&str> = JOB
        .iter()
        .filter(|field| field.default == "required")
        .map(|field| field.name)
        .collect();
    let is_schedule = |name: &&str| {
        JOB.iter()
            .any(|f| f.name == *name && matches!(f.kind, Kind::Schedule(..)))
    };
    let (fields, required): (Vec<&str>, Vec<&str>) = required.into_iter().partition(is_schedule);
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "a job file of saltpeter",
        "type": ["object", "null"],
        "properties": {
            CONFIG_SECTION: section("settings of the daemon", SETTINGS),
            MAINTENANCE_SECTION: section("what does not run for now", MAINTENANCE),
        },
        "additionalProperties": {
            "description": "a job, by its name",
            "type": "object",
            "properties": properties(JOB),
            "required": required,
            "anyOf": [{"required": fields}, {"required": ["schedule"]}],
            "additionalProperties": false,
        },
    })
}

/// The rows of a table in Markdown, one a field.
pub fn markdown(fields: &[Field]) -> String {
    let mut text = "| field | type | default | example | meaning |\n|---|---|---|---|---|\n".to_string();
    for field in fields {
        let code = |text: &str| match text {
            "" => String::new(),
            text if text.contains(' ') && !text.starts_with(['[', '{', 'i', '/']) => text.to_string(),
            text => format!("`{text}`"),
        };
        let default = match field.default {
            "required" => "required".to_string(),
            text if text.contains(' ') => text.to_string(),
            text => code(text),
        };
        let (name, kind, example) = (field.name, kind_text(field.kind), code(field.example));
        text.push_str(&format!(
            "| `{name}` | {kind} | {default} | {example} | {} |\n",
            field.meaning
        ));
    }
    text
}

/// The same for a man page, in mdoc's older sister man(7).
pub fn roff(fields: &[Field]) -> String {
    let plain = |text: &str| text.replace('\\', "\\e").replace('-', "\\-").replace('`', "");
    let mut text = String::new();
    for field in fields {
        let kind = kind_text(field.kind);
        text.push_str(&format!(".TP\n.B {}\n", plain(field.name)));
        let meaning = plain(field.meaning);
        let default = match field.default {
            "" => String::new(),
            "required" => ", required".to_string(),
            default => format!(", default: {}", plain(default)),
        };
        text.push_str(&format!("({}{default}) {meaning}.\n", plain(&kind)));
        if !field.example.is_empty() {
            text.push_str(&format!(
                ".br\nExample: \\fB{}: {}\\fR\n",
                plain(field.name),
                plain(field.example)
            ));
        }
    }
    text
}

fn properties(fields: &[Field]) -> Map<String, Value> {
    fields
        .iter()
        .map(|field| {
            let mut shape = shape(field.kind);
            shape["description"] = field.meaning.replace('`', "").into();
            if field.kind == Kind::Ignored {
                shape["deprecated"] = true.into();
            }
            (field.name.to_string(), shape)
        })
        .collect()
}

/// What a value looks like that is taken without a doubt.
fn shape(kind: Kind) -> Value {
    let text = json!({"type": ["string", "integer", "null"]});
    let texts = json!({"anyOf": [text, {"type": "array", "items": {"type": ["string", "integer"]}}]});
    let number = |kind: &str, pattern: &str| {
        json!({"anyOf": [
            {"type": kind, "minimum": 0},
            {"type": "string", "pattern": pattern},
            {"type": "null"},
        ]})
    };
    match kind {
        Kind::Success => json!({"anyOf": [
            {"type": "integer", "minimum": 1},
            {"type": "null"},
            {"type": "string", "pattern": "^(all|any|[1-9][0-9]*|([1-9][0-9]?|100)%)$"},
        ]}),
        Kind::Text => text,
        Kind::Flag => json!({"anyOf": [
            {"type": ["boolean", "null"]},
            {"enum": [0, 1]},
            {"type": "string", "pattern": "^(y|Y|yes|Yes|YES|n|N|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$"},
        ]}),
        Kind::Whole => number("integer", "^ *[0-9]+ *$"),
        Kind::Seconds => number("number", "^ *([0-9]+([.][0-9]*)?|[.][0-9]+) *$"),
        Kind::Schedule(smallest, largest) => json!({"anyOf": [
            {"type": "integer", "minimum": smallest, "maximum": largest},
            {"type": "string", "pattern": "^ *[0-9A-Za-z*?,/-]+ *$"},
        ]}),
        Kind::Texts => texts,
        // YAML 1.1 reads an unquoted `off` as false
        Kind::Choice(words) if words.contains(&"off") => {
            json!({"anyOf": [{"enum": words}, {"enum": [null, false]}]})
        }
        Kind::Choice(words) => json!({"anyOf": [{"enum": words}, {"type": "null"}]}),
        Kind::Mapping => json!({"type": ["object", "null"], "additionalProperties": {
            "type": ["string", "number", "boolean", "null"],
        }}),
        Kind::Port => json!({"anyOf": [
            {"type": "integer", "minimum": 0, "maximum": 65535},
            {"type": "string", "pattern": "^ *[0-9]{1,5} *$"},
            {"type": "null"},
        ]}),
        Kind::Tokens => json!({"type": ["array", "null"], "items": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "role": {"enum": ["read", "operate", "admin"]},
                "sha256": {"type": "string", "pattern": "^[0-9a-fA-F]{64}$"},
            },
            "required": ["name", "role", "sha256"],
            "additionalProperties": false,
        }}),
        Kind::Notify => notify_shape(texts),
        Kind::Notifiers => notifiers_shape(text, texts),
        Kind::Ignored => json!({}),
    }
}

/// Of a rule that says who is told.
fn notify_shape(texts: Value) -> Value {
    let kinds: Vec<&str> = NOTICE_KINDS.iter().map(|(word, _)| *word).collect();
    json!({"anyOf": [
        {"enum": [false, null]},
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}},
        {
            "type": "object",
            "properties": {
                "to": texts,
                "on": {"anyOf": [{"enum": kinds}, {"type": "array", "items": {"enum": kinds}}]},
                "after": {"type": "integer", "minimum": 1, "maximum": 1000},
                "repeat": {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": "^ *[0-9]+[smhd]? *$"}]},
                "quiet": texts,
            },
            "additionalProperties": false,
        },
    ]})
}

fn notifiers_shape(text: Value, texts: Value) -> Value {
    let formats: Vec<&str> = FORMATS.iter().map(|(word, _)| *word).collect();
    json!({"type": ["object", "null"], "additionalProperties": {
        "type": "object",
        "properties": {
            "webhook": {"type": "string", "pattern": "^https?://"},
            "url_file": {"type": "string"},
            "format": {"enum": formats},
            "body": {"type": "string"},
            "secret_file": {"type": "string"},
            "token_file": {"type": "string"},
            "room": {"type": "string"},
            "ca_file": {"type": "string"},
            "mail": texts,
            "from": {"type": "string"},
            "sendmail": {"type": "string"},
            "command": {"type": "string"},
            "user": text,
            "timeout": {"type": "number", "minimum": 0},
        },
        "additionalProperties": false,
    }})
}

fn kind_text(kind: Kind) -> String {
    match kind {
        Kind::Text | Kind::Success => "text".to_string(),
        Kind::Flag => "boolean".to_string(),
        Kind::Whole => "whole number".to_string(),
        Kind::Seconds => "seconds".to_string(),
        Kind::Schedule(..) => "schedule".to_string(),
        Kind::Texts => "text or list".to_string(),
        Kind::Choice(words) => words.join(", "),
        Kind::Mapping => "mapping".to_string(),
        Kind::Port => "port".to_string(),
        Kind::Tokens => "list of name, role, sha256".to_string(),
        Kind::Notify => "mapping, names or none".to_string(),
        Kind::Notifiers => "mapping of notifiers".to_string(),
        Kind::Ignored => "ignored".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn names(fields: &[Field]) -> BTreeSet<&'static str> {
        fields.iter().map(|field| field.name).collect()
    }

    #[test]
    fn every_field_that_the_code_knows_is_described_and_no_other() {
        let (job, settings) = known();
        assert_eq!(names(JOB), job.into_iter().collect());
        assert_eq!(names(SETTINGS), settings.into_iter().collect());
    }

    #[test]
    fn the_schema_takes_every_character_that_a_schedule_may_have() {
        for field in JOB
            .iter()
            .filter(|field| matches!(field.kind, Kind::Schedule(..)))
        {
            let shape = shape(field.kind);
            let pattern = shape["anyOf"][1]["pattern"].as_str().unwrap();
            let pattern = regex_lite::Regex::new(pattern).unwrap();
            for text in ["*", "?", "*/5", " 1-5,8 ", "mon-fri", "L", "Z1-3", "L5", "2026"] {
                assert!(pattern.is_match(text), "{}: {text}", field.name);
            }
            assert!(!pattern.is_match("") && !pattern.is_match("every day"));
        }
    }
}
