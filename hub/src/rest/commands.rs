//! `/v1/commands`: owns the routes by which people give commands and see what became of them, never what may be given.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::TimeDelta;
use fieldcast_features::grid::parse_period;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::Rest;
use super::extract::{JsonBody, Path, Query};
use super::lists::{Items, OfDevice, Page, page, place};
use super::problem::Problem;
use crate::commands::{self, Asked, Refusal};

/// A command that is asked for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewCommand {
    /// Device.
    device: String,
    /// `restart`, `log` or `report`.
    name: String,
    /// The filter of `log`.
    #[serde(default)]
    argument: String,
    /// From then on the device refuses it, such as `30m` or `2d`; `1h` where it is left out.
    #[serde(default, rename = "for")]
    holds: Option<String>,
    /// The person who decides this.
    by: String,
}

/// A command on its way.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Given {
    /// Its id.
    command: Uuid,
}

impl From<Refusal> for Problem {
    fn from(refused: Refusal) -> Self {
        let status = match refused {
            Refusal::Store(e) => return e.into(),
            Refusal::Person(e) => return e.into(),
            Refusal::NoDevice(_) => StatusCode::NOT_FOUND,
            Refusal::Full(_) => StatusCode::CONFLICT,
            Refusal::Task(_) | Refusal::Argument | Refusal::Expiry => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
        };
        Self::new(status, refused.to_string())
    }
}

/// Tells a device to do something, once, in a person's name.
///
/// # Errors
/// A device, command or name that is none, too many that wait, or the database.
#[utoipa::path(post, path = "/v1/commands", request_body = NewCommand, responses((status = 202, body = Given), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn give(
    State(rest): State<Rest>,
    JsonBody(new): JsonBody<NewCommand>,
) -> Result<(StatusCode, Json<Given>), Problem> {
    let holds = parse_period(new.holds.as_deref().unwrap_or("1h"))
        .map_err(|e| Problem::invalid(format!("for: {e}")))?;
    let asked = Asked {
        device: &new.device,
        name: &new.name,
        argument: &new.argument,
        holds: TimeDelta::milliseconds(holds),
    };
    let command = commands::give(&rest.hub.store, asked, &new.by).await?;
    Ok((StatusCode::ACCEPTED, Json(Given { command })))
}

/// Commands and what became of them, newest first.
///
/// # Errors
/// The database, or a page that is none.
#[utoipa::path(get, path = "/v1/commands", params(Page, OfDevice), responses((status = 200, body = Items)))]
pub(super) async fn commands(
    State(rest): State<Rest>,
    Query(q): Query<Page>,
    Query(of): Query<OfDevice>,
) -> Result<Json<Items>, Problem> {
    let window = q.window()?;
    let device = of.device.as_deref();
    let rows = rest.hub.store.commands(device, window.0, window.1).await?;
    Ok(page(rows, window.1, place(window)))
}

/// One command and what became of it.
///
/// # Errors
/// No such command, or the database.
#[utoipa::path(get, path = "/v1/commands/{id}", params(("id" = Uuid, Path)), responses((status = 200, body = Value), (status = 404, body = Problem)))]
pub(super) async fn command(
    State(rest): State<Rest>,
    Path(id): Path<Uuid>,
) -> Result<Json<Value>, Problem> {
    let row = rest.hub.store.command(id).await?;
    let row = row
        .ok_or_else(|| Problem::not_found(format!("there is no command {id}; see /v1/commands")))?;
    Ok(Json(json!(row)))
}
