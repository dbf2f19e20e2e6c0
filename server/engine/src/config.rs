//! The bundle's defaults as the settings of a session.

use duologue_model::Manifest;
use duologue_session::{Conduct, Mode, SessionConfig, Speech, SpeechRules, SpeechSampling, WindowMode};

/// Settings of a session as the bundle's manifest has them. A caller changes fields of the result to its own wishes.
pub fn session_defaults(manifest: &Manifest, mode: Mode, seed: u64) -> SessionConfig {
    let speech = match (&manifest.tts, &manifest.token2wav, &manifest.hift) {
        (Some(tts), Some(token2wav), Some(hift)) => Some(Speech {
            sampling: SpeechSampling {
                codes: tts.codes,
                eos: tts.eos,
                greedy: false,
                temperature: tts.temperature,
                repetition_penalty: tts.repetition_penalty,
                repetition_window: tts.repetition_window,
                codes_per_unit: tts.codes_per_unit,
                first_unit_codes: tts.first_unit_codes,
                filter: None,
            },
            rules: SpeechRules {
                silence_token: token2wav.silence_token,
                silence_prefix: token2wav.silence_prefix,
                lookahead: token2wav.lookahead,
                chunk_tokens: token2wav.chunk_tokens,
                flush_tokens: token2wav.flush_tokens,
                samples_per_code: (token2wav.sample_rate_hz / token2wav.token_rate_hz) as usize,
                held_back_samples: hift.cache_source_samples,
            },
        }),
        _ => None,
    };
    let mut window = manifest.window.clone();
    if mode == Mode::Live && window.mode == WindowMode::Off {
        // The reference ends a session when its cache is full; a listener wants to go on talking.
        window.mode = WindowMode::Basic;
    }
    SessionConfig {
        conduct: Conduct::from(mode),
        sampling: manifest.sampling.clone(),
        window,
        previous_marker: manifest.prompt.previous_marker.clone(),
        force_listen_count: manifest.duplex.force_listen_count,
        max_new_speak_tokens: manifest.duplex.max_new_speak_tokens,
        max_chars: manifest.duplex.max_chars_per_unit,
        speech,
        seed,
        schedule: None,
    }
}
