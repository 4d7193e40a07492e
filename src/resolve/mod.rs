//! Where answers come from. For other programs: the DHT, on which packets are published and found.
//!
//! ```
//! use std::net::Ipv4Addr;
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use pkbridge::pkarr::{PublicKey, SignedPacket, SigningKey, compose, read_zone_file};
//! use pkbridge::resolve::{Dht, DhtSettings, Holds, PublishError, Sighting};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // On loopback, in the place of the public DHT.
//! let network = tokio::task::spawn_blocking(|| mainline::Testnet::builder(10).build()).await??;
//! let mut settings = DhtSettings::new(&network.bootstrap);
//! settings.lookup_timeout = Duration::from_secs(10);
//! let dht = Dht::join(settings, Arc::new(()));
//! dht.becomes(true).await;
//!
//! let secret = SigningKey::from_bytes(&[8; 32]);
//! let key = PublicKey::from(&secret);
//! let packet = |seq, zone: &str| {
//!     let message = compose(&read_zone_file(zone.as_bytes(), key).expect("a zone"));
//!     SignedPacket::sign(&secret, seq, &message.dns).expect("small enough")
//! };
//!
//! // A packet goes in the place of the newest one: here of none, then of the first.
//! assert_eq!(dht.newest(key).await?, None);
//! let first = packet(1_767_225_600_000_000, "@ A 192.0.2.1");
//! dht.publish(&first, None).await?;
//! let second = packet(first.seq() + 1, "@ A 192.0.2.2");
//! dht.publish(&second, Some(first.seq())).await?;
//!
//! // Who has not seen the second one cannot replace it.
//! let late = packet(second.seq() + 1, "@ A 192.0.2.3");
//! let overtaken = PublishError::Overtaken { seq: second.seq() };
//! assert_eq!(dht.publish(&late, Some(first.seq())).await, Err(overtaken));
//!
//! // What is there, and on which nodes.
//! let newest = Sighting::Packet(second);
//! assert_eq!(dht.newest(key).await?, Some(newest.clone()));
//! let holders = dht.holders(key).await?;
//! assert!(holders.iter().any(|holder| holder.holds == Holds::Item(newest.clone())));
//! # Ok(())
//! # }
//! ```
//!
//! Nodes forget a packet some two hours after it was last put there: publish it again each hour, signed anew
//! or as it is.

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
mod relays;
mod response;
mod rewrite;
mod sources;
mod store;
mod system;
mod upstream;
mod validate;

use std::sync::Arc;
use std::time::Duration;

use hickory_proto::rr::Name;
use tokio::time::{Instant, timeout};

pub use dht::{Dht, DhtSettings, Holder, Holds, PublishError, Published, ResolveHost};
pub use failure::Failure;
pub use packets::{Holders, Sighting};

// The parts of the server, which put them together as the configuration says; the tests and benchmarks do, too.
#[doc(hidden)]
pub use answers::{Answer, AnswerCache, Question, Reuse};
#[doc(hidden)]
pub use delegation::reach::is_public;
#[doc(hidden)]
pub use dht::{DhtStatus, INSTANCES, InstanceStatus, LookupCounts, Node};
#[doc(hidden)]
pub use failure::{Ede, ede};
#[doc(hidden)]
pub use keep_alive::{KeepAlive, KeepAliveSettings, KeepAliveStatus};
#[doc(hidden)]
pub use local_records::{LocalRecord, LocalRecords};
#[doc(hidden)]
pub use lookup::{Names, is_special_use};
#[doc(hidden)]
pub use packets::{
    Asker, Ending, FetchPacket, Held, HoldTimes, KeyState, MissState, Packets, PutPacket, See,
    Source, Wanted,
};
#[doc(hidden)]
pub use query::UDP_PAYLOAD_LEN;
#[doc(hidden)]
pub use rebinding::RebindingGuard;
#[doc(hidden)]
pub use recurse::{Recursive, RecursiveSettings, read_root_hints, root_servers};
#[doc(hidden)]
pub use relays::{Policy, Relay, RelayError, RelayStatus, Relays};
#[doc(hidden)]
pub use response::Response;
#[doc(hidden)]
pub use sources::Sources;
#[doc(hidden)]
pub use store::{Remembered, Store, StoreHealth, StoreSettings, StoreState, StoredPacket};
#[doc(hidden)]
pub use system::{HostsByForwarding, is_ourselves, system_servers};
#[doc(hidden)]
pub use upstream::{Forward, ForwardRule, Strategy, Tls, TrustError, UpstreamSettings, Upstreams};
#[doc(hidden)]
pub use validate::{Anchors, AnchorsError, Validating};

use delegation::Delegations;
use flights::{Flights, NoFlight, Part};
use lookup::Lookup;
pub(crate) use places::{Place, Places};

/// Questions being looked up at once; as many again for names that may be a public key's, so that
/// these cannot take the places of ordinary ones. Beyond it a question is answered SERVFAIL at once.
#[doc(hidden)]
pub const MAX_LOOKUPS: usize = 8192;
/// How many of the questions for names that may be a public key's can be one client's; more are
/// answered SERVFAIL at once. As many as it may have in the queue of lookups, and some.
const MAX_OF_CLIENT: usize = 2560;
/// Longest time that a client waits for anything: stubs give up after 5 s (resolv.conf(5)), and a busy
/// machine may be late.
#[doc(hidden)]
pub const CLIENT_PATIENCE: Duration = Duration::from_millis(4200);

/// How long the refresh of an upstream's answer whose time is over is waited for, if the configuration
/// does not say: RFC 8767 section 5 suggests it. Not zero, as for packets: an upstream that works answers
/// within this time, and whoever asks for a name but once a day would always get yesterday's answer.
/// After a refresh that failed nobody waits for the next one.
#[doc(hidden)]
pub const STALE_PATIENCE: Duration = Duration::from_millis(1800);
/// Why an answer whose time is over is given before its refresh has failed.
const STILL_LOOKING: &str = "its time is over and it is being looked for";

/// The same when nobody waits for it.
const UPSTREAMS_ARE_DOWN: &str = "no upstream resolver has answered lately";

/// How long the name servers of a delegation may take in all for one question.
const DELEGATION_TIMEOUT: Duration = Duration::from_secs(4);

/// Bounds of the TTLs that are given out, in seconds.
#[doc(hidden)]
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
#[doc(hidden)]
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
