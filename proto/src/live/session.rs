//! The session as the server reports it (`types/live/session_resource.py`).

use serde::{Deserialize, Serialize};

use super::{
    config::{AudioConfig, Delegation},
    extension::StartedExtension,
};

/// A session with its defaults filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionResource {
    /// Id for hang-up, sideband and recording.
    pub id: String,
    /// When the session ends at the latest, in Unix seconds.
    pub expires_at: u64,
    /// The client's name of the model, or the bundle's.
    pub model: String,
    /// Always `active`, in `session.closed` too.
    pub status: SessionStatus,
    /// Format and voice in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audio: Option<AudioConfig>,
    /// Echo.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delegation: Option<Delegation>,
    /// System prompt in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// A recording is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<bool>,
    /// Our extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duologue: Option<StartedExtension>,
}

/// Status of a session object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionStatus {
    /// The only one OpenAI's API knows.
    #[default]
    Active,
}
