//! Access to the golden data for this crate's tests.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use ndarray::{Array, Dimension};
use ndarray_npy::{NpzReader, ReadableElement};

/// A file of the project's golden folder; the variable `DUOLOGUE_GOLDEN` points a developer's run at the full set.
pub(crate) fn path(relative: &str) -> PathBuf {
    std::env::var_os("DUOLOGUE_GOLDEN")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden"), PathBuf::from)
        .join(relative)
}

/// One array of an npz file.
pub(crate) fn array<T: ReadableElement, D: Dimension>(npz: &str, name: &str) -> Array<T, D> {
    open(npz).by_name(name).unwrap_or_else(|error| panic!("{npz} {name}: {error}"))
}

/// Names of the arrays of an npz file.
pub(crate) fn names(npz: &str) -> Vec<String> {
    open(npz).names().expect("names")
}

fn open(npz: &str) -> NpzReader<BufReader<File>> {
    let path = path(npz);
    let file = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    NpzReader::new(BufReader::new(file)).expect("npz")
}

/// Largest difference of two arrays of the same size, and the one that 99 % stay below.
pub(crate) fn difference<'a>(got: &[f32], wanted: impl IntoIterator<Item = &'a f32>) -> (f32, f32) {
    let mut wanted = wanted.into_iter();
    let mut all: Vec<f32> =
        got.iter().map(|a| (a - wanted.next().expect("as many values as computed")).abs()).collect();
    assert!(wanted.next().is_none(), "as many values as expected");
    all.sort_by(f32::total_cmp);
    (all[all.len() - 1], all[all.len() * 99 / 100])
}
