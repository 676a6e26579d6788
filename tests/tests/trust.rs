//! Commands and key lists with real processes: what a person says at the hub, what the device does, and what it refuses.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fieldcast_tests::scenario::{
    AgentOptions, AgentProcess, Broker, HubOptions, HubProcess, wait_for,
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

/// A hub, and a device that only listens.
fn bed(dir: &Path) -> Result<(HubProcess, AgentOptions, Broker)> {
    let broker = Broker::chosen()?;
    let hub = HubProcess::start(HubOptions {
        data_dir: dir.join("hub"),
        broker: broker.hub_url(),
        site: broker.site(),
        ..HubOptions::default()
    })?;
    let agent = dir.join("agent");
    std::fs::create_dir_all(&agent)?;
    let identity = agent.join("identity.toml");
    let out = identity.to_str().context("a path of UTF-8")?;
    hub.cli(&["device", "add", "pi", "--out", out])?;
    broker.readdress(&identity)?;
    let config = "data_dir = \"data\"\nidentity = \"identity.toml\"\n[status]\nenabled = true\nlisten = \"127.0.0.1:0\"\n";
    let options = AgentOptions {
        dir: agent,
        config: config.to_owned(),
    };
    Ok((hub, options, broker))
}

fn pid(options: &AgentOptions) -> Result<Value> {
    let text = std::fs::read_to_string(options.dir.join("data/agent.json"))?;
    Ok(serde_json::from_str::<Value>(&text)?["pid"].clone())
}

fn log(options: &AgentOptions) -> String {
    std::fs::read_to_string(options.dir.join("agent.log")).unwrap_or_default()
}

/// Waits until a command has come to this.
fn becomes(hub: &HubProcess, id: &str, state: &str) -> Result<Value> {
    wait_for(&format!("command {id} to be {state}"), PATIENCE, || {
        let row = hub.get(&format!("/v1/commands/{id}"))?;
        ensure!(
            row["state"] == state || row["state"] == "sent" || row["state"] == "waiting",
            "{row}"
        );
        Ok((row["state"] == state).then_some(row))
    })
}

fn give(hub: &HubProcess, body: &Value) -> Result<String> {
    let (status, answer) = hub.post("/v1/commands", body)?;
    ensure!(status == 202, "{status}: {answer}");
    Ok(answer["command"].as_str().context("an id")?.to_owned())
}

#[test]
fn a_device_does_what_a_person_commands_once_also_when_it_was_away_and_nothing_too_late()
-> Result<()> {
    let dir = tempfile::tempdir()?;
    let (hub, options, broker) = bed(dir.path())?;
    let agent = AgentProcess::start(options.clone())?;

    let done = hub.cli_json(&["command", "give", "pi", "report", "--wait"])?;
    ensure!(done["state"] == "done", "{done}");
    let said = done["message"].as_str().unwrap_or_default();
    ensure!(said.contains("hub connected"), "{said}");

    // What is logged changes at once, and back.
    let said_of = |filter: &[&str]| -> Result<bool> {
        hub.cli(&[&["command", "give", "pi", "log"], filter, &["--wait"]].concat())?;
        let report = hub.cli_json(&["command", "give", "pi", "report", "--wait"])?;
        Ok(log(&options).contains(report["id"].as_str().context("an id")?))
    };
    ensure!(!said_of(&["warn"])? && said_of(&[])?);
    let refused = hub.cli(&["command", "give", "pi", "log", "a=b=c", "--wait"]);
    let refused = format!("{:#}", refused.unwrap_err());
    ensure!(refused.contains("is no log filter"), "{refused}");

    // The same process starts again, and says so from its next life.
    let before = pid(&options)?;
    hub.cli(&["command", "give", "pi", "restart", "--wait"])?;
    ensure!(pid(&options)? == before, "another process");
    let starts = log(&options).matches("agent is running").count();
    ensure!(starts == 2, "{starts} starts");

    for (body, expected) in [
        (json!({"device": "pj", "name": "report", "by": "ann"}), 404),
        (json!({"device": "pi", "name": "fly", "by": "ann"}), 422),
        (
            json!({"device": "pi", "name": "report", "argument": "x", "by": "ann"}),
            422,
        ),
        (
            json!({"device": "pi", "name": "report", "for": "99d", "by": "ann"}),
            422,
        ),
        (json!({"device": "pi", "name": "report", "by": " "}), 422),
    ] {
        let (status, answer) = hub.post("/v1/commands", &body)?;
        ensure!(status == expected, "{body}: {status} {answer}");
    }

    // While it is away: what expires is never done, what holds is done when it returns, over a new life of the hub.
    let options = agent.kill()?;
    let late = give(
        &hub,
        &json!({"device": "pi", "name": "restart", "for": "1s", "by": "ann"}),
    )?;
    let early = give(
        &hub,
        &json!({"device": "pi", "name": "report", "by": "ann"}),
    )?;
    becomes(&hub, &late, "expired")?;
    becomes(&hub, &early, "sent")?;
    let hub = HubProcess::start(hub.stop()?)?;
    // The hub's broker has another port now.
    let identity = options.dir.join("identity.toml");
    hub.cli(&[
        "device",
        "add",
        "pi",
        "--out",
        identity.to_str().context("UTF-8")?,
    ])?;
    broker.readdress(&identity)?;
    let agent = AgentProcess::start(options.clone())?;
    becomes(&hub, &early, "done")?;
    let starts = log(&options).matches("agent is running").count();
    ensure!(
        starts == 3,
        "{starts} starts: an expired command was carried out"
    );
    let all = hub.cli_json(&["command", "list", "pi"])?;
    let states: Vec<&str> = all
        .as_array()
        .context("a list")?
        .iter()
        .filter_map(|c| c["state"].as_str())
        .collect();
    let away = ["done", "expired", "done", "failed"];
    ensure!(states[..4] == away && states[4..] == ["done"; 5], "{all}");
    agent.stop()?;
    hub.stop().map(drop)
}

/// Waits until the device says which list of hub keys it goes by.
fn knows(hub: &HubProcess, version: u64) -> Result<()> {
    wait_for(&format!("list {version} on the device"), PATIENCE, || {
        let devices = hub.get("/v1/devices")?;
        let device = &devices["items"][0];
        Ok((device["key_list_version"] == version && device["refused"] == "").then_some(()))
    })
}

#[test]
fn keys_rotate_are_revoked_and_the_root_signs_elsewhere_while_the_device_obeys() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (hub, options, _broker) = bed(dir.path())?;
    let agent = AgentProcess::start(options)?;
    let obeys = |version: u64| -> Result<()> {
        let done = hub.cli_json(&["command", "give", "pi", "report", "--wait"])?;
        ensure!(done["state"] == "done", "{done}");
        knows(&hub, version)
    };
    let listed = || hub.cli_json(&["key", "list"]);
    let signs = |list: &Value| -> Result<String> {
        let keys = list["keys"].as_array().context("keys")?;
        let one = keys
            .iter()
            .find(|k| k["signs"] == true)
            .context("one signs")?;
        Ok(one["id"].as_str().context("an id")?.to_owned())
    };
    obeys(1)?;
    let first = signs(&listed()?)?;

    hub.cli(&["key", "rotate"])?;
    let rotated = listed()?;
    ensure!(
        rotated["version"] == 2 && rotated["keys"].as_array().map(Vec::len) == Some(2),
        "{rotated}"
    );
    let second = signs(&rotated)?;
    ensure!(second != first);
    // What runs notices by itself.
    knows(&hub, 2)?;
    obeys(2)?;

    hub.cli(&["key", "revoke", &first])?;
    knows(&hub, 3)?;
    obeys(3)?;
    let alone = format!("{:#}", hub.cli(&["key", "revoke", &second]).unwrap_err());
    ensure!(alone.contains("the only key"), "{alone}");

    // The root goes away: what runs goes on, and a new list needs a person who carries it there and back.
    let text = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let (root, unsigned, signed) = (text("root.pk8"), text("next.json"), text("signed.json"));
    hub.cli(&["key", "root", "export", &root])?;
    obeys(3)?;
    hub.cli(&["key", "rotate", "--out", &unsigned])?;
    let refused = format!("{:#}", hub.cli(&["key", "install", &unsigned]).unwrap_err());
    ensure!(refused.contains("sign-list"), "{refused}");
    hub.cli(&[
        "key",
        "sign-list",
        &unsigned,
        "--root",
        &root,
        "--out",
        &signed,
    ])?;
    let good = std::fs::read_to_string(&signed)?;
    let mut forged: Value = serde_json::from_str(&good)?;
    forged["keys"][0]["public"] = json!("00".repeat(32));
    let other = text("forged.json");
    std::fs::write(&other, forged.to_string())?;
    let refused = format!("{:#}", hub.cli(&["key", "install", &other]).unwrap_err());
    ensure!(refused.contains("signature"), "{refused}");
    obeys(3)?;
    hub.cli(&["key", "install", &signed])?;
    knows(&hub, 4)?;
    obeys(4)?;
    let again = format!("{:#}", hub.cli(&["key", "install", &signed]).unwrap_err());
    ensure!(again.contains("does not follow"), "{again}");
    let list = listed()?;
    ensure!(
        list["root_is_here"] == false && list["devices"][0]["version"] == 4,
        "{list}"
    );
    agent.stop()?;
    hub.stop().map(drop)
}
