//! `duologue talk`: a wav in, a reply wav and a timeline out.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args as ClapArgs, ValueEnum};
use duologue_audio::{resample, wav};
use duologue_engine::{
    Conversation, Engine, EngineOptions, FinishedUnit, OpenOptions, PrepareWork, UnitInput, session_defaults,
};
use duologue_model::Bundle;
use duologue_model::manifest::Weights;
use duologue_proto::timeline::{Decision, TimelineEvent, UnitCost, UnitLine};
use duologue_session::{Mode, TextDecoder};

use crate::host::HostArgs;

/// Longest user recording; an hour of 16 kHz audio fits any machine that runs the model.
const INPUT_LIMITS: wav::Limits = wav::Limits { min_seconds: 0.01, max_seconds: 3600.0 };

/// Arguments of `talk`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    host: HostArgs,
    /// What the user says: wav of any rate, up to 8 channels
    #[arg(long, value_name = "WAV")]
    input: PathBuf,
    /// Voice to answer with, 0.5 to 15 s [default: the bundle's first voice]
    #[arg(long, value_name = "WAV")]
    ref_audio: Option<PathBuf>,
    /// System prompt [default: the bundle's]
    #[arg(long)]
    system_prompt: Option<String>,
    /// `fidelity` computes what the official code does, `live` what a listener wants
    #[arg(long, value_enum, default_value = "live")]
    mode: ModeArg,
    /// Seed of all draws
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Reply, 24 kHz mono
    #[arg(long, value_name = "WAV")]
    output: PathBuf,
    /// Timeline, one JSON object per line
    #[arg(long, value_name = "JSONL")]
    timeline: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ModeArg {
    Fidelity,
    Live,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let (runtime, bundle) = args.host.open()?;
    let manifest = bundle.manifest().clone();
    let user = wav::read_mono(&args.input, INPUT_LIMITS).context("user audio")?;
    let user = resample::to_rate(&user, manifest.duplex.sample_rate_hz);
    let voice = super::reference_voice(&bundle, args.ref_audio.as_deref())?;

    let engine = Engine::start(&runtime, &bundle, EngineOptions { slots: 1, start_noise: None })?;
    let mode = match args.mode {
        ModeArg::Fidelity => Mode::Fidelity,
        ModeArg::Live => Mode::Live,
    };
    let config = session_defaults(&manifest, mode, args.seed);
    let prompt = manifest.prompt.clone();
    let system_prompt = args.system_prompt.as_ref().unwrap_or(&prompt.default_system_prompt);
    let encode = |text: &str| engine.tokenizer().encode(&text.replace("{system_prompt}", system_prompt));
    let options = OpenOptions {
        prompt: PrepareWork {
            prefix: encode(&prompt.prefix),
            suffix: encode(&prompt.suffix),
            reference: voice.clone(),
            voice: voice.filter(|_| config.speech.is_some()),
        },
        source_noise: mode == Mode::Live,
        record_window: false,
    };
    let mut conversation = Conversation::begin(&engine, &config, options)?;
    let mut timeline = Timeline::create(args.timeline.as_deref())?;
    announce(&bundle, &args.host.bundle);
    let prepared = conversation.prepared();
    timeline.write(&TimelineEvent::Session {
        bundle: manifest.name.clone(),
        weights: manifest.weights.to_string(),
        precision: manifest.precision.to_string(),
        device: runtime.device().to_string(),
        mode: format!("{mode:?}").to_lowercase(),
        prompt_tokens: prepared.kv_len,
        prepare_ms: prepared.took.as_secs_f64() * 1e3,
    })?;

    let chunk = manifest.duplex.sample_rate_hz as usize * manifest.duplex.chunk_ms as usize / 1000;
    let chunk_s = f64::from(manifest.duplex.chunk_ms) / 1e3;
    let mut reply = Vec::new();
    let (mut units, mut speak_units, mut missed) = (0, 0, 0);
    for audio in user.samples.chunks(chunk) {
        let mut audio = audio.to_vec();
        audio.resize(chunk, 0.0);
        let unit = conversation.unit(UnitInput { audio, ..UnitInput::default() })?;
        let line = unit_line(&unit, units, chunk_s);
        print_line(&line);
        timeline.write(&TimelineEvent::Unit(line))?;
        units += 1;
        speak_units += usize::from(!unit.report.end.is_listen);
        missed += usize::from(unit.unit_time.as_secs_f64() > chunk_s);
        reply.extend(unit.samples);
    }
    let rate = manifest.token2wav.as_ref().map_or(manifest.duplex.sample_rate_hz, |t| t.sample_rate_hz);
    wav::write_mono_i16(&args.output, rate, &reply).context("reply")?;
    let reply_s = reply.len() as f64 / f64::from(rate);
    timeline.write(&TimelineEvent::End { units, speak_units, reply_s, missed_deadlines: missed })?;
    timeline.finish()?;
    println!("{units} units, {speak_units} spoken, {missed} over their deadline; reply of {reply_s:.2} s in {}", args.output.display());
    Ok(())
}

fn announce(bundle: &Bundle, path: &Path) {
    let manifest = bundle.manifest();
    println!("bundle {} ({}, {} weights) from {}", manifest.name, manifest.precision, manifest.weights, path.display());
    if manifest.weights == Weights::Random {
        println!("The weights are random: what it says is noise. This shows that the chain works, not what it can say.");
    }
}

/// The timeline's form of a finished unit.
pub fn unit_line(unit: &FinishedUnit, number: usize, chunk_s: f64) -> UnitLine {
    let ms = |duration: std::time::Duration| duration.as_secs_f64() * 1e3;
    let end = &unit.report.end;
    UnitLine {
        unit: number,
        start_s: number as f64 * chunk_s,
        decision: if end.is_listen { Decision::Listen } else { Decision::Speak },
        text: end.text.clone(),
        end_of_turn: end.end_of_turn,
        reply_samples: unit.samples.len(),
        kv_tokens: unit.report.kv_final,
        cost_ms: UnitCost {
            audio: ms(unit.report.timings.audio),
            vision: ms(unit.report.timings.vision),
            prefill: ms(unit.report.timings.prefill),
            llm: ms(unit.report.timings.generate),
            finalize: ms(unit.report.timings.finalize),
            tts: ms(unit.speech.tts),
            flow: ms(unit.speech.flow),
            hift: ms(unit.speech.hift),
            unit: ms(unit.unit_time),
        },
    }
}

fn print_line(line: &UnitLine) {
    let decision = match line.decision {
        Decision::Listen => "listen",
        Decision::Speak if line.end_of_turn => "speak.",
        Decision::Speak => "speak ",
    };
    println!("{:5.1} s  {decision}  {:6.1} ms  kv {:5}  {}", line.start_s, line.cost_ms.unit, line.kv_tokens, line.text.escape_debug());
}

/// The timeline file, if one is wanted.
pub struct Timeline(Option<(BufWriter<File>, PathBuf)>);

impl Timeline {
    /// Creates the file, or nothing.
    pub fn create(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else { return Ok(Self(None)) };
        let file = File::create(path).with_context(|| format!("cannot create the timeline {}", path.display()))?;
        Ok(Self(Some((BufWriter::new(file), path.to_path_buf()))))
    }

    /// Adds a line.
    pub fn write(&mut self, event: &TimelineEvent) -> Result<()> {
        let Some((file, path)) = &mut self.0 else { return Ok(()) };
        let line = serde_json::to_string(event)?;
        writeln!(file, "{line}").with_context(|| format!("cannot write the timeline {}", path.display()))
    }

    /// Makes sure that everything is in the file.
    pub fn finish(self) -> Result<()> {
        let Some((mut file, path)) = self.0 else { return Ok(()) };
        file.flush().with_context(|| format!("cannot write the timeline {}", path.display()))
    }
}
