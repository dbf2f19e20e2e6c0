//! The wire as a pure state machine: the client's messages and the session's events in, commands and answers out.
//!
//! Contract: while [`DemoCodec::waiting`] holds, the next message of the client is not to be taken, as the demo's worker
//! does not read while it computes. So every answer belongs to the message before it, and what a slow server owes a client
//! waits in the client's own socket.

mod step;
#[cfg(test)]
mod tests;

use std::time::Duration;

use duologue_proto::demo::{
    AudioChunk, ClientEvent, Empty, Prepare, Prepared, ServerEvent, TimedPause, Timeout, parse_client,
};
use duologue_proto::payload::Base64;
use duologue_proto::wire::{ErrorCode, Limits as MessageLimits, WireError};
use duologue_session::{CoreConfig, Frame};

use crate::backend::BackendInfo;
use crate::driver::{CloseCause, SessionCommand, SessionEvent};
use crate::picture;
use step::Step;

/// Pause of a client that names none (worker.py, `duplex_pause_timeout`).
const DEFAULT_PAUSE: Duration = Duration::from_secs(60);
/// Longest pause that is worth a number; the manager's limit is below it.
const LONGEST_PAUSE_S: f64 = 1e6;

/// WebSocket close codes of this wire (RFC 6455 section 7.4.1 and the IANA registry).
pub mod close {
    /// The session ended as it should.
    pub const NORMAL: u16 = 1000;
    /// The server stops.
    pub const AWAY: u16 = 1001;
    /// The client broke the WebSocket protocol or sent too much at once.
    pub const PROTOCOL: u16 = 1002;
    /// The client is refused.
    pub const POLICY: u16 = 1008;
    /// The server failed.
    pub const INTERNAL: u16 = 1011;
    /// No place is free.
    pub const TRY_AGAIN: u16 = 1013;
}

/// When something happened.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    /// On a clock that never runs backwards.
    pub clock: Duration,
    /// Unix time in seconds.
    pub unix_s: f64,
}

/// What a message or an event leads to, in order.
#[derive(Debug)]
pub enum Reaction {
    /// Open the session; [`DemoCodec::not_opened`] if it cannot be.
    Open(Box<Prepare>),
    /// Tell the session.
    Command(SessionCommand),
    /// Answer the client.
    Reply(ServerEvent),
    /// Close the connection.
    Close {
        /// Why, as a number.
        code: u16,
        /// Why, for a person.
        reason: &'static str,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No `prepare` yet.
    Fresh,
    /// The model reads the prompt.
    Preparing,
    /// Chunks are welcome.
    Running,
    /// Nothing follows.
    Over,
}

/// One client's session on this wire.
#[derive(Debug)]
pub struct DemoCodec {
    limits: MessageLimits,
    unit_samples: usize,
    frames_per_unit: usize,
    vision: bool,
    state: State,
    paused: bool,
    /// The session has not yet said that it pauses or goes on.
    pausing: bool,
    /// Length of the pause.
    pause: Duration,
    /// Slices of a picture whose chunk does not say.
    slices: u32,
    /// The client wants speech.
    generate_audio: bool,
    chunks: u64,
    /// Samples and pictures of the unit that is being collected.
    filled: usize,
    frames: usize,
    /// Cached positions after the last unit.
    kv_tokens: usize,
    /// The chunk that is being answered.
    step: Option<Step>,
}

impl DemoCodec {
    /// A codec for a client that has just connected.
    pub fn new(info: &BackendInfo, limits: MessageLimits) -> Self {
        let core = CoreConfig::new(&info.duplex, info.output_rate_hz);
        Self {
            limits,
            unit_samples: core.unit_samples,
            frames_per_unit: core.frames_per_unit,
            vision: info.vision,
            state: State::Fresh,
            paused: false,
            pausing: false,
            pause: DEFAULT_PAUSE,
            slices: 1,
            generate_audio: true,
            chunks: 0,
            filled: 0,
            frames: 0,
            kv_tokens: 0,
            step: None,
        }
    }

    /// The last message is not answered yet, or nothing more is to be taken at all.
    pub fn waiting(&self) -> bool {
        matches!(self.state, State::Preparing | State::Over) || self.pausing || self.step.is_some()
    }

    /// The client has paused its session.
    pub fn paused(&self) -> bool {
        self.paused
    }

    /// Cached positions after the last unit.
    pub fn kv_tokens(&self) -> usize {
        self.kv_tokens
    }

    /// Takes one message of the client, which came at `arrived`.
    ///
    /// # Errors
    /// [`WireError`] for the client; the session goes on as if the message had not come.
    pub fn receive(&mut self, text: &str, arrived: Moment) -> Result<Vec<Reaction>, WireError> {
        assert!(!self.waiting(), "a message while the last one is unanswered. This is a bug.");
        let reply = |event| Ok(vec![Reaction::Reply(event)]);
        match parse_client(text, &self.limits)? {
            ClientEvent::Prepare(prepare) => self.prepare(prepare),
            ClientEvent::AudioChunk(chunk) => self.chunk(chunk, arrived),
            ClientEvent::VideoFrame(video) => {
                self.must_run()?;
                let frame = self.frame("frame", &video.frame, self.slices)?;
                self.take_frames(vec![frame])
            }
            ClientEvent::Pause(pause) => {
                self.must_run()?;
                (self.paused, self.pausing) = (true, true);
                let timeout = pause.timeout.map(|seconds| Duration::from_secs_f64(seconds.min(LONGEST_PAUSE_S)));
                Ok(vec![Reaction::Command(SessionCommand::Pause(timeout.unwrap_or(DEFAULT_PAUSE)))])
            }
            ClientEvent::Resume(_) => {
                self.must_run()?;
                (self.paused, self.pausing) = (false, true);
                Ok(vec![Reaction::Command(SessionCommand::Resume)])
            }
            ClientEvent::Interrupt(_) => reply(ServerEvent::Interrupted(Empty {})),
            ClientEvent::ClientDiagnostic(_) => Ok(Vec::new()),
            ClientEvent::Stop(_) => {
                let running = self.state == State::Running;
                self.state = State::Over;
                let stop = running.then_some(Reaction::Command(SessionCommand::Close(CloseCause::Requested)));
                let goodbye = Reaction::Reply(ServerEvent::Stopped(Empty {}));
                Ok(stop.into_iter().chain([goodbye, Reaction::Close { code: close::NORMAL, reason: "" }]).collect())
            }
        }
    }

    /// The session that [`Reaction::Open`] asked for was refused; the client may ask for another.
    pub fn not_opened(&mut self) {
        assert_eq!(self.state, State::Preparing, "nothing was to be opened. This is a bug.");
        self.state = State::Fresh;
    }

    fn must_run(&self) -> Result<(), WireError> {
        match self.state {
            State::Running => Ok(()),
            _ => Err(WireError::new(ErrorCode::AudioBeforeStart, "Not prepared: send `prepare` first")),
        }
    }

    fn prepare(&mut self, prepare: Box<Prepare>) -> Result<Vec<Reaction>, WireError> {
        if self.state != State::Fresh {
            let message = "Already prepared: a connection has one session; open another connection for another prompt";
            return Err(WireError::new(ErrorCode::AlreadyStarted, message));
        }
        self.state = State::Preparing;
        self.slices = prepare.slices();
        self.generate_audio = prepare.config.as_ref().is_none_or(|config| config.generate_audio);
        Ok(vec![Reaction::Open(prepare)])
    }

    fn chunk(&mut self, chunk: AudioChunk, arrived: Moment) -> Result<Vec<Reaction>, WireError> {
        self.must_run()?;
        if self.paused {
            return Err(WireError::new(ErrorCode::InvalidValue, "Worker is paused"));
        }
        let slices = chunk.max_slice_nums.filter(|slices| *slices > 0).unwrap_or(self.slices);
        let files = chunk.frame_base64_list.as_deref().unwrap_or_default();
        let frame = |(index, file)| self.frame(&format!("frame_base64_list[{index}]"), file, slices);
        let frames = files.iter().enumerate().map(frame).collect::<Result<Vec<_>, _>>()?;
        let mut reactions = self.take_frames(frames)?;
        if chunk.force_listen == Some(true) {
            reactions.push(Reaction::Command(SessionCommand::ForceListen));
        }
        self.chunks += 1;
        let samples = chunk.audio_base64.0;
        self.step = Some(Step::new(self.chunks, arrived, samples, self.kv_tokens));
        reactions.extend(self.go_on(arrived));
        Ok(reactions)
    }

    fn frame(&self, param: &str, file: &Base64, slices: u32) -> Result<Frame, WireError> {
        if !self.vision {
            return Err(WireError::unsupported(param, format!("{param}: this model has no eyes; send audio only")));
        }
        picture::decode(&file.0, slices).map_err(|error| WireError::invalid(param, format!("{param}: {error}")))
    }

    fn take_frames(&mut self, frames: Vec<Frame>) -> Result<Vec<Reaction>, WireError> {
        let all = self.frames + frames.len();
        if all > self.frames_per_unit {
            let message = format!("{all} images for one unit; at most {} are seen", self.frames_per_unit);
            return Err(WireError::at(ErrorCode::TooLarge, "frame_base64_list", message));
        }
        self.frames = all;
        Ok(frames.into_iter().map(|frame| Reaction::Command(SessionCommand::Frame(frame))).collect())
    }

    /// Hands the session audio up to the end of a unit, or answers the chunk when nothing of it is left. One unit at a time:
    /// the session's backlog, which drops what is too old, is never used.
    fn go_on(&mut self, now: Moment) -> Vec<Reaction> {
        let Some(step) = &mut self.step else { return Vec::new() };
        let samples = step.take(self.unit_samples - self.filled);
        if samples.is_empty() {
            let result = self.step.take().map(|step| step.answer(now, self.generate_audio));
            return result.into_iter().map(|result| Reaction::Reply(ServerEvent::Result(Box::new(result)))).collect();
        }
        self.filled += samples.len();
        let mut reactions = vec![Reaction::Command(SessionCommand::Audio(samples))];
        if self.filled == self.unit_samples {
            (self.filled, self.frames) = (0, 0);
            step.expect_unit();
        } else {
            reactions.extend(self.go_on(now));
        }
        reactions
    }

    /// Takes one event of the session.
    pub fn event(&mut self, event: &SessionEvent, now: Moment) -> Vec<Reaction> {
        let reply = |event| vec![Reaction::Reply(event)];
        match event {
            SessionEvent::Ready(report) => {
                self.state = State::Running;
                self.kv_tokens = report.kv_len;
                reply(ServerEvent::Prepared(Prepared { prompt_length: report.kv_len, recording_session_id: None }))
            }
            SessionEvent::Unit(unit) => {
                self.kv_tokens = unit.kv_tokens;
                self.progress(now, |step| step.unit(unit))
            }
            SessionEvent::Speech(speech) => self.progress(now, |step| step.speech(speech)),
            SessionEvent::Audio { samples, .. } => self.progress(now, |step| step.audio(samples)),
            SessionEvent::Flush { .. } => self.progress(now, Step::flush),
            SessionEvent::Paused { timeout } => {
                (self.pausing, self.pause) = (false, *timeout);
                reply(ServerEvent::Paused(TimedPause { timeout: timeout.as_secs_f64() }))
            }
            SessionEvent::Resumed => {
                self.pausing = false;
                reply(ServerEvent::Resumed(Empty {}))
            }
            SessionEvent::Closed(cause) => self.closed(cause),
            // The demo has no words for these: replies are told by their units, the detector does not listen here, units
            // and frames are never dropped (`go_on`, `take_frames`), and a drain ends in `Closed`.
            SessionEvent::TurnBegan { .. }
            | SessionEvent::TurnDone { .. }
            | SessionEvent::Truncated { .. }
            | SessionEvent::Hold { .. }
            | SessionEvent::Unhold { .. }
            | SessionEvent::Voice { .. }
            | SessionEvent::UnitDropped
            | SessionEvent::FrameDropped
            | SessionEvent::TextDropped
            | SessionEvent::Draining(_) => Vec::new(),
        }
    }

    fn progress(&mut self, now: Moment, change: impl FnOnce(&mut Step)) -> Vec<Reaction> {
        let Some(step) = &mut self.step else { return Vec::new() };
        change(step);
        if step.expects_more() { Vec::new() } else { self.go_on(now) }
    }

    fn closed(&mut self, cause: &CloseCause) -> Vec<Reaction> {
        self.state = State::Over;
        self.step = None;
        let timeout = |reason: String| ServerEvent::Timeout(Timeout { reason });
        let error = || ServerEvent::refusal(&WireError::new(ErrorCode::Internal, cause.detail()));
        let (event, code, reason) = match cause {
            CloseCause::Requested | CloseCause::ConnectionLost => (None, close::NORMAL, ""),
            CloseCause::PauseTimeout => {
                let reason = format!("Pause timeout ({:?}s)", self.pause.as_secs_f64());
                (Some(timeout(reason)), close::NORMAL, "Pause timeout")
            }
            CloseCause::Idle => (Some(timeout("No audio came for too long".into())), close::NORMAL, "Idle"),
            CloseCause::MaxDuration => {
                (Some(timeout("Maximum duration reached".into())), close::NORMAL, "Maximum duration")
            }
            CloseCause::Draining => (Some(error()), close::AWAY, "Server draining"),
            CloseCause::SlowClient => (Some(error()), close::POLICY, "Slow client"),
            CloseCause::Failed(_) => (Some(error()), close::INTERNAL, "Session failed"),
        };
        event.map(Reaction::Reply).into_iter().chain([Reaction::Close { code, reason }]).collect()
    }
}
