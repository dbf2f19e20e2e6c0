//! What `duologue serve` is told: every setting, its default, and the check that they go together.
//!
//! Settings come in layers, later ones over earlier ones: defaults, file, environment, flags ([`layers`]). Owns their
//! meaning up to the types that the other crates take; starts nothing.

mod keys;
pub mod layers;
mod parts;
mod print;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use duologue_model::DeviceChoice;
use duologue_proto::wire::Limits as MessageLimits;
use duologue_session::barge_in::BargeInConfig;
use duologue_transport::Limits as SessionLimits;
use duologue_transport::http::auth::ApiKey;
use duologue_transport::http::origin::Origins;
use duologue_transport::http::rate::RateLimits;
use duologue_transport::http::tls::CertificateSource;
use duologue_transport::rtc::config::RtcConfig;
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

pub use layers::{ConfigError, Effective};
pub use parts::{
    AuthConfig, BenchConfig, LimitsConfig, LogConfig, LogFormat, OtlpConfig, RecordingConfig, SpeechConfig, TlsConfig,
};

/// Everything that can be set. The example file beside the crate (`duologue.example.toml`) says the same to operators; a
/// test compares the two.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServeConfig {
    /// Address to listen on. Off loopback it needs keys ([`AuthConfig`]) and gets TLS.
    pub listen: SocketAddr,
    /// Bundle folder made by `duologue-export`.
    pub bundle: Option<PathBuf>,
    /// cpu, cuda, cuda:N, or auto (what the bundle was exported for).
    #[serde(with = "parts::as_text")]
    pub device: DeviceChoice,
    /// Threads of each graph on the CPU.
    pub threads: usize,
    /// libonnxruntime to load; searched for when not set, see `duologue doctor`.
    pub ort: Option<PathBuf>,
    /// Sessions at the same time. Each takes its share of the device's memory.
    pub slots: usize,
    /// Clients that may wait when all slots are taken; more are refused.
    pub queue: usize,
    /// The voice detector's file (Silero VAD); searched for when not set. Without one the model alone decides when to stop.
    pub vad: Option<PathBuf>,
    /// Web pages of other hosts that may use this server (`https://app.example.com`), or `*`.
    pub allowed_origins: Vec<String>,
    /// Who may come in.
    pub auth: AuthConfig,
    /// TLS.
    pub tls: TlsConfig,
    /// Limits of a session and of a message.
    pub limits: LimitsConfig,
    /// How fast clients may go.
    pub rates: RateLimits,
    /// WebRTC.
    pub webrtc: RtcConfig,
    /// How a reply begins.
    pub speech: SpeechConfig,
    /// When a voice stops the model's speech.
    pub barge_in: BargeInConfig,
    /// Recordings.
    pub recording: RecordingConfig,
    /// Logs.
    pub log: LogConfig,
    /// Traces.
    pub otlp: OtlpConfig,
    /// What only measurements need.
    pub bench: BenchConfig,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8998)),
            bundle: None,
            device: DeviceChoice::Auto,
            threads: 1,
            ort: None,
            slots: 4,
            queue: SessionLimits::default().queue,
            vad: None,
            allowed_origins: Vec::new(),
            auth: AuthConfig::default(),
            tls: TlsConfig::default(),
            limits: LimitsConfig::default(),
            rates: RateLimits::default(),
            webrtc: RtcConfig::default(),
            speech: SpeechConfig::default(),
            barge_in: BargeInConfig::default(),
            recording: RecordingConfig::default(),
            log: LogConfig::default(),
            otlp: OtlpConfig::default(),
            bench: BenchConfig::default(),
        }
    }
}

/// Flags that lie over the configuration. Those without a flag of their own are reached with `--set`.
#[derive(Debug, Clone, Default, Args)]
pub struct ConfigArgs {
    /// Configuration file (TOML); see server/duologue.example.toml
    #[arg(long, env = "DUOLOGUE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address to listen on [default: 127.0.0.1:8998]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Bundle folder made by `duologue-export`
    #[arg(long, value_name = "DIR")]
    pub bundle: Option<String>,
    /// cpu, cuda, cuda:N, or auto (what the bundle was exported for) [default: auto]
    #[arg(long)]
    pub device: Option<String>,
    /// Threads of each graph on the CPU [default: 1]
    #[arg(long, value_name = "N")]
    pub threads: Option<String>,
    /// libonnxruntime to load [default: searched, see `duologue doctor`]
    #[arg(long, value_name = "FILE")]
    pub ort: Option<String>,
    /// Sessions at the same time [default: 4]
    #[arg(long, value_name = "N")]
    pub slots: Option<String>,
    /// Any other setting, such as limits.idle_s=120; may be given several times
    #[arg(long, value_name = "FIELD=VALUE")]
    pub set: Vec<String>,
}

impl ConfigArgs {
    /// The flags given, by field.
    fn fields(&self) -> [(&'static str, &Option<String>); 6] {
        [
            ("listen", &self.listen),
            ("bundle", &self.bundle),
            ("device", &self.device),
            ("threads", &self.threads),
            ("ort", &self.ort),
            ("slots", &self.slots),
        ]
    }

    /// The configuration in force, out of all layers, checked.
    ///
    /// # Errors
    /// [`ConfigError`], naming the layer and the field.
    pub fn load(&self) -> Result<Effective, ConfigError> {
        layers::load(self, std::env::vars_os())
    }
}

/// A setting that cannot work, before it is known where it came from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Problem {
    /// Path of the field.
    pub field: String,
    /// What is wrong, and what to write instead.
    pub reason: String,
}

impl Problem {
    fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }
}

impl ServeConfig {
    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// The first setting that cannot work.
    pub fn validate(&self) -> Result<(), Problem> {
        for (field, value) in [("slots", self.slots), ("threads", self.threads)] {
            if value == 0 {
                return Err(Problem::new(field, "0 is too few; give a number of 1 or more"));
            }
        }
        if !self.local() && self.keys()?.is_empty() {
            let reason = format!(
                "{} is reached from other machines, but there are no keys to let the right ones in; \
                 add [[auth.keys]] with name and key, or set DUOLOGUE_AUTH_KEYS=name:key, or listen on 127.0.0.1",
                self.listen
            );
            return Err(Problem::new("listen", reason));
        }
        self.keys()?;
        self.tls.validate(self.local())?;
        self.origins()?;
        self.limits.validate()?;
        self.rates
            .validate(self.limits.message_bytes)
            .map_err(|error| Problem::new(format!("rates.{}", error.field), error.reason))?;
        self.webrtc.validate().map_err(|error| Problem::new(format!("webrtc.{}", error.field), error.reason))?;
        self.barge_in.validate().map_err(|error| Problem::new(error.setting, error.problem))?;
        self.recording.validate()?;
        EnvFilter::try_new(&self.log.level)
            .map_err(|error| Problem::new("log.level", format!("{error}; write error, warn, info, debug or trace")))?;
        self.otlp.validate()
    }

    /// Only this machine can reach the server.
    pub fn local(&self) -> bool {
        self.listen.ip().to_canonical().is_loopback()
    }

    /// All API keys.
    ///
    /// # Errors
    /// A key or a file of keys that cannot be used.
    pub fn keys(&self) -> Result<Vec<ApiKey>, Problem> {
        self.auth.all_keys()
    }

    /// The pages that may use the server.
    ///
    /// # Errors
    /// An entry that is no origin.
    pub fn origins(&self) -> Result<Origins, Problem> {
        Origins::new(&self.allowed_origins, self.local())
            .map_err(|error| Problem::new("allowed_origins", error.to_string()))
    }

    /// Where the certificate comes from; `None` for plain HTTP.
    ///
    /// # Errors
    /// When there is no place for a self-signed one.
    pub fn certificate(&self) -> Result<Option<CertificateSource>, Problem> {
        self.tls.source(self.listen.ip())
    }

    /// What the session manager keeps to.
    pub fn session_limits(&self) -> SessionLimits {
        let limits = &self.limits;
        SessionLimits {
            queue: self.queue,
            sessions_per_key: limits.sessions_per_key,
            idle: Duration::from_secs(limits.idle_s),
            session: Duration::from_secs(limits.session_s),
            resume: Duration::from_secs(limits.resume_s),
            pause: Duration::from_secs(limits.pause_s),
            sidebands: limits.sidebands,
            calm: Duration::from_secs(limits.calm_s),
        }
    }

    /// What a message may hold.
    pub fn message_limits(&self) -> MessageLimits {
        let limits = &self.limits;
        MessageLimits {
            max_message_bytes: limits.message_bytes,
            max_audio_s: limits.message_audio_s,
            max_image_bytes: limits.image_bytes,
            max_images: limits.images,
            max_voice_bytes: limits.voice_bytes,
        }
    }

    /// How long sessions may go on once the server is told to stop.
    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.limits.drain_s)
    }
}

#[cfg(test)]
mod tests;
