//! What figures must reach, and whether they do.
//!
//! ```toml
//! [[gates]]
//! metric = "ttfb"         # a figure by name; bench/README.md lists them
//! quantile = 0.95         # of all values under the load; 0.95 when missing, 1 is the worst one
//! at_most_ms = 300        # figures that are no times have at_most
//! sessions = 8            # only under this load; every load when missing
//! ```
//! A count is held against the worst run. A figure without values breaks its gate, as nothing was shown; but no gap is a gap of 0.

use serde::{Deserialize, Serialize};

use crate::metric::{Metric, Unit};
use crate::scenario::Load;
use crate::statistics::{Sample, quantile, sorted};

/// A bound on a figure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// The figure.
    pub metric: Metric,
    /// Which of its values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantile: Option<f64>,
    /// The bound of a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most_ms: Option<f64>,
    /// The bound of anything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<f64>,
    /// Only under this load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<usize>,
}

/// How a gate came out under a load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The gate.
    pub gate: Gate,
    /// The load.
    pub load: Load,
    /// What was measured; `None` when nothing was.
    pub value: Option<f64>,
    /// It is within the bound.
    pub holds: bool,
}

impl Gate {
    /// Refuses bounds that cannot be meant.
    pub(crate) fn check(&self) -> Result<(), String> {
        let timed = self.metric.unit() == Unit::Milliseconds;
        let bound = match (timed, self.at_most_ms, self.at_most) {
            (true, Some(bound), None) => ("at_most_ms", bound),
            (true, ..) => return Err(format!("at_most_ms: the bound of {}, a time, stands here", self.metric)),
            (false, None, Some(bound)) => ("at_most", bound),
            (false, ..) => return Err(format!("at_most: the bound of {}, no time, stands here", self.metric)),
        };
        if !(bound.1.is_finite() && bound.1 >= 0.0) {
            return Err(format!("{}: {} is not a number of 0 or more", bound.0, bound.1));
        }
        match self.quantile {
            Some(_) if self.metric.unit() == Unit::Count => {
                Err("quantile: a count is held against the worst run and has none".to_owned())
            }
            Some(share) if !(share > 0.0 && share <= 1.0) => {
                Err(format!("quantile: {share} is not above 0 and at most 1; the 95th percentile is 0.95"))
            }
            _ => Ok(()),
        }
    }

    /// It applies under this load.
    pub fn applies(&self, load: Load) -> bool {
        self.sessions.is_none_or(|sessions| load == Load::Sessions(sessions))
    }

    /// Holds the values of its figure under a load against it.
    pub fn judge(&self, load: Load, samples: &[Sample]) -> Verdict {
        let values = sorted(samples.iter().map(|sample| sample.value));
        let none = self.metric.zero_if_absent().then_some(0.0);
        let value = if values.is_empty() { none } else { Some(quantile(&values, self.share())) };
        Verdict { gate: *self, load, value, holds: value.is_some_and(|value| value <= self.bound()) }
    }

    fn share(&self) -> f64 {
        match self.metric.unit() {
            Unit::Count => 1.0,
            _ => self.quantile.unwrap_or(0.95),
        }
    }

    fn bound(&self) -> f64 {
        self.at_most_ms.or(self.at_most).expect("gates are checked when read. This is a bug.")
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { gate, load, value, .. } = self;
        let unit = gate.metric.unit();
        let which = match unit {
            Unit::Count => " in the worst run".to_owned(),
            _ if gate.share() == 1.0 => " at worst".to_owned(),
            _ => format!(" p{}", gate.share() * 100.0),
        };
        let value = value.map_or_else(|| "has no values".to_owned(), |value| format!("is {}", unit.show(value)));
        write!(out, "{}{which} {value}, allowed {} ({load})", gate.metric, unit.show(gate.bound()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: Load = Load::Sessions(1);

    fn samples(values: &[f64]) -> Vec<Sample> {
        values.iter().map(|&value| Sample { run: 0, value }).collect()
    }

    fn gate(quantile: Option<f64>, at_most_ms: f64) -> Gate {
        Gate { metric: Metric::Ttfb, quantile, at_most_ms: Some(at_most_ms), at_most: None, sessions: None }
    }

    #[test]
    fn a_gate_is_held_against_its_quantile() {
        let values = samples(&(1..=100).map(f64::from).collect::<Vec<_>>());
        assert!(gate(None, 95.0).judge(LOAD, &values).holds);
        assert!(!gate(None, 94.9).judge(LOAD, &values).holds);
        assert!(gate(Some(0.5), 50.0).judge(LOAD, &values).holds);
        assert!(!gate(Some(1.0), 99.0).judge(LOAD, &values).holds);
        let verdict = gate(None, 0.0).judge(LOAD, &values);
        assert_eq!(verdict.to_string(), "ttfb p95 is 95 ms, allowed 0.0 ms (1 session)");
    }

    #[test]
    fn no_values_break_a_gate() {
        let verdict = gate(None, 1e9).judge(LOAD, &[]);
        assert!(!verdict.holds && verdict.to_string().contains("has no values"), "{verdict}");
    }

    #[test]
    fn no_gap_is_the_best_gap() {
        let gate = Gate { metric: Metric::Gap, ..gate(Some(1.0), 0.0) };
        assert!(gate.judge(LOAD, &[]).holds && !gate.judge(LOAD, &samples(&[30.0])).holds);
    }

    #[test]
    fn a_count_is_that_of_the_worst_run() {
        let gate = Gate { metric: Metric::Gaps, at_most_ms: None, at_most: Some(1.0), ..gate(None, 0.0) };
        gate.check().unwrap();
        let runs = |values: &[f64]| -> Vec<Sample> {
            values.iter().enumerate().map(|(run, &value)| Sample { run, value }).collect()
        };
        assert!(gate.judge(LOAD, &runs(&[1.0, 0.0, 1.0])).holds);
        assert!(!gate.judge(LOAD, &runs(&[0.0, 2.0])).holds);
    }

    #[test]
    fn a_gate_may_be_for_one_load() {
        let gate = Gate { sessions: Some(8), ..gate(None, 1.0) };
        assert!(gate.applies(Load::Sessions(8)) && !gate.applies(Load::Sessions(4)));
        assert!(!gate.applies(Load::ArrivalsPerMinute(8.0)));
    }
}
