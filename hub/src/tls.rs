//! TLS to a broker: owns whom the hub trusts and what a refused connection means, never connects.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail};
use rumqttc::v5::mqttbytes::v5::ConnectReturnCode;
use rumqttc::v5::{ConnectionError, TlsError};
use rumqttc::{TlsConfiguration, Transport};
use rustls::CertificateError as Bad;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// Where distributions keep their authorities.
const SYSTEM: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// What vouches for the broker. Files are read anew for each connection, so that a mended one needs no restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    /// The system's authorities.
    System,
    /// A PEM file with an authority.
    Authority(PathBuf),
}

impl Tls {
    /// The transport that trusts it.
    ///
    /// # Errors
    /// A file that is missing or holds no certificate.
    pub fn transport(&self) -> Result<Transport> {
        let file = match self {
            Self::Authority(file) => file.as_path(),
            Self::System => SYSTEM.iter().map(Path::new).find(|p| p.exists()).context(
                "this system has no list of authorities; install ca-certificates, or name the broker's with --broker-ca",
            )?,
        };
        let mut roots = rustls::RootCertStore::empty();
        let read = CertificateDer::pem_file_iter(file)
            .and_then(|found| found.collect::<Result<Vec<_>, _>>())
            .map_err(|e| {
                anyhow!(
                    "read authority {}: {e}; give a PEM file with --broker-ca",
                    file.display()
                )
            })?;
        roots.add_parsable_certificates(read);
        if roots.is_empty() {
            bail!(
                "authority {} holds no certificate; give the PEM file of the authority that signed the broker's",
                file.display()
            );
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("set up TLS")?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Transport::tls_with_config(TlsConfiguration::Rustls(
            Arc::new(config),
        )))
    }
}

/// A failed connection with what to do about it.
#[must_use]
pub fn explain(error: &ConnectionError) -> String {
    let advice = match error {
        ConnectionError::ConnectionRefused(code) => match code {
            ConnectReturnCode::NotAuthorized
            | ConnectReturnCode::BadUserNamePassword
            | ConnectReturnCode::Banned => {
                "check user and password in --broker, and that the broker knows them"
            }
            _ => "see the broker's log for its reason",
        },
        ConnectionError::Tls(TlsError::Io(io)) | ConnectionError::Io(io) => {
            match io.get_ref().and_then(|e| e.downcast_ref()) {
                Some(error) => of_tls(error),
                None => "check that the broker runs and that its host and port are right",
            }
        }
        ConnectionError::Tls(TlsError::TLS(error)) => of_tls(error),
        _ => "check that the broker runs and that its host and port are right",
    };
    format!("{error}; {advice}")
}

fn of_tls(error: &rustls::Error) -> &'static str {
    let rustls::Error::InvalidCertificate(bad) = error else {
        return "check that the broker speaks TLS on this port (mqtts://)";
    };
    match bad {
        Bad::Expired | Bad::ExpiredContext { .. } => {
            "the broker's certificate has expired: renew it there, and check this machine's clock"
        }
        Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
            "the broker's certificate is not valid yet: check this machine's clock and the broker's"
        }
        Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
            "the broker's certificate is for another host: use the name in it, or have one made for this name"
        }
        _ => {
            "the broker's certificate is not vouched for: name the authority that signed it with --broker-ca"
        }
    }
}
