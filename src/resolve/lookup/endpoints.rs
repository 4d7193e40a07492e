//! HTTPS and SVCB answers with what a client asks next: the records behind an alias and the addresses
//! of the targets, in the additional section (RFC 9460 section 4.2).

use hickory_proto::rr::{Name, RecordType};

use super::{Chain, Lookup};
use crate::pkarr::Record;
use crate::resolve::answers::Question;
use crate::wire;

/// AliasMode records that are followed for one answer.
const MAX_ALIAS_MODE: usize = 4;
/// Targets whose addresses are added to one answer.
const MAX_TARGETS: usize = 4;

/// Priority and target of an HTTPS or SVCB record; a target of `.` is the owner (RFC 9460 section
/// 2.5).
pub(super) fn service_of(record: &Record) -> Option<(u16, Name)> {
    let priority = wire::read_u16(&record.rdata, 0)?;
    let (target, _) = wire::read_name(&record.rdata, 2).ok()?;
    if priority == 0 && target.is_root() {
        // RFC 9460 section 2.5.1: there is no service.
        return None;
    }
    let target = if target.is_root() {
        record.owner.clone()
    } else {
        target
    };
    Some((priority, target))
}

/// Whether a type is HTTPS or SVCB.
pub(super) fn is_service_binding(rtype: RecordType) -> bool {
    [RecordType::HTTPS, RecordType::SVCB].contains(&rtype)
}

impl Lookup {
    /// Adds to an answer from packets alone; an upstream's answer stays as it came.
    pub(super) async fn add_endpoints(&self, question: &Question, chain: &mut Chain) {
        if !is_service_binding(question.rtype) || chain.held.is_empty() {
            return;
        }
        let of_type = |record: &&Record| record.rtype == question.rtype;
        let mut services: Vec<Record> = chain.answers.iter().filter(of_type).cloned().collect();
        let mut seen: Vec<Name> = services.iter().map(|r| r.owner.clone()).collect();
        for _ in 0..MAX_ALIAS_MODE {
            let alias = services
                .iter()
                .filter_map(service_of)
                .find(|(priority, _)| *priority == 0);
            let Some((_, target)) = alias else {
                break;
            };
            if seen.contains(&target) {
                return;
            }
            seen.push(target.clone());
            let behind = self.records(&target, question.rtype, question, chain).await;
            let behind = self.or_soon_again(behind, chain);
            if behind.is_empty() {
                self.add_addresses(vec![target], question, chain).await;
                return;
            }
            chain.additionals.extend(behind.iter().cloned());
            services = behind.into_iter().filter(|r| of_type(&r)).collect();
        }
        let mut targets = Vec::new();
        for (_, target) in services.iter().filter_map(service_of) {
            if !targets.contains(&target) && targets.len() < MAX_TARGETS {
                targets.push(target);
            }
        }
        self.add_addresses(targets, question, chain).await;
    }

    async fn add_addresses(&self, targets: Vec<Name>, question: &Question, chain: &mut Chain) {
        for target in targets {
            for rtype in [RecordType::A, RecordType::AAAA] {
                let records = self.records(&target, rtype, question, chain).await;
                for record in self.or_soon_again(records, chain) {
                    if !chain.additionals.contains(&record) {
                        chain.additionals.push(record);
                    }
                }
            }
        }
    }

    /// An answer without what could not be had now is kept no longer than a failure.
    fn or_soon_again(&self, records: Option<Vec<Record>>, chain: &mut Chain) -> Vec<Record> {
        records.unwrap_or_else(|| {
            chain.holds_for(self.ttls.failure);
            Vec::new()
        })
    }
}
