//! TLS: which certificates the entrances have, and one connection's [`session`].

pub mod session;

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::version::{TLS12, TLS13};

use crate::config::Config;

/// What each entrance answers a handshake with; `None` where it speaks plain HTTP. Made as a whole from the files of a
/// [`Config`], and never changed: new files make another one.
#[derive(Clone, Debug, Default)]
pub struct TlsConfigs {
    pub listen: Option<Arc<ServerConfig>>,
    pub internal: Option<Arc<ServerConfig>>,
}

/// A file that TLS cannot be spoken with.
#[derive(Debug)]
pub struct TlsConfigError {
    setting: &'static str,
    path: String,
    problem: Problem,
}

#[derive(Debug)]
enum Problem {
    Read(io::Error),
    NoCertificate,
    NoKey,
    Malformed(pem::Error),
    Unusable(rustls::Error),
}

impl fmt::Display for TlsConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            setting,
            path,
            problem,
        } = self;
        write!(f, "{setting} = {path}: ")?;
        match problem {
            Problem::Read(error) => write!(f, "cannot be read: {error}"),
            Problem::NoCertificate => f.write_str(
                "there is no certificate in it; it is a PEM file with the server's own first, then those that signed it",
            ),
            Problem::NoKey => f.write_str(
                "there is no private key in it; it is a PEM file with one that has no passphrase",
            ),
            Problem::Malformed(error) => write!(f, "is not a PEM file: {error}"),
            Problem::Unusable(error) => {
                write!(f, "cannot be used with this certificate: {error}")
            }
        }
    }
}

impl std::error::Error for TlsConfigError {}

impl TlsConfigs {
    /// Reads the files that `config` names.
    pub fn load(config: &Config) -> Result<Self, TlsConfigError> {
        Ok(Self {
            listen: load(
                ("tls_certificate", &config.tls_certificate),
                ("tls_key", &config.tls_key),
            )?,
            internal: load(
                ("internal_tls_certificate", &config.internal_tls_certificate),
                ("internal_tls_key", &config.internal_tls_key),
            )?,
        })
    }
}

/// A setting's name, and the path that it holds.
type File<'a> = (&'static str, &'a Option<String>);

fn load(certificate: File<'_>, key: File<'_>) -> Result<Option<Arc<ServerConfig>>, TlsConfigError> {
    // One without the other is refused as a contradiction between settings.
    let (Some(certificate_path), Some(key_path)) = (certificate.1, key.1) else {
        return Ok(None);
    };
    let of_certificate = |problem| TlsConfigError {
        setting: certificate.0,
        path: certificate_path.clone(),
        problem,
    };
    let of_key = |problem| TlsConfigError {
        setting: key.0,
        path: key_path.clone(),
        problem,
    };
    let text = std::fs::read(certificate_path).map_err(|e| of_certificate(Problem::Read(e)))?;
    let chain = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| of_certificate(Problem::Malformed(error)))?;
    if chain.is_empty() {
        return Err(of_certificate(Problem::NoCertificate));
    }
    let text = std::fs::read(key_path).map_err(|e| of_key(Problem::Read(e)))?;
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound => of_key(Problem::NoKey),
        error => of_key(Problem::Malformed(error)),
    })?;
    let config = server_config(chain, key).map_err(|e| of_key(Problem::Unusable(e)))?;
    Ok(Some(Arc::new(config)))
}

fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A ticket keeps the state at the client, encrypted by a key of this process: nothing is kept here for those who
    // may come back, and whichever shard they come to resumes. New certificates come with a new key.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = ring::Ticketer::new()?;
    Ok(config)
}

#[cfg(test)]
mod tests;
