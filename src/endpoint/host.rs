//! Hosts and ports: addresses that a server can have, and names that may be asked for one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};

use super::{DNS_PORT, Host};
use crate::pkarr::PublicKey;

/// Longest domain name: 253 characters, which are 255 octets on the wire (RFC 1035 section 2.3.4).
const DOMAIN_MAX_CHARS: usize = 253;
/// Longest label of a domain name: 63 octets (RFC 1035 section 2.3.4).
const LABEL_MAX_CHARS: usize = 63;

/// A host, and its port if there is one.
#[derive(Debug)]
pub(super) struct Authority {
    pub(super) host: Host,
    pub(super) scope: u32,
    pub(super) port: Option<u16>,
}

/// A domain name as it is typed in a query: its labels are letters, digits, hyphens (not at an end)
/// and underscores. The result is in lower case and has no final dot.
pub(crate) fn domain_name(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        (1..=LABEL_MAX_CHARS).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    (name.len() <= DOMAIN_MAX_CHARS && name.split('.').all(is_label))
        .then(|| name.to_ascii_lowercase())
}

/// A domain name that nobody could take for an IPv4 address: its last label is not a number (RFC
/// 1123 section 2.1).
pub(crate) fn host_name(text: &str) -> Option<String> {
    domain_name(text).filter(|name| {
        let last = name.rsplit('.').next().unwrap_or_default();
        !last.chars().all(|c| c.is_ascii_digit())
    })
}

/// The name of a server: its addresses may be asked of a bootstrap server, which must not see a
/// public-key name.
///
/// # Errors
/// What is wrong with it.
pub(super) fn server_name(text: &str) -> Result<String, String> {
    let Some(name) = host_name(text) else {
        return Err(
            "has neither an IP address nor a host name such as \"dns.example\" where the host \
             stands"
                .to_owned(),
        );
    };
    match name.split('.').find(is_key_label) {
        Some(label) => Err(format!(
            "has a host with the label \"{label}\", which is a public key; such a name is never \
             sent to another resolver, so that its address would not be found"
        )),
        None => Ok(name),
    }
}

fn is_key_label(label: &&str) -> bool {
    PublicKey::is_key_like(label.as_bytes())
}

/// An address of a server, with the port of DNS if there is none.
///
/// # Errors
/// What is wrong with the text and what would be right, to be read behind the text.
pub(crate) fn plain_address(text: &str) -> Result<SocketAddr, String> {
    const EXAMPLES: &str = "write one such as \"192.0.2.1:53\", \"[2001:db8::1]:53\"";
    let bare = text.parse().map(|ip: IpAddr| SocketAddr::new(ip, DNS_PORT));
    // "[2001:db8::1]" is neither of the two.
    let bracketed = || authority(text).ok()?.address(DNS_PORT);
    let address = bare.or_else(|_| text.parse()).ok().or_else(bracketed);
    let address = address.ok_or_else(|| {
        let mut message = format!(
            "is not an IP address with or without a port; {EXAMPLES}, or an IP address alone for \
             port {DNS_PORT}"
        );
        if text.contains('%') {
            message.push_str("; the scope of a link-local address is a number: \"[fe80::1%2]:53\"");
        }
        message
    })?;
    let fault = match no_server(address.ip()) {
        Some(fault) => fault,
        None if address.port() == 0 => "has port 0, which no server has",
        None => return Ok(address),
    };
    Err(format!("{fault}; {EXAMPLES}"))
}

/// Why no server can have this address, if none can.
fn no_server(ip: IpAddr) -> Option<&'static str> {
    let ip = ip.to_canonical();
    if ip.is_unspecified() {
        Some("is the unspecified address, which is no server's")
    } else if ip.is_multicast() {
        Some("is a multicast address, which is no server's")
    } else if ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
        Some("is the broadcast address, which is no server's")
    } else {
        None
    }
}

/// An address of a server alone.
///
/// # Errors
/// What is wrong with it.
pub(super) fn server_ip(text: &str) -> Result<IpAddr, String> {
    let ip: IpAddr = text
        .parse()
        .map_err(|_| "is not an IP address such as 192.0.2.1 or 2001:db8::1")?;
    no_server(ip).map_or(Ok(ip), |fault| Err(fault.to_owned()))
}

/// Reads `host`, `host:port`, `[IPv6]` or `[IPv6]:port`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn authority(text: &str) -> Result<Authority, String> {
    if let Some(rest) = text.strip_prefix('[') {
        let (inside, port) = rest
            .split_once(']')
            .ok_or("lacks the \"]\" behind the IPv6 address")?;
        // The standard library reads a scope only where there is a port as well.
        let address: SocketAddrV6 = format!("[{inside}]:0").parse().map_err(|_| {
            let fault = "has no IPv6 address between \"[\" and \"]\"";
            match inside.contains('%') {
                true => {
                    format!("{fault}; the scope of a link-local address is a number: [fe80::1%2]")
                }
                false => fault.to_owned(),
            }
        })?;
        let ip = IpAddr::V6(*address.ip());
        if let Some(fault) = no_server(ip) {
            return Err(fault.to_owned());
        }
        let port = match port.strip_prefix(':') {
            Some(digits) => Some(read_port(digits)?),
            None if port.is_empty() => None,
            None => return Err("has text between \"]\" and the port".to_owned()),
        };
        return Ok(Authority {
            host: Host::Address(ip),
            scope: address.scope_id(),
            port,
        });
    }
    let (host, port) = match text.split_once(':') {
        Some((_, rest)) if rest.contains(':') => {
            return Err(
                "has an IPv6 address without brackets; write it as [2001:db8::1]".to_owned(),
            );
        }
        Some((host, digits)) => (host, Some(read_port(digits)?)),
        None => (text, None),
    };
    let host = match host.parse::<Ipv4Addr>() {
        Ok(ip) => Host::Address(server_ip(&ip.to_string())?),
        Err(_) => Host::Name(server_name(host)?),
    };
    let scope = 0;
    Ok(Authority { host, scope, port })
}

/// A port in digits alone: `parse` would take a plus sign too.
pub(super) fn read_port(digits: &str) -> Result<u16, String> {
    Some(digits)
        .filter(|digits| digits.chars().all(|c| c.is_ascii_digit()))
        .and_then(|digits| digits.parse().ok())
        .filter(|port| *port != 0)
        .ok_or_else(|| "has no port from 1 to 65535 behind the \":\"".to_owned())
}

impl Authority {
    /// The address, if it has one.
    fn address(&self, default_port: u16) -> Option<SocketAddr> {
        let port = self.port.unwrap_or(default_port);
        match self.host {
            Host::Address(IpAddr::V6(ip)) => {
                Some(SocketAddrV6::new(ip, port, 0, self.scope).into())
            }
            Host::Address(ip) => Some(SocketAddr::new(ip, port)),
            Host::Name(_) => None,
        }
    }
}
