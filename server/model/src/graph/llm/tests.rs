//! Asserted here:
//! 1. embeddings, hidden states, logits and cache equal the reference's for a prefill, single steps and a 12-row step;
//! 2. one batch over several slots gives what each slot gives alone, and leaves idle slots inside the range untouched;
//! 3. rewinding forgets: the same rows fed again give the same logits;
//! 4. moving rows turns keys by exactly the distance and leaves everything else as it was;
//! 5. removing and splicing rows is moving them, with new rows computed on what is in front of them only;
//! 6. a full cache is refused with its numbers and nothing is fed; so is a token outside the table.

use super::*;
use crate::ModelError;
use crate::golden::{Npz, altered_bundle, assert_close, bundle, max_abs, runtime};

const MODULE: &str = "modules/module_llm.npz";

fn llm(slots: usize) -> Llm {
    Llm::load(runtime(), &bundle(), slots).expect("the golden bundle's llm loads")
}

fn rows_of(llm: &Llm, ids: &[u32]) -> Vec<f32> {
    let mut rows = Vec::new();
    llm.embed(ids, &mut rows).expect("golden ids");
    rows
}

fn last_row(values: &[f32], width: usize) -> &[f32] {
    &values[values.len() - width..]
}

#[test]
fn equals_the_reference() {
    let mut golden = Npz::open(MODULE);
    let mut llm = llm(2);
    let slot = 1;
    let ids = golden.tokens("ids");
    assert_eq!(rows_of(&llm, &ids), golden.f32("embeds"), "the embedding table is copied, not computed");
    for step in ["prefill", "step1", "step2", "step3"] {
        llm.prefill(slot, &golden.f32(&format!("{step}_in"))).expect("room");
        let hidden = golden.f32(&format!("{step}_hidden"));
        assert_close(&format!("{step} hidden"), llm.hidden(slot), last_row(&hidden, llm.hidden_size()), 1e-4);
        assert_close(&format!("{step} logits"), llm.logits(slot), &golden.f32(&format!("{step}_logits_last")), 1e-4);
    }
    for name in ["kv_key", "kv_value"] {
        let (wanted, shape) = golden.values::<f32>(name);
        assert_eq!(llm.len(slot), shape[2]);
        let layer_size = shape[1] * shape[2] * shape[3];
        for (layer, wanted) in wanted.chunks_exact(layer_size).enumerate() {
            let [keys, values] = llm.cache_rows(slot, layer);
            assert_close(
                &format!("{name} layer {layer}"),
                if name == "kv_key" { &keys } else { &values },
                wanted,
                1e-4,
            );
        }
    }
}

#[test]
fn a_batch_equals_single_runs_and_spares_idle_slots() {
    let prompts: [&[u32]; 4] = [&[5, 6, 7], &[8, 9, 10, 11, 12], &[13], &[14, 15]];
    let next = [20, 21, 22, 23];
    let mut alone = llm(1);
    let mut batch = llm(4);
    for (slot, prompt) in prompts.iter().enumerate() {
        let rows = rows_of(&batch, prompt);
        batch.prefill(slot, &rows).expect("room");
    }
    let idle = 1;
    let before = (batch.logits(idle).to_vec(), batch.hidden(idle).to_vec());
    // Three of four, in another order than the slots.
    batch.decode(&[(3, next[3]), (0, next[0]), (2, next[2])]).expect("room");
    assert_eq!(before, (batch.logits(idle).to_vec(), batch.hidden(idle).to_vec()));
    assert_eq!(batch.len(idle), prompts[idle].len());
    // The idle slot continues as if nothing had happened.
    batch.decode(&[(idle, next[idle])]).expect("room");
    for (slot, prompt) in prompts.iter().enumerate() {
        alone.rewind(0, 0);
        let rows = rows_of(&alone, prompt);
        alone.prefill(0, &rows).expect("room");
        alone.decode(&[(0, next[slot])]).expect("room");
        assert_eq!(alone.len(0), batch.len(slot));
        assert!(max_abs(alone.logits(0), batch.logits(slot)) < 1e-5, "slot {slot}");
        assert!(max_abs(alone.hidden(0), batch.hidden(slot)) < 1e-5, "slot {slot}");
    }
}

#[test]
fn long_prefills_are_cut_without_a_trace() {
    let mut llm = llm(2);
    let ids: Vec<u32> = (0..700u32).map(|n| n * 7 % 1300).collect();
    let rows = rows_of(&llm, &ids);
    llm.prefill(0, &rows).expect("room");
    for piece in rows.chunks(100 * llm.hidden_size()) {
        llm.prefill(1, piece).expect("room");
    }
    assert_eq!(llm.len(0), 700);
    assert_close("logits", llm.logits(0), llm.logits(1), 1e-4);
}

#[test]
fn rewinding_forgets() {
    let mut llm = llm(1);
    let rows = rows_of(&llm, &[3, 4, 5, 6]);
    llm.prefill(0, &rows).expect("room");
    llm.decode(&[(0, 30)]).expect("room");
    let wanted = llm.logits(0).to_vec();
    llm.decode(&[(0, 31)]).expect("room");
    llm.decoder.rewind(0, 4);
    llm.decode(&[(0, 30)]).expect("room");
    assert_eq!(llm.logits(0), wanted);
}

#[test]
fn moved_rows_are_turned_by_the_distance_and_nothing_else_changes() {
    let mut llm = llm(3);
    let ids: Vec<u32> = (40..73).collect();
    let rows = rows_of(&llm, &ids);
    for slot in 0..3 {
        llm.prefill(slot, &rows).expect("room");
    }
    let slot = 1;
    let spec = llm.decoder.spec().clone();
    let (heads, width, len) = (spec.kv_heads, spec.head_dim, ids.len());
    let before: Vec<_> = (0..spec.layers).map(|layer| llm.cache_rows(slot, layer)).collect();
    let (src, dst) = (14..33, 5);
    llm.decoder.relocate(&mut llm.compact, slot, src.clone(), dst).expect("room");
    for (layer, [keys_before, values_before]) in before.iter().enumerate() {
        let [mut keys, mut values] = [keys_before.clone(), values_before.clone()];
        for head in 0..heads {
            for (n, row) in src.clone().enumerate() {
                let (from, to) = ((head * len + row) * width, (head * len + dst + n) * width);
                values.copy_within(from..from + width, to);
                let turned = turn(&keys_before[from..from + width], dst as f64 - src.start as f64, spec.rope_theta);
                keys[to..to + width].copy_from_slice(&turned);
                values[to..to + width].copy_from_slice(&values_before[from..from + width]);
            }
        }
        let [got_keys, got_values] = llm.cache_rows(slot, layer);
        assert!(max_abs(&got_keys, &keys) < 1e-5, "layer {layer} keys");
        assert_eq!(got_values, values, "layer {layer}: values move as they are");
    }
    for other in [0, 2] {
        for (layer, before) in before.iter().enumerate() {
            assert_eq!(&llm.cache_rows(other, layer), before, "slot {other} is not touched");
        }
    }
    assert_eq!(llm.len(slot), len, "moving does not change the length");
}

/// A key turned by `distance` positions, straight from the definition.
fn turn(key: &[f32], distance: f64, theta: f64) -> Vec<f32> {
    let half = key.len() / 2;
    let mut out = key.to_vec();
    for j in 0..half {
        let (sin, cos) = (distance * theta.powf(-(j as f64) / half as f64)).sin_cos();
        let (a, b) = (f64::from(key[j]), f64::from(key[j + half]));
        out[j] = (a * cos - b * sin) as f32;
        out[j + half] = (b * cos + a * sin) as f32;
    }
    out
}

#[test]
fn removing_rows_keeps_what_is_around_them() {
    let mut llm = llm(2);
    let rows = rows_of(&llm, &(40..60).collect::<Vec<u32>>());
    for slot in 0..2 {
        llm.prefill(slot, &rows).expect("room");
    }
    llm.remove(0, 3..10).expect("runs");
    llm.decoder.relocate(&mut llm.compact, 1, 10..20, 3).expect("runs");
    llm.decoder.rewind(1, 13);
    assert_eq!((llm.len(0), llm.cache_rows(0, 1)), (13, llm.cache_rows(1, 1)));
}

#[test]
fn spliced_rows_see_the_front_only() {
    let mut llm = llm(2);
    let ids: Vec<u32> = (40..60).collect();
    let width = llm.hidden_size();
    let rows = rows_of(&llm, &ids);
    for (added, tail) in [(2, 8), (12, 8), (3, 0), (0, 5)] {
        let new: Vec<u32> = (100..100 + added).collect();
        llm.rewind(0, 0);
        llm.prefill(0, &rows).expect("room");
        let before = llm.cache_rows(0, 0);
        llm.splice(0, 4, &new, tail).expect("room");
        let len = 4 + new.len() + tail;
        assert_eq!(llm.len(0), len);
        // The front and the new rows are what a fresh prefill of them alone gives.
        llm.rewind(1, 0);
        llm.prefill(1, &rows[..4 * width]).expect("room");
        if added > 0 {
            let fresh = rows_of(&llm, &new);
            llm.prefill(1, &fresh).expect("room");
        }
        let (got, wanted) = (llm.cache_rows(0, 0), llm.cache_rows(1, 0));
        let (heads, head_dim) = (llm.decoder.spec().kv_heads, llm.decoder.spec().head_dim);
        let part = |all: &[f32], rows: usize, range: Range<usize>| -> Vec<f32> {
            let head = rows * head_dim;
            (0..heads)
                .flat_map(|h| all[h * head + range.start * head_dim..h * head + range.end * head_dim].to_vec())
                .collect()
        };
        let front = 4 + new.len();
        for half in 0..2 {
            assert!(
                max_abs(&part(&got[half], len, 0..front), &part(&wanted[half], front, 0..front)) < 1e-5,
                "+{added}"
            );
        }
        let (moved, old) = (part(&got[1], len, front..len), part(&before[1], 20, 20 - tail..20));
        assert_eq!(moved, old, "the tail's values move as they are");
    }
}

#[test]
fn a_full_cache_is_refused_with_its_numbers() {
    let dir = altered_bundle(|manifest| manifest["llm"]["kv_capacity"] = 16.into());
    let small = Bundle::open(dir.path()).expect("opens");
    let mut llm = Llm::load(runtime(), &small, 2).expect("loads");
    assert_eq!(llm.capacity(), 15);
    let rows = rows_of(&llm, &(0..15).collect::<Vec<u32>>());
    llm.prefill(1, &rows[..14 * llm.hidden_size()]).expect("room");
    let error = llm.prefill(1, &rows[..2 * llm.hidden_size()]).expect_err("16 rows are too many");
    let text = error.to_string();
    assert!(text.contains("slot 1 holds 14 of 15 rows and cannot take 2 more"), "{text}");
    assert!(text.contains("sliding window"), "says what to do: {text}");
    assert_eq!(llm.len(1), 14, "nothing was fed");
    llm.decode(&[(1, 3)]).expect("one fits");
    // A dummy step of the full slot 1 next to a real one of slot 0 writes into the reserved row.
    let before = llm.cache_rows(1, 0);
    llm.decode(&[(0, 3)]).expect("room");
    let error = llm.decode(&[(0, 3), (1, 3)]).expect_err("slot 1 is full");
    assert!(matches!(error, ModelError::ContextFull { slot: 1, len: 15, capacity: 15, wanted: 1, .. }), "{error}");
    assert_eq!((llm.len(0), llm.cache_rows(1, 0)), (1, before), "no slot of a refused batch moves on");
}

#[test]
fn tokens_outside_the_table_are_refused() {
    let mut llm = llm(1);
    let bad = u32::try_from(llm.vocab()).expect("small");
    let mut rows = vec![1.0];
    let error = llm.embed(&[0, bad], &mut rows).expect_err("outside");
    assert!(error.to_string().contains(&format!("token id {bad} is outside the table of {bad} rows")), "{error}");
    assert_eq!(rows, [1.0]);
    assert!(matches!(llm.decode(&[(0, bad)]), Err(ModelError::TokenRange { .. })));
    assert_eq!(llm.len(0), 0);
}
