//! A backend that computes nothing: each session follows a script. It makes whole conversations on virtual time, and shows what the
//! server itself costs.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use duologue_audio::Pcm;
use duologue_session::barge_in::VoiceFrame;
use duologue_session::dialogue::{EndedBy, SpeechOrder, TurnReset, UnitEnd};
use duologue_session::{
    Duplex, Input, PreparedReport, SpeechReport, SpeechTimings, TurnId, UnitId, UnitReport, UnitTimings, Work,
};
use duologue_transport::{
    Backend, BackendError, BackendInfo, BackendSession, ReplyStart, SessionRequest, VoiceDetector, Wake,
};

/// A sample of what is said ahead.
const AHEAD: i16 = 4000;
/// Rate of the user's audio.
pub const INPUT_RATE: u32 = 16_000;
/// Rate of the speech.
pub const OUTPUT_RATE: u32 = 24_000;

/// What a unit does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// The model listens.
    Listen,
    /// It says a word for as long as its unit lasts.
    Speak(&'static str),
    /// It says its last word.
    End(&'static str),
    /// The backend breaks.
    Fail,
    /// It breaks its promises: the session's task panics.
    Panic,
}

/// Opens sessions that all follow one script; behind its end they listen. A typed question is said back in one unit.
#[derive(Debug)]
pub struct ScriptedBackend {
    info: BackendInfo,
    script: Vec<Plan>,
    /// From a unit's work to its report.
    unit_time: Duration,
    /// By how much a reply's first unit is longer than a unit.
    ahead: Duration,
    /// Finds voice in every frame that is louder than this.
    voice_dbfs: Option<f32>,
}

impl ScriptedBackend {
    /// A backend with `slots` places whose units take no time.
    pub fn new(slots: usize, script: &[Plan]) -> Self {
        let info = BackendInfo {
            name: "script".into(),
            precision: "fp32".into(),
            sha256: "0".repeat(64),
            random_weights: true,
            slots,
            duplex: Duplex {
                sample_rate_hz: INPUT_RATE,
                chunk_ms: 1000,
                first_chunk_ms: 1035,
                cnn_redundancy_ms: 20,
                max_new_speak_tokens: 20,
                max_chars_per_unit: 28,
                force_listen_count: 0,
            },
            output_rate_hz: OUTPUT_RATE,
            reply_start: ReplyStart::default(),
            voices: vec!["default".into()],
            cloning: Some(0.5..=10.0),
            vision: true,
            typed: true,
            suggestions: vec![],
            default_instructions: "You are a script.".into(),
            context_tokens: 8192,
            forced_schedules: false,
        };
        let unit_time = Duration::ZERO;
        Self { info, script: script.to_vec(), unit_time, ahead: Duration::ZERO, voice_dbfs: None }
    }

    /// The model takes no pictures.
    pub fn blind(mut self) -> Self {
        self.info.vision = false;
        self
    }

    /// Units take this long.
    pub fn unit_time(mut self, unit_time: Duration) -> Self {
        self.unit_time = unit_time;
        self
    }

    /// The first unit of a reply makes so much less sound, and its last one more.
    pub fn held_back(mut self, held_back: Duration) -> Self {
        self.info.reply_start.held_back = held_back;
        self
    }

    /// The first unit of a reply is said to be ahead of its second by `promised`, and is by `given`.
    pub fn begins_ahead(mut self, promised: Duration, given: Duration) -> Self {
        self.info.reply_start.ahead = promised;
        self.ahead = given;
        self
    }

    /// Lets clients ask for a forced schedule. The script goes on as written all the same.
    pub fn forced_schedules(mut self) -> Self {
        self.info.forced_schedules = true;
        self
    }

    /// Takes every frame above this level for the user's voice.
    pub fn voice_above(mut self, dbfs: f32) -> Self {
        self.voice_dbfs = Some(dbfs);
        self
    }
}

impl Backend for ScriptedBackend {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    fn open(&self, request: &SessionRequest, wake: Wake) -> Result<Box<dyn BackendSession>, BackendError> {
        if request.instructions.as_deref() == Some("refuse me") {
            return Err(BackendError::Refused { field: "instructions", message: "the script refuses this".into() });
        }
        Ok(Box::new(ScriptedSession {
            script: self.script.iter().copied().collect(),
            unit_time: self.unit_time,
            held_back: samples_of(self.info.reply_start.held_back),
            ahead: samples_of(self.ahead),
            replies: false,
            owed: Vec::new(),
            answers: Arc::default(),
            wake,
        }))
    }

    fn voice(&self, name: &str) -> Option<Arc<Pcm>> {
        let own = self.info.voices.iter().any(|voice| voice == name);
        own.then(|| Arc::new(Pcm { rate_hz: INPUT_RATE, samples: vec![0.25; INPUT_RATE as usize] }))
    }

    fn voice_detector(&self) -> Option<Box<dyn VoiceDetector>> {
        let voice_dbfs = self.voice_dbfs?;
        Some(Box::new(LevelDetector { voice_dbfs, rest: Vec::new() }))
    }
}

type Answers = Arc<Mutex<VecDeque<Result<Input, BackendError>>>>;

struct ScriptedSession {
    script: VecDeque<Plan>,
    unit_time: Duration,
    /// Samples that stay behind until a reply ends, and those that do.
    held_back: usize,
    owed: Vec<i16>,
    /// Samples of a reply's first unit beyond a unit.
    ahead: usize,
    /// A reply goes on.
    replies: bool,
    answers: Answers,
    wake: Wake,
}

impl ScriptedSession {
    fn answer(&self, after: Duration, answers: Vec<Result<Input, BackendError>>) {
        let (queue, wake) = (self.answers.clone(), self.wake.clone());
        let finish = move || {
            queue.lock().expect("nobody panics with it").extend(answers);
            wake();
        };
        if after.is_zero() {
            return finish();
        }
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            finish();
        });
    }

    /// Lets the speech of a unit lag behind its words.
    fn hold_back(&mut self, answers: &mut [Result<Input, BackendError>]) {
        let (mut ends, mut speech) = (true, None);
        for answer in answers {
            match answer {
                Ok(Input::Unit(report)) => ends = !report.end.turn_open,
                Ok(Input::Speech(report)) => speech = Some(report),
                _ => {}
            }
        }
        let Some(report) = speech else {
            self.replies = false;
            return self.owed.clear();
        };
        if !std::mem::replace(&mut self.replies, !ends) {
            report.samples.extend(vec![AHEAD; self.ahead]);
            report.sound_samples += self.ahead;
        }
        let mut samples = std::mem::take(&mut self.owed);
        samples.append(&mut report.samples);
        let kept = if ends { 0 } else { self.held_back };
        self.owed = samples.split_off(samples.len() - kept);
        report.samples = samples;
    }
}

impl BackendSession for ScriptedSession {
    fn perform(&mut self, work: Work, _clock_zero: Instant) -> Result<(), BackendError> {
        match work {
            Work::Prepare => {
                let report = PreparedReport { kv_len: 50, from_cache: false, took: Duration::ZERO };
                self.answer(Duration::ZERO, vec![Ok(Input::Prepared(report))]);
            }
            Work::Unit { unit, turn, force_listen, frames, text, .. } => {
                let plan = self.script.pop_front().unwrap_or(Plan::Listen);
                let plan = if force_listen { Plan::Listen } else { plan };
                let mut answers = answers_of(plan, unit, turn, frames.len(), &text);
                self.hold_back(&mut answers);
                self.answer(self.unit_time, answers);
            }
            Work::Fence { .. } | Work::Release => {}
        }
        Ok(())
    }

    fn next_input(&mut self) -> Result<Option<Input>, BackendError> {
        self.answers.lock().expect("nobody panics with it").pop_front().transpose()
    }
}

fn answers_of(
    plan: Plan,
    unit: UnitId,
    turn: TurnId,
    vision_slices: usize,
    typed: &str,
) -> Vec<Result<Input, BackendError>> {
    let (text, speech) = match plan {
        _ if !typed.is_empty() => (typed, SpeechOrder::EndTurn),
        Plan::Listen => ("", SpeechOrder::None),
        Plan::Speak(text) => (text, SpeechOrder::Continue),
        Plan::End(text) => (text, SpeechOrder::EndTurn),
        Plan::Fail | Plan::Panic => return vec![Err(BackendError::Failed("the script broke".into()))],
    };
    let end = UnitEnd {
        terminator: 0,
        unit_end: 1,
        is_listen: speech == SpeechOrder::None,
        end_of_turn: speech == SpeechOrder::EndTurn,
        ended_by: if speech == SpeechOrder::None { EndedBy::Listen } else { EndedBy::ChunkEos },
        tokens: vec![2; 3],
        decoded: vec![2; 3],
        text: text.into(),
        speech_ids: vec![],
        word_ends: word_ends(text),
        speech,
        reset: TurnReset::None,
        turn_open: speech == SpeechOrder::Continue,
    };
    let report = UnitReport {
        unit,
        turn,
        end,
        kv_prefill: 60,
        kv_generate: 64,
        kv_final: 66 + 10 * unit.0 as usize,
        apm_kv: [0, 50],
        vision_slices,
        vision_tokens: vision_slices * 64,
        window: None,
        timings: UnitTimings::default(),
    };
    let mut answers = vec![Ok(Input::Unit(Box::new(report)))];
    if speech != SpeechOrder::None {
        answers.push(Ok(Input::Speech(SpeechReport {
            unit,
            turn,
            samples: tone(unit.0),
            codes: vec![1; 25],
            sound_samples: OUTPUT_RATE as usize,
            first_part: None,
            done: true,
            timings: SpeechTimings::default(),
        })));
    }
    answers
}

/// Where each word of a text ends, in bytes.
fn word_ends(text: &str) -> Vec<usize> {
    let spaces = text.match_indices(' ').map(|(at, _)| at);
    spaces.chain((!text.is_empty()).then_some(text.len())).collect()
}

fn samples_of(length: Duration) -> usize {
    (length.as_secs_f64() * f64::from(OUTPUT_RATE)) as usize
}

/// A second of a 440 Hz tone whose phase goes on from unit to unit.
fn tone(unit: u32) -> Vec<i16> {
    let step = std::f64::consts::TAU * 440.0 / f64::from(OUTPUT_RATE);
    (0..OUTPUT_RATE).map(|n| (8000.0 * (step * f64::from(unit * OUTPUT_RATE + n)).sin()) as i16).collect()
}

/// Takes what is loud for voice.
struct LevelDetector {
    voice_dbfs: f32,
    rest: Vec<f32>,
}

/// Samples of a detector's frame.
const FRAME: usize = 512;

impl VoiceDetector for LevelDetector {
    fn push(&mut self, samples: &[f32], on_frame: &mut dyn FnMut(VoiceFrame)) -> Result<(), BackendError> {
        self.rest.extend_from_slice(samples);
        let whole = self.rest.len() / FRAME * FRAME;
        for frame in self.rest[..whole].chunks(FRAME) {
            let power = frame.iter().map(|x| x * x).sum::<f32>() / FRAME as f32;
            let energy_dbfs = 10.0 * (power + 1e-10).log10();
            let probability = if energy_dbfs > self.voice_dbfs { 0.95 } else { 0.01 };
            on_frame(VoiceFrame { probability, energy_dbfs });
        }
        self.rest.drain(..whole);
        Ok(())
    }
}
