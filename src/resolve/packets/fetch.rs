//! The seam to whoever finds packets: what is wanted, what is seen on the way, how it ends.

use std::net::{IpAddr, Ipv6Addr};

use futures_util::future::BoxFuture;

use crate::pkarr::{PacketError, PublicKey, SignedPacket};
use crate::resolve::failure::Failure;

/// What the resolver needs of whoever finds packets.
#[doc(hidden)]
pub trait FetchPacket: Send + Sync + std::fmt::Debug {
    /// Looks for the newest packet of a key. `see` is called for the first one that is found, then
    /// for each that is newer; the end comes when all nodes have answered or been given up.
    fn fetch<'a>(&'a self, wanted: Wanted, see: &'a mut See<'_>) -> BoxFuture<'a, Ending>;

    /// Another asker wants a key that is being looked for.
    fn also_wanted(&self, _key: PublicKey, _asker: Asker) {}
}

/// What keeping packets alive needs of whoever puts them on the network.
#[doc(hidden)]
pub trait PutPacket: Send + Sync + std::fmt::Debug {
    /// Puts a packet on the nodes nearest to its key; tells how many took it. It waits for its turn among
    /// the lookups.
    fn put<'a>(&'a self, packet: &'a SignedPacket) -> BoxFuture<'a, Result<u32, Failure>>;
}

/// Takes what a lookup sees, as it comes.
pub type See<'a> = dyn FnMut(Sighting) + Send + 'a;

/// A packet to look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Whose.
    pub key: PublicKey,
    /// For whom.
    pub asker: Asker,
    /// The newest sequence number that was ever seen: one that is not below it need not wait for a
    /// newer one.
    pub known_seq: Option<u64>,
}

/// On whose behalf a packet is looked for. Lookups cost the network a hundred datagrams, so that they
/// are shared out by who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Asker {
    /// A client's network: an IPv4 address, or an IPv6 prefix of 64 bits, in which one host can
    /// have any address (RFC 7421).
    Network(IpAddr),
    /// pkbridge itself, to keep fresh what it holds.
    Refresh,
}

impl From<IpAddr> for Asker {
    fn from(address: IpAddr) -> Self {
        Self::Network(match address.to_canonical() {
            IpAddr::V6(address) => {
                let prefix = address.to_bits() & !u128::from(u64::MAX);
                Ipv6Addr::from_bits(prefix).into()
            }
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

/// What a lookup has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sighting {
    /// A packet.
    Packet(SignedPacket),
    /// An item that the key signed and that is no packet.
    Invalid {
        /// Its sequence number.
        seq: u64,
        /// What is wrong with it.
        reason: String,
    },
}

impl Sighting {
    /// What somebody gave for an item of `seq`, as its verification came out.
    ///
    /// # Errors
    /// If the key has not signed it.
    pub(crate) fn of(
        seq: u64,
        verified: Result<SignedPacket, PacketError>,
    ) -> Result<Self, PacketError> {
        match verified {
            Ok(packet) => Ok(Self::Packet(packet)),
            Err(error) if error.is_signed() => {
                let reason = error.to_string();
                Ok(Self::Invalid { seq, reason })
            }
            Err(error) => Err(error),
        }
    }

    /// Whether it takes the place of `other`: the higher sequence number wins; on a tie a packet wins over
    /// what is none, then the greater bytes.
    pub(crate) fn replaces(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Packet(new), Self::Packet(old)) => new.is_newer_than(old),
            (Self::Packet(_), Self::Invalid { .. }) => self.seq() >= other.seq(),
            (Self::Invalid { .. }, _) => self.seq() > other.seq(),
        }
    }

    /// The one that takes the place of all others.
    pub(crate) fn newest(all: impl IntoIterator<Item = Self>) -> Option<Self> {
        let newer = |one: Self, other: Self| if other.replaces(&one) { other } else { one };
        all.into_iter().reduce(newer)
    }

    /// Its sequence number.
    pub fn seq(&self) -> u64 {
        match self {
            Self::Packet(packet) => packet.seq(),
            Self::Invalid { seq, .. } => *seq,
        }
    }
}

/// How a lookup ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Enough nodes answered to know what there is.
    Complete(Holders),
    /// Too few nodes answered, or none; what was seen was given by a relay, whose word is all that can be
    /// had.
    Relayed,
    /// So few nodes answered that there may be what was not seen.
    Poor,
    /// There was no lookup, or it broke off: there may be something newer than what was seen.
    Failed(Failure),
}

/// How many nodes held what a lookup found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Holders {
    /// Nodes that held the newest item.
    pub newest: u32,
    /// Nodes that held an older one.
    pub older: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_of_one_network_share_its_lookups() {
        let asker = |address: &str| Asker::from(address.parse::<IpAddr>().unwrap());
        assert_eq!(asker("192.0.2.1"), asker("::ffff:192.0.2.1"));
        assert_ne!(asker("192.0.2.1"), asker("192.0.2.2"));
        assert_eq!(asker("2001:db8::1"), asker("2001:db8::ffff:0:0:2"));
        assert_ne!(asker("2001:db8::1"), asker("2001:db8:0:1::1"));
    }
}
