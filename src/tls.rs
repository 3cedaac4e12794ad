//! TLS over a non-blocking socket, for either side, and the pin by which a wrapper knows its daemon.
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

/// One side of a TLS connection. It holds no socket: each call is given the same one, non-blocking, and "would block" is
/// that socket's. Never rustls' own `Stream`: that one finishes what is to be written before it reads, so that two peers
/// with full buffers wait for each other for ever.
#[derive(Debug)]
pub struct Tunnel(Box<rustls::Connection>);

/// A wire, and the TLS on it if there is any: what is read and written is the peer's plain text.
#[derive(Debug)]
pub struct Line<W> {
    pub wire: W,
    /// Behind a pointer: a plain connection pays eight bytes for it. Set before anything is read or written.
    pub tunnel: Option<Tunnel>,
}

/// The first byte of every TLS connection (a record of the handshake); no HTTP method begins with it.
pub const HANDSHAKE: u8 = 0x16;

/// The algorithms of both sides.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Both ends are ours, so there is no older version to be spoken.
pub const VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// For clients that believe whomever the certificates in the file `authority` vouch for. One among them that nobody can
/// read (a system's bundle may have such) is left out.
pub fn believing(authority: &Path) -> Result<ClientConfig, String> {
    let pem = fs::read(authority).map_err(|error| error.to_string())?;
    let mut roots = RootCertStore::empty();
    let mut why = "has no certificate".to_string();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| format!("is no PEM: {error}"))?;
        if let Err(error) = roots.add(certificate) {
            why = error.to_string();
        }
    }
    if roots.is_empty() {
        return Err(why);
    }
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

impl Pin {
    /// The pin of a certificate's key. Fails for what is no X.509 certificate of version 3.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Pin, rustls::Error> {
        let key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
        let digest = ring::digest::digest(&ring::digest::SHA256, &key);
        let bytes = digest.as_ref().try_into();
        bytes
            .map(Pin)
            .map_err(|_| rustls::Error::General("a SHA-256 of odd length".into()))
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
    /// A side that has not said anything yet.
    pub fn new(connection: impl Into<rustls::Connection>) -> Tunnel {
        Tunnel(Box::new(connection.into()))
    }

    /// Goes on with the handshake. True: it is done, and the peer is who it should be. False: the socket has to be
    /// waited for.
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

    /// There is something to be sent.
    pub fn wants_write(&self) -> bool {
        self.0.wants_write()
    }

    /// What the peer has sent, decrypted. Never waits for anything to be sent first. 0: the peer has closed in order.
    pub fn read(&mut self, wire: &mut (impl Read + Write), buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            let was_handshaking = self.0.is_handshaking();
            // 0 is the end of the stream: the reader then says whether it is a proper one
            self.0.read_tls(wire)?;
            if let Err(error) = self.0.process_new_packets() {
                // the alert tells the peer why; it may be gone
                let _ = self.push(wire);
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            if was_handshaking {
                may_block(self.push(wire))?;
            }
        }
    }

    /// Encrypts and sends as much as fits; what it says it took will leave with a later call at the latest.
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

    /// Sends what waits. "Would block": something still does.
    pub fn flush(&mut self, wire: &mut impl Write) -> io::Result<()> {
        self.push(wire)
    }

    /// Tells the peer that nothing more comes, as far as the socket takes it.
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

impl<W> Line<W> {
    /// Nobody on the way can read or change what is sent.
    pub fn is_tls(&self) -> bool {
        self.tunnel.is_some()
    }
}

impl<W: Write> Line<W> {
    /// Where TLS is spoken, tells the peer that nothing more comes.
    pub fn close_tls(&mut self) {
        if let Some(tunnel) = &mut self.tunnel {
            tunnel.close(&mut self.wire);
        }
    }
}

impl<W: Read + Write> Read for Line<W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.tunnel {
            None => self.wire.read(buffer),
            Some(tunnel) => tunnel.read(&mut self.wire, buffer),
        }
    }
}

impl<W: Write> Write for Line<W> {
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

/// A verifier's own reason; rustls would show it as a structure.
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
                assert!(done > before, "neither can go on at {done} bytes");
            }
            assert!(was_full, "both were to be full at once");
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
