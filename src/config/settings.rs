//! `saltpeter_config` and `saltpeter_maintenance`: single keys into [`Settings`], and several files' into one.
//! Must not know: jobs, what was last good.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use data_encoding::HEXLOWER_PERMISSIVE;
use serde_json::Value;

use super::node::Node;
use super::validate::{self, DELIVERIES, Defaults};
use super::{ApiToken, ExecutorKind, Maintenance, Role, Settings, value};
use super::{notifiers, notify};
use crate::schedule;
use crate::url::HttpUrl;

/// The key of a file's settings.
pub const CONFIG_SECTION: &str = "saltpeter_config";
/// The key of a file's maintenance.
pub const MAINTENANCE_SECTION: &str = "saltpeter_maintenance";

const TOKENS: &str = "api_tokens";
const NOTIFIERS: &str = "notifiers";

/// What it takes.
pub const KEYS: [&str; 36] = [
    "logdir",
    "debug",
    "api_ws",
    "api_ws_port",
    "api_ws_bind_addr",
    "machines_ws_port",
    "machines_ws_bind_addr",
    "default_saltpeter_server_host",
    "default_wrapper_path",
    "default_wrapper_loglevel",
    "default_wrapper_logdir",
    "elasticsearch",
    "elasticsearch_index",
    "opensearch",
    "opensearch_index",
    "executor",
    "local_machines",
    "state_dir",
    "timezone",
    "output_limit",
    "wrapper_delivery",
    "start_timeout",
    "heartbeat_timeout",
    "history_days",
    "salt_python",
    "salt_config",
    "tls_cert",
    "tls_key",
    "wrapper_tls",
    "api_tokens",
    "api_open",
    "api_hosts",
    "api_allowed_origins",
    "notifiers",
    "notify",
    "heartbeat_url",
];

/// Sets one key. `Ok(Some)`: taken, with a doubt; `Err`: not taken. Relative directories are below `base`, the
/// configuration directory.
pub fn apply(settings: &mut Settings, key: &str, node: &Node, base: &Path) -> Result<Option<String>, String> {
    if !KEYS.contains(&key) {
        return Ok(Some(value::unknown("setting", key, KEYS)));
    }
    if *node == Node::Null {
        return Ok(None);
    }
    set(settings, key, node, base)?;
    let is_text = matches!(
        key,
        "logdir"
            | "state_dir"
            | "default_wrapper_path"
            | "timezone"
            | "salt_python"
            | "salt_config"
            | "tls_cert"
            | "tls_key"
    );
    Ok(match key {
        "default_wrapper_loglevel" => {
            validate::loglevel_doubt(&settings.default_wrapper_loglevel).map(str::to_string)
        }
        "local_machines" | "api_hosts" | "api_allowed_origins" => value::text_doubt(node).map(str::to_string),
        _ if is_text => value::text_doubt(node).map(str::to_string),
        "api_ws_port" | "machines_ws_port" | "output_limit" | "start_timeout" | "heartbeat_timeout"
        | "history_days" => value::number_doubt(node),
        _ => None,
    })
}

/// What the settings lend to jobs.
pub fn defaults(settings: &Settings) -> Defaults {
    Defaults {
        zone: settings.zone,
        output_limit_bytes: settings.output_limit_bytes,
        heartbeat_timeout_ms: settings.heartbeat_timeout_ms,
        start_timeout_ms: settings.start_timeout_ms,
        delivery: settings.delivery,
    }
}

/// The settings that all files' keys make, the later file's value winning; also each conflict as
/// (file, key, earlier file). The keys have been through [`apply`] and are taken as they are.
pub fn merge<'a>(
    files: impl Iterator<Item = (&'a str, &'a [(String, Node)])>,
    base: &Path,
) -> (Settings, Vec<(String, String, String)>) {
    let mut settings = relative_to(Settings::default(), base);
    let mut from: BTreeMap<&str, (&str, &Node)> = BTreeMap::new();
    let mut conflicts = Vec::new();
    let mut raw = serde_json::Map::new();
    for (file, keys) in files {
        for (key, node) in keys {
            let earlier = from.insert(key, (file, node));
            if key == TOKENS {
                // a second list does not lock out those whom the first lets in
                let known = std::mem::take(&mut settings.api_tokens);
                let _ = apply(&mut settings, key, node, base);
                if let Some((earlier, _)) = earlier {
                    let twice = settings
                        .api_tokens
                        .iter()
                        .filter(|token| {
                            known
                                .iter()
                                .any(|other| other.name == token.name && other != *token)
                        })
                        .map(|token| {
                            (
                                file.to_string(),
                                format!("{key}.{}", token.name),
                                earlier.to_string(),
                            )
                        });
                    conflicts.extend(twice);
                }
                settings.api_tokens = unite(known, std::mem::take(&mut settings.api_tokens));
                let shown = raw.remove(key);
                raw.insert(key.clone(), joined(shown, masked(key, node)));
                continue;
            }
            if key == NOTIFIERS {
                // each team may have a file for its own
                let known = std::mem::take(&mut settings.notifiers);
                let _ = apply(&mut settings, key, node, base);
                if let Some((earlier, _)) = earlier {
                    let twice = known.keys().filter(|name| settings.notifiers.contains_key(*name));
                    let place =
                        |name: &String| (file.to_string(), format!("{key}.{name}"), earlier.to_string());
                    conflicts.extend(twice.map(place));
                }
                for (name, notifier) in known {
                    settings.notifiers.entry(name).or_insert(notifier);
                }
                let shown = raw.remove(key);
                raw.insert(key.clone(), joined(shown, masked(key, node)));
                continue;
            }
            if let Some((earlier, other)) = earlier
                && earlier != file
                && other != node
            {
                conflicts.push((file.to_string(), key.clone(), earlier.to_string()));
            }
            // a bad one was told and replaced when its file was read
            let _ = apply(&mut settings, key, node, base);
            raw.insert(key.clone(), masked(key, node));
        }
    }
    settings.raw = Arc::new(raw);
    (settings, conflicts)
}

/// The tokens of two files; where a name stands in both, the later file's counts.
fn unite(mut known: Vec<ApiToken>, later: Vec<ApiToken>) -> Vec<ApiToken> {
    known.retain(|token| later.iter().all(|other| other.name != token.name));
    known.extend(later);
    known
}

/// Two lists as one, for display.
fn joined(first: Option<Value>, second: Value) -> Value {
    match (first, second) {
        (Some(Value::Array(mut first)), Value::Array(second)) => {
            first.extend(second);
            Value::Array(first)
        }
        (Some(Value::Object(mut first)), Value::Object(second)) => {
            first.extend(second);
            Value::Object(first)
        }
        (_, second) => second,
    }
}

/// One file's maintenance; unknown keys go to `doubt`.
pub fn maintenance(
    node: &Node,
    mut doubt: impl FnMut(&str, String),
) -> Result<Maintenance, (String, String)> {
    let mut maintenance = Maintenance::default();
    let entries = match node {
        Node::Null => return Ok(maintenance),
        Node::Map(entries) => entries,
        other => return Err((String::new(), format!("must be a mapping, not {}", other.kind()))),
    };
    for (key, node) in entries {
        let key = key.key_text().unwrap_or_default();
        match key.as_str() {
            "global" => maintenance.global = value::flag(node).map_err(|why| (key, why))?.unwrap_or(false),
            "machines" => {
                maintenance.machines = value::texts(node)
                    .map_err(|why| (key, why))?
                    .unwrap_or_default()
                    .into_iter()
                    .collect();
            }
            _ => doubt(&key, value::unknown("field", &key, ["global", "machines"])),
        }
    }
    Ok(maintenance)
}

/// What the settings together do not allow, as (key, reason): it is not in force.
pub fn refused(settings: &Settings) -> Option<(&'static str, &'static str)> {
    // rules.md 32a
    let is_open =
        settings.api_ws && !settings.api_ws_bind_addr.is_loopback() && settings.api_tokens.is_empty();
    if is_open {
        return Some((
            "api_ws_bind_addr",
            "reaches beyond this host without any api_tokens: the API stays on loopback; add tokens or use 127.0.0.1",
        ));
    }
    match (&settings.tls_cert, &settings.tls_key) {
        (Some(_), None) => Some((
            "tls_cert",
            "needs tls_key as well: the daemon does not start with one alone",
        )),
        (None, Some(_)) => Some((
            "tls_key",
            "needs tls_cert as well: the daemon does not start with one alone",
        )),
        _ => None,
    }
}

/// Keys whose change takes a restart (rules.md 14), with those that differ between the two.
pub fn restart_needed(running: &Settings, wanted: &Settings) -> Vec<&'static str> {
    [
        ("state_dir", running.state_dir == wanted.state_dir),
        ("executor", running.executor == wanted.executor),
        ("api_ws_port", running.api_ws_port == wanted.api_ws_port),
        (
            "api_ws_bind_addr",
            running.api_ws_bind_addr == wanted.api_ws_bind_addr,
        ),
        (
            "machines_ws_port",
            running.machines_ws_port == wanted.machines_ws_port,
        ),
        (
            "machines_ws_bind_addr",
            running.machines_ws_bind_addr == wanted.machines_ws_bind_addr,
        ),
        ("tls_cert", running.tls_cert == wanted.tls_cert),
        ("tls_key", running.tls_key == wanted.tls_key),
    ]
    .into_iter()
    .filter(|(_, same)| !same)
    .map(|(key, _)| key)
    .collect()
}

fn relative_to(mut settings: Settings, base: &Path) -> Settings {
    settings.logdir = base.join(&settings.logdir);
    settings.state_dir = base.join(&settings.state_dir);
    settings
}

fn set(settings: &mut Settings, key: &str, node: &Node, base: &Path) -> Result<(), String> {
    match key {
        "logdir" => settings.logdir = directory(node, base)?,
        "state_dir" => settings.state_dir = directory(node, base)?,
        "default_wrapper_logdir" => {
            settings.default_wrapper_logdir = directory(node, base)?.to_string_lossy().into_owned();
        }
        "debug" => settings.debug = flag(node)?,
        "api_ws" => settings.api_ws = flag(node)?,
        "api_open" => settings.api_open = flag(node)?,
        "api_ws_port" => settings.api_ws_port = port(node)?,
        "machines_ws_port" => settings.machines_ws_port = port(node)?,
        "api_ws_bind_addr" => settings.api_ws_bind_addr = address(node)?,
        "machines_ws_bind_addr" => settings.machines_ws_bind_addr = address(node)?,
        "default_saltpeter_server_host" => settings.default_saltpeter_server_host = optional_text(node)?,
        "default_wrapper_path" => settings.default_wrapper_path = optional_text(node)?,
        "default_wrapper_loglevel" => settings.default_wrapper_loglevel = loglevel(node)?,
        "salt_python" => settings.salt_python = optional_text(node)?,
        "salt_config" => settings.salt_config = text(node)?,
        "tls_cert" => settings.tls_cert = optional_text(node)?.map(|path| base.join(path)),
        "tls_key" => settings.tls_key = optional_text(node)?.map(|path| base.join(path)),
        "wrapper_tls" => settings.wrapper_tls = flag(node)?,
        "elasticsearch" => settings.elasticsearch = text(node)?,
        "elasticsearch_index" => settings.elasticsearch_index = text(node)?,
        "opensearch" => settings.opensearch = text(node)?,
        "opensearch_index" => settings.opensearch_index = text(node)?,
        "executor" => settings.executor = executor(node)?,
        "local_machines" => settings.local_machines = value::texts(node)?,
        "api_hosts" => settings.api_hosts = value::texts(node)?.unwrap_or_default(),
        "api_allowed_origins" => settings.api_allowed_origins = origins(node)?,
        "timezone" => settings.zone = schedule::zone(&text(node)?)?,
        "output_limit" => settings.output_limit_bytes = whole(node)?,
        "wrapper_delivery" => settings.delivery = delivery(node)?,
        "start_timeout" => settings.start_timeout_ms = milliseconds(node)?,
        "heartbeat_timeout" => settings.heartbeat_timeout_ms = milliseconds(node)?,
        "history_days" => settings.history_days = days(node)?,
        "api_tokens" => settings.api_tokens = tokens(node)?,
        "notifiers" => settings.notifiers = notifiers::read(node, base)?,
        "notify" => settings.notify = notify::rule(node)?,
        "heartbeat_url" => settings.heartbeat_url = url(node)?,
        // KEYS has no others; a test sets each
        _ => {}
    }
    Ok(())
}

const EMPTY: &str = "must not be empty";

fn text(node: &Node) -> Result<String, String> {
    value::text(node).map(Option::unwrap_or_default)
}

fn optional_text(node: &Node) -> Result<Option<String>, String> {
    value::text(node).map(|text| text.filter(|text| !text.is_empty()))
}

fn directory(node: &Node, base: &Path) -> Result<PathBuf, String> {
    optional_text(node)?
        .map(|path| base.join(path))
        .ok_or_else(|| EMPTY.to_string())
}

fn flag(node: &Node) -> Result<bool, String> {
    value::flag(node)?.ok_or_else(|| EMPTY.to_string())
}

fn whole(node: &Node) -> Result<u64, String> {
    value::whole(node)?.ok_or_else(|| EMPTY.to_string())
}

fn milliseconds(node: &Node) -> Result<u64, String> {
    value::milliseconds(node)?.ok_or_else(|| EMPTY.to_string())
}

fn days(node: &Node) -> Result<u32, String> {
    u32::try_from(whole(node)?).map_err(|_| "is too many days".to_string())
}

fn port(node: &Node) -> Result<u16, String> {
    u16::try_from(whole(node)?).map_err(|_| "must be a port, 0 to 65535 (0: any free one)".to_string())
}

fn address(node: &Node) -> Result<IpAddr, String> {
    match text(node)?.trim() {
        "localhost" => Ok(Ipv4Addr::LOCALHOST.into()),
        // what the old daemon's sockets took for "every address"
        "" => Ok(Ipv4Addr::UNSPECIFIED.into()),
        text => text.trim_matches(['[', ']']).parse().map_err(|_| {
            format!(
                "must be an IP address or 'localhost', not '{}'",
                text.escape_debug()
            )
        }),
    }
}

/// `scheme://host[:port]`, as browsers send them: nothing after the port.
fn origins(node: &Node) -> Result<Vec<String>, String> {
    let origins = value::texts(node)?.unwrap_or_default();
    for origin in &origins {
        let authority = origin
            .strip_prefix("https://")
            .or(origin.strip_prefix("http://"))
            .unwrap_or_default();
        if authority.is_empty() || authority.contains(['/', '*', '?', '#', '@', ' ']) {
            return Err(format!(
                "invalid origin '{}'; write https://ui.example.org, with the port if it is not the usual one",
                origin.escape_debug()
            ));
        }
    }
    Ok(origins.iter().map(|origin| origin.to_ascii_lowercase()).collect())
}

fn url(node: &Node) -> Result<Option<HttpUrl>, String> {
    optional_text(node)?.map(|text| HttpUrl::parse(&text)).transpose()
}

fn loglevel(node: &Node) -> Result<String, String> {
    match node {
        Node::Bool(false) => Ok("off".to_string()),
        other => text(other),
    }
}

fn executor(node: &Node) -> Result<ExecutorKind, String> {
    match text(node)?.as_str() {
        "salt" => Ok(ExecutorKind::Salt),
        "local" => Ok(ExecutorKind::Local),
        "none" => Ok(ExecutorKind::None),
        other => Err(format!(
            "must be salt, local or none, not '{}'",
            other.escape_debug()
        )),
    }
}

fn delivery(node: &Node) -> Result<super::Delivery, String> {
    let word = text(node)?;
    DELIVERIES
        .iter()
        .find(|(name, _)| *name == word)
        .map(|(_, delivery)| *delivery)
        .ok_or_else(|| format!("must be auto, env or socket, not '{}'", word.escape_debug()))
}

/// A list of `{name, role, sha256}`; nothing of a token stands in a message.
fn tokens(node: &Node) -> Result<Vec<ApiToken>, String> {
    let Node::List(items) = node else {
        return Err("must be a list of {name, role, sha256}".to_string());
    };
    items
        .iter()
        .enumerate()
        .map(|(index, item)| token(item).map_err(|why| format!("entry {}: {why}", index + 1)))
        .collect()
}

fn token(node: &Node) -> Result<ApiToken, String> {
    let Node::Map(entries) = node else {
        return Err("must be a mapping of name, role and sha256".to_string());
    };
    let field = |wanted: &str| {
        let node = entries
            .iter()
            .rev()
            .find(|(key, _)| key.key_text().as_deref() == Some(wanted));
        match node.map(|(_, node)| value::text(node)).transpose()?.flatten() {
            Some(text) if !text.is_empty() => Ok(text),
            _ => Err(format!("'{wanted}' is missing")),
        }
    };
    let unknown = |key: &String| !matches!(key.as_str(), "name" | "role" | "sha256");
    if let Some(key) = entries.iter().filter_map(|(key, _)| key.key_text()).find(unknown) {
        return Err(format!(
            "unknown field '{}'; it has name, role and sha256",
            key.escape_debug()
        ));
    }
    let role = match field("role")?.as_str() {
        "read" => Role::Read,
        "operate" => Role::Operate,
        "admin" => Role::Admin,
        _ => return Err("'role' must be read, operate or admin".to_string()),
    };
    let sha256 = HEXLOWER_PERMISSIVE
        .decode(field("sha256")?.as_bytes())
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or("'sha256' must be the token's SHA-256, 64 hexadecimal digits (printf %s TOKEN | sha256sum)")?;
    Ok(ApiToken {
        name: field("name")?,
        role,
        sha256,
    })
}

/// A key's value as anybody may see it. What is no setting of ours may be anything: it is not shown.
fn masked(key: &str, node: &Node) -> Value {
    const HIDDEN: &str = "***";
    let is_secret = ["token", "password", "passwd", "secret", "key"]
        .iter()
        .any(|word| key.contains(word));
    match node {
        Node::List(tokens) if key == "api_tokens" => {
            let tokens = tokens.iter().map(|token| match token.to_json() {
                Value::Object(mut fields) => {
                    for (field, value) in &mut fields {
                        if !matches!(field.as_str(), "name" | "role") {
                            *value = HIDDEN.into();
                        }
                    }
                    Value::Object(fields)
                }
                _ => HIDDEN.into(),
            });
            tokens.collect()
        }
        node if key == NOTIFIERS => notifiers::masked(node),
        Node::Text(text) if key == "heartbeat_url" => match HttpUrl::parse(text) {
            Ok(url) => format!("{url:?}").into(),
            Err(_) => HIDDEN.into(),
        },
        _ if is_secret || !KEYS.contains(&key) => HIDDEN.into(),
        // user and password of a URL, and what stands behind its '?'
        Node::Text(text) if text.contains(['@', '?']) => {
            let Some((scheme, rest)) = text.split_once("://") else {
                return HIDDEN.into();
            };
            let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
            let query = match query {
                "" => "",
                // may be part of a password
                query if query.contains('@') => return HIDDEN.into(),
                _ => "?***",
            };
            let place = match place.rfind('@') {
                Some(at) => format!("{HIDDEN}{}", &place[at..]),
                None => place.to_string(),
            };
            format!("{scheme}://{place}{query}").into()
        }
        other => other.to_json(),
    }
}
