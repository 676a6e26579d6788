//! The status page for people: one self-contained HTML document; owns its look; never a fact.

use std::fmt::Write;

use super::board::{Facts, ForecasterFacts};

const STYLE: &str = ":root{color-scheme:light dark;--text:#1c2733;--back:#fafbfc;--line:#dde3ea;--bad:#b3261e;--good:#18794e;--mean:#2563eb}\
@media(prefers-color-scheme:dark){:root{--text:#d9e0e8;--back:#14191f;--line:#2c3540;--bad:#ff8a80;--good:#6fcf97;--mean:#7aa7ff}}\
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:var(--text);background:var(--back)}\
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}a{color:inherit}div.wide{overflow-x:auto}table{border-collapse:collapse;width:100%}\
td,th{text-align:left;padding:.3rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}td{max-width:20rem;overflow-wrap:break-word}\
.bad{color:var(--bad)}.good{color:var(--good)}code{font-size:.85em}svg{width:16rem;max-width:100%;height:3rem;stroke:var(--mean)}";
/// What is opened stays open; without scripts the page comes anew all the same.
const ANEW: &str = "<noscript><meta http-equiv=refresh content=5></noscript>\
<script>setInterval(()=>document.querySelector('details[open]')||location.reload(),5000)</script>";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn when(millis: i64) -> String {
    chrono::DateTime::from_timestamp_millis(millis)
        .map_or_else(String::new, |t| t.format("%Y-%m-%d %H:%M").to_string())
}

/// The whole page.
#[must_use]
pub fn html(facts: &Facts) -> String {
    let mut h = String::new();
    let device = if facts.device.is_empty() {
        "no identity"
    } else {
        &facts.device
    };
    let hub = match facts.connected {
        Some(true) => "<span class=good>connected</span>",
        Some(false) => "<span class=bad>not connected; readings wait in the buffer</span>",
        None => "none configured",
    };
    // Writing to a String cannot fail.
    let _ = write!(
        h,
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">{ANEW}\
<title>Fieldcast agent: {0}</title><style>{STYLE}</style><h1>Fieldcast agent: {0}</h1>\
<p>Version {1}, up {2} s. Hub: {hub}. Readings {3}, refused {4}. Waiting for the hub: {5} records, {6} bytes.",
        escape(device),
        escape(&facts.version),
        facts.uptime_s,
        facts.readings,
        facts.refused,
        facts.buffer.records,
        facts.buffer.bytes
    );
    if let Some(error) = &facts.link_error {
        let _ = write!(h, "<p class=bad>Hub: {}", escape(error));
    }
    if let Some((time, reason)) = &facts.not_taken {
        let _ = write!(
            h,
            "<p class=bad>Not taken by the hub, last at {}: {}",
            when(*time),
            escape(reason)
        );
    }
    let (dropped, rejected) = (facts.buffer.dropped, facts.buffer.rejected);
    if dropped > 0 {
        let _ = write!(
            h,
            "<p class=bad>Given up because the buffer was full: {dropped} records; connect the device, or raise max_bytes under [buffer]"
        );
    }
    if rejected > 0 {
        let _ = write!(
            h,
            "<p class=bad>Refused by the hub: {rejected} records; the journal names them and why"
        );
    }
    if let Some(problem) = &facts.buffer.problem {
        let _ = write!(h, "<p class=bad>{}", escape(problem));
    }
    for (part, problem) in &facts.problems {
        let _ = write!(h, "<p class=bad>{}: {}", escape(part), escape(problem));
    }
    h.push_str("<h2>Forecasters</h2><div class=wide><table><tr><th>Name<th>Forecast by<th>Order<th>Last forecast");
    for (name, f) in &facts.forecasters {
        row(&mut h, name, f);
    }
    h.push_str("</table></div><h2>Sources</h2><div class=wide><table><tr><th>Source<th>State<th>Stored<th>Refused, malformed<th>Newest");
    for (name, s) in &facts.sources {
        let problem = s.problem.as_ref().or(s.last_malformed.as_ref());
        let _ = write!(
            h,
            "<tr><td>{} ({})<td>{}<td>{}<td>{}, {}<div class=bad>{}</div><td>{}",
            escape(name),
            escape(&s.kind),
            escape(&s.state),
            s.stored,
            s.refused,
            s.malformed,
            escape(problem.map_or("", String::as_str)),
            s.last_time.map_or_else(String::new, when)
        );
    }
    h.push_str("</table></div>");
    if !facts.faults.is_empty() {
        h.push_str("<h2>Sensors with faults</h2><ul>");
        for (sensor, faults) in &facts.faults {
            let _ = write!(
                h,
                "<li class=bad>{}: {}",
                escape(sensor),
                escape(&faults.join(", "))
            );
        }
        h.push_str("</ul>");
    }
    h.push_str("<p><a href=/status.json>status.json</a> <a href=/metrics>metrics</a> <a href=/healthz>healthz</a></html>");
    h
}

fn row(h: &mut String, name: &str, f: &ForecasterFacts) {
    let model = if f.running.is_empty() {
        escape(&f.made_by)
    } else {
        let short = f.running.get(..12).unwrap_or(&f.running);
        format!(
            "version {}<br><code>{}</code><br>{}",
            f.model_version,
            escape(short),
            escape(&f.engine)
        )
    };
    let mut drift = String::new();
    if f.drift {
        drift.push_str("<div class=bad>drift</div>");
    }
    if !f.input_drift.is_empty() {
        let sensors = escape(&f.input_drift.join(", "));
        let _ = write!(
            drift,
            "<div class=bad>other inputs than it was trained on: {sensors}</div>"
        );
    }
    let _ = write!(
        h,
        "<tr><td>{}{drift}<td>{model}<td>{} {}<td>",
        escape(name),
        escape(&f.phase),
        escape(&f.reason)
    );
    if let Some(last) = &f.last {
        let _ = write!(h, "from {}<br>{}", when(last.origin), spark(&last.mean));
    }
    let each = f.influences.iter();
    let each = each.map(|i| format!("{} {:+.3}", escape(&i.of), i.change));
    let made_of: Vec<String> = each.collect();
    if !made_of.is_empty() {
        let _ = write!(
            h,
            "<details><summary>made of</summary>{}</details>",
            made_of.join("<br>")
        );
    }
}

/// The forecast's mean as a small line.
fn spark(values: &[f64]) -> String {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let span = if high > low { high - low } else { 1.0 };
    let mut points = String::new();
    for (i, v) in values.iter().enumerate() {
        let _ = write!(points, "{i},{:.2} ", 30.0 - 28.0 * (v - low) / span);
    }
    let width = values.len().max(2) - 1;
    format!(
        "<svg viewBox=\"0 0 {width} 32\" preserveAspectRatio=none><polyline points=\"{points}\" fill=none vector-effect=non-scaling-stroke /></svg> {low:.1} to {high:.1}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::board::LastForecast;

    #[test]
    fn foreign_text_is_escaped_and_a_forecast_drawn() {
        let mut facts = Facts::default();
        let f = facts.forecasters.entry("<b>".into()).or_default();
        f.last = Some(LastForecast {
            origin: 0,
            period: 1,
            mean: vec![1.0, 2.0, 1.5],
        });
        f.input_drift = vec!["out<side".into()];
        facts.link_error = Some("refused <i>".into());
        facts.not_taken = Some((0, "no <room>".into()));
        facts.buffer.dropped = 12;
        facts.buffer.rejected = 5;
        let html = html(&facts);
        assert!(html.contains("Hub: refused &lt;i&gt;"));
        assert!(html.contains("last at 1970-01-01 00:00: no &lt;room&gt;"));
        assert!(html.contains("trained on: out&lt;side"));
        assert!(html.contains("12 records") && html.contains("5 records"));
        assert!(html.contains("&lt;b&gt;") && !html.contains("<td><b>"));
        assert!(html.contains("polyline") && html.contains("1970-01-01 00:00"));
    }
}
