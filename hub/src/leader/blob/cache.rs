//! Bundles in memory while they are asked for, block by block as they are sent: owns which stay, within a bound of bytes; never reads
//! the database.

use std::time::Duration;

use fieldcast_wire::caps::{BLOCK, MAX_BUNDLE};
use fieldcast_wire::{Sha256, message, pb};
use prost::bytes::Bytes;
use tokio::time::Instant;

/// Bytes of all bundles kept: two of the largest, or two hundred usual ones.
const MOST: usize = 2 * MAX_BUNDLE;
/// Digests of bundles that are not there, so that asking for them costs no query each time.
const MOST_MISSING: usize = 256;
/// How long a missing one is believed to be missing, and an unused one kept.
const BELIEVED: Duration = Duration::from_secs(5);
const UNUSED: Duration = Duration::from_secs(600);

/// A block of a bundle, made once for all devices that ask for it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block {
    framed: Bytes,
    content: usize,
}

impl Block {
    fn new(sha: &Sha256, number: u32, content: &[u8]) -> Self {
        let block = pb::Block {
            sha256: sha.to_vec(),
            number,
            content: content.to_vec(),
        };
        Self {
            framed: message::encode(&block).into(),
            content: content.len(),
        }
    }

    /// With the digest of its bundle and its number.
    pub(super) fn framed(&self) -> Bytes {
        self.framed.clone()
    }

    /// By itself: the last field of what is framed.
    pub(super) fn content(&self) -> Bytes {
        self.framed.slice(self.framed.len() - self.content..)
    }
}

#[derive(Debug)]
struct Entry {
    sha: Sha256,
    bundle: Option<Vec<Block>>,
    used: Instant,
    read: Instant,
}

/// The newest bundles, the one used last in front.
#[derive(Debug, Default)]
pub(super) struct Cache {
    entries: Vec<Entry>,
}

impl Cache {
    /// A bundle that is here, or that is known to be nowhere (`Some(None)`); none where the database must be asked.
    pub(super) fn get(&mut self, sha: &Sha256, now: Instant) -> Option<Option<&[Block]>> {
        let at = self.entries.iter().position(|e| e.sha == *sha)?;
        if self.entries[at].bundle.is_none() && now - self.entries[at].read >= BELIEVED {
            self.entries.remove(at);
            return None;
        }
        self.entries[at].used = now;
        self.entries[..=at].rotate_right(1);
        self.entries.first().map(|e| e.bundle.as_deref())
    }

    /// What the database said; older bundles give way.
    pub(super) fn put(&mut self, sha: Sha256, bundle: Option<Vec<u8>>, now: Instant) {
        self.entries
            .retain(|e| e.sha != sha && now - e.used < UNUSED);
        let blocks = |bundle: Vec<u8>| {
            let blocks = (0..).zip(bundle.chunks(BLOCK));
            blocks
                .map(|(n, content)| Block::new(&sha, n, content))
                .collect()
        };
        let entry = Entry {
            sha,
            bundle: bundle.map(blocks),
            used: now,
            read: now,
        };
        self.entries.insert(0, entry);
        let (mut bytes, mut missing) = (0, 0);
        self.entries.retain(|e| {
            bytes += e.bundle.iter().flatten().map(|b| b.content).sum::<usize>();
            missing += usize::from(e.bundle.is_none());
            match e.bundle {
                // The newest always stays: it is the one that is asked for.
                Some(_) => bytes <= MOST || e.sha == sha,
                None => missing <= MOST_MISSING,
            }
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn sha(n: usize) -> Sha256 {
        Sha256::of(&n.to_le_bytes())
    }

    #[test]
    fn what_was_used_longest_ago_gives_way_and_the_bytes_stay_bounded() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let third = MOST / 3;
        for n in 0..3 {
            cache.put(sha(n), Some(vec![0; third]), now);
        }
        assert!(cache.get(&sha(0), now).is_some());
        cache.put(sha(3), Some(vec![0; third]), now);
        assert!(cache.get(&sha(1), now).is_none(), "used longest ago");
        for n in [0, 2, 3] {
            let blocks = cache.get(&sha(n), now).flatten();
            let size = blocks.map(|blocks| blocks.iter().map(|b| b.content().len()).sum());
            assert_eq!(size, Some(third));
        }
        cache.put(sha(4), Some(vec![1]), now + UNUSED);
        assert_eq!(cache.entries.len(), 1, "unused ones go");
    }

    #[test]
    fn each_block_is_there_framed_and_by_itself() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let bundle: Vec<u8> = (0..2 * BLOCK + 1).map(|n| (n % 251) as u8).collect();
        cache.put(sha(0), Some(bundle.clone()), now);
        let blocks = cache.get(&sha(0), now).flatten().unwrap();
        assert_eq!(blocks.len(), 3);
        for (number, (block, content)) in blocks.iter().zip(bundle.chunks(BLOCK)).enumerate() {
            let framed: pb::Block = message::decode("block", &block.framed()).unwrap();
            assert_eq!(
                (framed.number as usize, &framed.content[..]),
                (number, content)
            );
            assert_eq!(framed.sha256, sha(0).to_vec());
            assert_eq!(block.content(), content);
        }
    }

    #[test]
    fn a_missing_bundle_is_asked_for_again_after_a_while() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.put(sha(0), None, now);
        assert_eq!(cache.get(&sha(0), now), Some(None));
        assert_eq!(cache.get(&sha(0), now + BELIEVED), None);
        for n in 0..10_000 {
            cache.put(sha(n), None, now);
        }
        assert_eq!(cache.entries.len(), MOST_MISSING);
    }
}
