//! When a lookup may start. A lookup costs the network a hundred datagrams, and their replies must
//! fit the socket's buffer: so starts are paced, whoever asks has its turn among all who ask, and
//! whoever asks for many keys that nobody has published is refused for a while.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::pkarr::PublicKey;
use crate::resolve::failure::Failure;
use crate::resolve::packets::Asker;

/// Lookups of one asker that wait for their turn; further ones are refused. Enough for a household
/// or a company whose resolver has started anew without its store.
const MAX_WAITING_OF_ONE: usize = 2048;
/// Lookups that wait in all. Beyond it the asker with the most gives one up. Less than the tables of
/// lookups under way hold, so that these keep room for those who ask little.
const MAX_WAITING: usize = 3072;
/// Places in all queues: a key may stand in several.
const MAX_ENTRIES: usize = 4 * MAX_WAITING;
/// Lookups that may start at once after a pause.
const BURST: u32 = 4;
/// The time over which the misses of a client are averaged.
const BUDGET_WINDOW: Duration = Duration::from_secs(60);
/// Clients whose misses are counted; those of further ones are not, and only the pace holds them.
const MAX_BUDGETS: usize = 4096;

/// Lookups that wait for their turn.
#[derive(Debug)]
pub(super) struct Turns {
    state: Mutex<State>,
    arrived: Notify,
    /// Time between two starts.
    interval: Duration,
    /// What a miss costs a client of its budget, which is [`BUDGET_WINDOW`].
    cost_of_miss: Duration,
}

type Turn = Result<(), Failure>;

#[derive(Debug)]
struct State {
    /// The keys that each asker waits for. A key stands in the queue of each who wants it: whichever
    /// comes to it first starts its lookup.
    queues: HashMap<Asker, VecDeque<PublicKey>>,
    /// Keys in all queues.
    entries: usize,
    /// Whose turn is next: those who have a queue.
    order: VecDeque<Asker>,
    waiting: HashMap<PublicKey, Waiting>,
    /// The earliest time of the next start.
    next: Instant,
    /// When a client's misses are forgotten: each moves it on.
    budgets: HashMap<Asker, Instant>,
    refused: u64,
    is_closed: bool,
}

/// The lookup of a key that waits, and beside it what else is done with the key.
#[derive(Debug)]
struct Waiting {
    tell: Vec<oneshot::Sender<Turn>>,
    /// In how many queues it stands.
    queues: usize,
}

impl Turns {
    /// At most `starts` lookups a second, and `misses` a second of each client.
    pub(super) fn new(starts: u32, misses: u32) -> Self {
        Self {
            state: Mutex::new(State {
                queues: HashMap::new(),
                entries: 0,
                order: VecDeque::new(),
                waiting: HashMap::new(),
                next: Instant::now(),
                budgets: HashMap::new(),
                refused: 0,
                is_closed: false,
            }),
            arrived: Notify::new(),
            interval: Duration::from_secs(1) / starts.max(1),
            cost_of_miss: Duration::from_secs(1) / misses.max(1),
        }
    }

    /// Waits for the turn of a key; there is one lookup of a key at a time, and a put may share its turn.
    ///
    /// # Errors
    /// If too many lookups wait, or the client is over its budget.
    pub(super) async fn turn(&self, key: PublicKey, asker: Asker) -> Turn {
        let turn = {
            let mut state = self.lock();
            if state.is_closed {
                return Err(Failure::DhtNotReady);
            }
            let now = Instant::now();
            if let Some(failure) = state.over_budget(asker, now) {
                state.refused += 1;
                return Err(failure);
            }
            if state.waiting.is_empty() && state.may_start(now, self.interval) {
                return Ok(());
            }
            state.line_up(key, asker)?
        };
        self.arrived.notify_one();
        turn.await.unwrap_or(Err(Failure::DhtNotReady))
    }

    /// Another asker wants a key: if it still waits for its turn, it need not wait behind all that the
    /// first one asks for.
    pub(super) fn also_wanted(&self, key: PublicKey, asker: Asker) {
        let mut state = self.lock();
        let is_over = state.over_budget(asker, Instant::now()).is_some();
        let own = state.queues.get(&asker);
        let is_in_line = own.is_some_and(|queue| queue.contains(&key));
        if state.waiting.contains_key(&key) && !is_over && !is_in_line {
            state.stand_in_line(key, asker);
        }
    }

    /// Gives the turns; never ends.
    pub(super) async fn give(&self) {
        loop {
            let next = {
                let state = self.lock();
                (!state.order.is_empty()).then_some(state.next)
            };
            match next {
                None => self.arrived.notified().await,
                Some(next) => {
                    sleep_until(next).await;
                    self.lock().give_one(self.interval);
                }
            }
        }
    }

    /// No turn is given any more: refuses all who wait and all who come.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        // Dropping a sender tells it.
        state.waiting.clear();
        state.queues.clear();
        state.entries = 0;
        state.order.clear();
    }

    /// A lookup on behalf of `asker` has found nothing.
    pub(super) fn missed(&self, asker: Asker) {
        if asker == Asker::Refresh {
            return;
        }
        let now = Instant::now();
        let mut state = self.lock();
        if state.budgets.len() >= MAX_BUDGETS && !state.budgets.contains_key(&asker) {
            state.budgets.retain(|_, until| *until > now);
            if state.budgets.len() >= MAX_BUDGETS {
                return;
            }
        }
        let until = state.budgets.entry(asker).or_insert(now);
        *until = (*until).max(now) + self.cost_of_miss;
    }

    /// How many wait, and how many were refused since the start.
    pub(super) fn counts(&self) -> (usize, u64) {
        let state = self.lock();
        (state.waiting.len(), state.refused)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Whether anybody still waits.
    fn tell(self, turn: &Turn) -> bool {
        let told = self.tell.into_iter().map(|tell| tell.send(turn.clone()));
        told.filter(Result::is_ok).count() > 0
    }
}

impl State {
    fn may_start(&mut self, now: Instant, interval: Duration) -> bool {
        let burst = interval * (BURST - 1);
        if self.next > now {
            return false;
        }
        let earliest = now.checked_sub(burst).unwrap_or(now);
        self.next = self.next.max(earliest) + interval;
        true
    }

    fn over_budget(&self, asker: Asker, now: Instant) -> Option<Failure> {
        let until = self.budgets.get(&asker)?;
        let over = until.checked_duration_since(now + BUDGET_WINDOW)?;
        Some(Failure::OverBudget(over.as_secs() + 1))
    }

    fn line_up(
        &mut self,
        key: PublicKey,
        asker: Asker,
    ) -> Result<oneshot::Receiver<Turn>, Failure> {
        let (tell, told) = oneshot::channel();
        if let Some(waiting) = self.waiting.get_mut(&key) {
            waiting.tell.push(tell);
            return Ok(told);
        }
        if self.waiting.len() >= MAX_WAITING {
            self.refuse_one();
        }
        let tell = vec![tell];
        self.waiting.insert(key, Waiting { tell, queues: 0 });
        if self.stand_in_line(key, asker) {
            return Ok(told);
        }
        self.waiting.remove(&key);
        self.refused += 1;
        Err(Failure::Overloaded)
    }

    /// Puts a key that waits into an asker's queue, if there is room.
    fn stand_in_line(&mut self, key: PublicKey, asker: Asker) -> bool {
        let own = self.queues.get(&asker).map_or(0, VecDeque::len);
        if own >= MAX_WAITING_OF_ONE || self.entries >= MAX_ENTRIES {
            return false;
        }
        if own == 0 {
            self.order.push_back(asker);
        }
        self.queues.entry(asker).or_default().push_back(key);
        self.entries += 1;
        if let Some(waiting) = self.waiting.get_mut(&key) {
            waiting.queues += 1;
        }
        true
    }

    /// The asker with the most waiting gives up the one that came last.
    fn refuse_one(&mut self) {
        let longest = self.queues.iter().max_by_key(|(_, queue)| queue.len());
        let Some(asker) = longest.map(|(asker, _)| *asker) else {
            return;
        };
        if let Some(queue) = self.queues.get_mut(&asker)
            && let Some(last) = queue.pop_back()
        {
            self.entries = self.entries.saturating_sub(1);
            if queue.is_empty() {
                self.queues.remove(&asker);
                self.order.retain(|other| *other != asker);
            }
            self.give_up(last, &Failure::Overloaded);
        }
    }

    /// A key leaves a queue without its turn. If it stands in no other, its lookup is refused.
    fn give_up(&mut self, key: PublicKey, failure: &Failure) {
        if let Some(waiting) = self.waiting.get_mut(&key) {
            waiting.queues = waiting.queues.saturating_sub(1);
            if waiting.queues == 0
                && let Some(waiting) = self.waiting.remove(&key)
            {
                self.refused += 1;
                waiting.tell(&Err(failure.clone()));
            }
        }
    }

    /// Starts the next lookup, if it is time; those of clients over their budget are refused.
    fn give_one(&mut self, interval: Duration) {
        let now = Instant::now();
        while let Some(asker) = self.order.pop_front() {
            let Some(mut queue) = self.queues.remove(&asker) else {
                continue;
            };
            if let Some(failure) = self.over_budget(asker, now) {
                self.entries = self.entries.saturating_sub(queue.len());
                for key in queue {
                    self.give_up(key, &failure);
                }
                continue;
            }
            // Keys that another's turn has started, or that are no longer waited for, take none.
            let mut has_started = false;
            while !has_started && let Some(key) = queue.pop_front() {
                self.entries = self.entries.saturating_sub(1);
                let waiting = self.waiting.remove(&key);
                has_started = waiting.is_some_and(|waiting| waiting.tell(&Ok(())));
            }
            if !queue.is_empty() {
                self.queues.insert(asker, queue);
                self.order.push_back(asker);
            }
            if has_started {
                self.may_start(now, interval);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    use super::*;

    fn client(number: u8) -> Asker {
        IpAddr::from(Ipv4Addr::new(192, 0, 2, number)).into()
    }

    fn turns(starts: u32, misses: u32) -> Arc<Turns> {
        let turns = Arc::new(Turns::new(starts, misses));
        let giver = Arc::clone(&turns);
        tokio::spawn(async move { giver.give().await });
        turns
    }

    fn key(number: u64) -> PublicKey {
        let mut secret = [9; 32];
        secret[..8].copy_from_slice(&number.to_be_bytes());
        let secret = ed25519_dalek::SigningKey::from_bytes(&secret);
        PublicKey::from_bytes(&secret.verifying_key().to_bytes()).unwrap()
    }

    /// Keys that no other call gives.
    fn new_key() -> PublicKey {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        key(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Asks for `count` turns; returns the number that were given so far.
    async fn ask(turns: &Arc<Turns>, asker: Asker, count: usize) -> Arc<AtomicUsize> {
        let given = Arc::new(AtomicUsize::new(0));
        for _ in 0..count {
            let (turns, given) = (turns.clone(), given.clone());
            tokio::spawn(async move {
                if turns.turn(new_key(), asker).await.is_ok() {
                    given.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // Each of the tasks is polled until it waits.
        for _ in 0..count {
            tokio::task::yield_now().await;
        }
        given
    }

    async fn pass(time: Duration) {
        tokio::time::sleep(time).await;
    }

    #[tokio::test(start_paused = true)]
    async fn starts_keep_their_pace_after_a_small_burst() {
        let turns = turns(100, 10);
        pass(Duration::from_secs(1)).await;
        let given = ask(&turns, client(1), 1000).await;
        assert_eq!(given.load(Ordering::Relaxed), 4);
        pass(Duration::from_secs(1)).await;
        let count = given.load(Ordering::Relaxed);
        assert!((103..=105).contains(&count), "{count}");
        assert_eq!(turns.counts(), (1000 - count, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_with_one_lookup_does_not_wait_behind_one_with_thousands() {
        let turns = turns(100, 10);
        ask(&turns, client(1), 2000).await;
        let other = ask(&turns, client(2), 1).await;
        pass(Duration::from_millis(21)).await;
        assert_eq!(other.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_has_the_most_waiting_makes_room() {
        let turns = turns(1, 10);
        for number in 0..2 {
            ask(&turns, client(number), 3000).await;
        }
        let (waiting, refused) = turns.counts();
        assert_eq!(waiting, MAX_WAITING);
        // One of them was given its turn.
        assert_eq!(usize::try_from(refused).unwrap(), 5999 - MAX_WAITING);
        let other = ask(&turns, client(3), 1).await;
        assert_eq!(turns.counts().0, MAX_WAITING);
        pass(Duration::from_millis(3001)).await;
        assert_eq!(other.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn misses_are_paid_from_a_budget_that_fills_again() {
        let turns = turns(1000, 10);
        for _ in 0..600 {
            turns.turn(new_key(), client(1)).await.unwrap();
            turns.missed(client(1));
        }
        assert_eq!(
            turns.turn(new_key(), client(1)).await,
            Ok(()),
            "{:?}",
            turns.counts()
        );
        let waiting = ask(&turns, client(1), 20).await;
        for _ in 0..100 {
            turns.missed(client(1));
        }
        let refused = turns.turn(new_key(), client(1)).await;
        assert!(
            matches!(refused, Err(Failure::OverBudget(_))),
            "{refused:?}"
        );
        assert_eq!(turns.turn(new_key(), client(2)).await, Ok(()));
        assert_eq!(turns.turn(new_key(), Asker::Refresh).await, Ok(()));
        pass(Duration::from_millis(100)).await;
        assert!(
            waiting.load(Ordering::Relaxed) < 20,
            "those in the queue are refused, too"
        );
        pass(Duration::from_secs(20)).await;
        assert_eq!(turns.turn(new_key(), client(1)).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_a_second_client_wants_takes_the_turn_of_whoever_is_first() {
        let turns = turns(100, 10);
        ask(&turns, client(1), 1000).await;
        let key = new_key();
        let of_first = turns.clone();
        let last = tokio::spawn(async move { of_first.turn(key, client(1)).await });
        tokio::task::yield_now().await;
        turns.also_wanted(key, client(2));
        turns.also_wanted(key, client(2));
        pass(Duration::from_millis(31)).await;
        assert!(last.is_finished());
        assert_eq!(last.await.unwrap(), Ok(()));
        // The place that it still has in the first one's queue takes no turn and leaves nothing.
        pass(Duration::from_secs(11)).await;
        assert_eq!(turns.counts(), (0, 0));
        assert_eq!(turns.lock().entries, 0);
        assert!(turns.lock().queues.is_empty() && turns.lock().order.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_put_and_a_lookup_of_one_key_share_a_turn() {
        let turns = turns(100, 10);
        ask(&turns, client(1), 10).await;
        let key = new_key();
        let wait = |asker| {
            let turns = turns.clone();
            tokio::spawn(async move { turns.turn(key, asker).await })
        };
        let (lookup, put) = (wait(client(2)), wait(Asker::Refresh));
        pass(Duration::from_millis(200)).await;
        assert_eq!(
            (lookup.await.unwrap(), put.await.unwrap()),
            (Ok(()), Ok(()))
        );
        assert_eq!(turns.counts(), (0, 0));
        assert_eq!(turns.lock().entries, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn many_clients_leave_nothing_behind() {
        let turns = turns(1, 10);
        for number in 0..MAX_WAITING + 100 {
            let address = u32::try_from(number).unwrap();
            ask(&turns, IpAddr::from(Ipv4Addr::from(address)).into(), 1).await;
        }
        let state = turns.lock();
        assert_eq!(state.waiting.len(), MAX_WAITING);
        assert_eq!(state.queues.len(), MAX_WAITING);
        assert_eq!(state.order.len(), MAX_WAITING);
        assert_eq!(state.entries, MAX_WAITING);
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_end_all_who_wait_are_told() {
        let turns = turns(1, 10);
        turns.turn(new_key(), client(1)).await.unwrap();
        let waiting = turns.clone();
        let waiting = tokio::spawn(async move { waiting.turn(new_key(), client(1)).await });
        tokio::task::yield_now().await;
        turns.close();
        assert_eq!(waiting.await.unwrap(), Err(Failure::DhtNotReady));
        let late = turns.turn(new_key(), client(2)).await;
        assert_eq!(late, Err(Failure::DhtNotReady));
    }
}
