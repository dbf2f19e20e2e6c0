//! Asserted here: pictures, preprocessed here, give the reference's resampler output, whole and sliced.

use super::*;
use crate::golden::{Npz, assert_close, bundle, path, runtime};
use crate::image::preprocess;

fn check(npz: &str, png: &str) {
    let mut golden = Npz::open(npz);
    let mut vision = Vision::load(runtime(), &bundle()).expect("loads").expect("the golden bundle sees");
    let picture = ::image::open(path(png)).expect("golden picture").to_rgb8();
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let most = golden.tokens("max_slice_nums")[0] as usize;
    let slices = preprocess(picture.as_raw(), width, height, most, vision.params()).expect("a good picture");
    let sizes: Vec<u32> = slices.iter().flat_map(|slice| [slice.h as u32, slice.w as u32]).collect();
    assert_eq!(sizes, golden.tokens("tgt_sizes"));
    let embeds = vision.encode(&slices).expect("runs");
    assert_close(npz, &embeds, &golden.f32("embeds"), 1e-3);
}

#[test]
fn whole_pictures_equal_the_reference() {
    check("modules/module_vision_1.npz", "modules/module_vision_1.png");
    check("modules/module_vision_2.npz", "modules/module_vision_2.png");
}

#[test]
fn a_sliced_picture_equals_the_reference() {
    check("modules/module_vision_sliced.npz", "modules/module_vision_1.png");
}
