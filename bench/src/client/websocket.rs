//! Everything over one WebSocket, in the page's format, 24 kHz both ways, or in a telephone's, G.711 at 8 kHz both ways.

use std::time::Instant;

use duologue_audio::g711;
use duologue_proto::live::{AudioConfig, AudioFormat, ClientEvent, InputAudioAppend, SessionConfig, SessionStart};
use duologue_proto::payload::Base64;
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderValue, header};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use super::{Incoming, SESSIONS, Target, read};
use crate::error::BenchError;
use crate::player::{Buffer, Player};
use crate::voice::{Phone, WIRE_RATE_HZ};

/// Samples of ours for one of a telephone.
const PHONE_STEP: usize = (WIRE_RATE_HZ / g711::RATE_HZ) as usize;

/// See the module.
#[derive(Debug)]
pub struct Websocket {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    phone: Option<Phone>,
}

impl Websocket {
    pub(super) async fn connect(
        target: &Target,
        session: SessionConfig,
        phone: Option<Phone>,
    ) -> Result<Self, BenchError> {
        let failed = |error: tungstenite::Error| match error {
            tungstenite::Error::Http(answer) if answer.status() == 503 || answer.status() == 429 => {
                BenchError::Refused { reason: format!("HTTP {}", answer.status()) }
            }
            other => BenchError::session("connecting", format!("{}: {other}", target.endpoint)),
        };
        let url = format!("ws://{}{SESSIONS}", target.endpoint.authority);
        let mut request = url.into_client_request().map_err(failed)?;
        if let Some(key) = &target.key {
            let value = HeaderValue::from_str(&format!("Bearer {key}"))
                .map_err(|_| BenchError::session("connecting", "the key has characters that no header may hold"))?;
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        // Without TCP_NODELAY a packet of sound may wait for the one before.
        let (socket, _) = connect_async_with_config(request, None, true).await.map_err(failed)?;
        let format = match phone {
            None => AudioFormat::Pcm24k,
            Some(Phone::MuLaw) => AudioFormat::Pcmu,
            Some(Phone::ALaw) => AudioFormat::Pcma,
        };
        let audio = AudioConfig { format: Some(format), ..session.audio.clone().unwrap_or_default() };
        let session = SessionConfig { audio: Some(audio), ..session };
        let mut client = Self { socket, phone };
        client.send(ClientEvent::SessionStart(Box::new(SessionStart { session }))).await?;
        Ok(client)
    }

    /// The page's buffer, or the same behind a telephone.
    pub(super) fn player(&self) -> Player {
        Player::Buffer(Buffer::new(self.phone.map_or(WIRE_RATE_HZ, |_| g711::RATE_HZ)))
    }

    /// How the telephone codes its samples.
    pub(super) fn phone(&self) -> Option<Phone> {
        self.phone
    }

    pub(super) async fn say(&mut self, samples: &[i16]) -> Result<(), BenchError> {
        let audio = Base64(match self.phone {
            None => samples.iter().flat_map(|sample| sample.to_le_bytes()).collect(),
            // The line was narrowed to 4 kHz before: every third sample is all of it.
            Some(phone) => phone.law().encode(&samples.iter().copied().step_by(PHONE_STEP).collect::<Vec<_>>()),
        });
        self.send(ClientEvent::InputAudioAppend(InputAudioAppend { audio })).await
    }

    pub(super) async fn send(&mut self, event: ClientEvent) -> Result<(), BenchError> {
        let text = serde_json::to_string(&event).expect("wire types are JSON. This is a bug.");
        self.socket.send(Message::text(text)).await.map_err(|error| BenchError::session("sending", error))
    }

    pub(super) async fn next(&mut self) -> Result<Option<(Instant, Incoming)>, BenchError> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    let now = Instant::now();
                    if let Some(incoming) = read(text.as_str())? {
                        return Ok(Some((now, incoming)));
                    }
                }
                Some(Ok(Message::Close(_))) | None => return Ok(None),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(BenchError::session("receiving", error)),
            }
        }
    }
}
