//! `duologue talk`: a wav in, a reply wav and a timeline out.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Args as ClapArgs, ValueEnum};
use duologue_audio::{resample, wav};
use duologue_engine::{Conversation, Engine, EngineOptions, OpenOptions, PrepareWork, UnitInput, session_defaults};
use duologue_model::manifest::Weights;
use duologue_model::{Bundle, Runtime};
use duologue_proto::timeline::{Decision, TimelineEvent, UnitLine};
use duologue_session::{Mode, Schedule, SessionConfig, TextDecoder};

use super::say;
use super::timeline::{Timeline, session_line, unit_line};
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
    /// Voice to answer with, 0.5 to about 16 s [default: the bundle's first voice]
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
    /// Speak a reply from so many words (tokens) on, while the model decodes the others of its first second; 0: from all of them.
    /// For `live` only
    #[arg(long, value_name = "N", default_value_t = 0)]
    first_words: usize,
    /// For measurements: listen and speak by this pattern and not as the model likes, such as
    /// listen=1,speak=3,tokens=5,codes=25 (units, units, words and audio tokens of a speaking unit)
    #[arg(long, value_name = "PATTERN")]
    schedule: Option<Schedule>,
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
    let folder = args.output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    ensure!(folder.is_dir(), "the folder of the reply, {}, does not exist; create it first", folder.display());
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
    let mut config = SessionConfig { schedule: args.schedule, ..session_defaults(&manifest, mode, args.seed) };
    config.conduct.first_words = args.first_words;
    let prompt = manifest.prompt.clone();
    let system_prompt = args.system_prompt.as_ref().unwrap_or(&prompt.default_system_prompt);
    let encode = |text: &str| engine.tokenizer().encode(&text.replace("{system_prompt}", system_prompt));
    let options = OpenOptions {
        prompt: PrepareWork {
            prefix: encode(&prompt.prefix),
            suffix: encode(&prompt.suffix),
            reference: voice.clone().filter(|_| manifest.hears_reference()),
            voice: voice.filter(|_| config.speech.is_some()),
        },
        record_window: false,
        wake: None,
    };
    let mut conversation = Conversation::begin(&engine, &config, options)?;
    let mut timeline = Timeline::create(args.timeline.as_deref())?;
    announce(&bundle, &runtime);
    if let Some(schedule) = &args.schedule {
        say!("forced schedule {schedule}: it speaks when it is told to, not when the model chooses.");
    }
    timeline.write(&session_line(&manifest, &runtime, mode, &config, conversation.prepared()))?;

    let chunk = manifest.duplex.sample_rate_hz as usize * manifest.duplex.chunk_ms as usize / 1000;
    let chunk_s = f64::from(manifest.duplex.chunk_ms) / 1e3;
    let mut tally = Tally::default();
    let mut reply = Vec::new();
    let spoken = user.samples.chunks(chunk).map(<[f32]>::to_vec);
    // Silence after the recording, so that the answer is heard to its end.
    let silence = std::iter::repeat_n(Vec::new(), MAX_TAIL_UNITS);
    let ended = spoken.map(|audio| (audio, false)).chain(silence.map(|audio| (audio, true))).try_for_each(
        |(mut audio, tail)| {
            if tail && !conversation.turn_open() {
                return Ok(());
            }
            audio.resize(chunk, 0.0);
            let unit = conversation.unit(UnitInput { audio, ..UnitInput::default() })?;
            let line = unit_line(&unit, tally.units, chunk_s);
            print_line(&line);
            tally.add(&line, chunk_s);
            reply.extend(unit.samples);
            timeline.write(&TimelineEvent::Unit(line))
        },
    );
    // What was said until something went wrong is not lost.
    let rate = manifest.token2wav.as_ref().map_or(manifest.duplex.sample_rate_hz, |t| t.sample_rate_hz);
    if tally.units > 0 {
        wav::write_mono_i16(&args.output, rate, &reply).context("reply")?;
    }
    ended?;
    let Tally { units, speak_units, missed_deadlines } = tally;
    let reply_s = reply.len() as f64 / f64::from(rate);
    timeline.write(&TimelineEvent::End { units, speak_units, reply_s, missed_deadlines })?;
    timeline.finish()?;
    say!(
        "{units} units, {speak_units} spoken, {missed_deadlines} over their deadline; reply of {reply_s:.2} s in {}",
        args.output.display()
    );
    Ok(())
}

/// Most units of silence after the recording.
const MAX_TAIL_UNITS: usize = 10;

#[derive(Default)]
struct Tally {
    units: usize,
    speak_units: usize,
    missed_deadlines: usize,
}

impl Tally {
    fn add(&mut self, line: &UnitLine, chunk_s: f64) {
        self.units += 1;
        self.speak_units += usize::from(line.decision == Decision::Speak);
        self.missed_deadlines += usize::from(line.cost_ms.unit > chunk_s * 1e3);
    }
}

fn announce(bundle: &Bundle, runtime: &Runtime) {
    let manifest = bundle.manifest();
    let (name, precision, weights) = (&manifest.name, &manifest.precision, manifest.weights);
    say!("bundle {name} ({precision}, {weights} weights) from {} on {}", bundle.dir().display(), runtime.device());
    if manifest.weights == Weights::Random {
        say!("The weights are random: what it says is noise. This shows that the chain works, not what it can say.");
    }
}

fn print_line(line: &UnitLine) {
    let decision = match line.decision {
        Decision::Listen => "listen",
        Decision::Speak if line.end_of_turn => "speak.",
        Decision::Speak => "speak ",
    };
    say!(
        "{:5.1} s  {decision}  {:6.1} ms  kv {:5}  {}",
        line.start_s,
        line.cost_ms.unit,
        line.kv_tokens,
        line.text.escape_debug()
    );
}
