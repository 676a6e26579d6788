//! Tells people what devices say of their inputs: owns the words of that report, never a decision: a change of inputs alone
//! trains nothing.

use anyhow::Result;
use fieldcast_drift::inputs::Aspect;
use fieldcast_store::Store;
use fieldcast_store::drift_reports::InputSignal;
use serde_json::json;

/// Writes a report for each warning that has none.
///
/// # Errors
/// The database.
pub async fn report_all(store: &Store) -> Result<()> {
    for signal in store.unreported_input_signals().await? {
        let words = words(&signal);
        tracing::warn!(
            device = signal.device,
            forecaster = signal.forecaster,
            "{words}"
        );
        let report = json!({"words": words, "signals": [signal]});
        store.add_input_report(&signal, &report).await?;
    }
    Ok(())
}

fn words(s: &InputSignal) -> String {
    let what = if s.detector == Aspect::Spread.detector() {
        "the spread within a day"
    } else {
        "the mean of a day"
    };
    format!(
        "{} of {}: since {} {what} lies {:+.1} usual deviations from what version {} of {} was trained on ({} days); \
         look at the sensor and its place. This alone trains nothing",
        s.sensor,
        s.device,
        s.onset.format("%Y-%m-%d"),
        s.severity,
        s.model_version,
        s.forecaster,
        s.data_count
    )
}
