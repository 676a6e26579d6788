//! Errors of configuration files: owns how a key is found and named; never decides what is allowed.

use std::ops::Range;
use std::path::{Path, PathBuf};

/// Why a configuration cannot be used: always names the file, and the line where there is one.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Missing or not readable.
    #[error(
        "configuration {} cannot be read ({source}); create it or name another with --config",
        file.display()
    )]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Something in it is wrong.
    #[error("configuration {}, line {line}: {problem}", file.display())]
    Content {
        /// The file.
        file: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong and what is allowed.
        problem: String,
    },
}

pub(super) fn read(file: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(file).map_err(|source| ConfigError::Read {
        file: file.to_owned(),
        source,
    })
}

fn line_at(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    before.iter().filter(|b| **b == b'\n').count() + 1
}

pub(super) fn toml(file: &Path, text: &str, e: &toml::de::Error) -> ConfigError {
    let span: Range<usize> = e.span().unwrap_or(0..0);
    let message = e
        .message()
        .trim()
        .replace("unknown field", "unknown key")
        .replace("missing field", "missing key")
        .replace("expected one of", "allowed here are")
        .replace("` or `", "`, `");
    let message = message.replace("`, expected `", "`, allowed here are `");
    ConfigError::Content {
        file: file.to_owned(),
        line: line_at(text, span.start),
        problem: format!("{message}; correct the file and start again"),
    }
}

/// An error about `key`: on the line that sets it (the first after `from`), else on the line of `from`.
pub(super) fn value(
    file: &Path,
    text: &str,
    from: Option<usize>,
    key: &str,
    problem: String,
) -> ConfigError {
    let first = line_at(text, from.unwrap_or(0));
    let sets = |l: &&str| {
        l.trim_start()
            .strip_prefix(key)
            .is_some_and(|r| r.trim_start().starts_with('='))
    };
    let offset = text.lines().skip(first - 1).position(|l| sets(&l));
    ConfigError::Content {
        file: file.to_owned(),
        line: first + offset.unwrap_or(0),
        problem: format!("`{key}` {problem}"),
    }
}
