//! The addresses of this host for which the variables of a zone file stand: its own ones where they are
//! public, and else what the DHT's nodes see. No third party is asked.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use nix::ifaddrs::getifaddrs;

use super::zone::Zone;
use crate::pkarr::HostAddresses;
use crate::resolve::{Dht, is_public};

/// Linux's list of IPv6 addresses with their flags.
const IF_INET6: &str = "/proc/self/net/if_inet6";
/// Temporary (RFC 8981), optimistic, detected twice, deprecated, tentative: addresses that are not for others
/// to know (`IFA_F_*` of linux/if_addr.h).
const NOT_LASTING: u8 = 0x01 | 0x04 | 0x08 | 0x20 | 0x40;
/// Where packets to anywhere would go (RFC 5737, RFC 3849). Nothing is sent there: the system is asked for
/// the address that it would send from.
const ANYWHERE: [(&str, &str); 2] = [
    ("0.0.0.0:0", "192.0.2.1:53"),
    ("[::]:0", "[2001:db8::1]:53"),
];

/// What is said if nobody tells the IPv4 address.
pub(super) const UNKNOWN_IPV4: &str = "the public IPv4 address of this host is not known: it has none itself, \
     and the DHT's nodes do not agree on one; write it into the zone file, or name its --interface";

/// Whether the addresses that a zone asks for are known, or known not to be there: an interface either has an IPv4
/// address or not, and of IPv6 that is known of the host, too.
pub(super) fn are_known(zone: &Zone, found: HostAddresses, interface: Option<&str>) -> bool {
    !zone.has_ipv4 || found.ipv4.is_some() || interface.is_some()
}

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
struct OwnAddress {
    interface: String,
    address: IpAddr,
    /// Whether it will be the same tomorrow, unless the network changes.
    is_lasting: bool,
}

/// The addresses of `interface`, or of the host if none is given. An IPv4 address that is not public is that
/// of a network behind a router: then `dht`'s nodes say which the router has. `None` for what is not known.
///
/// # Errors
/// A text, if there is no such interface, or the system does not tell.
pub(super) async fn find(
    interface: Option<&str>,
    dht: Option<&Dht>,
) -> Result<HostAddresses, String> {
    let all =
        own().map_err(|error| format!("the addresses of this host cannot be read: {error}"))?;
    if let Some(interface) = interface {
        return of_interface(&all, interface);
    }
    let mut found = of_host(&all, &ANYWHERE.map(|(from, to)| source(from, to)));
    if found.ipv4.is_none()
        && let Some(dht) = dht
    {
        let seen = dht.public_address().await;
        found.ipv4 = seen.filter(|address| is_public((*address).into()));
    }
    Ok(found)
}

/// The address that the system would send from.
fn source(from: &str, to: &str) -> Option<IpAddr> {
    let from: std::net::SocketAddr = from.parse().ok()?;
    let to: std::net::SocketAddr = to.parse().ok()?;
    let socket = UdpSocket::bind(from).ok()?;
    socket.connect(to).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn own() -> Result<Vec<OwnAddress>, nix::Error> {
    let flags = std::fs::read_to_string(IF_INET6).unwrap_or_default();
    let flags = ipv6_flags(&flags);
    let addresses = getifaddrs()?.filter_map(|entry| {
        let address = entry.address?;
        let ipv4 = address
            .as_sockaddr_in()
            .map(|address| IpAddr::V4(address.ip()));
        let ipv6 = address
            .as_sockaddr_in6()
            .map(|address| IpAddr::V6(address.ip()));
        let address = ipv4.or(ipv6)?;
        let is_lasting = match address {
            IpAddr::V4(_) => true,
            IpAddr::V6(address) => flags
                .get(&address)
                .is_none_or(|flags| flags & NOT_LASTING == 0),
        };
        Some(OwnAddress {
            interface: entry.interface_name,
            address,
            is_lasting,
        })
    });
    Ok(addresses.collect())
}

/// The flags of each address: a line has the address in hexadecimal, the interface's number, the length of
/// the prefix, the scope, and the flags (`if6_seq_show` of Linux).
fn ipv6_flags(text: &str) -> HashMap<Ipv6Addr, u8> {
    let line = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let address = u128::from_str_radix(words.next()?, 16).ok()?;
        let flags = u32::from_str_radix(words.nth(3)?, 16).ok()?;
        let [.., flags] = flags.to_be_bytes();
        Some((Ipv6Addr::from_bits(address), flags))
    };
    text.lines().filter_map(line).collect()
}

/// The addresses of one interface: a public one if there is one, else another that does not stay on the link.
fn of_interface(all: &[OwnAddress], interface: &str) -> Result<HostAddresses, String> {
    let its = all.iter().filter(|own| own.interface == interface);
    let its: Vec<&OwnAddress> = its.collect();
    if its.is_empty() {
        let mut names: Vec<&str> = all.iter().map(|own| own.interface.as_str()).collect();
        names.dedup();
        return Err(format!(
            "no interface {interface} has an address; those that have one are {}",
            names.join(", ")
        ));
    }
    let lasting = || {
        its.iter()
            .filter(|own| own.is_lasting)
            .map(|own| own.address)
    };
    let best = |family: fn(&IpAddr) -> bool| {
        let mut usable = lasting().filter(family);
        lasting()
            .filter(family)
            .find(|address| is_public(*address))
            .or_else(|| usable.next())
    };
    Ok(HostAddresses {
        ipv4: best(IpAddr::is_ipv4).and_then(ipv4),
        ipv6: best(
            |address| matches!(address, IpAddr::V6(address) if !address.is_unicast_link_local()),
        )
        .and_then(ipv6),
    })
}

/// The public addresses of the host: of IPv4 that which it sends from; of IPv6, where that may be a temporary
/// one, a lasting one of the same interface, or of another.
fn of_host(all: &[OwnAddress], sources: &[Option<IpAddr>]) -> HostAddresses {
    let sources: Vec<IpAddr> = sources.iter().copied().flatten().collect();
    let from = all
        .iter()
        .find(|own| own.address.is_ipv6() && sources.contains(&own.address));
    let public = || {
        let usable = all
            .iter()
            .filter(|own| own.is_lasting && is_public(own.address));
        usable.filter_map(|own| ipv6(own.address).map(|address| (own, address)))
    };
    let is_source = |address: Ipv6Addr| sources.contains(&address.into());
    let is_beside = |own: &OwnAddress| from.is_some_and(|from| from.interface == own.interface);
    let best = public().max_by_key(|(own, address)| (is_source(*address), is_beside(own)));
    HostAddresses {
        ipv4: sources
            .iter()
            .copied()
            .filter(|address| is_public(*address))
            .find_map(ipv4),
        // Without a way out nobody is answered.
        ipv6: best.filter(|_| from.is_some()).map(|(_, address)| address),
    }
}

fn ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

fn ipv6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(interface: &str, address: &str, is_lasting: bool) -> OwnAddress {
        OwnAddress {
            interface: interface.to_owned(),
            address: address.parse().unwrap(),
            is_lasting,
        }
    }

    fn found(ipv4: Option<&str>, ipv6: Option<&str>) -> HostAddresses {
        HostAddresses {
            ipv4: ipv4.map(|address| address.parse().unwrap()),
            ipv6: ipv6.map(|address| address.parse().unwrap()),
        }
    }

    fn gateway() -> Vec<OwnAddress> {
        vec![
            own("lo", "127.0.0.1", true),
            own("lan", "192.168.1.1", true),
            own("lan", "fd00::1", true),
            own("lan", "2001:db8:1::1", true),
            own("wan", "198.51.100.7", true),
            own("wan", "fe80::7", true),
            own("wan", "2001:db8:2::dead", false),
            own("wan", "2001:db8:2::7", true),
        ]
    }

    #[test]
    fn of_the_host_the_public_and_lasting_ones_are_taken() {
        let sent_from = |ipv4: &str, ipv6: Option<&str>| {
            let parse = |text: &str| text.parse().unwrap();
            of_host(&gateway(), &[Some(parse(ipv4)), ipv6.map(parse)])
        };
        let temporary = Some("2001:db8:2::dead");
        let lasting = Some("2001:db8:2::7");
        assert_eq!(
            sent_from("198.51.100.7", temporary),
            found(Some("198.51.100.7"), lasting)
        );
        // Behind a router the DHT is asked; without a way out there is no address.
        assert_eq!(sent_from("192.168.1.1", None), found(None, None));
        // Two on one interface: that which is sent from.
        let mut all = gateway();
        all.push(own("wan", "2001:db8:2::8", true));
        let from = [None, Some("2001:db8:2::7".parse().unwrap())];
        assert_eq!(of_host(&all, &from), found(None, lasting));
    }

    #[test]
    fn of_an_interface_any_address_is_taken_a_public_one_before() {
        let of = |name: &str| of_interface(&gateway(), name);
        assert_eq!(
            of("wan"),
            Ok(found(Some("198.51.100.7"), Some("2001:db8:2::7")))
        );
        assert_eq!(
            of("lan"),
            Ok(found(Some("192.168.1.1"), Some("2001:db8:1::1")))
        );
        assert_eq!(of("lo"), Ok(found(Some("127.0.0.1"), None)));
        let error = of("eth7").unwrap_err();
        assert!(
            error.contains("eth7") && error.ends_with("lo, lan, wan"),
            "{error}"
        );
    }

    #[test]
    fn flags_are_read_as_linux_writes_them() {
        let text = "20010db8000000000000000000000007 02 40 00 80     eth0\n\
                    20010db800000000000000000000dead 02 40 00 01     eth0\n\
                    none of it\n";
        let flags = ipv6_flags(text);
        assert_eq!(flags.len(), 2);
        assert_eq!(flags[&"2001:db8::7".parse().unwrap()] & NOT_LASTING, 0);
        assert_eq!(flags[&"2001:db8::dead".parse().unwrap()] & NOT_LASTING, 1);
    }

    /// Whatever machine this is.
    #[tokio::test]
    async fn the_loopback_interface_is_found() {
        let found = find(Some("lo"), None).await.unwrap();
        assert_eq!(found.ipv4, Some(Ipv4Addr::LOCALHOST));
        assert!(find(None, None).await.is_ok());
    }
}
