//! A CSV file in records: owns where one ends, also where a quote is never closed; never knows what a row means.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};

use super::tail::Tail;

/// Longest line and longest record, bytes.
const MAX_BYTES: usize = 64 * 1024;
/// Most lines of one record.
const MAX_LINES: usize = 64;

/// A record as it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// Its bytes with their line ends; of a record that is too long, the beginning.
    pub(super) bytes: Vec<u8>,
    /// Offset of its first byte.
    pub(super) from: u64,
    /// Offset behind its last byte.
    pub(super) to: u64,
    /// Its first line, from 1.
    pub(super) line: u64,
    /// The line behind it.
    pub(super) next_line: u64,
    /// Why it is no record.
    pub(super) problem: Option<&'static str>,
}

#[derive(Debug)]
struct Line {
    bytes: Vec<u8>,
    to: u64,
    too_long: bool,
}

/// Splits a file into records and holds no more than one of them.
#[derive(Debug)]
pub(super) struct Records {
    reader: BufReader<Tail>,
    delimiter: u8,
    follow: bool,
    /// Where the next record begins.
    from: u64,
    line: u64,
    ahead: VecDeque<Line>,
}

impl Records {
    pub(super) fn new(tail: Tail, delimiter: u8, follow: bool) -> Self {
        Self {
            reader: BufReader::with_capacity(MAX_BYTES, tail),
            delimiter,
            follow,
            from: 0,
            line: 1,
            ahead: VecDeque::new(),
        }
    }

    /// Offset and line of the next record.
    pub(super) fn place(&self) -> (u64, u64) {
        (self.from, self.line)
    }

    pub(super) fn tail(&mut self) -> &mut Tail {
        self.reader.get_mut()
    }

    /// Goes on at a place where a record begins.
    pub(super) fn go_to(&mut self, from: u64, line: u64) -> io::Result<()> {
        self.reader.seek(SeekFrom::Start(from))?;
        (self.from, self.line) = (from, line);
        self.ahead.clear();
        Ok(())
    }

    /// The bytes from one offset to another, at most as many as a record has; the place is lost.
    pub(super) fn bytes(&mut self, from: u64, to: u64) -> io::Result<Vec<u8>> {
        self.go_to(from, 1)?;
        let most = to.saturating_sub(from).min(MAX_BYTES as u64);
        let mut bytes = Vec::new();
        self.reader.by_ref().take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The next record. `is_row` tells whether a line by itself is a good row: then a quote that is open before it was
    /// opened by mistake, and only its own line is lost.
    pub(super) fn next(&mut self, is_row: impl Fn(&[u8]) -> bool) -> io::Result<Option<Record>> {
        loop {
            let Some(first) = self.peek(0)? else {
                return Ok(None);
            };
            if first.too_long {
                return Ok(self.pop(1, Some("the line is longer than 65536 bytes")));
            }
            if first.bytes.iter().all(|b| matches!(b, b'\r' | b'\n')) {
                self.pop(1, None);
                continue;
            }
            let mut joined = first.bytes.clone();
            let mut lines = 1;
            while is_open(&joined, self.delimiter) {
                let end_counts = !self.follow;
                let next = match self.peek(lines)? {
                    Some(next) => next,
                    None if end_counts => return Ok(self.pop(1, Some(OPEN))),
                    None => return Ok(None),
                };
                let long = joined.len() + next.bytes.len() > MAX_BYTES || lines >= MAX_LINES;
                if next.too_long || long || is_row(&next.bytes) {
                    return Ok(self.pop(1, Some(OPEN)));
                }
                joined.extend_from_slice(&next.bytes);
                lines += 1;
            }
            return Ok(self.pop(lines, None));
        }
    }

    fn pop(&mut self, lines: usize, problem: Option<&'static str>) -> Option<Record> {
        let (from, line) = self.place();
        let mut bytes = Vec::new();
        for popped in self.ahead.drain(..lines.min(self.ahead.len())) {
            bytes.extend(popped.bytes);
            self.from = popped.to;
            self.line += 1;
        }
        Some(Record {
            bytes,
            from,
            to: self.from,
            line,
            next_line: self.line,
            problem,
        })
    }

    fn peek(&mut self, i: usize) -> io::Result<Option<&Line>> {
        while self.ahead.len() <= i {
            let Some(line) = self.read_line()? else {
                return Ok(None);
            };
            self.ahead.push_back(line);
        }
        Ok(self.ahead.get(i))
    }

    fn read_line(&mut self) -> io::Result<Option<Line>> {
        let mut line = Line {
            bytes: Vec::new(),
            to: self.ahead.back().map_or(self.from, |l| l.to),
            too_long: false,
        };
        let begin = line.to;
        loop {
            let block = self.reader.fill_buf()?;
            if block.is_empty() {
                return Ok((line.to > begin).then_some(line));
            }
            let end = block.iter().position(|b| *b == b'\n');
            let n = end.map_or(block.len(), |i| i + 1);
            let room = MAX_BYTES.saturating_sub(line.bytes.len());
            line.bytes.extend_from_slice(&block[..n.min(room)]);
            line.too_long |= n > room;
            self.reader.consume(n);
            line.to += n as u64;
            if end.is_some() {
                return Ok(Some(line));
            }
        }
    }
}

const OPEN: &str = "a quote is opened and never closed; expected a `\"` at the end of the cell";

/// Whether a quoted cell goes on behind the last byte. As in RFC 4180, a quote opens only at the beginning of a cell.
fn is_open(bytes: &[u8], delimiter: u8) -> bool {
    #[derive(PartialEq)]
    enum At {
        Begin,
        Plain,
        Quoted,
        Closing,
    }
    let mut at = At::Begin;
    for b in bytes {
        at = match (at, *b) {
            (At::Quoted, b'"') => At::Closing,
            (At::Quoted, _) | (At::Begin | At::Closing, b'"') => At::Quoted,
            (_, b) if b == delimiter || b == b'\n' => At::Begin,
            _ => At::Plain,
        };
    }
    at == At::Quoted
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs::File;

    use super::*;

    fn all(text: &[u8], follow: bool) -> Vec<Record> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.csv");
        std::fs::write(&path, text).unwrap();
        let tail = Tail::new(File::open(&path).unwrap(), follow).unwrap();
        let mut records = Records::new(tail, b',', follow);
        let mut out: Vec<Record> = Vec::new();
        while let Some(r) = records.next(|line| line.starts_with(b"row")).unwrap() {
            let (from, line) = out.last().map_or((r.from, r.line), |b| (b.to, b.next_line));
            assert!(r.from >= from && r.line >= line);
            out.push(r);
        }
        out
    }

    #[test]
    fn a_quote_opens_only_a_cell_and_closes_once() {
        for (text, open) in [
            (&b"a,b\n"[..], false),
            (b"\"a", true),
            (b"a,\"b\n", true),
            (b"a,\"b\"\n", false),
            (b"a,b\"c\n", false),
            (b"\"a\"\"b\n", true),
            (b"\"a\"\"\"\n", false),
            (b"\"a\"b\"c\n", false),
            (b"\"a\nb\",\"", true),
        ] {
            assert_eq!(
                is_open(text, b','),
                open,
                "{}",
                String::from_utf8_lossy(text)
            );
        }
    }

    #[test]
    fn a_stray_quote_costs_its_own_line() {
        let records = all(b"row 1\nrow \"2\n\"bad\nrow 3\n\n\"a\nb\",c\nrow 4", false);
        let texts: Vec<_> = records
            .iter()
            .map(|r| {
                (
                    String::from_utf8_lossy(&r.bytes).into_owned(),
                    r.line,
                    r.problem.is_some(),
                )
            })
            .collect();
        let expected = [
            ("row 1\n", 1, false),
            ("row \"2\n", 2, false),
            ("\"bad\n", 3, true),
            ("row 3\n", 4, false),
            ("\"a\nb\",c\n", 6, false),
            ("row 4", 8, false),
        ];
        let expected = expected.map(|(t, l, p)| (t.to_owned(), l, p));
        assert_eq!(texts, expected);
        let end = all(b"row 1\n\"never\nclosed\n", false);
        assert_eq!(end.len(), 3);
        assert!(end[1].problem.is_some() && end[2].problem.is_none());
        assert_eq!(
            all(b"row 1\n\"goes on\n", true).len(),
            1,
            "the rest may come"
        );
    }

    #[test]
    fn endless_lines_and_cells_are_bounded() {
        let mut text = b"row 1\n".to_vec();
        text.extend(vec![b'x'; 3 * MAX_BYTES]);
        text.extend(b"\nrow 2\n\"");
        text.extend(b"y\n".repeat(2 * MAX_LINES));
        let records = all(&text, true);
        assert_eq!(records[1].bytes.len(), MAX_BYTES);
        assert!(records[1].problem.is_some());
        assert_eq!(
            (records[2].bytes.as_slice(), records[2].line),
            (&b"row 2\n"[..], 3)
        );
        assert!(records[3].problem.is_some());
        assert_eq!(records.len(), 4 + 2 * MAX_LINES - 1);
    }
}
