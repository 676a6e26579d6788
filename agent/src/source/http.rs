//! The local port that takes readings: owns its requests, caps and answers; answers 200 only after the commit.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use fieldcast_features::Millis;
use tiny_http::{Header, Method, Request, Response, Server};
use tokio::sync::{mpsc::error::TrySendError, oneshot};
use tokio_util::sync::CancellationToken;

use super::json::{self, BodyError, Parsed};
use super::{Ingest, IngestSender, Item, line_protocol};
use crate::clock::Clock;
use crate::config::HttpSource;
use crate::status::board::{Board, SourceFacts};

/// Requests answered at the same time: each waits for its commit.
const WORKERS: usize = 4;
/// Most per-item errors listed in an answer.
const LISTED: usize = 100;

/// What a request's worker needs.
#[derive(Debug, Clone)]
pub struct HttpPush {
    /// Caps.
    pub source: HttpSource,
    /// The engine.
    pub sender: IngestSender,
    /// Dates readings that carry no time.
    pub clock: Clock,
    /// Where its facts are shown.
    pub board: Arc<Board>,
    /// Ends it.
    pub cancel: CancellationToken,
}

/// An answer before it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// JSON body; empty for none.
    pub body: String,
}

fn problem(status: u16, title: &str, detail: &str) -> Answer {
    let body = serde_json::json!({"type": "about:blank", "title": title, "status": status, "detail": detail});
    Answer {
        status,
        body: body.to_string(),
    }
}

impl HttpPush {
    /// Serves until cancelled, on threads of its own.
    pub fn spawn(self, server: Server) -> Vec<std::thread::JoinHandle<()>> {
        let server = Arc::new(server);
        self.board
            .source(&self.source.listen, SourceFacts::new("http"));
        (0..WORKERS)
            .filter_map(|_| {
                let (server, this) = (server.clone(), self.clone());
                let run = move || this.serve(&server);
                std::thread::Builder::new()
                    .name("source".into())
                    .spawn(run)
                    .ok()
            })
            .collect()
    }

    fn serve(&self, server: &Server) {
        while !self.cancel.is_cancelled() {
            match server.recv_timeout(Duration::from_millis(100)) {
                Ok(Some(mut request)) => {
                    let answer = self.answer(&mut request);
                    respond(request, &answer);
                }
                Ok(None) => {}
                Err(e) => {
                    tracing::warn!("take a request: {e}; the next one is awaited");
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }

    fn answer(&self, request: &mut Request) -> Answer {
        let url = request.url().to_owned();
        let (path, query) = url.split_once('?').unwrap_or((&url, ""));
        let lines = match path {
            "/readings" => content_type(request).is_some_and(|t| t.starts_with("text/plain")),
            "/write" | "/api/v2/write" => true,
            _ => {
                return problem(
                    404,
                    "Not found",
                    "POST readings to /readings (JSON) or /write (InfluxDB line protocol)",
                );
            }
        };
        if *request.method() != Method::Post {
            return problem(405, "Method not allowed", "use POST");
        }
        let cap = self.source.max_body;
        let too_large = || {
            let detail =
                format!("the body is over the cap of {cap} bytes; send the readings in parts");
            problem(413, "Content too large", &detail)
        };
        if request.body_length().is_some_and(|n| n > cap) {
            return too_large();
        }
        let mut body = Vec::new();
        let limit = u64::try_from(cap).unwrap_or(u64::MAX).saturating_add(1);
        if let Err(e) = request.as_reader().take(limit).read_to_end(&mut body) {
            return problem(
                400,
                "Bad request",
                &format!("the body cannot be read ({e}); send it again"),
            );
        }
        if body.len() > cap {
            return too_large();
        }
        let parsed = if lines {
            parse_lines(&body, query, self.clock.wall_ms())
        } else {
            json::parse(&body, self.clock.wall_ms()).map_err(|e| match e {
                BodyError::Malformed { .. } => problem(400, "Bad request", &e.to_string()),
                BodyError::TooMany { .. } => problem(413, "Content too large", &e.to_string()),
            })
        };
        match parsed {
            Ok(parsed) => self.store(parsed, lines),
            Err(answer) => answer,
        }
    }

    fn store(&self, parsed: Parsed, lines: bool) -> Answer {
        let Parsed {
            readings,
            mut errors,
        } = parsed;
        let mut stored = 0;
        if !readings.is_empty() {
            let (indices, items): (Vec<usize>, Vec<Item>) = readings
                .into_iter()
                .map(|(i, r)| (i, Item::Reading(r)))
                .unzip();
            let (reply, answer) = oneshot::channel();
            let ingest = Ingest {
                source: self.source.listen.as_str().into(),
                sensors: Arc::new([]),
                items,
                cursor: None,
                alarms: Vec::new(),
                reply,
            };
            let busy = |detail: &str| problem(503, "Service unavailable", detail);
            match self.sender.try_send(ingest) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => {
                    return busy("the buffer is busy; try again in a second");
                }
                Err(TrySendError::Closed(_)) => {
                    return busy("the agent is ending; try again later");
                }
            }
            match answer.blocking_recv() {
                Ok(Ok(accepted)) => {
                    stored = accepted.stored;
                    let refused = accepted.refused.into_iter();
                    errors.extend(refused.filter_map(|(i, why)| Some((*indices.get(i)?, why))));
                    self.board
                        .pushed(&self.source.listen, stored as u64, errors.len() as u64);
                }
                Ok(Err(e)) => return busy(&e.to_string()),
                Err(_) => return busy("the agent is ending; try again later"),
            }
        }
        errors.sort_unstable();
        let rejected: Vec<_> = errors
            .iter()
            .take(LISTED)
            .map(|(i, why)| serde_json::json!({"index": i, "reason": why}))
            .collect();
        let count = errors.len();
        let failed = count > 0 && (lines || stored == 0);
        if failed {
            let detail = format!(
                "{stored} readings were stored, {count} were not; correct those and send them again"
            );
            let body = serde_json::json!({"type": "about:blank", "title": "Readings were rejected", "status": 400,
                "detail": detail, "accepted": stored, "rejected": rejected});
            return Answer {
                status: 400,
                body: body.to_string(),
            };
        }
        if lines {
            return Answer {
                status: 204,
                body: String::new(),
            };
        }
        let body = serde_json::json!({"accepted": stored, "rejected": rejected});
        Answer {
            status: 200,
            body: body.to_string(),
        }
    }
}

fn parse_lines(body: &[u8], query: &str, now: Millis) -> Result<Parsed, Answer> {
    let text = std::str::from_utf8(body)
        .map_err(|_| problem(400, "Bad request", "the body is not UTF-8 text"))?;
    let unit = query
        .split('&')
        .find_map(|p| p.strip_prefix("precision="))
        .unwrap_or("");
    let unit = line_protocol::precision(unit).ok_or_else(|| {
        problem(
            400,
            "Bad request",
            "`precision` must be one of ns, us, ms, s, m, h",
        )
    })?;
    Ok(line_protocol::parse(text, unit, now))
}

fn content_type(request: &Request) -> Option<String> {
    let header = request
        .headers()
        .iter()
        .find(|h| h.field.equiv("Content-Type"))?;
    Some(header.value.as_str().to_ascii_lowercase())
}

fn respond(request: Request, answer: &Answer) {
    let kind = if answer.status < 400 {
        "application/json"
    } else {
        "application/problem+json"
    };
    let mut response = Response::from_string(answer.body.clone()).with_status_code(answer.status);
    if let Ok(header) = Header::from_bytes("Content-Type", kind) {
        response = response.with_header(header);
    }
    if answer.status == 503
        && let Ok(header) = Header::from_bytes("Retry-After", "1")
    {
        response = response.with_header(header);
    }
    if let Err(e) = request.respond(response) {
        tracing::debug!("answer a request: {e}; the client has gone");
    }
}
