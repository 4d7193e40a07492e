//! Servers that know the same names: which one is asked, and when another one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt, ready};
use futures_util::stream::{FuturesUnordered, StreamExt};
use hickory_proto::rr::Name;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Strategy;
use super::loops::Loops;
use super::server::{Server, Trouble};
use crate::resolve::answers::Question;
use crate::resolve::failure::Failure;
use crate::resolve::response::Response;

/// Servers that one question is put to at the same time, without waiting for any.
const MAX_AT_ONCE: usize = 3;
/// Servers that one question is put to at most, so that not all of many learn of each slow name.
const MAX_SERVERS: usize = 4;
/// How long those who have not answered lately are waited for, when the others have refused.
const HOPE: Duration = Duration::from_millis(300);
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

/// A server that may be asked.
struct Candidate {
    fails: bool,
    is_doubted: bool,
    usual: Option<Duration>,
    index: usize,
}

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

    /// Puts a question to the servers but those in `past`.
    pub(super) async fn ask(
        &self,
        question: &Question,
        past: &[usize],
    ) -> Result<Response, Failure> {
        if (0..self.servers.len()).all(|index| past.contains(&index)) {
            return Err(Failure::NoUpstream);
        }
        let started = Instant::now();
        let deadline = started + self.timeout;
        self.test_loops_again(started);
        let plan = self.plan(past);
        if plan.order.is_empty() {
            return Err(Failure::Loop);
        }
        self.probe(&plan, question, deadline);

        let running = FuturesUnordered::new();
        let mut late = started;
        if let Some(turn) = plan.alone()
            && let Some(server) = self.servers.get(turn.index)
        {
            // Nearly always this is all: what follows is for those who are late or fail.
            late = started + self.patience(&turn, server);
            let mut asked = ask(turn.index, Arc::clone(server), question.clone(), deadline);
            match timeout_at(late, &mut asked).await {
                Ok((_, Ok(response))) if !response.is_server_failure() => return Ok(response),
                Ok(outcome) => running.push(ready(outcome).boxed()),
                Err(_) => running.push(asked),
            }
        }
        self.ask_on(question, &plan, running, late, deadline).await
    }

    /// Goes on with those who have been asked, and from `late` on with others.
    async fn ask_on(
        &self,
        question: &Question,
        plan: &Plan,
        mut running: FuturesUnordered<Asked>,
        mut late: Instant,
        deadline: Instant,
    ) -> Result<Response, Failure> {
        let mut left = plan.agenda(&self.servers).peekable();
        let already: Vec<usize> = left.by_ref().take(running.len()).map(|t| t.index).collect();
        let mut start = plan.at_once - already.len();
        let mut who = Asking::new(self.servers.len(), &already);
        let mut refusal = None;
        let mut troubles = Vec::new();
        // When only a refusal is to be had, and those are left who do not answer.
        let mut give_up = None;
        // Whether the answer is later than usual; and whether it has just become so.
        let (mut is_late, mut is_overdue) = (false, false);
        loop {
            for _ in 0..std::mem::take(&mut start) {
                let falls_out = |turn: &Turn| who.has_refused(turn.index) || !self.has_room(turn);
                while left.next_if(falls_out).is_some() {}
                // Nobody is asked again while an answer may still come in time.
                let may = |turn: &Turn| turn.round == 0 || is_overdue || running.is_empty();
                let Some(turn) = left.next_if(may) else {
                    break;
                };
                let now = Instant::now();
                let Some(server) = self.servers.get(turn.index).filter(|_| now < deadline) else {
                    continue;
                };
                late = now + self.patience(&turn, server);
                who.is_asked(turn.index);
                let server = Arc::clone(server);
                running.push(ask(turn.index, server, question.clone(), deadline));
            }
            if running.is_empty() {
                break;
            }
            if refusal.is_some() && give_up.is_none() && self.all_fail(&who) {
                give_up = Some(Instant::now() + HOPE);
            }
            is_overdue = false;
            tokio::select! {
                Some((index, result)) = running.next() => {
                    start = 1;
                    who.has_ended(index);
                    match result {
                        Ok(response) if !response.is_server_failure() => {
                            self.learn(running);
                            return Ok(response);
                        }
                        Ok(response) => {
                            // Another server may know better; this one has had its say.
                            who.refuses(index);
                            refusal.get_or_insert(response);
                        }
                        Err(trouble) => troubles.push(trouble),
                    }
                }
                // At the deadline they end by themselves.
                () = sleep_until(late), if late < deadline => {
                    if self.all_loop() {
                        return Err(Failure::Loop);
                    }
                    (is_late, is_overdue) = (true, true);
                    self.suspect_loops(plan);
                    late = deadline;
                    start = 1;
                }
                () = sleep_until(give_up.unwrap_or(deadline)), if give_up.is_some() => {
                    self.learn(running);
                    break;
                }
                () = self.loops.caught(), if is_late => {
                    if self.all_loop() {
                        return Err(Failure::Loop);
                    }
                    start = 1;
                }
            }
        }
        if troubles.contains(&Trouble::TimedOut) {
            self.suspect_loops(plan);
        }
        refusal.ok_or_else(|| failure(&troubles))
    }

    /// How long the server may be silent before the next turn: in any case not so long that there would
    /// be no time for another one.
    fn patience(&self, turn: &Turn, server: &Server) -> Duration {
        let patience = if turn.is_last_of_round {
            AGAIN * (turn.round + 1)
        } else {
            server.pulse().patience()
        };
        patience.min(self.timeout / 3)
    }

    /// Whether the server has a place for the question: for the first time it waits for one.
    fn has_room(&self, turn: &Turn) -> bool {
        let server = self.servers.get(turn.index);
        turn.round == 0 || server.is_some_and(|server| server.has_room_for_more())
    }

    /// Whether none of them has answered the last question that it got.
    pub(super) fn is_down(&self) -> bool {
        let is_down = |server: &Arc<Server>| {
            let pulse = server.pulse();
            pulse.is_failing() || pulse.is_looping()
        };
        self.servers.iter().all(is_down)
    }

    /// Whether those who are being asked do not answer lately.
    fn all_fail(&self, who: &Asking) -> bool {
        let servers = self.servers.iter().enumerate();
        let mut asked = servers.filter(|(index, _)| who.is_under_way(*index));
        asked.all(|(_, server)| server.pulse().is_failing())
    }

    fn all_loop(&self) -> bool {
        self.servers
            .iter()
            .all(|server| server.pulse().is_looping())
    }

    fn plan(&self, past: &[usize]) -> Plan {
        if let [server] = self.servers.as_slice() {
            let is_looping = server.pulse().is_looping();
            return Plan {
                order: if is_looping { Vec::new() } else { vec![0] },
                at_once: 1,
            };
        }
        let now = Instant::now();
        let mut candidates: Vec<Candidate> = Vec::new();
        for (index, server) in self.servers.iter().enumerate() {
            let pulse = server.pulse();
            if !pulse.is_looping() && !past.contains(&index) {
                candidates.push(Candidate {
                    fails: pulse.is_failing(),
                    is_doubted: pulse.is_doubted(now),
                    usual: pulse.usual(),
                    index,
                });
            }
        }
        candidates.sort_by_key(|one| {
            let usual = match self.strategy {
                Strategy::InOrder => None,
                Strategy::Fastest | Strategy::Parallel => Some((one.usual.is_none(), one.usual)),
            };
            (one.fails, one.is_doubted, usual, one.index)
        });
        let at_once = match (self.strategy, candidates.first()) {
            (Strategy::Parallel, _) | (_, Some(Candidate { fails: true, .. })) => MAX_AT_ONCE,
            (Strategy::Fastest, Some(Candidate { usual: None, .. })) => MAX_AT_ONCE,
            (Strategy::Fastest | Strategy::InOrder, _) => 1,
        };
        Plan {
            at_once: at_once.min(candidates.len()),
            order: candidates.into_iter().map(|one| one.index).collect(),
        }
    }

    /// Asks a server last for a while, since what it told is bogus and what another one told is not.
    pub(super) fn doubt(&self, index: usize) {
        if let Some(server) = self.servers.get(index) {
            server.doubt();
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
                let (loops, domain) = (Arc::clone(&self.loops), self.domain.clone());
                tokio::spawn(async move {
                    // The answer is not needed.
                    let answer = server.ask(&question, deadline).await;
                    if matches!(answer, Err(Trouble::TimedOut)) && !server.pulse().is_failing() {
                        // Nobody has waited for it, and seen whether the name is slow or the server.
                        loops.test(&server, domain.as_ref());
                    }
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

    /// Sees whether those who sent questions back to us still do.
    fn test_loops_again(&self, now: Instant) {
        for server in &self.servers {
            if server.pulse().should_test(now) {
                self.loops.test(server, self.domain.as_ref());
            }
        }
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

/// Which servers a question is with.
struct Asking(Vec<With>);

#[derive(Debug, Clone, Copy, Default)]
struct With {
    under_way: usize,
    refused: bool,
}

impl Asking {
    fn new(servers: usize, asked: &[usize]) -> Self {
        let mut asking = Self(vec![With::default(); servers]);
        asked.iter().for_each(|index| asking.is_asked(*index));
        asking
    }

    fn is_asked(&mut self, index: usize) {
        if let Some(with) = self.0.get_mut(index) {
            with.under_way += 1;
        }
    }

    fn has_ended(&mut self, index: usize) {
        if let Some(with) = self.0.get_mut(index) {
            with.under_way = with.under_way.saturating_sub(1);
        }
    }

    fn refuses(&mut self, index: usize) {
        if let Some(with) = self.0.get_mut(index) {
            with.refused = true;
        }
    }

    fn has_refused(&self, index: usize) -> bool {
        self.0.get(index).is_none_or(|with| with.refused)
    }

    fn is_under_way(&self, index: usize) -> bool {
        self.0.get(index).is_some_and(|with| with.under_way > 0)
    }
}

impl Plan {
    /// The first turn, if nobody else is asked at the same time.
    fn alone(&self) -> Option<Turn> {
        let index = *self.order.first().filter(|_| self.at_once == 1)?;
        Some(Turn {
            index,
            round: 0,
            is_last_of_round: self.order.len() == 1,
        })
    }

    /// All turns: each server once; then those again whose queries may have been lost.
    fn agenda(&self, servers: &[Arc<Server>]) -> impl Iterator<Item = Turn> + use<> {
        let loses = |index: &usize| servers.get(*index).is_some_and(|s| s.loses_queries());
        let once: Vec<usize> = self.order.iter().copied().take(MAX_SERVERS).collect();
        let again: Vec<usize> = once.iter().copied().filter(loses).collect();
        let rounds = std::iter::once(once).chain(std::iter::repeat_n(again, ROUNDS - 1));
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
    Box::pin(async move {
        let answer = server.ask(&question, deadline).await;
        let by = |response| Response {
            server: Some(index),
            ..response
        };
        (index, answer.map(by))
    })
}

fn failure(troubles: &[Trouble]) -> Failure {
    if !troubles.is_empty() && troubles.iter().all(|trouble| *trouble == Trouble::Busy) {
        return Failure::Overloaded;
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::Endpoint;
    use crate::resolve::upstream::link::{Bootstrap, Tls};
    use crate::resolve::upstream::pulse::DOUBT;

    const MS: Duration = Duration::from_millis(1);

    fn group(strategy: Strategy, count: u8) -> Group {
        let tls = Arc::new(Tls::new(None).unwrap());
        let bootstrap = Arc::new(Bootstrap::new(Vec::new()));
        let server = |last| {
            let endpoint = Endpoint::plain(([192, 0, 2, last], 53).into());
            let (tls, bootstrap) = (Arc::clone(&tls), Arc::clone(&bootstrap));
            Arc::new(Server::new(endpoint, tls, bootstrap))
        };
        let servers = (0..count).map(server).collect();
        Group::new(None, servers, strategy, 1000 * MS, Arc::default())
    }

    /// Whom it would ask at once, and who comes after them.
    fn plan(group: &Group) -> (Vec<usize>, Vec<usize>) {
        let plan = group.plan(&[]);
        let (first, rest) = plan.order.split_at(plan.at_once);
        (first.to_vec(), rest.to_vec())
    }

    fn answers(group: &Group, index: usize, took: Duration) {
        for _ in 0..50 {
            group.servers[index].pulse().answered(Instant::now(), took);
        }
    }

    fn fails(group: &Group, index: usize) {
        let now = Instant::now() + MS;
        group.servers[index].pulse().failed(now, now);
    }

    #[tokio::test(start_paused = true)]
    async fn the_fastest_is_asked_and_who_fails_comes_last() {
        let group = group(Strategy::Fastest, 3);
        // Nothing is known of them.
        assert_eq!(plan(&group), (vec![0, 1, 2], vec![]));
        answers(&group, 0, 30 * MS);
        answers(&group, 1, 10 * MS);
        assert_eq!(plan(&group), (vec![1], vec![0, 2]));
        answers(&group, 2, 20 * MS);
        assert_eq!(plan(&group), (vec![1], vec![2, 0]));
        fails(&group, 1);
        assert_eq!(plan(&group), (vec![2], vec![0, 1]));
        // It has become slow.
        answers(&group, 2, 100 * MS);
        assert_eq!(plan(&group), (vec![0], vec![2, 1]));
        fails(&group, 0);
        fails(&group, 2);
        assert_eq!(plan(&group), (vec![1, 0, 2], vec![]));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_doubted_comes_last_for_a_while_and_who_is_past_not_at_all() {
        for strategy in [Strategy::Fastest, Strategy::InOrder] {
            let group = group(strategy, 3);
            answers(&group, 0, 10 * MS);
            answers(&group, 1, 20 * MS);
            answers(&group, 2, 30 * MS);
            assert_eq!(group.plan(&[0]).order, [1, 2]);
            assert_eq!(group.plan(&[0, 1]).order, [2]);
            group.doubt(0);
            assert_eq!(plan(&group), (vec![1], vec![2, 0]));
            // To answer is better yet.
            fails(&group, 1);
            assert_eq!(plan(&group), (vec![2], vec![0, 1]));
            tokio::time::advance(DOUBT).await;
            assert_eq!(plan(&group), (vec![0], vec![2, 1]));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn in_order_the_first_is_asked_unless_it_fails() {
        let group = group(Strategy::InOrder, 3);
        assert_eq!(plan(&group), (vec![0], vec![1, 2]));
        answers(&group, 1, MS);
        assert_eq!(plan(&group), (vec![0], vec![1, 2]));
        fails(&group, 0);
        assert_eq!(plan(&group), (vec![1], vec![2, 0]));
        answers(&group, 0, 100 * MS);
        assert_eq!(plan(&group), (vec![0], vec![1, 2]));
    }

    #[tokio::test(start_paused = true)]
    async fn in_parallel_three_are_asked() {
        let group = group(Strategy::Parallel, 5);
        for (index, took) in [50, 40, 30, 20, 10].into_iter().enumerate() {
            answers(&group, index, took * MS);
        }
        assert_eq!(plan(&group), (vec![4, 3, 2], vec![1, 0]));
    }

    #[tokio::test(start_paused = true)]
    async fn who_loops_is_not_asked() {
        let group = group(Strategy::Fastest, 2);
        answers(&group, 0, MS);
        answers(&group, 1, 2 * MS);
        group.servers[0].pulse().loops(Instant::now());
        assert_eq!(plan(&group), (vec![1], vec![]));
        group.servers[1].pulse().loops(Instant::now());
        assert_eq!(plan(&group), (vec![], vec![]));
    }

    #[test]
    fn too_many_questions_under_way_is_pkbridges_own_state() {
        let busy = || Trouble::Busy;
        assert_eq!(failure(&[busy(), busy()]), Failure::Overloaded);
        assert!(!failure(&[busy()]).is_cacheable());
        for other in [Trouble::TimedOut, Trouble::Unreachable("no".to_owned())] {
            assert_ne!(failure(&[busy(), other]), Failure::Overloaded);
        }
        assert_ne!(failure(&[]), Failure::Overloaded);
    }

    #[tokio::test(start_paused = true)]
    async fn every_server_has_its_turn_and_what_may_be_lost_two_more() {
        let group = group(Strategy::Fastest, 2);
        let turns: Vec<(usize, u32, bool)> = group
            .plan(&[])
            .agenda(&group.servers)
            .map(|turn| (turn.index, turn.round, turn.is_last_of_round))
            .collect();
        let round = |round| [(0, round, false), (1, round, true)];
        assert_eq!(turns, [round(0), round(1), round(2)].concat());
    }
}
