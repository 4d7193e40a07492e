//! Joining the DHT, staying in it, and what is saved for joining it again.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::SocketAddrV4;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::seq::SliceRandom;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep};

use super::{DhtSettings, Node, ResolveHost, State};

/// Nodes that are saved.
const MAX_SAVED_NODES: usize = 15;
/// Nodes that one instance starts from: with more than its routing table gives for a target, the
/// library asks all of them at each lookup.
const MAX_BOOTSTRAP: usize = 19;
/// First and longest wait before the node is built anew while it finds nobody.
const REBUILD_DELAY: Duration = Duration::from_secs(1);
const MAX_REBUILD_DELAY: Duration = Duration::from_secs(60);
/// How often a joined node's table is looked at.
const HEALTH_INTERVAL: Duration = Duration::from_secs(60);
/// How long after joining it is looked at first: by then it has filled.
const FIRST_LOOK: Duration = Duration::from_secs(5);
/// How often the nodes are saved.
const SAVE_INTERVAL: Duration = Duration::from_secs(15 * 60);

/// The bootstrap nodes that are given by name: looked up once for all instances that start together.
#[derive(Debug)]
pub(super) struct Hosts {
    resolve: Arc<dyn ResolveHost>,
    found: Mutex<Option<(Instant, Vec<SocketAddrV4>)>>,
}

impl Hosts {
    pub(super) fn new(resolve: Arc<dyn ResolveHost>) -> Self {
        Self {
            resolve,
            found: Mutex::new(None),
        }
    }

    async fn resolve(&self, nodes: &[String]) -> Vec<SocketAddrV4> {
        let asked = Instant::now();
        let mut found = self.found.lock().await;
        // Found by another instance while this one waited.
        if let Some((when, addresses)) = &*found
            && *when >= asked
        {
            return addresses.clone();
        }
        let names = nodes
            .iter()
            .filter(|node| node.parse::<SocketAddrV4>().is_err())
            .filter_map(|node| node.rsplit_once(':'));
        let resolved = names.map(|(host, port)| async move {
            let port = port.parse().unwrap_or(0);
            let hosts = self.resolve.resolve_host(host).await;
            hosts.into_iter().map(move |ip| SocketAddrV4::new(ip, port))
        });
        let resolved = futures_util::future::join_all(resolved).await;
        let addresses: Vec<_> = resolved.into_iter().flatten().collect();
        *found = Some((Instant::now(), addresses.clone()));
        addresses
    }
}

/// Keeps one instance in the DHT: builds it, and builds it anew when it is of no more use.
pub(super) async fn keep_joined(
    number: usize,
    settings: DhtSettings,
    hosts: Arc<Hosts>,
    states: watch::Sender<Vec<State>>,
) {
    let mut delay = REBUILD_DELAY;
    // Saved nodes are quicker than names, which the first instance takes as well, so that nobody who
    // once got into the saved ones stays there for good.
    let mut takes_names = number == 0;
    loop {
        let tell = |state: State| {
            states.send_modify(|states| {
                if let Some(own) = states.get_mut(number) {
                    *own = state;
                }
            });
        };
        let addresses = bootstrap_addresses(&settings, &hosts, takes_names).await;
        let left = match join(number, settings.bind_address, addresses, &tell).await {
            Ok(node) => {
                tracing::debug!(number, address = %node.address(), "a DHT node has joined");
                delay = REBUILD_DELAY;
                watch_node(node, &tell).await
            }
            Err(reason) => reason,
        };
        takes_names = true;
        tracing::debug!(number, reason = left, "a DHT node is not in the DHT");
        tell(State {
            left: Some(left),
            ..State::default()
        });
        // Jitter, so that a neighbourhood after a power cut does not come back in step.
        let jitter = rand::rng().random_range(0.8..1.2);
        sleep(delay.mul_f64(jitter)).await;
        delay = (delay * 2).min(MAX_REBUILD_DELAY);
    }
}

/// A node that has joined; lookups can use it before.
async fn join(
    number: usize,
    mut bind: SocketAddrV4,
    addresses: Vec<SocketAddrV4>,
    tell: &impl Fn(State),
) -> Result<Arc<Node>, String> {
    if addresses.is_empty() {
        return Err("no address of a bootstrap node is known".to_owned());
    }
    if bind.port() != 0 {
        let ahead = u16::try_from(number).unwrap_or(0);
        bind.set_port(bind.port().saturating_add(ahead));
    }
    let node = Arc::new(Node::start(bind, addresses).await?);
    tell(State {
        node: Some(Arc::clone(&node)),
        ..State::default()
    });
    node.join().await?;
    tell(State {
        node: Some(Arc::clone(&node)),
        joined: true,
        ..State::default()
    });
    Ok(node)
}

/// Returns, with the reason, when the node is of no more use.
async fn watch_node(node: Arc<Node>, tell: &impl Fn(State)) -> String {
    let mut pause = FIRST_LOOK;
    loop {
        match node.table().await {
            Ok(table) if table.is_empty() => return "the routing table is empty".to_owned(),
            Ok(table) => tell(State {
                node: Some(Arc::clone(&node)),
                joined: true,
                table,
                left: None,
            }),
            Err(reason) => return reason,
        }
        sleep(pause).await;
        pause = HEALTH_INTERVAL;
    }
}

/// Says in the log when the first instance joins and when the last one falls out.
pub(super) async fn tell_log(mut states: watch::Receiver<Vec<State>>) {
    let mut was_in = None;
    loop {
        let (is_in, is_out, left) = {
            let states = states.borrow_and_update();
            let left = states.iter().filter_map(|state| state.left.clone()).next();
            let is_in = states.iter().any(|state| state.joined);
            let is_out = states.iter().all(|state| state.left.is_some());
            (is_in, is_out, left.unwrap_or_default())
        };
        if is_in && was_in != Some(true) {
            tracing::info!("joined the DHT");
            was_in = Some(true);
        }
        if is_out && was_in != Some(false) {
            tracing::warn!(reason = left, "not in the DHT; trying on in the background");
            was_in = Some(false);
        }
        if states.changed().await.is_err() {
            return;
        }
    }
}

/// Saves nodes of all instances: each has another part of the network in its table.
pub(super) async fn keep_saved(path: &Path, mut states: watch::Receiver<Vec<State>>) {
    let mut complained = false;
    loop {
        // An error means that the program stops.
        if states
            .wait_for(|states| states.iter().any(|state| !state.table.is_empty()))
            .await
            .is_err()
        {
            return;
        }
        // More instances may be about to join.
        sleep(FIRST_LOOK).await;
        let mut nodes: Vec<String> = {
            let states = states.borrow();
            let tables = states.iter().flat_map(|state| state.table.iter().cloned());
            tables.collect::<BTreeSet<_>>().into_iter().collect()
        };
        nodes.shuffle(&mut rand::rng());
        nodes.truncate(MAX_SAVED_NODES);
        if nodes.is_empty() {
            continue;
        }
        match save_nodes(path, &nodes).await {
            Ok(()) => complained = false,
            Err(error) if !std::mem::replace(&mut complained, true) => {
                tracing::warn!(path = %path.display(), %error, "cannot save DHT nodes");
            }
            Err(_) => {}
        }
        sleep(SAVE_INTERVAL).await;
    }
}

/// The bootstrap nodes by address, and nodes that were saved.
async fn bootstrap_addresses(
    settings: &DhtSettings,
    hosts: &Hosts,
    takes_names: bool,
) -> Vec<SocketAddrV4> {
    let given = settings.bootstrap.iter();
    let mut addresses: Vec<_> = given.filter_map(|node| node.parse().ok()).collect();
    let saved = match &settings.nodes_file {
        Some(path) => saved_nodes(path).await,
        None => Vec::new(),
    };
    if takes_names || saved.is_empty() {
        addresses.extend(hosts.resolve(&settings.bootstrap).await);
    }
    addresses.extend(saved);
    let mut seen = BTreeSet::new();
    addresses.retain(|address| seen.insert(*address));
    addresses.truncate(MAX_BOOTSTRAP);
    addresses
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
async fn save_nodes(path: &Path, nodes: &[String]) -> std::io::Result<()> {
    let text = nodes.join("\n") + "\n";
    let path = path.to_owned();
    let write = move || {
        let beside = path.with_extension("new");
        let mut file = std::fs::File::create(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, &path)
    };
    tokio::task::spawn_blocking(write)
        .await
        .map_err(std::io::Error::other)?
}
