//! Prometheus text: owns the counters of requests and the encoding of gauges, never what they mean.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Rest;

const BUCKETS: [f64; 9] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];

/// Requests by method, route and status.
#[derive(Debug, Default)]
pub struct Requests {
    seen: Mutex<BTreeMap<(String, String, u16), Tally>>,
}

#[derive(Debug, Default, Clone)]
struct Tally {
    count: u64,
    seconds: f64,
    buckets: [u64; BUCKETS.len()],
}

impl Requests {
    fn add(&self, method: &str, route: &str, status: u16, took: Duration) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let tally = seen
            .entry((method.to_owned(), route.to_owned(), status))
            .or_default();
        tally.count += 1;
        tally.seconds += took.as_secs_f64();
        for (bucket, edge) in tally.buckets.iter_mut().zip(BUCKETS) {
            *bucket += u64::from(took.as_secs_f64() <= edge);
        }
    }

    /// The counters as text.
    #[must_use]
    pub fn text(&self) -> String {
        let seen = self
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut out = String::from(
            "# HELP http_requests_total Requests by method, handler and status.\n# TYPE http_requests_total counter\n",
        );
        for ((method, route, status), t) in &seen {
            let _ = writeln!(
                out,
                "http_requests_total{{method=\"{method}\",handler=\"{route}\",status=\"{status}\"}} {}",
                t.count
            );
        }
        out.push_str("# HELP http_request_duration_seconds Time to the response.\n# TYPE http_request_duration_seconds histogram\n");
        for ((method, route, status), t) in &seen {
            let labels = format!("method=\"{method}\",handler=\"{route}\",status=\"{status}\"");
            for (count, edge) in t.buckets.iter().zip(BUCKETS) {
                let _ = writeln!(
                    out,
                    "http_request_duration_seconds_bucket{{{labels},le=\"{edge}\"}} {count}"
                );
            }
            let _ = writeln!(
                out,
                "http_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} {}",
                t.count
            );
            let _ = writeln!(
                out,
                "http_request_duration_seconds_sum{{{labels}}} {}",
                t.seconds
            );
            let _ = writeln!(
                out,
                "http_request_duration_seconds_count{{{labels}}} {}",
                t.count
            );
        }
        out
    }
}

/// Counts every request by its route, so that ids in paths do not multiply the series.
pub async fn count(State(rest): State<Rest>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    // Names that anybody may make up would be series without an end.
    let method = match *request.method() {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => "other",
    };
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "none".to_owned(), |p| p.as_str().to_owned());
    let response = next.run(request).await;
    rest.requests
        .add(method, &route, response.status().as_u16(), began.elapsed());
    response
}

/// `GET /metrics`: what can be told, also without a database.
pub async fn metrics(State(rest): State<Rest>) -> Response {
    let mut out = rest.requests.text();
    let answers = rest.hub.no_database().await.is_none();
    let mut gauges = Vec::new();
    if answers && let Err(error) = rest.hub.store.gauges(&mut gauges).await {
        tracing::warn!(%error, "some gauges are missing");
    }
    for (name, help, values) in gauges {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (labels, value) in values {
            let _ = writeln!(out, "{name}{labels} {value}");
        }
    }
    let ready = u8::from(answers && rest.hub.downlink.connected());
    let _ = writeln!(
        out,
        "# HELP fieldcast_ready Whether database and broker answer.\n# TYPE fieldcast_ready gauge\nfieldcast_ready {ready}"
    );
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], out).into_response()
}
