//! Who decides: owns the options that name a person and a reason, never what is decided.

use crate::rollout::request::Person;

/// Who decides, and why.
#[derive(Debug, clap::Args)]
pub(super) struct Who {
    /// The person who decides this; the user of the shell where it is left out.
    #[arg(long, default_value_t = shell_user(), hide_default_value = true, value_name = "NAME")]
    by: String,
    /// Why, kept with the decision.
    #[arg(long, default_value = "", value_name = "TEXT")]
    reason: String,
}

/// Who decides, where it cannot be said.
pub(super) fn user() -> String {
    std::env::var("USER").unwrap_or_else(|_| "a person".to_owned())
}

fn shell_user() -> String {
    std::env::var("USER").unwrap_or_default()
}

impl Who {
    /// Nobody's name where the shell has none either: whoever is asked refuses it.
    pub(super) fn person(&self) -> Person<'_> {
        Person {
            name: &self.by,
            reason: &self.reason,
        }
    }
}
