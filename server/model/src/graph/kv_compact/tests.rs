//! Asserted here: turning cached keys to new positions equals the reference's re-alignment (utils.py:985-1130).

use super::*;
use crate::golden::{Npz, assert_close, bundle, runtime};

#[test]
fn equals_the_references_realignment() {
    let mut golden = Npz::open("modules/module_llm.npz");
    let (keys, shape) = golden.values::<f32>("realign_in");
    let [heads, rows, width] = [shape[0], shape[1], shape[2]];
    let old = golden.tokens("realign_old_pos")[0] as usize;
    let new = golden.tokens("realign_new_pos")[0] as usize;
    let wanted = golden.f32("realign_out");
    let bundle = bundle();
    let mut compact = KvCompact::load(runtime(), &bundle).expect("loads");
    let mut arena = Arena::new();
    let capacity = old + rows;
    let cache = [0, 1].map(|_| arena.host("test", Kind::F32, heads * capacity * width).expect("memory"));
    for head in 0..heads {
        let place = (head * capacity + old) * width;
        for buffer in cache {
            arena.slice_mut::<f32>(buffer)[place..place + rows * width]
                .copy_from_slice(&keys[head * rows * width..(head + 1) * rows * width]);
        }
    }
    let theta = bundle.manifest().llm.rope_theta;
    compact.relocate(&mut arena, &[cache], 0, [heads, capacity, width], theta, old..old + rows, new).expect("runs");
    let moved = |buffer: Buffer| -> Vec<f32> {
        let all = arena.slice::<f32>(buffer);
        (0..heads).flat_map(|head| all[(head * capacity + new) * width..][..rows * width].to_vec()).collect()
    };
    assert_close("realigned keys", &moved(cache[0]), &wanted, 1e-4);
    assert_eq!(moved(cache[1]), keys, "values move as they are");
}
