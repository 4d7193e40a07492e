//! From a public key to its newest verified packet: memory first, then the store, then the network.
//!
//! The first packet that a lookup finds is the answer; the lookup goes on, and what is newer replaces
//! it. A packet whose time is over is served while a newer one is looked for. An older packet than one
//! ever seen is never taken.

mod fetch;
mod held;
mod state;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use moka::ops::compute::{CompResult, Op};
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::time::{Instant, timeout};

use super::failure::Failure;
use super::flights::{Early, Flight, Flights, NoFlight};
use super::store::Store;
use crate::pkarr::{PublicKey, SignedPacket};

pub use fetch::{Asker, Ending, FetchPacket, Holders, PutPacket, See, Sighting, Wanted};
pub(super) use held::Known;
pub use held::{Held, HoldTimes, Source};
pub use state::{KeyState, MissState};

/// Keys being looked for at once, those that wait for their turn included. Beyond it a question is
/// answered SERVFAIL, or with what is held.
const MAX_FETCHES: usize = 4096;
/// Keys whose last fetch gave nothing, remembered at once; the least useful go first.
const MAX_MISSES: u64 = 16_384;
/// Keys whose newest sequence number is remembered in memory; the store remembers more.
const MAX_SEQS: u64 = 65_536;
/// How long "nobody has it" is believed at first; doubled each time that it is found again.
const ABSENT_TIME: Duration = Duration::from_secs(30);
/// The longest of these times.
const MAX_ABSENT_TIME: Duration = Duration::from_secs(300);
/// The same for a key whose packet is held: it is served, and looked for ever more rarely.
const MAX_LEFT_TIME: Duration = Duration::from_secs(3600);
/// How long after a failure a key whose packet is held is looked for again (RFC 8767 section 5: not
/// more often than every 30 seconds).
const STALE_RECHECK: Duration = Duration::from_secs(30);
/// How old the store's note of when a packet was last confirmed may grow: writing each one would wear
/// out the flash memory of a small gateway.
const SAVE_AGAIN: Duration = Duration::from_secs(3600);
/// How long after the first packet the end of its lookup is waited for where all nodes are near: their
/// replies have come together, and are about to be read.
const GATHER_TIME: Duration = Duration::from_millis(2);
/// A packet that comes within this time comes from near.
const NEAR_TIME: Duration = Duration::from_millis(20);
/// Bytes that a held packet takes beside its DNS message, with the cache's own structures, as `just
/// bench-memory` has it.
const PACKET_OVERHEAD: usize = 660;
/// The same of a key of which it is only remembered that it has no packet, or the sequence number.
const KEY_SIZE: u64 = 400;
/// The part of the bytes that each of these two gets.
const KEYS_SHARE: u64 = 8;

/// The packets that are held in memory, bounded in bytes, and the fetches under way.
#[derive(Debug)]
pub struct Packets {
    held: Cache<PublicKey, Arc<Held>>,
    misses: Cache<PublicKey, Miss>,
    seqs: Cache<PublicKey, u64>,
    fetches: Arc<Flights<PublicKey, Known>>,
    fetcher: Arc<dyn FetchPacket>,
    store: Option<Arc<Store>>,
    times: HoldTimes,
    /// Lookups that found only packets older than one seen before.
    rollbacks: AtomicU64,
}

/// A fetch that found nothing.
#[derive(Debug, Clone)]
struct Miss {
    why: Why,
    at: Instant,
    /// When the key is looked for again.
    until: Instant,
    /// How often in a row nobody had the key.
    absences: u32,
    /// Whether the store has said that it has no packet of the key: it need not be asked again.
    is_new: bool,
}

#[derive(Debug, Clone)]
enum Why {
    Absent,
    Failed(Failure),
}

/// What was known of a key when a lookup began.
#[derive(Debug, Clone, Default)]
struct Before {
    /// Its packet. The cache may have let it go since.
    held: Option<Arc<Held>>,
    /// The newest sequence number that the store knows of.
    seq: Option<u64>,
    /// Whether the store has answered.
    is_told: bool,
}

impl Before {
    /// Whether the store has no newer packet than is known here.
    fn is_checked(&self) -> bool {
        self.is_told || self.held.as_ref().is_some_and(|held| held.is_checked)
    }
}

/// The newest that one lookup has seen.
#[derive(Debug, Default)]
enum Seen {
    #[default]
    Nothing,
    /// Nothing but items older than one seen before.
    Older,
    Packet(Arc<Held>),
    Invalid(String),
}

impl Packets {
    /// Holds at most `max_bytes` of packets in memory, and of what is known of keys without one; when full
    /// those go that were not asked for longest. What is in the `store` is read at need.
    pub fn new(
        fetcher: Arc<dyn FetchPacket>,
        store: Option<Arc<Store>>,
        max_bytes: u64,
        times: HoldTimes,
    ) -> Arc<Self> {
        let of_keys = max_bytes / KEYS_SHARE;
        let keys = of_keys / KEY_SIZE;
        let held = Cache::builder()
            .max_capacity(max_bytes - 2 * of_keys)
            .weigher(|_, held: &Arc<Held>| {
                let size = held.packet.dns().len() + PACKET_OVERHEAD;
                u32::try_from(size).unwrap_or(u32::MAX)
            })
            // What has just been found is never refused a place.
            .eviction_policy(EvictionPolicy::lru())
            // However a hold ends, the answers made from it end with it.
            .eviction_listener(|_, held: Arc<Held>, _| held.end())
            .build();
        let seqs = Cache::builder()
            .max_capacity(keys.min(MAX_SEQS))
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Arc::new(Self {
            held,
            misses: Cache::new(keys.min(MAX_MISSES)),
            seqs,
            fetches: Flights::new(MAX_FETCHES),
            fetcher,
            store,
            times,
            rollbacks: AtomicU64::new(0),
        })
    }

    /// Takes over what another one holds and has seen: for a change of the settings.
    pub fn take_over(&self, other: &Self) {
        for (key, seq) in &other.seqs {
            self.seqs.insert(*key, seq);
        }
        for (key, held) in &other.held {
            self.held.insert(*key, Arc::new(held.copied()));
        }
    }

    /// Counts time that the clock did not: while the host slept, what is held grew older all the same. What
    /// was not found before is looked for again.
    pub fn grow_older(&self, time: Duration) {
        self.misses.invalidate_all();
        for (key, before) in &self.held {
            let older = Arc::new(before.older(time));
            // A lookup may have replaced it.
            self.held.entry(*key).and_compute_with(|held| match held {
                Some(held) if Arc::ptr_eq(held.value(), &before) => Op::Put(older),
                _ => Op::Nop,
            });
        }
    }

    /// The newest packet of a key, from memory, from the store, or by looking for it on behalf of
    /// `asker`.
    pub async fn newest(self: &Arc<Self>, key: PublicKey, asker: Asker) -> Known {
        let miss = self.misses.get(&key);
        let mut before = self.in_memory(key);
        let asks_store = match &before.held {
            Some(held) => !held.is_checked && !held.is_fresh(Instant::now()),
            None => miss.as_ref().is_none_or(|miss| !miss.is_new),
        };
        if asks_store {
            before = self.recall(key).await;
        }
        let now = Instant::now();
        let due = miss.as_ref().is_none_or(|miss| now >= miss.until);
        if let Some(held) = &before.held
            && held.is_fresh(now)
        {
            let held = Arc::clone(held);
            if due && now >= held.refresh_at {
                // Whatever comes of it, the next one who asks is told.
                let _ = self.look(key, Asker::Refresh, before);
            }
            return Known::Packet(held);
        }
        if let Some(miss) = miss
            && !due
        {
            return without_newer(before.held, miss.why, miss.until, now);
        }
        match before.held.clone().filter(|held| held.is_usable(now)) {
            None => self.looked_for(key, asker, before).await,
            Some(held) => self.newer_or_stale(held, asker, before).await,
        }
    }

    /// Looks for a key now, however fresh what is held of it is, and waits for the lookup's end: the newest
    /// packet ever seen, or `None` if enough nodes said that they have none.
    ///
    /// # Errors
    /// If the lookup does not tell whether there is a newer one, or the newest is no packet.
    pub async fn look_again(
        self: &Arc<Self>,
        key: PublicKey,
    ) -> Result<Option<Arc<Held>>, Failure> {
        let before = self.recall(key).await;
        let looked = async {
            let mut flight = self.look(key, Asker::Refresh, before)?;
            flight.ended().await
        };
        let known = looked.await.map_err(|none| match none {
            NoFlight::Full => Failure::Overloaded,
            NoFlight::Lost => Failure::Internal,
        })?;
        // However fresh the packet is that is held: the lookup has found no newer one if it says so here.
        let before = self.recall(key).await;
        let newest = before.held.clone().filter(|held| {
            let known_seq = self.known_seq(key, &before);
            known_seq.is_none_or(|seq| held.packet.seq() >= seq)
        });
        match (self.misses.get(&key).map(|miss| miss.why), known) {
            (Some(Why::Absent), _) => Ok(newest),
            (Some(Why::Failed(Failure::OnlyOlderPackets(seq))), _) => match newest {
                None => Err(Failure::OnlyOlderPackets(seq)),
                newest => Ok(newest),
            },
            (Some(Why::Failed(failure)), _) | (None, Known::Failed(failure)) => Err(failure),
            (None, Known::Packet(held)) if held.holders.is_some() => Ok(Some(held)),
            (None, Known::Absent) => Ok(newest),
            (None, Known::Packet(_) | Known::Stale(..)) => Err(Failure::DhtPoorMiss),
        }
    }

    /// What looking for a key comes to.
    async fn looked_for(self: &Arc<Self>, key: PublicKey, asker: Asker, before: Before) -> Known {
        let looked = async {
            let mut flight = self.look(key, asker, before.clone())?;
            let known = landed(&mut flight).await?;
            if flight.is_joined && matches!(known, Known::Failed(Failure::OverBudget(_))) {
                // It was another client's budget.
                return landed(&mut self.look(key, asker, before)?).await;
            }
            Ok(known)
        };
        looked.await.unwrap_or_else(|none| {
            Known::Failed(match none {
                NoFlight::Full => Failure::Overloaded,
                NoFlight::Lost => Failure::Internal,
            })
        })
    }

    /// A newer packet if it comes in time, or the one that is held.
    async fn newer_or_stale(
        self: &Arc<Self>,
        held: Arc<Held>,
        asker: Asker,
        before: Before,
    ) -> Known {
        let key = held.packet.key();
        let wait = self.times.stale_wait;
        if wait.is_zero() {
            // Whatever comes of it, the next one who asks is told.
            let _ = self.look(key, Asker::Refresh, before);
        } else if let Ok(known) = timeout(wait, self.looked_for(key, asker, before)).await
            // If there was no lookup, the packet is better than nothing.
            && !matches!(known, Known::Failed(_))
        {
            return known;
        }
        if let Some(store) = &self.store {
            store.touch(key);
        }
        let reason = match held.source {
            Source::Network => "its time is over and it is being looked for",
            Source::Disk => "it is from before the start and is being looked for",
        };
        Known::Stale(held, reason.to_owned())
    }

    /// Joins the lookup of a key, or starts it.
    fn look(
        self: &Arc<Self>,
        key: PublicKey,
        asker: Asker,
        before: Before,
    ) -> Result<Flight<Known>, NoFlight> {
        let this = Arc::clone(self);
        let flight = self.fetches.join(key, move |early| async move {
            this.fetch(key, asker, before, early).await
        })?;
        if flight.is_joined {
            self.fetcher.also_wanted(key, asker);
        }
        Ok(flight)
    }

    async fn fetch(
        &self,
        key: PublicKey,
        asker: Asker,
        mut before: Before,
        early: Early<Known>,
    ) -> Known {
        if !before.is_checked() {
            // The store was too slow for whoever asked.
            before = self.recall(key).await;
        }
        let wanted = Wanted {
            key,
            asker,
            known_seq: self.known_seq(key, &before),
        };
        let mut seen = Seen::default();
        let mut see = |sighting: Sighting| {
            self.take_in(key, sighting, &before, &mut seen);
            if let Seen::Packet(held) = &seen {
                early.land(Known::Packet(Arc::clone(held)));
            }
        };
        let ending = self.fetcher.fetch(wanted, &mut see).await;
        self.conclude(key, before, seen, ending)
    }

    /// Takes in what a lookup sees. The newest ever seen wins, wherever an older one is from.
    fn take_in(&self, key: PublicKey, sighting: Sighting, before: &Before, seen: &mut Seen) {
        let now = Instant::now();
        let held = self.held.get(&key).or_else(|| before.held.clone());
        let held_seq = held.as_ref().map(|held| held.packet.seq());
        // On a tie what can be used is better.
        let is_lesser =
            matches!(sighting, Sighting::Invalid { .. }) && held_seq == Some(sighting.seq());
        let known_seq = self.known_seq(key, before);
        if is_lesser || known_seq.is_some_and(|known| sighting.seq() < known) {
            if matches!(seen, Seen::Nothing) {
                *seen = Seen::Older;
            }
            return;
        }
        self.seqs.insert(key, sighting.seq());
        match sighting {
            Sighting::Packet(packet) => {
                *seen = Seen::Packet(match held {
                    Some(held) if !packet.is_newer_than(&held.packet) => {
                        if held.is_fresh(now) {
                            held
                        } else {
                            let packet = held.packet.clone();
                            let mut again = Held::provisional(packet, &self.times, now);
                            (again.saved, again.is_checked) = (held.saved, held.is_checked);
                            self.hold(again)
                        }
                    }
                    _ => {
                        self.save(&packet);
                        let mut new = Held::provisional(packet, &self.times, now);
                        new.is_checked = before.is_checked();
                        self.hold(new)
                    }
                });
            }
            Sighting::Invalid { seq, reason } => {
                if let Some(store) = &self.store {
                    store.put_seq(key, seq);
                }
                if let Some(held) = held
                    && held.is_fresh(now)
                {
                    self.hold(held.superseded(now));
                }
                *seen = Seen::Invalid(format!("seq {seq}: {reason}"));
            }
        }
    }

    /// What a lookup at its end means.
    fn conclude(&self, key: PublicKey, before: Before, seen: Seen, ending: Ending) -> Known {
        let now = Instant::now();
        let why = match (seen, ending) {
            (Seen::Packet(held), Ending::Complete(holders)) if before.is_checked() => {
                return Known::Packet(self.confirm(&held, Some(holders), now));
            }
            (Seen::Packet(held), Ending::Relayed) if before.is_checked() => {
                return Known::Packet(self.confirm(&held, None, now));
            }
            // It broke off, or a newer one may be in the store, which does not answer: what was found is
            // believed for as short as before.
            (Seen::Packet(held), _) => return Known::Packet(held),
            (Seen::Invalid(reason), _) => Why::Failed(Failure::InvalidPacket(reason)),
            (Seen::Older, _) => {
                self.rollbacks.fetch_add(1, Ordering::Relaxed);
                let seq = self.known_seq(key, &before).unwrap_or_default();
                Why::Failed(Failure::OnlyOlderPackets(seq))
            }
            (Seen::Nothing, Ending::Complete(_)) => Why::Absent,
            (Seen::Nothing, Ending::Poor | Ending::Relayed) => Why::Failed(Failure::DhtPoorMiss),
            (Seen::Nothing, Ending::Failed(failure)) => Why::Failed(failure),
        };
        self.remember(key, before, why, now)
    }

    /// The network has this packet and none that is newer, or only relays can be asked and have it: its
    /// time starts.
    fn confirm(&self, held: &Arc<Held>, holders: Option<Holders>, now: Instant) -> Arc<Held> {
        let mut confirmed = held.confirmed(holders, &self.times, now);
        confirmed.is_checked = true;
        let is_recent = |saved| now.saturating_duration_since(saved) < SAVE_AGAIN;
        if !held.saved.is_some_and(is_recent) {
            self.save(&confirmed.packet);
            confirmed.saved = Some(now);
        }
        self.hold(confirmed)
    }

    fn hold(&self, held: Held) -> Arc<Held> {
        let key = held.packet.key();
        let held = Arc::new(held);
        self.held.insert(key, Arc::clone(&held));
        self.misses.invalidate(&key);
        held
    }

    /// Nothing was found: remembers that, unless it is a passing state of pkbridge itself.
    fn remember(&self, key: PublicKey, before: Before, why: Why, now: Instant) -> Known {
        let is_new = before.is_told && before.held.is_none();
        let held = self.held.get(&key).or(before.held);
        let is_served = held.as_ref().is_some_and(|held| held.is_usable(now));
        let last = self.misses.get(&key);
        let mut absences = last.map_or(0, |miss| miss.absences);
        let time = match &why {
            Why::Absent => {
                let longest = if is_served {
                    MAX_LEFT_TIME
                } else {
                    MAX_ABSENT_TIME
                };
                let doubled = ABSENT_TIME.saturating_mul(1 << absences.min(16));
                absences = absences.saturating_add(1);
                doubled.min(longest)
            }
            Why::Failed(_) if is_served => STALE_RECHECK,
            Why::Failed(failure) if failure.is_cacheable() => self.times.failure,
            Why::Failed(_) => Duration::ZERO,
        };
        let until = now + time;
        if !time.is_zero() {
            let miss = Miss {
                why: why.clone(),
                at: now,
                until,
                absences,
                is_new,
            };
            self.misses.insert(key, miss);
        }
        without_newer(held, why, until, now)
    }

    fn in_memory(&self, key: PublicKey) -> Before {
        Before {
            held: self.held.get(&key),
            ..Before::default()
        }
    }

    /// What the store has of a key, taken into memory.
    async fn recall(&self, key: PublicKey) -> Before {
        let in_memory = self.in_memory(key);
        let told = |held, seq| Before {
            held,
            seq,
            is_told: true,
        };
        let Some(store) = &self.store else {
            return told(in_memory.held, None);
        };
        let remembered = match store.get(key).await {
            Some(remembered) => remembered,
            // Nothing is to be expected of one that is out of order.
            None if !store.may_answer() => return told(in_memory.held, None),
            None => return in_memory,
        };
        let Some(stored) = remembered.packet else {
            return told(in_memory.held, remembered.seq);
        };
        // A clock that was set back makes it no older.
        let ago = SystemTime::now()
            .duration_since(stored.confirmed)
            .unwrap_or_default();
        let recalled = Arc::new(Held::recalled(
            stored.packet,
            ago,
            &self.times,
            Instant::now(),
        ));
        // A lookup may have been quicker.
        let held = self.held.entry(key).and_compute_with(|held| match held {
            Some(held) if !recalled.packet.is_newer_than(&held.value().packet) => Op::Nop,
            _ => Op::Put(Arc::clone(&recalled)),
        });
        let held = match held {
            CompResult::Unchanged(held) => held.into_value(),
            CompResult::Inserted(_)
            | CompResult::ReplacedWith(_)
            | CompResult::Removed(_)
            | CompResult::StillNone(_) => recalled,
        };
        told(Some(held), remembered.seq)
    }

    fn save(&self, packet: &SignedPacket) {
        if let Some(store) = &self.store {
            store.put(packet, SystemTime::now());
        }
    }

    /// The newest sequence number of a key that was ever seen.
    fn known_seq(&self, key: PublicKey, before: &Before) -> Option<u64> {
        let seq_of = |held: &Arc<Held>| held.packet.seq();
        let held = self.held.get(&key).as_ref().map(seq_of);
        let was_held = before.held.as_ref().map(seq_of);
        held.max(was_held).max(before.seq).max(self.seqs.get(&key))
    }
}

async fn landed(flight: &mut Flight<Known>) -> Result<Known, NoFlight> {
    let started = Instant::now();
    let known = flight.landed().await?;
    if let Known::Packet(held) = &known
        && held.is_provisional
        && started.elapsed() <= NEAR_TIME
    {
        return Ok(flight.landed_again(GATHER_TIME).await.unwrap_or(known));
    }
    Ok(known)
}

/// What a fetch that found nothing means: a packet that is held is better than no answer.
fn without_newer(held: Option<Arc<Held>>, why: Why, until: Instant, now: Instant) -> Known {
    match (held, why) {
        (Some(held), _) if held.is_fresh(now) => Known::Packet(held),
        (Some(held), why) if held.is_usable(now) => {
            let next = until.saturating_duration_since(now).as_secs();
            let reason = match why {
                Why::Absent => "the key has left the DHT".to_owned(),
                // Whose budget that was is nobody else's business.
                Why::Failed(Failure::OverBudget(_)) => "it cannot be looked for now".to_owned(),
                Why::Failed(failure) => failure.to_string(),
            };
            Known::Stale(held, format!("{reason}; looked for again in {next} s"))
        }
        (_, Why::Absent) => Known::Absent,
        (_, Why::Failed(failure)) => Known::Failed(failure),
    }
}
