//! How an upstream resolver is reached, and the ways to write that down: an address, a URL, a DNS
//! stamp.

use std::net::{IpAddr, SocketAddr};

/// An upstream resolver.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// What is spoken with it.
    pub transport: Transport,
    /// Where it is.
    pub host: Host,
    /// The port, of UDP or TCP as the transport has it.
    pub port: u16,
    /// The name that its certificate must be for, and that is sent as SNI, if it is not the host's.
    pub tls_name: Option<String>,
    /// If there are any, one of them must be of the certificate chain that it shows.
    pub pins: Vec<Pin>,
    /// Addresses to try before the name of the host has been resolved; only stamps have them.
    pub addresses: Vec<IpAddr>,
}

/// What is spoken with an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Transport {
    /// UDP, and TCP for what does not fit (RFC 1035 section 4.2).
    Udp,
    /// TCP alone (RFC 7766).
    Tcp,
    /// DNS over TLS (RFC 7858).
    Tls,
    /// DNS over HTTPS (RFC 8484).
    Https {
        /// The path with the leading slash.
        path: String,
        /// Whether it is HTTP/3 instead of HTTP/2.
        http3: bool,
    },
    /// DNS over QUIC (RFC 9250).
    Quic,
}

/// Where an upstream is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// At an address.
    Address(IpAddr),
    /// At a name, in lower case and without a final dot, whose addresses bootstrap servers know.
    Name(String),
}

/// What a certificate is recognised by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Pin {
    /// SHA-256 of the SubjectPublicKeyInfo of the server's own certificate (RFC 7858 section 4.2):
    /// stands in for a certificate authority.
    PublicKey([u8; 32]),
    /// SHA-256 of the signed part of a certificate in the chain, as DNS stamps have it: beside the
    /// certificate authority.
    Certificate([u8; 32]),
}

impl Endpoint {
    /// A server that speaks plain DNS.
    pub fn plain(address: SocketAddr) -> Self {
        Self {
            transport: Transport::Udp,
            host: Host::Address(address.ip()),
            port: address.port(),
            tls_name: None,
            pins: Vec::new(),
            addresses: Vec::new(),
        }
    }

    /// Whether nobody on the way can read or change what is said.
    pub fn is_encrypted(&self) -> bool {
        !matches!(self.transport, Transport::Udp | Transport::Tcp)
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:?} {}", self.transport, self.host, self.port)
    }
}
