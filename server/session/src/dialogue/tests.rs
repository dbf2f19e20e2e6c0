//! The unit loop rule by rule on scripted choices. The golden sessions are in tests/replay.rs.

mod schedule;

use super::*;
use crate::config::{DecodeMode, Mode, Sampling, Speech, SpeechRules, SpeechSampling, Window, WindowMode};

const LISTEN: u32 = 6;
const SPEAK: u32 = 7;
const TTS_BOS: u32 = 8;
const CHUNK_EOS: u32 = 11;
const CHUNK_TTS_EOS: u32 = 12;
const TURN_EOS: u32 = 13;
const VOCAB: usize = 128;

/// Ids from 32 on are one letter each; lower ones are special.
struct Letters;

impl TextDecoder for Letters {
    fn decode(&self, ids: &[u32]) -> String {
        ids.iter().filter(|&&id| id >= 32).filter_map(|&id| char::from_u32(id)).collect()
    }

    fn encode(&self, text: &str) -> Vec<u32> {
        text.chars().map(u32::from).collect()
    }
}

fn tokens() -> Tokens {
    Tokens {
        vocab: VOCAB,
        tokens: TokenIds {
            unit: 0,
            unit_end: 1,
            image: 2,
            image_end: 3,
            slice: 4,
            slice_end: 5,
            listen: LISTEN,
            speak: SPEAK,
            tts_bos: TTS_BOS,
            tts_eos: 9,
            tts_pad: 10,
            chunk_eos: CHUNK_EOS,
            chunk_tts_eos: CHUNK_TTS_EOS,
            turn_eos: TURN_EOS,
            audio_start: 14,
            audio_end: 15,
            eos: 16,
        },
        special_ids: (0..32).collect(),
        special_texts: Vec::new(),
        forbidden_ids: vec![10, CHUNK_EOS],
    }
}

fn config(mode: Mode) -> SessionConfig {
    SessionConfig {
        conduct: mode.into(),
        sampling: Sampling {
            decode_mode: DecodeMode::Greedy,
            temperature: 0.7,
            top_k: 20,
            top_p: 0.8,
            listen_prob_scale: 1.0,
            listen_top_k: None,
            repetition_penalty: 1.05,
            repetition_window: 512,
            length_penalty: 1.1,
        },
        window: Window {
            mode: WindowMode::Off,
            basic_high_tokens: 4000,
            basic_low_tokens: 3500,
            context_previous_max_tokens: 500,
            context_max_units: 24,
        },
        previous_marker: "previous: ".into(),
        force_listen_count: 0,
        max_new_speak_tokens: 20,
        max_chars: 8,
        speech: Some(Speech {
            sampling: SpeechSampling {
                codes: 100,
                eos: 99,
                greedy: true,
                temperature: 0.8,
                repetition_penalty: 1.05,
                repetition_window: 16,
                codes_per_unit: 25,
                first_unit_codes: 25,
                filter: None,
            },
            rules: SpeechRules {
                silence_token: 42,
                silence_prefix: 3,
                lookahead: 3,
                chunk_tokens: 25,
                flush_tokens: 5,
                samples_per_code: 960,
                held_back_samples: 3840,
            },
        }),
        seed: 0,
        schedule: None,
    }
}

struct Run {
    dialogue: Dialogue,
    kv_len: usize,
    fed: Vec<(u32, bool)>,
}

impl Run {
    fn new(config: &SessionConfig) -> Self {
        let mut dialogue = Dialogue::new(config, &tokens()).unwrap();
        dialogue.prepared(10, vec![14, 15], &Letters);
        Self { dialogue, kv_len: 12, fed: Vec::new() }
    }

    fn step(&mut self, choice: Option<u32>) -> Step {
        let mut logits = vec![0.0; choice.map_or(0, |_| VOCAB)];
        if let Some(choice) = choice {
            logits[choice as usize] = 1000.0;
        }
        self.dialogue.advance(&logits, &Letters, &mut Scratch::default()).unwrap()
    }

    /// One unit with these choices; steps beyond them get no logits, so they must not decode.
    fn unit(&mut self, force: bool, choices: &[u32]) -> UnitEnd {
        self.dialogue.begin_unit(self.kv_len);
        self.fed.clear();
        let mut choices = choices.iter().copied();
        let mut step = self.dialogue.start(force);
        let end = loop {
            match step {
                Step::End(end) => break *end,
                Step::Feed { token, speaks } => self.fed.push((token, speaks)),
                Step::Sample => {}
            }
            step = self.step(choices.next());
        };
        assert_eq!(choices.next(), None, "the unit ended early");
        self.finish();
        end
    }

    /// Generates these choices and stops with the last one's token pending: returned, but not fed.
    fn generate(&mut self, choices: &[u32]) {
        self.dialogue.begin_unit(self.kv_len);
        self.fed.clear();
        let mut step = self.dialogue.start(false);
        for &choice in choices {
            if let Step::Feed { token, speaks } = step {
                self.fed.push((token, speaks));
            }
            step = self.step(Some(choice));
        }
        assert!(!matches!(step, Step::End(_)), "the unit ended early");
    }

    fn finish(&mut self) {
        self.kv_len += 1 + self.fed.len() + 2;
        let finalized = self.dialogue.finalize(self.kv_len, &Letters);
        assert_eq!((finalized.edit, finalized.kv_len), (None, self.kv_len));
    }
}

#[test]
fn the_first_token_speaks_to_nobody() {
    let mut run = Run::new(&config(Mode::Fidelity));
    // Even a letter as first token stays out of the text and of the TTS condition.
    let end = run.unit(false, &[65, 66, 67, CHUNK_TTS_EOS]);
    assert_eq!(run.fed, [(65, false), (66, true), (67, true)]);
    assert_eq!((end.text.as_str(), end.speech_ids.as_slice()), ("BC", &[66, 67][..]));
    assert_eq!(end.tokens, [65, 66, 67, CHUNK_TTS_EOS]);
    assert_eq!((end.ended_by, end.speech, end.turn_open), (EndedBy::ChunkTtsEos, SpeechOrder::Continue, true));
}

#[test]
fn listening_in_an_open_turn_becomes_tts_bos_but_is_remembered_as_listen() {
    let mut run = Run::new(&config(Mode::Fidelity));
    run.unit(false, &[SPEAK, 66, CHUNK_EOS]);
    let end = run.unit(false, &[LISTEN, 67, CHUNK_EOS]);
    assert_eq!(end.tokens, [TTS_BOS, 67, CHUNK_EOS]);
    assert_eq!(end.decoded, [LISTEN, 67, CHUNK_EOS]);
    // chunk_eos came from the raw test, which remembers nothing.
    assert_eq!(run.dialogue.sampler.history().collect::<Vec<_>>(), [SPEAK, 66, LISTEN, 67]);
}

#[test]
fn the_last_step_is_not_decoded() {
    let mut run = Run::new(&SessionConfig { max_chars: 1000, ..config(Mode::Fidelity) });
    let choices: Vec<u32> = (40..59).collect();
    let end = run.unit(false, &choices);
    assert_eq!((end.ended_by, end.terminator), (EndedBy::MaxTokens, CHUNK_EOS));
    assert_eq!((end.decoded.len(), end.tokens.len(), end.speech_ids.len()), (19, 20, 18));
}

#[test]
fn a_text_too_long_drops_its_last_token_but_remembers_it_and_keeps_the_turn_open() {
    let mut run = Run::new(&config(Mode::Fidelity));
    // 7 letters fit, the 8th does not. turn_eos before it has no text; the rejected letter reopens the turn.
    let end = run.unit(false, &[SPEAK, 65, 66, 67, 68, 69, 70, 71, TURN_EOS, 72]);
    assert_eq!((end.ended_by, end.terminator, end.text.as_str()), (EndedBy::CharLimit, CHUNK_EOS, "ABCDEFG"));
    assert_eq!(end.tokens.last_chunk::<2>(), Some(&[TURN_EOS, CHUNK_EOS]));
    assert_eq!(end.decoded.last(), Some(&72));
    assert_eq!(run.dialogue.sampler.history().last(), Some(72));
    // The last FED token was turn_eos: the result ends the turn although the loop holds it open.
    assert!(end.end_of_turn && end.turn_open);
    assert_eq!(end.speech, SpeechOrder::EndTurn);
}

#[test]
fn words_behind_turn_eos_reopen_the_turn() {
    let mut run = Run::new(&config(Mode::Fidelity));
    let end = run.unit(false, &[SPEAK, 65, TURN_EOS, 66, CHUNK_EOS]);
    assert!(!end.end_of_turn && end.turn_open);
    let end = run.unit(false, &[LISTEN, TURN_EOS, CHUNK_EOS]);
    assert!(end.end_of_turn && !end.turn_open);
    assert_eq!((end.tokens[0], end.speech), (TTS_BOS, SpeechOrder::EndTurn));
}

#[test]
fn listening_behind_turn_eos_loses_the_words_in_fidelity_and_speaks_them_in_live_mode() {
    let choices = [SPEAK, 65, TURN_EOS, LISTEN];
    let end = Run::new(&config(Mode::Fidelity)).unit(false, &choices);
    assert!(end.is_listen && !end.end_of_turn && !end.turn_open);
    assert_eq!((end.text.as_str(), end.speech, end.reset), ("", SpeechOrder::None, TurnReset::None));
    let end = Run::new(&config(Mode::Live)).unit(false, &choices);
    assert!(end.is_listen && end.end_of_turn && !end.turn_open);
    assert_eq!((end.text.as_str(), end.speech), ("A", SpeechOrder::EndTurn));
    assert!(end.speaks(), "it is shown as spoken although the decision was to listen");
    assert_eq!(end.terminator, LISTEN);
}

#[test]
fn a_forced_listen_closes_an_open_turn_first() {
    for (mode, reset) in [(Mode::Fidelity, TurnReset::VocoderOnly), (Mode::Live, TurnReset::All)] {
        let mut run = Run::new(&config(mode));
        run.unit(false, &[SPEAK, 65, CHUNK_EOS]);
        let end = run.unit(true, &[]);
        assert_eq!(run.fed, [(TURN_EOS, false)]);
        assert_eq!((end.tokens.as_slice(), end.decoded.len()), (&[TURN_EOS, LISTEN][..], 0));
        assert_eq!((end.ended_by, end.reset, end.turn_open), (EndedBy::ForcedListen, reset, false));
        assert!(end.is_listen && !end.end_of_turn && end.speech_ids.is_empty());
        // Nothing is open any more: the next forced listen feeds nothing and resets nothing.
        let end = run.unit(true, &[]);
        assert_eq!((end.tokens.as_slice(), end.reset), (&[LISTEN][..], TurnReset::None));
    }
}

#[test]
fn the_first_units_listen_without_a_decode() {
    let mut run = Run::new(&SessionConfig { force_listen_count: 2, ..config(Mode::Fidelity) });
    assert_eq!(run.unit(false, &[]).ended_by, EndedBy::ForcedListen);
    assert_eq!(run.unit(true, &[]).ended_by, EndedBy::ForcedListen);
    assert_eq!(run.unit(false, &[LISTEN]).ended_by, EndedBy::Listen);
}

#[test]
fn abort_ends_with_chunk_eos_silences_the_unit_and_leaves_the_turn_to_the_forced_listen() {
    let mut run = Run::new(&config(Mode::Live));
    run.generate(&[SPEAK, 65, 66]);
    let end = run.dialogue.abort(&Letters);
    // 66 was chosen but never fed: the cache does not hold it.
    assert_eq!(run.fed, [(SPEAK, false), (65, true)]);
    assert_eq!((end.tokens.as_slice(), end.text.as_str()), (&[SPEAK, 65, CHUNK_EOS][..], "A"));
    assert_eq!((end.speech_ids.as_slice(), end.decoded.as_slice()), (&[65][..], &[SPEAK, 65, 66][..]));
    assert_eq!((end.ended_by, end.speaks(), end.reset), (EndedBy::Aborted, false, TurnReset::All));
    assert!(end.turn_open && !end.end_of_turn);
    run.finish();
    let end = run.unit(true, &[]);
    assert_eq!(end.tokens, [TURN_EOS, LISTEN]);
    assert!(!run.dialogue.turn_open());
}

#[test]
fn abort_before_the_first_token_is_fed_listens() {
    for choices in [&[][..], &[SPEAK]] {
        let mut run = Run::new(&config(Mode::Live));
        run.generate(choices);
        let end = run.dialogue.abort(&Letters);
        assert_eq!((end.tokens.as_slice(), end.is_listen, end.turn_open), (&[LISTEN][..], true, false));
        run.finish();
        // No turn was opened: there is none to close.
        assert_eq!(run.unit(true, &[]).tokens, [LISTEN]);
    }
}

#[test]
fn abort_with_turn_eos_chosen_but_not_fed_leaves_the_turn_open() {
    let mut run = Run::new(&config(Mode::Live));
    run.generate(&[SPEAK, 65, TURN_EOS]);
    let end = run.dialogue.abort(&Letters);
    assert_eq!(end.tokens, [SPEAK, 65, CHUNK_EOS]);
    assert!(end.turn_open && !end.end_of_turn);
    run.finish();
    assert_eq!(run.unit(true, &[]).tokens, [TURN_EOS, LISTEN]);
}

#[test]
fn closing_a_turn_may_not_be_aborted_and_goes_on_to_its_end() {
    let mut run = Run::new(&config(Mode::Live));
    assert!(!run.dialogue.may_abort());
    run.generate(&[SPEAK, 65]);
    assert!(run.dialogue.may_abort());
    run.dialogue.abort(&Letters);
    run.finish();
    run.dialogue.begin_unit(run.kv_len);
    assert_eq!(run.dialogue.start(true), Step::Feed { token: TURN_EOS, speaks: false });
    assert!(!run.dialogue.may_abort());
    let Step::End(end) = run.step(None) else { panic!("the turn is closed") };
    assert_eq!((end.tokens.as_slice(), end.turn_open), (&[TURN_EOS, LISTEN][..], false));
    assert!(!run.dialogue.may_abort());
}

#[test]
#[should_panic(expected = "not while choosing. This is a bug.")]
fn aborting_while_a_turn_is_closed_is_a_bug() {
    let mut run = Run::new(&config(Mode::Live));
    run.unit(false, &[SPEAK, 65, CHUNK_EOS]);
    run.dialogue.begin_unit(run.kv_len);
    run.dialogue.start(true);
    run.dialogue.abort(&Letters);
}

#[test]
fn a_text_only_session_orders_no_speech() {
    let mut run = Run::new(&SessionConfig { speech: None, ..config(Mode::Live) });
    let end = run.unit(false, &[SPEAK, 65, TURN_EOS, CHUNK_EOS]);
    assert_eq!((end.speech, end.text.as_str(), end.end_of_turn), (SpeechOrder::None, "A", true));
}

#[test]
fn the_first_words_of_a_turn_are_known_when_the_next_one_is_chosen() {
    let mut early = config(Mode::Live);
    early.conduct.first_words = 2;
    // After each choice: the words that speech may begin with.
    let first_words = |run: &mut Run, choices: &[u32]| -> Vec<Option<Vec<u32>>> {
        run.dialogue.begin_unit(run.kv_len);
        run.fed.clear();
        let mut step = run.dialogue.start(false);
        let found = choices.iter().map(|&choice| {
            if let Step::Feed { token, speaks } = step {
                run.fed.push((token, speaks));
            }
            step = run.step(Some(choice));
            run.dialogue.first_words().map(<[u32]>::to_vec)
        });
        let found = found.collect();
        run.finish();
        found
    };
    let mut run = Run::new(&early);
    let found = first_words(&mut run, &[SPEAK, 65, 66, 67, 68, CHUNK_EOS]);
    assert_eq!(found, [None, None, None, Some(vec![65, 66]), None, None], "once, with a third word to come");
    let found = first_words(&mut run, &[SPEAK, 65, 66, 67, CHUNK_EOS]);
    assert!(found.iter().all(Option::is_none), "the turn has begun before");
    assert!(run.unit(false, &[SPEAK, 65, TURN_EOS, CHUNK_EOS]).end_of_turn);
    for short in [&[SPEAK, 65, 66, CHUNK_EOS][..], &[SPEAK, 65, 66, TURN_EOS, CHUNK_EOS], &[LISTEN]] {
        let mut run = Run::new(&early);
        assert!(first_words(&mut run, short).iter().all(Option::is_none), "{short:?} has no third word");
    }
    let choices = [SPEAK, 65, TURN_EOS, 66, CHUNK_EOS];
    assert!(first_words(&mut Run::new(&early), &choices).iter().all(Option::is_none), "the turn ends among them");
    let mut silent = Run::new(&SessionConfig { speech: None, ..early });
    assert!(first_words(&mut silent, &[SPEAK, 65, 66, 67, CHUNK_EOS]).iter().all(Option::is_none));
    let mut usual = Run::new(&config(Mode::Live));
    assert!(first_words(&mut usual, &[SPEAK, 65, 66, 67, CHUNK_EOS]).iter().all(Option::is_none));
}

#[test]
fn bad_settings_are_named() {
    let error = |change: fn(&mut SessionConfig)| {
        let mut config = config(Mode::Live);
        change(&mut config);
        Dialogue::new(&config, &tokens()).unwrap_err().to_string()
    };
    assert_eq!(error(|c| c.sampling.temperature = 0.0), "setting sampling.temperature: 0 is not a positive number");
    assert!(error(|c| c.sampling.repetition_window = 0).contains("sampling.repetition_window"));
    assert!(error(|c| c.conduct.artificial_silence = true).contains("conduct.artificial_silence"));
    assert!(error(|c| (c.conduct.first_words, c.conduct.speak_before_listen) = (2, false)).contains("taken back"));
    assert!(error(|c| (c.conduct.first_words, c.conduct.early_sound) = (2, false)).contains("needs early_sound"));
    assert!(
        error(|c| {
            c.conduct.first_words = 2;
            c.schedule = Some(Schedule { listen: 1, speak: 1, tokens: 5, codes: 1 });
        })
        .contains("a unit of one code")
    );
    assert!(error(|c| c.sampling.top_p = 1.5).contains("sampling.top_p: 1.5"));
    assert!(error(|c| c.window.basic_low_tokens = 5000).contains("5000 is above basic_high_tokens 4000"));
    assert!(error(|c| c.max_new_speak_tokens = 1).contains("duplex.max_new_speak_tokens"));
    let mut tokens = tokens();
    tokens.tokens.turn_eos = 128;
    let error = Dialogue::new(&config(Mode::Live), &tokens).unwrap_err().to_string();
    assert_eq!(error, "setting tokenizer.turn_eos: id 128 is not below the vocabulary size 128");
}

#[test]
#[should_panic(expected = "begin_unit before finalize or prepared. This is a bug.")]
fn a_unit_before_the_last_is_finalized_is_a_bug() {
    let mut run = Run::new(&SessionConfig { force_listen_count: 1, ..config(Mode::Fidelity) });
    run.dialogue.begin_unit(run.kv_len);
    run.dialogue.start(false);
    run.dialogue.begin_unit(run.kv_len);
}

#[test]
#[should_panic(expected = "This is a bug.")]
fn a_unit_before_the_prompt_is_a_bug() {
    Dialogue::new(&config(Mode::Fidelity), &tokens()).unwrap().begin_unit(0);
}

#[test]
#[should_panic(expected = "This is a bug.")]
fn choosing_before_the_prefill_is_a_bug() {
    let mut run = Run::new(&config(Mode::Fidelity));
    run.dialogue.begin_unit(run.kv_len);
    run.step(Some(LISTEN));
}

#[test]
fn live_mode_says_where_each_words_text_ends() {
    let mut run = Run::new(&config(Mode::Live));
    let end = run.unit(false, &[SPEAK, 66, 67, TURN_EOS, CHUNK_EOS]);
    assert_eq!((end.speech_ids.as_slice(), end.word_ends.as_slice()), (&[66, 67, TURN_EOS][..], &[1, 2][..]));
    let mut run = Run::new(&config(Mode::Fidelity));
    assert!(run.unit(false, &[SPEAK, 66, CHUNK_EOS]).word_ends.is_empty(), "nothing is ever cut");
}

#[test]
fn a_letter_of_several_tokens_ends_with_the_last_one() {
    /// Each id is a byte.
    struct Bytes;
    impl TextDecoder for Bytes {
        fn decode(&self, ids: &[u32]) -> String {
            String::from_utf8_lossy(&ids.iter().map(|&id| id as u8).collect::<Vec<_>>()).into_owned()
        }
        fn encode(&self, _: &str) -> Vec<u32> {
            Vec::new()
        }
    }
    let ids: Vec<u32> = "aéb".bytes().map(u32::from).collect();
    assert_eq!(word_ends(&ids, "aéb", &Bytes), [1, 1, 3, 4]);
}

#[test]
fn unheard_words_leave_the_cache_and_the_turns_end_stays() {
    let mut run = Run::new(&config(Mode::Live));
    run.unit(false, &[SPEAK, 66, 67, TURN_EOS, CHUNK_EOS]);
    // 12 prompt rows, one of input, <|speak|>, two words, <|turn_eos|>, two that close.
    let cut = run.dialogue.cut(WordCut { unit: crate::UnitId(0), keep: 1 });
    assert_eq!(cut, Some(CacheEdit::Drop { preserve: 15, len: 1 }));
    run.kv_len -= 1;
    run.unit(false, &[LISTEN]);
    assert_eq!(run.dialogue.window_state().unit_lengths, [6, 3]);
}
