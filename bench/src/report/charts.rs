//! The four drawings of a result.

use duologue_proto::timeline::Decision;

use super::ScenarioResult;
use super::plot::{Anchor, Axis, Canvas};
use crate::measure::{Place, ReplyRow, SaidRow, UnitRow};
use crate::metric::Metric;
use crate::scenario::Load;
use crate::statistics::{quantile, sorted};

const WIDTH: f64 = 960.0;
/// Colours for loads, in order; more share the last one.
const SERIES: [&str; 5] = ["s1", "s2", "s3", "s4", "s5"];

fn series(index: usize) -> &'static str {
    SERIES[index.min(SERIES.len() - 1)]
}

/// Who speaks when, and how long each unit took: the first conversation under the first load. A long one is cut.
pub(super) fn timeline(result: &ScenarioResult) -> Option<String> {
    const MOST_S: f64 = 40.0;
    let place = Place { load: *result.loads.first()?, run: 0, session: 0 };
    let units: Vec<&UnitRow> = result.rows.units.iter().filter(|unit| unit.place == place).collect();
    let seconds = (units.last()?.ready_ms / 1e3 + 1.0).min(MOST_S);
    let mut canvas = Canvas::new(WIDTH, 210.0);
    let left = 74.0;
    let x = Axis::exact([0.0, seconds], [left, WIDTH - 50.0]);
    let bar = |from_ms: f64, to_ms: f64| {
        let (from, to) = (x.at((from_ms / 1e3).min(seconds)), x.at((to_ms / 1e3).min(seconds)));
        (from, to - from)
    };
    canvas.axis_x(&x, 180.0, 14.0, " s");
    for (name, at) in [("user", 28.0), ("reply", 58.0), ("unit time", 84.0)] {
        canvas.text("label", Anchor::End, (left - 8.0, at), name);
    }
    for said in result.rows.said.iter().filter(|said| said.place == place && said.first_voiced_ms < seconds * 1e3) {
        let (from, width) = bar(said.first_voiced_ms, said.last_voiced_ms);
        canvas.bar(
            "user",
            [from, 16.0, width, 16.0],
            &format!("voice, {:.2} s", (said.last_voiced_ms - said.first_voiced_ms) / 1e3),
        );
    }
    for reply in result.rows.replies.iter().filter(|reply| reply.place == place) {
        let Some((from_ms, to_ms)) = reply.audible_ms.zip(reply.silent_ms).filter(|(from, _)| *from < seconds * 1e3)
        else {
            continue;
        };
        let (from, width) = bar(from_ms, to_ms);
        canvas.bar(
            "speak",
            [from, 46.0, width, 16.0],
            &format!("reply {}, {:.2} s", reply.turn, (to_ms - from_ms) / 1e3),
        );
    }
    let worst = units.iter().map(|unit| unit.unit_ms).fold(1.0, f64::max);
    let y = Axis::from_zero(worst, [172.0, 100.0]);
    canvas.axis_y(&y, left, WIDTH - 50.0, "");
    canvas.text("tick", Anchor::Start, (WIDTH - 44.0, 104.0), "ms");
    for unit in units.iter().filter(|unit| unit.ready_ms < seconds * 1e3) {
        let class = if unit.decision == Decision::Speak { "speak" } else { "listen" };
        let top = y.at(unit.unit_ms);
        let title = format!("unit {}, {class}, {:.1} ms", unit.unit, unit.unit_ms);
        canvas.bar(class, [x.at(unit.ready_ms / 1e3) - 3.0, top, 6.0, 172.0 - top], &title);
    }
    Some(canvas.finish("timeline of the first conversation: voices and unit times"))
}

/// Share of values at or below each time, a curve for each load.
pub(super) fn distribution(result: &ScenarioResult, metric: Metric) -> Option<String> {
    let of_load = |&load: &Load| sorted(metric.samples(&result.rows, load).iter().map(|sample| sample.value));
    let loads: Vec<Vec<f64>> = result.loads.iter().map(of_load).collect();
    let worst = loads.iter().filter_map(|values| values.last()).copied().fold(f64::NAN, f64::max);
    if worst.is_nan() {
        return None;
    }
    let (width, height) = (470.0, 200.0);
    let mut canvas = Canvas::new(width, height);
    let x = Axis::from_zero(worst, [44.0, width - 20.0]);
    let y = Axis::exact([0.0, 100.0], [height - 30.0, 30.0]);
    canvas.text("label", Anchor::Start, (44.0, 16.0), metric.name());
    canvas.axis_x(&x, height - 30.0, 30.0, "");
    canvas.axis_y(&y, 44.0, width - 20.0, " %");
    canvas.text("tick", Anchor::End, (width - 20.0, 16.0), "ms");
    for (index, values) in loads.iter().enumerate().filter(|(_, values)| !values.is_empty()) {
        let mut points = vec![(x.at(values[0]), y.at(0.0))];
        for (rank, &value) in values.iter().enumerate() {
            let share = |rank: usize| y.at(100.0 * rank as f64 / values.len() as f64);
            points.extend([(x.at(value), share(rank)), (x.at(value), share(rank + 1))]);
        }
        canvas.curve(&format!("curve {}", series(index)), &points);
        for share in [0.5, 0.95] {
            let value = quantile(values, share);
            let title = format!("{}: p{} {value:.1} ms", result.loads[index], share * 100.0);
            canvas.dot(&format!("dot {}", series(index)), (x.at(value), y.at(share * 100.0)), &title);
        }
    }
    Some(canvas.finish(&format!("distribution of {metric}")))
}

/// The colours of [`distribution`]'s loads.
pub(super) fn legend(result: &ScenarioResult) -> String {
    let entry = |(index, load): (usize, &Load)| format!("<span class=\"key {}\">{load}</span>", series(index));
    result.loads.iter().enumerate().map(entry).collect()
}

/// The 95th percentiles against the number of sessions; `None` for a single load.
pub(super) fn sessions(result: &ScenarioResult) -> Option<String> {
    let metrics = [Metric::Ttfb, Metric::SpeakUnit, Metric::ListenUnit];
    let counts: Vec<(f64, Load)> = result
        .loads
        .iter()
        .filter_map(|&load| if let Load::Sessions(count) = load { Some((count as f64, load)) } else { None })
        .collect();
    let most = counts.iter().map(|(count, _)| *count).fold(0.0, f64::max);
    let p95 = |metric, load| result.figure(metric, load).map(|figure| figure.summary.p95);
    let all = metrics.iter().flat_map(|&metric| counts.iter().filter_map(move |&(_, load)| p95(metric, load)));
    let worst = all.fold(f64::NAN, f64::max);
    if counts.len() < 2 || worst.is_nan() {
        return None;
    }
    let (height, right) = (260.0, WIDTH - 130.0);
    let mut canvas = Canvas::new(WIDTH, height);
    let x = Axis::exact([0.0, most], [60.0, right]);
    let y = Axis::from_zero(worst, [height - 40.0, 20.0]);
    canvas.axis_y(&y, 60.0, right, " ms");
    for (count, _) in &counts {
        canvas.text("tick", Anchor::Middle, (x.at(*count), height - 24.0), &count.to_string());
    }
    canvas.text("label", Anchor::Middle, (f64::midpoint(60.0, right), height - 6.0), "sessions at once");
    for (index, metric) in metrics.into_iter().enumerate() {
        let values: Vec<(f64, f64)> =
            counts.iter().filter_map(|&(count, load)| Some((count, p95(metric, load)?))).collect();
        let points: Vec<(f64, f64)> = values.iter().map(|&(count, value)| (x.at(count), y.at(value))).collect();
        canvas.curve(&format!("curve {}", series(index)), &points);
        for (&(count, value), &point) in values.iter().zip(&points) {
            canvas.dot(
                &format!("dot {}", series(index)),
                point,
                &format!("{count} sessions: {metric} p95 {value:.1} ms"),
            );
        }
        if let Some(&(x, y)) = points.last() {
            canvas.text(&format!("label fill {}", series(index)), Anchor::Start, (x + 10.0, y + 4.0), metric.name());
        }
    }
    Some(canvas.finish("95th percentiles against sessions"))
}

/// Where the time of one answer went: the answer whose TTFA is the median under the first load.
pub(super) fn waterfall(result: &ScenarioResult) -> Option<String> {
    let (said, reply) = median_answer(result)?;
    let spans = spans(result, said, reply)?;
    let end = spans.iter().map(|span| span.to_ms).fold(1.0, f64::max);
    let (row, left) = (22.0, 190.0);
    let height = 44.0 + row * spans.len() as f64;
    let mut canvas = Canvas::new(WIDTH, height);
    let x = Axis::exact([0.0, end], [left, WIDTH - 90.0]);
    canvas.axis_x(&x, height - 24.0, 8.0, " ms");
    for (index, span) in spans.iter().enumerate() {
        let top = 12.0 + row * index as f64;
        let (from, to) = (x.at(span.from_ms), x.at(span.to_ms));
        let length = format!("{:.1} ms", span.to_ms - span.from_ms);
        canvas.text("label", Anchor::End, (left - 8.0, top + 12.0), span.name);
        canvas.bar(span.class, [from, top, to - from, row - 6.0], &format!("{}: {length}", span.name));
        canvas.text("tick", Anchor::Start, (to.max(from + 1.0) + 6.0, top + 12.0), &length);
    }
    Some(canvas.finish("waterfall of one reply"))
}

/// A part of the way from the last voiced sample to the first audible one; times count from the former.
struct Span {
    name: &'static str,
    class: &'static str,
    from_ms: f64,
    to_ms: f64,
}

fn median_answer(result: &ScenarioResult) -> Option<(&SaidRow, &ReplyRow)> {
    let load = *result.loads.first()?;
    let mut answered: Vec<&SaidRow> = result
        .rows
        .said
        .iter()
        .filter(|row| row.place.load == load && row.ttfa_ms.is_some() && !row.interrupts)
        .collect();
    answered.sort_by(|a, b| a.ttfa_ms.partial_cmp(&b.ttfa_ms).expect("times are numbers. This is a bug."));
    let said = *answered.get(answered.len().saturating_sub(1) / 2)?;
    let of = |reply: &&ReplyRow| reply.place == said.place && Some(reply.turn) == said.answered_by;
    Some((said, result.rows.replies.iter().find(of)?))
}

/// The parts in order. The stages of the first piece of sound run while the LLM goes on, so they are drawn back from the
/// moment at which it was made.
fn spans(result: &ScenarioResult, said: &SaidRow, reply: &ReplyRow) -> Option<Vec<Span>> {
    let units = || result.rows.units.iter().filter(|unit| unit.place == said.place);
    let unit = units().find(|unit| unit.unit == reply.unit)?;
    let since = |at_ms: f64| at_ms - said.last_voiced_ms;
    // The model may have listened to the end of the voice and decided only a unit later.
    let heard = units().map(|unit| since(unit.ready_ms)).find(|ready| *ready >= 0.0)?;
    let ready = since(reply.ready_ms);
    let mut spans = Vec::new();
    let mut add = |name, class, from_ms: f64, to_ms: f64| {
        if to_ms > from_ms {
            spans.push(Span { name, class, from_ms, to_ms });
        }
    };
    add("rest of the unit", "wait", 0.0, heard.min(ready).max(0.0));
    add("model listens on", "wait", heard, ready);
    let mut at = ready.max(0.0);
    let stages = [("mel", unit.mel_ms), ("apm", unit.apm_ms), ("vision", unit.vision_ms), ("prefill", unit.prefill_ms)];
    for (name, length) in stages.into_iter().chain([("generate", unit.generate_ms)]) {
        add(name, "work", at, at + length);
        at += length;
    }
    let made = ready + reply.made_ms?;
    let [tts, flow, hift] = reply.first_piece_ms;
    add("tts, first piece", "sound", made - hift - flow - tts, made - hift - flow);
    add("flow, first piece", "sound", made - hift - flow, made - hift);
    add("hift, first piece", "sound", made - hift, made);
    let (arrived, played, audible) = (since(reply.arrived_ms?), since(reply.played_ms?), since(reply.audible_ms?));
    add("pacing and network", "wait", made, arrived);
    add("player's buffer", "wait", arrived, played);
    add("quiet start of the voice", "wait", played, audible);
    Some(spans)
}
