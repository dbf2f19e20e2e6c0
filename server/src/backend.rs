//! The engine as the transports see it: wishes of a client become settings of a session.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use duologue_audio::{Pcm, resample, wav};
use duologue_engine::{
    Engine, EngineError, EngineOptions, OpenOptions, PrepareWork, SessionHandle, Wake as EngineWake, session_defaults,
};
use duologue_model::manifest::Weights;
use duologue_model::vad::{VoiceDetector as Detector, VoiceDetectorStream};
use duologue_model::{Bundle, Manifest, Runtime};
use duologue_session::{DecodeMode, Input, Mode, SessionConfig, TextDecoder, VoiceFrame, Work};
use duologue_transport::{
    Backend, BackendError, BackendInfo, BackendSession, ReplyStart, SamplingChoice, SessionRequest, VoiceChoice,
    VoiceDetector, Wake,
};
use sha2::{Digest, Sha256};

use crate::commands::voice_seconds;

/// Sessions on one engine.
#[derive(Debug)]
pub struct EngineBackend {
    engine: Engine,
    info: BackendInfo,
    /// The bundle's voices at the model's rate. Shared, so that the engine makes each of them once.
    voices: BTreeMap<String, Arc<Pcm>>,
    detector: Option<Detector>,
    first_words: usize,
}

/// What a backend is started with besides the bundle.
#[derive(Debug)]
pub struct BackendSetup {
    /// Sessions at the same time.
    pub slots: usize,
    /// Finds the user's voice.
    pub detector: Option<Detector>,
    /// Words with which a reply begins to be spoken ([`duologue_session::Conduct::first_words`]); 0: all of its first unit.
    pub first_words: usize,
    /// Clients may force a schedule on the model.
    pub forced_schedules: bool,
}

impl EngineBackend {
    /// Loads everything that sessions need.
    ///
    /// # Errors
    /// Whatever file, graph or voice does not load, by name.
    pub fn start(runtime: &Runtime, bundle: &Bundle, setup: BackendSetup) -> Result<Self> {
        let BackendSetup { slots, detector, first_words, forced_schedules } = setup;
        let manifest = bundle.manifest();
        let voices = manifest
            .voices
            .iter()
            .map(|voice| Ok((voice.name.clone(), read_voice(bundle, &voice.name)?)))
            .collect::<Result<_>>()?;
        let engine = Engine::start(runtime, bundle, EngineOptions { slots, start_noise: None })?;
        let info = BackendInfo { forced_schedules, ..info(bundle, slots)? };
        Ok(Self { engine, info, voices, detector, first_words })
    }

    fn chosen(&self, choice: &VoiceChoice) -> Result<Option<Arc<Pcm>>, BackendError> {
        let manifest = self.engine.bundle().manifest();
        let wanted = match choice {
            VoiceChoice::Reference(pcm) => {
                return Ok(Some(Arc::new(resample::to_rate(pcm, manifest.duplex.sample_rate_hz))));
            }
            VoiceChoice::Named(name) => Some(name),
            VoiceChoice::Default => self.info.voices.first(),
        };
        let Some(name) = wanted else { return Ok(None) };
        let voice = self.voices.get(name).cloned();
        voice.map(Some).ok_or_else(|| BackendError::Refused {
            field: "voice",
            message: format!("no voice is named {name:?}; there are: {}", self.info.voices.join(", ")),
        })
    }

    /// The bundle's settings with the client's wishes on top.
    fn settings(&self, request: &SessionRequest) -> SessionConfig {
        let SamplingChoice {
            greedy,
            temperature,
            top_k,
            top_p,
            repetition_penalty,
            length_penalty,
            listen_prob_scale,
            seed,
        } = request.sampling;
        let mut config =
            session_defaults(self.engine.bundle().manifest(), request.mode, seed.unwrap_or_else(rand::random));
        if request.mode == Mode::Live {
            config.conduct.first_words = self.first_words;
        }
        let sampling = &mut config.sampling;
        if let Some(greedy) = greedy {
            sampling.decode_mode = if greedy { DecodeMode::Greedy } else { DecodeMode::Sampling };
        }
        sampling.temperature = temperature.unwrap_or(sampling.temperature);
        sampling.top_k = top_k.unwrap_or(sampling.top_k);
        sampling.top_p = top_p.unwrap_or(sampling.top_p);
        sampling.repetition_penalty = repetition_penalty.unwrap_or(sampling.repetition_penalty);
        sampling.length_penalty = length_penalty.unwrap_or(sampling.length_penalty);
        sampling.listen_prob_scale = listen_prob_scale.unwrap_or(sampling.listen_prob_scale);
        config.window.mode = request.window.unwrap_or(config.window.mode);
        config.force_listen_count = request.force_listen_units.unwrap_or(config.force_listen_count);
        config.schedule = request.schedule;
        config
    }
}

fn info(bundle: &Bundle, slots: usize) -> Result<BackendInfo> {
    let manifest = bundle.manifest();
    let text = fs::read(bundle.path("manifest.json")).context("manifest.json")?;
    let sha256 = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(BackendInfo {
        name: manifest.name.clone(),
        precision: manifest.precision.clone(),
        sha256,
        random_weights: manifest.weights == Weights::Random,
        slots,
        duplex: manifest.duplex.clone(),
        output_rate_hz: output_rate_hz(manifest),
        reply_start: ReplyStart { held_back: manifest.held_back(), ahead: manifest.ahead() },
        voices: manifest.voices.iter().map(|voice| voice.name.clone()).collect(),
        cloning: manifest.clones_voices().then(|| voice_seconds(manifest)),
        vision: manifest.vision.is_some(),
        typed: manifest.prompt.typed.is_some(),
        suggestions: manifest.suggestions.clone(),
        default_instructions: manifest.prompt.default_system_prompt.clone(),
        context_tokens: manifest.llm.kv_capacity,
        forced_schedules: false,
    })
}

fn output_rate_hz(manifest: &Manifest) -> u32 {
    manifest.token2wav.as_ref().map_or(manifest.duplex.sample_rate_hz, |token2wav| token2wav.sample_rate_hz)
}

fn read_voice(bundle: &Bundle, name: &str) -> Result<Arc<Pcm>> {
    let manifest = bundle.manifest();
    let seconds = voice_seconds(manifest);
    let limits = wav::Limits { min_seconds: *seconds.start(), max_seconds: *seconds.end() };
    let pcm = wav::read_mono(&bundle.voice(Some(name))?, limits).with_context(|| format!("voice {name}"))?;
    Ok(Arc::new(resample::to_rate(&pcm, manifest.duplex.sample_rate_hz)))
}

impl Backend for EngineBackend {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    fn open(&self, request: &SessionRequest, wake: Wake) -> Result<Box<dyn BackendSession>, BackendError> {
        let manifest = self.engine.bundle().manifest();
        let voice = self.chosen(&request.voice)?;
        let reference = request.prompt_reference.as_deref();
        let reference = match reference {
            Some(pcm) => Some(Arc::new(resample::to_rate(pcm, manifest.duplex.sample_rate_hz))),
            None => voice.clone(),
        };
        let config = self.settings(request);
        let system_prompt = request.instructions.as_ref().unwrap_or(&manifest.prompt.default_system_prompt);
        let encode = |text: &str| self.engine.tokenizer().encode(&text.replace("{system_prompt}", system_prompt));
        let options = OpenOptions {
            prompt: PrepareWork {
                prefix: encode(&manifest.prompt.prefix),
                suffix: encode(&manifest.prompt.suffix),
                reference: reference.filter(|_| manifest.hears_reference()),
                voice: voice.filter(|_| config.speech.is_some()),
            },
            record_window: false,
            wake: Some(EngineWake(wake)),
        };
        let handle = self.engine.open(&config, options).map_err(|error| match error {
            EngineError::Config(error) => {
                let forced = error.setting.starts_with("schedule");
                let field = if forced { "duologue.forced_schedule" } else { "sampling" };
                BackendError::Refused { field, message: error.to_string() }
            }
            other => BackendError::Failed(other.to_string()),
        })?;
        Ok(Box::new(EngineSession(handle)))
    }

    fn voice(&self, name: &str) -> Option<Arc<Pcm>> {
        self.voices.get(name).cloned()
    }

    fn voice_detector(&self) -> Option<Box<dyn VoiceDetector>> {
        self.detector.as_ref().map(|detector| Box::new(Listening(detector.stream())) as Box<dyn VoiceDetector>)
    }
}

#[derive(Debug)]
struct EngineSession(SessionHandle);

impl BackendSession for EngineSession {
    fn perform(&mut self, work: Work, clock_zero: Instant) -> Result<(), BackendError> {
        self.0.perform(work, clock_zero).map_err(|error| BackendError::Failed(error.to_string()))
    }

    fn next_input(&mut self) -> Result<Option<Input>, BackendError> {
        let event = self.0.events().try_recv().map_err(|error| BackendError::Failed(error.to_string()))?;
        Ok(event.map(Input::from))
    }
}

#[derive(Debug)]
struct Listening(VoiceDetectorStream);

impl VoiceDetector for Listening {
    fn push(&mut self, samples: &[f32], on_frame: &mut dyn FnMut(VoiceFrame)) -> Result<(), BackendError> {
        self.0.push(samples, on_frame).map_err(|error| BackendError::Failed(error.to_string()))
    }
}
