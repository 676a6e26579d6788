//! What is old is forgotten by month and by row, and what was forgotten still counts once.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use chrono::{DateTime, TimeDelta, Utc};
use fieldcast_hub::ingest::Ingestor;
use fieldcast_hub::retention::Retention;
use fieldcast_store::Store;
use support::{add_device, bed, epoch, job, payload, reading, readings};

const DAY: i64 = 86_400_000;
const JAN_2026: i64 = 1_767_225_600_000;

fn at(millis: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(millis).unwrap()
}

const KEEP: Retention = Retention {
    keep_readings_days: 365,
    keep_records_days: 30,
    keep_ledger_days: 1,
};

/// Numbers of the batches that the ledger knows by themselves.
async fn ledger(store: &Store) -> Vec<u64> {
    let known = store.batches_from("a", epoch(1), 1).await.unwrap();
    let known = known.into_iter().filter(|b| !b.boot_id.is_empty());
    known.map(|b| b.number).collect()
}

#[tokio::test]
async fn months_end_and_batches_that_the_ledger_forgot_still_count_once() {
    let bed = bed().await;
    add_device(&bed.store, "a", None).await;
    let mut ingestor = Ingestor::new(bed.store.clone()).await.unwrap();
    let old = payload(epoch(1), 1, 1, vec![reading("t", JAN_2026, 1.0)]);
    let new = payload(epoch(1), 2, 2, vec![reading("t", JAN_2026 + 40 * DAY, 2.0)]);
    let late = payload(epoch(1), 4, 4, vec![reading("t", JAN_2026 + 41 * DAY, 3.0)]);
    ingestor
        .write(&[job("a", &old), job("a", &new), job("a", &late)])
        .await
        .unwrap();

    // A year after January: its readings are older, February's are not.
    let then = at(JAN_2026 + (365 + 31) * DAY);
    let readings_alone = Retention {
        keep_ledger_days: 0,
        ..KEEP
    };
    readings_alone.apply(&bed.store, then).await.unwrap();
    let left = vec![
        ("t".to_owned(), JAN_2026 + 40 * DAY, 2.0),
        ("t".to_owned(), JAN_2026 + 41 * DAY, 3.0),
    ];
    assert_eq!(readings(&bed.store, "a").await, left);

    // The ledger keeps a row for two weeks at least, and one beyond the watermark for ever.
    let soon = Utc::now() + TimeDelta::days(13);
    KEEP.apply(&bed.store, soon).await.unwrap();
    assert_eq!(ledger(&bed.store).await, [1, 2, 4]);
    let later = Utc::now() + TimeDelta::days(15);
    KEEP.apply(&bed.store, later).await.unwrap();
    assert_eq!(ledger(&bed.store).await, [4]);

    // Sent once more, also by a hub that still believes in the month that is gone.
    let again = ingestor
        .write(&[job("a", &old), job("a", &new)])
        .await
        .unwrap();
    assert_eq!(
        (again.acks[0].1.through, again.acks[0].1.new_epoch),
        (2, false)
    );
    let third = payload(epoch(1), 3, 3, vec![reading("t", JAN_2026 + DAY, 9.0)]);
    let refused = ingestor.write(&[job("a", &third)]).await.unwrap_err();
    assert!(refused.is_transient(), "{refused}");
    ingestor.forget();
    let through = ingestor.write(&[job("a", &third)]).await.unwrap().acks[0]
        .1
        .through;
    assert_eq!(through, 4);
    assert_eq!(readings(&bed.store, "a").await.len(), 3);
    // An older copy of the buffer is still told apart, although the rows that prove it are gone.
    let known = bed.store.batches_from("a", epoch(1), 2).await.unwrap();
    assert!(known.iter().any(|b| b.number == 2 && b.boot_id.is_empty()));
}
