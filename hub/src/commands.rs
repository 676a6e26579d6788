//! Commands to devices: owns what may be given and that it is published until it has an outcome, never what a device does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use chrono::TimeDelta;
use fieldcast_device::commands::{LONGEST_MS, Task, TaskError};
use fieldcast_store::commands::{CommandRow, NewCommand};
use fieldcast_store::{Store, StoreError};
use fieldcast_wire::caps::{MAX_COMMANDS, MAX_TEXT};
use uuid::Uuid;

use crate::app::Hub;
use crate::rollout::request::{Person, Refusal as NoPerson};

const EVERY: Duration = Duration::from_secs(1);
/// Longest that a command may wait for its device.
const LONGEST: TimeDelta = TimeDelta::milliseconds(LONGEST_MS);

/// Why a command was not given.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Nobody answers for it.
    #[error(transparent)]
    Person(#[from] NoPerson),
    /// No such device.
    #[error("device `{0}` is unknown; see `fieldcast-hub device list`")]
    NoDevice(String),
    /// No such task.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// Too long an argument.
    #[error("the argument has more than {MAX_TEXT} bytes; shorten it")]
    Argument,
    /// A time that is none.
    #[error("a command must hold for 1 second to 30 days; name another time")]
    Expiry,
    /// Too many wait.
    #[error(
        "{MAX_COMMANDS} commands to `{0}` have no outcome yet; wait for them (`fieldcast-hub command list {0}`)"
    )]
    Full(String),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A command that a person asks for.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// To whom.
    pub device: &'a str,
    /// `restart`, `log` or `report`.
    pub name: &'a str,
    /// The filter of `log`; else empty.
    pub argument: &'a str,
    /// For how long the device may carry it out.
    pub holds: TimeDelta,
}

/// Stores a command in a person's name; the leading hub publishes it.
///
/// # Errors
/// What it names is none, too much waits, or the database.
pub async fn give(store: &Store, asked: Asked<'_>, by: &str) -> Result<Uuid, Refusal> {
    let person = Person {
        name: by,
        reason: "",
    };
    let by = person.checked()?.name;
    Task::new(asked.name, asked.argument)?;
    if asked.argument.len() > MAX_TEXT {
        return Err(Refusal::Argument);
    }
    if asked.holds < TimeDelta::seconds(1) || asked.holds > LONGEST {
        return Err(Refusal::Expiry);
    }
    if store.device(asked.device).await?.is_none() {
        return Err(Refusal::NoDevice(asked.device.to_owned()));
    }
    let new = NewCommand {
        id: Uuid::new_v4(),
        device: asked.device,
        name: asked.name,
        argument: asked.argument,
        given_by: by,
        expires_at: crate::clock::now() + asked.holds,
    };
    let most = i64::try_from(MAX_COMMANDS).unwrap_or(i64::MAX);
    match store.put_command(&new, most).await? {
        true => Ok(new.id),
        false => Err(Refusal::Full(asked.device.to_owned())),
    }
}

/// What is to be looked at in words.
#[must_use]
pub fn line(row: &CommandRow) -> String {
    let argument = match row.argument.as_str() {
        "" => String::new(),
        argument => format!(" `{argument}`"),
    };
    let head = format!(
        "{}  {}  {}{argument}  {}  by {}",
        row.id, row.device, row.name, row.state, row.given_by
    );
    match row.message.as_str() {
        "" => head,
        message => format!("{head}\n  {}", message.replace('\n', "\n  ")),
    }
}

/// While this hub leads: ends commands that have an outcome or expired, and publishes what devices shall do, until cancelled.
pub async fn run(hub: Hub) {
    // Left over where the broker was away.
    let mut stale = BTreeSet::new();
    let mut said = String::new();
    while !hub.end.is_cancelled() {
        let leads = *hub.leads.borrow();
        let done = match leads {
            true => round(&hub, &mut stale).await,
            false => Ok(()),
        };
        let problem = done.err().map(|e| format!("{e:#}")).unwrap_or_default();
        if problem != said && !problem.is_empty() {
            tracing::warn!("commands: {problem}; tried again every second");
        }
        said = problem;
        tokio::select! {
            () = hub.end.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

async fn round(hub: &Hub, stale: &mut BTreeSet<String>) -> Result<()> {
    stale.extend(hub.store.settle_commands(crate::clock::now()).await?);
    let mut new: BTreeMap<String, Vec<Uuid>> = BTreeMap::new();
    for (id, device) in hub.store.unpublished_commands().await? {
        new.entry(device).or_default().push(id);
    }
    stale.extend(new.keys().cloned());
    if stale.is_empty() || !hub.downlink.connected() {
        return Ok(());
    }
    let devices: Vec<String> = stale.iter().cloned().collect();
    let mut published = Vec::new();
    let done = hub.downlink.refresh(&devices, |device| {
        published.extend(new.remove(device).unwrap_or_default());
        stale.remove(device);
    });
    let done = done.await;
    hub.store.published_commands(&published).await?;
    done
}
