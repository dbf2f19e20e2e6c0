//! `duologue check`: is the configuration sound, is this bundle whole, and does every graph load?

use anyhow::{Result, ensure};
use clap::Args as ClapArgs;
use duologue_engine::{Engine, EngineOptions};
use duologue_model::Bundle;
use indicatif::{ProgressBar, ProgressStyle};

use super::say;
use crate::config::{ConfigArgs, ServeConfig};
use crate::host::RuntimeArgs;

/// Arguments of `check`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs the command: prints the configuration in force if a file, or no bundle, is given (else only its warnings), then
/// checks the bundle that the configuration names.
pub fn run(args: &Args) -> Result<()> {
    let effective = args.config.load()?;
    let config = &effective.config;
    if args.config.config.is_some() || config.bundle.is_none() {
        say!("{effective}");
    } else {
        effective.warnings().for_each(|warning| say!("warning    {warning}"));
    }
    match &config.bundle {
        Some(path) => check_bundle(&Bundle::open(path)?, config),
        None => {
            say!("# The configuration is sound. It names no bundle (--bundle), so none was checked.");
            Ok(())
        }
    }
}

fn check_bundle(bundle: &Bundle, config: &ServeConfig) -> Result<()> {
    let manifest = bundle.manifest();
    say!("manifest   ok, format {} by exporter {}", manifest.format_version, manifest.exporter_version);
    say!(
        "           {} ({}, {} weights, for {})",
        manifest.name,
        manifest.precision,
        manifest.weights,
        manifest.target
    );
    verify_files(bundle)?;
    say!("files      ok, {} with their sha256", manifest.files.len());
    for (name, graph) in &manifest.graphs {
        let found = bundle.opset(name)?;
        ensure!(
            found == u64::from(graph.opset),
            "{name} has opset {found}, the manifest says {}; export the bundle again",
            graph.opset
        );
    }
    say!("opsets     ok, {} as the manifest says", manifest.graphs.len());
    let runtime =
        RuntimeArgs { device: config.device, threads: config.threads, ort: config.ort.clone() }.load_for(bundle)?;
    // Loading compares each graph's inputs and outputs with the manifest.
    Engine::start(&runtime, bundle, EngineOptions { slots: 1, start_noise: None })?;
    say!("graphs     ok, {} load with the inputs and outputs of the manifest", manifest.graphs.len());
    say!("The bundle is whole and loads on {}.", runtime.device());
    Ok(())
}

/// Compares every checksum, with a progress bar when someone watches.
pub fn verify_files(bundle: &Bundle) -> Result<()> {
    let style = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {msg}")
        .expect("a constant template. This is a bug.");
    let bar = ProgressBar::no_length().with_style(style);
    bundle.verify_files(&mut |progress| {
        bar.set_length(progress.total_bytes);
        bar.set_position(progress.done_bytes);
        bar.set_message(progress.file.to_owned());
    })?;
    bar.finish_and_clear();
    Ok(())
}
