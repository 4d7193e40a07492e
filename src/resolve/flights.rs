//! One lookup for all who ask the same at the same time.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Lookups under way, by what they look up. Each runs in a task of its own, so it goes on when the
/// client that started it has gone: the next one who asks finds the result.
#[derive(Debug)]
pub(super) struct Flights<K, V> {
    under_way: Mutex<HashMap<K, watch::Receiver<Option<V>>>>,
    limit: usize,
}

/// Why there is no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoFlight {
    /// As many lookups are under way as the limit allows.
    Full,
    /// The lookup's task ended without a result: it panicked, or the runtime is stopping.
    Lost,
}

/// Takes the lookup off the table however its task ends.
struct Landing<K: Eq + Hash, V> {
    flights: Arc<Flights<K, V>>,
    key: K,
}

impl<K, V> Flights<K, V>
where
    K: Eq + Hash + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// A table of at most `limit` lookups.
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            under_way: Mutex::new(HashMap::new()),
            limit,
        })
    }

    /// Waits for the lookup of `key`; `start` makes it if none is under way.
    pub(super) async fn join<F>(
        self: &Arc<Self>,
        key: K,
        start: impl FnOnce() -> F,
    ) -> Result<V, NoFlight>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut result = self.board(key, start)?;
        match result.wait_for(Option::is_some).await {
            Ok(value) => value.clone().ok_or(NoFlight::Lost),
            Err(_) => Err(NoFlight::Lost),
        }
    }

    fn board<F>(
        self: &Arc<Self>,
        key: K,
        start: impl FnOnce() -> F,
    ) -> Result<watch::Receiver<Option<V>>, NoFlight>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut under_way = self.lock();
        if let Some(result) = under_way.get(&key) {
            return Ok(result.clone());
        }
        if under_way.len() >= self.limit {
            return Err(NoFlight::Full);
        }
        let (sender, receiver) = watch::channel(None);
        under_way.insert(key.clone(), receiver.clone());
        drop(under_way);
        let landing = Landing {
            flights: Arc::clone(self),
            key,
        };
        let lookup = start();
        tokio::spawn(async move {
            let value = lookup.await;
            // Off the table first: whoever asks after this starts anew, or finds it in a cache.
            drop(landing);
            sender.send_replace(Some(value));
        });
        Ok(receiver)
    }
}

impl<K, V> Flights<K, V> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, watch::Receiver<Option<V>>>> {
        // Nothing panics while it is held, and a table of receivers cannot be half changed.
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        self.flights.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn all_who_ask_at_once_share_one_lookup() {
        let flights = Flights::<u8, usize>::new(4);
        let started = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new(Notify::new());
        let ask = || {
            let (flights, started, gate) = (flights.clone(), started.clone(), gate.clone());
            tokio::spawn(async move {
                let start = || async move {
                    let number = started.fetch_add(1, Ordering::SeqCst);
                    gate.notified().await;
                    number
                };
                flights.join(1, start).await
            })
        };
        let waiting: Vec<_> = (0..10).map(|_| ask()).collect();
        while flights.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        gate.notify_one();
        for answer in waiting {
            assert_eq!(answer.await.unwrap(), Ok(0));
        }
        assert_eq!(started.load(Ordering::SeqCst), 1);
        assert_eq!(flights.lock().len(), 0);
    }

    #[tokio::test]
    async fn a_lookup_outlives_the_one_who_started_it() {
        let flights = Flights::<u8, u8>::new(4);
        let (gate, done) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (opened, told) = (gate.clone(), done.clone());
        let first = flights.join(1, || async move {
            opened.notified().await;
            told.notify_one();
            7
        });
        tokio::select! {
            biased;
            _ = first => panic!("the gate is closed"),
            () = tokio::task::yield_now() => {}
        }
        gate.notify_one();
        done.notified().await;
    }

    #[tokio::test]
    async fn the_limit_holds_and_a_lost_lookup_frees_its_place() {
        let flights = Flights::<u8, u8>::new(1);
        let gate = Arc::new(Notify::new());
        let opened = gate.clone();
        let receiver = flights.board(1, || async move {
            opened.notified().await;
            1
        });
        assert!(receiver.is_ok());
        assert_eq!(flights.join(2, || async { 2 }).await, Err(NoFlight::Full));
        gate.notify_one();
        assert_eq!(flights.join(1, || async { 9 }).await, Ok(1));
        let lost = flights
            .join(3, || async { panic!("inside a lookup") })
            .await;
        assert_eq!(lost, Err(NoFlight::Lost));
        assert_eq!(flights.join(4, || async { 4 }).await, Ok(4));
    }
}
