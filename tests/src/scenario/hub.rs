//! A real `fieldcast-hub serve` process and its command line: owns the process, never what it answers.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{program, wait_for};

/// How a hub is started.
#[derive(Debug, Clone, Default)]
pub struct HubOptions {
    /// Where it keeps everything; also where its log goes.
    pub data_dir: PathBuf,
    /// A broker that runs already; none: the embedded one.
    pub broker: Option<String>,
    /// Where the embedded one listens, `host:port`; none: on a free port.
    pub broker_listen: Option<String>,
    /// A database that runs already; none: the private one.
    pub database_url: Option<String>,
    /// Its site; none: the usual one.
    pub site: Option<String>,
}

/// A running hub; killed when dropped.
#[derive(Debug)]
pub struct HubProcess {
    options: HubOptions,
    child: Child,
    rest: String,
    broker: String,
    http: ureq::Agent,
}

impl HubProcess {
    /// Starts the hub and waits until it is ready.
    ///
    /// # Errors
    /// It ended, or was not ready within a minute; the end of its log is part of the error.
    pub fn start(options: HubOptions) -> Result<Self> {
        std::fs::create_dir_all(&options.data_dir)?;
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(options.data_dir.join("serve.log"))?;
        let described = options.data_dir.join("serve.json");
        let _ = std::fs::remove_file(&described);
        let mut command = hub_command(&options)?;
        command
            .arg("serve")
            .args(["--listen", "127.0.0.1:0", "--broker-listen"])
            .arg(options.broker_listen.as_deref().unwrap_or("127.0.0.1:0"));
        if let Some(broker) = &options.broker {
            command.args(["--broker", broker]);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start fieldcast-hub serve")?;
        let http = ureq::Agent::new_with_config(
            ureq::Agent::config_builder()
                .timeout_global(Some(Duration::from_secs(60)))
                .http_status_as_error(false)
                .build(),
        );
        let mut hub = Self {
            options,
            child,
            rest: String::new(),
            broker: String::new(),
            http,
        };
        let ready = wait_for("the hub to be ready", Duration::from_secs(90), || {
            if let Some(status) = hub.child.try_wait()? {
                return Ok(Some(Err(anyhow::anyhow!(
                    "fieldcast-hub serve ended with {status}"
                ))));
            }
            let Ok(text) = std::fs::read_to_string(&described) else {
                return Ok(None);
            };
            let Ok(json) = serde_json::from_str::<Value>(&text) else {
                return Ok(None);
            };
            hub.rest = json["rest"]
                .as_str()
                .context("serve.json names no `rest`")?
                .to_owned();
            hub.broker = json["broker"].as_str().unwrap_or_default().to_owned();
            let (status, _) = hub.get_status("/readyz")?;
            Ok((status == 200).then_some(Ok(())))
        });
        match ready {
            Ok(Ok(())) => Ok(hub),
            Ok(Err(e)) | Err(e) => Err(e.context(format!("its log ends:\n{}", hub.log_tail()))),
        }
    }

    /// The last lines of the hub's log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        super::tail(&self.options.data_dir.join("serve.log"))
    }

    /// Where it keeps everything.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.options.data_dir
    }

    /// Address of the REST interface, `http://host:port`.
    #[must_use]
    pub fn rest(&self) -> &str {
        &self.rest
    }

    /// Address of the broker, `mqtt://host:port`.
    #[must_use]
    pub fn broker(&self) -> &str {
        &self.broker
    }

    /// Its number for the system.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Runs a command of the hub's command line.
    ///
    /// # Errors
    /// It could not start, or ended with a failure; what it said is part of the error.
    pub fn cli(&self, args: &[&str]) -> Result<String> {
        let out = hub_command(&self.options)?
            .args(args)
            .stdin(Stdio::null())
            .output()
            .context("run fieldcast-hub")?;
        if !out.status.success() {
            bail!(
                "fieldcast-hub {} ended with {}:\n{}{}\nserve's log ends:\n{}",
                args.join(" "),
                out.status,
                String::from_utf8_lossy(&out.stdout),
                String::from_utf8_lossy(&out.stderr),
                self.log_tail()
            );
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// The same with `--json`, parsed.
    ///
    /// # Errors
    /// As [`Self::cli`], or its output is not JSON.
    pub fn cli_json(&self, args: &[&str]) -> Result<Value> {
        let text = self.cli(&[args, &["--json"]].concat())?;
        serde_json::from_str(text.trim())
            .with_context(|| format!("{} printed {text}", args.join(" ")))
    }

    /// GET; status and body.
    ///
    /// # Errors
    /// No answer.
    pub fn get_status(&self, path: &str) -> Result<(u16, Value)> {
        let mut answer = self
            .http
            .get(format!("{}{path}", self.rest))
            .call()
            .with_context(|| format!("GET {path}"))?;
        let text = answer.body_mut().read_to_string()?;
        Ok((
            answer.status().as_u16(),
            serde_json::from_str(&text).unwrap_or(Value::String(text)),
        ))
    }

    /// GET that must succeed.
    ///
    /// # Errors
    /// No answer, or a status other than 200.
    pub fn get(&self, path: &str) -> Result<Value> {
        match self.get_status(path)? {
            (200, body) => Ok(body),
            (status, body) => bail!("GET {path} answered {status}: {body}"),
        }
    }

    /// POST of JSON; status and body.
    ///
    /// # Errors
    /// No answer.
    pub fn post(&self, path: &str, body: &Value) -> Result<(u16, Value)> {
        let mut answer = self
            .http
            .post(format!("{}{path}", self.rest))
            .header("content-type", "application/json")
            .send(body.to_string())
            .with_context(|| format!("POST {path}"))?;
        let text = answer.body_mut().read_to_string()?;
        Ok((
            answer.status().as_u16(),
            serde_json::from_str(&text).unwrap_or(Value::String(text)),
        ))
    }

    /// Kills the process as a power cut would.
    ///
    /// # Errors
    /// Where the process could not be killed.
    pub fn kill(mut self) -> Result<HubOptions> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(self.options.clone())
    }

    /// Asks the hub to end and waits for it.
    ///
    /// # Errors
    /// It did not end, or not in order.
    pub fn stop(mut self) -> Result<HubOptions> {
        let status = super::terminate(&mut self.child, Duration::from_secs(30))?;
        if !status.success() {
            bail!(
                "fieldcast-hub serve ended with {status}; its log ends:\n{}",
                self.log_tail()
            );
        }
        Ok(self.options.clone())
    }
}

impl Drop for HubProcess {
    fn drop(&mut self) {
        // Asked first, so that a private PostgreSQL is stopped too.
        if super::terminate(&mut self.child, Duration::from_secs(15)).is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn hub_command(options: &HubOptions) -> Result<Command> {
    let mut command = Command::new(program("fieldcast-hub")?);
    command.arg("--data-dir").arg(&options.data_dir);
    if let Some(site) = &options.site {
        command.args(["--site", site]);
    }
    command.env_remove("DATABASE_URL");
    if let Some(url) = &options.database_url {
        command.env("DATABASE_URL", url);
    }
    Ok(command)
}
