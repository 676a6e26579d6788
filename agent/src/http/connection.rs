//! One connection: owns how much is read and how long it may take; never holds more than the caps allow.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tiny_http::{HTTPVersion, Header, Method, Response};
use tokio_util::sync::CancellationToken;

use super::head::{self, Head, Length};
use super::{Answer, Request};

/// Largest head, bytes.
const MAX_HEAD: usize = 16 * 1024;
/// Longest line between chunks, bytes.
const MAX_CHUNK_LINE: usize = 256;
/// Read at once.
const BLOCK: usize = 8 * 1024;
/// How often the end is looked for while a client is silent.
const SLICE: Duration = Duration::from_millis(200);

/// What a connection may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caps {
    /// Largest body, bytes.
    pub(super) body: usize,
    /// Bodies of all connections of the port together, bytes.
    pub(super) bodies: usize,
    /// Longest time for a request to come in, and for its answer to be taken.
    pub(super) patience: Duration,
}

/// Why a connection ends.
enum End {
    /// Nothing more to say.
    Silent,
    /// This first; the rest of what the client sends is thrown away.
    Answer(Box<Answer>),
}

impl From<Answer> for End {
    fn from(answer: Answer) -> Self {
        Self::Answer(Box::new(answer))
    }
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Silent
    }
}

/// Bytes of bodies in memory, given back when the request is done.
struct Held<'a> {
    all: &'a AtomicUsize,
    mine: usize,
    most: usize,
}

impl Held<'_> {
    fn take(&mut self, n: usize) -> Result<(), End> {
        self.mine += n;
        if self.all.fetch_add(n, Ordering::Relaxed) + n > self.most {
            let detail = "too many large requests at the same time; try again in a second";
            return Err(Answer::problem(503, "Service unavailable", detail).into());
        }
        Ok(())
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(self.mine, Ordering::Relaxed);
    }
}

/// A client, with what was read beyond the present request.
pub(super) struct Connection<'a> {
    pub(super) stream: TcpStream,
    pub(super) caps: Caps,
    /// Bytes of bodies in memory at this port.
    pub(super) held: &'a AtomicUsize,
    pub(super) cancel: &'a CancellationToken,
    ahead: Vec<u8>,
    deadline: Instant,
}

impl<'a> Connection<'a> {
    pub(super) fn new(
        stream: TcpStream,
        caps: Caps,
        held: &'a AtomicUsize,
        cancel: &'a CancellationToken,
    ) -> Self {
        Self {
            stream,
            caps,
            held,
            cancel,
            ahead: Vec::new(),
            deadline: Instant::now(),
        }
    }

    /// Answers one request after the other until the client goes, breaks a rule or the port ends.
    pub(super) fn run(mut self, answer: impl Fn(Request) -> Answer) {
        loop {
            match self.one(&answer) {
                Ok(true) => {}
                Ok(false) | Err(End::Silent) => break,
                Err(End::Answer(a)) => {
                    if self.write(&a, HTTPVersion(1, 1), &[], false, false).is_ok() {
                        self.throw_away();
                    }
                    break;
                }
            }
        }
        // Whatever the client still does, this side is done.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Answers that there is no room, without reading.
    pub(super) fn refuse(mut self) {
        let detail = "too many connections at the same time; try again in a second";
        let busy = Answer::problem(503, "Service unavailable", detail);
        if self
            .write(&busy, HTTPVersion(1, 1), &[], false, false)
            .is_ok()
        {
            let _ = self.stream.shutdown(Shutdown::Both);
        }
    }

    fn one(&mut self, answer: &impl Fn(Request) -> Answer) -> Result<bool, End> {
        let head = self.head()?;
        let mut held = Held {
            all: self.held,
            mine: 0,
            most: self.caps.bodies,
        };
        let body = self.body(&head, &mut held)?;
        let Head {
            method,
            target,
            version,
            headers,
            stays,
            ..
        } = head;
        let only_head = method == Method::Head;
        let stays = stays && !self.cancel.is_cancelled();
        let request = Request {
            method,
            target,
            headers: headers.clone(),
            body,
        };
        let answer = answer(request);
        self.write(&answer, version, &headers, only_head, stays)?;
        Ok(stays)
    }

    fn head(&mut self) -> Result<Head, End> {
        self.deadline = Instant::now() + self.caps.patience;
        let mut from = 0;
        loop {
            let found = self.ahead.get(from..).and_then(|tail| {
                let at = tail.windows(4).position(|w| w == b"\r\n\r\n")?;
                Some(from + at)
            });
            if let Some(end) = found.filter(|end| *end <= MAX_HEAD) {
                let rest = self.ahead.split_off(end + 4);
                let head = std::mem::replace(&mut self.ahead, rest);
                return Ok(head::parse(&head[..end])?);
            }
            if self.ahead.len() > MAX_HEAD {
                let detail =
                    format!("the head of the request is over {MAX_HEAD} bytes; shorten it");
                return Err(
                    Answer::problem(431, "Request header fields too large", &detail).into(),
                );
            }
            from = self.ahead.len().saturating_sub(3);
            let begun = !self.ahead.is_empty();
            self.more(begun)?;
        }
    }

    fn body(&mut self, head: &Head, held: &mut Held<'_>) -> Result<Vec<u8>, End> {
        let cap = self.caps.body;
        let fits = |n: u64| usize::try_from(n).ok().filter(|n| *n <= cap);
        let too_large = || -> End {
            let detail =
                format!("the body is over the cap of {cap} bytes; send the readings in parts");
            Answer::problem(413, "Content too large", &detail).into()
        };
        let mut body = Vec::new();
        let known = match head.length {
            Length::Bytes(n) => Some(fits(n).ok_or_else(too_large)?),
            Length::Chunked => None,
        };
        if head.waits && known != Some(0) {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        if let Some(n) = known {
            self.take(n, &mut body, held)?;
            return Ok(body);
        }
        loop {
            let line = self.line()?;
            let size = line.split(';').next().unwrap_or("").trim();
            let digits = !size.is_empty() && size.bytes().all(|b| b.is_ascii_hexdigit());
            if !digits {
                let detail = "a chunk does not begin with its length; send the body again";
                return Err(Answer::problem(400, "Bad request", detail).into());
            }
            let size = u64::from_str_radix(size, 16).unwrap_or(u64::MAX);
            if size == 0 {
                break;
            }
            let size = fits(size).ok_or_else(too_large)?;
            if body.len() + size > cap {
                return Err(too_large());
            }
            self.take(size, &mut body, held)?;
            if !self.line()?.is_empty() {
                let detail = "a chunk is longer than its length; send the body again";
                return Err(Answer::problem(400, "Bad request", detail).into());
            }
        }
        // What may follow the last chunk is read up to its empty line, and ignored.
        let mut trailer = 0;
        loop {
            let line = self.line()?;
            trailer += line.len();
            if line.is_empty() {
                return Ok(body);
            }
            if trailer > MAX_HEAD {
                return Err(too_large());
            }
        }
    }

    fn take(&mut self, n: usize, body: &mut Vec<u8>, held: &mut Held<'_>) -> Result<(), End> {
        let mut left = n;
        while left > 0 {
            if self.ahead.is_empty() {
                self.more(true)?;
            }
            let here = left.min(self.ahead.len());
            held.take(here)?;
            body.extend(self.ahead.drain(..here));
            left -= here;
        }
        Ok(())
    }

    fn line(&mut self) -> Result<String, End> {
        loop {
            if let Some(end) = self.ahead.windows(2).position(|w| w == b"\r\n") {
                let line = String::from_utf8_lossy(&self.ahead[..end]).into_owned();
                self.ahead.drain(..end + 2);
                return Ok(line);
            }
            if self.ahead.len() > MAX_CHUNK_LINE {
                let detail = "a chunk does not begin with its length; send the body again";
                return Err(Answer::problem(400, "Bad request", detail).into());
            }
            self.more(true)?;
        }
    }

    /// Reads a block; `begun` tells whether the client has begun a request that is not whole yet.
    fn more(&mut self, begun: bool) -> Result<(), End> {
        let mut block = [0; BLOCK];
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || (!begun && self.cancel.is_cancelled()) {
                if !begun {
                    return Err(End::Silent);
                }
                let detail = format!(
                    "the request did not come in within {} s; send it again",
                    self.caps.patience.as_secs()
                );
                return Err(Answer::problem(408, "Request timeout", &detail).into());
            }
            self.stream.set_read_timeout(Some(left.min(SLICE)))?;
            match self.stream.read(&mut block) {
                Ok(0) => return Err(End::Silent),
                Ok(n) => {
                    self.ahead.extend_from_slice(&block[..n]);
                    return Ok(());
                }
                Err(e) if waits_on(&e) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn write(
        &mut self,
        answer: &Answer,
        version: HTTPVersion,
        headers: &[Header],
        only_head: bool,
        stays: bool,
    ) -> io::Result<()> {
        let mut response =
            Response::from_string(answer.body.as_str()).with_status_code(answer.status);
        let retry = (answer.status == 503).then_some(("Retry-After", "1"));
        for (name, value) in [Some(("Content-Type", answer.kind)), retry]
            .into_iter()
            .flatten()
        {
            if let Ok(header) = Header::from_bytes(name, value) {
                response = response.with_header(header);
            }
        }
        let mut bytes = Vec::new();
        response.raw_print(&mut bytes, version, headers, only_head, None)?;
        // tiny_http writes no header of this name.
        if let Some(end) = bytes.windows(2).position(|w| w == b"\r\n") {
            let said: &[u8] = if stays {
                b"\r\nConnection: keep-alive"
            } else {
                b"\r\nConnection: close"
            };
            bytes.splice(end..end, said.iter().copied());
        }
        self.send(&bytes)
    }

    fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let deadline = Instant::now() + self.caps.patience;
        while !bytes.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.stream.set_write_timeout(Some(left))?;
            match self.stream.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
                Err(e) if waits_on(&e) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// A connection closed over unread bytes is reset, and the client may never see its answer.
    fn throw_away(&mut self) {
        let deadline = Instant::now() + self.caps.patience.min(Duration::from_secs(2));
        let mut block = [0; BLOCK];
        if self.stream.shutdown(Shutdown::Write).is_err() {
            return;
        }
        while !self.cancel.is_cancelled() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.stream.set_read_timeout(Some(left.min(SLICE))).is_err() {
                return;
            }
            match self.stream.read(&mut block) {
                Ok(0) => return,
                Ok(_) => {}
                Err(e) if waits_on(&e) => {}
                Err(_) => return,
            }
        }
    }
}

fn waits_on(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}
