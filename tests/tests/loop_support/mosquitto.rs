//! A Mosquitto process with the accounts of a test: owns its configuration and the process.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fieldcast_tests::scenario::wait_for;

pub struct Mosquitto {
    dir: tempfile::TempDir,
    port: u16,
    child: Child,
}

impl Mosquitto {
    /// Starts it on a free port; none, said aloud, where it is not installed.
    pub fn start() -> Result<Option<Self>> {
        let Some(program) = [
            "/usr/sbin/mosquitto",
            "/usr/bin/mosquitto",
            "/usr/local/sbin/mosquitto",
        ]
        .into_iter()
        .find(|p| Path::new(p).is_file()) else {
            println!("skipped: mosquitto is not installed (cargo xtask test installs it)");
            return Ok(None);
        };
        let dir = tempfile::tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = dir.path().join("mosquitto.conf");
        let user = if rustix::process::geteuid().is_root() {
            "user root\n"
        } else {
            ""
        };
        std::fs::write(
            &config,
            format!(
                "{user}listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nmax_packet_size 600000\n"
            ),
        )?;
        let child = Command::new(program)
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start mosquitto")?;
        let broker = Self { dir, port, child };
        wait_for("mosquitto to listen", Duration::from_secs(10), || {
            Ok(std::net::TcpStream::connect(("127.0.0.1", port)).ok())
        })?;
        Ok(Some(broker))
    }

    pub fn hub_url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// Points a device's identity at this broker.
    pub fn add_device(&self, identity: &Path) -> Result<()> {
        ensure!(self.dir.path().is_dir());
        let text = std::fs::read_to_string(identity)?;
        let url = self.hub_url();
        let text: Vec<String> = text
            .lines()
            .map(|l| {
                if l.starts_with("broker") {
                    format!("broker = \"{url}\"")
                } else {
                    l.to_owned()
                }
            })
            .collect();
        std::fs::write(identity, text.join("\n"))?;
        Ok(())
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
