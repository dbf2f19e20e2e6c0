//! One chunk on its way to its `result`. Pure.

use std::time::Duration;

use duologue_proto::demo::StepResult;
use duologue_proto::payload::FloatAudio;

use super::Moment;
use crate::driver::{SpeechEvent, UnitEvent};

/// What is still to come of a unit.
#[derive(Debug, Default)]
struct Expected {
    reported: bool,
    speaks: bool,
    speech_done: bool,
    /// Samples that the vocoder has announced and that have not come.
    missing: i64,
}

impl Expected {
    fn complete(&self) -> bool {
        self.reported && self.missing == 0 && (self.speech_done || !self.speaks)
    }
}

/// A chunk that is being answered: its audio that the session has not got yet, and what came of the rest.
#[derive(Debug)]
pub(super) struct Step {
    number: u64,
    arrived: Moment,
    samples: Vec<f32>,
    taken: usize,
    expected: Option<Expected>,
    is_listen: bool,
    text: String,
    speech: Vec<f32>,
    end_of_turn: bool,
    llm: Duration,
    tts: Duration,
    token2wav: Duration,
    tokens: usize,
    /// Audio tokens of finished units, and of the one in hand.
    audio_tokens: [usize; 2],
    kv_tokens: usize,
    vision_slices: usize,
    vision_tokens: usize,
}

impl Step {
    /// Chunk `number` (from 1) of a session whose cache holds `kv_tokens`.
    pub(super) fn new(number: u64, arrived: Moment, samples: Vec<f32>, kv_tokens: usize) -> Self {
        Self {
            number,
            arrived,
            samples,
            taken: 0,
            expected: None,
            is_listen: true,
            text: String::new(),
            speech: Vec::new(),
            end_of_turn: false,
            llm: Duration::ZERO,
            tts: Duration::ZERO,
            token2wav: Duration::ZERO,
            tokens: 0,
            audio_tokens: [0, 0],
            kv_tokens,
            vision_slices: 0,
            vision_tokens: 0,
        }
    }

    /// The next samples for the session, `most` of them or what is left.
    pub(super) fn take(&mut self, most: usize) -> Vec<f32> {
        let end = self.samples.len().min(self.taken + most);
        let samples = self.samples[self.taken..end].to_vec();
        self.taken = end;
        samples
    }

    /// The session has got a whole unit.
    pub(super) fn expect_unit(&mut self) {
        self.expected = Some(Expected::default());
    }

    /// A unit, or speech of it, is still to come.
    pub(super) fn expects_more(&self) -> bool {
        self.expected.as_ref().is_some_and(|expected| !expected.complete())
    }

    pub(super) fn unit(&mut self, unit: &UnitEvent) {
        let Some(expected) = &mut self.expected else { return };
        (expected.reported, expected.speaks) = (true, unit.speaks);
        self.is_listen &= unit.is_listen;
        if !unit.is_listen {
            self.text.push_str(&unit.text);
        }
        self.end_of_turn |= unit.end_of_turn;
        self.llm += unit.timings.generate;
        self.tokens += unit.tokens;
        self.kv_tokens = unit.kv_tokens;
        self.vision_slices += unit.vision_slices;
        self.vision_tokens += unit.vision_tokens;
    }

    pub(super) fn speech(&mut self, speech: &SpeechEvent) {
        let Some(expected) = &mut self.expected else { return };
        expected.missing += speech.samples as i64;
        expected.speech_done |= speech.done;
        self.tts += speech.timings.tts;
        self.token2wav += speech.timings.flow + speech.timings.hift;
        let [finished, current] = &mut self.audio_tokens;
        *current = speech.audio_tokens;
        if speech.done {
            *finished += std::mem::take(current);
        }
    }

    pub(super) fn audio(&mut self, samples: &[i16]) {
        let Some(expected) = &mut self.expected else { return };
        expected.missing -= samples.len() as i64;
        self.speech.extend(samples.iter().map(|&sample| f32::from(sample) / 32768.0));
    }

    /// Speech that was announced will not come.
    pub(super) fn flush(&mut self) {
        if let Some(expected) = &mut self.expected {
            (expected.speech_done, expected.missing) = (true, 0);
        }
    }

    /// The `result`. Costs of nothing are `null`, as in the demo (core/processors/unified.py:968-972); reading the audio is
    /// not part of `cost_llm_ms` there, nor here.
    pub(super) fn answer(self, now: Moment, generate_audio: bool) -> StepResult {
        let all = self.llm + self.tts + self.token2wav;
        let speech = generate_audio && !self.speech.is_empty();
        let [finished, current] = self.audio_tokens;
        let wall_clock = now.clock.saturating_sub(self.arrived.clock);
        StepResult {
            is_listen: self.is_listen,
            text: self.text,
            audio_data: speech.then_some(FloatAudio(self.speech)),
            end_of_turn: self.end_of_turn,
            current_time: self.number,
            cost_llm_ms: cost(self.llm),
            // The speech condition is made within the codes' time.
            cost_tts_prep_ms: None,
            cost_tts_ms: cost(self.tts),
            cost_token2wav_ms: cost(self.token2wav),
            cost_all_ms: cost(all),
            n_tokens: Some(count(self.tokens)),
            n_tts_tokens: Some(count(finished + current)),
            server_send_ts: Some(now.unix_s),
            wall_clock_ms: (wall_clock.as_secs_f64() * 1e4).round() / 10.0,
            kv_cache_length: self.kv_tokens,
            vision_slices: count(self.vision_slices),
            vision_tokens: count(self.vision_tokens),
        }
    }
}

fn cost(time: Duration) -> Option<f64> {
    (!time.is_zero()).then_some(time.as_secs_f64() * 1e3)
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
