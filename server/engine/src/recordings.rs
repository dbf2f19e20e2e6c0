//! Voices that were made lately, shared between sessions: making one runs four graphs over several seconds of audio.

use std::collections::VecDeque;
use std::sync::Arc;

use duologue_audio::Pcm;
use duologue_model::Voice;

/// Voices kept; the least lately used goes first. At full size the base caches of a 6 s voice take 262 MB (16 layers x 5 steps x
/// 2 rows x 8 heads x 400 frames x 64 x keys and values, float32).
const CAPACITY: usize = 4;

/// The latest voices, most lately used in front.
#[derive(Debug, Default)]
pub(crate) struct VoiceCache {
    entries: VecDeque<(Arc<Pcm>, Arc<Voice>)>,
}

impl VoiceCache {
    /// The voice of this audio, made by `make` if it is not here.
    pub fn get_or_make<E>(
        &mut self,
        pcm: &Arc<Pcm>,
        make: impl FnOnce(&Pcm) -> Result<Arc<Voice>, E>,
    ) -> Result<Arc<Voice>, E> {
        let found = self.entries.iter().position(|(known, _)| Arc::ptr_eq(known, pcm) || known == pcm);
        let entry = match found {
            Some(index) => self.entries.remove(index).expect("the index was found just now. This is a bug."),
            None => (pcm.clone(), make(pcm)?),
        };
        let voice = entry.1.clone();
        self.entries.push_front(entry);
        self.entries.truncate(CAPACITY);
        Ok(voice)
    }
}
