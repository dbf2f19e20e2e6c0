//! `duologue`: a full-duplex voice agent on MiniCPM-o 4.5.
//!
//! Wiring only: reads the command line, opens the bundle, and puts the other crates together.
#![deny(unsafe_code)]

mod backend;
mod commands;
mod config;
mod host;
mod logs;
mod traces;
mod web_client;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A full-duplex voice agent on MiniCPM-o 4.5.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve voice sessions: browser, WebSocket, WebRTC
    Serve(commands::serve::Args),
    /// Let the model listen to a wav and write its reply and a timeline
    Talk(commands::talk::Args),
    /// Run a recorded session of the official code and write what came out, for comparison
    Replay(commands::replay::Args),
    /// Measure a server: latencies in conversations at the pace of people
    Bench(commands::bench::Args),
    /// Look at this machine: ONNX Runtime, providers, CPU, and a bundle
    Doctor(commands::doctor::Args),
    /// Check the configuration, and a bundle: manifest, files, checksums, graphs
    Check(commands::check::Args),
}

fn main() -> ExitCode {
    host::silence_telemetry();
    let command = Cli::parse().command;
    // The server's logs are a matter of its configuration.
    if !matches!(command, Command::Serve(_)) {
        logs::init_command();
    }
    let result = match command {
        Command::Serve(args) => commands::serve::run(&args),
        Command::Talk(args) => commands::talk::run(&args),
        Command::Replay(args) => commands::replay::run(&args),
        // Its exit status says more than that it failed.
        Command::Bench(args) => return commands::bench::run(args),
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
