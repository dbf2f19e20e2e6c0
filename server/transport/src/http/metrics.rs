//! What the server counts, in Prometheus' terms: every name, label and bucket is here and nowhere else.
//!
//! The functions may be called from anywhere at any time; before [`install`] they do nothing. Labels have few values and
//! never a session's or a client's name.

use std::sync::OnceLock;
use std::time::Duration;

use duologue_session::Mode;
use metrics::{Label, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::driver::{CloseCause, FlushCause, SessionEvent, SpeechEvent, UnitEvent};
use crate::manager::Refusal;
use crate::pacer::Packet;

const SESSIONS: &str = "duologue_sessions";
const SESSIONS_TOTAL: &str = "duologue_sessions_total";
const CONNECTIONS_REFUSED_TOTAL: &str = "duologue_connections_refused_total";
const QUEUE_LENGTH: &str = "duologue_queue_length";
const STEP_SECONDS: &str = "duologue_step_seconds";
const TTFB_SECONDS: &str = "duologue_ttfb_seconds";
const RTF: &str = "duologue_rtf";
const DEADLINE_MISSED_TOTAL: &str = "duologue_deadline_missed_total";
const DROPPED_TOTAL: &str = "duologue_dropped_total";
const BARGE_IN_SECONDS: &str = "duologue_barge_in_seconds";
const AUDIO_GAP_SECONDS_TOTAL: &str = "duologue_audio_gap_seconds_total";
const KV_TOKENS: &str = "duologue_kv_tokens";
const BUILD_INFO: &str = "duologue_build_info";

/// A stage takes a millisecond on a large device and seconds on one that is too small.
const STEP_BUCKETS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 2.0, 5.0];
const TTFB_BUCKETS: [f64; 11] = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0];
/// Above 1 the model cannot keep up.
const RTF_BUCKETS: [f64; 11] = [0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0, 1.5, 3.0];
/// The house promises 200 ms to the hold; an interruption comes after the time that tells it from a cough.
const BARGE_IN_BUCKETS: [f64; 10] = [0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0];
const KV_BUCKETS: [f64; 9] = [250.0, 500.0, 1000.0, 2000.0, 3000.0, 4000.0, 6000.0, 8000.0, 16000.0];

/// How often samples are folded into the histograms when nobody reads them.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();

fn builder() -> PrometheusBuilder {
    let buckets: [(&str, &[f64]); 5] = [
        (STEP_SECONDS, &STEP_BUCKETS),
        (TTFB_SECONDS, &TTFB_BUCKETS),
        (RTF, &RTF_BUCKETS),
        (BARGE_IN_SECONDS, &BARGE_IN_BUCKETS),
        (KV_TOKENS, &KV_BUCKETS),
    ];
    buckets.into_iter().fold(PrometheusBuilder::new(), |builder, (name, buckets)| {
        let matcher = Matcher::Full(name.to_owned());
        builder.set_buckets_for_metric(matcher, buckets).expect("constant buckets, not empty. This is a bug.")
    })
}

fn describe() {
    describe_gauge!(SESSIONS, "Sessions that run, by mode");
    describe_counter!(SESSIONS_TOTAL, "Sessions that ended or were refused, by outcome");
    describe_counter!(CONNECTIONS_REFUSED_TOTAL, "Connections turned away because too many were open");
    describe_gauge!(QUEUE_LENGTH, "Clients that wait for a session");
    describe_histogram!(
        STEP_SECONDS,
        "Engine time of one unit or one piece of speech, by stage and by what the model did"
    );
    describe_histogram!(
        TTFB_SECONDS,
        "From the end of the audio that made the model speak to the reply's first sample"
    );
    describe_histogram!(RTF, "Engine time divided by the length of the audio, of units and of speech");
    describe_counter!(DEADLINE_MISSED_TOTAL, "Units that were not finished within their length");
    describe_counter!(DROPPED_TOTAL, "Seconds of user audio and pictures dropped because the engine was too slow");
    describe_histogram!(BARGE_IN_SECONDS, "From the begin of the user's voice to the hold or the end of playback");
    describe_gauge!(AUDIO_GAP_SECONDS_TOTAL, "Silence within replies because speech came too late");
    describe_histogram!(KV_TOKENS, "Rows in a session's LLM cache after each unit");
    describe_gauge!(BUILD_INFO, "Always 1; the labels say what runs");
}

/// Begins to count. The first call counts; later ones change nothing.
///
/// # Panics
/// If another recorder is installed in this process.
pub fn install() {
    handle();
}

fn handle() -> &'static PrometheusHandle {
    HANDLE.get_or_init(|| {
        let handle = builder().install_recorder().expect("nobody else installs a recorder. This is a bug.");
        describe();
        handle
    })
}

/// The text of `/metrics`.
pub fn render() -> String {
    handle().render()
}

/// Keeps the memory of samples bounded while nobody reads them. Runs for ever: to be spawned once.
pub async fn upkeep() {
    let mut interval = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        interval.tick().await;
        handle().run_upkeep();
    }
}

/// Says once what runs: version, bundle, precision, device.
pub fn build_info(version: &'static str, bundle: &str, precision: &str, device: &str) {
    let labels = [("bundle", bundle), ("precision", precision), ("device", device)];
    let mut labels: Vec<Label> = labels.map(|(name, value)| Label::new(name, value.to_owned())).into();
    labels.push(Label::from_static_parts("version", version));
    gauge!(BUILD_INFO, labels).set(1.0);
}

pub(crate) fn mode_label(mode: Mode) -> &'static str {
    match mode {
        Mode::Live => "live",
        Mode::Fidelity => "fidelity",
    }
}

/// A session begins.
pub fn session_opened(mode: Mode) {
    gauge!(SESSIONS, "mode" => mode_label(mode)).increment(1.0);
}

/// A session that was [`session_opened`] ends.
pub fn session_closed(mode: Mode, cause: &CloseCause) {
    gauge!(SESSIONS, "mode" => mode_label(mode)).decrement(1.0);
    counter!(SESSIONS_TOTAL, "outcome" => outcome_label(cause)).increment(1);
}

/// How a session ended, in a few words of which there are few.
pub(crate) fn outcome_label(cause: &CloseCause) -> &'static str {
    match cause {
        CloseCause::Requested => "requested",
        CloseCause::ConnectionLost => "connection_lost",
        CloseCause::Idle => "idle",
        CloseCause::MaxDuration => "max_duration",
        CloseCause::PauseTimeout => "pause_timeout",
        CloseCause::Draining => "draining",
        CloseCause::SlowClient => "slow_client",
        CloseCause::Failed(_) => "failed",
    }
}

/// A client was not let in.
pub fn session_refused(refusal: &Refusal) {
    let outcome = match refusal {
        Refusal::QueueFull { .. } => "refused_queue_full",
        Refusal::Draining => "refused_draining",
        Refusal::KeyLimit { .. } => "refused_key_limit",
    };
    counter!(SESSIONS_TOTAL, "outcome" => outcome).increment(1);
}

/// A connection found no place.
pub fn connection_refused() {
    counter!(CONNECTIONS_REFUSED_TOTAL).increment(1);
}

/// The queue has changed.
pub fn queue_length(clients: usize) {
    gauge!(QUEUE_LENGTH).set(clients as f64);
}

fn step(stage: &'static str, state: &'static str, time: Duration) {
    histogram!(STEP_SECONDS, "stage" => stage, "state" => state).record(time.as_secs_f64());
}

fn rtf(part: &'static str, work: Duration, audio_s: f64) {
    histogram!(RTF, "part" => part).record(work.as_secs_f64() / audio_s);
}

/// A unit of `unit_s` seconds is finalized.
pub fn unit(event: &UnitEvent, unit_s: f64) {
    let state = if event.is_listen { "listen" } else { "speak" };
    let times = event.timings;
    let stages = [
        ("mel", times.mel),
        ("apm", times.apm),
        ("vision", times.vision),
        ("prefill", times.prefill),
        ("llm", times.generate),
        ("finalize", times.finalize),
    ];
    // Most units bring no picture: their zeros would hide the time of those that do.
    for (stage, time) in stages.into_iter().filter(|(stage, time)| *stage != "vision" || !time.is_zero()) {
        step(stage, state, time);
    }
    step("total", state, event.unit_time);
    rtf("unit", stages.iter().map(|(_, time)| *time).sum(), unit_s);
    histogram!(KV_TOKENS).record(event.kv_tokens as f64);
    counter!(DEADLINE_MISSED_TOTAL).increment(u64::from(event.deadline_missed));
}

/// A piece of speech was made.
pub fn speech(event: &SpeechEvent, output_rate_hz: u32) {
    let times = event.timings;
    let token2wav = times.flow + times.hift;
    step("tts", "speak", times.tts);
    step("token2wav", "speak", token2wav);
    if event.samples > 0 {
        rtf("speech", times.tts + token2wav, event.samples as f64 / f64::from(output_rate_hz));
    }
    if let Some(ttfb) = event.ttfb {
        histogram!(TTFB_SECONDS).record(ttfb.as_secs_f64());
    }
}

/// What one session's events say together.
#[derive(Debug)]
pub struct SessionMetrics {
    unit_s: f64,
    output_rate_hz: u32,
    /// Since when the user speaks, on the session's clock.
    voice: Option<Duration>,
    /// The reply that was handed out last, and when that will have been played.
    handed_out: Option<(u32, Duration)>,
}

impl SessionMetrics {
    /// Of a session whose units are `unit_s` seconds long.
    pub fn new(unit_s: f64, output_rate_hz: u32) -> Self {
        Self { unit_s, output_rate_hz, voice: None, handed_out: None }
    }

    /// An event of the session, at `now` on its clock.
    pub fn event(&mut self, now: Duration, event: &SessionEvent) {
        let stopped = |voice: Option<Duration>, how: &'static str| {
            if let Some(since) = voice {
                let time = now.saturating_sub(since).as_secs_f64();
                histogram!(BARGE_IN_SECONDS, "action" => how).record(time);
            }
        };
        match event {
            SessionEvent::Unit(event) => unit(event, self.unit_s),
            SessionEvent::Speech(event) => speech(event, self.output_rate_hz),
            SessionEvent::Voice { speaking, at } => self.voice = speaking.then_some(*at),
            SessionEvent::Hold { .. } => stopped(self.voice, "hold"),
            SessionEvent::Flush { cause: FlushCause::Voice, .. } => stopped(self.voice, "interrupt"),
            SessionEvent::UnitDropped => counter!(DROPPED_TOTAL, "what" => "unit").increment(1),
            SessionEvent::FrameDropped => counter!(DROPPED_TOTAL, "what" => "frame").increment(1),
            SessionEvent::TextDropped => counter!(DROPPED_TOTAL, "what" => "text").increment(1),
            _ => {}
        }
    }

    /// Playback was told to stand still, or has nobody to play to: what follows comes after no gap.
    pub fn stands_still(&mut self) {
        self.handed_out = None;
    }

    /// A packet was handed out and will have been played at `until`. Returns the silence in front of it within its reply.
    pub fn audio(&mut self, packet: &Packet, until: Duration) -> Duration {
        let length = Duration::from_secs_f64(packet.samples.len() as f64 / f64::from(self.output_rate_hz));
        let before = self.handed_out.filter(|(turn, _)| *turn == packet.turn);
        let gap = before.map_or(Duration::ZERO, |(_, before)| until.saturating_sub(length).saturating_sub(before));
        // The exporter counts in whole numbers; a gauge that only grows is a counter to whoever reads it.
        gauge!(AUDIO_GAP_SECONDS_TOTAL).increment(gap.as_secs_f64());
        self.handed_out = Some((packet.turn, until));
        gap
    }
}

#[cfg(test)]
mod tests;
