//! The upstream's message, less what the client must not get.

use hickory_proto::rr::{Name, RecordType};

use super::answers::Question;
use super::failure::Failure;
use super::response::Response;
use crate::wire::{self, HEADER_LEN, Layout, MAX_MESSAGE_LEN, RecordAt, Section, flags};

/// Types that only clients with DO get without asking for them: DS, RRSIG, NSEC, NSEC3 (RFC 4035
/// section 3.2.1, RFC 5155 section 7).
const DNSSEC_TYPES: [u16; 4] = [43, 46, 47, 50];
/// A compression pointer to the name of the question.
const POINTER_TO_QUESTION: [u8; 2] = [0xc0, 12];

/// Sets or clears AD, which nobody else may have set.
pub(super) fn set_ad(response: &mut Response, authentic: bool) {
    let word = match authentic {
        true => response.layout.header.flags | flags::AD,
        false => response.layout.header.flags & !flags::AD,
    };
    response.layout.header.flags = word;
    wire::write_at(&mut response.wire, 2, &word.to_be_bytes());
}

/// Takes away what only clients with DO get, if the question is not from one.
pub(super) fn strip(response: &mut Response, question: &Question) -> Result<(), Failure> {
    if question.dnssec_ok {
        return Ok(());
    }
    keep(response, |_, record| is_for(question, record))
}

/// Keeps the records that `kept` gives a TTL for, with no higher TTL than that; and of them those that the
/// client may get.
pub(super) fn keep_proved(
    response: &mut Response,
    question: &Question,
    kept: impl Fn(usize) -> Option<u32>,
) -> Result<(), Failure> {
    for (index, record) in response.layout.records.iter_mut().enumerate() {
        if let Some(ttl) = kept(index) {
            record.ttl = wire::effective_ttl(record.ttl).min(ttl);
            wire::write_at(&mut response.wire, record.ttl_at, &record.ttl.to_be_bytes());
        }
    }
    keep(response, |index, record| {
        kept(index).is_some() && is_for(question, record)
    })
}

fn is_for(question: &Question, record: &RecordAt) -> bool {
    question.dnssec_ok
        || !DNSSEC_TYPES.contains(&record.rtype)
        || question.rtype == RecordType::ANY
        || question.rtype == RecordType::from(record.rtype)
}

/// Takes records out. Those behind the first that goes are written anew, since their names may point into
/// what is gone.
fn keep(response: &mut Response, stays: impl Fn(usize, &RecordAt) -> bool) -> Result<(), Failure> {
    let records = || response.layout.records.iter().enumerate();
    let Some((first, gone)) = records().find(|(index, record)| !stays(*index, record)) else {
        return Ok(());
    };
    let mut bytes = response.wire.get(..gone.start).unwrap_or_default().to_vec();
    let asked = wire::read_name(&response.wire, HEADER_LEN).ok();
    let asked = asked.map(|(name, _)| name);
    for (_, record) in records()
        .skip(first)
        .filter(|(i, record)| stays(*i, record))
    {
        let written = append(&mut bytes, &response.wire, record, asked.as_ref());
        written.ok_or(Failure::Unwritable)?;
    }
    for (at, section) in [
        (6, Section::Answer),
        (8, Section::Authority),
        (10, Section::Additional),
    ] {
        let left = records().filter(|(i, record)| record.section == section && stays(*i, record));
        let count = u16::try_from(left.count()).map_err(|_| Failure::Unwritable)?;
        wire::write_at(&mut bytes, at, &count.to_be_bytes());
    }
    if bytes.len() > MAX_MESSAGE_LEN {
        return Err(Failure::Unwritable);
    }
    response.layout = Layout::read(&bytes).map_err(|_| Failure::Unwritable)?;
    response.wire = bytes;
    Ok(())
}

/// Appends a record without compression, but for an owner that is the question's name.
fn append(
    bytes: &mut Vec<u8>,
    message: &[u8],
    record: &RecordAt,
    asked: Option<&Name>,
) -> Option<()> {
    let (owner, fixed) = wire::read_name(message, record.start).ok()?;
    let rtype = RecordType::from(record.rtype);
    let rdata = wire::map_rdata(message, record.rdata.clone(), rtype, |name| name)
        .or_else(|| message.get(record.rdata.clone()).map(<[u8]>::to_vec))?;
    match Some(&owner) == asked {
        true => bytes.extend(POINTER_TO_QUESTION),
        false => bytes.extend(wire::name_bytes(&owner)),
    }
    bytes.extend_from_slice(message.get(fixed..fixed + 8)?);
    bytes.extend(u16::try_from(rdata.len()).ok()?.to_be_bytes());
    bytes.extend(rdata);
    Some(())
}
