//! Where packets come from: the DHT, and beside it relays, if there are any.
//!
//! The DHT has a head start, so that relays do not learn what it finds quickly. Whoever has it, the newest
//! packet wins. Only a lookup on the DHT proves an absence: a relay that has nothing may be stale, or lie.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep_until, timeout};

use super::dht::Dht;
use super::packets::{Asker, Ending, FetchPacket, Holders, See, Sighting, Wanted};
use super::relays::Relays;
use crate::pkarr::PublicKey;

/// How long the DHT is asked alone: most of what it has comes within this time.
const HEAD_START: Duration = Duration::from_millis(300);
/// How long relays are waited for when the DHT has said that nobody has the key.
const LAST_WORD: Duration = Duration::from_millis(500);

/// Finds packets on the DHT and at relays.
#[derive(Debug)]
pub struct Sources {
    dht: Arc<Dht>,
    relays: Arc<Relays>,
}

/// What one lookup has seen so far, from both sides.
struct Race<'a, 'b> {
    known_seq: Option<u64>,
    state: Mutex<State<'a, 'b>>,
}

struct State<'a, 'b> {
    see: &'a mut See<'b>,
    dht: Option<Sighting>,
    relays: Option<Sighting>,
}

#[derive(Debug, Clone, Copy)]
enum Side {
    Dht,
    Relays,
}

impl Sources {
    /// The DHT, and `relays` beside it.
    pub fn new(dht: Arc<Dht>, relays: Arc<Relays>) -> Self {
        Self { dht, relays }
    }

    async fn look_up(&self, wanted: Wanted, see: &mut See<'_>) -> Ending {
        // The pace and the budgets of clients hold for relays, too.
        if let Err(failure) = self.dht.turn(wanted).await {
            return Ending::Failed(failure);
        }
        let race = Race::new(wanted.known_seq, see);
        let mut see_dht = |sighting| race.see(Side::Dht, sighting);
        let mut dht = pin!(self.dht.look_up(wanted, &mut see_dht));
        let mut ended = None;
        if self.dht.has_joined() {
            ended = timeout(HEAD_START, &mut dht).await.ok();
        }
        let mut is_told = false;
        if !race.is_found() {
            let see = |sighting| race.see(Side::Relays, sighting);
            let mut relays = pin!(self.relays.ask(wanted.key, wanted.known_seq, see));
            let mut are_done = false;
            while ended.is_none() || !are_done {
                let until = ended.as_ref().and_then(|(ending, _)| race.patience(ending));
                tokio::select! {
                    ending = &mut dht, if ended.is_none() => ended = Some(ending),
                    told = &mut relays, if !are_done => (is_told, are_done) = (told, true),
                    () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => break,
                }
            }
        }
        let (ending, is_answered) = match ended {
            Some(ended) => ended,
            None => dht.await,
        };
        if race.is_empty() && (is_answered || is_told) {
            self.dht.missed(wanted.asker);
        }
        race.end(ending)
    }
}

impl<'a, 'b> Race<'a, 'b> {
    fn new(known_seq: Option<u64>, see: &'a mut See<'b>) -> Self {
        let state = State {
            see,
            dht: None,
            relays: None,
        };
        Self {
            known_seq,
            state: Mutex::new(state),
        }
    }

    /// Takes in what one side has found, and shows it if it is the newest of both.
    fn see(&self, side: Side, sighting: Sighting) {
        let mut state = self.lock();
        if state
            .newest()
            .is_none_or(|newest| sighting.replaces(newest))
        {
            (state.see)(sighting.clone());
        }
        let seen = match side {
            Side::Dht => &mut state.dht,
            Side::Relays => &mut state.relays,
        };
        if seen.as_ref().is_none_or(|seen| sighting.replaces(seen)) {
            *seen = Some(sighting);
        }
    }

    /// Whether there is something that is not older than what was seen before.
    fn is_found(&self) -> bool {
        let state = self.lock();
        let seq = state.newest().map(Sighting::seq);
        seq.is_some() && seq >= self.known_seq
    }

    fn is_empty(&self) -> bool {
        self.lock().newest().is_none()
    }

    /// Until when relays are waited for once the DHT has come to its end; `None` is as long as they take.
    fn patience(&self, ending: &Ending) -> Option<Instant> {
        match ending {
            Ending::Complete(_) if self.is_found() => Some(Instant::now()),
            Ending::Complete(_) => Some(Instant::now() + LAST_WORD),
            // They alone can tell.
            Ending::Poor | Ending::Relayed | Ending::Failed(_) => None,
        }
    }

    /// What the end of the lookup on the DHT means together with what relays gave.
    fn end(&self, ending: Ending) -> Ending {
        let state = self.lock();
        let is_by_relay = match (&state.relays, &state.dht) {
            (Some(relayed), Some(found)) => relayed.replaces(found),
            (Some(_), None) => true,
            (None, _) => false,
        };
        let is_relayed = is_by_relay || state.relays.is_some() && state.relays == state.dht;
        match ending {
            Ending::Complete(holders) if is_by_relay => Ending::Complete(Holders {
                newest: 0,
                older: holders.newest.saturating_add(holders.older),
            }),
            Ending::Poor | Ending::Failed(_) if is_relayed => Ending::Relayed,
            Ending::Complete(_) | Ending::Relayed | Ending::Poor | Ending::Failed(_) => ending,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<'a, 'b>> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State<'_, '_> {
    fn newest(&self) -> Option<&Sighting> {
        match (&self.dht, &self.relays) {
            (Some(found), Some(relayed)) if relayed.replaces(found) => Some(relayed),
            (Some(found), _) => Some(found),
            (None, relayed) => relayed.as_ref(),
        }
    }
}

impl FetchPacket for Sources {
    fn fetch<'a>(&'a self, wanted: Wanted, see: &'a mut See<'_>) -> BoxFuture<'a, Ending> {
        if self.relays.each().is_empty() {
            return self.dht.fetch(wanted, see);
        }
        Box::pin(self.look_up(wanted, see))
    }

    fn also_wanted(&self, key: PublicKey, asker: Asker) {
        self.dht.also_wanted(key, asker);
    }
}
