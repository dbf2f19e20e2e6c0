//! What changed between two reports, beyond noise.
//!
//! **The rule.** A figure has changed when all of this is true:
//! 1. the rank test ([`rank_test`]) gives the difference of all values a probability below 0.01;
//! 2. the ranges of the runs' medians are further apart than either is wide. The rank test takes values for independent, but those
//!    of a run share the machine's mood; a difference no larger than that between runs of the same program is no change. With
//!    fewer than three runs a side this says little, and the comparison says so;
//! 3. the medians are more than 2 % apart.
//!
//! A count has changed when no run of one side has as few as some run of the other; with one run a side, when it is more than one
//! apart. Of everything here less is better. What the second report lacks is missing, which is no better than worse.

use serde::{Deserialize, Serialize};

use crate::client::Transport;
use crate::environment::ServerFacts;
use crate::metric::{Metric, Unit};
use crate::report::{Report, ScenarioResult};
use crate::scenario::Load;
use crate::statistics::{Sample, Summary, rank_test};

/// Above this probability a difference is chance.
const CHANCE: f64 = 0.01;
/// Fewest runs a side whose spread means something.
const RUNS: usize = 3;
/// Medians this near are alike, whatever the tests say.
const ALIKE: f64 = 0.02;

/// What became of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing beyond noise.
    Same,
    /// It fell.
    Better,
    /// It rose.
    Worse,
}

/// A figure in both reports.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The scenario.
    pub scenario: String,
    /// The way to the server.
    pub transport: Transport,
    /// The load.
    pub load: Load,
    /// The figure.
    pub metric: Metric,
    /// In the first report.
    pub before: Summary,
    /// In the second.
    pub after: Summary,
    /// What became of it.
    pub verdict: Verdict,
}

/// Two reports side by side.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Comparison {
    /// Every figure that both have, but for what is no cost of the server.
    pub changes: Vec<Change>,
    /// What only the first report has.
    pub missing: Vec<String>,
    /// What makes them less comparable: other machines, scenarios that were edited, few runs.
    pub doubts: Vec<String>,
}

impl Comparison {
    /// A figure got worse, or is not there any more.
    pub fn regressed(&self) -> bool {
        !self.missing.is_empty() || self.changes.iter().any(|change| change.verdict == Verdict::Worse)
    }
}

/// Compares two reports figure by figure.
pub fn compare(before: &Report, after: &Report) -> Comparison {
    let mut comparison = Comparison { doubts: environments(before, after), ..Comparison::default() };
    for old in &before.results {
        let place = format!("{} over {}", old.name, old.transport);
        let Some(new) = after.results.iter().find(|new| new.name == old.name && new.transport == old.transport) else {
            comparison.missing.push(place);
            continue;
        };
        // Gates judge; they change nothing of what is measured.
        let said = |result: &ScenarioResult| crate::scenario::ScenarioFile { gates: vec![], ..result.scenario.clone() };
        if said(old) != said(new) {
            comparison.doubts.push(format!("{place}: the scenarios differ"));
        }
        if old.runs.min(new.runs) < RUNS {
            let doubt = format!("{place}: fewer than {RUNS} runs a side hardly tell a change from the machine's mood");
            comparison.doubts.push(doubt);
        }
        for &load in &old.loads {
            if !new.loads.contains(&load) {
                comparison.missing.push(format!("{place}, {load}"));
                continue;
            }
            for &metric in Metric::ALL.iter().filter(|metric| metric.is_judged()) {
                let (a, b) = (metric.samples(&old.rows, load), metric.samples(&new.rows, load));
                match (Summary::of(&a), Summary::of(&b)) {
                    (Some(before), Some(after)) => comparison.changes.push(Change {
                        scenario: old.name.clone(),
                        transport: old.transport,
                        load,
                        metric,
                        before,
                        after,
                        verdict: judge(metric.unit(), &a, &b),
                    }),
                    // No gap any more is no loss, nor is a reply that nobody had asked for.
                    (Some(_), None)
                        if !(metric.zero_if_absent() || metric.needs_reply() && rightly_silent(new, load)) =>
                    {
                        comparison.missing.push(format!("{metric} of {place}, {load}"));
                    }
                    _ => {}
                }
            }
        }
    }
    comparison
}

fn environments(before: &Report, after: &Report) -> Vec<String> {
    let (a, b) = (&before.environment, &after.environment);
    let mut doubts = Vec::new();
    if (&a.cpu, a.cores, &a.gpu) != (&b.cpu, b.cores, &b.gpu) {
        doubts.push("the machines differ".to_owned());
    }
    let bundle = |report: &Report| report.environment.bundle.as_ref().map(|bundle| bundle.sha256.clone());
    if bundle(before) != bundle(after) {
        doubts.push("the bundles differ".to_owned());
    }
    if a.server.in_process != b.server.in_process {
        doubts.push("one server ran in the bench's process, the other did not".to_owned());
    }
    let settings = |report: &Report| ServerFacts { address: String::new(), ..report.environment.server.clone() };
    if a.server.in_process && b.server.in_process && settings(before) != settings(after) {
        doubts.push(
            "the servers differ in ONNX Runtime, device, threads, places, voice detector or first words".to_owned(),
        );
    }
    if let Some(busy) = [a, b].into_iter().filter_map(|side| side.load_before).reduce(f64::max)
        && busy > 0.5 * a.cores as f64
    {
        doubts.push(format!("a machine was not idle before (load {busy:.1})"));
    }
    doubts
}

/// There was no reply, and nobody waited for one.
fn rightly_silent(result: &ScenarioResult, load: Load) -> bool {
    let none = |metric: Metric| metric.samples(&result.rows, load).iter().all(|run| run.value == 0.0);
    let replies = result.rows.replies.iter().any(|row| row.place.load == load);
    !replies && [Metric::Unanswered, Metric::Failed, Metric::Refused].into_iter().all(none)
}

/// See the module; `Same` without values on a side.
fn judge(unit: Unit, a: &[Sample], b: &[Sample]) -> Verdict {
    let (Some(before), Some(after)) = (Summary::of(a), Summary::of(b)) else { return Verdict::Same };
    let [[low, high], [new_low, new_high]] = [before.p50_of_runs, after.p50_of_runs];
    let between = (new_low - high).max(low - new_high);
    let single = |samples: &[Sample]| samples.iter().all(|sample| sample.run == samples[0].run);
    let apart = match unit {
        Unit::Count => between > if single(a) && single(b) { 1.0 } else { 0.0 },
        _ => between > (high - low).max(new_high - new_low),
    };
    let values = |samples: &[Sample]| samples.iter().map(|sample| sample.value).collect::<Vec<_>>();
    let beyond_noise = unit == Unit::Count || {
        let far = (after.p50 - before.p50).abs() > ALIKE * before.p50.abs().max(after.p50.abs());
        far && rank_test(&values(a), &values(b)) < CHANCE
    };
    match apart && beyond_noise {
        false => Verdict::Same,
        true if after.p50 < before.p50 => Verdict::Better,
        true => Verdict::Worse,
    }
}

impl std::fmt::Display for Comparison {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for doubt in &self.doubts {
            writeln!(out, "note: {doubt}")?;
        }
        for missing in &self.missing {
            writeln!(out, "MISSING from the second report: {missing}")?;
        }
        let mut place = String::new();
        for change in &self.changes {
            let here = format!("{} over {}, {}", change.scenario, change.transport, change.load);
            if here != place {
                writeln!(out, "{here}")?;
                place = here;
            }
            let show = |summary: &Summary| {
                let show = |value| change.metric.unit().show(value);
                let [low, high] = summary.p50_of_runs;
                format!("{} ({} .. {})", show(summary.p50), show(low), show(high))
            };
            let verdict = match change.verdict {
                Verdict::Same => "same",
                Verdict::Better => "BETTER",
                Verdict::Worse => "WORSE",
            };
            let (before, after) = (show(&change.before), show(&change.after));
            writeln!(out, "  {:<17}{before:>28}  ->  {after:<28}  {verdict}", change.metric.name())?;
        }
        let count = |wanted| self.changes.iter().filter(|change| change.verdict == wanted).count();
        let (same, better, worse) = (count(Verdict::Same), count(Verdict::Better), count(Verdict::Worse));
        writeln!(out, "{} figures: {same} the same within noise, {better} better, {worse} worse", self.changes.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn runs(runs: &[Vec<f64>]) -> Vec<Sample> {
        let of = |(run, values): (usize, &Vec<f64>)| {
            values.iter().map(move |&value| Sample { run, value }).collect::<Vec<_>>()
        };
        runs.iter().enumerate().flat_map(of).collect()
    }

    /// `count` values around `middle`, in three runs.
    fn around(middle: f64, spread: f64, count: usize) -> Vec<Sample> {
        let run =
            |run: usize| (0..count).map(|n| middle + spread * (((n * 7 + run) % 11) as f64 - 5.0) / 5.0).collect();
        runs(&[run(0), run(1), run(2)])
    }

    #[test]
    fn a_shift_beyond_the_spread_is_a_change() {
        let (a, b) = (around(100.0, 10.0, 20), around(130.0, 10.0, 20));
        assert_eq!(judge(Unit::Milliseconds, &a, &b), Verdict::Worse);
        assert_eq!(judge(Unit::Milliseconds, &b, &a), Verdict::Better);
        assert_eq!(judge(Unit::Milliseconds, &a, &around(101.0, 10.0, 20)), Verdict::Same);
    }

    #[test]
    fn a_shift_no_larger_than_between_runs_is_none() {
        let a = runs(&[vec![100.0; 30], vec![140.0; 30]]);
        let b = runs(&[vec![120.0; 30], vec![150.0; 30]]);
        assert_eq!(judge(Unit::Milliseconds, &a, &b), Verdict::Same);
    }

    #[test]
    fn a_gap_between_ranges_must_be_wider_than_they_are() {
        let a = runs(&[vec![100.0; 30], vec![110.0; 30], vec![105.0; 30]]);
        let near = runs(&[vec![115.0; 30], vec![120.0; 30], vec![118.0; 30]]);
        let far = runs(&[vec![125.0; 30], vec![130.0; 30], vec![128.0; 30]]);
        assert_eq!(judge(Unit::Milliseconds, &a, &near), Verdict::Same);
        assert_eq!(judge(Unit::Milliseconds, &a, &far), Verdict::Worse);
    }

    #[test]
    fn one_more_of_a_count_in_single_runs_says_nothing() {
        assert_eq!(judge(Unit::Count, &runs(&[vec![0.0]]), &runs(&[vec![1.0]])), Verdict::Same);
        assert_eq!(judge(Unit::Count, &runs(&[vec![0.0]]), &runs(&[vec![5.0]])), Verdict::Worse);
    }

    #[test]
    fn a_count_changes_when_its_runs_do_not_overlap() {
        let (none, some, many) =
            (runs(&[vec![0.0], vec![0.0]]), runs(&[vec![0.0], vec![2.0]]), runs(&[vec![3.0], vec![5.0]]));
        assert_eq!(judge(Unit::Count, &none, &some), Verdict::Same);
        assert_eq!(judge(Unit::Count, &none, &many), Verdict::Worse);
        assert_eq!(judge(Unit::Count, &many, &some), Verdict::Better);
    }

    proptest! {
        #[test]
        fn the_same_values_are_no_change(values in prop::collection::vec(prop::collection::vec(0f64..1e4, 0..30), 0..5)) {
            let samples = runs(&values);
            for unit in [Unit::Milliseconds, Unit::Count] {
                prop_assert_eq!(judge(unit, &samples, &samples), Verdict::Same);
            }
        }

        #[test]
        fn a_change_seen_from_the_other_side_is_its_opposite(
            a in prop::collection::vec(prop::collection::vec(0f64..10.0, 1..20), 1..4),
            b in prop::collection::vec(prop::collection::vec(0f64..14.0, 1..20), 1..4),
        ) {
            let (a, b) = (runs(&a), runs(&b));
            let opposite = match judge(Unit::Milliseconds, &b, &a) {
                Verdict::Same => Verdict::Same,
                Verdict::Better => Verdict::Worse,
                Verdict::Worse => Verdict::Better,
            };
            prop_assert_eq!(judge(Unit::Milliseconds, &a, &b), opposite);
        }
    }
}
