//! A client of the Live wire (`proto/LIVE.md`) over WebSocket or WebRTC.
//!
//! Owns connecting, sending 20 ms of sound, and the stream of what comes back, each with the moment it came. Must not know
//! what a conversation is.

mod http;
mod webrtc;
mod websocket;

use std::time::{Duration, Instant};

use duologue_proto::live::{ClientEvent, ErrorEvent, ServerEvent, SessionConfig, SessionSnapshot, parse_server};
use duologue_proto::wire::ErrorCode;
use duologue_transport::rtc::client::Heard as Packet;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::error::BenchError;
use crate::player::Player;
use crate::voice::Phone;
use webrtc::Webrtc;
use websocket::Websocket;

/// Where sessions are opened.
const SESSIONS: &str = "/v1/live/sessions";
/// Longest wait for a session, its time in the queue included.
const PATIENCE: Duration = Duration::from_secs(120);
/// Longest message of a server: a second of audio is 64 KiB in base64.
const MESSAGE_BYTES: usize = 8 << 20;

/// How clients reach the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// JSON and base64 on one WebSocket.
    Websocket,
    /// Opus over RTP, events on a data channel.
    Webrtc,
}

impl std::fmt::Display for Transport {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Websocket => "websocket",
            Self::Webrtc => "webrtc",
        })
    }
}

impl std::str::FromStr for Transport {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "websocket" => Ok(Self::Websocket),
            "webrtc" => Ok(Self::Webrtc),
            other => Err(format!("no transport is named {other:?}; there are websocket and webrtc")),
        }
    }
}

/// A server's host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    authority: String,
}

impl Endpoint {
    /// Reads `http://HOST:PORT`.
    ///
    /// # Errors
    /// [`BenchError::Endpoint`] for what is no such address. TLS is not spoken here.
    pub fn parse(url: &str) -> Result<Self, BenchError> {
        let refuse = |reason: &str| BenchError::Endpoint { url: url.to_owned(), reason: reason.to_owned() };
        let rest = match url.split_once("://") {
            Some(("http" | "ws", rest)) => rest,
            Some(("https" | "wss", _)) => {
                return Err(refuse("TLS is not spoken here; run the bench beside the server or through a tunnel"));
            }
            _ => return Err(refuse("write http://HOST:PORT")),
        };
        let authority = rest.trim_end_matches('/');
        if authority.is_empty() || authority.contains(['/', '?', '#', '@', ' ']) {
            return Err(refuse("write http://HOST:PORT, without path, query or user"));
        }
        let port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        Ok(Self { authority: if port { authority.to_owned() } else { format!("{authority}:80") } })
    }

    /// The server is on this machine.
    fn local(&self) -> bool {
        ["127.", "localhost:", "[::1]:"].iter().any(|local| self.authority.starts_with(local))
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "http://{}", self.authority)
    }
}

/// Whom clients talk to, and how.
#[derive(Debug, Clone)]
pub struct Target {
    /// The server.
    pub endpoint: Endpoint,
    /// Its API key, if it wants one.
    pub key: Option<String>,
    /// The way.
    pub transport: Transport,
}

/// What comes from the server.
#[derive(Debug)]
pub enum Incoming {
    /// A message.
    Event(Box<ServerEvent>),
    /// A packet of the reply's sound; WebRTC only.
    Packet(Packet),
}

/// One session's client.
#[derive(Debug)]
pub enum Client {
    /// Over WebSocket.
    Websocket(Box<Websocket>),
    /// Over WebRTC.
    Webrtc(Box<Webrtc>),
}

impl Client {
    /// Opens a session and waits, in the server's queue if need be, until it may speak. With `phone` a WebSocket carries G.711.
    ///
    /// # Errors
    /// [`BenchError::Refused`] when there is no room, [`BenchError::Session`] for everything else.
    pub async fn connect(
        target: &Target,
        session: SessionConfig,
        phone: Option<Phone>,
    ) -> Result<(Self, SessionSnapshot), BenchError> {
        let opening = async {
            let mut client = match target.transport {
                Transport::Websocket => Self::Websocket(Box::new(Websocket::connect(target, session, phone).await?)),
                Transport::Webrtc => Self::Webrtc(Box::new(Webrtc::connect(target, session).await?)),
            };
            let started = client.started().await?;
            Ok((client, started))
        };
        let late = |_| BenchError::session("opening a session", format!("not open after {} s", PATIENCE.as_secs()));
        timeout(PATIENCE, opening).await.map_err(late)?
    }

    /// The loudspeaker that fits this wire.
    ///
    /// # Errors
    /// When no decoder can be made.
    pub fn player(&self) -> Result<Player, BenchError> {
        match self {
            Self::Websocket(client) => Ok(client.player()),
            Self::Webrtc(_) => webrtc::player(),
        }
    }

    /// What sound in events is coded with; `None`: not at all.
    pub fn phone(&self) -> Option<Phone> {
        match self {
            Self::Websocket(client) => client.phone(),
            Self::Webrtc(_) => None,
        }
    }

    /// Sends [`crate::voice::PACKET`] samples.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn say(&mut self, samples: &[i16]) -> Result<(), BenchError> {
        match self {
            Self::Websocket(client) => client.say(samples).await,
            Self::Webrtc(client) => client.say(samples).await,
        }
    }

    /// Sends an event.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn send(&mut self, event: ClientEvent) -> Result<(), BenchError> {
        match self {
            Self::Websocket(client) => client.send(event).await,
            Self::Webrtc(client) => client.send(event).await,
        }
    }

    /// What comes next, and when it came; `None` when the connection is closed. May be dropped while it waits.
    ///
    /// # Errors
    /// When the connection breaks or the server says something that is not the protocol.
    pub async fn next(&mut self) -> Result<Option<(Instant, Incoming)>, BenchError> {
        match self {
            Self::Websocket(client) => client.next().await,
            Self::Webrtc(client) => client.next().await,
        }
    }

    async fn started(&mut self) -> Result<SessionSnapshot, BenchError> {
        while let Some((_, incoming)) = self.next().await? {
            let Incoming::Event(event) = incoming else { continue };
            match *event {
                ServerEvent::SessionStarted(snapshot) => return Ok(*snapshot),
                ServerEvent::Error(error) => return Err(refusal(&error)),
                _ => {}
            }
        }
        Err(BenchError::session("opening a session", "the server closed the connection"))
    }
}

/// Reads a message; `None` for a kind that is not known here.
fn read(text: &str) -> Result<Option<Incoming>, BenchError> {
    match parse_server(text, MESSAGE_BYTES) {
        Ok(message) => Ok(Some(Incoming::Event(Box::new(message.event)))),
        Err(error) if error.code == ErrorCode::UnknownEvent => Ok(None),
        Err(error) => Err(BenchError::session("reading an event", error)),
    }
}

fn refusal(ErrorEvent { error }: &ErrorEvent) -> BenchError {
    let reason = format!("{}: {}", error.code, error.message);
    match error.code {
        ErrorCode::QueueFull | ErrorCode::ServerBusy | ErrorCode::RateLimited => BenchError::Refused { reason },
        _ => BenchError::session("opening a session", reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (url, wanted) in [
            ("http://127.0.0.1:8998", "http://127.0.0.1:8998"),
            ("ws://localhost:1/", "http://localhost:1"),
            ("http://gpu", "http://gpu:80"),
            ("http://[::1]:9", "http://[::1]:9"),
        ] {
            assert_eq!(Endpoint::parse(url).unwrap().to_string(), wanted);
        }
        for url in ["127.0.0.1:8998", "https://127.0.0.1:8998", "http://", "http://a/b", "http://a?b", "ftp://a"] {
            assert!(Endpoint::parse(url).is_err(), "{url}");
        }
    }
}
