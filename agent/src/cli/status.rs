//! `fieldcast-agent status`: asks the running agent's status port; changes nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};

use super::say;
use crate::config::Config;
use crate::status::board::Facts;
use crate::status::words::lines;

pub(super) fn show(file: &Path, json: bool) -> anyhow::Result<()> {
    let config = Config::load(file)?;
    let listing = config.data_dir.join("agent.json");
    let text = std::fs::read_to_string(&listing).with_context(|| {
        format!(
            "read {}; start the agent with `fieldcast-agent run`",
            listing.display()
        )
    })?;
    let listing: serde_json::Value = serde_json::from_str(&text)?;
    let Some(address) = listing["listen"]["status"].as_str() else {
        bail!("the agent's status page is not served; enable it under [status]");
    };
    let body = get(address, "/status.json").with_context(|| {
        format!("ask {address}; is the agent running? start it with `fieldcast-agent run`")
    })?;
    if json {
        say(&mut std::io::stdout(), &body);
        return Ok(());
    }
    let facts: Facts = serde_json::from_str(&body)?;
    for line in lines(&facts) {
        say(&mut std::io::stdout(), &line);
    }
    Ok(())
}

fn get(address: &str, path: &str) -> anyhow::Result<String> {
    let wait = Some(Duration::from_secs(5));
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(wait)?;
    stream.set_write_timeout(wait)?;
    // HTTP/1.0: the answer ends with the connection and is never chunked.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(16 << 20).read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("the answer is no HTTP")?;
    if !head.lines().next().unwrap_or("").contains(" 200 ") {
        bail!("the answer is {}", head.lines().next().unwrap_or("empty"));
    }
    Ok(body.to_owned())
}
