//! Golden data and the golden bundle for this crate's tests.
//!
//! `DUOLOGUE_GOLDEN` and `DUOLOGUE_BUNDLE` say where they lie; the defaults are what `make test` uses.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use ndarray::{Array, Dimension};
use ndarray_npy::{NpzReader, ReadableElement};

use crate::bundle::MANIFEST;
use crate::{Bundle, Runtime, RuntimeOptions, VoicePrompt};

fn repository(relative: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(relative)
}

/// A file of the golden folder.
pub(crate) fn path(relative: &str) -> PathBuf {
    let base = std::env::var_os("DUOLOGUE_GOLDEN").map_or_else(|| repository("tests/golden"), PathBuf::from);
    base.join(relative)
}

/// The bundle exported from the golden checkpoint. A missing one fails the test: nothing here is optional.
pub(crate) fn bundle() -> Bundle {
    let default = || repository("out/bundles/golden-fp32");
    let dir = std::env::var_os("DUOLOGUE_BUNDLE").map_or_else(default, PathBuf::from);
    Bundle::open(&dir)
        .unwrap_or_else(|error| panic!("the tests need the golden bundle, `make bundle` exports it: {error}"))
}

/// A copy of the golden bundle by links, except for the manifest, which is written after `change`.
pub(crate) fn altered_bundle(change: impl FnOnce(&mut serde_json::Value)) -> tempfile::TempDir {
    let golden = bundle();
    let dir = tempfile::tempdir().expect("temporary folder");
    for name in golden.manifest().files.keys() {
        let link = dir.path().join(name);
        std::fs::create_dir_all(link.parent().expect("inside the folder")).expect("folder");
        std::os::unix::fs::symlink(golden.path(name).canonicalize().expect("exists"), link).expect("link");
    }
    let text = std::fs::read_to_string(golden.path(MANIFEST)).expect("manifest");
    let mut manifest = serde_json::from_str(&text).expect("json");
    change(&mut manifest);
    std::fs::write(dir.path().join(MANIFEST), manifest.to_string()).expect("write");
    dir
}

/// The golden checkpoint exported for CUDA in `precision`, with `target` then changed to cpu: ONNX Runtime runs the same
/// float16 graphs there. The bundle lies in the folder returned with it.
pub(crate) fn cuda_bundle(precision: &str) -> (tempfile::TempDir, Bundle) {
    let dir = tempfile::tempdir().expect("temporary folder");
    let exporter = repository("models/.venv/bin/duologue-export");
    let output = Command::new(&exporter)
        .args(["export", "--target", "cuda", "--random-weights", "--precision", precision, "--checkpoint"])
        .args([&path("checkpoint"), Path::new("--out"), dir.path()])
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}; `make exporter` installs it", exporter.display()));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the exporter failed: {told}; `make bundle` unpacks the checkpoint");
    let manifest = dir.path().join(MANIFEST);
    let text = std::fs::read_to_string(&manifest).expect("manifest");
    let mut json: serde_json::Value = serde_json::from_str(&text).expect("json");
    assert_eq!((&json["target"], &json["io_dtype"]), (&"cuda".into(), &"float16".into()));
    json["target"] = "cpu".into();
    std::fs::write(manifest, json.to_string()).expect("write");
    let bundle = Bundle::open(dir.path()).unwrap_or_else(|error| panic!("{error}"));
    (dir, bundle)
}

/// One runtime for all tests of the process.
pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::load(&RuntimeOptions::default()).unwrap_or_else(|error| panic!("{error}")))
}

/// An opened npz file.
pub(crate) struct Npz {
    path: PathBuf,
    reader: NpzReader<File>,
}

impl Npz {
    pub(crate) fn open(relative: &str) -> Self {
        let path = path(relative);
        let file = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let reader = NpzReader::new(file).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Npz { path, reader }
    }

    pub(crate) fn array<T: ReadableElement, D: Dimension>(&mut self, name: &str) -> Array<T, D> {
        self.reader.by_name(name).unwrap_or_else(|error| panic!("{} {name}: {error}", self.path.display()))
    }

    /// An array's values in row-major order, and its shape.
    pub(crate) fn values<T: ReadableElement + Clone>(&mut self, name: &str) -> (Vec<T>, Vec<usize>) {
        let array = self.array::<T, ndarray::IxDyn>(name);
        (array.iter().cloned().collect(), array.shape().to_vec())
    }

    pub(crate) fn f32(&mut self, name: &str) -> Vec<f32> {
        self.values(name).0
    }

    pub(crate) fn tokens(&mut self, name: &str) -> Vec<u32> {
        let values = self.values::<i32>(name).0;
        values.into_iter().map(|token| u32::try_from(token).expect("tokens are not negative")).collect()
    }
}

impl Npz {
    /// A float16 array, which ndarray-npy cannot read: the npy header of version 1 is skipped by its stated length.
    pub(crate) fn halves(&self, name: &str) -> Vec<f32> {
        let file = File::open(&self.path).expect("opened before");
        let mut bytes = Vec::new();
        let mut archive = zip::ZipArchive::new(file).expect("an npz is a zip");
        archive.by_name(&format!("{name}.npy")).expect("the array").read_to_end(&mut bytes).expect("readable");
        let data = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        bytes[data..].as_chunks::<2>().0.iter().map(|pair| half::f16::from_le_bytes(*pair).to_f32()).collect()
    }
}

/// The voice prompt that the golden sessions speak with.
pub(crate) fn voice_prompt() -> VoicePrompt {
    let mut golden = Npz::open("modules/module_frontend.npz");
    let (mels, shape) = golden.values::<f32>("prompt_mels");
    let (frames, bins) = (shape[0], shape[1]);
    let mel = (0..bins).flat_map(|bin| (0..frames).map(move |t| t * bins + bin)).map(|place| mels[place]).collect();
    VoicePrompt { tokens: golden.tokens("prompt_speech_tokens"), speaker: golden.f32("spk_emb"), mel }
}

/// Pearson correlation.
pub(crate) fn pcc(got: &[f32], wanted: &[f32]) -> f64 {
    assert_eq!(got.len(), wanted.len(), "as many values as expected");
    let count = got.len() as f64;
    let mean = |values: &[f32]| values.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
    let (mean_got, mean_wanted) = (mean(got), mean(wanted));
    let (mut product, mut square_got, mut square_wanted) = (0.0, 0.0, 0.0);
    for (&a, &b) in got.iter().zip(wanted) {
        let (a, b) = (f64::from(a) - mean_got, f64::from(b) - mean_wanted);
        product += a * b;
        square_got += a * a;
        square_wanted += b * b;
    }
    product / (square_got * square_wanted).sqrt()
}

/// Largest difference.
pub(crate) fn max_abs(got: &[f32], wanted: &[f32]) -> f32 {
    assert_eq!(got.len(), wanted.len(), "as many values as expected");
    got.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Fails unless correlation and largest difference are as good as an fp32 graph's.
#[track_caller]
pub(crate) fn assert_close(what: &str, got: &[f32], wanted: &[f32], most: f32) {
    let (correlation, difference) = (pcc(got, wanted), max_abs(got, wanted));
    eprintln!("{what}: pcc {correlation:.8}, max abs {difference:.2e}");
    assert!(correlation >= 0.9999, "{what}: pcc {correlation}");
    assert!(difference <= most, "{what}: max abs {difference} above {most}");
}
