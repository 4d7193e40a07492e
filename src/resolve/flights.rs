//! One lookup for all who ask the same at the same time.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;

/// Lookups under way, by what they look up. Each goes on when the client that started it has gone: the
/// next one who asks finds the result.
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

/// Gives a lookup's result to those who wait before the lookup is at its end.
#[derive(Debug)]
pub(super) struct Early<V>(watch::Sender<Option<V>>);

/// A lookup under way.
#[derive(Debug)]
pub(super) struct Flight<V> {
    result: watch::Receiver<Option<V>>,
    /// Whether somebody else has started it.
    pub(super) is_joined: bool,
}

/// One's part in a lookup.
pub(super) enum Part<V: Send + 'static> {
    /// Nobody else had started it.
    Leads(Lead<V>),
    /// Somebody else has.
    Joins(Flight<V>),
}

/// A lookup in the task of whoever started it, which saves a task of its own; it gets one if that task
/// stops waiting.
pub(super) struct Lead<V: Send + 'static>(Option<BoxFuture<'static, V>>);

impl<V: Send + 'static> Future for Lead<V> {
    type Output = V;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<V> {
        let Some(lookup) = &mut self.0 else {
            // Its result has been taken.
            return Poll::Pending;
        };
        let value = ready!(lookup.as_mut().poll(context));
        self.0 = None;
        Poll::Ready(value)
    }
}

impl<V: Send + 'static> Drop for Lead<V> {
    fn drop(&mut self) {
        // Without a runtime nobody waits any more.
        if let Some(lookup) = self.0.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(lookup);
        }
    }
}

impl<V> Early<V> {
    /// Gives a result; a later one replaces it.
    pub(super) fn land(&self, value: V) {
        self.0.send_replace(Some(value));
    }
}

impl<V: Clone> Flight<V> {
    /// Waits for the result.
    pub(super) async fn landed(&mut self) -> Result<V, NoFlight> {
        match self.result.wait_for(Option::is_some).await {
            Ok(value) => value.clone().ok_or(NoFlight::Lost),
            Err(_) => Err(NoFlight::Lost),
        }
    }

    /// Waits for the lookup's end, past what has landed early.
    pub(super) async fn ended(&mut self) -> Result<V, NoFlight> {
        // An error means that nobody can land any more.
        while self.result.changed().await.is_ok() {}
        self.result.borrow().clone().ok_or(NoFlight::Lost)
    }

    /// A result that replaces the one that has landed, if it comes within this time.
    pub(super) async fn landed_again(&mut self, within: Duration) -> Option<V> {
        timeout(within, self.result.changed()).await.ok()?.ok()?;
        self.result.borrow().clone()
    }
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

    /// Joins the lookup of `key`; `start` makes it if none is under way, in a task of its own. It is on
    /// the table until its future ends, also after its result has [landed early](Early::land).
    pub(super) fn join<F>(
        self: &Arc<Self>,
        key: K,
        start: impl FnOnce(Early<V>) -> F,
    ) -> Result<Flight<V>, NoFlight>
    where
        F: Future<Output = V> + Send + 'static,
    {
        match self.enter(key)? {
            Entered::Joins(flight) => Ok(flight),
            Entered::Leads(landing, sender) => {
                let result = sender.subscribe();
                let lookup = start(Early(sender.clone()));
                tokio::spawn(async move {
                    let value = lookup.await;
                    // Off the table first: whoever asks after this starts anew, or finds it in a cache.
                    drop(landing);
                    Early(sender).land(value);
                });
                Ok(Flight {
                    result,
                    is_joined: false,
                })
            }
        }
    }

    /// Joins the lookup of `key`, or leads it: then `start` makes it.
    pub(super) fn lead_or_join<F>(
        self: &Arc<Self>,
        key: K,
        start: impl FnOnce() -> F,
    ) -> Result<Part<V>, NoFlight>
    where
        F: Future<Output = V> + Send + 'static,
    {
        match self.enter(key)? {
            Entered::Joins(flight) => Ok(Part::Joins(flight)),
            Entered::Leads(landing, sender) => {
                let lookup = start();
                Ok(Part::Leads(Lead(Some(Box::pin(async move {
                    let value = lookup.await;
                    drop(landing);
                    if sender.receiver_count() > 0 {
                        Early(sender).land(value.clone());
                    }
                    value
                })))))
            }
        }
    }

    fn enter(self: &Arc<Self>, key: K) -> Result<Entered<K, V>, NoFlight> {
        let mut under_way = self.lock();
        let is_full = under_way.len() >= self.limit;
        let sender = match under_way.entry(key.clone()) {
            Entry::Occupied(flight) => {
                return Ok(Entered::Joins(Flight {
                    result: flight.get().clone(),
                    is_joined: true,
                }));
            }
            Entry::Vacant(_) if is_full => return Err(NoFlight::Full),
            Entry::Vacant(place) => {
                let (sender, receiver) = watch::channel(None);
                place.insert(receiver);
                sender
            }
        };
        drop(under_way);
        let flights = Arc::clone(self);
        Ok(Entered::Leads(Landing { flights, key }, sender))
    }
}

/// What is on the table.
enum Entered<K: Eq + Hash, V> {
    Joins(Flight<V>),
    Leads(Landing<K, V>, watch::Sender<Option<V>>),
}

impl<K, V> Flights<K, V> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, watch::Receiver<Option<V>>>> {
        // Nothing panics while it is held, and a table of receivers cannot be half changed.
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash, V> Flights<K, V> {
    /// Whether `key` is being looked up.
    pub(super) fn is_under_way(&self, key: &K) -> bool {
        self.lock().contains_key(key)
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
                let start = |_| async move {
                    let number = started.fetch_add(1, Ordering::SeqCst);
                    gate.notified().await;
                    number
                };
                flights.join(1, start)?.landed().await
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
        let first = flights.join(1, |_| async move {
            opened.notified().await;
            told.notify_one();
            7
        });
        drop(first.unwrap());
        gate.notify_one();
        done.notified().await;
    }

    #[tokio::test]
    async fn a_lookup_goes_on_when_its_leader_stops_waiting() {
        let flights = Flights::<u8, u8>::new(4);
        let (gate, done) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (opened, told) = (gate.clone(), done.clone());
        let start = || async move {
            told.notify_one();
            opened.notified().await;
            7
        };
        let Ok(Part::Leads(mut lead)) = flights.lead_or_join(1, start) else {
            panic!("somebody else leads");
        };
        tokio::select! {
            _ = &mut lead => panic!("the gate is shut"),
            () = done.notified() => {}
        }
        let Ok(Part::Joins(mut joined)) = flights.lead_or_join(1, || async { 8 }) else {
            panic!("nobody leads");
        };
        drop(lead);
        gate.notify_one();
        assert_eq!(joined.landed().await, Ok(7));
        assert!(!flights.is_under_way(&1));
        let Ok(Part::Leads(lead)) = flights.lead_or_join(1, || async { 9 }) else {
            panic!("somebody else leads");
        };
        assert_eq!(lead.await, 9);
        assert!(!flights.is_under_way(&1));
    }

    #[tokio::test]
    async fn the_limit_holds_and_a_lost_lookup_frees_its_place() {
        let flights = Flights::<u8, u8>::new(1);
        let gate = Arc::new(Notify::new());
        let opened = gate.clone();
        let first = flights.join(1, |_| async move {
            opened.notified().await;
            1
        });
        let mut first = first.unwrap();
        assert_eq!(
            flights.join(2, |_| async { 2 }).unwrap_err(),
            NoFlight::Full
        );
        gate.notify_one();
        assert_eq!(first.landed().await, Ok(1));
        let lost = flights.join(3, |_| async { panic!("inside a lookup") });
        assert_eq!(lost.unwrap().landed().await, Err(NoFlight::Lost));
        let next = flights.join(4, |_| async { 4 });
        assert_eq!(next.unwrap().landed().await, Ok(4));
    }

    #[tokio::test]
    async fn an_early_result_is_given_while_the_lookup_goes_on() {
        let flights = Flights::<u8, u8>::new(4);
        let gate = Arc::new(Notify::new());
        let opened = gate.clone();
        let start = |early: Early<u8>| async move {
            early.land(1);
            opened.notified().await;
            2
        };
        assert_eq!(flights.join(1, start).unwrap().landed().await, Ok(1));
        let mut again = flights.join(1, |_| async { 9 }).unwrap();
        assert_eq!(again.landed().await, Ok(1), "the first lookup is under way");
        assert_eq!(again.landed_again(Duration::ZERO).await, None);
        gate.notify_one();
        assert_eq!(again.landed_again(Duration::from_secs(20)).await, Some(2));
        while !flights.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(
            flights.join(1, |_| async { 4 }).unwrap().landed().await,
            Ok(4)
        );
    }
}
