//! `POST /v1/rollouts...` and promotion: owns the routes by which people start and steer, never what is refused or why.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::Rest;
use super::extract::{JsonBody, Path};
use super::problem::Problem;
use crate::registry::promote::{self, Promoted, Way};
use crate::rollout::plan::Plan;
use crate::rollout::request::{self, Person, Refusal, Stages};
use crate::rollout::state::Operator;

/// A rollout that is asked for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewRollout {
    /// Forecaster.
    forecaster: String,
    /// Version.
    version: i64,
    /// Stages as in a plan file (`{"stages": [...]}`); those of the forecaster's definition where it is left out.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    plan: Option<Value>,
    /// The person who decides this.
    by: String,
    /// Why, kept with the decision.
    #[serde(default)]
    reason: String,
}

/// Who steers.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct By {
    /// The person who decides this.
    by: String,
    /// Why, kept with the decision.
    #[serde(default)]
    reason: String,
}

impl By {
    pub(super) fn person(&self) -> Person<'_> {
        Person {
            name: &self.by,
            reason: &self.reason,
        }
    }
}

/// A version that gets a title at once.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewTitle {
    /// Forecaster.
    forecaster: String,
    /// The title.
    title: Title,
    /// The person who decides this.
    by: String,
    /// Why, kept with the decision.
    #[serde(default)]
    reason: String,
}

/// A title.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Title {
    /// Every device is ordered to run it.
    Champion,
    /// No device is ordered anything.
    Challenger,
}

/// A rollout that was started.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Started {
    /// Its number.
    rollout: i64,
}

/// A command on its way to the hub that drives rollouts.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Steered {
    /// The rollout's number.
    rollout: i64,
    /// What it shall do.
    command: String,
}

/// A title that has moved.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Titled {
    /// Champion, where that is it.
    champion: Option<i64>,
    /// Challenger, where that is it.
    challenger: Option<i64>,
}

impl From<Refusal> for Problem {
    fn from(refused: Refusal) -> Self {
        let status = match refused {
            Refusal::Store(e) => return e.into(),
            Refusal::NoVersion(..) | Refusal::NoRollout(_) => StatusCode::NOT_FOUND,
            Refusal::Open(..)
            | Refusal::Experiment(..)
            | Refusal::Champion(..)
            | Refusal::Removed(..)
            | Refusal::NotNow { .. } => StatusCode::CONFLICT,
            Refusal::BelowFloor(..) | Refusal::Plan(_) | Refusal::Nobody => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            Refusal::Definition(_) | Refusal::Missing(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, refused.to_string())
    }
}

/// Starts a rollout in a person's name.
///
/// # Errors
/// A version, plan or name that does not hold, or the database.
#[utoipa::path(post, path = "/v1/rollouts", request_body = NewRollout, responses((status = 201, body = Started), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn start(
    State(rest): State<Rest>,
    JsonBody(new): JsonBody<NewRollout>,
) -> Result<(StatusCode, Json<Started>), Problem> {
    let stages = match new.plan {
        None => Stages::AsDefined,
        Some(plan) => Stages::Planned(
            serde_json::from_value::<Plan>(plan)
                .map_err(|e| Problem::invalid(format!("plan: {e}; see docs/rollouts.md")))?,
        ),
    };
    let person = Person {
        name: &new.by,
        reason: &new.reason,
    };
    let store = &rest.hub.store;
    let rollout = request::start(store, &new.forecaster, new.version, stages, person).await?;
    Ok((StatusCode::CREATED, Json(Started { rollout })))
}

/// Pauses, resumes, approves or aborts a rollout in a person's name; the hub that drives rollouts carries it out.
///
/// # Errors
/// No such rollout or command, a state in which it would change nothing, nobody's name, or the database.
#[utoipa::path(post, path = "/v1/rollouts/{id}/{command}", params(("id" = i64, Path), ("command" = String, Path, description = "pause, resume, approve or abort")), request_body = By, responses((status = 202, body = Steered), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn steer(
    State(rest): State<Rest>,
    Path((id, command)): Path<(i64, String)>,
    JsonBody(who): JsonBody<By>,
) -> Result<(StatusCode, Json<Steered>), Problem> {
    let what = Operator::of(&command).ok_or_else(|| {
        Problem::not_found(format!(
            "`{command}` is no command; there are pause, resume, approve and abort"
        ))
    })?;
    request::steer(&rest.hub.store, id, what, who.person()).await?;
    let steered = Steered {
        rollout: id,
        command,
    };
    Ok((StatusCode::ACCEPTED, Json(steered)))
}

/// Gives a version a title at once, in a person's name. `POST /v1/rollouts` brings it to devices in stages instead.
///
/// # Errors
/// A version that may not be run, an open rollout in the way, nobody's name, or the database.
#[utoipa::path(post, path = "/v1/models/{version}/title", params(("version" = i64, Path)), request_body = NewTitle, responses((status = 200, body = Titled), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn title(
    State(rest): State<Rest>,
    Path(version): Path<i64>,
    JsonBody(new): JsonBody<NewTitle>,
) -> Result<Json<Titled>, Problem> {
    let way = match new.title {
        Title::Champion => Way::Champion,
        Title::Challenger => Way::Challenger,
    };
    let person = Person {
        name: &new.by,
        reason: &new.reason,
    };
    let done = promote::promote(&rest.hub.store, &new.forecaster, version, way, person).await?;
    let (champion, challenger) = match done {
        Promoted::Champion(v) => (Some(v), None),
        Promoted::Challenger(v) => (None, Some(v)),
        Promoted::Rollout(_) => (None, None),
    };
    Ok(Json(Titled {
        champion,
        challenger,
    }))
}
