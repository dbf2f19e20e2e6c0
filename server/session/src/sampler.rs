//! Text sampling: `StreamDecoder.decode` (utils.py:2090-2200) on a slice of logits.
//!
//! Owns the history of the session's choices (the repetition penalty looks at it) and the random stream.
//! Must not know what a token means for the turn: that is [`crate::Dialogue`].

use std::collections::VecDeque;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::candidates::{self, Candidate, SampleError};
use crate::config::{DecodeMode, Sampling};
use crate::tokens::Tokens;

/// Working memory of text sampling; one per LLM thread serves all its sessions.
#[derive(Debug, Default)]
pub struct Scratch {
    scores: Vec<f32>,
    candidates: Vec<Candidate>,
}

/// The reference's text sampler of one session.
#[derive(Debug)]
pub struct TextSampler {
    rules: Sampling,
    vocab: usize,
    chunk_eos: u32,
    turn_eos: u32,
    eos: u32,
    forbidden: Vec<u32>,
    /// Tokens that are no words.
    special: Vec<u32>,
    /// The last `repetition_window` choices, oldest first.
    history: VecDeque<u32>,
    random: ChaCha8Rng,
}

impl TextSampler {
    /// A sampler with an empty history. `rules` and `tokens` are validated by the caller.
    pub fn new(rules: Sampling, tokens: &Tokens, seed: u64) -> Self {
        let ids = tokens.tokens;
        Self {
            vocab: tokens.vocab,
            chunk_eos: ids.chunk_eos,
            turn_eos: ids.turn_eos,
            eos: ids.eos,
            forbidden: tokens.forbidden_ids.clone(),
            special: tokens.without_words(),
            history: VecDeque::with_capacity(rules.repetition_window.min(4096)),
            random: ChaCha8Rng::seed_from_u64(seed),
            rules,
        }
    }

    /// The choices that the repetition penalty looks at, oldest first.
    pub fn history(&self) -> impl Iterator<Item = u32> + '_ {
        self.history.iter().copied()
    }

    /// Chooses the next token from `logits` `[vocab]`.
    ///
    /// The order is the reference's: a raw test in which only `<|chunk_eos|>` counts, then forbidden tokens,
    /// repetition, length and listen scaling, `listen_top_k`, and the choice. Only a choice of the last step enters
    /// the history.
    ///
    /// # Errors
    /// [`SampleError`]; the history is then unchanged.
    pub fn decode(&mut self, logits: &[f32], scratch: &mut Scratch) -> Result<u32, SampleError> {
        let Scratch { scores, candidates } = scratch;
        candidates::copy_checked(logits, self.vocab, scores)?;
        if self.raw_choice_is_chunk_eos(scores)? {
            return Ok(self.chunk_eos);
        }
        self.apply_penalties(logits, scores);
        if let Some(limit) = self.rules.listen_top_k {
            let own = scores[self.eos as usize];
            if scores.iter().filter(|&&score| score > own).count() < limit {
                return Ok(self.eos);
            }
        }
        self.choose(scores, candidates)
    }

    /// As [`Self::decode`], but the choice is a word whatever the model prefers: neither the raw test nor the listen rules have a
    /// say, and no special token can be chosen.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub fn decode_word(&mut self, logits: &[f32], scratch: &mut Scratch) -> Result<u32, SampleError> {
        let Scratch { scores, candidates } = scratch;
        candidates::copy_checked(logits, self.vocab, scores)?;
        self.apply_penalties(logits, scores);
        for &token in &self.special {
            scores[token as usize] = f32::NEG_INFINITY;
        }
        self.choose(scores, candidates)
    }

    /// The last step: chooses, and remembers the choice.
    fn choose(&mut self, scores: &mut [f32], candidates: &mut Vec<Candidate>) -> Result<u32, SampleError> {
        let token = match self.rules.decode_mode {
            DecodeMode::Greedy => candidates::argmax(scores)?,
            DecodeMode::Sampling => self.draw(scores, candidates)?,
        };
        if self.history.len() == self.rules.repetition_window {
            self.history.pop_front();
        }
        self.history.push_back(token);
        Ok(token)
    }

    /// The first test (utils.py:2123-2137): forbidden tokens take part, temperature does not. A draw can only return
    /// `<|chunk_eos|>` with its softmax share, so one comparison stands for the reference's draw over all tokens.
    fn raw_choice_is_chunk_eos(&mut self, scores: &[f32]) -> Result<bool, SampleError> {
        match self.rules.decode_mode {
            DecodeMode::Greedy => Ok(candidates::argmax(scores)? == self.chunk_eos),
            DecodeMode::Sampling => {
                let best = candidates::max(scores);
                if best == f32::NEG_INFINITY {
                    return Err(SampleError::NothingLeft);
                }
                let drawn = self.random.random::<f64>();
                let weight = f64::from((scores[self.chunk_eos as usize] - best).exp());
                // The mass is at least the best token's 1, so a draw above the weight settles it without a look at the others.
                Ok(drawn < weight && drawn < weight / candidates::mass(scores, best))
            }
        }
    }

    /// Steps 1 and 2 of the reference (utils.py:2139-2171). `logits` are the raw values: a token that is in the
    /// history several times is penalised once, which assigning from the raw value gives without a set.
    fn apply_penalties(&self, logits: &[f32], scores: &mut [f32]) {
        let penalty = self.rules.repetition_penalty;
        if penalty != 1.0 {
            for &token in &self.history {
                let raw = logits[token as usize];
                // The sign is ignored: a negative score grows. So does the reference.
                scores[token as usize] = if penalty > 1.0 { raw / penalty } else { raw * (1.0 / penalty) };
            }
        }
        for &token in &self.forbidden {
            scores[token as usize] = f32::NEG_INFINITY;
        }
        let length = self.rules.length_penalty;
        if length != 1.0 {
            let score = &mut scores[self.turn_eos as usize];
            *score = if *score > 0.0 { *score / length } else { *score * length };
        }
        let eos = &mut scores[self.eos as usize];
        if self.rules.listen_prob_scale != 1.0 && eos.is_finite() {
            *eos *= self.rules.listen_prob_scale;
        }
    }

    fn draw(&mut self, scores: &mut [f32], candidates: &mut Vec<Candidate>) -> Result<u32, SampleError> {
        let Sampling { temperature, top_k, top_p, .. } = self.rules;
        scores.iter_mut().for_each(|score| *score /= temperature);
        if top_k == 0 && top_p == 0.0 {
            return candidates::draw_from_all(scores, &mut self.random);
        }
        candidates::top_k(scores, top_k, candidates);
        candidates::keep_nucleus(candidates, top_p, 1);
        candidates::draw(candidates, &mut self.random)
    }
}

#[cfg(test)]
mod tests;
