//! How clients are served: a message enters, is admitted, is resolved, is written, leaves.

mod access;
mod admit;
mod reply;
mod stream;
pub mod systemd;
mod udp;

use std::net::SocketAddr;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use tokio::time::Instant;

use crate::resolve::Resolver;
use access::{Access, RefusalLimit};
use admit::{Admission, Asked, Transport, admit};

pub(crate) use stream::{Places, serve_tcp};
pub(crate) use udp::serve_udp;

/// Questions from UDP clients that wait for a lookup at once. Beyond it they get SERVFAIL at once.
const MAX_WAITING: usize = 4096;

/// What answers clients. Replaced as a whole on reload.
#[derive(Debug)]
pub(crate) struct Service {
    access: Access,
    refusals: RefusalLimit,
    resolver: Resolver,
}

/// The service in force; shared by all sockets.
pub(crate) type CurrentService = ArcSwap<Service>;

/// What is to be done for a message.
#[derive(Debug)]
enum Next {
    Nothing,
    Send(Vec<u8>),
    /// Not in the cache: [`Service::look_up`].
    LookUp(Box<Asked>),
}

impl Service {
    /// A service for clients of the networks `allow`.
    ///
    /// # Errors
    /// A text, if there are none.
    pub(crate) fn new(allow: &[IpNet], resolver: Resolver) -> Result<Self, String> {
        Ok(Self {
            access: Access::new(allow)?,
            refusals: RefusalLimit::new(),
            resolver,
        })
    }

    /// All that can be done at once.
    fn take(&self, message: &[u8], client: SocketAddr, transport: Transport) -> Next {
        let served = self.access.allows(client.ip());
        let may_refuse = || self.refusals.permits(client.ip());
        match admit(message, client, transport, served, may_refuse) {
            Admission::Drop => Next::Nothing,
            Admission::Reply(reply) => Next::Send(reply),
            Admission::Question(asked) => {
                tracing::debug!(%client, ?transport, question = ?asked.question, "asked");
                match self.resolver.cached(&asked.question.cache_key()) {
                    Some(answer) => Next::Send(reply::answer(&asked.head, &answer, Instant::now())),
                    None => Next::LookUp(asked),
                }
            }
        }
    }

    /// The reply to a question that is not in the cache.
    async fn look_up(&self, asked: Asked) -> Vec<u8> {
        let answer = self.resolver.resolve(asked.question).await;
        reply::answer(&asked.head, &answer, Instant::now())
    }
}
