//! What an acknowledgement means for a device: owns the rules of P4 and P5, whichever buffer keeps the batches; never a buffer.
//!
//! Numbers `P…` are those of `docs/protocol.md`. The agent asks these of its SQLite file, the hub's simulator of queues in memory.

use fieldcast_wire::caps::{MAX_ACK_RANGES, PROOF};
use fieldcast_wire::{Epoch, pb};

use crate::batches::BatchKey;

/// The hub instance in force, and when it was first heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hub {
    /// Its name.
    pub instance: Vec<u8>,
    /// Boot in which it was heard.
    pub boot_id: String,
    /// When in that boot.
    pub heard_ms: i64,
}

/// What an acknowledgement's hub instance means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Voice {
    /// The instance in force, or one that does not name itself.
    InForce,
    /// From now on the one in force.
    New,
    /// Another one, and it may be from before the restore: to be asked again, not to be believed.
    Stranger,
}

/// Tells whose word it is. An instance takes over only by an answer to what was stamped after the one in force was
/// first heard: a late answer of the hub before its restore cannot be one.
#[must_use]
pub fn voice(known: Option<&Hub>, ack: &pb::Ack, boot_id: &str) -> Voice {
    if ack.hub_instance.is_empty() {
        return Voice::InForce;
    }
    let Some(known) = known else {
        return Voice::New;
    };
    let of_this_boot = ack.echo_boot_id == boot_id;
    let later = known.boot_id != boot_id || ack.echo_monotonic_ms > known.heard_ms;
    match known.instance == ack.hub_instance {
        true => Voice::InForce,
        false if of_this_boot && later => Voice::New,
        false => Voice::Stranger,
    }
}

/// Whether the ack says that a batch of this number is committed, whatever its bytes.
#[must_use]
pub fn listed(ack: &pb::Ack, number: u64) -> bool {
    let beyond = |r: &pb::BatchRange| (r.first..=r.last).contains(&number);
    number <= ack.through || ack.ranges.iter().any(beyond)
}

/// Whether a proof is of the batch with this digest: a number alone may be another buffer's.
#[must_use]
pub fn proves(proof: &pb::Proof, digest: &[u8]) -> bool {
    digest.get(..PROOF) == Some(&proof.digest[..])
}

/// What becomes of a waiting batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It waits on.
    Waits,
    /// The hub has these very bytes.
    Done,
    /// The hub has others under its number: its records get new ones.
    Renumber,
}

/// A waiting batch against an ack of its epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its number.
    pub number: u64,
    /// Whether its epoch was declared spent before.
    pub contested: bool,
    /// Whether the ack echoes its clock: the hub had these very bytes in hand.
    pub answered: bool,
    /// Whether a proof is of it.
    pub proved: bool,
}

/// Decides on a waiting batch. What is not contested when its epoch turns out spent becomes so, and waits.
#[must_use]
pub fn fate(ack: &pb::Ack, batch: Candidate) -> Fate {
    let refused = |r: &pb::Rejected| r.seq == 0 && r.batch == batch.number;
    if batch.proved {
        Fate::Done
    } else if !batch.answered || ack.new_epoch && !batch.contested {
        Fate::Waits
    } else if ack.new_epoch && ack.rejected.iter().any(refused) {
        Fate::Renumber
    } else if listed(ack, batch.number) {
        // A hub that gives no proofs answers batches one by one at least.
        Fate::Done
    } else {
        Fate::Waits
    }
}

/// What the hub refused for good. In acks of a spent epoch number 0 stands for a conflict, which [`fate`] is about.
pub fn refusals(ack: &pb::Ack) -> impl Iterator<Item = &pb::Rejected> {
    ack.rejected.iter().filter(|r| r.seq > 0 || !ack.new_epoch)
}

/// The batch that the hub has no room for, where the ack is about one: it is not committed and stays with its device.
#[must_use]
pub fn no_room(ack: &pb::Ack) -> Option<BatchKey> {
    let named = ack.no_room.as_ref()?;
    Some(BatchKey {
        epoch: Epoch::from_slice(&named.epoch).ok()?,
        number: named.batch,
    })
}

/// The batch acknowledged last: `newest` of those that this ack is about, or the one before it. One that the ack does not list stays it: it would
/// else be forgotten that a hub which forgot it had it.
#[must_use]
pub fn last_acked(ack: &pb::Ack, before: u64, newest: Option<u64>) -> u64 {
    match newest {
        Some(newest) if listed(ack, before) => newest,
        _ => before,
    }
}

/// Whether the ack tells of less than was acknowledged before: up to which batch, and which beyond. It is a late one, or
/// the hub was restored and does not know it; it must be asked.
#[must_use]
pub fn behind(ack: &pb::Ack, acked_through: u64, acked: &[u64]) -> bool {
    let unlisted = ack.ranges.len() < MAX_ACK_RANGES && !acked.iter().all(|n| listed(ack, *n));
    !ack.hub_instance.is_empty() && (acked_through > ack.through || unlisted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(instance: &[u8]) -> pb::Ack {
        pb::Ack {
            through: 3,
            ranges: vec![pb::BatchRange { first: 5, last: 7 }],
            hub_instance: instance.to_vec(),
            echo_boot_id: "now".into(),
            echo_monotonic_ms: 100,
            ..pb::Ack::default()
        }
    }

    #[test]
    fn an_instance_takes_over_only_by_an_answer_to_what_was_stamped_after_the_one_in_force_was_heard()
     {
        let heard = |boot: &str, heard_ms| Hub {
            instance: b"old".to_vec(),
            boot_id: boot.into(),
            heard_ms,
        };
        let said = |known: Option<&Hub>, instance: &[u8]| voice(known, &ack(instance), "now");
        assert_eq!(said(None, b"new"), Voice::New);
        assert_eq!(said(Some(&heard("now", 99)), b"new"), Voice::New, "P5");
        assert_eq!(said(Some(&heard("now", 100)), b"new"), Voice::Stranger);
        assert_eq!(said(Some(&heard("before", 900)), b"new"), Voice::New);
        for instance in [&b"old"[..], b""] {
            assert_eq!(said(Some(&heard("now", 900)), instance), Voice::InForce);
        }
        let late = voice(Some(&heard("before", 1)), &ack(b"new"), "next");
        assert_eq!(late, Voice::Stranger, "it answers another boot");
    }

    #[test]
    fn a_number_alone_trims_nothing_and_a_spent_epoch_contests_what_waits() {
        let waits = Candidate {
            number: 6,
            contested: false,
            answered: false,
            proved: false,
        };
        let answered = Candidate {
            answered: true,
            ..waits
        };
        let contested = Candidate {
            contested: true,
            ..answered
        };
        let said = ack(b"hub");
        assert_eq!(fate(&said, waits), Fate::Waits, "P5");
        assert_eq!(fate(&said, answered), Fate::Done);
        let unlisted = Candidate {
            number: 4,
            ..answered
        };
        assert_eq!(fate(&said, unlisted), Fate::Waits);
        let mut spent = pb::Ack {
            new_epoch: true,
            ..said
        };
        assert_eq!(fate(&spent, answered), Fate::Waits, "P4: contested first");
        assert_eq!(fate(&spent, contested), Fate::Done);
        let proved = Candidate {
            proved: true,
            ..waits
        };
        assert_eq!(fate(&spent, proved), Fate::Done, "P5: these very bytes");
        spent.rejected.push(pb::Rejected {
            batch: 6,
            ..pb::Rejected::default()
        });
        assert_eq!(fate(&spent, contested), Fate::Renumber, "P4");
        assert_eq!(refusals(&spent).count(), 0);
        let proof = |digest: &[u8]| pb::Proof {
            batch: 6,
            digest: digest.to_vec(),
        };
        assert!(proves(&proof(&[7; PROOF]), &[7; 32]));
        assert!(!proves(&proof(&[7; PROOF - 1]), &[7; 32]) && !proves(&proof(&[]), &[]));
    }

    #[test]
    fn who_tells_of_less_is_behind() {
        let said = ack(b"hub");
        assert!(!behind(&said, 3, &[5, 7]));
        assert!(behind(&said, 4, &[]), "P5: the watermark");
        assert!(behind(&said, 3, &[7, 8]), "P5: beyond");
        assert!(!behind(&ack(b""), 9, &[9]), "it names no instance");
        let full = pb::Ack {
            ranges: vec![pb::BatchRange { first: 5, last: 5 }; MAX_ACK_RANGES],
            ..said.clone()
        };
        assert!(!behind(&full, 3, &[8]), "the list has an end");
        // A batch that is acknowledged after the restore does not hide that the one before is gone.
        assert_eq!(last_acked(&said, 0, Some(7)), 7);
        assert_eq!(last_acked(&said, 5, Some(7)), 7);
        assert_eq!(last_acked(&said, 8, Some(7)), 8, "P5");
        assert_eq!(last_acked(&said, 5, None), 5);
    }
}
