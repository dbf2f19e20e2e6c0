//! Asserted here:
//! 1. the network says what the package's own `OnnxWrapper` says, frame by frame;
//! 2. sound may come in pieces of any length, and streams that share the network do not disturb each other;
//! 3. zeros are silence without the network, and a voice after them is heard as ever;
//! 4. a missing or foreign file and samples that are no numbers are refused with the remedy, and the stream goes on.

use std::path::Path;

use super::*;
use crate::golden;

fn detector() -> VoiceDetector {
    let file = find(None).unwrap_or_else(|error| panic!("the tests need the voice detector: {error}"));
    VoiceDetector::load(golden::runtime(), &file).expect("a good file")
}

fn heard(stream: &mut VoiceDetectorStream, samples: &[f32]) -> Vec<VoiceFrame> {
    let mut frames = Vec::new();
    stream.push(samples, &mut |frame| frames.push(frame)).expect("good sound");
    frames
}

/// The spoken recording of the golden sessions.
fn speech() -> Vec<f32> {
    let limits = duologue_audio::wav::Limits { min_seconds: 0.0, max_seconds: 60.0 };
    let pcm = duologue_audio::wav::read_mono(&golden::path("inputs/public_input.wav"), limits).expect("a good wav");
    assert_eq!(pcm.rate_hz, RATE_HZ);
    pcm.samples
}

#[test]
fn probabilities_are_those_of_the_package() {
    let frames = heard(&mut detector().stream(), &speech()[..FRAME_SAMPLES * WRAPPER.len()]);
    for (number, (frame, wanted)) in frames.iter().zip(WRAPPER).enumerate() {
        assert!((frame.probability - wanted).abs() < 1e-4, "frame {number}: {} instead of {wanted}", frame.probability);
    }
    assert_eq!(frames.len(), WRAPPER.len());
}

#[test]
fn pieces_of_any_length_give_the_same_frames() {
    let sound = &speech()[..RATE_HZ as usize * 4];
    let detector = detector();
    let (mut whole, mut pieces, mut other) = (detector.stream(), detector.stream(), detector.stream());
    let wanted = heard(&mut whole, sound);
    assert_eq!(wanted.len(), sound.len() / FRAME_SAMPLES);
    let mut got = Vec::new();
    let mut at = 0;
    for length in [1, 320, 511, 512, 513, 0, 2000, 63].into_iter().cycle() {
        if at == sound.len() {
            break;
        }
        let end = sound.len().min(at + length);
        got.extend(heard(&mut pieces, &sound[at..end]));
        // Another session in between, with other sound.
        heard(&mut other, &[0.3; 700]);
        at = end;
    }
    assert_eq!(got, wanted);
}

#[test]
fn zeros_are_silence_and_a_voice_after_them_is_heard() {
    let detector = detector();
    let sound = speech();
    let loud = heard(&mut detector.stream(), &sound).iter().position(|frame| frame.probability > 0.9);
    let start = loud.expect("somebody speaks") * FRAME_SAMPLES;
    let voice = &sound[start..start + FRAME_SAMPLES * 10];
    let mut stream = detector.stream();
    heard(&mut stream, voice);
    let silence = heard(&mut stream, &vec![0.0; FRAME_SAMPLES * 300]);
    for frame in &silence[MUTED_FRAMES as usize..] {
        assert_eq!((frame.probability, frame.energy_dbfs), (0.0, duologue_audio::level::SILENCE_DBFS));
    }
    let after = heard(&mut stream, voice);
    assert!(after[..3].iter().any(|frame| frame.probability > 0.5), "{after:?}");
}

#[test]
fn a_missing_or_foreign_file_is_told_with_the_remedy() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let garbage = dir.path().join("silero_vad.onnx");
    std::fs::write(&garbage, "not a graph").expect("write");
    let foreign = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/runtime/probe.onnx");
    for (path, part) in [
        (dir.path().join("nothing.onnx"), "there is no such file"),
        (garbage.clone(), "not a usable voice detector"),
        (foreign, "input input is missing; the graph has x"),
    ] {
        let text = VoiceDetector::load(golden::runtime(), &path).expect_err("refused").to_string();
        for part in [part, "make vad", "DUOLOGUE_VAD", &path.display().to_string()] {
            assert!(text.contains(part), "{part:?} is not in: {text}");
        }
    }
    assert_eq!(file::search(Some(dir.path()), None).expect("beside the executable"), garbage);
    std::fs::create_dir_all(dir.path().join("out/vad")).expect("folder");
    let built = dir.path().join("out/vad/silero_vad.onnx");
    std::fs::rename(&garbage, &built).expect("move");
    let deep = dir.path().join("target/release");
    assert_eq!(file::search(Some(&deep), None).expect("above"), built);
    let text = file::search(Some(Path::new("/nowhere")), Some(Path::new("/"))).expect_err("nothing there").to_string();
    for part in ["$DUOLOGUE_VAD", "/nowhere", "out/vad above /", "make vad"] {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    assert_eq!(find(Some(Path::new("/named"))).expect("final"), Path::new("/named"));
}

#[test]
fn samples_that_are_no_numbers_are_refused_and_forgotten() {
    let detector = detector();
    let (mut stream, mut untouched) = (detector.stream(), detector.stream());
    let sound = &speech()[..FRAME_SAMPLES * 20];
    for bad in [f32::NAN, f32::INFINITY, 1e30] {
        let mut frame = [0.1; FRAME_SAMPLES];
        frame[500] = bad;
        let mut none = |_| panic!("a bad frame has no probability");
        let text = stream.push(&frame, &mut none).expect_err("refused").to_string();
        assert!(text.contains("voice detector") && text.contains("finite"), "{text}");
        assert_eq!(heard(&mut stream, sound), heard(&mut untouched, sound));
    }
}

/// `silero_vad.utils_vad.OnnxWrapper` 6.2.3 on the first frames of the golden sessions' recording.
const WRAPPER: [f32; 48] = [
    0.00167, 0.00688, 0.00891, 0.00786, 0.00591, 0.00596, 0.00585, 0.00564, 0.00543, 0.00520, 0.00505, 0.00490,
    0.06407, 0.04360, 0.01672, 0.01761, 0.01846, 0.03076, 0.23437, 0.32879, 0.94051, 0.97865, 0.93972, 0.82702,
    0.76159, 0.49931, 0.52638, 0.83282, 0.96785, 0.99527, 0.99196, 0.99641, 0.99299, 0.99043, 0.99110, 0.99031,
    0.99734, 0.99644, 0.97604, 0.87994, 0.31751, 0.80559, 0.93240, 0.90597, 0.95352, 0.94471, 0.95682, 0.97478,
];
