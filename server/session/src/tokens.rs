//! Token ids as the bundle states them, and the one thing this crate asks of a tokenizer.
//!
//! Must not contain an id: every id comes from `manifest.json`.

use serde::{Deserialize, Serialize};

use crate::config::ConfigError;

/// The manifest's `tokenizer` block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokens {
    /// Width of the LLM's logits.
    pub vocab: usize,
    /// The ids that the duplex rules name.
    pub tokens: TokenIds,
    /// Ids left out of `previous` by the context window (`StreamDecoder._all_special_ids`, utils.py:1172-1208).
    pub special_ids: Vec<u32>,
    /// Texts removed from `previous` (`StreamDecoder._all_special_tokens_text`, same place).
    pub special_texts: Vec<String>,
    /// Ids that text sampling never returns: `<|tts_pad|>`, the tokenizer's bad ids and `<|chunk_eos|>` (utils.py:1216-1221).
    pub forbidden_ids: Vec<u32>,
}

/// Ids of the tokens that the duplex rules name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenIds {
    /// `<unit>`
    pub unit: u32,
    /// `</unit>`
    pub unit_end: u32,
    /// `<image>`
    pub image: u32,
    /// `</image>`
    pub image_end: u32,
    /// `<slice>`
    pub slice: u32,
    /// `</slice>`
    pub slice_end: u32,
    /// `<|listen|>`
    pub listen: u32,
    /// `<|speak|>`
    pub speak: u32,
    /// `<|tts_bos|>`
    pub tts_bos: u32,
    /// `<|tts_eos|>`
    pub tts_eos: u32,
    /// `<|tts_pad|>`
    pub tts_pad: u32,
    /// `<|chunk_eos|>`
    pub chunk_eos: u32,
    /// `<|chunk_tts_eos|>`
    pub chunk_tts_eos: u32,
    /// `<|turn_eos|>`
    pub turn_eos: u32,
    /// `<|audio_start|>`
    pub audio_start: u32,
    /// `<|audio_end|>`
    pub audio_end: u32,
    /// The tokenizer's `eos_token`. The reference's `listen_prob_scale` and `listen_top_k` act on this id and not on
    /// `<|listen|>` (utils.py:1167).
    pub eos: u32,
}

impl TokenIds {
    fn named(&self) -> [(&'static str, u32); 17] {
        [
            ("unit", self.unit),
            ("unit_end", self.unit_end),
            ("image", self.image),
            ("image_end", self.image_end),
            ("slice", self.slice),
            ("slice_end", self.slice_end),
            ("listen", self.listen),
            ("speak", self.speak),
            ("tts_bos", self.tts_bos),
            ("tts_eos", self.tts_eos),
            ("tts_pad", self.tts_pad),
            ("chunk_eos", self.chunk_eos),
            ("chunk_tts_eos", self.chunk_tts_eos),
            ("turn_eos", self.turn_eos),
            ("audio_start", self.audio_start),
            ("audio_end", self.audio_end),
            ("eos", self.eos),
        ]
    }
}

impl Tokens {
    /// Every id of the logits that stands for no text: the named ones, the tokenizer's special ones and the forbidden ones.
    pub(crate) fn without_words(&self) -> Vec<u32> {
        let named = self.tokens.named().into_iter().map(|(_, id)| id);
        let mut ids: Vec<u32> = named.chain(self.special_ids.iter().chain(&self.forbidden_ids).copied()).collect();
        ids.retain(|&id| (id as usize) < self.vocab);
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Checks that every id lies inside the vocabulary and that `<|chunk_eos|>` is forbidden to text sampling.
    ///
    /// # Errors
    /// [`ConfigError`] naming the id.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let forbidden = self.forbidden_ids.iter().map(|&id| ("forbidden_ids", id));
        for (name, id) in self.tokens.named().into_iter().chain(forbidden) {
            if id as usize >= self.vocab {
                return Err(ConfigError::new(
                    format!("tokenizer.{name}"),
                    format!("id {id} is not below the vocabulary size {}", self.vocab),
                ));
            }
        }
        if !self.forbidden_ids.contains(&self.tokens.chunk_eos) {
            return Err(ConfigError::new(
                "tokenizer.forbidden_ids",
                format!("must hold chunk_eos ({}), which only the raw test may choose", self.tokens.chunk_eos),
            ));
        }
        Ok(())
    }
}

/// What the duplex rules need from a tokenizer.
pub trait TextDecoder {
    /// Text of `ids` without special tokens (`skip_special_tokens=True`); incomplete UTF-8 becomes U+FFFD.
    fn decode(&self, ids: &[u32]) -> String;
    /// Ids of `text`, special tokens in it recognised, none added.
    fn encode(&self, text: &str) -> Vec<u32>;
}
