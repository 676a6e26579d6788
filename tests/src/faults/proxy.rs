//! A TCP proxy that misbehaves to order: owns the connections through it, never what is said on them.
//!
//! TCP hides a lost packet behind a pause, so loss is pauses at random here, and now and then a cut.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use super::random::Random;
use crate::scenario::process::port;

/// How a link behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Mode {
    /// As a good network.
    #[default]
    Good,
    /// Every connection is cut, new ones too.
    Cut,
    /// Nothing passes and nobody is told; when it ends, connections are gone.
    HalfOpen,
    /// Nothing passes for a while; connections live on.
    Stall,
    /// Each piece takes this long, and up to as much again.
    Slow(u64),
    /// Pieces are late by what retransmission takes; a connection in about sixty pieces breaks.
    Lossy,
}

#[derive(Debug)]
struct Shared {
    mode: Mutex<Mode>,
    /// Counts the ends of modes that cost connections: one made before an end is gone after it.
    era: AtomicU64,
    seed: AtomicU64,
    end: AtomicBool,
}

impl Shared {
    fn mode(&self) -> Mode {
        *self.mode.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A proxy on a port of its own; its connections end when dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) port: u16,
    shared: Arc<Shared>,
}

const LOOK: Duration = Duration::from_millis(20);

impl Proxy {
    pub(crate) fn start(to: u16, seed: u64) -> Result<Self> {
        let port = port()?;
        let listener = TcpListener::bind(("127.0.0.1", port)).context("bind a proxy")?;
        let shared = Arc::new(Shared {
            mode: Mutex::default(),
            era: AtomicU64::new(0),
            seed: AtomicU64::new(seed),
            end: AtomicBool::new(false),
        });
        let inner = Arc::clone(&shared);
        std::thread::spawn(move || accept(&listener, to, &inner));
        Ok(Self { port, shared })
    }

    pub(crate) fn set(&self, mode: Mode) {
        let mut now = self
            .shared
            .mode
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if mode == Mode::Cut || *now == Mode::HalfOpen {
            self.shared.era.fetch_add(1, Ordering::SeqCst);
        }
        *now = mode;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn accept(listener: &TcpListener, to: u16, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        if shared.end.load(Ordering::SeqCst) {
            return;
        }
        let Ok(client) = client else { continue };
        if shared.mode() == Mode::Cut {
            continue;
        }
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            let era = shared.era.load(Ordering::SeqCst);
            // A dead path answers nothing, not even a refusal.
            while shared.mode() == Mode::HalfOpen && !shared.end.load(Ordering::SeqCst) {
                std::thread::sleep(LOOK);
            }
            let address = SocketAddr::from(([127, 0, 0, 1], to));
            let Ok(server) = TcpStream::connect_timeout(&address, Duration::from_secs(5)) else {
                return;
            };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let (Ok(up), Ok(down)) = (client.try_clone(), server.try_clone()) else {
                return;
            };
            let back = Arc::clone(&shared);
            std::thread::spawn(move || pump(down, up, &back, era));
            pump(client, server, &shared, era);
        });
    }
}

/// Carries one direction until either side or the proxy ends it.
fn pump(mut from: TcpStream, mut to: TcpStream, shared: &Shared, era: u64) {
    let mut random = Random::new(shared.seed.fetch_add(1, Ordering::Relaxed));
    let mut piece = vec![0_u8; 16 * 1024];
    let _ = from.set_read_timeout(Some(LOOK));
    let gone = || shared.era.load(Ordering::SeqCst) != era || shared.end.load(Ordering::SeqCst);
    loop {
        if gone() {
            break;
        }
        if matches!(shared.mode(), Mode::HalfOpen | Mode::Stall) {
            std::thread::sleep(LOOK);
            continue;
        }
        let n = match from.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e)
                if matches!(
                    e.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) =>
            {
                continue;
            }
            Err(_) => break,
        };
        // What was read as the stall began is late with the rest.
        while shared.mode() == Mode::Stall && !gone() {
            std::thread::sleep(LOOK);
        }
        match shared.mode() {
            Mode::Slow(ms) => {
                std::thread::sleep(Duration::from_millis(random.between(ms, 2 * ms + 1)))
            }
            Mode::Lossy if random.below(60) == 0 => break,
            Mode::Lossy if random.below(12) == 0 => {
                std::thread::sleep(Duration::from_millis(random.between(200, 1_200)));
            }
            // What was read as the path died is lost with it.
            Mode::HalfOpen | Mode::Cut => continue,
            _ => {}
        }
        if gone() || to.write_all(&piece[..n]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn echo() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut out = stream.try_clone().unwrap();
                    let _ = std::io::copy(&mut &stream, &mut out);
                });
            }
        });
        port
    }

    fn ask(stream: &mut TcpStream, word: &[u8]) -> std::io::Result<Vec<u8>> {
        stream.set_read_timeout(Some(Duration::from_millis(600)))?;
        stream.write_all(word)?;
        let mut back = vec![0; word.len()];
        stream.read_exact(&mut back)?;
        Ok(back)
    }

    #[test]
    fn each_mode_does_to_a_connection_what_it_says() {
        let proxy = Proxy::start(echo(), 1).unwrap();
        let mut one = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
        assert_eq!(ask(&mut one, b"good").unwrap(), b"good");
        proxy.set(Mode::Stall);
        let mut held = one.try_clone().unwrap();
        assert!(ask(&mut held, b"late").is_err(), "nothing passes");
        proxy.set(Mode::Good);
        let mut late = [0; 4];
        one.read_exact(&mut late).unwrap();
        assert_eq!(&late, b"late", "a stalled connection goes on");
        proxy.set(Mode::HalfOpen);
        assert!(ask(&mut one, b"into the void").is_err());
        proxy.set(Mode::Good);
        assert!(
            ask(&mut one, b"x").is_err(),
            "a half-open connection is gone afterwards"
        );
        proxy.set(Mode::Cut);
        let mut refused = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
        assert!(ask(&mut refused, b"x").is_err());
        proxy.set(Mode::Slow(30));
        let mut slow = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
        let begin = std::time::Instant::now();
        assert_eq!(ask(&mut slow, b"slow").unwrap(), b"slow");
        assert!(
            begin.elapsed() >= Duration::from_millis(60),
            "both ways are slow"
        );
    }
}
