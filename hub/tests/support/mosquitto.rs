//! A Mosquitto of a test: owns its process, never what is said over it.
#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "tests"
)]

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A program of this machine.
pub fn program(name: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|p| p.exists())
}

/// Whether programs are here; says so aloud where they are not.
pub fn available(names: &[&str]) -> bool {
    let missing: Vec<_> = names.iter().filter(|n| program(n).is_none()).collect();
    if !missing.is_empty() {
        println!("skipped: not installed: {missing:?} (apt-get install mosquitto openssl)");
    }
    missing.is_empty()
}

/// A running broker that keeps nothing; killed when dropped.
pub struct Mosquitto {
    dir: PathBuf,
    ports: Vec<u16>,
    child: Child,
}

impl Mosquitto {
    /// Starts one on a port, open to everyone.
    pub fn start(dir: &Path, port: u16) -> Self {
        let text =
            format!("listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n");
        Self::configured(dir, &text, &[port])
    }

    /// Starts one with listeners of one's own, and waits for them.
    pub fn configured(dir: &Path, listeners: &str, ports: &[u16]) -> Self {
        let text = format!("persistence false\nlog_type error\n{listeners}");
        fs::write(dir.join("mosquitto.conf"), text).unwrap();
        let broker = Self {
            dir: dir.to_path_buf(),
            ports: ports.to_vec(),
            child: spawn(dir),
        };
        broker.wait();
        broker
    }

    fn wait(&self) {
        let end = Instant::now() + Duration::from_secs(20);
        for port in &self.ports {
            while TcpStream::connect(("127.0.0.1", *port)).is_err() {
                let log = fs::read_to_string(self.dir.join("mosquitto.log")).unwrap_or_default();
                assert!(Instant::now() < end, "mosquitto does not listen: {log}");
                std::thread::yield_now();
            }
        }
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again after it was killed.
    pub fn restart(&mut self) {
        self.child = spawn(&self.dir);
        self.wait();
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(dir: &Path) -> Child {
    Command::new(program("mosquitto").unwrap())
        .arg("-c")
        .arg(dir.join("mosquitto.conf"))
        .stdout(Stdio::null())
        .stderr(fs::File::create(dir.join("mosquitto.log")).unwrap())
        .spawn()
        .unwrap()
}
