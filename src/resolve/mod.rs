//! Where answers come from: the cache, a public key's packet, an upstream.

mod answers;
mod delegation;
mod dht;
mod exchange;
mod failure;
mod flights;
mod lookup;
mod packets;
mod response;
mod store;
mod system;
mod upstream;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

pub use answers::{Answer, AnswerCache, Question};
pub use dht::{Dht, DhtSettings, Node, ResolveHost};
pub use failure::{Ede, Failure, ede};
pub use packets::{FetchPacket, Fetched, HoldTimes, Packets};
pub use response::{Response, UDP_PAYLOAD_LEN};
pub use store::{Remembered, Store, StoreHealth, StoreSettings, StoreState, StoredPacket};
pub use system::{HostsByForwarding, system_servers};
pub use upstream::{Forward, Upstreams};

use delegation::Delegations;
use flights::{Flights, NoFlight};
use lookup::Lookup;
pub use lookup::Names;

/// Questions being looked up at once. Beyond it a question is answered SERVFAIL at once.
pub const MAX_LOOKUPS: usize = 4096;
/// Longest time that a client waits for anything: stubs give up after 5 s (resolv.conf(5)).
pub const CLIENT_PATIENCE: Duration = Duration::from_millis(4500);

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

/// Answers questions.
#[derive(Debug)]
pub struct Resolver {
    cache: AnswerCache,
    under_way: Arc<Flights<Box<[u8]>, Arc<Answer>>>,
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

    /// The answer, from the cache or by looking it up. Comes within [`CLIENT_PATIENCE`]; the lookup
    /// goes on after that for the next one who asks.
    pub async fn resolve(&self, question: Question) -> Arc<Answer> {
        let key = question.cache_key();
        if let Some(answer) = self.cached(&key) {
            return answer;
        }
        let start = || {
            let lookup = Arc::clone(&self.lookup);
            let cache = self.cache.clone();
            let (key, question) = (key.clone(), question.clone());
            async move {
                let answer = Arc::new(lookup.answer(&question).await);
                cache.insert(key, Arc::clone(&answer));
                answer
            }
        };
        let waited = timeout(CLIENT_PATIENCE, self.under_way.join(key.clone(), start)).await;
        let failure = match waited {
            Ok(Ok(answer)) => return answer,
            Ok(Err(NoFlight::Full)) => Failure::Overloaded,
            Ok(Err(NoFlight::Lost)) => Failure::Internal,
            Err(_) => Failure::Patience,
        };
        Arc::new(Answer::failure(&question, &failure, Duration::ZERO))
    }
}
