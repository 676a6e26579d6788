//! A champion that every device gives up, on a real PostgreSQL: a new one is made, since when its errors are known to have grown.

use fieldcast_hub::drift::daily::{Seen, look};
use fieldcast_hub::drift::verdict::Rules;
use fieldcast_wire::pb::ModelPhase;

use crate::outdated::{CHANGE, DAY_MS, JAN_2026, champion};
use crate::support::learning::checked;
use crate::support::psql;
use crate::{order, say};

#[tokio::test(flavor = "multi_thread")]
async fn a_champion_that_every_device_gave_up_is_replaced_as_the_policy_allows() {
    let (bed, driver, _rounds, n) = champion().await;
    let store = &bed.store;
    // A hub that just started looks at everything.
    let looked = || async {
        let (signer, rules) = (&driver.signer, Rules::default());
        look(store, signer, &rules, &mut Seen::default())
            .await
            .unwrap();
    };
    looked().await;
    assert!(checked(store).await.is_empty(), "the device runs it");

    let generation = order(store, "a").await.unwrap().generation;
    say(store, n + 1, ModelPhase::Failed, &[], generation).await;
    psql(
        &bed,
        r#"UPDATE forecasters SET retraining = '{"error": false}'"#,
    );
    looked().await;
    let told = checked(store).await;
    assert_eq!((told.len(), told[0].decision.as_str()), (1, "wait"));
    assert!(told[0].reason.contains("given_up"), "{}", told[0].reason);
    psql(&bed, r#"UPDATE forecasters SET retraining = '{}'"#);
    looked().await;
    let told = checked(store).await;
    assert_eq!((told.len(), told[0].decision.as_str()), (2, "retrain"));
    let reason = &told[0].reason;
    assert!(reason.contains("1 went back from it (a)"), "{reason}");
    let report = store.drift_report(told[0].drift_report.unwrap()).await;
    let report = report.unwrap().unwrap();
    let began = (report.onset.timestamp_millis() - JAN_2026) / DAY_MS;
    assert!(report.confirmed && (began - CHANGE).abs() <= 1, "{began}");
    let jobs = store.live_jobs().await.unwrap();
    assert_eq!(jobs[0].payload["trigger"], "given_up");
    // It is under way.
    looked().await;
    assert_eq!(checked(store).await.len(), 2);
}
