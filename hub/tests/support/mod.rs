//! Parts shared by the hub's tests: a private PostgreSQL of one test process, a database of each test, real batches.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "tests"
)]

pub mod fleet;
pub mod http;
pub mod learning;
pub mod mosquitto;
pub mod process;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use fieldcast_features::ForecasterSpec;
use fieldcast_hub::ingest::Job;
use fieldcast_hub::registry::promote::{Promoted, Way, promote};
use fieldcast_hub::rollout::plan::Plan;
use fieldcast_hub::rollout::request::{self, Person, Stages};
use fieldcast_postgres::{Cluster, Tuning};
use fieldcast_store::decisions::NewDecision;
use fieldcast_store::jobs::Claim;
use fieldcast_store::model_versions::{Concluded, Conclusion, NewModelVersion};
use fieldcast_store::rollouts::NewRollout;
use fieldcast_store::{Store, Target};
use fieldcast_wire::batch::{Header, encode};
use fieldcast_wire::{DeviceId, Epoch, Reading, Record, RecordBody, pb};
use serde_json::{Value, json};

/// A private server with one migrated database; stopped and removed when dropped.
pub struct Bed {
    pub store: Store,
    pub target: Target,
    pub cluster: Cluster,
    pub dir: tempfile::TempDir,
}

pub async fn bed() -> Bed {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let cluster = Cluster::open(
        &dir.path().join("pg"),
        Tuning {
            fsync: false,
            connections: 40,
        },
    )
    .unwrap();
    let target = Target::Socket {
        dir: cluster.socket_dir().to_path_buf(),
        port: cluster.port(),
        user: cluster.user().to_owned(),
        password: cluster.password().to_owned(),
        database: "t".to_owned(),
    };
    Store::create_database(&target, "t").await.unwrap();
    let store = Store::new(&target, 8).unwrap();
    store.migrate().await.unwrap();
    Bed {
        store,
        target,
        cluster,
        dir,
    }
}

impl Bed {
    /// The server's address for a database, by its socket.
    pub fn url(&self, database: &str) -> String {
        self.url_with(self.cluster.password(), database)
    }

    pub fn url_with(&self, password: &str, database: &str) -> String {
        let socket = self.cluster.socket_dir().display().to_string();
        format!(
            "postgres://{}:{password}@{}:{}/{database}",
            self.cluster.user(),
            socket.replace('/', "%2F"),
            self.cluster.port()
        )
    }

    /// The same by way of a TCP port.
    pub fn url_by(&self, port: u16, database: &str) -> String {
        let (user, password) = (self.cluster.user(), self.cluster.password());
        format!("postgres://{user}:{password}@127.0.0.1:{port}/{database}")
    }

    /// Lets connections to the port through to the server until the handle's end.
    pub async fn forward(&self, port: u16) -> tokio::task::JoinHandle<()> {
        let path = self
            .cluster
            .socket_dir()
            .join(format!(".s.PGSQL.{}", self.cluster.port()));
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port))
            .await
            .unwrap();
        tokio::spawn(async move {
            // Connections end with the set, which ends with this task.
            let mut open = tokio::task::JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let mut server = tokio::net::UnixStream::connect(&path).await.unwrap();
                open.spawn(async move {
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                });
            }
        })
    }
}

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

pub fn device(name: &str) -> DeviceId {
    DeviceId::new(name).unwrap()
}

pub fn epoch(n: u128) -> Epoch {
    Epoch(uuid::Uuid::from_u128(n))
}

pub fn reading(sensor: &str, time: i64, value: f64) -> RecordBody {
    RecordBody::Reading(Reading {
        sensor: sensor.into(),
        time,
        value,
        quality: 0,
        time_source: pb::TimeSource::External,
    })
}

/// The bytes of a batch.
pub fn payload(epoch: Epoch, number: u64, first_seq: u64, bodies: Vec<RecordBody>) -> Vec<u8> {
    let clock = pb::ClockStamp {
        boot_id: "boot".into(),
        monotonic_ms: 10 * number as i64,
        ..Default::default()
    };
    let records: Vec<Record> = (first_seq..)
        .zip(bodies)
        .map(|(seq, body)| Record { seq, body })
        .collect();
    encode(
        &Header {
            epoch,
            number,
            clock,
        },
        &records,
    )
    .unwrap()
}

pub fn job(name: &str, payload: &[u8]) -> Job {
    Job::new(device(name), payload, true).unwrap()
}

/// Runs SQL that no program of ours has, as an administrator would.
pub fn psql(bed: &Bed, sql: &str) {
    let done = std::process::Command::new("psql")
        .args([
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            bed.cluster.user(),
            "-d",
            "t",
            "-c",
            sql,
        ])
        .arg("-h")
        .arg(bed.cluster.socket_dir())
        .args(["-p", &bed.cluster.port().to_string()])
        .env("PGPASSWORD", bed.cluster.password())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "psql: {said}");
}

/// Kills the database's server and all its processes: one that serves a connection would still answer what is asked at once.
pub fn kill_database(bed: &Bed) {
    let server = bed.cluster.pid().unwrap().to_string();
    let signal = |signal: &str, processes: &[std::ffi::OsString]| {
        let mut kill = std::process::Command::new("kill");
        kill.arg(signal).args(processes).output().unwrap()
    };
    let processes = [server.clone().into()];
    // It makes none while we count.
    assert!(signal("-STOP", &processes).status.success());
    let serves = |process: &std::fs::DirEntry| {
        let stat = std::fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        // After the name, which may hold anything: the state, then who started it.
        let rest = stat.rsplit_once(") ").map(|(_, rest)| rest);
        rest.and_then(|rest| rest.split(' ').nth(1)) == Some(&server)
    };
    let serving = std::fs::read_dir("/proc").unwrap().flatten();
    let serving: Vec<_> = serving.filter(serves).map(|p| p.file_name()).collect();
    assert!(!serving.is_empty());
    assert!(signal("-KILL", &processes).status.success());
    // Whichever of these has ended meanwhile needs no signal.
    signal("-KILL", &serving);
}

pub async fn add_device(store: &Store, name: &str, token: Option<&str>) {
    let hash = token.map(|t| fieldcast_wire::Sha256::of(t.as_bytes()).0);
    store
        .put_device(name, &BTreeMap::new(), hash.as_ref().map(|h| &h[..]))
        .await
        .unwrap();
}

pub async fn readings(store: &Store, name: &str) -> Vec<(String, i64, f64)> {
    let sensors: Vec<String> = store
        .sensors(name)
        .await
        .unwrap()
        .into_iter()
        .map(|s| s.name)
        .collect();
    let all = store
        .readings_between(name, &sensors, i64::MIN / 4, i64::MAX / 4)
        .await
        .unwrap();
    all.into_iter()
        .map(|r| (r.sensor, r.time, r.value))
        .collect()
}

/// Defines an hourly forecaster of demand, with the keys of `other` in place of the usual ones.
pub async fn define(store: &Store, name: &str, other: Value) {
    let mut spec = json!({"name": name, "target": "demand", "inputs": ["temperature", "demand"], "period": "1h",
        "lookback": 48, "horizon": 6});
    for (key, value) in other.as_object().unwrap() {
        spec[key] = value.clone();
    }
    let spec: ForecasterSpec = serde_json::from_value(spec).unwrap();
    spec.validate().unwrap();
    store
        .apply_forecaster(&spec, &json!({}), &json!({}))
        .await
        .unwrap();
}

/// Concludes a training job with a model version of a few bytes, without a rollout or a title.
pub async fn conclude(
    store: &Store,
    claim: &Claim<'_>,
    forecaster: &str,
    version: i64,
) -> Option<Value> {
    let bytes = format!("{forecaster} {version}").into_bytes();
    conclude_with(store, claim, forecaster, version, &bytes).await
}

/// The same of some bytes.
pub async fn conclude_with(
    store: &Store,
    claim: &Claim<'_>,
    forecaster: &str,
    version: i64,
    bytes: &[u8],
) -> Option<Value> {
    let of = (forecaster, version, bytes);
    match conclude_all(store, claim, of, None, None).await {
        Concluded::Stored(result) => Some(result),
        Concluded::ClaimLost => None,
        Concluded::Overtaken => panic!("version {version} is there"),
    }
}

/// The same with a rollout, judged against a champion.
pub async fn conclude_all(
    store: &Store,
    claim: &Claim<'_>,
    (forecaster, version, bytes): (&str, i64, &[u8]),
    rollout: Option<NewRollout<'_>>,
    champion: Option<i64>,
) -> Concluded {
    let sha = fieldcast_wire::Sha256::of(bytes);
    let none = json!({});
    let conclusion = Conclusion {
        model: NewModelVersion {
            forecaster,
            version,
            sha: &sha.0,
            bytes,
            manifest: &none,
            metrics: &none,
            lineage: &none,
            verdict: &none,
            scores: &none,
        },
        decision: NewDecision {
            forecaster,
            decision: if rollout.is_some() {
                "roll_out"
            } else {
                "keep"
            },
            ..NewDecision::default()
        },
        rollout,
        champion,
        result: json!({"model_version": version}),
    };
    store.conclude_training(claim, &conclusion).await.unwrap()
}

/// Stores a model version as a training job does.
pub async fn register(store: &Store, forecaster: &str, version: i64) {
    store
        .enqueue("train", forecaster, &json!({}))
        .await
        .unwrap();
    let job = store.claim_job("w", 30.0, None).await.unwrap().unwrap();
    let result = conclude(store, &job.claim(), forecaster, version).await;
    let status = store.finish_job(&job, "w", Ok(result.unwrap())).await;
    assert_eq!(status.unwrap().as_deref(), Some("succeeded"));
}

/// Gives a version the title on trial, as a first model has it while its rollout is open, without a rollout.
pub fn on_trial(bed: &Bed, forecaster: &str, version: i64) {
    psql(
        bed,
        &format!(
            "INSERT INTO champions (forecaster, version, set_by, on_trial) VALUES ('{forecaster}', {version}, 'training run 1', true)"
        ),
    );
}

/// A person names the champion: from now on it is what every device is ordered to run.
pub async fn crown(store: &Store, forecaster: &str, version: i64) {
    let ann = Person {
        name: "ann",
        reason: "",
    };
    let done = promote(store, forecaster, version, Way::Champion, ann).await;
    assert_eq!(done.unwrap(), Promoted::Champion(version));
}

/// Starts a rollout of `f` as a person does; its number.
pub async fn roll_out(store: &Store, version: i64, plan: Plan) -> i64 {
    let ann = Person {
        name: "ann",
        reason: "",
    };
    request::start(store, "f", version, Stages::Planned(plan), ann)
        .await
        .unwrap()
}

/// A bundle's manifest as lists show it.
pub fn shown(manifest: &fieldcast_bundle::Manifest) -> Value {
    let mut shown = json!(manifest);
    shown.as_object_mut().unwrap().remove("golden");
    shown
}

pub fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(30)
}
