//! A process that died with a model at work: owns the words for it, never finds one.

/// What a model was at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// Its bundle was being checked and loaded.
    Loading,
    /// It made a forecast, or was asked what made one.
    Forecasting,
}

/// A process that died with a model at work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// The bundle, hexadecimal.
    pub sha: String,
    /// Number of the start of the process that died: no death counts twice.
    pub start: u64,
    /// What it was at.
    pub doing: Doing,
}

impl Death {
    /// What it was at, in words.
    #[must_use]
    pub fn words(&self) -> &'static str {
        match self.doing {
            Doing::Loading => "while this bundle was loaded",
            Doing::Forecasting => "while this model made a forecast",
        }
    }
}
