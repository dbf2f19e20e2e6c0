//! The OpenAI Live API with our extension (`proto/LIVE.md`): on a WebSocket, and on WebRTC's data channel.
//!
//! [`codec`] is the whole of the wire as a pure state machine: client messages in, session commands out; session events
//! in, server messages out. The sockets only carry its text.

pub mod codec;
mod request;
pub mod webrtc;
pub mod websocket;

pub use codec::{LiveCodec, Reaction};
pub use request::session_request;

use std::time::Duration;

use crate::pacer::Pace;

/// How speech leaves over WebRTC: the peer sends a packet every 20 ms itself and needs a few of them at hand.
pub const WEBRTC_PACE: Pace = Pace { packet: Duration::from_millis(20), lead: Duration::from_millis(60) };

/// How speech leaves on a WebSocket: the lead covers a hiccup of the network and is what an interruption cannot take
/// back from a client that knows no flush.
pub const WEBSOCKET_PACE: Pace = Pace { packet: Duration::from_millis(100), lead: Duration::from_millis(200) };
