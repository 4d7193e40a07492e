//! Endpoints as URLs: `scheme://host[:port][/path][?option=value&...][#name]`.

use data_encoding::BASE64;

use super::host::{Authority, authority, server_ip, server_name};
use super::{Endpoint, Host, Pin, Transport};

/// The path of a DNS over HTTPS server that is written without one; RFC 8484 has it in its examples,
/// and nearly all servers do.
pub(super) const DEFAULT_PATH: &str = "/dns-query";
/// The option with a [`Pin::PublicKey`] in Base64.
pub(super) const PUBLIC_KEY_PIN: &str = "pin-sha256";
/// The option with a [`Pin::Certificate`] in Base64.
pub(super) const CERTIFICATE_PIN: &str = "cert-sha256";
/// The option with an address of a host that is given by name.
pub(super) const ADDRESS: &str = "address";

/// Reads what stands on both sides of `://`.
///
/// # Errors
/// What is wrong with it and what would be right.
pub(super) fn parse(scheme: &str, rest: &str) -> Result<Endpoint, String> {
    let (rest, name) = split_at(rest, '#');
    let (rest, options) = split_at(rest, '?');
    let (host, path) = rest
        .split_at_checked(rest.find('/').unwrap_or(rest.len()))
        .unwrap_or((rest, ""));
    let transport = match scheme.to_ascii_lowercase().as_str() {
        "udp" => Transport::Udp,
        "tcp" => Transport::Tcp,
        "tls" => Transport::Tls,
        "quic" => Transport::Quic,
        "https" => https(path, false)?,
        "h3" => https(path, true)?,
        _ => {
            return Err(
                "has a scheme that is not known; the schemes are udp://, tcp://, tls://, \
                        https://, h3://, quic:// and sdns://"
                    .to_owned(),
            );
        }
    };
    if !path.is_empty() && !matches!(transport, Transport::Https { .. }) {
        return Err("has a path, which only https:// and h3:// take; leave it out".to_owned());
    }
    let Authority { host, scope, port } = authority(host)?;
    let port = port.unwrap_or(transport.default_port());
    let mut endpoint = Endpoint {
        transport,
        host,
        scope,
        port,
        tls_name: None,
        pins: Vec::new(),
        addresses: Vec::new(),
    };
    if !endpoint.is_encrypted() {
        let is_bare = options.is_none() && name.is_none();
        return match endpoint.host {
            Host::Name(_) => Err(
                "names a server of plain DNS, and nothing would prove that an address is that \
                 server's; write an IP address, or use tls:// or https:// if it is offered"
                    .to_owned(),
            ),
            Host::Address(_) if is_bare => Ok(endpoint),
            Host::Address(_) => Err(
                "has \"?\" or \"#\", which only encrypted transports take; leave it out".to_owned(),
            ),
        };
    }
    read_trust(&mut endpoint, options, name)?;
    Ok(endpoint)
}

/// Reads what stands behind "?" and "#" of an encrypted server.
///
/// # Errors
/// What is wrong with it and what would be right.
pub(super) fn read_trust(
    endpoint: &mut Endpoint,
    options: Option<&str>,
    name: Option<&str>,
) -> Result<(), String> {
    for option in options.into_iter().flat_map(|options| options.split('&')) {
        read_option(option, endpoint)?;
    }
    if let Some(name) = name {
        let name = server_name(name).map_err(|_| {
            "has no host name behind the \"#\"; write the name that the server's certificate is \
             for, as in tls://192.0.2.1#dns.example"
        })?;
        endpoint.tls_name = Some(name).filter(|name| endpoint.host != Host::Name(name.clone()));
    }
    Ok(())
}

/// DNS over HTTPS at a path, which may be missing.
///
/// # Errors
/// If it is no path of a URL (RFC 3986 section 3.3).
pub(super) fn https(path: &str, http3: bool) -> Result<Transport, String> {
    if path.contains('{') {
        return Err("has a template in its path; leave out \"{?dns}\"".to_owned());
    }
    match path {
        "" => Ok(Transport::Https {
            path: DEFAULT_PATH.to_owned(),
            http3,
        }),
        _ if is_path(path) => Ok(Transport::Https {
            path: path.to_owned(),
            http3,
        }),
        _ => Err(format!(
            "has a path that no URL can have; write one such as \"{DEFAULT_PATH}\""
        )),
    }
}

/// Whether it is a path of a URL that begins at its root (RFC 3986 section 3.3).
pub(super) fn is_path(text: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "/-._~!$&'()*+,;=:@%".contains(c);
    text.starts_with('/') && text.chars().all(is_allowed)
}

fn read_option(option: &str, endpoint: &mut Endpoint) -> Result<(), String> {
    let hash = |value: &str| {
        BASE64
            .decode(value.as_bytes())
            .ok()
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
            .ok_or("has a pin that is not a SHA-256 hash in Base64, which has 44 characters")
    };
    match option.split_once('=') {
        Some((PUBLIC_KEY_PIN, value)) => endpoint.pins.push(Pin::PublicKey(hash(value)?)),
        Some((CERTIFICATE_PIN, value)) => endpoint.pins.push(Pin::Certificate(hash(value)?)),
        Some((ADDRESS, value)) => match endpoint.host {
            Host::Name(_) => endpoint
                .addresses
                .push(server_ip(value).map_err(|fault| format!("has an address that {fault}"))?),
            Host::Address(_) => {
                return Err(format!(
                    "has \"{ADDRESS}=\", which only a host name takes; leave it out"
                ));
            }
        },
        _ => {
            return Err(format!(
                "has an unknown option behind the \"?\"; the options are {PUBLIC_KEY_PIN}=HASH, \
                 {CERTIFICATE_PIN}=HASH and {ADDRESS}=IP, joined by \"&\""
            ));
        }
    }
    Ok(())
}

/// Splits at the first `mark`, if there is one.
pub(super) fn split_at(text: &str, mark: char) -> (&str, Option<&str>) {
    match text.split_once(mark) {
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    }
}
