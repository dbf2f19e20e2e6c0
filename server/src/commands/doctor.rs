//! `duologue doctor`: what this machine can do, and what is in the way.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args as ClapArgs;
use duologue_model::Bundle;

use super::check::verify_files;
use super::say;
use crate::host::RuntimeArgs;

/// Arguments of `doctor`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Bundle to look at as well
    #[arg(long, env = "DUOLOGUE_BUNDLE", value_name = "DIR")]
    bundle: Option<PathBuf>,
    #[command(flatten)]
    runtime: RuntimeArgs,
}

/// Runs the command. Reports everything it can before it fails.
pub fn run(args: &Args) -> Result<()> {
    say!("duologue   {}", env!("CARGO_PKG_VERSION"));
    say!("cpu        {} logical cores, {}", std::thread::available_parallelism()?, cpu_features().join(" "));
    let mut problems = 0;
    match args.runtime.load() {
        Ok(runtime) => {
            say!("onnxruntime {} from {}", runtime.version(), runtime.library().display());
            say!("device     {}, {} thread(s) per graph", runtime.device(), runtime.threads());
            for provider in runtime.usable_providers() {
                match provider.problem {
                    None => say!("provider   {}: usable", provider.name),
                    Some(problem) => say!("provider   {}: not usable: {problem}", provider.name),
                }
            }
        }
        Err(error) => {
            problems += 1;
            say!("onnxruntime PROBLEM: {error:#}");
        }
    }
    match &args.bundle {
        None => say!("bundle     none given (--bundle DIR)"),
        Some(path) => {
            match Bundle::open(path).map_err(anyhow::Error::from).and_then(|b| verify_files(&b).map(|()| b)) {
                Ok(bundle) => {
                    say!("bundle     {} ok, {} files", bundle.manifest().name, bundle.manifest().files.len())
                }
                Err(error) => {
                    problems += 1;
                    say!("bundle     PROBLEM: {error:#}");
                }
            }
        }
    }
    if problems > 0 {
        bail!("{problems} problem(s) found");
    }
    Ok(())
}

/// Instruction sets that ONNX Runtime's kernels are chosen by.
fn cpu_features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        let known = [
            ("avx2", std::arch::is_x86_feature_detected!("avx2")),
            ("fma", std::arch::is_x86_feature_detected!("fma")),
            ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
            ("avx512vnni", std::arch::is_x86_feature_detected!("avx512vnni")),
            ("avx512bf16", std::arch::is_x86_feature_detected!("avx512bf16")),
        ];
        known.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        vec![std::env::consts::ARCH]
    }
}
