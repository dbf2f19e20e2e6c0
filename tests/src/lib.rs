//! What the end-to-end tests share: where things are, running the program, and the judge of replayed sessions.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use duologue_audio::wav;
use duologue_proto::session_record::{GoldenSession, ReplayRecord};

pub mod client;
pub mod decoders;
pub mod scripted;
pub mod server;
pub mod sessions;

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository").to_path_buf()
}

/// The recorded sessions.
pub fn golden() -> PathBuf {
    std::env::var_os("DUOLOGUE_GOLDEN").map_or_else(|| root().join("tests/golden"), PathBuf::from)
}

/// The bundle of the golden checkpoint; `make bundle` exports it.
pub fn bundle() -> PathBuf {
    let path =
        std::env::var_os("DUOLOGUE_BUNDLE").map_or_else(|| root().join("out/bundles/golden-fp32"), PathBuf::from);
    assert!(path.join("manifest.json").is_file(), "{} is no bundle; run `make bundle` first", path.display());
    path
}

/// `duologue` with these arguments, not yet started.
pub fn command(arguments: &[&str]) -> Command {
    let here = std::env::current_exe().expect("a test knows its own file");
    let folder = here.parent().and_then(Path::parent).expect("tests run from target/PROFILE/deps");
    let program = folder.join("duologue");
    assert!(program.is_file(), "{} is missing; run `make build` first", program.display());
    let mut command = Command::new(program);
    command.args(arguments).env("ORT_DISABLE_TELEMETRY", "1");
    command
}

/// Runs `duologue` with these arguments.
pub fn duologue(arguments: &[&str]) -> Output {
    command(arguments).output().expect("the program starts")
}

/// Runs `duologue`, which must succeed, and returns what it printed.
pub fn succeed(arguments: &[&str]) -> String {
    let output = duologue(arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?} failed: {error}");
    String::from_utf8(output.stdout).expect("it prints UTF-8")
}

/// Runs `duologue`, which must fail without a panic, and returns its error message.
pub fn fail(arguments: &[&str]) -> String {
    let output = duologue(arguments);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{arguments:?} should fail with status 1: {error}");
    assert!(error.starts_with("error: ") && !error.contains("panicked"), "no plain error message: {error}");
    error
}

/// Least correlation of a unit's waveform with the recorded one.
const MIN_PCC: f64 = 0.999;
/// Largest difference of a sample. Tight enough to tell a Hann from a Hamming cross-fade, which correlation alone does not.
const MAX_ABS: f32 = 0.02;

/// Compares a replayed session with its record; returns every difference as a sentence.
pub fn judge(recorded_dir: &Path, replayed_dir: &Path) -> Vec<String> {
    let read = |path: PathBuf| std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let recorded: GoldenSession =
        serde_json::from_slice(&read(recorded_dir.join("session.json"))).expect("a recorded session");
    let replayed: ReplayRecord =
        serde_json::from_slice(&read(replayed_dir.join("session.json"))).expect("a replayed session");
    let everything = samples(&recorded_dir.join("waveform_all.wav"));
    let mut differences = Vec::new();
    if recorded.units.len() != replayed.units.len() {
        differences.push(format!("{} units were recorded, {} replayed", recorded.units.len(), replayed.units.len()));
    }
    let mut at = 0;
    for (number, (recorded, replayed)) in recorded.units.iter().zip(&replayed.units).enumerate() {
        if recorded.outcome != *replayed {
            differences.push(format!("unit {number}: recorded {:?}\n         replayed {replayed:?}", recorded.outcome));
        }
        let wanted = &everything[at..at + recorded.waveform_samples.unwrap_or(0)];
        at += wanted.len();
        let path = replayed_dir.join(format!("unit_{number:03}.wav"));
        let got = if path.exists() { samples(&path) } else { Vec::new() };
        if wanted.len() != got.len() {
            differences.push(format!("unit {number}: {} samples were recorded, {} replayed", wanted.len(), got.len()));
            continue;
        }
        let worst = wanted.iter().zip(&got).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let pcc = correlation(wanted, &got);
        if pcc < MIN_PCC || worst > MAX_ABS {
            differences.push(format!("unit {number}: waveform correlation {pcc:.6}, largest difference {worst:.4}"));
        }
    }
    assert_eq!(at, everything.len(), "the recorded waveform is longer than its units");
    differences
}

fn samples(path: &Path) -> Vec<f32> {
    wav::read_mono(path, wav::Limits { min_seconds: 0.0, max_seconds: 1e6 })
        .unwrap_or_else(|error| panic!("{error}"))
        .samples
}

/// Pearson correlation; 1 for two equal constants.
fn correlation(a: &[f32], b: &[f32]) -> f64 {
    let mean = |x: &[f32]| x.iter().map(|v| f64::from(*v)).sum::<f64>() / x.len().max(1) as f64;
    let (ma, mb) = (mean(a), mean(b));
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(b) {
        let (x, y) = (f64::from(*x) - ma, f64::from(*y) - mb);
        ab += x * y;
        aa += x * x;
        bb += y * y;
    }
    if aa == 0.0 && bb == 0.0 { if (ma - mb).abs() < 1e-4 { 1.0 } else { 0.0 } } else { ab / (aa * bb).sqrt() }
}
