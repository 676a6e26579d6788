//! The rules for one batch, one watermark and one sync: pure functions of the ledger and the message, never any I/O.

use std::collections::BTreeSet;

use fieldcast_wire::caps::MAX_ACK_RANGES;
use fieldcast_wire::{Sha256, pb};

use crate::rows::{Committed, LedgerRow, MAX_BEYOND, Newest, RejectedRecord, SealedAt, proof};

/// So long a message may be on its way: a sync of the boot before can come after batches of the next one.
pub const LATE_MS: i64 = 10 * 60_000;

/// What happens to a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It is new: write it, then acknowledge it.
    Write,
    /// It is committed: acknowledge it again, with what was refused of it then.
    AlreadyCommitted(Vec<RejectedRecord>),
    /// Other bytes under a committed key, or bytes that nobody can compare: a clone or a restored image. Never acknowledged.
    DigestConflict,
}

/// Decides by the ledger's row of the batch's key. P5: only bytes that were compared are proved.
#[must_use]
pub fn decide(ledger: Option<&LedgerRow>, digest: &Sha256) -> Decision {
    match ledger {
        None => Decision::Write,
        Some(row) if row.proof == Some(proof(digest)) => {
            Decision::AlreadyCommitted(row.rejected.clone())
        }
        Some(_) => Decision::DigestConflict,
    }
}

/// The watermark and the ranges beyond it that follow from the ledger. `answered` are committed batches that the ack is
/// about: where there are more ranges than an ack may list, those next to them come first.
#[must_use]
pub fn watermark(committed: &Committed, answered: &[u64]) -> (u64, Vec<pb::BatchRange>) {
    let mut through = committed.through;
    let mut ranges: Vec<pb::BatchRange> = Vec::new();
    // The ledger's list has an end; what is answered may lie beyond it.
    let numbers: BTreeSet<u64> = committed.beyond.iter().chain(answered).copied().collect();
    for number in numbers.into_iter().filter(|n| *n > committed.through) {
        match ranges.last_mut() {
            None if number == through + 1 => through = number,
            Some(range) if number == range.last + 1 => range.last = number,
            _ => ranges.push(pb::BatchRange {
                first: number,
                last: number,
            }),
        }
    }
    let distance = |range: &pb::BatchRange| {
        let to = |n: &u64| {
            range
                .first
                .saturating_sub(*n)
                .max(n.saturating_sub(range.last))
        };
        answered.iter().map(to).min().unwrap_or(0)
    };
    ranges.sort_by_key(|range| (distance(range), range.first));
    ranges.truncate(MAX_ACK_RANGES);
    ranges.sort_by_key(|range| range.first);
    (through, ranges)
}

/// What follows from a device's sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncVerdict {
    /// Batches below this one will never come: the device holds none of them any more.
    pub floor: u64,
    /// Why the device must begin a new epoch.
    pub new_epoch: Option<String>,
    /// Why two live instances seem to share the identity.
    pub clone: Option<String>,
    /// Why this database must be an older copy of the one that acknowledged: it closes no hole then, and takes another
    /// name for this device.
    pub forgotten: Option<String>,
}

/// What the hub holds when a sync comes.
#[derive(Debug, Clone, Copy)]
pub struct Held<'a> {
    /// Batches of the epoch from the sync's next number on.
    pub known: &'a [SealedAt],
    /// The epoch, with the watermark that follows.
    pub committed: &'a Committed,
    /// That watermark.
    pub through: u64,
    /// Whether the batch that was acknowledged last is there, or none is named.
    pub last_acked: bool,
    /// Who synchronised before.
    pub newest: &'a Newest,
    /// This database's name, as the device is told it.
    pub instance: &'a [u8],
}

/// Decides on a sync.
#[must_use]
pub fn sync(sync: &pb::Sync, held: &Held<'_>) -> SyncVerdict {
    let Held {
        known,
        committed,
        through,
        last_acked,
        newest,
        instance,
    } = *held;
    let clock = sync.clock.clone().unwrap_or_default();
    // A batch sealed after this sync may overtake it, also one that the next boot seals, with a clock of its own or of before.
    let own = |b: &SealedAt| b.boot_id == clock.boot_id && b.monotonic_ms >= clock.monotonic_ms;
    let foreign = known
        .iter()
        .filter(|b| b.number >= sync.next_batch)
        .find(|b| b.age_ms > LATE_MS && !own(b));
    let new_epoch = foreign.map(|b| {
        format!(
            "batch {} is committed, the device would number its next one {}: a clone or a restored disk image",
            b.number, sync.next_batch
        )
    });
    let clone = is_second(sync.session, &clock, newest).then(|| {
        format!(
            "session {} synchronised after session {}: two instances share this identity",
            sync.session, newest.session
        )
    });
    // P5: what another instance acknowledged is not a hole that the device left: this hub must say that it lacks it.
    let own = sync.hub_instance.is_empty() || sync.hub_instance == instance;
    // A batch is told of only when it is on disk, and a watermark never goes back: a later state of this database told it.
    let more =
        sync.acked_through > through || !last_acked || lacks(committed, through, &sync.acked);
    let told = !sync.hub_instance.is_empty() && own && more;
    let forgotten = told.then(|| {
        format!(
            "batch {} was acknowledged, this database holds those up to {through}: it was restored from a backup. This \
             device sends again what it still holds; with every hub stopped, `fieldcast-hub migrate --restored` makes all do so",
            sync.acked_through.max(sync.last_acked)
        )
    });
    SyncVerdict {
        floor: if own && !told {
            sync.oldest_batch.saturating_sub(1)
        } else {
            0
        },
        new_epoch,
        clone,
        forgotten,
    }
}

/// Whether a batch of these ranges is not committed, as far as the list of those beyond the watermark goes.
fn lacks(committed: &Committed, through: u64, acked: &[pb::BatchRange]) -> bool {
    let beyond: BTreeSet<u64> = committed.beyond.iter().copied().collect();
    let most = match beyond.last() {
        Some(last) if beyond.len() >= MAX_BEYOND => *last,
        _ => u64::MAX,
    };
    acked.iter().any(|range| {
        let first = range.first.max(through.saturating_add(1));
        let last = range.last.min(most);
        // Not one by one: a range is as long as its sender says.
        first <= last && beyond.range(first..=last).count() as u64 != last - first + 1
    })
}

/// P10: whether a session cannot be one of the instance that synchronised last. A late message of an earlier session can:
/// by the clock of one boot it is known which came first, over boots only by how long the newer one is known.
fn is_second(session: u64, clock: &pb::ClockStamp, newest: &Newest) -> bool {
    if newest.boot_id.is_empty() || session > newest.session {
        return false;
    }
    let same_boot = clock.boot_id == newest.boot_id;
    if session == newest.session {
        // The counter never repeats.
        !same_boot
    } else if same_boot {
        clock.monotonic_ms > newest.monotonic_ms
    } else {
        newest.boot_age_ms > LATE_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(through: u64, beyond: &[u64], answered: &[u64]) -> (u64, Vec<(u64, u64)>) {
        let committed = Committed {
            through,
            beyond: beyond.to_vec(),
            spent: None,
        };
        let (through, ranges) = watermark(&committed, answered);
        (through, ranges.iter().map(|r| (r.first, r.last)).collect())
    }

    #[test]
    fn the_same_batch_is_acknowledged_again_and_another_one_under_its_key_is_not() {
        let (a, b) = (Sha256::of(b"a"), Sha256::of(b"b"));
        let row = LedgerRow {
            proof: Some(proof(&a)),
            rejected: vec![RejectedRecord::new(3, "x")],
        };
        assert_eq!(decide(None, &a), Decision::Write);
        assert_eq!(
            decide(Some(&row), &a),
            Decision::AlreadyCommitted(row.rejected.clone())
        );
        assert_eq!(decide(Some(&row), &b), Decision::DigestConflict);
        let forgotten = LedgerRow { proof: None, ..row };
        assert_eq!(
            decide(Some(&forgotten), &a),
            Decision::DigestConflict,
            "P5: a number alone proves nothing"
        );
    }

    #[test]
    fn the_watermark_rises_over_what_is_contiguous() {
        assert_eq!(ranges(0, &[], &[]), (0, vec![]));
        assert_eq!(ranges(0, &[1, 2, 3], &[]), (3, vec![]));
        assert_eq!(
            ranges(4, &[2, 5, 7, 8, 11], &[]),
            (5, vec![(7, 8), (11, 11)])
        );
        assert_eq!(ranges(0, &[2, 3], &[]), (0, vec![(2, 3)]));
        let odd: Vec<u64> = (1..200).map(|n| 2 * n + 1).collect();
        let lowest = ranges(1, &odd, &[]).1;
        assert_eq!((lowest.len(), lowest[0]), (MAX_ACK_RANGES, (3, 3)));
        // P5: those next to what is answered come first, also where the ledger's list ended before them.
        let near = ranges(1, &odd, &[301, 9_001]).1;
        assert_eq!(near.len(), MAX_ACK_RANGES);
        assert!(near.is_sorted() && near.contains(&(301, 301)) && near.contains(&(9_001, 9_001)));
        assert!(near.contains(&(299, 299)) && !near.contains(&(3, 3)));
        assert_eq!(ranges(1, &odd, &[2, 4]).0, 5);
    }

    fn message() -> pb::Sync {
        pb::Sync {
            next_batch: 5,
            oldest_batch: 3,
            acked_through: 2,
            session: 7,
            hub_instance: b"hub".to_vec(),
            clock: Some(pb::ClockStamp {
                boot_id: "b".into(),
                monotonic_ms: 100,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    static NEWEST: std::sync::LazyLock<Newest> = std::sync::LazyLock::new(|| newest(7, "b", 90, 0));

    static COMMITTED: std::sync::LazyLock<Committed> = std::sync::LazyLock::new(|| Committed {
        through: 2,
        beyond: vec![4, 5, 7],
        spent: None,
    });

    fn newest(session: u64, boot: &str, monotonic_ms: i64, boot_age_ms: i64) -> Newest {
        Newest {
            session,
            boot_id: boot.into(),
            monotonic_ms,
            boot_age_ms,
        }
    }

    fn held(known: &[SealedAt]) -> Held<'_> {
        Held {
            known,
            committed: &COMMITTED,
            through: 2,
            last_acked: true,
            newest: &NEWEST,
            instance: b"hub",
        }
    }

    fn sealed(boot: &str, monotonic_ms: i64, age_ms: i64) -> SealedAt {
        SealedAt {
            number: 5,
            boot_id: boot.into(),
            monotonic_ms,
            age_ms,
        }
    }

    #[test]
    fn a_hub_that_knows_more_forces_a_new_epoch_but_not_for_a_batch_that_overtook_the_sync() {
        let message = message();
        let nothing = SyncVerdict {
            floor: 2,
            new_epoch: None,
            clone: None,
            forgotten: None,
        };
        assert_eq!(sync(&message, &held(&[])), nothing);
        let began = |b: SealedAt| sync(&message, &held(&[b])).new_epoch.is_some();
        assert!(!began(sealed("b", 120, LATE_MS + 1)));
        assert!(began(sealed("b", 80, LATE_MS + 1)));
        assert!(began(sealed("other", 120, LATE_MS + 1)));
    }

    /// The device synchronises (session 7, boot `b`), the message waits in the hub; the device reboots, synchronises (session 8,
    /// boot `c`) and its batch 5 is committed; only then the first sync is looked at, before the second one or behind it.
    #[test]
    fn a_sync_that_its_devices_reboot_has_overtaken_is_no_second_device() {
        let late = message();
        let batch = [sealed("c", 10, 2_000)];
        // The next boot seals what this one left, by the clock of before.
        let left = [sealed("b", 80, 2_000)];
        for known in [&batch, &left] {
            let before = sync(&late, &held(known));
            assert_eq!((before.new_epoch, before.clone), (None, None), "P4.3");
        }
        let after = |newest: &Newest| {
            let held = Held {
                newest,
                ..held(&batch)
            };
            sync(&late, &held).clone.is_some()
        };
        assert!(!after(&newest(8, "c", 5, 3_000)), "P10: late");
        assert!(!after(&newest(8, "b", 120, 0)), "P10: late in its own boot");
        // What no reboot explains.
        assert!(after(&newest(8, "c", 5, LATE_MS + 1)), "P10: still there");
        assert!(
            after(&newest(8, "b", 60, 0)),
            "P10: stamped after session 8"
        );
        assert!(after(&newest(7, "c", 5, 0)), "P10: one session, two boots");
        assert!(!after(&Newest::default()), "nobody synchronised before");
    }

    #[test]
    fn what_the_hub_forgot_is_no_hole_whether_it_was_told_of_its_restore_or_not() {
        let told = pb::Sync {
            hub_instance: b"before the restore".to_vec(),
            acked_through: 4,
            ..message()
        };
        let verdict = sync(&told, &held(&[]));
        assert_eq!((verdict.floor, verdict.forgotten), (0, None), "P5");
        let untold = pb::Sync {
            acked_through: 4,
            ..message()
        };
        let verdict = sync(&untold, &held(&[]));
        assert_eq!(verdict.floor, 0, "P5: no hole is closed");
        assert!(verdict.forgotten.is_some(), "P5: another name is due");
        let beyond = Held {
            last_acked: false,
            ..held(&[])
        };
        let verdict = sync(&message(), &beyond);
        assert!(
            verdict.floor == 0 && verdict.forgotten.is_some(),
            "P5: what lies beyond a dropped batch counts too"
        );
        // Behind a batch that the device dropped, each acknowledged one counts.
        for (first, last, forgot) in [
            (4, 5, false),
            (1, 2, false),
            (4, 6, true),
            (8, u64::MAX, true),
        ] {
            let range = pb::BatchRange { first, last };
            let told = pb::Sync {
                acked: vec![range],
                ..message()
            };
            let verdict = sync(&told, &held(&[]));
            assert_eq!(verdict.forgotten.is_some(), forgot, "P5: {range:?}");
            assert_eq!(verdict.floor == 0, forgot, "P5: {range:?}");
        }
        let first = pb::Sync {
            hub_instance: Vec::new(),
            ..untold
        };
        assert_eq!(
            sync(&first, &held(&[])).forgotten,
            None,
            "P5: nobody told it"
        );
    }
}
