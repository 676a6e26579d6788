//! Tells systemd that the agent is ready and alive (sd_notify's protocol); never fails the agent.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The way to systemd; silent where it did not ask.
#[derive(Debug, Default)]
pub struct Notify {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notify {
    /// From `NOTIFY_SOCKET` and `WATCHDOG_USEC`.
    #[must_use]
    pub fn from_environment() -> Self {
        let socket = std::env::var("NOTIFY_SOCKET").ok();
        let usec = std::env::var("WATCHDOG_USEC").ok();
        Self::new(socket.as_deref(), usec.as_deref())
    }

    /// From the values of the two variables.
    #[must_use]
    pub fn new(socket: Option<&str>, watchdog_usec: Option<&str>) -> Self {
        let address = socket.and_then(|s| match s.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name).ok(),
            None => SocketAddr::from_pathname(s).ok(),
        });
        let to = address.and_then(|a| UnixDatagram::unbound().ok().map(|s| (s, a)));
        let watchdog = watchdog_usec
            .and_then(|u| u.parse().ok())
            .map(Duration::from_micros);
        Self {
            watchdog: watchdog.filter(|_| to.is_some()),
            to,
        }
    }

    /// Half the watchdog's patience: how often [`Self::alive`] is due.
    #[must_use]
    pub fn interval(&self) -> Option<Duration> {
        self.watchdog.map(|w| w / 2)
    }

    /// The agent reads, forecasts and buffers.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// Its event loop turns.
    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    /// It is ending.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    fn send(&self, text: &str) {
        if let Some((socket, address)) = &self.to
            && let Err(e) = socket.send_to_addr(text.as_bytes(), address)
        {
            tracing::debug!("tell systemd {text}: {e}");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn systemd_hears_of_it_and_its_absence_does_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();
        let notify = Notify::new(path.to_str(), Some("4000000"));
        assert_eq!(notify.interval(), Some(Duration::from_secs(2)));
        notify.ready();
        let mut text = [0; 64];
        let n = systemd.recv(&mut text).unwrap();
        assert_eq!(&text[..n], b"READY=1");
        let silent = Notify::new(None, Some("4000000"));
        silent.alive();
        assert_eq!(silent.interval(), None);
    }
}
