//! Which units the LLM cache holds, and the window rules that drop the oldest (`StreamDecoder`, utils.py:1308-1836).
//!
//! Owns lengths, the `previous` text and the plan of every cache edit. Must not touch a cache: it says what to do and
//! predicts the length afterwards.

use std::collections::{HashSet, VecDeque};

use serde::{Deserialize, Serialize};

use crate::config::{Window, WindowMode};
use crate::tokens::{TextDecoder, Tokens};

/// One change of the LLM cache of a slot. Lengths are rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheEdit {
    /// Remove rows `preserve..preserve + len`; the rows behind move down and their keys are rotated back by `len`
    /// positions (`drop_tokens_from_cache`, utils.py:1024).
    Drop {
        /// Rows kept at the front.
        preserve: usize,
        /// Rows removed.
        len: usize,
    },
    /// The new cache is `[0..prefix]`, then `feed` computed on top of it, then the last `units_len` rows of the old
    /// cache with their keys rotated to their new place (`_rebuild_cache_with_previous`, utils.py:1546).
    ///
    /// In place: move the units first (their target is `prefix + feed.len()`, which may overlap their old place or
    /// lie behind it), then set the length to `prefix`, prefill `feed`, and set the length to the predicted one.
    Rebuild {
        /// Rows of the prompt before the previous text.
        prefix: usize,
        /// Previous ids, then the prompt's suffix ids.
        feed: Vec<u32>,
        /// Rows of the units that stay.
        units_len: usize,
    },
}

/// What the golden sessions record of the window after each unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowState {
    /// Rows of each unit in the cache, oldest first.
    pub unit_lengths: Vec<usize>,
    /// Rows dropped so far by the basic window; positions are cache rows all the same.
    pub position_offset: usize,
    /// Rows in front of the units.
    pub preserve: usize,
    /// Marker ids and the ids that dropped units said.
    pub previous_ids: Vec<u32>,
    /// Their text, without the marker.
    pub previous_text: String,
    /// How many times units were dropped.
    pub events: usize,
    /// Units dropped so far.
    pub dropped_units: usize,
}

/// What a finished unit leaves behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitRecord {
    /// Its generated ids without the first one.
    pub ids: Vec<u32>,
    /// Their text without special tokens.
    pub text: String,
    /// It listened: nothing of it enters `previous`.
    pub is_listen: bool,
    /// Where the text of each word ends, see [`crate::UnitEnd::word_ends`].
    pub word_ends: Vec<usize>,
}

/// Rows at the end of a unit: its terminator and `</unit>`.
const CLOSING_ROWS: usize = 2;

#[derive(Debug)]
struct Unit {
    len: usize,
    record: UnitRecord,
}

/// Bookkeeping of one session's LLM cache.
#[derive(Debug)]
pub struct UnitWindow {
    rules: Window,
    special_ids: HashSet<u32>,
    special_texts: Vec<String>,
    /// Prompt rows in front of the previous text; used by the context window only.
    prefix: usize,
    suffix_ids: Vec<u32>,
    marker_ids: Vec<u32>,
    preserve: usize,
    previous_ids: Vec<u32>,
    previous_text: String,
    units: VecDeque<Unit>,
    kv_len: usize,
    open_unit_start: Option<usize>,
    position_offset: usize,
    events: usize,
    dropped_units: usize,
}

impl UnitWindow {
    /// A window over an empty cache. `rules` and `tokens` are validated by the caller.
    pub fn new(rules: Window, tokens: &Tokens) -> Self {
        Self {
            rules,
            special_ids: tokens.special_ids.iter().copied().collect(),
            special_texts: tokens.special_texts.clone(),
            prefix: 0,
            suffix_ids: Vec::new(),
            marker_ids: Vec::new(),
            preserve: 0,
            previous_ids: Vec::new(),
            previous_text: String::new(),
            units: VecDeque::new(),
            kv_len: 0,
            open_unit_start: None,
            position_offset: 0,
            events: 0,
            dropped_units: 0,
        }
    }

    /// The prompt is in the cache: `prefix` rows, then one row for each of `suffix_ids`
    /// (`register_system_prompt_with_context`, utils.py:1483; `register_system_prompt`, 1372).
    pub fn prepared(&mut self, prefix: usize, suffix_ids: Vec<u32>, marker_ids: Vec<u32>) {
        self.prefix = prefix;
        self.preserve = prefix + suffix_ids.len();
        self.kv_len = self.preserve;
        self.suffix_ids = suffix_ids;
        self.marker_ids = marker_ids;
    }

    /// Rows in the cache after the last finished unit and its edit.
    pub fn kv_len(&self) -> usize {
        self.kv_len
    }

    /// A unit begins at cache length `kv_len`.
    pub fn begin_unit(&mut self, kv_len: usize) {
        assert_eq!(kv_len, self.kv_len, "the cache changed length between two units. This is a bug.");
        assert!(self.open_unit_start.is_none(), "the last unit was not finished. This is a bug.");
        self.open_unit_start = Some(kv_len);
    }

    /// The open unit's `</unit>` is in the cache, `kv_len` rows long now. Returns the edit that the rules ask for;
    /// [`Self::kv_len`] is then the length after it. `text` decodes ids when the previous text is cut.
    pub fn finish_unit(&mut self, kv_len: usize, record: UnitRecord, text: &dyn TextDecoder) -> Option<CacheEdit> {
        let start = self.open_unit_start.take().expect("no unit is open. This is a bug.");
        assert!(kv_len > start, "a unit fed nothing. This is a bug.");
        self.units.push_back(Unit { len: kv_len - start, record });
        self.kv_len = kv_len;
        let edit = match self.rules.mode {
            WindowMode::Off => None,
            WindowMode::Basic => self.enforce_basic(),
            WindowMode::Context => self.enforce_context(text),
        };
        self.kv_len = self.preserve + self.units_len();
        if edit.is_none() {
            assert_eq!(self.kv_len, kv_len, "unit lengths do not add up to the cache length. This is a bug.");
        }
        edit
    }

    /// Forgets the words of finished unit number `unit` of the session from word `keep` on. `None` when it has no such
    /// words, or has left the window: what it said is text in front of the units then and stays.
    pub fn cut(&mut self, unit: usize, keep: usize) -> Option<CacheEdit> {
        assert!(self.open_unit_start.is_none(), "words are cut between two units. This is a bug.");
        let index = unit.checked_sub(self.dropped_units)?;
        let before: usize = self.units.iter().take(index).map(|unit| unit.len).sum();
        let Unit { len: rows, record } = self.units.get_mut(index)?;
        let len = record.word_ends.len().checked_sub(keep).filter(|len| *len > 0)?;
        let first = self.preserve + before + *rows - CLOSING_ROWS - record.ids.len() + keep;
        record.ids.drain(keep..keep + len);
        record.word_ends.truncate(keep);
        record.text.truncate(record.word_ends.last().copied().unwrap_or(0));
        *rows -= len;
        self.kv_len -= len;
        Some(CacheEdit::Drop { preserve: first, len })
    }

    /// The fields that the golden sessions record.
    pub fn state(&self) -> WindowState {
        WindowState {
            unit_lengths: self.units.iter().map(|unit| unit.len).collect(),
            position_offset: self.position_offset,
            preserve: self.preserve,
            previous_ids: self.previous_ids.clone(),
            previous_text: self.previous_text.clone(),
            events: self.events,
            dropped_units: self.dropped_units,
        }
    }

    fn units_len(&self) -> usize {
        self.units.iter().map(|unit| unit.len).sum()
    }

    /// `enforce_window` (utils.py:1434). The reference drops unit by unit; one removal of the sum leaves the same rows.
    fn enforce_basic(&mut self) -> Option<CacheEdit> {
        if self.kv_len <= self.rules.basic_high_tokens {
            return None;
        }
        let mut left = self.kv_len;
        let mut dropped = 0;
        while left > self.rules.basic_low_tokens {
            let Some(unit) = self.units.pop_front() else { break };
            left -= unit.len;
            dropped += 1;
        }
        if dropped == 0 {
            return None;
        }
        let len = self.kv_len - left;
        self.position_offset += len;
        self.events += 1;
        self.dropped_units += dropped;
        Some(CacheEdit::Drop { preserve: self.preserve, len })
    }

    /// `enforce_window_with_context` (utils.py:1778).
    fn enforce_context(&mut self, text: &dyn TextDecoder) -> Option<CacheEdit> {
        if self.units.len() <= self.rules.context_max_units {
            return None;
        }
        let old_preserve = self.preserve;
        let mut previous_changed = false;
        let mut dropped_len = 0;
        while self.units.len() > self.rules.context_max_units {
            let unit = self.units.pop_front().expect("more units than the limit are there. This is a bug.");
            dropped_len += unit.len;
            self.dropped_units += 1;
            previous_changed |= self.remember(&unit.record, text);
        }
        self.events += 1;
        if !previous_changed {
            // The reference recomputes previous and suffix here too, from the same ids on the same prefix: the rows it
            // gets are the rows that are there.
            return Some(CacheEdit::Drop { preserve: old_preserve, len: dropped_len });
        }
        self.preserve = self.prefix + self.previous_ids.len() + self.suffix_ids.len();
        let feed = self.previous_ids.iter().chain(&self.suffix_ids).copied().collect();
        Some(CacheEdit::Rebuild { prefix: self.prefix, feed, units_len: self.units_len() })
    }

    /// Appends what a dropped unit said to `previous` and cuts it from the left (`_extract_generated_text`,
    /// utils.py:1514; `_update_previous`, 1684). Returns whether the ids changed.
    fn remember(&mut self, record: &UnitRecord, text: &dyn TextDecoder) -> bool {
        if record.is_listen {
            return false;
        }
        let mut said = record.text.clone();
        for special in &self.special_texts {
            if said.contains(special.as_str()) {
                said = said.replace(special.as_str(), "");
            }
        }
        if said.chars().all(is_python_space) {
            said.clear();
        }
        let mut ids = record.ids.iter().copied().filter(|id| !self.special_ids.contains(id)).peekable();
        if ids.peek().is_none() && said.is_empty() {
            return false;
        }
        if self.previous_ids.is_empty() {
            self.previous_ids.extend(&self.marker_ids);
        }
        self.previous_ids.extend(ids);
        self.previous_text.push_str(&said);
        let marker = self.marker_ids.len();
        let content = self.previous_ids.len() - marker;
        if content > self.rules.context_previous_max_tokens {
            self.previous_ids.drain(marker..marker + content - self.rules.context_previous_max_tokens);
            self.previous_text = text.decode(&self.previous_ids[marker..]);
        }
        true
    }
}

/// What Python's `str.strip` removes: Rust's white space and the four ASCII separators.
fn is_python_space(letter: char) -> bool {
    letter.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&letter)
}

#[cfg(test)]
mod tests;
