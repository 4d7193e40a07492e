//! The records of a message that prove what is not there, verified.

use hickory_proto::rr::RecordType;

use super::cause::Cause;
use super::denial::Denials;
use super::records::RrSet;
use super::signature::{Verified, Work, Zone};
use crate::wire::Section;

/// Proofs of absence that are verified in one message: three make an NSEC3 proof, and an answer may hold
/// those of an alias and of its target.
const MAX_PROOFS: usize = 8;

/// The good proofs of absence in a message, all of one zone.
pub(super) struct Proofs<'a> {
    /// What they prove.
    pub(super) denials: Denials<'a>,
    /// The RRsets that they and the zone's SOA are, and their TTLs.
    pub(super) sets: Vec<(&'a RrSet, u32)>,
    /// The lowest TTL of them.
    pub(super) ttl: u32,
    /// Why one of them is not good.
    cause: Option<Cause>,
}

impl Proofs<'_> {
    /// Why there is no proof: for the lack of good ones, or because one was bad.
    pub(super) fn or_worse(&self, why: Cause) -> Cause {
        self.cause.unwrap_or(why)
    }
}

/// Verifies the zone's NSEC, NSEC3 and SOA records in the authority section. An SOA that does not verify
/// makes the whole negative answer bogus, since its TTL and serial go out.
pub(super) fn verified_proofs<'a>(
    zone: &'a Zone,
    sets: &'a [RrSet],
    now: u32,
    work: &mut Work,
) -> Result<Proofs<'a>, Cause> {
    let mut proofs = Proofs {
        denials: Denials::new(&zone.apex),
        sets: Vec::new(),
        ttl: u32::MAX,
        cause: None,
    };
    let is_proof = |set: &&RrSet| {
        let is_soa = set.is(RecordType::SOA) && set.owner == zone.apex;
        let is_denial = set.is(RecordType::NSEC) || set.is(RecordType::NSEC3);
        set.section == Section::Authority && (is_soa || is_denial)
    };
    let of_zone = |set: &&RrSet| {
        let mut signers = set.signatures.iter().map(|signature| &signature.signer);
        set.is(RecordType::SOA) || signers.any(|signer| *signer == zone.apex)
    };
    let candidates = sets.iter().filter(is_proof).filter(of_zone);
    for set in candidates.take(MAX_PROOFS) {
        match plain(zone.verify(set, now, work)) {
            Ok(verified) => {
                proofs.denials.add(set);
                proofs.sets.push((set, verified.ttl));
                proofs.ttl = proofs.ttl.min(verified.ttl);
            }
            Err(why) if set.is(RecordType::SOA) => return Err(why),
            Err(why) => proofs.cause = proofs.cause.max(Some(why)),
        }
    }
    Ok(proofs)
}

/// Refuses what came from a wildcard where none may give it: keys, digests, and proofs, of which a
/// wildcard's would stand for any name.
pub(super) fn plain(verified: Result<Verified, Cause>) -> Result<Verified, Cause> {
    verified.and_then(|verified| match verified.expanded_from {
        Some(_) => Err(Cause::Forged),
        None => Ok(verified),
    })
}
