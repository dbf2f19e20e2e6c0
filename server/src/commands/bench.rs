//! `duologue bench`: latencies in conversations at the pace of people; `duologue bench compare`: what changed.
//!
//! Only wires `duologue-bench` to a server: one that runs, or one that is started in this process for the occasion.

use std::fs::OpenOptions;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use axum_server::Handle;
use clap::{Args as ClapArgs, Subcommand};
use duologue_bench::compare::compare;
use duologue_bench::environment::{Environment, ServerFacts};
use duologue_bench::report::{self, Report, ScenarioResult};
use duologue_bench::run::{progress, run as run_scenario};
use duologue_bench::{Endpoint, Scenario, Target, Transport};
use duologue_transport::http::{self, AppState, metrics, tls};

use super::say;
use super::serve::{Model, settings};
use crate::config::ConfigArgs;

/// A gate is broken, or a figure has become worse.
const BROKEN: u8 = 1;
/// Nothing could be said.
const ERROR: u8 = 2;

/// Arguments of `bench`.
#[derive(Debug, ClapArgs)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "Exit status: 0 all gates hold, 1 a gate is broken, 2 something else went wrong.\n\
    Scenarios are described in bench/README.md, the figures at the end of every HTML report.")]
pub struct Args {
    #[command(subcommand)]
    command: Option<BenchCommand>,
    #[command(flatten)]
    measure: MeasureArgs,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Say what changed between two reports beyond noise
    Compare(CompareArgs),
}

#[derive(Debug, ClapArgs)]
struct CompareArgs {
    /// The report to compare with
    before: PathBuf,
    /// The new report
    after: PathBuf,
    /// Exit with status 1 when a figure has become worse
    #[arg(long)]
    fail_on_regression: bool,
}

#[derive(Debug, ClapArgs)]
struct MeasureArgs {
    /// What is said, by how many, and what the figures must reach
    #[arg(required = true, value_name = "SCENARIO.toml")]
    scenarios: Vec<PathBuf>,
    /// A server that runs [default: one is started in this process]
    #[arg(long, value_name = "http://HOST:PORT")]
    server: Option<String>,
    /// Its API key
    #[arg(long, env = "DUOLOGUE_BENCH_KEY", hide_env_values = true)]
    key: Option<String>,
    /// websocket or webrtc; given twice, one after the other [default: websocket]
    #[arg(long)]
    transport: Vec<Transport>,
    /// Times that each scenario is run [default: as the scenario says]
    #[arg(long, value_name = "N")]
    runs: Option<usize>,
    /// Rows, figures and environment, for `bench compare` and for your own tools
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// One page with drawings
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs the command.
pub fn run(args: Args) -> ExitCode {
    let result = match args.command {
        Some(BenchCommand::Compare(args)) => compare_reports(&args),
        None => measure(args.measure),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(BROKEN),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(ERROR)
        }
    }
}

/// Whether nothing became worse, or nobody asked.
fn compare_reports(args: &CompareArgs) -> Result<bool> {
    let comparison = compare(&report::read(&args.before)?, &report::read(&args.after)?);
    say!("{}", comparison.to_string().trim_end());
    Ok(!(args.fail_on_regression && comparison.regressed()))
}

/// Whether all gates hold.
fn measure(args: MeasureArgs) -> Result<bool> {
    ensure!(args.runs != Some(0), "--runs: nothing is measured in 0 runs");
    let scenarios = args.scenarios.iter().map(|path| Ok(Arc::new(Scenario::read(path)?)));
    let scenarios = scenarios.collect::<Result<Vec<_>>>()?;
    // Found out now rather than after minutes; what is there stays until there is something better.
    for path in args.json.iter().chain(&args.html) {
        let opened = OpenOptions::new().append(true).create(true).open(path);
        opened.with_context(|| format!("cannot write {}", path.display()))?;
    }
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (endpoint, facts) = match &args.server {
        Some(url) => {
            let endpoint = Endpoint::parse(url)?;
            let facts = ServerFacts { address: endpoint.to_string(), ..ServerFacts::default() };
            (endpoint, facts)
        }
        None => {
            let sessions = scenarios.iter().map(|scenario| scenario.most_sessions()).max().unwrap_or(1);
            let forced = scenarios.iter().any(|scenario| scenario.file.session.schedule.is_some());
            tokio.block_on(start_server(&args.config, sessions, forced))?
        }
    };
    let transports = if args.transport.is_empty() { vec![Transport::Websocket] } else { args.transport };
    let environment = Environment::look(std::env::args(), args.key.as_deref(), facts);
    let mut report = Report::new(environment);
    let mut failed = 0;
    for scenario in &scenarios {
        for &transport in &transports {
            let target = Target { endpoint: endpoint.clone(), key: args.key.clone(), transport };
            let runs = args.runs.unwrap_or(scenario.file.runs);
            let bar = progress(scenario, &target, runs);
            let outcome = tokio.block_on(run_scenario(scenario, &target, runs, &bar));
            bar.finish_and_clear();
            match outcome.with_context(|| format!("{} over {transport}", scenario.name)) {
                Ok(outcome) => {
                    report.environment.bundle = outcome.bundle.or(report.environment.bundle);
                    report.add(ScenarioResult::new(scenario, transport, runs, outcome.rows));
                }
                // The others are measured all the same.
                Err(error) => {
                    eprintln!("error: {error:#}");
                    failed += 1;
                }
            }
        }
    }
    // What was measured until then is not lost.
    if !report.results.is_empty() {
        leave(&report, args.json.as_deref(), args.html.as_deref())?;
    }
    let broken = report.broken_gates();
    broken.iter().for_each(|line| eprintln!("{line}"));
    ensure!(failed == 0, "{failed} of {} measurements could not be made", failed + report.results.len());
    Ok(broken.is_empty())
}

/// Prints a report and writes it where it is wanted.
fn leave(report: &Report, json: Option<&Path>, html: Option<&Path>) -> Result<()> {
    say!("{}", report::table(report).trim_end());
    if let Some(path) = json {
        report::write(path, report)?;
    }
    if let Some(path) = html {
        std::fs::write(path, report::html(report)).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// A server on a free port of this machine, with room for so many sessions unless the configuration says otherwise.
async fn start_server(args: &ConfigArgs, sessions: usize, forced: bool) -> Result<(Endpoint, ServerFacts)> {
    let effective = args.load()?;
    let (any_port, places) = (effective.is_default("listen"), effective.is_default("slots"));
    let mut config = effective.config;
    if any_port {
        config.listen.set_port(0);
    }
    if places {
        config.slots = sessions;
    }
    config.bench.forced_schedules |= forced;
    ensure!(config.local(), "a server in this process listens on loopback only; start one and name it with --server");
    // Under the named load whatever happens: who is kept out is not measured.
    config.limits.calm_s = 0;
    config.limits.sessions_per_key = config.limits.sessions_per_key.max(sessions);
    metrics::install();
    let model = Model::open(&config)?;
    let listener = TcpListener::bind(config.listen).with_context(|| format!("cannot listen on {}", config.listen))?;
    let endpoint = Endpoint::parse(&format!("http://{}", listener.local_addr()?))?;
    let facts = ServerFacts {
        in_process: true,
        address: endpoint.to_string(),
        onnxruntime: Some(model.runtime.version().to_owned()),
        provider: Some(model.runtime.device().to_string()),
        threads: Some(model.runtime.threads()),
        slots: Some(config.slots),
        voice_detector: Some(model.detector.is_some()),
        first_words: Some(config.speech.first_words),
    };
    let routes = http::router(AppState::new(model.manager(&config)?, settings(&config, None)?));
    let connections = config.limits.connections;
    tokio::spawn(async move {
        if let Err(error) = tls::serve(listener, routes, None, connections, Handle::new()).await {
            tracing::error!(%error, "the server's socket failed");
        }
    });
    Ok((endpoint, facts))
}
