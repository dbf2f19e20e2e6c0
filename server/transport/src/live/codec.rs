//! The wire as a pure state machine, the same on a WebSocket and on a data channel.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use duologue_audio::stream::Resampler;
use duologue_proto::live::{
    AudioConfig, AudioDelta, AudioFormat, BundleInfo, ClientEvent, ClientMessage, CloseDetail, CloseReason,
    ContextWindow, DeltaExtension, Draining, Dropped, DroppedKind, Empty, Flush, Hold, Paused, ServerEvent,
    ServerMessage, SessionClosed, SessionConfig, SessionExtension, SessionLimits, SessionResource, SessionSnapshot,
    SessionStatus, Speech, SpeechStages, StartedExtension, TranscriptDelta, Truncated, TruncatedUnit, Turn, TurnState,
    Unit, UnitStages, Usage, UsageUpdated, VoiceActivity, parse_client,
};
use duologue_proto::live::{AudioOutput, FlushCause as WireFlushCause};
use duologue_proto::payload::{Base64, decode_s16le};
use duologue_proto::timeline::Decision;
use duologue_proto::wire::{ErrorCode, Limits as MessageLimits, WireError};
use duologue_session::Frame;

use super::output::{Output, Piece, law, resampler, to_float};
use super::transcript::{Fragment, Transcript};
use crate::backend::BackendInfo;
use crate::driver::{CloseCause, FlushCause, Sequenced, SessionCommand, SessionEvent, SpeechEvent, UnitEvent};
use crate::manager::{Limits, Sideband};
use crate::picture;

/// Units between two `session.usage.updated`.
const USAGE_INTERVAL: u32 = 10;

/// What a client's message leads to.
#[derive(Debug)]
pub enum Reaction {
    /// Tell the session.
    Command(SessionCommand),
    /// Answer the client.
    Reply(ServerMessage),
}

/// Where a client has the sound of its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sound {
    /// In messages.
    Messages,
    /// Beside them, over WebRTC.
    Media,
    /// Nowhere: it is attached to another client's session.
    Elsewhere,
}

/// One client's session on this wire.
#[derive(Debug)]
pub struct LiveCodec {
    format: AudioFormat,
    limits: MessageLimits,
    /// The client understands `duologue.*` events.
    extension: bool,
    sound: Sound,
    /// The model reads typed questions.
    typed: bool,
    vision: bool,
    input_rate_hz: u32,
    output_rate_hz: u32,
    context_tokens: usize,
    unit: Duration,
    pause: Duration,
    input: Resampler,
    output: Output,
    /// Of the session, not of this connection: it stays muted when its client comes back.
    muted: Arc<AtomicBool>,
    paused: bool,
    resumed: bool,
    session: SessionResource,
    /// Words of a client without the extension, which wait for their sound.
    transcript: Transcript,
    seconds: f64,
}

/// What a codec is made for.
#[derive(Debug)]
pub struct LiveSession<'a> {
    /// Name of the session.
    pub id: &'a str,
    /// Its resume token.
    pub resume_token: &'a str,
    /// It goes on after a lost connection.
    pub resumed: bool,
    /// What the client asked for.
    pub config: &'a SessionConfig,
    /// What is served.
    pub info: &'a BackendInfo,
    /// The manager's limits.
    pub limits: &'a Limits,
    /// Id of the recording that is made.
    pub recording_id: Option<String>,
    /// Whether its client has muted it.
    pub muted: Arc<AtomicBool>,
    /// Where its sound is.
    pub sound: Sound,
}

impl LiveCodec {
    /// A codec for a session that was just opened.
    pub fn new(session: &LiveSession<'_>, limits: MessageLimits) -> Self {
        let LiveSession { config, info, .. } = session;
        let extension = config.duologue.as_ref();
        let format = config.audio_format();
        let mut codec = Self {
            format,
            limits,
            extension: extension.is_some_and(|extension| extension.units != Some(false)),
            sound: session.sound,
            typed: info.typed,
            vision: info.vision,
            input_rate_hz: info.duplex.sample_rate_hz,
            output_rate_hz: info.output_rate_hz,
            context_tokens: info.context_tokens,
            unit: Duration::from_millis(u64::from(info.duplex.chunk_ms)),
            pause: session.limits.pause,
            input: resampler(format.rate(), info.duplex.sample_rate_hz),
            output: Output::new(info.output_rate_hz, format),
            muted: session.muted.clone(),
            paused: false,
            resumed: session.resumed,
            session: resource(session),
            transcript: Transcript::default(),
            seconds: 0.0,
        };
        if !codec.extension {
            codec.session.duologue = None;
        }
        codec
    }

    /// A codec for a second program, attached to a session that has run for a while. It is told what it has a right to
    /// know: not the client's wishes, nor how to take the session over.
    pub fn sideband(sideband: &Sideband, info: &BackendInfo, limits: &Limits, messages: MessageLimits) -> Self {
        let config = SessionConfig { duologue: Some(SessionExtension::default()), ..SessionConfig::default() };
        let session = LiveSession {
            id: sideband.id.as_str(),
            resume_token: "",
            resumed: true,
            config: &config,
            info,
            limits,
            recording_id: None,
            muted: Arc::default(),
            sound: Sound::Elsewhere,
        };
        let mut codec = Self::new(&session, messages);
        codec.session.expires_at -= sideband.age.as_secs();
        codec.session.instructions = None;
        codec
    }

    /// Takes one message of the client.
    ///
    /// # Errors
    /// [`WireError`] for the client; the session goes on.
    pub fn receive(&mut self, text: &str) -> Result<Vec<Reaction>, WireError> {
        let ClientMessage { event_id, event } = parse_client(text, &self.limits, self.format)?;
        self.react(event, event_id.as_deref()).map_err(|error| error.for_event(event_id.as_deref()))
    }

    fn react(&mut self, event: ClientEvent, event_id: Option<&str>) -> Result<Vec<Reaction>, WireError> {
        let reply = |event| Reaction::Reply(message(None, event_id, event));
        let command = |command| Ok(vec![Reaction::Command(command)]);
        match event {
            ClientEvent::SessionStart(_) => {
                Err(WireError::new(ErrorCode::AlreadyStarted, "the session runs; a connection has one session"))
            }
            ClientEvent::SessionUpdate(_) => {
                let snapshot = SessionSnapshot { session: self.session.clone() };
                Ok(vec![reply(ServerEvent::SessionUpdated(Box::new(snapshot)))])
            }
            ClientEvent::InputAudioAppend(_)
            | ClientEvent::InputAudioMute(_)
            | ClientEvent::InputAudioUnmute(_)
            | ClientEvent::Playback(_)
                if self.sound == Sound::Elsewhere =>
            {
                Err(WireError::unsupported("type", "the sound of this session is another client's"))
            }
            ClientEvent::InputAudioAppend(_) if self.sound == Sound::Media => {
                Err(WireError::unsupported("type", "audio of this session comes over WebRTC"))
            }
            ClientEvent::InputAudioAppend(append) => {
                let samples = self.samples(&append.audio)?;
                command(SessionCommand::Audio(samples))
            }
            ClientEvent::InputAudioMute(_) => {
                self.muted.store(true, Ordering::Relaxed);
                Ok(vec![reply(ServerEvent::InputAudioMuted(Empty {}))])
            }
            ClientEvent::InputAudioUnmute(_) => {
                self.muted.store(false, Ordering::Relaxed);
                Ok(vec![reply(ServerEvent::InputAudioUnmuted(Empty {}))])
            }
            ClientEvent::FixturePlay(_)
            | ClientEvent::InstructionsAppend(_)
            | ClientEvent::ThinkingAppend(_)
            | ClientEvent::CommentaryAppend(_) => Err(WireError::unsupported(
                "type",
                "the model hears and sees only; give it text in `session.instructions` at the start",
            )),
            ClientEvent::SessionClose(_) => command(SessionCommand::Close(CloseCause::Requested)),
            ClientEvent::ForceListen(_) => command(SessionCommand::ForceListen),
            ClientEvent::Interrupt(_) => command(SessionCommand::Interrupt),
            ClientEvent::Pause(pause) => {
                self.paused = true;
                let timeout = pause.timeout_s.map_or(self.pause, |s| Duration::from_secs_f64(s.min(1e6)));
                command(SessionCommand::Pause(timeout))
            }
            ClientEvent::Resume(_) => {
                self.paused = false;
                command(SessionCommand::Resume)
            }
            ClientEvent::Playback(playback) => command(SessionCommand::Playback {
                turn: u32::try_from(playback.turn).unwrap_or(u32::MAX),
                played: Duration::from_secs_f64(playback.played_ms.min(1e9) / 1e3),
            }),
            ClientEvent::Ping(ping) => Ok(vec![reply(ServerEvent::Pong(ping))]),
            ClientEvent::InputTextAppend(_) if !self.typed => {
                Err(WireError::unsupported("type", "this model reads no typed questions; say it"))
            }
            ClientEvent::InputTextAppend(typed) => command(SessionCommand::Text(typed.text)),
            ClientEvent::InputFrameAppend(_) if !self.vision => {
                Err(WireError::unsupported("type", "this model does not see"))
            }
            ClientEvent::InputFrameAppend(frame) => command(SessionCommand::Frame(self.frame(&frame.image)?)),
        }
    }

    /// User audio at the model's rate.
    fn samples(&mut self, audio: &Base64) -> Result<Vec<f32>, WireError> {
        let samples = match law(self.format) {
            Some(law) => to_float(&law.decode(&audio.0)),
            None => decode_s16le(&audio.0).map_err(|error| WireError::invalid("audio", error.to_string()))?,
        };
        let samples = self.input.push(&samples);
        Ok(self.heard(samples))
    }

    /// What the model hears of user audio: silence while the client is muted, so that the clock goes on.
    pub fn heard(&self, mut samples: Vec<f32>) -> Vec<f32> {
        if self.muted.load(Ordering::Relaxed) {
            samples.fill(0.0);
        }
        samples
    }

    fn frame(&self, image: &Base64) -> Result<Frame, WireError> {
        picture::decode(&image.0, 1).map_err(|error| WireError::invalid("image", error.to_string()))
    }

    /// The messages that an event becomes; none when the client does not care.
    pub fn send(&mut self, event: &Sequenced) -> Vec<ServerMessage> {
        let mut events = Vec::new();
        self.translate(&event.event, &mut events);
        let seq = event.seq;
        let id = |part: usize| if part == 0 { format!("evt_{seq}") } else { format!("evt_{seq}.{part}") };
        events.into_iter().enumerate().map(|(part, event)| message(Some(id(part)), None, event)).collect()
    }

    /// `session.started`; a WebSocket sends it when the session is ready or resumed, a data channel when it opens.
    pub fn started(&self) -> ServerEvent {
        ServerEvent::SessionStarted(Box::new(SessionSnapshot { session: self.session.clone() }))
    }

    fn translate(&mut self, event: &SessionEvent, out: &mut Vec<ServerEvent>) {
        self.words(event, out);
        let extension = self.extension;
        let mut tell = |event: ServerEvent| {
            if extension {
                out.push(event);
            }
        };
        match event {
            SessionEvent::Ready(_) => out.push(self.started()),
            SessionEvent::Unit(unit) => self.unit(unit, out),
            SessionEvent::Speech(speech) => tell(ServerEvent::Speech(self.speech(speech))),
            SessionEvent::Audio { turn, start, samples } if self.sound == Sound::Messages => {
                out.extend(self.output.push(*turn, *start, samples).into_iter().map(|piece| delta(piece, extension)));
            }
            SessionEvent::Audio { .. } => {}
            SessionEvent::TurnBegan { turn } => tell(turn_event(*turn, TurnState::Begin)),
            SessionEvent::TurnDone { turn } => {
                out.extend(self.output.finish().map(|piece| delta(piece, extension)));
                if extension {
                    out.push(turn_event(*turn, TurnState::Done));
                }
            }
            SessionEvent::Flush { turn, cause } => {
                self.output.drop_reply();
                if let Some(stopped) = turn.checked_sub(1) {
                    tell(turn_event(stopped, TurnState::Interrupted));
                }
                let cause = match cause {
                    FlushCause::Voice => WireFlushCause::Voice,
                    FlushCause::Client => WireFlushCause::Client,
                };
                tell(ServerEvent::Flush(Flush { turn: (*turn).into(), cause }));
            }
            SessionEvent::Truncated { turn, heard, units } => tell(ServerEvent::Truncated(Truncated {
                turn: (*turn).into(),
                audio_end_ms: heard.as_millis() as u64,
                units: units
                    .iter()
                    .map(|(unit, text)| TruncatedUnit { unit: (*unit).into(), text: text.clone() })
                    .collect(),
            })),
            SessionEvent::Hold { turn } => tell(ServerEvent::Hold(Hold { turn: (*turn).into() })),
            SessionEvent::Unhold { turn } => tell(ServerEvent::Unhold(Hold { turn: (*turn).into() })),
            SessionEvent::Voice { speaking, at } => {
                tell(ServerEvent::Voice(VoiceActivity { speaking: *speaking, at_ms: at.as_millis() as u64 }));
            }
            SessionEvent::Paused { timeout } => {
                tell(ServerEvent::Paused(Paused { timeout_s: timeout.as_secs_f64() }));
            }
            SessionEvent::Resumed => tell(ServerEvent::Resumed(Empty {})),
            SessionEvent::UnitDropped => tell(dropped(DroppedKind::Unit)),
            SessionEvent::TextDropped => tell(dropped(DroppedKind::Text)),
            SessionEvent::FrameDropped => tell(dropped(DroppedKind::Frame)),
            SessionEvent::Draining(limit) => {
                tell(ServerEvent::Draining(Draining { seconds: limit.as_secs_f64() }));
            }
            SessionEvent::Closed(cause) => {
                if let CloseCause::Failed(message) = cause {
                    out.push(ServerEvent::refusal(&WireError::new(ErrorCode::Internal, message.clone())));
                }
                out.push(self.closed(cause));
            }
        }
    }

    /// What a client without the extension is told of the model's words, before the event itself. One with it gets a unit's
    /// words at once: it places them itself, and knows `duologue.flush`.
    fn words(&mut self, event: &SessionEvent, out: &mut Vec<ServerEvent>) {
        if self.extension {
            return;
        }
        let told = match event {
            SessionEvent::Unit(unit) if unit.speaks => self.transcript.say(&unit.text, unit.ready_at, self.unit),
            SessionEvent::Audio { samples, .. } => {
                let seconds = samples.len() as f64 / f64::from(self.output_rate_hz);
                self.transcript.sound(Duration::from_secs_f64(seconds))
            }
            SessionEvent::TurnDone { .. } | SessionEvent::Closed(_) => self.transcript.rest(),
            SessionEvent::Flush { .. } => {
                self.transcript.forget();
                return;
            }
            _ => return,
        };
        out.extend(told.into_iter().map(|Fragment { text, start, end }| {
            ServerEvent::OutputTranscriptDelta(TranscriptDelta {
                delta: text,
                start_ms: start.as_millis() as u64,
                end_ms: end.as_millis() as u64,
                duologue: None,
            })
        }));
    }

    fn unit(&mut self, unit: &UnitEvent, out: &mut Vec<ServerEvent>) {
        let end = unit.ready_at + self.unit;
        self.seconds = unit.ready_at.as_secs_f64();
        if self.extension {
            out.push(ServerEvent::Unit(unit_event(unit)));
            if unit.speaks && !unit.text.is_empty() {
                out.push(ServerEvent::OutputTranscriptDelta(TranscriptDelta {
                    delta: unit.text.clone(),
                    start_ms: unit.ready_at.as_millis() as u64,
                    end_ms: end.as_millis() as u64,
                    duologue: Some(DeltaExtension { turn: unit.turn.into(), start_ms: None }),
                }));
            }
        }
        if unit.unit % USAGE_INTERVAL == USAGE_INTERVAL - 1 {
            let usage_ratio = unit.kv_tokens as f64 / self.context_tokens as f64;
            out.push(ServerEvent::UsageUpdated(UsageUpdated {
                usage: Usage { seconds: self.seconds },
                context_window: Some(ContextWindow { usage_ratio }),
            }));
        }
    }

    fn speech(&self, speech: &SpeechEvent) -> Speech {
        Speech {
            turn: speech.turn.into(),
            unit: speech.unit.into(),
            start_ms: speech.start as f64 * 1e3 / f64::from(self.output_rate_hz),
            samples: speech.samples,
            codes: speech.audio_tokens,
            stages: SpeechStages {
                tts_ms: milliseconds(speech.timings.tts),
                flow_ms: milliseconds(speech.timings.flow),
                hift_ms: milliseconds(speech.timings.hift),
            },
            first: speech.ttfb.is_some(),
            ttfb_ms: speech.ttfb.map(milliseconds),
        }
    }

    fn closed(&self, cause: &CloseCause) -> ServerEvent {
        let reason = match cause {
            CloseCause::Requested | CloseCause::Draining => CloseReason::CloseRequested,
            CloseCause::Idle | CloseCause::MaxDuration | CloseCause::PauseTimeout => CloseReason::Expired,
            CloseCause::ConnectionLost | CloseCause::SlowClient | CloseCause::Failed(_) => CloseReason::ConnectionLost,
        };
        ServerEvent::SessionClosed(Box::new(SessionClosed {
            reason,
            session: self.session.clone(),
            usage: Usage { seconds: self.seconds },
            duologue: self.extension.then(|| CloseDetail { detail: cause.detail().to_owned() }),
        }))
    }

    /// The session goes on after a lost connection: the client is told so before anything else.
    pub fn resumed(&self) -> bool {
        self.resumed
    }

    /// The client has paused its session: audio that comes meanwhile is not heard.
    pub fn paused(&self) -> bool {
        self.paused
    }

    /// Rate at which the session hears.
    pub fn input_rate_hz(&self) -> u32 {
        self.input_rate_hz
    }
}

fn resource(session: &LiveSession<'_>) -> SessionResource {
    let LiveSession { config, info, limits, .. } = session;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    SessionResource {
        id: session.id.to_owned(),
        expires_at: (now + limits.session).as_secs(),
        model: config.model.clone().unwrap_or_else(|| info.name.clone()),
        status: SessionStatus::Active,
        audio: Some(AudioConfig {
            format: (session.sound == Sound::Messages).then(|| config.audio_format()),
            output: config.voice().map(|voice| AudioOutput { voice: Some(voice.clone()) }),
        }),
        delegation: config.delegation.clone(),
        instructions: Some(config.instructions.clone().unwrap_or_else(|| info.default_instructions.clone())),
        store: config.wants_recording().then_some(session.recording_id.is_some()),
        duologue: Some(StartedExtension {
            resume_token: session.resume_token.to_owned(),
            resume_window_s: limits.resume.as_secs_f64(),
            resumed: session.resumed,
            unit_ms: info.duplex.chunk_ms,
            input_rate: info.duplex.sample_rate_hz,
            output_rate: info.output_rate_hz,
            bundle: bundle_info(info),
            recording_id: session.recording_id.clone(),
            voices: info.voices.clone(),
            limits: SessionLimits { max_session_s: limits.session.as_secs_f64(), idle_s: limits.idle.as_secs_f64() },
            forced_schedule: config.duologue.as_ref().and_then(|extension| extension.forced_schedule),
        }),
    }
}

/// What a client is told of the bundle.
pub fn bundle_info(info: &BackendInfo) -> BundleInfo {
    BundleInfo {
        name: info.name.clone(),
        precision: info.precision.clone(),
        sha256: info.sha256.clone(),
        random_weights: info.random_weights,
        typed: info.typed,
    }
}

fn unit_event(unit: &UnitEvent) -> Unit {
    Unit {
        unit: unit.unit.into(),
        turn: unit.turn.into(),
        decision: if unit.speaks { Decision::Speak } else { Decision::Listen },
        text: unit.text.clone(),
        end_of_turn: unit.end_of_turn,
        stale: unit.stale,
        ready_ms: milliseconds(unit.ready_at),
        unit_ms: milliseconds(unit.unit_time),
        deadline_missed: unit.deadline_missed,
        stages: UnitStages {
            mel_ms: milliseconds(unit.timings.mel),
            apm_ms: milliseconds(unit.timings.apm),
            vision_ms: milliseconds(unit.timings.vision),
            prefill_ms: milliseconds(unit.timings.prefill),
            llm_ms: milliseconds(unit.timings.generate + unit.timings.finalize),
        },
        tokens: unit.tokens as u32,
        kv_tokens: unit.kv_tokens,
    }
}

fn message(event_id: Option<String>, client_event_id: Option<&str>, event: ServerEvent) -> ServerMessage {
    ServerMessage { event_id, client_event_id: client_event_id.map(str::to_owned), event }
}

fn turn_event(turn: u32, state: TurnState) -> ServerEvent {
    ServerEvent::Turn(Turn { turn: turn.into(), state })
}

fn dropped(what: DroppedKind) -> ServerEvent {
    ServerEvent::Dropped(Dropped { what, count: 1 })
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn delta(piece: Piece, extension: bool) -> ServerEvent {
    let Piece { turn, start_ms, bytes } = piece;
    let duologue = extension.then(|| DeltaExtension { turn: turn.into(), start_ms: Some(start_ms) });
    ServerEvent::OutputAudioDelta(AudioDelta { delta: Base64(bytes), duologue })
}
