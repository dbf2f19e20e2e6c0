//! Drawing: an SVG of lines, bars and words, and axes with round numbers.
//!
//! Colours are CSS classes of the page, so that one drawing does for light and dark.

use std::fmt::Write;

/// Text that can stand in HTML.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A drawing.
pub(super) struct Canvas {
    width: f64,
    height: f64,
    body: String,
}

/// Where a word stands beside its point.
#[derive(Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

impl Canvas {
    pub(super) fn new(width: f64, height: f64) -> Self {
        Self { width, height, body: String::new() }
    }

    pub(super) fn bar(&mut self, class: &str, [x, y, width, height]: [f64; 4], title: &str) {
        let _ = write!(
            self.body,
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{height:.1}\" rx=\"1.5\"><title>{}</title></rect>",
            width.max(1.0),
            escaped(title)
        );
    }

    pub(super) fn line(&mut self, class: &str, [x1, y1, x2, y2]: [f64; 4]) {
        let _ =
            write!(self.body, "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>");
    }

    pub(super) fn curve(&mut self, class: &str, points: &[(f64, f64)]) {
        let mut path = String::new();
        for (index, (x, y)) in points.iter().enumerate() {
            let _ = write!(path, "{}{x:.1} {y:.1}", if index == 0 { 'M' } else { 'L' });
        }
        let _ = write!(self.body, "<path class=\"{class}\" d=\"{path}\"/>");
    }

    pub(super) fn dot(&mut self, class: &str, (x, y): (f64, f64), title: &str) {
        let _ = write!(
            self.body,
            "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"><title>{}</title></circle>",
            escaped(title)
        );
    }

    pub(super) fn text(&mut self, class: &str, anchor: Anchor, (x, y): (f64, f64), text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escaped(text);
        let _ = write!(
            self.body,
            "<text class=\"{class}\" text-anchor=\"{anchor}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>"
        );
    }

    /// The axis of x at height `y`, with a grid up to `top`.
    pub(super) fn axis_x(&mut self, axis: &Axis, y: f64, top: f64, unit: &str) {
        for tick in axis.ticks() {
            let x = axis.at(tick);
            self.line("grid", [x, top, x, y]);
            self.text("tick", Anchor::Middle, (x, y + 14.0), &format!("{tick}{unit}"));
        }
    }

    /// The axis of y at `x`, with a grid up to `right`.
    pub(super) fn axis_y(&mut self, axis: &Axis, x: f64, right: f64, unit: &str) {
        for tick in axis.ticks() {
            let y = axis.at(tick);
            self.line("grid", [x, y, right, y]);
            self.text("tick", Anchor::End, (x - 6.0, y + 3.5), &format!("{tick}{unit}"));
        }
    }

    /// The SVG; `label` says what it shows to those who cannot see it.
    pub(super) fn finish(self, label: &str) -> String {
        let Self { width, height, body } = self;
        format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">{body}</svg>", escaped(label))
    }
}

/// Values from `low` to `high` on pixels from `from` to `to`.
pub(super) struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    /// From 0 to a round number above `high`.
    pub(super) fn from_zero(high: f64, [from, to]: [f64; 2]) -> Self {
        let step = step(high.max(1e-9));
        Self { low: 0.0, high: (high / step).ceil().max(1.0) * step, from, to }
    }

    /// Exactly these values.
    pub(super) fn exact([low, high]: [f64; 2], [from, to]: [f64; 2]) -> Self {
        Self { low, high: high.max(low + 1e-9), from, to }
    }

    pub(super) fn at(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// Round numbers on it.
    fn ticks(&self) -> impl Iterator<Item = f64> {
        let step = step(self.high - self.low);
        let (first, last) = ((self.low / step).ceil() as i64, (self.high / step + 1e-6).floor() as i64);
        // Multiplied, not added up; rounded, or 0.1 * 3 would show.
        (first..=last).map(move |number| (number as f64 * step * 1e6).round() / 1e6)
    }
}

/// 1, 2 or 5 times a power of ten, four to eight of which make up `range`.
fn step(range: f64) -> f64 {
    let rough = range / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let leading = rough / power;
    power
        * if leading < 1.5 {
            1.0
        } else if leading < 3.5 {
            2.0
        } else if leading < 7.5 {
            5.0
        } else {
            10.0
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_a_few_round_numbers() {
        for high in [0.003, 0.7, 1.0, 9.0, 47.0, 999.0, 12_345.0] {
            let axis = Axis::from_zero(high, [0.0, 100.0]);
            let ticks: Vec<f64> = axis.ticks().collect();
            assert!((3..=11).contains(&ticks.len()), "{high}: {ticks:?}");
            assert!(axis.at(high) <= 100.0 + 1e-9 && axis.at(0.0) == 0.0);
            assert!(ticks.iter().all(|tick| tick.to_string().len() < 8), "{ticks:?}");
        }
    }

    #[test]
    fn words_cannot_break_out() {
        let mut canvas = Canvas::new(10.0, 10.0);
        canvas.text("x", Anchor::Start, (0.0, 0.0), "<script>&\"");
        assert!(canvas.finish("\"").contains("&lt;script&gt;&amp;&quot;</text>"));
    }
}
