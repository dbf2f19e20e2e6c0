//! The commands as a newcomer uses them.
//!
//! 1. `talk` takes a wav of another rate with several channels and 8 bits, and writes as many units as the recording has seconds.
//! 2. The timeline's lines parse, its audio adds up to the reply wav, and speaking and listening both occur.
//! 3. `live` mode speaks without the reference's artificial silence; `fidelity` mode has it.
//! 4. The same seed gives the same reply, byte by byte.
//! 5. A reader of the printed lines that goes away (`| head`) does not cost the reply.
//! 6. `doctor` and `check` find nothing wrong with this machine and the golden bundle.
//! 7. `check` prints the configuration in force with the source of each value, and hides keys.

use std::path::Path;
use std::process::Stdio;

use duologue_audio::wav;
use duologue_proto::timeline::{Decision, TimelineEvent, UnitLine};
use duologue_tests::{bundle, command, golden, succeed};

const LIMITS: wav::Limits = wav::Limits { min_seconds: 0.1, max_seconds: 1e3 };

fn talk(input: &Path, mode: &str, dir: &Path) -> (Vec<UnitLine>, Vec<i16>) {
    let (reply, timeline, bundle) = (dir.join("reply.wav"), dir.join("timeline.jsonl"), bundle());
    let arguments =
        ["talk", "--device", "cpu", "--bundle", bundle.to_str().unwrap(), "--input", input.to_str().unwrap()];
    let output = ["--mode", mode, "--output", reply.to_str().unwrap(), "--timeline", timeline.to_str().unwrap()];
    let printed = succeed(&[&arguments[..], &output].concat());
    assert!(printed.contains("The weights are random"), "{printed}");
    let text = std::fs::read_to_string(&timeline).unwrap();
    let events: Vec<TimelineEvent> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(matches!(events.first(), Some(TimelineEvent::Session { prompt_tokens: 1.., .. })), "{events:?}");
    let units: Vec<UnitLine> = events
        .iter()
        .filter_map(|event| if let TimelineEvent::Unit(unit) = event { Some(unit.clone()) } else { None })
        .collect();
    let pcm = wav::read_mono(&reply, wav::Limits { min_seconds: 0.0, ..LIMITS }).unwrap();
    assert_eq!(pcm.rate_hz, 24_000);
    assert_eq!(units.iter().map(|unit| unit.reply_samples).sum::<usize>(), pcm.samples.len());
    let Some(TimelineEvent::End { units: count, speak_units, .. }) = events.last() else {
        panic!("no last line: {events:?}")
    };
    assert_eq!(*count, units.len());
    assert_eq!(*speak_units, units.iter().filter(|unit| unit.decision == Decision::Speak).count());
    (units, pcm.samples.iter().map(|sample| (sample * 32768.0) as i16).collect())
}

/// The golden user audio, `seconds` of it, as 22 050 Hz, 8 bit, three channels.
fn odd_recording(path: &Path, seconds: usize) {
    let pcm = wav::read_mono(&golden().join("inputs/public_input.wav"), LIMITS).unwrap();
    let rate = 22_050u32;
    let frames = seconds * rate as usize;
    let mut data = Vec::with_capacity(frames * 3);
    for frame in 0..frames {
        let position = frame as f64 * f64::from(pcm.rate_hz) / f64::from(rate);
        let value = pcm.samples[position as usize];
        data.extend([((value * 127.0) + 128.0) as u8; 3]);
    }
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((36 + data.len() as u32).to_le_bytes());
    bytes.extend(b"WAVEfmt \x10\0\0\0\x01\0\x03\0");
    bytes.extend(rate.to_le_bytes());
    bytes.extend((rate * 3).to_le_bytes());
    bytes.extend([3, 0, 8, 0]);
    bytes.extend(b"data");
    bytes.extend((data.len() as u32).to_le_bytes());
    bytes.extend(data);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn talk_takes_any_wav_and_accounts_for_every_sample() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("odd.wav");
    odd_recording(&input, 12);
    let (units, reply) = talk(&input, "live", dir.path());
    assert!(units.len() >= 12, "every second is heard, and silence after it while the model speaks");
    assert!(units.iter().any(|unit| unit.decision == Decision::Listen));
    assert!(units.iter().any(|unit| unit.decision == Decision::Speak && unit.reply_samples > 0));
    assert!(units.windows(2).all(|pair| pair[0].kv_tokens < pair[1].kv_tokens), "without a window the cache grows");
    let again = talk(&input, "live", dir.path());
    assert_eq!(reply, again.1, "the same seed gave another reply");
}

#[test]
fn live_speech_has_no_artificial_silence() {
    let dir = tempfile::tempdir().unwrap();
    let input = golden().join("inputs/public_input.wav");
    let leading_zeros = |samples: &[i16]| samples.iter().take_while(|sample| **sample == 0).count();
    let (units, reply) = talk(&input, "fidelity", dir.path());
    assert!(leading_zeros(&reply) >= 3840, "the reference puts 160 ms of zeros before a turn");
    assert!(
        units.iter().all(|unit| unit.decision == Decision::Listen || unit.end_of_turn || unit.reply_samples == 24_000)
    );
    let (_, reply) = talk(&input, "live", dir.path());
    assert!(leading_zeros(&reply) < 24, "{} zeros before the first word", leading_zeros(&reply));
}

#[test]
fn a_reader_that_goes_away_does_not_cost_the_reply() {
    let dir = tempfile::tempdir().unwrap();
    let (input, reply, bundle) = (dir.path().join("user.wav"), dir.path().join("reply.wav"), bundle());
    odd_recording(&input, 3);
    let arguments = ["talk", "--bundle", bundle.to_str().unwrap(), "--input", input.to_str().unwrap()];
    let arguments = [&arguments[..], &["--output", reply.to_str().unwrap()]].concat();
    let mut child = command(&arguments).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
    assert!(reply.is_file());
}

#[test]
fn doctor_and_check_find_nothing_wrong() {
    let bundle = bundle();
    let bundle = bundle.to_str().unwrap();
    let doctor = succeed(&["doctor", "--device", "cpu", "--bundle", bundle]);
    for part in ["onnxruntime 1.", "provider   cpu: usable", "provider   cuda:0: ", "bundle     golden-tiny ok"] {
        assert!(doctor.contains(part), "{part:?} is missing in {doctor}");
    }
    let check = succeed(&["check", "--device", "cpu", "--bundle", bundle]);
    for part in [
        "manifest   ok",
        "files      ok, 20",
        "opsets     ok, 1",
        "graphs     ok, 1",
        "The bundle is whole and loads on cpu",
    ] {
        assert!(check.contains(part), "{part:?} is missing in {check}");
    }
}

#[test]
fn check_prints_the_configuration_in_force() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../server/duologue.example.toml");
    let key = "0123456789abcdef";
    let output = command(&["check", "--config", example, "--slots", "2"])
        .env("DUOLOGUE_AUTH_KEYS", format!("phone:{key}"))
        .env_remove("DUOLOGUE_BUNDLE")
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let source = |setting: &str| printed.lines().find(|line| line.starts_with(setting)).unwrap_or_default();
    assert!(source("slots = 2").ends_with("# flag --slots"), "{printed}");
    assert!(source("queue = ").ends_with("duologue.example.toml"), "{printed}");
    assert!(source("keys = ").ends_with("# environment variable DUOLOGUE_AUTH_KEYS"), "{printed}");
    assert!(source("# bundle is not set").ends_with("# default"), "{printed}");
    assert!(!printed.contains(key), "{printed}");
}
