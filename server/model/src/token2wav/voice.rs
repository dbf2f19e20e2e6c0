//! The voice prompt: from a reference recording to the state that every turn of that voice starts from
//! (stepaudio2/token2wav.py:94-151, submodules.md 1.6.1).
//!
//! Owns: the two ready-made front end graphs and the prompt's tensors. Must not: synthesise.

use duologue_audio::fbank::{self, FbankParams};
use duologue_audio::mel::{self, MelParams, VocoderMelParams};
use duologue_audio::{FeatureError, Pcm, resample};

use crate::bundle::Bundle;
use crate::error::{ModelError, Result};
use crate::graph::flow::{EncoderState, EstimatorState};
use crate::graph::tts::speech_missing;
use crate::graph::voice_frontends::{Campplus, SpeechTokenizer};
use crate::runtime::Runtime;
use crate::token2wav::trim::TrimSizes;

/// What the vocoder needs to know of a reference recording.
#[derive(Debug, Clone, PartialEq)]
pub struct VoicePrompt {
    /// Speech tokens of the recording.
    pub tokens: Vec<u32>,
    /// Speaker vector as campplus returns it.
    pub speaker: Vec<f32>,
    /// Mel of the vocoder `[mel, up * tokens]`, cut or continued with its last frame to that length.
    pub mel: Vec<f32>,
}

/// A voice ready to speak: immutable, shared by all its streams.
///
/// It owns the caches that every turn starts from, and each stream that has spoken owns as much again. At the sizes of
/// MiniCPM-o 4.5 that is 263 MB for a prompt of 6 s and 33 MB for each second more or less, half of it in bundles made for
/// CUDA: `layers x 2 x steps x 2 x heads x slots x head width` numbers of the manifest's flow block
/// and `io_dtype`. Everything else is small beside it.
#[derive(Debug)]
pub struct Voice {
    pub(super) sizes: TrimSizes,
    pub(super) speaker: Vec<f32>,
    pub(super) encoder: EncoderState,
    pub(super) estimator: EstimatorState,
}

impl Voice {
    /// Mel frames of the prompt.
    pub fn prompt_frames(&self) -> usize {
        self.sizes.prompt
    }
}

/// Front ends of the voice prompt. Needed once per voice; can be dropped afterwards.
#[derive(Debug)]
pub struct VoiceFrontEnd {
    tokenizer: SpeechTokenizer,
    campplus: Campplus,
    s3_mels: usize,
    mel: MelParams,
    fbank: FbankParams,
    vocoder_mel: VocoderMelParams,
    up: usize,
}

impl VoiceFrontEnd {
    /// Loads both graphs.
    ///
    /// # Errors
    /// [`ModelError::PartMissing`] when the bundle has no speech; else as [`ModelError`] says for graphs.
    pub fn load(runtime: &Runtime, bundle: &Bundle) -> Result<Self> {
        let manifest = bundle.manifest();
        let (Some(voice), Some(flow), Some(rules)) = (&manifest.voice, &manifest.flow, &manifest.token2wav) else {
            return Err(speech_missing(bundle));
        };
        let rate = manifest.duplex.sample_rate_hz;
        Ok(VoiceFrontEnd {
            tokenizer: SpeechTokenizer::load(runtime, bundle, voice.s3_mels)?,
            campplus: Campplus::load(runtime, bundle, voice.fbank_mels, flow.spk)?,
            s3_mels: voice.s3_mels,
            mel: manifest.mel.params(rate),
            fbank: FbankParams::torchaudio_defaults(rate, voice.fbank_mels),
            vocoder_mel: VocoderMelParams {
                sample_rate_hz: rules.sample_rate_hz,
                n_fft: voice.mel24.n_fft,
                hop: voice.mel24.hop,
                n_mels: voice.mel24.n_mels,
                f_max_hz: voice.mel24.f_max_hz,
            },
            up: flow.up,
        })
    }

    /// Analyses a recording.
    ///
    /// # Errors
    /// [`ModelError::Input`] when it is too short to analyse.
    pub fn prompt(&mut self, pcm: &Pcm) -> Result<VoicePrompt> {
        let refuse = |error: FeatureError| ModelError::input("reference voice", error.to_string());
        let resampled = |rate: u32| match pcm.rate_hz == rate {
            true => pcm.samples.clone(),
            false => resample::torchaudio(&pcm.samples, pcm.rate_hz, rate),
        };
        let samples = resampled(self.mel.sample_rate_hz);
        let log_mel = mel::s3(&self.mel, self.s3_mels, &samples).map_err(refuse)?;
        let tokens = self.tokenizer.run(&log_mel.data, log_mel.frames)?;
        let filter_bank = fbank::kaldi(&self.fbank, &samples).map_err(refuse)?;
        let speaker = self.campplus.run(&filter_bank.centered().data)?;
        let vocoder_mel = mel::mel24(&self.vocoder_mel, &resampled(self.vocoder_mel.sample_rate_hz)).map_err(refuse)?;
        let mel = vocoder_mel.fitted(tokens.len() * self.up).data;
        Ok(VoicePrompt { tokens, speaker, mel })
    }
}
