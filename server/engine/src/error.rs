//! What can go wrong while a session runs, worded for whoever has to act on it.

use std::sync::Arc;

/// Why a session or the engine could not go on.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// A graph, the cache or a voice prompt failed.
    #[error("{0}")]
    Model(Arc<duologue_model::ModelError>),
    /// Features of the audio could not be computed.
    #[error(transparent)]
    Feature(#[from] duologue_audio::FeatureError),
    /// A video frame could not be cut into slices.
    #[error("video frame: {0}")]
    Image(Arc<duologue_model::image::ImageError>),
    /// The sampler met scores it cannot choose from.
    #[error(transparent)]
    Sample(#[from] duologue_session::SampleError),
    /// The spoken turn does not fit.
    #[error(transparent)]
    Speech(#[from] duologue_session::SpeechError),
    /// A session setting cannot work.
    #[error(transparent)]
    Config(#[from] duologue_session::ConfigError),
    /// The prompt leaves no room for a unit.
    #[error(
        "the prompt needs {needed} positions, the context holds {capacity}; shorten the system prompt or the reference audio"
    )]
    PromptTooLong {
        /// Rows of prompt and reference audio.
        needed: usize,
        /// Rows of the cache.
        capacity: usize,
    },
    /// The conversation has outgrown the cache.
    #[error("the conversation fills the context of {capacity} positions; use a sliding window (basic or context)")]
    ContextFull {
        /// Rows of the cache.
        capacity: usize,
    },
    /// A session that speaks needs a voice, and one that does not must not bring one.
    #[error("the session {0}; give a reference voice exactly when the session has speech settings")]
    Voice(&'static str),
    /// The vocoder cannot keep up with the words.
    #[error("speech fell behind: {units} units wait for the vocoder; this machine is too slow for the bundle")]
    SpeechBehind {
        /// Units that may wait.
        units: usize,
    },
    /// Every slot holds a session.
    #[error("all {slots} session slots are in use; try again when one is free, or start with more slots")]
    NoFreeSlot {
        /// Slots of the engine.
        slots: usize,
    },
    /// The bundle lacks a part the session needs.
    #[error("{what} needs {part}, which this bundle was exported without; export it with {switch}")]
    MissingPart {
        /// What was asked for.
        what: &'static str,
        /// The sub-module.
        part: &'static str,
        /// Switch of the checkpoint's config.json.
        switch: &'static str,
    },
    /// The model was not taught to read what is typed.
    #[error("the bundle's model reads no typed questions (its manifest has no prompt.typed); say it instead")]
    TypedText,
    /// The session did not read its events; the others must not wait for it.
    #[error("the session fell behind: {capacity} events were not read; it was closed so that the others do not wait")]
    FellBehind {
        /// Events that fit.
        capacity: usize,
    },
    /// A stage failed and the session is over.
    #[error("{0}")]
    SessionEnded(String),
    /// An owner thread is gone.
    #[error("the engine has stopped; see the last messages in the log")]
    Stopped,
}

impl From<duologue_model::ModelError> for EngineError {
    fn from(error: duologue_model::ModelError) -> Self {
        Self::Model(Arc::new(error))
    }
}

impl From<duologue_model::image::ImageError> for EngineError {
    fn from(error: duologue_model::image::ImageError) -> Self {
        Self::Image(Arc::new(error))
    }
}
