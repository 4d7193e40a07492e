//! An ordinary name, asked of the upstreams. The only place that forwards clients' questions.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};
use tokio::time::Instant;

use super::{Chain, Ending, Lookup, MAX_ALIASES, Step, seconds, soa_minimum};
use crate::pkarr::{NameKind, Record};
use crate::resolve::answers::{Answer, Question, clamp_ttls};
use crate::resolve::failure::Failure;
use crate::resolve::rebinding::has_private;
use crate::resolve::response::Response;
use crate::resolve::rewrite;
use crate::wire::{self, RecordAt, Section};

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
        let mut response = self.forward.forward(&asked).await?;
        chain.now = Instant::now();
        // The name may have become local meanwhile.
        if let Some(step) = self.answer_local(question, &name, chain) {
            return Ok(step);
        }
        chain.verified = false;
        rewrite::strip(&mut response, question)?;
        let (min, max) = (self.ttls.min, self.ttls.max);
        let lowest = clamp_ttls(&mut response.wire, &response.layout, min, max);
        self.lower_negative_ttl(&mut response, question.rtype);
        for ede in response.edes.drain(..) {
            chain.say(ede);
        }
        // RFC 1034 section 4.3.2 step 3a: a question for the alias itself is answered with it.
        let follows = ![RecordType::CNAME, RecordType::ANY].contains(&question.rtype);
        let told = response.leads_to.take().map(|target| *target);
        let alias = follows
            .then(|| told.or_else(|| self.alias_to_key(&response, &name)))
            .flatten();
        if alias.is_none() {
            chain.holds_for(self.forwarded_lifetime(&response, question.rtype));
            chain.holds_for(lowest.unwrap_or(max));
        }
        let is_ours = |record: &RecordAt| self.is_ordinary_at(&response.wire, record.start);
        if chain.answers.is_empty()
            && alias.is_none()
            && response.layout.records.iter().all(is_ours)
            && !(has_private(&response.wire, &response.layout) && self.is_guarded(&question.name))
        {
            // The common case: the upstream's own bytes.
            let rcode = response.rcode;
            let answer = Answer::new(response.wire, rcode, chain.now, seconds(chain.lifetime))?;
            return Ok(Step::Verbatim(
                answer.with_edes(std::mem::take(&mut chain.edes)),
            ));
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
        Ok(Step::Done(Ending {
            rcode: response.rcode,
            authorities: section(Section::Authority),
        }))
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
