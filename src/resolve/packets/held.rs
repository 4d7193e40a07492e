//! A packet that is held, and for how long.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::fetch::Holders;
use crate::pkarr::{SignedPacket, Zone};
use crate::resolve::failure::Failure;

/// How long the first packet that a lookup finds is believed while the lookup goes on: where a
/// quarter of the nodes held old packets, a third of the first ones were old.
const PROVISIONAL_TIME: Duration = Duration::from_secs(30);
/// The part of its time after which a packet that is asked for is fetched again, in percent.
const REFRESH_AHEAD: u32 = 80;

/// How long an answer is kept that is made after that time: if the fetch failed, it is tried again.
const REFRESH_AGAIN: Duration = Duration::from_secs(30);

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
    /// How long a packet is served past its time when no newer one can be had (RFC 8767 section 5);
    /// zero serves none.
    pub max_stale: Duration,
    /// How long a newer one is waited for before that; zero serves at once.
    pub stale_wait: Duration,
}

/// Where a packet was taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The network has it: seen or seen again by the last lookup.
    Network,
    /// The store, from before the start; the network has not confirmed it since.
    Disk,
}

/// A packet that is held.
#[derive(Debug)]
pub struct Held {
    /// The packet.
    pub packet: SignedPacket,
    /// Where it was taken from.
    pub source: Source,
    /// When it was last seen there: its TTLs count from here.
    pub fetched: Instant,
    /// When it is to be fetched again.
    pub expires: Instant,
    /// When it is fetched again ahead of that, if somebody asks.
    pub refresh_at: Instant,
    /// Until when it is served if no newer one can be had.
    pub stale_until: Instant,
    /// The lookup that found it is not at its end.
    pub is_provisional: bool,
    /// The store has told that it has no newer one.
    pub(super) is_checked: bool,
    /// How many nodes held it when a lookup was last at its end; `None` if they could not be asked.
    pub holders: Option<Holders>,
    /// When it was last given to the store; `None` if that was before the start.
    pub(super) saved: Option<Instant>,
    /// Set when this hold has ended, by a newer packet or by news of this one. Answers made from it
    /// are made anew then.
    pub ended: Arc<AtomicBool>,
}

impl Held {
    /// A packet that a lookup has found; the lookup goes on.
    pub(super) fn provisional(packet: SignedPacket, times: &HoldTimes, now: Instant) -> Self {
        let time = hold_time(&packet, times).min(PROVISIONAL_TIME);
        Self {
            is_provisional: true,
            // Its lookup is under way.
            refresh_at: now + time,
            ..Self::new(packet, Source::Network, now, time, times.max_stale)
        }
    }

    /// The same packet, when its lookup is at its end.
    pub(super) fn confirmed(
        &self,
        holders: Option<Holders>,
        times: &HoldTimes,
        now: Instant,
    ) -> Self {
        let time = hold_time(&self.packet, times);
        // The TTLs of one that was provisional count from when it was found.
        let fetched = if self.is_provisional {
            self.fetched
        } else {
            now
        };
        Self {
            holders,
            saved: self.saved,
            ..Self::new(
                self.packet.clone(),
                Source::Network,
                fetched,
                time,
                times.max_stale,
            )
        }
    }

    /// The same hold, with answers of its own.
    pub(super) fn copied(&self) -> Self {
        Self {
            packet: self.packet.clone(),
            ended: Arc::default(),
            ..*self
        }
    }

    /// The same hold, when `time` has passed that the clock did not count.
    pub(super) fn older(&self, time: Duration) -> Self {
        let earlier = |at: Instant| at.checked_sub(time).unwrap_or(at);
        Self {
            fetched: earlier(self.fetched),
            expires: earlier(self.expires),
            refresh_at: earlier(self.refresh_at),
            stale_until: earlier(self.stale_until),
            saved: self.saved.map(earlier),
            ..self.copied()
        }
    }

    /// The same packet, when its owner has replaced it by what cannot be used: its time is over.
    pub(super) fn superseded(&self, now: Instant) -> Self {
        Self {
            expires: now,
            refresh_at: now,
            is_provisional: false,
            ..self.copied()
        }
    }

    /// A packet from the store, last confirmed `ago`. The wall clock may be wrong after a start, and a
    /// newer packet may have been published: so its time is over.
    pub(super) fn recalled(
        packet: SignedPacket,
        ago: Duration,
        times: &HoldTimes,
        now: Instant,
    ) -> Self {
        let left = (hold_time(&packet, times) + times.max_stale).saturating_sub(ago);
        let left = left.min(times.max_stale);
        Self {
            saved: None,
            is_checked: true,
            ..Self::new(packet, Source::Disk, now, Duration::ZERO, left)
        }
    }

    fn new(
        packet: SignedPacket,
        source: Source,
        fetched: Instant,
        time: Duration,
        max_stale: Duration,
    ) -> Self {
        let expires = fetched + time;
        Self {
            packet,
            source,
            fetched,
            expires,
            refresh_at: fetched + time * REFRESH_AHEAD / 100,
            stale_until: expires + max_stale,
            is_provisional: false,
            is_checked: false,
            holders: None,
            saved: Some(fetched),
            ended: Arc::default(),
        }
    }

    /// Whether its time is not over.
    pub fn is_fresh(&self, now: Instant) -> bool {
        now < self.expires
    }

    /// Whether it may be served, its time over or not.
    pub(super) fn is_usable(&self, now: Instant) -> bool {
        self.is_fresh(now) || now < self.stale_until
    }

    /// Until when an answer that is made from it now may be kept: questions after `refresh_at` are to be
    /// noticed.
    pub fn next_look(&self, now: Instant) -> Instant {
        if now < self.refresh_at {
            self.refresh_at
        } else {
            self.expires.min(now + REFRESH_AGAIN)
        }
    }

    /// The highest TTL that its records are given out with, in seconds.
    pub fn ttl_limit(&self) -> u32 {
        if self.is_provisional {
            u32::try_from(PROVISIONAL_TIME.as_secs()).unwrap_or(u32::MAX)
        } else {
            u32::MAX
        }
    }

    /// Voids the answers that were made from it.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

fn hold_time(packet: &SignedPacket, times: &HoldTimes) -> Duration {
    let lowest = Zone::new(packet, 0).lowest_ttl();
    lowest.map_or(times.empty, |ttl| {
        // A configured floor above the ceiling is the ceiling.
        Duration::from_secs(u64::from(ttl))
            .max(times.min)
            .min(times.max)
    })
}

/// What is known of a key.
#[derive(Debug, Clone)]
pub enum Known {
    /// Its packet.
    Packet(Arc<Held>),
    /// Its packet, whose time is over; there is no newer one yet, for the reason given.
    Stale(Arc<Held>, String),
    /// It has none.
    Absent,
    /// That is not known.
    Failed(Failure),
}
