//! The facts in words: owns the lines that people read, never a fact.

use super::board::Facts;

/// How the agent is, one line a thing.
#[must_use]
pub fn lines(facts: &Facts) -> Vec<String> {
    let hub = match facts.connected {
        Some(true) => "connected",
        Some(false) => "not connected",
        None => "no identity",
    };
    let mut out = vec![format!(
        "fieldcast-agent {}, up {} s, hub {hub}, {} readings, {} records wait",
        facts.version, facts.uptime_s, facts.readings, facts.buffer.records
    )];
    let (dropped, rejected) = (facts.buffer.dropped, facts.buffer.rejected);
    if dropped > 0 || rejected > 0 {
        out.push(format!(
            "lost: {dropped} records given up because the buffer was full, {rejected} refused by the hub"
        ));
    }
    out.extend(facts.link_error.iter().map(|e| format!("hub: {e}")));
    let not_taken = facts.not_taken.iter();
    out.extend(not_taken.map(|(_, why)| format!("not taken by the hub: {why}")));
    for (sensor, faults) in &facts.faults {
        out.push(format!("sensor {sensor}: {}", faults.join(", ")));
    }
    for (name, s) in &facts.sources {
        out.push(format!(
            "source {name}: {}, {} stored, {} refused, {} malformed",
            s.state, s.stored, s.refused, s.malformed
        ));
    }
    for (name, f) in &facts.forecasters {
        let drift = if f.drift { ", drift" } else { "" };
        let engine = match f.engine.as_str() {
            "" => String::new(),
            engine => format!(", run by {engine}"),
        };
        out.push(format!(
            "forecaster {name}: by {} version {}{engine}, {} forecasts, order {}{drift}",
            f.made_by, f.model_version, f.forecasts, f.phase
        ));
    }
    let problems = facts.problems.iter().map(|(p, e)| format!("{p}: {e}"));
    out.extend(problems);
    out.extend(facts.buffer.problem.clone());
    out
}
