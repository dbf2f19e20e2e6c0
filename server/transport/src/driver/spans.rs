//! What a session looks like in a trace: a span for the session, and below it one for each unit and each reply.
//!
//! Every name is here and nowhere else: `gen_ai.*` where OpenTelemetry has one, else ours; times are in seconds. Numbers,
//! names and outcomes only, never what was said, nor a key or token. Integers are signed: of others OpenTelemetry has none. This crate knows spans of `tracing`, not who takes
//! them; while nobody does, one costs a comparison.

use duologue_session::{Mode, SpeechTimings, Work};
use tracing::{Span, field};

use super::events::{CloseCause, SessionEvent, SpeechEvent, UnitEvent};
use crate::http::metrics::{mode_label, outcome_label};
use crate::manager::SessionId;

/// Target of all spans here, and of nothing else.
pub const TARGET: &str = "duologue::spans";

/// The span of a session on this wire, answered by the bundle `model`.
pub(crate) fn session(id: &SessionId, mode: Mode, wire: &str, model: &str) -> Span {
    tracing::trace_span!(
        target: TARGET,
        parent: None,
        "session",
        "otel.kind" = "server",
        "otel.status_code" = field::Empty,
        "gen_ai.conversation.id" = id.as_str(),
        "gen_ai.request.model" = model,
        "gen_ai.output.type" = "speech",
        "duologue.mode" = mode_label(mode),
        "duologue.wire" = wire,
        "duologue.close_cause" = field::Empty,
    )
}

/// How the session ended.
pub(crate) fn session_closed(session: &Span, cause: &CloseCause) {
    session.record("duologue.close_cause", outcome_label(cause));
    if matches!(cause, CloseCause::Failed(_)) {
        session.record("otel.status_code", "error");
    }
}

/// A unit that was handed to the backend: from there to the last sample of its speech.
#[derive(Debug)]
struct UnitSpan {
    unit: u32,
    span: Span,
    /// Its report has come.
    reported: bool,
    /// Nothing more of it will be said.
    said: bool,
    /// Of its speech so far.
    times: SpeechTimings,
}

impl Drop for UnitSpan {
    fn drop(&mut self) {
        let times = [
            ("duologue.tts_s", self.times.tts),
            ("duologue.flow_s", self.times.flow),
            ("duologue.hift_s", self.times.hift),
        ];
        for (name, time) in times.into_iter().filter(|(_, time)| !time.is_zero()) {
            self.span.record(name, time.as_secs_f64());
        }
    }
}

/// The spans below one session's, out of what it does.
#[derive(Debug)]
pub(crate) struct SessionSpans {
    session: Span,
    /// Oldest first: the one that is computed, and those before it that are still being voiced.
    units: Vec<UnitSpan>,
    reply: Option<Span>,
}

impl SessionSpans {
    /// Below this span of [`session`].
    pub(crate) fn new(session: Span) -> Self {
        Self { session, units: Vec::new(), reply: None }
    }

    /// Work goes to the backend.
    pub(crate) fn work(&mut self, work: &Work) {
        let Work::Unit { unit, .. } = work else { return };
        if self.session.is_disabled() {
            return;
        }
        let span = tracing::trace_span!(
            target: TARGET,
            parent: &self.session,
            "unit",
            "gen_ai.usage.output_tokens" = field::Empty,
            "duologue.unit" = i64::from(unit.0),
            "duologue.turn" = field::Empty,
            "duologue.decision" = field::Empty,
            "duologue.end_of_turn" = field::Empty,
            "duologue.stale" = field::Empty,
            "duologue.deadline_missed" = field::Empty,
            "duologue.kv_tokens" = field::Empty,
            "duologue.unit_s" = field::Empty,
            "duologue.mel_s" = field::Empty,
            "duologue.apm_s" = field::Empty,
            "duologue.vision_s" = field::Empty,
            "duologue.prefill_s" = field::Empty,
            "duologue.decode_s" = field::Empty,
            "duologue.finalize_s" = field::Empty,
            "duologue.tts_s" = field::Empty,
            "duologue.flow_s" = field::Empty,
            "duologue.hift_s" = field::Empty,
        );
        let times = SpeechTimings::default();
        self.units.push(UnitSpan { unit: unit.0, span, reported: false, said: false, times });
    }

    /// An event of the session.
    pub(crate) fn event(&mut self, event: &SessionEvent) {
        if self.session.is_disabled() {
            return;
        }
        match event {
            SessionEvent::Unit(event) => self.unit(event),
            SessionEvent::Speech(event) => self.speech(event),
            SessionEvent::TurnBegan { turn } => {
                self.reply = Some(tracing::trace_span!(
                    target: TARGET,
                    parent: &self.session,
                    "reply",
                    "duologue.turn" = i64::from(*turn),
                    "duologue.ttfb_s" = field::Empty,
                    "duologue.outcome" = field::Empty,
                ));
            }
            SessionEvent::TurnDone { .. } => self.reply_over("done"),
            SessionEvent::Flush { .. } => {
                self.reply_over("interrupted");
                // What was to be said of them will not be made.
                self.units.retain(|unit| !unit.reported);
            }
            _ => {}
        }
    }

    fn unit(&mut self, event: &UnitEvent) {
        let Some(index) = self.units.iter().position(|unit| unit.unit == event.unit) else { return };
        let unit = &mut self.units[index];
        let (span, times) = (&unit.span, event.timings);
        span.record("gen_ai.usage.output_tokens", event.tokens as i64);
        span.record("duologue.turn", i64::from(event.turn));
        span.record("duologue.decision", if event.speaks { "speak" } else { "listen" });
        span.record("duologue.end_of_turn", event.end_of_turn);
        span.record("duologue.stale", event.stale);
        span.record("duologue.deadline_missed", event.deadline_missed);
        span.record("duologue.kv_tokens", event.kv_tokens as i64);
        for (name, time) in [
            ("duologue.unit_s", event.unit_time),
            ("duologue.mel_s", times.mel),
            ("duologue.apm_s", times.apm),
            ("duologue.vision_s", times.vision),
            ("duologue.prefill_s", times.prefill),
            ("duologue.decode_s", times.generate),
            ("duologue.finalize_s", times.finalize),
        ] {
            span.record(name, time.as_secs_f64());
        }
        unit.reported = true;
        unit.said |= !event.speaks;
        self.close_if_over(index);
    }

    /// The first words of a unit may be made before its report.
    fn speech(&mut self, event: &SpeechEvent) {
        if let (Some(ttfb), Some(reply)) = (event.ttfb, &self.reply) {
            reply.record("duologue.ttfb_s", ttfb.as_secs_f64());
        }
        let Some(index) = self.units.iter().position(|unit| unit.unit == event.unit) else { return };
        let unit = &mut self.units[index];
        unit.times.tts += event.timings.tts;
        unit.times.flow += event.timings.flow;
        unit.times.hift += event.timings.hift;
        unit.said |= event.done;
        self.close_if_over(index);
    }

    fn close_if_over(&mut self, index: usize) {
        if self.units[index].reported && self.units[index].said {
            self.units.remove(index);
        }
    }

    fn reply_over(&mut self, outcome: &str) {
        if let Some(reply) = self.reply.take() {
            reply.record("duologue.outcome", outcome);
        }
    }
}
