//! The records of a message as DNSSEC sees them: RRsets in canonical form, with their signatures.

use std::collections::HashMap;

use hickory_proto::dnssec::Algorithm;
use hickory_proto::rr::{Name, RecordType};

use crate::resolve::response::Response;
use crate::wire::{self, CLASS_IN, RecordAt, Section};

/// The type RRSIG.
const RRSIG: u16 = 46;
/// SVCB and HTTPS: newer than the list of types whose names are lowered (RFC 4034 section 6.2).
const NAMES_STAY: [u16; 2] = [64, 65];
/// Bytes of an RRSIG in front of the signer's name (RFC 4034 section 3.1).
const RRSIG_FIXED_LEN: usize = 18;

/// Records of one owner and type in one section, and what signs them.
#[derive(Debug)]
pub(super) struct RrSet {
    /// The owner, in lower case.
    pub(super) owner: Name,
    /// The type's number.
    pub(super) rtype: u16,
    /// Where the records stand.
    pub(super) section: Section,
    /// Record data in canonical form and order, each once (RFC 4034 sections 6.2 and 6.3).
    pub(super) rdatas: Vec<Vec<u8>>,
    /// The RRSIGs that cover the set.
    pub(super) signatures: Vec<Signature>,
    /// Positions of the set and its RRSIGs in the message's list of records.
    pub(super) records: Vec<usize>,
    /// The lowest TTL of the set and its RRSIGs, in seconds.
    pub(super) ttl: u32,
}

/// An RRSIG (RFC 4034 section 3.1).
#[derive(Debug)]
pub(super) struct Signature {
    /// The algorithm.
    pub(super) algorithm: Algorithm,
    /// Labels of the owner, without the root and a leading asterisk, before any expansion.
    pub(super) labels: u8,
    /// The TTL in the zone.
    pub(super) original_ttl: u32,
    /// Seconds since 1970, by serial arithmetic.
    pub(super) expiration: u32,
    /// Seconds since 1970, by serial arithmetic.
    pub(super) inception: u32,
    /// The tag of the key.
    pub(super) key_tag: u16,
    /// The zone whose key it is, in lower case.
    pub(super) signer: Name,
    /// All of the record's data in front of the signature, in canonical form: what is signed first.
    pub(super) signed: Vec<u8>,
    /// The signature itself.
    pub(super) bytes: Vec<u8>,
}

impl RrSet {
    /// The zone nearest to the owner that claims to have signed the set.
    pub(super) fn signer(&self) -> Option<&Name> {
        let signers = self.signatures.iter().map(|signature| &signature.signer);
        // A DS is its parent's (RFC 4035 section 2.4).
        let may_be_owner = self.rtype != u16::from(RecordType::DS) || self.owner.is_root();
        signers
            .filter(|signer| {
                signer.zone_of(&self.owner) && (may_be_owner || **signer != self.owner)
            })
            .max_by_key(|signer| signer.iter().len())
    }

    /// Whether the set is of this type.
    pub(super) fn is(&self, rtype: RecordType) -> bool {
        self.rtype == u16::from(rtype)
    }
}

/// The RRsets of the answer and the authority section. Records that are not of class IN, and RRSIGs
/// that are malformed or cover nothing, are in none.
pub(super) fn read_sets(response: &Response) -> Vec<RrSet> {
    let mut sets: Vec<RrSet> = Vec::new();
    for section in [Section::Answer, Section::Authority] {
        let mut places: HashMap<(Name, u16), usize> = HashMap::new();
        let records = || {
            let all = response.layout.records.iter().enumerate();
            all.filter(|(_, record)| record.section == section && record.class == CLASS_IN)
                .filter_map(|(index, record)| Some((index, record, owner(response, record)?)))
        };
        for (index, record, owner) in records().filter(|(_, record, _)| record.rtype != RRSIG) {
            let Some(rdata) = canonical_rdata(&response.wire, record) else {
                continue;
            };
            let place = *places
                .entry((owner.clone(), record.rtype))
                .or_insert(sets.len());
            if place == sets.len() {
                sets.push(RrSet {
                    owner,
                    rtype: record.rtype,
                    section,
                    rdatas: Vec::new(),
                    signatures: Vec::new(),
                    records: Vec::new(),
                    ttl: u32::MAX,
                });
            }
            if let Some(set) = sets.get_mut(place) {
                set.rdatas.push(rdata);
                set.records.push(index);
                set.ttl = set.ttl.min(wire::effective_ttl(record.ttl));
            }
        }
        for (index, record, owner) in records().filter(|(_, record, _)| record.rtype == RRSIG) {
            let Some((covered, signature)) = read_signature(&response.wire, record) else {
                continue;
            };
            let place = places.get(&(owner, covered));
            if let Some(set) = place.and_then(|place| sets.get_mut(*place)) {
                set.signatures.push(signature);
                set.records.push(index);
                set.ttl = set.ttl.min(wire::effective_ttl(record.ttl));
            }
        }
    }
    for set in &mut sets {
        set.rdatas.sort();
        set.rdatas.dedup();
    }
    sets
}

fn owner(response: &Response, record: &RecordAt) -> Option<Name> {
    let (name, _) = wire::read_name(&response.wire, record.start).ok()?;
    Some(name.to_lowercase())
}

/// RFC 4034 section 6.2: names uncompressed and, in the types listed there, in lower case. What has
/// not its type's shape stays as it is, and so do types that nobody here knows.
fn canonical_rdata(message: &[u8], record: &RecordAt) -> Option<Vec<u8>> {
    let rtype = RecordType::from(record.rtype);
    let lower = |name: Name| match NAMES_STAY.contains(&record.rtype) {
        true => name,
        false => name.to_lowercase(),
    };
    wire::map_rdata(message, record.rdata.clone(), rtype, lower)
        .or_else(|| message.get(record.rdata.clone()).map(<[u8]>::to_vec))
}

/// The type that an RRSIG covers, and the rest of it.
fn read_signature(message: &[u8], record: &RecordAt) -> Option<(u16, Signature)> {
    let at = record.rdata.start;
    let [algorithm, labels] = *message.get(at + 2..at + 4)? else {
        return None;
    };
    let (signer, end) = wire::read_name(message, at + RRSIG_FIXED_LEN).ok()?;
    let signer = signer.to_lowercase();
    let mut signed = message.get(at..at + RRSIG_FIXED_LEN)?.to_vec();
    signed.extend(wire::name_bytes(&signer));
    let signature = Signature {
        algorithm: Algorithm::from_u8(algorithm),
        labels,
        original_ttl: wire::read_u32(message, at + 4)?,
        expiration: wire::read_u32(message, at + 8)?,
        inception: wire::read_u32(message, at + 12)?,
        key_tag: wire::read_u16(message, at + 16)?,
        signer,
        signed,
        bytes: message.get(end..record.rdata.end)?.to_vec(),
    };
    Some((wire::read_u16(message, at)?, signature))
}
