//! Who may come in: API keys, and short-lived secrets that stand in for one where a key must not go (a browser).
//!
//! Owns the keys (as SHA-256 hashes only) and the secrets. Must not know what a key is good for beyond its scope; limits
//! on what one key may hold are the session manager's.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::Query;
use axum::http::{HeaderMap, HeaderName, Uri, header};
use rand::Rng;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use tokio::time::Instant;

/// Secrets that may live at the same time. When there are as many, making another one is refused until one expires.
pub const MAX_SECRETS: usize = 10_000;
/// Life that may be asked for, in seconds (OpenAI's range for client secrets).
pub const SECRET_SECONDS: std::ops::RangeInclusive<u32> = 10..=7200;
/// Subprotocols by which a browser, which cannot set headers on a WebSocket, brings its key.
const KEY_PROTOCOLS: [&str; 2] = ["duologue.key.", "openai-insecure-api-key."];
/// Subprotocol of clients of OpenAI's Realtime and Live APIs; chosen before one that would echo the key.
const PLAIN_PROTOCOL: &str = "realtime";
/// Whom clients of this machine count for while no keys are configured.
const LOCAL_NAME: &str = "local";

/// SHA-256 of a key.
pub type KeyHash = [u8; 32];

/// Hash under which a key is kept.
pub fn hash_key(key: &str) -> KeyHash {
    Sha256::digest(key.as_bytes()).into()
}

/// A key's name and hash. The key itself is not kept.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// For logs and limits; not secret.
    pub name: String,
    /// See [`hash_key`].
    pub hash: KeyHash,
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ApiKey").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    Full,
    /// Hold sessions, but not make further secrets.
    Session,
}

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Name of the key, also for a secret made with it; `local` on a server without keys.
    pub name: String,
    /// What it may do.
    pub scope: Scope,
    /// The subprotocol that a WebSocket answer must name: a browser that offers some and is told none hangs up.
    pub subprotocol: Option<String>,
}

/// Why a caller is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No key came with the request.
    #[error(
        "an API key is needed: send `Authorization: Bearer KEY`, the subprotocol `duologue.key.KEY` or `?token=KEY`"
    )]
    Missing,
    /// A key that is unknown, or a secret that has expired; which of them is nobody's business.
    #[error("this key is not known, or it has expired")]
    Unknown,
    /// A server without keys serves its own machine only.
    #[error("this server has no API keys and serves its own machine only; configure auth.keys to let others in")]
    NotLocal,
    /// A server without keys was reached through a proxy or by a name that is not its own: the caller may be anyone, such
    /// as a web page whose name was pointed at this machine.
    #[error("this server has no API keys: reach it directly as localhost or 127.0.0.1, or configure auth.keys")]
    NotDirect,
    /// Secrets make no secrets, or their life would have no end.
    #[error("a client secret cannot make another one; use an API key")]
    SecretScope,
    /// See [`MAX_SECRETS`].
    #[error("{MAX_SECRETS} client secrets are in use; wait until some have expired")]
    TooManySecrets,
    /// See [`SECRET_SECONDS`].
    #[error("a client secret lives {least} to {most} seconds, not {0}", least = SECRET_SECONDS.start(), most = SECRET_SECONDS.end())]
    SecretLife(u32),
}

/// A fresh client secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// `ek_...`.
    pub value: String,
    /// Unix seconds.
    pub expires_at: u64,
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Secret").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

struct Lease {
    name: String,
    ends: Instant,
}

/// All keys and secrets of a server.
pub struct KeyRing {
    keys: Vec<ApiKey>,
    /// By hash. A lookup by hash tells a listener with a clock nothing about the secret.
    secrets: Mutex<HashMap<KeyHash, Lease>>,
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("KeyRing").field("keys", &self.keys).finish_non_exhaustive()
    }
}

impl KeyRing {
    /// A ring with these keys; without any, only this machine is served.
    pub fn new(keys: Vec<ApiKey>) -> Self {
        Self { keys, secrets: Mutex::default() }
    }

    /// Whether a caller needs a key.
    pub fn required(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Who calls, by the key in `Authorization`, `Sec-WebSocket-Protocol` or `?token=`, in this order.
    ///
    /// # Errors
    /// [`AuthError`], to be answered with 401.
    pub fn authorize(&self, headers: &HeaderMap, uri: &Uri, peer: SocketAddr) -> Result<Identity, AuthError> {
        let offered = Offered::read(headers, uri);
        let known = offered.token.as_deref().and_then(|token| self.find(token));
        let (name, scope) = match known {
            Some(found) => found,
            None if self.required() => {
                return Err(if offered.token.is_some() { AuthError::Unknown } else { AuthError::Missing });
            }
            // Client libraries insist on sending some key; a server without keys does not mind which.
            None => {
                local_only(headers, peer.ip())?;
                (LOCAL_NAME.to_owned(), Scope::Full)
            }
        };
        Ok(Identity { name, scope, subprotocol: offered.subprotocol })
    }

    /// Makes a secret that lives for `seconds` and counts for the same name.
    ///
    /// # Errors
    /// [`AuthError::SecretScope`], [`AuthError::SecretLife`], [`AuthError::TooManySecrets`].
    pub fn make_secret(&self, identity: &Identity, seconds: u32) -> Result<Secret, AuthError> {
        if identity.scope != Scope::Full {
            return Err(AuthError::SecretScope);
        }
        if !SECRET_SECONDS.contains(&seconds) {
            return Err(AuthError::SecretLife(seconds));
        }
        let (now, life) = (Instant::now(), Duration::from_secs(u64::from(seconds)));
        let mut secrets = self.secrets();
        secrets.retain(|_, lease| lease.ends > now);
        if secrets.len() >= MAX_SECRETS {
            return Err(AuthError::TooManySecrets);
        }
        let value = format!("ek_{:032x}", rand::rng().random::<u128>());
        secrets.insert(hash_key(&value), Lease { name: identity.name.clone(), ends: now + life });
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Secret { value, expires_at: (unix + life).as_secs() })
    }

    fn secrets(&self) -> MutexGuard<'_, HashMap<KeyHash, Lease>> {
        self.secrets.lock().expect("no code panics with the secrets locked. This is a bug.")
    }

    fn find(&self, token: &str) -> Option<(String, Scope)> {
        let hash = hash_key(token);
        // Every key is compared to its end, so that the time taken says nothing about any of them.
        let (mut found, mut index) = (Choice::from(0), 0u64);
        for (at, key) in self.keys.iter().enumerate() {
            let same = key.hash.ct_eq(&hash);
            index.conditional_assign(&(at as u64), same);
            found |= same;
        }
        if found.into() {
            return Some((self.keys[index as usize].name.clone(), Scope::Full));
        }
        let secrets = self.secrets();
        let lease = secrets.get(&hash).filter(|lease| lease.ends > Instant::now())?;
        Some((lease.name.clone(), Scope::Session))
    }
}

/// What a request shows.
struct Offered {
    token: Option<String>,
    subprotocol: Option<String>,
}

impl Offered {
    fn read(headers: &HeaderMap, uri: &Uri) -> Self {
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
        });
        let protocols: Vec<&str> = headers
            .get_all(header::SEC_WEBSOCKET_PROTOCOL)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .collect();
        let keyed = protocols.iter().find_map(|protocol| {
            let token = KEY_PROTOCOLS.iter().find_map(|prefix| protocol.strip_prefix(prefix))?;
            Some((*protocol, token.to_owned()))
        });
        let plain = protocols.iter().find(|protocol| **protocol == PLAIN_PROTOCOL).copied();
        let subprotocol = plain.or(keyed.as_ref().map(|(protocol, _)| *protocol)).map(str::to_owned);
        let token = bearer.or(keyed.map(|(_, token)| token)).or_else(|| query_token(uri));
        Self { token: token.filter(|token| !token.is_empty()), subprotocol }
    }
}

fn query_token(uri: &Uri) -> Option<String> {
    #[derive(Deserialize)]
    struct Token {
        token: String,
    }
    Query::<Token>::try_from_uri(uri).ok().map(|Query(Token { token })| token)
}

/// Whether a request demonstrably comes from this machine, and not through a proxy on it.
pub fn is_local(headers: &HeaderMap, peer: IpAddr) -> bool {
    local_only(headers, peer).is_ok()
}

/// Lets in who demonstrably is on this machine.
fn local_only(headers: &HeaderMap, peer: IpAddr) -> Result<(), AuthError> {
    const FORWARDED: [HeaderName; 2] = [header::FORWARDED, HeaderName::from_static("x-forwarded-for")];
    if !peer.to_canonical().is_loopback() {
        return Err(AuthError::NotLocal);
    }
    let proxied = FORWARDED.iter().any(|name| headers.contains_key(name));
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok());
    match !proxied && host.is_none_or(|host| is_loopback_host(host_name(host))) {
        true => Ok(()),
        false => Err(AuthError::NotDirect),
    }
}

/// The name in `name:port`.
pub(super) fn host_name(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => authority,
    }
}

/// `localhost` and its sub-names (RFC 6761, section 6.3), 127.0.0.0/8, `[::1]`.
pub(super) fn is_loopback_host(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.ends_with(".localhost") || literal.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests;
