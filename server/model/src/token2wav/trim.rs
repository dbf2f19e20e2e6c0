//! What the caches of a vocoder stream keep when they grow beyond prompt + tail (stepaudio2/token2wav.py:187-203).
//!
//! Owns: index arithmetic only. Must not: touch tensors.

use std::ops::Range;

use crate::graph::flow::CacheEntry;

/// Which rule trims the encoder's first cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trim {
    /// As minicpmo-utils 1.0.5 does: it stores the first cache twice in a row (upsample_encoder_v2.py:478), trims that
    /// with the rule made for the second one and then reads the front half (:428). What survives is the prompt and the
    /// first tokens of the turn, for ever.
    Compat105,
    /// Prompt and newest tokens, as 1.0.7 does.
    Fixed,
}

/// Sizes that trimming depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TrimSizes {
    /// Mel frames of the voice prompt.
    pub(crate) prompt: usize,
    /// Mel frames kept beside it.
    pub(crate) tail: usize,
    /// Mel frames per token.
    pub(crate) up: usize,
}

impl TrimSizes {
    /// Frames that a trimmed cache holds.
    pub(crate) fn most(self) -> usize {
        self.prompt + self.tail
    }

    /// The estimator's cache after a chunk of `new` frames behind `old` entries: the list is newest chunk first, and when
    /// it is too long its first `prompt` and last `tail` entries stay.
    pub(crate) fn estimator(self, old: usize, new: usize) -> impl Iterator<Item = CacheEntry> + Clone {
        let total = old + new;
        let cut = match total > self.most() {
            true => self.prompt..total - self.tail,
            false => total..total,
        };
        (0..total).filter(move |index| !cut.contains(index)).map(move |index| match index < new {
            true => CacheEntry::New(index),
            false => CacheEntry::Old(index - new),
        })
    }

    /// Rows of the encoder's second cache (one per mel frame, oldest first) that stay of `len`; `None`: all.
    pub(crate) fn frames(self, len: usize) -> Option<impl Iterator<Item = usize> + Clone> {
        (len > self.most()).then(|| chain(0..self.prompt, len - self.tail..len))
    }

    /// Rows of the encoder's first cache (one per token, oldest first) that stay of `len`; `None`: all.
    pub(crate) fn tokens(self, len: usize, trim: Trim) -> Option<impl Iterator<Item = usize> + Clone> {
        let packed = self.up * len;
        (packed > self.most()).then(|| {
            let (head, tail) = match trim {
                Trim::Compat105 => (0..self.prompt, packed - self.tail..packed),
                Trim::Fixed => (0..self.prompt / self.up, len - self.tail / self.up..len),
            };
            // Row i of the packed form is row i mod len; the next chunk reads its front part only.
            chain(head, tail).map(move |row| row % len).take(self.most() / self.up)
        })
    }
}

fn chain(head: Range<usize>, tail: Range<usize>) -> std::iter::Chain<Range<usize>, Range<usize>> {
    head.chain(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(prompt: usize) -> TrimSizes {
        TrimSizes { prompt, tail: 100, up: 2 }
    }

    /// The reference's cache as a list of names: prompt frames 0.., generated frames 1000...
    fn estimator_after(prompt: usize, chunks: &[usize]) -> Vec<usize> {
        let mut list: Vec<usize> = (0..prompt).collect();
        let mut next = 1000;
        for &chunk in chunks {
            let new: Vec<usize> = (next..next + chunk).collect();
            next += chunk;
            let old = list.clone();
            let entries = sizes(prompt).estimator(old.len(), chunk);
            list = entries
                .map(|entry| match entry {
                    CacheEntry::New(frame) => new[frame],
                    CacheEntry::Old(index) => old[index],
                })
                .collect();
        }
        list
    }

    #[test]
    fn estimator_keeps_everything_up_to_prompt_plus_tail() {
        let list = estimator_after(60, &[50, 50]);
        let expected: Vec<usize> = (1050..1100).chain(1000..1050).chain(0..60).collect();
        assert_eq!(list, expected);
    }

    #[test]
    fn estimator_steady_state_is_newest_prompt_frames_and_prompt_tail() {
        let list = estimator_after(250, &[50; 8]);
        assert_eq!(list.len(), 350);
        assert_eq!(&list[250..], (150..250).collect::<Vec<_>>(), "the last 100 frames of the prompt");
        assert!(list[..250].iter().all(|&name| name >= 1150), "the newest 250 generated frames");
    }

    #[test]
    fn estimator_may_cut_inside_a_chunk() {
        // A prompt shorter than a chunk keeps only the beginning of the newest chunk.
        let list = estimator_after(30, &[50, 50, 50]);
        assert_eq!(list.len(), 130);
        assert_eq!(&list[..30], (1100..1130).collect::<Vec<_>>());
    }

    #[test]
    fn second_cache_keeps_prompt_and_newest_frames() {
        assert!(sizes(110).frames(210).is_none());
        let kept: Vec<usize> = sizes(110).frames(260).expect("too long").collect();
        assert_eq!(kept, (0..110).chain(160..260).collect::<Vec<_>>());
    }

    #[test]
    fn first_cache_of_1_0_5_freezes_the_first_tokens_of_the_turn() {
        // 112 prompt tokens, third chunk of 25.
        let kept: Vec<usize> = sizes(224).tokens(112 + 75, Trim::Compat105).expect("too long").collect();
        assert_eq!(kept, (0..162).collect::<Vec<_>>());
        let kept: Vec<usize> = sizes(224).tokens(112 + 75, Trim::Fixed).expect("too long").collect();
        assert_eq!(kept, (0..112).chain(137..187).collect::<Vec<_>>());
    }

    #[test]
    fn first_cache_of_1_0_5_with_a_short_prompt_is_a_mixture() {
        // The reference on a list that stands for the packed cache.
        let (prompt, len) = (60usize, 105usize);
        let packed: Vec<usize> = (0..len).chain(0..len).collect();
        let mut expected: Vec<usize> = packed[..prompt].iter().chain(&packed[packed.len() - 100..]).copied().collect();
        expected.truncate((prompt + 100) / 2);
        let kept: Vec<usize> = sizes(prompt).tokens(len, Trim::Compat105).expect("too long").collect();
        assert_eq!(kept, expected);
    }
}
