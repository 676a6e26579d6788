//! Ports under clients that mean no good: real sockets, real servers; never a made-up request.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Instant;

use super::*;

fn echo(cancel: &CancellationToken, cap: usize, patience: u64) -> (SocketAddr, JoinHandle<()>) {
    let port = open("127.0.0.1:0", "listen")
        .unwrap()
        .with_patience(Duration::from_millis(patience));
    let address = port.address();
    let answer = |r: Request| {
        let body = serde_json::json!({"target": r.target, "length": r.body.len()});
        Answer::json(&body)
    };
    let thread = port.serve("test", cap, answer, cancel.clone()).unwrap();
    (address, thread)
}

/// Sends, then reads up to the end of the connection.
fn say(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream.write_all(bytes).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn good(address: SocketAddr) {
    let text = say(address, b"GET /x HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert!(
        text.starts_with("HTTP/1.1 200") && text.contains("\"/x\""),
        "{text}"
    );
}

#[tokio::test]
async fn no_length_that_is_announced_is_ever_allocated() {
    let cancel = CancellationToken::new();
    let (address, thread) = echo(&cancel, 1_000, 10_000);
    for length in [
        "9000000000000000000",
        "18446744073709551615",
        "99999999999999999999999",
    ] {
        for method in ["GET", "POST"] {
            let head = format!("{method} / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
            let text = say(address, head.as_bytes());
            assert!(text.starts_with("HTTP/1.1 413"), "{text}");
            assert!(text.contains("Connection: close"), "{text}");
        }
    }
    let chunk = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc";
    assert!(say(address, chunk).starts_with("HTTP/1.1 413"));
    good(address);
    cancel.cancel();
    tokio::task::spawn_blocking(|| thread.join())
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn stalled_and_endless_clients_stop_nobody_and_are_let_go() {
    let cancel = CancellationToken::new();
    let (address, _thread) = echo(&cancel, 1_000, 700);
    let stalled: Vec<TcpStream> = (0..16)
        .map(|i| {
            let mut stream = TcpStream::connect(address).unwrap();
            let half: &[u8] = if i % 2 == 0 {
                b"POST / HTTP/1.1\r\nContent-Length: 900\r\n\r\nabc"
            } else {
                b"GET / HT"
            };
            stream.write_all(half).unwrap();
            stream
        })
        .collect();
    let began = Instant::now();
    good(address);
    assert!(began.elapsed() < Duration::from_millis(600));
    for mut stream in stalled {
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 408"), "{text}");
    }
    let mut endless = b"GET / HTTP/1.1\r\nA: ".to_vec();
    endless.resize(40_000, b'a');
    assert!(say(address, &endless).starts_with("HTTP/1.1 431"));
    good(address);
    cancel.cancel();
}

#[tokio::test]
async fn a_client_over_the_number_is_told_to_come_again() {
    let cancel = CancellationToken::new();
    let (address, _thread) = echo(&cancel, 1_000, 10_000);
    let mut open = Vec::new();
    let mut busy = String::new();
    for _ in 0..CONNECTIONS + 1 {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let mut block = [0; 4_096];
        let n = stream.read(&mut block).unwrap();
        busy = String::from_utf8_lossy(&block[..n]).into_owned();
        open.push(stream);
    }
    assert!(
        busy.starts_with("HTTP/1.1 503") && busy.contains("Retry-After: 1"),
        "{busy}"
    );
    open.truncate(1);
    let until = Instant::now() + Duration::from_secs(10);
    while !say(address, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").starts_with("HTTP/1.1 200")
    {
        assert!(Instant::now() < until, "the places never came free");
    }
    cancel.cancel();
}

#[tokio::test]
async fn one_connection_carries_many_requests_in_any_framing() {
    let cancel = CancellationToken::new();
    let (address, thread) = echo(&cancel, 100_000, 10_000);
    let mut bytes = b"POST /1 HTTP/1.1\r\nContent-Length: 5\r\n\r\nabcde".to_vec();
    bytes.extend(b"POST /2 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n4\r\ndefg\r\n0\r\nA: b\r\n\r\n");
    bytes.extend(b"POST /3 HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 60000\r\nConnection: close\r\n\r\n");
    bytes.resize(bytes.len() + 60_000, b'x');
    let text = say(address, &bytes);
    let order = [
        "\"length\":5",
        "\"length\":7",
        "100 Continue",
        "\"length\":60000",
    ];
    let mut rest = text.as_str();
    for part in order {
        let at = rest.find(part);
        assert!(at.is_some(), "{part} is not in its place: {text}");
        rest = &rest[at.unwrap()..];
    }
    assert_eq!(text.matches("HTTP/1.1 200").count(), 3);
    let head = say(address, b"HEAD / HTTP/1.0\r\n\r\n");
    assert!(
        head.starts_with("HTTP/1.0 200") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    let idle = TcpStream::connect(address).unwrap();
    cancel.cancel();
    tokio::task::spawn_blocking(|| thread.join())
        .await
        .unwrap()
        .unwrap();
    idle.shutdown(Shutdown::Both).ok();
    assert!(TcpStream::connect(address).is_err());
}
