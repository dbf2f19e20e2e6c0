//! Bad input at the command line: every case ends with status 1, no panic, and a message that says what was wrong, where, and what
//! to do; nothing is written, or what was there stays.

use std::fs;
use std::path::{Path, PathBuf};

use duologue_model::manifest::FORMAT_VERSION;
use duologue_tests::{bundle, fail, golden};
use tempfile::TempDir;

struct Place {
    dir: TempDir,
    input: PathBuf,
    voice: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir, input: golden().join("inputs/public_input.wav"), voice: golden().join("inputs/ref_public.wav") }
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn talk(&self, bundle: &Path, extra: &[&str]) -> String {
        let reply = self.dir.path().join("reply.wav");
        let mut arguments = vec!["talk", "--bundle", bundle.to_str().unwrap()];
        arguments.extend(["--input", self.input.to_str().unwrap(), "--ref-audio", self.voice.to_str().unwrap()]);
        arguments.extend(["--output", reply.to_str().unwrap()]);
        arguments.extend(extra);
        let message = fail(&arguments);
        assert!(!reply.exists(), "a reply was written all the same");
        message
    }
}

fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is missing in: {message}");
    }
}

/// RIFF header and data of a wav with this format.
fn wav(format: u16, channels: u16, rate: u32, bits: u16, data: &[u8]) -> Vec<u8> {
    let block = channels * bits / 8;
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((36 + data.len() as u32).to_le_bytes());
    bytes.extend(b"WAVEfmt ");
    bytes.extend(16u32.to_le_bytes());
    bytes.extend(format.to_le_bytes());
    bytes.extend(channels.to_le_bytes());
    bytes.extend(rate.to_le_bytes());
    bytes.extend((rate * u32::from(block)).to_le_bytes());
    bytes.extend(block.to_le_bytes());
    bytes.extend(bits.to_le_bytes());
    bytes.extend(b"data");
    bytes.extend((data.len() as u32).to_le_bytes());
    bytes.extend(data);
    bytes
}

#[test]
fn user_audio_that_is_no_sound() {
    let bundle = bundle();
    let mut place = Place::new();
    let cases: [(&str, Vec<u8>, &[&str]); 4] = [
        ("empty.wav", Vec::new(), &["user audio", "empty.wav", "empty"]),
        ("text.wav", b"this is a letter, not a sound".to_vec(), &["user audio", "text.wav", "not a wav"]),
        ("none.wav", wav(1, 1, 16_000, 16, &[]), &["user audio", "none.wav"]),
        (
            "nan.wav",
            wav(3, 1, 16_000, 32, &[0.0f32.to_le_bytes(), f32::NAN.to_le_bytes()].concat().repeat(16_000)),
            &["user audio", "nan.wav", "sample 1"],
        ),
    ];
    for (name, content, parts) in cases {
        place.input = place.file(name, &content);
        assert_says(&place.talk(&bundle, &[]), parts);
    }
    place.input = place.dir.path().join("absent.wav");
    assert_says(&place.talk(&bundle, &[]), &["user audio", "absent.wav"]);
}

#[test]
fn reference_audio_of_a_tenth_of_a_second_or_ten_minutes() {
    let bundle = bundle();
    let mut place = Place::new();
    place.voice = place.file("short.wav", &wav(1, 1, 16_000, 16, &[0; 2 * 1600]));
    assert_says(&place.talk(&bundle, &[]), &["reference audio", "short.wav", "0.1", "0.5"]);
    place.voice = place.file("long.wav", &wav(1, 1, 8_000, 16, &vec![0; 2 * 8_000 * 600]));
    assert_says(&place.talk(&bundle, &[]), &["reference audio", "long.wav", "600", "16.88"]);
}

#[test]
fn a_prompt_longer_than_the_context() {
    let place = Place::new();
    let prompt = "word ".repeat(20_000);
    let message = place.talk(&bundle(), &["--system-prompt", &prompt]);
    assert_says(&message, &["the prompt needs", "positions, the context holds", "shorten the system prompt"]);
}

#[test]
fn bundles_that_are_not_whole() {
    let place = Place::new();
    let copy = place.dir.path().join("bundle");
    assert_says(&place.talk(&copy, &[]), &["bundle", "does not exist"]);
    fs::create_dir(&copy).unwrap();
    assert_says(&place.talk(&copy, &[]), &["manifest.json is missing"]);

    let original = bundle();
    for entry in walk(&original) {
        let to = copy.join(entry.strip_prefix(&original).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(&entry, &to).unwrap();
    }
    let replace = |name: &str, content: &[u8]| {
        fs::remove_file(copy.join(name)).unwrap();
        fs::write(copy.join(name), content).unwrap();
    };
    let manifest = fs::read_to_string(original.join("manifest.json")).unwrap();
    let version = |number| format!("\"format_version\": {number}");
    let other = FORMAT_VERSION + 4;
    replace("manifest.json", manifest.replacen(&version(FORMAT_VERSION), &version(other), 1).as_bytes());
    assert_says(
        &place.talk(&copy, &[]),
        &["manifest.json", &format!("format_version is {other}"), &format!("version {FORMAT_VERSION}")],
    );
    replace("manifest.json", b"{");
    assert_says(&place.talk(&copy, &[]), &["manifest.json"]);
    replace("manifest.json", manifest.as_bytes());

    let opset = manifest.find("\"opset\": ").expect("graphs have opsets") + "\"opset\": ".len();
    let other = format!("{}9{}", &manifest[..opset], &manifest[opset + 2..]);
    replace("manifest.json", other.as_bytes());
    let message = fail(&["check", "--device", "cpu", "--bundle", copy.to_str().unwrap()]);
    assert_says(&message, &[".onnx has opset 2", "the manifest says 9"]);
    replace("manifest.json", manifest.as_bytes());

    let hift = fs::read(original.join("hift.onnx")).unwrap();
    replace("hift.onnx", &hift[..hift.len() / 2]);
    assert_says(&place.talk(&copy, &[]), &["hift.onnx", "truncated"]);
    let mut flipped = hift.clone();
    flipped[hift.len() / 2] ^= 1;
    replace("hift.onnx", &flipped);
    let message = fail(&["check", "--device", "cpu", "--bundle", copy.to_str().unwrap()]);
    assert_says(&message, &["hift.onnx", "sha256"]);
    fs::remove_file(copy.join("hift.onnx")).unwrap();
    assert_says(&place.talk(&copy, &[]), &["hift.onnx", "missing"]);
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn libraries_that_are_not_onnx_runtime() {
    let place = Place::new();
    let text = place.file("libonnxruntime.so", b"not a library");
    let message = place.talk(&bundle(), &["--ort", text.to_str().unwrap()]);
    assert_says(&message, &["ONNX Runtime", "libonnxruntime.so", "make exporter"]);
    let message = place.talk(&bundle(), &["--ort", "/nonexistent/libonnxruntime.so"]);
    assert_says(&message, &["ONNX Runtime", "/nonexistent/libonnxruntime.so"]);
}

#[test]
fn cuda_never_falls_back() {
    // Without a GPU the device is refused; with one, this bundle is, which was exported for the CPU.
    let place = Place::new();
    let message = place.talk(&bundle(), &["--device", "cuda"]);
    assert!(message.contains("cuda:0") || message.contains("--target cuda"), "{message}");
}

#[test]
fn a_disk_that_is_full() {
    // /dev/full takes a file's opening and refuses every byte.
    let place = Place::new();
    let voice = place.voice.to_str().unwrap().to_owned();
    let talk = |output: &str, timeline: &str| {
        let (bundle, input) = (bundle(), place.input.to_str().unwrap().to_owned());
        let arguments = ["talk", "--bundle", bundle.to_str().unwrap(), "--input", &input, "--ref-audio", &voice];
        fail(&[&arguments[..], &["--output", output, "--timeline", timeline]].concat())
    };
    let reply = place.dir.path().join("reply.wav");
    let timeline = place.dir.path().join("timeline.jsonl");
    assert_says(&talk("/dev/full", timeline.to_str().unwrap()), &["reply", "/dev/full", "No space left on device"]);
    assert!(timeline.metadata().unwrap().len() > 0, "the timeline so far is kept");
    assert_says(&talk(reply.to_str().unwrap(), "/dev/full"), &["timeline /dev/full", "No space left on device"]);
    assert!(reply.metadata().unwrap().len() > 44, "the reply so far is kept");
    let nowhere = place.dir.path().join("absent/reply.wav");
    assert_says(
        &talk(nowhere.to_str().unwrap(), "/dev/null"),
        &["the folder of the reply", "absent", "does not exist"],
    );
}

#[test]
fn recorded_sessions_that_cannot_be_replayed() {
    let place = Place::new();
    let out = place.dir.path().join("out");
    let bundle = bundle();
    let replay = |golden: &Path| {
        let arguments =
            ["replay", "--device", "cpu", "--bundle", bundle.to_str().unwrap(), "--golden", golden.to_str().unwrap()];
        fail(&[&arguments[..], &["--out", out.to_str().unwrap()]].concat())
    };
    assert_says(&replay(place.dir.path()), &["cannot read the recorded session", "session.json"]);
    place.file("session.json", b"{}");
    assert_says(&replay(place.dir.path()), &["session.json is no recorded session"]);
}
