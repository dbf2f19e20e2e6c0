//! Figures out of values: quantiles, their spread over runs, and whether two samples differ.

use serde::{Deserialize, Serialize};

/// A value and the run it comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// From 0.
    pub run: usize,
    /// The value.
    pub value: f64,
}

/// The smallest value that at least a `share` of the values do not exceed (nearest rank). No value is made up between two.
///
/// # Panics
/// If there are no values, or they are not sorted numbers.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    debug_assert!(sorted.is_sorted(), "quantiles are taken of sorted values. This is a bug.");
    // 0.07 of 100 is a hair above 7 in binary.
    let rank = (share * sorted.len() as f64 - 1e-9).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// All values of a figure, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many.
    pub count: usize,
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Largest.
    pub max: f64,
    /// Their sum.
    pub sum: f64,
    /// Lowest and highest median of a run.
    pub p50_of_runs: [f64; 2],
    /// Lowest and highest 95th percentile of a run.
    pub p95_of_runs: [f64; 2],
}

impl Summary {
    /// `None` without values.
    pub fn of(samples: &[Sample]) -> Option<Self> {
        let values = sorted(samples.iter().map(|sample| sample.value));
        let max = *values.last()?;
        Some(Self {
            count: values.len(),
            p50: quantile(&values, 0.5),
            p95: quantile(&values, 0.95),
            p99: quantile(&values, 0.99),
            max,
            sum: values.iter().sum(),
            p50_of_runs: range_of_runs(samples, 0.5),
            p95_of_runs: range_of_runs(samples, 0.95),
        })
    }
}

/// Ascending.
pub fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values
}

/// Lowest and highest quantile of a run; runs without values do not count.
fn range_of_runs(samples: &[Sample], share: f64) -> [f64; 2] {
    let runs = samples.iter().map(|sample| sample.run).max().map_or(0, |run| run + 1);
    let of_run = |run: usize| {
        let values = sorted(samples.iter().filter(|sample| sample.run == run).map(|sample| sample.value));
        (!values.is_empty()).then(|| quantile(&values, share))
    };
    (0..runs)
        .filter_map(of_run)
        .fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], value| [low.min(value), high.max(value)])
}

/// Probability that two samples of the same kind differ in rank as much as these do, or more: the Mann-Whitney U test,
/// two-sided, normal approximation with ties and continuity correction. 1 when a side is empty or all values are equal.
///
/// It asks whether one side tends to be larger and assumes nothing of the distributions, which for latencies have long
/// tails. The approximation is good from about eight values a side; below that it errs to the careful side.
pub fn rank_test(a: &[f64], b: &[f64]) -> f64 {
    let (n, m) = (a.len() as f64, b.len() as f64);
    let mut all: Vec<(f64, bool)> = a.iter().map(|&value| (value, true)).collect();
    all.extend(b.iter().map(|&value| (value, false)));
    all.sort_unstable_by(|x, y| x.0.total_cmp(&y.0));
    let (mut ranks_of_a, mut ties, mut at) = (0.0, 0.0, 0);
    for group in all.chunk_by(|x, y| x.0 == y.0) {
        let size = group.len() as f64;
        let rank = at as f64 + (size + 1.0) / 2.0;
        ranks_of_a += rank * group.iter().filter(|(_, of_a)| *of_a).count() as f64;
        ties += size.powi(3) - size;
        at += group.len();
    }
    let total = n + m;
    let variance = n * m / 12.0 * (total + 1.0 - ties / (total * (total - 1.0)));
    // Also what is not a number: one value, or none.
    if variance.is_nan() || variance <= 0.0 {
        return 1.0;
    }
    let u = ranks_of_a - n * (n + 1.0) / 2.0;
    let distance = ((u - n * m / 2.0).abs() - 0.5).max(0.0);
    two_sided(distance / variance.sqrt())
}

/// Probability that a standard normal variable is further from 0 than `z`, to 1.5e-7 (Abramowitz and Stegun 7.1.26).
fn two_sided(z: f64) -> f64 {
    let x = z / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let polynomial = [1.061_405_429, -1.453_152_027, 1.421_413_741, -0.284_496_736, 0.254_829_592]
        .into_iter()
        .fold(0.0, |sum, factor| (sum + factor) * t);
    (polynomial * (-x * x).exp()).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn samples(values: &[f64]) -> Vec<Sample> {
        values.iter().enumerate().map(|(index, &value)| Sample { run: index % 2, value }).collect()
    }

    #[test]
    fn quantiles_are_values_that_occur() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!([0.0, 0.5, 0.95, 0.99, 1.0].map(|share| quantile(&values, share)), [1.0, 50.0, 95.0, 99.0, 100.0]);
        assert_eq!([0.0, 0.5, 0.95, 1.0].map(|share| quantile(&[7.0], share)), [7.0; 4]);
        assert_eq!(quantile(&[1.0, 2.0], 0.5), 1.0);
    }

    #[test]
    fn the_spread_is_that_of_the_runs() {
        let summary = Summary::of(&samples(&[1.0, 10.0, 2.0, 20.0, 3.0, 30.0])).unwrap();
        assert_eq!((summary.count, summary.max, summary.sum), (6, 30.0, 66.0));
        assert_eq!((summary.p50_of_runs, summary.p95_of_runs), ([2.0, 20.0], [3.0, 30.0]));
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn the_rank_test_agrees_with_published_values() {
        // scipy.stats.mannwhitneyu(method="asymptotic"), two-sided
        let a = [19.0, 22.0, 16.0, 29.0, 24.0];
        let b = [20.0, 11.0, 17.0, 12.0];
        assert!((rank_test(&a, &b) - 0.111_346_9).abs() < 1e-5, "{}", rank_test(&a, &b));
        let low: Vec<f64> = (0..20).map(f64::from).collect();
        let high: Vec<f64> = (100..120).map(f64::from).collect();
        assert!(rank_test(&low, &high) < 1e-6);
    }

    proptest! {
        #[test]
        fn a_summary_is_ordered(values in prop::collection::vec(-1e6f64..1e6, 1..200)) {
            let s = Summary::of(&samples(&values)).unwrap();
            prop_assert!(s.p50 <= s.p95 && s.p95 <= s.p99 && s.p99 <= s.max);
            prop_assert!(values.contains(&s.p50) && values.contains(&s.p95));
            prop_assert!(s.p50_of_runs[0] <= s.p50 && s.p50 <= s.p50_of_runs[1]);
        }

        #[test]
        fn the_rank_test_is_a_symmetric_probability(
            a in prop::collection::vec(0f64..10.0, 0..40), b in prop::collection::vec(0f64..10.0, 0..40)
        ) {
            let p = rank_test(&a, &b);
            prop_assert!((0.0..=1.0).contains(&p));
            prop_assert!((p - rank_test(&b, &a)).abs() < 1e-12);
            prop_assert!(rank_test(&a, &a) > 0.99);
        }
    }
}
