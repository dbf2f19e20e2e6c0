//! Asserted here:
//! 1. three consecutive streaming chunks give the reference's embeddings, keys and values;
//! 2. offline audio stepped block by block equals the reference's block-causal mask;
//! 3. the cache starts anew in the chunk that would reach the last position (29 s in duplex), counted as the reference does;
//! 4. an empty chunk and a too long recording are refused by their numbers.

use super::*;
use crate::golden::{Npz, assert_close, bundle, runtime};

fn apm() -> Apm {
    Apm::load(runtime(), &bundle()).expect("loads").expect("the golden bundle listens")
}

/// `[layers, heads, frames, width]` as the golden data has it, from rows `start..end` of the cache's time-first layout.
fn golden_layout(apm: &Apm, rows: &[f32], start: usize, end: usize) -> Vec<f32> {
    let (layers, heads, width) = (apm.block.layers, apm.block.heads, apm.block.head_dim);
    let mut out = Vec::new();
    for layer in 0..layers {
        for head in 0..heads {
            for row in start..end {
                out.extend_from_slice(&rows[((row * layers + layer) * heads + head) * width..][..width]);
            }
        }
    }
    out
}

#[test]
fn streaming_chunks_equal_the_reference() {
    let mut golden = Npz::open("modules/module_apm_streaming.npz");
    let mut apm = apm();
    let mut cache = ApmCache::new();
    for chunk in 0..3 {
        let (mel, shape) = golden.values::<f32>(&format!("c{chunk}_mel"));
        let prefix = golden.tokens(&format!("c{chunk}_prefix_extra"))[0] as usize;
        let start = cache.len();
        let embeds = apm.step(&mel, shape[1], prefix, 2, &mut cache).expect("runs");
        assert_close(&format!("chunk {chunk} embeds"), &embeds, &golden.f32(&format!("c{chunk}_embeds")), 1e-4);
        let rows = cache.rows.as_ref().expect("the first step makes room");
        for (part, rows) in ["key", "value"].into_iter().zip(rows) {
            let got = golden_layout(&apm, rows.slice(), start, cache.len());
            assert_close(&format!("chunk {chunk} {part}"), &got, &golden.f32(&format!("c{chunk}_new_{part}")), 1e-4);
        }
    }
    assert_eq!(cache.len(), 150);
}

#[test]
fn offline_audio_equals_the_block_causal_mask() {
    let mut golden = Npz::open("modules/module_apm_offline.npz");
    let (mel, shape) = golden.values::<f32>("mel");
    let embeds = apm().encode_reference(&mel, shape[1]).expect("runs");
    assert_close("offline embeds", &embeds, &golden.f32("embeds"), 1e-4);
}

#[test]
fn the_cache_starts_anew_before_the_last_position() {
    let mut apm = apm();
    let mut cache = ApmCache::new();
    let frames = 104;
    let mel: Vec<f32> = (0..80 * frames).map(|n| (n % 97) as f32 / 97.0).collect();
    let lengths: Vec<usize> = (0..31)
        .map(|_| {
            apm.step(&mel, frames, 2, 2, &mut cache).expect("runs");
            cache.len()
        })
        .collect();
    // 1450 + 52 frames made (50 kept) reach 1500.
    let expected: Vec<usize> = (1..=29).map(|n| n * 50).chain([50, 100]).collect();
    assert_eq!(lengths, expected);
}

#[test]
fn impossible_sizes_are_refused() {
    let mut apm = apm();
    let error = apm.step(&[], 0, 2, 2, &mut ApmCache::new()).expect_err("nothing to hear");
    assert!(error.to_string().contains("0 mel frames"), "{error}");
    let frames = 3001;
    let error = apm.encode_reference(&vec![0.0; 80 * frames], frames).expect_err("over 30 s");
    assert!(error.to_string().contains("3001 mel frames; give 1 to 3000"), "{error}");
}
