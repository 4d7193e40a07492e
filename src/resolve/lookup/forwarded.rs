//! An ordinary name, asked of the upstreams. The only place that forwards clients' questions.

use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};
use tokio::time::Instant;

use super::{
    Chain, Ending, Lookup, MAX_ALIASES, Step, add_ede, seconds, seconds_between, soa_minimum,
};
use crate::pkarr::{NameKind, Record};
use crate::resolve::answers::{Answer, Composed, Origin, Question, clamp_ttls};
use crate::resolve::failure::Failure;
use crate::resolve::rebinding::has_private;
use crate::resolve::response::Response;
use crate::resolve::rewrite;
use crate::wire::{self, RecordAt, Section, flags};

impl Lookup {
    pub(super) async fn ask_upstream(
        &self,
        question: &Question,
        name: Name,
        chain: &mut Chain,
    ) -> Result<Step, Failure> {
        let asked = Question {
            name: name.to_lowercase(),
            ..question.clone()
        };
        // What stands behind an alias is the answer to a question of its own.
        let is_behind_alias = !chain.answers.is_empty();
        if is_behind_alias {
            chain.now = Instant::now();
            let held = self.cache.get(&asked.cache_key(), chain.now);
            if let Some(held) = held.filter(|held| held.is_whole() && !held.is_due(chain.now)) {
                return Ok(chain.go_on_with(&held));
            }
        }
        let said = self.forward.forward(&asked).await;
        chain.now = Instant::now();
        // The name may have become local meanwhile.
        if let Some(step) = self.answer_local(question, &name, chain) {
            return Ok(step);
        }
        let step = match &said {
            Err(failure) => self.go_on_without(&asked, self.failed(&asked, failure), chain),
            Ok(response) if !is_told(response.rcode) => {
                let wire = response.wire.clone();
                let failed = Answer::new(wire, response.rcode, chain.now, Duration::ZERO)?;
                self.go_on_without(&asked, failed.with_edes(response.edes.clone()), chain)
            }
            Ok(_) => None,
        };
        if let Some(step) = step {
            return Ok(step);
        }
        let mut response = said?;
        chain.verified = false;
        rewrite::strip(&mut response, question)?;
        let max = self.ttls.max;
        // RFC 4035 section 5.3.3: what a signature vouches for ends with it.
        let is_authentic = response.layout.header.has(flags::AD);
        let min = if is_authentic { 0 } else { self.ttls.min };
        let lowest = clamp_ttls(&mut response.wire, &response.layout, min, max);
        self.lower_negative_ttl(&mut response, question.rtype);
        let mut edes = Vec::new();
        for ede in response.edes.drain(..) {
            add_ede(&mut edes, ede);
        }
        // RFC 1034 section 4.3.2 step 3a: a question for the alias itself is answered with it.
        let follows = ![RecordType::CNAME, RecordType::ANY].contains(&question.rtype);
        let told = response.leads_to.take().map(|target| *target);
        let alias = follows
            .then(|| told.or_else(|| self.alias_to_key(&response, &name)))
            .flatten();
        let lifetime = self
            .forwarded_lifetime(&response, question.rtype)
            .min(lowest.unwrap_or(max));
        let is_ours = |record: &RecordAt| self.is_ordinary_at(&response.wire, record.start);
        if alias.is_none()
            && response.layout.records.iter().all(is_ours)
            && !(has_private(&response.wire, &response.layout) && self.is_guarded(&asked.name))
        {
            // The common case: the upstream's own bytes.
            let rcode = response.rcode;
            let answer = Answer::new(response.wire, rcode, chain.now, seconds(lifetime))?
                .with_edes(edes)
                .with_origin(Origin::Whole);
            if !is_behind_alias {
                return Ok(Step::Verbatim(answer));
            }
            let retry = self.failure_time();
            let answer = match is_told(rcode) {
                true => self.cache.take_in(asked.cache_key(), answer, retry),
                false => Arc::new(answer),
            };
            return Ok(chain.go_on_with(&answer));
        }
        chain.origin = match is_behind_alias || alias.is_some() {
            true => Origin::Part,
            false => Origin::Shortened,
        };
        edes.into_iter().for_each(|ede| chain.say(ede));
        if alias.is_none() {
            chain.holds_for(lifetime);
        }
        let section = |section| -> Vec<Record> {
            let records = response.layout.section(section);
            let records = records.filter(|record| is_ours(record));
            records
                .filter_map(|record| response.record(record))
                .collect()
        };
        let answers = section(Section::Answer);
        if let Some(target) = alias {
            // What the upstream says of the name behind the alias is not its to say.
            let is_alias = |record: &Record| record.rtype == RecordType::CNAME;
            let aliases: Vec<Record> = answers.into_iter().filter(is_alias).collect();
            self.keep_aliases(&asked, &aliases, chain.now);
            chain.add_aliases(aliases);
            return Ok(Step::Alias(target));
        }
        chain.answers.extend(answers);
        Ok(Step::Done(Ending {
            rcode: response.rcode,
            authorities: section(Section::Authority),
        }))
    }

    /// Keeps an upstream's aliases into a key, for when it fails. The answer that they are a part of is not
    /// given past its time, since the rest of it is the packet's to say.
    fn keep_aliases(&self, asked: &Question, aliases: &[Record], now: Instant) {
        let composed = Composed {
            answers: aliases.to_vec(),
            ..Composed::default()
        };
        let lowest = aliases.iter().map(|alias| alias.ttl).min().unwrap_or(0);
        let answer = composed
            .to_wire(asked)
            .and_then(|wire| Answer::new(wire, composed.rcode, now, seconds(lowest)));
        if let Ok(answer) = answer {
            let answer = answer.with_origin(Origin::Whole);
            let retry = self.failure_time();
            self.cache.take_in(asked.alias_key(), answer, retry);
        }
    }

    /// Goes on with what is held of a name that the upstream has failed to tell of: behind an alias its
    /// answer, and its aliases into a key. An answer that the guard has shortened would lack what another
    /// name may have.
    fn go_on_without(&self, asked: &Question, failed: Answer, chain: &mut Chain) -> Option<Step> {
        let held = |key: Box<[u8]>| {
            self.cache
                .held(&key, chain.now)
                .filter(|held| held.is_whole())?;
            let answer = self.cache.take_in(key, failed.clone(), self.failure_time());
            answer.is_whole().then_some(answer)
        };
        if !chain.answers.is_empty()
            && let Some(answer) = held(asked.cache_key())
        {
            return Some(chain.go_on_with(&answer));
        }
        let answer = held(asked.alias_key())?;
        let aliases = answer.records(Section::Answer, chain.now);
        let aliases: Vec<Record> = aliases.into_iter().flatten().collect();
        let targets = aliases.iter().filter_map(|alias| {
            let (target, _) = wire::read_name(&alias.rdata, 0).ok()?;
            Some((alias.owner.clone(), target))
        });
        let target = self.first_of_a_key(&targets.collect::<Vec<_>>(), &asked.name)?;
        chain.rest_on(&answer);
        chain.add_aliases(aliases);
        Some(Step::Alias(target))
    }

    /// Whether the name at `at` is an upstream's to answer.
    fn is_ordinary_at(&self, message: &[u8], at: usize) -> bool {
        let (mut longest, mut last) = (0, None);
        wire::show_labels(message, at, |label| {
            longest = label.len().max(longest);
            last = Some(label);
            true
        });
        let suffixes = &self.names.suffixes;
        suffixes.is_surely_ordinary(longest, last)
            || wire::read_name(message, at)
                .is_ok_and(|(name, _)| suffixes.classify(&name) == NameKind::Ordinary)
    }

    /// RFC 2308 section 5: the SOA of a negative answer goes out with the TTL that the answer has, so that
    /// the next cache keeps it no longer.
    fn lower_negative_ttl(&self, response: &mut Response, rtype: RecordType) {
        let wanted = u16::from(rtype);
        let mut answers = response.layout.section(Section::Answer);
        let is_soa = |record: &&RecordAt| record.rtype == u16::from(RecordType::SOA);
        let soa = response.layout.section(Section::Authority).find(is_soa);
        let Some(soa) = soa.filter(|_| !answers.any(|record| record.rtype == wanted)) else {
            return;
        };
        let rdata = response.wire.get(soa.rdata.clone()).unwrap_or_default();
        let minimum = soa_minimum(rdata).max(self.ttls.min);
        let at = soa.ttl_at;
        let ttl = wire::read_u32(&response.wire, at).unwrap_or(0);
        wire::write_at(&mut response.wire, at, &ttl.min(minimum).to_be_bytes());
    }

    /// How long an upstream's or name server's answer may be kept, beside the TTLs of its records.
    pub(super) fn forwarded_lifetime(&self, response: &Response, rtype: RecordType) -> u32 {
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
        self.first_of_a_key(&aliases, name)
    }

    /// The first target in a chain of owners and targets that is not an upstream's to answer.
    fn first_of_a_key(&self, aliases: &[(Name, Name)], name: &Name) -> Option<Name> {
        let mut name = name;
        for _ in 0..MAX_ALIASES {
            let (_, target) = aliases.iter().find(|(owner, _)| owner == name)?;
            if self.names.suffixes.classify(target) != NameKind::Ordinary {
                return Some(target.to_lowercase());
            }
            name = target;
        }
        None
    }
}

/// Whether an RCODE tells what there is (RFC 8767 section 4).
fn is_told(rcode: u16) -> bool {
    [ResponseCode::NoError, ResponseCode::NXDomain]
        .map(u16::from)
        .contains(&rcode)
}

impl Chain {
    fn add_aliases(&mut self, aliases: Vec<Record>) {
        for alias in aliases {
            self.holds_for(alias.ttl);
            self.answers.push(alias);
        }
    }

    /// Holds no longer than an answer that is held, and says what that says.
    fn rest_on(&mut self, answer: &Answer) {
        self.verified = false;
        self.origin = Origin::Part;
        let left = answer.left(self.now);
        self.holds_for(seconds_between(self.now, self.now + left));
        for ede in answer.edes() {
            self.say(ede.clone());
        }
    }

    /// Ends in the answer to the name that it has come to, with the time that it has left.
    fn go_on_with(&mut self, answer: &Answer) -> Step {
        self.rest_on(answer);
        let records = |section| answer.records(section, self.now).into_iter().flatten();
        let authorities = records(Section::Authority).collect();
        let answers: Vec<Record> = records(Section::Answer).collect();
        self.answers.extend(answers);
        Step::Done(Ending {
            rcode: answer.rcode(),
            authorities,
        })
    }
}
