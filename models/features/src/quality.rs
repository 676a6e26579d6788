//! A reading's quality: owns the three grades and their numbers on the wire, never decides which reading gets one.

use serde::{Deserialize, Serialize};

/// How far a reading can be trusted.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Quality {
    /// Nothing speaks against it.
    #[default]
    Good = 0,
    /// Odd (a spike, say), yet it may be the truth: used, and marked.
    Suspect = 1,
    /// From a broken sensor or out of its physical range: never enters a feature row.
    Bad = 2,
}

impl Quality {
    /// The grade behind its number; `None` for a number no grade has.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Good),
            1 => Some(Self::Suspect),
            2 => Some(Self::Bad),
            _ => None,
        }
    }

    /// The number of the grade, as stored and sent.
    #[must_use]
    pub fn as_u8(self) -> u8 {
        self as u8
    }

    /// Whether a reading of this grade may enter feature rows (and so windows and training data).
    #[must_use]
    pub fn usable(self) -> bool {
        self != Self::Bad
    }

    /// The value as the grid takes it: NaN (missing) where the grade is [`Quality::Bad`].
    #[must_use]
    pub fn admit(self, value: f64) -> f64 {
        if self.usable() { value } else { f64::NAN }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip_and_only_bad_is_refused() {
        for q in [Quality::Good, Quality::Suspect, Quality::Bad] {
            assert_eq!(Quality::from_u8(q.as_u8()), Some(q));
        }
        assert_eq!(Quality::from_u8(3), None);
        assert!(Quality::Bad.admit(1.0).is_nan());
        assert!(Quality::Suspect.usable());
    }
}
