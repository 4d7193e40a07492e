//! Whether a zone's keys have signed an RRset (RFC 4035 section 5.3).

use hickory_proto::dnssec::rdata::DNSKEY;
use hickory_proto::dnssec::{Algorithm, PublicKeyBuf, Verifier};
use hickory_proto::rr::Name;

use super::cause::Cause;
use super::records::{RrSet, Signature};
use crate::wire::{self, CLASS_IN};

/// Signatures of one RRset that are looked at. Two algorithms in the middle of a key rollover make
/// four; unbound and hickory stop at eight as well.
const MAX_SIGNATURES: usize = 8;
/// Keys with the tag of a signature that are tried with it. Tags collide by chance once in 65,536
/// pairs; more is an attack (CVE-2023-50387).
const MAX_KEYS_OF_TAG: usize = 4;
/// Signatures verified in one answer: a hundred take about 10 ms with the slowest algorithm, and an
/// honest answer of twelve aliases with a denial at the end needs thirty.
const MAX_VERIFICATIONS: u32 = 96;
/// Signatures verified for one step down the tree: a proof by NSEC3 has four, each perhaps twice during
/// a rollover.
const MAX_VERIFICATIONS_OF_STEP: u32 = 16;
/// Steps down the tree that one question may start. A reverse IPv6 name has 34 labels, and aliases lead
/// to other trees.
const MAX_STEPS: u32 = 64;

/// What may still be done for one question, or one step.
#[derive(Debug)]
pub(super) struct Work {
    verifications: u32,
    steps: u32,
}

/// A public key of a zone.
#[derive(Debug)]
pub(super) struct Key {
    /// The record.
    pub(super) dnskey: DNSKEY,
    /// The algorithm.
    pub(super) algorithm: Algorithm,
    /// The tag (RFC 4034 appendix B).
    pub(super) tag: u16,
}

/// A signed zone and those of its keys that are trusted.
#[derive(Debug)]
pub(super) struct Zone {
    /// The apex, in lower case.
    pub(super) apex: Name,
    /// The keys.
    pub(super) keys: Vec<Key>,
}

/// An RRset with a good signature.
#[derive(Debug, Clone, Copy)]
pub(super) struct Verified {
    /// For how long it holds, in seconds (RFC 4035 section 5.3.3).
    pub(super) ttl: u32,
    /// The set came from a wildcard, of so many labels without the asterisk.
    pub(super) expanded_from: Option<u8>,
}

impl Work {
    /// All that one question may cost.
    pub(super) fn new() -> Self {
        Self {
            verifications: MAX_VERIFICATIONS,
            steps: MAX_STEPS,
        }
    }

    /// All that one step may cost, which starts no others.
    pub(super) fn of_step() -> Self {
        Self {
            verifications: MAX_VERIFICATIONS_OF_STEP,
            steps: 0,
        }
    }

    /// Takes a step down the tree; `false` if none is left.
    pub(super) fn step(&mut self) -> bool {
        take(&mut self.steps)
    }
}

fn take(left: &mut u32) -> bool {
    let after = left.checked_sub(1);
    *left = after.unwrap_or(0);
    after.is_some()
}

impl Key {
    /// Reads a DNSKEY's data; `None` if it is no zone key (RFC 4034 section 2.1.1), is revoked (RFC 5011
    /// section 2.1), or is malformed.
    pub(super) fn read(rdata: &[u8]) -> Option<Self> {
        const ZONE_KEY: u16 = 0x0100;
        const REVOKED: u16 = 0x0080;
        const PROTOCOL: u8 = 3;
        let flags = wire::read_u16(rdata, 0)?;
        let [protocol, algorithm] = *rdata.get(2..4)? else {
            return None;
        };
        if flags & ZONE_KEY == 0 || flags & REVOKED != 0 || protocol != PROTOCOL {
            return None;
        }
        let algorithm = Algorithm::from_u8(algorithm);
        let public_key = PublicKeyBuf::new(rdata.get(4..)?.to_vec(), algorithm);
        let dnskey = DNSKEY::with_flags(flags, public_key);
        let tag = dnskey.calculate_key_tag().ok()?;
        Some(Self {
            dnskey,
            algorithm,
            tag,
        })
    }
}

impl Zone {
    /// Verifies an RRset at `now`, in seconds since 1970: one good signature is enough (RFC 6840
    /// section 5.4).
    pub(super) fn verify(&self, set: &RrSet, now: u32, work: &mut Work) -> Result<Verified, Cause> {
        let mut cause = Cause::Unsigned;
        let of_zone = |signature: &&Signature| signature.signer == self.apex;
        let signatures = set.signatures.iter().filter(of_zone).take(MAX_SIGNATURES);
        for signature in signatures {
            match self.verify_with(set, signature, now, work) {
                Ok(()) => {
                    let left = signature.expiration.wrapping_sub(now);
                    let is_expanded = signature.labels < set.owner.num_labels();
                    return Ok(Verified {
                        ttl: set.ttl.min(signature.original_ttl).min(left),
                        expanded_from: is_expanded.then_some(signature.labels),
                    });
                }
                Err(why) => cause = cause.max(why),
            }
        }
        Err(cause)
    }

    /// RFC 4035 section 5.3.1: what a signature must be before it is worth verifying; then 5.3.3.
    fn verify_with(
        &self,
        set: &RrSet,
        signature: &Signature,
        now: u32,
        work: &mut Work,
    ) -> Result<(), Cause> {
        if !self.apex.zone_of(&set.owner) || signature.labels > set.owner.num_labels() {
            return Err(Cause::Forged);
        }
        if !is_at_or_before(signature.inception, signature.expiration) {
            return Err(Cause::Expired);
        }
        if !is_at_or_before(now, signature.expiration) {
            return Err(Cause::Expired);
        }
        if !is_at_or_before(signature.inception, now) {
            return Err(Cause::NotYetValid);
        }
        let matching =
            |key: &&Key| key.tag == signature.key_tag && key.algorithm == signature.algorithm;
        let signed = signed_bytes(set, signature).ok_or(Cause::Forged)?;
        let mut cause = Cause::KeyMissing;
        for key in self.keys.iter().filter(matching).take(MAX_KEYS_OF_TAG) {
            if !take(&mut work.verifications) {
                return Err(Cause::TooMuchWork);
            }
            match key.dnskey.verify(&signed, &signature.bytes) {
                Ok(()) => return Ok(()),
                Err(_) => cause = Cause::Forged,
            }
        }
        Err(cause)
    }
}

/// RFC 4034 section 3.1.5: times are compared as serial numbers (RFC 1982).
fn is_at_or_before(earlier: u32, later: u32) -> bool {
    later.wrapping_sub(earlier) >> 31 == 0
}

/// What was signed: the RRSIG without its signature, then each record in canonical form with the
/// owner before expansion and the original TTL (RFC 4034 section 3.1.8.1).
fn signed_bytes(set: &RrSet, signature: &Signature) -> Option<Vec<u8>> {
    let mut signed = signature.signed.clone();
    let mut head = Vec::new();
    if signature.labels < set.owner.num_labels() {
        let encloser = set.owner.trim_to(usize::from(signature.labels));
        head.extend(b"\x01*");
        head.extend(wire::name_bytes(&encloser));
    } else {
        head.extend(wire::name_bytes(&set.owner));
    }
    head.extend(set.rtype.to_be_bytes());
    head.extend(CLASS_IN.to_be_bytes());
    head.extend(signature.original_ttl.to_be_bytes());
    for rdata in &set.rdatas {
        signed.extend_from_slice(&head);
        signed.extend(u16::try_from(rdata.len()).ok()?.to_be_bytes());
        signed.extend_from_slice(rdata);
    }
    Some(signed)
}
