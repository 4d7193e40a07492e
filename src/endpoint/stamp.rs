//! Endpoints as DNS stamps (draft-denis-dns-stamps): all that is to know of a server, in Base64.

use data_encoding::BASE64URL_NOPAD;

use super::host::{Authority, authority, read_port};
use super::url::https;
use super::{Endpoint, Host, Pin, Transport};

/// What the server says of itself (DNSSEC, logs, filters): 64 bits, of no use here.
const PROPERTIES_LEN: usize = 8;
/// The bit of a length that says that another item follows.
const MORE: u8 = 0x80;

/// Reads what stands behind `sdns://`.
///
/// # Errors
/// What is wrong with it and what would be right.
pub(super) fn parse(text: &str) -> Result<Endpoint, String> {
    let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| {
        "is not a DNS stamp: behind sdns:// stands Base64 in the alphabet of URLs without \"=\""
    })?;
    let mut fields = Fields(&bytes);
    match fields.byte()? {
        0x00 => plain(fields),
        protocol @ 0x02..=0x04 => encrypted(protocol, fields),
        0x01 => Err(not_spoken("DNSCrypt")),
        0x05 => Err(not_spoken("Oblivious DoH")),
        0x81 => Err(not_spoken("a relay of DNSCrypt")),
        0x85 => Err(not_spoken("a relay of Oblivious DoH")),
        protocol => Err(format!(
            "is a DNS stamp of the unknown protocol {protocol:#04x}; use one for plain DNS, DoT, \
             DoH or DoQ"
        )),
    }
}

const CUT_SHORT: &str = "is a DNS stamp that ends too early; copy the whole of it";

fn not_spoken(what: &str) -> String {
    format!(
        "is a DNS stamp for {what}, which is not spoken here; use one for plain DNS, DoT, DoH or DoQ"
    )
}

fn plain(mut fields: Fields<'_>) -> Result<Endpoint, String> {
    fields.take(PROPERTIES_LEN)?;
    let Authority { host, scope, port } = authority(fields.text()?)?;
    fields.end()?;
    if let Host::Name(_) = host {
        return Err("is a DNS stamp for plain DNS without an IP address".to_owned());
    }
    Ok(Endpoint {
        port: port.unwrap_or(Transport::Udp.default_port()),
        transport: Transport::Udp,
        host,
        scope,
        tls_name: None,
        pins: Vec::new(),
        addresses: Vec::new(),
    })
}

fn encrypted(protocol: u8, mut fields: Fields<'_>) -> Result<Endpoint, String> {
    fields.take(PROPERTIES_LEN)?;
    let address = fields.text()?;
    let mut pins = Vec::new();
    for hash in fields.list()? {
        match <[u8; 32]>::try_from(hash) {
            Ok(hash) => pins.push(Pin::Certificate(hash)),
            // A list cannot be empty; none is written as one without length.
            Err(_) if hash.is_empty() => {}
            Err(_) => {
                return Err("is a DNS stamp with a hash that is not of SHA-256".to_owned());
            }
        }
    }
    let name = fields.text()?;
    let transport = match protocol {
        0x03 => Transport::Tls,
        0x04 => Transport::Quic,
        _ => https(fields.text()?, false)?,
    };
    // Resolvers for the host's name: whom to ask for it is the operator's choice, and the
    // specification leaves them optional.
    if !fields.0.is_empty() {
        fields.list()?;
    }
    fields.end()?;

    let (address, address_port) = match address.strip_prefix(':') {
        Some(digits) => (None, Some(read_port(digits)?)),
        None if address.is_empty() => (None, None),
        None => {
            let Authority { host, scope, port } = authority(address)?;
            match host {
                Host::Address(ip) => (Some((ip, scope)), port),
                Host::Name(_) => {
                    return Err("is a DNS stamp with a name where the address stands".to_owned());
                }
            }
        }
    };
    let (host, name_port) = match (name, address) {
        ("", Some((ip, _))) => (Host::Address(ip), None),
        ("", None) => return Err("is a DNS stamp with neither a name nor an address".to_owned()),
        (name, _) => {
            let Authority { host, port, .. } = authority(name)?;
            (host, port)
        }
    };
    // An address with a scope would do only as the host itself.
    let (scope, addresses) = match (&host, address) {
        (Host::Address(host), Some((ip, scope))) if *host == ip => (scope, Vec::new()),
        (Host::Name(_), Some((ip, 0))) => (0, vec![ip]),
        (_, None) => (0, Vec::new()),
        (_, Some(_)) => {
            return Err("is a DNS stamp with two addresses that do not go together".to_owned());
        }
    };
    Ok(Endpoint {
        port: name_port
            .or(address_port)
            .unwrap_or(transport.default_port()),
        transport,
        host,
        scope,
        tls_name: None,
        pins,
        addresses,
    })
}

/// The bytes of a stamp that have not been read.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(CUT_SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, String> {
        self.take(1)?
            .first()
            .copied()
            .ok_or_else(|| CUT_SHORT.to_owned())
    }

    /// A text behind its length.
    fn text(&mut self) -> Result<&'a str, String> {
        let length = self.byte()?;
        let bytes = self.take(usize::from(length))?;
        std::str::from_utf8(bytes)
            .map_err(|_| "is a DNS stamp with a text that is not UTF-8".to_owned())
    }

    /// Items, each behind its length, whose highest bit says whether another one follows.
    fn list(&mut self) -> Result<Vec<&'a [u8]>, String> {
        let mut items = Vec::new();
        loop {
            let length = self.byte()?;
            items.push(self.take(usize::from(length & !MORE))?);
            if length & MORE == 0 {
                return Ok(items);
            }
        }
    }

    fn end(&self) -> Result<(), String> {
        match self.0 {
            [] => Ok(()),
            _ => Err("is a DNS stamp with more in it than its protocol has".to_owned()),
        }
    }
}
