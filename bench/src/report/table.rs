//! A report in a terminal.

use std::fmt::Write;

use super::{Figure, Report, ScenarioResult};
use crate::environment::Environment;
use crate::metric::{Metric, Unit};
use crate::scenario::Load;

/// A report as text, with a line end at its end.
pub fn table(report: &Report) -> String {
    let mut out: String = report.notices.iter().map(|notice| format!("{notice}\n")).collect();
    out.push_str(&environment(&report.environment));
    for result in &report.results {
        let _ = write!(out, "\n{} over {}, {}", result.name, result.transport, runs(result.runs));
        let _ = writeln!(out, ": {}", result.scenario.about);
        for &load in &result.loads {
            of_load(&mut out, result, load);
        }
        for verdict in &result.verdicts {
            let _ = writeln!(out, "  gate {}: {verdict}", if verdict.holds { "holds" } else { "broken" });
        }
    }
    out
}

pub(super) fn runs(runs: usize) -> String {
    if runs == 1 { "1 run".to_owned() } else { format!("{runs} runs") }
}

/// Machine, model and server, a line each.
fn environment(environment: &Environment) -> String {
    let unknown = || "unknown".to_owned();
    let mut out = String::new();
    if let Some(bundle) = &environment.bundle {
        let noise = if bundle.random_weights { ", RANDOM WEIGHTS: what it says is noise" } else { "" };
        let _ = writeln!(out, "bundle   {} ({}, sha256 {:.12}){noise}", bundle.name, bundle.precision, bundle.sha256);
    }
    let server = &environment.server;
    let place = if server.in_process { "in this process".to_owned() } else { format!("at {}", server.address) };
    let _ = write!(out, "server   {place}");
    if let (Some(version), Some(provider)) = (&server.onnxruntime, &server.provider) {
        let threads = server.threads.unwrap_or(1);
        let _ = write!(out, ", ONNX Runtime {version} on {provider}, {threads} thread(s) per graph");
    }
    let cpu = environment.cpu.clone().unwrap_or_else(unknown);
    let gpu = environment.gpu.as_ref().map(|gpu| format!(", {gpu}")).unwrap_or_default();
    let _ = writeln!(out, "\nmachine  {cpu}, {} core(s){gpu}", environment.cores);
    let commit = environment.commit.clone().unwrap_or_else(unknown);
    let load = environment.load_before.map(|load| format!(", load before {load:.1}")).unwrap_or_default();
    let _ = writeln!(out, "when     {}, commit {commit}{load}", environment.began);
    out
}

fn of_load(out: &mut String, result: &ScenarioResult, load: Load) {
    let _ = write!(out, "  {:<17}", load.to_string());
    for (name, width) in HEAD.iter().zip(WIDTHS) {
        let _ = write!(out, "{name:>width$}");
    }
    out.push('\n');
    let timed = Metric::ALL.iter().filter(|metric| metric.unit() != Unit::Count);
    for &metric in timed {
        if let Some(figure) = result.figure(metric, load).filter(|figure| figure.summary.max > 0.0) {
            let _ = write!(out, "    {:<15}", metric.name());
            for (cell, width) in cells(figure).iter().zip(WIDTHS) {
                let _ = write!(out, "{cell:>width$}");
            }
            out.push('\n');
        }
    }
    let count = |&metric: &Metric| {
        let summary = result.figure(metric, load)?.summary;
        Some(format!("{} {:.0}", metric.name().replace('_', " "), summary.sum))
    };
    let counts: Vec<String> =
        Metric::ALL.iter().filter(|metric| metric.unit() == Unit::Count).filter_map(count).collect();
    let _ = writeln!(out, "    {}", counts.join(", "));
}

/// Heads of the columns of [`cells`].
pub(super) const HEAD: [&str; 8] = ["n", "p50", "p95", "p99", "max", "RTF", "p50 of runs", "p95 of runs"];
const WIDTHS: [usize; 8] = [6, 10, 10, 10, 10, 8, 20, 20];

/// Count, quantiles, real-time factor, and the quantiles' spread over runs.
pub(super) fn cells(figure: &Figure) -> [String; 8] {
    let Figure { metric, summary, rtf, .. } = figure;
    let show = |value| metric.unit().show(value);
    let range =
        |[low, high]: [f64; 2]| if low == high { show(low) } else { format!("{} .. {}", show(low), show(high)) };
    [
        summary.count.to_string(),
        show(summary.p50),
        show(summary.p95),
        show(summary.p99),
        show(summary.max),
        rtf.map_or_else(String::new, |rtf| format!("{rtf:.3}")),
        range(summary.p50_of_runs),
        range(summary.p95_of_runs),
    ]
}
