//! One question, followed through its aliases to an answer.

use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};
use tokio::time::Instant;

use super::Ttls;
use super::answers::{Answer, Composed, Question, clamp_ttls};
use super::failure::{Ede, Failure, ede};
use super::packets::{Held, Known, Packets};
use super::response::Response;
use super::upstream::Forward;
use crate::pkarr::{self, NameKind, PublicKey, PublicKeyName, Record, Suffixes, Zone};
use crate::wire::{self, RecordAt, Section};

/// Aliases that are followed for one question, whoever made them.
const MAX_ALIASES: usize = 12;
/// TTL of records whose time is over, in seconds (RFC 8767 section 4).
const STALE_TTL: u32 = 30;
/// How long an answer is kept that says that a key has no packet, in seconds. The packets' own memory
/// of it decides when it is looked for again.
const ABSENT_TTL: u32 = 5;

/// Looks questions up; holds no state of its own.
#[derive(Debug)]
pub(super) struct Lookup {
    pub(super) suffixes: Suffixes,
    pub(super) packets: Arc<Packets>,
    pub(super) forward: Arc<dyn Forward>,
    pub(super) ttls: Ttls,
}

/// What has been gathered on the way to an answer.
struct Chain {
    now: Instant,
    answers: Vec<Record>,
    /// Seconds for which all of it holds.
    lifetime: u32,
    held: Vec<Arc<Held>>,
    ede: Option<Ede>,
    /// Whether the asked name lies in a zone that pkbridge is the authority of: a suffix's.
    authoritative: bool,
}

/// Where the lookup of one name leads.
enum Step {
    Done(Answer),
    Alias(Name),
}

impl Lookup {
    /// Answers a question; a failure is an answer too.
    pub(super) async fn answer(&self, question: &Question) -> Answer {
        match self.follow(question).await {
            Ok(answer) => answer,
            Err(failure) => {
                tracing::debug!(?question, %failure, "no answer");
                let time = if failure.is_cacheable() {
                    self.ttls.failure
                } else {
                    0
                };
                Answer::failure(question, &failure, seconds(time))
            }
        }
    }

    async fn follow(&self, question: &Question) -> Result<Answer, Failure> {
        let mut chain = Chain {
            now: Instant::now(),
            answers: Vec::new(),
            lifetime: self.ttls.max,
            held: Vec::new(),
            ede: None,
            authoritative: self.suffixes.cover(&question.name),
        };
        let mut name = question.name.clone();
        for _ in 0..=MAX_ALIASES {
            let step = match self.suffixes.classify(&name) {
                NameKind::Ordinary => self.ask_upstream(question, name, &mut chain).await?,
                NameKind::PublicKey(of_key) => {
                    self.ask_packet(question, &of_key, name, &mut chain).await?
                }
                local @ (NameKind::NotAKey(_)
                | NameKind::Suffix(_)
                | NameKind::UnderSuffix(_)
                | NameKind::SearchList) => {
                    Step::Done(self.answer_here(question, &local, &name, &mut chain)?)
                }
            };
            match step {
                Step::Done(answer) => return Ok(answer),
                Step::Alias(target) if chain.has_alias_at(&target) => break,
                Step::Alias(target) => name = target,
            }
        }
        Err(Failure::AliasChain)
    }

    async fn ask_packet(
        &self,
        question: &Question,
        of_key: &PublicKeyName,
        name: Name,
        chain: &mut Chain,
    ) -> Result<Step, Failure> {
        let (held, stale) = match self.packets.newest(of_key.key).await {
            Known::Packet(held) => (held, None),
            Known::Stale(held, reason) => (held, Some(reason)),
            Known::Failed(failure) => return Err(failure),
            Known::Absent => {
                chain.holds_for(ABSENT_TTL);
                chain.say(Ede::new(
                    ede::OTHER,
                    "nobody on the DHT has a packet of this key",
                ));
                let soa = pkarr::soa_record(&of_key.apex(), 0, ABSENT_TTL);
                return chain.finish(question, nxdomain(soa)).map(Step::Done);
            }
        };
        // The fetch may have taken a while.
        chain.now = Instant::now();
        let age = seconds_between(held.fetched, chain.now);
        let left = match &stale {
            None => seconds_between(chain.now, held.expires),
            Some(_) => self.ttls.failure.min(STALE_TTL),
        };
        let is_stale = stale.is_some();
        let ttl = |ttl: u32| match is_stale {
            true => STALE_TTL,
            false => ttl.clamp(self.ttls.min, self.ttls.max).saturating_sub(age),
        };
        chain.holds_for(left);
        if let Some(reason) = stale {
            chain.say(Ede::new(ede::STALE_ANSWER, reason));
        }
        let zone = Zone::new(&held.packet, self.ttls.negative);
        chain.held.push(held);

        let apex = zone.apex().clone();
        let suffixed = |target: Name| {
            if apex.zone_of(&target) {
                of_key.with_suffix(&target).unwrap_or(target)
            } else {
                target
            }
        };
        let record = |owner: Name, rtype: RecordType, raw: u32, rdata: &[u8]| Record {
            owner,
            rtype,
            ttl: ttl(raw),
            rdata: wire::map_rdata(rdata, 0..rdata.len(), rtype, suffixed)
                .unwrap_or_else(|| rdata.to_vec()),
        };
        let negative_soa = || {
            let soa = zone.soa();
            let ttl = soa.ttl.min(soa_minimum(&soa.rdata)).min(self.ttls.negative);
            let mut soa = record(of_key.apex(), RecordType::SOA, soa.ttl, &soa.rdata);
            soa.ttl = ttl.min(left);
            soa
        };
        let composed = match zone.lookup(&of_key.in_zone, question.rtype) {
            pkarr::Lookup::Rrset { rtype, ttl, rdata } => {
                let records = rdata
                    .into_iter()
                    .map(|data| record(name.clone(), rtype, ttl, data));
                chain.answers.extend(records);
                Composed::default()
            }
            pkarr::Lookup::Cname { ttl, target } => {
                let target = suffixed(target);
                let cname = wire::name_bytes(&target);
                let cname = record(name, RecordType::CNAME, ttl, &cname);
                chain.answers.push(cname);
                return Ok(Step::Alias(target));
            }
            pkarr::Lookup::Dname { owner, ttl, target } => {
                let depth = of_key.in_zone.iter().len() - owner.iter().len();
                let owner = suffixed(owner);
                let target = suffixed(target);
                let dname = wire::name_bytes(&target);
                chain
                    .answers
                    .push(record(owner, RecordType::DNAME, ttl, &dname));
                let below = Name::from_labels(of_key.in_zone.iter().take(depth));
                let Ok(target) = below.and_then(|below| below.append_name(&target)) else {
                    // RFC 6672 section 2.2: the new name would be too long.
                    let composed = Composed {
                        rcode: ResponseCode::YXDomain.into(),
                        ..Composed::default()
                    };
                    return chain.finish(question, composed).map(Step::Done);
                };
                let cname = wire::name_bytes(&target);
                let cname = record(name, RecordType::CNAME, ttl, &cname);
                chain.answers.push(cname);
                return Ok(Step::Alias(target));
            }
            pkarr::Lookup::Delegation { cut } => return Err(Failure::Delegated(cut.to_ascii())),
            pkarr::Lookup::NoData => nodata(negative_soa()),
            pkarr::Lookup::NxDomain => nxdomain(negative_soa()),
        };
        if let Some(soa) = composed.authorities.first() {
            chain.holds_for(soa.ttl);
        }
        chain.finish(question, composed).map(Step::Done)
    }

    async fn ask_upstream(
        &self,
        question: &Question,
        name: Name,
        chain: &mut Chain,
    ) -> Result<Step, Failure> {
        let asked = Question {
            name: name.to_lowercase(),
            ..question.clone()
        };
        let mut response = self.forward.forward(&asked).await?;
        chain.now = Instant::now();
        let (min, max) = (self.ttls.min, self.ttls.max);
        let lowest = clamp_ttls(&mut response.wire, &response.layout, min, max);
        if let Some(ede) = response.ede.take() {
            chain.say(ede);
        }
        // RFC 1034 section 4.3.2 step 3a: a question for the alias itself is answered with it.
        let follows = ![RecordType::CNAME, RecordType::ANY].contains(&question.rtype);
        let alias = follows
            .then(|| self.alias_to_key(&response, &name))
            .flatten();
        if alias.is_none() {
            chain.holds_for(self.lifetime(&response, question.rtype));
            chain.holds_for(lowest.unwrap_or(max));
        }
        let is_ours = |record: &RecordAt| {
            wire::read_name(&response.wire, record.start)
                .is_ok_and(|(owner, _)| self.suffixes.classify(&owner) == NameKind::Ordinary)
        };
        if chain.answers.is_empty()
            && alias.is_none()
            && response.layout.records.iter().all(is_ours)
        {
            // The common case: the upstream's own bytes.
            let rcode = response.rcode;
            let answer = Answer::new(response.wire, rcode, chain.now, seconds(chain.lifetime))?;
            return Ok(Step::Done(answer.with_ede(chain.ede.take())));
        }
        let section = |section| -> Vec<Record> {
            let records = response.layout.section(section);
            let records = records.filter(|record| is_ours(record));
            records
                .filter_map(|record| self.record_of(&response, record))
                .collect()
        };
        let answers = section(Section::Answer);
        if let Some(target) = alias {
            // What the upstream says of the name behind the alias is not its to say.
            let aliases = answers
                .into_iter()
                .filter(|record| record.rtype == RecordType::CNAME);
            for alias in aliases {
                chain.holds_for(alias.ttl);
                chain.answers.push(alias);
            }
            return Ok(Step::Alias(target));
        }
        chain.answers.extend(answers);
        let composed = Composed {
            rcode: response.rcode,
            authorities: section(Section::Authority),
            ..Composed::default()
        };
        chain.finish(question, composed).map(Step::Done)
    }

    /// How long an upstream's answer may be kept, beside the TTLs of its records.
    fn lifetime(&self, response: &Response, rtype: RecordType) -> u32 {
        let ok = u16::from(ResponseCode::NoError);
        let nxdomain = u16::from(ResponseCode::NXDomain);
        if response.rcode != ok && response.rcode != nxdomain {
            return self.ttls.failure;
        }
        let mut answers = response.layout.section(Section::Answer);
        let wanted = u16::from(rtype);
        let is_answer = |record: &RecordAt| record.rtype == wanted || rtype == RecordType::ANY;
        if response.rcode == ok && answers.any(is_answer) {
            return self.ttls.max;
        }
        // RFC 2308 section 5: without an SOA a negative answer is not kept.
        let soa = response
            .layout
            .section(Section::Authority)
            .find(|record| record.rtype == u16::from(RecordType::SOA));
        let minimum = soa
            .and_then(|soa| response.wire.get(soa.rdata.clone()))
            .map_or(0, soa_minimum);
        minimum.clamp(self.ttls.min, self.ttls.negative.max(self.ttls.min))
    }

    /// The first target in the upstream's chain of aliases that is not the upstream's to answer.
    fn alias_to_key(&self, response: &Response, name: &Name) -> Option<Name> {
        let aliases: Vec<(Name, Name)> = response
            .layout
            .section(Section::Answer)
            .filter(|record| record.rtype == u16::from(RecordType::CNAME))
            .filter_map(|record| {
                let owner = wire::read_name(&response.wire, record.start).ok()?.0;
                let target = wire::read_name(&response.wire, record.rdata.start).ok()?.0;
                Some((owner, target))
            })
            .collect();
        let mut name = name;
        for _ in 0..MAX_ALIASES {
            let (_, target) = aliases.iter().find(|(owner, _)| owner == name)?;
            if self.suffixes.classify(target) != NameKind::Ordinary {
                return Some(target.to_lowercase());
            }
            name = target;
        }
        None
    }

    /// A record of an upstream's message on its own: names expanded.
    fn record_of(&self, response: &Response, record: &RecordAt) -> Option<Record> {
        let rtype = RecordType::from(record.rtype);
        Some(Record {
            owner: wire::read_name(&response.wire, record.start).ok()?.0,
            rtype,
            ttl: wire::read_u32(&response.wire, record.ttl_at)?,
            rdata: wire::map_rdata(&response.wire, record.rdata.clone(), rtype, |name| name)?,
        })
    }

    /// Names that are neither a key's nor anybody else's: answered here, whatever happens.
    fn answer_here(
        &self,
        question: &Question,
        kind: &NameKind,
        name: &Name,
        chain: &mut Chain,
    ) -> Result<Answer, Failure> {
        let soa = |apex: &Name| pkarr::soa_record(apex, 1, self.ttls.negative);
        let composed = match kind {
            NameKind::Suffix(apex) => {
                let ns = Record {
                    rtype: RecordType::NS,
                    rdata: wire::name_bytes(apex),
                    ..soa(apex)
                };
                let records = [soa(apex), ns];
                let wanted = |record: &Record| {
                    record.rtype == question.rtype || question.rtype == RecordType::ANY
                };
                match records.into_iter().find(wanted) {
                    Some(record) => {
                        chain.answers.push(record);
                        Composed::default()
                    }
                    None => nodata(soa(apex)),
                }
            }
            NameKind::UnderSuffix(apex) => nxdomain(soa(apex)),
            NameKind::NotAKey(error) => {
                chain.say(Ede::new(ede::OTHER, format!("not a public key: {error}")));
                nxdomain(soa(&from_key_like_label(name)))
            }
            NameKind::SearchList => {
                let reason = "a public key with a search domain behind it stays here";
                chain.say(Ede::new(ede::OTHER, reason));
                nxdomain(soa(&from_key_like_label(name)))
            }
            NameKind::PublicKey(_) | NameKind::Ordinary => return Err(Failure::Internal),
        };
        chain.holds_for(self.ttls.negative);
        chain.finish(question, composed)
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
        self.ede.get_or_insert(ede);
    }

    fn finish(&mut self, question: &Question, mut composed: Composed) -> Result<Answer, Failure> {
        composed.answers = std::mem::take(&mut self.answers);
        composed.authoritative = self.authoritative;
        let wire = composed.to_wire(question)?;
        let answer = Answer::new(wire, composed.rcode, self.now, seconds(self.lifetime))?;
        let superseded = self.held.drain(..).map(|held| held.superseded.clone());
        Ok(answer
            .with_ede(self.ede.take())
            .superseded_by(superseded.collect()))
    }
}

fn nodata(soa: Record) -> Composed {
    Composed {
        authorities: vec![soa],
        ..Composed::default()
    }
}

fn nxdomain(soa: Record) -> Composed {
    Composed {
        rcode: ResponseCode::NXDomain.into(),
        ..nodata(soa)
    }
}

/// The apex of the NXDOMAIN for a name with a key's form in it: from the last such label on.
fn from_key_like_label(name: &Name) -> Name {
    let labels = name.iter().len();
    let before = name
        .iter()
        .enumerate()
        .filter(|(_, label)| PublicKey::is_key_like(label))
        .map(|(index, _)| index)
        .next_back();
    name.trim_to(labels - before.unwrap_or(0))
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
