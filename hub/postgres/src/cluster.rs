//! One private cluster: owns its directory, its server's start and end, and who else uses it.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use ring::rand::SecureRandom as _;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

use crate::error::file;
use crate::location::name_of;
use crate::owner::Owner;
use crate::status::{Status, running};
use crate::{Binaries, ClusterError};

const USER: &str = "hub";
const PORT: u16 = 5432;
/// Recovery after a crash may take its time.
const START_WITHIN: Duration = Duration::from_secs(120);
const STOP_WITHIN: Duration = Duration::from_secs(60);
/// What is left of a server that was killed is gone by then.
const DIES_WITHIN: Duration = Duration::from_secs(5);
/// A socket's path may have 107 bytes, `/.s.PGSQL.5432` among them.
const MAX_SOCKET_DIR: usize = 90;

/// How the server is set up.
#[derive(Debug, Clone, Copy)]
pub struct Tuning {
    /// Whether a commit waits for the disk; only tests that lose their data anyway say no.
    pub fsync: bool,
    /// Most connections.
    pub connections: u32,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            fsync: true,
            connections: 100,
        }
    }
}

/// A running private PostgreSQL that this process uses. The last user's [`Cluster::close`] stops the server.
#[derive(Debug)]
pub struct Cluster {
    root: PathBuf,
    sock: PathBuf,
    password: String,
    owner: Owner,
    tuning: Tuning,
    child: Option<Child>,
    /// Locked shared for as long as this process uses the server.
    users: File,
}

impl Cluster {
    /// Joins the server of `root` where it runs (also one whose hub was killed), else starts it; makes the cluster
    /// first where there is none.
    ///
    /// # Errors
    /// No binaries, no permission, or a server that does not start; each says what to do.
    pub fn open(root: &Path, tuning: Tuning) -> Result<Self, ClusterError> {
        let owner = Owner::find()?;
        directory(root, 0o711)?;
        let _turn = turn(root)?;
        let sock = socket_dir(root);
        for dir in [root.join("data"), sock.clone()] {
            directory(&dir, 0o700)?;
            owner.give(&dir)?;
        }
        let password = password(root)?;
        if !Self::is_made(root)? {
            init(root, owner, &password, tuning)?;
        }
        let users = lock_file(&root.join("users.lock"))?;
        let mut cluster = Self {
            root: root.to_path_buf(),
            sock,
            password,
            owner,
            tuning,
            child: None,
            users,
        };
        if running(&cluster.data()).is_none() {
            cluster.child = Some(cluster.start()?);
        }
        cluster.wait_ready()?;
        file(
            "lock",
            root,
            flock(&cluster.users, FlockOperation::LockShared).map_err(Into::into),
        )?;
        Ok(cluster)
    }

    /// Whether there is a cluster in `root`, running or not.
    ///
    /// # Errors
    /// A directory that may not be looked into.
    pub fn is_made(root: &Path) -> Result<bool, ClusterError> {
        file("look into", root, root.join("data/PG_VERSION").try_exists())
    }

    /// Directory of the socket.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        &self.sock
    }

    /// Port, part of the socket's name.
    #[must_use]
    pub fn port(&self) -> u16 {
        PORT
    }

    /// Superuser.
    #[must_use]
    pub fn user(&self) -> &str {
        USER
    }

    /// The superuser's password.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }

    /// Process id of the server; none where it is not running.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        running(&self.data()).and_then(|s| u32::try_from(s.pid).ok())
    }

    /// Starts the server again where it has died; returns whether that was so. One that does not end within seconds is left to the
    /// next call.
    ///
    /// # Errors
    /// It does not start.
    pub fn revive(&mut self) -> Result<bool, ClusterError> {
        if running(&self.data()).is_some() || !self.reap() {
            return Ok(false);
        }
        let _turn = turn(&self.root)?;
        if running(&self.data()).is_none() {
            self.child = Some(self.start()?);
        }
        self.wait_ready()?;
        Ok(true)
    }

    /// Gives up this process's use; the server stops where no other process uses it. Returns whether it stopped.
    ///
    /// # Errors
    /// It does not stop.
    pub fn close(mut self) -> Result<bool, ClusterError> {
        self.release()
    }

    fn release(&mut self) -> Result<bool, ClusterError> {
        let _turn = turn(&self.root)?;
        let _ = flock(&self.users, FlockOperation::Unlock);
        if flock(&self.users, FlockOperation::NonBlockingLockExclusive).is_err() {
            if let Some(mut child) = self.child.take() {
                // Others go on with the server this process started: its exit status must still be taken one day, or a
                // killed server would stay behind as a zombie whose pid looks alive.
                std::thread::spawn(move || child.wait());
            }
            return Ok(false);
        }
        let stopped = match running(&self.data()) {
            Some(status) => {
                self.stop(&status)?;
                true
            }
            None => {
                let _ = self.reap();
                false
            }
        };
        let _ = flock(&self.users, FlockOperation::Unlock);
        Ok(stopped)
    }

    /// Waits until a server that this process started and that no longer runs has ended, and takes its exit status: until
    /// then its pid looks alive, and a new server refuses the directory. Returns whether there is none any more.
    fn reap(&mut self) -> bool {
        let since = Instant::now();
        while let Some(child) = &mut self.child
            && matches!(child.try_wait(), Ok(None))
        {
            if since.elapsed() > DIES_WITHIN {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.child = None;
        true
    }

    fn stop(&mut self, status: &Status) -> Result<(), ClusterError> {
        if let Some(pid) = Pid::from_raw(status.pid) {
            // SIGINT is the fast shutdown: sessions end, nothing is lost, no recovery at the next start.
            let _ = kill_process(pid, Signal::INT);
        }
        let since = Instant::now();
        while since.elapsed() < STOP_WITHIN {
            if running(&self.data()).is_none() {
                let _ = self.reap();
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(ClusterError::Stop {
            pid: status.pid,
            seconds: STOP_WITHIN.as_secs(),
        })
    }

    fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    fn log(&self) -> PathBuf {
        self.root.join("server.log")
    }

    fn start(&self) -> Result<Child, ClusterError> {
        let log = file(
            "open",
            &self.log(),
            OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o600)
                .open(self.log()),
        )?;
        let program = Binaries::find()?.program("postgres");
        let onoff = |on| if on { "on" } else { "off" };
        let mut command = self.owner.command(&program);
        command.arg("-D").arg(self.data()).arg("-k").arg(&self.sock);
        for setting in [
            "listen_addresses=".to_owned(),
            format!("port={PORT}"),
            "unix_socket_permissions=0700".to_owned(),
            format!("max_connections={}", self.tuning.connections),
            "shared_buffers=64MB".to_owned(),
            "max_wal_size=1GB".to_owned(),
            format!("fsync={}", onoff(self.tuning.fsync)),
            format!("full_page_writes={}", onoff(self.tuning.fsync)),
            "log_line_prefix=%m [%p] ".to_owned(),
        ] {
            command.arg("-c").arg(setting);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        file("run", &program, command.spawn())
    }

    fn wait_ready(&mut self) -> Result<(), ClusterError> {
        let since = Instant::now();
        loop {
            if running(&self.data()).is_some_and(|s| s.ready && s.port == PORT) {
                return Ok(());
            }
            if let Some(child) = &mut self.child {
                let ended = file("wait for", &self.root, child.try_wait())?;
                match ended {
                    // A server that was just being shut down by its last user leaves its file for a moment, and the children of a
                    // killed one its memory.
                    Some(_) if since.elapsed() < DIES_WITHIN => {
                        std::thread::sleep(Duration::from_millis(200));
                        self.child = Some(self.start()?);
                    }
                    Some(status) => return Err(self.not_started(format!("it ended with {status}"))),
                    None => {}
                }
            } else if running(&self.data()).is_none() {
                self.child = Some(self.start()?);
            }
            if since.elapsed() > START_WITHIN {
                return Err(
                    self.not_started(format!("not ready within {} s", START_WITHIN.as_secs()))
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn not_started(&self, what: String) -> ClusterError {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let log = lines[lines.len().saturating_sub(12)..].join("\n");
        ClusterError::Start {
            data: self.data(),
            what,
            log,
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // After `close` there is nothing left to stop.
        let _ = self.release();
    }
}

fn directory(path: &Path, mode: u32) -> Result<(), ClusterError> {
    file("create", path, std::fs::create_dir_all(path))?;
    let permissions = std::fs::Permissions::from_mode(mode);
    file(
        "set the mode of",
        path,
        std::fs::set_permissions(path, permissions),
    )
}

fn socket_dir(root: &Path) -> PathBuf {
    let inside = root.join("sock");
    if inside.as_os_str().len() <= MAX_SOCKET_DIR {
        inside
    } else {
        std::env::temp_dir().join(format!("fieldcast-{}", name_of(root)))
    }
}

fn lock_file(path: &Path) -> Result<File, ClusterError> {
    let opened = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path);
    file("open", path, opened)
}

/// One process at a time starts, joins or leaves.
fn turn(root: &Path) -> Result<File, ClusterError> {
    let path = root.join("turn.lock");
    let lock = lock_file(&path)?;
    file(
        "lock",
        &path,
        flock(&lock, FlockOperation::LockExclusive).map_err(Into::into),
    )?;
    Ok(lock)
}

fn password(root: &Path) -> Result<String, ClusterError> {
    let path = root.join("password");
    if let Ok(text) = std::fs::read_to_string(&path)
        && !text.is_empty()
    {
        return Ok(text);
    }
    let mut bytes = [0_u8; 24];
    let filled = ring::rand::SystemRandom::new().fill(&mut bytes);
    file(
        "make a password for",
        root,
        filled.map_err(|_| std::io::Error::other("no randomness")),
    )?;
    let text = hex::encode(bytes);
    let opened = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&path);
    let mut out = file("create", &path, opened)?;
    file(
        "write",
        &path,
        out.write_all(text.as_bytes()).and_then(|()| out.sync_all()),
    )?;
    Ok(text)
}

fn init(root: &Path, owner: Owner, password: &str, tuning: Tuning) -> Result<(), ClusterError> {
    let data = root.join("data");
    // What an interrupted initdb left behind would stop the next one.
    for entry in file("read", &data, std::fs::read_dir(&data))?.flatten() {
        let path = entry.path();
        let removed = if path.is_dir() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        file("remove", &path, removed)?;
    }
    let pwfile = root.join("initdb.password");
    file("write", &pwfile, std::fs::write(&pwfile, password))?;
    file(
        "set the mode of",
        &pwfile,
        std::fs::set_permissions(&pwfile, std::fs::Permissions::from_mode(0o600)),
    )?;
    owner.give(&pwfile)?;
    let program = Binaries::find()?.program("initdb");
    let mut command = owner.command(&program);
    command.arg("-D").arg(&data).arg("--pwfile").arg(&pwfile);
    command.args([
        "-U",
        USER,
        "-E",
        "UTF8",
        "--locale=C.UTF-8",
        "-A",
        "scram-sha-256",
    ]);
    if !tuning.fsync {
        command.arg("--no-sync");
    }
    let output = command.stdin(Stdio::null()).output();
    let _ = std::fs::remove_file(&pwfile);
    let output = file("run", &program, output)?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    Err(ClusterError::Init {
        data,
        output: String::from_utf8_lossy(&said).trim().to_owned(),
    })
}
