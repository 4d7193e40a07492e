//! Names that the operator has given records on this host.

use hickory_proto::rr::{Name, RecordType};

use super::{Chain, Ending, Lookup, Step};
use crate::pkarr::Record;
use crate::resolve::answers::Question;
use crate::wire;

impl Lookup {
    /// What local records say of a name; `None` if it has none.
    pub(super) fn answer_local(
        &self,
        question: &Question,
        name: &Name,
        chain: &mut Chain,
    ) -> Option<Step> {
        let local = &self.names.local;
        let is_first = chain.answers.is_empty();
        let Some((data, ended)) = local.of(name) else {
            if !is_first {
                // A local record for this name would change an answer whose question is another one.
                chain.ended.extend(local.ended());
            }
            return None;
        };
        chain.ended.push(ended);
        // RFC 1035 section 4.1.1: AA is about the first owner name.
        chain.authoritative |= is_first;
        chain.verified = false;
        chain.holds_for(local.ttl());
        let record = |(rtype, rdata)| Record {
            owner: name.clone(),
            rtype,
            ttl: local.ttl(),
            rdata,
        };
        let of_type = |rtype: RecordType| move |(of, _): &(RecordType, Vec<u8>)| *of == rtype;
        let any = question.rtype == RecordType::ANY;
        if !any && question.rtype != RecordType::CNAME {
            let alias = data.iter().find(|data| of_type(RecordType::CNAME)(data));
            let target = alias.and_then(|(_, rdata)| wire::read_name(rdata, 0).ok());
            if let (Some(alias), Some((target, _))) = (alias, target) {
                chain.answers.push(record(alias.clone()));
                return Some(Step::Alias(target.to_lowercase()));
            }
        }
        let found: Vec<Record> = data
            .into_iter()
            .filter(|data| any || of_type(question.rtype)(data))
            .map(record)
            .collect();
        if found.is_empty() {
            let soa = self.own_soa(name);
            let ttl = soa.ttl.min(local.ttl());
            chain.holds_for(ttl);
            return Some(Step::Done(Ending::nodata(Record { ttl, ..soa })));
        }
        chain.answers.extend(found);
        Some(Step::Done(Ending::noerror()))
    }
}
