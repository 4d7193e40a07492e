//! One upstream resolver: how a question is put to it, and how it is doing.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout, timeout_at};

use super::link::{Bootstrap, Link, LinkError, Tls};
use super::manners::{Manner, Manners};
use super::pulse::{Change, Pulse};
use crate::endpoint::{Endpoint, Host, Transport};
use crate::resolve::answers::Question;
use crate::resolve::exchange::{Datagram, answer_on_stream, over_udp};
use crate::resolve::query::{Peer, Query, Style};
use crate::resolve::response::Response;

/// UDP queries to one server at once; questions beyond it wait, within their timeout. As many as new names
/// that nobody answers may come in two seconds, and a fraction of the files that the unit may open.
const MAX_SOCKETS: usize = 4096;
/// Datagrams for one question: the query, and again without a wrong cookie, without any cookie,
/// without EDNS.
const MAX_DATAGRAMS: usize = 4;
/// How long TCP may take to tell whether an answer over UDP was forged. Some servers have no TCP.
const PROOF_PATIENCE: Duration = Duration::from_millis(500);

/// No more files may be opened (errno(3)): that is not the server's fault.
const EMFILE: i32 = 24;
const ENFILE: i32 = 23;

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
    /// Places for UDP queries.
    sockets: Semaphore,
    pulse: Mutex<Pulse>,
}

/// Why a server gave no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It was silent.
    TimedOut,
    /// The network, or the server, said no.
    Unreachable(String),
    /// It spoke, but no answer came of it.
    Unusable(String),
    /// Too many questions wait for it already.
    Busy,
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TimedOut => f.write_str("timed out"),
            Self::Unreachable(error) | Self::Unusable(error) => f.write_str(error),
            Self::Busy => f.write_str("too many questions under way"),
        }
    }
}

impl Trouble {
    fn of_udp(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(EMFILE | ENFILE) => Self::Busy,
            Some(_) | None => Self::Unreachable(error.to_string()),
        }
    }
}

impl From<LinkError> for Trouble {
    fn from(error: LinkError) -> Self {
        match &error {
            // Whoever answers with a status, as for a wrong path, is no resolver.
            LinkError::Connect(_) | LinkError::Lost(_) | LinkError::Status(_) => {
                Self::Unreachable(error.to_string())
            }
            LinkError::Answer(_) => Self::Unusable(error.to_string()),
        }
    }
}

impl Server {
    pub(super) fn new(endpoint: Endpoint, tls: Arc<Tls>, bootstrap: Arc<Bootstrap>) -> Self {
        let address = match &endpoint.host {
            Host::Address(_) => endpoint.known_addresses().first().copied(),
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
            sockets: Semaphore::new(MAX_SOCKETS),
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

    /// Whether there is room for queries that only make up for lost ones. Names that nobody answers take
    /// many of them, and must not use up what others need for their first.
    pub(super) fn has_room_for_more(&self) -> bool {
        self.sockets.available_permits() >= MAX_SOCKETS / 2
    }

    pub(super) fn pulse(&self) -> MutexGuard<'_, Pulse> {
        // Nothing panics while it is held.
        self.pulse.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks it, and takes note of how it does. Answers of any RCODE are answers.
    pub(super) async fn ask(
        &self,
        question: &Question,
        deadline: Instant,
    ) -> Result<Response, Trouble> {
        let socket = match self.udp {
            // Never closed, so that this only waits. What is waited here is not the server's fault.
            Some(_) => match timeout_at(deadline, self.sockets.acquire()).await {
                Ok(socket) => socket.ok(),
                Err(_) => return Err(Trouble::Busy),
            },
            None => None,
        };
        let asked = Instant::now();
        let spoke = AtomicBool::new(false);
        let result = match timeout_at(deadline, self.exchange(question, socket, &spoke)).await {
            Ok(result) => result,
            Err(_) => Err(Trouble::TimedOut),
        };
        self.take_note(&result, asked, spoke.into_inner());
        result.map(|response| response.for_clients(self.is_way_safe))
    }

    fn take_note(&self, result: &Result<Response, Trouble>, asked: Instant, spoke: bool) {
        let now = Instant::now();
        match result {
            Ok(response) => self.note_answer(response, now, asked),
            // What is wrong with one answer says nothing of the next one.
            Err(Trouble::Unusable(_) | Trouble::Busy) => {}
            Err(Trouble::TimedOut | Trouble::Unreachable(_)) if spoke => {}
            Err(Trouble::TimedOut) => self.note_silence(asked),
            Err(trouble @ Trouble::Unreachable(_)) => {
                let change = self.pulse().failed(now, asked);
                self.warn_of(change, trouble);
            }
        }
    }

    fn note_answer(&self, response: &Response, now: Instant, asked: Instant) {
        let server = &self.endpoint;
        let mut pulse = self.pulse();
        let answers = pulse.answered(now, now.duration_since(asked));
        let refuses = pulse.refused(response.is_server_failure());
        drop(pulse);
        if answers == Some(Change::Answers) {
            tracing::info!(%server, "an upstream answers again");
        }
        match refuses {
            Some(Change::Refuses) => {
                let rcode: ResponseCode = response.rcode.into();
                tracing::warn!(%server, %rcode, "an upstream answers no question that it is asked");
            }
            Some(Change::Serves) => {
                tracing::info!(%server, "an upstream has answers to questions again");
            }
            Some(Change::Fails | Change::Answers) | None => {}
        }
    }

    /// Takes note of silence after a question of this time.
    pub(super) fn note_silence(&self, asked: Instant) {
        let change = self.pulse().silent(Instant::now(), asked);
        self.warn_of(change, &Trouble::TimedOut);
    }

    /// Takes note that what it told is bogus, and what another one told is not.
    pub(super) fn doubt(&self) {
        if self.pulse().doubted(Instant::now()) {
            tracing::warn!(
                server = %self.endpoint,
                "an upstream's answers fail validation where others' do not: it is asked last while that is so"
            );
        }
    }

    fn warn_of(&self, change: Option<Change>, trouble: &Trouble) {
        if change == Some(Change::Fails) {
            tracing::warn!(server = %self.endpoint, %trouble, "an upstream does not answer");
        }
    }

    /// Tells in `spoke` when anything of the server's has come. What is rare is in boxes of its own, so
    /// that the future of a datagram stays small.
    async fn exchange(
        &self,
        question: &Question,
        mut socket: Option<SemaphorePermit<'_>>,
        spoke: &AtomicBool,
    ) -> Result<Response, Trouble> {
        let Some(address) = self.udp else {
            return Box::pin(self.exchange_on_link(question)).await;
        };
        let first = self.manners.now();
        let mut manner = first.clone();
        for _ in 0..MAX_DATAGRAMS {
            let query = Query::new(Peer::Resolver, question, &manner.style());
            let is_proof = |response: &Response| manner.is_proof(response);
            let datagram = over_udp(address, &query, question, is_proof).await;
            let datagram = datagram.map_err(Trouble::of_udp)?;
            spoke.store(true, Ordering::Relaxed);
            let response = match datagram {
                Datagram::Answer(response) => response,
                Datagram::Unproven(_) => Box::pin(self.prove(address, question, &manner)).await?,
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
        drop(socket.take());
        let response = Box::pin(self.over_tcp(question, &manner)).await?;
        self.note(&first, &manner, &response);
        Ok(response)
    }

    /// Takes note of what an answer shows that was got in `manner`, after `first` had been tried.
    fn note(&self, first: &Manner, manner: &Manner, response: &Response) {
        if response.is_server_failure() {
            // It may not have been the manner.
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
    /// cookie. If there is no TCP: what UDP says to another query, and to one without what its answer
    /// has not sent back either.
    async fn prove(
        &self,
        address: SocketAddr,
        question: &Question,
        manner: &Manner,
    ) -> Result<Response, Trouble> {
        if let Ok(Ok(response)) = timeout(PROOF_PATIENCE, self.over_tcp(question, manner)).await {
            return Ok(response);
        }
        let ask = async |manner: &Manner| {
            let query = Query::new(Peer::Resolver, question, &manner.style());
            let is_proof = |response: &Response| manner.is_proof(response);
            over_udp(address, &query, question, is_proof).await
        };
        let lacking = match ask(manner).await.map_err(Trouble::of_udp)? {
            Datagram::Answer(response) => return Ok(response),
            Datagram::Unproven(response) => response,
            Datagram::AskTcp => return Err(unproven()),
        };
        let plain = manner.without_what_lacks(&lacking);
        match ask(&plain).await.map_err(Trouble::of_udp)? {
            Datagram::Answer(response) => {
                if !response.is_server_failure() {
                    self.lacks_proof(manner, &plain);
                }
                Ok(response)
            }
            Datagram::Unproven(_) | Datagram::AskTcp => Err(unproven()),
        }
    }

    /// Takes note that the server answers in `plain`, and not in `manner`.
    fn lacks_proof(&self, manner: &Manner, plain: &Manner) {
        tracing::info!(
            server = %self.endpoint,
            "an upstream does not keep the case of letters or its cookie, and has no TCP: its answers \
             are easier to forge"
        );
        if manner.mixes_case && !plain.mixes_case {
            self.manners.breaks_case();
        }
        if manner.has_cookie() && !plain.has_cookie() {
            self.manners.lacks_cookies();
        }
    }

    async fn over_tcp(&self, question: &Question, manner: &Manner) -> Result<Response, Trouble> {
        let response = self.on_link(question, &manner.style()).await?;
        if response.is_server_failure() {
            // Which may be a header alone.
            return Ok(response);
        }
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
        answer_on_stream(&query, &message, question)
            .map_err(|error| Trouble::Unusable(error.to_string()))
    }
}

fn unproven() -> Trouble {
    Trouble::Unusable("an answer that may be forged, and no TCP to ask over".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(endpoint: &str) -> Server {
        let tls = Arc::new(Tls::new(None).unwrap());
        Server::new(
            endpoint.parse().unwrap(),
            tls,
            Arc::new(Bootstrap::new(Vec::new())),
        )
    }

    #[test]
    fn rfc4035_4_9_3_ad_counts_from_loopback_and_encrypted_servers_alone() {
        for (endpoint, expected) in [
            ("127.0.0.1", true),
            ("::1", true),
            ("tcp://127.0.0.1", true),
            ("192.0.2.1", false),
            ("192.168.1.1", false),
            ("2001:db8::1", false),
            ("tcp://192.0.2.1", false),
            ("tls://192.0.2.1", true),
            ("https://dns.example/dns-query", true),
            ("quic://192.0.2.1", true),
        ] {
            assert_eq!(server(endpoint).is_way_safe, expected, "{endpoint}");
        }
    }

    #[test]
    fn half_of_the_sockets_are_for_first_tries() {
        let server = server("192.0.2.1");
        let half = u32::try_from(MAX_SOCKETS / 2).unwrap();
        let first = server.sockets.try_acquire_many(half).unwrap();
        assert!(server.has_room_for_more());
        let one_more = server.sockets.try_acquire().unwrap();
        assert!(!server.has_room_for_more());
        drop((first, one_more));
        assert!(server.has_room_for_more());
    }

    #[test]
    fn too_many_open_files_is_not_the_servers_fault() {
        for errno in [EMFILE, ENFILE] {
            let error = io::Error::from_raw_os_error(errno);
            assert!(
                error.to_string().starts_with("Too many open files"),
                "{error}"
            );
            assert_eq!(Trouble::of_udp(error), Trouble::Busy);
        }
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert!(matches!(Trouble::of_udp(refused), Trouble::Unreachable(_)));
    }
}
