//! Facts as Prometheus text; owns names and labels; never counts anything itself.

use std::fmt::Write;

use super::board::Facts;
use crate::update::Phase;

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn value(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.0.push_str(name);
        if !labels.is_empty() {
            let pairs: Vec<String> = labels
                .iter()
                .map(|(k, v)| format!("{k}=\"{}\"", escape(v)))
                .collect();
            let _ = write!(self.0, "{{{}}}", pairs.join(","));
        }
        let _ = writeln!(self.0, " {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, kind, help);
        self.value(name, &[], value);
    }
}

/// The text that `/metrics` answers. `resident` is the process's resident memory, bytes.
#[must_use]
pub fn text(facts: &Facts, resident: Option<u64>) -> String {
    let mut t = Text(String::new());
    t.family("fieldcast_agent_info", "gauge", "Version of the agent.");
    t.value("fieldcast_agent_info", &[("version", &facts.version)], 1);
    if let Some(resident) = resident {
        let help = "Resident memory of the process.";
        t.one("process_resident_memory_bytes", "gauge", help, resident);
    }
    let help = "Seconds since the agent started.";
    t.one(
        "fieldcast_agent_uptime_seconds",
        "gauge",
        help,
        facts.uptime_s,
    );
    let help = "Readings committed since the start.";
    t.one(
        "fieldcast_agent_readings_total",
        "counter",
        help,
        facts.readings,
    );
    let help = "Readings refused since the start.";
    t.one(
        "fieldcast_agent_readings_refused_total",
        "counter",
        help,
        facts.refused,
    );
    let help = "Records that the hub has not acknowledged.";
    t.one(
        "fieldcast_agent_buffer_records",
        "gauge",
        help,
        facts.buffer.records,
    );
    let help = "Bytes of sealed batches that the hub has not acknowledged.";
    t.one(
        "fieldcast_agent_buffer_bytes",
        "gauge",
        help,
        facts.buffer.bytes,
    );
    let help = "Records given up because the buffer was full, since it was made.";
    t.one(
        "fieldcast_agent_records_dropped_total",
        "counter",
        help,
        facts.buffer.dropped,
    );
    let help = "Records that the hub refused, since the buffer was made.";
    t.one(
        "fieldcast_agent_records_rejected_total",
        "counter",
        help,
        facts.buffer.rejected,
    );
    let help = "Drift signals, raised and ended, since the start.";
    t.one(
        "fieldcast_agent_drift_signals_total",
        "counter",
        help,
        facts.drift_signals,
    );
    if let Some(connected) = facts.connected {
        let help = "Whether the broker is connected.";
        t.one(
            "fieldcast_agent_connected",
            "gauge",
            help,
            u8::from(connected),
        );
    }
    let name = "fieldcast_agent_forecasts_total";
    t.family(name, "counter", "Forecasts made, shadows included.");
    for (forecaster, f) in &facts.forecasters {
        t.value(name, &[("forecaster", forecaster)], f.forecasts);
    }
    let name = "fieldcast_agent_model_version";
    t.family(
        name,
        "gauge",
        "Model version of the last forecast; 0 is a baseline.",
    );
    for (forecaster, f) in &facts.forecasters {
        let labels = [("forecaster", forecaster.as_str()), ("made_by", &f.made_by)];
        t.value(name, &labels, f.model_version);
    }
    let name = "fieldcast_agent_model_phase";
    t.family(name, "gauge", "Where the newest order of a model stands.");
    for (forecaster, f) in &facts.forecasters {
        for phase in Phase::ALL.map(Phase::name) {
            let labels = [("forecaster", forecaster.as_str()), ("phase", phase)];
            t.value(name, &labels, u8::from(f.phase == phase));
        }
    }
    let name = "fieldcast_agent_inference_seconds";
    let help = "Processor time that 95 of 100 recent forecasts stay within.";
    t.family(name, "gauge", help);
    for (forecaster, f) in &facts.forecasters {
        for (role, us) in [("running", f.inference_us), ("watching", f.shadow_us)] {
            let labels = [("forecaster", forecaster.as_str()), ("role", role)];
            if let Some(us) = us {
                t.value(name, &labels, f64::from(us) / 1e6);
            }
        }
    }
    let name = "fieldcast_agent_inference_budget_seconds";
    let help = "Most processor time of a forecast before its model is given up.";
    t.family(name, "gauge", help);
    for (forecaster, f) in &facts.forecasters {
        let budget = f64::from(f.budget_us) / 1e6;
        t.value(name, &[("forecaster", forecaster)], budget);
    }
    let name = "fieldcast_agent_drift";
    t.family(name, "gauge", "Whether concept drift is signalled.");
    for (forecaster, f) in &facts.forecasters {
        t.value(name, &[("forecaster", forecaster)], u8::from(f.drift));
    }
    let name = "fieldcast_agent_input_drift";
    t.family(
        name,
        "gauge",
        "Sensors whose values differ from what the running model was trained on.",
    );
    for (forecaster, f) in &facts.forecasters {
        for sensor in &f.input_drift {
            t.value(name, &[("forecaster", forecaster), ("sensor", sensor)], 1);
        }
    }
    let name = "fieldcast_agent_source_malformed_total";
    t.family(
        name,
        "counter",
        "Rows of a source that were not well formed.",
    );
    for (source, f) in &facts.sources {
        t.value(name, &[("source", source)], f.malformed);
    }
    let name = "fieldcast_agent_sensor_fault";
    t.family(name, "gauge", "Faults of sensors at present.");
    for (sensor, faults) in &facts.faults {
        for fault in faults {
            t.value(name, &[("sensor", sensor), ("fault", fault)], 1);
        }
    }
    t.0
}

/// Resident memory of this process, bytes.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_has_a_family_and_labels_are_escaped() {
        let mut facts = Facts::default();
        let f = facts.forecasters.entry("a\"b\\".into()).or_default();
        f.drift = true;
        f.phase = "rolled_back".into();
        f.inference_us = Some(1_500);
        f.budget_us = 2_000_000;
        f.input_drift = vec!["outside".into()];
        facts.buffer.dropped = 7;
        facts.buffer.rejected = 3;
        facts.faults.insert("t".into(), vec!["stuck".into()]);
        let text = text(&facts, resident_bytes());
        assert!(text.contains("fieldcast_agent_records_dropped_total 7\n"));
        assert!(text.contains("fieldcast_agent_records_rejected_total 3\n"));
        assert!(text.contains("fieldcast_agent_sensor_fault{sensor=\"t\",fault=\"stuck\"} 1"));
        assert!(text.contains(
            "fieldcast_agent_input_drift{forecaster=\"a\\\"b\\\\\",sensor=\"outside\"} 1"
        ));
        let phases = text
            .lines()
            .filter(|l| l.starts_with("fieldcast_agent_model_phase{"));
        assert_eq!(phases.count(), 9, "those that are not are there too");
        assert!(text.contains("phase=\"rolled_back\"} 1") && text.contains("phase=\"healthy\"} 0"));
        assert!(text.contains("role=\"running\"} 0.0015") && !text.contains("watching"));
        assert!(
            text.contains(
                "fieldcast_agent_inference_budget_seconds{forecaster=\"a\\\"b\\\\\"} 2\n"
            )
        );
        assert!(text.contains("process_resident_memory_bytes "));
        assert!(text.contains("fieldcast_agent_drift{forecaster=\"a\\\"b\\\\\"} 1"));
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap_or("");
            assert!(text.contains(&format!("# TYPE {name} ")), "{line}");
        }
    }
}
