//! One client over WebRTC: its session's sound goes through the peer connection, its events through the data channel.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use duologue_proto::live::rest::{
    CreateRequest, CreateResponse, CreatedSession, IceRequest, SdpTransport, TransportKind, parse_create, parse_ice,
};
use duologue_proto::live::{ServerEvent, ServerMessage};
use duologue_proto::wire::{ErrorCode, WireError};

use super::codec::{LiveCodec, LiveSession, Sound};
use super::request::session_request;
use super::websocket::{bare, event_number, manager_error, pass_on, refusal_error};
use super::{WEBRTC, recorder};
use crate::driver::{CloseCause, SessionCommand, SessionEvent};
use crate::http::{AppState, error_response};
use crate::manager::{ManagerError, SessionId, SessionLink};
use crate::rtc::{Candidate, Disconnect, RtcConfig, RtcError, RtcEvent, RtcHandle, RtcPeer};

/// How long a client that found no room is asked to wait, in seconds.
const RETRY_AFTER_S: u64 = 5;

/// Answers `POST /v1/live/sessions`. `key` is whom the session counts for.
pub async fn create(state: &AppState, key: &str, body: &str) -> Response {
    let Some(config) = state.webrtc() else {
        let error = WireError::unsupported("transport.type", "this server takes WebSockets only");
        return error_response(StatusCode::NOT_IMPLEMENTED, &error);
    };
    match open(state, config, key, body).await {
        Ok(answer) => (StatusCode::CREATED, Json(answer)).into_response(),
        Err(error) => refuse(&error),
    }
}

pub(super) fn refuse(error: &WireError) -> Response {
    let status = match error.code {
        ErrorCode::QueueFull | ErrorCode::ServerBusy => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::ResumeExpired => StatusCode::GONE,
        ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    };
    let mut response = error_response(status, error);
    if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
    }
    response
}

async fn open(state: &AppState, config: &RtcConfig, key: &str, body: &str) -> Result<CreateResponse, WireError> {
    let CreateRequest { session, transport } = parse_create(body, &state.message_limits())?;
    let info = state.manager().backend().info();
    let token = session.duologue.as_ref().and_then(|extension| extension.resume_token.clone());
    let (link, peer, answer) = match &token {
        Some(token) => {
            let last = session.duologue.as_ref().and_then(|extension| extension.last_event_id.as_deref());
            let after = last.map(event_number).transpose()?;
            let (peer, answer) = RtcPeer::answer(&transport.sdp, config).await.map_err(|error| rtc_error(&error))?;
            let link = state.manager().resume(token, after, WEBRTC).await;
            (link.map_err(|error| manager_error(&error))?, peer, answer)
        }
        None => {
            let request = session_request(&session, info)?;
            let visitor = state.manager().enter(key).map_err(|refusal| refusal_error(&refusal))?;
            if let Some(waiting) = visitor.place().map_err(|refusal| refusal_error(&refusal))? {
                let message = format!("all sessions are in use and {} clients wait; try again", waiting.queue_length);
                return Err(WireError::new(ErrorCode::QueueFull, message));
            }
            let (peer, answer) = RtcPeer::answer(&transport.sdp, config).await.map_err(|error| rtc_error(&error))?;
            let recorder = recorder(state, &session, visitor.id())?;
            let link = visitor.open(&request, WEBRTC, recorder).map_err(|error| manager_error(&error))?;
            (link, peer, answer)
        }
    };
    let described = LiveSession {
        id: link.id.as_str(),
        resume_token: &link.resume_token,
        resumed: token.is_some(),
        config: &session,
        info,
        limits: state.manager().limits(),
        recording_id: link.recording.clone(),
        muted: link.muted.clone(),
        sound: Sound::Media,
    };
    let codec = LiveCodec::new(&described, state.message_limits());
    let id = link.id.clone();
    state.connected(&id, peer.handle().clone());
    tokio::spawn(bridge(state.clone(), link, peer, codec));
    Ok(CreateResponse {
        session: CreatedSession { id: id.to_string() },
        transport: SdpTransport { r#type: TransportKind::Webrtc, sdp: answer },
    })
}

fn rtc_error(error: &RtcError) -> WireError {
    match error {
        RtcError::Offer { .. } => WireError::invalid("transport.sdp", error.to_string()),
        RtcError::Candidate { .. } => WireError::invalid("candidate", error.to_string()),
        RtcError::NoPort { .. } => WireError::new(ErrorCode::ServerBusy, error.to_string()),
        _ => WireError::new(ErrorCode::Internal, error.to_string()),
    }
}

/// Answers `POST /v1/live/sessions/{id}/ice`.
pub async fn trickle(state: &AppState, id: &str, body: &str) -> Response {
    let IceRequest { candidate, sdp_mid, sdp_m_line_index } = match parse_ice(body, &state.message_limits()) {
        Ok(request) => request,
        Err(error) => return refuse(&error),
    };
    let Some(handle) = state.connection(&SessionId::from_client(id)) else { return no_session(id) };
    match handle.add_candidate(Candidate { candidate, sdp_mid, sdp_m_line_index }).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => refuse(&rtc_error(&error)),
    }
}

/// Answers `POST /v1/live/sessions/{id}/hangup`, whatever the session's transport is.
pub async fn hang_up(state: &AppState, id: &str) -> Response {
    let command = SessionCommand::Close(CloseCause::Requested);
    match state.manager().command(&SessionId::from_client(id), command).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(_) => no_session(id),
    }
}

fn no_session(id: &str) -> Response {
    let unknown = ManagerError::Unknown { id: SessionId::from_client(id) };
    error_response(StatusCode::NOT_FOUND, &manager_error(&unknown))
}

/// Carries everything between a session and its peer until one of them ends.
async fn bridge(state: AppState, mut link: SessionLink, mut peer: RtcPeer, mut codec: LiveCodec) {
    let handle = peer.handle().clone();
    let mut rate = state.rate();
    if codec.resumed() {
        tell(&handle, &bare(codec.started()));
    }
    let mut over = false;
    loop {
        tokio::select! {
            event = link.events.recv(), if !over => match event {
                None => {
                    over = true;
                    handle.close();
                }
                Some(event) => {
                    sound(&handle, &event.event);
                    codec.send(&event).iter().for_each(|message| tell(&handle, message));
                }
            },
            event = peer.event() => match event {
                Some(RtcEvent::Audio(samples)) => {
                    // A session that has ended says so on the other channel.
                    drop(link.commands.send(SessionCommand::Due(codec.heard(samples))).await);
                }
                Some(RtcEvent::Arrived(samples)) => {
                    drop(link.commands.send(SessionCommand::Arrived(codec.heard(samples))).await);
                }
                Some(RtcEvent::Message(text)) => {
                    let replies = match rate.take(text.len()).and_then(|()| codec.receive(&text)) {
                        Ok(reactions) => pass_on(&link.commands, reactions).await,
                        Err(error) => vec![bare(ServerEvent::refusal(&error))],
                    };
                    replies.iter().for_each(|reply| tell(&handle, reply));
                    if rate.exhausted() {
                        handle.close();
                    }
                }
                Some(RtcEvent::NotText { bytes }) => {
                    let message = format!("a message is JSON text, not {bytes} bytes of data");
                    let error = WireError::new(ErrorCode::InvalidJson, message);
                    tell(&handle, &bare(ServerEvent::refusal(&error)));
                }
                Some(RtcEvent::Disconnected(cause))
                    if cause == Disconnect::ByClient || (cause == Disconnect::NeverConnected && !codec.resumed()) =>
                {
                    // Hanging up, or never having come, is not a lost connection: nobody comes back.
                    drop(link.commands.send(SessionCommand::Close(CloseCause::Requested)).await);
                    break;
                }
                Some(RtcEvent::Disconnected(_)) | None => break,
                Some(RtcEvent::Connected | RtcEvent::ChannelOpen | RtcEvent::Stats(_)) => {}
            },
        }
    }
    state.disconnected(&link.id, &handle);
}

/// What an event means for the sound.
fn sound(handle: &RtcHandle, event: &SessionEvent) {
    let sink = handle.sink();
    match event {
        SessionEvent::Audio { turn, samples, .. } => {
            if let Err(full) = sink.play(*turn, samples) {
                tracing::warn!(%full, "speech was dropped: the client's pace and ours differ");
            }
        }
        SessionEvent::Flush { .. } => sink.flush(),
        SessionEvent::Hold { .. } => sink.hold(),
        SessionEvent::Unhold { .. } => sink.unhold(),
        _ => {}
    }
}

fn tell(handle: &RtcHandle, message: &ServerMessage) {
    let text = serde_json::to_string(message).expect("wire types are JSON. This is a bug.");
    match handle.send_message(text) {
        Ok(()) | Err(RtcError::Closed) => {}
        Err(error) => {
            tracing::warn!(%error, "the client does not read its events");
            handle.close();
        }
    }
}
