//! Pkarr relays as URLs: `https://host[:port][/path][?option=value&...][#name]`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::host::{Authority, authority};
use super::url::{is_path, read_trust, split_at};
use super::{Endpoint, Host, MAX_CHARS, Transport};

/// Port of HTTP: 80 (RFC 9110 section 4.2.1).
const HTTP_PORT: u16 = 80;

/// A Pkarr relay.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RelayUrl {
    /// Where it is, and how its certificate is checked. Its transport is HTTPS, or TCP for HTTP in the
    /// clear.
    pub server: Endpoint,
    /// What stands in front of the slash and the key; it does not end in a slash, and may be empty.
    pub path: String,
}

/// Reads `https://relay.example`, `https://relay.example/pkarr`, with the options and the name of an
/// upstream resolver's URL, or `http://127.0.0.1:6881`.
impl FromStr for RelayUrl {
    /// What is wrong with the text and what would be right, to be read behind the text itself.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXAMPLE: &str = "write one such as \"https://relay.example\"";
        if text.len() > MAX_CHARS {
            return Err(format!("has more than {MAX_CHARS} characters"));
        }
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| format!("is not the URL of a relay; {EXAMPLE}"))?;
        let is_encrypted = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(format!("has a scheme that is no relay's; {EXAMPLE}")),
        };
        let (rest, name) = split_at(rest, '#');
        let (rest, options) = split_at(rest, '?');
        let (host, path) = rest
            .split_at_checked(rest.find('/').unwrap_or(rest.len()))
            .unwrap_or((rest, ""));
        if !path.is_empty() && !is_path(path) {
            return Err(format!("has a path that no URL can have; {EXAMPLE}"));
        }
        let path = path.trim_end_matches('/').to_owned();
        let transport = match is_encrypted {
            true => Transport::Https {
                path: path.clone(),
                http3: false,
            },
            false => Transport::Tcp,
        };
        let Authority { host, scope, port } = authority(host)?;
        let default_port = match is_encrypted {
            true => transport.default_port(),
            false => HTTP_PORT,
        };
        let mut server = Endpoint {
            transport,
            host,
            scope,
            port: port.unwrap_or(default_port),
            tls_name: None,
            pins: Vec::new(),
            addresses: Vec::new(),
        };
        if is_encrypted {
            read_trust(&mut server, options, name)?;
        } else if options.is_some() || name.is_some() {
            return Err("has \"?\" or \"#\", which only https:// takes; leave it out".to_owned());
        } else if !is_near(&server.host) {
            return Err(
                "would tell everybody on the way which keys are asked for; write https://, or the \
                 loopback or private address of a relay of one's own, as in http://127.0.0.1:6881"
                    .to_owned(),
            );
        }
        Ok(Self { server, path })
    }
}

/// Whether a host is on this machine or in its own network, as an address proves.
fn is_near(host: &Host) -> bool {
    let Host::Address(address) = host else {
        return false;
    };
    match address.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// As [`RelayUrl::from_str`] reads it.
impl fmt::Display for RelayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.server.is_encrypted() {
            return self.server.fmt(f);
        }
        let address = self.server.known_addresses();
        let address = address.first().ok_or(fmt::Error)?;
        write!(f, "http://{address}{}", self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> RelayUrl {
        text.parse().unwrap()
    }

    #[test]
    fn relays_are_written_as_urls() {
        let relay = read("HTTPS://Relay.Example");
        assert_eq!(relay.server.host, Host::Name("relay.example".to_owned()));
        assert_eq!((relay.server.port, relay.path.as_str()), (443, ""));
        assert_eq!(read("https://relay.example/"), relay);
        assert_eq!(read("https://relay.example/a/b/").path, "/a/b");
        let local = read("http://127.0.0.1:6881/x");
        assert!(!local.server.is_encrypted());
        assert_eq!((local.server.port, local.path.as_str()), (6881, "/x"));
        let pin = "MK52OI0c+NLcIPLYhvh3nZWwUvrA+O5ebCyi3d+SH7E=";
        for text in [
            "https://relay.example",
            "https://relay.example:8443/pkarr",
            &format!("https://192.0.2.1?pin-sha256={pin}"),
            "https://relay.example/a?address=192.0.2.1#other.example",
            "http://127.0.0.1:80",
            "http://127.0.0.1:6881/a",
            "http://[fd00::1]:80",
            "http://[fe80::1%2]:80",
            "http://[::1]:8080/a",
            "http://192.168.1.5:6881",
        ] {
            assert_eq!(read(text).to_string(), text);
            assert_eq!(read(&read(text).to_string()), read(text));
        }
    }

    #[test]
    fn what_is_no_relay_is_told_what_would_be() {
        let key = "o".repeat(51) + "y";
        for (text, expected) in [
            ("relay.example", "not the URL of a relay"),
            ("tls://relay.example", "scheme"),
            ("https://", "neither an IP address nor a host name"),
            ("https://a b", "neither an IP address nor a host name"),
            ("https://user:secret@relay.example", "no port"),
            ("https://relay.example:0", "no port"),
            ("https://relay.example/a b", "path"),
            ("https://relay.example/?x=y", "unknown option"),
            (&format!("https://{key}"), "is a public key"),
            (&format!("https://www.{key}.pkarr"), "is a public key"),
            ("http://relay.example", "write https://"),
            ("http://localhost:6881", "write https://"),
            ("http://192.0.2.1", "write https://"),
            ("http://127.0.0.1#relay.example", "only https://"),
        ] {
            let error = text.parse::<RelayUrl>().unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
