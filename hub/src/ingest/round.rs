//! Carries out what the machine of `fieldcast-ledger` tells, on PostgreSQL: owns the writes of a round, its COMMIT and the
//! acks behind it; never a decision.

use fieldcast_ledger::machine::{Event, Known, Output, Question, State, step};
use fieldcast_store::ledger::Ingest;
use fieldcast_store::{Result, Store};
use fieldcast_wire::caps::MAX_ACK_PROOFS;
use fieldcast_wire::{DeviceId, Epoch, pb};

use super::{now_ms, out};

/// Answers a sync of a known device, in one transaction; with what others are to be told.
///
/// # Errors
/// The database; then nothing of it was written.
pub async fn sync(
    store: &Store,
    database: Vec<u8>,
    device: &DeviceId,
    epoch: Epoch,
    sync: pb::Sync,
) -> Result<(Option<pb::Ack>, Vec<out::Message>)> {
    let mut machine = State::new(database);
    let mut alarms = Vec::new();
    let asked = step(
        &mut machine,
        Event::Sync(device.clone(), epoch, sync),
        now_ms(),
    );
    let Some(Output::Ask(question)) = asked.into_iter().next() else {
        return Ok((None, alarms));
    };
    let (mut tx, known) = ask(store, &question).await?;
    let outputs = step(&mut machine, known, now_ms());
    if outputs.iter().any(|output| *output != Output::Commit) {
        // The device is told of it: a crash must not take it back. All else is found again in the ledger.
        tx.on_disk().await?;
    }
    for output in outputs {
        change(&mut tx, output, &mut alarms).await?;
    }
    let acks = commit(tx, machine).await?;
    Ok((acks.into_iter().next().map(|(_, ack)| ack), alarms))
}

async fn ask(store: &Store, question: &Question) -> Result<(Ingest, Event)> {
    let (device, epoch) = (question.device.as_str(), question.epoch);
    let later = store
        .batches_from(device, epoch, question.next_batch)
        .await?;
    let (session, boot_id) = (question.session, &question.boot_id);
    let newest = store
        .session(device, session, boot_id, question.monotonic_ms)
        .await?;
    let mut tx = store.begin_unhurried().await?;
    let last = [(device.to_owned(), epoch, question.last_acked)];
    // The row that is locked next must be there.
    tx.insert_epochs(&last).await?;
    let known = Known {
        later,
        committed: tx.committed(device, epoch).await?,
        last_acked: question.last_acked == 0 || !tx.ledger_rows(&last).await?.is_empty(),
        newest,
        restored: tx.restored(device).await?,
        proven: tx
            .digests(device, epoch, question.acked_through, MAX_ACK_PROOFS)
            .await?,
        fresh: uuid::Uuid::new_v4(),
    };
    Ok((tx, Event::Known(known)))
}

/// Does what changes the ledger beside its batches; alarms are told to others too.
pub(super) async fn change(
    tx: &mut Ingest,
    output: Output,
    told: &mut Vec<out::Message>,
) -> Result<()> {
    match output {
        Output::Through(marks) => {
            let marks: Vec<_> = marks.iter().map(|(d, e, n)| (d.as_str(), *e, *n)).collect();
            tx.set_watermarks(&marks).await
        }
        Output::Spend(device, epoch, why) => tx.spend(device.as_str(), epoch, &why).await,
        Output::Renew(device, nonce) => tx.renew_for(device.as_str(), nonce).await,
        Output::Raise(device, code, why) => {
            tracing::error!(%device, code, "{why}");
            told.push(out::hub_alarm(&device, code, &why));
            tx.raise(device.as_str(), code, &why).await
        }
        // Answered by whoever began the round.
        Output::Look(_)
        | Output::Write(_)
        | Output::Hold(_)
        | Output::Ask(_)
        | Output::Commit
        | Output::Ack(..) => Ok(()),
    }
}

/// P4: makes the round permanent; only then are there acks.
pub(super) async fn commit(tx: Ingest, mut machine: State) -> Result<Vec<(DeviceId, pb::Ack)>> {
    tx.commit().await?;
    let acks = step(&mut machine, Event::Committed, now_ms()).into_iter();
    Ok(acks
        .filter_map(|output| match output {
            Output::Ack(device, ack) => Some((device, ack)),
            _ => None,
        })
        .collect())
}
