//! From a public key to its newest verified packet: memory first, then the network.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use moka::sync::Cache;
use tokio::time::Instant;

use super::failure::Failure;
use super::flights::{Flights, NoFlight};
use crate::pkarr::{PublicKey, SignedPacket, Zone};

/// Packets being fetched at once. Beyond it a question is answered SERVFAIL.
const MAX_FETCHES: usize = 1024;
/// Keys whose last fetch gave nothing, remembered at once; the oldest go first.
const MAX_MISSES: u64 = 16_384;
/// How long "nobody has it" is believed.
const ABSENT_TTL: Duration = Duration::from_secs(30);
/// How long a packet is served past its time when no newer one can be had (RFC 8767 section 5).
const MAX_STALE: Duration = Duration::from_secs(7 * 86_400);
/// Bytes that a held packet takes beside its DNS message, with the cache's own structures: an estimate.
const PACKET_OVERHEAD: usize = 600;

/// What the resolver needs of whoever finds packets.
pub trait FetchPacket: Send + Sync + std::fmt::Debug {
    /// Looks for the newest packet of a key.
    fn fetch(&self, key: PublicKey) -> BoxFuture<'_, Fetched>;
}

/// What a fetch found.
#[derive(Debug, Clone)]
pub enum Fetched {
    /// The newest packet that was found.
    Packet(SignedPacket),
    /// The newest item is signed by the key, but no packet.
    Invalid {
        /// Its sequence number.
        seq: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The lookup was completed, and nobody has a packet of this key.
    Absent,
    /// It cannot be told whether there is a packet.
    Failed(Failure),
}

/// A packet that is held.
#[derive(Debug)]
pub struct Held {
    /// The packet.
    pub packet: SignedPacket,
    /// When it was last seen on the network: its TTLs count from here.
    pub fetched: Instant,
    /// When it is to be fetched again.
    pub expires: Instant,
    /// Set when a newer packet has come; answers made from this one are then void.
    pub superseded: Arc<AtomicBool>,
}

/// What is known of a key.
#[derive(Debug, Clone)]
pub enum Known {
    /// Its packet.
    Packet(Arc<Held>),
    /// Its packet, whose time is over; a newer one cannot be had, for the reason given.
    Stale(Arc<Held>, String),
    /// It has none.
    Absent,
    /// That is not known.
    Failed(Failure),
}

/// How long packets are held.
#[derive(Debug, Clone, Copy)]
pub struct HoldTimes {
    /// A packet is fetched again no sooner, whatever its TTLs.
    pub min: Duration,
    /// Nor later.
    pub max: Duration,
    /// How long a packet without records is held.
    pub empty: Duration,
    /// How long a failure is remembered.
    pub failure: Duration,
}

/// The packets that are held in memory, bounded in bytes, and the fetches under way.
#[derive(Debug)]
pub struct Packets {
    held: Cache<PublicKey, Arc<Held>>,
    misses: Cache<PublicKey, (Instant, Miss)>,
    fetches: Arc<Flights<PublicKey, Known>>,
    fetcher: Arc<dyn FetchPacket>,
    times: HoldTimes,
}

#[derive(Debug, Clone)]
enum Miss {
    Absent,
    Failed(Failure),
}

impl Packets {
    /// Holds at most `max_bytes` of packets; when full the least useful go (TinyLFU).
    pub fn new(fetcher: Arc<dyn FetchPacket>, max_bytes: u64, times: HoldTimes) -> Arc<Self> {
        let held = Cache::builder()
            .max_capacity(max_bytes)
            .weigher(|_, held: &Arc<Held>| {
                let size = held.packet.dns().len() + PACKET_OVERHEAD;
                u32::try_from(size).unwrap_or(u32::MAX)
            })
            .build();
        Arc::new(Self {
            held,
            misses: Cache::new(MAX_MISSES),
            fetches: Flights::new(MAX_FETCHES),
            fetcher,
            times,
        })
    }

    /// The newest packet of a key, from memory or by fetching it.
    pub async fn newest(self: &Arc<Self>, key: PublicKey) -> Known {
        let now = Instant::now();
        let held = self.held.get(&key);
        if let Some(held) = &held
            && now < held.expires
        {
            return Known::Packet(Arc::clone(held));
        }
        if let Some((until, miss)) = self.misses.get(&key)
            && now < until
        {
            return without_newer(held, miss, now);
        }
        let this = Arc::clone(self);
        let fetch = || async move {
            let fetched = this.fetcher.fetch(key).await;
            this.settle(key, fetched)
        };
        match self.fetches.join(key, fetch).await {
            Ok(known) => known,
            Err(NoFlight::Full) => without_newer(held, Miss::Failed(Failure::Overloaded), now),
            Err(NoFlight::Lost) => without_newer(held, Miss::Failed(Failure::Internal), now),
        }
    }

    /// Takes in what a fetch found. The newest packet ever seen wins, wherever the older one is from.
    fn settle(&self, key: PublicKey, fetched: Fetched) -> Known {
        let now = Instant::now();
        let held = self.held.get(&key);
        match fetched {
            Fetched::Packet(packet) => match held {
                Some(held) if !packet.is_newer_than(&held.packet) => self.hold_again(&held, now),
                older => {
                    let known = self.hold(packet, now, Arc::default());
                    if let Some(older) = older {
                        older.superseded.store(true, Ordering::Relaxed);
                    }
                    known
                }
            },
            Fetched::Invalid { seq, reason } => match held {
                Some(held) if held.packet.seq() >= seq => self.hold_again(&held, now),
                held => {
                    let reason = format!("seq {seq}: {reason}");
                    let miss = Miss::Failed(Failure::InvalidPacket(reason));
                    self.remember(key, held, miss, self.times.failure, now)
                }
            },
            Fetched::Absent => self.remember(key, held, Miss::Absent, ABSENT_TTL, now),
            Fetched::Failed(failure) => {
                let time = if failure.is_cacheable() {
                    self.times.failure
                } else {
                    Duration::ZERO
                };
                self.remember(key, held, Miss::Failed(failure), time, now)
            }
        }
    }

    /// The network has nothing newer than what is held: its time starts anew.
    fn hold_again(&self, held: &Held, now: Instant) -> Known {
        self.hold(held.packet.clone(), now, Arc::clone(&held.superseded))
    }

    fn hold(&self, packet: SignedPacket, now: Instant, superseded: Arc<AtomicBool>) -> Known {
        let zone = Zone::new(&packet, 0);
        let time = zone.lowest_ttl().map_or(self.times.empty, |ttl| {
            Duration::from_secs(u64::from(ttl)).clamp(self.times.min, self.times.max)
        });
        let key = packet.key();
        let held = Arc::new(Held {
            packet,
            fetched: now,
            expires: now + time,
            superseded,
        });
        self.held.insert(key, Arc::clone(&held));
        self.misses.invalidate(&key);
        Known::Packet(held)
    }

    fn remember(
        &self,
        key: PublicKey,
        held: Option<Arc<Held>>,
        miss: Miss,
        time: Duration,
        now: Instant,
    ) -> Known {
        if !time.is_zero() {
            self.misses.insert(key, (now + time, miss.clone()));
        }
        without_newer(held, miss, now)
    }
}

/// What a fetch that found nothing means: the packet that is held is better than no answer.
fn without_newer(held: Option<Arc<Held>>, miss: Miss, now: Instant) -> Known {
    match (held, miss) {
        (Some(held), miss) if now < held.expires + MAX_STALE => {
            let reason = match miss {
                Miss::Absent => "the key has left the DHT".to_owned(),
                Miss::Failed(failure) => failure.to_string(),
            };
            Known::Stale(held, reason)
        }
        (_, Miss::Absent) => Known::Absent,
        (_, Miss::Failed(failure)) => Known::Failed(failure),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use ed25519_dalek::SigningKey;
    use hickory_proto::rr::rdata::TXT;
    use hickory_proto::rr::{Name, RData, Record};

    use super::*;

    /// Gives what it was told to, in order.
    #[derive(Debug, Default)]
    struct Scripted(Mutex<VecDeque<Fetched>>);

    impl FetchPacket for Scripted {
        fn fetch(&self, _: PublicKey) -> BoxFuture<'_, Fetched> {
            let next = self.0.lock().unwrap().pop_front();
            Box::pin(async { next.expect("one fetch too many") })
        }
    }

    fn packet(seq: u64, ttl: u32) -> SignedPacket {
        let secret = SigningKey::from_bytes(&[5; 32]);
        let key = PublicKey::from_bytes(&secret.verifying_key().to_bytes()).unwrap();
        let owner = Name::from_ascii(format!("{key}.")).unwrap();
        let data = RData::TXT(TXT::new(vec![seq.to_string()]));
        SignedPacket::sign_records(&secret, seq, vec![Record::from_rdata(owner, ttl, data)])
            .unwrap()
    }

    fn packets(script: impl IntoIterator<Item = Fetched>) -> Arc<Packets> {
        let times = HoldTimes {
            min: Duration::from_secs(60),
            max: Duration::from_secs(600),
            empty: Duration::from_secs(300),
            failure: Duration::from_secs(5),
        };
        let fetcher = Scripted(Mutex::new(script.into_iter().collect()));
        Packets::new(Arc::new(fetcher), 1 << 20, times)
    }

    fn held(known: Known) -> Arc<Held> {
        match known {
            Known::Packet(held) => held,
            other => panic!("{other:?}"),
        }
    }

    async fn advance(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    fn failed() -> Fetched {
        Fetched::Failed(Failure::DhtPoorMiss)
    }

    #[tokio::test(start_paused = true)]
    async fn a_packet_is_held_for_its_lowest_ttl_within_bounds() {
        for (ttl, seconds) in [(5, 60), (100, 100), (86_400, 600)] {
            let packets = packets([
                Fetched::Packet(packet(1, ttl)),
                Fetched::Packet(packet(1, ttl)),
            ]);
            let key = packet(1, 1).key();
            let first = held(packets.newest(key).await);
            advance(seconds - 1).await;
            assert_eq!(held(packets.newest(key).await).fetched, first.fetched);
            advance(1).await;
            assert!(held(packets.newest(key).await).fetched > first.fetched);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_ever_seen_wins_and_voids_what_was_made_from_older() {
        let script = [10, 9, 11].map(|seq| Fetched::Packet(packet(seq, 60)));
        let packets = packets(script);
        let key = packet(1, 1).key();
        let first = held(packets.newest(key).await);
        advance(60).await;
        let second = held(packets.newest(key).await);
        assert_eq!(second.packet.seq(), 10);
        assert!(!first.superseded.load(Ordering::Relaxed));
        advance(60).await;
        let third = held(packets.newest(key).await);
        assert_eq!(third.packet.seq(), 11);
        assert!(first.superseded.load(Ordering::Relaxed));
        assert!(second.superseded.load(Ordering::Relaxed));
        assert!(!third.superseded.load(Ordering::Relaxed));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_not_an_absence_and_both_are_remembered_for_their_time() {
        let found = Fetched::Packet(packet(1, 60));
        let packets = packets([failed(), Fetched::Absent, found]);
        let key = packet(1, 1).key();
        let failure = Known::Failed(Failure::DhtPoorMiss);
        let same = |known: Known, expected: &Known| {
            assert_eq!(format!("{known:?}"), format!("{expected:?}"));
        };
        same(packets.newest(key).await, &failure);
        advance(4).await;
        same(packets.newest(key).await, &failure);
        advance(1).await;
        same(packets.newest(key).await, &Known::Absent);
        advance(29).await;
        same(packets.newest(key).await, &Known::Absent);
        advance(1).await;
        held(packets.newest(key).await);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_outlives_failures_but_not_forever() {
        let packets = packets([
            Fetched::Packet(packet(1, 60)),
            failed(),
            Fetched::Absent,
            failed(),
        ]);
        let key = packet(1, 1).key();
        held(packets.newest(key).await);
        for _ in 0..2 {
            advance(61).await;
            let known = packets.newest(key).await;
            assert!(matches!(known, Known::Stale(..)), "{known:?}");
        }
        advance(8 * 86_400).await;
        let known = packets.newest(key).await;
        assert!(matches!(known, Known::Failed(_)), "{known:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_newer_item_that_is_no_packet_supersedes() {
        let invalid = |seq| Fetched::Invalid {
            seq,
            reason: "too long".to_owned(),
        };
        let packets = packets([Fetched::Packet(packet(5, 60)), invalid(4), invalid(6)]);
        let key = packet(1, 1).key();
        held(packets.newest(key).await);
        advance(60).await;
        held(packets.newest(key).await);
        advance(60).await;
        let known = packets.newest(key).await;
        assert!(matches!(known, Known::Stale(..)), "{known:?}");
    }
}
