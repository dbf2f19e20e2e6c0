//! The sections of the configuration that belong to no other crate.

use std::env;
use std::net::IpAddr;
use std::path::PathBuf;

use duologue_proto::wire::Limits as MessageLimits;
use duologue_transport::Limits as SessionLimits;
use duologue_transport::http::tls::CertificateSource;
use http::Uri;
use serde::{Deserialize, Serialize};

use super::Problem;
use super::keys::KeyEntry;

/// `[auth]`: who may come in. Without any key only this machine is served.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// API keys: a name, and the key or its SHA-256.
    pub keys: Vec<KeyEntry>,
    /// A file with more of them, one `name:key` or `name:sha256:HASH` in each line.
    pub keys_file: Option<PathBuf>,
}

/// When the server speaks TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// With the own certificate when one is given; else plain HTTP on loopback and a self-signed certificate elsewhere.
    #[default]
    Auto,
    /// Always, with the own or a self-signed certificate.
    On,
    /// Never; on loopback only.
    Off,
}

/// `[tls]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// auto, on or off.
    pub mode: TlsMode,
    /// PEM file with the certificate and the chain below it. Read at the start only.
    pub certificate: Option<PathBuf>,
    /// PEM file with its private key.
    pub key: Option<PathBuf>,
    /// Host names and addresses that a self-signed certificate is made for, beside those of this machine itself.
    pub names: Vec<String>,
    /// Where a self-signed certificate is kept; `$XDG_STATE_HOME/duologue` or `~/.local/state/duologue` when not set.
    pub state_dir: Option<PathBuf>,
}

impl TlsConfig {
    pub(super) fn validate(&self, local: bool) -> Result<(), Problem> {
        match (&self.certificate, &self.key) {
            (Some(_), None) => return Err(Problem::new("tls.key", "tls.certificate is set; set its key too")),
            (None, Some(_)) => return Err(Problem::new("tls.certificate", "tls.key is set; set its certificate too")),
            _ => {}
        }
        if self.mode == TlsMode::Off && !local {
            let reason = "off is for loopback only: browsers give no microphone to pages without TLS, and keys would \
                          cross the network readable; write auto, or listen on 127.0.0.1";
            return Err(Problem::new("tls.mode", reason));
        }
        Ok(())
    }

    pub(super) fn source(&self, listen: IpAddr) -> Result<Option<CertificateSource>, Problem> {
        if let (Some(certificate), Some(key), TlsMode::Auto | TlsMode::On) = (&self.certificate, &self.key, self.mode) {
            return Ok(Some(CertificateSource::Files { certificate: certificate.clone(), key: key.clone() }));
        }
        let plain = self.mode == TlsMode::Off || (self.mode == TlsMode::Auto && listen.to_canonical().is_loopback());
        if plain {
            return Ok(None);
        }
        let from = |variable: &str| env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
        let state = || from("XDG_STATE_HOME").or_else(|| Some(from("HOME")?.join(".local/state")));
        let directory = self.state_dir.clone().or_else(|| Some(state()?.join("duologue"))).ok_or_else(|| {
            Problem::new("tls.state_dir", "not set, and without HOME there is no usual place for a certificate; set it")
        })?;
        let names = std::iter::once(listen.to_string()).chain(self.names.iter().cloned()).collect();
        Ok(Some(CertificateSource::SelfSigned { directory, names }))
    }
}

/// `[limits]`: of a session and of a message. Times in whole seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Connections at once, whatever they do. Each takes a file handle of the process (`ulimit -n`), and a session over
    /// WebRTC a few more.
    pub connections: usize,
    /// Sessions, waiting ones included, that one key may hold. Without keys all clients count together.
    pub sessions_per_key: usize,
    /// A session without user audio ends after this.
    pub idle_s: u64,
    /// Longest session.
    pub session_s: u64,
    /// A session whose connection was lost waits this long for the client.
    pub resume_s: u64,
    /// Longest pause.
    pub pause_s: u64,
    /// Second programs that may be attached to one session.
    pub sidebands: usize,
    /// A server that is late, with a unit or with the sound of a reply, takes nobody more until it has not been for so
    /// long. 0: it always does.
    pub calm_s: u64,
    /// How long sessions may go on once the server is told to stop (SIGTERM). Shorter than the 30 s after which
    /// Kubernetes kills.
    pub drain_s: u64,
    /// Bytes of one message.
    pub message_bytes: usize,
    /// Seconds of user audio in one message.
    pub message_audio_s: f64,
    /// Bytes of one picture.
    pub image_bytes: usize,
    /// Pictures in one message.
    pub images: usize,
    /// Bytes of a reference voice.
    pub voice_bytes: usize,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        let (session, message) = (SessionLimits::default(), MessageLimits::default());
        Self {
            connections: 512,
            sessions_per_key: session.sessions_per_key,
            idle_s: session.idle.as_secs(),
            session_s: session.session.as_secs(),
            resume_s: session.resume.as_secs(),
            pause_s: session.pause.as_secs(),
            sidebands: session.sidebands,
            calm_s: session.calm.as_secs(),
            drain_s: 25,
            message_bytes: message.max_message_bytes,
            message_audio_s: message.max_audio_s,
            image_bytes: message.max_image_bytes,
            images: message.max_images,
            voice_bytes: message.max_voice_bytes,
        }
    }
}

impl LimitsConfig {
    pub(super) fn validate(&self) -> Result<(), Problem> {
        const LONGEST_S: u64 = 30 * 24 * 3600;
        let times = [
            ("idle_s", self.idle_s, 1),
            ("session_s", self.session_s, 1),
            ("resume_s", self.resume_s, 0),
            ("pause_s", self.pause_s, 0),
            ("calm_s", self.calm_s, 0),
            ("drain_s", self.drain_s, 0),
        ];
        for (field, value, least) in times {
            if !(least..=LONGEST_S).contains(&value) {
                let reason = format!("{value} is not within {least} to {LONGEST_S} seconds");
                return Err(Problem::new(format!("limits.{field}"), reason));
            }
        }
        // Less than 64 KiB holds no second of audio in base64.
        let counts = [
            ("connections", self.connections, 1),
            ("sessions_per_key", self.sessions_per_key, 1),
            ("message_bytes", self.message_bytes, 64 << 10),
            ("image_bytes", self.image_bytes, 1 << 10),
            ("voice_bytes", self.voice_bytes, 1 << 10),
        ];
        for (field, value, least) in counts {
            if value < least {
                return Err(Problem::new(format!("limits.{field}"), format!("{value} is below {least}")));
            }
        }
        if !(self.message_audio_s.is_finite() && self.message_audio_s > 0.0) {
            let reason = format!("{} is not a time above 0 seconds", self.message_audio_s);
            return Err(Problem::new("limits.message_audio_s", reason));
        }
        Ok(())
    }
}

/// `[speech]`: how a reply begins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpeechConfig {
    /// Words after which it is spoken while the model decodes the others of its first second; 0: when it has all of them.
    pub first_words: usize,
}

/// `[recording]`: off unless set; a client must consent besides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecordingConfig {
    /// Sessions may be recorded.
    pub enabled: bool,
    /// Where recordings are kept.
    pub dir: PathBuf,
    /// Days after which a recording is deleted.
    pub retention_days: f64,
    /// Bytes of all recordings; above it the oldest are deleted.
    pub max_bytes: u64,
}

impl Default for RecordingConfig {
    fn default() -> Self {
        Self { enabled: false, dir: PathBuf::from("recordings"), retention_days: 30.0, max_bytes: 10 << 30 }
    }
}

impl RecordingConfig {
    pub(super) fn validate(&self) -> Result<(), Problem> {
        // Beyond ten thousand years a time in seconds means nothing.
        if !(self.retention_days > 0.0 && self.retention_days <= 3_650_000.0) {
            let reason = format!("{} is not a number of days above 0", self.retention_days);
            return Err(Problem::new("recording.retention_days", reason));
        }
        match self.max_bytes {
            0 => {
                Err(Problem::new("recording.max_bytes", "0 would delete every recording; set enabled = false instead"))
            }
            _ => Ok(()),
        }
    }
}

/// `[log]`: on standard error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// text or json.
    pub format: LogFormat,
    /// error, warn, info, debug or trace, also by module (`info,duologue_transport=debug`). ONNX Runtime says a line per
    /// graph at info, so it is asked for warnings only.
    pub level: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info,ort=warn".to_owned() }
    }
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object, for machines.
    Json,
}

/// `[otlp]`: traces for an OpenTelemetry collector. Off without an endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OtlpConfig {
    /// Base address of the collector (`http://127.0.0.1:4318`); spans are posted to `/v1/traces` below it.
    pub endpoint: Option<String>,
    /// Finished spans that may wait for the collector; more are dropped and counted.
    pub queue: usize,
}

impl Default for OtlpConfig {
    fn default() -> Self {
        Self { endpoint: None, queue: 2048 }
    }
}

impl OtlpConfig {
    pub(super) fn validate(&self) -> Result<(), Problem> {
        const LARGEST: usize = 1 << 20;
        if !(1..=LARGEST).contains(&self.queue) {
            return Err(Problem::new("otlp.queue", format!("{} is not within 1 to {LARGEST} spans", self.queue)));
        }
        self.traces_url().map(|_| ())
    }

    /// Where spans are posted to; `None` when they stay here.
    ///
    /// # Errors
    /// An endpoint that is no address of a collector. The text is not repeated: it may hold a password.
    pub fn traces_url(&self) -> Result<Option<Uri>, Problem> {
        let Some(text) = &self.endpoint else { return Ok(None) };
        let refuse = |reason: &str| Problem::new("otlp.endpoint", format!("{reason}; write http://127.0.0.1:4318"));
        let base: Uri = text.parse().map_err(|_| refuse("not a URL"))?;
        match base.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(refuse(
                    "https is not spoken here: let a collector near this server take the traces over http and send them on",
                ));
            }
            _ => return Err(refuse("not a URL that begins with http://")),
        }
        let authority = base.authority().filter(|authority| !authority.host().is_empty());
        let authority = authority.ok_or_else(|| refuse("a URL without a host"))?;
        if authority.as_str().contains('@') {
            return Err(refuse("user and password do not belong here; OTEL_EXPORTER_OTLP_HEADERS holds headers"));
        }
        if base.query().is_some() {
            return Err(refuse("a URL with a query"));
        }
        let path = base.path().trim_end_matches('/');
        if path.ends_with("/v1/traces") {
            return Err(refuse("/v1/traces is added by itself"));
        }
        let url = format!("http://{authority}{path}/v1/traces");
        Ok(Some(url.parse().map_err(|_| refuse("not a URL"))?))
    }
}

/// `[bench]`: what only measurements need.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BenchConfig {
    /// Clients may say when the model listens and speaks.
    pub forced_schedules: bool,
}

/// A type written as it prints.
pub mod as_text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
