//! The newest stored rows of a device: owns how far back they are looked for, never what is made of them.

use fieldcast_features::grid::slot_of;
use fieldcast_features::{FeatureRow, ForecasterSpec, Millis, Preset};
use fieldcast_store::{Result, Store};

use crate::features;

/// The newest rows of a device by time, `needed` of them where there are so many. For the preset `classic` these are
/// complete rows, and as in the replaced system the last ones count, whatever lies between them.
///
/// # Errors
/// The database.
pub(super) async fn newest(
    store: &Store,
    spec: &ForecasterSpec,
    device: &str,
    needed: usize,
) -> Result<Vec<FeatureRow>> {
    let sensors: Vec<String> = spec
        .channels()
        .iter()
        .map(|c| spec.sensor_of(c).to_owned())
        .collect();
    let Some((first, last)) = store.reading_span(device, &sensors).await? else {
        return Ok(Vec::new());
    };
    let period = spec.period_ms();
    let until = slot_of(last, period);
    let mut span = period.saturating_mul(Millis::try_from(spec.lookback * 2).unwrap_or(1));
    loop {
        let from = last.saturating_sub(span);
        let mut rows = features::newest_rows(store, spec, device, (from, until)).await?;
        if spec.preset == Preset::Classic {
            rows.retain(|r| (0..spec.inputs.len()).all(|c| r.value(c).is_some()));
        }
        // A window on the grid has no use for rows further back.
        if rows.len() >= needed || from < first || spec.preset != Preset::Classic {
            return Ok(rows);
        }
        span = span.saturating_mul(4);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use fieldcast_postgres::{Cluster, Tuning};
    use fieldcast_store::Target;
    use fieldcast_store::readings::ReadingColumns;

    use super::*;

    const JAN_2026: Millis = 1_767_225_600_000;
    const HOUR: Millis = 3_600_000;

    async fn with_rows(times: &[Millis]) -> (Cluster, Store, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let tuning = Tuning {
            fsync: false,
            connections: 20,
        };
        let cluster = Cluster::open(&dir.path().join("pg"), tuning).unwrap();
        let target = Target::Socket {
            dir: cluster.socket_dir().to_path_buf(),
            port: cluster.port(),
            user: cluster.user().to_owned(),
            password: cluster.password().to_owned(),
            database: "t".to_owned(),
        };
        Store::create_database(&target, "t").await.unwrap();
        let store = Store::new(&target, 4).unwrap();
        store.migrate().await.unwrap();
        store
            .put_device("a", &Default::default(), None)
            .await
            .unwrap();
        let names = ["demand", "temperature", "humidity"].map(str::to_owned);
        let ids = store.register_sensors("a", &names).await.unwrap();
        let mut columns = ReadingColumns::default();
        for time in times {
            for id in ids.values() {
                columns.push(*id, *time, 1.0, 0, 2);
            }
        }
        store.insert_json_readings("a", &columns).await.unwrap();
        (cluster, store, dir)
    }

    fn spec(preset: &str) -> ForecasterSpec {
        serde_json::from_value(serde_json::json!({
            "name": "demand", "target": "demand", "inputs": ["temperature", "humidity"], "period": "1h",
            "lookback": 30, "horizon": 1, "preset": preset,
        }))
        .unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn rows_before_a_long_gap_count_for_the_classic_preset() {
        // 25 rows, a gap of two months, 4 rows: 29 stored, of which the last 60 hours have only 4.
        let newest_time = JAN_2026 + 1_500 * HOUR;
        let times: Vec<Millis> = (0..25)
            .map(|h| JAN_2026 + h * HOUR)
            .chain((0..4).map(|h| newest_time - h * HOUR))
            .collect();
        let (_cluster, store, _dir) = with_rows(&times).await;
        let rows = newest(&store, &spec("classic"), "a", 29).await.unwrap();
        assert_eq!(rows.len(), 29);
        assert_eq!(rows.last().unwrap().time, newest_time);
        // One more than there are: the search ends.
        let rows = newest(&store, &spec("classic"), "a", 30).await.unwrap();
        assert_eq!(rows.len(), 29);
    }
}
