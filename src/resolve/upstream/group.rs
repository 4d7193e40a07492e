//! Servers that know the same names: which one is asked, and when another one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use hickory_proto::rr::Name;
use tokio::time::{Instant, sleep_until};

use super::Strategy;
use super::loops::Loops;
use super::server::{Server, Trouble};
use crate::resolve::answers::Question;
use crate::resolve::failure::Failure;
use crate::resolve::response::Response;

/// Servers that one question is put to at the same time, without waiting for any.
const MAX_AT_ONCE: usize = 3;
/// How often a server is asked for one question, so that a lost datagram costs [`AGAIN`] and not the
/// answer.
const ROUNDS: usize = 3;
/// How long a server may be silent before it is asked again; twice that before the third time.
const AGAIN: Duration = Duration::from_millis(400);
/// Questions at once whose answers are only waited for to see how the servers do.
const MAX_LEARNING: usize = 64;
/// Reasons that a failure names.
const MAX_REASONS: usize = 3;

/// Servers that know the same names.
#[derive(Debug)]
pub(super) struct Group {
    /// The domain that they are asked for alone; `None` for all that nobody else is asked for.
    domain: Option<Name>,
    servers: Vec<Arc<Server>>,
    strategy: Strategy,
    timeout: Duration,
    loops: Arc<Loops>,
    learning: Arc<AtomicUsize>,
}

type Asked = BoxFuture<'static, (usize, Result<Response, Trouble>)>;

/// Whom a question is put to.
struct Plan {
    /// Indexes of servers.
    order: Vec<usize>,
    /// How many of them are asked at once.
    at_once: usize,
}

impl Group {
    pub(super) fn new(
        domain: Option<Name>,
        servers: Vec<Arc<Server>>,
        strategy: Strategy,
        timeout: Duration,
        loops: Arc<Loops>,
    ) -> Self {
        Self {
            domain,
            servers,
            strategy,
            timeout,
            loops,
            learning: Arc::default(),
        }
    }

    pub(super) fn servers(&self) -> &[Arc<Server>] {
        &self.servers
    }

    pub(super) async fn ask(&self, question: &Question) -> Result<Response, Failure> {
        if self.servers.is_empty() {
            return Err(Failure::NoUpstream);
        }
        let started = Instant::now();
        let deadline = started + self.timeout;
        let plan = self.plan(started);
        if plan.order.is_empty() {
            return Err(Failure::Loop);
        }
        self.probe(&plan, question, deadline);

        let mut running = FuturesUnordered::new();
        let mut left = plan.agenda(&self.servers);
        let mut refused = vec![false; self.servers.len()];
        let mut refusal = None;
        let mut troubles = Vec::new();
        let mut start = plan.at_once;
        let mut late = started;
        let mut is_late = false;
        loop {
            for _ in 0..std::mem::take(&mut start) {
                let has_refused = |index: usize| refused.get(index).copied().unwrap_or(true);
                let Some(turn) = left.find(|turn| !has_refused(turn.index)) else {
                    break;
                };
                let Some(server) = self.servers.get(turn.index) else {
                    continue;
                };
                late = Instant::now() + turn.patience(server);
                running.push(ask(
                    turn.index,
                    Arc::clone(server),
                    question.clone(),
                    deadline,
                ));
            }
            if running.is_empty() {
                break;
            }
            tokio::select! {
                Some((index, result)) = running.next() => match result {
                    Ok(response) if !response.is_server_failure() => {
                        self.learn(running);
                        return Ok(response);
                    }
                    Ok(response) => {
                        // Another server may know better; this one has had its say.
                        if let Some(refused) = refused.get_mut(index) {
                            *refused = true;
                        }
                        refusal.get_or_insert(response);
                        start = 1;
                    }
                    Err(trouble) => {
                        troubles.push(trouble);
                        start = 1;
                    }
                },
                () = sleep_until(late.min(deadline)) => {
                    let now = Instant::now();
                    if now >= deadline {
                        troubles.push(Trouble::TimedOut);
                        break;
                    }
                    is_late = true;
                    self.suspect_loops(&plan);
                    late = deadline;
                    start = 1;
                }
                () = self.loops.caught(), if is_late => {
                    let now = Instant::now();
                    if self.servers.iter().all(|server| server.pulse().is_looping(now)) {
                        return Err(Failure::Loop);
                    }
                    start = 1;
                }
            }
        }
        refusal.ok_or_else(|| failure(&troubles))
    }

    fn plan(&self, now: Instant) -> Plan {
        if let [server] = self.servers.as_slice() {
            let is_looping = server.pulse().is_looping(now);
            return Plan {
                order: if is_looping { Vec::new() } else { vec![0] },
                at_once: 1,
            };
        }
        let mut candidates: Vec<(bool, Option<Duration>, usize)> = Vec::new();
        for (index, server) in self.servers.iter().enumerate() {
            let pulse = server.pulse();
            if !pulse.is_looping(now) {
                candidates.push((pulse.is_failing(), pulse.usual(), index));
            }
        }
        match self.strategy {
            Strategy::InOrder => candidates.sort_by_key(|(fails, _, index)| (*fails, *index)),
            Strategy::Fastest | Strategy::Parallel => {
                candidates
                    .sort_by_key(|(fails, usual, index)| (*fails, usual.is_none(), *usual, *index));
            }
        }
        let at_once = match (self.strategy, candidates.first()) {
            (Strategy::Parallel, _) | (_, Some((true, _, _))) => MAX_AT_ONCE,
            (Strategy::Fastest, Some((_, None, _))) => MAX_AT_ONCE,
            (Strategy::Fastest | Strategy::InOrder, _) => 1,
        };
        Plan {
            at_once: at_once.min(candidates.len()),
            order: candidates.into_iter().map(|(_, _, index)| index).collect(),
        }
    }

    /// Puts the question to those who would not be asked, too, if it is time to see how they do.
    fn probe(&self, plan: &Plan, question: &Question, deadline: Instant) {
        let now = Instant::now();
        let measures = self.strategy == Strategy::Fastest;
        for index in plan.order.iter().skip(plan.at_once) {
            let Some(server) = self.servers.get(*index) else {
                continue;
            };
            if server.pulse().take_probe(now, measures) {
                let (server, question) = (Arc::clone(server), question.clone());
                tokio::spawn(async move {
                    // Its answer is not needed.
                    let _ = server.ask(&question, deadline).await;
                    server.pulse().probed();
                });
            }
        }
    }

    /// Waits for those who are late, to see whether they answer at all.
    fn learn(&self, running: FuturesUnordered<Asked>) {
        if running.is_empty() {
            return;
        }
        let learning = Arc::clone(&self.learning);
        if learning.fetch_add(1, Ordering::Relaxed) >= MAX_LEARNING {
            learning.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        tokio::spawn(async move {
            running.for_each(|_| async {}).await;
            learning.fetch_sub(1, Ordering::Relaxed);
        });
    }

    fn suspect_loops(&self, plan: &Plan) {
        for index in &plan.order {
            if let Some(server) = self.servers.get(*index) {
                self.loops.test(server, self.domain.as_ref());
            }
        }
    }
}

/// A server's turn to be asked.
struct Turn {
    index: usize,
    round: u32,
    is_last_of_round: bool,
}

impl Turn {
    /// How long the server may be silent before the next turn.
    fn patience(&self, server: &Server) -> Duration {
        if self.is_last_of_round {
            AGAIN * (self.round + 1)
        } else {
            server.pulse().patience()
        }
    }
}

impl Plan {
    /// All turns: each server once; then those again whose queries may have been lost.
    fn agenda(&self, servers: &[Arc<Server>]) -> impl Iterator<Item = Turn> + use<> {
        let loses = |index: &usize| servers.get(*index).is_some_and(|s| s.loses_queries());
        let again: Vec<usize> = self.order.iter().copied().filter(loses).collect();
        let rounds =
            std::iter::once(self.order.clone()).chain(std::iter::repeat_n(again, ROUNDS - 1));
        let turns = rounds.zip(0..).flat_map(|(order, round)| {
            let last = order.len();
            order.into_iter().zip(1..).map(move |(index, nth)| Turn {
                index,
                round,
                is_last_of_round: nth == last,
            })
        });
        turns.collect::<Vec<_>>().into_iter()
    }
}

fn ask(index: usize, server: Arc<Server>, question: Question, deadline: Instant) -> Asked {
    Box::pin(async move { (index, server.ask(&question, deadline).await) })
}

fn failure(troubles: &[Trouble]) -> Failure {
    let errors = troubles
        .iter()
        .filter(|trouble| **trouble != Trouble::TimedOut);
    let mut reasons: Vec<String> = errors.map(ToString::to_string).collect();
    reasons.dedup();
    reasons.truncate(MAX_REASONS);
    if troubles.contains(&Trouble::TimedOut) || reasons.is_empty() {
        reasons.push(Trouble::TimedOut.to_string());
        return Failure::Upstream(reasons.join("; "));
    }
    Failure::UpstreamError(reasons.join("; "))
}
