//! The running sessions, found by name or by resume token.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rand::Rng;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use crate::driver::SessionCommand;

/// Limits of the manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Clients that may wait; more are refused.
    pub queue: usize,
    /// Sessions, waiting ones included, that one key may hold.
    pub sessions_per_key: usize,
    /// A session without audio ends after this.
    pub idle: Duration,
    /// Longest session.
    pub session: Duration,
    /// A session without a connection ends after this.
    pub resume: Duration,
    /// Longest pause.
    pub pause: Duration,
    /// Second programs that may hear one session.
    pub sidebands: usize,
    /// A server that is late takes nobody more until it has not been for so long; zero: it always does.
    pub calm: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue: 100,
            sessions_per_key: 8,
            idle: Duration::from_secs(60),
            session: Duration::from_secs(3600),
            resume: Duration::from_secs(30),
            pause: Duration::from_secs(300),
            sidebands: 2,
            calm: Duration::from_secs(10),
        }
    }
}

/// Name of a session: safe in a path, not guessable.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SessionId(String);

impl SessionId {
    pub(crate) fn random() -> Self {
        Self(format!("sess_{:024x}", rand::rng().random::<u128>() >> 32))
    }

    /// A name as a client spells it.
    pub fn from_client(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// What the status pages show of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionSummary {
    /// Its name.
    pub id: SessionId,
    /// Whom it counts for.
    pub key: String,
    /// How long it has run.
    pub age: Duration,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub id: SessionId,
    pub token: String,
    pub key: String,
    pub began: Instant,
    pub commands: mpsc::Sender<SessionCommand>,
    /// Room for second programs.
    pub sidebands: Arc<Semaphore>,
    /// Name of the recording that is made.
    pub recording: Option<String>,
    /// Whether its client has muted it.
    pub muted: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    entries: HashMap<SessionId, Entry>,
}

impl Table {
    pub fn insert(&mut self, entry: Entry) {
        self.entries.insert(entry.id.clone(), entry);
    }

    pub fn remove(&mut self, id: &SessionId) {
        self.entries.remove(id);
    }

    pub fn by_id(&self, id: &SessionId) -> Option<Entry> {
        self.entries.get(id).cloned()
    }

    pub fn by_token(&self, token: &str) -> Option<Entry> {
        self.entries.values().find(|entry| entry.token == token).cloned()
    }

    pub fn all(&self) -> Vec<Entry> {
        self.entries.values().cloned().collect()
    }

    pub fn list(&self) -> Vec<SessionSummary> {
        let mut list: Vec<_> = self
            .entries
            .values()
            .map(|entry| SessionSummary { id: entry.id.clone(), key: entry.key.clone(), age: entry.began.elapsed() })
            .collect();
        list.sort_by_key(|summary| std::cmp::Reverse(summary.age));
        list
    }
}
