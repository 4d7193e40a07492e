//! Where answers come from: the cache, a public key's packet, an upstream.

mod answers;
mod delegation;
mod dht;
mod exchange;
mod failure;
mod flights;
mod lookup;
mod packets;
mod places;
mod query;
mod response;
mod store;
mod system;
mod upstream;

use std::sync::Arc;
use std::time::Duration;

use hickory_proto::rr::Name;
use tokio::time::{Instant, timeout};

pub use answers::{Answer, AnswerCache, Question};
pub use dht::{
    Dht, DhtSettings, DhtStatus, INSTANCES, InstanceStatus, LookupCounts, Node, ResolveHost,
};
pub use failure::{Ede, Failure, ede};
pub use packets::{
    Asker, Ending, FetchPacket, Held, HoldTimes, Holders, KeyState, MissState, Packets, See,
    Sighting, Source, Wanted,
};
pub use query::UDP_PAYLOAD_LEN;
pub use response::Response;
pub use store::{Remembered, Store, StoreHealth, StoreSettings, StoreState, StoredPacket};
pub use system::{HostsByForwarding, system_servers};
pub use upstream::{Forward, ForwardRule, Strategy, Tls, UpstreamSettings, Upstreams};

use delegation::Delegations;
use flights::{Flights, NoFlight};
use lookup::Lookup;
pub use lookup::{Names, is_special_use};
use places::Places;

/// Questions being looked up at once; as many again for names that may be a public key's, so that
/// these cannot take the places of ordinary ones. Beyond it a question is answered SERVFAIL at once.
pub const MAX_LOOKUPS: usize = 8192;
/// How many of the questions for names that may be a public key's can be one client's; more are
/// answered SERVFAIL at once. As many as it may have in the queue of lookups, and some.
const MAX_OF_CLIENT: usize = 2560;
/// Longest time that a client waits for anything: stubs give up after 5 s (resolv.conf(5)), and a busy
/// machine may be late.
pub const CLIENT_PATIENCE: Duration = Duration::from_millis(4200);

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
    cache: AnswerCache,
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
            cache,
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
            }),
        }
    }

    /// The answer from the cache.
    pub fn cached(&self, cache_key: &[u8]) -> Option<Arc<Answer>> {
        self.cache.get(cache_key, Instant::now())
    }

    /// The answer, from the cache or by looking it up on behalf of `asker`. Comes within
    /// [`CLIENT_PATIENCE`]; the lookup goes on after that for the next one who asks.
    pub async fn resolve(&self, question: Question, asker: Asker) -> Arc<Answer> {
        let key = question.cache_key();
        if let Some(answer) = self.cached(&key) {
            return answer;
        }
        let is_of_key = has_label_like_a_key(&question.name);
        let start = |_| {
            let lookup = Arc::clone(&self.lookup);
            let cache = self.cache.clone();
            let (key, question) = (key.clone(), question.clone());
            // The lookup has it, not the client, which may be gone before.
            let place = is_of_key.then(|| self.places.take(asker));
            async move {
                if matches!(place, Some(None)) {
                    let failure = Failure::Overloaded;
                    return Arc::new(Answer::failure(&question, &failure, Duration::ZERO));
                }
                let answer = Arc::new(lookup.answer(&question, asker).await);
                cache.insert(key, Arc::clone(&answer));
                drop(place);
                answer
            }
        };
        let under_way = if is_of_key {
            &self.keys_under_way
        } else {
            &self.under_way
        };
        let landed = async {
            let mut flight = under_way.join(key.clone(), start)?;
            let answer = flight.landed().await?;
            if flight.is_joined && answer.is_failure() && answer.lifetime().is_zero() {
                // Whoever started it may have been refused for what it alone had done.
                return under_way.join(key.clone(), start)?.landed().await;
            }
            Ok(answer)
        };
        let failure = match timeout(CLIENT_PATIENCE, landed).await {
            Ok(Ok(answer)) => return answer,
            Ok(Err(NoFlight::Full)) => Failure::Overloaded,
            Ok(Err(NoFlight::Lost)) => Failure::Internal,
            Err(_) => Failure::Patience,
        };
        Arc::new(Answer::failure(&question, &failure, Duration::ZERO))
    }
}

/// Whether a name may be a public key's: no more than the length of its labels is looked at.
fn has_label_like_a_key(name: &Name) -> bool {
    name.iter()
        .any(|label| label.len() == crate::pkarr::Z32_LEN)
}
