//! A clean Debian with a systemd of its own: owns making, booting and ending it, and running commands in it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fieldcast_tests::scenario::wait_for;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

mod root;

/// A booted system; ended when dropped.
pub struct Debian {
    dir: tempfile::TempDir,
    nspawn: Child,
    init: String,
}

impl Debian {
    /// Boots a fresh one of the machine's own release; none, said aloud, where that cannot be.
    pub fn boot() -> Result<Option<Self>> {
        let Some(tarball) = root::tarball()? else {
            return Ok(None);
        };
        let dir = tempfile::Builder::new()
            .prefix("debian-")
            .tempdir_in(root::target()?)?;
        let files = dir.path().join("root");
        std::fs::create_dir(&files)?;
        let mut unpack = Command::new("tar");
        unpack.arg("-C").arg(&files).arg("-xpf").arg(&tarball);
        output(&mut unpack)?;
        let log = std::fs::File::create(dir.path().join("boot.log"))?;
        // A /run of its own: nspawn refuses one that lies on a disk, and leaves nothing in the machine's.
        let nspawn =
            "mount -t tmpfs tmpfs /run && mkdir /run/systemd && exec systemd-nspawn \"$@\"";
        let child = Command::new("unshare")
            .args(["--mount", "--propagation=private", "sh", "-c", nspawn, "sh"])
            .args([
                "--boot",
                "--private-network",
                "--register=no",
                "--keep-unit",
            ])
            .args(["--link-journal=no", "--resolv-conf=off", "--timezone=off"])
            .arg(format!("--machine=fieldcast-{}", std::process::id()))
            .arg("--directory")
            .arg(&files)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start systemd-nspawn")?;
        let mut debian = Self {
            dir,
            nspawn: child,
            init: String::new(),
        };
        debian.init = wait_for("an init", Duration::from_secs(60), || debian.find_init())
            .with_context(|| debian.boot_log())?;
        wait_for(
            "the system to have booted",
            Duration::from_secs(120),
            || {
                let out = debian.enter(&["systemctl", "is-system-running"]).output()?;
                let state = String::from_utf8_lossy(&out.stdout);
                Ok(matches!(state.trim(), "running" | "degraded").then_some(()))
            },
        )
        .with_context(|| debian.boot_log())?;
        Ok(Some(debian))
    }

    /// A file of the system, seen from outside.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.dir
            .path()
            .join("root")
            .join(inside.trim_start_matches('/'))
    }

    /// Runs a command inside; its standard output.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        output(&mut self.enter(words))
    }

    /// Whether a command inside succeeds.
    pub fn succeeds(&self, words: &[&str]) -> Result<bool> {
        Ok(self.enter(words).output()?.status.success())
    }

    /// A property of the agent's unit.
    pub fn unit(&self, property: &str) -> Result<String> {
        let flag = format!("--property={property}");
        let text = self.run(&["systemctl", "show", "--value", &flag, "fieldcast-agent"])?;
        Ok(text.trim().to_owned())
    }

    /// Asks a port of the system's own loopback, as a program inside would.
    pub fn http(&self, port: u16, method: &str, path: &str, body: &str) -> Result<Value> {
        let talk = format!("exec 3<>/dev/tcp/127.0.0.1/{port} && cat >&3 && cat <&3");
        let mut child = self
            .enter(&["bash", "-c", &talk])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stdin = child.stdin.take().context("the pipe is there")?;
        // Refused connections close the pipe early: the exit status tells of them.
        let _ = stdin.write_all(request.as_bytes());
        drop(stdin);
        let answer = judged("a request", child.wait_with_output()?)?;
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .with_context(|| format!("{method} {path} answered no HTTP: {answer}"))?;
        let status = head.lines().next().unwrap_or_default();
        ensure!(
            status.contains(" 200 "),
            "{method} {path} answered {status}: {body}"
        );
        serde_json::from_str(body).with_context(|| format!("{path} answered {body}"))
    }

    /// What the journal holds of the agent.
    pub fn journal(&self) -> String {
        self.run(&["journalctl", "--no-pager", "--unit=fieldcast-agent"])
            .unwrap_or_default()
    }

    fn enter(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.init])
            .args([
                "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd",
            ])
            .args(["env", "-i", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"])
            .arg("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .args(words)
            .stdin(Stdio::null());
        command
    }

    /// The container's process 1, as the machine numbers it.
    fn find_init(&self) -> Result<Option<String>> {
        let nspawn = self.nspawn.id();
        let children = std::fs::read_to_string(format!("/proc/{nspawn}/task/{nspawn}/children"))
            .context("systemd-nspawn has ended")?;
        for child in children.split_whitespace() {
            let status = std::fs::read_to_string(format!("/proc/{child}/status"));
            let numbers = status.unwrap_or_default();
            let numbers = numbers.lines().find(|line| line.starts_with("NSpid:"));
            if numbers.is_some_and(|line| line.ends_with("\t1")) {
                return Ok(Some(child.to_owned()));
            }
        }
        Ok(None)
    }

    fn boot_log(&self) -> String {
        let text = std::fs::read(self.dir.path().join("boot.log")).unwrap_or_default();
        format!("the boot said: {}", String::from_utf8_lossy(&text).trim())
    }
}

impl Drop for Debian {
    fn drop(&mut self) {
        // SIGTERM shuts the system down in order, a dead nspawn takes it along.
        let pid = i32::try_from(self.nspawn.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM);
        }
        let ended = wait_for("the system to end", Duration::from_secs(30), || {
            Ok(self.nspawn.try_wait()?)
        });
        if ended.is_err() {
            let _ = self.nspawn.kill();
            let _ = self.nspawn.wait();
        }
    }
}

/// The same package with a higher version and a default configuration that differs.
pub fn next_version(deb: &Path, into: &Path) -> Result<PathBuf> {
    let files = into.join("next");
    output(Command::new("dpkg-deb").arg("-R").arg(deb).arg(&files))?;
    let control = files.join("DEBIAN/control");
    let text = std::fs::read_to_string(&control)?;
    let (before, after) = text.split_once("\nVersion: ").context("a version")?;
    let (_, after) = after.split_once('\n').context("a line's end")?;
    std::fs::write(&control, format!("{before}\nVersion: 999.0-1\n{after}"))?;
    let config = files.join("etc/fieldcast/agent.toml");
    let text = std::fs::read_to_string(&config)?;
    std::fs::write(&config, format!("{text}# A default of the next version.\n"))?;
    let deb = into.join("next.deb");
    let mut pack = Command::new("dpkg-deb");
    pack.args(["--root-owner-group", "-Znone", "-b"]);
    output(pack.arg(&files).arg(&deb))?;
    std::fs::remove_dir_all(&files)?;
    Ok(deb)
}

/// Runs silently; its standard output, or what it said as the error.
pub fn output(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let out = command.output().with_context(|| format!("start {shown}"))?;
    judged(&shown, out)
}

fn judged(shown: &str, out: Output) -> Result<String> {
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    if !out.status.success() {
        let error = String::from_utf8_lossy(&out.stderr);
        bail!("{shown} ended with {}: {text}{error}", out.status);
    }
    Ok(text)
}
