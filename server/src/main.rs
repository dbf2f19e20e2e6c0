//! `duologue`: a full-duplex voice agent on MiniCPM-o 4.5.
//!
//! Wiring only: reads the command line, opens the bundle, and puts the other crates together.
#![deny(unsafe_code)]

mod commands;
mod host;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// A full-duplex voice agent on MiniCPM-o 4.5.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Let the model listen to a wav and write its reply and a timeline
    Talk(commands::talk::Args),
    /// Run a recorded session of the official code and write what came out, for comparison
    Replay(commands::replay::Args),
    /// Look at this machine: ONNX Runtime, providers, CPU, and a bundle
    Doctor(commands::doctor::Args),
    /// Check a bundle: manifest, files, checksums, graphs
    Check(commands::check::Args),
}

fn main() -> ExitCode {
    host::silence_telemetry();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let result = match Cli::parse().command {
        Command::Talk(args) => commands::talk::run(&args),
        Command::Replay(args) => commands::replay::run(&args),
        Command::Doctor(args) => commands::doctor::run(&args),
        Command::Check(args) => commands::check::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
