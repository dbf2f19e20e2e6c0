//! The bundle's numbers as parameters of the audio front end.

use duologue_audio::FeatureError;
use duologue_audio::chunker::{Chunker, ChunkerParams};
use duologue_audio::mel::{StreamingMel, StreamingParams, Whisper};
use duologue_model::Manifest;

/// Features of recordings.
pub(crate) fn offline(manifest: &Manifest) -> Result<Whisper, FeatureError> {
    Whisper::new(manifest.mel.params(manifest.duplex.sample_rate_hz))
}

/// Features of a session's user audio.
pub(crate) fn streaming(manifest: &Manifest) -> Result<StreamingMel, FeatureError> {
    StreamingMel::new(StreamingParams {
        mel: manifest.mel.params(manifest.duplex.sample_rate_hz),
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
