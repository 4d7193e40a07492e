//! One question, followed through its aliases to an answer.

mod addresses;
mod cut;
mod delegated;
mod endpoints;
mod forwarded;
mod local;
mod local_records;
mod packet;
mod rebinding;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures_util::future::BoxFuture;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};
use tokio::time::{Instant, timeout};

pub use local::is_special_use;

use super::Ttls;
use super::answers::{Answer, AnswerCache, Composed, Origin, Question};
use super::delegation::Delegations;
use super::failure::{Ede, Failure};
use super::local_records::LocalRecords;
use super::packets::{Asker, Held, Packets};
use super::rebinding::RebindingGuard;
use super::upstream::Forward;
use crate::pkarr::{NameKind, PublicKeyName, Record, Suffixes};
use crate::wire;

/// Aliases that are followed for one question, whoever made them.
const MAX_ALIASES: usize = 12;

/// How long the answer is kept that a key's packet cannot be had, in seconds.
const FAILURE_TTL: u32 = 5;

/// Extended DNS Errors in one answer: more than any honest server sends.
const MAX_EDES: usize = 16;
/// Longest wait for what only makes an answer better.
const EXTRAS_TIMEOUT: Duration = Duration::from_millis(1500);

/// What is answered, beside what packets and upstreams say.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// The suffixes under which keys stand.
    pub suffixes: Suffixes,
    /// Whether a key with a search domain behind it is answered as the key.
    pub answer_search_domains: bool,
    /// Whether addresses are made from HTTPS and SVCB records.
    pub synthesise_addresses: bool,
    /// Whether special-use names are answered here.
    pub special_use: bool,
    /// Whether name servers that packets delegate to are asked.
    pub follow_delegations: bool,
    /// Whether they are asked at private addresses too.
    pub private_name_servers: bool,
    /// Names that have records on this host.
    pub local: Arc<LocalRecords>,
    /// Whether answers may have private addresses.
    pub rebinding: Arc<RebindingGuard>,
}

/// Looks questions up. What it has come to before is in the cache.
#[derive(Debug)]
pub(super) struct Lookup {
    pub(super) names: Names,
    pub(super) packets: Arc<Packets>,
    pub(super) forward: Arc<dyn Forward>,
    /// Name servers that packets delegate to; `None` if they are not to be asked.
    pub(super) delegations: Option<Delegations>,
    pub(super) ttls: Ttls,
    pub(super) cache: AnswerCache,
}

/// What has been gathered on the way to an answer.
struct Chain {
    now: Instant,
    answers: Vec<Record>,
    additionals: Vec<Record>,
    /// Seconds for which all of it holds.
    lifetime: u32,
    held: Vec<Arc<Held>>,
    /// Set when local records have changed that matter to it.
    ended: Vec<Arc<AtomicBool>>,
    /// On whose behalf packets are looked for.
    asker: Asker,
    edes: Vec<Ede>,
    /// How much of it is an upstream's.
    origin: Origin,
    /// Whether the asked name lies in a zone that pkbridge is the authority of.
    authoritative: bool,
    /// Whether all of it comes from verified packets.
    verified: bool,
    /// Whether delegations may be followed: not to find the addresses of name servers.
    may_delegate: bool,
}

/// Where the lookup of one name leads.
enum Step {
    /// The upstream's own message, unchanged.
    Verbatim(Answer),
    /// The end of the chain.
    Done(Ending),
    /// Go on with this name.
    Alias(Name),
}

/// What stands beside the answers at the end of a chain.
struct Ending {
    rcode: u16,
    authorities: Vec<Record>,
}

/// What a question leads to.
enum Found {
    Verbatim(Answer),
    Gathered(Chain, Ending),
}

impl Lookup {
    /// Answers a question; a failure is an answer too.
    pub(super) async fn answer(&self, question: &Question, asker: Asker) -> Answer {
        match self.try_answer(question, asker).await {
            Ok(answer) => answer,
            Err(failure) => {
                tracing::debug!(?question, %failure, "no answer");
                self.failed(question, &failure)
            }
        }
    }

    fn failed(&self, question: &Question, failure: &Failure) -> Answer {
        let time = match failure.is_cacheable() {
            // The packets remember it as well, and know when it no longer holds.
            true if failure.is_of_packet() => self.ttls.failure.min(FAILURE_TTL),
            true => self.ttls.failure,
            false => 0,
        };
        Answer::failure(question, failure, seconds(time))
    }

    /// How long a failure is kept, and how long after one a refresh is tried again.
    pub(super) fn failure_time(&self) -> Duration {
        seconds(self.ttls.failure)
    }

    async fn try_answer(&self, question: &Question, asker: Asker) -> Result<Answer, Failure> {
        match self.follow(question, asker, true).await? {
            Found::Verbatim(answer) => Ok(answer),
            Found::Gathered(mut chain, mut ending) => {
                let extras = async {
                    self.add_endpoints(question, &mut chain).await;
                    if self.names.synthesise_addresses {
                        self.synthesise_addresses(question, &mut chain, &mut ending)
                            .await;
                    }
                };
                if timeout(EXTRAS_TIMEOUT, extras).await.is_err() {
                    chain.holds_for(self.ttls.failure);
                }
                self.hide_name_servers(&mut chain, &mut ending);
                self.drop_private(&question.name, &mut chain, &mut ending);
                chain.finish(question, ending)
            }
        }
    }

    fn chain(&self, question: &Question, asker: Asker, may_delegate: bool) -> Chain {
        Chain {
            now: Instant::now(),
            answers: Vec::new(),
            additionals: Vec::new(),
            lifetime: self.ttls.max,
            held: Vec::new(),
            ended: Vec::new(),
            asker,
            edes: Vec::new(),
            origin: Origin::Here,
            authoritative: self.names.suffixes.cover(&question.name),
            verified: true,
            may_delegate,
        }
    }

    /// Follows a question to the end of its chain of aliases. A boxed future, since looking for the
    /// addresses of a name server comes back here.
    fn follow<'a>(
        &'a self,
        question: &'a Question,
        asker: Asker,
        may_delegate: bool,
    ) -> BoxFuture<'a, Result<Found, Failure>> {
        Box::pin(async move {
            let mut chain = self.chain(question, asker, may_delegate);
            let mut name = question.name.clone();
            for _ in 0..=MAX_ALIASES {
                match self.step(question, name, &mut chain).await? {
                    Step::Verbatim(answer) => return Ok(Found::Verbatim(answer)),
                    Step::Done(ending) => return Ok(Found::Gathered(chain, ending)),
                    Step::Alias(target) if chain.has_alias_at(&target) => break,
                    Step::Alias(target) => name = target,
                }
            }
            Err(Failure::AliasChain)
        })
    }

    /// The key whose packet answers for a name.
    fn key_of(&self, kind: &NameKind, name: &Name) -> Option<PublicKeyName> {
        match kind {
            NameKind::PublicKey(of_key) => Some(of_key.clone()),
            NameKind::SearchList if self.names.answer_search_domains => {
                PublicKeyName::with_search_domain(name)
            }
            NameKind::SearchList
            | NameKind::NotAKey(_)
            | NameKind::Suffix(_)
            | NameKind::UnderSuffix(_)
            | NameKind::Ordinary => None,
        }
    }

    async fn step(
        &self,
        question: &Question,
        name: Name,
        chain: &mut Chain,
    ) -> Result<Step, Failure> {
        let kind = self.names.suffixes.classify(&name);
        if let Some(of_key) = self.key_of(&kind, &name) {
            // In a box, so that the lookups of ordinary names stay small.
            return Box::pin(self.ask_packet(question, &of_key, name, chain)).await;
        }
        match &kind {
            NameKind::Ordinary => {
                if let Some(step) = self.answer_local(question, &name, chain) {
                    return Ok(step);
                }
                if self.names.special_use
                    && !self.forward.has_rule_for(&name)
                    && let Some(step) = self.answer_special(question, &name, chain)
                {
                    return Ok(step);
                }
                if let Some(step) = self.deny(question, &name, chain) {
                    return Ok(step);
                }
                self.ask_upstream(question, name, chain).await
            }
            NameKind::PublicKey(_)
            | NameKind::NotAKey(_)
            | NameKind::Suffix(_)
            | NameKind::UnderSuffix(_)
            | NameKind::SearchList => Ok(self.answer_here(question, &kind, &name, chain)),
        }
    }
}

impl Chain {
    fn has_alias_at(&self, name: &Name) -> bool {
        self.answers
            .iter()
            .any(|record| record.rtype == RecordType::CNAME && record.owner == *name)
    }

    fn holds_for(&mut self, seconds: u32) {
        self.lifetime = self.lifetime.min(seconds);
    }

    fn say(&mut self, ede: Ede) {
        add_ede(&mut self.edes, ede);
    }

    fn finish(self, question: &Question, ending: Ending) -> Result<Answer, Failure> {
        let composed = Composed {
            rcode: ending.rcode,
            authoritative: self.authoritative,
            answers: self.answers,
            authorities: ending.authorities,
            additionals: self.additionals,
        };
        let wire = composed.to_wire(question)?;
        let answer = Answer::new(wire, composed.rcode, self.now, seconds(self.lifetime))?;
        let ended = self.held.iter().map(|held| Arc::clone(&held.ended));
        Ok(answer
            .with_edes(self.edes)
            .with_origin(self.origin)
            .with_verified(self.verified)
            .ends_with(ended.chain(self.ended).collect()))
    }
}

impl Ending {
    /// An answer that is complete as it is.
    fn noerror() -> Self {
        Self {
            rcode: ResponseCode::NoError.into(),
            authorities: Vec::new(),
        }
    }

    fn nodata(soa: Record) -> Self {
        Self {
            authorities: vec![soa],
            ..Self::noerror()
        }
    }

    fn nxdomain(soa: Record) -> Self {
        Self {
            rcode: ResponseCode::NXDomain.into(),
            ..Self::nodata(soa)
        }
    }

    /// Whether the name exists without the type.
    fn is_nodata(&self) -> bool {
        self.rcode == u16::from(ResponseCode::NoError) && !self.authorities.is_empty()
    }
}

/// A few tell enough, and leave room for the records.
fn add_ede(edes: &mut Vec<Ede>, ede: Ede) {
    if edes.len() < MAX_EDES && !edes.contains(&ede) {
        edes.push(ede);
    }
}

/// The minimum field: the last number of an SOA's data, and the TTL of negative answers (RFC 2308
/// section 4).
fn soa_minimum(rdata: &[u8]) -> u32 {
    let at = rdata.len().saturating_sub(4);
    wire::effective_ttl(wire::read_u32(rdata, at).unwrap_or(0))
}

fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(u64::from(seconds))
}

fn seconds_between(earlier: Instant, later: Instant) -> u32 {
    let seconds = later.saturating_duration_since(earlier).as_secs();
    u32::try_from(seconds).unwrap_or(u32::MAX)
}
