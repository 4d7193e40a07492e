//! Where answers come from: the cache, a public key's packet, an upstream.

mod answers;
mod delegation;
mod dht;
mod exchange;
mod failure;
mod flights;
mod keep_alive;
mod local_records;
mod lookup;
mod packets;
mod places;
mod query;
mod rebinding;
mod recurse;
mod response;
mod rewrite;
mod store;
mod system;
mod upstream;
mod validate;

use std::sync::Arc;
use std::time::Duration;

use hickory_proto::rr::Name;
use tokio::time::{Instant, timeout};

pub use answers::{Answer, AnswerCache, Question, Reuse};
pub use delegation::reach::is_public;
pub use dht::{
    Dht, DhtSettings, DhtStatus, Holder, Holds, INSTANCES, InstanceStatus, LookupCounts, Node,
    PublishError, Published, ResolveHost,
};
pub use failure::{Ede, Failure, ede};
pub use keep_alive::{KeepAlive, KeepAliveSettings, KeepAliveStatus};
pub use local_records::{LocalRecord, LocalRecords};
pub use packets::{
    Asker, Ending, FetchPacket, Held, HoldTimes, Holders, KeyState, MissState, Packets, PutPacket,
    See, Sighting, Source, Wanted,
};
pub use query::UDP_PAYLOAD_LEN;
pub use rebinding::RebindingGuard;
pub use recurse::{Recursive, RecursiveSettings, read_root_hints, root_servers};
pub use response::Response;
pub use store::{Remembered, Store, StoreHealth, StoreSettings, StoreState, StoredPacket};
pub use system::{HostsByForwarding, is_ourselves, system_servers};
pub use upstream::{Forward, ForwardRule, Strategy, Tls, TrustError, UpstreamSettings, Upstreams};
pub use validate::{Anchors, AnchorsError, Validating};

use delegation::Delegations;
use flights::{Flights, NoFlight, Part};
use lookup::Lookup;
pub use lookup::{Names, is_special_use};
pub(crate) use places::{Place, Places};

/// Questions being looked up at once; as many again for names that may be a public key's, so that
/// these cannot take the places of ordinary ones. Beyond it a question is answered SERVFAIL at once.
pub const MAX_LOOKUPS: usize = 8192;
/// How many of the questions for names that may be a public key's can be one client's; more are
/// answered SERVFAIL at once. As many as it may have in the queue of lookups, and some.
const MAX_OF_CLIENT: usize = 2560;
/// Longest time that a client waits for anything: stubs give up after 5 s (resolv.conf(5)), and a busy
/// machine may be late.
pub const CLIENT_PATIENCE: Duration = Duration::from_millis(4200);

/// How long the refresh of an upstream's answer whose time is over is waited for, if the configuration
/// does not say: RFC 8767 section 5 suggests it. Not zero, as for packets: an upstream that works answers
/// within this time, and whoever asks for a name but once a day would always get yesterday's answer.
/// After a refresh that failed nobody waits for the next one.
pub const STALE_PATIENCE: Duration = Duration::from_millis(1800);
/// Why an answer whose time is over is given before its refresh has failed.
const STILL_LOOKING: &str = "its time is over and it is being looked for";

/// The same when nobody waits for it.
const UPSTREAMS_ARE_DOWN: &str = "no upstream resolver has answered lately";

/// How long the name servers of a delegation may take in all for one question.
const DELEGATION_TIMEOUT: Duration = Duration::from_secs(4);

/// Bounds of the TTLs that are given out, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Ttls {
    /// Lowest TTL of a record.
    pub min: u32,
    /// Highest TTL of a record.
    pub max: u32,
    /// Longest time that NXDOMAIN and NODATA are kept.
    pub negative: u32,
    /// How long a failure is kept.
    pub failure: u32,
}

/// Lookups under way, by the cache key of their question.
type UnderWay = Arc<Flights<Box<[u8]>, Arc<Answer>>>;

/// Answers questions.
#[derive(Debug)]
pub struct Resolver {
    under_way: UnderWay,
    keys_under_way: UnderWay,
    places: Arc<Places>,
    lookup: Arc<Lookup>,
}

impl Resolver {
    /// A resolver for public-key names as `names` says; ordinary names go to `forward`.
    pub fn new(
        names: Names,
        packets: Arc<Packets>,
        forward: Arc<dyn Forward>,
        ttls: Ttls,
        cache: AnswerCache,
    ) -> Self {
        Self {
            under_way: Flights::new(MAX_LOOKUPS),
            keys_under_way: Flights::new(MAX_LOOKUPS),
            places: Places::new(MAX_OF_CLIENT),
            lookup: Arc::new(Lookup {
                delegations: names
                    .follow_delegations
                    .then(|| Delegations::new(names.private_name_servers, DELEGATION_TIMEOUT)),
                names,
                packets,
                forward,
                ttls,
                cache,
            }),
        }
    }

    /// The answer from the cache. If it [is due](Answer::is_due), it wants to be [refreshed](Self::refresh).
    pub fn cached(&self, cache_key: &[u8], now: Instant) -> Option<Arc<Answer>> {
        self.cache().get(cache_key, now)
    }

    /// Looks a question up without waiting, so that the next one who asks finds the answer.
    pub fn refresh(&self, question: &Question) {
        // One that finds no place is tried again with the next question.
        let _ = self.look_up(question.cache_key(), question, Asker::Refresh, true);
    }

    /// The answer, from the cache or by looking it up on behalf of `asker`. Comes within
    /// [`CLIENT_PATIENCE`]; the lookup goes on after that for the next one who asks.
    pub async fn resolve(&self, question: Question, asker: Asker) -> Arc<Answer> {
        let key = question.cache_key();
        let now = Instant::now();
        let held = self.cache().held(&key, now);
        let patience = match &held {
            None => CLIENT_PATIENCE,
            Some(held) if held.is_fresh(now) => return Arc::clone(held),
            Some(held) if held.has_failed_lately(now) => {
                if held.is_due(now) {
                    self.refresh(&question);
                }
                return self.give_stale(key, held, STILL_LOOKING);
            }
            Some(held) if self.lookup.forward.is_down_for(&question.name) => {
                self.refresh(&question);
                return self.give_stale(key, held, UPSTREAMS_ARE_DOWN);
            }
            Some(_) => self.stale_patience(),
        };
        let landed = self.landed(&key, &question, asker, held.is_some());
        let failure = match timeout(patience, landed).await {
            Ok(Ok(answer)) => return answer,
            Ok(Err(NoFlight::Full)) => Failure::Overloaded,
            Ok(Err(NoFlight::Lost)) => Failure::Internal,
            Err(_) => Failure::Patience,
        };
        match held {
            None => Arc::new(Answer::failure(&question, &failure, Duration::ZERO)),
            Some(held) if failure == Failure::Patience => {
                self.give_stale(key, &held, STILL_LOOKING)
            }
            Some(held) => self.give_stale(key, &held, &failure.to_string()),
        }
    }

    fn cache(&self) -> &AnswerCache {
        &self.lookup.cache
    }

    /// How long the refresh of an answer that is held is waited for.
    fn stale_patience(&self) -> Duration {
        match self.cache().reuse().stale_wait {
            Duration::ZERO => STALE_PATIENCE,
            wait => wait,
        }
    }

    fn give_stale(&self, key: Box<[u8]>, held: &Arc<Answer>, reason: &str) -> Arc<Answer> {
        let retry = self.lookup.failure_time();
        self.cache().give_stale(key, held, reason, retry)
    }

    /// What looking a question up comes to.
    async fn landed(
        &self,
        key: &[u8],
        question: &Question,
        asker: Asker,
        is_held: bool,
    ) -> Result<Arc<Answer>, NoFlight> {
        let mut flight = match self.look_up(key.into(), question, asker, is_held)? {
            Part::Leads(lead) => return Ok(lead.await),
            Part::Joins(flight) => flight,
        };
        let answer = flight.landed().await?;
        if answer.is_failure() && answer.lifetime().is_zero() {
            // Whoever started it may have been refused for what it alone had done.
            return match self.look_up(key.into(), question, asker, is_held)? {
                Part::Leads(lead) => Ok(lead.await),
                Part::Joins(mut flight) => flight.landed().await,
            };
        }
        Ok(answer)
    }

    /// Joins the lookup of a question, or starts it. `is_held` says that the cache may have an answer, which
    /// the new one replaces.
    fn look_up(
        &self,
        key: Box<[u8]>,
        question: &Question,
        asker: Asker,
        is_held: bool,
    ) -> Result<Part<Arc<Answer>>, NoFlight> {
        let is_of_key = has_label_like_a_key(&question.name);
        let under_way = if is_of_key {
            &self.keys_under_way
        } else {
            &self.under_way
        };
        under_way.lead_or_join(key.clone(), || {
            let lookup = Arc::clone(&self.lookup);
            let question = question.clone();
            // The lookup has it, not the client, which may be gone before.
            let place = is_of_key.then(|| self.places.take(asker));
            async move {
                let answer = match &place {
                    Some(None) => Answer::failure(&question, &Failure::Overloaded, Duration::ZERO),
                    None | Some(Some(_)) => lookup.answer(&question, asker).await,
                };
                let retry = lookup.failure_time();
                match is_held {
                    true => lookup.cache.take_in(key, answer, retry),
                    false => lookup.cache.take_in_first(key, answer, retry),
                }
            }
        })
    }
}

/// Whether a name may be a public key's: no more than the length of its labels is looked at.
fn has_label_like_a_key(name: &Name) -> bool {
    name.iter()
        .any(|label| label.len() == crate::pkarr::Z32_LEN)
}
