//! Whose block is sent next: owns the turns of devices and their bounds, pure; never reads or sends a block.

use std::collections::{HashMap, VecDeque};

use fieldcast_wire::caps::MAX_BLOCKS_ASKED;
use fieldcast_wire::{DeviceId, Sha256, pb};

/// Blocks of one turn: small bundles are whole after one or two, and a large one does not hold up the others.
const TURN: usize = 8;
/// Devices that may wait at once.
const MOST: usize = 50_000;

#[derive(Debug)]
struct Asked {
    sha: Sha256,
    blocks: VecDeque<u32>,
    framed: bool,
}

/// A block to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) device: DeviceId,
    pub(super) sha: Sha256,
    pub(super) number: u32,
    /// Whether its device takes it with a frame, on one topic for all.
    pub(super) framed: bool,
}

/// Devices that wait for blocks, each once.
#[derive(Debug, Default)]
pub(super) struct Queue {
    asked: HashMap<DeviceId, Asked>,
    turns: VecDeque<DeviceId>,
    /// Blocks sent in the turn of the first device.
    sent: usize,
}

impl Queue {
    /// A device asks; what it asked before is replaced, its place stays. False where too many wait.
    pub(super) fn ask(&mut self, device: DeviceId, sha: Sha256, request: &pb::BlobRequest) -> bool {
        let asked = Asked {
            sha,
            blocks: blocks(request),
            framed: request.framed,
        };
        if asked.blocks.is_empty() {
            return true;
        }
        if let Some(before) = self.asked.get_mut(&device) {
            *before = asked;
            return true;
        }
        if self.asked.len() >= MOST {
            return false;
        }
        self.asked.insert(device.clone(), asked);
        self.turns.push_back(device);
        true
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// The next block to send; it is then no longer asked for.
    pub(super) fn next(&mut self) -> Option<Turn> {
        loop {
            let device = self.turns.front()?.clone();
            let asked = self.asked.get_mut(&device);
            let block = asked.and_then(|a| {
                let number = a.blocks.pop_front()?;
                Some((a.sha, number, a.framed, a.blocks.is_empty()))
            });
            let Some((sha, number, framed, last)) = block else {
                self.forget(&device);
                continue;
            };
            self.sent += 1;
            if last {
                self.forget(&device);
            } else if self.sent >= TURN {
                self.sent = 0;
                self.turns.rotate_left(1);
            }
            return Some(Turn {
                device,
                sha,
                number,
                framed,
            });
        }
    }

    /// A device waits no longer.
    pub(super) fn forget(&mut self, device: &DeviceId) {
        self.asked.remove(device);
        if self.turns.front() == Some(device) {
            self.turns.pop_front();
            self.sent = 0;
        } else {
            self.turns.retain(|d| d != device);
        }
    }
}

/// The blocks asked for; a request that lists none asks for a run from its first missing block on.
fn blocks(request: &pb::BlobRequest) -> VecDeque<u32> {
    if request.missing.is_empty() {
        let first = u32::try_from(request.offset_blocks).unwrap_or(u32::MAX);
        let many = u32::try_from(MAX_BLOCKS_ASKED).unwrap_or(0);
        return (first..first.saturating_add(many)).collect();
    }
    request
        .missing
        .iter()
        .copied()
        .take(MAX_BLOCKS_ASKED)
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn device(n: usize) -> DeviceId {
        DeviceId::new(format!("d{n}")).unwrap()
    }

    fn wants(missing: impl IntoIterator<Item = u32>) -> pb::BlobRequest {
        pb::BlobRequest {
            missing: missing.into_iter().collect(),
            ..pb::BlobRequest::default()
        }
    }

    fn next(queue: &mut Queue) -> Option<(DeviceId, u32)> {
        queue.next().map(|turn| (turn.device, turn.number))
    }

    #[test]
    fn devices_take_turns_and_who_asks_again_keeps_its_place() {
        let sha = Sha256::of(b"x");
        let mut queue = Queue::default();
        assert!(queue.ask(device(1), sha, &wants(0..20)));
        assert!(queue.ask(device(2), sha, &wants([0])));
        for n in 0..8 {
            assert_eq!(next(&mut queue), Some((device(1), n)));
        }
        assert_eq!(next(&mut queue), Some((device(2), 0)));
        assert_eq!(next(&mut queue), Some((device(1), 8)));
        assert!(queue.ask(device(3), sha, &wants([5])));
        assert!(queue.ask(device(1), sha, &wants([19])));
        assert_eq!(next(&mut queue), Some((device(1), 19)));
        assert_eq!(next(&mut queue), Some((device(3), 5)));
        assert_eq!(next(&mut queue), None);
        assert!(queue.is_empty() && queue.asked.is_empty());
    }

    #[test]
    fn a_device_that_is_forgotten_holds_up_nobody_and_the_queue_has_an_end() {
        let sha = Sha256::of(b"x");
        let mut queue = Queue::default();
        for n in 0..MOST {
            assert!(queue.ask(device(n), sha, &wants([0, 1])));
        }
        assert!(!queue.ask(device(MOST), sha, &wants([0])));
        assert!(
            queue.ask(device(7), sha, &wants([3])),
            "who waits may ask again"
        );
        queue.forget(&device(0));
        queue.forget(&device(2));
        assert_eq!(next(&mut queue), Some((device(1), 0)));
        assert_eq!(next(&mut queue), Some((device(1), 1)));
        assert_eq!(next(&mut queue), Some((device(3), 0)));
    }

    #[test]
    fn a_request_without_a_list_is_a_run_and_a_long_list_is_cut() {
        let request = pb::BlobRequest {
            offset_blocks: 3,
            ..pb::BlobRequest::default()
        };
        assert!(blocks(&request).iter().take(2).eq(&[3, 4]));
        let request = pb::BlobRequest {
            missing: (0..1_000).collect(),
            ..pb::BlobRequest::default()
        };
        assert_eq!(blocks(&request).len(), MAX_BLOCKS_ASKED);
    }
}
