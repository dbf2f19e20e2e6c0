//! What a driver is made of.

use std::sync::Arc;
use std::time::Duration;

use duologue_session::CoreConfig;
use tokio::sync::Notify;
use tracing::Span;

use super::events::Output;
use super::listener::Listener;
use crate::backend::BackendSession;
use crate::pacer::ReplyStart;
use crate::record::Recorder;

/// How long a session may do nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriverLimits {
    /// Without user audio.
    pub idle: Duration,
    /// In all.
    pub session: Duration,
    /// Without a connection.
    pub resume: Duration,
    /// Longest pause that a client may ask for.
    pub pause: Duration,
}

/// What a driver is made of.
pub struct DriverParts {
    /// The backend's side.
    pub session: Box<dyn BackendSession>,
    /// Rung by the backend.
    pub wake: Arc<Notify>,
    /// Numbers of the core.
    pub core: CoreConfig,
    /// Voice detector and rules; `None` when the model alone decides.
    pub listener: Option<Listener>,
    /// How long a reply waits that is not complete.
    pub reply_start: ReplyStart,
    /// The wire.
    pub output: Output,
    /// Limits.
    pub limits: DriverLimits,
    /// The recording that is made.
    pub recorder: Option<Recorder>,
    /// What a trace of it hangs below.
    pub span: Span,
    /// Called when the backend takes longer for a unit than it lasts, and when a reply pauses for want of sound.
    pub late: Box<dyn Fn() + Send>,
}

impl std::fmt::Debug for DriverParts {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("DriverParts").field("core", &self.core).field("limits", &self.limits).finish_non_exhaustive()
    }
}
