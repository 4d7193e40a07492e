//! UDP: threads of their own read, answer what needs no lookup a batch at a time, and look up the rest.

mod batch;
mod fast;
#[cfg(test)]
mod tests;
mod threads;

use std::sync::Arc;

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::admit::{Asked, Transport};
use super::{Next, reply};
use crate::resolve::{Asker, Ede, Place, Places, ede};
use batch::{Outbound, Peer};
use fast::AtOnce;

pub use fast::AtHand;
pub(crate) use fast::Plain;
pub(crate) use threads::UdpThreads;

/// Questions of one address that are looked up at once, and of them those of one client (an IPv4 address,
/// or an IPv6 prefix of 64 bits). Beyond it they get SERVFAIL at once.
const MAX_WAITING: usize = 8192;
const MAX_WAITING_OF_CLIENT: usize = MAX_WAITING / 2;
/// Those among them whose lookup has not begun yet, since there is more to do than can be done: whoever
/// comes behind them waits for them all. Beyond it they get SERVFAIL at once, too.
const MAX_QUEUED: usize = 4096;
const MAX_QUEUED_OF_CLIENT: usize = MAX_QUEUED / 4;

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
                    reply.clone_from(&reply::error(&asked.head, 2, Some(&busy)));
                    outbound.push(peer);
                }
            }
        }
    }

    /// Starts a lookup on the thread's own runtime; gives the question back if too many are under way.
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
        self.tasks.spawn(lookup);
        Ok(())
    }
}
