//! Who the daemon is on the machines port: its key and certificate, made at first start or given by the settings.
//! Must not know: connections, wrappers.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;

use crate::tls::{self, Pin};

/// In the state directory: key and certificate in one file, so that they are always a pair.
pub const OWN_FILE: &str = "machines-tls.pem";

/// What proves to wrappers that they have reached this daemon.
#[derive(Clone, Debug)]
pub struct Identity {
    /// For each connection.
    pub config: Arc<ServerConfig>,
    /// Of the key: what wrappers are told to look for.
    pub pin: Pin,
}

/// The daemon's own, in `state_dir`; made if there is none yet, for the names `names`.
pub fn own(state_dir: &Path, names: &[String]) -> Result<Identity, String> {
    let path = state_dir.join(OWN_FILE);
    let pem = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let pem = make(names).map_err(|error| format!("making the key of the machines port: {error}"))?;
            store(&path, &pem).map_err(|error| format!("cannot write '{}': {error}", path.display()))?;
            pem
        }
        read => read.map_err(|error| format!("cannot read '{}': {error}", path.display()))?,
    };
    identity(&pem, &pem).map_err(|why| {
        format!(
            "'{}' cannot be used: {why}; remove it to have another key made (wrappers that run now will not come back)",
            path.display()
        )
    })
}

/// The one that the settings `tls_cert` (the chain, its end first) and `tls_key` name.
pub fn given(certificate: &Path, key: &Path) -> Result<Identity, String> {
    let open = |setting: &str, path: &Path| {
        fs::read(path).map_err(|error| format!("{setting}: cannot read '{}': {error}", path.display()))
    };
    let chain = open("tls_cert", certificate)?;
    let secret = open("tls_key", key)?;
    identity(&chain, &secret).map_err(|why| {
        format!(
            "tls_cert '{}' and tls_key '{}' cannot be used: {why}",
            certificate.display(),
            key.display()
        )
    })
}

fn identity(chain: &[u8], key: &[u8]) -> Result<Identity, String> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("the certificate is no PEM: {error}"))?;
    let first = chain.first().ok_or("there is no certificate in it")?;
    let pin =
        Pin::of(first).map_err(|error| format!("the certificate is none of X.509 version 3: {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| "there is no private key in PEM")?;
    let mut config = ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(tls::VERSIONS)
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => "the key is not the certificate's".to_string(),
            error => error.to_string(),
        })?;
    // each connection verifies the daemon again, and costs no memory once it is gone
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Identity {
        config: Arc::new(config),
        pin,
    })
}

/// A key, and a certificate that does not expire: wrappers know the key by its pin.
fn make(names: &[String]) -> Result<Vec<u8>, rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "saltpeter");
    let pem = key.serialize_pem() + &params.self_signed(&key)?.pem();
    Ok(pem.into_bytes())
}

/// Appears whole or not at all, readable by its owner alone from the first moment.
fn store(path: &Path, pem: &[u8]) -> io::Result<()> {
    let unnamed = path.with_extension("pem.new");
    // left behind by a start that was cut short
    let _ = fs::remove_file(&unnamed);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unnamed)?;
    file.write_all(pem)?;
    file.sync_all()?;
    fs::rename(&unnamed, path)?;
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("saltpeter-identity-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn the_key_is_made_once_and_is_its_owners_alone() {
        let dir = scratch("once");
        let first = own(&dir, &["host".into()]).unwrap();
        let mode = fs::metadata(dir.join(OWN_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(own(&dir, &["host".into()]).unwrap().pin, first.pin);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named_with_the_reason() {
        let dir = scratch("bad");
        fs::write(dir.join(OWN_FILE), "").unwrap();
        let error = own(&dir, &[]).unwrap_err();
        assert!(
            error.contains(OWN_FILE) && error.contains("no certificate"),
            "{error}"
        );
        let (cert, key) = (dir.join("cert"), dir.join("key"));
        let error = given(&cert, &key).unwrap_err();
        assert!(error.starts_with("tls_cert: cannot read"), "{error}");
        fs::write(&cert, make(&[]).unwrap()).unwrap();
        fs::write(&key, "nonsense").unwrap();
        let error = given(&cert, &key).unwrap_err();
        assert!(error.contains("no private key"), "{error}");
        fs::write(&key, make(&[]).unwrap()).unwrap();
        let error = given(&cert, &key).unwrap_err();
        assert!(error.contains("not the certificate's"), "{error}");
        assert!(given(&cert, &cert).is_ok());
        fs::remove_dir_all(dir).unwrap();
    }
}
