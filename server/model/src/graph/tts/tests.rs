//! Asserted here: condition, logits, code embedding and cache equal the reference's; two consecutive chunks of a turn give
//! the reference's codes.

use duologue_session::config::SpeechSampling;
use duologue_session::{CodePlan, CodeSampler, CodeStep};

use super::*;
use crate::embed::RowMut;
use crate::golden::{Npz, assert_close, bundle, runtime};

fn tts(slots: usize) -> Tts {
    Tts::load(runtime(), &bundle(), slots).expect("the golden bundle's tts loads")
}

#[test]
fn equals_the_reference() {
    let mut golden = Npz::open("modules/module_tts.npz");
    let mut tts = tts(1);
    let condition = tts.condition(&golden.tokens("token_ids"), &golden.f32("llm_hidden")).expect("runs");
    assert_close("condition", &condition, &golden.f32("condition"), 1e-5);
    tts.prefill(0, &condition).expect("room");
    assert_close("prefill logits", tts.logits(0), &golden.f32("prefill_logits_last"), 1e-4);
    let mut row = vec![0.0; tts.hidden_size()];
    tts.table.copy(1234, RowMut::F32(&mut row));
    assert_eq!(row, golden.f32("emb_code_1234"));
    tts.decode(&[(0, 1234)]).expect("room");
    assert_close("step logits", tts.logits(0), &golden.f32("step_logits"), 1e-4);
    for (part, name) in ["kv_key", "kv_value"].into_iter().enumerate() {
        let (wanted, shape) = golden.values::<f32>(name);
        assert_eq!(tts.len(0), shape[2]);
        for (layer, wanted) in wanted.chunks_exact(shape[1] * shape[2] * shape[3]).enumerate() {
            assert_close(&format!("{name} layer {layer}"), &tts.cache_rows(0, layer)[part], wanted, 1e-4);
        }
    }
}

#[test]
fn an_empty_unit_is_conditioned_on_the_audio_start_alone() {
    let mut golden = Npz::open("modules/module_tts.npz");
    let mut tts = tts(1);
    let whole = golden.f32("condition");
    let alone = tts.condition(&[], &[]).expect("runs");
    assert_eq!(alone, whole[whole.len() - tts.hidden_size()..]);
}

#[test]
fn two_chunks_of_a_turn_give_the_references_codes() {
    let mut golden = Npz::open("modules/module_tts_chunk.npz");
    let bundle = bundle();
    let block = bundle.manifest().tts.clone().expect("the golden bundle speaks");
    let mut tts = tts(2);
    let rules = SpeechSampling {
        codes: block.codes,
        eos: block.eos,
        greedy: true,
        temperature: block.temperature,
        repetition_penalty: block.repetition_penalty,
        repetition_window: block.repetition_window,
        codes_per_unit: block.codes_per_unit,
        first_unit_codes: block.first_unit_codes,
        filter: None,
    };
    let mut sampler = CodeSampler::new(rules, 0);
    let slot = 1;
    for (chunk, min_new) in [("1", 0), ("2", block.codes_per_unit + 1)] {
        tts.prefill(slot, &golden.f32(&format!("condition{chunk}"))).expect("room");
        let max_new = block.codes_per_unit + 1;
        sampler.start(CodePlan { min_new, max_new, text_start_pos: tts.len(slot), restart: false });
        let mut codes = Vec::new();
        while let CodeStep::Feed { code, last } = sampler.advance(tts.logits(slot)).expect("finite logits") {
            codes.push(code);
            tts.decode(&[(slot, code)]).expect("room");
            if last {
                break;
            }
        }
        assert_eq!(codes, golden.tokens(&format!("tokens{chunk}")), "chunk {chunk}");
    }
    assert_eq!(tts.len(slot), golden.tokens("kv_len_after")[0] as usize);
}
