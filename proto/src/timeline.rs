//! The timeline of a session: one JSON object per line, in the order things happened.
//!
//! Written by `duologue talk --timeline` and `duologue replay`, read by people and by `bench/reference/compare.py`.

use serde::{Deserialize, Serialize};

use crate::forced_schedule::ForcedSchedule;

/// One line of a timeline file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum TimelineEvent {
    /// First line: what ran.
    Session {
        /// Name of the bundle.
        bundle: String,
        /// `random` weights make noise, `trained` ones speech.
        weights: String,
        /// Precision of the bundle, e.g. `fp32`.
        precision: String,
        /// Execution provider of the graphs, e.g. `cpu`.
        device: String,
        /// `fidelity` or `live`.
        mode: String,
        /// Prompt tokens and rows in the LLM cache before the first unit.
        prompt_tokens: usize,
        /// Wall time of the session's preparation (prompt prefill and voice), in ms.
        prepare_ms: f64,
        /// The pattern that was forced on the model; missing when it chose freely.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        forced_schedule: Option<ForcedSchedule>,
    },
    /// One finished unit.
    Unit(UnitLine),
    /// Last line.
    End {
        /// Units of the session.
        units: usize,
        /// Units in which the model spoke.
        speak_units: usize,
        /// Seconds of reply audio.
        reply_s: f64,
        /// Units whose unit time was longer than the chunk.
        missed_deadlines: usize,
    },
}

/// What one unit did and what it cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnitLine {
    /// Number of the unit, from 0.
    pub unit: usize,
    /// Start of the unit's audio in the input, in seconds.
    pub start_s: f64,
    /// `listen` or `speak`.
    pub decision: Decision,
    /// Text of the unit (empty when listening).
    pub text: String,
    /// The model closed its turn in this unit.
    pub end_of_turn: bool,
    /// Samples of reply audio (24 kHz) this unit gave.
    pub reply_samples: usize,
    /// Cached LLM positions after the unit.
    pub kv_tokens: usize,
    /// Wall time by stage.
    pub cost_ms: UnitCost,
}

/// What the model decided in a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The model went on listening.
    Listen,
    /// The model spoke.
    Speak,
}

/// Wall time of one unit by stage, in milliseconds. Waiting in queues is inside `unit` only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct UnitCost {
    /// Log-mel.
    pub mel: f64,
    /// Audio encoder and projector.
    pub apm: f64,
    /// Image preprocessing and vision encoder.
    pub vision: f64,
    /// LLM prefill of the unit's inputs.
    pub prefill: f64,
    /// LLM decode steps and sampling.
    pub llm: f64,
    /// Feeding the terminator and closing the unit, with window edits.
    pub finalize: f64,
    /// TTS condition and steps.
    pub tts: f64,
    /// Flow encoder and flow matching.
    pub flow: f64,
    /// HiFT and assembly.
    pub hift: f64,
    /// From the complete chunk to the finalized unit with its last audio.
    pub unit: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_line_keeps_its_wire_form() {
        let line = TimelineEvent::Unit(UnitLine {
            unit: 3,
            start_s: 3.0,
            decision: Decision::Speak,
            text: "hello".into(),
            end_of_turn: false,
            reply_samples: 24_000,
            kv_tokens: 120,
            cost_ms: UnitCost { unit: 12.5, ..UnitCost::default() },
        });
        let json = serde_json::to_value(&line).unwrap();
        assert_eq!(json["event"], "unit");
        assert_eq!(json["decision"], "speak");
        assert_eq!(json["cost_ms"]["unit"], 12.5);
        assert_eq!(serde_json::from_value::<TimelineEvent>(json).unwrap(), line);
    }
}
