//! How much of what the model said was heard: after an interruption, which words leave its history.
//!
//! Owns the place of each spoken unit's words in the session's speech. Must not know the client's buffer or touch a cache.
//!
//! A unit's words share its sound evenly, because nothing says where in it a word lies; if it is spoken in two parts, the words of
//! each share the sound of theirs. A unit's sound is that of its audio
//! tokens ([`SpeechReport::sound_samples`]), not of the pieces that came so far: these lag behind by the vocoder's
//! look-ahead.

use std::collections::VecDeque;

use crate::core::{FirstPart, SpeechReport, UnitId, UnitReport};

/// Units remembered; the oldest goes. The model is a few seconds ahead of the listener, so this is more than enough.
const UNITS: usize = 32;

/// The words of a finished unit from number `keep` on leave the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WordCut {
    /// The unit.
    pub unit: UnitId,
    /// Words that stay.
    pub keep: usize,
}

/// A unit that was not heard to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeardUnit {
    /// What leaves the history.
    pub cut: WordCut,
    /// The text that was heard.
    pub text: String,
}

#[derive(Debug)]
struct Sound {
    /// Its first sample among all speech of the session.
    start: u64,
    len: u64,
    first_part: Option<FirstPart>,
}

#[derive(Debug)]
struct Spoken {
    unit: UnitId,
    text: String,
    word_ends: Vec<usize>,
    /// `None` before its first piece.
    sound: Option<Sound>,
    /// The vocoder begins anew behind it.
    ends_run: bool,
    /// Nothing more of it will be heard.
    stopped: bool,
}

/// The latest units that the model said something in.
#[derive(Debug, Default)]
pub struct SpokenUnits {
    units: VecDeque<Spoken>,
    made: u64,
}

impl SpokenUnits {
    /// Samples of speech made so far.
    pub fn made(&self) -> u64 {
        self.made
    }

    /// A unit is finalized. `stale`: it was interrupted, so nothing of it will be heard beyond what already was.
    pub fn unit(&mut self, report: &UnitReport, stale: bool) {
        let end = &report.end;
        if end.speaks() || stale {
            let spoken = self.entry(report.unit);
            spoken.text.clone_from(&end.text);
            spoken.word_ends.clone_from(&end.word_ends);
            spoken.stopped |= stale;
        }
        if let Some(last) = self.units.back_mut().filter(|_| !end.turn_open) {
            last.ends_run = true;
        }
    }

    /// A piece of speech will be played.
    pub fn speech(&mut self, report: &SpeechReport) {
        let made = self.made;
        self.made += report.samples.len() as u64;
        let before = self.units.iter().rev().find(|spoken| spoken.unit < report.unit);
        let follows = before.filter(|spoken| !spoken.ends_run).and_then(|spoken| spoken.sound.as_ref());
        let start = follows.map_or(made, |sound| sound.start + sound.len);
        let sound = self.entry(report.unit).sound.get_or_insert(Sound { start, len: 0, first_part: None });
        sound.len = report.sound_samples as u64;
        sound.first_part = report.first_part;
    }

    /// What was said so far is stopped.
    pub fn stop(&mut self) {
        self.units.iter_mut().for_each(|spoken| spoken.stopped = true);
    }

    /// The stopped units that were not heard to their end, oldest first, when the listener has heard the first `heard`
    /// samples of all speech; all stopped units are forgotten.
    pub fn take_unheard(&mut self, heard: u64) -> Vec<HeardUnit> {
        let mut unheard = Vec::new();
        self.units.retain(|spoken| {
            if spoken.stopped {
                unheard.extend(spoken.unheard(heard));
            }
            !spoken.stopped
        });
        unheard
    }

    fn entry(&mut self, unit: UnitId) -> &mut Spoken {
        if self.units.back().is_none_or(|last| last.unit < unit) {
            if self.units.len() == UNITS {
                self.units.pop_front();
            }
            self.units.push_back(Spoken {
                unit,
                text: String::new(),
                word_ends: Vec::new(),
                sound: None,
                ends_run: false,
                stopped: false,
            });
        }
        let at = self.units.iter().rposition(|spoken| spoken.unit == unit);
        &mut self.units[at.expect("reports of one unit come before those of the next. This is a bug.")]
    }
}

impl Spoken {
    fn unheard(&self, heard: u64) -> Option<HeardUnit> {
        let words = self.word_ends.len();
        let keep = self.sound.as_ref().map_or(0, |sound| sound.words_heard(heard, words));
        let text = || self.text[..keep.checked_sub(1).map_or(0, |last| self.word_ends[last])].to_owned();
        (keep < words).then(|| HeardUnit { cut: WordCut { unit: self.unit, keep }, text: text() })
    }
}

impl Sound {
    /// Of `words` words, those that were heard for the greater part.
    fn words_heard(&self, heard: u64, words: usize) -> usize {
        let heard = heard.saturating_sub(self.start).min(self.len);
        let Some(first) = self.first_part else { return share(heard, self.len, words) };
        let (len, first_words) = (first.samples as u64, first.words.min(words));
        let others = heard.saturating_sub(len);
        share(heard.min(len), len, first_words) + share(others, self.len.saturating_sub(len), words - first_words)
    }
}

/// Of `words` that share `len` samples evenly, those of which more than half lies in the first `heard`.
fn share(heard: u64, len: u64, words: usize) -> usize {
    if len == 0 { 0 } else { ((2 * heard * words as u64 + len) / (2 * len)) as usize }
}

#[cfg(test)]
mod tests;
