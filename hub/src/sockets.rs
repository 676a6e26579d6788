//! How many sockets this process may open: owns raising its own limit, never the system's.

use anyhow::{Context as _, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit of open files to what is needed, or as far as it goes; answers what it is then.
///
/// # Errors
/// The system does not let it be raised although it could.
pub fn make_room(needed: u64) -> Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    let unlimited = u64::MAX;
    let current = limit.current.unwrap_or(unlimited);
    if current >= needed {
        return Ok(current);
    }
    let most = limit.maximum.unwrap_or(unlimited).min(needed);
    let raised = Rlimit {
        current: Some(most),
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).with_context(|| {
        format!("raise the limit of open files to {most}; set it with `ulimit -n` or LimitNOFILE=")
    })?;
    Ok(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_goes_up_and_not_down() {
        let before = make_room(0).unwrap_or_default();
        let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        assert_eq!(make_room(before + 1).ok(), Some((before + 1).min(hard)));
        assert_eq!(make_room(1).ok(), Some((before + 1).min(hard)));
    }
}
