//! The vocoder state of one session.
//!
//! Owns: caches and tails of the current turn. Must not: outlive or change its voice.

use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::assemble::Tails;
use super::trim::Trim;
use super::voice::Voice;
use crate::error::Result;
use crate::graph::flow::{EncoderState, EstimatorState};

/// How a stream behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamOptions {
    /// Cache trimming.
    pub trim: Trim,
    /// Whether a turn's first chunk is led by as many zeros as its end is held back, so that every chunk returns as many
    /// samples as it has frames (token2wav.py:228-233).
    pub leading_zeros: bool,
    /// Seed of the vocoder's excitation noise; `None`: no noise, as the golden sessions were recorded.
    pub source_noise: Option<u64>,
}

impl StreamOptions {
    /// The reference, draws replaced by zeros.
    pub fn fidelity() -> Self {
        StreamOptions { trim: Trim::Compat105, leading_zeros: true, source_noise: None }
    }
}

/// Lengths of the caches, in the golden sessions' terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamCounters {
    /// Mel frames in the encoder's second cache.
    pub conformer_len: usize,
    /// Mel frames in the estimator's cache.
    pub estimator_len: usize,
}

/// One session's vocoder stream. From its first chunk on it owns caches as large as its voice's (see [`Voice`]);
/// [`Stream::reset`] starts the next turn in the same memory.
#[derive(Debug)]
pub struct Stream {
    voice: Arc<Voice>,
    options: StreamOptions,
    pub(super) tails: Tails,
    /// Made at the first chunk of a stream, so that a silent session holds no caches; each turn starts from the voice's.
    caches: Option<Caches>,
    at_start: bool,
    noise: Option<ChaCha8Rng>,
}

/// What a chunk works with.
pub(super) struct Parts<'a> {
    pub(super) caches: &'a mut Caches,
    /// The estimator's state in front of the chunk, where that is not in the caches: at the start of a turn.
    pub(super) base: Option<&'a EstimatorState>,
    pub(super) tails: &'a mut Tails,
    pub(super) voice: &'a Voice,
    pub(super) options: StreamOptions,
}

/// Caches of one turn.
#[derive(Debug)]
pub(super) struct Caches {
    pub(super) encoder: EncoderState,
    pub(super) estimator: EstimatorState,
}

impl Stream {
    /// A stream at the start of a turn.
    pub fn new(voice: &Arc<Voice>, options: StreamOptions) -> Self {
        Stream {
            voice: Arc::clone(voice),
            options,
            tails: Tails::default(),
            caches: None,
            at_start: true,
            noise: first_draws(options),
        }
    }

    /// Back to the start of a turn: the end of one, an interruption, or a chunk that failed. Speaks as a new stream does,
    /// down to its noise, and keeps the memory.
    pub fn reset(&mut self) {
        self.at_start = true;
        self.tails.clear();
        self.noise = first_draws(self.options);
    }

    /// Cache lengths.
    pub fn counters(&self) -> StreamCounters {
        let (encoder, estimator) = match &self.caches {
            Some(caches) if !self.at_start => (&caches.encoder, &caches.estimator),
            _ => (&self.voice.encoder, &self.voice.estimator),
        };
        StreamCounters { conformer_len: encoder.kv2.len(), estimator_len: estimator.len() }
    }

    /// The caches to continue with, and what else a chunk needs. `make` gives an estimator's state for so many frames.
    pub(super) fn parts(&mut self, make: impl FnOnce(usize) -> Result<EstimatorState>) -> Result<Parts<'_>> {
        let voice = &*self.voice;
        let caches = match &mut self.caches {
            Some(caches) => {
                if self.at_start {
                    caches.encoder.copy_from(&voice.encoder);
                }
                caches
            }
            none => none.insert(Caches { encoder: voice.encoder.clone(), estimator: make(voice.sizes.most())? }),
        };
        let base = self.at_start.then_some(&voice.estimator);
        self.at_start = false;
        Ok(Parts { caches, base, tails: &mut self.tails, voice, options: self.options })
    }

    /// A random start in the table of normal numbers; `None`: the stream has no noise.
    pub(super) fn noise_offset(&mut self, table: usize) -> Option<usize> {
        self.noise.as_mut().map(|draw| draw.random_range(0..table))
    }
}

fn first_draws(options: StreamOptions) -> Option<ChaCha8Rng> {
    options.source_noise.map(ChaCha8Rng::seed_from_u64)
}
