//! A name server's reply as the recursor is given it.
//!
//! Two things are not left to it. It would refuse a whole message for one record with odd data, so
//! only what it needs to find its way is given as what it is: NS, A, AAAA and SOA; all other data is
//! opaque bytes. That holds for CNAME, too: an alias that it does not recognise is one that it does
//! not follow, and aliases are followed by us, since they may lead to names that are nobody's to see.
//! And it takes denials for errors of the server, which it would then avoid. So a denial carries a
//! mark, a CNAME without data, which makes it an answer that is kept for as long as the SOA says.

use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::NULL;
use hickory_proto::rr::{Name, RData, Record as ProtoRecord, RecordType};
use hickory_proto::serialize::binary::{BinDecoder, Restrict};

use crate::pkarr::Record;
use crate::resolve::answers::Question;
use crate::resolve::response::Response;
use crate::wire::{self, Section, flags};

/// What the recursor reads in the data of records.
const READ_TYPES: [RecordType; 4] = [
    RecordType::NS,
    RecordType::A,
    RecordType::AAAA,
    RecordType::SOA,
];

/// The records of one message.
#[derive(Debug)]
struct Sections {
    answers: Vec<ProtoRecord>,
    authorities: Vec<ProtoRecord>,
    additionals: Vec<ProtoRecord>,
}

/// Takes a name server's reply to `question`, asked of it as one of the authorities of a zone.
///
/// # Errors
/// If it is no reply of an authority (RFC 1034 section 4.3.1); then another server should be asked.
pub(super) fn take(response: &Response, question: &Question) -> Result<Message, &'static str> {
    let codes = [ResponseCode::NoError, ResponseCode::NXDomain];
    let mut codes = codes.into_iter();
    let rcode = codes.find(|rcode| u16::from(*rcode) == response.rcode);
    let rcode = rcode.ok_or("it reports an error")?;
    let authoritative = response.layout.header.has(flags::AA);
    let mut sections = sections(response).ok_or("its reply is malformed")?;
    keep_answers(&mut sections.answers, &question.name);
    // RFC 2181 section 5.4.1: what a forwarder or a cache says is no authority's word. The name servers
    // of a zone are asked for on the way down, where some servers of the zone above tell them so.
    if !sections.answers.is_empty() && !authoritative && question.rtype != RecordType::NS {
        return Err("its answer is not authoritative");
    }
    if sections.answers.is_empty() && !is_referral(&sections.authorities, rcode, &question.name) {
        // RFC 1034 section 4.3.4: only an authority knows what does not exist.
        if !authoritative {
            return Err("it is no authority");
        }
        let soa = find_soa(&sections.authorities);
        if soa.is_some_and(|(zone, _)| !zone.zone_of(&question.name)) {
            return Err("it is the authority of another zone");
        }
        // RFC 8020 and RFC 9156 section 2.3: nothing is below a missing name. Of the root and of
        // top-level domains the recursor may take it so, and ask no further; elsewhere there are
        // servers that deny the names between theirs.
        let is_top = soa.is_some_and(|(zone, _)| zone.num_labels() <= 1);
        if rcode == ResponseCode::NoError || !is_top {
            // RFC 2308 section 5: without an SOA it is not kept.
            let mark = mark(&question.name, soa.map_or(0, |(_, ttl)| ttl));
            sections.answers.push(mark);
        }
    }
    let mut message = Message::response(0, OpCode::Query);
    message.metadata.authoritative = authoritative;
    message.metadata.response_code = rcode;
    message.add_query(Query::query(question.name.clone(), question.rtype));
    message.insert_answers(sections.answers);
    message.insert_authorities(sections.authorities);
    message.insert_additionals(sections.additionals);
    Ok(message)
}

/// Whether other servers are named, those of a zone that the name lies in. A server that knows
/// nothing about the name may name the root's.
fn is_referral(authorities: &[ProtoRecord], rcode: ResponseCode, name: &Name) -> bool {
    let mut servers = authorities
        .iter()
        .filter(|record| record.record_type() == RecordType::NS);
    rcode == ResponseCode::NoError
        && find_soa(authorities).is_none()
        && servers.any(|record| !record.name.is_root() && record.name.zone_of(name))
}

/// The zone that the SOA is of, and for how many seconds a denial holds.
fn find_soa(authorities: &[ProtoRecord]) -> Option<(&Name, u32)> {
    authorities.iter().find_map(|record| {
        let RData::SOA(soa) = &record.data else {
            return None;
        };
        Some((&record.name, record.ttl.min(soa.minimum)))
    })
}

fn mark(name: &Name, ttl: u32) -> ProtoRecord {
    let data = RData::Unknown {
        code: RecordType::CNAME,
        rdata: NULL::new(),
    };
    ProtoRecord::from_rdata(name.clone(), ttl, data)
}

/// Whether a record is the mark of a denial.
pub(super) fn is_mark(record: &ProtoRecord) -> bool {
    opaque_data(record, RecordType::CNAME).is_some_and(<[u8]>::is_empty)
}

/// The name, and those that aliases among the answers lead to from it.
pub(super) fn chain(answers: &[ProtoRecord], name: &Name) -> Vec<Name> {
    let mut names = vec![name.clone()];
    // Not more often than there are records: they may lead in a circle.
    for _ in answers {
        let last = names.last().unwrap_or(name);
        let mut here = answers.iter().filter(|record| record.name == *last);
        let Some(next) = here.find_map(alias_target) else {
            break;
        };
        names.push(next);
    }
    names
}

/// Where an alias leads; `None` if the record is none.
fn alias_target(record: &ProtoRecord) -> Option<Name> {
    let data = opaque_data(record, RecordType::CNAME)?;
    Some(wire::read_name(data, 0).ok()?.0)
}

/// Leaves the answers that answer the question: those of the name and of where its aliases lead, and
/// the DNAMEs above that aliases were made from (RFC 6672).
fn keep_answers(answers: &mut Vec<ProtoRecord>, name: &Name) {
    let names = chain(answers, name);
    let dnames: Vec<Name> = answers
        .iter()
        .filter(|record| record.record_type() == RecordType::DNAME)
        .filter(|record| names.iter().any(|name| record.name.zone_of(name)))
        .map(|record| record.name.clone())
        .collect();
    answers.retain(|record| names.contains(&record.name) || dnames.contains(&record.name));
}

fn opaque_data(record: &ProtoRecord, rtype: RecordType) -> Option<&[u8]> {
    let RData::Unknown { code, rdata } = &record.data else {
        return None;
    };
    (*code == rtype).then_some(&rdata.anything)
}

fn sections(response: &Response) -> Option<Sections> {
    let section = |section| -> Option<Vec<ProtoRecord>> {
        let records = response.layout.section(section);
        records
            .map(|record| {
                (record.class == wire::CLASS_IN).then_some(())?;
                proto_record(response.record(record)?)
            })
            .collect()
    };
    Some(Sections {
        answers: section(Section::Answer)?,
        authorities: section(Section::Authority)?,
        additionals: section(Section::Additional)?,
    })
}

fn proto_record(record: Record) -> Option<ProtoRecord> {
    let data = if READ_TYPES.contains(&record.rtype) {
        let length = u16::try_from(record.rdata.len()).ok()?;
        let mut decoder = BinDecoder::new(&record.rdata);
        RData::read(&mut decoder, record.rtype, Restrict::new(length)).ok()?
    } else {
        let mut rdata = NULL::new();
        rdata.anything = record.rdata;
        RData::Unknown {
            code: record.rtype,
            rdata,
        }
    };
    let ttl = wire::effective_ttl(record.ttl);
    Some(ProtoRecord::from_rdata(record.owner, ttl, data))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A delegation of example.com, or whatever else stands in the sections.
    fn reply(word: u16, counts: [u8; 3], records: &[u8]) -> Vec<u8> {
        let [answers, authorities, additionals] = counts;
        let mut reply = vec![0, 0];
        reply.extend(word.to_be_bytes());
        reply.extend([0, 1, 0, answers, 0, authorities, 0, additionals]);
        reply.extend(question().wire());
        reply.extend_from_slice(records);
        reply
    }

    fn question() -> Question {
        Question {
            name: Name::from_ascii("www.example.com.").unwrap(),
            rtype: RecordType::A,
            dnssec_ok: true,
            checking_disabled: false,
        }
    }

    fn take(reply: &[u8]) -> Result<Message, &'static str> {
        super::take(
            &Response::from_message(reply.to_vec()).unwrap(),
            &question(),
        )
    }

    const QR: u16 = flags::QR;
    const AA: u16 = flags::QR | flags::AA;
    /// `www.example.com.` in the question, `example.com.`, `com.` and the root.
    const WWW: [u8; 2] = [0xc0, 12];
    const EXAMPLE: [u8; 2] = [0xc0, 16];
    const COM: [u8; 2] = [0xc0, 24];
    const ROOT: [u8; 1] = [0];

    fn record(owner: &[u8], rtype: u8, ttl: u8, rdata: &[u8]) -> Vec<u8> {
        let length = u8::try_from(rdata.len()).unwrap();
        let fixed = [0, rtype, 0, 1, 0, 0, 0, ttl, 0, length];
        [owner, &fixed, rdata].concat()
    }

    /// An SOA with a minimum of 60 s.
    fn soa(owner: &[u8], ttl: u8) -> Vec<u8> {
        let mut rdata = vec![0; 2 + 20];
        rdata[21] = 60;
        record(owner, 6, ttl, &rdata)
    }

    #[test]
    fn a_denial_is_marked_for_as_long_as_its_soa_says() {
        for (ttl, expected) in [(200, 60), (30, 30)] {
            let message = take(&reply(AA, [0, 1, 0], &soa(&EXAMPLE, ttl))).unwrap();
            let [mark] = &message.answers[..] else {
                panic!("{message:?}");
            };
            assert!(is_mark(mark));
            assert_eq!(mark.ttl, expected);
        }
        let message = take(&reply(AA, [0, 0, 0], &[])).unwrap();
        assert_eq!(message.answers[0].ttl, 0);
        // NXDOMAIN, of the zone itself and of what stands above.
        let of_zone = take(&reply(AA | 3, [0, 1, 0], &soa(&EXAMPLE, 200))).unwrap();
        assert!(is_mark(&of_zone.answers[0]));
        for top in [&COM[..], &ROOT] {
            let message = take(&reply(AA | 3, [0, 1, 0], &soa(top, 200))).unwrap();
            assert!(message.answers.is_empty());
            assert_eq!(message.metadata.response_code, ResponseCode::NXDomain);
        }
    }

    #[test]
    fn only_an_authority_denies() {
        assert!(take(&reply(QR, [0, 1, 0], &soa(&EXAMPLE, 200))).is_err());
        assert!(take(&reply(QR | 3, [0, 1, 0], &soa(&EXAMPLE, 200))).is_err());
        assert!(take(&reply(QR, [0, 0, 0], &[])).is_err());
        // Nor does the authority of another zone.
        let elsewhere = soa(&[1, b'x', 0xc0, 12], 200);
        assert!(take(&reply(AA, [0, 1, 0], &elsewhere)).is_err());
        // Nor is an error a denial: SERVFAIL, REFUSED, NOTAUTH.
        for rcode in [2, 5, 9] {
            assert!(take(&reply(AA | rcode, [0, 1, 0], &soa(&EXAMPLE, 200))).is_err());
        }
    }

    #[test]
    fn only_an_authority_answers() {
        let answer = record(&WWW, 1, 60, &[192, 0, 2, 66]);
        assert!(take(&reply(AA, [1, 0, 0], &answer)).is_ok());
        assert!(take(&reply(QR, [1, 0, 0], &answer)).is_err());
        let alias = record(&WWW, 5, 60, &[1, b'a', 0xc0, 16]);
        assert!(take(&reply(QR, [1, 0, 0], &alias)).is_err());
        // The servers of the zone above name those below.
        let mut probe = question();
        probe.rtype = RecordType::NS;
        let mut servers = reply(QR, [1, 0, 0], &record(&WWW, 2, 60, &ROOT));
        let rtype_at = 12 + probe.wire().len() - 3;
        servers[rtype_at] = 2;
        let servers = Response::from_message(servers).unwrap();
        assert!(super::take(&servers, &probe).is_ok());
    }

    #[test]
    fn a_referral_leads_down() {
        let down = take(&reply(QR, [0, 1, 0], &record(&EXAMPLE, 2, 60, &ROOT))).unwrap();
        assert!(down.answers.is_empty());
        assert!(matches!(down.authorities[0].data, RData::NS(_)));
        assert!(take(&reply(QR, [0, 1, 0], &record(&ROOT, 2, 60, &ROOT))).is_err());
        let beside = record(&[1, b'x', 0xc0, 16], 2, 60, &ROOT);
        assert!(take(&reply(QR, [0, 1, 0], &beside)).is_err());
    }

    #[test]
    fn answers_to_something_else_are_left_out() {
        let records = [
            record(&WWW, 5, 60, &[1, b'a', 0xc0, 16]),
            record(&[1, b'b', 0xc0, 16], 1, 60, &[192, 0, 2, 66]),
            record(&[1, b'a', 0xc0, 16], 1, 60, &[192, 0, 2, 1]),
            record(&COM, 1, 60, &[192, 0, 2, 66]),
        ];
        let message = take(&reply(AA, [4, 0, 0], &records.concat())).unwrap();
        let owners: Vec<String> = message.answers.iter().map(|r| r.name.to_ascii()).collect();
        assert_eq!(owners, ["www.example.com.", "a.example.com."]);
        // A DNAME above the name is what its alias was made from.
        let dname = [
            record(&EXAMPLE, 39, 60, &ROOT),
            record(&WWW, 5, 60, &[3, b'w', b'w', b'w', 0]),
            record(&[1, b'b', 0xc0, 16], 39, 60, &ROOT),
        ];
        let message = take(&reply(AA, [3, 0, 0], &dname.concat())).unwrap();
        assert_eq!(message.answers.len(), 2);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let records = [
            record(&WWW, 5, 60, &[1, b'a', 0xc0, 16]),
            soa(&EXAMPLE, 60),
            record(&EXAMPLE, 2, 60, &ROOT),
            record(&ROOT, 1, 60, &[192, 0, 2, 1]),
        ];
        let good = reply(AA, [1, 2, 1], &records.concat());
        for at in 0..good.len() {
            for byte in [0, 1, 2, 5, 0x3f, 0xc0, 0xff] {
                let mut message = good.clone();
                message[at] = byte;
                if let Some(response) = Response::from_message(message) {
                    let _ = super::take(&response, &question());
                }
            }
        }
    }
}
