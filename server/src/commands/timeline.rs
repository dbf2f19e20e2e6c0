//! Writing a session's timeline.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use duologue_engine::FinishedUnit;
use duologue_model::{Manifest, Runtime};
use duologue_proto::forced_schedule::ForcedSchedule;
use duologue_proto::timeline::{Decision, TimelineEvent, UnitCost, UnitLine};
use duologue_session::{Mode, PreparedReport, SessionConfig};

/// The first line.
pub fn session_line(
    manifest: &Manifest,
    runtime: &Runtime,
    mode: Mode,
    config: &SessionConfig,
    prepared: PreparedReport,
) -> TimelineEvent {
    TimelineEvent::Session {
        bundle: manifest.name.clone(),
        weights: manifest.weights.to_string(),
        precision: manifest.precision.clone(),
        device: runtime.device().to_string(),
        mode: match mode {
            Mode::Fidelity => "fidelity".to_owned(),
            Mode::Live => "live".to_owned(),
        },
        prompt_tokens: prepared.kv_len,
        prepare_ms: prepared.took.as_secs_f64() * 1e3,
        forced_schedule: config.schedule.map(|schedule| ForcedSchedule {
            listen: schedule.listen,
            speak: schedule.speak,
            tokens: schedule.tokens as u32,
            codes: schedule.codes as u32,
        }),
    }
}

/// The timeline's form of a finished unit.
pub fn unit_line(unit: &FinishedUnit, number: usize, chunk_s: f64) -> UnitLine {
    let ms = |duration: std::time::Duration| duration.as_secs_f64() * 1e3;
    let end = &unit.report.end;
    UnitLine {
        unit: number,
        start_s: number as f64 * chunk_s,
        decision: if end.is_listen && !end.speaks() { Decision::Listen } else { Decision::Speak },
        text: end.text.clone(),
        end_of_turn: end.end_of_turn,
        reply_samples: unit.samples.len(),
        kv_tokens: unit.report.kv_final,
        cost_ms: UnitCost {
            mel: ms(unit.report.timings.mel),
            apm: ms(unit.report.timings.apm),
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
