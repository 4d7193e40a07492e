//! A tree of signed and unsigned zones, and a forwarder that answers from it as a resolver would that
//! was asked with CD.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use data_encoding::BASE32_DNSSEC;
use futures_util::future::BoxFuture;
use hickory_proto::dnssec::crypto::{EcdsaSigningKey, Ed25519SigningKey};
use hickory_proto::dnssec::rdata::{DNSKEY, DNSSECRData, DS, NSEC, NSEC3, RRSIG, SigInput};
use hickory_proto::dnssec::{
    Algorithm, DigestType, Nsec3HashAlgorithm, PublicKey, SigningKey, TBS,
};
use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, NS, NULL, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType, SerialNumber};
use pkbridge::resolve::{Failure, Forward, Question, Response};
use pkbridge::wire::name_bytes;

/// TTL of all records.
pub(super) const TTL: u32 = 3600;
const DAY: i64 = 86_400;

pub(super) fn n(name: &str) -> Name {
    Name::from_ascii(name).unwrap()
}

pub(super) fn a(owner: &str, last: u8) -> Record {
    Record::from_rdata(n(owner), TTL, RData::A(A::new(192, 0, 2, last)))
}

pub(super) fn ns(owner: &str) -> Record {
    Record::from_rdata(n(owner), TTL, RData::NS(NS(n("ns.test."))))
}

pub(super) fn cname(owner: &str, target: &str) -> Record {
    Record::from_rdata(n(owner), TTL, RData::CNAME(CNAME(n(target))))
}

/// A record whose data no library looks into.
pub(super) fn opaque(owner: &str, code: RecordType, rdata: Vec<u8>) -> Record {
    let rdata = NULL::with(rdata);
    Record::from_rdata(n(owner), TTL, RData::Unknown { code, rdata })
}

pub(super) fn soa(apex: &str) -> Record {
    let soa = SOA::new(n("ns.test."), n("admin.test."), 1, 3600, 600, 86_400, 300);
    Record::from_rdata(n(apex), TTL, RData::SOA(soa))
}

/// How a zone says that something is not there.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Denial {
    Nsec,
    Nsec3 { iterations: u16, opt_out: bool },
}

pub(super) struct Zone {
    apex: Name,
    key: Option<Box<dyn SigningKey>>,
    pub(super) dnskey: Option<DNSKEY>,
    denial: Denial,
    /// Days from now in which signatures are valid.
    valid: (i64, i64),
    sets: BTreeMap<(Name, RecordType), Vec<Record>>,
}

impl Zone {
    pub(super) fn new(apex: &str, records: impl IntoIterator<Item = Record>) -> Self {
        let mut zone = Self {
            apex: n(apex),
            key: None,
            dnskey: None,
            denial: Denial::Nsec,
            valid: (-1, 1),
            sets: BTreeMap::new(),
        };
        zone.add(soa(apex));
        zone.add(ns(apex));
        records.into_iter().for_each(|record| zone.add(record));
        zone
    }

    pub(super) fn add(&mut self, record: Record) {
        let place = (record.name.clone(), record.record_type());
        self.sets.entry(place).or_default().push(record);
    }

    /// Signs the zone with a new key.
    pub(super) fn signed(mut self, algorithm: Algorithm, denial: Denial) -> Self {
        let key: Box<dyn SigningKey> = if algorithm == Algorithm::ED25519 {
            let pkcs8 = Ed25519SigningKey::generate_pkcs8().unwrap();
            Box::new(Ed25519SigningKey::from_pkcs8(&pkcs8).unwrap())
        } else {
            let pkcs8 = EcdsaSigningKey::generate_pkcs8(algorithm).unwrap();
            Box::new(EcdsaSigningKey::from_pkcs8(&pkcs8, algorithm).unwrap())
        };
        let dnskey = DNSKEY::new(true, true, false, key.to_public_key().unwrap());
        let rdata = RData::DNSSEC(DNSSECRData::DNSKEY(dnskey.clone()));
        self.add(Record::from_rdata(self.apex.clone(), TTL, rdata));
        self.dnskey = Some(dnskey);
        self.key = Some(key);
        self.denial = denial;
        self
    }

    pub(super) fn valid(mut self, from: i64, to: i64) -> Self {
        self.valid = (from, to);
        self
    }

    pub(super) fn ds(&self) -> DS {
        let dnskey = self.dnskey.as_ref().unwrap();
        let digest = dnskey.to_digest(&self.apex, DigestType::SHA256).unwrap();
        let tag = dnskey.calculate_key_tag().unwrap();
        let algorithm = dnskey.public_key().algorithm();
        DS::new(tag, algorithm, DigestType::SHA256, digest.as_ref().to_vec())
    }

    /// Delegates to a signed zone.
    pub(super) fn delegate(&mut self, child: &Zone) {
        self.delegate_with(child, child.ds());
    }

    pub(super) fn delegate_with(&mut self, child: &Zone, ds: DS) {
        let apex = child.apex.to_string();
        self.add(ns(&apex));
        let rdata = RData::DNSSEC(DNSSECRData::DS(ds));
        self.add(Record::from_rdata(child.apex.clone(), TTL, rdata));
    }

    fn is_cut(&self, name: &Name) -> bool {
        *name != self.apex && self.sets.contains_key(&(name.clone(), RecordType::NS))
    }

    /// The RRset with its signature; `owner` is what a wildcard answers for.
    fn set(&self, name: &Name, rtype: RecordType, owner: &Name) -> Option<Vec<Record>> {
        let records = self.sets.get(&(name.clone(), rtype))?;
        let of_cut = self.is_cut(name) && rtype == RecordType::NS;
        let signature = (!of_cut).then(|| self.sign(records)).flatten();
        let mut all: Vec<Record> = records.iter().cloned().chain(signature).collect();
        all.iter_mut()
            .for_each(|record| record.name = owner.clone());
        Some(all)
    }

    pub(super) fn sign(&self, records: &[Record]) -> Option<Record> {
        let key = self.key.as_ref()?;
        let first = &records[0];
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let now = i64::try_from(now.as_secs()).unwrap();
        let at = |days: i64| SerialNumber::new(u32::try_from(now + days * DAY).unwrap());
        let input = SigInput {
            type_covered: first.record_type(),
            algorithm: key.algorithm(),
            num_labels: first.name.num_labels(),
            original_ttl: first.ttl,
            sig_expiration: at(self.valid.1),
            sig_inception: at(self.valid.0),
            key_tag: self.dnskey.as_ref()?.calculate_key_tag().unwrap(),
            signer_name: self.apex.clone(),
        };
        let tbs = TBS::from_input(&first.name, DNSClass::IN, &input, records.iter()).unwrap();
        let rrsig = RRSIG::from_sig(input, key.sign(&tbs).unwrap());
        let rdata = RData::DNSSEC(DNSSECRData::RRSIG(rrsig));
        Some(Record::from_rdata(first.name.clone(), first.ttl, rdata))
    }

    /// All names, also those that are there only because of what is below.
    fn names(&self) -> BTreeSet<Name> {
        let mut names = BTreeSet::new();
        for (owner, _) in self.sets.keys() {
            let mut name = owner.clone();
            while name != self.apex {
                names.insert(name.clone());
                name = name.base_name();
            }
        }
        names.insert(self.apex.clone());
        names
    }

    fn types(&self, name: &Name) -> Vec<RecordType> {
        let sets = self.sets.keys().filter(|(owner, _)| owner == name);
        let mut types: Vec<RecordType> = sets.map(|(_, rtype)| *rtype).collect();
        if types.iter().any(|rtype| *rtype != RecordType::NS) {
            types.push(RecordType::RRSIG);
        }
        types
    }

    fn nsec(&self, name: &Name) -> Vec<Record> {
        let owners: BTreeSet<Name> = self.sets.keys().map(|(owner, _)| owner.clone()).collect();
        let owner = owners.range(..=name).next_back().unwrap();
        let next = owners.range(owner..).nth(1).unwrap_or(&self.apex);
        let mut types = self.types(owner);
        types.extend([RecordType::NSEC, RecordType::RRSIG]);
        let nsec = NSEC::new(next.clone(), types);
        self.with_signature(owner.clone(), RData::DNSSEC(DNSSECRData::NSEC(nsec)))
    }

    fn hash(&self, name: &Name, iterations: u16) -> Vec<u8> {
        let hash = Nsec3HashAlgorithm::SHA1.hash(b"salt", name, iterations);
        hash.unwrap().as_ref().to_vec()
    }

    fn nsec3(&self, name: &Name, iterations: u16, opt_out: bool) -> Vec<Record> {
        let is_left_out = |name: &Name| {
            let has_ds = self.sets.contains_key(&(name.clone(), RecordType::DS));
            opt_out && self.is_cut(name) && !has_ds
        };
        let names = self.names().into_iter().filter(|name| !is_left_out(name));
        let hashes: BTreeMap<Vec<u8>, Name> = names
            .map(|name| (self.hash(&name, iterations), name))
            .collect();
        let wanted = self.hash(name, iterations);
        let (hash, name) = hashes
            .range(..=wanted)
            .next_back()
            .or_else(|| hashes.last_key_value())
            .unwrap();
        let next = hashes.range(hash.clone()..).nth(1);
        let next = next.or_else(|| hashes.first_key_value()).unwrap().0;
        let nsec3 = NSEC3::new(
            Nsec3HashAlgorithm::SHA1,
            opt_out,
            iterations,
            b"salt".to_vec(),
            next.clone(),
            self.types(name),
        );
        let label = BASE32_DNSSEC.encode(hash);
        let owner = self.apex.prepend_label(label.as_bytes()).unwrap();
        self.with_signature(owner, RData::DNSSEC(DNSSECRData::NSEC3(nsec3)))
    }

    fn with_signature(&self, owner: Name, rdata: RData) -> Vec<Record> {
        let record = Record::from_rdata(owner, 300, rdata);
        let signature = self.sign(std::slice::from_ref(&record));
        std::iter::once(record).chain(signature).collect()
    }

    /// The proofs that `name` is not there or has not the type: for a name that exists, for one that a
    /// wildcard answers for (without the wildcard itself), and for one that does not.
    fn deny(&self, name: &Name, wildcard: bool) -> Vec<Record> {
        if self.key.is_none() {
            return Vec::new();
        }
        let names = self.names();
        let mut encloser = name.clone();
        let mut nearer = name.clone();
        while !names.contains(&encloser) {
            nearer = encloser.clone();
            encloser = encloser.base_name();
        }
        let star = encloser.prepend_label("*").unwrap();
        let mut proofs = match self.denial {
            Denial::Nsec if encloser == *name => vec![self.nsec(name)],
            Denial::Nsec if wildcard => vec![self.nsec(name)],
            Denial::Nsec => vec![self.nsec(name), self.nsec(&star)],
            Denial::Nsec3 {
                iterations,
                opt_out,
            } => {
                let one = |name: &Name| self.nsec3(name, iterations, opt_out);
                match encloser == *name {
                    // An opted-out delegation has no record of its own.
                    true if opt_out && self.is_cut(name) => vec![one(&self.apex), one(name)],
                    true => vec![one(name)],
                    false if wildcard => vec![one(&nearer)],
                    false => vec![one(&encloser), one(&nearer), one(&star)],
                }
            }
        };
        proofs.sort_by_key(|proof| proof[0].name.clone());
        proofs.dedup_by_key(|proof| proof[0].name.clone());
        proofs.concat()
    }

    /// Adds what the zone has of a name; gives the name that an alias leads to.
    fn answer(&self, name: &Name, rtype: RecordType, message: &mut Message) -> Option<Name> {
        let mut above = name.base_name();
        while *name != self.apex && self.apex.zone_of(&above) {
            if let Some(dname) = self.set(&above, RecordType::DNAME, &above) {
                let RData::Unknown { rdata, .. } = &dname[0].data else {
                    panic!("a DNAME of another kind");
                };
                let (target, _) = pkbridge::wire::read_name(&rdata.anything, 0).unwrap();
                let below = name.iter().len() - above.iter().len();
                let labels = name.iter().take(below).chain(target.iter());
                let target = Name::from_labels(labels).unwrap();
                message.add_answers(dname);
                message.add_answer(cname(&name.to_string(), &target.to_string()));
                return Some(target);
            }
            if above.is_root() {
                break;
            }
            above = above.base_name();
        }
        let names = self.names();
        let (source, is_wildcard) = match names.contains(name) {
            true => (name.clone(), false),
            false => {
                let mut encloser = name.base_name();
                while !names.contains(&encloser) {
                    encloser = encloser.base_name();
                }
                (encloser.prepend_label("*").unwrap(), true)
            }
        };
        if rtype == RecordType::ANY {
            let owners = self.sets.keys().filter(|(owner, _)| *owner == source);
            for (_, rtype) in owners {
                message.add_answers(self.set(&source, *rtype, name).unwrap());
            }
            return None;
        }
        for wanted in [rtype, RecordType::CNAME] {
            let Some(set) = self.set(&source, wanted, name) else {
                continue;
            };
            let mut target = None;
            if let RData::CNAME(CNAME(name)) = &set[0].data
                && rtype != RecordType::CNAME
            {
                target = Some(name.clone());
            }
            message.add_answers(set);
            if is_wildcard {
                message.add_authorities(self.deny(name, true));
            }
            return target;
        }
        let apex = self.apex.clone();
        message.add_authorities(self.set(&apex, RecordType::SOA, &apex).unwrap());
        message.add_authorities(self.deny(name, false));
        if !names.contains(&source) {
            message.metadata.response_code = ResponseCode::NXDomain;
        }
        None
    }
}

type Tamper = Box<dyn Fn(&Question, &mut Message) + Send + Sync>;

/// The whole tree, behind one resolver.
pub(super) struct World {
    pub(super) zones: Vec<Zone>,
    /// What somebody on the path does to answers.
    tamper: Mutex<Option<Tamper>>,
    pub(super) asked: Mutex<Vec<Question>>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("World")
    }
}

impl World {
    pub(super) fn new(zones: Vec<Zone>) -> Self {
        Self {
            zones,
            tamper: Mutex::new(None),
            asked: Mutex::default(),
        }
    }

    pub(super) fn tamper(&self, tamper: impl Fn(&Question, &mut Message) + Send + Sync + 'static) {
        *self.tamper.lock().unwrap() = Some(Box::new(tamper));
    }

    pub(super) fn zone(&self, apex: &str) -> &Zone {
        self.zones.iter().find(|zone| zone.apex == n(apex)).unwrap()
    }

    pub(super) fn zone_mut(&mut self, apex: &str) -> &mut Zone {
        let mut zones = self.zones.iter_mut();
        zones.find(|zone| zone.apex == n(apex)).unwrap()
    }

    fn zone_for(&self, name: &Name, rtype: RecordType) -> &Zone {
        let fits = |zone: &&Zone| {
            let is_parents = rtype == RecordType::DS && !name.is_root() && zone.apex == *name;
            zone.apex.zone_of(name) && !is_parents
        };
        let zones = self.zones.iter().filter(fits);
        zones.max_by_key(|zone| zone.apex.iter().len()).unwrap()
    }

    pub(super) fn answer(&self, question: &Question) -> Response {
        self.asked.lock().unwrap().push(question.clone());
        let mut message = Message::response(0, OpCode::Query);
        message.add_query(Query::query(question.name.clone(), question.rtype));
        let mut name = question.name.clone();
        for _ in 0..20 {
            let zone = self.zone_for(&name, question.rtype);
            match zone.answer(&name, question.rtype, &mut message) {
                Some(target) => name = target,
                None => break,
            }
        }
        if !question.dnssec_ok {
            let is_dnssec = |record: &Record| {
                let rtype = record.record_type();
                matches!(
                    rtype,
                    RecordType::RRSIG | RecordType::NSEC | RecordType::NSEC3
                )
            };
            message.answers.retain(|record| !is_dnssec(record));
            message.authorities.retain(|record| !is_dnssec(record));
        }
        if let Some(tamper) = &*self.tamper.lock().unwrap() {
            tamper(question, &mut message);
        }
        Response::from_message(message.to_vec().unwrap()).unwrap()
    }
}

impl Forward for World {
    fn forward<'a>(&'a self, question: &'a Question) -> BoxFuture<'a, Result<Response, Failure>> {
        Box::pin(async move { Ok(self.answer(question)) })
    }

    fn has_rule_for(&self, name: &Name) -> bool {
        n("lan.").zone_of(name)
    }
}

/// The data of a DNAME.
pub(super) fn dname(owner: &str, target: &str) -> Record {
    opaque(owner, RecordType::DNAME, name_bytes(&n(target)))
}
