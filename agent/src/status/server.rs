//! The answers of the status page's port: owns its paths; never changes anything.

use std::sync::Arc;

use tiny_http::Method;
use tokio_util::sync::CancellationToken;

use super::board::Board;
use super::{metrics, page};
use crate::http::{Answer, Port, Request};

/// A question needs no body; a client that sends one is heard out up to here, bytes.
const MAX_BODY: usize = 4 * 1024;

/// Serves until cancelled, on threads of its own.
///
/// # Errors
/// Where no thread can be had.
pub fn serve(
    port: Port,
    board: Arc<Board>,
    cancel: CancellationToken,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    port.serve("status", MAX_BODY, move |r| answer(&r, &board), cancel)
}

fn answer(request: &Request, board: &Board) -> Answer {
    if !matches!(request.method, Method::Get | Method::Head) {
        return Answer::problem(405, "Method not allowed", "use GET");
    }
    let facts = board.facts();
    match request.path().0 {
        "/" => Answer::new(200, "text/html; charset=utf-8", page::html(&facts)),
        "/metrics" => {
            let text = metrics::text(&facts, metrics::resident_bytes());
            Answer::new(200, "text/plain; version=0.0.4", text)
        }
        "/status.json" => {
            let body = serde_json::to_string(&facts).unwrap_or_default();
            Answer::new(200, "application/json", body)
        }
        "/healthz" => match &facts.buffer.problem {
            None => Answer::json(&serde_json::json!({"status": "ok"})),
            Some(e) => Answer::problem(503, "Service unavailable", e),
        },
        _ => Answer::problem(
            404,
            "Not found",
            "there are /, /status.json, /metrics and /healthz",
        ),
    }
}
