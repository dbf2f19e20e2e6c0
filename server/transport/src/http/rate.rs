//! How fast a client may go: messages and bytes within a connection, requests per address.
//!
//! Token buckets, because a client that was quiet may catch up. Owns the counting; the wires decide what a refusal looks
//! like to their clients.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Mutex;
use std::time::Duration;

use duologue_proto::wire::{ErrorCode, WireError};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// How often a full table of addresses is searched for ones to forget.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Settings, as they stand in the configuration file under `[rates]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimits {
    /// Messages of one connection per second, lasting. 20 ms of audio per message are 50.
    pub messages_per_s: f64,
    /// Messages that a connection may send at once after a pause.
    pub message_burst: f64,
    /// Bytes of one connection per second, lasting. 24 kHz audio in base64 is 64 kB per second; the rest is for pictures.
    pub bytes_per_s: f64,
    /// Bytes that a connection may send at once after a pause; at least one longest message.
    pub byte_burst: f64,
    /// Refused messages after which a connection is closed (1008). Going slowly for a while clears the count.
    pub offences: u32,
    /// HTTP requests (a WebSocket is one) of one address per second, lasting.
    pub requests_per_s: f64,
    /// HTTP requests that an address may make at once after a pause.
    pub request_burst: f64,
    /// Addresses that are remembered; when there are more, the newcomers share one allowance.
    pub peers: usize,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self {
            messages_per_s: 200.0,
            message_burst: 400.0,
            bytes_per_s: f64::from(1 << 20),
            byte_burst: f64::from(16 << 20),
            offences: 10,
            requests_per_s: 50.0,
            request_burst: 500.0,
            peers: 10_000,
        }
    }
}

/// A limit that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rates.{field}: {reason}")]
pub struct RateError {
    /// Name of the setting.
    pub field: &'static str,
    /// What is wrong.
    pub reason: String,
}

impl RateLimits {
    /// Checks what the types cannot say. `max_message_bytes` is the longest message that is legal.
    ///
    /// # Errors
    /// The first setting that cannot work.
    pub fn validate(&self, max_message_bytes: usize) -> Result<(), RateError> {
        let at_least = |field, value: f64, least: f64| match value.is_finite() && value >= least {
            true => Ok(()),
            false => Err(RateError { field, reason: format!("{value} is not a number of {least} or more") }),
        };
        at_least("messages_per_s", self.messages_per_s, 1.0)?;
        at_least("message_burst", self.message_burst, 1.0)?;
        at_least("bytes_per_s", self.bytes_per_s, 1.0)?;
        at_least("byte_burst", self.byte_burst, max_message_bytes as f64)?;
        at_least("requests_per_s", self.requests_per_s, 0.01)?;
        at_least("request_burst", self.request_burst, 1.0)?;
        at_least("offences", f64::from(self.offences), 1.0)?;
        at_least("peers", self.peers as f64, 1.0)
    }
}

/// Fills at a steady rate up to its capacity.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    rate: f64,
    capacity: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    fn full(rate: f64, capacity: f64, now: Instant) -> Self {
        Self { rate, capacity, level: capacity, at: now }
    }

    fn fill(&mut self, now: Instant) {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * self.rate;
        self.level = (self.level + gained).min(self.capacity);
        self.at = now;
    }

    /// How long until `amount` is there; zero when it is.
    fn wait(&self, amount: f64) -> Duration {
        Duration::from_secs_f64(((amount - self.level) / self.rate).max(0.0))
    }
}

/// Allowance of one connection.
#[derive(Debug)]
pub struct Rate {
    messages: Bucket,
    bytes: Bucket,
    offences: u32,
    max_offences: u32,
}

impl Rate {
    /// A full allowance.
    pub fn new(limits: &RateLimits) -> Self {
        let now = Instant::now();
        Self {
            messages: Bucket::full(limits.messages_per_s, limits.message_burst, now),
            bytes: Bucket::full(limits.bytes_per_s, limits.byte_burst, now),
            offences: 0,
            max_offences: limits.offences,
        }
    }

    /// Takes a message of `bytes` off the allowance.
    ///
    /// # Errors
    /// `rate_limited`: the message must not be handled. It costs nothing.
    pub fn take(&mut self, bytes: usize) -> Result<(), WireError> {
        let now = Instant::now();
        self.messages.fill(now);
        self.bytes.fill(now);
        let bytes = bytes as f64;
        let too_fast = if self.messages.level < 1.0 {
            Some(("messages", self.messages.rate, self.messages.wait(1.0)))
        } else if self.bytes.level < bytes {
            Some(("bytes", self.bytes.rate, self.bytes.wait(bytes)))
        } else {
            None
        };
        if let Some((what, rate, wait)) = too_fast {
            self.offences += 1;
            let text = format!(
                "more than {rate} {what} per second; this message was dropped, wait {:.1} s",
                wait.as_secs_f64().max(0.1)
            );
            return Err(WireError::new(ErrorCode::RateLimited, text));
        }
        self.messages.level -= 1.0;
        self.bytes.level -= bytes;
        if self.messages.level >= self.messages.capacity / 2.0 {
            self.offences = 0;
        }
        Ok(())
    }

    /// The client goes on too fast although it was told: close with 1008.
    pub fn exhausted(&self) -> bool {
        self.offences >= self.max_offences
    }
}

#[derive(Debug)]
struct Peers {
    buckets: HashMap<IpAddr, Bucket>,
    /// For newcomers while the table is full of busy addresses.
    others: Bucket,
    swept: Instant,
}

/// Allowances of all addresses.
#[derive(Debug)]
pub struct PeerLimits {
    peers: Mutex<Peers>,
    rate: f64,
    burst: f64,
    most: usize,
}

impl PeerLimits {
    /// Nobody has come yet.
    pub fn new(limits: &RateLimits) -> Self {
        let now = Instant::now();
        let others = Bucket::full(limits.requests_per_s, limits.request_burst, now);
        Self {
            peers: Mutex::new(Peers { buckets: HashMap::new(), others, swept: now }),
            rate: limits.requests_per_s,
            burst: limits.request_burst,
            most: limits.peers,
        }
    }

    /// Takes one request off the allowance of an address.
    ///
    /// # Errors
    /// How long the client should wait (`Retry-After`).
    pub fn take(&self, peer: IpAddr) -> Result<(), Duration> {
        let (now, peer) = (Instant::now(), network(peer));
        let mut peers = self.peers.lock().expect("no code panics with the peers locked. This is a bug.");
        let Peers { buckets, others, swept } = &mut *peers;
        if buckets.len() >= self.most && !buckets.contains_key(&peer) && *swept + SWEEP_INTERVAL <= now {
            *swept = now;
            // An address whose bucket has filled up again is as good as one that never came.
            buckets.retain(|_, bucket| {
                bucket.fill(now);
                bucket.level < bucket.capacity
            });
        }
        let bucket = match buckets.len() < self.most || buckets.contains_key(&peer) {
            true => buckets.entry(peer).or_insert_with(|| Bucket::full(self.rate, self.burst, now)),
            false => others,
        };
        bucket.fill(now);
        let wait = bucket.wait(1.0);
        if wait.is_zero() {
            bucket.level -= 1.0;
            return Ok(());
        }
        Err(wait)
    }
}

/// Whom an address counts for: one IPv6 customer has at least a /64 to himself.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests;
