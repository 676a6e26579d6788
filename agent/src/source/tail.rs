//! A growing file seen in whole lines: owns how much of it may be read yet; never parses a line.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

/// Reads a file up to a limit: in following mode up to its last line break, so that a half-written line stays unseen.
#[derive(Debug)]
pub struct Tail {
    file: File,
    at: u64,
    limit: u64,
    follow: bool,
}

impl Tail {
    /// Begins at the start of the file.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(file: File, follow: bool) -> io::Result<Self> {
        let mut tail = Self {
            file,
            at: 0,
            limit: 0,
            follow,
        };
        tail.grow()?;
        Ok(tail)
    }

    /// Looks how far the file may be read by now; true where there is more than before.
    ///
    /// # Errors
    /// What the system says.
    pub fn grow(&mut self) -> io::Result<bool> {
        let before = self.limit;
        if self.follow {
            self.file.seek(SeekFrom::Start(before))?;
            let mut block = vec![0; 64 * 1024];
            let mut offset = before;
            loop {
                let n = self.file.read(&mut block)?;
                if n == 0 {
                    break;
                }
                if let Some(i) = block[..n].iter().rposition(|b| *b == b'\n') {
                    self.limit = offset + i as u64 + 1;
                }
                offset += n as u64;
            }
            self.file.seek(SeekFrom::Start(self.at))?;
        } else {
            self.limit = self.file.metadata()?.len();
        }
        Ok(self.limit > before)
    }

    /// Whether the file is shorter than what was read of it: it was cut or replaced.
    ///
    /// # Errors
    /// What the system says.
    pub fn was_cut(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.len() < self.at)
    }
}

impl Read for Tail {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.limit.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let n = out.len().min(room);
        let read = self.file.read(&mut out[..n])?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Tail {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = self.file.seek(to)?;
        Ok(self.at)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_half_written_line_stays_unseen_until_its_end_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.csv");
        let mut writer = File::create(&path).unwrap();
        writer.write_all(b"a\n1").unwrap();
        let mut tail = Tail::new(File::open(&path).unwrap(), true).unwrap();
        let mut text = String::new();
        tail.read_to_string(&mut text).unwrap();
        assert_eq!(text, "a\n");
        assert!(!tail.grow().unwrap());
        writer.write_all(b"2\n").unwrap();
        assert!(tail.grow().unwrap());
        tail.read_to_string(&mut text).unwrap();
        assert_eq!(text, "a\n12\n");
        let mut whole = Tail::new(File::open(&path).unwrap(), false).unwrap();
        whole.seek(SeekFrom::Start(2)).unwrap();
        text.clear();
        whole.read_to_string(&mut text).unwrap();
        assert_eq!(text, "12\n");
    }
}
