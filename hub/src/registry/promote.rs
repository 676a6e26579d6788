//! A person gives a version a title: owns the ways to do so and what is refused, never what a rollout's outcome does.

use fieldcast_store::Store;
use fieldcast_store::aliases::{Moved, Title};
use fieldcast_store::decisions::NewDecision;
use serde::Serialize;

use crate::rollout::request::{self, Person, Refusal, Stages};

/// How a version gets further.
#[derive(Debug, Clone)]
pub enum Way {
    /// By a rollout, whose outcome moves the title.
    Rollout(Stages),
    /// At once: it is the champion, and devices are ordered to run it without stages or evidence.
    Champion,
    /// At once: it is the challenger, and no device is ordered anything.
    Challenger,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Promoted {
    /// This rollout was started.
    Rollout(i64),
    /// The title has moved to this version.
    Champion(i64),
    /// The title has moved to this version.
    Challenger(i64),
}

/// Promotes a version in a person's name.
///
/// # Errors
/// A version that may not be run, an open rollout in the way, nobody's name, or the database.
pub async fn promote(
    store: &Store,
    forecaster: &str,
    version: i64,
    way: Way,
    person: Person<'_>,
) -> Result<Promoted, Refusal> {
    let person = person.checked()?;
    let (title, decision, done) = match way {
        Way::Rollout(stages) => {
            let id = request::start(store, forecaster, version, stages, person).await?;
            return Ok(Promoted::Rollout(id));
        }
        Way::Champion => (Title::Champion, "promote", Promoted::Champion(version)),
        Way::Challenger => (
            Title::Challenger,
            "challenge",
            Promoted::Challenger(version),
        ),
    };
    request::eligible(store, forecaster, version).await?;
    if title == Title::Challenger
        && store.holder(Title::Champion, forecaster).await? == Some(version)
    {
        return Err(Refusal::Champion(forecaster.to_owned(), version));
    }
    let word = match title {
        Title::Champion => "champion",
        Title::Challenger => "challenger",
    };
    let reason = person.because(&format!("version {version} is the {word}"));
    let decision = NewDecision {
        forecaster,
        decision,
        reason: &reason,
        decided_by: person.name,
        ..NewDecision::default()
    };
    match store.move_title(title, version, &decision).await? {
        Moved::Done | Moved::Same => Ok(done),
        Moved::Open(rollout) => Err(Refusal::Open(rollout, forecaster.to_owned())),
        Moved::Experiment(id) => Err(Refusal::Experiment(id, forecaster.to_owned())),
        Moved::Gone => Err(Refusal::Removed(forecaster.to_owned(), version)),
    }
}
