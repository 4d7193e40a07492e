//! The Mainline DHT: finds signed packets. The only user of `mainline`.
//!
//! The library's node is a client on IPv4. Building it, its calls and its threads may block or
//! panic, so they are kept away from the rest: see [`Isolated`].

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use mainline::async_dht::AsyncDht;
use mainline::{GetMutableOutcome, MutableItem, RequestFilter, RequestSpecific, ServerSettings};
use rand::RngExt;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::failure::Failure;
use super::packets::{FetchPacket, Fetched};
use crate::panics::Isolated;
use crate::pkarr::{PacketError, PublicKey, SignedPacket};

/// How long the library waits for one node. This alone decides when a lookup is complete.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
/// How long newer packets are waited for after the first one: the newest came 90 ms after the first
/// at most where a quarter of the nodes held old ones.
const LINGER: Duration = Duration::from_millis(100);
/// Nodes that must hold the same newest packet for the wait to be cut short.
const AGREEMENT: u32 = 3;
/// Lookups at once. Each sends tens of datagrams, and the library's socket buffer is small.
const MAX_LOOKUPS: usize = 32;
/// Nodes that must say "I have none" before a lookup with silent nodes counts as completed.
const ENOUGH_ANSWERS: u32 = 8;
/// Nodes that are saved: with more than the routing table holds, the library asks all of them at
/// each lookup.
const MAX_SAVED_NODES: usize = 15;
/// First and longest wait before the node is built anew while it finds nobody.
const REBUILD_DELAY: Duration = Duration::from_secs(1);
const MAX_REBUILD_DELAY: Duration = Duration::from_secs(60);
/// How often a joined node's table is looked at.
const HEALTH_INTERVAL: Duration = Duration::from_secs(60);
/// How often the nodes are saved, in health intervals.
const SAVE_EVERY: u32 = 15;
/// Longest wait for the library to answer a question about itself.
const INFO_TIMEOUT: Duration = Duration::from_secs(10);

/// Resolves the names of bootstrap nodes, without the system's resolver.
pub trait ResolveHost: Send + Sync + std::fmt::Debug {
    /// The IPv4 addresses of a host; empty if there are none or that is not known.
    fn resolve_host<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Vec<Ipv4Addr>>;
}

/// How to join the DHT.
#[derive(Debug, Clone)]
pub struct DhtSettings {
    /// `host:port` of nodes to start from.
    pub bootstrap: Vec<String>,
    /// The address to bind; port 0 is any.
    pub bind_address: SocketAddrV4,
    /// How long a fetch may take.
    pub lookup_timeout: Duration,
    /// Where nodes are saved between runs.
    pub nodes_file: Option<PathBuf>,
}

/// A DHT client that joins in the background, and again when it falls out.
#[derive(Debug)]
pub struct Dht {
    state: watch::Receiver<State>,
    lookups: Semaphore,
    lookup_timeout: Duration,
}

/// How far joining has come.
#[derive(Debug, Clone, Default)]
struct State {
    /// Usable from the start: a lookup finds its way from the bootstrap nodes.
    node: Option<Arc<Node>>,
    /// Whether the node knows others.
    joined: bool,
}

/// A node of the DHT library.
#[derive(Debug)]
pub struct Node {
    dht: AsyncDht,
    address: SocketAddrV4,
    waker: UdpSocket,
}

/// Answers nobody: pkbridge is a client, and no amplifier if the library turns it into a server.
#[derive(Debug, Clone)]
struct DenyAll;

impl RequestFilter for DenyAll {
    fn allow_request(&self, _: &RequestSpecific, _: SocketAddrV4) -> bool {
        false
    }
}

impl Dht {
    /// Starts joining. Returns at once; lookups wait for it within their time.
    pub fn start(
        settings: DhtSettings,
        hosts: Arc<dyn ResolveHost>,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let (sender, state) = watch::channel(State::default());
        let lookup_timeout = settings.lookup_timeout;
        tokio::spawn(async move {
            stop.run_until_cancelled(keep_joined(settings, hosts, sender))
                .await;
        });
        Arc::new(Self {
            state,
            lookups: Semaphore::new(MAX_LOOKUPS),
            lookup_timeout,
        })
    }

    /// Waits until the node has joined, or has fallen out, as `joined` says.
    pub async fn becomes(&self, joined: bool) {
        let mut state = self.state.clone();
        // An error means that the task has stopped: the state never changes again.
        if state
            .wait_for(|state| state.joined == joined)
            .await
            .is_err()
        {
            std::future::pending::<()>().await;
        }
    }

    async fn look_up(&self, key: PublicKey) -> Fetched {
        let deadline = Instant::now() + self.lookup_timeout;
        let mut state = self.state.clone();
        let built = timeout_at(deadline, state.wait_for(|state| state.node.is_some())).await;
        let Some(node) = built
            .ok()
            .and_then(Result::ok)
            .and_then(|state| state.node.clone())
        else {
            return Fetched::Failed(Failure::DhtNotReady);
        };
        let Ok(Ok(_permit)) = timeout_at(deadline, self.lookups.acquire()).await else {
            return Fetched::Failed(Failure::Overloaded);
        };
        match Isolated::new(node.newest(key, deadline)).await {
            Ok(fetched) => fetched,
            Err(panic) => Fetched::Failed(Failure::Dht(panic)),
        }
    }
}

impl FetchPacket for Dht {
    fn fetch(&self, key: PublicKey) -> BoxFuture<'_, Fetched> {
        Box::pin(self.look_up(key))
    }
}

/// The newest of what a lookup has shown so far.
#[derive(Default)]
struct Newest {
    packet: Option<SignedPacket>,
    /// Nodes that gave this very packet.
    agreeing: u32,
    invalid: Option<(u64, PacketError)>,
}

impl Newest {
    fn take(&mut self, key: PublicKey, item: &MutableItem) {
        let Ok(seq) = u64::try_from(item.seq()) else {
            return;
        };
        if let Some(held) = &self.packet
            && (held.seq(), held.dns()) == (seq, item.value())
        {
            self.agreeing += 1;
            return;
        }
        match SignedPacket::verify(key, item.signature(), seq, item.value()) {
            Ok(packet) => {
                if self
                    .packet
                    .as_ref()
                    .is_none_or(|held| packet.is_newer_than(held))
                {
                    (self.packet, self.agreeing) = (Some(packet), 1);
                }
            }
            Err(error) if error.is_signed() => {
                if self.invalid.as_ref().is_none_or(|(held, _)| seq > *held) {
                    self.invalid = Some((seq, error));
                }
            }
            Err(error) => tracing::debug!(%key, %error, "a DHT item is refused"),
        }
    }

    fn is_empty(&self) -> bool {
        self.packet.is_none() && self.invalid.is_none()
    }

    fn is_agreed(&self) -> bool {
        self.agreeing >= AGREEMENT && self.invalid.is_none()
    }

    fn into_fetched(self) -> Option<Fetched> {
        match (self.packet, self.invalid) {
            (Some(packet), Some((seq, error))) if seq > packet.seq() => Some((seq, error)),
            (Some(packet), _) => return Some(Fetched::Packet(packet)),
            (None, invalid) => invalid,
        }
        .map(|(seq, error)| Fetched::Invalid {
            seq,
            reason: error.to_string(),
        })
    }
}

impl Node {
    /// Builds a node that starts from `bootstrap`.
    ///
    /// # Errors
    /// A text, if the socket cannot be bound.
    pub async fn start(bind: SocketAddrV4, bootstrap: Vec<SocketAddrV4>) -> Result<Self, String> {
        // The library waits for its thread inside.
        let build = move || {
            mainline::Dht::builder()
                .bootstrap(&bootstrap)
                .bind_address(*bind.ip())
                .port(bind.port())
                .request_timeout(REQUEST_TIMEOUT)
                .server_settings(ServerSettings {
                    filter: Box::new(DenyAll),
                    ..ServerSettings::default()
                })
                .build()
        };
        let build = Isolated::new(async { tokio::task::spawn_blocking(build).await });
        let dht = build
            .await?
            .map_err(|error| error.to_string())?
            .map_err(|error| format!("cannot bind {bind}: {error}"))?
            .as_async();
        let info = Isolated::new(dht.info()).await?;
        let mut address = info.local_addr();
        if address.ip().is_unspecified() {
            address.set_ip(Ipv4Addr::LOCALHOST);
        }
        let waker = UdpSocket::bind((*address.ip(), 0)).map_err(|error| error.to_string())?;
        waker
            .set_nonblocking(true)
            .map_err(|error| error.to_string())?;
        Ok(Self {
            dht,
            address,
            waker,
        })
    }

    /// Waits until it is known whether other nodes answer.
    ///
    /// # Errors
    /// A text, if none does.
    pub async fn join(&self) -> Result<(), String> {
        let joined = Isolated::new(self.dht.bootstrapped());
        self.wake();
        match joined.await? {
            true => Ok(()),
            false => Err("no DHT node answers".to_owned()),
        }
    }

    /// Publishes a packet on the nodes nearest to its key; returns how many took it.
    ///
    /// # Errors
    /// A text, if no node took it.
    pub async fn publish(&self, packet: &SignedPacket) -> Result<u32, String> {
        let seq = i64::try_from(packet.seq()).map_err(|error| error.to_string())?;
        let item = MutableItem::new_signed_unchecked(
            *packet.key().as_bytes(),
            *packet.signature(),
            packet.dns(),
            seq,
            None,
        );
        let put = Isolated::new(self.dht.put_mutable(item, None));
        self.wake();
        let outcome = put.await?.map_err(|error| error.to_string())?;
        Ok(outcome.stored_at)
    }

    async fn newest(&self, key: PublicKey, deadline: Instant) -> Fetched {
        let mut lookup = self.dht.get_mutable_detailed(key.as_bytes(), None, None);
        self.wake();
        let mut newest = Newest::default();
        let mut until = deadline;
        loop {
            match timeout_at(until, lookup.items.next()).await {
                Ok(Some(item)) => {
                    let first = newest.is_empty();
                    newest.take(key, &item);
                    if newest.is_agreed() {
                        break;
                    }
                    if first && !newest.is_empty() {
                        until = deadline.min(Instant::now() + LINGER);
                    }
                }
                // All nodes have answered or been given up.
                Ok(None) => break,
                Err(_) => {
                    let late = Fetched::Failed(Failure::DhtPoorMiss);
                    return newest.into_fetched().unwrap_or(late);
                }
            }
        }
        if let Some(fetched) = newest.into_fetched() {
            return fetched;
        }
        let outcome = lookup.outcome.recv().await;
        tracing::debug!(%key, ?outcome, "no packet found");
        if is_complete(&outcome) {
            Fetched::Absent
        } else {
            Fetched::Failed(Failure::DhtPoorMiss)
        }
    }

    /// Saved for the next start: addresses of the routing table.
    async fn table(&self) -> Result<Vec<String>, String> {
        let table = Isolated::new(self.dht.to_bootstrap());
        self.wake();
        timeout(INFO_TIMEOUT, table)
            .await
            .map_err(|_| "the DHT node hangs".to_owned())?
    }

    /// The library's thread sleeps up to 50 ms in `recv` before it takes a command; any datagram
    /// wakes it, and one byte is no message to it. A lost one costs those 50 ms.
    fn wake(&self) {
        let _ = self.waker.send_to(&[0], self.address);
    }
}

/// Whether a lookup that found nothing proves that there is nothing: enough nodes said so, or all of
/// them (a small private network).
fn is_complete(outcome: &GetMutableOutcome) -> bool {
    let answered = outcome.valid_responses();
    answered >= ENOUGH_ANSWERS || (answered > 0 && answered == outcome.queried)
}

async fn keep_joined(
    settings: DhtSettings,
    hosts: Arc<dyn ResolveHost>,
    state: watch::Sender<State>,
) {
    let mut delay = REBUILD_DELAY;
    let mut complained = false;
    loop {
        let left = match join(&settings, hosts.as_ref(), &state).await {
            Ok(node) => {
                tracing::info!(address = %node.address, "joined the DHT");
                let joined = State {
                    node: Some(Arc::clone(&node)),
                    joined: true,
                };
                state.send_replace(joined);
                (delay, complained) = (REBUILD_DELAY, false);
                watch_node(&node, settings.nodes_file.as_deref()).await
            }
            Err(reason) => reason,
        };
        state.send_replace(State::default());
        if complained {
            tracing::debug!(reason = left, "not in the DHT");
        } else {
            tracing::warn!(reason = left, "not in the DHT; trying on in the background");
            complained = true;
        }
        // Jitter, so that a neighbourhood after a power cut does not come back in step.
        let jitter = rand::rng().random_range(0.8..1.2);
        sleep(delay.mul_f64(jitter)).await;
        delay = (delay * 2).min(MAX_REBUILD_DELAY);
    }
}

/// A node that has joined; lookups can use it before.
async fn join(
    settings: &DhtSettings,
    hosts: &dyn ResolveHost,
    state: &watch::Sender<State>,
) -> Result<Arc<Node>, String> {
    let addresses = bootstrap_addresses(settings, hosts).await;
    if addresses.is_empty() {
        return Err("no address of a bootstrap node is known".to_owned());
    }
    let node = Arc::new(Node::start(settings.bind_address, addresses).await?);
    state.send_replace(State {
        node: Some(Arc::clone(&node)),
        joined: false,
    });
    node.join().await?;
    Ok(node)
}

/// Returns, with the reason, when the node is of no more use.
async fn watch_node(node: &Node, nodes_file: Option<&Path>) -> String {
    let mut round = 0_u32;
    let mut complained = false;
    loop {
        match node.table().await {
            Ok(table) if table.is_empty() => return "the routing table is empty".to_owned(),
            Ok(table) => {
                if let Some(path) = nodes_file
                    && round.is_multiple_of(SAVE_EVERY)
                    && let Err(error) = save_nodes(path, &table).await
                    && !std::mem::replace(&mut complained, true)
                {
                    tracing::warn!(path = %path.display(), %error, "cannot save DHT nodes");
                }
            }
            Err(reason) => return reason,
        }
        round = round.wrapping_add(1);
        sleep(HEALTH_INTERVAL).await;
    }
}

/// The bootstrap nodes by address, and the nodes that were saved.
async fn bootstrap_addresses(settings: &DhtSettings, hosts: &dyn ResolveHost) -> Vec<SocketAddrV4> {
    let mut addresses = BTreeSet::new();
    let mut names = Vec::new();
    for node in &settings.bootstrap {
        match node.parse::<SocketAddrV4>() {
            Ok(address) => {
                addresses.insert(address);
            }
            Err(_) => names.extend(node.rsplit_once(':')),
        }
    }
    let resolved = names.into_iter().map(|(host, port)| async move {
        let port = port.parse().unwrap_or(0);
        let hosts = hosts.resolve_host(host).await;
        hosts.into_iter().map(move |ip| SocketAddrV4::new(ip, port))
    });
    for found in futures_util::future::join_all(resolved).await {
        addresses.extend(found);
    }
    if let Some(path) = &settings.nodes_file {
        addresses.extend(saved_nodes(path).await);
    }
    addresses.into_iter().collect()
}

/// One `address:port` a line; whatever else stands there is passed over.
async fn saved_nodes(path: &Path) -> Vec<SocketAddrV4> {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(path));
    let text = read.await.ok().and_then(Result::ok).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.parse().ok())
        .take(MAX_SAVED_NODES)
        .collect()
}

/// Written beside and renamed, so that a power cut leaves the old file or the new one.
async fn save_nodes(path: &Path, table: &[String]) -> std::io::Result<()> {
    let table = table.get(..MAX_SAVED_NODES).unwrap_or(table);
    let text = table.join("\n") + "\n";
    let path = path.to_owned();
    let write = move || {
        let beside = path.with_extension("new");
        std::fs::write(&beside, text)?;
        std::fs::rename(&beside, &path)
    };
    tokio::task::spawn_blocking(write)
        .await
        .map_err(std::io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The library decodes bencode by recursion: without enough stack a datagram like these ends the
    /// process. `RUST_MIN_STACK` gives it 8 MiB, in .cargo/config.toml and in the service unit.
    #[tokio::test]
    async fn deeply_nested_datagrams_do_not_end_the_process() {
        let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        let node = Node::start(any, vec![any]).await.unwrap();
        for nested in [
            b"l".repeat(2047),
            b"d1:a".repeat(511),
            [b"d1:r".as_slice(), &b"l".repeat(2043)].concat(),
            [b"d1:rd6:values".as_slice(), &b"l".repeat(2034)].concat(),
        ] {
            node.waker.send_to(&nested, node.address).unwrap();
        }
        // The node has read them before it answers this.
        node.table().await.unwrap();
        node.table().await.unwrap();
    }

    #[test]
    fn what_proves_that_there_is_nothing() {
        let complete = |queried, no_values, invalid_values| {
            is_complete(&GetMutableOutcome {
                queried,
                no_values,
                invalid_values,
                ..GetMutableOutcome::default()
            })
        };
        assert!(complete(3, 3, 0), "a small network, all answered");
        assert!(complete(40, 8, 0), "enough answered");
        assert!(!complete(40, 7, 0), "too few");
        assert!(!complete(0, 0, 0), "nobody was asked");
        assert!(!complete(3, 2, 1), "one held something that is not right");
    }
}
