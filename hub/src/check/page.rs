//! The report as one HTML page: owns its markup and the drawn histograms, never a verdict; it needs nothing from elsewhere.

use std::fmt::Write as _;

use fieldcast_drift::preset::{Column, Values};

use super::words::Line;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 140.0;
const BINS: usize = 24;
/// Most categories that are drawn.
const CATEGORIES: usize = 12;
const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;\
background:#fff}h1{font-size:1.4rem}h2{font-size:1.05rem;margin:2rem 0 .25rem}.drift{color:#a3260c}.stable{color:#226b3a}\
svg{width:100%;height:auto;background:#f6f7f9}text{font:11px system-ui,sans-serif;fill:#57606a}.r{fill:#8a97a6}\
.c{fill:#c2571a;fill-opacity:.6}p.note{color:#57606a}";

/// A page of its own: `title` is the verdict, `about` says what was compared.
#[must_use]
pub fn page(title: &str, drift: bool, about: &[String], lines: &[Line]) -> String {
    let mut out =
        String::from("<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\">");
    let class = if drift { "drift" } else { "stable" };
    let title = escape(title);
    let _ = write!(
        out,
        "<meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title><style>{STYLE}</style></head>\n\
         <body>\n<h1 class=\"{class}\">{title}</h1>\n"
    );
    for line in about {
        let _ = writeln!(out, "<p class=\"note\">{}</p>", escape(line));
    }
    for line in lines {
        let class = if line.drift { " class=\"drift\"" } else { "" };
        let Some(column) = &line.column else {
            let _ = writeln!(out, "<p{class}>{}</p>", escape(&line.words));
            continue;
        };
        let _ = write!(
            out,
            "<h2>{}</h2>\n<p{class}>{}</p>\n{}\n",
            escape(&column.name),
            escape(&line.words),
            drawing(column)
        );
    }
    out.push_str("<p class=\"note\">Grey: reference. Orange: current. Bars are shares of the rows.</p>\n</body>\n</html>\n");
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn drawing(column: &Column) -> String {
    match (&column.reference, &column.current) {
        (Values::Numbers { values: r, .. }, Values::Numbers { values: c, .. }) => numbers(r, c),
        (Values::Words(r), Values::Words(c)) => words(r, c),
        _ => String::new(),
    }
}

fn numbers(r: &[f64], c: &[f64]) -> String {
    let finite = |of: &[f64]| -> Vec<f64> {
        let mut all: Vec<f64> = of.iter().copied().filter(|v| v.is_finite()).collect();
        all.sort_by(f64::total_cmp);
        all
    };
    let (r, c) = (finite(r), finite(c));
    let low = r.iter().chain(&c).copied().fold(f64::INFINITY, f64::min);
    let high = r
        .iter()
        .chain(&c)
        .copied()
        .fold(f64::NEG_INFINITY, f64::max);
    if !(high - low).is_finite() {
        return String::new();
    }
    let width = if high > low { high - low } else { 1.0 };
    let share = |of: &[f64]| -> Vec<f64> {
        let mut bins = vec![0.0; BINS];
        for v in of {
            let at = ((v - low) / width * BINS as f64) as usize;
            bins[at.min(BINS - 1)] += 1.0 / of.len() as f64;
        }
        bins
    };
    let labels = [(0.0, format!("{low:.4}")), (WIDTH, format!("{high:.4}"))];
    bars(&share(&r), &share(&c), &labels)
}

fn words(r: &[Option<String>], c: &[Option<String>]) -> String {
    let count = |of: &[Option<String>], word: &str| {
        let all = of.iter().flatten().count().max(1) as f64;
        of.iter().flatten().filter(|w| *w == word).count() as f64 / all
    };
    let mut names: Vec<&str> = r.iter().chain(c).flatten().map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    let mut shares: Vec<(f64, f64, &str)> = names
        .into_iter()
        .map(|name| (count(r, name), count(c, name), name))
        .collect();
    shares.sort_by(|a, b| (b.0 + b.1).total_cmp(&(a.0 + a.1)));
    shares.truncate(CATEGORIES);
    let step = WIDTH / shares.len().max(1) as f64;
    let labels: Vec<(f64, String)> = shares
        .iter()
        .enumerate()
        .map(|(i, s)| ((i as f64 + 0.5) * step, s.2.chars().take(12).collect()))
        .collect();
    let (a, b): (Vec<f64>, Vec<f64>) = shares.iter().map(|s| (s.0, s.1)).unzip();
    bars(&a, &b, &labels)
}

fn bars(reference: &[f64], current: &[f64], labels: &[(f64, String)]) -> String {
    let most = reference
        .iter()
        .chain(current)
        .copied()
        .fold(f64::MIN_POSITIVE, f64::max);
    let step = WIDTH / reference.len().max(1) as f64;
    let mut out = format!(
        "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"reference and current shares\">",
        HEIGHT + 18.0
    );
    for (class, shares) in [("r", reference), ("c", current)] {
        for (i, share) in shares.iter().enumerate() {
            let height = share / most * HEIGHT;
            let _ = write!(
                out,
                "<rect class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\"/>",
                i as f64 * step + 0.5,
                HEIGHT - height,
                step - 1.0
            );
        }
    }
    for (x, text) in labels {
        let anchor = match *x {
            x if x <= 0.0 => "start",
            x if x >= WIDTH => "end",
            _ => "middle",
        };
        let _ = write!(
            out,
            "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"{anchor}\">{}</text>",
            HEIGHT + 13.0,
            escape(text)
        );
    }
    out.push_str("</svg>");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_stands_alone_and_escapes_what_files_say() {
        let numbers = |values: Vec<f64>| Values::Numbers {
            values,
            whole: false,
        };
        let column = Column {
            name: "<script>".into(),
            reference: numbers(vec![1.0, 2.0, f64::NAN]),
            current: numbers(vec![2.0, 5.0]),
        };
        let line = Line {
            column: Some(column),
            drift: true,
            words: "a & b".into(),
        };
        let page = page("drift", true, &["a.csv".into()], &[line]);
        assert!(page.contains("&lt;script&gt;") && page.contains("a &amp; b"));
        assert!(page.contains("<svg") && page.contains("class=\"c\""));
        assert!(!page.contains("<script") && !page.contains("http"));
    }
}
