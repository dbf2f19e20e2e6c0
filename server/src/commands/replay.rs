//! `duologue replay`: runs a recorded session of the official code in fidelity mode and writes what came out.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use clap::Args as ClapArgs;
use duologue_audio::{Pcm, wav};
use duologue_engine::{
    Conversation, Engine, EngineOptions, FinishedUnit, OpenOptions, PrepareWork, UnitInput, session_defaults,
};
use duologue_model::Manifest;
use duologue_proto::session_record::{
    GoldenFrame, GoldenSession, GoldenSteering, ReplayRecord, ReplayUnit, WindowRecord,
};
use duologue_proto::timeline::TimelineEvent;
use duologue_session::{DecodeMode, Frame, Mode, Sampling, SessionConfig, TextDecoder, Window, WindowMode};
use ndarray::Array3;
use ndarray_npy::ReadNpyExt;

use super::say;
use super::timeline::{Timeline, session_line, unit_line};
use crate::host::HostArgs;

/// Recorded sessions are a few minutes long.
const INPUT_LIMITS: wav::Limits = wav::Limits { min_seconds: 0.01, max_seconds: 3600.0 };

/// Arguments of `replay`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    host: HostArgs,
    /// Folder of one recorded session; `inputs` and `cfm_noise.npy` lie beside it
    #[arg(long, value_name = "SESSION_DIR")]
    golden: PathBuf,
    /// Folder for session.json, unit_NNN.wav and timeline.jsonl
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let (runtime, bundle) = args.host.open()?;
    let manifest = bundle.manifest();
    let recorded = read_session(&args.golden)?;
    let beside = args.golden.canonicalize()?.parent().context("the session folder has no parent")?.to_path_buf();
    let user = sixteen_khz(&beside.join("inputs").join(&recorded.input_audio), manifest)?.samples;
    let voice = Arc::new(sixteen_khz(&beside.join("inputs").join(&recorded.ref_audio), manifest)?);
    let noise = read_noise(&beside.join("cfm_noise.npy"))?;
    if let Some(flow) = &manifest.flow {
        ensure!(
            flow.steps == recorded.n_timesteps,
            "the session was recorded with {} Euler steps, the bundle has {}; export with that number",
            recorded.n_timesteps,
            flow.steps
        );
    }
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot create {}", args.out.display()))?;

    let engine = Engine::start(&runtime, &bundle, EngineOptions { slots: 1, start_noise: Some(noise) })?;
    let config = session_config(&recorded, manifest)?;
    let encode = |text: &str, ids: &[u32]| -> Result<Vec<u32>> {
        let ours = engine.tokenizer().encode(text);
        ensure!(
            ours == ids,
            "the tokenizer gives {ours:?} for {text:?}, the record has {ids:?}; is this the right bundle?"
        );
        Ok(ours)
    };
    let options = OpenOptions {
        prompt: PrepareWork {
            prefix: encode(&recorded.prompt.prefix, &recorded.prompt.prefix_ids)?,
            suffix: encode(&recorded.prompt.suffix, &recorded.prompt.suffix_ids)?,
            reference: Some(voice.clone()),
            voice: config.speech.is_some().then_some(voice),
        },
        record_window: true,
        wake: None,
    };
    let mut conversation = Conversation::begin(&engine, &config, options)?;
    let prepared = conversation.prepared();
    ensure!(
        prepared.kv_len == recorded.kv_after_prepare,
        "the prompt takes {} positions, {} were recorded",
        prepared.kv_len,
        recorded.kv_after_prepare
    );

    let mut timeline = Timeline::create(Some(&args.out.join("timeline.jsonl")))?;
    timeline.write(&session_line(manifest, &runtime, Mode::Fidelity, &config, prepared))?;
    let chunk = manifest.duplex.sample_rate_hz as usize * manifest.duplex.chunk_ms as usize / 1000;
    let rate = manifest.token2wav.as_ref().map(|t| t.sample_rate_hz);
    let mut units = Vec::with_capacity(recorded.units.len());
    for (number, unit) in recorded.units.iter().enumerate() {
        let start = (number * chunk).min(user.len());
        let mut audio = user[start..(start + chunk).min(user.len())].to_vec();
        audio.resize(chunk, 0.0);
        let frames = unit.frames.iter().map(|frame| read_frame(&args.golden, frame)).collect::<Result<_>>()?;
        let done =
            conversation.unit(UnitInput { audio, frames, force_listen: unit.force_listen, ..UnitInput::default() })?;
        timeline.write(&TimelineEvent::Unit(unit_line(&done, number, f64::from(manifest.duplex.chunk_ms) / 1e3)))?;
        if let (Some(rate), false) = (rate, done.samples.is_empty()) {
            wav::write_mono_i16(&args.out.join(format!("unit_{number:03}.wav")), rate, &done.samples)?;
        }
        units.push(replay_unit(done)?);
    }
    timeline.finish()?;
    let record = ReplayRecord { session: recorded.session, bundle: manifest.name.clone(), units };
    let path = args.out.join("session.json");
    std::fs::write(&path, serde_json::to_vec_pretty(&record)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    say!("{} units replayed to {}", record.units.len(), args.out.display());
    Ok(())
}

fn read_session(dir: &Path) -> Result<GoldenSession<GoldenSteering>> {
    let path = dir.join("session.json");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read the recorded session {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no recorded session", path.display()))
}

fn sixteen_khz(path: &Path, manifest: &Manifest) -> Result<Pcm> {
    let pcm = wav::read_mono(path, INPUT_LIMITS)?;
    let wanted = manifest.duplex.sample_rate_hz;
    ensure!(pcm.rate_hz == wanted, "{} has {} Hz; recorded sessions have {wanted} Hz", path.display(), pcm.rate_hz);
    Ok(pcm)
}

/// `[1, mel, frames]` as recorded.
fn read_noise(path: &Path) -> Result<Vec<f32>> {
    let file = File::open(path).with_context(|| format!("cannot read the start noise {}", path.display()))?;
    let noise = Array3::<f32>::read_npy(file)
        .with_context(|| format!("{} is no [1, mel, frames] f32 array", path.display()))?;
    Ok(noise.into_raw_vec_and_offset().0)
}

fn read_frame(dir: &Path, frame: &GoldenFrame) -> Result<Frame> {
    let path = dir.join(&frame.file);
    let image = image::open(&path).with_context(|| format!("cannot read the frame {}", path.display()))?.into_rgb8();
    let max_slices = u32::try_from(frame.max_slice_nums)?;
    Ok(Frame { width: image.width(), height: image.height(), rgb: image.into_raw(), max_slices })
}

fn session_config(recorded: &GoldenSession<GoldenSteering>, manifest: &Manifest) -> Result<SessionConfig> {
    let mut config = session_defaults(manifest, Mode::Fidelity, 0);
    let sampling = &recorded.r#gen;
    config.sampling = Sampling {
        decode_mode: match sampling.decode_mode.as_str() {
            "greedy" => DecodeMode::Greedy,
            other => bail!("the session was recorded with decode_mode {other:?}; only greedy ones can be replayed"),
        },
        temperature: sampling.temperature,
        top_k: sampling.top_k,
        top_p: sampling.top_p,
        listen_prob_scale: sampling.listen_prob_scale,
        listen_top_k: sampling.listen_top_k,
        repetition_penalty: sampling.text_repetition_penalty,
        repetition_window: sampling.text_repetition_window_size,
        length_penalty: sampling.length_penalty,
    };
    let window = &recorded.window;
    config.window = Window {
        mode: match window.sliding_window_mode.as_str() {
            "off" => WindowMode::Off,
            "basic" => WindowMode::Basic,
            "context" => WindowMode::Context,
            other => bail!("the session was recorded with the unknown window mode {other:?}"),
        },
        basic_high_tokens: window.basic_window_high_tokens,
        basic_low_tokens: window.basic_window_low_tokens,
        context_previous_max_tokens: window.context_previous_max_tokens,
        context_max_units: window.context_max_units,
    };
    config.previous_marker = recorded.prompt.context_previous_marker.clone();
    config.force_listen_count = recorded.force_listen_count;
    config.max_new_speak_tokens = recorded.max_new_speak_tokens_per_chunk;
    if let Some(speech) = &mut config.speech {
        speech.sampling.greedy = true;
        speech.sampling.temperature = recorded.tts_temperature;
        speech.sampling.repetition_penalty = recorded.tts_repetition_penalty;
    }
    Ok(config)
}

fn replay_unit(unit: FinishedUnit) -> Result<ReplayUnit> {
    let FinishedUnit { report, codes, .. } = unit;
    let end = report.end;
    let window = report.window.expect("asked for at opening. This is a bug.");
    let ended_by = serde_json::to_value(end.ended_by)?;
    Ok(ReplayUnit {
        tokens: end.tokens,
        decoded: end.decoded,
        ended_by: ended_by.as_str().expect("serialised as a name. This is a bug.").to_owned(),
        is_listen: end.is_listen,
        end_of_turn: end.end_of_turn,
        text: end.text,
        tts_tokens: codes,
        terminator: end.terminator,
        kv_prefill: report.kv_prefill,
        kv_generate: report.kv_generate,
        kv_final: report.kv_final,
        apm_kv: report.apm_kv,
        window_state: WindowRecord {
            unit_lengths: window.unit_lengths,
            position_offset: window.position_offset,
            preserve: window.preserve,
            previous_ids: window.previous_ids,
            previous_text: window.previous_text,
            events: window.events,
            dropped_units: window.dropped_units,
        },
    })
}
