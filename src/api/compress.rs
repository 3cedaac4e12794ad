//! Compression of responses with gzip, for clients that accept it.
//! Must not know: what the responses say.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::http::{Body, Request, Response};
use crate::limits;

/// Types whose responses are compressed. Output of machines is not: it is sent piece by piece, and `Range` counts its own
/// bytes. Neither are login forms: their length must not depend on a secret together with what others choose.
const TYPES: [&str; 4] = [
    "application/json",
    "text/javascript; charset=utf-8",
    "text/css; charset=utf-8",
    "image/svg+xml",
];

/// The response as it is sent: compressed if the client accepts that, and if it is worth it.
pub fn compressed(mut response: Response, request: &Request) -> Response {
    let Body::Bytes(bytes) = &response.body else {
        return response;
    };
    let is_fit = response.status == 200 && TYPES.contains(&response.content_type);
    if !is_fit || bytes.len() < limits::GZIP_LEAST_BYTES {
        return response;
    }
    // a cache must not give one form to all clients
    response.headers.push(("Vary", "Accept-Encoding".into()));
    if !accepts_gzip(request.header("accept-encoding").unwrap_or_default()) {
        return response;
    }
    let Ok(packed) = gzip(bytes) else {
        return response;
    };
    response.body = Body::Bytes(packed);
    response.headers.push(("Content-Encoding", "gzip".into()));
    for (name, value) in &mut response.headers {
        // the same content in other bytes
        if *name == "ETag" {
            *value = format!("W/{value}");
        }
    }
    response
}

/// The fastest level: the slower ones save a tenth of the bytes for three times the CPU time.
fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 8), Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// `gzip, br`, `gzip;q=0.5`; not `gzip;q=0`.
fn accepts_gzip(accepted: &str) -> bool {
    accepted.split(',').any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let is_gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let is_refused = parts.any(|part| {
            let quality = part
                .strip_prefix("q=")
                .and_then(|quality| quality.parse::<f32>().ok());
            quality == Some(0.0)
        });
        is_gzip && !is_refused
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn gzip_is_used_where_the_client_accepts_it() {
        for (accepted, wanted) in [
            ("gzip", true),
            ("br, GZip;q=0.5", true),
            ("deflate,gzip ; q=1", true),
            ("gzip;q=0", false),
            ("gzip; q=0.000", false),
            ("br", false),
            ("x-gzip2", false),
            ("", false),
        ] {
            assert_eq!(accepts_gzip(accepted), wanted, "{accepted}");
        }
    }

    #[test]
    fn what_is_compressed_is_the_same_when_it_is_read() {
        let text = "a job, and another job\n".repeat(1_000);
        let packed = gzip(text.as_bytes()).unwrap();
        assert!(packed.len() < text.len() / 20, "{}", packed.len());
        let mut read = String::new();
        flate2::read::GzDecoder::new(&*packed)
            .read_to_string(&mut read)
            .unwrap();
        assert_eq!(read, text);
    }
}
