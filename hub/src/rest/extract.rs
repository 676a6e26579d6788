//! What handlers take from a request: owns that a refusal is a problem of RFC 9457, never what is asked for.

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;

use super::problem::Problem;

/// The query's parameters.
#[derive(Debug, FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Problem))]
pub struct Query<T>(pub T);

/// The path's parameters.
#[derive(Debug, FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Problem))]
pub struct Path<T>(pub T);

/// The request's body.
#[derive(Debug)]
pub struct Body(pub Bytes);

/// The request's body as JSON. It must say so in its `content-type`: a page of another site cannot send that unasked.
#[derive(Debug, FromRequest)]
#[from_request(via(axum::Json), rejection(Problem))]
pub struct JsonBody<T>(pub T);

/// The request's body as bytes that say so in their `content-type`, for the same reason.
#[derive(Debug)]
pub struct Octets(pub Bytes);

/// What bytes are called.
pub const OCTETS: &str = "application/octet-stream";

impl<S: Send + Sync> FromRequest<S> for Octets {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let kind = request.headers().get(CONTENT_TYPE);
        if kind.is_none_or(|kind| kind != OCTETS) {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                format!("send it with `content-type: {OCTETS}`"),
            ));
        }
        Ok(Self(Bytes::from_request(request, state).await?))
    }
}

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        Ok(Self(Bytes::from_request(request, state).await?))
    }
}

impl From<QueryRejection> for Problem {
    fn from(refused: QueryRejection) -> Self {
        Self::invalid(format!(
            "{}; see /docs for the parameters",
            refused.body_text()
        ))
    }
}

impl From<PathRejection> for Problem {
    fn from(refused: PathRejection) -> Self {
        Self::invalid(format!("{}; see /docs for the path", refused.body_text()))
    }
}

impl From<JsonRejection> for Problem {
    fn from(refused: JsonRejection) -> Self {
        let text = refused.body_text();
        match refused {
            JsonRejection::MissingJsonContentType(_) => Self::new(
                refused.status(),
                format!("{text}; send it with `content-type: application/json`"),
            ),
            JsonRejection::BytesRejection(e) => e.into(),
            _ => Self::invalid(format!("{text}; see /docs for the body")),
        }
    }
}

impl From<BytesRejection> for Problem {
    fn from(refused: BytesRejection) -> Self {
        Self::new(
            refused.status(),
            format!("{}; send less at once, or try again", refused.body_text()),
        )
    }
}
