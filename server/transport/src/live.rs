//! The OpenAI Live API with our extension (`proto/LIVE.md`): on a WebSocket, and on WebRTC's data channel.
//!
//! [`codec`] is the whole of the wire as a pure state machine: client messages in, session commands out; session events
//! in, server messages out. The sockets only carry its text.

pub mod codec;
mod output;
mod request;
pub mod sideband;
mod transcript;
pub mod webrtc;
pub mod websocket;

pub use codec::{LiveCodec, Reaction};
pub use request::session_request;

use std::sync::Arc;
use std::time::Duration;

use duologue_proto::live::SessionConfig;
use duologue_proto::wire::{ErrorCode, WireError};

use crate::http::AppState;
use crate::manager::{SessionId, Wire};
use crate::pacer::Pace;
use crate::record::{Recorder, Recording};
use codec::{LiveSession, Sound, bundle_info};

/// How speech leaves over WebRTC: the peer sends a packet every 20 ms itself and needs a few of them at hand.
pub const WEBRTC: Wire =
    Wire { name: "webrtc", pace: Some(Pace { packet: Duration::from_millis(20), lead: Duration::from_millis(60) }) };

/// How speech leaves on a WebSocket: the lead covers a hiccup of the network and is what an interruption cannot take
/// back from a client that knows no flush.
pub const WEBSOCKET: Wire = Wire {
    name: "websocket",
    pace: Some(Pace { packet: Duration::from_millis(100), lead: Duration::from_millis(200) }),
};

/// The recording of a session, when the server keeps recordings and the client agrees. It has the session's name.
///
/// # Errors
/// When its folder cannot be made: the client agreed to be recorded and must know that it is not.
fn recorder(state: &AppState, config: &SessionConfig, id: &SessionId) -> Result<Option<Recorder>, WireError> {
    let Some(shelf) = state.shelf().filter(|_| config.wants_recording()) else { return Ok(None) };
    let info = state.manager().backend().info();
    let mut told = config.clone();
    // The timeline tells everything, whatever this client understands.
    told.duologue.get_or_insert_default().units = None;
    let session = LiveSession {
        id: id.as_str(),
        resume_token: "",
        resumed: false,
        config: &told,
        info,
        limits: state.manager().limits(),
        recording_id: Some(id.to_string()),
        muted: Arc::default(),
        sound: Sound::Elsewhere,
    };
    let recording = Recording {
        id: id.to_string(),
        dir: shelf.dir().to_path_buf(),
        user_rate_hz: info.duplex.sample_rate_hz,
        unit_ms: info.duplex.chunk_ms,
        bundle: bundle_info(info),
        codec: LiveCodec::new(&session, state.message_limits()),
    };
    Recorder::begin(recording).map(Some).map_err(|error| {
        tracing::error!(%error, dir = %shelf.dir().display(), "a recording cannot begin");
        WireError::new(ErrorCode::Internal, "the session cannot be recorded now; start it without `record`")
    })
}
