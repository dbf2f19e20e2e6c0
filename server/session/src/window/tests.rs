//! Invariants of both windows over random conversations, and the details of `previous`.

use proptest::prelude::*;

use super::*;
use crate::tokens::TokenIds;

const MARKER: [u32; 3] = [900, 901, 902];
const SUFFIX: [u32; 2] = [800, 801];
const PREFIX: usize = 20;
const SPECIAL: u32 = 5;

/// Ids below 300 are letters; others have no text.
struct Letters;

impl TextDecoder for Letters {
    fn decode(&self, ids: &[u32]) -> String {
        ids.iter().filter(|&&id| id < 300 && id != SPECIAL).filter_map(|&id| char::from_u32(id)).collect()
    }

    fn encode(&self, _: &str) -> Vec<u32> {
        MARKER.to_vec()
    }
}

fn tokens() -> Tokens {
    Tokens {
        vocab: 1000,
        tokens: TokenIds {
            unit: 0,
            unit_end: 1,
            image: 2,
            image_end: 3,
            slice: 4,
            slice_end: SPECIAL,
            listen: 6,
            speak: 7,
            tts_bos: 8,
            tts_eos: 9,
            tts_pad: 10,
            chunk_eos: 11,
            chunk_tts_eos: 12,
            turn_eos: 13,
            audio_start: 14,
            audio_end: 15,
            eos: 16,
        },
        special_ids: vec![SPECIAL],
        special_texts: vec!["<s>".into()],
        forbidden_ids: vec![11],
    }
}

fn window(mode: WindowMode) -> UnitWindow {
    let rules = Window {
        mode,
        basic_high_tokens: 200,
        basic_low_tokens: 120,
        context_previous_max_tokens: 10,
        context_max_units: 3,
    };
    let mut window = UnitWindow::new(rules, &tokens());
    window.prepared(PREFIX, SUFFIX.to_vec(), MARKER.to_vec());
    window
}

fn word_ends(ids: &[u32]) -> Vec<usize> {
    (1..=ids.len()).map(|n| Letters.decode(&ids[..n]).len()).collect()
}

fn spoken(ids: &[u32]) -> UnitRecord {
    UnitRecord { ids: ids.to_vec(), text: Letters.decode(ids), word_ends: word_ends(ids), ..UnitRecord::default() }
}

fn unit(window: &mut UnitWindow, len: usize, record: UnitRecord) -> Option<CacheEdit> {
    let start = window.kv_len();
    window.begin_unit(start);
    window.finish_unit(start + len, record, &Letters)
}

fn text(letters: &str) -> Vec<u32> {
    letters.chars().map(u32::from).collect()
}

#[test]
fn basic_drops_in_one_go_from_above_high_to_low() {
    let mut window = window(WindowMode::Basic);
    // 22 prompt rows, units of 60: 82, 142, 202.
    assert_eq!(unit(&mut window, 60, spoken(&[])), None);
    assert_eq!(unit(&mut window, 60, spoken(&[])), None);
    assert_eq!(unit(&mut window, 60, spoken(&[])), Some(CacheEdit::Drop { preserve: 22, len: 120 }));
    let state = window.state();
    assert_eq!((window.kv_len(), state.position_offset, state.events, state.dropped_units), (82, 120, 1, 2));
    assert_eq!(state.unit_lengths, [60]);
}

#[test]
fn basic_at_the_high_mark_keeps_all_and_a_huge_unit_drops_itself() {
    let mut window = window(WindowMode::Basic);
    assert_eq!(unit(&mut window, 178, spoken(&[])), None);
    assert_eq!(unit(&mut window, 178, spoken(&[])), Some(CacheEdit::Drop { preserve: 22, len: 356 }));
    assert_eq!((window.kv_len(), window.state().unit_lengths.len()), (22, 0));
}

#[test]
fn context_keeps_what_was_said_between_prefix_and_suffix() {
    let mut window = window(WindowMode::Context);
    for letters in ["ab", "cd", "ef"] {
        assert_eq!(unit(&mut window, 15, spoken(&text(letters))), None);
    }
    let edit = unit(&mut window, 16, spoken(&text("gh")));
    let feed = [&MARKER[..], &text("ab"), &SUFFIX].concat();
    assert_eq!(edit, Some(CacheEdit::Rebuild { prefix: PREFIX, feed, units_len: 46 }));
    assert_eq!(window.kv_len(), PREFIX + 7 + 46);
    let edit = unit(&mut window, 16, UnitRecord { is_listen: true, ..UnitRecord::default() });
    let feed = [&MARKER[..], &text("abcd"), &SUFFIX].concat();
    assert_eq!(edit, Some(CacheEdit::Rebuild { prefix: PREFIX, feed, units_len: 47 }));
    assert_eq!(window.state().previous_text, "abcd");
    assert_eq!(window.state().position_offset, 0);
}

#[test]
fn context_without_words_moves_units_and_adds_no_marker() {
    let mut window = window(WindowMode::Context);
    let listen = || UnitRecord { is_listen: true, ..spoken(&text("xy")) };
    for _ in 0..3 {
        assert_eq!(unit(&mut window, 13, listen()), None);
    }
    assert_eq!(unit(&mut window, 13, listen()), Some(CacheEdit::Drop { preserve: 22, len: 13 }));
    assert!(window.state().previous_ids.is_empty());
}

#[test]
fn previous_is_cut_from_the_left_behind_the_marker() {
    let mut window = window(WindowMode::Context);
    for letters in ["abcdef", "ghijkl", "-", "-", "-"] {
        unit(&mut window, 13, spoken(&text(letters)));
    }
    let state = window.state();
    assert_eq!(state.previous_ids, [&MARKER[..], &text("cdefghijkl")].concat());
    assert_eq!(state.previous_text, "cdefghijkl");
}

#[test]
fn special_tokens_and_blank_text_stay_out_of_the_previous_text() {
    let mut window = window(WindowMode::Context);
    let with_special = UnitRecord { text: "a<s>b".into(), ..spoken(&[97, SPECIAL, 98]) };
    // A blank unit's ids are kept although its text is not; U+001C is blank to Python.
    let blank = UnitRecord { text: " \u{1c}".into(), ..spoken(&[32, 0x1c]) };
    for record in [with_special, blank, spoken(&[]), spoken(&[]), spoken(&[])] {
        unit(&mut window, 13, record);
    }
    let state = window.state();
    assert_eq!(state.previous_ids, [&MARKER[..], &[97, 98, 32, 0x1c]].concat());
    assert_eq!(state.previous_text, "ab");
}

#[test]
#[should_panic(expected = "This is a bug.")]
fn a_cache_that_changed_between_units_is_a_bug() {
    window(WindowMode::Off).begin_unit(PREFIX);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Row {
    Prefix(usize),
    Id(u32),
    Unit(usize),
}

fn conversation() -> impl Strategy<Value = Vec<(usize, Vec<u32>, bool)>> {
    prop::collection::vec((3usize..45, prop::collection::vec(40u32..120, 0..19), any::<bool>()), 1..60)
}

proptest! {
    /// The edits, applied to a list of rows, keep the prompt, never lose a row in the middle, keep units whole and in
    /// order, and bound the cache; the predicted length is the list's.
    #[test]
    fn edits_keep_the_prompt_and_whole_recent_units(units in conversation(), context: bool) {
        let mode = if context { WindowMode::Context } else { WindowMode::Basic };
        let mut window = window(mode);
        let prefix: Vec<Row> = (0..PREFIX).map(Row::Prefix).collect();
        let suffix = SUFFIX.map(Row::Id);
        let mut rows = [&prefix[..], &suffix].concat();
        let mut said = String::new();
        for (index, (len, ids, is_listen)) in units.into_iter().enumerate() {
            window.begin_unit(rows.len());
            rows.extend(std::iter::repeat_n(Row::Unit(index), len));
            let record = UnitRecord { is_listen, ..spoken(&ids) };
            said.push_str(if is_listen { "" } else { &record.text });
            let edit = window.finish_unit(rows.len(), record, &Letters);
            match &edit {
                None => {}
                Some(CacheEdit::Drop { preserve, len }) => { rows.drain(*preserve..preserve + len); }
                Some(CacheEdit::Rebuild { prefix, feed, units_len }) => {
                    let kept = rows.split_off(rows.len() - units_len);
                    rows.truncate(*prefix);
                    rows.extend(feed.iter().map(|&id| Row::Id(id)));
                    rows.extend(kept);
                }
            }
            let state = window.state();
            prop_assert_eq!(rows.len(), window.kv_len());
            prop_assert_eq!(&rows[..PREFIX], &prefix[..]);
            let units_at = state.preserve;
            prop_assert_eq!(&rows[units_at - 2..units_at], &suffix[..]);
            let first = index + 1 - state.unit_lengths.len();
            let kept: Vec<Row> = (first..).zip(&state.unit_lengths)
                .flat_map(|(unit, &len)| std::iter::repeat_n(Row::Unit(unit), len)).collect();
            prop_assert_eq!(&rows[units_at..], &kept[..]);
            if context {
                prop_assert!(state.unit_lengths.len() <= 3);
                prop_assert!(state.previous_ids.len() <= MARKER.len() + 10);
                prop_assert!(said.contains(&state.previous_text));
            } else {
                prop_assert!(rows.len() <= 200);
                prop_assert!(state.previous_ids.is_empty());
            }
            prop_assert_eq!(state.dropped_units, first);
        }
    }
}

proptest! {
    /// A cut window stands as one that was never told the words: lengths, cache and what it remembers.
    #[test]
    fn a_cut_leaves_the_window_as_if_the_words_had_never_been_said(
        context in any::<bool>(),
        conversation in prop::collection::vec((0usize..7, 0usize..7, any::<bool>()), 1..14),
    ) {
        let mode = if context { WindowMode::Context } else { WindowMode::Basic };
        let (mut cut, mut never) = (window(mode), window(mode));
        for (number, (words, keep, closes)) in conversation.into_iter().enumerate() {
            let keep = keep.min(words);
            let turn_eos: &[u32] = if closes { &[SPECIAL] } else { &[] };
            let said: Vec<u32> = (97..97 + words as u32).collect();
            let record = |words: &[u32]| UnitRecord {
                ids: [words, turn_eos].concat(),
                word_ends: word_ends(words),
                ..spoken(words)
            };
            let rows = |words: usize| 10 + words + turn_eos.len() + CLOSING_ROWS;
            // What the window drops with the unit depends on its length: only cuts that come before it are compared.
            let fits = never.kv_len() + rows(words) <= 200;
            unit(&mut cut, rows(words), record(&said));
            unit(&mut never, rows(if fits { keep } else { words }), record(&said[..if fits { keep } else { words }]));
            if fits {
                let before = (cut.kv_len(), cut.state().unit_lengths);
                match cut.cut(number, keep) {
                    None => prop_assert_eq!(keep, words),
                    Some(CacheEdit::Drop { preserve, len }) => {
                        prop_assert_eq!(len, words - keep);
                        prop_assert_eq!(preserve + len + turn_eos.len() + CLOSING_ROWS, before.0, "the unit's last words");
                    }
                    Some(other) => panic!("{other:?}"),
                }
            }
            prop_assert_eq!(cut.state(), never.state());
            prop_assert_eq!(cut.kv_len(), never.kv_len());
        }
    }
}

#[test]
fn words_of_an_earlier_unit_are_cut_where_they_stand() {
    let mut window = window(WindowMode::Basic);
    unit(&mut window, 20, spoken(&text("abc")));
    unit(&mut window, 30, spoken(&[]));
    // 22 prompt rows; of the unit's 20 the last five are three words and two that close it.
    assert_eq!(window.cut(0, 1), Some(CacheEdit::Drop { preserve: 22 + 16, len: 2 }));
    assert_eq!((window.kv_len(), window.state().unit_lengths), (70, vec![18, 30]));
    assert_eq!(window.cut(0, 1), None, "there is nothing more to cut");
    assert_eq!((window.cut(1, 0), window.cut(2, 0)), (None, None));
}

#[test]
fn a_unit_that_has_left_the_window_is_not_cut() {
    let mut window = window(WindowMode::Context);
    for letters in ["ab", "cd", "ef", "gh"] {
        unit(&mut window, 15, spoken(&text(letters)));
    }
    assert_eq!(window.state().previous_text, "ab");
    assert_eq!(window.cut(0, 0), None);
    assert_eq!(window.cut(1, 0), Some(CacheEdit::Drop { preserve: window.state().preserve + 11, len: 2 }));
}
