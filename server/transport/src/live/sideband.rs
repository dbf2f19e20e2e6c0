//! A second program on a session: its events without the sound, and a say in everything but the sound.
//!
//! It works on whatever the session's own wire is. The session never waits for it: one that does not read is let go.

use axum::extract::ws::{WebSocket, WebSocketUpgrade, close_code};
use axum::http::StatusCode;
use axum::response::Response;
use duologue_proto::live::ServerEvent;

use super::codec::LiveCodec;
use super::webrtc::refuse;
use super::websocket::{Received, bare, close, manager_error, pass_on, send, text_of};
use crate::driver::SessionEvent;
use crate::http::{AppState, error_response};
use crate::manager::{ManagerError, SessionId, Sideband};

/// Answers `WS /v1/live/sessions/{id}/attach`. `key` is whom the second program counts for.
pub async fn attach(state: AppState, upgrade: WebSocketUpgrade, id: &str, key: &str) -> Response {
    match state.manager().attach(&SessionId::from_client(id), key).await {
        Ok(sideband) => upgrade.on_upgrade(move |socket| serve(socket, state, sideband)),
        Err(error @ ManagerError::Unknown { .. }) => error_response(StatusCode::NOT_FOUND, &manager_error(&error)),
        Err(error) => refuse(&manager_error(&error)),
    }
}

async fn serve(mut socket: WebSocket, state: AppState, sideband: Sideband) {
    let (code, reason) = match converse(&mut socket, &state, sideband).await {
        Ended::Gone => return,
        Ended::Over => (close_code::NORMAL, ""),
        Ended::Slow => (close_code::POLICY, "too slow; events were lost"),
        Ended::Refused => (close_code::POLICY, "refused; see the error event"),
    };
    close(socket, code, reason).await;
}

/// How a connection ended.
enum Ended {
    /// The second program went away.
    Gone,
    /// The session is over.
    Over,
    /// It did not read.
    Slow,
    /// It was told what it did wrong, too often.
    Refused,
}

async fn converse(socket: &mut WebSocket, state: &AppState, mut sideband: Sideband) -> Ended {
    let (manager, mut rate) = (state.manager(), state.rate());
    let mut codec = LiveCodec::sideband(&sideband, manager.backend().info(), manager.limits(), state.message_limits());
    let mut messages = vec![bare(codec.started())];
    let mut over = false;
    loop {
        for message in messages {
            if send(socket, &message).await.is_err() {
                return Ended::Gone;
            }
        }
        if rate.exhausted() {
            return Ended::Refused;
        }
        messages = tokio::select! {
            event = sideband.events.recv() => match event {
                None if over => return Ended::Over,
                None => return Ended::Slow,
                // It knows of the session that it is ready.
                Some(event) if matches!(event.event, SessionEvent::Ready(_)) => Vec::new(),
                Some(event) => {
                    over = matches!(event.event, SessionEvent::Closed(_));
                    codec.send(&event)
                }
            },
            received = text_of(socket, &mut rate) => match received {
                Received::Gone => return Ended::Gone,
                Received::Refused(error) => vec![bare(ServerEvent::refusal(&error))],
                Received::Text(text) => match codec.receive(&text) {
                    Ok(reactions) => pass_on(&sideband.commands, reactions).await,
                    Err(error) => vec![bare(ServerEvent::refusal(&error))],
                },
            },
        };
    }
}
