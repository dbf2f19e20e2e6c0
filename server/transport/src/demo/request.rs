//! A `prepare` message as the session that it asks for.

use std::sync::Arc;

use duologue_audio::Pcm;
use duologue_proto::demo::{DecodeMode, DuplexConfig, INPUT_RATE, Prepare};
use duologue_proto::payload::FloatAudio;
use duologue_proto::wire::{ErrorCode, WireError};
use duologue_session::Mode;

use crate::backend::{Backend, BargeInMode, SamplingChoice, SessionRequest, VoiceChoice};

/// The model alone decides when it stops, as in the demo; its turns are reset as people expect, not as the demo forgets to.
///
/// # Errors
/// [`WireError`] for settings that this server cannot change, and voices that it cannot make.
pub fn session_request(prepare: &Prepare, backend: &dyn Backend) -> Result<SessionRequest, WireError> {
    let config = prepare.config.clone().unwrap_or_default();
    changeable(&config, backend)?;
    let voices = Voices { backend };
    let prompt = voices.given("ref_audio_base64", prepare.ref_audio_base64.as_ref())?;
    let vocoder = voices.given("tts_ref_audio_base64", prepare.tts_ref_audio_base64.as_ref())?;
    let (voice, prompt_reference) = match (vocoder, prompt) {
        (Some(vocoder), Some(prompt)) if vocoder == prompt => (vocoder, None),
        (Some(vocoder), prompt) => (vocoder, voices.audio(&prompt.unwrap_or_default())),
        (None, Some(prompt)) => (prompt, None),
        (None, None) => (VoiceChoice::Default, None),
    };
    Ok(SessionRequest {
        mode: Mode::Live,
        instructions: prepare.system_prompt.clone(),
        voice,
        prompt_reference,
        sampling: sampling(&config),
        window: None,
        force_listen_units: Some(config.force_listen_count),
        barge_in: BargeInMode::Model,
        schedule: None,
    })
}

fn sampling(config: &DuplexConfig) -> SamplingChoice {
    // A temperature of 0 is the limit in which the best token always wins.
    let greedy = config.decode_mode == DecodeMode::Greedy || config.temperature == 0.0;
    SamplingChoice {
        greedy: Some(greedy),
        temperature: (config.temperature > 0.0).then_some(config.temperature as f32),
        top_k: Some(config.top_k as usize),
        top_p: Some(config.top_p as f32),
        repetition_penalty: Some(config.text_repetition_penalty as f32),
        length_penalty: Some(config.length_penalty as f32),
        listen_prob_scale: Some(config.listen_prob_scale as f32),
        seed: None,
    }
}

/// Refuses wishes that would be forgotten silently: what is not the model's own value and cannot be changed.
fn changeable(config: &DuplexConfig, backend: &dyn Backend) -> Result<(), WireError> {
    let (defaults, duplex) = (DuplexConfig::default(), &backend.info().duplex);
    let fixed = |name: &str, given: f64, value: f64| {
        if given == value {
            return Ok(());
        }
        let message = format!("config.{name}: {given} was asked for, but it is always {value} here");
        Err(WireError::unsupported(format!("config.{name}"), message))
    };
    fixed("chunk_ms", config.chunk_ms.into(), duplex.chunk_ms.into())?;
    let tokens = duplex.max_new_speak_tokens as f64;
    fixed("max_new_speak_tokens_per_chunk", config.max_new_speak_tokens_per_chunk.into(), tokens)?;
    let window = (config.text_repetition_window_size, defaults.text_repetition_window_size);
    fixed("text_repetition_window_size", window.0.into(), window.1.into())?;
    fixed("tts_temperature", config.tts_temperature, defaults.tts_temperature)?;
    if config.listen_top_k.is_some_and(|top_k| top_k > 0) {
        let message = "config.listen_top_k: not adjustable here; leave it out";
        return Err(WireError::unsupported("config.listen_top_k", message));
    }
    Ok(())
}

struct Voices<'a> {
    backend: &'a dyn Backend,
}

impl Voices<'_> {
    /// The voice that a client sends; one of the bundle's own when it is the very audio that `/api/default_ref_audio` or a
    /// preset gave out, for the backend has that one made already.
    fn given(&self, param: &str, audio: Option<&FloatAudio>) -> Result<Option<VoiceChoice>, WireError> {
        let Some(FloatAudio(samples)) = audio.filter(|audio| !audio.0.is_empty()) else { return Ok(None) };
        let info = self.backend.info();
        let same = |name: &&String| self.backend.voice(name).is_some_and(|own| own.samples == *samples);
        if let Some(name) = info.voices.iter().find(same) {
            return Ok(Some(VoiceChoice::Named(name.clone())));
        }
        let Some(seconds) = &info.cloning else {
            let message = format!("{param}: the bundle {} has voices of its own only; leave this out", info.name);
            return Err(WireError::unsupported(param, message));
        };
        let length = samples.len() as f64 / f64::from(INPUT_RATE);
        if !seconds.contains(&length) {
            let (start, end) = (seconds.start(), seconds.end());
            let message = format!("{param}: {length:.1} s of audio; a voice takes {start:.1} to {end:.1} s");
            return Err(WireError::at(ErrorCode::InvalidValue, param, message));
        }
        let pcm = Pcm { rate_hz: INPUT_RATE, samples: samples.clone() };
        Ok(Some(VoiceChoice::Reference(Arc::new(pcm))))
    }

    /// The audio of a voice, where it is known.
    fn audio(&self, voice: &VoiceChoice) -> Option<Arc<Pcm>> {
        match voice {
            VoiceChoice::Reference(pcm) => Some(pcm.clone()),
            VoiceChoice::Named(name) => self.backend.voice(name),
            VoiceChoice::Default => self.backend.info().voices.first().and_then(|name| self.backend.voice(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use duologue_session::{Duplex, Input, Work};

    use super::*;
    use crate::backend::{BackendError, BackendInfo, BackendSession, VoiceDetector, Wake};
    use crate::pacer::ReplyStart;

    /// A backend that opens nothing.
    struct Shelf(BackendInfo);

    struct Nothing;

    impl BackendSession for Nothing {
        fn perform(&mut self, _work: Work, _clock_zero: Instant) -> Result<(), BackendError> {
            Ok(())
        }

        fn next_input(&mut self) -> Result<Option<Input>, BackendError> {
            Ok(None)
        }
    }

    impl Backend for Shelf {
        fn info(&self) -> &BackendInfo {
            &self.0
        }

        fn voice(&self, name: &str) -> Option<Arc<Pcm>> {
            let level = if name == "ada" { 0.25 } else { 0.5 };
            Some(Arc::new(Pcm { rate_hz: INPUT_RATE, samples: vec![level; 16_000] }))
        }

        fn open(&self, _request: &SessionRequest, _wake: Wake) -> Result<Box<dyn BackendSession>, BackendError> {
            Ok(Box::new(Nothing))
        }

        fn voice_detector(&self) -> Option<Box<dyn VoiceDetector>> {
            None
        }
    }

    fn shelf(cloning: bool) -> Shelf {
        Shelf(BackendInfo {
            name: "shelf".into(),
            precision: "fp32".into(),
            sha256: String::new(),
            random_weights: true,
            slots: 1,
            duplex: Duplex {
                sample_rate_hz: INPUT_RATE,
                chunk_ms: 1000,
                first_chunk_ms: 1035,
                cnn_redundancy_ms: 20,
                max_new_speak_tokens: 20,
                max_chars_per_unit: 28,
                force_listen_count: 0,
            },
            output_rate_hz: 24_000,
            reply_start: ReplyStart::default(),
            voices: vec!["ada".into(), "bob".into()],
            cloning: cloning.then_some(0.5..=10.0),
            vision: false,
            typed: false,
            suggestions: vec![],
            default_instructions: "Be a shelf.".into(),
            context_tokens: 8192,
            forced_schedules: false,
        })
    }

    fn request(json: &str, cloning: bool) -> Result<SessionRequest, WireError> {
        let prepare: Prepare = serde_json::from_str(json).expect("a prepare message");
        session_request(&prepare, &shelf(cloning))
    }

    fn audio(level: f32, samples: usize) -> String {
        serde_json::to_string(&FloatAudio(vec![level; samples])).expect("audio is JSON")
    }

    #[test]
    fn a_bare_prepare_takes_the_demos_defaults() {
        let request = request("{}", true).expect("nothing to refuse");
        assert_eq!(request.instructions, None, "the bundle's own prompt");
        assert_eq!(request.force_listen_units, Some(3));
        assert_eq!(request.barge_in, BargeInMode::Model);
        assert_eq!(request.sampling.temperature, Some(0.7));
        assert_eq!(request.sampling.length_penalty, Some(1.1));
        assert!(matches!(request.voice, VoiceChoice::Default));
    }

    #[test]
    fn settings_arrive_and_no_wish_is_forgotten_silently() {
        let given = r#"{"config": {"temperature": 0.0, "top_k": 5, "force_listen_count": 0, "max_kv_tokens": 1}}"#;
        let request_given = request(given, true).expect("unknown keys are ignored");
        assert_eq!(request_given.sampling.greedy, Some(true));
        assert_eq!(request_given.sampling.temperature, None);
        assert_eq!(request_given.sampling.top_k, Some(5));
        assert_eq!(request_given.force_listen_units, Some(0));
        for (key, value) in [
            ("chunk_ms", "500"),
            ("max_new_speak_tokens_per_chunk", "10"),
            ("text_repetition_window_size", "64"),
            ("tts_temperature", "1.0"),
            ("listen_top_k", "5"),
        ] {
            let error = request(&format!(r#"{{"config": {{"{key}": {value}}}}}"#), true).expect_err(key);
            assert_eq!(error.code, ErrorCode::Unsupported, "{key}");
            assert!(error.message.contains(key), "{error}");
        }
    }

    #[test]
    fn the_two_references_go_where_the_demo_puts_them() {
        let both = format!(
            r#"{{"ref_audio_base64": {}, "tts_ref_audio_base64": {}}}"#,
            audio(0.1, 16_000),
            audio(0.2, 16_000)
        );
        let request_both = request(&both, true).expect("two voices");
        let VoiceChoice::Reference(voice) = &request_both.voice else { panic!("{:?}", request_both.voice) };
        assert_eq!(voice.samples[0], 0.2, "the vocoder's voice");
        assert_eq!(request_both.prompt_reference.expect("the prompt's own").samples[0], 0.1);

        let vocoder_only = format!(r#"{{"tts_ref_audio_base64": {}}}"#, audio(0.2, 16_000));
        let request_vocoder = request(&vocoder_only, true).expect("one voice");
        assert_eq!(request_vocoder.prompt_reference.expect("the default voice").samples[0], 0.25);

        let one = format!(r#"{{"ref_audio_base64": {}, "tts_ref_audio_base64": ""}}"#, audio(0.1, 16_000));
        let request_one = request(&one, true).expect("one voice for both");
        assert!(matches!(request_one.voice, VoiceChoice::Reference(_)));
        assert!(request_one.prompt_reference.is_none(), "the voice serves the prompt too");
    }

    #[test]
    fn the_bundles_own_voice_comes_back_as_itself_even_without_cloning() {
        let own = format!(r#"{{"ref_audio_base64": {}}}"#, audio(0.5, 16_000));
        assert_eq!(request(&own, false).expect("it is known").voice, VoiceChoice::Named("bob".into()));
        let strange = format!(r#"{{"ref_audio_base64": {}}}"#, audio(0.1, 16_000));
        let error = request(&strange, false).expect_err("no cloning");
        assert!(error.message.contains("voices of its own only"), "{error}");
    }

    #[test]
    fn a_voice_has_a_length() {
        for samples in [100, 16_000 * 11] {
            let given = format!(r#"{{"ref_audio_base64": {}}}"#, audio(0.1, samples));
            let error = request(&given, true).expect_err("too short or too long");
            assert!(error.message.contains("a voice takes 0.5 to 10.0 s"), "{error}");
        }
    }
}
