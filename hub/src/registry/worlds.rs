//! Versions of before that a world may want back: owns which of the past champions they are, never whether one is better.
//!
//! Worlds return: seasons, product lines, a repaired machine. The last champion of each world before this one is what was known of it.

use std::collections::BTreeSet;

use fieldcast_features::ForecasterSpec;
use fieldcast_store::model_versions::ModelVersionRow;
use fieldcast_store::{Store, StoreError};

/// Most versions of before, the newest: each is asked about each day.
const MOST: usize = 6;

/// The last champion of each world before the champion's that answers the question of today, newest first.
///
/// # Errors
/// The database.
pub async fn before(
    store: &Store,
    champion: &ModelVersionRow,
    spec: &ForecasterSpec,
) -> Result<Vec<ModelVersionRow>, StoreError> {
    let mut past = store.past_champions(&champion.forecaster).await?;
    past.retain(|row| asks(row, spec));
    if !asks(champion, spec) {
        return Ok(Vec::new());
    }
    Ok(choose(past, champion))
}

/// Whether a version was made for this question: which devices it is asked of says nothing of its weights.
fn asks(row: &ModelVersionRow, spec: &ForecasterSpec) -> bool {
    let had: Option<ForecasterSpec> =
        serde_json::from_value(row.manifest["forecaster"].clone()).ok();
    had.is_some_and(|had| {
        let had = ForecasterSpec {
            selector: spec.selector.clone(),
            ..had
        };
        had == *spec
    })
}

/// Of the past champions, newest first, the newest of each world that is not the champion's, and each model once.
fn choose(past: Vec<ModelVersionRow>, champion: &ModelVersionRow) -> Vec<ModelVersionRow> {
    let world = |row: &ModelVersionRow| row.lineage["onset"].as_i64();
    let model = |row: &ModelVersionRow| row.manifest["onnx_sha256"].to_string();
    let mut worlds = BTreeSet::from([world(champion)]);
    let mut models = BTreeSet::from([model(champion)]);
    let mut chosen = past;
    chosen.retain(|row| {
        row.version < champion.version && worlds.insert(world(row)) && models.insert(model(row))
    });
    chosen.truncate(MOST);
    chosen
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use serde_json::json;

    use super::*;

    fn row(version: i64, onset: Option<i64>, model: &str) -> ModelVersionRow {
        ModelVersionRow {
            forecaster: "f".into(),
            version,
            bundle: String::new(),
            bundle_size: 0,
            manifest: json!({"onnx_sha256": model}),
            metrics: json!({}),
            lineage: json!({"onset": onset}),
            champion: false,
            on_trial: false,
            challenger: false,
            removed_at: None,
            created_at: DateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn the_last_champion_of_each_other_world_is_wanted_back() {
        let past = || {
            vec![
                row(9, Some(400), "i"),
                row(8, Some(400), "h"),
                row(6, Some(300), "f"),
                row(5, Some(200), "a"),
                row(3, Some(100), "c"),
                row(2, None, "b"),
                row(1, None, "a"),
            ]
        };
        let versions = |rows: Vec<ModelVersionRow>| -> Vec<i64> {
            rows.iter().map(|row| row.version).collect()
        };
        assert_eq!(
            versions(choose(past(), &row(10, Some(500), "j"))),
            [9, 6, 5, 3, 2]
        );
        // A model that was taken up again is the same one, and what came before it in its world was worse.
        assert_eq!(
            versions(choose(past(), &row(10, Some(400), "a"))),
            [6, 3, 2]
        );
        // What came after a champion that was put in place by hand is not of before.
        assert_eq!(versions(choose(past(), &row(6, Some(300), "f"))), [5, 3, 2]);
        let many = (1..20).rev().map(|n| row(n, Some(n), &n.to_string()));
        assert_eq!(choose(many.collect(), &row(20, Some(20), "z")).len(), MOST);
    }
}
