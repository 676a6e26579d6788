//! The agent's own ports, in an agent that runs: what no client may do to it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fieldcast_agent::config::Config;
use fieldcast_agent::control::Control;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

/// Sends, then reads up to the end of the connection.
fn say(address: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    stream.write_all(bytes).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn post(address: &str, body: &str) -> String {
    let head = format!(
        "POST /readings HTTP/1.1\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    say(address, format!("{head}{body}").as_bytes())
}

fn get(address: &str, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.0\r\n\r\n");
    say(address, request.as_bytes())
}

fn body(answer: &str) -> Value {
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

/// The addresses that the running agent has written, once both ports are open.
fn addresses(data: &Path) -> (String, String) {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let text = std::fs::read_to_string(data.join("agent.json")).unwrap_or_default();
        let facts: Value = serde_json::from_str(&text).unwrap_or_default();
        let of = |name: &str| facts["listen"][name].as_str().map(str::to_owned);
        if let (Some(status), Some(push)) = (of("status"), of("127.0.0.1:0")) {
            return (status, push);
        }
        assert!(Instant::now() < until, "the ports never opened: {text}");
        std::thread::yield_now();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_nine_exabytes_ends_neither_port_and_what_is_refused_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let text = "data_dir = \"data\"\n[[source]]\ntype = \"http\"\nlisten = \"127.0.0.1:0\"\n\
                [status]\nlisten = \"127.0.0.1:0\"\n[sensors.t]\nmax = 50.0\n";
    let config = Config::parse(&dir.path().join("agent.toml"), text).unwrap();
    let stop = CancellationToken::new();
    let agent = tokio::spawn(fieldcast_agent::app::run(
        config,
        Control::new(stop.clone(), Arc::new(|_| Ok(()))),
    ));
    let data = dir.path().join("data");
    let clients = tokio::task::spawn_blocking(move || {
        let (status, push) = addresses(&data);
        for address in [&status, &push] {
            for length in [9_000_000_000_000_000_000_u64, u64::MAX] {
                for method in ["GET /", "POST /readings"] {
                    let head = format!("{method} HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
                    let answer = say(address, head.as_bytes());
                    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
                }
            }
        }
        let good = post(&push, r#"{"readings": [{"sensor": "t", "value": 99.0}]}"#);
        assert!(good.starts_with("HTTP/1.1 200"), "{good}");
        assert_eq!(body(&good)["accepted"], 1);
        let facts = body(&get(&status, "/status.json"));
        assert_eq!(facts["faults"]["t"][0], "out_of_range", "{facts}");
        let none = post(&push, r#"{"readings": [{"sensor": "a/b", "value": 1.0}]}"#);
        assert!(none.starts_with("HTTP/1.1 400"), "{none}");
        let malformed = post(&push, r#"{"readings": [{"value": 1.0}, {"sensor": "x"}]}"#);
        assert!(malformed.starts_with("HTTP/1.1 400"), "{malformed}");
        // One name over the cap costs its own reading and none of the others.
        let long = "x".repeat(65);
        let mixed = format!(
            r#"{{"readings": [{{"sensor": "t", "value": 20.0}}, {{"sensor": "{long}", "value": 1.0}}, {{"sensor": "u", "value": 2.0}}]}}"#
        );
        let answer = post(&push, &mixed);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let answer = body(&answer);
        assert_eq!(answer["accepted"], 2);
        assert_eq!(answer["rejected"][0]["index"], 1);
        let reason = answer["rejected"][0]["reason"].as_str().unwrap();
        assert!(reason.contains("1 to 64 bytes"), "{reason}");
        let health = get(&status, "/healthz");
        assert!(health.starts_with("HTTP/1.0 200"), "{health}");
        let facts = body(&get(&status, "/status.json"));
        let source = &facts["sources"]["127.0.0.1:0"];
        assert_eq!(source["stored"], 3, "{facts}");
        assert_eq!(source["refused"], 4, "{facts}");
        assert_eq!(facts["faults"], serde_json::json!({}), "{facts}");
        let metrics = get(&status, "/metrics");
        assert!(metrics.contains("fieldcast_agent_records_dropped_total 0"));
        assert!(get(&status, "/nothing").starts_with("HTTP/1.0 404"));
        (status, push)
    });
    let (status, push) = clients.await.unwrap();
    stop.cancel();
    agent.await.unwrap().unwrap();
    for address in [status, push] {
        assert!(
            TcpStream::connect(address).is_err(),
            "the port outlives the agent"
        );
    }
}
