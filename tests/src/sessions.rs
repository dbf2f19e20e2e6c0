//! Sessions run in this process, several at a time.

use std::path::Path;
use std::sync::Arc;

use duologue_audio::wav;
use duologue_engine::{Conversation, Engine, EngineOptions, OpenOptions, PrepareWork, UnitInput, session_defaults};
use duologue_model::{Bundle, DeviceChoice, Runtime, RuntimeOptions};
use duologue_session::{DecodeMode, Mode, SessionConfig, TextDecoder};

use crate::{bundle, golden};

/// An engine on the golden bundle.
pub fn engine(slots: usize) -> Engine {
    engine_on(&bundle(), slots)
}

/// An engine on the bundle in a folder.
pub fn engine_on(folder: &Path, slots: usize) -> Engine {
    let runtime = Runtime::load(&RuntimeOptions { library: None, device: DeviceChoice::Cpu, threads: 1 }).unwrap();
    let bundle = Bundle::open(folder).unwrap();
    Engine::start(&runtime, &bundle, EngineOptions { slots, start_noise: None }).unwrap()
}

/// The golden user audio in whole chunks, from chunk `offset` on, for ever.
pub fn user_audio(offset: usize) -> impl Iterator<Item = Vec<f32>> {
    let limits = wav::Limits { min_seconds: 0.1, max_seconds: 1e3 };
    let pcm = wav::read_mono(&golden().join("inputs/public_input.wav"), limits).unwrap();
    let chunk = pcm.rate_hz as usize;
    let chunks = pcm.samples.len() / chunk;
    (offset..).map(move |number| pcm.samples[number % chunks * chunk..][..chunk].to_vec())
}

/// A unit of user audio.
pub fn heard(audio: Vec<f32>) -> UnitInput {
    UnitInput { audio, ..UnitInput::default() }
}

/// The bundle's settings, with every choice greedy and the same sound at every run.
pub fn greedy(engine: &Engine, mode: Mode) -> SessionConfig {
    let mut config = session_defaults(engine.bundle().manifest(), mode, 1);
    config.sampling.decode_mode = DecodeMode::Greedy;
    config.conduct.excitation_noise = false;
    config.speech.as_mut().expect("the golden bundle speaks").sampling.greedy = true;
    config
}

/// Opens and prepares a session with the bundle's system prompt.
pub fn begin(engine: &Engine, config: &SessionConfig) -> Conversation {
    begin_with(engine, config, &engine.bundle().manifest().prompt.default_system_prompt)
}

/// Opens and prepares a session with the golden reference voice.
pub fn begin_with(engine: &Engine, config: &SessionConfig, system_prompt: &str) -> Conversation {
    let limits = wav::Limits { min_seconds: 0.1, max_seconds: 1e3 };
    let voice = Arc::new(wav::read_mono(&golden().join("inputs/ref_public.wav"), limits).unwrap());
    let prompt = &engine.bundle().manifest().prompt;
    let encode = |text: &str| engine.tokenizer().encode(&text.replace("{system_prompt}", system_prompt));
    let options = OpenOptions {
        prompt: PrepareWork {
            prefix: encode(&prompt.prefix),
            suffix: encode(&prompt.suffix),
            reference: Some(voice.clone()),
            voice: Some(voice),
        },
        record_window: true,
        wake: None,
    };
    Conversation::begin(engine, config, options).unwrap()
}
