//! A fleet's life: owns that its devices may connect, that they all start, and that they end; counts through the tally.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fieldcast_store::Store;
use fieldcast_wire::{DeviceId, Sha256, SiteId, Topics};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use super::device::Report;
use super::device::{Device, Fleet};
use super::link::Way;
use super::plan::Plan;
use super::shelf::Shelf;
use super::tally::{Summary, Tally};
use crate::broker::random_token;
use crate::mqtt::Link;
use crate::signing::Signer;
use crate::sockets;

/// Label of made devices; a device without it is never taken for one.
pub const MARK: &str = "simulated";
/// Devices added at once.
const CHUNK: usize = 1_000;
/// Files and sockets beside those of devices.
const BESIDE: u64 = 200;

/// A fleet whose devices the hub knows.
pub struct Known {
    plan: Arc<Plan>,
    devices: Vec<(DeviceId, String)>,
}

/// Adds the devices of a plan to the database, as `device add` does, with new tokens.
///
/// # Errors
/// A name that another device has; the database.
pub async fn provision(
    store: &Store,
    plan: Plan,
    labels: &BTreeMap<String, String>,
) -> Result<Known> {
    plan.validate()?;
    let mut labels = labels.clone();
    labels.insert(MARK.to_owned(), "yes".to_owned());
    let mut devices = Vec::new();
    for number in 0..plan.devices {
        devices.push((DeviceId::new(plan.name(number))?, random_token()?));
    }
    for chunk in devices.chunks(CHUNK) {
        let ids: Vec<String> = chunk.iter().map(|(id, _)| id.as_str().to_owned()).collect();
        let hash = |token: &String| Sha256::of(token.as_bytes()).to_vec();
        let hashes: Vec<Vec<u8>> = chunk.iter().map(|(_, token)| hash(token)).collect();
        let written = store.put_devices(&ids, &labels, &hashes, MARK).await?;
        ensure!(
            written == ids.len() as u64,
            "some of the names {} to {} belong to devices that are not simulated; choose others with --prefix",
            ids.first().map_or("", String::as_str),
            ids.last().map_or("", String::as_str),
        );
    }
    Ok(Known {
        plan: Arc::new(plan),
        devices,
    })
}

/// Lets a fleet live until its readings are delivered, its time is over, or `stop`; tells how it goes each `tell_every`.
///
/// # Errors
/// Too few sockets, or no authority for TLS.
pub async fn run(
    known: Known,
    site: &SiteId,
    broker: &Link,
    signer: &Signer,
    stop: CancellationToken,
    tell_every: Duration,
    mut tell: impl FnMut(&Summary),
) -> Result<(Summary, Vec<Report>)> {
    let Known { plan, devices } = known;
    let needed = u64::from(plan.devices) + BESIDE;
    let sockets = sockets::make_room(needed)?;
    ensure!(
        sockets >= needed,
        "this process may open {sockets} files, {} devices need {needed}; raise the limit with `ulimit -Hn`",
        plan.devices
    );
    let tls = broker.tls.as_ref().map(crate::tls::Tls::transport);
    let way = Way {
        host: broker.host.as_str().into(),
        port: broker.port,
        tls: tls.transpose()?,
    };
    // Sessions and boots count on from run to run: the start's second is above all that an earlier run can have reached.
    let second = crate::clock::now().timestamp();
    let run = u64::try_from(second).context("this machine's clock is before 1970; set it")? << 12;
    let (count, tally) = (plan.devices, Arc::new(Tally::default()));
    let began = Instant::now();
    let fleet = Arc::new(Fleet {
        plan,
        topics: Topics::new(site),
        site: site.as_str().to_owned(),
        way,
        root: signer.root_public(),
        shelf: Arc::new(Shelf::default()),
        tally: Arc::clone(&tally),
        began,
        run,
        stop,
    });
    let mut tasks = JoinSet::new();
    for (number, (id, token)) in (0..).zip(devices) {
        tasks.spawn(Device::new(Arc::clone(&fleet), number, id, token).run());
    }
    let summary = || tally.summary(count, began.elapsed().as_secs_f64());
    let mut reports = Vec::new();
    let mut tick = tokio::time::interval_at(began + tell_every, tell_every);
    loop {
        tokio::select! {
            ended = tasks.join_next() => match ended {
                Some(report) => reports.push(report.context("a device's task ended badly; report this")?),
                None => break,
            },
            _ = tick.tick() => tell(&summary()),
        }
    }
    reports.sort_by_key(|r| r.device);
    Ok((summary(), reports))
}
