//! A client's session object as wishes for the backend.

use std::sync::Arc;

use duologue_audio::wav;
use duologue_proto::forced_schedule::ForcedSchedule;
use duologue_proto::live::{self, BUILT_IN_VOICES, InitialRole, SamplingOverrides, SamplingPreset, SessionConfig};
use duologue_proto::wire::WireError;
use duologue_session::{Mode, Schedule, WindowMode};

use crate::backend::{BackendInfo, BargeInMode, SamplingChoice, SessionRequest, VoiceChoice};

/// Translates `session`.
///
/// # Errors
/// [`WireError`] naming the field: an unknown voice, a reference that is no usable wav, a schedule that may not be forced.
pub fn session_request(session: &SessionConfig, info: &BackendInfo) -> Result<SessionRequest, WireError> {
    let extension = session.duologue.clone().unwrap_or_default();
    let barge_in = match extension.barge_in.map(|barge_in| barge_in.mode) {
        Some(live::BargeInMode::Model) => BargeInMode::Model,
        Some(live::BargeInMode::Vad) | None => BargeInMode::Voice,
    };
    Ok(SessionRequest {
        mode: Mode::Live,
        instructions: instructions(session, info),
        voice: voice(session, extension.voice_reference.as_ref().map(|voice| voice.0.as_slice()), info)?,
        prompt_reference: None,
        sampling: sampling(&extension.sampling.unwrap_or_default()),
        window: extension.window.map(|window| match window {
            live::WindowMode::Off => WindowMode::Off,
            live::WindowMode::Basic => WindowMode::Basic,
            live::WindowMode::Context => WindowMode::Context,
        }),
        force_listen_units: extension.force_listen_units,
        barge_in,
        schedule: extension.forced_schedule.map(|schedule| forced(schedule, info)).transpose()?,
    })
}

/// The preset with what the client says itself on top.
fn sampling(wishes: &SamplingOverrides) -> SamplingChoice {
    let preset = match wishes.preset {
        Some(SamplingPreset::Focused) => SamplingChoice::focused(),
        Some(SamplingPreset::Reference) | None => SamplingChoice::default(),
    };
    let number = |value: Option<f64>| value.map(|value| value as f32);
    SamplingChoice {
        greedy: wishes.greedy,
        temperature: number(wishes.temperature).or(preset.temperature),
        top_k: wishes.top_k.map(|value| value as usize).or(preset.top_k),
        top_p: number(wishes.top_p).or(preset.top_p),
        repetition_penalty: number(wishes.repetition_penalty).or(preset.repetition_penalty),
        length_penalty: number(wishes.length_penalty),
        listen_prob_scale: number(wishes.listen_prob_scale),
        seed: wishes.seed,
    }
}

/// Whether its numbers fit the bundle is the backend's matter.
fn forced(schedule: ForcedSchedule, info: &BackendInfo) -> Result<Schedule, WireError> {
    if !info.forced_schedules {
        let message = "this server lets its model choose when to speak; measure on one that was started with \
                       bench.forced_schedules = true";
        return Err(WireError::unsupported("session.duologue.forced_schedule", message));
    }
    let ForcedSchedule { listen, speak, tokens, codes } = schedule;
    Ok(Schedule { listen, speak, tokens: tokens as usize, codes: codes as usize })
}

/// The system prompt, with earlier conversation behind it: the duplex prompt has no other place for text.
fn instructions(session: &SessionConfig, info: &BackendInfo) -> Option<String> {
    let own = session.instructions.as_deref().map(str::trim).filter(|text| !text.is_empty());
    let earlier = session.input.as_deref().unwrap_or_default();
    if earlier.is_empty() {
        return own.map(str::to_owned);
    }
    let mut text = own.unwrap_or(&info.default_instructions).to_owned();
    for item in earlier {
        let who = match item.role {
            InitialRole::Developer => "developer",
            InitialRole::User => "user",
            InitialRole::Assistant => "assistant",
        };
        for part in &item.content {
            text.push_str(&format!("\n{who}: {}", part.text));
        }
    }
    Some(text)
}

fn voice(session: &SessionConfig, reference: Option<&[u8]>, info: &BackendInfo) -> Result<VoiceChoice, WireError> {
    const REFERENCE: &str = "session.duologue.voice_reference";
    if let Some(bytes) = reference {
        let Some(seconds) = &info.cloning else {
            let message = format!("the bundle {} has voices of its own only; leave this out", info.name);
            return Err(WireError::unsupported(REFERENCE, message));
        };
        let limits = wav::Limits { min_seconds: *seconds.start(), max_seconds: *seconds.end() };
        let pcm = wav::parse_mono("the voice", bytes, limits)
            .map_err(|error| WireError::invalid(REFERENCE, error.to_string()))?;
        return Ok(VoiceChoice::Reference(Arc::new(pcm)));
    }
    match session.voice().map(live::Voice::name) {
        None => Ok(VoiceChoice::Default),
        Some(name) if info.voices.iter().any(|voice| voice == name) => Ok(VoiceChoice::Named(name.to_owned())),
        Some(name) if BUILT_IN_VOICES.contains(&name) => Ok(VoiceChoice::Default),
        Some(name) => {
            let message = format!("no voice is named `{name}`; there are: {}", info.voices.join(", "));
            Err(WireError::invalid("session.audio.output.voice", message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preset_gives_way_to_what_the_client_says() {
        let wishes = SamplingOverrides { preset: Some(SamplingPreset::Focused), top_k: Some(5), ..Default::default() };
        let choice = sampling(&wishes);
        assert_eq!((choice.top_k, choice.temperature, choice.top_p), (Some(5), Some(0.3), Some(0.85)));
        let reference = SamplingOverrides { preset: Some(SamplingPreset::Reference), ..Default::default() };
        assert_eq!(sampling(&reference).temperature, None);
    }
}
