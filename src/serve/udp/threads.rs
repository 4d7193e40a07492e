//! The threads that read UDP sockets, and look up what they cannot answer at once.
//!
//! Each has a runtime of its own, on which nothing waits for another thread. What reads sockets is not a
//! task: the runtime comes back to it after [`TURN`] tasks, so that however many lookups there are, what needs
//! none is answered before them.

use std::cell::RefCell;
use std::io;
use std::net::UdpSocket;
use std::pin::pin;
use std::sync::Arc;
use std::thread;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::runtime::{Builder, Handle, RuntimeFlavor};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::batch::{self, BATCH, Buffers, Inbound, Outbound};
use super::fast::AtHand;
use super::{
    Bound, MAX_QUEUED, MAX_QUEUED_OF_CLIENT, MAX_WAITING, MAX_WAITING_OF_CLIENT, Ready, Slow,
};
use crate::readable::readable;
use crate::serve::{CurrentService, Service};

/// Tasks that run before sockets are looked at again.
const TURN: u32 = 32;
/// Batches that are read from a socket in its turn, at most: so what waits there is drained even while lookups
/// take all the time that there is.
const BATCHES: usize = 8;

/// Threads that read sockets. They end when this is dropped and their sockets are done with.
#[derive(Debug)]
pub(crate) struct UdpThreads {
    threads: Vec<UnboundedSender<Reader>>,
    tasks: TaskTracker,
    /// Where lookups run, if not on the thread that has read the question.
    lookups: Option<Handle>,
}

impl UdpThreads {
    /// Starts `count` threads, which answer from `service`. Questions in flight are of `tasks`. If the
    /// runtime that this is called on has but one thread, whoever made it wants lookups there, and by its
    /// clock.
    ///
    /// # Errors
    /// If the system gives no thread, or no poll.
    pub(crate) fn start(
        count: usize,
        service: &Arc<CurrentService>,
        tasks: &TaskTracker,
    ) -> io::Result<Self> {
        let start = |_| {
            let (sender, readers) = unbounded_channel();
            let service = Arc::clone(service);
            let runtime = Builder::new_current_thread()
                .enable_all()
                .event_interval(TURN)
                .build()?;
            thread::Builder::new()
                .name("udp".to_owned())
                .spawn(move || runtime.block_on(read_all(readers, service)))?;
            Ok(sender)
        };
        Ok(Self {
            threads: (0..count).map(start).collect::<io::Result<_>>()?,
            tasks: tasks.clone(),
            lookups: Some(Handle::current())
                .filter(|runtime| runtime.runtime_flavor() == RuntimeFlavor::CurrentThread),
        })
    }

    /// Serves the sockets of one address until `stop`. There is one for each thread, or one that they share,
    /// or none.
    ///
    /// # Errors
    /// If the system does not give a socket the options that it needs.
    pub(crate) fn serve(
        &self,
        mut sockets: Vec<UdpSocket>,
        stop: &CancellationToken,
    ) -> io::Result<()> {
        let waiting = Arc::new(Bound::new(MAX_WAITING, MAX_WAITING_OF_CLIENT));
        let queued = Arc::new(Bound::new(MAX_QUEUED, MAX_QUEUED_OF_CLIENT));
        sockets.iter().try_for_each(batch::prepare)?;
        let missing = self.threads.len().saturating_sub(sockets.len());
        if let Some(socket) = sockets.first() {
            let shares: io::Result<Vec<_>> = (0..missing).map(|_| socket.try_clone()).collect();
            sockets.extend(shares?);
        }
        for (socket, thread) in sockets.into_iter().zip(&self.threads) {
            let (replies, ready) = unbounded_channel();
            let slow = Slow {
                replies,
                waiting: Arc::clone(&waiting),
                queued: Arc::clone(&queued),
                tasks: self.tasks.clone(),
            };
            // The threads live as long as this.
            let _ = thread.send(Reader {
                socket,
                slow,
                ready,
                lookups: self.lookups.clone(),
                stop: stop.clone(),
            });
        }
        Ok(())
    }
}

/// Reads the sockets that come through `readers`, until no more can come and all are done with.
async fn read_all(mut readers: UnboundedReceiver<Reader>, service: Arc<CurrentService>) {
    let desk = RefCell::new(Desk::new(service));
    let mut running = FuturesUnordered::new();
    let mut may_come = true;
    while may_come || !running.is_empty() {
        tokio::select! {
            reader = readers.recv(), if may_come => match reader {
                Some(reader) => running.push(reader.run(&desk)),
                None => may_come = false,
            },
            Some(()) = running.next() => {}
        }
    }
}

/// What the sockets of one thread share.
struct Desk {
    service: arc_swap::Cache<Arc<CurrentService>, Arc<Service>>,
    /// The service that the answers at hand are of.
    served: Arc<Service>,
    at_hand: AtHand,
    buffers: Buffers,
    outbound: Outbound,
}

impl Desk {
    fn new(service: Arc<CurrentService>) -> Self {
        let mut service = arc_swap::Cache::new(service);
        Self {
            served: Arc::clone(service.load()),
            service,
            at_hand: AtHand::new(),
            buffers: Buffers::new(),
            outbound: Outbound::new(),
        }
    }

    /// Answers what has come, at most a batch, as far as no lookup is needed. Returns whether there may be
    /// more.
    fn answer_batch(&mut self, socket: &UdpSocket, inbound: &mut Inbound, slow: &Slow) -> bool {
        let count = match inbound.receive(socket, &mut self.buffers) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(error) => {
                // ICMP errors of earlier replies come up here; they say nothing of the next query.
                tracing::debug!(%error, "cannot receive");
                return true;
            }
        };
        let service = self.service.load();
        if !Arc::ptr_eq(service, &self.served) {
            self.served = Arc::clone(service);
            self.at_hand.clear();
        }
        let now = Instant::now();
        for (message, peer) in inbound.datagrams(&self.buffers, count) {
            slow.answer(
                &self.served,
                message,
                peer,
                now,
                &mut self.at_hand,
                &mut self.outbound,
            );
        }
        self.outbound.send(socket);
        count == BATCH
    }

    /// Sends what has been looked up, at most a batch.
    fn send(&mut self, socket: &UdpSocket, ready: &mut Vec<Ready>) {
        for Ready { bytes, peer, place } in ready.drain(..) {
            if let Some(reply) = self.outbound.next() {
                // Into its room, which answers at hand need.
                reply.clone_from(&bytes);
                self.outbound.push(peer);
            }
            drop(place);
        }
        self.outbound.send(socket);
    }
}

/// A socket that is read.
struct Reader {
    socket: UdpSocket,
    slow: Slow,
    ready: UnboundedReceiver<Ready>,
    /// As in [`UdpThreads`].
    lookups: Option<Handle>,
    stop: CancellationToken,
}

impl Reader {
    /// Reads until it is told to stop, and then sends what is still being looked up.
    async fn run(self, desk: &RefCell<Desk>) {
        let Self {
            socket,
            slow,
            mut ready,
            lookups,
            stop,
        } = self;
        let _in_flight = slow.tasks.token();
        let socket = match readable(socket) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::error!(%error, "cannot wait for queries");
                return;
            }
        };
        let mut inbound = Inbound::new(socket.get_ref());
        let mut stopped = pin!(stop.cancelled());
        let mut replies = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                biased;
                () = &mut stopped => break,
                count = ready.recv_many(&mut replies, BATCH) => {
                    desk.borrow_mut().send(socket.get_ref(), &mut replies);
                    if count == BATCH {
                        tokio::task::yield_now().await;
                    }
                }
                readable = socket.readable() => {
                    let Ok(mut readable) = readable else {
                        // The runtime ends.
                        return;
                    };
                    let is_more = {
                        let _there = lookups.as_ref().map(Handle::enter);
                        let mut desk = desk.borrow_mut();
                        (0..BATCHES).all(|_| desk.answer_batch(socket.get_ref(), &mut inbound, &slow))
                    };
                    if is_more {
                        tokio::task::yield_now().await;
                    } else {
                        // What comes after this is a new event.
                        readable.clear_ready();
                    }
                }
            }
        }
        drop(slow);
        while ready.recv_many(&mut replies, BATCH).await > 0 {
            desk.borrow_mut().send(socket.get_ref(), &mut replies);
        }
    }
}
