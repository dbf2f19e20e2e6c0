//! What the demo's audio page, its gateway and its scripts ask over HTTP.
//!
//! A slot of the server shows as one of the demo's workers. Answers come from the session manager and the registry; what
//! this server has no use for is 404 or 501 in the demo's own shape, `{"detail": …}`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::{ConnectInfo, Extension, FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use duologue_audio::Pcm;
use duologue_proto::demo::DuplexKind;
use duologue_proto::demo::rest::{
    AdminApp, AdminApps, App, AppSwitch, AppSwitched, Apps, CacheEntry, CacheList, DefaultRefAudio, Done,
    ErrorResponse, EtaConfig, EtaStatus, FrontendDefaults, HealthOfBoth, Preset, PresetAudio, PresetVoice, Presets,
    QueueItem, QueueStatus, RefAudioList, RunningTask, ServiceStatus, Ticket, TicketStatus, WorkerHealth, WorkerInfo,
    WorkerStatus, Workers, parse_app_switch,
};
use duologue_proto::payload::FloatAudio;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::registry::{PAGES, Registry, Talk};
use super::websocket::{app_id, seconds};
use crate::backend::BackendInfo;
use crate::http::AppState;
use crate::http::auth::is_local;
use crate::manager::SessionManager;

/// Wait before the page plays a turn (config.py, `playback_delay_ms`).
const PLAYBACK_DELAY_MS: u32 = 200;
/// Prepared prompts are named after their voice with this before it.
const PRESET_PREFIX: &str = "voice_";

type Reg = Extension<Arc<Registry>>;

pub(super) fn routes() -> Router<AppState> {
    Router::new()
        .route("/health", get(health))
        .route("/status", get(status))
        .route("/workers", get(workers))
        .route("/cache", get(cache))
        .route("/api/apps", get(apps))
        .route("/api/admin/apps", get(admin_apps))
        .route("/api/admin/apps/{id}", axum::routing::put(switch_app))
        .route("/api/frontend_defaults", get(frontend_defaults))
        .route("/api/presets", get(presets))
        .route("/api/presets/{mode}/{id}/audio", get(preset_audio))
        .route("/api/default_ref_audio", get(default_ref_audio))
        .route("/api/assets/ref_audio", get(ref_audio).post(no_ref_audio))
        .route("/api/assets/ref_audio/{id}", axum::routing::delete(unknown_ref_audio))
        .route("/api/queue", get(queue))
        .route("/api/queue/{ticket}", get(ticket).delete(cancel))
        .route("/api/config/eta", get(eta).put(no_eta))
        .route("/api/sessions/{id}", any(no_recording))
        .route("/api/sessions/{id}/{*rest}", any(no_recording))
        .route("/api/chat", post(no_chat))
        .route("/ws/chat", any(no_chat))
        .route("/ws/half_duplex/{id}", any(no_half_duplex))
        .route("/api/{*rest}", any(not_found))
}

/// Somebody who may use the server.
struct Guest {
    /// It is on the server's own machine.
    local: bool,
}

impl FromRequestParts<AppState> for Guest {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Response> {
        let peer = ConnectInfo::<SocketAddr>::from_request_parts(parts, state).await;
        let ConnectInfo(peer) = peer.map_err(IntoResponse::into_response)?;
        state.admit(&parts.headers, &parts.uri, peer).map_err(|refusal| *refusal)?;
        Ok(Self { local: is_local(&parts.headers, peer.ip()) })
    }
}

fn failure(status: StatusCode, detail: impl Into<String>) -> Response {
    (status, Json(ErrorResponse { detail: detail.into() })).into_response()
}

/// ISO 8601 with offset.
fn iso(time: SystemTime) -> String {
    OffsetDateTime::from(time).format(&Rfc3339).expect("our years have four digits. This is a bug.")
}

/// The slots, as the demo's workers.
struct Slots {
    /// On this wire, by place.
    talks: std::collections::BTreeMap<usize, Talk>,
    total: usize,
    /// Taken, on all wires.
    busy: usize,
}

impl Slots {
    fn now(manager: &SessionManager, registry: &Registry) -> Self {
        let load = manager.load();
        Self { talks: registry.talks(), total: load.slots, busy: load.busy }
    }

    /// The slots in order: on this wire's places its sessions, on the lowest free ones those of other wires.
    fn each(&self) -> Vec<(usize, WorkerStatus, Option<&Talk>)> {
        let mut others = self.busy.saturating_sub(self.talks.len());
        let slot = |place| {
            let talk = self.talks.get(&place);
            let status = match talk {
                Some(talk) if talk.paused => WorkerStatus::DuplexPaused,
                Some(_) => WorkerStatus::DuplexActive,
                None if others > 0 => {
                    others -= 1;
                    WorkerStatus::DuplexActive
                }
                None => WorkerStatus::Idle,
            };
            (place, status, talk)
        };
        (0..self.total).map(slot).collect()
    }
}

fn name_of(place: usize) -> String {
    format!("slot-{place}")
}

/// Names of queued and running work (gateway_modules/models.py, `QueueTicket`).
fn request_type(kind: DuplexKind) -> String {
    match kind {
        DuplexKind::AudioDuplex => "audio_duplex".to_owned(),
        DuplexKind::OmniDuplex => "omni_duplex".to_owned(),
    }
}

/// Both roles at once: the gateway's two fields and the worker's others. Open to all, as a load balancer asks here.
async fn health(State(state): State<AppState>, Extension(registry): Reg) -> Json<HealthOfBoth> {
    let manager = state.manager();
    let slots = Slots::now(manager, &registry);
    let load = manager.load();
    let free = load.busy < load.open && !load.draining;
    let talk = slots.talks.values().next();
    let totals: Vec<_> = (0..slots.total).map(|place| registry.totals(place)).collect();
    let chunks: u64 = totals.iter().map(|totals| totals.chunks).sum();
    let time: f64 = totals.iter().map(|totals| totals.time_ms).sum();
    Json(HealthOfBoth {
        timestamp: iso(SystemTime::now()),
        worker: WorkerHealth {
            status: "healthy".to_owned(),
            worker_status: if free { WorkerStatus::Idle } else { WorkerStatus::DuplexActive },
            gpu_id: 0,
            model_loaded: true,
            current_session_id: talk.map(|talk| talk.session_id.clone()),
            total_requests: chunks,
            avg_inference_time_ms: mean(time, chunks),
            kv_cache_length: talk.map_or(0, |talk| talk.kv_tokens),
        },
    })
}

fn mean(sum: f64, count: u64) -> f64 {
    if count == 0 { 0.0 } else { sum / count as f64 }
}

fn running(manager: &SessionManager, slots: &Slots) -> Vec<RunningTask> {
    let typical = manager.typical_session();
    let task = |(place, talk): (&usize, &Talk)| RunningTask {
        worker_id: name_of(*place),
        request_type: request_type(talk.kind),
        started_at: iso(talk.since),
        elapsed_s: seconds(talk.lasted),
        estimated_remaining_s: seconds(typical.saturating_sub(talk.lasted)),
    };
    slots.talks.iter().map(task).collect()
}

async fn status(_: Guest, State(state): State<AppState>, Extension(registry): Reg) -> Json<ServiceStatus> {
    let manager = state.manager();
    let slots = Slots::now(manager, &registry);
    let load = manager.load();
    Json(ServiceStatus {
        gateway_healthy: true,
        total_workers: slots.total,
        idle_workers: load.open.saturating_sub(load.busy),
        busy_workers: slots.busy,
        duplex_workers: slots.busy,
        loading_workers: 0,
        error_workers: 0,
        offline_workers: 0,
        queue_length: load.waiting,
        max_queue_size: manager.limits().queue,
        running_tasks: running(manager, &slots),
    })
}

async fn workers(
    _: Guest,
    State(state): State<AppState>,
    Extension(registry): Reg,
    headers: HeaderMap,
) -> Json<Workers> {
    let (host, port) = address(&headers);
    let slots = Slots::now(state.manager(), &registry);
    let now = iso(SystemTime::now());
    let worker = |(place, status, talk): (usize, WorkerStatus, Option<&Talk>)| {
        let totals = registry.totals(place);
        WorkerInfo {
            worker_id: name_of(place),
            host: host.clone(),
            port,
            gpu_id: 0,
            status,
            current_session_id: talk.map(|talk| talk.session_id.clone()),
            total_requests: totals.chunks,
            avg_inference_time_ms: mean(totals.time_ms, totals.chunks),
            last_heartbeat: Some(now.clone()),
            current_request_type: talk.map(|talk| request_type(talk.kind)),
            task_started_at: talk.map(|talk| iso(talk.since)),
        }
    };
    let workers: Vec<_> = slots.each().into_iter().map(worker).collect();
    Json(Workers { total: workers.len(), workers })
}

/// Where the client reached this server, by its own word.
fn address(headers: &HeaderMap) -> (String, u16) {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let authority = host.parse::<axum::http::uri::Authority>().ok();
    let port = authority.as_ref().and_then(axum::http::uri::Authority::port_u16).unwrap_or(80);
    (authority.map_or_else(String::new, |authority| authority.host().to_owned()), port)
}

async fn cache(_: Guest, State(state): State<AppState>, Extension(registry): Reg) -> Json<CacheList> {
    let slots = Slots::now(state.manager(), &registry);
    let entry = |(place, status, _)| CacheEntry { worker_id: name_of(place), status };
    Json(CacheList { workers: slots.each().into_iter().map(entry).collect() })
}

/// The pages that make sense with this model.
fn pages(info: &BackendInfo) -> impl Iterator<Item = DuplexKind> {
    let vision = info.vision;
    PAGES.into_iter().filter(move |kind| vision || *kind == DuplexKind::AudioDuplex)
}

fn admin_app(kind: DuplexKind, registry: &Registry) -> AdminApp {
    let (name, route) = match kind {
        DuplexKind::AudioDuplex => ("Audio Full-Duplex", "/audio_duplex"),
        DuplexKind::OmniDuplex => ("Omni Full-Duplex", "/omni"),
    };
    let app = App { app_id: app_id(kind).to_owned(), name: name.to_owned(), route: route.to_owned() };
    AdminApp { app, enabled: registry.open(kind) }
}

async fn apps(State(state): State<AppState>, Extension(registry): Reg) -> Json<Apps> {
    let all = pages(state.manager().backend().info()).map(|kind| admin_app(kind, &registry));
    Json(Apps { apps: all.filter(|app| app.enabled).map(|app| app.app).collect() })
}

async fn admin_apps(_: Guest, State(state): State<AppState>, Extension(registry): Reg) -> Json<AdminApps> {
    Json(AdminApps { apps: pages(state.manager().backend().info()).map(|kind| admin_app(kind, &registry)).collect() })
}

/// Only from the server's own machine: a key that may talk may not shut others out.
async fn switch_app(
    guest: Guest,
    State(state): State<AppState>,
    Extension(registry): Reg,
    Path(id): Path<String>,
    body: String,
) -> Response {
    if !guest.local {
        return failure(StatusCode::FORBIDDEN, "pages are switched from the server's own machine only");
    }
    let Some(kind) = pages(state.manager().backend().info()).find(|kind| app_id(*kind) == id) else {
        return failure(StatusCode::NOT_FOUND, format!("Unknown app: {id}"));
    };
    match parse_app_switch(&body, &state.message_limits()) {
        Ok(AppSwitch { enabled }) => {
            registry.set_open(kind, enabled);
            tracing::info!(page = app_id(kind), enabled, "page switched");
            Json(AppSwitched { success: true, app: admin_app(kind, &registry) }).into_response()
        }
        Err(error) => failure(StatusCode::UNPROCESSABLE_ENTITY, error.message),
    }
}

async fn frontend_defaults() -> Json<FrontendDefaults> {
    Json(FrontendDefaults { playback_delay_ms: PLAYBACK_DELAY_MS, default_lang: None })
}

fn voice_of(info: &BackendInfo, state: &AppState, name: &str) -> Option<Arc<Pcm>> {
    info.voices.iter().find(|voice| *voice == name).and_then(|name| state.manager().backend().voice(name))
}

/// The bundle's voices with its prompt.
async fn presets(_: Guest, State(state): State<AppState>) -> Json<Presets> {
    let info = state.manager().backend().info();
    let preset = |(order, name): (usize, &String)| {
        let audio = voice_of(info, &state, name);
        Preset {
            id: format!("{PRESET_PREFIX}{name}"),
            name: name.clone(),
            description: Some(format!("The voice {name} of the bundle {}", info.name)),
            order: Some(order as u32),
            system_prompt: Some(info.default_instructions.clone()),
            ref_audio: audio.map(|pcm| PresetVoice {
                data: None,
                path: Some(name.clone()),
                name: name.clone(),
                duration: length(&pcm),
            }),
        }
    };
    let all: Vec<_> = info.voices.iter().enumerate().map(preset).collect();
    // The page asks by its own name, which for video is the page's, not the session's kind.
    Json(pages(info).map(|kind| (app_id(kind).to_owned(), all.clone())).collect())
}

/// Seconds to 0.1.
fn length(pcm: &Pcm) -> f64 {
    (pcm.seconds() * 10.0).round() / 10.0
}

async fn preset_audio(_: Guest, State(state): State<AppState>, Path((mode, id)): Path<(String, String)>) -> Response {
    let info = state.manager().backend().info();
    let mode_known = pages(info).any(|kind| app_id(kind) == mode);
    let name = id.strip_prefix(PRESET_PREFIX).filter(|name| mode_known && info.voices.iter().any(|v| v == name));
    let Some(name) = name else {
        return failure(StatusCode::NOT_FOUND, format!("Preset not found: {mode}/{id}"));
    };
    let ref_audio = voice_of(info, &state, name).map(|pcm| PresetVoice {
        data: Some(FloatAudio(pcm.samples.clone())),
        path: None,
        name: name.to_owned(),
        duration: length(&pcm),
    });
    Json(PresetAudio { ref_audio }).into_response()
}

async fn default_ref_audio(_: Guest, State(state): State<AppState>) -> Response {
    let info = state.manager().backend().info();
    let voice = info.voices.first().and_then(|name| Some((name, voice_of(info, &state, name)?)));
    let Some((name, pcm)) = voice else {
        return failure(StatusCode::NOT_FOUND, "No default ref audio configured");
    };
    Json(DefaultRefAudio {
        name: name.clone(),
        duration: length(&pcm),
        sample_rate: pcm.rate_hz,
        samples: pcm.samples.len(),
        base64: FloatAudio(pcm.samples.clone()),
    })
    .into_response()
}

async fn ref_audio(_: Guest) -> Json<RefAudioList> {
    Json(RefAudioList { total: 0, ref_audios: Vec::new() })
}

async fn no_ref_audio(_: Guest) -> Response {
    failure(StatusCode::NOT_IMPLEMENTED, "voices are not stored here; send one with `prepare`")
}

async fn unknown_ref_audio(_: Guest, Path(id): Path<String>) -> Response {
    failure(StatusCode::NOT_FOUND, format!("Ref audio not found: {id}"))
}

/// Clients of other wires are counted, but have no ticket here.
async fn queue(_: Guest, State(state): State<AppState>, Extension(registry): Reg) -> Json<QueueStatus> {
    let manager = state.manager();
    let waiting = manager.load().waiting;
    let item = |ticket: super::registry::Ticket| QueueItem {
        ticket_id: ticket.id,
        request_type: request_type(ticket.kind),
        session_id: Some(ticket.session_id),
        position: ticket.place.position,
        estimated_wait_s: seconds(ticket.place.estimate),
        enqueued_at: iso(ticket.since),
        wait_elapsed_s: seconds(ticket.waited),
    };
    Json(QueueStatus {
        queue_length: waiting,
        max_queue_size: manager.limits().queue,
        items: registry.tickets().into_iter().map(item).collect(),
        running_tasks: running(manager, &Slots::now(manager, &registry)),
    })
}

async fn ticket(_: Guest, Extension(registry): Reg, Path(id): Path<String>) -> Json<TicketStatus> {
    let ticket = registry.tickets().into_iter().find(|ticket| ticket.id == id).map(|ticket| Ticket {
        ticket_id: ticket.id,
        request_type: request_type(ticket.kind),
        session_id: Some(ticket.session_id),
        enqueued_at: iso(ticket.since),
        position: ticket.place.position,
        estimated_wait_s: seconds(ticket.place.estimate),
        cancelled: false,
    });
    let message = ticket.is_none().then(|| "Ticket not in queue (may have been assigned or cancelled)".to_owned());
    Json(TicketStatus { found: ticket.is_some(), ticket, message })
}

/// Who knows a ticket's name may end it: its owner, who was told it, and those who may read the queue.
async fn cancel(_: Guest, Extension(registry): Reg, Path(id): Path<String>) -> Json<Done> {
    Json(Done { success: registry.cancel(&id) })
}

/// One estimate serves all duplex sessions.
async fn eta(_: Guest, State(state): State<AppState>) -> Json<EtaStatus> {
    let typical = seconds(state.manager().typical_session());
    Json(EtaStatus { config: EtaConfig { eta_audio_duplex_s: typical, eta_omni_duplex_s: typical } })
}

async fn no_eta(_: Guest) -> Response {
    failure(StatusCode::NOT_IMPLEMENTED, "the estimate is learnt from the sessions; it cannot be set")
}

async fn no_recording(_: Guest, Path(parts): Path<Vec<(String, String)>>) -> Response {
    let id = parts.into_iter().find(|(name, _)| name == "id").map(|(_, id)| id).unwrap_or_default();
    failure(StatusCode::NOT_FOUND, format!("Session not found: {id}"))
}

async fn no_chat(_: Guest) -> Response {
    failure(StatusCode::NOT_IMPLEMENTED, "turn-based chat is not served here; use /ws/duplex/{session_id}")
}

async fn no_half_duplex(_: Guest) -> Response {
    failure(StatusCode::NOT_IMPLEMENTED, "half duplex is not served here; use /ws/duplex/{session_id}")
}

async fn not_found() -> Response {
    failure(StatusCode::NOT_FOUND, "Not Found")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_iso_8601() {
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1_795_000_000_500);
        assert_eq!(iso(time), "2026-11-18T11:06:40.5Z");
    }

    #[test]
    fn the_address_is_the_one_the_client_used() {
        let of = |host: &'static str| address(&HeaderMap::from_iter([(header::HOST, host.parse().expect("a header"))]));
        assert_eq!(of("127.0.0.1:8998"), ("127.0.0.1".to_owned(), 8998));
        assert_eq!(of("example.org"), ("example.org".to_owned(), 80));
        assert_eq!(of("a b").1, 80);
    }

    #[test]
    fn slots_show_this_wires_sessions_and_count_the_others() {
        let registry = Arc::new(Registry::default());
        let first = registry.talk(DuplexKind::AudioDuplex, "adx_1");
        let second = registry.talk(DuplexKind::AudioDuplex, "adx_2");
        second.state(true, 0);
        drop(first);
        let slots = Slots { talks: registry.talks(), total: 4, busy: 2 };
        let states: Vec<_> = slots.each().into_iter().map(|(_, status, talk)| (status, talk.is_some())).collect();
        let expected = [
            (WorkerStatus::DuplexActive, false),
            (WorkerStatus::DuplexPaused, true),
            (WorkerStatus::Idle, false),
            (WorkerStatus::Idle, false),
        ];
        assert_eq!(states, expected);
    }
}
