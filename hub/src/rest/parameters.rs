//! Which parameters a query may have: owns the refusal of those that the interface's document does not name, never their values.

use std::sync::Arc;

use axum::extract::{MatchedPath, Query, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use utoipa::openapi::path::{HttpMethod, Operation, Parameter, ParameterIn};
use utoipa::openapi::{OpenApi, RefOr};

use super::problem::Problem;

/// Refuses a parameter that a route below `/v1` does not have: an answer that passes a filter over looks like one that heeds it.
pub(super) async fn check(
    State(document): State<Arc<OpenApi>>,
    path: MatchedPath,
    request: Request,
    next: Next,
) -> Response {
    match refusal(&document, path.as_str(), &request) {
        None => next.run(request).await,
        Some(why) => Problem::new(StatusCode::BAD_REQUEST, why).into_response(),
    }
}

fn refusal(document: &OpenApi, path: &str, request: &Request) -> Option<String> {
    let method = match *request.method() {
        Method::GET | Method::HEAD => HttpMethod::Get,
        Method::POST => HttpMethod::Post,
        _ => return None,
    };
    // The replaced system's `/predict` passes over what it does not know.
    let path = Some(path).filter(|path| path.starts_with("/v1/"))?;
    let operation = document.paths.get_path_operation(path, method)?;
    let asked = Query::<Vec<(String, String)>>::try_from_uri(request.uri()).ok()?;
    let known = known(operation);
    let (stranger, _) = asked.iter().find(|(name, _)| !known.contains(&&**name))?;
    Some(match known.as_slice() {
        [] => format!("{path} takes no parameters, `{stranger}` is one; see /docs"),
        known => format!(
            "`{stranger}` is no parameter of {path}; there are `{}`",
            known.join("`, `")
        ),
    })
}

fn known(operation: &Operation) -> Vec<&str> {
    let query = |p| match p {
        &RefOr::T(Parameter {
            parameter_in: ParameterIn::Query,
            ref name,
            ..
        }) => Some(name.as_str()),
        _ => None,
    };
    let all = operation.parameters.iter().flatten();
    all.filter_map(query).collect()
}
