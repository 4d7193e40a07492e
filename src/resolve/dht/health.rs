//! What the lookups of the DHT have come to: counted for the log and for whoever asks.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How much of what earlier lookups say of the nodes is kept at each further one: the share of nodes
/// that answer is that of the last fifty or so.
const MEMORY: f64 = 0.98;
/// Nodes that must have been asked lately before their share says anything.
const ENOUGH_ASKED: f64 = 100.0;
/// Below this share of nodes that answer something is wrong (a fifth to a half is silent at any time)...
const POOR_SHARE: f64 = 0.35;
/// ... until it is above this one.
const GOOD_SHARE: f64 = 0.45;
/// A lookup that fewer nodes answered than this part of the usual share tells nothing by what it did not
/// find: where nodes begin to ignore our address, those that are nearest to the key are among the first.
const USUAL_PART: f64 = 0.75;

/// How a lookup ended, as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Found,
    Absent,
    TooFewAnswers,
    Failed,
    Invalid,
}

/// Lookups since the start, by how they ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LookupCounts {
    /// A packet was found.
    pub found: u64,
    /// Nobody has one.
    pub absent: u64,
    /// Too few nodes answered to tell.
    pub too_few_answers: u64,
    /// There was no node to ask, or it failed.
    pub failed: u64,
    /// The newest item is signed and no packet.
    pub invalid_packet: u64,
    /// Refused: too many waiting, or a client over its budget.
    pub refused: u64,
    /// Now under way.
    pub under_way: u64,
    /// Now waiting for their turn.
    pub waiting: u64,
}

/// One of the DHT nodes that pkbridge runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstanceStatus {
    /// Where its socket is bound; `None` while it is being built.
    pub address: Option<SocketAddrV4>,
    /// Whether it has joined the DHT.
    pub joined: bool,
    /// Nodes in its routing table, when it was last looked at.
    pub nodes: usize,
}

/// How the DHT is doing.
#[derive(Debug, Clone, PartialEq)]
pub struct DhtStatus {
    /// The nodes that pkbridge runs.
    pub instances: Vec<InstanceStatus>,
    /// Lookups.
    pub lookups: LookupCounts,
    /// The share of the nodes asked lately that answered; `None` if few were asked.
    pub answered_share: Option<f64>,
    /// Items that were refused since the start, by reason.
    pub refused_packets: BTreeMap<&'static str, u64>,
}

/// Counts.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    lookups: LookupCounts,
    asked: f64,
    answered: f64,
    refused: BTreeMap<&'static str, u64>,
    was_poor: bool,
}

impl Health {
    pub(super) fn started(&self) {
        self.lock().lookups.under_way += 1;
    }

    pub(super) fn ended(&self, outcome: Outcome) {
        let mut counts = self.lock();
        let lookups = &mut counts.lookups;
        lookups.under_way = lookups.under_way.saturating_sub(1);
        let count = match outcome {
            Outcome::Found => &mut lookups.found,
            Outcome::Absent => &mut lookups.absent,
            Outcome::TooFewAnswers => &mut lookups.too_few_answers,
            Outcome::Failed => &mut lookups.failed,
            Outcome::Invalid => &mut lookups.invalid_packet,
        };
        *count += 1;
    }

    /// Takes in how many of the asked nodes answered, and says so in the log when that becomes bad or
    /// good.
    pub(super) fn answered(&self, asked: u32, answered: u32) {
        let mut counts = self.lock();
        counts.asked = counts.asked * MEMORY + f64::from(asked);
        counts.answered = counts.answered * MEMORY + f64::from(answered);
        let Some(share) = counts.share() else {
            return;
        };
        let limit = if counts.was_poor {
            GOOD_SHARE
        } else {
            POOR_SHARE
        };
        let is_poor = share < limit;
        if is_poor != std::mem::replace(&mut counts.was_poor, is_poor) {
            let share = format!("{:.0} %", share * 100.0);
            if is_poor {
                tracing::warn!(
                    answered = share,
                    "few DHT nodes answer: keys may not be found"
                );
            } else {
                tracing::info!(answered = share, "DHT nodes answer again");
            }
        }
    }

    /// Whether about as many of the asked nodes answered as of those of earlier lookups.
    pub(super) fn is_usual(&self, asked: u32, answered: u32) -> bool {
        let usual = self.lock().share().unwrap_or_default();
        f64::from(answered) >= f64::from(asked) * usual * USUAL_PART
    }

    /// Takes in items that were refused; the first of each kind is told in the log.
    pub(super) fn refused(&self, refused: &BTreeMap<&'static str, u64>) {
        if refused.is_empty() {
            return;
        }
        let mut counts = self.lock();
        for (reason, count) in refused {
            let known = counts.refused.entry(reason).or_insert_with(|| {
                tracing::info!(
                    reason,
                    "an item from the DHT is refused; further ones are counted"
                );
                0
            });
            *known += count;
        }
    }

    pub(super) fn lookups(&self) -> LookupCounts {
        self.lock().lookups
    }

    pub(super) fn answered_share(&self) -> Option<f64> {
        self.lock().share()
    }

    pub(super) fn refused_packets(&self) -> BTreeMap<&'static str, u64> {
        self.lock().refused.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn share(&self) -> Option<f64> {
        (self.asked >= ENOUGH_ASKED).then(|| self.answered / self.asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_nodes_that_answer_is_that_of_the_last_lookups() {
        let health = Health::default();
        health.answered(50, 50);
        assert_eq!(health.answered_share(), None, "too few were asked");
        health.answered(60, 60);
        assert_eq!(health.answered_share(), Some(1.0));
        for _ in 0..200 {
            health.answered(50, 10);
        }
        let share = health.answered_share().unwrap();
        assert!((0.19..0.24).contains(&share), "{share}");
    }

    #[test]
    fn what_is_usual_is_what_the_last_lookups_came_to() {
        let health = Health::default();
        assert!(health.is_usual(20, 10), "nothing is known yet");
        for _ in 0..10 {
            health.answered(20, 19);
        }
        assert!(health.is_usual(20, 15) && !health.is_usual(20, 14));
        for _ in 0..200 {
            health.answered(20, 13);
        }
        assert!(health.is_usual(20, 10) && !health.is_usual(20, 9));
    }
}
