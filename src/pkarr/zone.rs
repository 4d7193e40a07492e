//! A signed packet as a DNS zone: its records in bailiwick, and the lookup of RFC 1034 section 4.3.2
//! in them.

use std::net::IpAddr;

use hickory_proto::rr::rdata::NULL;
use hickory_proto::rr::{Name, RData, Record as ProtoRecord, RecordType};

use super::key::PublicKey;
use super::signed_packet::{SignedPacket, signed_at};
use crate::wire::{self, CLASS_IN, Layout, Section};

/// Refresh, retry and expire of the synthesised SOA, in seconds. Nobody transfers these zones; the
/// values are the usual ones.
const SOA_REFRESH: u32 = 3600;
const SOA_RETRY: u32 = 600;
const SOA_EXPIRE: u32 = 86_400;

/// A record: its owner, type, TTL in seconds, and data without name compression. It is of class IN.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Record {
    /// The owner.
    pub owner: Name,
    /// The type.
    pub rtype: RecordType,
    /// The TTL in seconds.
    pub ttl: u32,
    /// The record data, names uncompressed.
    pub rdata: Vec<u8>,
}

impl Record {
    /// A record of these parts; the names in `rdata` are not compressed.
    pub fn new(owner: Name, rtype: RecordType, ttl: u32, rdata: Vec<u8>) -> Self {
        Self {
            owner,
            rtype,
            ttl,
            rdata,
        }
    }

    /// The record as the DNS library has it, its data as bytes: it is written as it is.
    pub(crate) fn opaque(&self) -> ProtoRecord {
        // `NULL::with` does not take none.
        let mut rdata = NULL::new();
        rdata.anything.extend_from_slice(&self.rdata);
        let code = self.rtype;
        let data = RData::Unknown { code, rdata };
        ProtoRecord::from_rdata(self.owner.clone(), self.ttl, data)
    }

    /// The address of an A or AAAA record.
    pub fn address(&self) -> Option<IpAddr> {
        if self.rtype == RecordType::A {
            <[u8; 4]>::try_from(self.rdata.as_slice())
                .ok()
                .map(IpAddr::from)
        } else if self.rtype == RecordType::AAAA {
            <[u8; 16]>::try_from(self.rdata.as_slice())
                .ok()
                .map(IpAddr::from)
        } else {
            None
        }
    }
}

/// The records of a signed packet that stand at or below its key.
///
/// ```
/// use pkbridge::pkarr::{
///     Lookup, PublicKey, RecordType, SignedPacket, SigningKey, Zone, compose, parse_name, read_zone_file,
/// };
///
/// let secret = SigningKey::from_bytes(&[7; 32]);
/// let key = PublicKey::from(&secret);
/// let message = compose(&read_zone_file(b"* 60 A 192.0.2.1", key)?);
/// let packet = SignedPacket::sign(&secret, 1_767_225_600_000_000, &message.dns)?;
///
/// let zone = Zone::new(&packet, 300);
/// let www = parse_name(&format!("www.{key}"))?;
/// let found = Lookup::Rrset {
///     rtype: RecordType::A,
///     ttl: 60,
///     rdata: vec![&[192, 0, 2, 1]],
/// };
/// assert_eq!(zone.lookup(&www, RecordType::A), found);
/// assert_eq!(zone.lookup(&www, RecordType::AAAA), Lookup::NoData);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    apex: Name,
    records: Vec<Record>,
    soa: Record,
    ns: Record,
}

/// What a zone says of a name and type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup<'z> {
    /// The RRset: its data without duplicates, and its TTL. The owner is the name that was asked.
    Rrset {
        /// The type: the one that was asked, or for ANY the one that was picked.
        rtype: RecordType,
        /// TTL in seconds, the lowest of its records (RFC 2181 section 5.2).
        ttl: u32,
        /// The data of each record.
        rdata: Vec<&'z [u8]>,
    },
    /// The name is an alias.
    Cname {
        /// TTL in seconds.
        ttl: u32,
        /// The name to go on with.
        target: Name,
    },
    /// An ancestor redirects all that is below it (RFC 6672).
    Dname {
        /// The ancestor.
        owner: Name,
        /// TTL in seconds.
        ttl: u32,
        /// Where it points.
        target: Name,
    },
    /// Other name servers are responsible from this name on.
    Delegation {
        /// The zone cut.
        cut: Name,
    },
    /// The name exists, the type does not.
    NoData,
    /// The name does not exist.
    NxDomain,
}

impl Zone {
    /// Reads the zone of a packet. Leniently: records that cannot be served (another class, outside
    /// the zone, data that is not of their type's shape) are left out, and the others stay.
    ///
    /// `negative_ttl`, in seconds, goes into the SOA that is synthesised when the packet has none.
    pub fn new(packet: &SignedPacket, negative_ttl: u32) -> Self {
        let apex = apex_of(packet.key());
        let dns = packet.dns();
        // A verified packet has been walked before.
        let layout = Layout::read(dns).ok();
        let records: Vec<Record> = layout
            .iter()
            .flat_map(|layout| layout.section(Section::Answer))
            .filter(|record| record.class == CLASS_IN)
            .filter_map(|record| {
                let owner = wire::read_name(dns, record.start).ok()?.0;
                let rtype = RecordType::from(record.rtype);
                if !apex.zone_of(&owner) || is_meta(record.rtype) {
                    return None;
                }
                Some(Record {
                    rdata: wire::map_rdata(dns, record.rdata.clone(), rtype, |name| name)?,
                    owner,
                    rtype,
                    ttl: wire::effective_ttl(record.ttl),
                })
            })
            .collect();
        let own = |rtype| {
            let found = records
                .iter()
                .find(|record| record.rtype == rtype && record.owner == apex);
            found.cloned()
        };
        let soa = own(RecordType::SOA)
            .unwrap_or_else(|| synthesised_soa(&apex, packet.seq(), negative_ttl));
        let ns = own(RecordType::NS).unwrap_or_else(|| Record {
            owner: apex.clone(),
            rtype: RecordType::NS,
            ttl: negative_ttl,
            rdata: wire::name_bytes(&apex),
        });
        Self {
            apex,
            records,
            soa,
            ns,
        }
    }

    /// The zone's apex: the key's label.
    pub fn apex(&self) -> &Name {
        &self.apex
    }

    /// The SOA: the packet's, or the synthesised one.
    pub fn soa(&self) -> &Record {
        &self.soa
    }

    /// The records, in the packet's order.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The lowest TTL of all records, in seconds: when the packet should be fetched again.
    pub fn lowest_ttl(&self) -> Option<u32> {
        self.records.iter().map(|record| record.ttl).min()
    }

    /// The name servers of a zone cut, each with the addresses that the packet itself gives for it.
    pub fn name_servers(&self, cut: &Name) -> Vec<(Name, Vec<IpAddr>)> {
        let at_cut = |record: &&Record| record.rtype == RecordType::NS && record.owner == *cut;
        let mut servers: Vec<(Name, Vec<IpAddr>)> = Vec::new();
        for server in self.records.iter().filter(at_cut).filter_map(target_of) {
            if !servers.iter().any(|(known, _)| *known == server) {
                let glue = self.records.iter().filter(|record| record.owner == server);
                let addresses = glue.filter_map(Record::address).collect();
                servers.push((server, addresses));
            }
        }
        servers
    }

    /// Looks up a name of the zone, without suffix (RFC 1034 section 4.3.2, RFC 4592, RFC 6672).
    pub fn lookup(&self, name: &Name, rtype: RecordType) -> Lookup<'_> {
        if let Some(above) = self.above(name, rtype) {
            return above;
        }
        if *name == self.apex && !self.has(name, rtype) {
            for synthesised in [&self.soa, &self.ns] {
                if synthesised.rtype == rtype {
                    return Lookup::Rrset {
                        rtype,
                        ttl: synthesised.ttl,
                        rdata: vec![&synthesised.rdata],
                    };
                }
            }
        }
        if let Some(found) = self.at(name, rtype) {
            return found;
        }
        let mut exists = self.exists(name);
        if !exists {
            // RFC 4592 section 2.2.1: only the wildcard at the closest encloser counts.
            let wildcard = self.closest_encloser(name).prepend_label("*");
            if let Ok(wildcard) = wildcard
                && self.exists(&wildcard)
            {
                if let Some(found) = self.at(&wildcard, rtype) {
                    return found;
                }
                exists = true;
            }
        }
        if self.has(&self.apex, RecordType::NS) {
            return Lookup::Delegation {
                cut: self.apex.clone(),
            };
        }
        if exists {
            Lookup::NoData
        } else {
            Lookup::NxDomain
        }
    }

    /// What an ancestor, or a zone cut at the name itself, says: from the apex downwards, the first
    /// one wins.
    fn above(&self, name: &Name, rtype: RecordType) -> Option<Lookup<'_>> {
        let apex_labels = self.apex.iter().len();
        let name_labels = name.iter().len();
        for count in apex_labels..=name_labels {
            let node = name.trim_to(count);
            // RFC 6672 section 3.2: the cut, step B, comes before the DNAME, step C.
            // The parent side of a cut answers for DS (RFC 4035 section 3.1.4.1).
            let at_cut_for_ds = count == name_labels && rtype == RecordType::DS;
            if count > apex_labels && !at_cut_for_ds && self.has(&node, RecordType::NS) {
                return Some(Lookup::Delegation { cut: node });
            }
            if count < name_labels
                && let Some(dname) = self.find(&node, RecordType::DNAME)
            {
                return Some(Lookup::Dname {
                    owner: node,
                    ttl: self.ttl_of(dname),
                    target: target_of(dname)?,
                });
            }
        }
        None
    }

    /// What the records of an owner answer. An alias has no other data (RFC 1034 section 3.6.2), so its
    /// CNAME goes first; but at the apex, where packets mix CNAME with other types, an existing RRset
    /// wins.
    fn at(&self, owner: &Name, rtype: RecordType) -> Option<Lookup<'_>> {
        // RFC 8482: one RRset is answer enough for ANY.
        let wanted = if rtype == RecordType::ANY {
            let first = self.records.iter().find(|record| record.owner == *owner)?;
            first.rtype
        } else {
            rtype
        };
        let set: Vec<&Record> = self
            .records
            .iter()
            .filter(|record| record.rtype == wanted && record.owner == *owner)
            .collect();
        let cname = self.find(owner, RecordType::CNAME);
        let is_alias = cname.is_some() && *owner != self.apex;
        let follows = wanted != RecordType::CNAME && rtype != RecordType::ANY;
        if let Some(first) = set.first().filter(|_| !(is_alias && follows)) {
            let mut rdata: Vec<&[u8]> = Vec::with_capacity(set.len());
            for record in &set {
                if !rdata.contains(&record.rdata.as_slice()) {
                    rdata.push(&record.rdata);
                }
            }
            return Some(Lookup::Rrset {
                rtype: wanted,
                ttl: self.ttl_of(first),
                rdata,
            });
        }
        let cname = cname?;
        Some(Lookup::Cname {
            ttl: self.ttl_of(cname),
            target: target_of(cname)?,
        })
    }

    /// The TTL of a record's RRset.
    fn ttl_of(&self, record: &Record) -> u32 {
        self.records
            .iter()
            .filter(|other| other.rtype == record.rtype && other.owner == record.owner)
            .map(|other| other.ttl)
            .min()
            .unwrap_or(record.ttl)
    }

    fn find(&self, owner: &Name, rtype: RecordType) -> Option<&Record> {
        self.records
            .iter()
            .find(|record| record.rtype == rtype && record.owner == *owner)
    }

    fn has(&self, owner: &Name, rtype: RecordType) -> bool {
        self.find(owner, rtype).is_some()
    }

    /// Whether the name has records, or something below it has (an empty non-terminal), or it is
    /// the apex.
    fn exists(&self, name: &Name) -> bool {
        *name == self.apex
            || self
                .records
                .iter()
                .any(|record| name.zone_of(&record.owner))
    }

    fn closest_encloser(&self, name: &Name) -> Name {
        let mut encloser = name.base_name();
        while !self.exists(&encloser) && encloser.iter().len() > self.apex.iter().len() {
            encloser = encloser.base_name();
        }
        encloser
    }
}

/// The apex of a key's zone: its label.
pub(super) fn apex_of(key: PublicKey) -> Name {
    // 52 letters and digits are a label.
    Name::from_ascii(format!("{key}.")).unwrap_or_else(|_| Name::root())
}

/// Types that are questions or protocol, never records of a zone (RFC 6895 section 3.1).
pub(super) fn is_meta(rtype: u16) -> bool {
    rtype == 0 || rtype == 41 || (128..=255).contains(&rtype)
}

fn target_of(record: &Record) -> Option<Name> {
    wire::read_name(&record.rdata, 0).ok().map(|(name, _)| name)
}

/// The SOA of a zone that has none: what lets a stub or another resolver cache a negative answer
/// (RFC 2308 section 3).
fn synthesised_soa(apex: &Name, seq: u64, negative_ttl: u32) -> Record {
    // Wraps in the year 2106; RFC 1982 arithmetic expects that of a serial.
    let serial = u32::try_from(signed_at(seq) & 0xffff_ffff).unwrap_or(0);
    soa_record(apex, serial, negative_ttl)
}

/// An SOA for a zone that pkbridge makes up: MNAME is the zone itself (RFC 1035 section 3.3.13).
pub(crate) fn soa_record(apex: &Name, serial: u32, negative_ttl: u32) -> Record {
    let hostmaster = apex
        .prepend_label("hostmaster")
        .unwrap_or_else(|_| apex.clone());
    let mut rdata = wire::name_bytes(apex);
    rdata.extend(wire::name_bytes(&hostmaster));
    for number in [serial, SOA_REFRESH, SOA_RETRY, SOA_EXPIRE, negative_ttl] {
        rdata.extend(number.to_be_bytes());
    }
    Record {
        owner: apex.clone(),
        rtype: RecordType::SOA,
        ttl: negative_ttl,
        rdata,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use ed25519_dalek::SigningKey;
    use hickory_proto::rr::rdata::{A, CNAME, MX, NS, TXT};
    use hickory_proto::rr::{RData, Record as ProtoRecord};

    use super::*;

    const A1: [u8; 4] = [192, 0, 2, 1];

    fn secret() -> SigningKey {
        SigningKey::from_bytes(&[3; 32])
    }

    /// A name below the test key; `@` is the apex.
    fn n(sub: &str) -> Name {
        let key = PublicKey::from_bytes(&secret().verifying_key().to_bytes()).unwrap();
        match sub {
            "@" => Name::from_ascii(format!("{key}.")).unwrap(),
            _ => Name::from_ascii(format!("{sub}.{key}.")).unwrap(),
        }
    }

    fn a(last: u8) -> RData {
        RData::A(A(Ipv4Addr::new(192, 0, 2, last)))
    }

    fn cname(target: Name) -> RData {
        RData::CNAME(CNAME(target))
    }

    fn ns(target: Name) -> RData {
        RData::NS(NS(target))
    }

    fn zone_of(records: Vec<(Name, u32, RData)>) -> Zone {
        let records = records
            .into_iter()
            .map(|(owner, ttl, data)| ProtoRecord::from_rdata(owner, ttl, data))
            .collect();
        let packet = SignedPacket::sign_records(&secret(), 1_700_000_000_000_000, records);
        Zone::new(&packet.unwrap(), 300)
    }

    fn rrset<'z>(rtype: RecordType, ttl: u32, rdata: Vec<&'z [u8]>) -> Lookup<'z> {
        Lookup::Rrset { rtype, ttl, rdata }
    }

    #[test]
    fn exact_match_in_any_case_without_duplicates_and_with_the_lowest_ttl() {
        let zone = zone_of(vec![
            (n("LB"), 300, a(1)),
            (n("lb"), 60, a(2)),
            (n("lb"), 900, a(1)),
        ]);
        let expected = rrset(RecordType::A, 60, vec![&A1, &[192, 0, 2, 2]]);
        assert_eq!(zone.lookup(&n("Lb"), RecordType::A), expected);
        assert_eq!(zone.lookup(&n("lb"), RecordType::AAAA), Lookup::NoData);
        assert_eq!(zone.lookup(&n("nope"), RecordType::A), Lookup::NxDomain);
        assert_eq!(zone.lookup(&n("lb"), RecordType::ANY), expected);
    }

    #[test]
    fn a_cname_but_at_the_apex_an_existing_rrset_wins() {
        let txt = RData::TXT(TXT::new(vec!["v=apex".into()]));
        let zone = zone_of(vec![
            (n("www"), 300, cname(n("@"))),
            (n("@"), 200, cname(n("other"))),
            (n("@"), 100, txt),
        ]);
        let to = |ttl, target| Lookup::Cname { ttl, target };
        assert_eq!(zone.lookup(&n("www"), RecordType::A), to(300, n("@")));
        assert_eq!(zone.lookup(&n("@"), RecordType::A), to(200, n("other")));
        let found = zone.lookup(&n("@"), RecordType::TXT);
        assert_eq!(found, rrset(RecordType::TXT, 100, vec![b"\x06v=apex"]));
        assert!(matches!(
            zone.lookup(&n("www"), RecordType::CNAME),
            Lookup::Rrset { .. }
        ));
    }

    #[test]
    fn wildcards_follow_rfc_4592() {
        let zone = zone_of(vec![
            (n("*"), 300, a(1)),
            (n("fixed"), 300, a(9)),
            (n("*.deep"), 300, cname(n("fixed"))),
        ]);
        let found = rrset(RecordType::A, 300, vec![&A1]);
        assert_eq!(zone.lookup(&n("any"), RecordType::A), found);
        assert_eq!(zone.lookup(&n("two.labels"), RecordType::A), found);
        assert_eq!(zone.lookup(&n("any"), RecordType::TXT), Lookup::NoData);
        // An existing name blocks the wildcard, for itself and for what is below it.
        assert_eq!(zone.lookup(&n("fixed"), RecordType::TXT), Lookup::NoData);
        assert_eq!(zone.lookup(&n("x.fixed"), RecordType::A), Lookup::NxDomain);
        // `deep` is an empty non-terminal, and has a wildcard of its own.
        assert_eq!(zone.lookup(&n("deep"), RecordType::A), Lookup::NoData);
        let aliased = Lookup::Cname {
            ttl: 300,
            target: n("fixed"),
        };
        assert_eq!(zone.lookup(&n("x.deep"), RecordType::A), aliased);
    }

    #[test]
    fn an_empty_non_terminal_exists() {
        let zone = zone_of(vec![(n("a.b.c"), 300, a(1))]);
        for sub in ["b.c", "c", "@"] {
            assert_eq!(zone.lookup(&n(sub), RecordType::A), Lookup::NoData, "{sub}");
        }
        assert_eq!(zone.lookup(&n("x.b.c"), RecordType::A), Lookup::NxDomain);
        assert_eq!(zone.lookup(&n("b"), RecordType::A), Lookup::NxDomain);
    }

    #[test]
    fn a_packet_without_records_has_an_apex_all_the_same() {
        let zone = zone_of(vec![]);
        assert_eq!(zone.lookup(&n("@"), RecordType::A), Lookup::NoData);
        assert_eq!(zone.lookup(&n("x"), RecordType::A), Lookup::NxDomain);
        assert_eq!(zone.lowest_ttl(), None);
    }

    #[test]
    fn the_soa_is_synthesised_from_the_seq_or_the_packets_own() {
        let zone = zone_of(vec![(n("x"), 30, a(1))]);
        let mut expected = wire::name_bytes(&n("@"));
        expected.extend(wire::name_bytes(&n("hostmaster")));
        for number in [1_700_000_000_u32, 3600, 600, 86_400, 300] {
            expected.extend(number.to_be_bytes());
        }
        let found = zone.lookup(&n("@"), RecordType::SOA);
        assert_eq!(found, rrset(RecordType::SOA, 300, vec![&expected]));
        assert_eq!(zone.soa().rdata, expected);
        let key = wire::name_bytes(&n("@"));
        let found = zone.lookup(&n("@"), RecordType::NS);
        assert_eq!(found, rrset(RecordType::NS, 300, vec![&key]));
        assert_eq!(zone.lookup(&n("x"), RecordType::SOA), Lookup::NoData);
    }

    #[test]
    fn name_servers_below_the_apex_delegate_and_at_the_apex_only_what_is_missing() {
        let zone = zone_of(vec![
            (n("sub"), 300, ns(n("ns1"))),
            (n("ns1"), 300, a(1)),
            (n("host.sub"), 300, a(2)),
        ]);
        let delegated = Lookup::Delegation { cut: n("sub") };
        for (sub, rtype) in [
            ("sub", RecordType::A),
            ("sub", RecordType::NS),
            ("host.sub", RecordType::A),
            ("a.b.sub", RecordType::TXT),
        ] {
            assert_eq!(zone.lookup(&n(sub), rtype), delegated, "{sub}");
        }
        assert_eq!(zone.lookup(&n("sub"), RecordType::DS), Lookup::NoData);

        let zone = zone_of(vec![
            (n("@"), 300, ns(Name::from_ascii("ns.example.").unwrap())),
            (n("@"), 300, a(1)),
        ]);
        let delegated = Lookup::Delegation { cut: n("@") };
        let found = rrset(RecordType::A, 300, vec![&A1]);
        assert_eq!(zone.lookup(&n("@"), RecordType::A), found);
        assert_eq!(zone.lookup(&n("@"), RecordType::MX), delegated);
        assert_eq!(zone.lookup(&n("www"), RecordType::A), delegated);
    }

    #[test]
    fn a_dname_redirects_what_is_below_it() {
        let dname = RData::Unknown {
            code: RecordType::DNAME,
            rdata: hickory_proto::rr::rdata::NULL::with(b"\x07example\x00".to_vec()),
        };
        let zone = zone_of(vec![(n("old"), 300, dname)]);
        let found = zone.lookup(&n("a.old"), RecordType::A);
        let expected = Lookup::Dname {
            owner: n("old"),
            ttl: 300,
            target: Name::from_ascii("example.").unwrap(),
        };
        assert_eq!(found, expected);
        assert_eq!(zone.lookup(&n("old"), RecordType::A), Lookup::NoData);
    }

    #[test]
    fn records_of_others_do_not_exist() {
        let victim = Name::from_ascii("www.example.com.").unwrap();
        let lookalike = Name::from_ascii(format!("x{}", n("@"))).unwrap();
        let exchange = MX::new(10, victim.clone());
        let zone = zone_of(vec![
            (victim, 300, a(1)),
            (lookalike, 300, a(2)),
            (n("mail"), 300, RData::MX(exchange)),
        ]);
        assert_eq!(zone.records().len(), 1);
    }

    #[test]
    fn one_strange_record_does_not_lose_the_others() {
        let odd = |code, bytes: &[u8]| RData::Unknown {
            code,
            rdata: hickory_proto::rr::rdata::NULL::with(bytes.to_vec()),
        };
        let unknown = RecordType::Unknown(65_280);
        let zone = zone_of(vec![
            (n("six"), 300, odd(RecordType::A, b"sixlng")),
            (n("txt"), 300, odd(RecordType::TXT, b"\x09short")),
            (n("own"), 300, odd(unknown, b"\x00\xff\xc0\x0c")),
            (n("opt"), 300, odd(RecordType::Unknown(250), b"x")),
            (n("ok"), 300, a(1)),
        ]);
        assert_eq!(zone.records().len(), 2);
        let found = zone.lookup(&n("own"), unknown);
        assert_eq!(found, rrset(unknown, 300, vec![b"\x00\xff\xc0\x0c"]));
        assert_eq!(zone.lookup(&n("six"), RecordType::A), Lookup::NxDomain);
    }

    #[test]
    fn every_record_of_the_valid_vectors_is_answered() {
        let file: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/vectors/valid.json")).unwrap();
        let mut asked = 0;
        for vector in file["vectors"].as_array().unwrap() {
            let text = vector["signed_packet_hex"].as_str().unwrap();
            let bytes: Vec<u8> = (0..text.len() / 2)
                .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
                .collect();
            let zone = Zone::new(&SignedPacket::from_bytes(&bytes).unwrap(), 300);
            for record in vector["records"].as_array().unwrap() {
                let owner = Name::from_ascii(record["name"].as_str().unwrap()).unwrap();
                let rtype = u16::try_from(record["type_num"].as_u64().unwrap()).unwrap();
                let hex = record["rdata_wire_hex"].as_str().unwrap();
                let found = zone.lookup(&owner, RecordType::from(rtype));
                let context = format!("{} {owner} {rtype}: {found:?}", vector["name"]);
                match found {
                    Lookup::Rrset { rdata, .. } => {
                        let hexed = |bytes: &&[u8]| -> String {
                            bytes.iter().map(|byte| format!("{byte:02x}")).collect()
                        };
                        let found: Vec<String> = rdata.iter().map(hexed).collect();
                        assert!(found.contains(&hex.to_owned()), "{context}");
                    }
                    Lookup::Delegation { .. } => assert_eq!(rtype, 2, "{context}"),
                    _ => panic!("{context}"),
                }
                asked += 1;
            }
        }
        assert!(asked > 60, "{asked}");
    }
}
