//! What `postmaster.pid` says about the server: owns reading it, never signals anyone.

use std::path::Path;

/// A server as its own file describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Status {
    /// Process id of the postmaster.
    pub(crate) pid: i32,
    /// Port of its socket.
    pub(crate) port: u16,
    /// Whether it takes connections.
    pub(crate) ready: bool,
}

/// The live server of a data directory; none where it is not running, whatever a stale file says.
pub(crate) fn running(data: &Path) -> Option<Status> {
    let status = parse(&std::fs::read_to_string(data.join("postmaster.pid")).ok()?)?;
    // A pid is used again: only a process that was started on this directory is ours.
    let command = std::fs::read(format!("/proc/{}/cmdline", status.pid)).ok()?;
    let wanted = data.as_os_str().as_encoded_bytes();
    command
        .split(|b| *b == 0)
        .any(|argument| argument == wanted)
        .then_some(status)
}

/// Lines: pid, data directory, start time, port, socket directory, listen address, shared memory, status.
fn parse(text: &str) -> Option<Status> {
    let lines: Vec<&str> = text.lines().collect();
    Some(Status {
        pid: lines.first()?.trim().parse().ok().filter(|pid| *pid > 1)?,
        port: lines
            .get(3)
            .and_then(|l| l.trim().parse().ok())
            .unwrap_or(0),
        ready: lines.get(7).is_some_and(|l| l.trim() == "ready"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_ready_when_it_says_so() {
        let text = "712\n/d/data\n1794000000\n5432\n/d/sock\n\n  1 2\nready   \n";
        let ready = Status {
            pid: 712,
            port: 5432,
            ready: true,
        };
        assert_eq!(parse(text), Some(ready.clone()));
        assert_eq!(
            parse(&text.replace("ready", "starting")),
            Some(Status {
                ready: false,
                ..ready
            })
        );
        assert_eq!(
            parse("712\n"),
            Some(Status {
                pid: 712,
                port: 0,
                ready: false
            })
        );
        assert_eq!(parse(""), None);
        assert_eq!(parse("-1\n"), None);
    }
}
