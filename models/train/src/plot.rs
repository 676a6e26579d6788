//! A picture of forecasts beside what happened: owns the SVG's drawing, never which forecasts are shown.

use std::fmt::Write as _;

/// One forecast with its surroundings, raw units, NaN where missing.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// Above the panel.
    pub title: String,
    /// The target up to the origin, oldest first.
    pub history: Vec<f64>,
    /// `[H]`: what then happened.
    pub actual: Vec<f64>,
    /// `[H]`
    pub mean: Vec<f64>,
    /// `[H]` each, widest interval first: lower and upper bound.
    pub bands: Vec<(Vec<f64>, Vec<f64>)>,
}

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 210.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 26.0;

/// An SVG document with one panel below the other.
#[must_use]
pub fn svg(heading: &str, panels: &[Shown]) -> String {
    let height = 60.0 + HEIGHT * panels.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"16\">{}</text>\n\
         <text x=\"{LEFT}\" y=\"44\" fill=\"#555\">black: observed; blue: forecast and its intervals; line: origin</text>\n",
        escape(heading)
    );
    for (i, panel) in panels.iter().enumerate() {
        let _ = writeln!(
            out,
            "<g transform=\"translate(0 {})\">",
            55.0 + HEIGHT * i as f64
        );
        draw(panel, &mut out);
        out.push_str("</g>\n");
    }
    out.push_str("</svg>\n");
    out
}

/// Where values lie in a panel.
struct Axes {
    steps: f64,
    low: f64,
    high: f64,
}

impl Axes {
    fn of(panel: &Shown) -> Self {
        let bounds = panel
            .bands
            .iter()
            .flat_map(|(low, high)| low.iter().chain(high));
        let all = panel
            .history
            .iter()
            .chain(&panel.actual)
            .chain(&panel.mean)
            .chain(bounds);
        let finite = all.copied().filter(|v| v.is_finite());
        let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| {
            (l.min(v), h.max(v))
        });
        let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
        let margin = (0.05 * (high - low)).max(high.abs().max(1.0) * 1e-9);
        let steps = (panel.history.len() + panel.actual.len()).max(2) as f64;
        Self {
            steps,
            low: low - margin,
            high: high + margin,
        }
    }

    fn x(&self, step: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * step / (self.steps - 1.0)
    }

    fn y(&self, value: f64) -> f64 {
        TOP + (HEIGHT - TOP - BOTTOM) * (self.high - value) / (self.high - self.low)
    }

    /// Points `x,y` of a line that starts at step `from`, broken where values are missing.
    fn lines(&self, from: usize, values: &[f64]) -> Vec<String> {
        let mut lines = vec![String::new()];
        for (i, value) in values.iter().enumerate() {
            if value.is_finite() {
                if let Some(line) = lines.last_mut() {
                    let _ = write!(
                        line,
                        "{:.1},{:.1} ",
                        self.x((from + i) as f64),
                        self.y(*value)
                    );
                }
            } else {
                lines.push(String::new());
            }
        }
        lines.retain(|l| !l.is_empty());
        lines
    }
}

fn draw(panel: &Shown, out: &mut String) {
    let axes = Axes::of(panel);
    let known = panel.history.len();
    let _ = writeln!(
        out,
        "<text x=\"{LEFT}\" y=\"20\">{}</text>",
        escape(&panel.title)
    );
    for part in [0.0, 0.5, 1.0] {
        let value = axes.low + part * (axes.high - axes.low);
        let y = axes.y(value);
        let _ = writeln!(
            out,
            "<path d=\"M{LEFT} {y:.1}H{}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#555\">{value:.4}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0,
        );
    }
    for (low, high) in &panel.bands {
        let mut upper = axes.lines(known, high);
        let (Some(above), Some(below)) = (upper.pop(), axes.lines(known, low).pop()) else {
            continue;
        };
        let back: Vec<&str> = below.split_whitespace().rev().collect();
        let _ = writeln!(
            out,
            "<polygon points=\"{above}{}\" fill=\"#1f6fd6\" fill-opacity=\"0.18\"/>",
            back.join(" ")
        );
    }
    let origin = axes.x(known.saturating_sub(1) as f64);
    let _ = writeln!(
        out,
        "<path d=\"M{origin:.1} {TOP}V{}\" stroke=\"#999\" stroke-dasharray=\"4 3\"/>",
        HEIGHT - BOTTOM
    );
    let observed: Vec<f64> = panel.history.iter().chain(&panel.actual).copied().collect();
    for (points, colour) in axes.lines(0, &observed).iter().map(|l| (l, "#111")).chain(
        axes.lines(known, &panel.mean)
            .iter()
            .map(|l| (l, "#1f6fd6")),
    ) {
        let _ = writeln!(
            out,
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>"
        );
    }
}

/// Text as it stands in SVG and HTML.
#[must_use]
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_break_lines_and_every_coordinate_is_a_number() {
        let panel = Shown {
            title: "a < b".into(),
            history: vec![1.0, f64::NAN, 3.0],
            actual: vec![4.0, f64::NAN],
            mean: vec![4.5, 5.0],
            bands: vec![(vec![3.0, 3.0], vec![6.0, 7.0])],
        };
        let flat = Shown {
            history: vec![2.0],
            actual: vec![],
            mean: vec![],
            bands: vec![],
            ..panel.clone()
        };
        let text = svg("x & y", &[panel, flat]);
        assert!(text.contains("a &lt; b") && text.contains("x &amp; y"));
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
        assert_eq!(text.matches("<polygon").count(), 1);
        // The history's two pieces, the forecast, and the flat panel's point.
        assert_eq!(text.matches("<polyline").count(), 4);
    }
}
