//! The checkpoint's tokenizer behind the session crate's trait.

use std::collections::HashSet;
use std::fmt;

use duologue_session::TextDecoder;

use crate::bundle::Bundle;
use crate::error::{ModelError, Result};

/// File of the bundle that holds it.
const FILE: &str = "tokenizer.json";

/// Text to ids and back.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Ids of control tokens.
    control: HashSet<u32>,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("vocab", &self.inner.get_vocab_size(true)).finish()
    }
}

impl Tokenizer {
    /// Loads tokenizer.json and checks that it belongs to the manifest: no id may lie outside the LLM's vocabulary.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`].
    pub fn load(bundle: &Bundle) -> Result<Self> {
        let path = bundle.path(FILE);
        let refuse = |reason: String| ModelError::Tokenizer { path: path.clone(), reason };
        let inner = tokenizers::Tokenizer::from_file(&path).map_err(|error| refuse(error.to_string()))?;
        let vocab = bundle.manifest().tokenizer.vocab;
        let tokens = inner.get_vocab_size(true);
        if tokens > vocab {
            return Err(refuse(format!("it has {tokens} tokens, the manifest's tokenizer.vocab is {vocab}")));
        }
        let control = inner.get_added_tokens_decoder().into_keys().collect();
        Ok(Tokenizer { inner, control })
    }

    /// Ids of a user's words. Control tokens that the text spells are left out: what is typed is said, not obeyed.
    pub fn encode_words(&self, text: &str) -> Vec<u32> {
        let mut ids = self.encode(text);
        ids.retain(|id| !self.control.contains(id));
        ids
    }
}

impl TextDecoder for Tokenizer {
    fn decode(&self, ids: &[u32]) -> String {
        self.inner.decode(ids, true).expect("byte-level tokens always join to text. This is a bug.")
    }

    fn encode(&self, text: &str) -> Vec<u32> {
        let encoded = self.inner.encode(text, false);
        encoded.expect("byte-level tokens cover every text. This is a bug.").get_ids().to_vec()
    }
}

#[cfg(test)]
mod tests {
    //! Asserted here: special tokens are read but not written, text round-trips, incomplete bytes become U+FFFD.

    use super::*;
    use crate::golden;

    #[test]
    fn special_tokens_are_read_and_left_out_of_text() {
        let bundle = golden::bundle();
        let tokens = bundle.manifest().tokenizer.tokens;
        let tokenizer = Tokenizer::load(&bundle).expect("loads");
        let ids = tokenizer.encode("<unit>hello<|speak|></unit>");
        assert_eq!((ids.first(), ids.last()), (Some(&tokens.unit), Some(&tokens.unit_end)));
        assert!(ids.contains(&tokens.speak));
        assert_eq!(tokenizer.decode(&ids), "hello");
    }

    #[test]
    fn control_tokens_in_a_users_words_do_nothing() {
        let tokenizer = Tokenizer::load(&golden::bundle()).expect("loads");
        assert_eq!(tokenizer.encode_words(" hello<|speak|></unit>"), tokenizer.encode(" hello"));
    }

    #[test]
    fn text_round_trips() {
        let tokenizer = Tokenizer::load(&golden::bundle()).expect("loads");
        for text in ["Streaming Omni Conversation.", "\n\nprevious: ", "等我一下", "a  b"] {
            assert_eq!(tokenizer.decode(&tokenizer.encode(text)), text);
        }
    }

    #[test]
    fn incomplete_bytes_become_the_replacement_character() {
        let tokenizer = Tokenizer::load(&golden::bundle()).expect("loads");
        let ids = tokenizer.encode("🦊");
        assert!(ids.len() > 1, "no vocabulary has this picture as one token");
        assert_eq!(tokenizer.decode(&ids[..1]), "\u{fffd}");
    }
}
