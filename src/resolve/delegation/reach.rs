//! Which addresses a stranger may have asked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// From where an address can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::resolve) enum Reach {
    /// From anywhere.
    Public,
    /// From this host or the networks that it stands in: what a stranger's packet must not make us ask.
    Private,
    /// It is nobody's: unspecified, multicast, or broadcast.
    Nobody,
}

/// Whether an address can be reached from anywhere, as far as its number tells.
pub fn is_public(address: IpAddr) -> bool {
    reach(address) == Reach::Public
}

/// From where `address` can be reached.
pub(in crate::resolve) fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(address) => reach_v4(address),
        IpAddr::V6(address) => reach_v6(address),
    }
}

/// RFC 6890 and the registry of special-purpose addresses that it began. Documentation networks are
/// left alone: no one is there.
fn reach_v4(address: Ipv4Addr) -> Reach {
    if address.is_unspecified() || address.is_multicast() || address.is_broadcast() {
        return Reach::Nobody;
    }
    match address.octets() {
        // This network (RFC 791), private (RFC 1918), loopback, reserved (RFC 1112).
        [0 | 10 | 127 | 240..=255, ..]
        | [172, 16..=31, ..]
        | [192, 168, ..]
        // Behind a carrier's NAT (RFC 6598), link-local (RFC 3927).
        | [100, 64..=127, ..]
        | [169, 254, ..]
        // Protocol assignments (RFC 6890), benchmarks (RFC 2544).
        | [192, 0, 0, _]
        | [198, 18..=19, ..] => Reach::Private,
        _ => Reach::Public,
    }
}

fn reach_v6(address: Ipv6Addr) -> Reach {
    if address.is_multicast() {
        return Reach::Nobody;
    }
    match address.segments() {
        // An IPv4 address in IPv6: compatible and mapped (RFC 4291, with :: and ::1), translated
        // (RFC 2765), behind NAT64 (RFC 6052), 6to4 (RFC 3056).
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => {
            let bits = (u32::from(high) << 16) | u32::from(low);
            reach_v4(Ipv4Addr::from_bits(bits))
        }
        // NAT64 of a network's own (RFC 8215), discarded (RFC 6666), Teredo (RFC 4380), benchmarks
        // (RFC 5180).
        [0x64, 0xff9b, 1, ..]
        | [0x100, 0, 0, 0, ..]
        | [0x2001, 0, ..]
        | [0x2001, 2, 0, ..]
        // Unique local (RFC 4193), link-local (RFC 4291), site-local (RFC 3879).
        | [0xfc00..=0xfdff, ..]
        | [0xfe80..=0xfeff, ..] => Reach::Private,
        _ => Reach::Public,
    }
}
