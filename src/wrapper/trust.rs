//! Whom the wrapper believes to be its daemon: the holder of the key that the dispatch names, or whoever a given
//! authority vouches for.
//! Must not know: sockets, what is said once the peer is known.

use std::ffi::OsStr;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{self, CryptoProvider};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, OtherError, SignatureScheme,
};

use crate::tls::{self, Pin};

pub use crate::tls::Tunnel;

/// How the peer is judged.
#[derive(Clone, Debug)]
pub struct Trust {
    config: Arc<ClientConfig>,
    /// Names and dates of the certificate mean nothing.
    is_by_pin: bool,
}

/// Believes one key, whatever else its certificate says.
#[derive(Debug)]
struct OneKey {
    pin: Pin,
    provider: Arc<CryptoProvider>,
}

/// The peer has some other key.
#[derive(Debug)]
struct WrongKey {
    shown: Pin,
}

impl Trust {
    /// From `SP_TLS_PIN` and `SP_TLS_CA`. The error is the line for stderr.
    pub fn of(pin: Option<&str>, authority: Option<&OsStr>) -> Result<Trust, String> {
        match (pin, authority) {
            (Some(pin), _) => by_pin(pin.parse().map_err(|why| format!("SP_TLS_PIN {why}"))?),
            (None, Some(path)) => tls::believing(path.as_ref(), tls::VERSIONS)
                .map(|config| trust(config, false))
                .map_err(|why| format!("SP_TLS_CA '{}': {why}", path.to_string_lossy())),
            (None, None) => {
                Err("SP_WEBSOCKET_URL asks for TLS: SP_TLS_PIN or SP_TLS_CA has to say whom to trust".into())
            }
        }
    }

    /// A connection to `host` that has not begun.
    pub fn tunnel(&self, host: &str) -> Result<Tunnel, String> {
        let name = match ServerName::try_from(host.to_string()) {
            Ok(name) => name,
            // a host's name that no certificate could bear
            Err(_) if self.is_by_pin => ServerName::from(std::net::Ipv4Addr::UNSPECIFIED),
            Err(_) => return Err(format!("no certificate can be valid for the name '{host}'")),
        };
        let side = ClientConnection::new(self.config.clone(), name).map_err(|error| error.to_string())?;
        Ok(Tunnel::new(side))
    }
}

fn by_pin(pin: Pin) -> Result<Trust, String> {
    let provider = tls::provider();
    let verifier = OneKey {
        pin,
        provider: provider.clone(),
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(tls::VERSIONS)
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(trust(config, true))
}

/// Each connection is verified: a resumed TLS session would not be.
fn trust(mut config: ClientConfig, is_by_pin: bool) -> Trust {
    config.resumption = Resumption::disabled();
    Trust {
        config: Arc::new(config),
        is_by_pin,
    }
}

impl ServerCertVerifier for OneKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match Pin::of(end_entity)? {
            shown if shown == self.pin => Ok(ServerCertVerified::assertion()),
            shown => {
                let wrong = OtherError(Arc::new(WrongKey { shown }));
                Err(CertificateError::Other(wrong).into())
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    /// Anybody can show the certificate; only the key's holder can sign this handshake.
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl std::fmt::Display for WrongKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "its key is {}, which is not the one that SP_TLS_PIN names",
            self.shown
        )
    }
}

impl std::error::Error for WrongKey {}

#[cfg(all(test, feature = "daemon"))]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use rustls::pki_types::PrivateKeyDer;
    use rustls::server::ResolvesServerCertUsingSni;
    use rustls::sign::CertifiedKey;
    use rustls::{ServerConfig, ServerConnection};

    use super::*;

    fn certificate(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(["daemon".to_string()]).unwrap();
        change(&mut params);
        params.self_signed(key).unwrap().der().clone()
    }

    /// A server that shows `certificate` and signs with `key`, whether they belong together or not.
    fn server(certificate: CertificateDer<'static>, key: &KeyPair) -> Arc<ServerConfig> {
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let signer = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
        let mut names = ResolvesServerCertUsingSni::new();
        let shown = CertifiedKey::new(vec![certificate], signer);
        names.add("daemon", shown).unwrap();
        let config = ServerConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(tls::VERSIONS)
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(names));
        Arc::new(config)
    }

    /// How the wrapper's side of the handshake ends.
    fn handshake(trust: &Trust, server: Arc<ServerConfig>) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let serving = crate::thread::spawn("server", 1 << 20, move || {
            let (wire, _) = listener.accept().unwrap();
            let side = ServerConnection::new(server).unwrap();
            let mut stream = rustls::StreamOwned::new(side, wire);
            let mut heard = Vec::new();
            let _ = stream.read_to_end(&mut heard);
            heard
        });
        let mut wire = TcpStream::connect(address).unwrap();
        let mut tunnel = trust.tunnel("daemon").unwrap();
        // a blocking socket: it ends one way or the other
        let result = tunnel.shake_hands(&mut wire);
        drop(wire);
        assert_eq!(serving.unwrap().join().unwrap(), b"", "nothing may be sent");
        result.map(|_| ()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_right_key_is_believed_whatever_its_certificate_says() {
        let key = KeyPair::generate().unwrap();
        let plain = certificate(&key, |_| {});
        let expired = certificate(&key, |params| params.not_after = date_time_ymd(2001, 1, 1));
        let trust = by_pin(Pin::of(&plain).unwrap()).unwrap();
        assert_eq!(handshake(&trust, server(plain, &key)), Ok(()));
        assert_eq!(handshake(&trust, server(expired, &key)), Ok(()));
    }

    #[test]
    fn another_key_is_not_and_is_named() {
        let (ours, theirs) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let trust = by_pin(Pin::of(&certificate(&ours, |_| {})).unwrap()).unwrap();
        let shown = certificate(&theirs, |_| {});
        let pin = Pin::of(&shown).unwrap();
        let error = handshake(&trust, server(shown, &theirs)).unwrap_err();
        assert_eq!(
            error,
            format!("its key is {pin}, which is not the one that SP_TLS_PIN names")
        );
    }

    #[test]
    fn to_show_the_right_certificate_is_not_enough() {
        let (ours, theirs) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let shown = certificate(&ours, |_| {});
        let trust = by_pin(Pin::of(&shown).unwrap()).unwrap();
        let error = handshake(&trust, server(shown, &theirs)).unwrap_err();
        assert!(error.contains("BadSignature"), "{error}");
    }
}
