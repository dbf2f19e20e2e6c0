//! Choosing among scores: argmax, top-k, nucleus and the draw, shared by the text and the code sampler.
//!
//! Owns the errors of choosing. Owns no rule of the duplex loop. Works on one list of candidates; never sorts the whole vocabulary.

use std::cmp::Ordering;

use rand::Rng;

/// Logits that cannot be sampled from.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum SampleError {
    /// The model produced a value that is no score.
    #[error(
        "logit {index} is {value}: the model's numbers overflowed or its weights are damaged; \
         run the bundle's check, or export it with a higher precision"
    )]
    NotFinite {
        /// Token or code.
        index: usize,
        /// NaN or +inf.
        value: f32,
    },
    /// The slice is not as wide as the manifest says.
    #[error("expected {expected} logits, got {got}: bundle manifest and graph disagree; export the bundle again")]
    Length {
        /// Width in the manifest.
        expected: usize,
        /// Width of the slice.
        got: usize,
    },
    /// Every token is forbidden.
    #[error("no token is left to choose: all logits are -inf or forbidden")]
    NothingLeft,
}

/// A token that may still be chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) score: f32,
    pub(crate) id: u32,
}

/// Best first; equal scores by id, so that results do not depend on the selection algorithm.
fn best_first(a: &Candidate, b: &Candidate) -> Ordering {
    b.score.total_cmp(&a.score).then(a.id.cmp(&b.id))
}

/// Copies `scores` into `scratch`; the only copy a choice makes.
///
/// # Errors
/// [`SampleError::Length`] or [`SampleError::NotFinite`]; `-inf` is allowed, it means "never".
pub(crate) fn copy_checked(scores: &[f32], expected: usize, scratch: &mut Vec<f32>) -> Result<(), SampleError> {
    if scores.len() != expected {
        return Err(SampleError::Length { expected, got: scores.len() });
    }
    // A comparison that is false for NaN and for +inf; folded without a branch so that it vectorises.
    if !scores.iter().fold(true, |good, &score| good & (score < f32::INFINITY)) {
        let index = scores.iter().position(|&score| score.is_nan() || score == f32::INFINITY);
        let index = index.expect("a score failed the check above. This is a bug.");
        return Err(SampleError::NotFinite { index, value: scores[index] });
    }
    scratch.clear();
    scratch.extend_from_slice(scores);
    Ok(())
}

/// The best score's index; the lowest one on ties.
///
/// # Errors
/// [`SampleError::NothingLeft`] when every score is `-inf`.
pub(crate) fn argmax(scores: &[f32]) -> Result<u32, SampleError> {
    let best = max(scores);
    if best == f32::NEG_INFINITY {
        return Err(SampleError::NothingLeft);
    }
    let index = scores.iter().position(|&score| score == best).expect("the maximum is a score. This is a bug.");
    Ok(index as u32)
}

/// Values taken at once in loops over all scores: independent of each other, because the compiler may not reorder sums and
/// comparisons of floats by itself.
const LANES: usize = 16;

/// The largest score, `-inf` when there is none.
pub(crate) fn max(scores: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if a > b { a } else { b };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = scores.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &score) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, score);
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger)
}

/// Sum of `exp(score - best)`, where no score is above `best`; off by a few 1e-6 of itself at most.
pub(crate) fn mass(scores: &[f32], best: f32) -> f64 {
    /// Short enough that sums in single precision lose nothing that matters.
    const BLOCK: usize = 1024;
    let block_mass = |block: &[f32]| {
        let mut lanes = [0.0_f32; LANES];
        let (chunks, rest) = block.as_chunks::<LANES>();
        for chunk in chunks {
            for (lane, &score) in lanes.iter_mut().zip(chunk) {
                *lane += exp_of_loss(score - best);
            }
        }
        lanes.into_iter().chain(rest.iter().map(|&score| exp_of_loss(score - best))).map(f64::from).sum::<f64>()
    };
    scores.chunks(BLOCK).map(block_mass).sum()
}

/// `exp(x)` for `x` of 0 or below, to 3e-7 of it; what is smaller than e^-87 is that. Without branches or calls, so that loops
/// over a whole vocabulary vectorise: the library's takes one value at a time.
fn exp_of_loss(x: f32) -> f32 {
    use std::f32::consts::{LN_2, LOG2_E};
    /// Adding it leaves a whole number in the lowest bits (1.5 * 2^23).
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    let x = if x > -87.0 { x } else { -87.0 };
    let shifted = x * LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let r = (x - whole * LN_2_HIGH) - whole * (LN_2 - LN_2_HIGH);
    // exp(r) for |r| <= ln(2) / 2 as its series up to r^6.
    let series = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
    let fraction = series.into_iter().fold(0.0, |sum, factor| sum * r + factor);
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    fraction * f32::from_bits(exponent)
}

/// Fills `out` with every score not below the `k`-th best (ties with it stay, as in the reference's filter,
/// utils.py:1147-1150), in no particular order. `k` = 0 keeps all. `-inf` never enters.
pub(crate) fn top_k(scores: &[f32], k: usize, out: &mut Vec<Candidate>) {
    out.clear();
    let mut limit = if k == 0 { usize::MAX } else { (4 * k).max(256) };
    let mut threshold = f32::NEG_INFINITY;
    for (chunk, first) in scores.chunks(LANES).zip((0..).step_by(LANES)) {
        // Once the threshold stands, nearly every chunk has nothing to offer, and this finds out without a branch a score.
        if !chunk.iter().fold(false, |any, &score| any | (score >= threshold)) {
            continue;
        }
        for (&score, id) in chunk.iter().zip(first..) {
            // Early on the threshold is -inf, which must not let -inf itself in.
            if score >= threshold && score > f32::NEG_INFINITY {
                out.push(Candidate { score, id });
            }
        }
        if out.len() >= limit {
            threshold = keep_top_k(out, k);
            // Many ties may all have to stay: make room so that the work per score stays constant.
            limit = (2 * out.len()).max(limit);
        }
    }
    if k > 0 {
        keep_top_k(out, k);
    }
}

/// Drops what is below the `k`-th best score and returns that score (`-inf` when there are fewer candidates).
pub(crate) fn keep_top_k(candidates: &mut Vec<Candidate>, k: usize) -> f32 {
    if candidates.len() <= k {
        return f32::NEG_INFINITY;
    }
    let (_, kth, _) = candidates.select_nth_unstable_by(k - 1, best_first);
    let threshold = kth.score;
    candidates.retain(|candidate| candidate.score >= threshold);
    threshold
}

/// Keeps the best candidates up to and including the one with which their share of the mass exceeds `top_p`
/// (utils.py:1153-1164), at least `min_keep`; leaves them best first. `top_p` = 0 keeps all.
pub(crate) fn keep_nucleus(candidates: &mut Vec<Candidate>, top_p: f32, min_keep: usize) {
    if top_p <= 0.0 {
        return;
    }
    let best = candidates.iter().map(|candidate| candidate.score).fold(f32::NEG_INFINITY, f32::max);
    let weight = |candidate: &Candidate| f64::from((candidate.score - best).exp());
    let total: f64 = candidates.iter().map(weight).sum();
    let (mut kept, mut mass, mut block) = (0, 0.0, 64);
    while kept < candidates.len() {
        // Only as much as the nucleus needs gets sorted.
        let tail = &mut candidates[kept..];
        let ordered = tail.len().min(block);
        if ordered < tail.len() {
            tail.select_nth_unstable_by(ordered - 1, best_first);
        }
        tail[..ordered].sort_unstable_by(best_first);
        for candidate in &tail[..ordered] {
            kept += 1;
            mass += weight(candidate) / total;
            if mass > f64::from(top_p) && kept >= min_keep {
                candidates.truncate(kept);
                return;
            }
        }
        block *= 8;
    }
}

/// Draws one candidate by softmax of the scores.
///
/// # Errors
/// [`SampleError::NothingLeft`] when there is no candidate.
pub(crate) fn draw(candidates: &[Candidate], random: &mut impl Rng) -> Result<u32, SampleError> {
    let best = candidates.iter().map(|candidate| candidate.score).fold(f32::NEG_INFINITY, f32::max);
    let weight = |candidate: &Candidate| f64::from((candidate.score - best).exp());
    let total: f64 = candidates.iter().map(weight).sum();
    let mut left = random.random::<f64>() * total;
    for candidate in candidates {
        left -= weight(candidate);
        if left < 0.0 {
            return Ok(candidate.id);
        }
    }
    // Rounding can leave a crumb behind the last candidate.
    candidates.last().map(|candidate| candidate.id).ok_or(SampleError::NothingLeft)
}

/// Draws one index by softmax of all `scores`, which are replaced by their weights.
///
/// # Errors
/// [`SampleError::NothingLeft`] when every score is `-inf`.
pub(crate) fn draw_from_all(scores: &mut [f32], random: &mut impl Rng) -> Result<u32, SampleError> {
    let best = max(scores);
    if best == f32::NEG_INFINITY {
        return Err(SampleError::NothingLeft);
    }
    let mut total = 0.0_f64;
    for score in scores.iter_mut() {
        *score = (*score - best).exp();
        total += f64::from(*score);
    }
    let mut left = random.random::<f64>() * total;
    let mut last = 0;
    for (index, &weight) in scores.iter().enumerate() {
        if weight > 0.0 {
            last = index;
            left -= f64::from(weight);
            if left < 0.0 {
                break;
            }
        }
    }
    Ok(last as u32)
}
