//! A port and its threads: owns how many clients there are at the same time; never reads a request.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::connection::{Caps, Connection};
use super::{Answer, Request};

/// Clients at the same time; more are told to come again.
const CONNECTIONS: usize = 64;
/// Bodies of the largest size that may be in memory at the same time.
const BODIES: usize = 4;
/// Longest time for a request to come in, and for its answer to be taken.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause after a connection that could not be taken: the reason (no more files, say) does not go at once.
const AGAIN: Duration = Duration::from_millis(100);
/// Longest wait for the port's own last connection.
const WAKE: Duration = Duration::from_secs(1);

/// A port that is open and not served yet.
#[derive(Debug)]
pub struct Port {
    listener: TcpListener,
    address: SocketAddr,
    patience: Duration,
}

/// Opens a port.
///
/// # Errors
/// What is wrong and which key to change.
pub fn open(listen: &str, key: &str) -> Result<Port, String> {
    let opened = TcpListener::bind(listen).and_then(|listener| {
        let address = listener.local_addr()?;
        Ok(Port {
            listener,
            address,
            patience: PATIENCE,
        })
    });
    opened.map_err(|e| {
        format!("{listen} cannot be opened ({e}); set `{key}` to a free address and port")
    })
}

impl Port {
    /// The address it got.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// With another patience for slow clients than ten seconds.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Serves on threads of its own until cancelled; the thread ends after the last of its requests. Within a runtime.
    ///
    /// # Errors
    /// Where no thread can be had.
    pub fn serve(
        self,
        name: &str,
        max_body: usize,
        answer: impl Fn(Request) -> Answer + Send + Sync + 'static,
        cancel: CancellationToken,
    ) -> std::io::Result<JoinHandle<()>> {
        let caps = Caps {
            body: max_body,
            bodies: max_body.saturating_mul(BODIES),
            patience: self.patience,
        };
        let (end, address) = (cancel.clone(), self.address);
        let (listener, name) = (self.listener, name.to_owned());
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            accept(&listener, caps, &Arc::new(answer), &cancel);
        })?;
        tokio::spawn(async move {
            end.cancelled().await;
            // The thread waits in `accept`, which only a connection ends.
            let woken =
                tokio::task::spawn_blocking(move || TcpStream::connect_timeout(&address, WAKE));
            if let Ok(Err(e)) = woken.await {
                tracing::debug!(%address, "wake the port: {e}; it ends with the process");
            }
        });
        Ok(thread)
    }
}

fn accept<F>(listener: &TcpListener, caps: Caps, answer: &Arc<F>, cancel: &CancellationToken)
where
    F: Fn(Request) -> Answer + Send + Sync + 'static,
{
    let held = Arc::new(AtomicUsize::new(0));
    let mut clients: Vec<JoinHandle<()>> = Vec::new();
    let mut told = false;
    while !cancel.is_cancelled() {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(e) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!("take a connection: {e}; the next one is awaited");
                }
                std::thread::sleep(AGAIN);
                continue;
            }
        };
        told = false;
        if cancel.is_cancelled() {
            break;
        }
        clients.retain(|c| !c.is_finished());
        let full = clients.len() >= CONNECTIONS;
        let (answer, held, cancel) = (answer.clone(), held.clone(), cancel.clone());
        if full {
            Connection::new(stream, caps, &held, &cancel).refuse();
            continue;
        }
        let client = std::thread::Builder::new()
            .name("client".into())
            .spawn(move || Connection::new(stream, caps, &held, &cancel).run(|r| answer(r)));
        match client {
            Ok(client) => clients.push(client),
            Err(e) => tracing::warn!("serve a connection: {e}; it is closed"),
        }
    }
    for client in clients {
        // A client's thread that panicked has told so already.
        let _ = client.join();
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
