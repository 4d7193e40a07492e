//! Forwards questions to upstream resolvers.
//!
//! Servers are asked in their order. The next one is started when one fails, or has been silent for
//! [`PATIENCE`]; the first usable answer wins. A server that failed or was slow moves to the end of
//! the order for [`PENALTY`].

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use hickory_proto::rr::Name;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::answers::Question;
use super::exchange::exchange;
use super::failure::Failure;
use super::response::{Peer, Response};

/// How long a server may be silent before the next one is asked as well. A client's own first
/// timeout is 5 s at most resolvers' stubs, 1 s at some.
const PATIENCE: Duration = Duration::from_millis(400);
/// How long a server that failed is asked last.
const PENALTY: Duration = Duration::from_secs(10);
/// How often the list of servers is gone through for one question, so that a lost datagram costs
/// [`PATIENCE`] and not the answer.
const ROUNDS: usize = 3;
/// Sockets in use for upstream queries at once; questions beyond it wait, within their timeout.
const MAX_SOCKETS: usize = 512;

/// What the resolver needs of whoever answers ordinary names.
pub trait Forward: Send + Sync + std::fmt::Debug {
    /// Asks a question. Answers of any RCODE are answers; a failure is the lack of one.
    fn forward<'a>(&'a self, question: &'a Question) -> BoxFuture<'a, Result<Response, Failure>>;

    /// Whether the operator has named servers for this name: it is theirs to answer then, even if it
    /// is a special-use name or has private addresses.
    fn has_rule_for(&self, _name: &Name) -> bool {
        false
    }
}

/// The configured upstream resolvers.
#[derive(Debug)]
pub struct Upstreams {
    servers: Vec<SocketAddr>,
    /// Until when each server is asked last.
    penalties: Mutex<Vec<Option<Instant>>>,
    timeout: Duration,
    sockets: Semaphore,
}

impl Upstreams {
    /// Forwards to `servers`; an answer must come within `timeout`.
    pub fn new(servers: Vec<SocketAddr>, timeout: Duration) -> Self {
        Self {
            penalties: Mutex::new(vec![None; servers.len()]),
            servers,
            timeout,
            sockets: Semaphore::new(MAX_SOCKETS),
        }
    }

    /// The servers.
    pub fn servers(&self) -> &[SocketAddr] {
        &self.servers
    }

    async fn ask_all(&self, question: &Question) -> Result<Response, Failure> {
        let deadline = Instant::now() + self.timeout;
        let order = self.order();
        let mut waiting = order.iter().cycle().take(order.len() * ROUNDS).copied();
        let mut finished = vec![false; self.servers.len()];
        let mut running = FuturesUnordered::new();
        let mut refusal = None;
        let mut errors: Vec<String> = Vec::new();
        let mut latest = None;
        let mut next = true;
        loop {
            if next {
                let unfinished = |&index: &usize| !finished.get(index).copied().unwrap_or(true);
                if let Some(index) = waiting.find(unfinished) {
                    latest = Some(index);
                    running.push(
                        async move { (index, self.ask_one(index, question, deadline).await) },
                    );
                } else if running.is_empty() {
                    break;
                }
            }
            tokio::select! {
                Some((index, result)) = running.next() => match result {
                    Ok(response) => {
                        self.penalise(index, false);
                        latest = latest.filter(|latest| *latest != index);
                        if !response.is_server_failure() {
                            return Ok(response);
                        }
                        // Another server may know better; this one has had its say.
                        if let Some(done) = finished.get_mut(index) {
                            *done = true;
                        }
                        refusal.get_or_insert(response);
                        next = true;
                    }
                    Err(error) => {
                        self.penalise(index, true);
                        errors.push(error);
                        next = true;
                    }
                },
                () = sleep_until(deadline.min(Instant::now() + PATIENCE)) => {
                    if Instant::now() >= deadline {
                        errors.push("timed out".to_owned());
                        break;
                    }
                    // The earlier ones have been told off before.
                    if let Some(silent) = latest.take() {
                        self.penalise(silent, true);
                    }
                    next = true;
                }
            }
        }
        errors.dedup();
        errors.truncate(3);
        refusal.ok_or_else(|| Failure::Upstream(errors.join("; ")))
    }

    async fn ask_one(
        &self,
        index: usize,
        question: &Question,
        deadline: Instant,
    ) -> Result<Response, String> {
        let server = *self.servers.get(index).ok_or("no such server")?;
        let work = async {
            let _socket = self.sockets.acquire().await.map_err(|e| e.to_string())?;
            let response = exchange(server, Peer::Resolver, question).await;
            let response = response.map_err(|e| e.to_string())?;
            Ok(response.from_server(server))
        };
        let result = timeout_at(deadline, work).await;
        result.unwrap_or_else(|_| Err("timed out".to_owned()))
    }

    /// Indexes of the servers: as configured, but those with a penalty last.
    fn order(&self) -> Vec<usize> {
        let now = Instant::now();
        let penalties = self
            .penalties
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let late =
            |index: &usize| matches!(penalties.get(*index), Some(Some(until)) if *until > now);
        let mut order: Vec<usize> = (0..self.servers.len()).collect();
        order.sort_by_key(late);
        order
    }

    fn penalise(&self, index: usize, failed: bool) {
        let now = Instant::now();
        let mut penalties = self
            .penalties
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(penalty) = penalties.get_mut(index) else {
            return;
        };
        let was_late = penalty.is_some();
        *penalty = failed.then(|| now + PENALTY);
        drop(penalties);
        let server = self.servers.get(index);
        match (was_late, failed) {
            (false, true) => tracing::warn!(?server, "an upstream does not answer"),
            (true, false) => tracing::info!(?server, "an upstream answers again"),
            _ => {}
        }
    }
}

impl Forward for Upstreams {
    fn forward<'a>(&'a self, question: &'a Question) -> BoxFuture<'a, Result<Response, Failure>> {
        Box::pin(async move {
            if self.servers.is_empty() {
                return Err(Failure::NoUpstream);
            }
            self.ask_all(question).await
        })
    }
}
