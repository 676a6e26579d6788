//! Which commands a device has taken: owns that each is carried out at most once, never what carrying out does.
//!
//! ```text
//!   unknown --taken, written--> begun --carried out--> ended --a day after its expiry--> forgotten
//!      |                          \-- a start finds it --> ended: it may have been carried out, and is not again
//!      \-- may have been on a list that was lost --> ended
//! ```
//! It is written that a command has begun before anything is done, and its end together with the record of its outcome.

use fieldcast_features::Millis;
use serde::{Deserialize, Serialize};

/// The longest that a command may hold from when it is given.
pub const LONGEST_MS: Millis = 30 * 86_400_000;
/// Commands remembered at most; a device that remembers so many takes no other.
const MAX_KNOWN: usize = 256;
/// An expired command is remembered for so long: the clock that expiry is judged by may go back a little with a start.
const REMEMBERED: Millis = 86_400_000;

/// What a device can be told to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// The agent ends in order and starts again.
    Restart,
    /// Another log filter until the next start; empty: the one of the start.
    Log(String),
    /// Say how it is, as `fieldcast-agent status` does.
    Report,
}

/// Why a command names no task.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// No such task.
    #[error("there is no command `{0}` in this version; there are restart, log and report")]
    Unknown(String),
    /// A task that takes no argument got one.
    #[error("`{0}` takes no argument; leave it out")]
    Argument(&'static str),
}

impl Task {
    /// The task of a command.
    ///
    /// # Errors
    /// Another name than those of tasks, or an argument where none is taken.
    pub fn new(name: &str, argument: &str) -> Result<Self, TaskError> {
        let alone = |task, name| match argument.is_empty() {
            true => Ok(task),
            false => Err(TaskError::Argument(name)),
        };
        match name {
            "restart" => alone(Self::Restart, "restart"),
            "report" => alone(Self::Report, "report"),
            "log" => Ok(Self::Log(argument.to_owned())),
            other => Err(TaskError::Unknown(other.chars().take(64).collect())),
        }
    }
}

/// A command that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it expires.
    pub expires: Millis,
    /// Whether its outcome is recorded.
    pub ended: bool,
}

/// What is to be done with a command that passed every check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is new: write it down, then carry it out.
    CarryOut,
    /// It was taken before.
    Known,
    /// Too many are remembered.
    Full,
    /// It may have been carried out, as far as is known since the list was lost: it is not, and remembered as ended.
    Unsure,
}

/// The commands of a device, persisted as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commands {
    taken: Vec<Taken>,
    /// Where a list was lost: what expires by then may have been on it.
    #[serde(default)]
    lost_until: Option<Millis>,
}

impl Commands {
    /// In place of a list that cannot be read at `now`: what was on it holds for no longer than a command may. One that is
    /// given later, for the longest time, is known to be new.
    #[must_use]
    pub fn lost(now: Millis) -> Self {
        Self {
            taken: Vec::new(),
            lost_until: Some(now.saturating_add(LONGEST_MS)),
        }
    }

    /// Takes a command that passed every check at `now`.
    pub fn take(&mut self, id: &str, name: &str, expires: Millis, now: Millis) -> Verdict {
        if self.knows(id) {
            return Verdict::Known;
        }
        let gone = |t: &Taken| t.ended && now.saturating_sub(t.expires) > REMEMBERED;
        self.taken.retain(|t| !gone(t));
        if self.taken.len() >= MAX_KNOWN {
            return Verdict::Full;
        }
        let unsure = self.lost_until.is_some_and(|until| expires <= until);
        self.taken.push(Taken {
            id: id.to_owned(),
            name: name.to_owned(),
            expires,
            ended: unsure,
        });
        match unsure {
            true => Verdict::Unsure,
            false => Verdict::CarryOut,
        }
    }

    /// Whether a command was taken before.
    #[must_use]
    pub fn knows(&self, id: &str) -> bool {
        self.taken.iter().any(|t| t.id == id)
    }

    /// Its outcome is about to be recorded.
    pub fn end(&mut self, id: &str) {
        for taken in self.taken.iter_mut().filter(|t| t.id == id) {
            taken.ended = true;
        }
    }

    /// Commands that have begun and not ended: at a start, those that the process before was carrying out.
    #[must_use]
    pub fn open(&self) -> Vec<Taken> {
        self.taken.iter().filter(|t| !t.ended).cloned().collect()
    }
}

/// What a start says of a command that the process before had begun: whether it counts as done, and why.
#[must_use]
pub fn found_at_start(taken: &Taken) -> (bool, &'static str) {
    match taken.name.as_str() {
        "restart" => (true, "the agent has started again"),
        _ => (
            false,
            "the agent ended while it carried this out, and does not do so again; give a new command",
        ),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn each_is_carried_out_once_over_restarts_and_forgotten_long_after_its_expiry() {
        let mut commands = Commands::default();
        assert_eq!(commands.take("a", "report", 100, 0), Verdict::CarryOut);
        let text = serde_json::to_string(&commands).unwrap();
        let mut after: Commands = serde_json::from_str(&text).unwrap();
        assert_eq!(after.take("a", "report", 100, 1), Verdict::Known);
        let open = after.open();
        assert_eq!(open.len(), 1);
        assert!(!found_at_start(&open[0]).0);
        after.end("a");
        assert!(after.open().is_empty());
        assert_eq!(after.take("a", "report", 100, 2), Verdict::Known);
        let later = 101 + REMEMBERED;
        let next = after.take("b", "restart", later + 1, later);
        assert_eq!((next, after.knows("a")), (Verdict::CarryOut, false));
        assert!(found_at_start(&after.open()[0]).0);
    }

    #[test]
    fn a_full_memory_takes_no_other_rather_than_forget_one() {
        let mut commands = Commands::default();
        for n in 0..MAX_KNOWN {
            let id = n.to_string();
            assert_eq!(commands.take(&id, "log", 1_000, 0), Verdict::CarryOut);
            commands.end(&id);
        }
        assert_eq!(commands.take("new", "log", 1_000, 0), Verdict::Full);
        assert_eq!(commands.take("0", "log", 1_000, 0), Verdict::Known);
        let later = 1_001 + REMEMBERED;
        assert_eq!(commands.take("new", "log", later, later), Verdict::CarryOut);
    }

    #[test]
    fn after_its_list_was_lost_only_what_is_sure_to_be_new_is_carried_out() {
        let now = 1_000;
        let text = serde_json::to_string(&Commands::lost(now)).unwrap();
        let mut commands: Commands = serde_json::from_str(&text).unwrap();
        let before = now + LONGEST_MS;
        assert_eq!(commands.take("a", "restart", before, now), Verdict::Unsure);
        assert_eq!(commands.take("a", "restart", before, now), Verdict::Known);
        assert!(commands.open().is_empty(), "no start finds it begun");
        let given_later = before + 1;
        let new = commands.take("b", "restart", given_later, now + 1);
        assert_eq!(new, Verdict::CarryOut);
        let old = serde_json::from_str::<Commands>(r#"{"taken":[]}"#).unwrap();
        assert_eq!(old, Commands::default(), "a list of before");
    }

    #[test]
    fn tasks_are_named_and_take_an_argument_or_none() {
        assert_eq!(Task::new("restart", ""), Ok(Task::Restart));
        let debug = Task::new("log", "debug");
        assert_eq!(debug, Ok(Task::Log("debug".to_owned())));
        assert!(matches!(
            Task::new("report", "x"),
            Err(TaskError::Argument("report"))
        ));
        assert!(matches!(
            Task::new("format", "/"),
            Err(TaskError::Unknown(_))
        ));
    }
}
