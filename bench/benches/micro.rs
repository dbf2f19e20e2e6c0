//! Micro benches of the host code at true sizes, the cached positions of the embedded model apart: what a unit costs beside the
//! graphs.
#![allow(missing_docs)]

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use duologue_audio::mel::{MelParams, StreamingMel, StreamingParams};
use duologue_audio::opus::{ENCODER_FRAME, Encoder};
use duologue_audio::{Pcm, resample};
use duologue_engine::scheduler::{Kind, Ready, Scheduler};
use duologue_model::vad::{self, VoiceDetector};
use duologue_model::{Bundle, DeviceChoice, Llm, Runtime, RuntimeOptions};
use duologue_session::{DecodeMode, Sampling, Scratch, TextSampler, TokenIds, Tokens};

/// Width of the full model's logits.
const VOCAB: usize = 151_748;

fn mel(c: &mut Criterion) {
    let params = StreamingParams {
        mel: MelParams {
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
        },
        chunk_ms: 1000,
        cnn_redundancy_ms: 20,
    };
    let second: Vec<f32> = (0..16_000).map(|i| (i as f32 * 0.05).sin() * 0.3).collect();
    let mut stream = StreamingMel::new(params).expect("the standard numbers");
    c.bench_function("mel/push one second", |b| b.iter(|| black_box(stream.push(black_box(&second)))));
}

fn resampling(c: &mut Criterion) {
    let second = Pcm { rate_hz: 48_000, samples: (0..48_000).map(|i| (i as f32 * 0.05).sin() * 0.3).collect() };
    c.bench_function("resample/48 to 16 kHz, one second", |b| {
        b.iter(|| black_box(resample::to_rate(black_box(&second), 16_000)))
    });
}

fn tokens() -> Tokens {
    let id = |n: u32| VOCAB as u32 - n;
    Tokens {
        vocab: VOCAB,
        tokens: TokenIds {
            unit: id(1),
            unit_end: id(2),
            image: id(3),
            image_end: id(4),
            slice: id(5),
            slice_end: id(6),
            listen: id(7),
            speak: id(8),
            tts_bos: id(9),
            tts_eos: id(10),
            tts_pad: id(11),
            chunk_eos: id(12),
            chunk_tts_eos: id(13),
            turn_eos: id(14),
            audio_start: id(15),
            audio_end: id(16),
            eos: id(17),
        },
        special_ids: Vec::new(),
        special_texts: Vec::new(),
        forbidden_ids: vec![id(11), id(12)],
    }
}

fn sampler(c: &mut Criterion) {
    let logits: Vec<f32> = (0..VOCAB).map(|i| ((i * 7919) % 10_007) as f32 * 1e-3 - 5.0).collect();
    for (name, decode_mode) in [("greedy", DecodeMode::Greedy), ("top-k 20, top-p 0.8", DecodeMode::Sampling)] {
        let rules = Sampling {
            decode_mode,
            temperature: 0.7,
            top_k: 20,
            top_p: 0.8,
            listen_prob_scale: 1.0,
            listen_top_k: None,
            repetition_penalty: 1.05,
            repetition_window: 512,
            length_penalty: 1.1,
        };
        let mut sampler = TextSampler::new(rules, &tokens(), 1);
        let mut scratch = Scratch::default();
        c.bench_function(&format!("sampler/{name}"), |b| {
            b.iter(|| black_box(sampler.decode(black_box(&logits), &mut scratch)).expect("finite scores"))
        });
    }
}

/// What an engine thread asks between any two calls of a graph, with every slot of a full server ready.
fn scheduler(c: &mut Criterion) {
    let ready: Vec<Ready> = (0..32u64)
        .map(|slot| Ready {
            slot: slot as usize,
            deadline: slot * 7919 % 32,
            kind: if slot % 4 == 0 { Kind::Single } else { Kind::Step },
        })
        .collect();
    let mut scheduler = Scheduler::default();
    c.bench_function("scheduler/32 slots", |b| b.iter(|| scheduler.next(black_box(&ready).iter().copied())));
}

/// What WebRTC costs beside the reply: 20 ms of it as an Opus packet.
fn encoding(c: &mut Criterion) {
    let frame: Vec<i16> = (0..ENCODER_FRAME).map(|i| ((i as f32 * 0.05).sin() * 8000.0) as i16).collect();
    let mut encoder = Encoder::new(10).expect("an encoder");
    c.bench_function("opus/encode 20 ms", |b| {
        b.iter(|| black_box(encoder.encode(black_box(&frame))).expect("20 ms is a frame"))
    });
}

fn runtime() -> Runtime {
    Runtime::load(&RuntimeOptions { library: None, device: DeviceChoice::Cpu, threads: 1 })
        .expect("ONNX Runtime; `make build` brings it")
}

/// What listens beside the model: 32 ms of the user's sound.
fn voice_detector(c: &mut Criterion) {
    let file = vad::find(None).expect("the voice detector; `make vad` brings it");
    let mut stream = VoiceDetector::load(&runtime(), &file).expect("its graph").stream();
    let frame: Vec<f32> = (0..512).map(|i| (i as f32 * 0.05).sin() * 0.3).collect();
    c.bench_function("voice detector/32 ms", |b| {
        let mut heard = |frame| {
            black_box(frame);
        };
        b.iter(|| stream.push(black_box(&frame), &mut heard).expect("it runs"))
    });
}

/// The sliding window drops the oldest units: half of a thousand cached positions of the embedded model move to the front.
fn compaction(c: &mut Criterion) {
    const ROWS: usize = 1000;
    let runtime = runtime();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/mini/bundle");
    let bundle = Bundle::open(&folder).expect("the bundle in the repository");
    let mut llm = Llm::load(&runtime, &bundle, 1).expect("its graphs");
    c.bench_function("kv compaction/500 of 1000 rows", |b| {
        b.iter_custom(|times| {
            let mut took = Duration::ZERO;
            for _ in 0..times {
                let missing = ROWS - llm.len(0);
                llm.prefill(0, &vec![0.1; missing * llm.hidden_size()]).expect("there is room");
                let begin = Instant::now();
                llm.remove(0, 0..ROWS / 2).expect("they are there");
                took += begin.elapsed();
            }
            took
        })
    });
}

criterion_group!(micro, mel, resampling, sampler, encoding, scheduler, voice_detector, compaction);
criterion_main!(micro);
