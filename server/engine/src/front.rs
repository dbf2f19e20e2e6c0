//! The front thread: owns the audio encoder and vision graphs, and one mel stream and encoder cache per slot.
//!
//! Turns user audio and pictures into LLM rows and passes them on, in order. Must not know tokens.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};
use duologue_audio::Pcm;
use duologue_audio::mel::Whisper;
use duologue_model::{Apm, Vision, image};
use duologue_session::{Frame, UnitTimings};

use crate::command::{FrontCommand, FrontSession, LlmCommand, PrepareWork, Prompt, UnitInput, UnitWork};
use crate::error::EngineError;
use crate::events::EngineEvent;
use crate::prompts::PromptRows;
use crate::recordings::RecordingCache;
use crate::timing::timed;

/// State of the thread.
pub(crate) struct FrontThread {
    pub apm: Option<Apm>,
    pub vision: Option<Vision>,
    /// Slices a picture may have at most.
    pub max_slices: usize,
    pub offline_mel: Whisper,
    pub llm: Sender<LlmCommand>,
    slots: Vec<Option<FrontSession>>,
    /// LLM rows of reference recordings.
    references: RecordingCache<Vec<f32>>,
}

/// Reference recordings whose rows are kept: small beside a slot, at full size 160 kB for each second of them.
const REFERENCES: usize = 16;

impl FrontThread {
    pub fn new(
        apm: Option<Apm>,
        vision: Option<Vision>,
        max_slices: usize,
        offline_mel: Whisper,
        slots: usize,
        llm: Sender<LlmCommand>,
    ) -> Self {
        let slots = (0..slots).map(|_| None).collect();
        Self { apm, vision, max_slices, offline_mel, llm, slots, references: RecordingCache::new(REFERENCES) }
    }

    /// Runs until every sender of `commands` is gone.
    pub fn run(mut self, commands: &Receiver<FrontCommand>) {
        while let Ok(command) = commands.recv() {
            let (slot, result) = match command {
                FrontCommand::Open { slot, front, llm, speech } => {
                    self.slots[slot] = Some(*front);
                    self.forward(LlmCommand::Open { slot, session: llm, speech });
                    continue;
                }
                FrontCommand::Close { slot } => {
                    self.slots[slot] = None;
                    self.forward(LlmCommand::Close { slot });
                    continue;
                }
                FrontCommand::Prepare { slot, work } => (slot, self.prepare(slot, work)),
                FrontCommand::Unit { slot, work } => (slot, self.unit(slot, work)),
            };
            if let Err(error) = result {
                tracing::warn!(slot, %error, "front stage failed, session ends");
                if let Some(session) = self.slots[slot].take() {
                    session.events.send(EngineEvent::Failed(error));
                }
                self.forward(LlmCommand::Close { slot });
            }
        }
    }

    /// Sends to the LLM thread, which outlives this one.
    fn forward(&self, command: LlmCommand) {
        self.llm.send(command).expect("the LLM thread outlives the front thread. This is a bug.");
    }

    fn prepare(&mut self, slot: usize, work: PrepareWork) -> Result<(), EngineError> {
        let asked = Instant::now();
        if self.slots[slot].is_none() {
            return Ok(());
        }
        let audio = match &work.reference {
            None => None,
            Some(pcm) => {
                let Self { apm, offline_mel, references, .. } = self;
                let apm = apm.as_mut().ok_or(MISSING_APM)?;
                let encode = |pcm: &Pcm| -> Result<_, EngineError> {
                    let mut rows = Vec::new();
                    for mel in offline_mel.reference(&pcm.samples)? {
                        rows.extend(apm.encode_reference(&mel.data, mel.frames)?);
                    }
                    Ok(Arc::new(rows))
                };
                Some(references.get_or_make(pcm, encode)?)
            }
        };
        let PrepareWork { prefix, suffix, voice, .. } = work;
        let rows = PromptRows { prefix, audio, suffix };
        self.forward(LlmCommand::Prompt { slot, prompt: Prompt { rows, voice, asked } });
        Ok(())
    }

    fn unit(&mut self, slot: usize, work: UnitWork) -> Result<(), EngineError> {
        let Some(session) = &mut self.slots[slot] else { return Ok(()) };
        let apm = self.apm.as_mut().ok_or(MISSING_APM)?;
        let mut timings = UnitTimings::default();
        let mut images = Vec::with_capacity(work.frames.len());
        for frame in &work.frames {
            let vision = self.vision.as_mut().ok_or(EngineError::MissingPart {
                what: "a video frame",
                part: "the vision encoder",
                switch: "init_vision",
            })?;
            let (rows, time) = timed(|| encode_frame(vision, frame, self.max_slices));
            images.push(rows?);
            timings.vision += time;
        }
        let before = session.cache.len();
        let (chunk, time) = timed(|| {
            session.chunker.push(&work.audio);
            let samples = session.chunker.pop().expect("a unit's work brings a unit's audio. This is a bug.");
            session.mel.push(&samples)
        });
        timings.mel = time;
        let (rows, time) =
            timed(|| apm.step(&chunk.mel.data, chunk.mel.frames, chunk.prefix, chunk.suffix, &mut session.cache));
        timings.apm = time;
        let input = UnitInput {
            unit: work.unit,
            turn: work.turn,
            deadline: work.deadline,
            force_listen: work.force_listen,
            cuts: work.cuts,
            images,
            audio: rows?,
            text: work.text,
            apm_kv: [before, session.cache.len()],
            timings,
        };
        self.forward(LlmCommand::Unit { slot, input: Box::new(input) });
        Ok(())
    }
}

/// LLM rows of a video frame, one entry per slice, the overview first.
fn encode_frame(vision: &mut Vision, frame: &Frame, max_slices: usize) -> Result<Vec<Vec<f32>>, EngineError> {
    let slices = image::preprocess(
        &frame.rgb,
        frame.width as usize,
        frame.height as usize,
        max_slices.min(frame.max_slices as usize),
        vision.params(),
    )?;
    let rows = vision.encode(&slices)?;
    Ok(rows.chunks_exact(rows.len() / slices.len()).map(<[f32]>::to_vec).collect())
}

const MISSING_APM: EngineError =
    EngineError::MissingPart { what: "user audio", part: "the audio encoder", switch: "init_audio" };
