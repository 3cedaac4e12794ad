//! URLs of HTTP servers, and percent-encoding of one part of a path or query (RFC 3986, section 2.1).
//! Must not know: what the URL is for.

use std::fmt;

use crate::address::is_loopback_host;

/// An `https://` URL, or an `http://` one of this host. What it shows of itself in messages is its origin: the rest may
/// be secret.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpUrl {
    pub is_tls: bool,
    /// Without the brackets of an IPv6 address.
    pub host: String,
    pub port: u16,
    /// With the query; begins with `/`.
    pub path: String,
}

impl HttpUrl {
    /// The error quotes nothing of the text.
    pub fn parse(text: &str) -> Result<HttpUrl, String> {
        const WRONG: &str = "is not a URL; write https://host/path";
        let (is_tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err(WRONG.to_string()),
        };
        if !text.chars().all(|c| c.is_ascii_graphic()) || text.contains(['"', '<', '>', '\\']) {
            return Err("has a character that no URL has; encode it as %XX".to_string());
        }
        let rest = rest.split('#').next().unwrap_or_default();
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        if authority.contains('@') {
            return Err("must not contain a user or password; use token_file".to_string());
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| WRONG)?),
            _ if is_tls => (authority, 443),
            _ => (authority, 80),
        };
        if host.is_empty() {
            return Err(WRONG.to_string());
        }
        if !is_tls && !is_loopback_host(host) {
            return Err("must begin with https://; http:// is for this host (localhost) alone".to_string());
        }
        Ok(HttpUrl {
            is_tls,
            host: host
                .trim_start_matches('[')
                .trim_end_matches(']')
                .to_ascii_lowercase(),
            port,
            path: if path.starts_with('/') {
                path.to_string()
            } else {
                format!("/{path}")
            },
        })
    }

    /// `https://host:port`, the port where it is not the usual one.
    pub fn origin(&self) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{}", self.authority())
    }

    /// `host:port`, as the header `Host` has it.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        let usual = if self.is_tls { 443 } else { 80 };
        if self.port == usual {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }
}

impl fmt::Debug for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/***", self.origin())
    }
}

/// Decodes escapes such as `%41`. Bytes that are then not valid UTF-8 become U+FFFD.
pub fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = |at: usize| tail.get(at).and_then(|byte| (*byte as char).to_digit(16));
        match (first, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Encodes one part of a path or query.
pub fn percent_encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(byte as char),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_whole_and_shows_only_its_origin() {
        let url = HttpUrl::parse("https://Hooks.Example.com/a/b?c=d#e").unwrap();
        assert_eq!(
            (url.host.as_str(), url.port, url.path.as_str()),
            ("hooks.example.com", 443, "/a/b?c=d")
        );
        assert_eq!(format!("{url:?}"), "https://hooks.example.com/***");
        let url = HttpUrl::parse("http://[::1]:8080?x").unwrap();
        assert_eq!((url.host.as_str(), url.path.as_str()), ("::1", "/?x"));
        assert_eq!(url.authority(), "[::1]:8080");
        for bad in [
            "ftp://x",
            "https://",
            "https:///x",
            "http://example.com/",
            "https://user:pw@x/",
            "https://x/ y",
            "https://x/\r\n",
            "https://x:99999/",
            "http://127.0.0.1.example.com/",
        ] {
            assert!(HttpUrl::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_not_an_escape_is_unchanged() {
        assert_eq!(percent_decode("a%2"), "a%2");
        assert_eq!(percent_decode("%zz%e2%82%ac"), "%zz€");
    }

    #[test]
    fn encoding_and_decoding_return_the_same_text() {
        for text in ["", "a b/c?d&e=f", "100 %", "€ ü", "-_.~"] {
            let encoded = percent_encode(text);
            assert!(encoded.is_ascii(), "{encoded}");
            assert_eq!(percent_decode(&encoded), text);
        }
    }
}
