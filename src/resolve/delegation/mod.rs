//! Asks the name servers that a packet delegates to. No upstream knows them, so this is done by
//! iterative queries (RFC 1034 section 5.3.3).
//!
//! Strangers say here what is asked of whom: a packet can name any server, and a server can answer
//! anything. So the work for one question is bounded in every direction, records count only below the
//! zone that the server was asked as an authority of, and addresses that strangers cannot reach
//! themselves are not asked on their behalf.

mod reach;
mod reply;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use hickory_proto::rr::Name;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};

use super::answers::{Composed, Question};
use super::exchange::exchange;
use super::failure::Failure;
use super::query::Peer;
use super::response::Response;
use reach::{Reach, reach};
use reply::judge;

/// The port of name servers (RFC 1035 section 4.2).
const PORT: u16 = 53;
/// How long a server may be silent before the next one is asked as well: longer than a round trip to
/// anywhere on Earth.
const PATIENCE: Duration = Duration::from_millis(400);
/// How often a silent address is asked for one question, so that a lost datagram does not cost the
/// answer.
const TRIES: usize = 2;
/// Referrals that are followed for one question. Each leads at least a label down; real zones are
/// two or three deep.
const MAX_REFERRALS: usize = 8;
/// Name servers of one zone that are considered, as many as the root has: nobody has reason for more.
const MAX_SERVERS: usize = 13;
/// Addresses of one name server that are asked.
const MAX_ADDRESSES: usize = 4;
/// Names of name servers whose addresses are looked up for one question. Each costs lookups
/// elsewhere, which a hostile referral would multiply (NXNSAttack, USENIX Security 2020).
const MAX_RESOLUTIONS: usize = 4;
/// Questions put to name servers for one question. Over TCP or without EDNS one may be repeated.
const MAX_QUERIES: usize = 24;
/// Sockets in use for name servers at once; questions beyond it wait, within their timeout.
const MAX_SOCKETS: usize = 256;
/// Errors that a failure tells of.
const MAX_REASONS: usize = 3;

/// Asks name servers that a packet delegates to.
#[derive(Debug)]
pub(super) struct Delegations {
    allow_private: bool,
    port: u16,
    timeout: Duration,
    sockets: Semaphore,
}

/// A name server: its name, and those of its addresses that are known already.
#[derive(Debug, Clone)]
pub(super) struct NameServer {
    pub(super) name: Name,
    pub(super) addresses: Vec<IpAddr>,
}

/// Looks up the addresses of name servers that came without. Such a lookup must not follow
/// delegations itself, or two zones could send it back and forth.
pub(super) trait ResolveAddresses: Send + Sync {
    /// All IPv4 and IPv6 addresses; none if there are none or they are not found.
    fn resolve_addresses<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Vec<IpAddr>>;
}

/// A zone and its name servers.
#[derive(Debug)]
struct Cut {
    zone: Name,
    servers: Vec<NameServer>,
}

/// What a usable reply leads to.
#[derive(Debug)]
enum Progress {
    Answer(Composed),
    Referral(Cut),
}

/// The work on one question.
struct Walk {
    deadline: Instant,
    /// How many more steps of each kind may be taken.
    queries: usize,
    resolutions: usize,
    /// Name servers whose addresses have come up: given as glue by their own zone or one above it, or
    /// looked up.
    known: Vec<NameServer>,
}

/// What can be done next at a cut.
enum Step {
    /// Ask this address, so many times at most.
    Ask(IpAddr, usize),
    /// Look up the addresses of this name server.
    Resolve(Name),
}

enum Event {
    Addresses(NameServer),
    Reply(IpAddr, Result<Response, String>),
}

impl Delegations {
    /// Asks name servers at private addresses only if `allow_private`. One question may take `timeout`
    /// in all.
    pub(super) fn new(allow_private: bool, timeout: Duration) -> Self {
        Self {
            allow_private,
            port: PORT,
            timeout,
            sockets: Semaphore::new(MAX_SOCKETS),
        }
    }

    /// Asks another port than that of DNS.
    #[cfg(test)]
    pub(super) fn at_port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// The answer of the name servers of `cut`, or of those that they delegate to further down, to a
    /// question at or below it: the records that are theirs to give, and the RCODE. A chain of aliases
    /// may end open; what it leads to is for the caller to find out.
    pub(super) async fn ask(
        &self,
        cut: &Name,
        servers: Vec<NameServer>,
        question: &Question,
        addresses: &dyn ResolveAddresses,
    ) -> Result<Response, Failure> {
        if !cut.zone_of(&question.name) {
            return Err(Failure::Internal);
        }
        let mut walk = Walk {
            deadline: Instant::now() + self.timeout,
            queries: MAX_QUERIES,
            resolutions: MAX_RESOLUTIONS,
            known: Vec::new(),
        };
        let mut cut = Cut {
            zone: cut.clone(),
            servers,
        };
        for _ in 0..=MAX_REFERRALS {
            walk.complete(&mut cut);
            let progress = self.ask_cut(&cut, question, addresses, &mut walk).await?;
            cut = match progress {
                Progress::Answer(composed) => {
                    let wire = composed.to_wire(question)?;
                    return Response::from_message(wire).ok_or(Failure::Unwritable);
                }
                Progress::Referral(below) => below,
            };
        }
        Err(failure(&cut, "too many referrals".to_owned()))
    }

    /// Asks the name servers of one cut in their order, the next one when one fails or is silent for
    /// [`PATIENCE`]; the first usable reply wins.
    async fn ask_cut(
        &self,
        cut: &Cut,
        question: &Question,
        addresses: &dyn ResolveAddresses,
        walk: &mut Walk,
    ) -> Result<Progress, Failure> {
        let mut agenda = Agenda::new(cut, self.allow_private);
        let mut running: FuturesUnordered<BoxFuture<'_, Event>> = FuturesUnordered::new();
        let mut errors: Vec<String> = Vec::new();
        loop {
            match agenda.next() {
                Some(step) if !walk.allows(&step) => {
                    errors.push("too many queries".to_owned());
                    continue;
                }
                Some(Step::Ask(address, _)) => running.push(Box::pin(async move {
                    Event::Reply(address, self.ask_one(address, question).await)
                })),
                Some(Step::Resolve(name)) => running.push(Box::pin(async move {
                    let addresses = addresses.resolve_addresses(&name).await;
                    Event::Addresses(NameServer { name, addresses })
                })),
                None if running.is_empty() => break,
                None => {}
            }
            tokio::select! {
                Some(event) = running.next() => match event {
                    Event::Addresses(found) => {
                        agenda.ask(&[&found.addresses]);
                        walk.known.push(found);
                    }
                    Event::Reply(address, reply) => {
                        match reply.and_then(|reply| judge(&reply, &cut.zone, question)) {
                            Ok(progress) => return Ok(progress),
                            Err(reason) => {
                                agenda.forget(address);
                                errors.push(format!("{address}: {reason}"));
                            }
                        }
                    }
                },
                () = sleep_until(walk.deadline.min(Instant::now() + PATIENCE)) => {
                    if Instant::now() >= walk.deadline {
                        errors.push("timed out".to_owned());
                        break;
                    }
                }
            }
        }
        if agenda.known.is_empty() && agenda.any_private {
            return Err(Failure::PrivateNameServers(cut.zone.to_ascii()));
        }
        if agenda.known.is_empty() {
            errors.push("none of them has a usable address".to_owned());
        }
        errors.dedup();
        errors.truncate(MAX_REASONS);
        Err(failure(cut, errors.join("; ")))
    }

    async fn ask_one(&self, address: IpAddr, question: &Question) -> Result<Response, String> {
        let _socket = self.sockets.acquire().await.map_err(|e| e.to_string())?;
        let server = SocketAddr::new(address, self.port);
        let response = exchange(server, Peer::NameServer, question).await;
        response.map_err(|e| e.to_string())
    }
}

fn failure(cut: &Cut, reason: String) -> Failure {
    Failure::NameServers {
        cut: cut.zone.to_ascii(),
        reason,
    }
}

impl Walk {
    /// Keeps the addresses of a cut's name servers, and adds those that came up further above.
    fn complete(&mut self, cut: &mut Cut) {
        for server in cut.servers.iter_mut().take(MAX_SERVERS) {
            let known = self.known.iter().find(|known| known.name == server.name);
            match known {
                Some(known) if server.addresses.is_empty() => {
                    server.addresses.clone_from(&known.addresses);
                }
                None if !server.addresses.is_empty() => self.known.push(server.clone()),
                Some(_) | None => {}
            }
        }
    }

    /// Whether a step may be taken; it is counted.
    fn allows(&mut self, step: &Step) -> bool {
        let left = match step {
            Step::Ask(..) => &mut self.queries,
            Step::Resolve(_) => &mut self.resolutions,
        };
        let allowed = *left > 0;
        *left = left.saturating_sub(1);
        allowed
    }
}

/// The steps that are left at one cut.
struct Agenda {
    steps: VecDeque<Step>,
    /// The addresses that have been put on it.
    known: Vec<IpAddr>,
    allow_private: bool,
    /// Whether one of the servers is at a private address.
    any_private: bool,
}

impl Agenda {
    fn new(cut: &Cut, allow_private: bool) -> Self {
        let mut agenda = Self {
            steps: VecDeque::new(),
            known: Vec::new(),
            allow_private,
            any_private: false,
        };
        let servers = || cut.servers.iter().take(MAX_SERVERS);
        let known: Vec<&[IpAddr]> = servers().map(|server| &*server.addresses).collect();
        agenda.ask(&known);
        // A name below the cut is known to its own servers alone: without glue it leads nowhere.
        let unknown = servers().filter(|s| s.addresses.is_empty() && !cut.zone.zone_of(&s.name));
        for server in unknown {
            let is_same = |step: &Step| matches!(step, Step::Resolve(name) if *name == server.name);
            if !agenda.steps.iter().any(is_same) {
                agenda.steps.push_back(Step::Resolve(server.name.clone()));
            }
        }
        agenda
    }

    /// Puts the addresses of servers in front: the first of each server, then the second.
    fn ask(&mut self, servers: &[&[IpAddr]]) {
        let mut usable = Vec::new();
        for addresses in servers {
            let mut of_server = Vec::new();
            for address in addresses.iter().map(IpAddr::to_canonical) {
                let allowed = match reach(address) {
                    Reach::Public => true,
                    Reach::Private => {
                        self.any_private = true;
                        self.allow_private
                    }
                    Reach::Nobody => false,
                };
                if allowed && !self.known.contains(&address) && of_server.len() < MAX_ADDRESSES {
                    self.known.push(address);
                    of_server.push(address);
                }
            }
            usable.push(of_server);
        }
        for turn in (0..MAX_ADDRESSES).rev() {
            for address in usable.iter().rev().filter_map(|server| server.get(turn)) {
                self.steps.push_front(Step::Ask(*address, TRIES));
            }
        }
    }

    fn next(&mut self) -> Option<Step> {
        let step = self.steps.pop_front()?;
        if let Step::Ask(address, tries) = step
            && tries > 1
        {
            self.steps.push_back(Step::Ask(address, tries - 1));
        }
        Some(step)
    }

    /// Takes off an address that has had its say.
    fn forget(&mut self, address: IpAddr) {
        self.steps
            .retain(|step| !matches!(step, Step::Ask(other, _) if *other == address));
    }
}
