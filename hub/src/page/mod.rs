//! A report as one HTML page: owns its markup, never a verdict; it needs nothing from elsewhere.

mod bars;
mod course;
pub mod verdict;

use std::fmt::Write as _;

pub use bars::Bars;
pub use course::Course;
use fieldcast_train::plot::escape;
use serde::{Deserialize, Serialize};

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 140.0;
const STYLE: &str = ":root{color-scheme:light dark;--text:#1b1f24;--back:#fff;--panel:#f6f7f9;--note:#57606a;--drift:#a3260c;\
--stable:#226b3a;--old:#8a97a6;--new:#c2571a}@media(prefers-color-scheme:dark){:root{--text:#d9e0e8;--back:#14191f;--panel:#1d242d;\
--note:#98a4b3;--drift:#ff8a70;--stable:#6fcf97;--old:#7d8a9a;--new:#f0883e}}\
body{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:2rem auto;padding:0 1rem;color:var(--text);background:var(--back);\
overflow-wrap:break-word}h1{font-size:1.4rem}h2{font-size:1.05rem;margin:2rem 0 .25rem}.drift{color:var(--drift)}\
.stable{color:var(--stable)}svg{width:100%;height:auto;background:var(--panel);margin:.15rem 0}\
text{font:11px system-ui,sans-serif;fill:var(--note)}.r{fill:var(--old)}.c{fill:var(--new);fill-opacity:.6}\
polyline{fill:none;stroke-width:1.2}.lr{stroke:var(--old)}.lc{stroke:var(--new)}.o{stroke:var(--drift);stroke-dasharray:4 3}\
p.note{color:var(--note)}";

/// What is said and drawn of one thing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Panel {
    /// Its name; empty where there is nothing to draw.
    pub name: String,
    /// Whether it drifted.
    pub drift: bool,
    /// What is said.
    pub words: String,
    /// Distributions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bars: Option<Bars>,
    /// Time line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub course: Option<Course>,
}

/// A page of its own: `title` is the verdict, `about` says what was compared.
#[must_use]
pub fn page(title: &str, drift: bool, about: &[String], panels: &[Panel]) -> String {
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
    for panel in panels {
        if !panel.name.is_empty() {
            let _ = writeln!(out, "<h2>{}</h2>", escape(&panel.name));
        }
        let class = if panel.drift { " class=\"drift\"" } else { "" };
        let _ = writeln!(out, "<p{class}>{}</p>", escape(&panel.words));
        if let Some(bars) = &panel.bars {
            let _ = writeln!(out, "{}", bars.svg());
        }
        if let Some(course) = &panel.course {
            let _ = writeln!(out, "{}", course.svg());
        }
    }
    out.push_str(
        "<p class=\"note\">Grey: reference. Orange: what is compared with it. Bars are shares of the values, lines their course \
         over time; the dashed line is where a change most likely began.</p>\n</body>\n</html>\n",
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_stands_alone_and_escapes_what_files_say() {
        let panel = Panel {
            name: "<script>".into(),
            drift: true,
            words: "a & b".into(),
            bars: Bars::numbers(&[1.0, 2.0, f64::NAN], &[2.0, 5.0]),
            course: Course::of(&[(0, 1.0), (1, 2.0)], 0, None),
        };
        let json = serde_json::to_string(&panel).unwrap_or_default();
        assert_eq!(
            serde_json::from_str::<Panel>(&json).ok(),
            Some(panel.clone())
        );
        let page = page("drift", true, &["a.csv".into()], &[panel]);
        assert!(page.contains("&lt;script&gt;") && page.contains("a &amp; b"));
        assert!(page.contains("<rect class=\"c\"") && page.contains("class=\"lc\""));
        assert!(!page.contains("<script") && !page.contains("http"));
    }
}
