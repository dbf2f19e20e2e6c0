//! Everything that can go wrong in this crate, worded for the person who has to fix it.
//!
//! Owns: the error type. Must not: decide what happens next (the engine does).

use std::path::{Path, PathBuf};

use crate::manifest::Target;
use crate::runtime::Device;

/// Result of this crate's functions.
pub type Result<T, E = ModelError> = std::result::Result<T, E>;

/// Why a model operation failed. Each message names the file or the quantity and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// No ONNX Runtime library at any of the places searched.
    #[error(
        "ONNX Runtime was not found; looked at {searched}; run `make exporter` (it installs the library into models/.venv) or set DUOLOGUE_ORT to the full path of libonnxruntime.so"
    )]
    LibraryMissing {
        /// The places, joined by commas.
        searched: String,
    },
    /// The library file exists and is no usable ONNX Runtime.
    #[error(
        "{path} is not a usable ONNX Runtime library: {reason}; run `make exporter` for version {wanted} or newer, or point DUOLOGUE_ORT at another file"
    )]
    LibraryUnusable {
        /// The file.
        path: PathBuf,
        /// What the loader said.
        reason: String,
        /// Oldest usable version.
        wanted: String,
    },
    /// The library is older than the API this program was built for.
    #[error(
        "{path} is ONNX Runtime {found}, this program needs {wanted} or newer; run `make exporter` or point DUOLOGUE_ORT at a newer library"
    )]
    LibraryTooOld {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: String,
        /// Oldest usable version.
        wanted: String,
    },
    /// A second, different library was asked for in one process.
    #[error("ONNX Runtime is already loaded from {loaded}, cannot load {asked} as well; one process uses one library")]
    LibraryLoaded {
        /// What is loaded.
        loaded: PathBuf,
        /// What was asked for.
        asked: PathBuf,
    },
    /// CUDA was asked for and cannot be used.
    #[error(
        "device {device} was asked for but ONNX Runtime at {library} cannot use it: {reason}; install onnxruntime-gpu with its CUDA libraries, or use --device cpu with a bundle exported with --target cpu"
    )]
    DeviceUnusable {
        /// As given by the user, or as the bundle's target asks for it.
        device: String,
        /// The library in use.
        library: PathBuf,
        /// What ONNX Runtime said.
        reason: String,
    },
    /// A device name that does not exist.
    #[error("unknown device {0:?}; use cpu, cuda, cuda:N or auto")]
    DeviceName(String),
    /// The bundle folder or its manifest is missing.
    #[error("{path}: no bundle here ({reason}); create one with `duologue-export export --checkpoint DIR --out {}`", path.display())]
    NoBundle {
        /// The bundle folder.
        path: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// The manifest is not what this program understands.
    #[error("{path}: {reason}; export the bundle again with the exporter of this version")]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Field and problem.
        reason: String,
    },
    /// A bundle made for one kind of device on another.
    #[error(
        "{path}: target is {target} but the device is {device}, and {reason}; run with --device {target}, or export the bundle with --target {other}"
    )]
    DeviceMismatch {
        /// The manifest.
        path: PathBuf,
        /// What the bundle was made for.
        target: Target,
        /// The device in use.
        device: Device,
        /// What would go wrong.
        reason: &'static str,
        /// The target that fits the device.
        other: Target,
    },
    /// A file listed in the manifest is damaged or absent.
    #[error("{path}: {reason}; copy the bundle again or export it again")]
    BundleFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A graph has other inputs, outputs, types or shapes than the contract says.
    #[error("{path}: {reason}; the graph does not fit its manifest, export the bundle again")]
    GraphContract {
        /// The graph.
        path: PathBuf,
        /// Which input or output and how it differs.
        reason: String,
    },
    /// ONNX Runtime refused to load a graph.
    #[error("{path}: ONNX Runtime could not load the graph: {reason}")]
    GraphLoad {
        /// The graph.
        path: PathBuf,
        /// Its message.
        reason: String,
    },
    /// ONNX Runtime failed while running a graph.
    #[error("{graph}: ONNX Runtime failed: {reason}")]
    GraphRun {
        /// File name of the graph.
        graph: String,
        /// Its message.
        reason: String,
    },
    /// No voice detector at any of the places searched.
    #[error(
        "the voice detector was not found; looked at {searched}; run `make vad` or set DUOLOGUE_VAD to the full path of silero_vad.onnx"
    )]
    DetectorMissing {
        /// The places, joined by commas.
        searched: String,
    },
    /// The voice detector's file cannot be used.
    #[error(
        "{path}: not a usable voice detector (Silero VAD version 5 or 6): {reason}; run `make vad` or point DUOLOGUE_VAD at another file"
    )]
    Detector {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Memory for caches or buffers could not be had.
    #[error("{what}: cannot allocate {bytes} bytes on {place} ({reason}); use fewer slots or a smaller cache")]
    Allocation {
        /// What it was for.
        what: String,
        /// Size.
        bytes: usize,
        /// Where.
        place: String,
        /// What the allocator said.
        reason: String,
    },
    /// The KV cache of a slot is full.
    #[error(
        "{graph}: slot {slot} holds {len} of {capacity} rows and cannot take {wanted} more; shorten the prompt, turn on a sliding window, or export with a larger kv_capacity"
    )]
    ContextFull {
        /// llm or tts.
        graph: &'static str,
        /// Slot number.
        slot: usize,
        /// Rows in use.
        len: usize,
        /// Rows that fit.
        capacity: usize,
        /// Rows asked for.
        wanted: usize,
    },
    /// A token id outside its embedding table.
    #[error("{table}: token id {id} is outside the table of {rows} rows; the tokenizer does not belong to this bundle")]
    TokenRange {
        /// File of the table.
        table: String,
        /// The id.
        id: u32,
        /// Rows of the table.
        rows: usize,
    },
    /// A request this bundle cannot serve because a sub-module was left out at export.
    #[error("{path}: the bundle has no {part} part; export it again without {switch}")]
    PartMissing {
        /// The bundle folder.
        path: PathBuf,
        /// apm, vision, tts.
        part: &'static str,
        /// The exporter's switch that left it out.
        switch: &'static str,
    },
    /// Audio or tokens of a size the model cannot take.
    #[error("{what}: {reason}")]
    Input {
        /// What was given.
        what: &'static str,
        /// Why it is refused and what would be accepted.
        reason: String,
    },
    /// The tokenizer file cannot be used.
    #[error("{path}: the tokenizer cannot be used: {reason}")]
    Tokenizer {
        /// tokenizer.json
        path: PathBuf,
        /// What the tokenizers crate said.
        reason: String,
    },
    /// Any other failure to read a file.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

impl ModelError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> ModelError {
        let path = path.to_path_buf();
        move |source| ModelError::Io { path, source }
    }

    pub(crate) fn input(what: &'static str, reason: impl Into<String>) -> ModelError {
        ModelError::Input { what, reason: reason.into() }
    }
}
