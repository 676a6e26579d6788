//! The head of a request: owns what is accepted and how its body is framed; never reads a socket.

use tiny_http::{HTTPVersion, Header, Method};

use super::Answer;

/// How long the body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    /// So many bytes.
    Bytes(u64),
    /// Until the last chunk.
    Chunked,
}

/// A head that is understood.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) method: Method,
    pub(super) target: String,
    pub(super) version: HTTPVersion,
    pub(super) headers: Vec<Header>,
    pub(super) length: Length,
    /// Whether the client waits for a word before it sends the body.
    pub(super) waits: bool,
    /// Whether the connection may carry another request.
    pub(super) stays: bool,
}

fn bad(detail: &str) -> Answer {
    Answer::problem(400, "Bad request", detail)
}

/// Parses everything up to the empty line. Whatever two readers could frame differently is refused.
pub(super) fn parse(head: &[u8]) -> Result<Head, Answer> {
    let text =
        std::str::from_utf8(head).map_err(|_| bad("the head of the request is not ASCII text"))?;
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or("");
    let mut words = first.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(bad(
            "the request line must be `METHOD /path HTTP/1.1`; speak HTTP to this port",
        ));
    };
    let version = match version {
        "HTTP/1.1" => HTTPVersion(1, 1),
        "HTTP/1.0" => HTTPVersion(1, 0),
        _ => {
            return Err(Answer::problem(
                505,
                "HTTP version not supported",
                "use HTTP/1.1",
            ));
        }
    };
    let method = method
        .parse()
        .map_err(|()| bad("the method is not a word of letters"))?;
    let headers = lines
        .filter(|line| !line.is_empty())
        .map(|line| {
            let named = !line.starts_with([' ', '\t']) && !line.contains(['\r', '\n']);
            let header = named.then(|| line.parse::<Header>().ok()).flatten();
            header.ok_or_else(|| bad("a header line is not `Name: value` in ASCII"))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let all = |name: &'static str| {
        headers
            .iter()
            .filter(move |h| h.field.equiv(name))
            .map(|h| h.value.as_str().to_ascii_lowercase())
            .collect::<Vec<_>>()
    };
    let length = length(&all("Content-Length"), &all("Transfer-Encoding"))?;
    let waits = match all("Expect").as_slice() {
        [] => false,
        [one] if one == "100-continue" => true,
        _ => {
            return Err(Answer::problem(
                417,
                "Expectation failed",
                "only `Expect: 100-continue` is known",
            ));
        }
    };
    let connection = all("Connection").join(",");
    let stays = if version == HTTPVersion(1, 0) {
        connection.contains("keep-alive")
    } else {
        !connection.contains("close")
    };
    Ok(Head {
        method,
        target: target.to_owned(),
        version,
        headers,
        length,
        waits,
        stays,
    })
}

fn length(lengths: &[String], encodings: &[String]) -> Result<Length, Answer> {
    match (lengths, encodings) {
        ([], []) => Ok(Length::Bytes(0)),
        ([], [one]) if one == "chunked" => Ok(Length::Chunked),
        ([], _) => Err(Answer::problem(
            501,
            "Not implemented",
            "the only transfer encoding is `chunked`; send the body as it is",
        )),
        ([one], []) if !one.is_empty() && one.bytes().all(|b| b.is_ascii_digit()) => {
            // More digits than fit are more bytes than any cap.
            Ok(Length::Bytes(one.parse().unwrap_or(u64::MAX)))
        }
        _ => Err(bad(
            "the length of the body is not clear; send one `Content-Length` or `Transfer-Encoding: chunked`",
        )),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn status(head: &str) -> u16 {
        parse(head.as_bytes()).unwrap_err().status
    }

    #[test]
    fn a_head_is_understood_and_its_body_framed() {
        let head = parse(
            b"POST /readings?a=b HTTP/1.1\r\nHost: x\r\ncontent-length: 12\r\nExpect: 100-continue",
        )
        .unwrap();
        assert_eq!(
            (head.method, head.target.as_str()),
            (Method::Post, "/readings?a=b")
        );
        assert_eq!(head.length, Length::Bytes(12));
        assert!(head.waits && head.stays);
        let head =
            parse(b"POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\nConnection: close").unwrap();
        assert_eq!((head.length, head.stays), (Length::Chunked, false));
        assert!(!parse(b"GET / HTTP/1.0").unwrap().stays);
        let huge = "GET / HTTP/1.1\r\nContent-Length: 99999999999999999999999";
        assert_eq!(
            parse(huge.as_bytes()).unwrap().length,
            Length::Bytes(u64::MAX)
        );
    }

    #[test]
    fn what_could_be_framed_in_two_ways_is_refused() {
        for head in [
            "GET /",
            "GET  / HTTP/1.1",
            "GET / HTTP/1.1\r\nno colon",
            "GET / HTTP/1.1\r\nA: b\r\n folded: c",
            "GET / HTTP/1.1\r\nA: b\nContent-Length: 3",
            "GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1",
            "GET / HTTP/1.1\r\nContent-Length: +1",
            "GET / HTTP/1.1\r\nContent-Length:",
            "GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
        ] {
            assert_eq!(status(head), 400, "{head:?}");
        }
        assert_eq!(status("GET / HTTP/2.0"), 505);
        assert_eq!(status("GET / HTTP/1.1\r\nExpect: wonders"), 417);
        assert_eq!(status("GET / HTTP/1.1\r\nTransfer-Encoding: gzip"), 501);
        assert_eq!(parse(b"GET / HTTP/1.1\r\nA: \xff").unwrap_err().status, 400);
    }
}
