//! What two versions of a model differ in: owns the comparison of their documents, never a judgement of which is better.

use std::collections::BTreeMap;

use chrono::DateTime;
use fieldcast_store::model_versions::ModelVersionRow;
use serde::Serialize;
use serde_json::{Value, json};

/// One difference.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// Where, by dots.
    pub field: String,
    /// In the first version; null: not there.
    pub from: Value,
    /// In the second.
    pub to: Value,
}

/// Two versions side by side: only what differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diff {
    /// Forecaster.
    pub forecaster: String,
    /// First version.
    pub from: i64,
    /// Second version.
    pub to: i64,
    /// Definition that was sealed in.
    pub definition: Vec<Change>,
    /// Data that was learnt from.
    pub data: Vec<Change>,
    /// How it was made.
    pub training: Vec<Change>,
    /// Errors of models and baselines, each version's on its own selection and calibration part.
    pub scores: Vec<Change>,
    /// Bytes of the bundle, and digests of what is in it.
    pub bundle: Vec<Change>,
}

const DATA: [&str; 6] = [
    "data_from",
    "data_until",
    "onset",
    "rows",
    "snapshot",
    "snapshot_at",
];
const TRAINING: [&str; 9] = [
    "training_run",
    "spec_version",
    "seed",
    "code_version",
    "simd",
    "config",
    "split",
    "chosen",
    "imported",
];
/// Lineage in Unix milliseconds, shown as times.
const TIMES: [&str; 3] = ["data_from", "data_until", "onset"];

/// Compares two versions of one forecaster.
#[must_use]
pub fn diff(from: &ModelVersionRow, to: &ModelVersionRow) -> Diff {
    let lineage = |fields: &[&str]| {
        let of = |row: &ModelVersionRow| pick(&row.lineage, fields);
        changes(&of(from), &of(to))
    };
    Diff {
        forecaster: to.forecaster.clone(),
        from: from.version,
        to: to.version,
        definition: changes(&from.manifest["forecaster"], &to.manifest["forecaster"]),
        data: lineage(&DATA),
        training: lineage(&TRAINING),
        scores: changes(&scores(from), &scores(to)),
        bundle: changes(&bundle(from), &bundle(to)),
    }
}

fn pick(document: &Value, fields: &[&str]) -> Value {
    let one = |field: &&str| {
        let value = &document[*field];
        let time = value.as_i64().filter(|_| TIMES.contains(field));
        let time = time.and_then(DateTime::from_timestamp_millis);
        let value = time.map_or_else(|| value.clone(), |t| json!(t.to_rfc3339()));
        ((*field).to_owned(), value)
    };
    Value::Object(fields.iter().map(one).collect())
}

fn scores(row: &ModelVersionRow) -> Value {
    let table = row.manifest["training"]["table"].as_array();
    let models: BTreeMap<String, Value> = table
        .into_iter()
        .flatten()
        .map(|score| {
            let name = score["model"].as_str().unwrap_or_default().to_owned();
            (name, pick(score, &["mae", "rmse", "mase", "refused"]))
        })
        .collect();
    let calibration = pick(
        &row.manifest["calibration"],
        &["windows", "coverage", "daily"],
    );
    json!({"models": models, "calibration": calibration})
}

fn bundle(row: &ModelVersionRow) -> Value {
    json!({"sha256": row.bundle, "bytes": row.bundle_size, "onnx_sha256": row.manifest["onnx_sha256"],
        "reference_sha256": row.manifest["reference_sha256"], "removed_at": row.removed_at})
}

fn changes(from: &Value, to: &Value) -> Vec<Change> {
    let (mut a, mut b) = (BTreeMap::new(), BTreeMap::new());
    leaves(String::new(), from, &mut a);
    leaves(String::new(), to, &mut b);
    let null = Value::Null;
    let fields = a.keys().chain(b.keys().filter(|k| !a.contains_key(*k)));
    let mut all: Vec<Change> = fields
        .map(|field| Change {
            field: field.clone(),
            from: (*a.get(field).unwrap_or(&&null)).clone(),
            to: (*b.get(field).unwrap_or(&&null)).clone(),
        })
        .filter(|change| change.from != change.to)
        .collect();
    all.sort_by(|x, y| x.field.cmp(&y.field));
    all
}

/// Everything that is no object, by the way to it; lists are one value.
fn leaves<'a>(path: String, value: &'a Value, all: &mut BTreeMap<String, &'a Value>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = match path.as_str() {
                    "" => name.clone(),
                    path => format!("{path}.{name}"),
                };
                leaves(path, value, all);
            }
        }
        value => {
            all.insert(path, value);
        }
    }
}

impl std::fmt::Display for Diff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: version {} to {}",
            self.forecaster, self.from, self.to
        )?;
        let parts = [
            ("definition", &self.definition),
            ("data", &self.data),
            ("training", &self.training),
            ("scores, each on its own part of the data", &self.scores),
            ("bundle", &self.bundle),
        ];
        for (name, changes) in parts {
            match changes.as_slice() {
                [] => write!(f, "\n{name}: the same")?,
                changes => {
                    write!(f, "\n{name}:")?;
                    for c in changes {
                        write!(f, "\n  {}: {} -> {}", c.field, c.from, c.to)?;
                    }
                }
            }
        }
        Ok(())
    }
}
