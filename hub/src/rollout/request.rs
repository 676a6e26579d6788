//! A person asks for a rollout or steers one: owns what is refused and why, never how a rollout moves.

use fieldcast_features::ForecasterSpec;
use fieldcast_store::decisions::NewDecision;
use fieldcast_store::model_versions::ModelVersionRow;
use fieldcast_store::rollouts::Commanded;
use fieldcast_store::{Store, StoreError};

use super::plan::{Plan, PlanError};
use super::rows;
use super::state::{Operator, Status};

/// Why nothing was started, moved or steered.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// No such version.
    #[error("`{0}` has no version {1}; see `fieldcast-hub model list {0}`")]
    NoVersion(String, i64),
    /// Its bundle is gone.
    #[error(
        "the bundle of `{0}` version {1} was removed; take a version that `fieldcast-hub model list {0}` shows with one, or \
         `model import` an export of it"
    )]
    Removed(String, i64),
    /// Its bundle is lost.
    #[error("bundle {0} is missing; restore the database")]
    Missing(String),
    /// The definition forbids it.
    #[error(
        "`{0}` may run no version below {1}; take a newer one, or lower `rollout.floor` in its definition"
    )]
    BelowFloor(String, u64),
    /// The plan does not hold.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The definition cannot be read.
    #[error("{0}")]
    Definition(String),
    /// No such rollout.
    #[error("there is no rollout {0}; see `fieldcast-hub rollout list`")]
    NoRollout(i64),
    /// In its state that would change nothing.
    #[error("rollout {id} is {status} ({reason}) and cannot take `{what}`: {next}")]
    NotNow {
        /// The rollout.
        id: i64,
        /// Its state.
        status: String,
        /// Why it is in it.
        reason: String,
        /// What was asked for.
        what: &'static str,
        /// What can be done instead.
        next: String,
    },
    /// A rollout of the forecaster is in the way.
    #[error(
        "rollout {0} of `{1}` is open; wait for its end (`rollout watch {0}`), or `rollout abort {0}` first"
    )]
    Open(i64, String),
    /// An experiment has its devices.
    #[error(
        "experiment {0} of `{1}` is not over; wait for its end (`experiment show {0}`), or `experiment stop {0}` first"
    )]
    Experiment(i64, String),
    /// It cannot challenge itself.
    #[error("version {1} is the champion of `{0}`; name another version")]
    Champion(String, i64),
    /// Nobody answers for it.
    #[error("name the person who decides this (`by` in a request, `--by` on the command line)")]
    Nobody,
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Who asks, for what reason.
#[derive(Debug, Clone, Copy)]
pub struct Person<'a> {
    /// Name.
    pub name: &'a str,
    /// Why, in words; may be empty.
    pub reason: &'a str,
}

impl Person<'_> {
    /// The person without spaces around name and reason, as they are kept.
    ///
    /// # Errors
    /// A name that is none.
    pub fn checked(self) -> Result<Self, Refusal> {
        let (name, reason) = (self.name.trim(), self.reason.trim());
        if name.is_empty() || name.len() > 200 || name.chars().any(char::is_control) {
            return Err(Refusal::Nobody);
        }
        Ok(Self { name, reason })
    }

    /// The reason of a decision: what is done, and why where it was said.
    #[must_use]
    pub fn because(&self, what: &str) -> String {
        match self.reason {
            "" => what.to_owned(),
            reason => format!("{what}: {reason}"),
        }
    }
}

/// The stages of a rollout that is asked for.
#[derive(Debug, Clone)]
pub enum Stages {
    /// As the forecaster's definition has them.
    AsDefined,
    /// Every device at once, without canaries or evidence.
    AllAtOnce,
    /// These.
    Planned(Plan),
}

/// A version that devices may be ordered to run.
///
/// # Errors
/// No such version, or one below the floor.
pub async fn eligible(
    store: &Store,
    forecaster: &str,
    version: i64,
) -> Result<ModelVersionRow, Refusal> {
    let row = store.model_version(forecaster, version).await?;
    let row = row.ok_or_else(|| Refusal::NoVersion(forecaster.to_owned(), version))?;
    if row.removed_at.is_some() {
        return Err(Refusal::Removed(forecaster.to_owned(), version));
    }
    let floor = rows::floor_of(store.forecaster(forecaster).await?.as_ref());
    if u64::try_from(version).unwrap_or(0) < floor {
        return Err(Refusal::BelowFloor(forecaster.to_owned(), floor));
    }
    Ok(row)
}

/// Starts a rollout in a person's name, with the decision that says so; returns its number.
///
/// # Errors
/// A version, plan or name that does not hold; the database.
pub async fn start(
    store: &Store,
    forecaster: &str,
    version: i64,
    stages: Stages,
    person: Person<'_>,
) -> Result<i64, Refusal> {
    let person = person.checked()?;
    let row = eligible(store, forecaster, version).await?;
    let plan = match stages {
        Stages::Planned(plan) => plan,
        Stages::AllAtOnce => Plan::all_at_once(period_of(&row)),
        Stages::AsDefined => as_defined(store, &row).await?,
    };
    plan.validate()?;
    let rollout = rows::prepare(store, forecaster, version, plan, person.name).await?;
    let reason = person.because(&format!("version {version} is rolled out"));
    let decision = NewDecision {
        forecaster,
        decision: "roll_out",
        reason: &reason,
        decided_by: person.name,
        ..NewDecision::default()
    };
    let begun = store.create_rollout(&rollout, &decision).await?;
    begun.map_err(|experiment| Refusal::Experiment(experiment, forecaster.to_owned()))
}

fn sealed(row: &ModelVersionRow) -> Option<ForecasterSpec> {
    serde_json::from_value(row.manifest["forecaster"].clone()).ok()
}

/// Milliseconds; 0 where the manifest of an older hub does not say it.
fn period_of(row: &ModelVersionRow) -> i64 {
    sealed(row).map_or(0, |spec| spec.period_ms())
}

async fn as_defined(store: &Store, row: &ModelVersionRow) -> Result<Plan, Refusal> {
    let unreadable = |e: String| Refusal::Definition(e);
    let Some(definition) = store.forecaster(&row.forecaster).await? else {
        return Ok(Plan::all_at_once(period_of(row)));
    };
    let policy = rows::policy_of(&definition).map_err(|e| unreadable(format!("{e:#}")))?;
    let spec = sealed(row).unwrap_or(definition.spec);
    let champion = store.champion(&row.forecaster).await?;
    let champion = champion.filter(|c| c.version != row.version);
    let kind = rows::kind_of(champion.as_ref().map(|c| &c.manifest), &spec, false);
    Ok(policy.plan(kind, spec.period_ms()))
}

/// Asks the hub that drives rollouts to move one as a person wants it.
///
/// # Errors
/// No such rollout, one whose state does not take that, nobody's name, or the database.
pub async fn steer(
    store: &Store,
    id: i64,
    what: Operator,
    person: Person<'_>,
) -> Result<(), Refusal> {
    let person = person.checked()?;
    let by = (person.name, person.reason);
    let from = Status::ALL.into_iter().filter(|s| s.takes(what));
    let from: Vec<&str> = from.map(Status::as_str).collect();
    let what = what.as_str();
    match store.command_rollout(id, what, by, &from).await? {
        Commanded::Kept => Ok(()),
        Commanded::Unknown => Err(Refusal::NoRollout(id)),
        Commanded::NotNow { status, reason } => Err(Refusal::NotNow {
            id,
            next: next(id, &status),
            status,
            reason,
            what,
        }),
    }
}

/// What a person can do with a rollout in this state.
fn next(id: i64, status: &str) -> String {
    let Some(status) = Status::ALL.into_iter().find(|s| s.as_str() == status) else {
        return "a newer hub wrote that state; upgrade this one".to_owned();
    };
    if status.is_final() {
        return "it has ended; `rollout start` begins another".to_owned();
    }
    let takes = Operator::ALL.into_iter().filter(|o| status.takes(*o));
    let takes: Vec<_> = takes
        .map(|o| format!("`rollout {} {id}`", o.as_str()))
        .collect();
    match takes.as_slice() {
        [] => format!("wait for its end, with `rollout watch {id}`"),
        takes => format!("what it takes now is {}", takes.join(" or ")),
    }
}
