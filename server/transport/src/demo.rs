//! The MiniCPM-o-Demo protocol (`proto/DEMO.md`): our server in the place of the demo's gateway, and of its worker.
//!
//! [`codec`] is the whole of the wire as a pure state machine, [`websocket`] carries its text through the queue and the
//! session, [`rest`] answers what the demo's pages and scripts ask beside it, and [`pages`] serves a checkout of the demo's
//! front end, so that it can be tried against this server.
//!
//! Lock-step is the nature of this wire: the client's messages are taken one after the other, and a chunk of audio is
//! answered by exactly one `result`, with all speech that came of it, before the next message is looked at.

pub mod codec;
pub mod pages;
mod registry;
mod request;
pub mod rest;
pub mod websocket;

use std::sync::Arc;

use axum::Router;
use axum::extract::Extension;

use crate::http::AppState;

pub use codec::{DemoCodec, Moment, Reaction};
pub use pages::{PagesError, StaticPages};
pub use registry::Registry;
pub use request::session_request;

/// The routes of the wire, without pages: WebSockets of both roles and the REST beside them.
pub fn router() -> Router<AppState> {
    websocket::routes().merge(rest::routes()).layer(Extension(Arc::new(Registry::default())))
}
