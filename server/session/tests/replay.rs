//! Replays the golden sessions through the rules alone: the recorded choices go in as one-hot logits, everything that
//! the reference decided on top of them must come out.
//!
//! Properties, for every unit of sessions A to E:
//! 1. tokens, terminator, end reason, listen and end-of-turn flags, text, and exactly the recorded number of decodes;
//! 2. LLM cache lengths after generate and after finalize, the latter from the window's edit applied to a row list;
//! 3. the window's bookkeeping, `previous` ids and text included;
//! 4. TTS plan (eos masking, position), every token2wav call, the codes left over, the samples after padding;
//! 5. after an edit the cache holds the prompt, the previous text and the kept units' rows in order.

use std::path::PathBuf;

use duologue_session::{
    CacheEdit, DecodeMode, Dialogue, EndedBy, Mode, Part, PlanRequest, Sampling, Scratch, SessionConfig, Speech,
    SpeechOrder, SpeechRules, SpeechSampling, SpeechTurn, Step, TextDecoder, TokenIds, Tokens, TurnReset, Window,
    WindowMode, WindowState,
};
use serde::Deserialize;
use tokenizers::Tokenizer;

const SAMPLES_PER_CODE: usize = 960;
const HELD_BACK_SAMPLES: usize = 3840;

#[derive(Deserialize)]
struct Golden {
    prompt: Prompt,
    #[serde(rename = "gen")]
    rules: Rules,
    window: GoldenWindow,
    force_listen_count: u32,
    max_new_speak_tokens_per_chunk: usize,
    tts_temperature: f32,
    tts_repetition_penalty: f32,
    kv_after_prepare: usize,
    system_preserve_length: usize,
    forced_units: Vec<usize>,
    units: Vec<Unit>,
}

#[derive(Deserialize)]
struct Prompt {
    suffix_ids: Vec<u32>,
    context_previous_marker: String,
    marker_ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Rules {
    decode_mode: DecodeMode,
    temperature: f32,
    top_k: usize,
    top_p: f32,
    listen_prob_scale: f32,
    listen_top_k: Option<usize>,
    text_repetition_penalty: f32,
    text_repetition_window_size: usize,
    length_penalty: f32,
}

#[derive(Deserialize)]
struct GoldenWindow {
    sliding_window_mode: WindowMode,
    basic_window_high_tokens: usize,
    basic_window_low_tokens: usize,
    context_previous_max_tokens: usize,
    context_max_units: usize,
}

#[derive(Deserialize)]
struct Unit {
    tokens: Vec<u32>,
    decoded: Vec<u32>,
    ended_by: EndedBy,
    terminator: u32,
    is_listen: bool,
    end_of_turn: bool,
    turn_ended_after: bool,
    text: String,
    kv_prefill: usize,
    kv_generate: usize,
    kv_final: usize,
    window_state: WindowState,
    waveform_samples: Option<usize>,
    tts_tokens: Option<Vec<u32>>,
    tts_text_start_pos: Option<usize>,
    tts_min_new_tokens: Option<usize>,
    tts_kv_after: Option<usize>,
    t2w_calls: Option<Vec<Call>>,
    t2w_buffer_after: Option<Vec<u32>>,
}

#[derive(Deserialize)]
struct Call {
    tokens: Vec<u32>,
    last_chunk: bool,
    samples: usize,
}

struct Text(Tokenizer);

impl TextDecoder for Text {
    fn decode(&self, ids: &[u32]) -> String {
        self.0.decode(ids, true).expect("golden ids decode")
    }

    fn encode(&self, text: &str) -> Vec<u32> {
        self.0.encode(text, false).expect("golden text encodes").get_ids().to_vec()
    }
}

/// What a cache row holds: enough to see that an edit keeps the right ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Row {
    Prompt(usize),
    Id(u32),
    Unit(usize),
}

fn golden_dir() -> PathBuf {
    std::env::var_os("DUOLOGUE_GOLDEN")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden"), PathBuf::from)
}

fn tokens(text: &Text) -> Tokens {
    let id = |token: &str| text.0.token_to_id(token).unwrap_or_else(|| panic!("the golden tokenizer lacks {token}"));
    let ids = TokenIds {
        unit: id("<unit>"),
        unit_end: id("</unit>"),
        image: id("<image>"),
        image_end: id("</image>"),
        slice: id("<slice>"),
        slice_end: id("</slice>"),
        listen: id("<|listen|>"),
        speak: id("<|speak|>"),
        tts_bos: id("<|tts_bos|>"),
        tts_eos: id("<|tts_eos|>"),
        tts_pad: id("<|tts_pad|>"),
        chunk_eos: id("<|chunk_eos|>"),
        chunk_tts_eos: id("<|chunk_tts_eos|>"),
        turn_eos: id("<|turn_eos|>"),
        audio_start: id("<|audio_start|>"),
        audio_end: id("<|audio_end|>"),
        eos: id("<|im_end|>"),
    };
    let mut special: Vec<(u32, String)> = text
        .0
        .get_added_tokens_decoder()
        .into_iter()
        .filter(|(_, token)| token.special)
        .map(|(id, token)| (id, token.content))
        .collect();
    special.sort_unstable();
    let (special_ids, special_texts) = special.into_iter().unzip();
    Tokens {
        vocab: text.0.get_vocab_size(true),
        tokens: ids,
        special_ids,
        special_texts,
        forbidden_ids: vec![ids.tts_pad, ids.chunk_eos],
    }
}

fn config(golden: &Golden) -> SessionConfig {
    let (rules, window) = (&golden.rules, &golden.window);
    SessionConfig {
        conduct: Mode::Fidelity.into(),
        sampling: Sampling {
            decode_mode: rules.decode_mode,
            temperature: rules.temperature,
            top_k: rules.top_k,
            top_p: rules.top_p,
            listen_prob_scale: rules.listen_prob_scale,
            listen_top_k: rules.listen_top_k,
            repetition_penalty: rules.text_repetition_penalty,
            repetition_window: rules.text_repetition_window_size,
            length_penalty: rules.length_penalty,
        },
        window: Window {
            mode: window.sliding_window_mode,
            basic_high_tokens: window.basic_window_high_tokens,
            basic_low_tokens: window.basic_window_low_tokens,
            context_previous_max_tokens: window.context_previous_max_tokens,
            context_max_units: window.context_max_units,
        },
        previous_marker: golden.prompt.context_previous_marker.clone(),
        force_listen_count: golden.force_listen_count,
        max_new_speak_tokens: golden.max_new_speak_tokens_per_chunk,
        max_chars: 28,
        speech: Some(Speech {
            sampling: SpeechSampling {
                codes: 6562,
                eos: 6561,
                greedy: true,
                temperature: golden.tts_temperature,
                repetition_penalty: golden.tts_repetition_penalty,
                repetition_window: 16,
                codes_per_unit: 25,
                first_unit_codes: 25,
                filter: None,
            },
            rules: SpeechRules {
                silence_token: 4218,
                silence_prefix: 3,
                lookahead: 3,
                chunk_tokens: 25,
                flush_tokens: 5,
                samples_per_code: SAMPLES_PER_CODE,
                held_back_samples: HELD_BACK_SAMPLES,
            },
        }),
        seed: 0,
        schedule: None,
    }
}

/// Applies an edit to a list of rows as the engine applies it to a cache.
fn apply(edit: &CacheEdit, rows: &[Row]) -> Vec<Row> {
    match edit {
        CacheEdit::Drop { preserve, len } => [&rows[..*preserve], &rows[preserve + len..]].concat(),
        CacheEdit::Rebuild { prefix, feed, units_len } => {
            let mut new = rows[..*prefix].to_vec();
            new.extend(feed.iter().map(|&id| Row::Id(id)));
            new.extend_from_slice(&rows[rows.len() - units_len..]);
            new
        }
    }
}

/// Rows that must be in the cache after `units` units: prompt, previous, suffix, the kept units.
fn expected_rows(golden: &Golden, state: &WindowState, units: usize) -> Vec<Row> {
    let prefix = golden.kv_after_prepare - golden.prompt.suffix_ids.len();
    let mut rows: Vec<Row> = (0..prefix).map(Row::Prompt).collect();
    rows.extend(state.previous_ids.iter().chain(&golden.prompt.suffix_ids).map(|&id| Row::Id(id)));
    let first = units - state.unit_lengths.len();
    for (unit, &len) in (first..).zip(&state.unit_lengths) {
        rows.extend(std::iter::repeat_n(Row::Unit(unit), len));
    }
    rows
}

/// Runs the unit's LLM side; returns its end and the number of rows fed.
fn generate(
    dialogue: &mut Dialogue,
    unit: &Unit,
    forced: bool,
    vocab: usize,
    text: &Text,
) -> (duologue_session::UnitEnd, usize) {
    let mut scratch = Scratch::default();
    let mut script = unit.decoded.iter();
    let mut one_hot = vec![0.0; vocab];
    let mut fed = 0;
    let mut step = dialogue.start(forced);
    loop {
        match step {
            Step::End(end) => {
                assert_eq!(script.next(), None, "fewer decodes than the reference");
                return (*end, fed);
            }
            Step::Feed { .. } => fed += 1,
            Step::Sample => {}
        }
        // Where the reference does not decode, no logits may be looked at: an empty slice would be an error.
        step = match script.next() {
            Some(&token) => {
                one_hot[token as usize] = 1000.0;
                let step = dialogue.advance(&one_hot, text, &mut scratch).expect("the logits are fine");
                one_hot[token as usize] = 0.0;
                step
            }
            None => dialogue.advance(&[], text, &mut scratch).expect("no further decode than the reference's"),
        };
    }
}

/// Replays the unit's speech; returns the TTS cache length after it.
fn speak(turn: &mut SpeechTurn, unit: &Unit, order: SpeechOrder, ids: usize, tts_kv: usize, name: &str) -> usize {
    let condition_len = ids + 1;
    let plan = turn
        .plan(PlanRequest {
            part: Part::Whole,
            condition_len,
            end_of_turn: order == SpeechOrder::EndTurn,
            cache_len: tts_kv,
            cache_capacity: 4096,
        })
        .expect("the golden turns fit");
    let codes = unit.tts_tokens.as_deref().expect("the reference spoke too");
    assert_eq!(Some(plan.min_new), unit.tts_min_new_tokens, "{name}");
    assert_eq!(Some(plan.text_start_pos), unit.tts_text_start_pos, "{name}");
    assert!(codes.len() < plan.max_new && !plan.restart, "{name}");
    assert_eq!(Some(tts_kv + condition_len + codes.len()), unit.tts_kv_after, "{name}");
    let mut calls = turn.push(codes);
    let end = turn.finish().expect("a whole unit");
    calls.extend(end.calls);
    let expected = unit.t2w_calls.as_ref().expect("the reference made calls");
    assert_eq!(calls.len(), expected.len(), "{name}");
    for (call, expected) in calls.iter().zip(expected) {
        assert_eq!((&call.tokens, call.last, call.skip_samples), (&expected.tokens, expected.last_chunk, 0), "{name}");
        if !call.last {
            assert_eq!((call.tokens.len() - 3) * SAMPLES_PER_CODE, expected.samples, "{name}");
        }
    }
    let samples: usize = expected.iter().map(|call| call.samples).sum();
    let heard = if end.left_pad { samples.max(24000) } else { samples };
    assert_eq!(unit.waveform_samples.unwrap_or(0), heard, "{name}");
    assert_eq!(Some(turn.buffer()), unit.t2w_buffer_after.as_deref(), "{name}");
    if end.reset == TurnReset::All { 0 } else { turn.text_start_pos() }
}

fn replay(session: &str) {
    let dir = golden_dir();
    let file = dir.join(format!("session_{session}/session.json"));
    let json = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let golden: Golden = serde_json::from_slice(&json).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let file = dir.join("checkpoint/tokenizer.json");
    let text = Text(Tokenizer::from_file(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())));
    let tokens = tokens(&text);
    let config = config(&golden);
    assert_eq!(text.encode(&config.previous_marker), golden.prompt.marker_ids);

    let mut dialogue = Dialogue::new(&config, &tokens).expect("the golden configuration is valid");
    let mut turn = SpeechTurn::new(config.conduct, config.speech.as_ref().expect("golden sessions speak"), None);
    let prefix = golden.kv_after_prepare - golden.prompt.suffix_ids.len();
    dialogue.prepared(prefix, golden.prompt.suffix_ids.clone(), &text);
    assert_eq!(dialogue.window_state().preserve, golden.system_preserve_length);
    let mut rows = expected_rows(&golden, &dialogue.window_state(), 0);
    let mut tts_kv = 0;

    for (index, unit) in golden.units.iter().enumerate() {
        let name = format!("session {session} unit {index}");
        let start = rows.len();
        dialogue.begin_unit(start);
        let (end, fed) = generate(&mut dialogue, unit, golden.forced_units.contains(&index), tokens.vocab, &text);
        assert_eq!(end.tokens, unit.tokens, "{name}");
        assert_eq!(end.decoded, unit.decoded, "{name}");
        assert_eq!(end.ended_by, unit.ended_by, "{name}");
        assert_eq!(end.feed(), [unit.terminator, tokens.tokens.unit_end], "{name}");
        assert_eq!((end.is_listen, end.end_of_turn), (unit.is_listen, unit.end_of_turn), "{name}");
        assert_eq!(end.turn_open, !unit.turn_ended_after, "{name}");
        assert_eq!(end.text, unit.text, "{name}");
        assert_eq!(unit.kv_prefill + fed, unit.kv_generate, "{name}");

        turn.reset(end.reset);
        assert_eq!(end.speaks(), unit.tts_tokens.is_some(), "{name}");
        if end.speaks() {
            tts_kv = speak(&mut turn, unit, end.speech, end.speech_ids.len(), tts_kv, &name);
        }

        rows.extend(std::iter::repeat_n(Row::Unit(index), unit.kv_generate + end.feed().len() - start));
        let finalized = dialogue.finalize(rows.len(), &text);
        if let Some(edit) = &finalized.edit {
            rows = apply(edit, &rows);
        }
        let state = dialogue.window_state();
        assert_eq!(state, unit.window_state, "{name}");
        assert_eq!((rows.len(), finalized.kv_len), (unit.kv_final, unit.kv_final), "{name}");
        assert_eq!(rows, expected_rows(&golden, &state, index + 1), "{name}");
    }
}

#[test]
fn session_a_window_off() {
    replay("A");
}

#[test]
fn session_b_basic_window() {
    replay("B");
}

#[test]
fn session_c_context_window() {
    replay("C");
}

#[test]
fn session_d_with_frames() {
    replay("D");
}

#[test]
fn session_e_barge_in() {
    replay("E");
}
