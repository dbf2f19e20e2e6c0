//! One client on a WebSocket: the queue, the start or resume of its session, then messages both ways until it ends.

use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use duologue_proto::live::{
    AudioFormat, ClientEvent, ClientMessage, Queued, ServerEvent, ServerMessage, SessionConfig, parse_client,
};
use duologue_proto::wire::{ErrorCode, WireError};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::codec::{LiveCodec, LiveSession, Reaction, Sound};
use super::request::session_request;
use super::{WEBSOCKET, recorder};
use crate::backend::BackendError;
use crate::driver::SessionCommand;
use crate::http::AppState;
use crate::http::rate::Rate;
use crate::manager::{ManagerError, Refusal, SessionLink, Waiting};

/// How long a client may take for its `session.start`.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take to read one message before it counts as gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves one connection to its end. `key` is whom the session counts for.
pub async fn serve(mut socket: WebSocket, state: AppState, key: String, peer: SocketAddr) {
    let ended = converse(&mut socket, &state, &key).await;
    tracing::debug!(%peer, ?ended, "live connection over");
    let (code, reason) = match ended {
        Ended::Gone => return,
        Ended::Closed => (close_code::NORMAL, ""),
        Ended::Refused => (close_code::POLICY, "refused; see the error event"),
        Ended::Busy => (close_code::AGAIN, "no session is free"),
    };
    close(socket, code, reason).await;
}

/// Says good-bye; a client that is gone need not be told.
pub(super) async fn close(mut socket: WebSocket, code: u16, reason: &'static str) {
    let frame = CloseFrame { code, reason: reason.into() };
    drop(timeout(SEND_TIMEOUT, socket.send(Message::Close(Some(frame)))).await);
}

/// How a connection ended.
#[derive(Debug)]
enum Ended {
    /// The client went away.
    Gone,
    /// The session is over and the client was told.
    Closed,
    /// The client was told what it did wrong.
    Refused,
    /// There was no room.
    Busy,
}

async fn converse(socket: &mut WebSocket, state: &AppState, key: &str) -> Ended {
    let mut rate = state.rate();
    let Some(start) = first_message(socket, state, &mut rate).await else { return Ended::Gone };
    let config = match start {
        Ok(config) => config,
        Err(error) => return refuse(socket, &error).await,
    };
    let opened = match config.duologue.as_ref().and_then(|extension| extension.resume_token.as_deref()) {
        Some(token) => resume(state, &config, token).await,
        None => open(socket, state, &config, key, &mut rate).await,
    };
    let (link, codec) = match opened {
        Ok(Some(opened)) => opened,
        Ok(None) => return Ended::Gone,
        Err(error) => {
            let busy = matches!(error.code, ErrorCode::QueueFull | ErrorCode::ServerBusy);
            let ended = refuse(socket, &error).await;
            return if busy { Ended::Busy } else { ended };
        }
    };
    run(socket, link, codec, rate).await
}

/// The session that the client asks for; `None` when it went away or said nothing.
async fn first_message(
    socket: &mut WebSocket,
    state: &AppState,
    rate: &mut Rate,
) -> Option<Result<SessionConfig, WireError>> {
    let text = match timeout(START_TIMEOUT, text_of(socket, rate)).await {
        Ok(Received::Text(text)) => text,
        Ok(Received::Refused(error)) => return Some(Err(error)),
        Ok(Received::Gone) => return None,
        Err(_) => return Some(Err(WireError::new(ErrorCode::MissingField, "no session.start within 30 s"))),
    };
    Some(match parse_client(&text, &state.message_limits(), AudioFormat::default()) {
        Ok(ClientMessage { event: ClientEvent::SessionStart(start), .. }) => Ok(start.session),
        Ok(ClientMessage { event_id, event }) => {
            let message = format!("`{}` before `session.start`", event.type_name());
            Err(WireError::new(ErrorCode::AudioBeforeStart, message).for_event(event_id.as_deref()))
        }
        Err(error) => Err(error),
    })
}

async fn open(
    socket: &mut WebSocket,
    state: &AppState,
    config: &SessionConfig,
    key: &str,
    rate: &mut Rate,
) -> Result<Option<(SessionLink, LiveCodec)>, WireError> {
    let info = state.manager().backend().info();
    let request = session_request(config, info)?;
    let mut visitor = state.manager().enter(key).map_err(|refusal| refusal_error(&refusal))?;
    let mut place = visitor.place().map_err(|refusal| refusal_error(&refusal))?;
    while let Some(waiting) = place {
        if send(socket, &bare(queued(&waiting))).await.is_err() {
            return Ok(None);
        }
        let next = visitor.wait();
        tokio::pin!(next);
        place = loop {
            tokio::select! {
                next = &mut next => break next.map_err(|refusal| refusal_error(&refusal))?,
                // A client that waits has nothing to say yet; what it says is not kept.
                received = text_of(socket, rate) => match received {
                    Received::Text(_) => {}
                    Received::Refused(error) if rate.exhausted() => return Err(error),
                    Received::Refused(_) => {}
                    Received::Gone => return Ok(None),
                },
            }
        };
    }
    let recorder = recorder(state, config, visitor.id())?;
    let link = visitor.open(&request, WEBSOCKET, recorder).map_err(|error| manager_error(&error))?;
    let codec = codec(state, config, &link, false);
    Ok(Some((link, codec)))
}

async fn resume(
    state: &AppState,
    config: &SessionConfig,
    token: &str,
) -> Result<Option<(SessionLink, LiveCodec)>, WireError> {
    let last = config.duologue.as_ref().and_then(|extension| extension.last_event_id.as_deref());
    let after = last.map(event_number).transpose()?;
    let link = state.manager().resume(token, after, WEBSOCKET).await.map_err(|error| manager_error(&error))?;
    let codec = codec(state, config, &link, true);
    Ok(Some((link, codec)))
}

fn codec(state: &AppState, config: &SessionConfig, link: &SessionLink, resumed: bool) -> LiveCodec {
    let session = LiveSession {
        id: link.id.as_str(),
        resume_token: &link.resume_token,
        resumed,
        config,
        info: state.manager().backend().info(),
        limits: state.manager().limits(),
        recording_id: link.recording.clone(),
        muted: link.muted.clone(),
        sound: Sound::Messages,
    };
    LiveCodec::new(&session, state.message_limits())
}

/// The number in an event id of ours (`evt_<n>`, `evt_<n>.<part>`).
pub(super) fn event_number(id: &str) -> Result<u64, WireError> {
    let digits = id.strip_prefix("evt_").map(|rest| rest.split('.').next().unwrap_or(rest));
    digits.and_then(|digits| digits.parse().ok()).ok_or_else(|| {
        WireError::invalid("session.duologue.last_event_id", format!("`{id}` is no event id of this server"))
    })
}

/// Messages both ways until one side ends it.
async fn run(socket: &mut WebSocket, mut link: SessionLink, mut codec: LiveCodec, mut rate: Rate) -> Ended {
    if codec.resumed() && send(socket, &bare(codec.started())).await.is_err() {
        return Ended::Gone;
    }
    loop {
        tokio::select! {
            event = link.events.recv() => {
                let Some(event) = event else { return Ended::Closed };
                for message in codec.send(&event) {
                    if send(socket, &message).await.is_err() {
                        return Ended::Gone;
                    }
                }
            }
            received = text_of(socket, &mut rate) => {
                let reactions = match received {
                    Received::Gone => return Ended::Gone,
                    Received::Refused(error) => Err(error),
                    Received::Text(text) => codec.receive(&text),
                };
                let replies = match reactions {
                    Err(error) => vec![bare(ServerEvent::refusal(&error))],
                    Ok(reactions) => pass_on(&link.commands, reactions).await,
                };
                for reply in replies {
                    if send(socket, &reply).await.is_err() {
                        return Ended::Gone;
                    }
                }
                if rate.exhausted() {
                    return Ended::Refused;
                }
            }
        }
    }
}

/// Hands commands to the session and returns what the client is told at once.
pub(super) async fn pass_on(commands: &mpsc::Sender<SessionCommand>, reactions: Vec<Reaction>) -> Vec<ServerMessage> {
    let mut replies = Vec::new();
    for reaction in reactions {
        match reaction {
            Reaction::Reply(message) => replies.push(message),
            // A session that has ended says so on the other channel.
            Reaction::Command(command) => drop(commands.send(command).await),
        }
    }
    replies
}

pub(super) enum Received {
    Text(String),
    Refused(WireError),
    Gone,
}

/// The next text of the client, within its rate.
pub(super) async fn text_of(socket: &mut WebSocket, rate: &mut Rate) -> Received {
    loop {
        return match socket.recv().await {
            Some(Ok(Message::Text(text))) => match rate.take(text.len()) {
                Ok(()) => Received::Text(text.as_str().to_owned()),
                Err(error) => Received::Refused(error),
            },
            Some(Ok(Message::Binary(_))) => {
                Received::Refused(WireError::new(ErrorCode::InvalidJson, "a message is JSON text, not binary"))
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
            Some(Ok(Message::Close(_)) | Err(_)) | None => Received::Gone,
        };
    }
}

async fn refuse(socket: &mut WebSocket, error: &WireError) -> Ended {
    match send(socket, &bare(ServerEvent::refusal(error))).await {
        Ok(()) => Ended::Refused,
        Err(Lost) => Ended::Gone,
    }
}

/// The client does not read, or is gone.
pub(super) struct Lost;

pub(super) async fn send(socket: &mut WebSocket, message: &ServerMessage) -> Result<(), Lost> {
    let text = serde_json::to_string(message).expect("wire types are JSON. This is a bug.");
    match timeout(SEND_TIMEOUT, socket.send(Message::Text(text.into()))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Lost),
    }
}

/// A message outside the session's numbered events.
pub(super) fn bare(event: ServerEvent) -> ServerMessage {
    ServerMessage { event_id: None, client_event_id: None, event }
}

fn queued(waiting: &Waiting) -> ServerEvent {
    ServerEvent::Queued(Queued {
        position: waiting.position,
        estimated_wait_s: waiting.estimate.as_secs_f64(),
        queue_length: waiting.queue_length,
    })
}

/// A refusal of the manager in the wire's terms.
pub(super) fn refusal_error(refusal: &Refusal) -> WireError {
    let code = match refusal {
        Refusal::QueueFull { .. } => ErrorCode::QueueFull,
        Refusal::Draining => ErrorCode::ServerBusy,
        Refusal::KeyLimit { .. } => ErrorCode::RateLimited,
    };
    WireError::new(code, refusal.to_string())
}

/// The same for every error of the manager.
pub(super) fn manager_error(error: &ManagerError) -> WireError {
    match error {
        ManagerError::Refused(refusal) => refusal_error(refusal),
        ManagerError::Backend(BackendError::Refused { field, message }) => {
            WireError::invalid(format!("session.{field}"), message.clone())
        }
        ManagerError::Backend(BackendError::Failed(message)) => WireError::new(ErrorCode::Internal, message.clone()),
        ManagerError::ResumeExpired => WireError::new(ErrorCode::ResumeExpired, error.to_string()),
        ManagerError::Unknown { .. } => WireError::invalid("id", error.to_string()),
        ManagerError::Crowded { .. } => WireError::new(ErrorCode::RateLimited, error.to_string()),
    }
}
