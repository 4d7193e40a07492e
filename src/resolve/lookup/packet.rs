//! A name of a public key, looked up in its packet.

use std::sync::Arc;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};
use tokio::time::Instant;

use super::{Chain, Ending, Lookup, Step, seconds_between, soa_minimum};
use crate::pkarr::{self, PublicKeyName, Record, Zone};
use crate::resolve::Ttls;
use crate::resolve::answers::{Question, STALE_TTL};
use crate::resolve::failure::{Ede, Failure, ede};
use crate::resolve::packets::{Held, Known};
use crate::wire;

/// How long an answer is kept that says that a key has no packet, in seconds. The packets' own memory
/// of it decides when it is looked for again.
const ABSENT_TTL: u32 = 5;

/// How the records of a packet are given out under the name that was asked.
pub(super) struct View<'a> {
    of_key: &'a PublicKeyName,
    apex: Name,
    ttls: Ttls,
    /// Seconds since the packet was fetched.
    age: u32,
    /// Seconds that the packet is still held.
    left: u32,
    /// Seconds that an answer made from it may be kept.
    keep: u32,
    ttl_limit: u32,
    is_stale: bool,
}

impl<'a> View<'a> {
    pub(super) fn new(
        of_key: &'a PublicKeyName,
        zone: &Zone,
        held: &Held,
        ttls: Ttls,
        is_stale: bool,
    ) -> Self {
        let now = Instant::now();
        Self {
            of_key,
            apex: zone.apex().clone(),
            ttls,
            age: seconds_between(held.fetched, now),
            left: if is_stale {
                ttls.failure.min(STALE_TTL)
            } else {
                seconds_between(now, held.expires)
            },
            keep: if is_stale {
                ttls.failure.min(STALE_TTL)
            } else {
                seconds_between(now, held.next_look(now))
            },
            ttl_limit: held.ttl_limit(),
            is_stale,
        }
    }

    /// A name as the client sees it: those of the zone carry the suffix that was asked, so that
    /// clients that refuse bare keys can go on with them.
    pub(super) fn name(&self, name: Name) -> Name {
        if self.apex.zone_of(&name) {
            self.of_key.with_suffix(&name).unwrap_or(name)
        } else {
            name
        }
    }

    /// A TTL as it is given out now: within the bounds, less its age.
    pub(super) fn ttl(&self, ttl: u32) -> u32 {
        if self.is_stale {
            return STALE_TTL;
        }
        let bounded = ttl.clamp(self.ttls.min, self.ttls.max).min(self.ttl_limit);
        bounded.saturating_sub(self.age)
    }

    pub(super) fn record(&self, owner: Name, rtype: RecordType, ttl: u32, rdata: &[u8]) -> Record {
        let mapped = wire::map_rdata(rdata, 0..rdata.len(), rtype, |name| self.name(name));
        Record {
            owner,
            rtype,
            ttl: self.ttl(ttl),
            rdata: mapped.unwrap_or_else(|| rdata.to_vec()),
        }
    }

    /// The SOA of a negative answer (RFC 2308 section 3), which holds no longer than the packet.
    fn negative_soa(&self, zone: &Zone) -> Record {
        let soa = zone.soa();
        let minimum = soa_minimum(&soa.rdata);
        Record {
            ttl: soa.ttl.min(minimum).min(self.ttls.negative).min(self.left),
            ..self.record(self.of_key.apex(), RecordType::SOA, soa.ttl, &soa.rdata)
        }
    }
}

impl Lookup {
    pub(super) async fn ask_packet(
        &self,
        question: &Question,
        of_key: &PublicKeyName,
        name: Name,
        chain: &mut Chain,
    ) -> Result<Step, Failure> {
        let (held, stale) = match self.packets.newest(of_key.key, chain.asker).await {
            Known::Packet(held) => (held, None),
            Known::Stale(held, reason) => (held, Some(reason)),
            Known::Failed(failure) => return Err(failure),
            Known::Absent => return Ok(self.answer_absent(of_key, chain)),
        };
        // The fetch may have taken a while.
        chain.now = Instant::now();
        let zone = Zone::new(&held.packet, self.ttls.negative);
        let view = View::new(of_key, &zone, &held, self.ttls, stale.is_some());
        chain.holds_for(view.keep);
        chain.held.push(Arc::clone(&held));
        let found = zone.lookup(&of_key.in_zone, question.rtype);
        if let Some(reason) = stale {
            let code = match found {
                pkarr::Lookup::NxDomain => ede::STALE_NXDOMAIN_ANSWER,
                pkarr::Lookup::Rrset { .. }
                | pkarr::Lookup::Cname { .. }
                | pkarr::Lookup::Dname { .. }
                | pkarr::Lookup::Delegation { .. }
                | pkarr::Lookup::NoData => ede::STALE_ANSWER,
            };
            let (key, seq) = (of_key.key, held.packet.seq());
            chain.say(Ede::new(
                code,
                format!("{reason}; packet of {key}, seq {seq}"),
            ));
        }
        let mut alias = |owner: Name, ttl: u32, target: &Name| {
            let rdata = wire::name_bytes(target);
            chain
                .answers
                .push(view.record(owner, RecordType::CNAME, ttl, &rdata));
        };
        let ending = match found {
            pkarr::Lookup::Rrset { rtype, ttl, rdata } => {
                let records = rdata
                    .into_iter()
                    .map(|data| view.record(name.clone(), rtype, ttl, data));
                chain.answers.extend(records);
                Ending::noerror()
            }
            pkarr::Lookup::Cname { ttl, target } => {
                alias(name, ttl, &target);
                return Ok(Step::Alias(view.name(target)));
            }
            pkarr::Lookup::Dname { owner, ttl, target } => {
                let depth = of_key.in_zone.iter().len() - owner.iter().len();
                let rdata = wire::name_bytes(&target);
                let dname = view.record(view.name(owner), RecordType::DNAME, ttl, &rdata);
                let below = Name::from_labels(of_key.in_zone.iter().take(depth));
                match below.and_then(|below| below.append_name(&target)) {
                    Ok(target) => {
                        let target = view.name(target);
                        alias(name, ttl, &target);
                        // The DNAME stands in front of what is made from it.
                        let at = chain.answers.len().saturating_sub(1);
                        chain.answers.insert(at, dname);
                        return Ok(Step::Alias(target));
                    }
                    Err(_) => {
                        // RFC 6672 section 2.2: the new name would be too long.
                        chain.answers.push(dname);
                        Ending {
                            rcode: ResponseCode::YXDomain.into(),
                            authorities: Vec::new(),
                        }
                    }
                }
            }
            pkarr::Lookup::Delegation { cut } => {
                let servers = zone.name_servers(&cut);
                return self
                    .ask_name_servers(question, of_key, cut, servers, &view, chain)
                    .await;
            }
            pkarr::Lookup::NoData if of_key.is_zone_cut_for(question.rtype) => {
                // RFC 4035 section 3.1.4.1: DS is the parent's to answer, here the suffix's zone.
                Ending::nodata(self.own_soa(&of_key.suffix))
            }
            pkarr::Lookup::NoData => Ending::nodata(view.negative_soa(&zone)),
            pkarr::Lookup::NxDomain => Ending::nxdomain(view.negative_soa(&zone)),
        };
        if let Some(soa) = ending.authorities.first() {
            chain.holds_for(soa.ttl);
        }
        Ok(Step::Done(ending))
    }

    /// Nobody has a packet of the key.
    fn answer_absent(&self, of_key: &PublicKeyName, chain: &mut Chain) -> Step {
        chain.holds_for(ABSENT_TTL);
        chain.verified = false;
        let reason = format!("nobody on the DHT has a packet of this key: {}", of_key.key);
        chain.say(Ede::new(ede::OTHER, reason));
        let zone = self.zone_without(&of_key.apex());
        let soa = pkarr::soa_record(&zone, 1, ABSENT_TTL);
        Step::Done(Ending::nxdomain(soa))
    }
}
