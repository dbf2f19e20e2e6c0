//! A session driven from recorded input, one unit after the other, as fast as the machine goes.
//!
//! The same core and engine as a live session, only that the next second of audio is handed in when the unit before is done.

use std::time::{Duration, Instant};

use duologue_session::{
    CloseReason, CoreConfig, DuplexSession, Event, Frame, Input, Output, PreparedReport, SessionConfig, SpeechOrder,
    SpeechTimings, UnitReport,
};

use crate::engine::{Engine, OpenOptions, SessionHandle};
use crate::error::EngineError;

/// Input of one unit.
#[derive(Debug, Default)]
pub struct UnitInput {
    /// One chunk of 16 kHz audio.
    pub audio: Vec<f32>,
    /// Video frames of the unit.
    pub frames: Vec<Frame>,
    /// What the user types.
    pub text: String,
    /// Listen whatever the model wants.
    pub force_listen: bool,
}

/// A unit with everything that came of it.
#[derive(Debug)]
pub struct FinishedUnit {
    /// LLM side.
    pub report: UnitReport,
    /// Reply audio, 24 kHz.
    pub samples: Vec<i16>,
    /// Audio tokens.
    pub codes: Vec<u32>,
    /// Speech side.
    pub speech: SpeechTimings,
    /// From the complete chunk to the first samples of its speech; none in a unit without sound.
    pub first_sound: Option<Duration>,
    /// From the complete chunk to the finalized unit with its last audio.
    pub unit_time: Duration,
}

/// A session between units.
#[derive(Debug)]
pub struct Conversation {
    core: DuplexSession,
    handle: SessionHandle,
    begin: Instant,
    unit_samples: usize,
    turn_open: bool,
    prepared: Option<PreparedReport>,
    pending: Option<Pending>,
}

/// What a unit still waits for.
#[derive(Debug)]
struct Pending {
    begin: Instant,
    report: Option<Box<UnitReport>>,
    samples: Vec<i16>,
    codes: Vec<u32>,
    speech: SpeechTimings,
    first_sound: Option<Duration>,
    /// No more speech will come: all of it is there, or it was interrupted.
    speech_done: bool,
}

impl Conversation {
    /// Takes a slot and prepares the session.
    ///
    /// # Errors
    /// Whatever [`Engine::open`] says, or [`EngineError::SessionEnded`] when the prompt or the voice failed.
    pub fn begin(engine: &Engine, config: &SessionConfig, options: OpenOptions) -> Result<Self, EngineError> {
        let manifest = engine.bundle().manifest();
        let output_rate = manifest.token2wav.as_ref().map_or(manifest.duplex.sample_rate_hz, |t| t.sample_rate_hz);
        let mut core_config = CoreConfig::new(&manifest.duplex, output_rate);
        core_config.cut_unheard = config.conduct.cut_unheard;
        let unit_samples = core_config.unit_samples;
        let core = DuplexSession::new(core_config, Duration::ZERO);
        let handle = engine.open(config, options)?;
        let mut conversation =
            Self { core, handle, begin: Instant::now(), unit_samples, turn_open: false, prepared: None, pending: None };
        conversation.drain()?;
        while conversation.prepared.is_none() {
            conversation.wait()?;
        }
        Ok(conversation)
    }

    /// What the preparation came to.
    pub fn prepared(&self) -> PreparedReport {
        self.prepared.expect("begin waits for it. This is a bug.")
    }

    /// The model has begun to speak and not ended its turn.
    pub fn turn_open(&self) -> bool {
        self.turn_open
    }

    /// Runs one unit to its last sample of speech.
    ///
    /// # Errors
    /// [`EngineError::SessionEnded`] when a stage failed; the conversation is over then.
    pub fn unit(&mut self, input: UnitInput) -> Result<FinishedUnit, EngineError> {
        self.start_unit(input)?;
        self.finish_unit()
    }

    /// Hands a unit's input to the engine and returns at once.
    ///
    /// # Errors
    /// [`EngineError::Stopped`].
    ///
    /// # Panics
    /// If the last unit is not finished, or the audio is not one chunk.
    pub fn start_unit(&mut self, input: UnitInput) -> Result<(), EngineError> {
        assert!(self.pending.is_none(), "the last unit is not finished. This is a bug.");
        assert_eq!(input.audio.len(), self.unit_samples, "a unit's input is one chunk. This is a bug.");
        let pending = Pending::new(Instant::now());
        if input.force_listen {
            self.core.handle(self.begin.elapsed(), Input::ForceListen);
        }
        if !input.text.is_empty() {
            self.core.handle(self.begin.elapsed(), Input::Text(input.text));
        }
        for frame in input.frames {
            self.core.handle(self.begin.elapsed(), Input::Frame(frame));
        }
        self.core.handle(self.begin.elapsed(), Input::Audio(input.audio));
        self.pending = Some(pending);
        self.drain()
    }

    /// Barge-in: what the model says stops now, and the next unit must listen. No effect while it does not speak.
    ///
    /// # Errors
    /// [`EngineError::Stopped`].
    pub fn interrupt(&mut self) -> Result<(), EngineError> {
        self.core.handle(self.begin.elapsed(), Input::Interrupt);
        self.drain()
    }

    /// What of all speech so far was heard when it was stopped, in samples, where the caller knows better than the clock.
    ///
    /// # Errors
    /// [`EngineError::Stopped`].
    pub fn heard(&mut self, samples: u64) -> Result<(), EngineError> {
        self.core.handle(self.begin.elapsed(), Input::Heard(samples));
        self.drain()
    }

    /// Waits for the started unit.
    ///
    /// # Errors
    /// As [`Conversation::unit`].
    pub fn finish_unit(&mut self) -> Result<FinishedUnit, EngineError> {
        loop {
            let pending = self.pending.take_if(|pending| pending.complete());
            if let Some(Pending { begin, report, samples, codes, speech, first_sound, .. }) = pending {
                let report = *report.expect("a complete unit has its report. This is a bug.");
                self.turn_open = report.end.turn_open;
                return Ok(FinishedUnit { report, samples, codes, speech, first_sound, unit_time: begin.elapsed() });
            }
            assert!(self.pending.is_some(), "no unit was started. This is a bug.");
            self.wait()?;
        }
    }

    fn wait(&mut self) -> Result<(), EngineError> {
        let event = self.handle.events().recv()?;
        self.core.handle(self.begin.elapsed(), event.into());
        self.drain()
    }

    fn drain(&mut self) -> Result<(), EngineError> {
        loop {
            match self.core.poll() {
                Output::Work(work) => self.handle.perform(work, self.begin)?,
                Output::Event(Event::Closed(CloseReason::Failed(message))) => {
                    return Err(EngineError::SessionEnded(message));
                }
                Output::Event(Event::Ready(report)) => self.prepared = Some(report),
                Output::Event(event) => {
                    if let Some(pending) = &mut self.pending {
                        pending.take(event);
                    }
                }
                Output::Timeout(_) | Output::Idle => return Ok(()),
            }
        }
    }
}

impl Pending {
    fn new(begin: Instant) -> Self {
        let speech = SpeechTimings::default();
        Self {
            begin,
            report: None,
            samples: Vec::new(),
            codes: Vec::new(),
            speech,
            first_sound: None,
            speech_done: false,
        }
    }

    fn complete(&self) -> bool {
        self.report.as_ref().is_some_and(|report| self.speech_done || report.end.speech == SpeechOrder::None)
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Unit { report, stale, .. } => {
                self.speech_done |= stale;
                self.report = Some(report);
            }
            Event::Flush { .. } => self.speech_done = true,
            Event::Speech(piece) => {
                if self.first_sound.is_none() && !piece.samples.is_empty() {
                    self.first_sound = Some(self.begin.elapsed());
                }
                self.samples.extend(piece.samples);
                self.codes = piece.codes;
                self.speech.tts += piece.timings.tts;
                self.speech.flow += piece.timings.flow;
                self.speech.hift += piece.timings.hift;
                self.speech_done |= piece.done;
            }
            _ => {}
        }
    }
}
