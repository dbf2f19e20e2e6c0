//! TLS, and the socket that the routes are served on.
//!
//! A certificate is the operator's own, or one that the server makes and keeps. Owns no route and no setting.

mod self_signed;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum_server::Handle;
use axum_server::accept::DefaultAcceptor;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use hyper_util::rt::TokioTimer;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};

use super::door::Door;

/// How long a client may take for its TLS handshake, for its first byte, and for the head of a request.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateSource {
    /// PEM files.
    Files {
        /// The certificate, with the chain below it.
        certificate: PathBuf,
        /// Its private key.
        key: PathBuf,
    },
    /// Made at the first start.
    SelfSigned {
        /// Where it is kept.
        directory: PathBuf,
        /// Host names and addresses by which clients reach the server; those of this machine itself are added.
        names: Vec<String>,
    },
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read as what it should be.
    #[error("{}: {reason}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong, and what should be there.
        reason: String,
    },
    /// Key and certificate are no pair, or of a kind that is not supported.
    #[error("{} and its key cannot be used: {reason}", certificate.display())]
    Pair {
        /// The certificate.
        certificate: PathBuf,
        /// As rustls says it.
        reason: String,
    },
    /// A name for which no certificate can be made.
    #[error("no certificate can be made for {names:?}: {reason}")]
    Names {
        /// All names wanted.
        names: Vec<String>,
        /// What is wrong.
        reason: String,
    },
}

impl TlsError {
    fn file(path: &Path, reason: impl Into<String>) -> Self {
        Self::File { path: path.to_owned(), reason: reason.into() }
    }
}

/// A certificate in use.
#[derive(Debug, Clone)]
pub struct Tls {
    config: RustlsConfig,
    /// The certificate's file, for clients that shall trust it.
    pub certificate: PathBuf,
    /// SHA-256 of the certificate as browsers show it.
    pub fingerprint: String,
    /// The server made the certificate just now, so that no client knows it yet.
    pub fresh: bool,
}

impl Tls {
    /// Reads, or makes, the certificate.
    ///
    /// # Errors
    /// [`TlsError`], naming the file.
    pub fn load(source: &CertificateSource) -> Result<Self, TlsError> {
        let (certificate, key, fresh) = match source {
            CertificateSource::Files { certificate, key } => (certificate.clone(), key.clone(), false),
            CertificateSource::SelfSigned { directory, names } => self_signed::ensure(directory, names)?,
        };
        let chain = CertificateDer::pem_file_iter(&certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| TlsError::file(&certificate, pem_reason(&error, "a PEM certificate")))?;
        let Some(first) = chain.first() else {
            return Err(TlsError::file(&certificate, "there is no certificate in it; a PEM certificate is wanted"));
        };
        let fingerprint = fingerprint(first);
        let secret = PrivateKeyDer::from_pem_file(&key)
            .map_err(|error| TlsError::file(&key, pem_reason(&error, "a PEM private key")))?;
        let pair =
            |error: rustls::Error| TlsError::Pair { certificate: certificate.clone(), reason: error.to_string() };
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(pair)?
            .with_no_client_auth()
            .with_single_cert(chain, secret)
            .map_err(pair)?;
        // WebSockets need HTTP/1.1, and nothing here gains by HTTP/2.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config: RustlsConfig::from_config(Arc::new(config)), certificate, fingerprint, fresh })
    }
}

/// The one provider of the process: two of them in one process make rustls panic in whatever asks for the default one.
fn provider() -> Arc<CryptoProvider> {
    // Somebody else may have installed one first; then that one serves.
    drop(ring::default_provider().install_default());
    CryptoProvider::get_default().expect("one was installed just now. This is a bug.").clone()
}

fn pem_reason(error: &rustls::pki_types::pem::Error, wanted: &str) -> String {
    use rustls::pki_types::pem::Error;
    match error {
        Error::Io(error) => format!("{error}; {wanted} is wanted here"),
        Error::NoItemsFound => format!("there is none in it; {wanted} is wanted"),
        other => format!("{other}; {wanted} is wanted"),
    }
}

/// SHA-256 in the spelling of browsers and `openssl x509 -fingerprint -sha256`.
fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    Sha256::digest(certificate).iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

/// Serves the routes until `handle` is told to stop, to `connections` clients at once (`Door` says what becomes of more).
/// A WebSocket that is open at the stop is no longer waited for: end the sessions first. When the process has no file
/// handle left, new connections wait.
///
/// # Errors
/// When the socket cannot be used.
pub async fn serve(
    listener: TcpListener,
    routes: Router,
    tls: Option<&Tls>,
    connections: usize,
    handle: Handle<SocketAddr>,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let routes = routes.into_make_service_with_connect_info::<SocketAddr>();
    let mut server = axum_server::from_tcp(listener)?.handle(handle);
    // Without a timer hyper would wait for a request's head for ever.
    server.http_builder().http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    match tls {
        None => server.acceptor(Door::new(DefaultAcceptor, connections, PATIENCE)).serve(routes).await,
        Some(tls) => {
            let acceptor = RustlsAcceptor::new(tls.config.clone()).handshake_timeout(PATIENCE);
            server.acceptor(Door::new(acceptor, connections, PATIENCE)).serve(routes).await
        }
    }
}

#[cfg(test)]
mod tests;
