//! Where the official code and a listener want different things: every difference by name.
//!
//! Must not hold what a bundle or a client decides ([`crate::SessionConfig`] has these), the window's rule among them.

use crate::config::{ConfigError, Mode, require};

/// What a session does at each difference. [`Conduct::official`] is the official code, defects included; [`Conduct::live`] is what a
/// listener wants. Both are one code path: each can be had without the others, but for pairs that a session refuses by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conduct {
    /// A turn's sound is made as soon as its codes allow: from 12 codes, then 15, then full chunks. The official code waits for
    /// all codes of the unit (modeling_minicpmo_unified.py:5448).
    pub early_sound: bool,
    /// A turn's first unit is spoken in two parts: from its first words, so many, while the LLM decodes the others, and then from
    /// these. 0: from all of its words at once, as the official code does. The TTS reads what it would read of two shorter units.
    /// The first part's sound lasts some 200 ms; an LLM that needs longer for the other words leaves a gap behind it.
    pub first_words: usize,
    /// Zeros are played where there is no sound: in front of a turn's first piece and of units that are too short, and the silence
    /// codes that begin a turn are heard (modeling_minicpmo_unified.py:4410, 4940, 5519; token2wav.py:228).
    pub artificial_silence: bool,
    /// A turn's first unit may have more codes than the others (`tts.first_unit_codes` of the manifest).
    pub long_first_unit: bool,
    /// A turn that has outgrown the TTS cache goes on with an empty one. The official code fails.
    pub renew_tts_cache: bool,
    /// Words in front of `<|turn_eos|>` and `<|listen|>` in one unit are spoken. The official code reports a listening unit and
    /// loses them (modeling_minicpmo_unified.py:5161).
    pub speak_before_listen: bool,
    /// A listen that is forced into an open turn forgets all of the turn. The official code keeps its TTS cache, and the next turn
    /// goes on in it (modeling_minicpmo_unified.py:5004-5011).
    pub whole_turn_reset: bool,
    /// The vocoder's first cache keeps the prompt and the newest codes, as minicpmo-utils 1.0.7 does. 1.0.5 keeps the first codes
    /// of the turn for ever (upsample_encoder_v2.py:428, 478).
    pub newest_in_cache: bool,
    /// The vocoder's excitation has its noise. Off gives the same sound at every run, as the golden sessions were recorded.
    pub excitation_noise: bool,
    /// After an interruption the words that were not heard leave the history.
    pub cut_unheard: bool,
}

impl Conduct {
    /// As the official code.
    pub fn official() -> Self {
        Self {
            early_sound: false,
            first_words: 0,
            artificial_silence: true,
            long_first_unit: false,
            renew_tts_cache: false,
            speak_before_listen: false,
            whole_turn_reset: false,
            newest_in_cache: false,
            excitation_noise: false,
            cut_unheard: false,
        }
    }

    /// For listeners. `first_words` stays 0: a model must have been taught it (bench/RESULTS.md).
    pub fn live() -> Self {
        Self {
            early_sound: true,
            first_words: 0,
            artificial_silence: false,
            long_first_unit: true,
            renew_tts_cache: true,
            speak_before_listen: true,
            whole_turn_reset: true,
            newest_in_cache: true,
            excitation_noise: true,
            cut_unheard: true,
        }
    }

    /// # Errors
    /// [`ConfigError`] naming the setting.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        require(!(self.early_sound && self.artificial_silence), "conduct.artificial_silence", || {
            "a unit is filled up in front of its sound, which early_sound has sent by then; choose one of the two"
                .into()
        })?;
        require(self.first_words == 0 || self.early_sound, "conduct.first_words", || {
            "its sound would wait for the others all the same; needs early_sound".into()
        })?;
        require(self.first_words == 0 || self.speak_before_listen, "conduct.first_words", || {
            "words that are spoken before their unit is over cannot be taken back; needs speak_before_listen".into()
        })
    }
}

impl From<Mode> for Conduct {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Fidelity => Self::official(),
            Mode::Live => Self::live(),
        }
    }
}
