//! Why a measurement could not be made.

use std::path::PathBuf;

/// Why a measurement could not be made. Broken gates are no error: they are a result.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A scenario that cannot be used.
    #[error("scenario {}: {reason}", path.display())]
    Scenario {
        /// Its file.
        path: PathBuf,
        /// What is wrong, and what to write instead.
        reason: String,
    },
    /// An address that clients cannot speak to.
    #[error("server {url:?}: {reason}")]
    Endpoint {
        /// As given.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// No session, or one that broke.
    #[error("{doing}: {reason}")]
    Session {
        /// What was being done.
        doing: &'static str,
        /// What went wrong.
        reason: String,
    },
    /// The server has no room.
    #[error("the server refuses more sessions: {reason}")]
    Refused {
        /// In its words.
        reason: String,
    },
    /// A report that cannot be read or written.
    #[error("report {}: {reason}", path.display())]
    Report {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl BenchError {
    pub(crate) fn session(doing: &'static str, reason: impl std::fmt::Display) -> Self {
        Self::Session { doing, reason: reason.to_string() }
    }
}
