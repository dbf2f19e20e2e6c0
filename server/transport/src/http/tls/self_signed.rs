//! The certificate of a server that was given none: made once, kept, and made anew when it no longer fits.
//!
//! Good for trying things out and for networks whose clients can be told to trust it; its fingerprint is what they compare.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, date_time_ymd};
use serde::{Deserialize, Serialize};

use super::TlsError;

/// Names of this machine for itself.
const OWN_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Apple's systems trust nothing that lives longer than 825 days.
const LIFE: Duration = Duration::from_secs(820 * 24 * 3600);
/// A certificate with less life than this is replaced at the start.
const RENEW_BEFORE: Duration = Duration::from_secs(30 * 24 * 3600);

/// What was made. Written last, so that files without it are from a start that was cut short.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Made {
    names: Vec<String>,
    expires_unix: u64,
}

/// Certificate and key files, and whether they were made just now.
pub fn ensure(directory: &Path, names: &[String]) -> Result<(PathBuf, PathBuf, bool), TlsError> {
    let (certificate, key) = (directory.join("self-signed.pem"), directory.join("self-signed.key"));
    let note = directory.join("self-signed.json");
    let names = all_names(names);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let fits = fs::read(&note)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .is_some_and(|made: Made| made.names == names && made.expires_unix > (now + RENEW_BEFORE).as_secs());
    if fits && certificate.exists() && key.exists() {
        return Ok((certificate, key, false));
    }
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error: io::Error| TlsError::file(&path, format!("{error}; a self-signed certificate is kept here"))
    };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(at(directory))?;
    match fs::remove_file(&note) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&note)(error)),
        _ => {}
    }
    let (certificate_pem, key_pem) = make(&names, now)?;
    write_private(&key, &key_pem).map_err(at(&key))?;
    fs::write(&certificate, certificate_pem).map_err(at(&certificate))?;
    let made = Made { names, expires_unix: (now + LIFE).as_secs() };
    let text = serde_json::to_vec_pretty(&made).expect("strings and a number are JSON. This is a bug.");
    fs::write(&note, text).map_err(at(&note))?;
    Ok((certificate, key, true))
}

fn all_names(given: &[String]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in OWN_NAMES.into_iter().chain(given.iter().map(String::as_str)) {
        let name = name.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        // "0.0.0.0" is where a server listens, not where it is reached.
        let everywhere = name.parse().is_ok_and(|ip: IpAddr| ip.is_unspecified());
        if !everywhere && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn make(names: &[String], now: Duration) -> Result<(String, String), TlsError> {
    let refuse = |error: rcgen::Error| TlsError::Names { names: names.to_vec(), reason: error.to_string() };
    let mut params = CertificateParams::new(names).map_err(refuse)?;
    params.distinguished_name.push(DnType::CommonName, "Duologue (self-signed)");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // A day back: clocks of clients differ.
    params.not_before = date_time_ymd(1970, 1, 1) + now.saturating_sub(DAY);
    params.not_after = date_time_ymd(1970, 1, 1) + now + LIFE;
    let key = KeyPair::generate().map_err(refuse)?;
    let certificate = params.self_signed(&key).map_err(refuse)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// Writes a file that only its owner can read, from its first byte on.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}
