//! A small made fleet against a real hub process with its embedded broker and a real PostgreSQL.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod support;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fieldcast_hub::rollout::plan::Plan;
use fieldcast_hub::training::KIND;
use serde_json::{Value, json};
use support::fleet::{Going, LONG, model, reach};
use support::process::{self, Process};
use support::{Bed, add_device, bed, conclude_with, crown, define, epoch, roll_out};

async fn hub(bed: &Bed) -> Process {
    let (hub, rest) = Process::serve(&bed.dir.path().join("hub"), &bed.url("t"), &[]).await;
    hub.ready(&rest, 200).await;
    hub
}

/// Runs a fleet to its end; what it prints as JSON.
async fn fleet(bed: &Bed, options: &str) -> Value {
    let (dir, url) = (bed.dir.path().join("hub"), bed.url("t"));
    let args = format!("--json simulate fleet --verify {options}");
    let run = move || process::run(&dir, &url, &args.split_whitespace().collect::<Vec<_>>());
    let out = tokio::task::spawn_blocking(run).await.unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    serde_json::from_slice(&out.stdout).unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reading_of_a_fleet_arrives_once_also_where_acks_batches_and_connections_do_not() {
    let bed = bed().await;
    let hub = hub(&bed).await;
    let calm = "--devices 50 --sensors 3 --rate 12 --batch-every 1s --duration 4s --seed 5";
    let told = fleet(&bed, calm).await;
    let (sums, verdict) = (&told["fleet"], &told["verify"]);
    // Each device takes 12 readings at each whole second after its phase.
    let produced = number(&sums["produced"]);
    assert!((50 * 3 * 12..=50 * 4 * 12).contains(&produced), "{told}");
    assert_eq!(number(&sums["acked"]), produced, "{told}");
    assert_eq!(number(&verdict["once"]), produced, "{told}");
    assert_eq!(
        (&sums["resent"], &sums["connections"]),
        (&json!(0), &json!(50))
    );

    let wild = "--devices 50 --prefix wild- --sensors 3 --rate 12 --batch-every 500ms --duration 8s --seed 6 \
                --ack-deadline 1s --fault drop-acks=0.3 --fault repeat=0.2 --fault cut=0.1 --fault storm=3s";
    let told = fleet(&bed, wild).await;
    let (sums, verdict) = (&told["fleet"], &told["verify"]);
    let produced = number(&sums["produced"]);
    assert!(produced >= 50 * 12 * 6, "{told}");
    assert_eq!(number(&sums["acked"]), produced, "{told}");
    assert_eq!(number(&verdict["once"]), produced, "{told}");
    assert!(number(&sums["resent"]) > 50, "{told}");
    assert!(number(&sums["connections"]) > 75, "{told}");
    assert_eq!(
        (&verdict["lost"], &verdict["twice"]),
        (&json!(0), &json!(0))
    );

    let away = calm.replace(
        "--devices 50",
        "--devices 50 --prefix away- --fault offline=0.5",
    );
    let told = fleet(&bed, &away).await;
    let connections = number(&told["fleet"]["connections"]);
    assert!((10..40).contains(&connections), "{told}");
    assert_eq!(told["verify"]["lost"], 0, "{told}");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_that_is_taken_away_or_written_twice_is_found() {
    let bed = bed().await;
    let hub = hub(&bed).await;
    let plan = "--devices 2 --sensors 1 --rate 4 --batch-every 1s --duration 3s";
    let told = fleet(&bed, plan).await;
    assert_eq!(told["verify"]["lost"], 0);
    // Once more with readings that a trigger loses and doubles.
    support::psql(
        &bed,
        "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF pg_trigger_depth() > 1 THEN RETURN NEW; END IF;
             IF extract(epoch FROM NEW.time)::bigint % 3 = 0 THEN RETURN NULL; END IF;
             IF extract(epoch FROM NEW.time)::bigint % 3 = 1 THEN INSERT INTO readings SELECT NEW.*; END IF;
             RETURN NEW; END $$;
         CREATE TRIGGER spoil BEFORE INSERT ON readings FOR EACH ROW EXECUTE FUNCTION spoil()",
    );
    let args = format!("simulate fleet --verify --prefix other- {plan} --duration 5s");
    let (dir, url) = (bed.dir.path().join("hub"), bed.url("t"));
    let args = args.replacen(" --duration 3s", "", 1);
    let run = move || process::refused(&dir, &url, &args.split_whitespace().collect::<Vec<_>>());
    let said = tokio::task::spawn_blocking(run).await.unwrap();
    assert!(
        said.contains("is lost") && said.contains("is there twice"),
        "{said}"
    );
    // A name that a device has which is not simulated stays that device's.
    add_device(&bed.store, "real-00001", Some("secret")).await;
    let dir = bed.dir.path().join("hub");
    let taken = ["simulate", "fleet", "--prefix", "real-", "--devices", "2"];
    let said = process::refused(&dir, &bed.url("t"), &taken);
    assert!(said.contains("not simulated"), "{said}");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_obeys_signed_orders_and_misbehaves_as_it_is_told() {
    let bed = bed().await;
    let hub = hub(&bed).await;
    let store = &bed.store;
    let (dir, url) = (bed.dir.path().join("hub"), bed.url("t"));
    model(store).await;
    let pace = "--batch-every 500ms --rate 4 --speed 36000 --sensors 2";
    let good = Going::start(&dir, &url, &format!("--devices 6 --prefix good- {pace}"));
    let added = async |count: usize| {
        let until = Instant::now() + LONG;
        while store.devices("", 100).await.unwrap().len() < count {
            assert!(Instant::now() < until, "the devices were not added");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    // All are known before the rollout chooses whom it orders.
    added(1 + 6).await;
    let rollout = roll_out(store, 1, Plan::all_at_once(0)).await;
    reach(store, "good-", 6, "healthy").await;
    let until = Instant::now() + LONG;
    while store.rollout(rollout).await.unwrap().unwrap().0.status != "succeeded" {
        assert!(Instant::now() < until, "the rollout does not succeed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Who comes later is ordered the champion.
    let nan = format!("--devices 2 --prefix nan- {pace} --fault nan=1");
    let (nan, crash, refuse) = (
        Going::start(&dir, &url, &nan),
        Going::start(&dir, &url, &nan.replace("nan", "crash")),
        Going::start(&dir, &url, &nan.replace("nan", "refuse")),
    );
    reach(store, "nan-", 2, "rolled_back").await;
    reach(store, "crash-", 2, "rolled_back").await;
    reach(store, "refuse-", 2, "rejected").await;
    let told = good.end();
    for fleet in [nan, crash, refuse] {
        let told = fleet.end();
        assert_eq!(told["verify"]["lost"], 0, "{told}");
        assert_eq!(told["fleet"]["disobeyed"], 0, "{told}");
    }
    assert_eq!(told["verify"]["lost"], 0, "{told}");
    assert!(number(&told["fleet"]["blocks"]) >= 6, "{told}");
    assert_eq!(told["fleet"]["disobeyed"], 0, "{told}");
    let (_, devices) = store.rollout(rollout).await.unwrap().unwrap();
    assert_eq!(devices.len(), 6);
    assert!(store.newest_origin("f", 1).await.unwrap().is_some());
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_reaches_a_whole_fleet_block_by_block_and_one_that_nobody_signed_is_refused() {
    let bed = bed().await;
    let store = &bed.store;
    define(store, "g", json!({})).await;
    store.enqueue(KIND, "g", &json!({})).await.unwrap();
    let claimed = store.claim_job("w", 30.0, None).await.unwrap().unwrap();
    // As large as a bundle is, ten blocks, the last one short.
    let bytes: Vec<u8> = (0..300_000_u64).map(|i| ((i * i) >> 7) as u8).collect();
    let told = conclude_with(store, &claimed.claim(), "g", 1, &bytes).await;
    store
        .finish_job(&claimed, "w", Ok(told.unwrap()))
        .await
        .unwrap();
    crown(store, "g", 1).await;
    let hub = hub(&bed).await;
    let (dir, url) = (bed.dir.path().join("hub"), bed.url("t"));
    let options = "--devices 100 --prefix b- --sensors 1 --rate 1 --batch-every 2s";
    let fleet = Going::start(&dir, &url, options);
    reach(store, "b-", 100, "rejected").await;
    let state = store.device_state("b-00100").await.unwrap().unwrap();
    let reason = state["forecasters"][0]["reason"]
        .as_str()
        .unwrap()
        .to_owned();
    // Its digest was the order's; what it holds is no bundle of the hub's key.
    assert!(!reason.contains("missing"), "{reason}");
    let told = fleet.end();
    assert!(number(&told["fleet"]["blocks"]) >= 100 * 10, "{told}");
    assert_eq!(told["verify"]["lost"], 0, "{told}");
    hub.stop().await;
}

/// A `psql` that holds a device's row until it is dropped.
struct Lock(Child);

impl Lock {
    fn take(bed: &Bed, device: &str) -> Self {
        use std::io::{BufRead as _, Write as _};
        let mut child = Command::new("psql")
            .args(["-q", "-A", "-t", "-d", "t", "-U", bed.cluster.user(), "-h"])
            .arg(bed.cluster.socket_dir())
            .args(["-p", &bed.cluster.port().to_string()])
            .env("PGPASSWORD", bed.cluster.password())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let ask = format!("BEGIN; SELECT id FROM devices WHERE id = '{device}' FOR UPDATE;\n");
        child
            .stdin
            .as_mut()
            .unwrap()
            .write_all(ask.as_bytes())
            .unwrap();
        let mut said = String::new();
        let out = child.stdout.as_mut().unwrap();
        std::io::BufReader::new(out).read_line(&mut said).unwrap();
        assert_eq!(said.trim(), device);
        Self(child)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_cannot_be_dealt_with_hold_up_no_readings_of_others() {
    use rumqttc::v5::mqttbytes::{QoS, v5::Packet};
    use rumqttc::v5::{AsyncClient, Event, MqttOptions};
    let bed = bed().await;
    add_device(&bed.store, "x", Some("secret")).await;
    let hub = hub(&bed).await;
    let described = std::fs::read(bed.dir.path().join("hub/serve.json")).unwrap();
    let described: Value = serde_json::from_slice(&described).unwrap();
    let port = described["broker"].as_str().unwrap().rsplit_once(':');
    let lock = Lock::take(&bed, "x");
    // More than the broker may have under way to the hub at once.
    let mut options = MqttOptions::new("x", "127.0.0.1", port.unwrap().1.parse().unwrap());
    options.set_credentials("x", "secret");
    let (client, mut events) = AsyncClient::new(options, 200);
    let sync = fieldcast_wire::pb::Sync {
        schema: 1,
        epoch: epoch(9).to_vec(),
        session: 1,
        ..Default::default()
    };
    let sync = fieldcast_wire::message::encode(&sync);
    for _ in 0..200 {
        let topic = "fieldcast/v1/main/d/x/up/sync";
        client
            .try_publish(topic, QoS::AtLeastOnce, false, sync.clone())
            .unwrap();
    }
    let mut taken = 0;
    while taken < 200 {
        if let Event::Incoming(Packet::PubAck(_)) = events.poll().await.unwrap() {
            taken += 1;
        }
    }
    let told = fleet(&bed, "--devices 10 --rate 4 --batch-every 1s --duration 3s").await;
    let produced = &told["fleet"]["produced"];
    assert!(number(produced) >= 10 * 2 * 4, "{told}");
    assert_eq!(&told["fleet"]["acked"], produced, "{told}");
    drop(lock);
    hub.stop().await;
}
