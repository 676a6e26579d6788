//! Asks the hub over REST: owns requests, paging and the wording of refusals, never what the answers mean.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// A client of one hub.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    base: String,
    agent: ureq::Agent,
}

impl Client {
    /// `base`: `http://host:port`.
    pub(crate) fn new(base: &str) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(30)))
            .http_status_as_error(false)
            .build();
        Self {
            base: base.trim_end_matches('/').to_owned(),
            agent: ureq::Agent::new_with_config(config),
        }
    }

    /// Address of a page, for people.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// GET; status and body, which is a string where it is no JSON.
    pub(crate) fn status(&self, path: &str) -> Result<(u16, Value)> {
        let mut answer = self
            .agent
            .get(self.url(path))
            .call()
            .with_context(|| format!("GET {}", self.url(path)))?;
        let text = answer
            .body_mut()
            .read_to_string()
            .with_context(|| format!("read the answer to GET {path}"))?;
        Ok((
            answer.status().as_u16(),
            serde_json::from_str(&text).unwrap_or(Value::String(text)),
        ))
    }

    /// GET that must answer 200.
    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        match self.status(path)? {
            (200, body) => Ok(body),
            (status, body) => bail!("GET {path} answered {status}: {body}"),
        }
    }

    /// Every item of a paged list; `path` carries a query already.
    pub(crate) fn items(&self, path: &str) -> Result<Vec<Value>> {
        let mut all = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = self.get(&format!("{path}&limit=1000{cursor}"))?;
            let items = page["items"]
                .as_array()
                .with_context(|| format!("GET {path} answered no page: {page}"))?;
            ensure!(
                !items.is_empty() || page["next"].is_null(),
                "GET {path}: an empty page names a next one"
            );
            all.extend(items.iter().cloned());
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(all),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "tests"
    )]
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;

    use super::*;

    /// Answers each connection with the next of `answers`; the request lines it saw.
    fn server(answers: Vec<(u16, &'static str)>) -> (String, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let seen = std::thread::spawn(move || {
            let mut seen = Vec::new();
            for (status, body) in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let lines: Vec<String> = BufReader::new(stream.try_clone().unwrap())
                    .lines()
                    .map(Result::unwrap)
                    .take_while(|line| !line.is_empty())
                    .collect();
                seen.push(lines[0].clone());
                let length = body.len();
                write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
                    .unwrap();
            }
            seen
        });
        (base, seen)
    }

    #[test]
    fn pages_are_followed_to_the_last() {
        let (base, seen) = server(vec![
            (200, r#"{"items":[1,2],"next":"c2"}"#),
            (200, r#"{"items":[3],"next":null}"#),
        ]);
        let items = Client::new(&base)
            .items("/v1/models?forecaster=demand")
            .unwrap();
        assert_eq!(items, [1, 2, 3].map(Value::from));
        assert!(seen.join().unwrap()[1].contains("limit=1000&cursor=c2"));
    }

    #[test]
    fn a_refusal_is_an_error_with_its_body() {
        let (base, _) = server(vec![(503, r#"{"detail":"no database"}"#)]);
        let error = Client::new(&base).get("/readyz").unwrap_err().to_string();
        assert!(
            error.contains("503") && error.contains("no database"),
            "{error}"
        );
    }
}
