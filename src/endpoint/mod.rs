//! How an upstream resolver is reached, and the ways to write that down: an address, a URL, a DNS
//! stamp. The same of a Pkarr relay, which is a URL.

mod host;
mod relay;
mod stamp;
#[cfg(test)]
mod tests;
mod url;

use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

use data_encoding::BASE64;

pub(crate) use host::{domain_name, host_name, plain_address};
pub use relay::RelayUrl;

/// Longest text of an endpoint: 4096 characters, which take a stamp with some eighty hashes.
const MAX_CHARS: usize = 4096;
/// Port of plain DNS: 53 (RFC 1035 section 4.2).
pub(crate) const DNS_PORT: u16 = 53;
/// Port of DNS over TLS (RFC 7858 section 3.1) and of DNS over QUIC (RFC 9250 section 4.1.1): 853.
const DNS_TLS_PORT: u16 = 853;
/// Port of HTTPS: 443 (RFC 9110 section 4.2.2).
const HTTPS_PORT: u16 = 443;

/// An upstream resolver.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// What is spoken with it.
    pub transport: Transport,
    /// Where it is.
    pub host: Host,
    /// The interface of a link-local IPv6 address, as a number (RFC 4007 section 11); 0 for any other.
    pub scope: u32,
    /// The port, of UDP or TCP as the transport has it.
    pub port: u16,
    /// The name that its certificate must be for, and that is sent as SNI, if it is not the host's.
    pub tls_name: Option<String>,
    /// If there are any, one of them must be of the certificate chain that it shows.
    pub pins: Vec<Pin>,
    /// Addresses to try before the name of the host has been resolved.
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
            scope: match address {
                SocketAddr::V4(_) => 0,
                SocketAddr::V6(address) => address.scope_id(),
            },
            port: address.port(),
            tls_name: None,
            pins: Vec::new(),
            addresses: Vec::new(),
        }
    }

    /// Whether nobody on the way can read or change what is said.
    pub fn is_encrypted(&self) -> bool {
        self.transport.is_encrypted()
    }

    /// Where it is as far as that is written down: nothing for a name without addresses.
    pub fn known_addresses(&self) -> Vec<SocketAddr> {
        match self.host {
            Host::Address(IpAddr::V6(ip)) => {
                vec![SocketAddrV6::new(ip, self.port, 0, self.scope).into()]
            }
            Host::Address(ip) => vec![SocketAddr::new(ip, self.port)],
            Host::Name(_) => {
                let addresses = self.addresses.iter();
                addresses
                    .map(|ip| SocketAddr::new(*ip, self.port))
                    .collect()
            }
        }
    }

    /// Whether it cannot be reached before a bootstrap server has told an address of it.
    pub fn needs_bootstrap(&self) -> bool {
        matches!(self.host, Host::Name(_)) && self.addresses.is_empty()
    }
}

impl Transport {
    fn is_encrypted(&self) -> bool {
        match self {
            Transport::Udp | Transport::Tcp => false,
            Transport::Tls | Transport::Https { .. } | Transport::Quic => true,
        }
    }

    fn default_port(&self) -> u16 {
        match self {
            Transport::Udp | Transport::Tcp => DNS_PORT,
            Transport::Tls | Transport::Quic => DNS_TLS_PORT,
            Transport::Https { .. } => HTTPS_PORT,
        }
    }
}

/// Reads an address with or without a port (`9.9.9.9`, `[2620:fe::fe]:53`), a URL such as
/// `tls://1.1.1.1#cloudflare-dns.com`, or a DNS stamp (`sdns://...`).
impl FromStr for Endpoint {
    /// What is wrong with the text and what would be right, to be read behind the text itself:
    /// `has port 0, which no server has; ...`.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() > MAX_CHARS {
            return Err(format!("has more than {MAX_CHARS} characters"));
        }
        match text.split_once("://") {
            None => plain_address(text).map(Self::plain),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("sdns") => stamp::parse(rest),
            Some((scheme, rest)) => url::parse(scheme, rest),
        }
    }
}

/// As [`Endpoint::from_str`] reads it: a plain server as its address with the port, any other as a
/// URL, also if it was a stamp.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, path) = match &self.transport {
            Transport::Udp => ("", ""),
            Transport::Tcp => ("tcp://", ""),
            Transport::Tls => ("tls://", ""),
            Transport::Https { path, http3: false } => ("https://", path.as_str()),
            Transport::Https { path, http3: true } => ("h3://", path.as_str()),
            Transport::Quic => ("quic://", ""),
        };
        f.write_str(scheme)?;
        match &self.host {
            Host::Address(IpAddr::V6(ip)) if self.scope != 0 => write!(f, "[{ip}%{}]", self.scope)?,
            Host::Address(IpAddr::V6(ip)) => write!(f, "[{ip}]")?,
            Host::Address(IpAddr::V4(ip)) => write!(f, "{ip}")?,
            Host::Name(name) => f.write_str(name)?,
        }
        if self.transport == Transport::Udp || self.port != self.transport.default_port() {
            write!(f, ":{}", self.port)?;
        }
        f.write_str(path)?;
        let pins = self.pins.iter().map(|pin| match pin {
            Pin::PublicKey(hash) => (url::PUBLIC_KEY_PIN, BASE64.encode(hash)),
            Pin::Certificate(hash) => (url::CERTIFICATE_PIN, BASE64.encode(hash)),
        });
        let addresses = self.addresses.iter();
        let addresses = addresses.map(|ip| (url::ADDRESS, ip.to_string()));
        for (index, (option, value)) in pins.chain(addresses).enumerate() {
            let mark = if index == 0 { '?' } else { '&' };
            write!(f, "{mark}{option}={value}")?;
        }
        match &self.tls_name {
            Some(name) => write!(f, "#{name}"),
            None => Ok(()),
        }
    }
}
