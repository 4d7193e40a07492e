//! What can be told of the packets and done to them, for whoever runs the service.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::{Held, Packets, Why};
use crate::pkarr::PublicKey;
use crate::resolve::failure::Failure;

/// What can be told of a key.
#[derive(Debug, Clone)]
pub struct KeyState {
    /// Its packet.
    pub held: Option<Arc<Held>>,
    /// The last lookup, if it found nothing.
    pub miss: Option<MissState>,
    /// The newest sequence number that was ever seen.
    pub known_seq: Option<u64>,
    /// Whether it is being looked for.
    pub is_under_way: bool,
}

/// A lookup that found nothing.
#[derive(Debug, Clone)]
pub struct MissState {
    /// Why nothing is known; `None` if nobody has the key.
    pub failure: Option<Failure>,
    /// When it ended.
    pub at: Instant,
    /// When the key is looked for again, if somebody asks.
    pub until: Instant,
}

impl Packets {
    /// What is known of a key, without looking for it.
    pub async fn state(&self, key: PublicKey) -> KeyState {
        let mut before = self.in_memory(key);
        if before.held.is_none() {
            before = self.recall(key).await;
        }
        KeyState {
            known_seq: self.known_seq(key, &before),
            held: before.held,
            miss: self.misses.get(&key).map(|miss| MissState {
                failure: match miss.why {
                    Why::Absent => None,
                    Why::Failed(failure) => Some(failure),
                },
                at: miss.at,
                until: miss.until,
            }),
            is_under_way: self.fetches.is_under_way(&key),
        }
    }

    /// Forgets the packet of a key, or all packets, in memory and in the store; not the newest
    /// sequence number. Returns how many were held in memory.
    pub fn forget(&self, key: Option<PublicKey>) -> u64 {
        if let Some(store) = &self.store {
            store.forget(key);
        }
        match key {
            Some(key) => {
                self.misses.invalidate(&key);
                u64::from(self.held.remove(&key).is_some())
            }
            None => {
                self.misses.invalidate_all();
                let keys: Vec<_> = self.held.iter().map(|(key, _)| *key).collect();
                let removed = keys.iter().filter_map(|key| self.held.remove(key));
                u64::try_from(removed.count()).unwrap_or(u64::MAX)
            }
        }
    }

    /// Lookups, since the start, that found only packets older than one seen before.
    pub fn rollbacks(&self) -> u64 {
        self.rollbacks.load(Ordering::Relaxed)
    }

    /// Packets and bytes held in memory.
    pub fn usage(&self) -> (u64, u64) {
        self.held.run_pending_tasks();
        (self.held.entry_count(), self.held.weighted_size())
    }
}
