//! A real Mosquitto that speaks TLS with certificates made on the spot; never trusts anything of the machine's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "tests"
)]

#[allow(
    clippy::duplicate_mod,
    reason = "not all who share this have the rest of `support`"
)]
#[path = "mosquitto.rs"]
pub mod mosquitto;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use mosquitto::{Mosquitto, program};

/// Valid for a very long time, and long expired.
pub const GOOD: (&str, &str) = ("20200101000000Z", "20990101000000Z");
pub const EXPIRED: (&str, &str) = ("20200101000000Z", "20210101000000Z");

/// Whether the programs are here; says so aloud where they are not.
pub fn available() -> bool {
    mosquitto::available(&["mosquitto", "mosquitto_passwd", "openssl"])
}

fn run(name: &str, dir: &Path, args: &[&str]) {
    let done = Command::new(program(name).unwrap())
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{name} {args:?}: {said}");
}

/// Signs certificates for `localhost`.
pub struct Authority {
    dir: PathBuf,
}

impl Authority {
    pub fn new(dir: &Path, name: &str) -> Self {
        let dir = dir.join(name);
        fs::create_dir(&dir).unwrap();
        let config = "[ca]\ndefault_ca=a\n[a]\ndatabase=index\nnew_certs_dir=.\nserial=serial\ndefault_md=sha256\n\
             policy=p\nunique_subject=no\nx509_extensions=x\ncertificate=ca.pem\nprivate_key=ca.key\n\
             [p]\ncommonName=supplied\n[x]\nsubjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n";
        fs::write(dir.join("ca.cnf"), config).unwrap();
        fs::write(dir.join("index"), "").unwrap();
        fs::write(dir.join("serial"), "01\n").unwrap();
        let subject = format!("/CN={name}");
        run(
            "openssl",
            &dir,
            &[
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-keyout",
                "ca.key",
                "-out",
                "ca.pem",
                "-days",
                "36500",
                "-subj",
                &subject,
            ],
        );
        Self { dir }
    }

    pub fn certificate(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// Certificate and key of a broker.
    pub fn issue(&self, name: &str, (from, to): (&str, &str)) -> (PathBuf, PathBuf) {
        let file = |end: &str| format!("{name}.{end}");
        run(
            "openssl",
            &self.dir,
            &[
                "req",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-keyout",
                &file("key"),
                "-out",
                &file("csr"),
                "-subj",
                "/CN=localhost",
            ],
        );
        run(
            "openssl",
            &self.dir,
            &[
                "ca",
                "-batch",
                "-notext",
                "-config",
                "ca.cnf",
                "-startdate",
                from,
                "-enddate",
                to,
                "-in",
                &file("csr"),
                "-out",
                &file("pem"),
            ],
        );
        (self.dir.join(file("pem")), self.dir.join(file("key")))
    }
}

pub fn free_port() -> u16 {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    taken.local_addr().unwrap().port()
}

/// A broker with one listener for TLS and passwords and one that is plain and open.
pub struct TlsBroker {
    dir: PathBuf,
    pub tls_port: u16,
    pub plain_port: u16,
    running: Option<Mosquitto>,
}

impl TlsBroker {
    pub fn new(dir: &Path) -> Self {
        let dir = dir.join("mosquitto");
        fs::create_dir(&dir).unwrap();
        Self {
            dir,
            tls_port: free_port(),
            plain_port: free_port(),
            running: None,
        }
    }

    /// Ends what runs and starts anew with this certificate and these users.
    pub fn start(&mut self, (certificate, key): &(PathBuf, PathBuf), users: &[(&str, &str)]) {
        self.stop();
        let _ = fs::remove_file(self.dir.join("passwords"));
        fs::write(self.dir.join("passwords"), "").unwrap();
        for (user, password) in users {
            run(
                "mosquitto_passwd",
                &self.dir,
                &["-b", "passwords", user, password],
            );
        }
        let config = format!(
            "user root\nper_listener_settings true\nmax_packet_size 600000\n\
             listener {} 127.0.0.1\nallow_anonymous true\n\
             listener {} 127.0.0.1\nallow_anonymous false\npassword_file {}\ncertfile {}\nkeyfile {}\n",
            self.plain_port,
            self.tls_port,
            self.dir.join("passwords").display(),
            certificate.display(),
            key.display()
        );
        let ports = [self.plain_port, self.tls_port];
        self.running = Some(Mosquitto::configured(&self.dir, &config, &ports));
    }

    pub fn stop(&mut self) {
        self.running = None;
    }
}

/// What this process logs.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    pub fn capture() -> Self {
        static ALL: OnceLock<Log> = OnceLock::new();
        let start = || {
            let log = Self::default();
            let writer = log.clone();
            tracing_subscriber::fmt()
                .with_ansi(false)
                .with_writer(move || writer.clone())
                .init();
            log
        };
        ALL.get_or_init(start).clone()
    }

    /// Where the log ends now: taken before the act whose words are waited for.
    pub fn mark(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// Waits for a text that is logged behind `from`.
    pub async fn says(&self, from: usize, text: &str) {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let all = self.0.lock().unwrap().clone();
            let new = String::from_utf8_lossy(&all[from..]).into_owned();
            if new.contains(text) {
                return;
            }
            assert!(Instant::now() < end, "`{text}` is not logged, but: {new}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
