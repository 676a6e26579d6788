//! Readings a second from payload to COMMIT beside psql's binary COPY of the same rows into the same table; `cargo xtask bench delivery`
//! starts it. Owns the made batches and the turns, never what is written.
//!
//! `ingest_copy FOLDER [TURNS]`: an empty or new folder for a private PostgreSQL. Prints a line of JSON.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use fieldcast_hub::ingest::{Ingestor, Job};
use fieldcast_postgres::{Cluster, Tuning, cluster_root};
use fieldcast_store::{Store, Target};
use fieldcast_wire::batch::{self, Header};
use fieldcast_wire::{DeviceId, Epoch, Reading, Record, RecordBody, pb};

const DATABASE: &str = "fieldcast";
const DEVICES: u64 = 50;
/// Batches of a device in a turn, each of as many readings of ten sensors.
const BATCHES: u64 = 4;
const READINGS: u64 = 1_000;
const SENSORS: u64 = 10;
/// Batches of one transaction, as the service groups them at most.
const GROUP: usize = 64;
const COLUMNS: &str = "sensor, time, value, quality, time_quality, device_time, unanchored";

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().context("ingest_copy FOLDER [TURNS]")?);
    let turns: u64 = args.next().map_or(Ok(7), |n| n.parse())?;
    std::fs::create_dir_all(&folder)?;
    let cluster = Cluster::open(
        &cluster_root(&std::path::absolute(&folder)?)?,
        Tuning::default(),
    )?;
    let target = Target::Socket {
        dir: cluster.socket_dir().to_path_buf(),
        port: cluster.port(),
        user: cluster.user().to_owned(),
        password: cluster.password().to_owned(),
        database: DATABASE.to_owned(),
    };
    Store::create_database(&target, DATABASE).await?;
    let store = Store::new(&target, 4)?;
    store.migrate().await?;
    for device in 0..DEVICES {
        let labels = BTreeMap::new();
        store
            .put_device(&name(device), &labels, Some(&[0; 32]))
            .await?;
    }
    let psql = Psql {
        cluster: &cluster,
        rows: folder.join("rows.bin"),
    };
    let mut ingestor = Ingestor::new(store.clone()).await?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    // The first turn makes sensors and partitions, and is not counted.
    for turn in 0..=turns {
        let payloads = payloads(turn)?;
        psql.run("CHECKPOINT")?;
        let begun = Instant::now();
        for group in payloads.chunks(GROUP) {
            let jobs: Result<Vec<Job>, _> = group
                .iter()
                .map(|(device, bytes)| Job::new(device.clone(), bytes, true))
                .collect();
            let written = ingestor.write(&jobs?).await?;
            let refused = written.acks.iter().any(|(_, ack)| !ack.rejected.is_empty());
            ensure!(!refused, "a made batch was refused");
        }
        let our = begun.elapsed().as_secs_f64();
        psql.copy(&format!("(SELECT {COLUMNS} FROM readings) TO"))?;
        psql.run("TRUNCATE readings")?;
        psql.run("CHECKPOINT")?;
        let (copied, their) = psql.copy(&format!("readings ({COLUMNS}) FROM"))?;
        ensure!(
            copied == DEVICES * BATCHES * READINGS,
            "{copied} rows were copied"
        );
        psql.run("TRUNCATE readings")?;
        if turn > 0 {
            ours.push(our);
            theirs.push(their);
        }
    }
    store.close().await;
    let readings = (DEVICES * BATCHES * READINGS) as f64;
    println!(
        "{}",
        serde_json::json!({
            "readings_per_s": readings / median(&mut ours),
            "copy_per_s": readings / median(&mut theirs),
        })
    );
    cluster.close()?;
    Ok(())
}

fn name(device: u64) -> String {
    format!("d{device}")
}

fn median(seconds: &mut [f64]) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Batches as devices send them, sorted as the service sorts a group.
fn payloads(turn: u64) -> Result<Vec<(DeviceId, Vec<u8>)>> {
    let mut all = Vec::new();
    for device in 0..DEVICES {
        for n in 0..BATCHES {
            let number = turn * BATCHES + n + 1;
            let first = (number - 1) * READINGS;
            let records: Vec<Record> = (first..first + READINGS)
                .map(|i| record(device, i))
                .collect();
            let header = Header {
                epoch: Epoch::from_slice(&u128::from(device + 1).to_be_bytes())?,
                number,
                clock: pb::ClockStamp {
                    boot_id: "boot".into(),
                    monotonic_ms: i64::try_from(number)?,
                    synchronised: true,
                    ..pb::ClockStamp::default()
                },
            };
            all.push((
                DeviceId::new(name(device))?,
                batch::encode(&header, &records)?,
            ));
        }
    }
    Ok(all)
}

/// Reading `i` of a device: ten sensors a second, slow waves with two decimals.
fn record(device: u64, i: u64) -> Record {
    let second = i64::try_from(i / SENSORS).unwrap_or(i64::MAX);
    let wave = (second as f64 / 700.0 + (device + i % SENSORS) as f64).sin();
    let unrest = (i.wrapping_mul(2_654_435_761) >> 13) % 7;
    Record {
        seq: i + 1,
        body: RecordBody::Reading(Reading {
            sensor: format!("s{}", i % SENSORS),
            time: 1_750_000_000_000 + second * 1_000,
            value: ((wave * 800.0).round() + 2_000.0 + unrest as f64) / 100.0,
            quality: 0,
            time_source: pb::TimeSource::External,
        }),
    }
}

/// PostgreSQL's own client.
struct Psql<'a> {
    cluster: &'a Cluster,
    rows: PathBuf,
}

impl Psql<'_> {
    fn run(&self, sql: &str) -> Result<String> {
        let psql = fieldcast_postgres::Binaries::find()?.program("psql");
        let out = Command::new(psql)
            .args(["--no-psqlrc", "--set=ON_ERROR_STOP=1", "--dbname", DATABASE])
            .args(["--command=\\timing on", "--command", sql])
            .env("PGHOST", self.cluster.socket_dir())
            .env("PGPORT", self.cluster.port().to_string())
            .env("PGUSER", self.cluster.user())
            .env("PGPASSWORD", self.cluster.password())
            .output()
            .context("run psql")?;
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        ensure!(
            out.status.success(),
            "psql: {}{said}",
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(said)
    }

    /// Copies between a table and the file; rows and seconds, without the start of psql.
    fn copy(&self, what: &str) -> Result<(u64, f64)> {
        let file: &Path = &self.rows;
        let said = self.run(&format!(
            "\\copy {what} '{}' WITH (FORMAT binary)",
            file.display()
        ))?;
        let number = |begin: &str| {
            let line = said.lines().find_map(|l| l.strip_prefix(begin));
            line.and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok())
        };
        let ms = number("Time: ").with_context(|| format!("psql told no time: {said}"))?;
        let rows = number("COPY ").unwrap_or_default();
        Ok((rows as u64, ms / 1e3))
    }
}
