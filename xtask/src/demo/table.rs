//! Tables on a terminal: owns alignment, nothing else.

/// A table with a head line; columns that hold only numbers stand to the right.
pub(crate) fn render(head: &[&str], rows: &[Vec<String>]) -> String {
    let cell = |row: &[String], column: usize| row.get(column).cloned().unwrap_or_default();
    let columns: Vec<(usize, bool)> = head
        .iter()
        .enumerate()
        .map(|(c, title)| {
            let cells: Vec<String> = rows.iter().map(|row| cell(row, c)).collect();
            let width = cells
                .iter()
                .map(|t| t.chars().count())
                .max()
                .unwrap_or(0)
                .max(title.chars().count());
            (
                width,
                !cells.is_empty() && cells.iter().all(|t| is_number(t)),
            )
        })
        .collect();
    let line = |row: &[String]| {
        let cells: Vec<String> = columns
            .iter()
            .enumerate()
            .map(|(c, (width, right))| {
                let text = cell(row, c);
                if *right {
                    format!("{text:>width$}")
                } else {
                    format!("{text:<width$}")
                }
            })
            .collect();
        cells.join("  ").trim_end().to_owned()
    };
    let titles: Vec<String> = head.iter().map(ToString::to_string).collect();
    let rule: Vec<String> = columns
        .iter()
        .map(|(width, _)| "-".repeat(*width))
        .collect();
    let mut lines = vec![line(&titles), rule.join("  ")];
    lines.extend(rows.iter().map(|row| line(row)));
    lines.join("\n")
}

/// A dash stands for a number that is not there.
fn is_number(text: &str) -> bool {
    text == "-"
        || text
            .trim_end_matches(['%', 's'])
            .trim()
            .parse::<f64>()
            .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_right_and_words_left() {
        let rows = [["demand", "7.25", "-"], ["x", "12.5", "3 %"]];
        let rows: Vec<Vec<String>> = rows
            .iter()
            .map(|r| r.iter().map(ToString::to_string).collect())
            .collect();
        let lines = [
            "model    MAE  gain",
            "------  ----  ----",
            "demand  7.25     -",
            "x       12.5   3 %",
        ];
        assert_eq!(render(&["model", "MAE", "gain"], &rows), lines.join("\n"));
    }
}
