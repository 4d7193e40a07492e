//! Why an answer is bogus, and its Extended DNS Error.

use hickory_proto::rr::Name;

use crate::resolve::failure::{Failure, ede};

/// Why validation failed. The order is how much it tells: of several causes the last counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    /// No RRSIG of the zone, which is signed.
    Unsigned,
    /// An RRSIG by a key that the zone does not have, or keys without the one that the DS names.
    KeyMissing,
    /// All that would be good is past its time.
    Expired,
    /// All that would be good is before its time.
    NotYetValid,
    /// The records are not what was signed.
    Forged,
    /// Nothing proves that the records do not exist, or that a wildcard had to give them.
    NoDenial,
    /// NSEC3 with more iterations than anybody should compute (RFC 9276 section 3.2).
    Iterations,
    /// More signatures or zones than one question is worth.
    TooMuchWork,
}

impl Cause {
    /// As the failure of a question about `name`.
    pub(super) fn at(self, name: &Name) -> Failure {
        let (code, what) = match self {
            Self::Unsigned => (ede::RRSIGS_MISSING, "is not signed, and its zone is"),
            Self::KeyMissing => (ede::DNSKEY_MISSING, "is signed by no key that its zone has"),
            Self::Expired => (ede::SIGNATURE_EXPIRED, "has signatures that have expired"),
            Self::NotYetValid => (
                ede::SIGNATURE_NOT_YET_VALID,
                "has signatures that are not valid yet",
            ),
            Self::Forged => (ede::DNSSEC_BOGUS, "is not what its zone has signed"),
            Self::NoDenial => (ede::NSEC_MISSING, "lacks the proof that there is no more"),
            Self::Iterations => (
                ede::UNSUPPORTED_NSEC3_ITERATIONS,
                "has a proof with too many NSEC3 iterations",
            ),
            Self::TooMuchWork => (ede::DNSSEC_BOGUS, "takes too much work to validate"),
        };
        Failure::Bogus {
            code,
            reason: format!("{name} {what}"),
        }
    }
}
