//! What a dispatch says of the way to the machines port: the address, and how the daemon is known there.
//! Must not know: how a dispatch reaches a machine.

use std::net::Ipv6Addr;

use crate::config::{JobSpec, Settings};
use crate::tls::Pin;

/// The machines port, as known from start to restart.
#[derive(Clone, Debug)]
pub struct Entrance {
    /// Under which wrappers on this host find it.
    pub local_host: String,
    pub port: u16,
    /// Of the daemon's key.
    pub pin: Pin,
    /// Without any configured wrapper, ours is started (the local executor).
    pub own_wrapper_by_default: bool,
}

/// What one wrapper is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Without its query.
    pub url: String,
    /// For `SP_TLS_PIN`; None: no TLS.
    pub pin: Option<Pin>,
}

impl Entrance {
    /// The way for wrappers of that job, which reach this host as `host`. Over loopback too: while the daemon is down, any
    /// local user can listen on its port. A Python wrapper knows no pin, so it comes without TLS.
    pub fn link(&self, host: &str, spec: &JobSpec, settings: &Settings) -> Link {
        let is_tls = settings.is_wrapper_tls(spec, self.own_wrapper_by_default);
        let scheme = if is_tls { "wss" } else { "ws" };
        let host = match host.parse::<Ipv6Addr>() {
            Ok(address) => format!("[{address}]"),
            Err(_) => host.to_string(),
        };
        Link {
            url: format!("{scheme}://{host}:{}/", self.port),
            pin: is_tls.then_some(self.pin),
        }
    }

    /// The way for wrappers on this host.
    pub fn local_link(&self, spec: &JobSpec, settings: &Settings) -> Link {
        self.link(&self.local_host, spec, settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Delivery;

    fn link(host: &str, wrapper: &str, delivery: Delivery, wrapper_tls: bool) -> (String, bool) {
        let entrance = Entrance {
            local_host: "127.0.0.1".into(),
            port: 8889,
            pin: "sha256:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
                .parse()
                .unwrap(),
            own_wrapper_by_default: false,
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
        let link = entrance.link(host, &spec, &settings);
        (link.url, link.pin.is_some())
    }

    #[test]
    fn our_wrapper_comes_with_tls_over_loopback_too_and_a_python_one_as_ever() {
        use Delivery::{Auto, Env, Socket};
        let (ours, python) = ("/usr/bin/sp-wrapper", "/usr/local/bin/sp_wrapper.py");
        let plain = ("ws://cron:8889/".to_string(), false);
        let secure = ("wss://cron:8889/".to_string(), true);
        assert_eq!(link("cron", ours, Auto, true), secure);
        // its token and its output are no less secret
        assert_eq!(link("cron", ours, Env, true), secure);
        assert_eq!(link("cron", "/opt/wrapper-2", Socket, true), secure);
        assert_eq!(link("cron", python, Auto, true), plain);
        assert_eq!(link("cron", ours, Auto, false), plain);
        assert_eq!(
            link("localhost", ours, Auto, true),
            ("wss://localhost:8889/".into(), true)
        );
        assert!(!link("localhost", python, Auto, true).1);
        assert_eq!(link("::1", ours, Auto, true), ("wss://[::1]:8889/".into(), true));
        assert_eq!(
            link("fe80::2", ours, Auto, true),
            ("wss://[fe80::2]:8889/".into(), true)
        );
    }
}
