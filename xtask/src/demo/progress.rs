//! Says what happens: owns a bar on a terminal and plain lines elsewhere.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// The story of a demonstration.
pub(crate) struct Progress {
    start: Instant,
    bar: Option<ProgressBar>,
    last_line: Instant,
}

/// Where there is no terminal, a moving state is told this often.
const LINE_EVERY: Duration = Duration::from_secs(10);

impl Progress {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            bar: None,
            last_line: Instant::now(),
        }
    }

    /// Seconds since the start.
    pub(crate) fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// One thing has happened.
    pub(crate) fn say(&self, text: &str) {
        let line = format!("[{:5.1} s] {text}", self.seconds());
        match &self.bar {
            Some(bar) => bar.suspend(|| println!("{line}")),
            None => println!("{line}"),
        }
    }

    /// Begins something that takes a while.
    pub(crate) fn begin(&mut self) {
        if std::io::stderr().is_terminal() {
            let style =
                ProgressStyle::with_template("[{elapsed:>4}] {bar:32} {percent:>3} % {msg}");
            self.bar = Some(
                ProgressBar::new(1_000)
                    .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())),
            );
        }
        self.last_line = Instant::now();
    }

    /// How far it is (0 to 1) and what stands where.
    pub(crate) fn show(&mut self, share: f64, text: &str) {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to 0..=1000"
        )]
        let thousandths = (share.clamp(0.0, 1.0) * 1_000.0) as u64;
        match &self.bar {
            Some(bar) => {
                bar.set_message(text.to_owned());
                bar.set_position(thousandths);
            }
            None if self.last_line.elapsed() >= LINE_EVERY => {
                self.last_line = Instant::now();
                self.say(&format!("{:3} % {text}", thousandths / 10));
            }
            None => {}
        }
    }

    /// It is over.
    pub(crate) fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
