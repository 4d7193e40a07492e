//! A node of the DHT library, kept apart: building it, its calls and its threads may block or panic.

use std::future::{Future, poll_fn};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use mainline::async_dht::AsyncDht;
use mainline::errors::PutMutableError;
use mainline::{Id, MutableItem, RequestFilter, RequestSpecific, ServerSettings};
use tokio::time::{Instant, timeout, timeout_at};

use super::INSTANCES;
use super::newest::Newest;
use crate::panics::Isolated;
use crate::pkarr::{PublicKey, SignedPacket};
use crate::resolve::packets::{See, Wanted};

/// How long the library waits for one node. This alone decides when a lookup is complete.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
/// Nodes that must say "I have none" before a lookup with silent nodes counts as completed…
const ENOUGH_ANSWERS: u32 = 8;
/// …and their part of those that were asked, in percent: a fifth to a third is silent at any time, and
/// where many more are, the key's holders may be among them.
const ENOUGH_OF_ASKED: u32 = 50;
/// The same where a second lookup must say so too. Both have our address: nodes that ignore it are silent to
/// both, so that the second proves little by itself.
const ENOUGH_OF_ASKED_TWICE: u32 = 40;
/// How often the library's thread is woken while the node is built.
const WAKE_INTERVAL: Duration = Duration::from_micros(200);
/// Longest wait for the library to answer a question about itself.
const INFO_TIMEOUT: Duration = Duration::from_secs(10);

/// A node of the DHT library: a client on IPv4.
#[derive(Debug)]
pub struct Node {
    dht: AsyncDht,
    waker: Waker,
}

/// Why a packet was not put.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PutError {
    /// Most nodes hold another one than was expected (BEP 44's errors 301 and 302).
    #[error("most nodes hold another packet")]
    Refused,
    /// No node took it.
    #[error("{0}")]
    Failed(String),
}

impl From<String> for PutError {
    fn from(reason: String) -> Self {
        Self::Failed(reason)
    }
}

/// Answers nobody: pkbridge is a client, and no amplifier if the library turns it into a server.
#[derive(Debug, Clone)]
struct DenyAll;

impl RequestFilter for DenyAll {
    fn allow_request(&self, _: &RequestSpecific, _: SocketAddrV4) -> bool {
        false
    }
}

/// How a lookup on one node ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// Whether enough nodes answered to know what there is.
    pub(super) is_complete: bool,
    /// Whether all nodes of a small network have answered.
    pub(super) is_unanimous: bool,
    /// Whether enough nodes said that they have none, if another lookup comes to the same.
    pub(super) is_denied: bool,
    /// Whether its time was over before its end.
    pub(super) is_broken_off: bool,
    /// Nodes that were asked.
    pub(super) asked: u32,
    /// Nodes that answered.
    pub(super) answered: u32,
}

impl Node {
    /// Builds a node that starts from `bootstrap`.
    ///
    /// # Errors
    /// A text, if the socket cannot be bound.
    pub async fn start(bind: SocketAddrV4, bootstrap: Vec<SocketAddrV4>) -> Result<Self, String> {
        let error = |error: std::io::Error| format!("cannot bind {bind}: {error}");
        let bind = free_port(bind).map_err(error)?;
        let mut address = bind;
        if address.ip().is_unspecified() {
            address.set_ip(Ipv4Addr::LOCALHOST);
        }
        let waker = Waker::new(address).map_err(error)?;
        let for_build = waker.again().map_err(error)?;
        // The library waits for its thread inside.
        let build = move || {
            for_build.wake_during(|| {
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
            })
        };
        let build = Isolated::new(async { tokio::task::spawn_blocking(build).await });
        let built = build.await?.map_err(|error| error.to_string())?;
        let dht = built.map_err(error)?;
        Ok(Self {
            dht: dht.as_async(),
            waker,
        })
    }

    /// Waits until it is known whether other nodes answer.
    ///
    /// # Errors
    /// A text, if none does.
    pub async fn join(&self) -> Result<(), String> {
        match self.call(self.dht.bootstrapped()).await? {
            true => Ok(()),
            false => Err("no DHT node answers".to_owned()),
        }
    }

    /// Publishes a packet on the nodes nearest to its key; returns how many took it.
    ///
    /// # Errors
    /// A text, if no node took it.
    pub async fn publish(&self, packet: &SignedPacket) -> Result<u32, String> {
        let put = self.put(packet, None).await;
        put.map_err(|error| error.to_string())
    }

    /// The same by compare-and-swap (BEP 44): a node takes the packet only if it holds one with the
    /// sequence number `replaces`, or none.
    pub(super) async fn put(
        &self,
        packet: &SignedPacket,
        replaces: Option<u64>,
    ) -> Result<u32, PutError> {
        let signed = |seq: u64| i64::try_from(seq).map_err(|error| error.to_string());
        let replaces = replaces.map(signed).transpose()?;
        let seq = signed(packet.seq())?;
        let item = MutableItem::new_signed_unchecked(
            *packet.key().as_bytes(),
            *packet.signature(),
            packet.dns(),
            seq,
            None,
        );
        let put = self.call(self.dht.put_mutable(item, replaces));
        match put.await? {
            Ok(outcome) => Ok(outcome.stored_at),
            Err(PutMutableError::Concurrency(_)) => Err(PutError::Refused),
            Err(PutMutableError::Query(error)) => Err(PutError::Failed(error.to_string())),
        }
    }

    /// Looks for a packet until `deadline`. Calls `see` for the first one, after `linger` if it may be
    /// old, and for each that is newer.
    pub(super) async fn find(
        &self,
        wanted: Wanted,
        linger: Duration,
        deadline: Instant,
        newest: &mut Newest,
        see: &mut See<'_>,
    ) -> Found {
        let mut lookup = self
            .dht
            .get_mutable_detailed(wanted.key.as_bytes(), None, None);
        self.waker.wake();
        // While it is set, what was found is held back.
        let mut linger_until = None::<Instant>;
        loop {
            let until = linger_until.map_or(deadline, |linger| linger.min(deadline));
            match timeout_at(until, lookup.items.next()).await {
                Ok(Some(item)) => {
                    let is_first = newest.is_empty();
                    newest.take(wanted.key, &item);
                    if is_first && !newest.is_empty() && !linger.is_zero() {
                        linger_until = Some(Instant::now() + linger);
                    }
                    if newest.is_surely_new(wanted.known_seq) {
                        linger_until = None;
                    }
                }
                Ok(None) => break,
                Err(_) if linger_until.take().is_some() && Instant::now() < deadline => {}
                Err(_) => {
                    newest.show(see);
                    return Found::BROKEN_OFF;
                }
            }
            if linger_until.is_none() {
                newest.show(see);
            }
        }
        newest.show(see);
        // All nodes have answered or been given up.
        let outcome = lookup.outcome.recv().await;
        tracing::trace!(key = %wanted.key, ?outcome, "lookup ended");
        let answered = outcome.valid_responses();
        Found {
            is_complete: is_enough(answered, outcome.queried, ENOUGH_OF_ASKED),
            is_unanimous: is_unanimous(answered, outcome.queried),
            is_denied: is_enough(answered, outcome.queried, ENOUGH_OF_ASKED_TWICE),
            is_broken_off: false,
            asked: outcome.queried,
            answered: outcome.responded(),
        }
    }

    /// The nodes nearest to a key, which hold its packet if anybody does.
    pub(super) async fn nearest(&self, key: PublicKey) -> Result<Vec<SocketAddrV4>, String> {
        let target = MutableItem::target_from_key(key.as_bytes(), None);
        let nodes = self.call(self.dht.get_closest_nodes(target)).await?;
        Ok(nodes.iter().map(mainline::Node::address).collect())
    }

    /// This host's address, as most of the nodes near a random target see it now; `None` if they do not say.
    pub(super) async fn seen_at(&self) -> Option<Ipv4Addr> {
        // Their answers count votes anew; what the library last knew may be from before a change.
        let _ = self.call(self.dht.find_node(Id::random())).await;
        let info = self.call(self.dht.info()).await.ok()?;
        info.public_address().map(|address| *address.ip())
    }

    /// Addresses of the routing table.
    pub(super) async fn table(&self) -> Result<Vec<String>, String> {
        timeout(INFO_TIMEOUT, self.call(self.dht.to_bootstrap()))
            .await
            .map_err(|_| "the DHT node hangs".to_owned())?
    }

    /// A call of the library, isolated. Whenever it is polled it may have given the thread a command.
    async fn call<T>(&self, call: impl Future<Output = T>) -> Result<T, String> {
        let mut call = Isolated::new(call);
        poll_fn(|context| {
            let polled = Pin::new(&mut call).poll(context);
            if polled.is_pending() {
                self.waker.wake();
            }
            polled
        })
        .await
    }

    /// Where its socket can be reached from this host.
    pub(super) fn address(&self) -> SocketAddrV4 {
        self.waker.address
    }
}

/// The library's thread sleeps up to 50 ms in `recv` before it takes a command; any datagram wakes it,
/// and one byte is no message to it. A lost one costs those 50 ms.
#[derive(Debug)]
struct Waker {
    socket: UdpSocket,
    address: SocketAddrV4,
}

impl Waker {
    fn new(address: SocketAddrV4) -> std::io::Result<Self> {
        let socket = UdpSocket::bind((*address.ip(), 0))?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, address })
    }

    fn wake(&self) {
        self.send(&[0]);
    }

    fn again(&self) -> std::io::Result<Self> {
        Ok(Self {
            socket: self.socket.try_clone()?,
            address: self.address,
        })
    }

    /// Wakes the thread again and again while `call` runs: it may have gone to sleep just before it was
    /// asked something, and timers of the runtime are too coarse for this.
    fn wake_during<T>(&self, call: impl FnOnce() -> T) -> T {
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let wake = || {
                while !is_done.load(Ordering::Relaxed) {
                    self.wake();
                    std::thread::sleep(WAKE_INTERVAL);
                }
            };
            // Without it the call takes up to 50 ms longer.
            let _ = std::thread::Builder::new().spawn_scoped(scope, wake);
            let result = call();
            is_done.store(true, Ordering::Relaxed);
            result
        })
    }

    fn send(&self, datagram: &[u8]) {
        let _ = self.socket.send_to(datagram, self.address);
    }
}

/// The address with a port, so that the thread can be woken before it can be asked for it.
fn free_port(bind: SocketAddrV4) -> std::io::Result<SocketAddrV4> {
    if bind.port() != 0 {
        return Ok(bind);
    }
    let port = UdpSocket::bind(bind)?.local_addr()?.port();
    Ok(SocketAddrV4::new(*bind.ip(), port))
}

impl Found {
    /// It is not known what the nodes that were asked last would have said.
    const BROKEN_OFF: Self = Self {
        is_complete: false,
        is_unanimous: false,
        is_denied: false,
        is_broken_off: true,
        asked: 0,
        answered: 0,
    };
}

/// Whether so many of those that were asked have said that there is nothing, in percent, that it counts.
fn is_enough(answered: u32, asked: u32, percent: u32) -> bool {
    let is_share = answered.saturating_mul(100) >= asked.saturating_mul(percent);
    answered >= ENOUGH_ANSWERS && is_share
}

/// Whether all nodes of a small network have answered. The library's first node of a test network names
/// its clients to others, so that the silent ones may be our own instances.
fn is_unanimous(answered: u32, asked: u32) -> bool {
    let own = u32::try_from(INSTANCES).unwrap_or(u32::MAX);
    let silent = asked.saturating_sub(answered);
    answered > 0 && silent <= own.min(answered - 1)
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
            node.waker.send(&nested);
        }
        // The node has read them before it answers this.
        node.table().await.unwrap();
        node.table().await.unwrap();
    }

    #[test]
    fn what_proves_that_there_is_nothing() {
        let is_complete = |answered, asked| is_enough(answered, asked, ENOUGH_OF_ASKED);
        let is_denied = |answered, asked| is_enough(answered, asked, ENOUGH_OF_ASKED_TWICE);
        assert!(is_complete(8, 16), "enough answered");
        assert!(
            is_denied(8, 20) && !is_denied(9, 24),
            "enough for one of two"
        );
        assert!(!is_complete(7, 12), "too few");
        assert!(!is_complete(10, 21), "too many are silent");
        assert!(
            !is_complete(0, 0) && !is_unanimous(0, 0),
            "nobody was asked"
        );
        assert!(
            is_unanimous(1, 1) && is_unanimous(5, 9),
            "all answered but our own"
        );
        assert!(
            !is_unanimous(1, 2) && !is_unanimous(3, 6) && !is_unanimous(7, 12),
            "too few"
        );
    }
}
