//! Proofs that something does not exist: NSEC (RFC 4035 section 5.4) and NSEC3 (RFC 5155 section 8).
//!
//! Only records whose signatures hold come here.

use data_encoding::BASE32_DNSSEC;
use hickory_proto::dnssec::Nsec3HashAlgorithm;
use hickory_proto::rr::{Name, RecordType};

use super::cause::Cause;
use super::records::RrSet;
use crate::wire;

/// NSEC3 iterations up to which proofs are computed; beyond, the zone counts as unsigned (RFC 9276
/// section 3.2; 150 is what resolvers settled on in 2021).
const MAX_ITERATIONS: u16 = 150;
/// Iterations beyond which it is an attempt to burn time, and bogus.
const MAX_TOLERATED_ITERATIONS: u16 = 500;
/// Names hashed for one proof: as many as a reverse IPv6 name has, and some (CVE-2023-50868).
const MAX_HASHES: usize = 40;
/// NSEC3 flags with a meaning: opt-out alone (RFC 5155 section 3.1.2).
const OPT_OUT: u8 = 1;
/// The hash algorithm SHA-1 (RFC 5155 section 11).
const SHA1: u8 = 1;

/// What is proved of a name and a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    /// The name, or the wildcard that answers for it, has no records of the type.
    NoData {
        /// It is a zone cut without DS.
        delegation: bool,
    },
    /// There is no such name.
    NxDomain,
    /// There is no such name that is signed (RFC 5155 section 6).
    OptOut,
    /// The proof would take too many iterations to check.
    Unchecked,
}

/// The verified NSEC and NSEC3 records of one zone in one message.
#[derive(Debug)]
pub(super) struct Denials<'a> {
    apex: &'a Name,
    nsecs: Vec<Nsec>,
    nsec3s: Vec<Nsec3>,
}

#[derive(Debug)]
struct Nsec {
    owner: Name,
    next: Name,
    types: Types,
}

#[derive(Debug)]
struct Nsec3 {
    /// The hash that the owner's first label spells.
    owner: Vec<u8>,
    next: Vec<u8>,
    opt_out: bool,
    iterations: u16,
    salt: Vec<u8>,
    types: Types,
}

/// A type bit map (RFC 4034 section 4.1.2).
#[derive(Debug)]
struct Types(Vec<u8>);

impl<'a> Denials<'a> {
    /// No proofs yet, for the zone at `apex`.
    pub(super) fn new(apex: &'a Name) -> Self {
        Self {
            apex,
            nsecs: Vec::new(),
            nsec3s: Vec::new(),
        }
    }

    /// Takes in the records of a verified RRset.
    pub(super) fn add(&mut self, set: &RrSet) {
        for rdata in &set.rdatas {
            if set.is(RecordType::NSEC) {
                self.nsecs.extend(Nsec::read(&set.owner, rdata));
            } else if set.is(RecordType::NSEC3) && set.owner.base_name() == *self.apex {
                self.nsec3s.extend(Nsec3::read(&set.owner, rdata));
            }
        }
    }

    /// Proves that `name`, which is in or below the zone, has no records of `rtype`.
    pub(super) fn deny(&self, name: &Name, rtype: RecordType) -> Result<Denied, Cause> {
        match self.deny_by_nsec(name, rtype) {
            Some(denied) => Ok(denied),
            None => self.deny_by_nsec3(name, rtype),
        }
    }

    /// Proves that a wildcard of `labels` labels had to answer for `name`: nothing nearer exists (RFC
    /// 4035 section 5.3.4, RFC 5155 section 8.8). It is [`Denied::NxDomain`] of the nearer name then.
    pub(super) fn deny_nearer(&self, name: &Name, labels: u8) -> Result<Denied, Cause> {
        let encloser = name.trim_to(usize::from(labels));
        let by_nsec = self.covering(name).is_some_and(|nsec| {
            // A next name below it would make the name exist without records.
            !name.zone_of(&nsec.next) && nsec.closest_encloser(name) == encloser
        });
        if by_nsec {
            return Ok(Denied::NxDomain);
        }
        let Some(hasher) = self.hasher()? else {
            return Ok(Denied::Unchecked);
        };
        let nearer = name.trim_to(usize::from(labels) + 1);
        let hash = hasher.hash(&nearer)?;
        let covering = hasher.covering(&hash).ok_or(Cause::NoDenial)?;
        Ok(match covering.opt_out {
            true => Denied::OptOut,
            false => Denied::NxDomain,
        })
    }

    fn deny_by_nsec(&self, name: &Name, rtype: RecordType) -> Option<Denied> {
        if let Some(nsec) = self.nsecs.iter().find(|nsec| nsec.owner == *name) {
            return nsec.types.deny(name, rtype);
        }
        let nsec = self.covering(name)?;
        if name.zone_of(&nsec.next) {
            // The name exists as something that others are below.
            return Some(Denied::NoData { delegation: false });
        }
        let wildcard = nsec.closest_encloser(name).prepend_label("*").ok()?;
        if let Some(nsec) = self.nsecs.iter().find(|nsec| nsec.owner == wildcard) {
            nsec.types.deny(&wildcard, rtype)?;
            return Some(Denied::NoData { delegation: false });
        }
        self.covering(&wildcard).map(|_| Denied::NxDomain)
    }

    /// The NSEC between whose names `name` lies.
    fn covering(&self, name: &Name) -> Option<&Nsec> {
        self.nsecs.iter().find(|nsec| {
            let in_zone = self.apex.zone_of(name) && self.apex.zone_of(&nsec.next);
            // RFC 6840 section 4.1: what is below a zone cut or a DNAME is not this record's to deny.
            let is_below_cut = nsec.types.ends_zone() && nsec.owner.zone_of(name);
            let is_last = nsec.next == *self.apex;
            let is_between = nsec.owner < *name && (*name < nsec.next || is_last);
            in_zone && is_between && !is_below_cut
        })
    }

    /// `None` if the iterations are too many to compute.
    fn hasher(&self) -> Result<Option<Hasher<'_>>, Cause> {
        let first = self.nsec3s.first().ok_or(Cause::NoDenial)?;
        if first.iterations > MAX_TOLERATED_ITERATIONS {
            return Err(Cause::Iterations);
        }
        if first.iterations > MAX_ITERATIONS {
            return Ok(None);
        }
        // RFC 5155 section 8.2: parameters that differ within one proof make it none.
        let same = |nsec3: &Nsec3| nsec3.iterations == first.iterations && nsec3.salt == first.salt;
        if !self.nsec3s.iter().all(same) {
            return Err(Cause::NoDenial);
        }
        Ok(Some(Hasher {
            nsec3s: &self.nsec3s,
            salt: &first.salt,
            iterations: first.iterations,
        }))
    }

    fn deny_by_nsec3(&self, name: &Name, rtype: RecordType) -> Result<Denied, Cause> {
        let Some(hasher) = self.hasher()? else {
            return Ok(Denied::Unchecked);
        };
        let hash = hasher.hash(name)?;
        if let Some(nsec3) = hasher.matching(&hash) {
            return nsec3.types.deny(name, rtype).ok_or(Cause::NoDenial);
        }
        // RFC 5155 section 8.3: the closest encloser, and that the next closer name is not there.
        let mut next_closer = hash;
        let mut encloser = name.clone();
        let encloser = loop {
            if encloser == *self.apex || !self.apex.zone_of(&encloser) {
                return Err(Cause::NoDenial);
            }
            encloser = encloser.base_name();
            if name.iter().len() - encloser.iter().len() > MAX_HASHES {
                return Err(Cause::TooMuchWork);
            }
            let hash = hasher.hash(&encloser)?;
            match hasher.matching(&hash) {
                Some(nsec3) if nsec3.types.ends_zone() => return Err(Cause::NoDenial),
                Some(_) => break encloser,
                None => next_closer = hash,
            }
        };
        let covering = hasher.covering(&next_closer).ok_or(Cause::NoDenial)?;
        if covering.opt_out {
            return Ok(Denied::OptOut);
        }
        let wildcard = encloser.prepend_label("*").map_err(|_| Cause::NoDenial)?;
        let hash = hasher.hash(&wildcard)?;
        if let Some(nsec3) = hasher.matching(&hash) {
            nsec3.types.deny(&wildcard, rtype).ok_or(Cause::NoDenial)?;
            return Ok(Denied::NoData { delegation: false });
        }
        match hasher.covering(&hash) {
            Some(_) => Ok(Denied::NxDomain),
            None => Err(Cause::NoDenial),
        }
    }
}

impl Nsec {
    fn read(owner: &Name, rdata: &[u8]) -> Option<Self> {
        let (next, end) = wire::read_name(rdata, 0).ok()?;
        Some(Self {
            owner: owner.clone(),
            next: next.to_lowercase(),
            types: Types(rdata.get(end..)?.to_vec()),
        })
    }

    /// The longest name above `name` of which the record tells that it exists.
    fn closest_encloser(&self, name: &Name) -> Name {
        let shared = |other: &Name| {
            let pairs = name.iter().rev().zip(other.iter().rev());
            pairs.take_while(|(a, b)| a.eq_ignore_ascii_case(b)).count()
        };
        name.trim_to(shared(&self.owner).max(shared(&self.next)))
    }
}

impl Nsec3 {
    fn read(owner: &Name, rdata: &[u8]) -> Option<Self> {
        let [hash_algorithm, flags, _, _, salt_len] = *rdata.get(..5)? else {
            return None;
        };
        // RFC 5155 section 8.1 and 8.2: what is unknown is ignored.
        if hash_algorithm != SHA1 || flags & !OPT_OUT != 0 {
            return None;
        }
        let salt_end = 5 + usize::from(salt_len);
        let hash_len = usize::from(*rdata.get(salt_end)?);
        let hash_end = salt_end + 1 + hash_len;
        let label = owner.iter().next()?.to_ascii_lowercase();
        Some(Self {
            owner: BASE32_DNSSEC.decode(&label).ok()?,
            next: rdata.get(salt_end + 1..hash_end)?.to_vec(),
            opt_out: flags & OPT_OUT != 0,
            iterations: wire::read_u16(rdata, 2)?,
            salt: rdata.get(5..salt_end)?.to_vec(),
            types: Types(rdata.get(hash_end..)?.to_vec()),
        })
    }
}

/// NSEC3 records with the parameters that they share.
struct Hasher<'a> {
    nsec3s: &'a [Nsec3],
    salt: &'a [u8],
    iterations: u16,
}

impl<'a> Hasher<'a> {
    fn hash(&self, name: &Name) -> Result<Vec<u8>, Cause> {
        let hash = Nsec3HashAlgorithm::SHA1.hash(self.salt, name, self.iterations);
        hash.map(|hash| hash.as_ref().to_vec())
            .map_err(|_| Cause::NoDenial)
    }

    fn matching(&self, hash: &[u8]) -> Option<&'a Nsec3> {
        self.nsec3s.iter().find(|nsec3| nsec3.owner == hash)
    }

    fn covering(&self, hash: &[u8]) -> Option<&'a Nsec3> {
        self.nsec3s.iter().find(|nsec3| {
            let (owner, next) = (nsec3.owner.as_slice(), nsec3.next.as_slice());
            match owner < next {
                true => owner < hash && hash < next,
                // The last one, or the only one.
                false => owner < hash || hash < next,
            }
        })
    }
}

impl Types {
    fn has(&self, rtype: RecordType) -> bool {
        self.iter().any(|number| number == u16::from(rtype))
    }

    /// The types in the map; a malformed rest counts as empty.
    fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        let mut rest = self.0.as_slice();
        let windows = std::iter::from_fn(move || {
            let [window, length, behind @ ..] = rest else {
                return None;
            };
            let (bits, behind) = behind.split_at_checked(usize::from(*length))?;
            rest = behind;
            Some((u16::from(*window), bits))
        });
        windows.flat_map(|(window, bits)| {
            let bytes = (0_u16..).zip(bits);
            bytes.flat_map(move |(place, byte)| {
                let set = (0_u16..8).filter(move |bit| byte & (0x80 >> bit) != 0);
                set.map(move |bit| (window << 8) | (place << 3) | bit)
            })
        })
    }

    /// A zone cut as its parent sees it, or a DNAME: what is below is somewhere else.
    fn ends_zone(&self) -> bool {
        self.is_delegation() || self.has(RecordType::DNAME)
    }

    fn is_delegation(&self) -> bool {
        self.has(RecordType::NS) && !self.has(RecordType::SOA)
    }

    /// What follows for the name that the map is of; `None` if it does not deny the type.
    fn deny(&self, name: &Name, rtype: RecordType) -> Option<Denied> {
        // RFC 4035 section 5.4: the bits of what the proof itself is made of tell nothing.
        const RRSIG_AND_NSEC: [u16; 2] = [46, 47];
        let exists = if rtype == RecordType::ANY {
            self.iter().any(|rtype| !RRSIG_AND_NSEC.contains(&rtype))
        } else {
            self.has(rtype) || self.has(RecordType::CNAME)
        };
        // Each side of a zone cut may deny its own types alone: the parent DS, the child all others
        // (RFC 6840 section 4.1, RFC 5155 section 8.9).
        let is_wrong_side = if rtype == RecordType::DS {
            self.has(RecordType::SOA) && !name.is_root()
        } else {
            self.is_delegation()
        };
        (!exists && !is_wrong_side).then(|| Denied::NoData {
            delegation: self.is_delegation(),
        })
    }
}
