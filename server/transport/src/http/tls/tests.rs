use std::fs;
use std::os::unix::fs::PermissionsExt;

use axum::routing::get;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

fn self_signed(directory: &Path, names: &[&str]) -> CertificateSource {
    let names = names.iter().map(|&name| name.to_owned()).collect();
    CertificateSource::SelfSigned { directory: directory.join("state"), names }
}

/// Whether a client that trusts `certificate` accepts the server under `name`.
fn accepted(tls: &Tls, name: &str) -> Result<(), rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&tls.certificate).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(config), ServerName::try_from(name.to_owned()).unwrap())?;
    let mut server = rustls::ServerConnection::new(tls.config.get_inner())?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    Ok(())
}

#[test]
fn a_self_signed_certificate_is_made_once_and_good_for_all_its_names() {
    let directory = tempfile::tempdir().unwrap();
    let source = self_signed(directory.path(), &["voice.example.com", "192.0.2.7", "0.0.0.0"]);
    let first = Tls::load(&source).unwrap();
    assert!(first.fresh);
    for name in ["localhost", "127.0.0.1", "::1", "voice.example.com", "192.0.2.7"] {
        accepted(&first, name).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    accepted(&first, "other.example.com").unwrap_err();
    let again = Tls::load(&source).unwrap();
    assert_eq!((again.fresh, again.fingerprint), (false, first.fingerprint.clone()));
    let other = Tls::load(&self_signed(directory.path(), &["elsewhere.example.com"])).unwrap();
    assert!(other.fresh && other.fingerprint != first.fingerprint, "other names need another certificate");
}

#[test]
fn the_key_is_for_its_owner_only_and_the_fingerprint_is_spelled_as_browsers_do() {
    let directory = tempfile::tempdir().unwrap();
    let tls = Tls::load(&self_signed(directory.path(), &[])).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let state = directory.path().join("state");
    assert_eq!((mode(&state), mode(&state.join("self-signed.key"))), (0o700, 0o600));
    assert_eq!(tls.fingerprint.len(), 32 * 3 - 1);
    assert!(tls.fingerprint.split(':').all(|byte| u8::from_str_radix(byte, 16).is_ok()));
}

#[test]
fn a_certificate_near_its_end_or_half_written_is_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    let source = self_signed(directory.path(), &[]);
    Tls::load(&source).unwrap();
    let note = directory.path().join("state/self-signed.json");
    let text = fs::read_to_string(&note).unwrap();
    let mut made: serde_json::Value = serde_json::from_str(&text).unwrap();
    made["expires_unix"] = 1_000_000_000.into();
    fs::write(&note, made.to_string()).unwrap();
    assert!(Tls::load(&source).unwrap().fresh);
    fs::remove_file(&note).unwrap();
    assert!(Tls::load(&source).unwrap().fresh);
    assert!(!Tls::load(&source).unwrap().fresh);
}

#[test]
fn files_that_are_not_what_they_should_be_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (directory.path().join("one"), directory.path().join("two"));
    let (first, second) = (Tls::load(&self_signed(&one, &[])).unwrap(), Tls::load(&self_signed(&two, &[])).unwrap());
    let key = |tls: &Tls| tls.certificate.with_extension("key");
    let load = |certificate: &Path, key: &Path| {
        Tls::load(&CertificateSource::Files { certificate: certificate.to_owned(), key: key.to_owned() })
            .map(drop)
            .map_err(|error| error.to_string())
    };
    load(&first.certificate, &key(&first)).unwrap();
    let error = load(&directory.path().join("none.pem"), &key(&first)).unwrap_err();
    assert!(error.contains("none.pem") && error.contains("PEM certificate"), "{error}");
    let error = load(&key(&first), &key(&first)).unwrap_err();
    assert!(error.contains("self-signed.key") && error.contains("certificate"), "{error}");
    let error = load(&first.certificate, &first.certificate).unwrap_err();
    assert!(error.contains("self-signed.pem") && error.contains("private key"), "{error}");
    let error = load(&first.certificate, &key(&second)).unwrap_err();
    assert!(error.contains("cannot be used"), "{error}");
    let error = Tls::load(&self_signed(&one, &["not a name\u{e9}"])).unwrap_err().to_string();
    assert!(error.contains("not a name"), "{error}");
}

#[tokio::test]
async fn plain_http_is_served_and_ends_when_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let handle = Handle::new();
    let server =
        tokio::spawn(serve(listener, Router::new().route("/", get(|| async { "hello" })), None, 8, handle.clone()));
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer}");
    handle.graceful_shutdown(None);
    server.await.unwrap().unwrap();
    TcpStream::connect(address).await.unwrap_err();
}
