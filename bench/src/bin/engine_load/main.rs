//! Load on the engine, without a server or a network: for each number of sessions, that many conversations in real time at
//! staggered phases, on a forced schedule. Writes what every unit took as JSON; `bench/gpu/table.py` makes a table of it.
#![forbid(unsafe_code)]

mod conversation;
mod memory;

use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use duologue_audio::{Pcm, resample, wav};
use duologue_bench::resources::cpu_seconds_now;
use duologue_engine::{Conversation, Engine, EngineOptions, OpenOptions, PrepareWork, session_defaults};
use duologue_model::{Bundle, DeviceChoice, Runtime, RuntimeOptions};
use duologue_session::{Mode, PreparedReport, Schedule, SessionConfig, TextDecoder};
use serde::Serialize;

use conversation::{Pace, UnitRow};
use memory::{Memory, MemoryWatch};

/// One session alone gives few replies in the time in which many give hundreds.
const FEW_SESSIONS: usize = 4;
/// Positions that a long prompt must leave free.
const PROMPT_MARGIN: usize = 128;
/// A long prompt is computed so often; the first time warms up.
const PREFILL_CALLS: usize = 4;

/// Load on the engine, without a server.
#[derive(Debug, Parser)]
struct Args {
    /// Bundle folder made by `duologue-export`, with a voice
    #[arg(long, value_name = "DIR")]
    bundle: PathBuf,
    /// cpu, cuda, cuda:N, or auto (what the bundle was exported for)
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// Threads of each graph on the CPU
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// libonnxruntime to load [default: searched, see `duologue doctor`]
    #[arg(long, value_name = "FILE")]
    ort: Option<PathBuf>,
    /// Numbers of sessions, one run each
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8")]
    sessions: Vec<usize>,
    /// What each session does
    #[arg(long, default_value = "listen=1,speak=3,tokens=5,codes=25")]
    schedule: Schedule,
    /// Speak a reply from so many words on, while the LLM decodes the others of its first unit; 0: from all of them
    #[arg(long, default_value_t = 0)]
    first_words: usize,
    /// Units of each session that count; fewer than four sessions run longer, to as many units in all as four
    #[arg(long, default_value_t = 20)]
    units: usize,
    /// Units of each session before them
    #[arg(long, default_value_t = 4)]
    warm_up: usize,
    /// Tokens of a long prompt that is timed first; 0 for none
    #[arg(long, default_value_t = 2048)]
    prefill: usize,
    /// Seed of the draws and of the noise that the sessions hear
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The result, JSON
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// The result.
#[derive(Debug, Serialize)]
struct Report {
    /// First, because it qualifies everything below: nobody chose to speak here.
    forced_schedule: String,
    first_words: usize,
    bundle: String,
    precision: String,
    weights: String,
    device: String,
    onnxruntime: String,
    cores: usize,
    /// Bytes of the LLM's weights; a decode step reads all of them.
    llm_bytes: u64,
    unit_s: f64,
    warm_up: usize,
    /// Tokens and times (ms) of a long prompt, the first of them warming up.
    prefill: Option<(usize, Vec<f64>)>,
    runs: Vec<Run>,
}

/// One number of sessions.
#[derive(Debug, Serialize)]
struct Run {
    sessions: usize,
    /// Graphs loaded and memory taken.
    start_s: f64,
    /// Most sessions whose tokens were decoded in one step.
    widest_batch: usize,
    memory: Memory,
    /// Processor time of a unit of one session, warm-up included; none where there is no /proc.
    cpu_ms_per_unit: Option<f64>,
    /// Of all sessions, without the warm-up.
    units: Vec<UnitRow>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.sessions.iter().all(|&count| count > 0), "--sessions: 0 sessions are no load");
    ensure!(args.units > 0, "--units: at least one unit must count");
    let bundle = Bundle::open(&args.bundle)?;
    let manifest = bundle.manifest();
    let device = args.device.for_target(manifest.target);
    let runtime = Runtime::load(&RuntimeOptions { library: args.ort.clone(), device, threads: args.threads })?;
    let voice = voice(&bundle)?;
    let mut config =
        SessionConfig { schedule: Some(args.schedule), ..session_defaults(manifest, Mode::Live, args.seed) };
    config.conduct.first_words = args.first_words;
    let mut report = Report {
        forced_schedule: args.schedule.to_string(),
        first_words: args.first_words,
        bundle: manifest.name.clone(),
        precision: manifest.precision.clone(),
        weights: manifest.weights.to_string(),
        device: runtime.device().to_string(),
        onnxruntime: runtime.version().to_owned(),
        cores: std::thread::available_parallelism()?.get(),
        llm_bytes: ["llm.onnx", "llm.onnx.data"].iter().filter_map(|file| size(&bundle, file)).sum(),
        unit_s: f64::from(manifest.duplex.chunk_ms) / 1e3,
        warm_up: args.warm_up,
        prefill: None,
        runs: Vec::new(),
    };
    eprintln!("forced schedule {}; {} on {}", args.schedule, report.bundle, report.device);
    for &sessions in &args.sessions {
        let begin = Instant::now();
        let watch = MemoryWatch::start(runtime.device());
        let engine = Engine::start(&runtime, &bundle, EngineOptions { slots: sessions, start_noise: None })?;
        let start_s = begin.elapsed().as_secs_f64();
        if report.prefill.is_none() && args.prefill > 0 {
            report.prefill = Some(prefill(&engine, &config, args.prefill)?);
        }
        let units = args.units.max((FEW_SESSIONS * args.units).div_ceil(sessions));
        let pace = Pace { sessions, warm_up: args.warm_up, units, seed: args.seed };
        let all_units = sessions * (args.warm_up + units);
        // Prompts and voices cost what a long conversation hardly notices.
        let before = OnceLock::new();
        let begun = || {
            before.get_or_init(cpu_seconds_now);
        };
        let units = conversation::run(&engine, &config, &options(&engine, voice.clone()), pace, begun)?;
        let spent = cpu_seconds_now().zip(before.into_inner().flatten()).map(|(after, before)| after - before);
        let run = Run {
            sessions,
            start_s,
            widest_batch: engine.widest_batch(),
            memory: watch.finish(),
            cpu_ms_per_unit: spent.map(|seconds| seconds * 1e3 / all_units as f64),
            units,
        };
        let missed = run.units.iter().filter(|unit| unit.missed).count();
        eprintln!("{sessions:3} sessions: {} units, {missed} over their deadline", run.units.len());
        report.runs.push(run);
        // What was measured until a larger number of sessions fails is not lost.
        let file = File::create(&args.out).with_context(|| args.out.display().to_string())?;
        serde_json::to_writer(BufWriter::new(file), &report)?;
    }
    Ok(())
}

fn size(bundle: &Bundle, file: &str) -> Option<u64> {
    bundle.manifest().files.get(file).map(|entry| entry.bytes)
}

/// The bundle's first voice; shared, so that the engine makes it once.
fn voice(bundle: &Bundle) -> Result<Arc<Pcm>> {
    let limits = wav::Limits { min_seconds: 0.5, max_seconds: 60.0 };
    let pcm = wav::read_mono(&bundle.voice(None)?, limits).context("voice")?;
    Ok(Arc::new(resample::to_rate(&pcm, bundle.manifest().duplex.sample_rate_hz)))
}

fn options(engine: &Engine, voice: Arc<Pcm>) -> OpenOptions {
    let manifest = engine.bundle().manifest();
    let prompt = &manifest.prompt;
    let encode =
        |text: &str| engine.tokenizer().encode(&text.replace("{system_prompt}", &prompt.default_system_prompt));
    OpenOptions {
        prompt: PrepareWork {
            prefix: encode(&prompt.prefix),
            suffix: encode(&prompt.suffix),
            reference: Some(voice.clone()).filter(|_| manifest.hears_reference()),
            voice: Some(voice),
        },
        record_window: false,
        wake: None,
    }
}

/// Times of a prompt of `tokens` tokens, in ms, in a session without a voice: nothing but the LLM works for it.
fn prefill(engine: &Engine, config: &SessionConfig, tokens: usize) -> Result<(usize, Vec<f64>)> {
    let room = engine.bundle().manifest().llm.kv_capacity.saturating_sub(PROMPT_MARGIN);
    let tokens = tokens.min(room);
    let words = engine.tokenizer().encode("a word and another word and one more ");
    let config = SessionConfig { speech: None, ..config.clone() };
    let times = (0..PREFILL_CALLS).map(|call| {
        // Each begins with another token: a prompt that the slot still holds would not be computed.
        let prefix = words.iter().copied().cycle().skip(call).take(tokens).collect();
        let prompt = PrepareWork { prefix, suffix: Vec::new(), reference: None, voice: None };
        let options = OpenOptions { prompt, record_window: false, wake: None };
        let PreparedReport { from_cache, took, .. } = Conversation::begin(engine, &config, options)?.prepared();
        ensure!(!from_cache, "call {call} of the prefill found its prompt in the cache: nothing was measured");
        Ok(took.as_secs_f64() * 1e3)
    });
    Ok((tokens, times.collect::<Result<_>>()?))
}
