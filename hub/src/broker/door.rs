//! The embedded broker's door: owns that devices come in one after the other and at a pace the broker can bear, never who may.
//!
//! Each that comes in makes the broker's library walk over all subscriptions while everybody else waits, the longer the more there
//! are. A large fleet let in as it comes is answered so late that it gives up and comes again, and never gets in. So one comes in at
//! a time, the next when half as long again has gone by; who would wait too long is told at once that the broker is busy, which
//! costs no walk.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mqtt5::broker::events::{BrokerEventHandler, ClientConnectEvent};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, sleep, timeout};

/// So long one waits before the door: less than an agent does for its connection.
const PATIENCE: Duration = Duration::from_secs(5);
/// Who is not inside by then has gone away on the threshold.
const LOST_WITHIN: Duration = Duration::from_secs(1);
/// Waits shorter than the clock's step would be longer than what they are to make up for.
const SHORTEST: Duration = Duration::from_millis(1);
/// Between two warnings.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// Who waits, and who is on the threshold with whoever is to be told when it is inside.
type Coming = Arc<Mutex<HashMap<String, Option<oneshot::Sender<()>>>>>;

/// See the module.
pub(crate) struct Door {
    patience: Duration,
    lost_within: Duration,
    turn: Arc<Semaphore>,
    coming: Coming,
    said: Mutex<Option<Instant>>,
}

/// One of those who come; forgotten when dropped.
struct Comer {
    coming: Coming,
    client: String,
}

impl Drop for Comer {
    fn drop(&mut self) {
        locked(&self.coming).remove(&self.client);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Door {
    pub(crate) fn new() -> Self {
        Self::with(PATIENCE, LOST_WITHIN)
    }

    fn with(patience: Duration, lost_within: Duration) -> Self {
        Self {
            patience,
            lost_within,
            turn: Arc::new(Semaphore::new(1)),
            coming: Coming::default(),
            said: Mutex::new(None),
        }
    }

    /// Waits for this client's turn; false where that takes too long, or the same client waits already: one that knocks again and again
    /// must not keep the others out.
    pub(crate) async fn enter(&self, client: &str) -> bool {
        let comer = match locked(&self.coming).entry(client.to_owned()) {
            Entry::Occupied(_) => return false,
            Entry::Vacant(free) => {
                free.insert(None);
                Comer {
                    coming: Arc::clone(&self.coming),
                    client: client.to_owned(),
                }
            }
        };
        let turn = Arc::clone(&self.turn).acquire_owned();
        let Ok(Ok(turn)) = timeout(self.patience, turn).await else {
            self.busy();
            return false;
        };
        let (tell, inside) = oneshot::channel();
        locked(&self.coming).insert(client.to_owned(), Some(tell));
        let (since, lost_within) = (Instant::now(), self.lost_within);
        tokio::spawn(async move {
            // However it ends, the next may come.
            let _ = timeout(lost_within, inside).await;
            drop(comer);
            let pause = since.elapsed() / 2;
            if pause >= SHORTEST {
                sleep(pause).await;
            }
            drop(turn);
        });
        true
    }

    fn inside(&self, client: &str) {
        let coming = locked(&self.coming).get_mut(client).and_then(Option::take);
        if let Some(tell) = coming {
            // Lost meanwhile: nobody waits.
            let _ = tell.send(());
        }
    }

    fn busy(&self) {
        let mut said = locked(&self.said);
        if said.is_none_or(|at| at.elapsed() >= SAID_EVERY) {
            *said = Some(Instant::now());
            tracing::warn!(
                "more devices come than the embedded broker can let in; some are told to come again later, until all are in. For a \
                 fleet of this size use a broker of your own (--broker)"
            );
        }
    }
}

impl BrokerEventHandler for Door {
    fn on_client_connect<'a>(
        &'a self,
        event: ClientConnectEvent,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move { self.inside(&event.client_id) })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn the_next_comes_in_when_half_as_long_again_has_gone_by() {
        let door = Arc::new(Door::with(LONG, LONG));
        assert!(door.enter("a").await);
        let begin = Instant::now();
        let next = tokio::spawn({
            let door = Arc::clone(&door);
            async move { door.enter("b").await }
        });
        sleep(Duration::from_millis(40)).await;
        assert!(!next.is_finished(), "a is on the threshold");
        door.inside("b");
        door.inside("a");
        assert!(next.await.unwrap());
        assert!(begin.elapsed() >= Duration::from_millis(60));
    }

    #[tokio::test]
    async fn one_that_goes_away_on_the_threshold_keeps_nobody_out() {
        let door = Door::with(LONG, Duration::from_millis(10));
        assert!(door.enter("a").await);
        assert!(door.enter("b").await);
        assert!(door.enter("a").await, "it comes again");
        assert_eq!(locked(&door.coming).len(), 1);
    }

    #[tokio::test]
    async fn one_that_knocks_again_while_it_waits_takes_no_second_place() {
        let door = Arc::new(Door::with(LONG, LONG));
        assert!(door.enter("a").await);
        assert!(!door.enter("a").await, "on the threshold");
        let next = tokio::spawn({
            let door = Arc::clone(&door);
            async move { door.enter("b").await }
        });
        while locked(&door.coming).len() < 2 {
            tokio::task::yield_now().await;
        }
        assert!(!door.enter("b").await, "waiting");
        door.inside("a");
        assert!(next.await.unwrap());
    }

    #[tokio::test]
    async fn who_would_wait_too_long_is_told_so() {
        let door = Door::with(Duration::from_millis(20), LONG);
        assert!(door.enter("a").await);
        assert!(!door.enter("b").await);
        door.inside("a");
        // Half of the time that a took is all that is left to wait for.
        while !door.enter("b").await {}
    }
}
