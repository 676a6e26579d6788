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
    pub bytes: Vec<u8>,
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
    exchange(base, "POST", path, kind, body.to_string())
        .await
        .unwrap()
}

/// A POST of bytes that must be answered.
pub async fn post_bytes(base: &str, path: &str, body: &[u8]) -> Answer {
    let kind = "content-type: application/octet-stream\r\n";
    exchange(base, "POST", path, kind, body).await.unwrap()
}

/// One request with further header lines.
pub async fn exchange(
    base: &str,
    method: &str,
    path: &str,
    headers: &str,
    body: impl AsRef<[u8]>,
) -> std::io::Result<Answer> {
    let (host, body) = (base.trim_start_matches("http://"), body.as_ref());
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    );
    let exchange = async {
        let mut stream = TcpStream::connect(host).await?;
        stream.write_all(request.as_bytes()).await?;
        stream.write_all(body).await?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await?;
        Ok::<_, std::io::Error>(bytes)
    };
    let mut bytes = tokio::time::timeout(Duration::from_secs(30), exchange).await??;
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let body = bytes.split_off(end + 4);
    let head = String::from_utf8(bytes).unwrap();
    let kind = head
        .lines()
        .find_map(|l| l.strip_prefix("content-type: "))
        .unwrap_or_default();
    Ok(Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        kind: kind.to_owned(),
        text: String::from_utf8_lossy(&body).into_owned(),
        bytes: body,
    })
}

/// A GET that must be answered.
pub async fn get(base: &str, path: &str) -> Answer {
    ask(base, "GET", path, "").await.unwrap()
}
