//! Options that every command which runs graphs shares, and what they start.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use duologue_model::{Bundle, DeviceChoice, Runtime, RuntimeOptions};

/// Where and how graphs run.
#[derive(Debug, Args)]
pub struct HostArgs {
    /// Bundle folder made by `duologue-export` [default: the project's own small model]
    #[arg(long, env = "DUOLOGUE_BUNDLE", value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    #[command(flatten)]
    pub runtime: RuntimeArgs,
}

/// How ONNX Runtime is found and used.
#[derive(Debug, Args)]
pub struct RuntimeArgs {
    /// cpu, cuda, cuda:N, or auto (what the bundle was exported for)
    #[arg(long, env = "DUOLOGUE_DEVICE", default_value = "auto")]
    pub device: DeviceChoice,
    /// Threads of each graph on the CPU
    #[arg(long, env = "DUOLOGUE_THREADS", default_value_t = 1, value_name = "N", value_parser = at_least_one)]
    pub threads: usize,
    /// libonnxruntime to load [default: searched, see `duologue doctor`]
    #[arg(long, env = "DUOLOGUE_ORT", value_name = "FILE")]
    pub ort: Option<PathBuf>,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("give a number of 1 or more".to_owned()),
        Ok(number) => Ok(number),
    }
}

/// Keeps ONNX Runtime from collecting telemetry. Must run before any thread exists.
#[allow(unsafe_code)]
pub fn silence_telemetry() {
    // SAFETY: `main` calls this first, so no other thread reads the environment.
    unsafe { std::env::set_var(duologue_model::runtime::TELEMETRY_VARIABLE, "1") };
}

impl RuntimeArgs {
    /// Loads ONNX Runtime.
    pub fn load(&self) -> Result<Runtime> {
        self.load_on(self.device)
    }

    /// Loads ONNX Runtime for a bundle, whose target settles `auto`.
    pub fn load_for(&self, bundle: &Bundle) -> Result<Runtime> {
        self.load_on(self.device.for_target(bundle.manifest().target))
    }

    fn load_on(&self, device: DeviceChoice) -> Result<Runtime> {
        let options = RuntimeOptions { library: self.ort.clone(), device, threads: self.threads };
        Runtime::load(&options).context("ONNX Runtime")
    }
}

impl HostArgs {
    /// Opens the bundle and loads ONNX Runtime.
    pub fn open(&self) -> Result<(Runtime, Bundle)> {
        let bundle = open_bundle(self.bundle.as_deref())?;
        Ok((self.runtime.load_for(&bundle)?, bundle))
    }
}

/// Opens the bundle in this folder, or the project's own.
pub fn open_bundle(folder: Option<&Path>) -> Result<Bundle> {
    Ok(match folder {
        Some(folder) => Bundle::open(folder)?,
        None => Bundle::open(&Bundle::own()?)?,
    })
}
