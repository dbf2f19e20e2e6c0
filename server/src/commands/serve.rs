//! `duologue serve`: the server.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use axum_server::Handle;
use clap::Args as ClapArgs;
use duologue_model::manifest::Weights;
use duologue_model::vad::{self, VoiceDetector};
use duologue_model::{Bundle, Runtime};
use duologue_transport::SessionManager;
use duologue_transport::demo::StaticPages;
use duologue_transport::http::auth::KeyRing;
use duologue_transport::http::tls::{self, Tls};
use duologue_transport::http::{self, AppState, Settings, metrics};
use duologue_transport::record::{Shelf, ShelfLimits};
use tokio::signal::unix::{SignalKind, signal};

use super::say;
use crate::backend::{BackendSetup, EngineBackend};
use crate::config::{ConfigArgs, ServeConfig};
use crate::host::{RuntimeArgs, open_bundle};
use crate::traces::Traces;
use crate::{logs, web_client};

/// How long connections may take to close once all sessions are over.
const GOODBYE: Duration = Duration::from_secs(2);

/// Arguments of `serve`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// Folder `static` of a checkout of OpenBMB/MiniCPM-o-Demo, to serve its pages instead of our own
    #[arg(long, value_name = "DIR")]
    demo_static: Option<PathBuf>,
}

/// Runs the command until the server is told to stop (SIGTERM, SIGINT).
pub fn run(args: &Args) -> Result<()> {
    let effective = args.config.load()?;
    let config = &effective.config;
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let traces = Traces::start(&config.otlp, tokio.handle())?;
    logs::init_server(&config.log, traces.as_ref());
    effective.warnings().for_each(|warning| tracing::warn!("{warning}"));
    metrics::install();
    let model = Model::open(config)?;
    model.announce();
    let manifest = model.bundle.manifest();
    let device = model.runtime.device().to_string();
    metrics::build_info(env!("CARGO_PKG_VERSION"), &manifest.name, &manifest.precision, &device);
    if config.bench.forced_schedules {
        say!("Clients may force a schedule on the model (bench.forced_schedules): for measurements, not for people.");
    }
    let manager = model.manager(config)?;
    let settings = settings(config, args.demo_static.as_deref())?;
    let tls = match config.certificate().map_err(|problem| anyhow::anyhow!("{}: {}", problem.field, problem.reason))? {
        Some(source) => Some(Tls::load(&source)?),
        None => None,
    };
    let listener = TcpListener::bind(config.listen).with_context(|| format!("cannot listen on {}", config.listen))?;
    let socket = Socket { listener, tls, connections: config.limits.connections };
    let served = tokio.block_on(serve(manager, settings, socket, config.drain()));
    // By now all sessions are over.
    if let Some(traces) = traces {
        traces.finish();
    }
    served
}

/// What sessions need before there is any.
pub struct Model {
    pub bundle: Bundle,
    pub runtime: Runtime,
    pub detector: Option<VoiceDetector>,
}

impl Model {
    /// Opens the bundle and loads ONNX Runtime and the voice detector.
    pub fn open(config: &ServeConfig) -> Result<Self> {
        let bundle = open_bundle(config.bundle.as_deref())?;
        let runtime = RuntimeArgs { device: config.device, threads: config.threads, ort: config.ort.clone() };
        let runtime = runtime.load_for(&bundle)?;
        let detector = voice_detector(&runtime, config)?;
        Ok(Self { bundle, runtime, detector })
    }

    fn announce(&self) {
        let Self { bundle, runtime, detector } = self;
        let manifest = bundle.manifest();
        say!("bundle {} ({}, {} weights) on {}", manifest.name, manifest.precision, manifest.weights, runtime.device());
        if manifest.weights == Weights::Random {
            say!(
                "The weights are random: what it says is noise. This shows that the chain works, not what it can say."
            );
        }
        if detector.is_none() {
            say!("No voice detector was found (`make vad`): the model alone decides when to stop speaking.");
        }
        if !web_client::present() {
            say!("This program was built without its web page (`make web`, then build again); the APIs work.");
        }
    }

    /// Starts the engine.
    pub fn manager(self, config: &ServeConfig) -> Result<SessionManager> {
        let Self { runtime, bundle, detector } = self;
        let setup = BackendSetup {
            slots: config.slots,
            detector,
            first_words: config.speech.first_words,
            forced_schedules: config.bench.forced_schedules,
        };
        let backend = EngineBackend::start(&runtime, &bundle, setup)?;
        Ok(SessionManager::new(Arc::new(backend), config.session_limits(), config.barge_in.clone())?)
    }
}

/// What the server's HTTP side is told.
pub fn settings(config: &ServeConfig, demo_static: Option<&Path>) -> Result<Settings> {
    let plain = |problem: crate::config::Problem| anyhow::anyhow!("{}: {}", problem.field, problem.reason);
    Ok(Settings {
        keys: KeyRing::new(config.keys().map_err(plain)?),
        origins: config.origins().map_err(plain)?,
        rates: config.rates.clone(),
        messages: config.message_limits(),
        assets: web_client::asset,
        demo_pages: demo_static.map(StaticPages::new).transpose()?,
        webrtc: Some(config.webrtc.clone()),
        recordings: shelf(config)?,
    })
}

/// Where recordings go, when they are on.
fn shelf(config: &ServeConfig) -> Result<Option<Shelf>> {
    let recording = &config.recording;
    if !recording.enabled {
        return Ok(None);
    }
    let age = Duration::from_secs_f64(recording.retention_days * 86_400.0);
    let limits = ShelfLimits { age, bytes: recording.max_bytes };
    let shelf = Shelf::open(&recording.dir, limits)
        .with_context(|| format!("recording.dir: cannot keep recordings in {}", recording.dir.display()))?;
    Ok(Some(shelf))
}

/// Lets old recordings go, now and every hour.
async fn tidy(shelf: Shelf) {
    let mut hourly = tokio::time::interval(Duration::from_secs(3600));
    loop {
        hourly.tick().await;
        match shelf.tidy(SystemTime::now()) {
            Ok(gone) if gone.is_empty() => {}
            Ok(gone) => tracing::info!(recordings = gone.len(), "old recordings deleted"),
            Err(error) => tracing::error!(%error, "old recordings cannot be deleted"),
        }
    }
}

/// The detector that was named, or the one that is found. None at all is no error: the model can decide alone.
fn voice_detector(runtime: &Runtime, config: &ServeConfig) -> Result<Option<VoiceDetector>> {
    match (vad::find(config.vad.as_deref()), &config.vad) {
        (Ok(path), _) => Ok(Some(VoiceDetector::load(runtime, &path)?)),
        (Err(_), None) => Ok(None),
        (Err(error), Some(_)) => Err(error.into()),
    }
}

/// Where and how connections come in.
struct Socket {
    listener: TcpListener,
    tls: Option<Tls>,
    /// At once.
    connections: usize,
}

async fn serve(manager: SessionManager, settings: Settings, socket: Socket, drain: Duration) -> Result<()> {
    let Socket { listener, tls, connections } = socket;
    let address = listener.local_addr()?;
    let shelf = settings.recordings.clone();
    let routes = http::router(AppState::new(manager.clone(), settings));
    let handle = Handle::new();
    let scheme = if tls.is_some() { "https" } else { "http" };
    if let Some(tls) = &tls {
        say!("certificate {} (SHA-256 {})", tls.certificate.display(), tls.fingerprint);
    }
    say!("talk at {scheme}://{address}");
    tokio::spawn(metrics::upkeep());
    if let Some(shelf) = shelf {
        tokio::spawn(tidy(shelf));
    }
    let stopping = handle.clone();
    tokio::spawn(async move {
        if let Err(error) = stop_when_told(&manager, &stopping, drain).await {
            tracing::error!(%error, "signals cannot be heard; the server stops only when it is killed");
        }
    });
    tls::serve(listener, routes, tls.as_ref(), connections, handle).await.context("the server's socket failed")
}

/// The first signal drains: new sessions are refused and live ones may finish. A second one ends everything at once.
async fn stop_when_told(manager: &SessionManager, handle: &Handle<SocketAddr>, limit: Duration) -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let busy = manager.load().busy;
    if busy > 0 {
        say!("stopping: {busy} sessions may go on for {} s; stop again to end them now", limit.as_secs());
    }
    tokio::select! {
        () = manager.drain(limit) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    handle.graceful_shutdown(Some(GOODBYE));
    Ok(())
}
