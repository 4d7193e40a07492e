//! Records of other names that an answer needs, and addresses made from HTTPS and SVCB records.

use std::net::IpAddr;

use futures_util::future::BoxFuture;
use hickory_proto::rr::{Name, RecordType};
use tokio::time::Instant;

use super::endpoints::{is_service_binding, service_of};
use super::packet::View;
use super::{Chain, Ending, Found, Lookup};
use crate::pkarr::{Record, Zone};
use crate::resolve::answers::Question;
use crate::resolve::delegation::ResolveAddresses;
use crate::resolve::failure::{Ede, ede};
use crate::resolve::packets::Asker;
use crate::resolve::response::Response;
use crate::wire::{self, Section};

/// Service bindings whose targets are tried for addresses.
const MAX_SERVICES: usize = 4;

impl Lookup {
    /// The answer section for another name, aliases included; `None` if that cannot be told. What `chain`
    /// has gathered then also depends on the packets behind it. Such a lookup follows no delegations.
    pub(super) async fn records(
        &self,
        name: &Name,
        rtype: RecordType,
        question: &Question,
        chain: &mut Chain,
    ) -> Option<Vec<Record>> {
        let asked = Question {
            name: name.to_lowercase(),
            rtype,
            ..question.clone()
        };
        // A change of the hosts file may change what is found.
        chain.ended.extend(self.names.local.ended());
        match self.follow(&asked, chain.asker, false).await.ok()? {
            Found::Gathered(other, _) => {
                chain.holds_for(other.lifetime);
                chain.held.extend(other.held);
                Some(other.answers)
            }
            Found::Verbatim(answer) => {
                let response = Response::from_message(answer.wire().to_vec())?;
                let answers = response.layout.section(Section::Answer);
                let records = answers.filter_map(|record| response.record(record));
                Some(records.collect())
            }
        }
    }

    /// A question for addresses of a name that has none, but HTTPS or SVCB records, is answered with
    /// the addresses of their target: for programs that do not know those records.
    pub(super) async fn synthesise_addresses(
        &self,
        question: &Question,
        chain: &mut Chain,
        ending: &mut Ending,
    ) {
        let wants = [RecordType::A, RecordType::AAAA].contains(&question.rtype);
        if !wants || !ending.is_nodata() {
            return;
        }
        // The name at the end of the chain of aliases, if that is a key's.
        let last = chain.answers.last().and_then(alias_target);
        let name = last.unwrap_or_else(|| question.name.clone());
        let Some(services) = self.services_without_addresses(&name, chain) else {
            return;
        };
        for (_, ttl, target) in services {
            let Some(found) = self.records(&target, question.rtype, question, chain).await else {
                // It may be there later.
                chain.holds_for(self.ttls.failure);
                continue;
            };
            let addresses: Vec<Record> = found
                .into_iter()
                .filter(|record| record.rtype == question.rtype)
                .map(|record| Record {
                    owner: name.clone(),
                    ttl: record.ttl.min(ttl),
                    ..record
                })
                .collect();
            if let Some(lowest) = addresses.iter().map(|record| record.ttl).min() {
                chain.holds_for(lowest);
                chain.verified = false;
                let reason = format!("addresses of {target}, from a service binding");
                chain.say(Ede::new(ede::SYNTHESIZED, reason));
                chain.answers.extend(addresses);
                *ending = Ending::noerror();
                return;
            }
        }
    }

    /// Priority, TTL and target of the service bindings at a name, the best first; `None` if the name
    /// has addresses of its own, or is none of a packet at hand.
    fn services_without_addresses(
        &self,
        name: &Name,
        chain: &Chain,
    ) -> Option<Vec<(u16, u32, Name)>> {
        let of_key = self.key_of(&self.names.suffixes.classify(name), name)?;
        let held = chain.held.last()?;
        if held.packet.key() != of_key.key {
            return None;
        }
        let zone = Zone::new(&held.packet, self.ttls.negative);
        let is_stale = Instant::now() >= held.expires;
        let view = View::new(&of_key, &zone, held, self.ttls, is_stale);
        let here: Vec<&Record> = zone
            .records()
            .iter()
            .filter(|record| record.owner == of_key.in_zone)
            .collect();
        if here.iter().any(|record| record.address().is_some()) {
            return None;
        }
        let mut services: Vec<(u16, u32, Name)> = here
            .into_iter()
            .filter(|record| is_service_binding(record.rtype))
            .filter_map(|record| {
                let (priority, target) = service_of(record)?;
                (target != of_key.in_zone).then_some((priority, view.ttl(record.ttl), target))
            })
            .collect();
        services.sort();
        services.truncate(MAX_SERVICES);
        Some(services)
    }
}

fn alias_target(record: &Record) -> Option<Name> {
    (record.rtype == RecordType::CNAME)
        .then(|| wire::read_name(&record.rdata, 0).ok())
        .flatten()
        .map(|(name, _)| name)
}

/// Looks up the addresses of name servers on behalf of whoever asked for what they serve.
pub(super) struct OnBehalf<'a> {
    pub(super) lookup: &'a Lookup,
    pub(super) asker: Asker,
}

impl ResolveAddresses for OnBehalf<'_> {
    fn resolve_addresses<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Vec<IpAddr>> {
        Box::pin(async move {
            let mut addresses = Vec::new();
            for rtype in [RecordType::A, RecordType::AAAA] {
                let question = Question {
                    name: name.to_lowercase(),
                    rtype,
                    dnssec_ok: false,
                    checking_disabled: false,
                };
                let mut chain = self.lookup.chain(&question, self.asker, false);
                let records = self
                    .lookup
                    .records(name, rtype, &question, &mut chain)
                    .await;
                let records = records.unwrap_or_default();
                addresses.extend(records.iter().filter_map(Record::address));
            }
            addresses
        })
    }
}
