//! How clients are served: a message enters, is admitted, is resolved, is written, leaves.

mod access;
mod admit;
mod cookies;
mod edns;
mod reply;
mod stream;
pub mod systemd;
mod udp;

use std::net::SocketAddr;
use std::time::Duration;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use tokio::time::Instant;

use crate::resolve::Resolver;
use admit::{Admission, Asked, Gate};

pub use admit::Transport;
pub use udp::AtHand;

pub(crate) use stream::{Places, serve_tcp};
pub(crate) use udp::UdpThreads;

/// How long a TCP connection may be idle (RFC 7766 section 6.2.3). Clients that ask are told.
const TCP_IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Who is served, and what clients are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServeSettings {
    /// The networks whose clients are served.
    pub allow: Vec<IpNet>,
    /// Who is told that an answer comes from verified packets.
    pub authentic_data: AuthenticData,
    /// The name server identifier (RFC 5001); empty tells none.
    pub nsid: String,
}

/// Clients that get the AD bit on answers from verified packets, if they ask for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthenticData {
    /// None.
    Never,
    /// Those on this host: nothing between them and this program can forge it.
    Loopback,
    /// All.
    Always,
}

/// What answers clients: bytes in, bytes out. Replaced as a whole on reload.
#[derive(Debug)]
pub struct Service {
    gate: Gate,
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
    /// A service that answers from `resolver`.
    ///
    /// # Errors
    /// A text, if the networks cannot be used.
    pub fn new(settings: ServeSettings, resolver: Resolver) -> Result<Self, String> {
        Ok(Self {
            gate: Gate::new(settings)?,
            resolver,
        })
    }

    /// The reply to a message, or silence. What the sockets do, without them: for tests and fuzzing,
    /// and for whoever has a transport of their own.
    pub async fn respond(
        &self,
        message: &[u8],
        client: SocketAddr,
        transport: Transport,
    ) -> Option<Vec<u8>> {
        match self.take(message, client, transport) {
            Next::Nothing => None,
            Next::Send(reply) => Some(reply),
            Next::LookUp(asked) => Some(self.look_up(*asked).await),
        }
    }

    /// All that can be done at once.
    fn take(&self, message: &[u8], client: SocketAddr, transport: Transport) -> Next {
        match self.gate.admit(message, client, transport) {
            Admission::Drop => Next::Nothing,
            Admission::Reply(reply) => Next::Send(reply),
            Admission::Question(asked) => {
                tracing::debug!(%client, ?transport, question = ?asked.question, "asked");
                let now = Instant::now();
                match self.resolver.cached(&asked.question.cache_key(), now) {
                    Some(answer) => {
                        if answer.is_due(now) {
                            self.resolver.refresh(&asked.question);
                        }
                        Next::Send(reply::answer(&asked.head, &answer, true, now))
                    }
                    None => Next::LookUp(asked),
                }
            }
        }
    }

    /// The reply to a question that is not in the cache.
    async fn look_up(&self, asked: Asked) -> Vec<u8> {
        let answer = self.resolver.resolve(asked.question, asked.asker).await;
        reply::answer(&asked.head, &answer, false, Instant::now())
    }
}
