//! UDP: threads of their own read, and answer what needs no lookup, a batch at a time. Lookups are tasks.

mod batch;
mod fast;
#[cfg(test)]
mod tests;

use std::io::{self, PipeReader};
use std::net::UdpSocket;
use std::sync::Arc;
use std::thread;

use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admit::{Asked, Transport};
use super::{CurrentService, Next, reply};
use crate::resolve::{Asker, Ede, Place, Places, ede};
use batch::{BATCH, Inbound, Outbound, Peer};
use fast::{AtHand, AtOnce};

pub(crate) use fast::Plain;

/// Questions of one address that are looked up at once, and of them those of one client (an IPv4 address,
/// or an IPv6 prefix of 64 bits). Beyond it they get SERVFAIL at once.
const MAX_WAITING: usize = 8192;
const MAX_WAITING_OF_CLIENT: usize = MAX_WAITING / 2;
/// Those among them whose lookup has not begun yet, since there is more to do than can be done: whoever
/// comes behind them waits for them all. Beyond it they get SERVFAIL at once, too.
const MAX_QUEUED: usize = 4096;
const MAX_QUEUED_OF_CLIENT: usize = MAX_QUEUED / 4;

/// Serves the sockets of one address until `stop`, each by a thread of its own. Questions in flight are
/// tasks of `tasks`, on the runtime that this is called on.
///
/// # Errors
/// If the system gives no pipe, no thread, or no options for a socket.
pub(crate) fn serve_udp(
    sockets: Vec<UdpSocket>,
    service: &Arc<CurrentService>,
    tasks: &TaskTracker,
    stop: CancellationToken,
) -> io::Result<()> {
    let waiting = Arc::new(Bound::new(MAX_WAITING, MAX_WAITING_OF_CLIENT));
    let queued = Arc::new(Bound::new(MAX_QUEUED, MAX_QUEUED_OF_CLIENT));
    let (stopped, stops) = io::pipe()?;
    for socket in sockets {
        batch::prepare(&socket)?;
        let (replies, ready) = unbounded_channel();
        let sender = socket.try_clone()?;
        tasks.spawn(send_ready(sender, ready));
        let worker = Worker {
            slow: Slow {
                replies,
                waiting: Arc::clone(&waiting),
                queued: Arc::clone(&queued),
                tasks: tasks.clone(),
                runtime: Handle::current(),
            },
            service: arc_swap::Cache::new(Arc::clone(service)),
            stop: stop.clone(),
            stopped: stopped.try_clone()?,
            socket,
        };
        thread::Builder::new()
            .name("udp".to_owned())
            .spawn(move || worker.run())?;
    }
    tokio::spawn(async move {
        stop.cancelled().await;
        drop(stops);
    });
    Ok(())
}

/// A thread that reads one socket.
struct Worker {
    socket: UdpSocket,
    service: arc_swap::Cache<Arc<CurrentService>, Arc<super::Service>>,
    slow: Slow,
    stop: CancellationToken,
    /// Ends when `stop` does, and wakes a thread that waits.
    stopped: PipeReader,
}

impl Worker {
    fn run(mut self) {
        // For the clock, and for what starts tasks.
        let runtime = self.slow.runtime.clone();
        let _guard = runtime.enter();
        let mut inbound = Inbound::new(&self.socket);
        let mut outbound = Outbound::new(&self.socket);
        let mut at_hand = AtHand::new();
        let mut served = Arc::clone(self.service.load());
        loop {
            let count = match inbound.receive(&self.socket) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => {
                    // ICMP errors of earlier replies come up here; they say nothing of the next query.
                    tracing::debug!(%error, "cannot receive");
                    0
                }
            };
            let service = self.service.load();
            if !Arc::ptr_eq(service, &served) {
                served = Arc::clone(service);
                at_hand.clear();
            }
            let now = Instant::now();
            for (message, peer) in inbound.datagrams(count) {
                self.slow
                    .answer(&served, message, peer, now, &mut at_hand, &mut outbound);
            }
            outbound.send(&self.socket);
            // As long as there is more than fits a batch, nothing is waited for.
            let goes_on = match count {
                BATCH => Ok(!self.stop.is_cancelled()),
                _ => batch::wait(&self.socket, &self.stopped),
            };
            match goes_on {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::error!(%error, "cannot wait for queries");
                    return;
                }
            }
        }
    }
}

/// A reply that had to be looked up.
struct Ready {
    bytes: Vec<u8>,
    peer: Peer,
    /// Bounds what is in the channel.
    place: Held,
}

/// A number of places, with a share of them for each client.
struct Bound {
    all: Arc<Semaphore>,
    shares: Arc<Places>,
}

/// A place, until it is dropped.
struct Held {
    _of_all: OwnedSemaphorePermit,
    _share: Place,
}

impl Bound {
    fn new(all: usize, share: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(all)),
            shares: Places::new(share),
        }
    }

    fn take(&self, asker: Asker) -> Option<Held> {
        Some(Held {
            _of_all: Arc::clone(&self.all).try_acquire_owned().ok()?,
            _share: self.shares.take(asker)?,
        })
    }
}

/// The way of the questions that are not answered at once.
struct Slow {
    replies: UnboundedSender<Ready>,
    waiting: Arc<Bound>,
    queued: Arc<Bound>,
    tasks: TaskTracker,
    runtime: Handle,
}

impl Slow {
    fn answer(
        &self,
        service: &Arc<super::Service>,
        message: &[u8],
        peer: Peer,
        now: Instant,
        at_hand: &mut AtHand,
        outbound: &mut Outbound,
    ) {
        let Some(reply) = outbound.next() else {
            return;
        };
        let next = match service.answer_at_once(message, peer.client, now, at_hand, reply) {
            AtOnce::Answered => return outbound.push(peer),
            AtOnce::Missed(asked) => Next::LookUp(asked),
            AtOnce::Another => service.take(message, peer.client, Transport::Udp),
        };
        match next {
            Next::Nothing => {}
            Next::Send(bytes) => {
                reply.clone_from(&bytes);
                outbound.push(peer);
            }
            Next::LookUp(asked) => {
                if let Err(asked) = self.look_up(service, asked, peer) {
                    let busy = Ede::new(ede::NOT_READY, "too many lookups under way");
                    *reply = reply::error(&asked.head, 2, Some(&busy));
                    outbound.push(peer);
                }
            }
        }
    }

    /// Starts a lookup; gives the question back if too many are under way.
    fn look_up(
        &self,
        service: &Arc<super::Service>,
        asked: Box<Asked>,
        peer: Peer,
    ) -> Result<(), Box<Asked>> {
        let places = (
            self.waiting.take(asked.asker),
            self.queued.take(asked.asker),
        );
        let (Some(place), Some(queued)) = places else {
            return Err(asked);
        };
        let (service, replies) = (Arc::clone(service), self.replies.clone());
        let lookup = async move {
            drop(queued);
            let bytes = service.look_up(*asked).await;
            // Nobody is there to send it only when the server has stopped.
            let _ = replies.send(Ready { bytes, peer, place });
        };
        self.tasks.spawn_on(lookup, &self.runtime);
        Ok(())
    }
}

/// Sends what has been looked up, as much as is ready at a time.
async fn send_ready(socket: UdpSocket, mut ready: UnboundedReceiver<Ready>) {
    let (mut replies, mut peers) = (Vec::with_capacity(BATCH), Vec::with_capacity(BATCH));
    let mut places = Vec::with_capacity(BATCH);
    while let Some(first) = ready.recv().await {
        // What else becomes ready in this round goes along.
        tokio::task::yield_now().await;
        let mut next = Some(first);
        while let Some(Ready { bytes, peer, place }) = next {
            replies.push(bytes);
            peers.push(peer);
            places.push(place);
            next = (replies.len() < BATCH)
                .then(|| ready.try_recv().ok())
                .flatten();
        }
        batch::send_all(&socket, &replies, &peers);
        replies.clear();
        peers.clear();
        places.clear();
    }
}
