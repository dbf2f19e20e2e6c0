//! Starting the threads, opening sessions, and the handle a session is driven through.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use duologue_model::{
    Apm, Bundle, Llm, Runtime, StreamOptions, Token2Wav, Tokenizer, Trim, Tts, Vision, VoiceFrontEnd,
};
use duologue_session::{CodeSampler, Conduct, Dialogue, Input, SessionConfig, SpeechTurn, Work};

use crate::command::{FrontCommand, FrontSession, LlmSession, PrepareWork, SpeechSession, UnitWork};
use crate::error::EngineError;
use crate::events::{Alarm, AlarmGuard, EngineEvent, EventStream, Wake, event_channel};
use crate::fence::TurnFence;
use crate::front::FrontThread;
use crate::llm::LlmThread;
use crate::mel;
use crate::slots::SlotTable;
use crate::speech::SpeechThread;

/// Messages per slot and channel. A session has at most one prompt or unit on its way, plus its opening and closing and those of
/// the slot's last owner. When full, the sender waits: the threads behind always make progress.
const COMMANDS_PER_SLOT: usize = 6;

/// How an engine is set up.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Sessions that can be open at the same time.
    pub slots: usize,
    /// Start noise of the flow matching instead of the bundle's, `[mel, frames]`; replays of recorded sessions bring theirs.
    pub start_noise: Option<Vec<f32>>,
}

/// What a session wants beyond its rules.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Prompt and voice.
    pub prompt: PrepareWork,
    /// Put the window's bookkeeping into every unit's report.
    pub record_window: bool,
    /// Rung after every event, for a driver that does not block on them.
    pub wake: Option<Wake>,
}

/// The graphs of a bundle on their threads. Cheap to clone; the threads stop when the last clone and session handle are gone.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    bundle: Bundle,
    tokenizer: Arc<Tokenizer>,
    slots: Mutex<SlotTable>,
    slot_count: usize,
    front: Option<Sender<FrontCommand>>,
    threads: Vec<JoinHandle<()>>,
    alarm: Alarm,
    widest_batch: Arc<AtomicUsize>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Each thread ends when its sender is gone and takes the sender of the next one with it.
        drop(self.front.take());
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("an engine thread had panicked");
            }
        }
    }
}

impl Engine {
    /// Loads every graph of the bundle and starts the threads.
    ///
    /// # Errors
    /// [`EngineError::Model`] when a file or graph does not load or the caches do not fit.
    pub fn start(runtime: &Runtime, bundle: &Bundle, options: EngineOptions) -> Result<Self, EngineError> {
        let EngineOptions { slots, start_noise } = options;
        let manifest = bundle.manifest();
        let tokenizer = Arc::new(Tokenizer::load(bundle)?);
        let llm = Llm::load(runtime, bundle, slots)?;
        let apm = Apm::load(runtime, bundle)?;
        let vision = Vision::load(runtime, bundle)?;
        let max_slices = manifest.vision.as_ref().map_or(1, |vision| vision.max_slices);
        let offline_mel = mel::offline(manifest)?;
        let speech = match &manifest.token2wav {
            Some(block) => {
                let mut token2wav = Token2Wav::load(runtime, bundle)?;
                if let Some(noise) = start_noise {
                    token2wav.set_start_noise(noise)?;
                }
                let unit_samples = mel::reply_unit_samples(manifest, block.sample_rate_hz);
                Some((
                    Tts::load(runtime, bundle, slots)?,
                    token2wav,
                    VoiceFrontEnd::load(runtime, bundle)?,
                    unit_samples,
                ))
            }
            None => None,
        };

        let capacity = slots * COMMANDS_PER_SLOT;
        let (front_in, front_out) = bounded(capacity);
        let (llm_in, llm_out) = bounded(capacity);
        let (speech_in, speech_out) = bounded(capacity);
        let mut threads = Vec::new();
        let alarm = Alarm::default();
        let mut spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            let alarm = alarm.clone();
            let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
                let _guard = AlarmGuard(alarm);
                run();
            });
            threads.push(thread.expect("the system gives a thread at start"));
        };
        match speech {
            Some((tts, token2wav, voice_front_end, unit_samples)) => {
                let thread = SpeechThread::new(tts, token2wav, voice_front_end, unit_samples);
                spawn("speech", Box::new(move || thread.run(&speech_out)));
            }
            // Nothing is ever sent but closings of slots; they still must be taken.
            None => spawn("speech", Box::new(move || speech_out.iter().for_each(drop))),
        }
        let thread = LlmThread::new(llm, tokenizer.clone(), manifest.tokenizer.tokens, speech_in);
        let widest_batch = thread.widest_batch.clone();
        spawn("llm", Box::new(move || thread.run(&llm_out)));
        let thread = FrontThread::new(apm, vision, max_slices, offline_mel, slots, llm_in);
        spawn("front", Box::new(move || thread.run(&front_out)));

        Ok(Self {
            inner: Arc::new(Inner {
                bundle: bundle.clone(),
                tokenizer,
                slots: Mutex::new(SlotTable::new(slots)),
                slot_count: slots,
                front: Some(front_in),
                threads,
                alarm,
                widest_batch,
            }),
        })
    }

    /// The bundle that is served.
    pub fn bundle(&self) -> &Bundle {
        &self.inner.bundle
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.inner.tokenizer
    }

    /// Slots in use.
    pub fn busy_slots(&self) -> usize {
        self.inner.slots.lock().expect("no code panics with the table locked. This is a bug.").busy()
    }

    /// Most sessions that were decoded in one LLM step so far.
    pub fn widest_batch(&self) -> usize {
        self.inner.widest_batch.load(Ordering::Relaxed)
    }

    /// Takes a slot for a new session. Nothing runs before [`SessionHandle::perform`] gets [`Work::Prepare`].
    ///
    /// # Errors
    /// [`EngineError::NoFreeSlot`], [`EngineError::Config`], [`EngineError::MissingPart`], [`EngineError::Voice`].
    pub fn open(&self, config: &SessionConfig, options: OpenOptions) -> Result<SessionHandle, EngineError> {
        let manifest = self.inner.bundle.manifest();
        if config.speech.is_some() && manifest.tts.is_none() {
            return Err(EngineError::MissingPart { what: "speech", part: "the TTS", switch: "init_tts" });
        }
        match (&config.speech, &options.prompt.voice) {
            (Some(_), None) => return Err(EngineError::Voice("speaks but has no voice")),
            (None, Some(_)) => return Err(EngineError::Voice("has a voice but does not speak")),
            _ => {}
        }
        let dialogue = Dialogue::new(config, &manifest.tokenizer)?;
        let (events, stream) = event_channel(self.inner.alarm.clone(), options.wake);
        let fence = TurnFence::default();
        let speech = config.speech.as_ref().map(|speech| {
            Box::new(SpeechSession {
                turn: SpeechTurn::new(config.conduct, speech, config.schedule.as_ref()),
                sampler: CodeSampler::new(speech.sampling.clone(), config.seed),
                conduct: config.conduct,
                options: vocoder(config.conduct, config.seed),
                events: events.clone(),
                fence: fence.clone(),
            })
        });
        let front = Box::new(FrontSession {
            chunker: mel::chunker(manifest)?,
            mel: mel::streaming(manifest)?,
            cache: Default::default(),
            events: events.clone(),
        });
        let llm = Box::new(LlmSession { dialogue, events, fence: fence.clone(), record_window: options.record_window });
        let slot = {
            let mut slots = self.inner.slots.lock().expect("no code panics with the table locked. This is a bug.");
            slots.take().ok_or(EngineError::NoFreeSlot { slots: self.inner.slot_count })?
        };
        let handle = SessionHandle {
            inner: self.inner.clone(),
            slot,
            fence,
            prompt: Some(options.prompt),
            chunk: Duration::from_millis(u64::from(manifest.duplex.chunk_ms)),
            events: stream,
        };
        handle.send(FrontCommand::Open { slot, front, llm, speech })?;
        Ok(handle)
    }
}

fn vocoder(conduct: Conduct, seed: u64) -> StreamOptions {
    StreamOptions {
        trim: if conduct.newest_in_cache { Trim::Fixed } else { Trim::Compat105 },
        leading_zeros: conduct.artificial_silence,
        source_noise: conduct.excitation_noise.then_some(seed),
    }
}

/// A session's hold on its slot; dropping it ends the session.
#[derive(Debug)]
pub struct SessionHandle {
    inner: Arc<Inner>,
    slot: usize,
    fence: TurnFence,
    prompt: Option<PrepareWork>,
    chunk: Duration,
    events: EventStream,
}

impl SessionHandle {
    /// Hands on what the session core asks for; `clock_zero` is when the core's clock stood at zero. `Work::Release` is done by
    /// dropping the handle.
    ///
    /// # Errors
    /// [`EngineError::Stopped`], [`EngineError::TypedText`].
    pub fn perform(&mut self, work: Work, clock_zero: Instant) -> Result<(), EngineError> {
        let slot = self.slot;
        match work {
            Work::Prepare => {
                let work = self.prompt.take().expect("a session is prepared once. This is a bug.");
                self.send(FrontCommand::Prepare { slot, work })
            }
            Work::Unit { unit, turn, audio, frames, text, force_listen, cuts, ready_at } => {
                let deadline = clock_zero + ready_at + self.chunk;
                let text = match self.inner.bundle.manifest().prompt.typed {
                    _ if text.is_empty() => text,
                    Some(form) => form.write(&text),
                    None => return Err(EngineError::TypedText),
                };
                self.send(FrontCommand::Unit {
                    slot,
                    work: UnitWork { unit, turn, audio, frames, text, force_listen, cuts, deadline },
                })
            }
            Work::Fence { turn } => {
                self.fence.raise(turn);
                Ok(())
            }
            Work::Release => Ok(()),
        }
    }

    /// What the engine has to say.
    pub fn events(&self) -> &EventStream {
        &self.events
    }

    /// The slot, for logs.
    pub fn slot(&self) -> usize {
        self.slot
    }

    fn send(&self, command: FrontCommand) -> Result<(), EngineError> {
        let front = self.inner.front.as_ref().expect("the sender lives as long as a handle. This is a bug.");
        front.send(command).map_err(|_| EngineError::Stopped)
    }
}

impl Drop for SessionHandle {
    fn drop(&mut self) {
        // The closing is queued before the slot can be taken again, so the next owner's opening comes behind it.
        if self.send(FrontCommand::Close { slot: self.slot }).is_err() {
            tracing::error!(slot = self.slot, "the engine had stopped before the session ended");
        }
        self.inner.slots.lock().expect("no code panics with the table locked. This is a bug.").give_back(self.slot);
    }
}

/// An engine event as input of the session core.
impl From<EngineEvent> for Input {
    fn from(event: EngineEvent) -> Self {
        match event {
            EngineEvent::Prepared(report) => Input::Prepared(report),
            EngineEvent::Unit(report) => Input::Unit(report),
            EngineEvent::Speech(report) => Input::Speech(report),
            EngineEvent::Failed(error) => Input::Failed(error.to_string()),
        }
    }
}
