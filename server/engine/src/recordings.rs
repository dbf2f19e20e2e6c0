//! What was made of the recordings that sessions brought lately, shared between sessions: making it runs graphs over several
//! seconds of audio, and meanwhile the thread serves nobody else.

use std::collections::VecDeque;
use std::sync::Arc;

use duologue_audio::Pcm;

/// The latest results, most lately used in front.
#[derive(Debug)]
pub(crate) struct RecordingCache<T> {
    capacity: usize,
    entries: VecDeque<(Arc<Pcm>, Arc<T>)>,
}

impl<T> RecordingCache<T> {
    /// Keeps at most `capacity` results; the least lately used goes first.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, entries: VecDeque::with_capacity(capacity + 1) }
    }

    /// What belongs to this audio, made by `make` if it is not here.
    pub fn get_or_make<E>(
        &mut self,
        pcm: &Arc<Pcm>,
        make: impl FnOnce(&Pcm) -> Result<Arc<T>, E>,
    ) -> Result<Arc<T>, E> {
        let found = self.entries.iter().position(|(known, _)| Arc::ptr_eq(known, pcm) || known == pcm);
        let entry = match found {
            Some(index) => self.entries.remove(index).expect("the index was found just now. This is a bug."),
            None => (pcm.clone(), make(pcm)?),
        };
        let made = entry.1.clone();
        self.entries.push_front(entry);
        self.entries.truncate(self.capacity);
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recording(sample: f32) -> Arc<Pcm> {
        Arc::new(Pcm { rate_hz: 16_000, samples: vec![sample; 3] })
    }

    #[test]
    fn equal_audio_is_made_once_and_the_least_lately_used_goes() {
        let mut cache = RecordingCache::new(2);
        let mut made = Vec::new();
        // 1 is used between 2 and 3, so 2 has to go for 3.
        for sample in [1.0, 2.0, 1.0, 3.0, 1.0, 2.0] {
            let got = cache.get_or_make(&recording(sample), |pcm| {
                made.push(pcm.samples[0]);
                Ok::<_, ()>(Arc::new(pcm.samples[0]))
            });
            assert_eq!(got, Ok(Arc::new(sample)));
        }
        assert_eq!(made, [1.0, 2.0, 3.0, 2.0]);
    }

    #[test]
    fn what_failed_is_not_kept() {
        let mut cache = RecordingCache::new(2);
        assert_eq!(cache.get_or_make(&recording(1.0), |_| Err("broken")), Err("broken"));
        assert_eq!(cache.get_or_make(&recording(1.0), |_| Ok::<_, ()>(Arc::new(7))), Ok(Arc::new(7)));
    }
}
