//! Two hubs that are sent the same batches at the same time write each once, whoever is quicker.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use fieldcast_hub::ingest::{Ingestor, Job};
use support::{add_device, bed, epoch, job, payload, reading, readings};

const HOUR: i64 = 3_600_000;
const JAN_2026: i64 = 1_767_225_600_000;
const DEVICES: [&str; 4] = ["a", "b", "c", "d"];
const BATCHES: u64 = 24;

fn time(number: u64, i: u64) -> i64 {
    JAN_2026 + i64::try_from(number * 10 + i).unwrap() * HOUR
}

fn batch(device: &str, number: u64) -> Job {
    let body = (0..10).map(|i| reading("t", time(number, i), number as f64));
    job(
        device,
        &payload(epoch(1), number, number * 10 - 9, body.collect()),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_hubs_that_get_the_same_batches_write_each_once() {
    let bed = bed().await;
    for device in DEVICES {
        add_device(&bed.store, device, None).await;
    }
    // Each hub gets all batches, in groups that cut the devices' batches at other places; sorted, as ingest hands them over.
    let all: Vec<(&str, u64)> = DEVICES
        .into_iter()
        .flat_map(|d| (1..=BATCHES).map(move |n| (d, n)))
        .collect();
    let hubs = [7_usize, 11, 16].map(|group| {
        let (store, all) = (bed.store.clone(), all.clone());
        tokio::spawn(async move {
            let mut ingestor = Ingestor::new(store).await.unwrap();
            let mut refused = 0;
            for keys in all.chunks(group) {
                let jobs: Vec<Job> = keys.iter().map(|(d, n)| batch(d, *n)).collect();
                // Batches that wait for each other's locks: the database lets one of them go first, and ingest tries the other again.
                let written = loop {
                    match ingestor.write(&jobs).await {
                        Err(error) if error.is_transient() => ingestor.forget(),
                        done => break done.unwrap(),
                    }
                };
                refused += written.acks.iter().filter(|(_, a)| a.new_epoch).count();
            }
            refused
        })
    });
    for hub in hubs {
        assert_eq!(hub.await.unwrap(), 0, "the same bytes are no clone");
    }
    for device in DEVICES {
        let expected: Vec<_> = (1..=BATCHES)
            .flat_map(|n| (0..10).map(move |i| ("t".to_owned(), time(n, i), n as f64)))
            .collect();
        assert_eq!(readings(&bed.store, device).await, expected);
        let mut tx = bed.store.begin_ingest().await.unwrap();
        let committed = tx.committed(device, epoch(1)).await.unwrap();
        assert_eq!((committed.through, committed.beyond.len()), (BATCHES, 0));
    }
}
