//! The local port that takes readings: owns its requests, caps and answers; answers 200 only after the commit.

use std::sync::Arc;

use fieldcast_features::Millis;
use tiny_http::Method;
use tokio::sync::{mpsc::error::TrySendError, oneshot};
use tokio_util::sync::CancellationToken;

use super::json::{self, BodyError, Parsed};
use super::{Ingest, IngestSender, Item, line_protocol};
use crate::clock::Clock;
use crate::config::HttpSource;
use crate::http::{Answer, Port, Request};
use crate::status::board::{Board, SourceFacts};

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

fn problem(status: u16, title: &str, detail: &str) -> Answer {
    Answer::problem(status, title, detail)
}

impl HttpPush {
    /// Serves until cancelled, on threads of its own.
    ///
    /// # Errors
    /// Where no thread can be had.
    pub fn serve(self, port: Port) -> std::io::Result<std::thread::JoinHandle<()>> {
        self.board
            .source(&self.source.listen, SourceFacts::new("http"));
        let (cap, cancel) = (self.source.max_body, self.cancel.clone());
        port.serve("source", cap, move |r| self.answer(&r), cancel)
    }

    fn answer(&self, request: &Request) -> Answer {
        let (path, query) = request.path();
        let lines = match path {
            "/readings" => request
                .header("Content-Type")
                .is_some_and(|t| t.starts_with("text/plain")),
            "/write" | "/api/v2/write" => true,
            _ => {
                return problem(
                    404,
                    "Not found",
                    "POST readings to /readings (JSON) or /write (InfluxDB line protocol)",
                );
            }
        };
        if request.method != Method::Post {
            return problem(405, "Method not allowed", "use POST");
        }
        let body = request.body.as_slice();
        let parsed = if lines {
            parse_lines(body, query, self.clock.wall_ms())
        } else {
            json::parse(body, self.clock.wall_ms()).map_err(|e| match e {
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
                }
                Ok(Err(e)) => return busy(&e.to_string()),
                Err(_) => return busy("the agent is ending; try again later"),
            }
        }
        self.board
            .pushed(&self.source.listen, stored as u64, errors.len() as u64);
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
            return Answer::details(400, &body);
        }
        if lines {
            return Answer::new(204, "application/json", String::new());
        }
        Answer::json(&serde_json::json!({"accepted": stored, "rejected": rejected}))
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
