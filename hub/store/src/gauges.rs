//! Counts over the tables for monitoring, zero where a state has nothing in it: owns their names and SQL, never their encoding.

use crate::error::Context as _;
use crate::{Result, Store};

/// Name, help, and values by labels as Prometheus writes them.
pub type Gauge = (&'static str, &'static str, Vec<(String, f64)>);

const QUERIES: [(&str, &str, &str); 8] = [
    (
        "fieldcast_devices",
        "Devices by connection.",
        "SELECT '{online=\"' || k.online || '\"}', count(d.id)::float8
         FROM unnest(ARRAY[false, true]) k(online) LEFT JOIN devices d ON d.online = k.online GROUP BY 1 ORDER BY 1",
    ),
    (
        "fieldcast_jobs",
        "Jobs by state.",
        "SELECT '{status=\"' || coalesce(k.status, j.status) || '\"}', count(j.id)::float8
         FROM unnest(ARRAY['queued', 'running', 'succeeded', 'failed', 'cancelled']) k(status)
         FULL JOIN jobs j ON j.status = k.status GROUP BY 1 ORDER BY 1",
    ),
    (
        "fieldcast_rollouts",
        "Rollouts by state, ended ones too.",
        "SELECT '{status=\"' || coalesce(k.status, r.status) || '\"}', count(r.id)::float8
         FROM unnest(ARRAY['awaiting', 'running', 'paused', 'rolling_back', 'succeeded', 'rolled_back', 'superseded']) k(status)
         FULL JOIN rollouts r ON r.status = k.status GROUP BY 1 ORDER BY 1",
    ),
    (
        "fieldcast_deployments",
        "Devices of open rollouts by state.",
        "SELECT '{state=\"' || coalesce(k.state, o.state) || '\"}', count(o.state)::float8
         FROM unnest(ARRAY['pending', 'downloading', 'verified', 'shadowing', 'active', 'healthy', 'failed', 'rolled_back',
            'rejected', 'timed_out', 'superseded']) k(state)
         FULL JOIN (SELECT d.state FROM deployments d JOIN rollouts r ON r.id = d.rollout WHERE r.finished_at IS NULL) o
            ON o.state = k.state GROUP BY 1 ORDER BY 1",
    ),
    (
        "fieldcast_experiments",
        "Experiments by state, ended ones too.",
        "SELECT '{status=\"' || coalesce(k.status, e.status) || '\"}', count(e.id)::float8
         FROM unnest(ARRAY['planned', 'running', 'collecting', 'ended', 'stopped']) k(status)
         FULL JOIN experiments e ON e.status = k.status GROUP BY 1 ORDER BY 1",
    ),
    (
        "fieldcast_champion_version",
        "Champion by forecaster.",
        "SELECT '{forecaster=\"' || forecaster || '\"}', version::float8 FROM champions WHERE grp = 'all'",
    ),
    (
        "fieldcast_drift_reports",
        "Drift reports by kind and verdict.",
        "SELECT '{kind=\"' || kind || '\",confirmed=\"' || confirmed || '\"}', count(*)::float8 FROM drift_reports GROUP BY 1",
    ),
    (
        "fieldcast_drifting_inputs",
        "Inputs of devices that differ from what the champion was trained on.",
        "SELECT '{forecaster=\"' || n.forecaster || '\"}', count(DISTINCT (n.device, n.sensor))::float8 FROM (
            SELECT DISTINCT ON (device, forecaster, sensor, detector) device, forecaster, sensor, raised, model_version
            FROM drift_signals WHERE kind = 'covariate' AND detector <> 'cusum_rows' ORDER BY device, forecaster, sensor, detector, id DESC) n
         JOIN champions c ON c.forecaster = n.forecaster AND c.grp = 'all' AND c.version = n.model_version
         WHERE n.raised GROUP BY 1",
    ),
];

impl Store {
    /// Appends the gauges up to the first that cannot be read.
    ///
    /// # Errors
    /// The database.
    pub async fn gauges(&self, all: &mut Vec<Gauge>) -> Result<()> {
        for (name, help, sql) in QUERIES {
            let rows = sqlx::query_as(sql)
                .fetch_all(self.pool())
                .await
                .during(format!("count {name}"))?;
            all.push((name, help, rows));
        }
        Ok(())
    }
}
