//! One client on a WebSocket, in either role: the queue, the prompt, then messages both ways until one side ends it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::ws::{CloseFrame, Message, WebSocket};
use axum::extract::{ConnectInfo, Extension, Path, Query, State, WebSocketUpgrade};
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use axum::routing::get;
use duologue_proto::demo::{DuplexKind, Empty, Prepare, QueueUpdate, Queued, ServerEvent, sanitize_session_id};
use duologue_proto::wire::{ErrorCode, WireError};
use serde::Deserialize;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::codec::{DemoCodec, Moment, Reaction, close};
use super::registry::{Registry, TalkGuard};
use super::request::session_request;
use crate::driver::{CloseCause, Sequenced, SessionCommand};
use crate::http::rate::Rate;
use crate::http::{AppState, upgrade_for};
use crate::manager::{QUEUE_UPDATE_INTERVAL, Refusal, SessionLink, Visitor, Waiting, Wire as SessionWire};

/// The demo's clients pace themselves.
const WIRE: SessionWire = SessionWire { name: "demo", pace: None };
/// How long a client that has a place may take for its `prepare`.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take to read one message before it counts as gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client of the worker role waits for a place (worker.py:1426).
const WORKER_PATIENCE: Duration = Duration::from_secs(5);
/// Messages that may wait while one is being answered. When full, the client is not read any further.
const INBOX_MESSAGES: usize = 64;

/// The two addresses.
pub(super) fn routes() -> Router<AppState> {
    Router::new().route("/ws/duplex/{id}", get(gateway)).route("/ws/duplex", get(worker))
}

/// Whom the demo thinks it talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Tells its clients of the queue.
    Gateway,
    /// Speaks after it was spoken to.
    Worker,
}

#[derive(Debug, Deserialize)]
struct WorkerQuery {
    #[serde(default)]
    session_id: String,
}

async fn gateway(
    State(state): State<AppState>,
    Extension(registry): Extension<Arc<Registry>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    // The page's kind is read from the id as it came (gateway.py:585).
    let visit = Visit { role: Role::Gateway, kind: DuplexKind::of(&id), session_id: sanitize_session_id(&id) };
    accept(state, registry, peer, &uri, &headers, upgrade, visit)
}

async fn worker(
    State(state): State<AppState>,
    Extension(registry): Extension<Arc<Registry>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Query(query): Query<WorkerQuery>,
    uri: Uri,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    let session_id = sanitize_session_id(&query.session_id);
    let kind = if session_id.is_empty() { DuplexKind::AudioDuplex } else { DuplexKind::of(&session_id) };
    accept(state, registry, peer, &uri, &headers, upgrade, Visit { role: Role::Worker, kind, session_id })
}

/// Who comes.
#[derive(Debug)]
struct Visit {
    role: Role,
    kind: DuplexKind,
    session_id: String,
}

fn accept(
    state: AppState,
    registry: Arc<Registry>,
    peer: SocketAddr,
    uri: &Uri,
    headers: &HeaderMap,
    upgrade: WebSocketUpgrade,
    visit: Visit,
) -> Response {
    let identity = match state.admit(headers, uri, peer) {
        Ok(identity) => identity,
        Err(response) => return *response,
    };
    upgrade_for(&state, &identity, upgrade).on_upgrade(move |socket| async move {
        let rate = state.rate();
        let wire = Wire { socket, rate, inbox: Inbox::default(), began: Instant::now() };
        let key = identity.name;
        Connection { wire, state, registry, key, visit, link: None, talk: None }.serve(peer).await;
    })
}

/// Why a connection ends.
#[derive(Debug)]
enum Ended {
    /// The client went away.
    Gone,
    /// The server closes it.
    Close(u16, String),
}

fn closed(code: u16, reason: impl Into<String>) -> Ended {
    Ended::Close(code, reason.into())
}

/// A message that waits for its turn.
#[derive(Debug)]
enum Received {
    Text(String),
    Refused(WireError),
}

/// Messages that came while another one is being answered.
#[derive(Debug, Default)]
struct Inbox {
    messages: VecDeque<(Received, Moment)>,
    bytes: usize,
}

impl Inbox {
    /// Whether another message may be read, when a message has at most `largest` bytes: one that is being answered and one
    /// more always fit.
    fn has_room(&self, largest: usize) -> bool {
        self.messages.len() < INBOX_MESSAGES && self.bytes <= largest
    }

    fn push(&mut self, received: Received, at: Moment) {
        if let Received::Text(text) = &received {
            self.bytes += text.len();
        }
        self.messages.push_back((received, at));
    }

    fn pop(&mut self) -> Option<(Received, Moment)> {
        let (received, at) = self.messages.pop_front()?;
        if let Received::Text(text) = &received {
            self.bytes -= text.len();
        }
        Some((received, at))
    }
}

struct Wire {
    socket: WebSocket,
    rate: Rate,
    inbox: Inbox,
    began: Instant,
}

impl Wire {
    fn now(&self) -> Moment {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Moment { clock: self.began.elapsed(), unix_s: unix.as_secs_f64() }
    }

    /// Reads one message into the inbox. May be dropped while it waits.
    async fn read(&mut self) -> Result<(), Ended> {
        let received = match self.socket.recv().await {
            Some(Ok(Message::Text(text))) => match self.rate.take(text.len()) {
                Ok(()) => Received::Text(text.as_str().to_owned()),
                Err(error) => Received::Refused(error),
            },
            Some(Ok(Message::Binary(_))) => {
                Received::Refused(WireError::new(ErrorCode::InvalidJson, "a message is JSON text, not binary"))
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => return Ok(()),
            Some(Ok(Message::Close(_))) | None => return Err(Ended::Gone),
            Some(Err(error)) => return Err(closed(close::PROTOCOL, short(&error.to_string()))),
        };
        let now = self.now();
        self.inbox.push(received, now);
        if self.rate.exhausted() { Err(closed(close::POLICY, "too many messages")) } else { Ok(()) }
    }

    async fn send(&mut self, event: &ServerEvent) -> Result<(), Ended> {
        let text = serde_json::to_string(event).expect("wire types are JSON. This is a bug.");
        match timeout(SEND_TIMEOUT, self.socket.send(Message::Text(text.into()))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Ended::Gone),
        }
    }
}

/// A close frame's reason has at most 123 bytes (RFC 6455 section 5.5).
fn short(text: &str) -> String {
    let mut end = text.len().min(123);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

struct Connection {
    wire: Wire,
    state: AppState,
    registry: Arc<Registry>,
    /// Whom the session counts for.
    key: String,
    visit: Visit,
    link: Option<SessionLink>,
    talk: Option<TalkGuard>,
}

impl Connection {
    async fn serve(mut self, peer: SocketAddr) {
        let ended = match self.admission().await {
            Ok(visitor) => self.converse(visitor).await,
            Err(ended) => ended,
        };
        tracing::debug!(%peer, session = %self.visit.session_id, ?ended, "demo connection over");
        if let Some(link) = self.link.take() {
            // Nobody can come back to a session of this wire: its place is free at once. One that is over needs no word.
            drop(link.commands.send(SessionCommand::Close(CloseCause::ConnectionLost)).await);
        }
        if let Ended::Close(code, reason) = ended {
            let frame = CloseFrame { code, reason: reason.into() };
            // A client that is gone need not be told.
            drop(timeout(SEND_TIMEOUT, self.wire.socket.send(Message::Close(Some(frame)))).await);
        }
    }

    async fn tell(&mut self, error: &WireError) -> Result<(), Ended> {
        self.wire.send(&ServerEvent::refusal(error)).await
    }

    /// A place, after as much waiting as the role allows.
    async fn admission(&mut self) -> Result<Visitor, Ended> {
        if !self.registry.open(self.visit.kind) {
            return Err(closed(close::POLICY, format!("{} is currently disabled", app_id(self.visit.kind))));
        }
        let visitor = match self.state.manager().enter(&self.key) {
            Ok(visitor) => visitor,
            Err(refusal) => return Err(self.refuse(&refusal).await),
        };
        match self.visit.role {
            Role::Worker => wait_for_place(visitor).await,
            Role::Gateway => {
                let visitor = self.queue(visitor).await?;
                self.wire.send(&ServerEvent::QueueDone(Empty {})).await?;
                Ok(visitor)
            }
        }
    }

    /// Nobody can come in; the worker role says so by its close code alone.
    async fn refuse(&mut self, refusal: &Refusal) -> Ended {
        let (message, reason) = match refusal {
            Refusal::QueueFull { waiting } => (format!("Queue full ({waiting} requests)"), "Queue full"),
            Refusal::Draining => (refusal.to_string(), "Service not ready"),
            Refusal::KeyLimit { .. } => (refusal.to_string(), "Too many sessions"),
        };
        if self.visit.role == Role::Gateway
            && let Err(ended) = self.tell(&WireError::new(ErrorCode::QueueFull, message)).await
        {
            return ended;
        }
        closed(close::TRY_AGAIN, reason)
    }

    async fn queue(&mut self, mut visitor: Visitor) -> Result<Visitor, Ended> {
        let mut place = match visitor.place() {
            Ok(Some(place)) => place,
            Ok(None) => return Ok(visitor),
            Err(refusal) => return Err(self.refuse(&refusal).await),
        };
        let ticket = self.registry.wait(self.visit.kind, &self.visit.session_id, place.clone());
        let queued = queued(&place, ticket.id());
        self.wire.send(&queued).await?;
        let mut told = Instant::now();
        let largest = self.state.message_limits().max_message_bytes;
        loop {
            let next = tokio::select! {
                next = visitor.wait() => next,
                () = ticket.cancelled() => return Err(closed(close::NORMAL, "Taken out of the queue")),
                // What the client says meanwhile, its `prepare` above all, is kept for later.
                read = self.wire.read(), if self.wire.inbox.has_room(largest) => {
                    read?;
                    visitor.place()
                }
            };
            let next = match next {
                Ok(Some(next)) => next,
                Ok(None) => return Ok(visitor),
                Err(refusal) => return Err(self.refuse(&refusal).await),
            };
            if next.position != place.position || told.elapsed() >= QUEUE_UPDATE_INTERVAL {
                ticket.moved(&next);
                self.wire.send(&queue_update(&next)).await?;
                (place, told) = (next, Instant::now());
            }
        }
    }

    /// Messages both ways until one side ends it.
    async fn converse(&mut self, visitor: Visitor) -> Ended {
        let manager = self.state.manager().clone();
        let mut codec = DemoCodec::new(manager.backend().info(), self.state.message_limits());
        let mut visitor = Some(visitor);
        let prepare_by = Instant::now() + PREPARE_TIMEOUT;
        let largest = self.state.message_limits().max_message_bytes;
        loop {
            while !codec.waiting()
                && let Some((received, arrived)) = self.wire.inbox.pop()
            {
                if let Err(ended) = self.message(&mut codec, &mut visitor, received, arrived).await {
                    return ended;
                }
            }
            let open = self.link.is_some();
            tokio::select! {
                event = next_event(&mut self.link) => {
                    let Some(Sequenced { event, .. }) = event else {
                        return closed(close::POLICY, "the client does not read");
                    };
                    let reactions = codec.event(&event, self.wire.now());
                    if let Err(ended) = self.react(&mut codec, &mut visitor, reactions).await {
                        return ended;
                    }
                }
                read = self.wire.read(), if self.wire.inbox.has_room(largest) => {
                    if let Err(ended) = read {
                        return ended;
                    }
                }
                () = sleep_until(prepare_by), if !open => {
                    let error = WireError::new(ErrorCode::MissingField, "no `prepare` within 30 s");
                    return match self.tell(&error).await {
                        Ok(()) => closed(close::POLICY, "no prepare"),
                        Err(ended) => ended,
                    };
                }
            }
            if let Some(talk) = &self.talk {
                talk.state(codec.paused(), codec.kv_tokens());
            }
        }
    }

    async fn message(
        &mut self,
        codec: &mut DemoCodec,
        visitor: &mut Option<Visitor>,
        received: Received,
        arrived: Moment,
    ) -> Result<(), Ended> {
        let reactions = match received {
            Received::Refused(error) => Err(error),
            Received::Text(text) => codec.receive(&text, arrived),
        };
        match reactions {
            Ok(reactions) => self.react(codec, visitor, reactions).await,
            Err(error) => self.tell(&error).await,
        }
    }

    async fn react(
        &mut self,
        codec: &mut DemoCodec,
        visitor: &mut Option<Visitor>,
        reactions: Vec<Reaction>,
    ) -> Result<(), Ended> {
        for reaction in reactions {
            match reaction {
                Reaction::Open(prepare) => self.open(codec, visitor, &prepare).await?,
                Reaction::Command(command) => {
                    if let Some(link) = &self.link {
                        // A session that has ended says so among its events.
                        drop(link.commands.send(command).await);
                    }
                }
                Reaction::Reply(event) => {
                    if let (ServerEvent::Result(result), Some(talk)) = (&event, &self.talk) {
                        talk.answered(result.wall_clock_ms);
                    }
                    self.wire.send(&event).await?;
                }
                Reaction::Close { code, reason } => return Err(closed(code, reason)),
            }
        }
        Ok(())
    }

    async fn open(
        &mut self,
        codec: &mut DemoCodec,
        visitor: &mut Option<Visitor>,
        prepare: &Prepare,
    ) -> Result<(), Ended> {
        let manager = self.state.manager();
        let request = match session_request(prepare, manager.backend().as_ref()) {
            Ok(request) => request,
            Err(error) => {
                // The place is kept: the client may ask for less.
                codec.not_opened();
                return self.tell(&error).await;
            }
        };
        let visitor = visitor.take().expect("the codec opens a session once. This is a bug.");
        match visitor.open(&request, WIRE, None) {
            Ok(link) => {
                self.link = Some(link);
                self.talk = Some(self.registry.talk(self.visit.kind, &self.visit.session_id));
                Ok(())
            }
            Err(error) => {
                self.tell(&WireError::new(ErrorCode::InvalidValue, error.to_string())).await?;
                Err(closed(close::POLICY, "the session was refused"))
            }
        }
    }
}

/// The session's next event; never, while there is no session.
async fn next_event(link: &mut Option<SessionLink>) -> Option<Sequenced> {
    match link {
        Some(link) => link.events.recv().await,
        None => std::future::pending().await,
    }
}

/// The worker role: a place soon or not at all.
async fn wait_for_place(mut visitor: Visitor) -> Result<Visitor, Ended> {
    let patience = Instant::now() + WORKER_PATIENCE;
    loop {
        match timeout_at(patience, visitor.wait()).await {
            Ok(Ok(None)) => return Ok(visitor),
            Ok(Ok(Some(_))) => {}
            Ok(Err(_)) => return Err(closed(close::TRY_AGAIN, "Worker not ready")),
            Err(_) => return Err(closed(close::TRY_AGAIN, "Worker busy after waiting 5s")),
        }
    }
}

fn queued(place: &Waiting, ticket_id: &str) -> ServerEvent {
    ServerEvent::Queued(Queued {
        position: place.position,
        estimated_wait_s: seconds(place.estimate),
        ticket_id: ticket_id.to_owned(),
        queue_length: place.queue_length,
    })
}

fn queue_update(place: &Waiting) -> ServerEvent {
    ServerEvent::QueueUpdate(QueueUpdate {
        position: place.position,
        estimated_wait_s: seconds(place.estimate),
        queue_length: place.queue_length,
    })
}

/// Seconds to 0.1.
pub(super) fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}

/// The demo's name of a page (gateway_modules/app_registry.py).
pub(super) fn app_id(kind: DuplexKind) -> &'static str {
    match kind {
        DuplexKind::AudioDuplex => "audio_duplex",
        DuplexKind::OmniDuplex => "omni",
    }
}
