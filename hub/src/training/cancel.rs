//! A person ends a training run: owns what is refused and what the run's history says of it, never how the run ends.

use fieldcast_store::jobs::Cancel;
use fieldcast_store::{Store, StoreError};

use crate::rollout::request::{Person, Refusal as NoPerson};

/// Why nothing ends.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// No such run.
    #[error("there is no training run {0}; see `fieldcast-hub run list`")]
    NoRun(i64),
    /// It is over, or has stored its model already.
    #[error(
        "training run {0} is past cancelling ({1}); `fieldcast-hub run show {0}` says what came of it"
    )]
    Over(i64, String),
    /// Nobody answers for it.
    #[error(transparent)]
    Person(#[from] NoPerson),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Asks a run to end in a person's name; its status before it ends.
///
/// # Errors
/// No such run, one that is over, nobody's name, or the database.
pub async fn cancel(store: &Store, id: i64, person: Person<'_>) -> Result<String, Refusal> {
    let person = person.checked()?;
    let line = person.because(&format!("{} asked for its end", person.name));
    match store.cancel_job(id, &line).await? {
        Cancel::Asked(status) => Ok(status),
        Cancel::Over(status) => Err(Refusal::Over(id, status)),
        Cancel::Unknown => Err(Refusal::NoRun(id)),
    }
}
