//! TLS over a non-blocking socket, for either side, and the pin by which a wrapper recognizes its daemon.
//! Must not know: WebSocket, who connects to whom.

use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, RootCertStore};

/// The SHA-256 of a public key (the certificate's SubjectPublicKeyInfo): `SP_TLS_PIN=sha256:...`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pin([u8; 32]);

/// One side of a TLS connection. It does not own the socket: each call is given the same one, non-blocking, and passes on
/// its "would block". Do not use the `Stream` of rustls: it finishes writing before it reads, so two peers with full
/// buffers wait for each other forever.
#[derive(Debug)]
pub struct Tunnel(Box<rustls::Connection>);

/// A socket, with or without TLS: what is read and written is plain text.
#[derive(Debug)]
pub struct TlsStream<W> {
    pub wire: W,
    /// Boxed: a connection without TLS pays only eight bytes for it. Set before anything is read or written.
    pub tunnel: Option<Tunnel>,
}

/// The first byte of every TLS connection (a record of the handshake); no HTTP method begins with it.
pub const HANDSHAKE: u8 = 0x16;

/// The cryptographic algorithms of both sides.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Both ends are ours, so no older version is needed.
pub const VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// The configuration of a client that trusts the certificates in the file `authority` and speaks these versions. A certificate that cannot be
/// parsed is skipped, since a system's bundle may contain such.
pub fn believing(
    authority: &Path,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Result<ClientConfig, String> {
    let pem = fs::read(authority).map_err(|error| error.to_string())?;
    let mut roots = RootCertStore::empty();
    let mut why = "contains no certificate".to_string();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| format!("is not valid PEM: {error}"))?;
        if let Err(error) = roots.add(certificate) {
            why = error.to_string();
        }
    }
    if roots.is_empty() {
        return Err(why);
    }
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

impl Pin {
    /// The pin of a certificate's key. Fails if it is not an X.509 certificate of version 3.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Pin, rustls::Error> {
        let key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
        let digest = ring::digest::digest(&ring::digest::SHA256, &key);
        let bytes = digest.as_ref().try_into();
        bytes
            .map(Pin)
            .map_err(|_| rustls::Error::General("a SHA-256 of unexpected length".into()))
    }
}

impl FromStr for Pin {
    type Err = &'static str;

    /// Base64 or hexadecimal behind `sha256:`.
    fn from_str(text: &str) -> Result<Pin, &'static str> {
        const WRONG: &str =
            "must be 'sha256:' and the SHA-256 of the daemon's public key, in base64 or hexadecimal";
        let digest = text.trim().strip_prefix("sha256:").ok_or(WRONG)?.as_bytes();
        let decoded = match digest.len() {
            64 => HEXLOWER_PERMISSIVE.decode(digest),
            _ => BASE64.decode(digest),
        };
        let bytes = decoded.ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Pin).ok_or(WRONG)
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", BASE64.encode(&self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Tunnel {
    /// A side that has sent nothing yet.
    pub fn new(connection: impl Into<rustls::Connection>) -> Tunnel {
        Tunnel(Box::new(connection.into()))
    }

    /// Continues the handshake. True: it is complete, and the peer is verified. False: wait for the socket first.
    pub fn shake_hands(&mut self, wire: &mut (impl Read + Write)) -> io::Result<bool> {
        while self.0.is_handshaking() {
            match self.0.complete_io(wire) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(in_words(error)),
            }
        }
        Ok(true)
    }

    /// Whether there is something to send.
    pub fn wants_write(&self) -> bool {
        self.0.wants_write()
    }

    /// Reads and decrypts what the peer has sent, without sending anything first. 0: the peer has closed properly.
    pub fn read(&mut self, wire: &mut (impl Read + Write), buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            let was_handshaking = self.0.is_handshaking();
            // 0 is the end of the stream: the reader then reports whether it was closed properly
            self.0.read_tls(wire)?;
            if let Err(error) = self.0.process_new_packets() {
                // the alert tells the peer the reason; the peer may be gone
                let _ = self.push(wire);
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            if was_handshaking {
                may_block(self.push(wire))?;
            }
        }
    }

    /// Encrypts and sends as much as fits. What it reports as written is sent by a later call at the latest.
    pub fn write(&mut self, wire: &mut impl Write, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        loop {
            let count = self.0.writer().write(bytes)?;
            if count > 0 {
                may_block(self.push(wire))?;
                return Ok(count);
            }
            // its buffer is full
            self.push(wire)?;
        }
    }

    /// Sends what is buffered. "Would block": something is still buffered.
    pub fn flush(&mut self, wire: &mut impl Write) -> io::Result<()> {
        self.push(wire)
    }

    /// Sends the closing alert, as far as the socket accepts it.
    pub fn close(&mut self, wire: &mut impl Write) {
        self.0.send_close_notify();
        let _ = self.push(wire);
    }

    fn push(&mut self, wire: &mut impl Write) -> io::Result<()> {
        while self.0.wants_write() {
            match self.0.write_tls(wire) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl<W> TlsStream<W> {
    /// Whether the connection uses TLS.
    pub fn is_tls(&self) -> bool {
        self.tunnel.is_some()
    }
}

impl<W: Write> TlsStream<W> {
    /// With TLS, sends the closing alert.
    pub fn close_tls(&mut self) {
        if let Some(tunnel) = &mut self.tunnel {
            tunnel.close(&mut self.wire);
        }
    }
}

impl<W: Read + Write> Read for TlsStream<W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.tunnel {
            None => self.wire.read(buffer),
            Some(tunnel) => tunnel.read(&mut self.wire, buffer),
        }
    }
}

impl<W: Write> Write for TlsStream<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.tunnel {
            None => self.wire.write(bytes),
            Some(tunnel) => tunnel.write(&mut self.wire, bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.tunnel {
            None => self.wire.flush(),
            Some(tunnel) => tunnel.flush(&mut self.wire),
        }
    }
}

/// Replaces the debug output of rustls by a verifier's own reason.
fn in_words(error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(reason))) => {
            io::Error::new(error.kind(), reason.0.to_string())
        }
        _ => error,
    }
}

fn may_block(sent: io::Result<()>) -> io::Result<()> {
    match sent {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        sent => sent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "daemon")]
    mod pair {
        use std::net::{TcpListener, TcpStream};

        use rustls::client::Resumption;
        use rustls::pki_types::ServerName;
        use rustls::{ClientConnection, ServerConnection};

        use super::*;
        use crate::net::identity;

        struct End {
            tunnel: Tunnel,
            wire: TcpStream,
            sent: usize,
            received: usize,
        }

        const BYTES: usize = 20 << 20;

        fn wires() -> (TcpStream, TcpStream) {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (far, _) = listener.accept().unwrap();
            near.set_nonblocking(true).unwrap();
            far.set_nonblocking(true).unwrap();
            (near, far)
        }

        fn ends() -> [End; 2] {
            let dir = std::env::temp_dir().join(format!("saltpeter-tunnel-{}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            let server = identity::own(&dir, &["localhost".into()]).unwrap().config;
            let mut roots = RootCertStore::empty();
            let certificate = CertificateDer::from_pem_file(dir.join(identity::OWN_FILE)).unwrap();
            roots.add(certificate).unwrap();
            std::fs::remove_dir_all(dir).unwrap();
            let mut client = ClientConfig::builder_with_provider(provider())
                .with_protocol_versions(VERSIONS)
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            client.resumption = Resumption::disabled();
            let name = ServerName::try_from("localhost").unwrap();
            let client = ClientConnection::new(Arc::new(client), name).unwrap();
            let (near, far) = wires();
            [
                (Tunnel::new(client), near),
                (Tunnel::new(ServerConnection::new(server).unwrap()), far),
            ]
            .map(|(tunnel, wire)| End {
                tunnel,
                wire,
                sent: 0,
                received: 0,
            })
        }

        fn would_block<T>(result: &io::Result<T>) -> bool {
            matches!(result, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
        }

        impl End {
            /// Sends until nothing more is taken.
            fn fill(&mut self) {
                while self.sent < BYTES {
                    let piece = vec![7; (BYTES - self.sent).min(100_000)];
                    match self.tunnel.write(&mut self.wire, &piece) {
                        result if would_block(&result) => return,
                        result => self.sent += result.unwrap(),
                    }
                }
                let flushed = self.tunnel.flush(&mut self.wire);
                assert!(flushed.is_ok() || would_block(&flushed));
            }

            fn drain(&mut self) {
                let mut piece = [0; 4_096];
                loop {
                    match self.tunnel.read(&mut self.wire, &mut piece) {
                        result if would_block(&result) => return,
                        result => self.received += result.unwrap(),
                    }
                }
            }
        }

        #[test]
        fn two_peers_with_full_buffers_do_not_wait_for_each_other() {
            let [mut client, mut server] = ends();
            let is_done = |end: &mut End| end.tunnel.shake_hands(&mut end.wire).unwrap();
            while !(is_done(&mut client) & is_done(&mut server)) {}
            let mut was_full = false;
            while client.received < BYTES || server.received < BYTES {
                let before = client.received + server.received;
                client.fill();
                server.fill();
                was_full |= client.sent < BYTES && server.sent < BYTES;
                client.drain();
                server.drain();
                let done = client.received + server.received;
                assert!(done > before, "neither makes progress at {done} bytes");
            }
            assert!(was_full, "both should have been full at once");
            client.tunnel.close(&mut client.wire);
            assert_eq!(server.tunnel.read(&mut server.wire, &mut [0]).unwrap(), 0);
        }
    }

    #[test]
    fn a_pin_is_read_in_both_spellings_and_written_in_one() {
        let hex = "sha256:000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F";
        let base64 = "sha256:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        let pin: Pin = hex.parse().unwrap();
        assert_eq!(pin, base64.parse().unwrap());
        assert_eq!(pin.to_string(), base64);
        let wrong = [
            "",
            "sha256:",
            "sha1:AAEC",
            "sha256:AAEC",
            "sha256:zz",
            &base64[7..],
        ];
        for text in wrong {
            assert!(text.parse::<Pin>().is_err(), "{text}");
        }
    }
}
