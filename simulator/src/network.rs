//! The running network: a socket for each node, and replies that come when their round trip is over.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::protocol::{self, Item, Put, Query, Refusal, Reply, Request, Shown};
use crate::sockets;
use crate::table::{self, Id};
use crate::trace::{Answer, ExchangeKey, Trace, Tracer};
use crate::traffic::{Kind, Peaks, Traffic};
use crate::world::{self, Role, Settings, World};

/// The longest datagram that is read whole. A `put` of the largest value has about 1,300 bytes.
const MAX_DATAGRAM: usize = 2_048;

/// Datagrams that a node reads before others have their turn.
const BATCH: usize = 32;

/// Replies that may be under way at once: with a round trip of 100 ms, those of 655,360 requests a
/// second. What is over it is not sent, and counted.
const MAX_UNDER_WAY: usize = 65_536;

/// Keys whose items are kept, by wire or directly; an item takes about 2 KB with its holders.
const MAX_KEYS: usize = 262_144;

/// A network of nodes that answer on loopback addresses of their own, until it is dropped.
///
/// A thread of its own drives it: neither a busy nor a paused runtime changes its round trips.
#[derive(Debug)]
pub struct Network {
    shared: Arc<Shared>,
    /// Dropped to stop the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What the nodes and the network's owner share.
#[derive(Debug)]
struct Shared {
    settings: Settings,
    world: World,
    port: u16,
    state: Mutex<State>,
}

/// What changes while the network runs.
#[derive(Debug)]
struct State {
    /// By target and place of the holder.
    items: HashMap<Id, BTreeMap<usize, Arc<Item>>>,
    silent: bool,
    under_way: usize,
    traffic: Traffic,
    peaks: Peaks,
    tracer: Tracer,
}

/// A reply that waits for its round trip to be over.
#[derive(Debug)]
struct Delivery {
    datagram: Vec<u8>,
    to: SocketAddrV4,
    due: Instant,
    kind: Kind,
    trace: Option<(ExchangeKey, Answer)>,
}

impl Network {
    /// Makes the nodes and binds their sockets.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for settings that make no network; otherwise what the system says, most likely
    /// that the limit of open files is too low: each node needs one.
    pub async fn start(settings: Settings) -> io::Result<Self> {
        let (ready, started) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("dht-simulator".to_owned())
            .spawn(move || drive(settings, ready, stopped))?;
        let ended = |_| io::Error::other("the simulator's thread ended at its start");
        let shared = started.await.map_err(ended)??;
        Ok(Self {
            shared,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// A few live honest nodes for clients to start from.
    pub fn bootstrap(&self) -> Vec<SocketAddrV4> {
        let places = self.shared.world.bootstrap().into_iter();
        places.map(|place| self.shared.address(place)).collect()
    }

    /// Gives an item to the [`HOLDERS`](crate::HOLDERS) live honest nodes nearest to its target, in
    /// place of what they hold of that key, without traffic and unverified. Returns how many took it:
    /// none when the value is over [`MAX_VALUE`](crate::MAX_VALUE) or there are 262,144 keys already.
    pub fn store(&self, item: &Item) -> usize {
        self.store_on(item, |_| true)
    }

    /// Gives an item to some of the nodes that [`Network::store`] gives it to: those whose rank (0 is
    /// the nearest) passes. So an older item stays on the others.
    pub fn store_on(&self, item: &Item, mut takes: impl FnMut(usize) -> bool) -> usize {
        let target = Id::from(item.target());
        let holders = self.shared.world.holders(target).into_iter().enumerate();
        let places = holders.filter(|(rank, _)| takes(*rank));
        let places: Vec<usize> = places.map(|(_, place)| place).collect();
        let mut state = self.shared.state();
        if item.value.len() > protocol::MAX_VALUE || !state.has_room(target) {
            return 0;
        }
        let item = Arc::new(item.clone());
        let held = state.items.entry(target).or_default();
        held.extend(places.iter().map(|place| (*place, Arc::clone(&item))));
        places.len()
    }

    /// How many nodes hold an item of that key, by its `seq`.
    pub fn holders(&self, key: &[u8; 32]) -> BTreeMap<i64, usize> {
        let state = self.shared.state();
        let held = state.items.get(&Id::from(protocol::target(key)));
        let mut holders = BTreeMap::new();
        for item in held.into_iter().flat_map(BTreeMap::values) {
            *holders.entry(item.seq).or_default() += 1;
        }
        holders
    }

    /// Makes all nodes silent, as in an outage, or lets them answer again. What was asked meanwhile is
    /// never answered, nor are replies delivered that were under way.
    pub fn set_silent(&self, silent: bool) {
        self.shared.state().silent = silent;
    }

    /// Messages since the start.
    pub fn traffic(&self) -> Traffic {
        self.shared.state().traffic.clone()
    }

    /// The lookups since the last time, finished or not; none without [`Settings::trace`]. At most
    /// 16,384 are kept; see [`Traffic::untraced`].
    pub fn take_traces(&self) -> Vec<Trace> {
        self.shared.state().tracer.take()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It ends at once, and with it all sockets are closed. A panic of it was reported already.
            let _ = thread.join();
        }
    }
}

/// The network's thread.
fn drive(
    settings: Settings,
    ready: oneshot::Sender<io::Result<Arc<Shared>>>,
    stopped: oneshot::Receiver<()>,
) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let opened = builder.enable_all().build().and_then(|runtime| {
        let opened = runtime.block_on(async { open(settings) })?;
        Ok((runtime, opened))
    });
    match opened {
        Ok((runtime, shared)) => {
            if ready.send(Ok(shared)).is_ok() {
                // An error says that the other end is gone, which is the signal.
                let _ = runtime.block_on(stopped);
            }
        }
        Err(error) => {
            // Without a receiver, nobody wants the network any more.
            let _ = ready.send(Err(error));
        }
    }
}

/// Makes the nodes, and a task for each that answers its requests.
fn open(settings: Settings) -> io::Result<Arc<Shared>> {
    let world = World::new(&settings)?;
    let (port, sockets) = sockets::bind(settings.nodes, settings.port)?;
    let state = State {
        items: HashMap::new(),
        silent: false,
        under_way: 0,
        traffic: Traffic::default(),
        peaks: Peaks::default(),
        tracer: Tracer::new(settings.trace),
    };
    let shared = Arc::new(Shared {
        settings,
        world,
        port,
        state: Mutex::new(state),
    });
    for (place, socket) in sockets.into_iter().enumerate() {
        let socket = UdpSocket::from_std(socket)?;
        tokio::spawn(serve(Arc::clone(&shared), place, socket));
    }
    Ok(shared)
}

/// Answers the requests to one node.
async fn serve(shared: Arc<Shared>, place: usize, socket: UdpSocket) {
    let socket = Arc::new(socket);
    let seed = shared.world.nodes.get(place).map(|node| node.seed);
    let mut draws = StdRng::seed_from_u64(seed.unwrap_or_default());
    while socket.readable().await.is_ok() {
        let mut buffer = [0; MAX_DATAGRAM];
        for _ in 0..BATCH {
            let Ok((length, SocketAddr::V4(from))) = socket.try_recv_from(&mut buffer) else {
                break;
            };
            let datagram = buffer.get(..length).unwrap_or_default();
            if let Some(delivery) = shared.receive(place, &mut draws, datagram, from) {
                let (shared, socket) = (Arc::clone(&shared), Arc::clone(&socket));
                tokio::spawn(deliver(shared, socket, delivery));
            }
        }
    }
}

/// Sends a reply when it is due.
async fn deliver(shared: Arc<Shared>, socket: Arc<UdpSocket>, delivery: Delivery) {
    tokio::time::sleep_until(delivery.due).await;
    let Delivery {
        datagram,
        to,
        kind,
        trace,
        ..
    } = delivery;
    // Counted first: whoever has the reply may look at the counts at once.
    if shared.state().deliver(kind, trace) {
        // A client that is gone misses nothing.
        let _ = socket.send_to(&datagram, to).await;
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each change leaves the state whole, so what a panic left behind is good.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn address(&self, place: usize) -> SocketAddrV4 {
        world::address(place, self.port)
    }

    /// Takes a datagram; gives the reply to be delivered, if there is to be one.
    fn receive(
        &self,
        place: usize,
        draws: &mut StdRng,
        datagram: &[u8],
        from: SocketAddrV4,
    ) -> Option<Delivery> {
        let node = self.world.nodes.get(place)?;
        let id = *self.world.ids.get(place)?;
        let Some(request) = Request::read(datagram) else {
            self.state().traffic.ignored += 1;
            return None;
        };
        let now = Instant::now();
        let kind = Kind::of(&request.query);
        let (silent, key) = self.state().receive(place, from, &request, now);
        if silent || node.role == Role::Dead {
            return None;
        }
        // Both are drawn for every request, so that the next ones do not depend on this one's fate.
        let round_trip = self.round_trip(draws);
        let lost = draws.random_bool(self.settings.loss);
        let transaction = request.transaction;
        let mut answer = Answer {
            round_trip,
            names: Vec::new(),
            seq: None,
        };
        let reply = request
            .query
            .and_then(|query| self.answer(place, &query, from, &mut answer));
        let datagram = match reply {
            Ok(datagram) => datagram.write(id, transaction, from),
            Err(refusal) => refusal.write(transaction, from),
        };
        if lost || !self.state().reserve() {
            return None;
        }
        Some(Delivery {
            datagram,
            to: from,
            due: now + round_trip,
            kind,
            trace: key.map(|key| (key, answer)),
        })
    }

    fn round_trip(&self, draws: &mut StdRng) -> Duration {
        let Settings {
            round_trip, jitter, ..
        } = self.settings;
        draws.random_range(round_trip.saturating_sub(jitter)..=round_trip + jitter)
    }

    /// What a live node replies; `answer` learns what matters to a trace.
    fn answer(
        &self,
        place: usize,
        query: &Query<'_>,
        from: SocketAddrV4,
        answer: &mut Answer,
    ) -> Result<Reply, Refusal> {
        let mut reply = Reply::default();
        match query {
            Query::Ping => {}
            Query::FindNode { target } => {
                (reply.nodes, answer.names) = self.near(place, *target);
            }
            Query::GetPeers { target } => {
                (reply.nodes, answer.names) = self.near(place, *target);
                reply.token = Some(self.token(place, from));
            }
            Query::Get { target, seq } => {
                (reply.nodes, answer.names) = self.near(place, *target);
                reply.token = Some(self.token(place, from));
                let item = self.state().item(place, *target);
                reply.item = item.map(|item| match seq {
                    // BEP 44: the requester has this version, or a newer one.
                    Some(seq) if item.seq <= *seq => Shown::SeqAlone(item.seq),
                    Some(_) | None => Shown::Whole(item),
                });
                if let Some(Shown::Whole(item)) = &reply.item {
                    answer.seq = Some(item.seq);
                }
            }
            Query::Put(put) => self.put(place, put, from)?,
        }
        Ok(reply)
    }

    /// The nodes that a node names for a target, and the places of those that exist.
    fn near(&self, place: usize, target: Id) -> (Option<Vec<(Id, SocketAddrV4)>>, Vec<usize>) {
        let count = self.settings.bucket;
        let Some(node) = self.world.nodes.get(place) else {
            return (None, Vec::new());
        };
        if node.role == Role::Poisoner {
            let nodes = world::invented(node.seed, target, count, self.port);
            return (Some(nodes), Vec::new());
        }
        let contacts = node.contacts.iter().copied();
        let places = table::nearest(&self.world.ids, contacts, target, count);
        let node = |place: &usize| Some((*self.world.ids.get(*place)?, self.address(*place)));
        (Some(places.iter().filter_map(node).collect()), places)
    }

    /// What a client must show to put: it depends on the node and the client's address (BEP 5).
    fn token(&self, place: usize, client: SocketAddrV4) -> [u8; 8] {
        let mut hasher = DefaultHasher::new();
        (self.settings.seed, place, client.ip()).hash(&mut hasher);
        hasher.finish().to_be_bytes()
    }

    /// Stores an item as BEP 44 wants it. Poisoners only pretend to.
    fn put(&self, place: usize, put: &Put<'_>, from: SocketAddrV4) -> Result<(), Refusal> {
        if put.token != self.token(place, from) {
            return Err(Refusal::TOKEN);
        }
        if !put.item.is_signed() {
            return Err(Refusal::SIGNATURE);
        }
        let target = Id::from(put.item.target());
        let mut state = self.state();
        if let Some(held) = state.item(place, target) {
            if put.cas.is_some_and(|cas| cas != held.seq) {
                return Err(Refusal::CAS);
            }
            let same = put.item.seq == held.seq && put.item.value == held.value;
            if put.item.seq <= held.seq && !same {
                return Err(Refusal::SEQ);
            }
        }
        if !state.has_room(target) {
            return Err(Refusal::FULL);
        }
        let honest = |node: &world::Node| node.role == Role::Honest;
        if self.world.nodes.get(place).is_some_and(honest) {
            let held = state.items.entry(target).or_default();
            held.insert(place, Arc::new(put.item.clone()));
        }
        Ok(())
    }
}

impl State {
    /// Counts a request; says whether the network is silent, and under what the request is traced.
    fn receive(
        &mut self,
        place: usize,
        from: SocketAddrV4,
        request: &Request<'_>,
        now: Instant,
    ) -> (bool, Option<ExchangeKey>) {
        self.traffic.received.add(Kind::of(&request.query));
        let clients = &mut self.traffic.clients;
        self.peaks.add(clients, from, place, now);
        let key = match request.query {
            Ok(Query::Get { target, .. }) => self.tracer.asked(from, target, place, now),
            Ok(Query::Ping | Query::FindNode { .. } | Query::GetPeers { .. } | Query::Put(_))
            | Err(_) => None,
        };
        self.traffic.untraced = self.tracer.untraced;
        (self.silent, key)
    }

    /// Whether one more reply may be under way; if so, it is.
    fn reserve(&mut self) -> bool {
        let free = self.under_way < MAX_UNDER_WAY;
        if free {
            self.under_way += 1;
        } else {
            self.traffic.overflowed += 1;
        }
        free
    }

    /// Counts a reply that is due; says whether it is to be sent.
    fn deliver(&mut self, kind: Kind, trace: Option<(ExchangeKey, Answer)>) -> bool {
        self.under_way -= 1;
        if self.silent {
            return false;
        }
        self.traffic.answered.add(kind);
        if let Some((key, answer)) = trace {
            self.tracer.answered(key, answer);
        }
        true
    }

    /// What a node holds for a target.
    fn item(&self, place: usize, target: Id) -> Option<Arc<Item>> {
        self.items.get(&target)?.get(&place).cloned()
    }

    /// Whether an item of that target can be kept.
    fn has_room(&self, target: Id) -> bool {
        self.items.len() < MAX_KEYS || self.items.contains_key(&target)
    }
}

#[cfg(test)]
mod tests;
