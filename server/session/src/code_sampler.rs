//! Choosing TTS codes: the loop of `generate_chunk` (modeling_minicpmo_unified.py:6711-6832) without its graph.
//!
//! Owns the codes of the chunk in progress. Must not know the vocoder's buffer: that is [`crate::SpeechTurn`].

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::candidates::{self, Candidate, SampleError};
use crate::config::SpeechSampling;
use crate::speech::CodePlan;

/// What the TTS graph has to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeStep {
    /// Feed this code. After a `last` one the chunk is over: its logits are not used, but the cache must hold it.
    Feed {
        /// TTS code, `0..codes`, never the eos.
        code: u32,
        /// No further [`CodeSampler::advance`] for this chunk.
        last: bool,
    },
    /// The eos was chosen: feed nothing.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Chunk(CodePlan),
}

/// Chooses the codes of one session, chunk by chunk.
#[derive(Debug)]
pub struct CodeSampler {
    rules: SpeechSampling,
    random: ChaCha8Rng,
    phase: Phase,
    codes: Vec<u32>,
    scores: Vec<f32>,
    candidates: Vec<Candidate>,
}

impl CodeSampler {
    /// An idle sampler. `rules` are validated by the caller.
    pub fn new(rules: SpeechSampling, seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        // Stream 0 of the same seed belongs to the text sampler.
        random.set_stream(1);
        let codes = Vec::with_capacity(rules.first_unit_codes);
        Self { rules, random, phase: Phase::Idle, codes, scores: Vec::new(), candidates: Vec::new() }
    }

    /// Starts a chunk; the logits of the condition's last row go to [`Self::advance`] first.
    pub fn start(&mut self, plan: CodePlan) {
        assert!(self.phase == Phase::Idle, "a chunk is still open. This is a bug.");
        self.codes.clear();
        self.phase = Phase::Chunk(plan);
    }

    /// Chooses the next code from `logits` `[codes]`.
    ///
    /// # Errors
    /// [`SampleError`]; the chunk stays open, [`Self::abort`] ends it.
    pub fn advance(&mut self, logits: &[f32]) -> Result<CodeStep, SampleError> {
        let Phase::Chunk(plan) = self.phase else {
            panic!("no chunk is open. This is a bug.");
        };
        let code = self.choose(logits, plan.min_new)?;
        if code == self.rules.eos {
            self.phase = Phase::Idle;
            return Ok(CodeStep::End);
        }
        self.codes.push(code);
        // The reference draws once more after the last code and throws the result away (line 6829); the draw is skipped here.
        let last = self.codes.len() + 1 >= plan.max_new;
        if last {
            self.phase = Phase::Idle;
        }
        Ok(CodeStep::Feed { code, last })
    }

    /// Codes of the current or just ended chunk, the eos left out.
    pub fn codes(&self) -> &[u32] {
        &self.codes
    }

    /// Gives the open chunk up (barge-in, failure); no effect when idle.
    pub fn abort(&mut self) {
        self.phase = Phase::Idle;
    }

    fn choose(&mut self, logits: &[f32], min_new: usize) -> Result<u32, SampleError> {
        let rules = &self.rules;
        candidates::copy_checked(logits, rules.codes, &mut self.scores)?;
        self.scores.iter_mut().for_each(|score| *score /= rules.temperature);
        penalise_repetition(&mut self.scores, &self.codes, rules.repetition_penalty, rules.repetition_window);
        if self.codes.len() < min_new {
            self.scores[rules.eos as usize] = f32::NEG_INFINITY;
        }
        if rules.greedy {
            return candidates::argmax(&self.scores);
        }
        let Some(filter) = &rules.filter else {
            return candidates::draw_from_all(&mut self.scores, &mut self.random);
        };
        candidates::top_k(&self.scores, 0, &mut self.candidates);
        candidates::keep_nucleus(&mut self.candidates, filter.top_p, filter.min_keep);
        candidates::keep_top_k(&mut self.candidates, filter.top_k.max(filter.min_keep));
        candidates::draw(&self.candidates, &mut self.random)
    }
}

/// `CustomRepetitionPenaltyLogitsProcessorRepeat` (modeling_minicpmo_unified.py:6957-6975): penalty to the power of
/// the count among the last `window` codes; divides scores of zero and above, multiplies negative ones.
fn penalise_repetition(scores: &mut [f32], codes: &[u32], penalty: f32, window: usize) {
    if penalty == 1.0 {
        return;
    }
    let recent = &codes[codes.len().saturating_sub(window)..];
    for (index, &code) in recent.iter().enumerate() {
        if recent[..index].contains(&code) {
            continue;
        }
        let count = recent[index..].iter().filter(|&&other| other == code).count();
        // In double precision: that rounds like the reference's pow, repeated single multiplications do not.
        let alpha = f64::from(penalty).powi(count as i32) as f32;
        let score = &mut scores[code as usize];
        *score = if *score < 0.0 { *score * alpha } else { *score / alpha };
    }
}

#[cfg(test)]
mod tests;
