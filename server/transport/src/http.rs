//! The HTTP side: one router for all wires, and what every request passes: keys, origins, rates.

pub mod auth;
mod door;
pub mod metrics;
pub mod origin;
pub mod rate;
pub mod tls;

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, DefaultBodyLimit, FromRequest, Path, Request, State, WebSocketUpgrade};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use duologue_proto::live::ErrorBody;
use duologue_proto::live::rest::{
    ClientSecretResponse, ConfigResponse, ErrorResponse, IceServer, RecordingConfig, Transport, parse_client_secret,
};
use duologue_proto::wire::{ErrorCode, Limits as MessageLimits, WireError};

use crate::demo::{self, StaticPages};
use crate::live;
use crate::live::codec::bundle_info;
use crate::manager::{SessionId, SessionManager};
use crate::record::{self, Shelf};
use crate::rtc::{RtcConfig, RtcHandle};
use auth::{AuthError, Identity, KeyRing};
use origin::Origins;
use rate::{PeerLimits, Rate, RateLimits};
use tower::ServiceExt;
use tower_http::services::ServeFile;

/// A file of the web client.
#[derive(Debug, Clone)]
pub struct Asset {
    /// Its content.
    pub bytes: std::borrow::Cow<'static, [u8]>,
    /// Its type.
    pub content_type: &'static str,
}

/// Finds a file of the web client by its path (`index.html`, `assets/app.js`).
pub type Assets = fn(&str) -> Option<Asset>;

/// What the HTTP side is made of.
pub struct Settings {
    /// Who may come in.
    pub keys: KeyRing,
    /// From which pages.
    pub origins: Origins,
    /// How fast.
    pub rates: RateLimits,
    /// How much at once.
    pub messages: MessageLimits,
    /// The web client.
    pub assets: Assets,
    /// A checkout of the demo's pages, which then take the place of the web client at `/`.
    pub demo_pages: Option<StaticPages>,
    /// WebRTC; `None`: WebSockets only.
    pub webrtc: Option<RtcConfig>,
    /// Where recordings are kept; `None`: there are none.
    pub recordings: Option<Shelf>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys stay out of logs.
        out.debug_struct("Settings").field("rates", &self.rates).field("webrtc", &self.webrtc).finish_non_exhaustive()
    }
}

/// What every handler sees. Cheap to clone.
#[derive(Clone)]
pub struct AppState {
    inner: Arc<Inner>,
}

struct Inner {
    manager: SessionManager,
    settings: Settings,
    peers: PeerLimits,
    /// Peer connections by session, for candidates that trickle in.
    connections: Mutex<HashMap<SessionId, RtcHandle>>,
}

impl fmt::Debug for AppState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("AppState").field("manager", &self.inner.manager).finish_non_exhaustive()
    }
}

impl AppState {
    /// State of a server that is about to listen.
    pub fn new(manager: SessionManager, settings: Settings) -> Self {
        let peers = PeerLimits::new(&settings.rates);
        Self { inner: Arc::new(Inner { manager, settings, peers, connections: Mutex::default() }) }
    }

    /// The recordings, when they are on.
    pub fn shelf(&self) -> Option<&Shelf> {
        self.inner.settings.recordings.as_ref()
    }

    /// Settings of WebRTC, when it is on.
    pub fn webrtc(&self) -> Option<&RtcConfig> {
        self.inner.settings.webrtc.as_ref()
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<SessionId, RtcHandle>> {
        self.inner.connections.lock().expect("no code panics with the connections locked. This is a bug.")
    }

    /// A session has a peer connection.
    pub fn connected(&self, id: &SessionId, handle: RtcHandle) {
        self.connections().insert(id.clone(), handle);
    }

    /// The peer connection of a session.
    pub fn connection(&self, id: &SessionId) -> Option<RtcHandle> {
        self.connections().get(id).cloned()
    }

    /// This connection is over; the session may have another one by now.
    pub fn disconnected(&self, id: &SessionId, handle: &RtcHandle) {
        let mut connections = self.connections();
        if connections.get(id).is_some_and(|known| known.is(handle)) {
            connections.remove(id);
        }
    }

    /// The sessions.
    pub fn manager(&self) -> &SessionManager {
        &self.inner.manager
    }

    /// Limits of one message.
    pub fn message_limits(&self) -> MessageLimits {
        self.inner.settings.messages.clone()
    }

    /// A fresh allowance for a connection.
    pub fn rate(&self) -> Rate {
        Rate::new(&self.inner.settings.rates)
    }

    /// Who asks, by key; also checks the page that asks.
    ///
    /// # Errors
    /// A response to send as it is.
    pub fn admit(&self, headers: &HeaderMap, uri: &Uri, peer: SocketAddr) -> Result<Identity, Box<Response>> {
        if !self.inner.settings.origins.allows(headers) {
            let error =
                WireError::new(ErrorCode::Unauthorized, "this page may not use this server; see allowed_origins");
            return Err(Box::new(error_response(StatusCode::FORBIDDEN, &error)));
        }
        self.inner.settings.keys.authorize(headers, uri, peer).map_err(|error| Box::new(unauthorized(&error)))
    }
}

/// All routes of the server.
pub fn router(state: AppState) -> Router {
    let api = Router::new()
        .route("/v1/live/sessions", get(live_socket).post(live_create))
        .route("/v1/live/sessions/{id}/ice", post(live_trickle))
        .route("/v1/live/sessions/{id}/hangup", post(live_hang_up))
        .route("/v1/live/sessions/{id}/attach", get(live_attach))
        .route("/v1/live/sessions/{id}/content", get(recorded_audio))
        .route("/v1/duologue/recordings/{id}/audio", get(recorded_audio))
        .route("/v1/duologue/recordings/{id}/timeline", get(recorded_timeline))
        .route("/v1/live/client_secrets", post(client_secret))
        .route("/v1/duologue/config", get(config))
        .route("/metrics", get(metrics_text))
        .layer(state.inner.settings.origins.cors());
    let home = match &state.inner.settings.demo_pages {
        Some(pages) => pages.router(),
        None => Router::new().route("/", get(asset)),
    };
    Router::new()
        .merge(api)
        .merge(demo::router())
        .merge(home)
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/r/{id}", get(asset))
        .route("/{*path}", any(asset))
        .layer(DefaultBodyLimit::max(state.message_limits().max_message_bytes))
        .layer(middleware::from_fn_with_state(state.clone(), throttle))
        .layer(middleware::from_fn(door::turn_away))
        .layer(middleware::from_fn(secure_headers))
        .with_state(state)
}

/// The body of a request, refused in the wire's shape when it is too long, takes too long or is no text.
struct Text(String);

/// How long a body may take.
const BODY_WITHIN: Duration = Duration::from_secs(20);

impl<S: Send + Sync> FromRequest<S> for Text {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let body = tokio::time::timeout(BODY_WITHIN, String::from_request(request, state)).await;
        let Ok(body) = body else {
            let message = format!("the body did not come within {} s", BODY_WITHIN.as_secs());
            let error = WireError::new(ErrorCode::InvalidJson, message);
            return Err(error_response(StatusCode::REQUEST_TIMEOUT, &error));
        };
        body.map(Self).map_err(|rejection| {
            let code = match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => ErrorCode::TooLarge,
                _ => ErrorCode::InvalidJson,
            };
            error_response(rejection.status(), &WireError::new(code, rejection.body_text()))
        })
    }
}

/// Turns away peers that connect too often.
async fn throttle(
    State(state): State<AppState>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request<Body>,
    next: Next,
) -> Response {
    match state.inner.peers.take(peer.ip()) {
        Ok(()) => next.run(request).await,
        Err(wait) => {
            let error = WireError::new(ErrorCode::RateLimited, "too many requests from this address; wait a little");
            let mut response = error_response(StatusCode::TOO_MANY_REQUESTS, &error);
            let seconds = HeaderValue::from(wait.as_secs().max(1));
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
            response
        }
    }
}

/// Nothing of this server belongs into another page's frame, and its pages load nothing from elsewhere.
async fn secure_headers(request: Request<Body>, next: Next) -> Response {
    const POLICY: &str = "default-src 'self'; connect-src 'self' ws: wss:; media-src 'self' blob: mediastream:; \
                          img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; worker-src 'self' blob:; \
                          frame-ancestors 'none'";
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    // The demo's pages bring a policy of their own.
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

async fn live_socket(
    State(state): State<AppState>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    uri: Uri,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    let identity = match state.admit(&headers, &uri, peer) {
        Ok(identity) => identity,
        Err(response) => return *response,
    };
    let upgrade = upgrade_for(&state, &identity, upgrade);
    upgrade.on_upgrade(move |socket| live::websocket::serve(socket, state, identity.name, peer))
}

/// The upgrade for a client that was let in, with its subprotocol and the limit of its messages.
pub(crate) fn upgrade_for(state: &AppState, identity: &Identity, upgrade: WebSocketUpgrade) -> WebSocketUpgrade {
    let upgrade = match &identity.subprotocol {
        Some(name) => upgrade.protocols([name.clone()]),
        None => upgrade,
    };
    // A message that is a little too long is answered; one far beyond is not even read.
    upgrade.max_message_size(state.message_limits().max_message_bytes.saturating_mul(2))
}

async fn live_attach(
    State(state): State<AppState>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    match state.admit(&headers, &uri, peer) {
        Ok(identity) => {
            let upgrade = upgrade_for(&state, &identity, upgrade);
            live::sideband::attach(state, upgrade, &id, &identity.name).await
        }
        Err(response) => *response,
    }
}

async fn live_create(
    State(state): State<AppState>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    uri: Uri,
    headers: HeaderMap,
    Text(body): Text,
) -> Response {
    match state.admit(&headers, &uri, peer) {
        Ok(identity) => live::webrtc::create(&state, &identity.name, &body).await,
        Err(response) => *response,
    }
}

async fn live_trickle(
    State(state): State<AppState>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    Text(body): Text,
) -> Response {
    match state.admit(&headers, &uri, peer) {
        Ok(_) => live::webrtc::trickle(&state, &id, &body).await,
        Err(response) => *response,
    }
}

async fn live_hang_up(
    State(state): State<AppState>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    match state.admit(&headers, &uri, peer) {
        Ok(_) => live::webrtc::hang_up(&state, &id).await,
        Err(response) => *response,
    }
}

async fn recorded_audio(
    state: State<AppState>,
    peer: ConnectInfo<SocketAddr>,
    id: Path<String>,
    request: Request,
) -> Response {
    recorded(state, peer, id, request, record::AUDIO).await
}

async fn recorded_timeline(
    state: State<AppState>,
    peer: ConnectInfo<SocketAddr>,
    id: Path<String>,
    request: Request,
) -> Response {
    recorded(state, peer, id, request, record::TIMELINE).await
}

/// A file of a recording, in parts if the client asks for them.
async fn recorded(
    State(state): State<AppState>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path(id): Path<String>,
    request: Request,
    file: &str,
) -> Response {
    if let Err(response) = state.admit(request.headers(), request.uri(), peer) {
        return *response;
    }
    let Some(path) = state.shelf().and_then(|shelf| shelf.file(&id, file)) else {
        let error = WireError::invalid("id", format!("no recording is named {id}"));
        return error_response(StatusCode::NOT_FOUND, &error);
    };
    match ServeFile::new(path).oneshot(request).await {
        Ok(response) => response.into_response(),
        Err(never) => match never {},
    }
}

async fn client_secret(
    State(state): State<AppState>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    uri: Uri,
    headers: HeaderMap,
    Text(body): Text,
) -> Response {
    let identity = match state.admit(&headers, &uri, peer) {
        Ok(identity) => identity,
        Err(response) => return *response,
    };
    let body = if body.trim().is_empty() { "{}" } else { &body };
    let request = match parse_client_secret(body, &state.message_limits()) {
        Ok(request) => request,
        Err(error) => return error_response(StatusCode::BAD_REQUEST, &error),
    };
    match state.inner.settings.keys.make_secret(&identity, request.seconds()) {
        Ok(secret) => Json(ClientSecretResponse { value: secret.value, expires_at: secret.expires_at }).into_response(),
        Err(error) => no_secret(&error),
    }
}

/// What the web client needs before it connects. Whoever has no key sees no credentials of a TURN server.
async fn config(
    State(state): State<AppState>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    uri: Uri,
    headers: HeaderMap,
) -> Json<ConfigResponse> {
    let trusted = state.admit(&headers, &uri, peer).is_ok();
    let info = state.manager().backend().info();
    Json(ConfigResponse {
        ice_servers: state.webrtc().map(|config| ice_servers(config, trusted)).unwrap_or_default(),
        transports: match state.webrtc() {
            Some(_) => vec![Transport::Webrtc, Transport::Websocket],
            None => vec![Transport::Websocket],
        },
        bundle: bundle_info(info),
        voices: info.voices.clone(),
        suggestions: info.suggestions.clone(),
        max_upload_bytes: state.message_limits().max_voice_bytes,
        recording: RecordingConfig {
            available: state.shelf().is_some(),
            retention_days: state.shelf().map_or(0.0, |shelf| shelf.limits().age.as_secs_f64() / 86_400.0),
        },
        auth_required: state.inner.settings.keys.required(),
        unit_ms: info.duplex.chunk_ms,
    })
}

fn ice_servers(config: &RtcConfig, trusted: bool) -> Vec<IceServer> {
    let to_wire = |server: &crate::rtc::IceServer| IceServer {
        urls: server.urls.clone(),
        username: server.username.clone(),
        credential: server.credential.clone(),
    };
    config.ice_servers.iter().filter(|server| trusted || server.credential.is_none()).map(to_wire).collect()
}

/// Whether a load balancer may send more sessions here.
async fn ready(State(state): State<AppState>) -> Response {
    let draining = state.manager().load().draining;
    match draining {
        true => (StatusCode::SERVICE_UNAVAILABLE, "draining").into_response(),
        false => "ready".into_response(),
    }
}

async fn metrics_text(
    State(state): State<AppState>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    if !auth::is_local(&headers, peer.ip())
        && let Err(response) = state.admit(&headers, &uri, peer)
    {
        return *response;
    }
    metrics::render().into_response()
}

/// A file of the web client.
async fn asset(State(state): State<AppState>, uri: Uri) -> Response {
    let path = match uri.path().trim_start_matches('/') {
        "" => "index.html",
        path if path.starts_with("r/") => "replay.html",
        path => path,
    };
    match (state.inner.settings.assets)(path) {
        Some(Asset { bytes, content_type }) => {
            let headers = [(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "no-cache")];
            (headers, bytes.into_owned()).into_response()
        }
        None => {
            let error = WireError::new(ErrorCode::InvalidValue, format!("nothing is at /{path}"));
            error_response(StatusCode::NOT_FOUND, &error)
        }
    }
}

/// An error as an HTTP answer in the wire's shape.
pub fn error_response(status: StatusCode, error: &WireError) -> Response {
    (status, Json(ErrorResponse { error: ErrorBody::from(error) })).into_response()
}

fn unauthorized(error: &AuthError) -> Response {
    let mut response =
        error_response(StatusCode::UNAUTHORIZED, &WireError::new(ErrorCode::Unauthorized, error.to_string()));
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// Why there is no secret: not every reason is about who asks.
fn no_secret(error: &AuthError) -> Response {
    let (status, code) = match error {
        AuthError::TooManySecrets => (StatusCode::TOO_MANY_REQUESTS, ErrorCode::RateLimited),
        AuthError::SecretLife(_) => (StatusCode::BAD_REQUEST, ErrorCode::InvalidValue),
        _ => return unauthorized(error),
    };
    let mut response = error_response(status, &WireError::new(code, error.to_string()));
    if status == StatusCode::TOO_MANY_REQUESTS {
        // By then some of the shortest-lived ones are over.
        let seconds = HeaderValue::from(*auth::SECRET_SECONDS.start());
        response.headers_mut().insert(header::RETRY_AFTER, seconds);
    }
    response
}
