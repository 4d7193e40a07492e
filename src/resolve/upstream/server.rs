//! One upstream resolver: how a question is put to it, and how it is doing.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use super::link::{Bootstrap, Link, Tls};
use super::manners::{Manner, Manners};
use super::pulse::{Change, Pulse};
use crate::endpoint::{Endpoint, Host, Transport};
use crate::resolve::answers::Question;
use crate::resolve::exchange::{Datagram, answer_on_stream, over_udp};
use crate::resolve::query::{Peer, Query, Style};
use crate::resolve::response::Response;

/// Datagrams for one question: the query, and again without a wrong cookie, without any cookie,
/// without EDNS.
const MAX_DATAGRAMS: usize = 4;
/// How long TCP may take to tell whether an answer over UDP was forged. Some servers have no TCP.
const PROOF_PATIENCE: Duration = Duration::from_millis(500);

/// An upstream resolver.
#[derive(Debug)]
pub(super) struct Server {
    endpoint: Endpoint,
    /// Where it is asked over UDP first.
    udp: Option<SocketAddr>,
    link: Link,
    manners: Manners,
    /// Whether nobody on the way to it could change its answers.
    is_way_safe: bool,
    /// Sockets for UDP queries, shared by all servers.
    sockets: Arc<Semaphore>,
    pulse: Mutex<Pulse>,
}

/// Why a server gave no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It was silent.
    TimedOut,
    /// The network, or the server, said no; or what came is no answer.
    Error(String),
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TimedOut => f.write_str("timed out"),
            Self::Error(error) => f.write_str(error),
        }
    }
}

impl<E: std::error::Error> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::Error(error.to_string())
    }
}

impl Server {
    pub(super) fn new(
        endpoint: Endpoint,
        tls: Arc<Tls>,
        bootstrap: Arc<Bootstrap>,
        sockets: Arc<Semaphore>,
    ) -> Self {
        let address = match &endpoint.host {
            Host::Address(ip) => Some(SocketAddr::new(*ip, endpoint.port)),
            Host::Name(_) => None,
        };
        let mut of_link = endpoint.clone();
        let udp = address.filter(|_| endpoint.transport == Transport::Udp);
        if udp.is_some() {
            // For what does not fit.
            of_link.transport = Transport::Tcp;
        }
        Self {
            udp,
            link: Link::new(of_link, tls, bootstrap),
            manners: Manners::new(),
            is_way_safe: endpoint.is_encrypted()
                || address.is_some_and(|address| address.ip().is_loopback()),
            sockets,
            pulse: Mutex::new(Pulse::default()),
            endpoint,
        }
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Whether a second query helps when the first is silent: nothing else brings a lost datagram back.
    pub(super) fn loses_queries(&self) -> bool {
        self.udp.is_some()
    }

    pub(super) fn pulse(&self) -> MutexGuard<'_, Pulse> {
        // Nothing panics while it is held.
        self.pulse.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks it, and takes note of how long it took. Answers of any RCODE are answers.
    pub(super) async fn ask(
        &self,
        question: &Question,
        deadline: Instant,
    ) -> Result<Response, Trouble> {
        let asked = Instant::now();
        let result = match timeout_at(deadline, self.exchange(question)).await {
            Ok(result) => result,
            Err(_) => Err(Trouble::TimedOut),
        };
        let now = Instant::now();
        let change = match &result {
            Ok(_) => self.pulse().answered(now, now.duration_since(asked)),
            Err(_) => self.pulse().failed(now, asked),
        };
        let server = &self.endpoint;
        match (change, &result) {
            (Some(Change::Fails), Err(trouble)) => {
                tracing::warn!(%server, %trouble, "an upstream does not answer");
            }
            (Some(Change::Answers), _) => tracing::info!(%server, "an upstream answers again"),
            (Some(Change::Fails) | None, _) => {}
        }
        result.map(|response| response.for_clients(self.is_way_safe))
    }

    /// What is rare is in boxes of its own, so that the future of a datagram stays small.
    async fn exchange(&self, question: &Question) -> Result<Response, Trouble> {
        let Some(address) = self.udp else {
            return Box::pin(self.exchange_on_link(question)).await;
        };
        // Never closed, so that this only waits.
        let _socket = self.sockets.acquire().await?;
        let first = self.manners.now();
        let mut manner = first.clone();
        for _ in 0..MAX_DATAGRAMS {
            let query = Query::new(Peer::Resolver, question, &manner.style());
            let is_proof = |response: &Response| manner.is_proof(response);
            let response = match over_udp(address, &query, question, is_proof).await? {
                Datagram::Answer(response) => response,
                Datagram::Unproven => {
                    return Box::pin(self.prove(address, question, &manner)).await;
                }
                Datagram::AskTcp => break,
            };
            if response.rcode == u16::from(ResponseCode::BADCOOKIE) && manner.has_cookie() {
                // RFC 7873 section 5.3: with its new cookie once more, then over TCP.
                self.manners.learn(&manner, &response);
                let again = self.manners.now();
                if again.is_as(&manner) {
                    break;
                }
                manner = again;
            } else if response.lacks_edns() && manner.edns {
                manner = manner.without_edns();
            } else if response.rcode == u16::from(ResponseCode::FormErr) && manner.has_cookie() {
                manner = manner.without_cookie();
            } else {
                self.note(&first, &manner, &response);
                return Ok(response);
            }
        }
        let response = Box::pin(self.over_tcp(question, &manner)).await?;
        self.note(&first, &manner, &response);
        Ok(response)
    }

    /// Takes note of what an answer shows that was got in `manner`, after `first` had been tried.
    fn note(&self, first: &Manner, manner: &Manner, response: &Response) {
        if response.is_format_error() {
            // It was not the manner.
            return;
        }
        if first.edns && !manner.edns {
            tracing::debug!(server = %self.endpoint, "an upstream does not know EDNS");
            self.manners.lacks_edns();
        } else if first.has_cookie() && !manner.has_cookie() {
            self.manners.lacks_cookies();
        } else {
            self.manners.learn(manner, response);
        }
    }

    /// What TCP says, which nobody off the way can forge, after an answer without letter case or
    /// cookie; and what UDP says to a plain query if there is no TCP.
    async fn prove(
        &self,
        address: SocketAddr,
        question: &Question,
        manner: &Manner,
    ) -> Result<Response, Trouble> {
        if let Ok(Ok(response)) = timeout(PROOF_PATIENCE, self.over_tcp(question, manner)).await {
            return Ok(response);
        }
        let plain = manner.without_case().without_cookie();
        let query = Query::new(Peer::Resolver, question, &plain.style());
        match over_udp(address, &query, question, |_| true).await? {
            Datagram::Answer(response) => {
                tracing::info!(
                    server = %self.endpoint,
                    "an upstream does not keep the case of letters or its cookie, and has no TCP: \
                     its answers are easier to forge"
                );
                self.manners.breaks_case();
                self.manners.lacks_cookies();
                Ok(response)
            }
            Datagram::Unproven | Datagram::AskTcp => Err(Trouble::Error(
                "cut short, and not to be had over TCP".to_owned(),
            )),
        }
    }

    async fn over_tcp(&self, question: &Question, manner: &Manner) -> Result<Response, Trouble> {
        let response = self.on_link(question, &manner.style()).await?;
        if manner.mixes_case && !response.keeps_case {
            tracing::debug!(server = %self.endpoint, "an upstream does not keep the case of letters");
            self.manners.breaks_case();
        }
        self.manners.learn(manner, &response);
        Ok(response)
    }

    async fn exchange_on_link(&self, question: &Question) -> Result<Response, Trouble> {
        let style = Style {
            edns: self.manners.now().edns,
            padded: self.endpoint.is_encrypted(),
            ..Style::default()
        };
        let response = self.on_link(question, &style).await?;
        if !response.lacks_edns() || !style.edns {
            return Ok(response);
        }
        let style = Style {
            edns: false,
            ..style
        };
        let response = self.on_link(question, &style).await?;
        if !response.is_format_error() {
            self.manners.lacks_edns();
        }
        Ok(response)
    }

    async fn on_link(&self, question: &Question, style: &Style<'_>) -> Result<Response, Trouble> {
        let query = Query::new(Peer::Resolver, question, style);
        let message = self.link.ask(query.bytes()).await?;
        Ok(answer_on_stream(&query, &message, question)?)
    }
}
