//! A report as one page without outside help: drawings inline, light and dark.

use std::fmt::Write;

use super::plot::escaped;
use super::table::{HEAD, cells, runs};
use super::{Figure, Report, ScenarioResult, charts};
use crate::environment::Environment;
use crate::metric::{Metric, Unit};
use crate::scenario::Load;

const STYLE: &str = include_str!("page.css");

/// The whole page.
pub fn html(report: &Report) -> String {
    let mut out = String::from("<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">");
    out.push_str(
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>Duologue bench</title>",
    );
    let _ = write!(out, "<style>{STYLE}</style><main><h1>Duologue bench</h1>");
    for notice in &report.notices {
        let _ = write!(out, "<p class=\"warning\">{}</p>", escaped(notice));
    }
    if report.environment.bundle.as_ref().is_some_and(|bundle| bundle.random_weights) {
        out.push_str("<p class=\"warning\">The weights are random: what the model says is noise.</p>");
    }
    environment(&mut out, &report.environment);
    for result in &report.results {
        section(&mut out, result);
    }
    definitions(&mut out);
    out.push_str("</main></html>\n");
    out
}

fn environment(out: &mut String, environment: &Environment) {
    let Environment { server, bundle, .. } = environment;
    let known = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".to_owned());
    let machine = format!(
        "{}, {} core(s), {}, {}Linux {}",
        known(&environment.cpu),
        environment.cores,
        environment.memory_gib.map_or_else(String::new, |gib| format!("{gib:.0} GiB")),
        environment.gpu.as_ref().map_or_else(String::new, |gpu| format!("{gpu}, ")),
        known(&environment.kernel)
    );
    let place = if server.in_process { "in the bench's process".to_owned() } else { format!("at {}", server.address) };
    let mut told = vec![place];
    told.extend(server.onnxruntime.as_ref().map(|version| format!("ONNX Runtime {version}")));
    told.extend(server.provider.as_ref().map(|provider| format!("graphs on {provider}")));
    told.extend(server.threads.map(|threads| format!("{threads} thread(s) per graph")));
    told.extend(server.slots.map(|slots| format!("slots for {slots}")));
    told.extend(
        server.voice_detector.map(|there| if there { "voice detector" } else { "no voice detector" }.to_owned()),
    );
    told.extend(server.first_words.filter(|words| *words > 0).map(|words| format!("speaks from {words} words on")));
    let bundle = bundle.as_ref().map_or_else(
        || "unknown".to_owned(),
        |bundle| format!("{}, {}, manifest sha256 {}", bundle.name, bundle.precision, bundle.sha256),
    );
    let load = environment.load_before.map_or_else(String::new, |load| format!("; load before it {load:.2}"));
    let rows = [
        ("command", environment.command.clone()),
        ("began", format!("{}{load}", environment.began)),
        ("machine", machine),
        ("server", told.join(", ")),
        ("bundle", bundle),
        ("program", format!("duologue {}, commit {}", environment.version, known(&environment.commit))),
    ];
    out.push_str("<dl>");
    for (name, value) in rows {
        let _ = write!(out, "<dt>{name}</dt><dd>{}</dd>", escaped(&value));
    }
    out.push_str("</dl>");
}

fn section(out: &mut String, result: &ScenarioResult) {
    let ScenarioResult { name, transport, scenario, .. } = result;
    let _ = write!(out, "<section><h2>{} <small>over {transport}, {}</small></h2>", escaped(name), runs(result.runs));
    let _ = write!(out, "<p>{}</p>", escaped(&scenario.about));
    if !result.verdicts.is_empty() {
        out.push_str("<ul class=\"gates\">");
        for verdict in &result.verdicts {
            let class = if verdict.holds { "holds" } else { "broken" };
            let _ = write!(out, "<li class=\"{class}\"><b>{class}</b> {}</li>", escaped(&verdict.to_string()));
        }
        out.push_str("</ul>");
    }
    figure(
        out,
        "Where the time of one answer went",
        "from the last voiced sample of the user to the first audible one of the reply; the answer with the median TTFA",
        charts::waterfall(result),
    );
    let distributions: String = [Metric::Ttfa, Metric::Ttfb, Metric::BargeIn, Metric::SpeakUnit, Metric::ListenUnit]
        .into_iter()
        .filter_map(|metric| charts::distribution(result, metric))
        .collect();
    if !distributions.is_empty() {
        let _ = write!(
            out,
            "<h3>Latencies</h3><p class=\"note\">share of values at or below a time; dots at p50 and p95 {}</p><div class=\"grid2\">{distributions}</div>",
            charts::legend(result)
        );
    }
    figure(out, "Sessions against p95", "", charts::sessions(result));
    figure(
        out,
        "Units",
        "the first conversation; units are drawn where their audio was complete, coloured where the model speaks",
        charts::timeline(result),
    );
    for &load in &result.loads {
        figures(out, result, load);
    }
    out.push_str("</section>");
}

fn figure(out: &mut String, title: &str, note: &str, drawing: Option<String>) {
    if let Some(drawing) = drawing {
        let _ = write!(out, "<h3>{title}</h3><p class=\"note\">{note}</p>{drawing}");
    }
}

fn figures(out: &mut String, result: &ScenarioResult, load: Load) {
    let _ = write!(out, "<h3>{load}</h3><div class=\"scroll\"><table><tr><th></th>");
    for head in HEAD {
        let _ = write!(out, "<th>{head}</th>");
    }
    out.push_str("</tr>");
    for &metric in Metric::ALL.iter().filter(|metric| metric.unit() != Unit::Count) {
        let Some(figure) = result.figure(metric, load).filter(|figure| figure.summary.max > 0.0) else { continue };
        let _ = write!(out, "<tr><th title=\"{}\">{metric}</th>", escaped(metric.meaning()));
        for cell in cells(figure) {
            let _ = write!(out, "<td>{cell}</td>");
        }
        out.push_str("</tr>");
    }
    out.push_str("</table></div><p class=\"counts\">");
    for &metric in Metric::ALL.iter().filter(|metric| metric.unit() == Unit::Count) {
        if let Some(Figure { summary, .. }) = result.figure(metric, load) {
            let _ = write!(
                out,
                "<span title=\"{}\">{} <b>{:.0}</b></span>",
                escaped(metric.meaning()),
                metric.name().replace('_', " "),
                summary.sum
            );
        }
    }
    out.push_str("</p>");
}

fn definitions(out: &mut String) {
    out.push_str("<section><h2>What the figures mean</h2><dl class=\"wide\">");
    for metric in Metric::ALL {
        let _ = write!(out, "<dt>{metric}</dt><dd>{}</dd>", escaped(metric.meaning()));
    }
    out.push_str("</dl></section>");
}
