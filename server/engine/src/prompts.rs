//! Which slots' LLM caches still begin with a prompt that is known, so that it need not be computed again: sessions one after the
//! other mostly have the same.
//!
//! Owns: this knowledge. The rows are the LLM's; it must not touch them.

use std::sync::Arc;

use duologue_session::CacheEdit;

/// Everything that decides a prompt's rows.
#[derive(Debug, Clone)]
pub(crate) struct PromptRows {
    /// Token ids before the reference audio.
    pub prefix: Vec<u32>,
    /// [n, hidden] rows of it. The front thread shares them between sessions.
    pub audio: Option<Arc<Vec<f32>>>,
    /// Token ids after it.
    pub suffix: Vec<u32>,
}

impl PartialEq for PromptRows {
    /// Recordings are told apart by where their rows lie: two may be equal and not be known as such.
    fn eq(&self, other: &Self) -> bool {
        let same_audio = match (&self.audio, &other.audio) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        same_audio && self.prefix == other.prefix && self.suffix == other.suffix
    }
}

/// Rows at the beginning of a slot that hold a prompt.
#[derive(Debug)]
struct Held {
    prompt: PromptRows,
    prefix_len: usize,
    len: usize,
}

/// What every slot's cache begins with.
#[derive(Debug)]
pub(crate) struct HeldPrompts {
    slots: Vec<Option<Held>>,
}

impl HeldPrompts {
    pub fn new(slots: usize) -> Self {
        Self { slots: (0..slots).map(|_| None).collect() }
    }

    /// Rows of the slot that must stay when its session is over.
    pub fn kept_rows(&self, slot: usize) -> usize {
        self.slots[slot].as_ref().map_or(0, |held| held.len)
    }

    /// Rows of the prompt in front of the suffix and altogether, if the slot holds it.
    pub fn find(&self, slot: usize, prompt: &PromptRows) -> Option<(usize, usize)> {
        self.slots[slot].as_ref().filter(|held| held.prompt == *prompt).map(|held| (held.prefix_len, held.len))
    }

    /// The slot's rows are about to become others.
    pub fn forget(&mut self, slot: usize) {
        self.slots[slot] = None;
    }

    /// The slot's first `len` rows are those of `prompt`, `prefix_len` of them before its suffix.
    pub fn hold(&mut self, slot: usize, prompt: PromptRows, prefix_len: usize, len: usize) {
        self.slots[slot] = Some(Held { prompt, prefix_len, len });
    }

    /// To be told before an edit of the slot's cache.
    pub fn before_edit(&mut self, slot: usize, edit: &CacheEdit) {
        let untouched = match edit {
            CacheEdit::Drop { preserve, .. } => *preserve,
            CacheEdit::Rebuild { prefix, .. } => *prefix,
        };
        if untouched < self.kept_rows(slot) {
            self.forget(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(audio: Option<&Arc<Vec<f32>>>) -> PromptRows {
        PromptRows { prefix: vec![1, 2], audio: audio.cloned(), suffix: vec![3] }
    }

    #[test]
    fn a_prompt_is_found_where_it_lies_and_nowhere_else() {
        let (audio, other) = (Arc::new(vec![0.5]), Arc::new(vec![0.5]));
        let mut held = HeldPrompts::new(2);
        held.hold(1, prompt(Some(&audio)), 3, 4);
        assert_eq!(held.find(1, &prompt(Some(&audio))), Some((3, 4)));
        assert_eq!((held.kept_rows(0), held.kept_rows(1)), (0, 4));
        assert_eq!(held.find(0, &prompt(Some(&audio))), None);
        assert_eq!(held.find(1, &prompt(Some(&other))), None);
        assert_eq!(held.find(1, &prompt(None)), None);
        assert_eq!(held.find(1, &PromptRows { suffix: vec![4], ..prompt(Some(&audio)) }), None);
    }

    #[test]
    fn an_edit_within_the_prompt_ends_it() {
        let rebuild = |prefix| CacheEdit::Rebuild { prefix, feed: vec![9], units_len: 5 };
        for (edit, stays) in [
            (CacheEdit::Drop { preserve: 4, len: 7 }, true),
            (CacheEdit::Drop { preserve: 3, len: 7 }, false),
            (rebuild(4), true),
            (rebuild(3), false),
        ] {
            let mut held = HeldPrompts::new(1);
            held.hold(0, prompt(None), 3, 4);
            held.before_edit(0, &edit);
            assert_eq!(held.find(0, &prompt(None)).is_some(), stays, "{edit:?}");
            assert_eq!(held.kept_rows(0), if stays { 4 } else { 0 });
        }
    }
}
