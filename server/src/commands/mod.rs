//! One module per subcommand, and what several of them do alike.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use duologue_audio::{Pcm, resample, wav};
use duologue_model::{Bundle, Manifest};

pub mod bench;
pub mod check;
pub mod doctor;
pub mod replay;
pub mod serve;
pub mod talk;
mod timeline;

/// Prints a line. A reader that has gone away (`| head`) must not cost the user the files that are still to be written.
macro_rules! say {
    ($($part:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stdout(), $($part)*);
    }};
}
pub(crate) use say;

/// Shortest reference voice: below it there is nothing to take a voice from.
const MIN_VOICE_S: f64 = 0.5;

/// The reference voice at the model's rate: the given wav, or the bundle's first one. None when the bundle neither hears nor speaks.
fn reference_voice(bundle: &Bundle, wav: Option<&Path>) -> Result<Option<Arc<Pcm>>> {
    let manifest = bundle.manifest();
    if wav.is_none() && manifest.tts.is_none() && manifest.apm.is_none() {
        return Ok(None);
    }
    let path = match wav {
        Some(path) => {
            ensure!(
                manifest.clones_voices() || manifest.tts.is_none(),
                "the bundle {} has one voice of its own and cannot take another; leave {} out",
                manifest.name,
                path.display()
            );
            path.to_path_buf()
        }
        None => bundle.voice(None)?,
    };
    let seconds = voice_seconds(manifest);
    let limits = wav::Limits { min_seconds: *seconds.start(), max_seconds: *seconds.end() };
    let pcm = wav::read_mono(&path, limits).context("reference audio")?;
    Ok(Some(Arc::new(resample::to_rate(&pcm, manifest.duplex.sample_rate_hz))))
}

/// Seconds of reference audio that make a voice.
pub fn voice_seconds(manifest: &Manifest) -> RangeInclusive<f64> {
    MIN_VOICE_S..=longest_voice_s(manifest)
}

/// The prompt, one full chunk and the kept tail must fit into the frames that the vocoder is built for.
fn longest_voice_s(manifest: &Manifest) -> f64 {
    let (Some(token2wav), Some(flow)) = (&manifest.token2wav, &manifest.flow) else { return 30.0 };
    let chunk_frames = flow.up * (token2wav.chunk_tokens + token2wav.lookahead);
    let frames = token2wav.max_frames.saturating_sub(token2wav.trim_tail_frames + chunk_frames);
    frames as f64 / (flow.up as f64 * f64::from(token2wav.token_rate_hz))
}
