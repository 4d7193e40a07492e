//! The Mainline DHT: finds signed packets. The only user of `mainline`.
//!
//! Several nodes of the library run side by side. Each has a thread and a socket of its own, and each
//! an identity and a routing table of its own: lookups are shared out over them, and one that found
//! nobody to tell is tried again on another.

mod address;
mod health;
mod holders;
mod join;
mod newest;
mod node;
mod publish;
mod turns;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::failure::Failure;
use super::packets::{Asker, Ending, FetchPacket, PutPacket, See, Wanted};
use crate::panics::Isolated;
use crate::pkarr::{PublicKey, SignedPacket};
use health::{Health, Outcome};
use newest::Newest;
use turns::Turns;

pub use health::{DhtStatus, InstanceStatus, LookupCounts};
pub use holders::{Holder, Holds};
pub use node::Node;
pub use publish::{PublishError, Published};

/// Nodes of the library. Each datagram costs its thread a look at every lookup that it has under way,
/// and its socket's buffer holds some ninety datagrams.
pub const INSTANCES: usize = 4;
/// Instances that one lookup is tried on while too few nodes answer.
const ATTEMPTS: usize = 2;

/// How long a lookup may take, unless the settings say otherwise: most are done within a second and a half.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(4);
/// Lookups that may start in a second: with a hundred datagrams each, about what the sockets' buffers take.
const LOOKUPS_PER_SECOND: u32 = 125;
/// Lookups of one client that may find nothing in a second.
const MISSES_PER_CLIENT: u32 = 10;

/// Resolves the names of bootstrap nodes, without the system's resolver: it may be a server that is built on
/// this. `()` knows no names, for bootstrap nodes that are addresses.
///
/// ```
/// use std::net::Ipv4Addr;
///
/// use futures_util::future::BoxFuture;
/// use pkbridge::resolve::ResolveHost;
///
/// #[derive(Debug)]
/// struct OwnNode;
///
/// impl ResolveHost for OwnNode {
///     fn resolve_host<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Vec<Ipv4Addr>> {
///         Box::pin(async move {
///             match host {
///                 "dht.example" => vec![Ipv4Addr::new(192, 0, 2, 1)],
///                 _ => Vec::new(),
///             }
///         })
///     }
/// }
/// # let found = futures_util::FutureExt::now_or_never(OwnNode.resolve_host("dht.example"));
/// # assert_eq!(found.unwrap().len(), 1);
/// ```
pub trait ResolveHost: Send + Sync + std::fmt::Debug {
    /// The IPv4 addresses of a host; empty if there are none or that is not known.
    fn resolve_host<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Vec<Ipv4Addr>>;
}

impl ResolveHost for () {
    fn resolve_host<'a>(&'a self, _host: &'a str) -> BoxFuture<'a, Vec<Ipv4Addr>> {
        Box::pin(std::future::ready(Vec::new()))
    }
}

/// How to join the DHT, and how to use it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DhtSettings {
    /// `host:port` of nodes to start from.
    pub bootstrap: Vec<String>,
    /// The address to bind; port 0 is any, another one is that of the first of [`INSTANCES`].
    pub bind_address: SocketAddrV4,
    /// How long a lookup may take from its start.
    pub lookup_timeout: Duration,
    /// How long the first packet that is found is held back for a newer one, where a server waits for it.
    #[doc(hidden)]
    pub linger: Duration,
    /// Lookups that may start in a second.
    pub lookups_per_second: u32,
    /// Lookups of one client of a server that may find nothing in a second, over a minute.
    #[doc(hidden)]
    pub misses_per_client: u32,
    /// Where nodes are saved between runs.
    pub nodes_file: Option<PathBuf>,
}

impl DhtSettings {
    /// The usual settings, with these nodes to start from: `host:port`. Those of the public DHT are, among
    /// others, `router.bittorrent.com:6881` and `dht.transmissionbt.com:6881`.
    pub fn new<S: Into<String>>(bootstrap: impl IntoIterator<Item = S>) -> Self {
        Self {
            bootstrap: bootstrap.into_iter().map(Into::into).collect(),
            bind_address: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
            lookup_timeout: LOOKUP_TIMEOUT,
            linger: Duration::ZERO,
            lookups_per_second: LOOKUPS_PER_SECOND,
            misses_per_client: MISSES_PER_CLIENT,
            nodes_file: None,
        }
    }
}

/// A DHT client that joins in the background, and again when it falls out. It leaves when it is dropped.
#[derive(Debug)]
pub struct Dht {
    states: watch::Receiver<Vec<State>>,
    /// The instance that the next lookup begins with.
    next: AtomicUsize,
    turns: Arc<Turns>,
    health: Health,
    lookup_timeout: Duration,
    linger: Duration,
    _leave: DropGuard,
}

/// What looking for a key on one instance after the other came to.
struct Search {
    end: Result<End, Failure>,
    /// Nodes that answered.
    answered: u32,
}

/// How the last lookup ended.
enum End {
    /// What was not found does not exist.
    Complete,
    /// Too few answered to tell.
    Poor,
    /// Its time was over.
    BrokenOff,
}

/// How far an instance has come.
#[derive(Debug, Clone, Default)]
struct State {
    /// Usable from the start: a lookup finds its way from the bootstrap nodes.
    node: Option<Arc<Node>>,
    /// Whether the node knows others.
    joined: bool,
    /// Addresses of its routing table, when it was last looked at.
    table: Vec<String>,
    /// Why it is not in the DHT, if it has tried.
    left: Option<String>,
}

impl Dht {
    /// Starts joining. Returns at once; what is asked of it waits until it has joined, within its time.
    ///
    /// # Panics
    /// Outside of a tokio runtime with time and network.
    pub fn join(settings: DhtSettings, hosts: Arc<dyn ResolveHost>) -> Arc<Self> {
        Self::start(settings, hosts, CancellationToken::new())
    }

    /// The same, until `stop`.
    // For the server, all of which ends at one time.
    #[doc(hidden)]
    pub fn start(
        settings: DhtSettings,
        hosts: Arc<dyn ResolveHost>,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let stop = stop.child_token();
        let (sender, states) = watch::channel(vec![State::default(); INSTANCES]);
        let turns = Turns::new(settings.lookups_per_second, settings.misses_per_client);
        let dht = Arc::new(Self {
            states: states.clone(),
            next: AtomicUsize::new(0),
            turns: Arc::new(turns),
            health: Health::default(),
            lookup_timeout: settings.lookup_timeout,
            linger: settings.linger,
            _leave: stop.clone().drop_guard(),
        });
        let hosts = Arc::new(join::Hosts::new(hosts));
        let mut tasks = Vec::<BoxFuture<'static, ()>>::new();
        for number in 0..INSTANCES {
            let (settings, hosts) = (settings.clone(), Arc::clone(&hosts));
            tasks.push(Box::pin(join::keep_joined(
                number,
                settings,
                hosts,
                sender.clone(),
            )));
        }
        let turns = Arc::clone(&dht.turns);
        tasks.push(Box::pin(join::tell_log(states.clone())));
        if let Some(path) = settings.nodes_file {
            tasks.push(Box::pin(async move {
                join::keep_saved(&path, states).await;
            }));
        }
        for task in tasks {
            let stop = stop.clone();
            tokio::spawn(async move { stop.run_until_cancelled(task).await });
        }
        tokio::spawn(async move {
            stop.run_until_cancelled(turns.give()).await;
            // Or those who wait would keep all of this alive.
            turns.close();
        });
        dht
    }

    /// Waits until a node has joined, or all have fallen out, as `joined` says.
    pub async fn becomes(&self, joined: bool) {
        let mut states = self.states.clone();
        // An error means that the tasks have stopped: the state never changes again.
        if states
            .wait_for(|states| any_joined(states) == joined)
            .await
            .is_err()
        {
            std::future::pending::<()>().await;
        }
    }

    /// How the DHT is doing.
    // For `pkbridge status`.
    #[doc(hidden)]
    pub fn status(&self) -> DhtStatus {
        let instances = self
            .states
            .borrow()
            .iter()
            .map(|state| InstanceStatus {
                address: state.node.as_ref().map(|node| node.address()),
                joined: state.joined,
                nodes: state.table.len(),
            })
            .collect();
        let (waiting, refused) = self.turns.counts();
        let lookups = LookupCounts {
            refused,
            waiting: u64::try_from(waiting).unwrap_or(u64::MAX),
            ..self.health.lookups()
        };
        DhtStatus {
            instances,
            lookups,
            answered_share: self.health.answered_share(),
            refused_packets: self.health.refused_packets(),
        }
    }

    /// What the nodes nearest to a key hold of it.
    ///
    /// # Errors
    /// If they cannot be found or asked.
    pub async fn holders(&self, key: PublicKey) -> Result<Vec<Holder>, Failure> {
        self.turns.turn(key, Asker::Refresh).await?;
        let deadline = Instant::now() + self.lookup_timeout;
        let node = self.next_node(deadline).await?;
        let nearest = timeout_at(deadline, node.nearest(key)).await;
        let nodes = nearest
            .unwrap_or_else(|_| Err("it hangs".to_owned()))
            .map_err(Failure::Dht)?;
        let asked = holders::ask(key, &nodes).await;
        asked.map_err(|error| Failure::Dht(error.to_string()))
    }

    /// Whether it has nodes to ask.
    pub(super) fn has_joined(&self) -> bool {
        any_joined(&self.states.borrow())
    }

    /// Waits until a lookup may start.
    ///
    /// # Errors
    /// If it may not.
    pub(super) async fn turn(&self, wanted: Wanted) -> Result<(), Failure> {
        self.turns.turn(wanted.key, wanted.asker).await
    }

    /// Takes in that a lookup has found nothing although somebody answered.
    pub(super) fn missed(&self, asker: Asker) {
        self.turns.missed(asker);
    }

    /// Looks for a packet, in its turn; tells how that ended, and whether nodes answered.
    pub(super) async fn look_up(&self, wanted: Wanted, see: &mut See<'_>) -> (Ending, bool) {
        self.health.started();
        let deadline = Instant::now() + self.lookup_timeout;
        let mut newest = Newest::default();
        let search = self.search(wanted, deadline, &mut newest, see).await;
        self.health.refused(newest.refused());
        let holders = newest.holders();
        let (ending, outcome) = match search.end {
            Ok(_) if newest.is_invalid() => (Ending::Complete(holders), Outcome::Invalid),
            Ok(End::Complete | End::Poor) if !newest.is_empty() => {
                (Ending::Complete(holders), Outcome::Found)
            }
            // What the nodes that were asked last would have said is not known.
            Ok(End::BrokenOff) if !newest.is_empty() => {
                (Ending::Failed(Failure::DhtPoorMiss), Outcome::Found)
            }
            Ok(End::Complete) => (Ending::Complete(holders), Outcome::Absent),
            Ok(End::Poor | End::BrokenOff) => (Ending::Poor, Outcome::TooFewAnswers),
            Err(failure) => (Ending::Failed(failure), Outcome::Failed),
        };
        self.health.ended(outcome);
        (ending, search.answered > 0)
    }

    /// Looks on one instance, and on another if too few nodes answered there.
    async fn search(
        &self,
        wanted: Wanted,
        deadline: Instant,
        newest: &mut Newest,
        see: &mut See<'_>,
    ) -> Search {
        let mut search = Search {
            end: Err(Failure::DhtNotReady),
            answered: 0,
        };
        let mut was_denied = false;
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        for attempt in 0..ATTEMPTS {
            // The second attempt sends as much as the first.
            let turn = async {
                if attempt > 0 {
                    self.turns.turn(wanted.key, wanted.asker).await?;
                }
                self.node(first.wrapping_add(attempt), deadline).await
            };
            let Ok(Ok((node, has_joined))) = timeout_at(deadline, turn).await else {
                break;
            };
            let find = node.find(wanted, self.linger, deadline, newest, see);
            let found = match Isolated::new(find).await {
                Ok(found) => found,
                Err(panic) => {
                    search.end = Err(Failure::Dht(panic));
                    continue;
                }
            };
            let is_usual = self.health.is_usual(found.asked, found.answered);
            self.health.answered(found.asked, found.answered);
            search.answered = search.answered.saturating_add(found.answered);
            // A node that has not joined may know nobody but one that knows nobody. Two lookups by two
            // ways that came to the same are believed, although more were silent; but none where the
            // network has begun to ignore us.
            let is_denied = found.is_denied && is_usual;
            let is_complete = (found.is_complete && is_usual)
                || (found.is_unanimous && has_joined)
                || (is_denied && was_denied);
            was_denied = is_denied;
            search.end = Ok(match is_complete {
                _ if found.is_broken_off => End::BrokenOff,
                true => End::Complete,
                false => End::Poor,
            });
            if is_complete || !newest.is_empty() || found.is_broken_off {
                break;
            }
            if found.is_unanimous {
                // All of them are few: it is about to know more.
                let _ = timeout_at(deadline, self.becomes(true)).await;
            }
        }
        search
    }

    /// The node whose turn it is.
    async fn next_node(&self, deadline: Instant) -> Result<Arc<Node>, Failure> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (node, _) = self.node(number, deadline).await?;
        Ok(node)
    }

    /// A node to look on: the `number`th of those that have joined, or of those that are about to.
    /// Tells whether it has joined.
    async fn node(&self, number: usize, deadline: Instant) -> Result<(Arc<Node>, bool), Failure> {
        let mut states = self.states.clone();
        let built = |states: &Vec<State>| states.iter().any(|state| state.node.is_some());
        let waited = timeout_at(deadline, states.wait_for(built)).await;
        let states = waited.ok().and_then(Result::ok);
        let states = states.ok_or(Failure::DhtNotReady)?;
        let any_joined = any_joined(&states);
        let usable: Vec<_> = states
            .iter()
            .filter(|state| state.joined || !any_joined)
            .filter_map(|state| state.node.as_ref())
            .collect();
        let number = number.checked_rem(usable.len()).unwrap_or_default();
        let node = usable.get(number);
        node.map(|node| (Arc::clone(node), any_joined))
            .ok_or(Failure::DhtNotReady)
    }
}

fn any_joined(states: &[State]) -> bool {
    states.iter().any(|state| state.joined)
}

impl FetchPacket for Dht {
    fn fetch<'a>(&'a self, wanted: Wanted, see: &'a mut See<'_>) -> BoxFuture<'a, Ending> {
        Box::pin(async move {
            if let Err(failure) = self.turn(wanted).await {
                return Ending::Failed(failure);
            }
            let mut is_found = false;
            let mut see = |sighting| {
                is_found = true;
                see(sighting);
            };
            let (ending, is_answered) = self.look_up(wanted, &mut see).await;
            // Where nobody answers the client is not to blame.
            if is_answered && !is_found {
                self.missed(wanted.asker);
            }
            ending
        })
    }

    fn also_wanted(&self, key: PublicKey, asker: Asker) {
        self.turns.also_wanted(key, asker);
    }
}

impl PutPacket for Dht {
    fn put<'a>(&'a self, packet: &'a SignedPacket) -> BoxFuture<'a, Result<u32, Failure>> {
        Box::pin(async move {
            self.turns.turn(packet.key(), Asker::Refresh).await?;
            // It looks for the nodes first.
            let deadline = Instant::now() + self.lookup_timeout * 2;
            let node = self.next_node(deadline).await?;
            let put = timeout_at(deadline, node.publish(packet)).await;
            put.unwrap_or_else(|_| Err("it does not end".to_owned()))
                .map_err(Failure::Dht)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolve::Sighting;

    #[tokio::test]
    async fn whoever_drops_it_has_left() {
        let hosts = Arc::new(());
        let dht = Dht::join(DhtSettings::new(["node.invalid:6881"]), hosts.clone());
        assert!(Arc::strong_count(&hosts) > 1, "its tasks have it");
        drop(dht);
        let left = async {
            while Arc::strong_count(&hosts) > 1 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), left)
            .await
            .unwrap();
    }

    #[test]
    fn it_may_go_to_other_threads() {
        fn goes<T: Send + Sync + 'static>() {}
        goes::<(
            Dht,
            DhtSettings,
            Sighting,
            Holder,
            Published,
            PublishError,
            Failure,
        )>();
    }
}
