//! Asserted here: pitch, excitation and speech equal the reference's without noise, with a cached source, and with noise.

use super::*;
use crate::golden::{Npz, assert_close, bundle, runtime};

#[test]
fn equals_the_reference() {
    let mut golden = Npz::open("modules/module_hift.npz");
    let bundle = bundle();
    let block = bundle.manifest().hift.clone().expect("the golden bundle speaks");
    let mel = golden.f32("mel");
    let frames = mel.len() / 80;
    let mut hift = Hift::load(runtime(), &bundle, &block, 80).expect("loads");
    let noise = golden.halves("noise_randn");
    let zeros = vec![0.0; noise.len()];
    assert_eq!(hift.noise_len(frames), noise.len());
    let cached = golden.f32("cache_source");
    let (mut speech, mut source) = (Vec::new(), Vec::new());
    for (case, cache, noise) in
        [("zero_noise", &[][..], &zeros), ("with_cache", &cached[..], &zeros), ("noisy", &[][..], &noise)]
    {
        hift.run(&mel, cache, noise, &mut speech, &mut source).expect("runs");
        assert_close("f0", &hift.f0, &golden.f32("f0"), 1e-2);
        assert_close(&format!("{case} source"), &source, &golden.f32(&format!("source_{case}")), 1e-3);
        assert_close(&format!("{case} speech"), &speech, &golden.f32(&format!("speech_{case}")), 1e-3);
    }
}
