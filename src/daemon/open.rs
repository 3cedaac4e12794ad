//! Everything that can be wrong before the daemon runs: configuration, state directory, ports.
//! Must not know: threads.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use crate::address::is_loopback;
use crate::config::{self, Config, Loader, Problem, Settings, Severity};
use crate::engine::record::Recovered;
use crate::net::identity::{self, Identity};
use crate::process::host::short_name;
use crate::{logging, net, storage};

/// What was opened.
pub struct Opened {
    pub loader: Loader,
    /// With the daemon's own problems.
    pub config: Arc<Config>,
    /// What holds from here to the end.
    pub settings: Arc<Settings>,
    pub storage: storage::OpenStore,
    pub recovered: Recovered,
    /// None: `api_ws: false`.
    pub api: Option<TcpListener>,
    pub machines: TcpListener,
    /// Of the machines port.
    pub identity: Identity,
    pub ports: Addresses,
}

/// Addresses in force until the end.
#[derive(Clone, Debug)]
pub struct Addresses {
    pub api: Option<SocketAddr>,
    pub machines: SocketAddr,
}

/// Opens everything. The error is one line for people.
pub fn open(config_dir: &Path) -> Result<Opened, String> {
    let mut loader = Loader::new(config_dir.to_path_buf());
    logging::set_debug(loader.load()?.settings.debug);
    let state_dir = loader.state_dir();
    let (storage, recovered) = storage::open(&state_dir)?;
    // only now is the place of last good content known; bad files are looked at again with it
    loader.set_last_good(Some(config::last_good_dir(&state_dir)));
    let config = loader.load()?;
    logging::set_debug(config.settings.debug);
    let settings = Arc::new(Settings {
        state_dir,
        ..Settings::clone(&config.settings)
    });
    let config = with_own_problems(config, &settings);
    config::log_problems(&[], &config.problems);
    let identity = identity_of(&settings)?;
    let machines_address = SocketAddr::new(settings.machines_ws_bind_addr, settings.machines_ws_port);
    let machines = net::listen(
        machines_address,
        "machines",
        "machines_ws_port or machines_ws_bind_addr",
    )?;
    let api_address = SocketAddr::new(api_bind_address(&settings), settings.api_ws_port);
    let api = if settings.api_ws {
        Some(net::listen(
            api_address,
            "the API",
            "api_ws_port or api_ws_bind_addr",
        )?)
    } else {
        None
    };
    let address = |listener: &TcpListener| {
        listener
            .local_addr()
            .map_err(|error| format!("asking for a port's number: {error}"))
    };
    let ports = Addresses {
        api: api.as_ref().map(address).transpose()?,
        machines: address(&machines)?,
    };
    Ok(Opened {
        loader,
        config,
        settings,
        storage,
        recovered,
        api,
        machines,
        identity,
        ports,
    })
}

/// Key and certificate of the machines port.
fn identity_of(settings: &Settings) -> Result<Identity, String> {
    let identity = match (&settings.tls_cert, &settings.tls_key) {
        (Some(certificate), Some(key)) => identity::given(certificate, key),
        (None, None) => identity::own(&settings.state_dir, &names(settings)),
        _ => Err("tls_cert and tls_key must be set together".to_string()),
    }?;
    log::info!("TLS on the machines port: SP_TLS_PIN={}", identity.pin);
    Ok(identity)
}

/// What wrappers may call this host; they look at the key, so a name that is missing here does no harm.
fn names(settings: &Settings) -> Vec<String> {
    let mut names = vec![short_name(), "localhost".to_string()];
    names.extend(settings.default_saltpeter_server_host.clone());
    // a certificate has no room for others
    names.retain(|name| name.is_ascii());
    names
}

impl Addresses {
    /// What wrappers on this host connect to.
    pub fn local_address(&self) -> SocketAddr {
        let ip = match self.machines.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            // an unspecified IPv6 socket takes IPv4 too, unless the host says otherwise
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        SocketAddr::new(ip, self.machines.port())
    }

    /// The line that says that the daemon is ready (rules.md 35).
    pub fn ready_line(&self) -> String {
        let api = self.api.map_or("off".to_string(), |address| address.to_string());
        format!("listening: api {api}, machines {}", self.machines)
    }
}

/// Adds what only the running daemon knows: settings that do not hold, or not yet. `at_start` are the settings that it
/// began with.
pub fn with_own_problems(config: Arc<Config>, at_start: &Settings) -> Arc<Config> {
    let own = own_problems(&config.settings, at_start);
    if own.is_empty() {
        return config;
    }
    let mut config = Config::clone(&config);
    config.problems.extend(own);
    Arc::new(config)
}

/// Without tokens the API stays on loopback: anybody on the network could otherwise run jobs (rules.md 32a). That is
/// where clients look for it: `::` takes IPv4 as well.
fn api_bind_address(settings: &Settings) -> IpAddr {
    match settings.api_ws_bind_addr {
        address if is_loopback(address) || !settings.api_tokens.is_empty() => address,
        _ => IpAddr::V4(Ipv4Addr::LOCALHOST),
    }
}

fn own_problems(now: &Settings, at_start: &Settings) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add = |field: &str, severity, reason: String| {
        problems.push(Problem {
            file: String::new(),
            line: None,
            field: format!("saltpeter_config.{field}"),
            reason,
            severity,
        });
    };
    if at_start.api_ws && api_bind_address(at_start) != at_start.api_ws_bind_addr {
        add(
            "api_ws_bind_addr",
            Severity::Error,
            format!(
                "{} is beyond loopback and there are no api_tokens: the API listens on loopback only; add api_tokens and \
                 restart",
                at_start.api_ws_bind_addr
            ),
        );
    }
    let fixed = [
        ("api_ws", now.api_ws != at_start.api_ws),
        ("api_ws_port", now.api_ws_port != at_start.api_ws_port),
        (
            "api_ws_bind_addr",
            now.api_ws_bind_addr != at_start.api_ws_bind_addr,
        ),
        (
            "machines_ws_port",
            now.machines_ws_port != at_start.machines_ws_port,
        ),
        (
            "machines_ws_bind_addr",
            now.machines_ws_bind_addr != at_start.machines_ws_bind_addr,
        ),
        ("tls_cert", now.tls_cert != at_start.tls_cert),
        ("tls_key", now.tls_key != at_start.tls_key),
        ("state_dir", now.state_dir != at_start.state_dir),
        ("executor", now.executor != at_start.executor),
    ];
    for (field, has_changed) in fixed {
        if has_changed {
            let reason = "the change takes effect with the daemon's next start".to_string();
            add(field, Severity::Warning, reason);
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ApiToken, Role};

    #[test]
    fn without_tokens_the_api_stays_on_loopback_and_says_so() {
        let mut settings = Settings {
            api_ws_bind_addr: [0, 0, 0, 0].into(),
            ..Settings::default()
        };
        for beyond in ["::", "2001:db8::1", "0.0.0.0"] {
            settings.api_ws_bind_addr = beyond.parse().unwrap();
            assert_eq!(api_bind_address(&settings), IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        let problems = own_problems(&settings, &settings);
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].severity, Severity::Error);
        settings.api_tokens.push(ApiToken {
            name: "ops".into(),
            role: Role::Read,
            sha256: [0; 32],
        });
        assert_eq!(api_bind_address(&settings), settings.api_ws_bind_addr);
        assert!(own_problems(&settings, &settings).is_empty());
    }

    #[test]
    fn a_setting_that_waits_for_a_restart_is_warned_about() {
        let at_start = Settings::default();
        let now = Settings {
            machines_ws_port: 1,
            ..Settings::default()
        };
        let problems = own_problems(&now, &at_start);
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].field, "saltpeter_config.machines_ws_port");
    }

    #[test]
    fn wrappers_on_this_host_come_over_loopback_where_the_port_is_bound_to_all() {
        let ports = |machines: &str| Addresses {
            api: None,
            machines: machines.parse().unwrap(),
        };
        let local = |machines: &str| ports(machines).local_address().to_string();
        assert_eq!(local("0.0.0.0:8889"), "127.0.0.1:8889");
        assert_eq!(local("[::]:1"), "[::1]:1");
        assert_eq!(local("10.0.0.5:1"), "10.0.0.5:1");
        assert_eq!(
            ports("127.0.0.1:1").ready_line(),
            "listening: api off, machines 127.0.0.1:1"
        );
    }
}
