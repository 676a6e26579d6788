//! Local ports: owns sockets, caps and deadlines of requests; never decides what an answer says.
//!
//! tiny_http parses the lines of a head and writes the answers. The sockets are read here, because its own reader
//! allocates whatever a client announces and waits for ever (docs/decisions/0005).

mod connection;
mod head;
mod serve;

pub use serve::{Port, open};

use tiny_http::{Header, Method};

/// A request that came in whole.
#[derive(Debug)]
pub struct Request {
    /// What is asked.
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// Its headers.
    pub headers: Vec<Header>,
    /// Its body, within the port's cap.
    pub body: Vec<u8>,
}

impl Request {
    /// Path without the query, and the query.
    #[must_use]
    pub fn path(&self) -> (&str, &str) {
        self.target.split_once('?').unwrap_or((&self.target, ""))
    }

    /// The value of a header, in lower case.
    #[must_use]
    pub fn header(&self, name: &'static str) -> Option<String> {
        let header = self.headers.iter().find(|h| h.field.equiv(name))?;
        Some(header.value.as_str().to_ascii_lowercase())
    }
}

/// An answer before it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status; 503 asks to come again after a second.
    pub status: u16,
    /// Type of the body.
    pub kind: &'static str,
    /// Body; empty for none.
    pub body: String,
}

impl Answer {
    /// An answer that is no error.
    #[must_use]
    pub fn new(status: u16, kind: &'static str, body: String) -> Self {
        Self { status, kind, body }
    }

    /// JSON.
    #[must_use]
    pub fn json(body: &serde_json::Value) -> Self {
        Self::new(200, "application/json", body.to_string())
    }

    /// Problem details; `detail` says what to do.
    #[must_use]
    pub fn problem(status: u16, title: &str, detail: &str) -> Self {
        Self::details(
            status,
            &serde_json::json!({"type": "about:blank", "title": title, "status": status, "detail": detail}),
        )
    }

    /// Problem details with members of their own.
    #[must_use]
    pub fn details(status: u16, body: &serde_json::Value) -> Self {
        Self::new(status, "application/problem+json", body.to_string())
    }
}
