//! How many batches a device has under way: owns the window, which lateness narrows and answers widen; never which batch goes.
//!
//! A hub or a broker that is slower than its fleet answers late, whoever waits sends again, and that is still more to do. So each device
//! halves what it has under way where batches go unanswered, as TCP does (RFC 5681), and together they ask for less than is done.

/// At first, so that a fleet that comes together begins gently.
const FIRST: usize = 4;

/// The number of batches that may be under way, one at least.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    size: usize,
    most: usize,
    narrowed: Option<i64>,
}

impl Window {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            size: FIRST.min(most).max(1),
            most: most.max(1),
            narrowed: None,
        }
    }

    /// Batches that may be under way.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// A batch was answered in time: room for one more.
    pub(crate) fn answered(&mut self) {
        self.size = (self.size + 1).min(self.most);
    }

    /// A batch went unanswered for as long as an answer may take. Those of the same time count once: false for the others.
    pub(crate) fn late(&mut self, now: i64, wait: i64) -> bool {
        let counts = self.narrowed.is_none_or(|at| now - at >= wait);
        if counts {
            self.narrowed = Some(now);
            self.size = (self.size / 2).max(1);
        }
        counts
    }

    /// Nobody answers at all.
    pub(crate) fn silent(&mut self) {
        self.size = 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lateness_halves_it_once_a_wait_and_answers_widen_it_to_the_most() {
        let mut w = Window::new(40);
        assert_eq!(w.size(), 4);
        for _ in 0..100 {
            w.answered();
        }
        assert_eq!(w.size(), 40);
        assert!(w.late(0, 15));
        assert!(!w.late(14, 15));
        assert_eq!(w.size(), 20);
        assert!(w.late(15, 15));
        assert_eq!(w.size(), 10);
        w.silent();
        assert!(w.late(30, 15));
        assert_eq!(w.size(), 1, "one always");
        w.answered();
        assert_eq!(w.size(), 2);
        assert_eq!(Window::new(0).size(), 1);
    }
}
