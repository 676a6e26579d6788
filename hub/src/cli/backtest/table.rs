//! A backtest as text: owns its tables, never a number in them.

use std::fmt::Write as _;

use fieldcast_train::backtest::Report;
use fieldcast_train::evaluate::{IntervalScore, Scores};

/// The report as text: what chose, every model over all steps, then the chosen one step by step.
pub(super) fn text(report: &Report) -> String {
    let mut out = selection(report);
    out.push_str(&judged(report));
    if report.importance.is_empty() {
        out.push_str("\nno device has two windows to tell from what the inputs are worth\n");
    } else {
        let each = report.importance.iter();
        let each: Vec<String> = each
            .map(|i| format!("{} {:+.0} %", i.input, 100.0 * i.error_increase))
            .collect();
        let _ = writeln!(
            out,
            "\nerror with another window's values of an input: {}",
            each.join(", ")
        );
    }
    out.push_str(&steps(report));
    out
}

/// What the models did on the parts that chose among them.
fn selection(report: &Report) -> String {
    let until = report.split.until;
    let mut out = format!(
        "{}: chosen on {} to {} UTC: {}\n\n{:26}{:>11}{:>11}{:>9}\n",
        report.forecaster,
        time(report.split.select_from),
        time(until),
        report.chosen,
        "model",
        "MAE",
        "RMSE",
        "MASE"
    );
    for line in &report.selection {
        let name = starred(&line.model, report);
        let note = match (line.model.as_str(), line.refused) {
            (_, true) => {
                "  refused: more than 1 % worse than the best baseline that a bundle can hold"
            }
            ("forest", _) => "  for comparison: no graph holds it",
            _ => "",
        };
        let _ = writeln!(
            out,
            "{name:26}{:>11.4}{:>11.4}{:>9.4}{note}",
            line.mae, line.rmse, line.mase
        );
    }
    out
}

fn judged(report: &Report) -> String {
    let mut out = format!(
        "\njudged {} to {} UTC\n\n{:26}{:>9}{:>11}{:>11}{:>9}{:>9}{:>9}{:>9}{:>9}{:>11}{:>9}\n",
        time(report.test_from),
        time(report.test_until),
        "model",
        "windows",
        "MAE",
        "RMSE",
        "MASE",
        "sMAPE",
        "wQL",
        "in 80 %",
        "in 95 %",
        "score 80 %",
        "worst"
    );
    let line = |name: &str, s: &Scores, out: &mut String| {
        let of = |level: f64, what: fn(&IntervalScore) -> String| {
            let found = s.intervals.iter();
            let mut found = found.filter(|i| (i.upper - i.lower - level).abs() < 1e-6);
            found.next().map_or_else(|| "-".into(), what)
        };
        let inside = |i: &IntervalScore| format!("{:.1} %", 100.0 * i.coverage);
        let _ = writeln!(
            out,
            "{name:26}{:>9}{:>11.4}{:>11.4}{:>9.4}{:>9.4}{:>9.4}{:>9}{:>9}{:>11}{:>9}",
            s.windows,
            s.mae,
            s.rmse,
            s.mase,
            s.smape,
            s.wql,
            of(0.8, inside),
            of(0.95, inside),
            of(0.8, |i| format!("{:.4}", i.score)),
            of(0.8, |i| format!("{:.1} %", 100.0 * i.worst_coverage)),
        );
    };
    for model in &report.models {
        line(&starred(&model.model, report), &model.scores, &mut out);
    }
    line("* with adaptive intervals", &report.adaptive, &mut out);
    line("* with plain intervals", &report.plain, &mut out);
    out.push_str(
        "score: interval score of the 80 % interval; worst: its coverage in its worst 30 days\n",
    );
    out
}

fn steps(report: &Report) -> String {
    let mut out = String::new();
    let Some(chosen) = report.models.iter().find(|m| m.model == report.chosen) else {
        return out;
    };
    let _ = writeln!(
        out,
        "\n{:>5}{:>11}{:>11}{:>9}{:>9}{:>9}  inside, widest interval first",
        "step", "MAE", "RMSE", "MASE", "sMAPE", "wQL"
    );
    for (h, s) in chosen.scores.per_horizon.iter().enumerate() {
        let inside: Vec<String> = s
            .coverage
            .iter()
            .map(|c| format!("{:.1} %", 100.0 * c))
            .collect();
        let _ = writeln!(
            out,
            "{:>5}{:>11.4}{:>11.4}{:>9.4}{:>9.4}{:>9.4}  {}",
            h + 1,
            s.mae,
            s.rmse,
            s.mase,
            s.smape,
            s.wql,
            inside.join("  ")
        );
    }
    out
}

fn starred(model: &str, report: &Report) -> String {
    let mark = if model == report.chosen { " *" } else { "" };
    format!("{model}{mark}")
}

fn time(ms: i64) -> String {
    let time = chrono::DateTime::from_timestamp_millis(ms).unwrap_or_default();
    time.format("%Y-%m-%d %H:%M").to_string()
}
