//! WebRTC: the user's voice and the model's as Opus over RTP, events as text on a data channel.
//!
//! Owns everything between an SDP offer and frames of sound: the connection ([`peer`]), what is accepted from a
//! stranger ([`config`], offers and candidates), the jitter buffer and what passes it by ([`jitter`], [`uplink`]), pacing and talk spurts
//! ([`playout`], [`talk`], [`metronome`]). Must not know sessions, turns beyond their number, or HTTP: who has an offer
//! calls [`RtcPeer::answer`] and drives what comes back.
//!
//! ICE, DTLS, SRTP and SCTP are the `webrtc` crate's. Each session has a UDP port of its own.

pub mod client;
pub mod config;
mod connect;
mod downlink;
pub mod jitter;
pub mod metronome;
pub mod peer;
pub mod playout;
mod ports;
mod receive;
mod sdp;
pub mod talk;
pub mod uplink;

pub use config::{IceServer, PortRange, RtcConfig, RtcConfigError};
pub use downlink::AudioSink;
pub use peer::{CHANNEL_LABEL, Candidate, Disconnect, RtcEvent, RtcHandle, RtcPeer, RtcStats};
pub use playout::{PlayHead, PlayoutFull};
pub use uplink::UplinkStats;

/// Why WebRTC did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RtcError {
    /// The client's offer.
    #[error("the SDP offer cannot be answered: {reason}")]
    Offer {
        /// What is wrong with it.
        reason: String,
    },
    /// A candidate that trickled in.
    #[error("the ICE candidate cannot be used: {reason}")]
    Candidate {
        /// What is wrong with it.
        reason: String,
    },
    /// All ports are taken, or the addresses are not this machine's.
    #[error("no UDP port ({range}) can be opened on {addresses}{detail}; widen webrtc.ports or end sessions")]
    NoPort {
        /// The configured range.
        range: String,
        /// The configured addresses.
        addresses: String,
        /// The last error of the system, if there was one.
        detail: String,
    },
    /// Settings that cannot work.
    #[error(transparent)]
    Config(#[from] RtcConfigError),
    /// The client does not read its messages.
    #[error("{waiting} messages wait for a client that does not read them; end its session")]
    Backlog {
        /// How many.
        waiting: usize,
    },
    /// A message that a browser might not take.
    #[error("a message of {bytes} bytes, at most {most} fit; split it")]
    MessageTooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        most: usize,
    },
    /// The connection is over.
    #[error("the connection is closed")]
    Closed,
    /// The library failed where it should not.
    #[error("webrtc: {reason}")]
    Failed {
        /// What it said.
        reason: String,
    },
}
