//! Which words of which unit count as heard.

use proptest::prelude::*;

use super::*;
use crate::core::{SpeechTimings, TurnId, UnitTimings};
use crate::dialogue::{EndedBy, SpeechOrder, TurnReset, UnitEnd};

/// A unit that says `words`, or listens when there are none.
fn said(spoken: &mut SpokenUnits, unit: u32, words: &[&str], turn_open: bool, stale: bool) {
    let text = words.concat();
    let mut end = 0;
    let word_ends = words.iter().map(|word| {
        end += word.len();
        end
    });
    let speech = match (words.is_empty(), turn_open) {
        (true, _) => SpeechOrder::None,
        (false, true) => SpeechOrder::Continue,
        (false, false) => SpeechOrder::EndTurn,
    };
    let end = UnitEnd {
        terminator: 0,
        unit_end: 1,
        is_listen: words.is_empty(),
        end_of_turn: !turn_open,
        ended_by: EndedBy::ChunkEos,
        tokens: vec![],
        decoded: vec![],
        text,
        speech_ids: vec![2; words.len()],
        word_ends: word_ends.collect(),
        speech,
        reset: TurnReset::None,
        turn_open,
    };
    let report = UnitReport {
        unit: UnitId(unit),
        turn: TurnId(0),
        end,
        kv_prefill: 0,
        kv_generate: 0,
        kv_final: 0,
        apm_kv: [0, 0],
        vision_slices: 0,
        vision_tokens: 0,
        window: None,
        timings: UnitTimings::default(),
    };
    spoken.unit(&report, stale);
}

/// A piece of `samples` samples of a unit whose whole sound is `sound` samples.
fn sounds(spoken: &mut SpokenUnits, unit: u32, samples: usize, sound: usize) {
    spoken.speech(&SpeechReport {
        unit: UnitId(unit),
        turn: TurnId(0),
        samples: vec![0; samples],
        codes: vec![],
        sound_samples: sound,
        first_part: None,
        done: false,
        timings: SpeechTimings::default(),
    });
}

fn unheard(mut spoken: SpokenUnits, heard: u64) -> Vec<(u32, usize, String)> {
    spoken.stop();
    let units = spoken.take_unheard(heard);
    units.into_iter().map(|HeardUnit { cut, text }| (cut.unit.0, cut.keep, text)).collect()
}

fn two_units() -> SpokenUnits {
    let mut spoken = SpokenUnits::default();
    said(&mut spoken, 3, &["one", " two", " three", " four"], true, false);
    // The vocoder holds the last 30 samples of the unit back.
    sounds(&mut spoken, 3, 70, 100);
    said(&mut spoken, 4, &[" five", " six"], false, false);
    sounds(&mut spoken, 4, 130, 100);
    spoken
}

#[test]
fn a_unit_is_cut_where_most_of_a_word_was_not_heard() {
    let at = |heard| unheard(two_units(), heard);
    assert_eq!(at(200), []);
    assert_eq!(at(175), [], "most of the last word was heard");
    assert_eq!(at(170), [(4, 1, " five".into())]);
    assert_eq!(at(100), [(4, 0, String::new())]);
    assert_eq!(at(60), [(3, 2, "one two".into()), (4, 0, String::new())]);
    assert_eq!(at(0), [(3, 0, String::new()), (4, 0, String::new())]);
}

#[test]
fn the_next_turn_begins_behind_all_that_was_made_of_the_one_before() {
    let mut spoken = two_units();
    // 7 samples more than the codes say: the end of a turn is never exact.
    sounds(&mut spoken, 4, 7, 100);
    said(&mut spoken, 5, &[], false, false);
    said(&mut spoken, 6, &["a", "b"], true, false);
    sounds(&mut spoken, 6, 100, 100);
    assert_eq!(unheard(spoken, 207 + 50), [(6, 1, "a".into())]);
}

#[test]
fn words_that_were_never_spoken_were_not_heard() {
    let mut spoken = two_units();
    said(&mut spoken, 5, &["more"], true, true);
    assert_eq!(unheard(spoken, 200), [(5, 0, String::new())]);
}

#[test]
fn what_is_said_after_a_stop_stays() {
    let mut spoken = two_units();
    spoken.stop();
    said(&mut spoken, 5, &["next"], true, false);
    sounds(&mut spoken, 5, 10, 100);
    let units = spoken.take_unheard(150);
    assert_eq!(units.iter().map(|unit| unit.cut).collect::<Vec<_>>(), [WordCut { unit: UnitId(4), keep: 1 }]);
    spoken.stop();
    assert_eq!(spoken.take_unheard(200).len(), 1, "it can be stopped later");
    assert_eq!(spoken.take_unheard(0), [], "nothing is told twice");
}

proptest! {
    /// Hearing more never keeps less; what stays is a prefix of what was said, and cuts agree with texts.
    #[test]
    fn what_stays_grows_with_what_was_heard(
        units in prop::collection::vec((0usize..6, 1usize..50), 1..12),
        heard in prop::collection::vec(0u64..700, 2..8),
    ) {
        let build = || {
            let mut spoken = SpokenUnits::default();
            for (number, &(words, sound)) in units.iter().enumerate() {
                let words: Vec<String> = (0..words).map(|word| format!(" {number}.{word}")).collect();
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                said(&mut spoken, number as u32, &words, true, false);
                if !words.is_empty() {
                    sounds(&mut spoken, number as u32, sound, sound);
                }
            }
            spoken
        };
        let mut heard = heard;
        heard.sort_unstable();
        let kept = |heard: u64| -> usize {
            let cut: usize = unheard(build(), heard)
                .iter()
                .map(|(unit, keep, text)| {
                    assert_eq!(text.matches('.').count(), *keep);
                    units[*unit as usize].0 - keep
                })
                .sum();
            units.iter().map(|(words, _)| words).sum::<usize>() - cut
        };
        let kept: Vec<usize> = heard.iter().map(|&heard| kept(heard)).collect();
        prop_assert!(kept.is_sorted(), "{heard:?} samples kept {kept:?} words");
    }
}

#[test]
fn words_of_two_parts_share_the_sound_of_their_own() {
    let heard = |samples: u64| {
        let mut spoken = SpokenUnits::default();
        // Two words have 12 codes, eight the other 13.
        spoken.speech(&SpeechReport {
            unit: UnitId(0),
            turn: TurnId(0),
            samples: vec![0; 2500],
            codes: vec![],
            sound_samples: 2500,
            first_part: Some(FirstPart { words: 2, samples: 1200 }),
            done: true,
            timings: SpeechTimings::default(),
        });
        said(&mut spoken, 0, &["a"; 10], true, false);
        spoken.stop();
        spoken.take_unheard(samples).first().map_or(10, |unit| unit.cut.keep)
    };
    assert_eq!([0, 1000, 1200, 1850, 2500].map(heard), [0, 2, 2, 6, 10]);
}
