//! Requests of tests to the hub's REST interface: owns one request and its answer, never what is asked.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub kind: String,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    /// The detail of a problem that has this status.
    pub fn problem(&self, status: u16) -> String {
        assert_eq!(
            (self.status, self.kind.as_str()),
            (status, "application/problem+json"),
            "{}",
            self.text
        );
        let body = self.json();
        assert_eq!(body["status"], status);
        body["detail"].as_str().unwrap().to_owned()
    }
}

/// One request to `http://host:port`.
pub async fn ask(base: &str, method: &str, path: &str, body: &str) -> std::io::Result<Answer> {
    exchange(base, method, path, "", body).await
}

/// A POST of JSON that must be answered.
pub async fn post(base: &str, path: &str, body: &Value) -> Answer {
    let kind = "content-type: application/json\r\n";
    exchange(base, "POST", path, kind, &body.to_string())
        .await
        .unwrap()
}

/// One request with further header lines.
pub async fn exchange(
    base: &str,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> std::io::Result<Answer> {
    let host = base.trim_start_matches("http://");
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let exchange = async {
        let mut stream = TcpStream::connect(host).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await?;
        Ok::<_, std::io::Error>(bytes)
    };
    let bytes = tokio::time::timeout(Duration::from_secs(30), exchange).await??;
    let text = String::from_utf8(bytes).unwrap();
    let (head, text) = text.split_once("\r\n\r\n").unwrap();
    let kind = head
        .lines()
        .find_map(|l| l.strip_prefix("content-type: "))
        .unwrap_or_default();
    Ok(Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        kind: kind.to_owned(),
        text: text.to_owned(),
    })
}

/// A GET that must be answered.
pub async fn get(base: &str, path: &str) -> Answer {
    ask(base, "GET", path, "").await.unwrap()
}
