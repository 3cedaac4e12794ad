//! What a dispatch says of the way to the machines port: the address, and how the daemon is known there.
//! Must not know: how a dispatch reaches a machine.

use std::net::Ipv6Addr;

use crate::config::{JobSpec, Settings};
use crate::tls::Pin;

/// The machines port, as known from start to restart.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Under which wrappers on this host find it.
    pub local_host: String,
    pub port: u16,
    /// Of the daemon's key.
    pub pin: Pin,
    /// Without any configured wrapper, ours is started (the local executor).
    pub starts_sp_wrapper_by_default: bool,
}

/// What one wrapper is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Without its query.
    pub url: String,
    /// For `SP_TLS_PIN`; None: no TLS.
    pub pin: Option<Pin>,
}

impl Endpoint {
    /// The way for wrappers of that job, which reach this host as `host`. Over loopback too: while the daemon is down, any
    /// local user can listen on its port. A Python wrapper knows no pin, so it comes without TLS.
    pub fn route(&self, host: &str, spec: &JobSpec, settings: &Settings) -> Route {
        let is_tls = settings.is_wrapper_tls(spec, self.starts_sp_wrapper_by_default);
        let scheme = if is_tls { "wss" } else { "ws" };
        let host = match host.parse::<Ipv6Addr>() {
            Ok(address) => format!("[{address}]"),
            Err(_) => host.to_string(),
        };
        Route {
            url: format!("{scheme}://{host}:{}/", self.port),
            pin: is_tls.then_some(self.pin),
        }
    }

    /// The way for wrappers on this host.
    pub fn local_route(&self, spec: &JobSpec, settings: &Settings) -> Route {
        self.route(&self.local_host, spec, settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Delivery;

    fn route(host: &str, wrapper: &str, delivery: Delivery, wrapper_tls: bool) -> (String, bool) {
        let endpoint = Endpoint {
            local_host: "127.0.0.1".into(),
            port: 8889,
            pin: "sha256:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
                .parse()
                .unwrap(),
            starts_sp_wrapper_by_default: false,
        };
        let spec = JobSpec {
            wrapper_path: Some(wrapper.into()),
            delivery,
            ..JobSpec::default()
        };
        let settings = Settings {
            wrapper_tls,
            ..Settings::default()
        };
        let route = endpoint.route(host, &spec, &settings);
        (route.url, route.pin.is_some())
    }

    #[test]
    fn our_wrapper_comes_with_tls_over_loopback_too_and_a_python_one_as_ever() {
        use Delivery::{Auto, Env, Socket};
        let (ours, python) = ("/usr/bin/sp-wrapper", "/usr/local/bin/sp_wrapper.py");
        let plain = ("ws://cron:8889/".to_string(), false);
        let secure = ("wss://cron:8889/".to_string(), true);
        assert_eq!(route("cron", ours, Auto, true), secure);
        // its token and its output are no less secret
        assert_eq!(route("cron", ours, Env, true), secure);
        assert_eq!(route("cron", "/opt/wrapper-2", Socket, true), secure);
        assert_eq!(route("cron", python, Auto, true), plain);
        assert_eq!(route("cron", ours, Auto, false), plain);
        assert_eq!(
            route("localhost", ours, Auto, true),
            ("wss://localhost:8889/".into(), true)
        );
        assert!(!route("localhost", python, Auto, true).1);
        assert_eq!(route("::1", ours, Auto, true), ("wss://[::1]:8889/".into(), true));
        assert_eq!(
            route("fe80::2", ours, Auto, true),
            ("wss://[fe80::2]:8889/".into(), true)
        );
    }
}
