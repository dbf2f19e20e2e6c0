//! Asserted here:
//! 1. the front ends give the reference's tokens, speaker vector and mel;
//! 2. the voice's base caches equal the reference's after set-up;
//! 3. three chunks equal the reference's speech;
//! 4. all calls of a whole session give the reference's mels, samples and cache lengths, trimming included;
//! 5. a stream is its own: interleaving changes nothing; a reset one equals a new one, down to its noise;
//! 6. zeros, noise and trimming are the options' alone; impossible sizes are refused.

use serde_json::Value;

use super::*;
use crate::golden::{Npz, assert_close, bundle, path, runtime, voice_prompt};
use duologue_audio::{Pcm, wav};

fn vocoder() -> (Token2Wav, Arc<Voice>) {
    let mut token2wav = Token2Wav::load(runtime(), &bundle()).expect("the golden bundle speaks");
    let noise: ndarray::Array3<f32> = ndarray_npy::read_npy(path("cfm_noise.npy")).expect("the recorded start noise");
    token2wav.set_start_noise(noise.into_raw_vec_and_offset().0).expect("whole columns");
    let voice = token2wav.setup(&voice_prompt()).expect("a good prompt");
    (token2wav, voice)
}

fn recording(relative: &str) -> Pcm {
    wav::read_mono(&path(relative), wav::Limits { min_seconds: 0.0, max_seconds: 1e3 }).expect("a golden recording")
}

#[test]
fn front_ends_equal_the_reference() {
    let mut front_end = VoiceFrontEnd::load(runtime(), &bundle()).expect("loads");
    let got = front_end.prompt(&recording("inputs/ref_public.wav")).expect("a good recording");
    let wanted = voice_prompt();
    assert_eq!(got.tokens, wanted.tokens);
    assert_close("speaker", &got.speaker, &wanted.speaker, 1e-3);
    assert_close("prompt mel", &got.mel, &wanted.mel, 5e-2);
    let error = front_end.prompt(&Pcm { rate_hz: 16_000, samples: vec![0.1; 100] }).expect_err("6 ms");
    assert!(error.to_string().starts_with("reference voice: "), "{error}");
}

#[test]
fn set_up_caches_equal_the_reference() {
    let mut golden = Npz::open("modules/module_token2wav.npz");
    let bundle = bundle();
    let flow = bundle.manifest().flow.clone().expect("the golden bundle speaks");
    let (_, voice) = vocoder();
    let frames = voice.prompt_frames();
    let (wanted, shape) = golden.values::<f32>("setup_conformer_att_cache");
    let (layers, heads, width) = (shape[0], shape[2], shape[4]);
    assert_eq!((layers, frames), (flow.layers1 + flow.layers2, shape[3]));
    // The reference packs the first layers' cache twice in a row along time.
    let mut got = Vec::new();
    for layer in 0..layers {
        let (rows, layer, per_row) = match layer < flow.layers1 {
            true => (&voice.encoder.kv1, layer, flow.layers1),
            false => (&voice.encoder.kv2, layer - flow.layers1, flow.layers2),
        };
        for head in 0..heads {
            for row in 0..frames {
                let place = ((row % rows.len()) * per_row + layer) * heads + head;
                got.extend_from_slice(&rows.values()[place * width..][..width]);
            }
        }
    }
    assert_close("conformer cache", &got, &wanted, 1e-3);
}

#[test]
fn three_chunks_equal_the_reference() {
    let mut golden = Npz::open("modules/module_token2wav.npz");
    let (mut token2wav, voice) = vocoder();
    let mut stream = Stream::new(&voice, StreamOptions::fidelity());
    for chunk in 0..3 {
        let tokens = golden.tokens(&format!("chunk{chunk}_tokens"));
        let last = golden.tokens(&format!("chunk{chunk}_last"))[0] != 0;
        let speech = token2wav.push(&mut stream, &tokens, last).expect("runs");
        let got: Vec<f32> = speech.pcm.iter().map(|&sample| f32::from(sample) / 32767.0).collect();
        assert_close(&format!("chunk {chunk} speech"), &got, &golden.f32(&format!("chunk{chunk}_speech")), 2e-3);
        let counters = stream.counters();
        let length = |golden: &mut Npz, name: &str| golden.tokens(&format!("chunk{chunk}_{name}"))[0] as usize;
        assert_eq!(counters.conformer_len, length(&mut golden, "conformer_len"));
        assert_eq!(counters.estimator_len, length(&mut golden, "estimator_len"));
    }
}

#[test]
fn a_whole_session_equals_the_reference() {
    let session: Value =
        serde_json::from_str(&std::fs::read_to_string(path("session_A/session.json")).expect("golden session"))
            .expect("json");
    let mut golden = Npz::open("session_A/session.npz");
    let (mut token2wav, voice) = vocoder();
    let mut stream = Stream::new(&voice, StreamOptions::fidelity());
    let everything = recording("session_A/waveform_all.wav").samples;
    let (mut calls_seen, mut at) = (0, 0);
    for unit in session["units"].as_array().expect("units") {
        let number = unit["unit"].as_u64().expect("a number");
        let mut unit_pcm: Vec<i16> = Vec::new();
        let Some(calls) = unit["t2w_calls"].as_array() else { continue };
        for (index, call) in calls.iter().enumerate() {
            let tokens: Vec<u32> = serde_json::from_value(call["tokens"].clone()).expect("tokens");
            let last = call["last_chunk"].as_bool().expect("a flag");
            let speech = token2wav.push(&mut stream, &tokens, last).expect("runs");
            assert_close(
                &format!("unit {number} call {index} mel"),
                &speech.mel,
                &golden.f32(&format!("u{number:03}_t2w{index}_mel")),
                5e-3,
            );
            let counters = stream.counters();
            assert_eq!(call["samples"], speech.pcm.len(), "unit {number} call {index}");
            assert_eq!(call["conformer_cache_len"], counters.conformer_len, "unit {number} call {index}");
            assert_eq!(call["estimator_cache_len"], counters.estimator_len, "unit {number} call {index}");
            unit_pcm.extend(&speech.pcm);
            if last {
                stream.reset();
            }
            calls_seen += 1;
        }
        let length = unit["waveform_samples"].as_u64().unwrap_or(0) as usize;
        let wanted = &everything[at..at + length];
        at += length;
        if !unit_pcm.is_empty() {
            let pcm = unit_pcm.iter().map(|&sample| f32::from(sample) / 32768.0);
            let got: Vec<f32> = std::iter::repeat_n(0.0, length - unit_pcm.len()).chain(pcm).collect();
            assert_close(&format!("unit {number} waveform"), &got, wanted, 2e-3);
        }
    }
    assert!(calls_seen > 20, "the session speaks");
}

#[test]
fn streams_do_not_disturb_each_other_and_turns_restart_from_the_voice() {
    let (mut token2wav, voice) = vocoder();
    let tokens: Vec<u32> = (0..28).map(|n| n * 200 % 6500).collect();
    let mut alone = Stream::new(&voice, StreamOptions::fidelity());
    let wanted = [0, 1].map(|_| token2wav.push(&mut alone, &tokens, false).expect("runs").pcm);
    let mut one = Stream::new(&voice, StreamOptions::fidelity());
    let mut two = Stream::new(&voice, StreamOptions::fidelity());
    for wanted in &wanted {
        assert_eq!(&token2wav.push(&mut one, &tokens, false).expect("runs").pcm, wanted);
        token2wav.push(&mut two, &tokens[..9], false).expect("runs");
    }
    one.reset();
    assert_eq!(one.counters(), Stream::new(&voice, StreamOptions::fidelity()).counters());
    for wanted in &wanted {
        assert_eq!(&token2wav.push(&mut one, &tokens, false).expect("runs").pcm, wanted, "the second turn");
    }
}

#[test]
fn a_reset_stream_equals_a_new_one() {
    let (mut token2wav, voice) = vocoder();
    let tokens: Vec<u32> = (0..28).map(|n| n * 200 % 6500).collect();
    let mut speak = |stream: &mut Stream, chunks: usize, last: bool| -> Vec<(Vec<i16>, Vec<f32>, StreamCounters)> {
        let whole = (0..chunks).map(|_| (&tokens[..], false));
        let calls = whole.chain(last.then_some((&tokens[..7], true)));
        let mut said = |(tokens, last)| {
            let speech = token2wav.push(stream, tokens, last).expect("runs");
            (speech.pcm, speech.mel, stream.counters())
        };
        calls.map(&mut said).collect()
    };
    let live = StreamOptions { trim: Trim::Fixed, leading_zeros: false, source_noise: Some(7) };
    for options in [StreamOptions::fidelity(), live] {
        // Five chunks trim every cache.
        let wanted = speak(&mut Stream::new(&voice, options), 5, true);
        let mut stream = Stream::new(&voice, options);
        // A whole turn, one that was cut off, and none at all before the next one.
        for (chunks, last) in [(5, true), (2, false), (0, false)] {
            speak(&mut stream, chunks, last);
            stream.reset();
            assert_eq!(stream.counters(), Stream::new(&voice, options).counters());
            assert!(speak(&mut stream, 5, true) == wanted, "after {chunks} chunks, {options:?}");
            stream.reset();
        }
    }
}

#[test]
fn options_change_what_they_name_and_nothing_else() {
    let (mut token2wav, voice) = vocoder();
    let tokens: Vec<u32> = (0..28).map(|n| n * 200 % 6500).collect();
    let mut speak = |options: StreamOptions, chunks: usize| -> Vec<Vec<i16>> {
        let mut stream = Stream::new(&voice, options);
        (0..chunks).map(|_| token2wav.push(&mut stream, &tokens, false).expect("runs").pcm).collect()
    };
    let base = StreamOptions::fidelity();
    let reference = speak(base, 6);
    let bare = speak(StreamOptions { leading_zeros: false, ..base }, 2);
    assert_eq!(reference[0][..3840], [0; 3840]);
    assert_eq!(reference[0][3840..], bare[0]);
    assert_eq!(reference[1], bare[1]);
    let [first, again, other] = [1, 1, 2].map(|seed| speak(StreamOptions { source_noise: Some(seed), ..base }, 1));
    assert_eq!(first, again, "a seed gives one sound");
    assert!(first != other && first[0] != reference[0]);
    let fixed = speak(StreamOptions { trim: Trim::Fixed, ..base }, 6);
    assert_eq!(fixed[..3], reference[..3], "nothing is trimmed before the third chunk is spoken");
    assert_ne!(fixed[3], reference[3], "then the rules differ");
}

#[test]
fn impossible_sizes_are_refused_and_change_nothing() {
    let (mut token2wav, voice) = vocoder();
    let mut stream = Stream::new(&voice, StreamOptions::fidelity());
    let before = stream.counters();
    for (tokens, last) in [(vec![1; 3], false), (vec![], true), (vec![1; 6], false), (vec![1; 600], true)] {
        let error = token2wav.push(&mut stream, &tokens, last).expect_err("impossible");
        assert!(error.to_string().starts_with("speech chunk: "), "{error}");
        assert_eq!(stream.counters(), before);
    }
    let longest = token2wav.longest_prompt();
    let mut long = voice_prompt();
    long.tokens.resize(longest + 1, 0);
    let error = token2wav.setup(&long).expect_err("too long");
    assert!(error.to_string().contains("use a recording of at most"), "{error}");
    let error = token2wav.setup(&VoicePrompt { tokens: vec![], ..voice_prompt() }).expect_err("empty");
    assert!(error.to_string().contains("0 speech tokens"), "{error}");
}
