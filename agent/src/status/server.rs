//! The local port of the status page: owns its answers; never changes anything.

use std::sync::Arc;
use std::time::Duration;

use tiny_http::{Header, Method, Response, Server};
use tokio_util::sync::CancellationToken;

use super::board::Board;
use super::{metrics, page};

/// Opens a port.
///
/// # Errors
/// What is wrong and which key to change.
pub fn open(listen: &str, key: &str) -> Result<Server, String> {
    Server::http(listen).map_err(|e| {
        format!("{listen} cannot be opened ({e}); set `{key}` to a free address and port")
    })
}

/// The address a server got.
#[must_use]
pub fn address(server: &Server) -> String {
    server
        .server_addr()
        .to_ip()
        .map_or_else(String::new, |a| a.to_string())
}

/// Serves until cancelled, on a thread of its own.
pub fn spawn(
    server: Server,
    board: Arc<Board>,
    cancel: CancellationToken,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        while !cancel.is_cancelled() {
            match server.recv_timeout(Duration::from_millis(100)) {
                Ok(Some(request)) => {
                    let get = matches!(request.method(), Method::Get | Method::Head);
                    let path = request.url().split('?').next().unwrap_or("").to_owned();
                    let (status, kind, body) = if get {
                        answer(&path, &board)
                    } else {
                        (405, "application/problem+json", problem(405, "only GET"))
                    };
                    let mut response = Response::from_string(body).with_status_code(status);
                    if let Ok(header) = Header::from_bytes("Content-Type", kind) {
                        response = response.with_header(header);
                    }
                    if let Err(e) = request.respond(response) {
                        tracing::debug!("answer a request: {e}; the client has gone");
                    }
                }
                Ok(None) => {}
                Err(e) => {
                    tracing::warn!("take a request: {e}; the next one is awaited");
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    })
}

fn problem(status: u16, detail: &str) -> String {
    serde_json::json!({"type": "about:blank", "title": detail, "status": status, "detail": detail})
        .to_string()
}

fn answer(path: &str, board: &Board) -> (u16, &'static str, String) {
    let facts = board.facts();
    match path {
        "/" => (200, "text/html; charset=utf-8", page::html(&facts)),
        "/metrics" => {
            let text = metrics::text(&facts, metrics::resident_bytes());
            (200, "text/plain; version=0.0.4", text)
        }
        "/status.json" => {
            let body = serde_json::to_string(&facts).unwrap_or_default();
            (200, "application/json", body)
        }
        "/healthz" => match &facts.buffer.problem {
            None => (200, "application/json", "{\"status\":\"ok\"}".to_owned()),
            Some(e) => (503, "application/problem+json", problem(503, e)),
        },
        _ => (
            404,
            "application/problem+json",
            problem(404, "there are /, /status.json, /metrics and /healthz"),
        ),
    }
}
