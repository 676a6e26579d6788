//! Parts shared by the hub's tests: a private PostgreSQL of one test process, a database of each test, real batches.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "tests"
)]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use fieldcast_hub::ingest::Job;
use fieldcast_postgres::{Cluster, Tuning};
use fieldcast_store::{Store, Target};
use fieldcast_wire::batch::{Header, encode};
use fieldcast_wire::{DeviceId, Epoch, Reading, Record, RecordBody, pb};

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

pub fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(30)
}
