//! Names that do not exist because one above them does not (RFC 8020).
//!
//! Instead of asking the upstream, its own NXDOMAIN for the same name or one above it is given, with the
//! time that it has left. That needs no DNSSEC: whoever is believed that a name does not exist has said
//! so of the tree below it (section 2). Some servers do not mean it, and deny names without records that
//! have others below them; so an answer that is held of a name, past its time or not, speaks against the
//! denial: any to the same question, and to those for A, AAAA and HTTPS one that says that the name exists.
//!
//! The denial must be of a question with the same DO and CD bits, so that those who want a proof get one.
//! NSEC and NSEC3 records that deny a name deny all below it: they prove that the next label does not
//! exist under the closest name that does, nor a wildcard there.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Name;
use tokio::time::Instant;

use super::{Chain, Ending, Lookup, Step, is_special_use, seconds_between};
use crate::pkarr::Record;
use crate::resolve::answers::{Answer, Question};
use crate::resolve::failure::{Ede, ede};
use crate::wire::{self, HEADER_LEN, Section};

impl Lookup {
    /// NXDOMAIN for an ordinary name, if that is known without asking.
    pub(super) fn deny(&self, question: &Question, name: &Name, chain: &mut Chain) -> Option<Step> {
        let now = Instant::now();
        let denial = self.cache.denial_of(name, question, now)?;
        if is_special_use(name) || self.forward.has_rule_for(name) {
            // Others have told, and the operator knows better.
            return None;
        }
        let asked = Question {
            name: name.to_lowercase(),
            ..question.clone()
        };
        if self.cache.held(&asked.cache_key(), now).is_some()
            || self.cache.has_been_there(&asked, now)
        {
            // This is its refresh, or it has existed.
            return None;
        }
        let (denied, _) = wire::read_name(denial.wire(), HEADER_LEN).ok()?;
        let left = seconds_between(now, now + denial.left(now));
        let authorities = authorities(&denial, left, now)?;
        chain.now = now;
        chain.verified = false;
        chain.holds_for(left);
        chain.say(Ede::new(
            ede::SYNTHESIZED,
            format!("{denied} does not exist"),
        ));
        Some(Step::Done(Ending {
            rcode: ResponseCode::NXDomain.into(),
            authorities,
        }))
    }
}

/// The authority section of an answer, with the TTLs that are left: no longer than the answer itself.
fn authorities(answer: &Answer, left: u32, now: Instant) -> Option<Vec<Record>> {
    let records = answer.records(Section::Authority, now).into_iter();
    let no_longer = |record: Record| Record {
        ttl: record.ttl.min(left),
        ..record
    };
    records.map(|record| record.map(no_longer)).collect()
}
