//! A Mosquitto of a test: owns its process, never what is said over it.

use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A running broker; killed when dropped.
pub struct Mosquitto(Child);

impl Mosquitto {
    /// The machine's program; without one it says that the test is skipped.
    pub fn program() -> Option<&'static str> {
        let found = ["/usr/sbin/mosquitto", "/usr/bin/mosquitto"]
            .into_iter()
            .find(|p| Path::new(p).exists());
        if found.is_none() {
            println!("skipped: mosquitto is not installed (apt-get install mosquitto)");
        }
        found
    }

    /// Starts it on a port, open to everyone.
    pub fn start(program: &str, dir: &Path, port: u16) -> Self {
        let config = dir.join("mosquitto.conf");
        let text = format!("listener {port} 127.0.0.1\nallow_anonymous true\n");
        std::fs::write(&config, text).unwrap();
        let child = Command::new(program)
            .arg("-c")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
