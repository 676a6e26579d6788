//! The package on a clean Debian with a real systemd: installed, started, watched, upgraded with an edited configuration, removed, purged.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod package_support;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fieldcast_tests::scenario::wait_for;
use package_support::{Debian, next_version};
use serde_json::Value;

/// Ports of the shipped configuration.
const STATUS: u16 = 8788;
const READINGS: u16 = 8787;
const CONFIG: &str = "/etc/fieldcast/agent.toml";
const SOON: Duration = Duration::from_secs(60);

#[test]
fn the_package_is_installed_started_upgraded_and_removed_in_a_clean_debian() -> Result<()> {
    let Some(deb) = std::env::var_os("FIELDCAST_DEB") else {
        println!("skipped: FIELDCAST_DEB names no package (cargo xtask test makes one as root)");
        return Ok(());
    };
    let Some(debian) = Debian::boot()? else {
        return Ok(());
    };
    std::fs::copy(&deb, debian.path("/srv/first.deb")).context("copy FIELDCAST_DEB")?;
    let next = next_version(deb.as_ref(), &debian.path("/srv"))?;
    ensure!(next == debian.path("/srv/next.deb"));
    let whole = walk(&debian);
    whole.with_context(|| format!("the agent's journal:\n{}", debian.journal()))
}

fn walk(debian: &Debian) -> Result<()> {
    // Installing starts it, on the shipped configuration, with no network at all.
    debian.run(&["dpkg", "--install", "/srv/first.deb"])?;
    ensure!(debian.succeeds(&["systemctl", "is-enabled", "fieldcast-agent"])?);
    wait_active(debian)?;
    runs_confined(debian)?;
    push(debian, 3)?;
    let stored = wait_records(debian, 3)?;
    killed_by_the_watchdog(debian)?;
    wait_records(debian, stored).context("after the watchdog")?;

    // Upgrading keeps the edit and the readings, and runs the new version.
    let edited = std::fs::read_to_string(debian.path(CONFIG))? + "\n[sensors.s9]\nmax = 30.0\n";
    std::fs::write(debian.path(CONFIG), &edited)?;
    let before = debian.unit("MainPID")?;
    debian.run(&["dpkg", "--force-confold", "--install", "/srv/next.deb"])?;
    wait_active(debian)?;
    ensure!(debian.unit("MainPID")? != before, "the old process runs on");
    ensure!(std::fs::read_to_string(debian.path(CONFIG))? == edited);
    ensure!(debian.path("/etc/fieldcast/agent.toml.dpkg-dist").is_file());
    wait_records(debian, stored).context("after upgrading")?;
    obeys_the_edit(debian)?;
    push(debian, 2)?;

    // Removing keeps configuration and readings, and a new installation finds them.
    debian.run(&["dpkg", "--remove", "fieldcast-agent"])?;
    ensure!(!debian.succeeds(&["systemctl", "is-active", "fieldcast-agent"])?);
    ensure!(!debian.path("/usr/bin/fieldcast-agent").exists());
    ensure!(std::fs::read_to_string(debian.path(CONFIG))? == edited);
    debian.run(&["dpkg", "--force-confold", "--install", "/srv/next.deb"])?;
    wait_active(debian)?;
    wait_records(debian, stored + 2).context("after removing and installing again")?;

    // Purging leaves nothing.
    debian.run(&["dpkg", "--purge", "fieldcast-agent"])?;
    let left = debian.run(&["find", "/", "-xdev", "-name", "*fieldcast*"])?;
    ensure!(left.is_empty(), "left after purging: {left}");
    ensure!(!debian.succeeds(&["getent", "passwd", "fieldcast"])?);
    ensure!(!debian.succeeds(&["getent", "group", "fieldcast"])?);
    Ok(())
}

/// Its own user, no capability, no way to more, a filter on system calls; a unit without warnings.
fn runs_confined(debian: &Debian) -> Result<()> {
    let pid = debian.unit("MainPID")?;
    let facts = debian.run(&["cat", &format!("/proc/{pid}/status")])?;
    let fact = |name: &str| {
        let line = facts.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim().to_owned()
    };
    let user = debian.run(&["id", "--user", "fieldcast"])?;
    let user = user.trim();
    ensure!(user != "0" && fact("Uid:").split_whitespace().all(|uid| uid == user));
    ensure!(fact("CapEff:") == "0000000000000000" && fact("CapBnd:") == "0000000000000000");
    ensure!(
        fact("NoNewPrivs:") == "1" && fact("Seccomp:") == "2",
        "{facts}"
    );
    let file = debian.unit("FragmentPath")?;
    // The judge of systemd itself: 0 is best, 100 worst.
    debian.run(&["systemd-analyze", "verify", &file])?;
    debian.run(&[
        "systemd-analyze",
        "security",
        "--threshold=20",
        "fieldcast-agent",
    ])?;
    let warnings = debian.run(&[
        "journalctl",
        "--unit=fieldcast-agent",
        "--priority=warning",
        "--quiet",
    ])?;
    ensure!(warnings.is_empty(), "starting warned: {warnings}");
    let rss = fact("VmRSS:");
    println!("installed, started as user {user}, {rss} resident, unit {file}");
    Ok(())
}

/// A stopped process answers nobody: systemd notices and starts it anew.
fn killed_by_the_watchdog(debian: &Debian) -> Result<()> {
    let folder = debian.path("/run/systemd/system/fieldcast-agent.service.d");
    let text = "[Service]\nWatchdogSec=2\nTimeoutAbortSec=2\nRestartSec=0\n";
    let inside = "/run/systemd/system/fieldcast-agent.service.d";
    // From inside: /run is a file system of the container's own.
    debian.run(&["mkdir", "-p", inside])?;
    debian.run(&["sh", "-c", &format!("printf '{text}' > {inside}/test.conf")])?;
    ensure!(!folder.exists(), "/run is shared with the machine's files");
    debian.run(&["systemctl", "daemon-reload"])?;
    debian.run(&["systemctl", "restart", "fieldcast-agent"])?;
    ensure!(debian.unit("NRestarts")? == "0");
    debian.run(&["systemctl", "kill", "--signal=STOP", "fieldcast-agent"])?;
    wait_for("the watchdog", SOON, || {
        Ok((debian.unit("NRestarts")? == "1").then_some(()))
    })?;
    wait_active(debian)?;
    ensure!(debian.journal().contains("atchdog timeout"));
    debian.run(&["rm", "-r", inside])?;
    debian.run(&["systemctl", "daemon-reload"])?;
    debian.run(&["systemctl", "restart", "fieldcast-agent"])?;
    wait_active(debian)
}

fn wait_active(debian: &Debian) -> Result<()> {
    wait_for("the agent to be healthy", SOON, || {
        ensure!(debian.unit("ActiveState")? == "active", "it is not active");
        let health = debian.http(STATUS, "GET", "/healthz", "")?;
        Ok((health["status"] == "ok").then_some(()))
    })
}

fn status(debian: &Debian) -> Result<Value> {
    debian.http(STATUS, "GET", "/status.json", "")
}

/// The readings on disk that no hub has yet; the page learns of them a moment after they are accepted.
fn wait_records(debian: &Debian, least: u64) -> Result<u64> {
    wait_for(&format!("{least} waiting records"), SOON, || {
        let facts = status(debian)?;
        let records = facts["buffer"]["records"].as_u64();
        let records = records.with_context(|| format!("no count of records in {facts}"))?;
        ensure!(records >= least, "there are {records}: {facts}");
        Ok(Some(records))
    })
}

/// The edit gave sensor `s9` a largest value: a reading beyond it is a fault.
fn obeys_the_edit(debian: &Debian) -> Result<()> {
    let body = r#"{"readings": [{"sensor": "s9", "value": 99.0}]}"#;
    debian.http(READINGS, "POST", "/readings", body)?;
    wait_for("the fault of s9", SOON, || {
        let facts = status(debian)?;
        ensure!(facts["faults"]["s9"][0] == "out_of_range", "{facts}");
        Ok(Some(()))
    })
}

fn push(debian: &Debian, count: usize) -> Result<()> {
    let items: Vec<Value> = (0..count)
        .map(|i| serde_json::json!({"sensor": format!("s{i}"), "value": 20.5}))
        .collect();
    let body = serde_json::json!({"readings": items}).to_string();
    let answer = debian.http(READINGS, "POST", "/readings", &body)?;
    ensure!(answer["accepted"] == count, "{count} readings: {answer}");
    Ok(())
}
