//! The loop within `serve`: owns which of its tasks run, never what they decide.

use crate::app::Running;
use crate::jobs::Worker;
use crate::rollout::driver::Driver;

/// Starts a worker, the rollout driver and the drift check; they end with the hub.
pub fn spawn(running: &mut Running) {
    let hub = running.hub.clone();
    let worker = Worker::new(hub.store.clone(), hub.signer.clone());
    let end = hub.end.clone();
    running.spawn(async move { worker.run(end).await });
    let driver = Driver {
        store: hub.store.clone(),
        signer: hub.signer.clone(),
        downlink: hub.downlink.clone(),
        site: hub.config.site.clone(),
    };
    let end = hub.end.clone();
    running.spawn(async move { driver.run(end).await });
    running.spawn(crate::drift::run(hub.store.clone(), crate::drift::verdict::Rules::default(), hub.end.clone()));
}
