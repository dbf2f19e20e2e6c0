//! Properties: the golden arrays within the stated tolerances; the streaming form equal to the offline form of its
//! window to the last bit, slides included; its counters equal to the reference's; no drift and no growth in 10 minutes.
//! What a push costs is measured by `bench/benches/micro.rs`.

use super::*;
use crate::chunker::{Chunker, ChunkerParams};
use crate::wav::{Limits, read_mono};
use crate::{FeatureError, golden};

const MODULE: &str = "modules/module_whisper_mel.npz";
const FRONTEND: &str = "modules/module_frontend.npz";

fn params() -> MelParams {
    MelParams {
        sample_rate_hz: 16_000,
        n_fft: 400,
        hop: 160,
        n_mels: 80,
        f_max_hz: 8000.0,
        short_buffer_samples: 80_000,
        floor_log10: -10.0,
        dynamic_range: 8.0,
        window_samples: 480_000,
        drop_samples: 160_000,
    }
}

fn streaming() -> StreamingMel {
    StreamingMel::new(StreamingParams { mel: params(), chunk_ms: 1000, cnn_redundancy_ms: 20 }).expect("valid")
}

fn chunker() -> Chunker {
    Chunker::new(ChunkerParams { sample_rate_hz: 16_000, chunk_ms: 1000, first_chunk_ms: 1035, hop: 160 })
        .expect("valid")
}

fn golden_wav(name: &str) -> Vec<f32> {
    let limits = Limits { min_seconds: 1.0, max_seconds: 600.0 };
    let pcm = read_mono(&golden::path(&format!("inputs/{name}.wav")), limits).expect("golden input");
    assert_eq!(pcm.rate_hz, 16_000);
    pcm.samples
}

/// Speech-like noise: level jumps and gaps make the loudest frame enter and leave the window.
fn restless(count: usize) -> Vec<f32> {
    let mut state = 0x2545_f491u32;
    (0..count)
        .map(|i| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let noise = (state >> 8) as f32 / (1 << 23) as f32 - 1.0;
            let second = i / 16_000;
            let level = [0.001, 0.3, 0.02, 0.0, 0.9, 0.0001, 0.05][second * second % 7];
            noise * level * (i as f32 / 700.0).sin()
        })
        .collect()
}

#[test]
fn whisper_equals_the_golden_arrays() {
    // the module was recorded with the first 3 s of the user audio
    let audio = golden_wav("public_input")[..48_000].to_vec();
    let mut whisper = Whisper::new(params()).expect("valid");
    for (name, floor, max_allowed) in [("mel_floor", Floor::Fixed, 1e-3), ("mel_dynamic", Floor::Dynamic, 1e-4)] {
        let wanted: ndarray::Array2<f32> = golden::array(MODULE, name);
        let got = whisper.offline(&audio, floor).expect("long enough");
        assert_eq!([got.n_mels, got.frames], wanted.shape());
        let (max, p99) = golden::difference(&got.data, &wanted);
        eprintln!("{name}: max {max:e}, p99 {p99:e}");
        assert!(max <= max_allowed && p99 <= 2e-5, "{name}: max {max}, p99 {p99}");
    }
}

#[test]
fn reference_audio_equals_the_golden_array_and_long_audio_is_cut() {
    let audio = golden_wav("ref_public");
    let wanted: ndarray::Array2<f32> = golden::array("session_A/session.npz", "prep_ref_mel");
    let mut whisper = Whisper::new(params()).expect("valid");
    let pieces = whisper.reference(&audio).expect("not empty");
    assert_eq!(pieces.len(), 1);
    assert_eq!([pieces[0].n_mels, pieces[0].frames], wanted.shape());
    let (max, p99) = golden::difference(&pieces[0].data, &wanted);
    eprintln!("ref_mel: max {max:e}, p99 {p99:e}");
    assert!(max <= 1e-4 && p99 <= 2e-5, "max {max}, p99 {p99}");

    let long: Vec<f32> = audio.iter().copied().cycle().take(480_000 + 1601).collect();
    let frames: Vec<usize> = whisper.reference(&long).expect("not empty").iter().map(|m| m.frames).collect();
    assert_eq!(frames, [3000, 11], "30 s pieces, the rest rounded up to a frame");
}

#[test]
fn voice_prompt_features_equal_the_golden_arrays() {
    let audio = golden_wav("ref_public");
    let got = s3(&params(), 128, &audio).expect("long enough");
    let wanted: ndarray::Array2<f32> = golden::array(FRONTEND, "s3_log_mel");
    assert_eq!([got.n_mels, got.frames], wanted.shape());
    let (max, p99) = golden::difference(&got.data, &wanted);
    eprintln!("s3_log_mel: max {max:e}, p99 {p99:e}");
    assert!(max <= 1e-4 && p99 <= 2e-5, "s3: max {max}, p99 {p99}");

    let audio = crate::resample::torchaudio(&audio, 16_000, 24_000);
    let (max, _) = golden::difference(&audio, &golden::array::<f32, ndarray::Ix1>(FRONTEND, "audio_24k"));
    eprintln!("audio_24k: max {max:e}");
    assert!(max <= 1e-5, "resampler: max {max}");

    let vocoder = VocoderMelParams { sample_rate_hz: 24_000, n_fft: 1920, hop: 480, n_mels: 80, f_max_hz: 8000.0 };
    let got = mel24(&vocoder, &audio).expect("long enough");
    let wanted: ndarray::Array2<f32> = golden::array(FRONTEND, "mel_24k");
    assert_eq!([got.n_mels, got.frames], wanted.shape());
    let (max, p99) = golden::difference(&got.data, &wanted);
    eprintln!("mel_24k: max {max:e}, p99 {p99:e}");
    assert!(max <= 1e-3 && p99 <= 1e-4, "mel_24k: max {max}, p99 {p99}");

    let prompt: ndarray::Array2<f32> = golden::array(FRONTEND, "prompt_mels");
    let fitted = got.fitted(prompt.nrows());
    let (max, _) = golden::difference(&fitted.data, prompt.t().iter());
    eprintln!("prompt_mels: max {max:e}");
    assert!(max <= 1e-3, "prompt_mels: max {max}");
}

#[test]
fn sessions_equal_the_golden_mels_and_counters() {
    let text = std::fs::read_to_string(golden::path("session_A/session.json")).expect("session.json");
    let session: serde_json::Value = serde_json::from_str(&text).expect("json");
    let units = session["units"].as_array().expect("units");
    // the project keeps the arrays of some units only
    let kept = golden::names("session_A/session.npz");
    let mut compared = Vec::new();
    let (mut chunker, mut mel) = (chunker(), streaming());
    chunker.push(&golden_wav("public_input"));
    chunker.finish();
    for (number, unit) in units.iter().enumerate() {
        let chunk = mel.push(&chunker.pop().expect("as many units as the golden session"));
        let info = &unit["mel_info"];
        let wanted = |key: &str| info[key].as_u64().expect("counter") as usize;
        let expected = MelInfo {
            chunk_number: wanted("chunk_number"),
            stable_frames: wanted("stable_T"),
            window_frames: wanted("T_full"),
            base_frame: wanted("base_T"),
            window_samples: wanted("buffer_len_samples"),
            dropped_samples: wanted("left_samples_dropped"),
            core_start: wanted("core_start"),
            core_end: wanted("core_end"),
        };
        assert_eq!(chunk.info, expected, "unit {number}");
        assert_eq!(chunk.info.base_frame + chunk.info.stable_frames, wanted("stable_T_global"));
        assert_eq!(chunk.mel.frames, wanted("emitted_frames"));
        assert_eq!((chunk.prefix, chunk.suffix), (if number == 0 { 0 } else { 2 }, 2));

        let name = format!("u{number:03}_mel");
        if !kept.contains(&name) {
            continue;
        }
        compared.push(number);
        let golden: ndarray::Array2<f32> = golden::array("session_A/session.npz", &name);
        let (max, p99) = golden::difference(&chunk.mel.data, &golden);
        let max_allowed = if chunk.info.window_samples < 80_000 { 1e-3 } else { 1e-4 };
        assert!(max <= max_allowed && p99 <= 2e-5, "unit {number}: max {max}, p99 {p99}");
    }
    assert!(compared.contains(&0) && compared.len() >= 5, "first unit and some others: {compared:?}");
    assert!(compared.iter().any(|&unit| unit >= 29), "a unit after the first slide: {compared:?}");
    assert!(units.len() > 30, "the golden session reaches the first slide");
    assert_eq!(chunker.pop(), None, "no unit more than the golden session");
}

/// Pushes pieces and compares every emission with the offline features of the same window.
fn assert_equal_to_offline(samples: &[f32], first: usize, rest: usize) -> (usize, usize) {
    let (mut mel, mut whisper) = (streaming(), Whisper::new(params()).expect("valid"));
    let mut end = first.min(samples.len());
    let mut start = 0;
    let (mut compared, mut slides, mut dropped) = (0, 0, 0);
    loop {
        let chunk = mel.push(&samples[start..end]);
        if chunk.info.dropped_samples > dropped {
            slides += 1;
            dropped = chunk.info.dropped_samples;
        }
        if chunk.mel.frames > 0 {
            let window = &samples[dropped..end];
            assert_eq!(window.len(), chunk.info.window_samples);
            let offline = whisper.offline(window, params().streaming_floor(window.len())).expect("long enough");
            let from = chunk.info.core_start - chunk.prefix - chunk.info.base_frame;
            for row in 0..80 {
                let wanted = &offline.data[row * offline.frames + from..][..chunk.mel.frames];
                let got = &chunk.mel.data[row * chunk.mel.frames..][..chunk.mel.frames];
                let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(got), bits(wanted), "chunk {} row {row}", chunk.info.chunk_number);
            }
            compared += 1;
        }
        if end == samples.len() {
            return (compared, slides);
        }
        (start, end) = (end, (end + rest).min(samples.len()));
    }
}

#[test]
fn streaming_equals_offline_to_the_last_bit() {
    let samples = restless(80 * 16_000 + 480);
    assert_eq!(assert_equal_to_offline(&samples, 16_480, 16_000), (80, 6), "slides at chunks 29, 39, .. 79");
    // whole silence, and pushes that are no multiple of anything
    assert_eq!(assert_equal_to_offline(&vec![0.0; 39 * 16_000], 16_480, 16_000).1, 1);
    let (compared, slides) = assert_equal_to_offline(&samples[..39 * 16_000], 12_345, 7_001);
    assert!(compared >= 37 && slides == 1, "{compared} chunks, {slides} slides");
}

#[test]
fn too_little_audio_gives_no_frames_and_loses_nothing() {
    let samples = restless(17_000);
    let mut mel = streaming();
    let mut counts = Vec::new();
    for piece in
        [&samples[..100], &samples[100..399], &samples[399..400], &samples[400..16_000], &samples[16_000..16_480]]
    {
        counts.push(mel.push(piece).mel.frames);
    }
    assert_eq!(counts, [0, 0, 0, 0, 102]);
    let mut whole = streaming();
    let mut pieces = streaming();
    let direct = whole.push(&samples[..16_480]);
    pieces.push(&samples[..9_000]);
    assert_eq!(pieces.push(&samples[9_000..16_480]).mel, direct.mel);
}

#[test]
fn ten_minutes_neither_drift_nor_grow() {
    let (mut chunker, mut mel) = (chunker(), streaming());
    let packet = restless(16_000);
    let mut held = 0;
    for unit in 0..600usize {
        chunker.push(&packet);
        let chunk = mel.push(&chunker.pop().expect("one unit a second"));
        assert_eq!(chunk.mel.frames, if unit == 0 { 102 } else { 104 });
        assert_eq!((chunk.info.core_start, chunk.info.core_end), (unit * 100, unit * 100 + 100));
        let received = 480 + 16_000 * (unit + 1);
        assert_eq!(chunk.info.dropped_samples + chunk.info.window_samples, received, "unit {unit}");
        held = held.max(mel.held_values());
    }
    assert!(held <= 496_000 + 3_100 * 80 + 2 * 4_096, "{held} values held");
}

#[test]
fn bad_parameters_and_short_audio_are_refused_with_the_reason() {
    let refused = |mel: MelParams| {
        let streaming = StreamingParams { mel, chunk_ms: 1000, cnn_redundancy_ms: 20 };
        StreamingMel::new(streaming).expect_err("must be refused").to_string()
    };
    assert!(refused(MelParams { hop: 0, ..params() }).contains("hop 0"));
    assert!(refused(MelParams { f_max_hz: 9000.0, ..params() }).contains("f_max_hz 9000"));
    assert!(refused(MelParams { hop: 300, ..params() }).contains("must be frames of 300"));
    assert!(refused(MelParams { drop_samples: 470_400, ..params() }).contains("leaves too little"));
    let mut whisper = Whisper::new(params()).expect("valid");
    assert_eq!(
        whisper.offline(&[0.0; 200], Floor::Fixed),
        Err(FeatureError::TooShort { feature: "the log-mel", needed: 201, got: 200 })
    );
    assert!(whisper.reference(&[]).is_err());
    let vocoder = VocoderMelParams { sample_rate_hz: 24_000, n_fft: 1920, hop: 480, n_mels: 80, f_max_hz: 8000.0 };
    assert!(mel24(&vocoder, &[0.0; 720]).expect_err("too short").to_string().contains("at least 721 samples"));
}
