//! Opus over RTP both ways, events on a data channel.

use std::time::Instant;

use duologue_proto::live::rest::{CreateRequest, CreateResponse, ErrorResponse, SdpTransport, TransportKind};
use duologue_proto::live::{ClientEvent, ErrorEvent, SessionConfig};
use duologue_transport::rtc::client::{Client as Peer, Incoming as PeerIncoming, Microphone};

use super::{Incoming, SESSIONS, Target, http, read, refusal};
use crate::error::BenchError;
use crate::player::{Media, Player};

/// See the module.
#[derive(Debug)]
pub struct Webrtc {
    peer: Peer,
    microphone: Microphone,
}

/// A browser's receiver.
pub(super) fn player() -> Result<Player, BenchError> {
    let media = Media::new().map_err(|error| BenchError::session("decoding", error))?;
    Ok(Player::Media(Box::new(media)))
}

impl Webrtc {
    pub(super) async fn connect(target: &Target, session: SessionConfig) -> Result<Self, BenchError> {
        let failed = |error| BenchError::session("connecting over WebRTC", error);
        let address = if target.endpoint.local() { "127.0.0.1:0" } else { "0.0.0.0:0" };
        let mut peer = Peer::new(address).await.map_err(failed)?;
        let sdp = peer.offer().await.map_err(failed)?;
        let transport = SdpTransport { r#type: TransportKind::Webrtc, sdp };
        let body = serde_json::to_string(&CreateRequest { session, transport });
        let body = body.expect("wire types are JSON. This is a bug.");
        let (status, answer) = http::post(target, SESSIONS, &body).await?;
        if status != 201 {
            return Err(match serde_json::from_str::<ErrorResponse>(&answer) {
                Ok(response) => refusal(&ErrorEvent { error: response.error }),
                Err(_) => BenchError::session("connecting over WebRTC", format!("HTTP {status}")),
            });
        }
        let created: CreateResponse = serde_json::from_str(&answer).map_err(|error| {
            BenchError::session("connecting over WebRTC", format!("no answer to the offer: {error}"))
        })?;
        peer.accept(created.transport.sdp).await.map_err(failed)?;
        peer.connected().await.map_err(failed)?;
        peer.opened().await.map_err(failed)?;
        let microphone = peer.microphone.take().expect("nobody else took it. This is a bug.");
        Ok(Self { peer, microphone })
    }

    pub(super) async fn say(&mut self, samples: &[i16]) -> Result<(), BenchError> {
        self.microphone.say(samples).await.map_err(|error| BenchError::session("sending sound", error))
    }

    pub(super) async fn send(&mut self, event: ClientEvent) -> Result<(), BenchError> {
        let text = serde_json::to_string(&event).expect("wire types are JSON. This is a bug.");
        self.peer.channel.send_text(&text).await.map_err(|error| BenchError::session("sending", error))
    }

    pub(super) async fn next(&mut self) -> Result<Option<(Instant, Incoming)>, BenchError> {
        loop {
            match self.peer.next().await {
                Some(PeerIncoming::Message(text)) => {
                    let now = Instant::now();
                    if let Some(incoming) = read(&text)? {
                        return Ok(Some((now, incoming)));
                    }
                }
                Some(PeerIncoming::Packet(packet)) => return Ok(Some((packet.at, Incoming::Packet(packet)))),
                None => return Ok(None),
            }
        }
    }
}
