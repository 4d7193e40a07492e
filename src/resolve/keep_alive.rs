//! Puts the packets of some keys on the DHT again, unchanged, so that they do not die while their owners are
//! off. That takes no secret: a packet is signed.
//!
//! Nodes forget an item some two hours after it was last put (BEP 44). Each time the key is looked for
//! before: what is put is the newest packet ever seen, and nothing if it is not known whether there is a
//! newer one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::RngExt;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::failure::Failure;
use super::packets::{Packets, PutPacket};
use crate::pkarr::PublicKey;

/// The first time comes no sooner than this after the start: the DHT has to be joined.
const START_DELAY: Duration = Duration::from_secs(10);
/// The part of the interval over which the first times of all keys are spread, as a divisor.
const FIRST_SPREAD: u32 = 10;
/// How soon it is tried again after a failure.
const RETRY: Duration = Duration::from_secs(300);
const DAY_SECONDS: u64 = 86_400;

/// Whose packets are kept alive, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepAliveSettings {
    /// The keys; the configuration bounds their number.
    pub keys: Vec<PublicKey>,
    /// The longest time between two puts of a packet.
    pub interval: Duration,
    /// How old a packet may be: how long ago it was signed.
    pub max_age: Duration,
}

/// Keeps packets alive until it is stopped.
#[derive(Debug)]
pub struct KeepAlive {
    keys: Arc<Keys>,
    stop: CancellationToken,
}

/// How the keys are doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeepAliveStatus {
    /// Keys of the configuration.
    pub keys: usize,
    /// Those whose packet was put on the DHT again the last time.
    pub kept: usize,
    /// Those that nobody has a packet of.
    pub absent: usize,
    /// Those whose packet is too old.
    pub let_go: usize,
    /// Those for which it failed; it is tried again.
    pub failed: usize,
    /// When a packet was last put.
    pub last_put: Option<Instant>,
}

#[derive(Debug)]
struct Keys {
    settings: KeepAliveSettings,
    states: Mutex<HashMap<PublicKey, State>>,
}

#[derive(Debug, Clone)]
struct State {
    /// When its turn comes.
    due: Instant,
    put: Option<Instant>,
    last: Option<Outcome>,
}

/// What came of a key's turn.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    /// So many nodes took this packet.
    Kept {
        seq: u64,
        nodes: u32,
    },
    /// Nobody has a packet.
    Absent,
    /// It was signed so long ago.
    TooOld {
        seq: u64,
        age: Duration,
    },
    Failed(Failure),
}

impl KeepAlive {
    /// Starts; keys that `before` had keep their times.
    pub fn start(
        settings: KeepAliveSettings,
        packets: Arc<Packets>,
        network: Arc<dyn PutPacket>,
        before: Option<&Self>,
    ) -> Self {
        let keys = Arc::new(Keys::new(settings, before.map(|before| &*before.keys)));
        let stop = CancellationToken::new();
        let (of_task, stopped) = (Arc::clone(&keys), stop.clone());
        tokio::spawn(async move {
            stopped
                .run_until_cancelled(of_task.keep(&packets, &*network))
                .await
        });
        Self { keys, stop }
    }

    /// Puts nothing more.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// How the keys are doing.
    pub fn status(&self) -> KeepAliveStatus {
        let states = self.keys.lock();
        let mut status = KeepAliveStatus {
            keys: states.len(),
            last_put: states.values().filter_map(|state| state.put).max(),
            ..KeepAliveStatus::default()
        };
        for state in states.values() {
            match state.last {
                Some(Outcome::Kept { .. }) => status.kept += 1,
                Some(Outcome::Absent) => status.absent += 1,
                Some(Outcome::TooOld { .. }) => status.let_go += 1,
                Some(Outcome::Failed(_)) => status.failed += 1,
                None => {}
            }
        }
        status
    }
}

impl Keys {
    fn new(settings: KeepAliveSettings, before: Option<&Self>) -> Self {
        let now = Instant::now();
        let first = |key: &PublicKey| {
            let before = before.and_then(|before| before.lock().get(key).cloned());
            let spread = settings.interval / FIRST_SPREAD;
            let new = State {
                due: now + START_DELAY + spread.mul_f64(rand::rng().random_range(0.0..1.0)),
                put: None,
                last: None,
            };
            before.map_or(new, |before| State {
                // The interval may have become shorter.
                due: before.due.min(now + settings.interval),
                ..before
            })
        };
        let states = settings.keys.iter().map(|key| (*key, first(key)));
        let states = Mutex::new(states.collect());
        Self { settings, states }
    }

    /// One key after the other, when its time has come; ends only if there are no keys.
    async fn keep(&self, packets: &Arc<Packets>, network: &dyn PutPacket) {
        while let Some((key, due)) = self.next() {
            sleep_until(due).await;
            let outcome = self.turn(key, packets, network).await;
            self.settle(key, outcome);
        }
    }

    fn next(&self) -> Option<(PublicKey, Instant)> {
        let states = self.lock();
        let next = states.iter().min_by_key(|(_, state)| state.due)?;
        Some((*next.0, next.1.due))
    }

    async fn turn(
        &self,
        key: PublicKey,
        packets: &Arc<Packets>,
        network: &dyn PutPacket,
    ) -> Outcome {
        let held = match packets.look_again(key).await {
            Ok(Some(held)) => held,
            Ok(None) => return Outcome::Absent,
            Err(failure) => return Outcome::Failed(failure),
        };
        let seq = held.packet.seq();
        let age = age(seq);
        if age > self.settings.max_age {
            return Outcome::TooOld { seq, age };
        }
        match network.put(&held.packet).await {
            Ok(nodes) => Outcome::Kept { seq, nodes },
            Err(failure) => Outcome::Failed(failure),
        }
    }

    fn settle(&self, key: PublicKey, outcome: Outcome) {
        let mut states = self.lock();
        let Some(state) = states.get_mut(&key) else {
            return;
        };
        let now = Instant::now();
        let pause = match outcome {
            Outcome::Failed(_) => RETRY.min(self.settings.interval),
            Outcome::Kept { .. } | Outcome::Absent | Outcome::TooOld { .. } => {
                self.settings.interval
            }
        };
        // Each key on its own way, and none later than the interval.
        state.due = now + pause.mul_f64(rand::rng().random_range(0.8..1.0));
        if matches!(outcome, Outcome::Kept { .. }) {
            state.put = Some(now);
        }
        let last = state.last.replace(outcome.clone());
        drop(states);
        outcome.tell(key, last.as_ref());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PublicKey, State>> {
        // Nothing panics while it is held.
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outcome {
    /// Says in the log what is new.
    fn tell(&self, key: PublicKey, last: Option<&Self>) {
        let kind = std::mem::discriminant::<Self>;
        if last.map(kind) == Some(kind(self)) {
            tracing::debug!(%key, outcome = ?self, "keep-alive");
            return;
        }
        match self {
            Self::Kept { seq, nodes } => {
                tracing::info!(%key, seq, nodes, "keep-alive: the packet was put on the DHT again");
            }
            Self::Absent => {
                tracing::warn!(%key, "keep-alive: no DHT node has a packet of this key");
            }
            Self::TooOld { seq, age } => {
                let days = age.as_secs() / DAY_SECONDS;
                tracing::warn!(
                    %key, seq, days,
                    "keep-alive: the packet is let go, as its owner has not renewed it for longer than \
                     [keep-alive] max-age"
                );
            }
            Self::Failed(failure) => {
                tracing::warn!(%key, %failure, "keep-alive: nothing was put; trying again in minutes");
            }
        }
    }
}

/// How long ago a packet was signed; one from the future is new.
fn age(seq: u64) -> Duration {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let signed = Duration::from_micros(seq);
    since.unwrap_or_default().saturating_sub(signed)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use futures_util::future::BoxFuture;

    use super::*;
    use crate::pkarr::{SignedPacket, SigningKey};
    use crate::resolve::packets::{Ending, FetchPacket, HoldTimes, Holders, See, Sighting, Wanted};

    const HOUR: Duration = Duration::from_secs(3600);

    /// What a lookup comes to: the network's packet, or how it ends without one.
    type Looked = Result<SignedPacket, Ending>;

    /// A network that tells the last of these for ever, and remembers what was put and when.
    #[derive(Debug)]
    struct Network {
        looked: Mutex<VecDeque<Looked>>,
        lookups: Mutex<Vec<(PublicKey, Instant)>>,
        puts: Mutex<Vec<(SignedPacket, Instant)>>,
    }

    impl FetchPacket for Network {
        fn fetch<'a>(&'a self, wanted: Wanted, see: &'a mut See<'_>) -> BoxFuture<'a, Ending> {
            let now = Instant::now();
            self.lookups.lock().unwrap().push((wanted.key, now));
            let mut looked = self.looked.lock().unwrap();
            let next = match looked.len() {
                1 => looked.front().cloned(),
                _ => looked.pop_front(),
            };
            Box::pin(async move {
                match next.unwrap() {
                    Ok(packet) => {
                        see(Sighting::Packet(packet));
                        Ending::Complete(Holders::default())
                    }
                    Err(ending) => ending,
                }
            })
        }
    }

    impl PutPacket for Network {
        fn put<'a>(&'a self, packet: &'a SignedPacket) -> BoxFuture<'a, Result<u32, Failure>> {
            let put = (packet.clone(), Instant::now());
            self.puts.lock().unwrap().push(put);
            Box::pin(async { Ok(20) })
        }
    }

    struct World {
        network: Arc<Network>,
        packets: Arc<Packets>,
        keep_alive: KeepAlive,
    }

    impl World {
        fn new(keys: Vec<PublicKey>, looked: impl IntoIterator<Item = Looked>) -> Self {
            let network = Arc::new(Network {
                looked: Mutex::new(looked.into_iter().collect()),
                lookups: Mutex::default(),
                puts: Mutex::default(),
            });
            let times = HoldTimes {
                min: Duration::from_secs(60),
                max: 24 * HOUR,
                empty: Duration::from_secs(300),
                failure: Duration::from_secs(5),
                max_stale: 168 * HOUR,
                stale_wait: Duration::ZERO,
            };
            let packets = Packets::new(network.clone(), None, 1 << 20, times);
            let keep_alive =
                KeepAlive::start(settings(keys), packets.clone(), network.clone(), None);
            Self {
                network,
                packets,
                keep_alive,
            }
        }

        /// The `seq` of what was put, in order.
        fn put(&self) -> Vec<u64> {
            let puts = self.network.puts.lock().unwrap();
            puts.iter().map(|(packet, _)| packet.seq()).collect()
        }
    }

    fn settings(keys: Vec<PublicKey>) -> KeepAliveSettings {
        KeepAliveSettings {
            keys,
            interval: HOUR,
            max_age: 24 * HOUR,
        }
    }

    fn packet(number: u8, age: Duration) -> SignedPacket {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let seq = u64::try_from((now - age).as_micros()).unwrap();
        SignedPacket::sign(&SigningKey::from_bytes(&[number; 32]), seq, &[0; 12]).unwrap()
    }

    async fn pass(time: Duration) {
        tokio::time::sleep(time).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_packet_is_put_again_after_each_interval_and_a_newer_one_in_its_place() {
        let (old, new) = (packet(1, 2 * HOUR), packet(1, HOUR));
        let world = World::new(vec![old.key()], [Ok(old.clone()), Ok(new.clone())]);
        pass(START_DELAY + HOUR / FIRST_SPREAD).await;
        assert_eq!(world.put(), [old.seq()]);
        pass(HOUR).await;
        assert_eq!(world.put(), [old.seq(), new.seq()]);
        let status = world.keep_alive.status();
        assert_eq!((status.keys, status.kept), (1, 1));
        assert!(status.last_put.is_some());
        pass(10 * HOUR).await;
        let puts = world.network.puts.lock().unwrap().clone();
        assert!((12..=15).contains(&puts.len()), "{}", puts.len());
        let pauses = puts.windows(2).map(|pair| pair[1].1 - pair[0].1);
        assert!(pauses.into_iter().all(|pause| pause <= HOUR));
        world.keep_alive.stop();
        pass(10 * HOUR).await;
        assert_eq!(world.put().len(), puts.len());
    }

    #[tokio::test(start_paused = true)]
    async fn an_older_packet_is_never_put_and_what_the_network_has_lost_is() {
        let (old, new) = (packet(1, 2 * HOUR), packet(1, HOUR));
        let absent = Err(Ending::Complete(Holders::default()));
        let world = World::new(vec![old.key()], [Ok(new.clone()), Ok(old), absent]);
        pass(4 * HOUR).await;
        let put = world.put();
        assert!(put.len() >= 4, "{put:?}");
        assert!(put.iter().all(|seq| *seq == new.seq()), "{put:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_put_without_a_packet_or_while_it_is_not_known_whether_there_is_a_newer_one()
    {
        let held = packet(1, HOUR);
        let absent = Err(Ending::Complete(Holders::default()));
        let world = World::new(vec![held.key()], [absent]);
        pass(5 * HOUR).await;
        assert!(world.put().is_empty());
        assert_eq!(world.keep_alive.status().absent, 1);
        assert!((5..=8).contains(&world.network.lookups.lock().unwrap().len()));

        let world = World::new(vec![held.key()], [Ok(held.clone()), Err(Ending::Poor)]);
        pass(START_DELAY + HOUR / FIRST_SPREAD).await;
        assert_eq!(world.put().len(), 1);
        pass(2 * HOUR).await;
        assert_eq!(world.put().len(), 1);
        assert_eq!(world.keep_alive.status().failed, 1);
        // A failure is tried again before the interval is over.
        assert!(world.network.lookups.lock().unwrap().len() > 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_packet_that_its_owner_does_not_renew_is_let_go_and_taken_up_again() {
        let (old, new) = (packet(1, 25 * HOUR), packet(1, HOUR));
        let world = World::new(vec![old.key()], [Ok(old.clone()), Ok(old), Ok(new.clone())]);
        pass(START_DELAY + HOUR / FIRST_SPREAD).await;
        assert!(world.put().is_empty());
        assert_eq!(world.keep_alive.status().let_go, 1);
        pass(2 * HOUR).await;
        assert_eq!(world.put().first(), Some(&new.seq()));
        assert_eq!(world.keep_alive.status().let_go, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_spread_over_time_and_a_change_of_settings_keeps_their_times() {
        let keys: Vec<_> = (1..=20).map(|number| packet(number, HOUR).key()).collect();
        let absent = Err(Ending::Complete(Holders::default()));
        let world = World::new(keys.clone(), [absent]);
        pass(START_DELAY + HOUR / FIRST_SPREAD).await;
        let lookups = world.network.lookups.lock().unwrap().clone();
        assert_eq!(lookups.len(), keys.len());
        let (first, last) = (lookups[0].1, lookups[19].1);
        assert!(last - first > Duration::from_secs(60), "{:?}", last - first);

        world.keep_alive.stop();
        let again = KeepAlive::start(
            settings(keys[..5].to_vec()),
            world.packets.clone(),
            world.network.clone(),
            Some(&world.keep_alive),
        );
        assert_eq!((again.status().keys, again.status().absent), (5, 5));
        pass(Duration::from_secs(1800)).await;
        assert_eq!(world.network.lookups.lock().unwrap().len(), keys.len());
        pass(HOUR).await;
        let more = world.network.lookups.lock().unwrap().len() - keys.len();
        assert!((5..=10).contains(&more), "{more}");
    }
}
