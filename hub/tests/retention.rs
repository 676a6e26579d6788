//! What is old is forgotten by month and by row, and what was forgotten still counts once.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use chrono::{DateTime, TimeDelta, Utc};
use fieldcast_hub::ingest::Ingestor;
use fieldcast_hub::registry::promote::{Way, promote};
use fieldcast_hub::retention::Retention;
use fieldcast_hub::rollout::plan::Plan;
use fieldcast_hub::rollout::request::{self, Person, Refusal, Stages};
use fieldcast_store::Store;
use fieldcast_store::decisions::NewDecision;
use fieldcast_store::desired::NewOrder;
use fieldcast_store::states::NewState;
use fieldcast_wire::caps::PROOF;
use fieldcast_wire::{Sha256, message, pb};
use serde_json::json;
use support::{
    add_device, bed, define, epoch, job, on_trial, payload, psql, reading, readings, register,
    roll_out,
};

const DAY: i64 = 86_400_000;
const JAN_2026: i64 = 1_767_225_600_000;

fn at(millis: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(millis).unwrap()
}

const KEEP: Retention = Retention {
    keep_readings_days: 365,
    keep_records_days: 30,
    keep_ledger_days: 1,
    keep_models: 2,
};

/// Numbers of the batches that the ledger knows by themselves.
async fn ledger(store: &Store) -> Vec<u64> {
    let known = store.batches_from("a", epoch(1), 1).await.unwrap();
    let known = known.into_iter().filter(|b| !b.boot_id.is_empty());
    known.map(|b| b.number).collect()
}

/// What device `a` says of itself.
async fn put_state(store: &Store, state: &pb::State) {
    let raw = message::encode(state);
    let new = NewState {
        device: "a",
        state,
        decoded: json!({}),
        raw: &raw,
    };
    let stored = store.put_states(&[new]).await.unwrap();
    assert!(stored.contains("a"));
}

#[tokio::test]
async fn which_readings_a_fault_spoilt_is_known_for_as_long_as_the_readings() {
    let bed = bed().await;
    psql(
        &bed,
        "INSERT INTO drift_signals (device, kind, forecaster, sensor, detector, statistic, threshold, severity, time, onset, raised,
            model_version, data_count, received_at)
         SELECT 'a', kind, '', 's', 'stuck', 0, 0, 0, t, t - spoilt, true, 0, 0, '2026-01-02' FROM unnest('{sensor,covariate}'::text[]) kind,
            unnest('{2026-01-20,2026-02-03}'::timestamptz[]) t, unnest('{0,1 day}'::interval[]) spoilt",
    );
    let left = |kinds: &str| {
        let kinds =
            format!("(SELECT coalesce(string_agg(kind, ' '), '') FROM drift_signals) = '{kinds}'");
        psql(&bed, &format!("DO $$ BEGIN ASSERT {kinds}; END $$"));
    };
    assert_eq!(
        bed.store
            .forget_records(at(JAN_2026 + 9 * DAY))
            .await
            .unwrap(),
        6
    );
    left("sensor sensor");
    // The month's readings are still there.
    let within = at(JAN_2026 + 25 * DAY);
    bed.store.forget_readings(within).await.unwrap();
    left("sensor sensor");
    let behind = at(JAN_2026 + 40 * DAY);
    bed.store.forget_readings(behind).await.unwrap();
    left("sensor");
}

#[tokio::test]
async fn months_end_by_the_time_of_their_readings() {
    let bed = bed().await;
    add_device(&bed.store, "a", None).await;
    let mut ingestor = Ingestor::new(bed.store.clone()).await.unwrap();
    let old = payload(
        epoch(1),
        1,
        1,
        vec![reading("t", JAN_2026, 1.0), reading("t", 1_000, 0.5)],
    );
    let new = payload(epoch(1), 2, 3, vec![reading("t", JAN_2026 + 40 * DAY, 2.0)]);
    let jobs = [job("a", &old), job("a", &new)];
    ingestor.write(&jobs).await.unwrap();
    // A year after January: its readings and those of a clock in 1970 are older, February's are not.
    let then = at(JAN_2026 + (365 + 31) * DAY);
    let readings_alone = Retention {
        keep_ledger_days: 0,
        ..KEEP
    };
    readings_alone.apply(&bed.store, then).await.unwrap();
    let left = vec![("t".to_owned(), JAN_2026 + 40 * DAY, 2.0)];
    assert_eq!(readings(&bed.store, "a").await, left);
    // A hub that still believes in the month that is gone makes it anew.
    let third = payload(epoch(1), 3, 4, vec![reading("t", JAN_2026 + DAY, 9.0)]);
    let refused = ingestor.write(&[job("a", &third)]).await.unwrap_err();
    assert!(refused.is_transient(), "{refused}");
    ingestor.forget();
    let written = ingestor.write(&[job("a", &third)]).await.unwrap();
    assert_eq!(written.acks[0].1.through, 3);
    assert_eq!(readings(&bed.store, "a").await.len(), 2);
}

/// P5: whatever its age, a batch is told by its bytes. A device that was away for years sends one again, and a disk image as old
/// seals others under the same numbers.
#[tokio::test]
async fn batches_that_the_ledger_forgot_are_still_told_by_their_bytes() {
    let bed = bed().await;
    add_device(&bed.store, "a", None).await;
    let mut ingestor = Ingestor::new(bed.store.clone()).await.unwrap();
    let batch = |number: u64, value: f64| {
        let time = JAN_2026 + 1_000 * i64::try_from(number).unwrap();
        payload(epoch(1), number, number, vec![reading("t", time, value)])
    };
    // 70 never comes; 140 lies beyond the watermark.
    let numbers = (1..=135).filter(|n| *n != 70).chain([140]);
    let jobs: Vec<_> = numbers.map(|n| job("a", &batch(n, 1.0))).collect();
    ingestor.write(&jobs).await.unwrap();
    psql(&bed, "UPDATE epochs SET through = 135");

    // The ledger keeps a row for two weeks at least, and the last ones until their block of 64 is whole.
    let soon = fieldcast_hub::clock::now() + TimeDelta::days(13);
    KEEP.apply(&bed.store, soon).await.unwrap();
    assert_eq!(ledger(&bed.store).await.len(), jobs.len());
    let later = fieldcast_hub::clock::now() + TimeDelta::days(15);
    // One that came lately holds back its own block and those behind it.
    psql(
        &bed,
        "UPDATE batches SET received_at = now() + interval '2 days' WHERE number = 100",
    );
    KEEP.apply(&bed.store, later).await.unwrap();
    assert_eq!(ledger(&bed.store).await[0], 64);
    psql(&bed, "UPDATE batches SET received_at = now()");
    // What a device makes up must not stop the rest.
    psql(
        &bed,
        "INSERT INTO epochs (device, epoch, through) VALUES ('a', gen_random_uuid(), 9223372036854775807);
         INSERT INTO batches (device, epoch, number, digest, first_seq, last_seq, boot_id, monotonic_ms)
         SELECT device, epoch, n, '', 1, 1, 'b', 1 FROM epochs, (VALUES (1), (9223372036854775807)) made(n)
         WHERE through = 9223372036854775807",
    );
    KEEP.apply(&bed.store, later).await.unwrap();
    let left: Vec<u64> = (128..=135).chain([140]).collect();
    assert_eq!(ledger(&bed.store).await, left);

    let before = readings(&bed.store, "a").await;
    let ack = async |ingestor: &mut Ingestor, bytes: &[u8]| {
        let written = ingestor.write(&[job("a", bytes)]).await.unwrap();
        written.acks.into_iter().next().unwrap().1
    };
    for number in [1, 63, 64, 127] {
        let same = ack(&mut ingestor, &batch(number, 1.0)).await;
        let proof = &same.proofs[0];
        assert_eq!((proof.batch, same.new_epoch), (number, false));
        assert_eq!(
            proof.digest,
            Sha256::of(&batch(number, 1.0)).0[..PROOF],
            "the same bytes are proved"
        );
    }
    assert_eq!(readings(&bed.store, "a").await, before, "and not written");
    for (number, why) in [(63, "other bytes"), (70, "bytes nobody can compare")] {
        let other = ack(&mut ingestor, &batch(number, 2.0)).await;
        assert!(other.new_epoch && other.proofs.is_empty(), "{why}");
        let refused = &other.rejected[0];
        assert_eq!((refused.batch, refused.seq), (number, 0), "{why}");
    }
    assert_eq!(readings(&bed.store, "a").await, before);
    // An older copy of the buffer is still told apart at its sync.
    let known = bed.store.batches_from("a", epoch(1), 2).await.unwrap();
    assert!(
        known
            .iter()
            .any(|b| b.number == 127 && b.boot_id.is_empty())
    );
}

/// A writer that looked before a fold was committed may fill a hole of a block that is folded by then.
#[tokio::test]
async fn what_comes_while_its_block_is_folded_is_proved_too_and_stops_no_retention() {
    let bed = bed().await;
    add_device(&bed.store, "a", None).await;
    let mut ingestor = Ingestor::new(bed.store.clone()).await.unwrap();
    let batch = |e: u128, number: u64| {
        let time = JAN_2026 + 1_000 * i64::try_from(number).unwrap();
        payload(epoch(e), number, number, vec![reading("t", time, 1.0)])
    };
    let numbers = (1..=127).filter(|n| *n != 70);
    let mut jobs: Vec<_> = numbers.map(|n| job("a", &batch(1, n))).collect();
    jobs.extend((1..=64).map(|n| job("a", &batch(2, n))));
    ingestor.write(&jobs).await.unwrap();
    // One epoch cannot be folded, whatever the reason.
    psql(
        &bed,
        &format!(
            "UPDATE epochs SET through = 127;
             ALTER TABLE batch_proofs ADD CONSTRAINT fails CHECK (epoch <> '{}')",
            epoch(2)
        ),
    );
    let later = fieldcast_hub::clock::now() + TimeDelta::days(15);
    let failed = KEEP.apply(&bed.store, later).await;
    assert!(failed.is_err(), "it is told");
    assert_eq!(ledger(&bed.store).await, [0_u64; 0]);
    psql(
        &bed,
        &format!(
            "INSERT INTO batches (device, epoch, number, digest, first_seq, last_seq, boot_id, monotonic_ms)
             VALUES ('a', '{}', 70, decode('{}', 'hex'), 70, 70, 'b', 1)",
            epoch(1),
            Sha256::of(&batch(1, 70))
        ),
    );
    assert_eq!(ledger(&bed.store).await, [70]);
    KEEP.apply(&bed.store, later).await.unwrap_err();
    assert_eq!(ledger(&bed.store).await, [0_u64; 0]);
    for number in [69, 70, 71] {
        let bytes = batch(1, number);
        let written = ingestor.write(&[job("a", &bytes)]).await.unwrap();
        let proof = &written.acks[0].1.proofs[0];
        assert_eq!(proof.digest, Sha256::of(&bytes).0[..PROOF], "{number}");
    }
}

#[tokio::test]
async fn a_kind_that_cannot_be_forgotten_keeps_none_of_the_others() {
    let bed = bed().await;
    let store = &bed.store;
    let now = store.settled_time().await.unwrap();
    define(store, "f", json!({})).await;
    for version in 1..=4 {
        register(store, "f", version).await;
    }
    psql(&bed, "ALTER TABLE batches RENAME TO elsewhere");
    KEEP.apply(store, now).await.unwrap_err();
    let second = Sha256::of(b"f 2");
    assert_eq!(store.bundle(&second).await.unwrap(), None);
}

#[tokio::test]
async fn bundles_go_that_no_device_runs_or_may_return_to() {
    let bed = bed().await;
    let store = &bed.store;
    let now = store.settled_time().await.unwrap();
    add_device(store, "a", Some("secret")).await;
    define(store, "f", json!({})).await;
    for version in 1..=10 {
        register(store, "f", version).await;
    }
    on_trial(&bed, "f", 1);
    // 1 is the champion, 2 is ordered, 3 runs, 4 is what the device falls back to and 7 where that fails too, 5 is a person's challenger.
    let bundle = |version: i64| Sha256::of(format!("f {version}").as_bytes());
    let mut orders = store.lock_orders("f").await.unwrap();
    let order = NewOrder {
        device: "a",
        forecaster: "f",
        bundle: &bundle(2).0,
        model_version: 2,
        stage: "active",
        generation: 1,
        expires_at: now,
        signed: b"order",
    };
    assert_eq!(orders.put(&[order]).await.unwrap(), 1);
    orders.commit().await.unwrap();
    let mut state = pb::State {
        boot: 1,
        n: 1,
        forecasters: vec![pb::ForecasterState {
            forecaster: "f".into(),
            running: bundle(3).0.to_vec(),
            last_good: bundle(4).0.to_vec(),
            before: bundle(7).0.to_vec(),
            ..Default::default()
        }],
        ..Default::default()
    };
    put_state(store, &state).await;
    let ann = Person {
        name: "ann",
        reason: "",
    };
    promote(store, "f", 5, Way::Challenger, ann).await.unwrap();
    let held = async || {
        let rows = store.model_versions(Some("f"), 0, 100).await.unwrap();
        assert_eq!(rows.len(), 10, "versions stay");
        let mut there = Vec::new();
        for row in rows {
            let bytes = store.bundle(&bundle(row.version)).await.unwrap();
            assert_eq!(bytes.is_some(), row.removed_at.is_none(), "{row:?}");
            assert!(row.bundle_size > 0, "what it was stays known");
            there.extend(bytes.map(|_| row.version));
        }
        there.sort_unstable();
        there
    };
    let rollout = roll_out(store, 6, Plan::all_at_once(0)).await;
    // A rollout names its own challenger, which takes 5's place.
    KEEP.apply(store, now).await.unwrap();
    assert_eq!(held().await, [1, 2, 3, 4, 6, 7, 9, 10]);
    let refused = request::start(store, "f", 8, Stages::AsDefined, ann).await;
    assert!(
        matches!(refused, Err(Refusal::Removed(_, 8))),
        "{refused:?}"
    );
    let all = Retention {
        keep_models: 0,
        ..KEEP
    };
    all.apply(store, now).await.unwrap();
    assert_eq!(held().await, [1, 2, 3, 4, 6, 7, 9, 10]);

    // A device's word that cannot be read keeps everything: anything may run there.
    psql(&bed, "UPDATE device_states SET raw = '\\xff'");
    psql(
        &bed,
        &format!("UPDATE rollouts SET finished_at = now() WHERE id = {rollout}"),
    );
    psql(&bed, "DELETE FROM challengers");
    KEEP.apply(store, now).await.unwrap();
    assert_eq!(held().await, [1, 2, 3, 4, 6, 7, 9, 10]);

    // It was connected with its order to run 6, and has not answered: it may run it already.
    psql(
        &bed,
        "UPDATE deployments SET generation = 5, machine = machine || '{\"generation\": 5, \"online_since\": 1}'",
    );
    psql(&bed, "DELETE FROM device_states");
    KEEP.apply(store, now).await.unwrap();
    assert_eq!(held().await, [1, 2, 6, 9, 10]);
    let f = &mut state.forecasters[0];
    (f.generation, f.running) = (5, bundle(10).0.to_vec());
    f.last_good.clear();
    f.before.clear();
    put_state(store, &state).await;
    KEEP.apply(store, now).await.unwrap();
    assert_eq!(held().await, [1, 2, 9, 10]);
}

#[tokio::test]
async fn a_bundle_that_a_person_gave_back_stays_for_a_month() {
    let bed = bed().await;
    let store = &bed.store;
    let now = store.settled_time().await.unwrap();
    define(store, "f", json!({})).await;
    for version in 1..=4 {
        register(store, "f", version).await;
    }
    let there = async || {
        KEEP.apply(store, now).await.unwrap();
        let bundle = store.bundle(&Sha256::of(b"f 1")).await.unwrap();
        bundle.is_some()
    };
    assert!(!there().await);
    let ann = NewDecision {
        forecaster: "f",
        decision: "import",
        decided_by: "ann",
        ..NewDecision::default()
    };
    store.restore_bundle(b"f 1", &ann).await.unwrap();
    let told = store.decisions(Some("f"), None, 1).await.unwrap();
    assert_eq!(told[0].decided_by, "ann");
    assert!(there().await);
    psql(
        &bed,
        "UPDATE bundles SET restored_at = restored_at - interval '31 days'",
    );
    assert!(!there().await);
}
