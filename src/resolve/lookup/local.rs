//! Names that are neither a packet's nor an upstream's to answer: the suffixes' own zones, what only
//! looks like a key, and special-use names.

use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use hickory_proto::rr::{Name, RecordType};

use super::{Chain, Ending, Lookup, Step};
use crate::pkarr::{self, NameKind, Record};
use crate::resolve::answers::Question;
use crate::resolve::failure::{Ede, ede};
use crate::wire;

/// Zones that exist on every host and hold no names: NODATA at the apex, NXDOMAIN below.
static EMPTY_ZONES: LazyLock<HashSet<Name>> = LazyLock::new(|| {
    let fixed = [
        // RFC 6761 sections 6.2 and 6.4, RFC 7686, RFC 9476, RFC 6762 section 12, RFC 8375, RFC 9462.
        "test",
        "invalid",
        "onion",
        "alt",
        "local",
        "home.arpa",
        "resolver.arpa",
        // RFC 6303 sections 4.1 to 4.3 and RFC 6761 section 6.1.
        "10.in-addr.arpa",
        "168.192.in-addr.arpa",
        "0.in-addr.arpa",
        "127.in-addr.arpa",
        "254.169.in-addr.arpa",
        "2.0.192.in-addr.arpa",
        "100.51.198.in-addr.arpa",
        "113.0.203.in-addr.arpa",
        "255.255.255.255.in-addr.arpa",
        // RFC 6303 sections 4.4 to 4.6.
        "d.f.ip6.arpa",
        "8.e.f.ip6.arpa",
        "9.e.f.ip6.arpa",
        "a.e.f.ip6.arpa",
        "b.e.f.ip6.arpa",
        "8.b.d.0.1.0.0.2.ip6.arpa",
    ]
    .map(str::to_owned);
    let rfc1918 = (16..32).map(|octet| format!("{octet}.172.in-addr.arpa"));
    // RFC 7793: 100.64.0.0/10, for the inside of carriers.
    let rfc6598 = (64..128).map(|octet| format!("{octet}.100.in-addr.arpa"));
    let unspecified = format!("{}ip6.arpa", "0.".repeat(32));
    fixed
        .into_iter()
        .chain(rfc1918)
        .chain(rfc6598)
        .chain([unspecified, LOOPBACK_PTR.to_owned()])
        .filter_map(|text| fqdn(&text))
        .collect()
});

/// Names in those zones that exist without records: above the loopback address's, and where the
/// resolver's own encrypted transports would be told (RFC 9462 section 4).
const EMPTY_NAMES: [&str; 3] = [
    "0.0.127.in-addr.arpa.",
    "0.127.in-addr.arpa.",
    "_dns.resolver.arpa.",
];

/// The reverse name of `::1`.
const LOOPBACK_PTR: &str =
    "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa";

/// Whether a name (in lower case) is special everywhere, and answered without asking anybody.
pub fn is_special_use(name: &Name) -> bool {
    is_at_or_below(name, "localhost") || empty_zone_of(name).is_some()
}

/// The last labels of those zones: nearly all names are told apart by theirs.
static EMPTY_ZONES_LAST: LazyLock<HashSet<Vec<u8>>> = LazyLock::new(|| {
    let last = |zone: &Name| zone.iter().next_back().map(<[u8]>::to_vec);
    EMPTY_ZONES.iter().filter_map(last).collect()
});

fn empty_zone_of(name: &Name) -> Option<Name> {
    if !EMPTY_ZONES_LAST.contains(name.iter().next_back()?) {
        return None;
    }
    let mut ancestors = (1..=name.iter().len()).map(|count| name.trim_to(count));
    ancestors.find(|ancestor| EMPTY_ZONES.contains(ancestor))
}

fn fqdn(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}

impl Lookup {
    /// An SOA for a zone that pkbridge itself is the authority of.
    pub(super) fn own_soa(&self, apex: &Name) -> Record {
        pkarr::soa_record(apex, 1, self.ttls.negative)
    }

    /// The zone that would hold a key that does not exist: the suffix's, or the root. An SOA says that
    /// its owner exists, so it cannot be the missing name's own (RFC 2308 section 3).
    pub(super) fn zone_without(&self, name: &Name) -> Name {
        let suffix = self.names.suffixes.longest(name).cloned();
        suffix.unwrap_or_else(Name::root)
    }

    /// Name servers under a suffix are not shown: a resolver that has a stub zone for the suffix would
    /// go to them by itself, past the signed packet, and they know the bare key alone. The suffix's own
    /// name stands for them.
    pub(super) fn hide_name_servers(&self, chain: &mut Chain, ending: &mut Ending) {
        let suffix_of = |record: &Record| {
            let suffix = self.names.suffixes.longest(&record.owner);
            suffix.filter(|suffix| record.rtype == RecordType::NS && record.owner != **suffix)
        };
        ending
            .authorities
            .retain(|record| suffix_of(record).is_none());
        for record in &mut chain.answers {
            if let Some(suffix) = suffix_of(record) {
                record.rdata = wire::name_bytes(suffix);
            }
        }
        chain.answers.dedup();
    }

    /// The suffixes' zones, and what looks like a key: answered here, whatever happens.
    pub(super) fn answer_here(
        &self,
        question: &Question,
        kind: &NameKind,
        name: &Name,
        chain: &mut Chain,
    ) -> Step {
        let ending = match kind {
            NameKind::Suffix(apex) => self.at_own_apex(question, apex, chain),
            NameKind::UnderSuffix(apex) => Ending::nxdomain(self.own_soa(apex)),
            NameKind::NotAKey(error) => {
                chain.say(Ede::new(ede::OTHER, format!("not a public key: {error}")));
                Ending::nxdomain(self.own_soa(&self.zone_without(name)))
            }
            NameKind::SearchList | NameKind::PublicKey(_) | NameKind::Ordinary => {
                let reason = "a public key with a search domain behind it stays here";
                chain.say(Ede::new(ede::OTHER, reason));
                Ending::nxdomain(self.own_soa(&Name::root()))
            }
        };
        chain.holds_for(self.ttls.negative);
        chain.verified = false;
        Step::Done(ending)
    }

    /// Names that are special everywhere (RFC 6761, RFC 6303): they mean nothing in the DNS, and asking
    /// for them tells others what is inside this network.
    pub(super) fn answer_special(
        &self,
        question: &Question,
        name: &Name,
        chain: &mut Chain,
    ) -> Option<Step> {
        let name = &name.to_lowercase();
        // RFC 1035 section 4.1.1: AA is about the first owner name.
        let first = chain.answers.is_empty();
        let ending = if is_at_or_below(name, "localhost") {
            self.answer_localhost(question, name, chain)
        } else {
            let apex = empty_zone_of(name)?;
            if is_loopback_ptr(name) {
                self.answer_loopback_ptr(question, name, &apex, chain)
            } else if apex == *name {
                self.at_own_apex(question, &apex, chain)
            } else if EMPTY_NAMES.contains(&name.to_ascii().as_str()) {
                Ending::nodata(self.own_soa(&apex))
            } else {
                Ending::nxdomain(self.own_soa(&apex))
            }
        };
        chain.authoritative |= first;
        chain.verified = false;
        chain.holds_for(self.ttls.negative);
        Some(Step::Done(ending))
    }

    /// SOA and NS of a zone of our own; it has nothing else at its apex.
    fn at_own_apex(&self, question: &Question, apex: &Name, chain: &mut Chain) -> Ending {
        let ns = Record {
            rtype: RecordType::NS,
            rdata: wire::name_bytes(apex),
            ..self.own_soa(apex)
        };
        let wanted =
            |record: &Record| record.rtype == question.rtype || question.rtype == RecordType::ANY;
        match [self.own_soa(apex), ns].into_iter().find(wanted) {
            Some(record) => {
                chain.answers.push(record);
                Ending::noerror()
            }
            None => Ending::nodata(self.own_soa(apex)),
        }
    }

    /// RFC 6761 section 6.3: every name at or below localhost is this host.
    fn answer_localhost(&self, question: &Question, name: &Name, chain: &mut Chain) -> Ending {
        let rdata = if question.rtype == RecordType::A {
            Ipv4Addr::LOCALHOST.octets().to_vec()
        } else if question.rtype == RecordType::AAAA {
            Ipv6Addr::LOCALHOST.octets().to_vec()
        } else if name.iter().len() == 1 {
            return self.at_own_apex(question, name, chain);
        } else {
            return Ending::nodata(self.own_soa(&name.trim_to(1)));
        };
        chain.answers.push(Record {
            owner: name.clone(),
            rtype: question.rtype,
            rdata,
            ttl: self.ttls.negative,
        });
        Ending::noerror()
    }

    fn answer_loopback_ptr(
        &self,
        question: &Question,
        name: &Name,
        apex: &Name,
        chain: &mut Chain,
    ) -> Ending {
        if ![RecordType::PTR, RecordType::ANY].contains(&question.rtype) {
            return Ending::nodata(self.own_soa(apex));
        }
        chain.answers.push(Record {
            owner: name.clone(),
            rtype: RecordType::PTR,
            rdata: b"\x09localhost\x00".to_vec(),
            ttl: self.ttls.negative,
        });
        Ending::noerror()
    }
}

fn is_loopback_ptr(name: &Name) -> bool {
    ["1.0.0.127.in-addr.arpa.", &format!("{LOOPBACK_PTR}.")].contains(&name.to_ascii().as_str())
}

fn is_at_or_below(name: &Name, apex: &str) -> bool {
    let last = name.iter().next_back();
    last.is_some_and(|label| label.eq_ignore_ascii_case(apex.as_bytes()))
}
