//! The bundle's numbers as parameters of the audio front end.

use duologue_audio::FeatureError;
use duologue_audio::chunker::{Chunker, ChunkerParams};
use duologue_audio::mel::{MelParams, StreamingMel, StreamingParams, Whisper};
use duologue_model::Manifest;

fn params(manifest: &Manifest) -> MelParams {
    let mel = &manifest.mel;
    MelParams {
        sample_rate_hz: manifest.duplex.sample_rate_hz,
        n_fft: mel.n_fft,
        hop: mel.hop,
        n_mels: mel.n_mels,
        f_max_hz: f64::from(mel.f_max_hz),
        short_buffer_samples: mel.short_buffer_samples,
        floor_log10: mel.floor_log10,
        dynamic_range: mel.dynamic_range,
        window_samples: mel.window_samples,
        drop_samples: mel.drop_samples,
    }
}

/// Features of recordings.
pub(crate) fn offline(manifest: &Manifest) -> Result<Whisper, FeatureError> {
    Whisper::new(params(manifest))
}

/// Features of a session's user audio.
pub(crate) fn streaming(manifest: &Manifest) -> Result<StreamingMel, FeatureError> {
    StreamingMel::new(StreamingParams {
        mel: params(manifest),
        chunk_ms: manifest.duplex.chunk_ms,
        cnn_redundancy_ms: manifest.duplex.cnn_redundancy_ms,
    })
}

/// The cutter in front of it.
pub(crate) fn chunker(manifest: &Manifest) -> Result<Chunker, FeatureError> {
    Chunker::new(ChunkerParams {
        sample_rate_hz: manifest.duplex.sample_rate_hz,
        chunk_ms: manifest.duplex.chunk_ms,
        first_chunk_ms: manifest.duplex.first_chunk_ms,
        hop: manifest.mel.hop,
    })
}

/// Samples of reply audio as long as a unit.
pub(crate) fn reply_unit_samples(manifest: &Manifest, reply_rate_hz: u32) -> usize {
    (u64::from(reply_rate_hz) * u64::from(manifest.duplex.chunk_ms) / 1000) as usize
}
