//! When a client that knows no `duologue.*` events is told the model's words: with their sound.
//!
//! A unit's words are known a second before the last of them is heard. Clients of the plain API take the time between two
//! deltas for silence and end the speaker's turn after 0.8 s of it (pipecat's Live service), and they have no event that
//! takes unheard words back. So the words wait here for the sound, a fifth of a second at a time. Pure.

use std::collections::VecDeque;
use std::time::Duration;

/// Sound that one fragment goes with, as OpenAI's frames of transcript.
const FRAGMENT: Duration = Duration::from_millis(200);

/// Words and where they stand on the session's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fragment {
    /// The words, with their spaces.
    pub text: String,
    /// Their beginning.
    pub start: Duration,
    /// Their end.
    pub end: Duration,
}

/// The words that wait for their sound: at most those of one unit.
#[derive(Debug, Default)]
pub struct Transcript {
    waiting: VecDeque<Fragment>,
    /// Where the sound that was handed out stands on the session's clock, had it begun with the unit.
    sounded: Duration,
}

impl Transcript {
    /// A unit of length `unit` says `text`, from `start` on the session's clock. Returns what still waits of the unit
    /// before it: its sound has been handed out, or is about to be.
    pub fn say(&mut self, text: &str, start: Duration, unit: Duration) -> Vec<Fragment> {
        let rest = self.rest();
        let count = (unit.as_nanos() / FRAGMENT.as_nanos()).max(1) as usize;
        let mut end = start + unit;
        for (place, text) in split(text, count).into_iter().rev() {
            let start = start + unit * place as u32 / count as u32;
            self.waiting.push_front(Fragment { text, start, end });
            end = start;
        }
        self.sounded = start;
        rest
    }

    /// Sound of this length is handed out: the words that go with it.
    pub fn sound(&mut self, length: Duration) -> Vec<Fragment> {
        self.sounded += length;
        let due = self.waiting.iter().take_while(|fragment| fragment.start < self.sounded).count();
        self.waiting.drain(..due).collect()
    }

    /// The reply was said to its end: all that waits.
    pub fn rest(&mut self) -> Vec<Fragment> {
        self.waiting.drain(..).collect()
    }

    /// The reply was stopped: what waits will not be heard.
    pub fn forget(&mut self) {
        self.waiting.clear();
    }
}

/// `text` in at most `count` parts of about the same length, each with its place among them. No word is cut.
fn split(text: &str, count: usize) -> Vec<(usize, String)> {
    let total = text.chars().count();
    let mut parts: Vec<(usize, String)> = Vec::new();
    for (position, char) in text.chars().enumerate() {
        let place = position * count / total;
        match parts.last_mut() {
            Some((last, part)) if *last == place || !begins_word(char) => part.push(char),
            _ => parts.push((place, char.into())),
        }
    }
    parts
}

/// A word begins with the space before it; in a script without spaces every letter may.
fn begins_word(char: char) -> bool {
    char.is_whitespace() || (char.is_alphabetic() && !char.is_lowercase() && !char.is_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: Duration = Duration::from_secs(1);
    const PACKET: Duration = Duration::from_millis(100);
    /// Five words of one length: one for each fifth of a unit.
    const FIVE: &str = " alpha bravo delta hotel india";

    fn texts(fragments: &[Fragment]) -> Vec<&str> {
        fragments.iter().map(|fragment| fragment.text.as_str()).collect()
    }

    #[test]
    fn a_units_words_come_with_their_sound_and_none_is_lost() {
        for text in [" one two three four five six", "你好，我是你的语音助手。", "word", " a b", ""] {
            let mut transcript = Transcript::default();
            assert_eq!(transcript.say(text, UNIT * 3, UNIT), []);
            let told: Vec<_> = (0..10).flat_map(|_| transcript.sound(PACKET)).collect();
            assert_eq!(texts(&told).concat(), text);
            assert!(told.len() <= 5, "{told:?}");
            assert!(told.iter().all(|part| part.start >= UNIT * 3 && part.end <= UNIT * 4 && part.start < part.end));
            assert!(told.windows(2).all(|pair| pair[0].end <= pair[1].start), "{told:?}");
        }
    }

    #[test]
    fn a_long_reply_has_no_gap_that_a_client_would_take_for_silence() {
        let mut transcript = Transcript::default();
        let (mut quiet, mut longest) = (Duration::ZERO, Duration::ZERO);
        for unit in 0..20u32 {
            transcript.say(" some words that go on", UNIT * unit, UNIT);
            for _ in 0..10 {
                quiet = if transcript.sound(PACKET).is_empty() { quiet + PACKET } else { Duration::ZERO };
                longest = longest.max(quiet);
            }
        }
        assert!(longest <= Duration::from_millis(400), "{longest:?}");
    }

    #[test]
    fn words_are_not_cut() {
        let mut transcript = Transcript::default();
        transcript.say(" extraordinary circumstances", UNIT, UNIT);
        let told: Vec<_> = (0..10).flat_map(|_| transcript.sound(PACKET)).collect();
        assert_eq!(texts(&told), [" extraordinary", " circumstances"]);
    }

    #[test]
    fn late_words_are_told_before_the_next_and_unheard_ones_never() {
        let mut transcript = Transcript::default();
        transcript.say(FIVE, UNIT, UNIT);
        assert_eq!(texts(&transcript.sound(PACKET)), [" alpha"]);
        let rest = transcript.say(" six seven", UNIT * 2, UNIT);
        assert_eq!(texts(&rest).concat(), " bravo delta hotel india");
        assert_eq!(texts(&transcript.sound(PACKET)), [" six"]);
        transcript.forget();
        assert_eq!(transcript.rest(), []);
        assert_eq!(transcript.sound(UNIT), []);
    }

    #[test]
    fn packets_of_any_length_do() {
        let mut transcript = Transcript::default();
        transcript.say(FIVE, UNIT, UNIT);
        assert_eq!(texts(&transcript.sound(UNIT)).concat(), FIVE);
        transcript.say(FIVE, UNIT, UNIT);
        let told: Vec<_> = (0..50).map(|_| transcript.sound(Duration::from_millis(20)).len()).collect();
        assert!(told.iter().all(|count| *count <= 1) && told.iter().sum::<usize>() == 5, "{told:?}");
    }
}
