//! Keeps private addresses out of what strangers answer.
//!
//! A page in a browser may have its own name answered with an address of the network that the browser
//! stands in; to the browser the page and the router there are then one site (DNS rebinding). Who may be
//! answered with a private address is decided by the name that was asked, since that is the browser's
//! site, and not by the name at the end of a chain of aliases: a stranger can point an alias at any name.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hickory_proto::rr::{Name, RecordType};
use tokio::time::Instant;

use super::failure::{Ede, ede};
use crate::pkarr::Record;
use crate::wire::{self, Layout};

/// How often at most a warning says that addresses are dropped: a page can make it happen at will.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// The types of records that carry addresses.
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const TYPE_SVCB: u16 = 64;
const TYPE_HTTPS: u16 = 65;
/// The SvcParams that carry addresses (RFC 9460 section 7.3).
const IPV4HINT: u16 = 4;
const IPV6HINT: u16 = 6;

/// Whether private addresses are dropped, and the names that may have them.
#[derive(Debug, Default)]
pub struct RebindingGuard {
    on: bool,
    allow: Vec<Name>,
    warned: Mutex<Option<Instant>>,
}

impl RebindingGuard {
    /// A guard that lets the names in `allow`, and all below them, have private addresses. A public key
    /// in it (`<z32>.`) stands for the key under every suffix.
    pub fn new(on: bool, allow: Vec<Name>) -> Self {
        let fqdn = |mut name: Name| {
            name.set_fqdn(true);
            name
        };
        Self {
            on,
            allow: allow.into_iter().map(fqdn).collect(),
            warned: Mutex::default(),
        }
    }

    /// Whether anything is dropped at all.
    pub(super) fn is_on(&self) -> bool {
        self.on
    }

    /// Whether the operator lets a name have private addresses.
    pub(super) fn allows(&self, name: &Name) -> bool {
        self.allow.iter().any(|allowed| allowed.zone_of(name))
    }

    /// Says in the log what was dropped from the answer for a name, which stands at debug alone: it is
    /// what a client has asked.
    pub(super) fn log(&self, asked: &Name, dropped: &Dropped) {
        let count = dropped.count;
        tracing::debug!(name = %asked, count, "private addresses dropped from an answer");
        if dropped.is_sinkhole {
            return;
        }
        let now = Instant::now();
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|warned| now.duration_since(warned) >= WARN_EVERY) {
            *warned = Some(now);
            tracing::warn!(
                count,
                "private addresses dropped from an answer; if they are wanted, list the name, which \
                 the level debug shows, in rebinding.allow (said once a minute at most)"
            );
        }
    }
}

/// What was taken out of an answer.
#[derive(Debug)]
pub(super) struct Dropped {
    count: usize,
    /// All of them were the unspecified address, by which upstreams block names: that is nobody's
    /// attack, and goes on for ever.
    is_sinkhole: bool,
    /// The lowest of their TTLs, in seconds: what is left holds no longer.
    pub(super) ttl: u32,
}

impl Dropped {
    pub(super) fn ede(&self) -> Ede {
        let text = "the rebinding guard dropped private addresses";
        Ede::new(ede::FILTERED, text)
    }
}

/// Whether a message has a record with a private address, in any section.
pub(super) fn has_private(message: &[u8], layout: &Layout) -> bool {
    layout
        .records
        .iter()
        .any(|record| is_private_record(message, record.rtype, record.rdata.clone()))
}

/// Takes the records with a private address out of the sections of an answer, and the signatures that
/// no longer fit what is left of their RRsets. `None` if there were none.
pub(super) fn drop_private(sections: [&mut Vec<Record>; 3]) -> Option<Dropped> {
    let mut dropped = Dropped {
        count: 0,
        is_sinkhole: true,
        ttl: u32::MAX,
    };
    for records in sections {
        let mut torn: Vec<(Name, u16)> = Vec::new();
        records.retain(|record| {
            let rtype = u16::from(record.rtype);
            let is_private = is_private_record(&record.rdata, rtype, 0..record.rdata.len());
            if is_private {
                dropped.count += 1;
                // No service binding with a hint is all zeros.
                dropped.is_sinkhole &= record.rdata.iter().all(|byte| *byte == 0);
                dropped.ttl = dropped.ttl.min(record.ttl);
                torn.push((record.owner.clone(), rtype));
            }
            !is_private
        });
        let is_of_torn = |record: &Record| {
            // RFC 4034 section 3.1.1: the type covered comes first.
            record.rtype == RecordType::RRSIG
                && torn.iter().any(|(owner, rtype)| {
                    *owner == record.owner && wire::read_u16(&record.rdata, 0) == Some(*rtype)
                })
        };
        if !torn.is_empty() {
            records.retain(|record| !is_of_torn(record));
        }
    }
    (dropped.count > 0).then_some(dropped)
}

/// Whether the data of a record, which lies at `rdata` in `message`, is or carries a private address.
fn is_private_record(message: &[u8], rtype: u16, rdata: Range<usize>) -> bool {
    let Some(bytes) = message.get(rdata.clone()) else {
        return false;
    };
    match rtype {
        TYPE_A => has_private_v4(bytes),
        TYPE_AAAA => has_private_v6(bytes),
        TYPE_SVCB | TYPE_HTTPS => has_private_hint(message, rdata),
        _ => false,
    }
}

/// Looks through the SvcParams (RFC 9460 section 2.2) behind the priority and the target.
fn has_private_hint(message: &[u8], rdata: Range<usize>) -> bool {
    let params = wire::skip_name(message, rdata.start + 2);
    let params = params.ok().and_then(|from| message.get(from..rdata.end));
    let mut params = params.unwrap_or_default();
    while let Some((head, rest)) = params.split_first_chunk::<4>() {
        let [key_high, key_low, len_high, len_low] = *head;
        let len = usize::from(u16::from_be_bytes([len_high, len_low]));
        // A value that is cut short is looked at as well: some clients may read it.
        let (value, next) = rest.split_at_checked(len).unwrap_or((rest, &[]));
        let is_private = match u16::from_be_bytes([key_high, key_low]) {
            IPV4HINT => has_private_v4(value),
            IPV6HINT => has_private_v6(value),
            _ => false,
        };
        if is_private {
            return true;
        }
        params = next;
    }
    false
}

fn has_private_v4(addresses: &[u8]) -> bool {
    let (addresses, _) = addresses.as_chunks::<4>();
    addresses.iter().any(|&octets| is_private_v4(octets.into()))
}

fn has_private_v6(addresses: &[u8]) -> bool {
    let (addresses, _) = addresses.as_chunks::<16>();
    addresses.iter().any(|&octets| is_private_v6(octets.into()))
}

/// Whether an address leads to this host or into the networks that it stands in. Narrower than what name
/// servers are asked at (`delegation/reach.rs`): networks for benchmarks, for example, are used by proxies
/// on purpose.
fn is_private_v4(address: Ipv4Addr) -> bool {
    // This host (RFC 791: systems connect to themselves at 0.0.0.0), private (RFC 1918), loopback,
    // behind a carrier's NAT (RFC 6598), link-local (RFC 3927).
    matches!(
        address.octets(),
        [0 | 10 | 127, ..]
            | [172, 16..=31, ..]
            | [192, 168, ..]
            | [100, 64..=127, ..]
            | [169, 254, ..]
    )
}

fn is_private_v6(address: Ipv6Addr) -> bool {
    match address.segments() {
        // An IPv4 address in IPv6: compatible and mapped (RFC 4291, with :: and ::1), behind NAT64
        // (RFC 6052), and behind a 6to4 router (RFC 3056).
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => {
            let bits = (u32::from(high) << 16) | u32::from(low);
            is_private_v4(Ipv4Addr::from_bits(bits))
        }
        // NAT64 of a network's own (RFC 8215), where any IPv4 address may be behind it; unique local
        // (RFC 4193), link-local (RFC 4291), site-local (RFC 3879).
        [0x64, 0xff9b, 1, ..] | [0xfc00..=0xfdff | 0xfe80..=0xfeff, ..] => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn is_private(address: &str) -> bool {
        match address.parse().unwrap() {
            IpAddr::V4(address) => has_private_v4(&address.octets()),
            IpAddr::V6(address) => has_private_v6(&address.octets()),
        }
    }

    #[test]
    fn private_is_what_leads_to_this_host_or_its_networks() {
        for address in [
            "0.0.0.0",
            "0.255.255.255",
            "10.0.0.0",
            "10.255.255.255",
            "100.64.0.0",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.0.0",
            "169.254.255.255",
            "172.16.0.0",
            "172.31.255.255",
            "192.168.0.0",
            "192.168.255.255",
            "::",
            "::1",
            "::10.0.0.1",
            "::ffff:192.168.1.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::10.0.0.1",
            "64:ff9b:1:ffff::192.0.2.1",
            "2002:c0a8:101::1",
            "2002:7f00:1::",
            "fc00::",
            "fdff:ffff::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
        ] {
            assert!(is_private(address), "{address}");
        }
        for address in [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.0.170",
            "192.167.255.255",
            "192.169.0.0",
            "198.18.0.1",
            "255.255.255.255",
            "::ffff:192.0.2.1",
            "64:ff9b::192.0.2.1",
            "64:ff9b:2::10.0.0.1",
            "2002:c000:201::10.0.0.1",
            "2001:db8::1",
            "fbff::1",
            "fe00::1",
            "ff02::1",
        ] {
            assert!(!is_private(address), "{address}");
        }
    }

    /// An HTTPS record's data: priority 1, target `.`, and these SvcParams.
    fn https(params: &[(u16, &[u8])]) -> Vec<u8> {
        let mut rdata = vec![0, 1, 0];
        for (key, value) in params {
            rdata.extend(key.to_be_bytes());
            rdata.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
            rdata.extend(*value);
        }
        rdata
    }

    fn has_hint(rdata: &[u8]) -> bool {
        has_private_hint(rdata, 0..rdata.len())
    }

    #[test]
    fn a_hint_is_found_wherever_it_stands() {
        let alpn: (u16, &[u8]) = (1, b"\x02h2");
        let public = [192, 0, 2, 1];
        let both = [&public[..], &[10, 0, 0, 1]].concat();
        let local = Ipv6Addr::LOCALHOST.octets();
        assert!(has_hint(&https(&[(4, &[10, 0, 0, 1])])));
        assert!(has_hint(&https(&[alpn, (4, &both)])));
        assert!(has_hint(&https(&[alpn, (4, &public), (6, &local)])));
        assert!(!has_hint(&https(&[alpn, (4, &public)])));
        // Another key's value, and not on a boundary of addresses.
        assert!(!has_hint(&https(&[(7, &[10, 0, 0, 1])])));
        assert!(!has_hint(&https(&[(4, &[1, 10, 0, 0, 1, 1, 1, 1])])));
        // A length that is a lie.
        let mut cut = https(&[(4, &[10, 0, 0, 1])]);
        cut[6] = 200;
        assert!(has_hint(&cut));
    }

    #[test]
    fn no_bytes_make_the_walk_panic() {
        let whole = https(&[(1, b"\x02h2"), (4, &[192, 0, 2, 1]), (6, &[1; 16])]);
        for at in 0..whole.len() {
            has_hint(&whole[..at]);
            for byte in [0, 1, 4, 0x3f, 0xc0, 0xff] {
                let mut rdata = whole.clone();
                rdata[at] = byte;
                has_hint(&rdata);
            }
        }
        assert!(!is_private_record(&[10, 0, 0, 1], TYPE_A, 2..8));
    }

    fn record(owner: &str, rtype: RecordType, ttl: u32, rdata: &[u8]) -> Record {
        Record {
            owner: Name::from_ascii(owner).unwrap(),
            rtype,
            ttl,
            rdata: rdata.to_vec(),
        }
    }

    #[test]
    fn a_signature_goes_with_its_rrset_alone() {
        let private = record("a.", RecordType::A, 60, &[10, 0, 0, 1]);
        let lower = record("b.", RecordType::A, 50, &[10, 0, 0, 1]);
        let public = record("a.", RecordType::A, 60, &[192, 0, 2, 1]);
        let over_a = record("A.", RecordType::RRSIG, 60, &[0, 1, 8, 1]);
        let over_aaaa = record("a.", RecordType::RRSIG, 60, &[0, 28, 8, 1]);
        let of_other = record("c.", RecordType::RRSIG, 10, &[0, 1, 8, 1]);
        let mut answers = vec![
            over_a.clone(),
            private.clone(),
            public.clone(),
            over_aaaa.clone(),
            of_other.clone(),
        ];
        let mut additionals = vec![lower, public.clone()];
        let sections = [&mut answers, &mut Vec::new(), &mut additionals];
        let dropped = drop_private(sections).unwrap();
        assert_eq!((dropped.count, dropped.ttl), (2, 50));
        assert_eq!(answers, [public.clone(), over_aaaa, of_other]);
        assert_eq!(additionals, [public]);
        let sections = [&mut answers, &mut Vec::new(), &mut additionals];
        assert!(drop_private(sections).is_none());
    }

    #[test]
    fn only_unspecified_addresses_are_a_sinkhole() {
        let a = record("a.", RecordType::A, 60, &[0; 4]);
        let aaaa = record("a.", RecordType::AAAA, 60, &[0; 16]);
        let local = record("a.", RecordType::A, 60, &[127, 0, 0, 1]);
        let hint = https(&[(4, &[0; 4])]);
        let hint = record("a.", RecordType::HTTPS, 60, &hint);
        let is_sinkhole = |records: &[&Record]| {
            let mut answers: Vec<Record> = records.iter().map(|&record| record.clone()).collect();
            let sections = [&mut answers, &mut Vec::new(), &mut Vec::new()];
            drop_private(sections).unwrap().is_sinkhole
        };
        assert!(is_sinkhole(&[&a, &aaaa]));
        for other in [&local, &hint] {
            assert!(!is_sinkhole(&[other]));
            assert!(!is_sinkhole(&[&a, other]));
        }
    }

    #[test]
    fn a_sinkhole_is_no_reason_to_warn() {
        let guard = RebindingGuard::new(true, vec![]);
        let dropped = |is_sinkhole| Dropped {
            count: 1,
            is_sinkhole,
            ttl: 60,
        };
        guard.log(&Name::root(), &dropped(true));
        assert!(guard.warned.lock().unwrap().is_none());
        guard.log(&Name::root(), &dropped(false));
        assert!(guard.warned.lock().unwrap().is_some());
    }

    #[test]
    fn an_allowed_name_allows_what_is_below_it() {
        let name = |text: &str| Name::from_ascii(text).unwrap();
        let guard = RebindingGuard::new(true, vec![name("Home.example")]);
        assert!(guard.allows(&name("home.example.")));
        assert!(guard.allows(&name("a.b.HOME.example.")));
        assert!(!guard.allows(&name("example.")));
        assert!(!guard.allows(&name("myhome.example.")));
    }
}
