//! The figures by name: what each means, its unit, and its values out of the rows.

use duologue_proto::timeline::Decision;
use serde::{Deserialize, Serialize};

use crate::measure::{ReplyRow, Rows, UNIT_MS, UnitRow};
use crate::scenario::Load;
use crate::statistics::Sample;

/// What a figure is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Milliseconds, as a distribution.
    Milliseconds,
    /// Compute time per audio time, as a distribution.
    Ratio,
    /// Mebibytes, as a distribution over time.
    Mebibytes,
    /// Percent of one core or of a GPU, as a distribution over time.
    Percent,
    /// Times in a run.
    Count,
}

macro_rules! metrics {
    ($( $(#[doc = $meaning:literal])+ $variant:ident = $name:literal, $unit:ident; )*) => {
        /// A figure.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Metric {
            $( $(#[doc = $meaning])+ #[serde(rename = $name)] $variant, )*
        }

        impl Metric {
            /// All of them, in the order of reports.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Its name in scenarios and reports.
            pub fn name(self) -> &'static str {
                match self { $( Self::$variant => $name, )* }
            }

            /// What it means.
            pub fn meaning(self) -> &'static str {
                match self { $( Self::$variant => concat!($($meaning),+).trim_ascii(), )* }
            }

            /// What it is counted in.
            pub fn unit(self) -> Unit {
                match self { $( Self::$variant => Unit::$unit, )* }
            }
        }
    };
}

metrics! {
    /// the user's last voiced sample to the first audible sample of the reply, at the client
    Ttfa = "ttfa", Milliseconds;
    /// complete audio of the unit that made the model speak to the first audio of the reply
    Ttfb = "ttfb", Milliseconds;
    /// the same, to the first piece of sound inside the server
    Made = "first_piece", Milliseconds;
    /// first piece of sound to first audio at the client: pacing, encoding, sending
    Delivery = "delivery", Milliseconds;
    /// the user's first voiced sample to the last audible sample of the reply it stops
    BargeIn = "barge_in", Milliseconds;
    /// complete audio to the finalized unit
    UnitTime = "unit_time", Milliseconds;
    /// the same, of units in which the model listens
    ListenUnit = "listen_unit", Milliseconds;
    /// the same, of units in which it speaks
    SpeakUnit = "speak_unit", Milliseconds;
    /// unit time by the audio it covers
    UnitRtf = "unit_rtf", Ratio;
    /// tts, flow and hift by the sound they make
    SpeechRtf = "speech_rtf", Ratio;
    /// log-mel
    Mel = "mel", Milliseconds;
    /// audio encoder
    Apm = "apm", Milliseconds;
    /// pictures
    Vision = "vision", Milliseconds;
    /// LLM prefill
    Prefill = "prefill", Milliseconds;
    /// LLM decode steps, sampling and the unit's end
    Generate = "generate", Milliseconds;
    /// the same, by the tokens that the LLM made, of a unit that speaks
    TokenTime = "token", Milliseconds;
    /// audio tokens, of a unit that speaks
    Tts = "tts", Milliseconds;
    /// the same, by their number
    CodeTime = "code", Milliseconds;
    /// flow matching, of a unit that speaks
    Flow = "flow", Milliseconds;
    /// vocoder, of a unit that speaks
    Hift = "hift", Milliseconds;
    /// playback starvation within a reply
    Gap = "gap", Milliseconds;
    /// first packet to the open session
    Connect = "connect", Milliseconds;
    /// how late a client was at worst, by the bench's own fault: far from 0, this machine has measured itself
    ClientLate = "client_late", Milliseconds;
    /// resident memory of this process
    Memory = "memory", Mebibytes;
    /// processor time of this process
    Cpu = "cpu", Percent;
    /// memory of the machine's first GPU in use
    GpuMemory = "gpu_memory", Mebibytes;
    /// share of the time in which it ran a kernel
    Gpu = "gpu", Percent;
    /// gaps
    Gaps = "gaps", Count;
    /// units that were not finished within their length, those that never were among them
    MissedDeadlines = "missed_deadlines", Count;
    /// units of user audio that the server dropped
    DroppedUnits = "dropped_units", Count;
    /// things said that no reply followed
    Unanswered = "unanswered", Count;
    /// interruptions that did not stop a reply, as it went on or there was none
    NotStopped = "not_stopped", Count;
    /// replies before the user had said anything
    Uncalled = "uncalled", Count;
    /// sessions that broke
    Failed = "failed_sessions", Count;
    /// sessions for which the server had no room
    Refused = "refused_sessions", Count;
}

impl Metric {
    /// Its values under a load. A count has one value for each run.
    pub fn samples(self, rows: &Rows, load: Load) -> Vec<Sample> {
        match self {
            Self::Ttfa => said(rows, load, |row| row.ttfa_ms.filter(|_| !row.interrupts)),
            Self::BargeIn => said(rows, load, |row| row.barge_in_ms),
            Self::Ttfb => replies(rows, load, ReplyRow::ttfb_ms),
            Self::Made => replies(rows, load, |row| row.made_ms),
            Self::Delivery => replies(rows, load, |row| Some(row.ttfb_ms()? - row.made_ms?)),
            Self::Gap => of(&rows.replies, load, |row| (row.place.load, row.place.run), |row| row.gaps_ms.clone()),
            Self::UnitTime => units(rows, load, |row| Some(row.unit_ms)),
            // What an interrupted unit would have decided is not told.
            Self::ListenUnit => units(rows, load, |row| (!row.stale && !speaks(row)).then_some(row.unit_ms)),
            Self::SpeakUnit => units(rows, load, |row| speaks(row).then_some(row.unit_ms)),
            Self::UnitRtf => units(rows, load, |row| Some(row.unit_ms / UNIT_MS)),
            Self::SpeechRtf => units(rows, load, |row| {
                (row.sound_ms > 0.0).then(|| (row.tts_ms + row.flow_ms + row.hift_ms) / row.sound_ms)
            }),
            Self::Mel => units(rows, load, |row| Some(row.mel_ms)),
            Self::Apm => units(rows, load, |row| Some(row.apm_ms)),
            Self::Vision => units(rows, load, |row| (row.vision_ms > 0.0).then_some(row.vision_ms)),
            Self::Prefill => units(rows, load, |row| Some(row.prefill_ms)),
            Self::Generate => units(rows, load, |row| Some(row.generate_ms)),
            Self::TokenTime => units(rows, load, |row| {
                (speaks(row) && row.tokens > 0).then(|| row.generate_ms / f64::from(row.tokens))
            }),
            Self::Tts => units(rows, load, |row| speaks(row).then_some(row.tts_ms)),
            Self::CodeTime => {
                units(rows, load, |row| (speaks(row) && row.codes > 0).then(|| row.tts_ms / row.codes as f64))
            }
            Self::Flow => units(rows, load, |row| speaks(row).then_some(row.flow_ms)),
            Self::Hift => units(rows, load, |row| speaks(row).then_some(row.hift_ms)),
            Self::ClientLate => of(
                &rows.sessions,
                load,
                |row| (row.place.load, row.place.run),
                |row| (row.failed.is_none() && !row.refused).then_some(row.client_late_ms),
            ),
            Self::Connect => of(
                &rows.sessions,
                load,
                |row| (row.place.load, row.place.run),
                |row| (row.failed.is_none() && !row.refused).then_some(row.connect_ms),
            ),
            Self::Memory => of(&rows.usage, load, |row| (row.load, row.run), |row| [row.usage.resident_mib]),
            Self::Cpu => of(&rows.usage, load, |row| (row.load, row.run), |row| row.usage.cpu_percent),
            Self::GpuMemory => {
                of(&rows.usage, load, |row| (row.load, row.run), |row| row.usage.gpu.map(|gpu| gpu.used_mib))
            }
            Self::Gpu => {
                of(&rows.usage, load, |row| (row.load, row.run), |row| row.usage.gpu.map(|gpu| gpu.busy_percent))
            }
            _ => self.counts(rows, load),
        }
    }

    /// More of it is worse. Not so for what is no cost of the server.
    pub(crate) fn is_judged(self) -> bool {
        !matches!(self, Self::ClientLate | Self::Gpu)
    }

    /// It has values only where the model speaks.
    pub(crate) fn needs_reply(self) -> bool {
        use Metric::{CodeTime, Delivery, Flow, Hift, Made, SpeakUnit, SpeechRtf, TokenTime, Ttfa, Ttfb, Tts};
        matches!(self, Ttfa | Ttfb | Made | Delivery | SpeakUnit | SpeechRtf | TokenTime | Tts | CodeTime | Flow | Hift)
    }

    /// Without values it is 0, and not unknown: nothing of the kind has happened.
    pub(crate) fn zero_if_absent(self) -> bool {
        self == Self::Gap
    }

    /// Real-time factor of a computation under a load: all its time by all the audio it covers, which is the user's for what
    /// hears and decides, and the reply's for what makes sound.
    pub fn rtf(self, rows: &Rows, load: Load) -> Option<f64> {
        let sum = |samples: Vec<Sample>| samples.iter().map(|sample| sample.value).sum::<f64>();
        let audio_ms = match self {
            Self::Tts | Self::Flow | Self::Hift => sum(units(rows, load, |row| speaks(row).then_some(row.sound_ms))),
            Self::UnitTime | Self::Mel | Self::Apm | Self::Vision | Self::Prefill | Self::Generate => {
                sum(units(rows, load, |_| Some(UNIT_MS)))
            }
            _ => return None,
        };
        (audio_ms > 0.0).then(|| sum(self.samples(rows, load)) / audio_ms)
    }

    fn counts(self, rows: &Rows, load: Load) -> Vec<Sample> {
        let events = match self {
            Self::Gaps => replies(rows, load, |row| Some(row.gaps_ms.len() as f64)),
            Self::MissedDeadlines => units(rows, load, |row| Some(f64::from(row.missed))),
            Self::Unanswered => said(rows, load, |row| (!row.interrupts).then(|| f64::from(row.answered_by.is_none()))),
            Self::NotStopped => said(rows, load, |row| row.interrupts.then(|| f64::from(row.barge_in_ms.is_none()))),
            Self::Uncalled => replies(rows, load, |row| Some(f64::from(uncalled(rows, row)))),
            _ => vec![],
        };
        let sessions = rows.sessions.iter().filter(|row| row.place.load == load);
        let mut runs: Vec<Sample> = Vec::new();
        for row in sessions {
            let run = row.place.run;
            if runs.len() <= run {
                runs.extend((runs.len()..=run).map(|run| Sample { run, value: 0.0 }));
            }
            runs[run].value += match self {
                Self::DroppedUnits => row.dropped_units as f64,
                Self::MissedDeadlines => row.unfinished_units as f64,
                Self::NotStopped => row.skipped_interruptions as f64,
                Self::Failed => f64::from(row.failed.is_some()),
                Self::Refused => f64::from(row.refused),
                _ => 0.0,
            };
        }
        for event in events {
            runs[event.run].value += event.value;
        }
        runs
    }
}

fn speaks(row: &UnitRow) -> bool {
    row.decision == Decision::Speak && !row.stale
}

/// Nobody had said anything when the model began to speak.
fn uncalled(rows: &Rows, reply: &ReplyRow) -> bool {
    !rows.said.iter().any(|said| said.place == reply.place && said.first_voiced_ms < reply.ready_ms)
}

fn of<Row, Values: IntoIterator<Item = f64>>(
    rows: &[Row],
    load: Load,
    place: impl Fn(&Row) -> (Load, usize),
    values: impl Fn(&Row) -> Values,
) -> Vec<Sample> {
    let of_load = rows.iter().map(|row| (place(row), row)).filter(|((at, _), _)| *at == load);
    of_load.flat_map(|((_, run), row)| values(row).into_iter().map(move |value| Sample { run, value })).collect()
}

fn units(rows: &Rows, load: Load, value: impl Fn(&UnitRow) -> Option<f64>) -> Vec<Sample> {
    of(&rows.units, load, |row| (row.place.load, row.place.run), value)
}

fn replies(rows: &Rows, load: Load, value: impl Fn(&ReplyRow) -> Option<f64>) -> Vec<Sample> {
    of(&rows.replies, load, |row| (row.place.load, row.place.run), value)
}

fn said(rows: &Rows, load: Load, value: impl Fn(&crate::measure::SaidRow) -> Option<f64>) -> Vec<Sample> {
    of(&rows.said, load, |row| (row.place.load, row.place.run), value)
}

impl std::fmt::Display for Metric {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.name())
    }
}

impl Unit {
    /// A value with its unit, as people read it.
    pub fn show(self, value: f64) -> String {
        match self {
            // Not "-0.0".
            Self::Milliseconds if value.abs() < 0.05 => "0.0 ms".to_owned(),
            Self::Milliseconds if value.abs() < 10.0 => format!("{value:.1} ms"),
            Self::Milliseconds => format!("{value:.0} ms"),
            Self::Ratio => format!("{value:.3}"),
            Self::Mebibytes => format!("{value:.0} MiB"),
            Self::Percent => format!("{value:.0} %"),
            Self::Count => format!("{value:.0}"),
        }
    }
}
