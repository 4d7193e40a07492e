//! What a name server's reply is to the resolver: an answer, a referral, or reason to ask another.

use std::net::IpAddr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};

use super::{Cut, MAX_SERVERS, NameServer, Progress};
use crate::pkarr::Record;
use crate::resolve::answers::{Composed, Question};
use crate::resolve::response::Response;
use crate::wire::{self, CLASS_IN, Section, flags};

/// Aliases that are followed within one reply. More is a loop, or nothing that another resolver would
/// follow.
const MAX_ALIASES: usize = 8;
/// Types of the authority section for clients that want DNSSEC records.
const PROOFS: [RecordType; 3] = [RecordType::NSEC, RecordType::NSEC3, RecordType::RRSIG];

/// Reads a reply of a server of `zone`; an error says why the next server should be asked.
pub(super) fn judge(
    response: &Response,
    zone: &Name,
    question: &Question,
) -> Result<Progress, String> {
    let [ok, nxdomain] = [ResponseCode::NoError, ResponseCode::NXDomain].map(u16::from);
    if ![ok, nxdomain].contains(&response.rcode) {
        return Err(format!("RCODE {}", response.rcode));
    }
    // RFC 5452 section 6: a server is believed only what lies in the zone that it was asked for.
    let in_bailiwick = |section| -> Vec<Record> {
        let records = records(response, section);
        records.filter(|r| zone.zone_of(&r.owner)).collect()
    };
    let mut authorities = in_bailiwick(Section::Authority);
    let [_, answer_count, ..] = response.layout.header.counts;
    if response.rcode == ok
        && answer_count == 0
        && let Some(below) = referral(response, zone, &authorities, question)
    {
        return Ok(Progress::Referral(below));
    }
    // RFC 2181 section 5.4.1: what is said without authority is hearsay. A referral upwards or to the
    // same zone ends here, too.
    if !response.layout.header.has(flags::AA) {
        return Err("not an authority".to_owned());
    }
    let chain = Chain::read(&in_bailiwick(Section::Answer), zone, question)?;
    if chain.records.is_empty() && answer_count > 0 {
        return Err("an answer to something else".to_owned());
    }
    let rcode = match chain.end {
        End::Found if response.rcode != ok => return Err("NXDOMAIN with an answer".to_owned()),
        End::Found | End::Open => response.rcode,
        // What becomes of a name outside its zone is not the server's to say.
        End::Outside => ok,
    };
    authorities.retain(|record| {
        if [RecordType::SOA, RecordType::NS].contains(&record.rtype) {
            return record.owner.zone_of(&chain.name);
        }
        // Proofs of absence stand at the neighbours of a name (RFC 4035 section 3.1.3).
        question.dnssec_ok && PROOFS.contains(&record.rtype)
    });
    Ok(Progress::Answer(Composed {
        rcode,
        answers: chain.records,
        authorities,
        ..Composed::default()
    }))
}

/// The zone strictly below `zone` that a reply without an answer leads to.
fn referral(
    response: &Response,
    zone: &Name,
    authorities: &[Record],
    question: &Question,
) -> Option<Cut> {
    // RFC 2308 section 2.2: with an SOA it is NODATA.
    if authorities.iter().any(|r| r.rtype == RecordType::SOA) {
        return None;
    }
    let leads_down = |r: &&Record| {
        r.rtype == RecordType::NS && r.owner != *zone && r.owner.zone_of(&question.name)
    };
    let below = authorities.iter().find(leads_down)?.owner.clone();
    // RFC 2181 section 5.4.1: glue serves to follow the referral, and nothing else.
    let glue: Vec<Record> = records(response, Section::Additional).collect();
    let addresses_of = |name: &Name| -> Vec<IpAddr> {
        // What lies outside the zone of the server that refers is not its to say.
        let of_name = glue
            .iter()
            .filter(|r| zone.zone_of(name) && r.owner == *name);
        of_name.filter_map(Record::address).collect()
    };
    // No more than will be asked: each is held against all of the glue.
    let servers = authorities
        .iter()
        .filter(|r| r.rtype == RecordType::NS && r.owner == below)
        .take(MAX_SERVERS)
        .filter_map(target)
        .map(|name| NameServer {
            addresses: addresses_of(&name),
            name,
        });
    Some(Cut {
        servers: servers.collect(),
        zone: below,
    })
}

/// The part of an answer section that answers the question.
struct Chain {
    records: Vec<Record>,
    /// The name at its end: the question's, or what that is an alias of.
    name: Name,
    end: End,
}

/// How a chain of aliases ends.
enum End {
    /// In records of the type.
    Found,
    /// In a name of the zone without records of the type.
    Open,
    /// In a name outside the zone.
    Outside,
}

impl Chain {
    /// Follows the aliases in `answers`, which lie in `zone` all.
    fn read(answers: &[Record], zone: &Name, question: &Question) -> Result<Self, String> {
        let mut chain = Self {
            records: Vec::new(),
            name: question.name.clone(),
            end: End::Outside,
        };
        for _ in 0..=MAX_ALIASES {
            let found = rrset(answers, &chain.name, question.rtype);
            if !found.is_empty() {
                chain.records.extend(found);
                chain.end = End::Found;
                return Ok(chain);
            }
            let mut cname = rrset(answers, &chain.name, RecordType::CNAME);
            // RFC 2181 section 10.1: an alias has one CNAME; it may be signed often.
            let is_cname = |r: &Record| r.rtype == RecordType::CNAME;
            cname.sort_by_key(|r| !is_cname(r));
            cname.dedup_by(|second, first| is_cname(first) && is_cname(second));
            let Some(next) = cname.first().and_then(target) else {
                chain.end = End::Open;
                return Ok(chain);
            };
            // RFC 6672 section 3.1: the DNAME that the CNAME was made from comes along.
            let above = |r: &&Record| {
                let is_dname = r.rtype == RecordType::DNAME;
                is_dname && r.owner != chain.name && r.owner.zone_of(&chain.name)
            };
            let dname = answers.iter().find(above);
            if let Some(dname) = dname.filter(|dname| !chain.records.contains(dname)) {
                let dname = rrset(answers, &dname.owner, RecordType::DNAME);
                chain.records.extend(dname);
            }
            chain.records.extend(cname);
            chain.name = next;
            if !zone.zone_of(&chain.name) {
                return Ok(chain);
            }
        }
        Err("a chain of aliases without end".to_owned())
    }
}

/// The records of a type at a name with their signatures; all records for ANY. Empty without a record
/// of the type itself.
fn rrset(records: &[Record], owner: &Name, rtype: RecordType) -> Vec<Record> {
    let number = u16::from(rtype);
    // RFC 4034 section 3.1.1: a signature begins with the type that it covers.
    let signs =
        |r: &Record| r.rtype == RecordType::RRSIG && wire::read_u16(&r.rdata, 0) == Some(number);
    let wanted = |r: &Record| r.rtype == rtype || rtype == RecordType::ANY;
    let here = records.iter().filter(|r| r.owner == *owner);
    let set: Vec<Record> = here.filter(|r| wanted(r) || signs(r)).cloned().collect();
    if set.iter().any(wanted) {
        set
    } else {
        Vec::new()
    }
}

/// The records of a section that are of class IN and of their type's shape.
fn records(response: &Response, section: Section) -> impl Iterator<Item = Record> {
    let records = response.layout.section(section);
    records
        .filter(|record| record.class == CLASS_IN)
        .filter_map(|record| response.record(record))
        .map(|record| Record {
            ttl: wire::effective_ttl(record.ttl),
            ..record
        })
}

/// The name that record data begins with: of NS and CNAME, all of it.
fn target(record: &Record) -> Option<Name> {
    wire::read_name(&record.rdata, 0).ok().map(|(name, _)| name)
}
