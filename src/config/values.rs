//! The values of settings: each function turns the text of one value into its type, or says what is
//! wrong with it and what would be right.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use super::limits::{self, DurationLimit};
use super::{AuthenticData, RebindingGuard, SearchDomains, Strategy, UpstreamMode};
use crate::endpoint::{Endpoint, RelayUrl, domain_name, host_name, plain_address};
use crate::pkarr::PublicKey;

/// Reads a duration such as `5s`, `300ms` or `1h30m`: numbers, each with one of the units ms, s, m,
/// h, d and w.
///
/// # Errors
///
/// A message that says what is wrong, if the text is anything else or the duration has more
/// milliseconds than 64 bits can count.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let shown = quoted(text);
    let too_long = || format!("{shown} is too long; write a shorter duration such as \"5s\"");
    let mut millis: u64 = 0;
    let mut rest = text;
    loop {
        let (number, after) = split_at_first(rest, |c| !c.is_ascii_digit());
        let (unit, after) = split_at_first(after, |c| c.is_ascii_digit());
        rest = after;
        if number.is_empty() {
            return Err(format!(
                "{shown} is not a duration; write one such as \"5s\", \"300ms\" or \"1h30m\""
            ));
        }
        let factor = match unit {
            "ms" => 1,
            "s" => SECOND,
            "m" => MINUTE,
            "h" => HOUR,
            "d" => DAY,
            "w" => 7 * DAY,
            "" => {
                return Err(format!(
                    "{shown} lacks a unit; write \"{number}s\" for seconds"
                ));
            }
            _ => {
                let unit = quoted(unit);
                return Err(format!(
                    "{shown} has the unknown unit {unit}; the units are ms, s, m, h, d and w"
                ));
            }
        };
        let part = number
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(factor));
        millis = part
            .and_then(|part| millis.checked_add(part))
            .ok_or_else(too_long)?;
        if rest.is_empty() {
            return Ok(Duration::from_millis(millis));
        }
    }
}

/// Writes a duration as [`parse_duration`] reads it, such as `1h30m`; what is below a millisecond
/// is left out.
pub fn format_duration(duration: Duration) -> String {
    let mut millis = duration.as_millis();
    let mut text = String::new();
    for (unit, factor) in [
        ("d", DAY),
        ("h", HOUR),
        ("m", MINUTE),
        ("s", SECOND),
        ("ms", 1),
    ] {
        let factor = u128::from(factor);
        if millis >= factor {
            text.push_str(&format!("{}{unit}", millis / factor));
            millis %= factor;
        }
    }
    if text.is_empty() {
        "0s".to_owned()
    } else {
        text
    }
}

/// A duration within its bounds.
pub(super) fn limited_duration(text: &str, limit: &DurationLimit) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    let shown = quoted(text);
    if !(limit.min..=limit.max).contains(&duration) {
        let (min, max) = (format_duration(limit.min), format_duration(limit.max));
        let source = limit.source;
        return Err(format!(
            "{shown} is out of bounds; write a duration from {min} to {max}{source}"
        ));
    }
    if limit.whole_seconds && duration.subsec_nanos() != 0 {
        let below = format_duration(Duration::from_secs(duration.as_secs()));
        return Err(format!(
            "{shown} is not a whole number of seconds, as DNS counts them; write \"{below}\""
        ));
    }
    Ok(duration)
}

/// A number of bytes such as `64MiB`.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split_at_first(text, |c| !c.is_ascii_digit());
    let factor = match unit {
        "" | "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        _ => None,
    };
    let (Some(factor), false) = (factor, number.is_empty()) else {
        return Err(format!(
            "{} is not a size; write bytes as a number, or a string such as \"512KiB\", \"64MiB\" \
             or \"1GiB\"",
            quoted(text)
        ));
    };
    let bytes = number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(factor));
    bytes.ok_or_else(|| {
        format!(
            "{} is too large; write a size such as \"64MiB\"",
            quoted(text)
        )
    })
}

/// An address to listen on.
pub(super) fn listen_address(text: &str) -> Result<SocketAddr, String> {
    socket_address(text, "\"127.0.0.1:53\", \"[::1]:53\"")
}

/// A server to forward to.
pub(super) fn upstream_server(text: &str) -> Result<Endpoint, String> {
    text.parse()
        .map_err(|fault| format!("{} {fault}", quoted(text)))
}

/// A Pkarr relay.
pub(super) fn relay(text: &str) -> Result<RelayUrl, String> {
    text.parse()
        .map_err(|fault| format!("{} {fault}", quoted(text)))
}

/// The address of a server that speaks plain DNS.
pub(super) fn server_address(text: &str) -> Result<SocketAddr, String> {
    plain_address(text).map_err(|fault| format!("{} {fault}", quoted(text)))
}

/// An IPv4 address with or without a port, for the DHT's socket.
pub(super) fn dht_address(text: &str) -> Result<SocketAddrV4, String> {
    let bare = text.parse().map(|ip| SocketAddrV4::new(ip, 0));
    let address: SocketAddrV4 = bare.or_else(|_| text.parse()).map_err(|_| {
        format!(
            "{} is not an IPv4 address with or without a port; write \"0.0.0.0\" or \
             \"0.0.0.0:6881\"",
            quoted(text)
        )
    })?;
    if address.port() > limits::DHT_PORT_MAX {
        return Err(format!(
            "{} leaves no room for the four ports from it on; write one up to {}",
            quoted(text),
            limits::DHT_PORT_MAX
        ));
    }
    Ok(address)
}

/// A network, or one address.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    let network = address.or_else(|_| text.parse::<IpNet>()).map_err(|_| {
        format!(
            "{} is not a network; write one such as \"192.168.1.0/24\", \"2001:db8::/32\" or an \
             IP address alone",
            quoted(text)
        )
    })?;
    if network == network.trunc() {
        Ok(network)
    } else {
        let right = network.trunc();
        Err(format!(
            "{} has host bits set; write \"{right}\"",
            quoted(text)
        ))
    }
}

/// A suffix that may follow a public key.
pub(super) fn suffix(text: &str) -> Result<String, String> {
    let shown = quoted(text);
    if text.is_empty() || text == "." {
        return Err(format!(
            "{shown} is no suffix, as names that end in a bare key are always answered; write one \
             such as \"pkarr\", or leave it out"
        ));
    }
    let Some(name) = domain_name(text) else {
        return Err(format!(
            "{shown} is not a domain name; write labels of 1 to 63 letters, digits, \"-\" or \
             \"_\", joined by dots, such as \"pkarr\""
        ));
    };
    if name.len() > limits::SUFFIX_MAX_CHARS {
        return Err(format!(
            "{shown} is longer than {} characters; write a shorter one, as a key has to fit \
             before it",
            limits::SUFFIX_MAX_CHARS
        ));
    }
    let is_key = |label: &&str| PublicKey::is_key_like(label.as_bytes());
    match name.split('.').find(is_key) {
        Some(label) => Err(format!(
            "{shown} has the label \"{label}\", which is a public key, so that it would itself be \
             a public-key name; write one such as \"pkarr\""
        )),
        None => Ok(name),
    }
}

/// A node to join the DHT by: a domain name or an IPv4 address, with a port.
///
/// # Errors
/// A text that says what would be right.
pub fn bootstrap_node(text: &str) -> Result<String, String> {
    const EXAMPLE: &str = "write \"router.bittorrent.com:6881\" or \"192.0.2.1:6881\"";
    let shown = quoted(text);
    if text.starts_with('[') || text.matches(':').count() > 1 {
        return Err(format!(
            "{shown} is an IPv6 address, but the DHT is IPv4 only; {EXAMPLE}"
        ));
    }
    let Some((host, port)) = text.split_once(':') else {
        return Err(format!("{shown} lacks a port; {EXAMPLE}"));
    };
    // All digits, as `parse` would take a plus sign too.
    let port = Some(port)
        .filter(|port| port.chars().all(|c| c.is_ascii_digit()))
        .and_then(|port| port.parse::<u16>().ok())
        .filter(|port| *port != 0)
        .ok_or_else(|| format!("{shown} has no port from 1 to 65535; {EXAMPLE}"))?;
    let host = match host.parse::<Ipv4Addr>() {
        Ok(ip) => ip.to_string(),
        Err(_) => host_name(host).ok_or_else(|| {
            format!("{shown} has neither a domain name nor an IPv4 address; {EXAMPLE}")
        })?,
    };
    Ok(format!("{host}:{port}"))
}

/// A key for examples: that of the Pkarr project's own documentation.
pub(super) const EXAMPLE_KEY: &str = "o4dksfbqk85ogzdb5osziw6befigbuxmuxkuxq8434q89uj56uyy";

/// A public key, bare or with `pk:` in front.
pub(super) fn public_key(text: &str) -> Result<PublicKey, String> {
    text.parse().map_err(|error| {
        let shown = quoted(text);
        format!("{shown} is no public key: {error}; write a key such as \"{EXAMPLE_KEY}\"")
    })
}

/// The directory of the state, or nothing.
pub(super) fn directory(text: &str) -> Result<Option<PathBuf>, String> {
    if text.is_empty() {
        Ok(None)
    } else if is_absolute(text) {
        Ok(Some(PathBuf::from(text)))
    } else {
        Err(format!(
            "{} is not an absolute path; write one such as \"/var/lib/pkbridge\", or \"\" to save \
             nothing",
            quoted(text)
        ))
    }
}

/// The path of the control socket, or nothing.
pub(super) fn socket_path(text: &str) -> Result<Option<PathBuf>, String> {
    let max = limits::SOCKET_PATH_MAX;
    if text.is_empty() {
        Ok(None)
    } else if is_absolute(text) && text.len() <= max {
        Ok(Some(PathBuf::from(text)))
    } else {
        Err(format!(
            "{} is not an absolute path of at most {max} bytes; write one such as {:?}, or \"\" for \
             no control socket",
            quoted(text),
            limits::CONTROL_SOCKET_DEFAULT
        ))
    }
}

/// The file of names.hosts-file, or nothing.
pub(super) fn hosts_file(text: &str) -> Result<Option<PathBuf>, String> {
    file(text, limits::HOSTS_FILE_DEFAULT, "read none")
}

/// The file of upstream.ca-file, or nothing.
pub(super) fn ca_file(text: &str) -> Result<Option<PathBuf>, String> {
    file(text, "/etc/pkbridge/ca.pem", "use the system's authorities")
}

/// The file of upstream.trust-anchors, or nothing.
pub(super) fn trust_anchors(text: &str) -> Result<Option<PathBuf>, String> {
    file(text, "/usr/share/dns/root.key", "use those built in")
}

/// The file of upstream.root-hints, or nothing.
pub(super) fn root_hints(text: &str) -> Result<Option<PathBuf>, String> {
    file(text, "/usr/share/dns/root.hints", "use those built in")
}

/// The absolute path of a file, or nothing.
fn file(text: &str, example: &str, without: &str) -> Result<Option<PathBuf>, String> {
    if text.is_empty() {
        Ok(None)
    } else if is_absolute(text) {
        Ok(Some(PathBuf::from(text)))
    } else {
        Err(format!(
            "{} is not an absolute path; write one such as {example:?}, or \"\" to {without}",
            quoted(text)
        ))
    }
}

fn is_absolute(text: &str) -> bool {
    Path::new(text).is_absolute() && !text.contains(char::is_control)
}

/// A log level, or a filter of comma-separated directives, of which only the levels are checked.
pub(super) fn log_level(text: &str) -> Result<String, String> {
    let is_level = |word: &str| {
        let mut levels = limits::LOG_LEVELS.iter();
        levels.any(|level| level.eq_ignore_ascii_case(word))
    };
    // In a filter, "off" silences one module; alone it would hide even errors.
    let is_filter = text.contains(['=', ',']);
    let is_off = |word: &str| is_filter && word.eq_ignore_ascii_case("off");
    for directive in text.split(',') {
        let level = directive
            .rsplit_once('=')
            .map_or(directive, |(_, level)| level);
        if !is_level(level) && !is_off(level) {
            return Err(format!(
                "{} is not a level; write error, warn, info, debug or trace, or a filter such as \
                 \"info,pkbridge::resolve=debug\"",
                quoted(level)
            ));
        }
    }
    Ok(text.to_owned())
}

/// Quotes text of the file for a message: on one line, without control characters, and cut short.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN_CHARS: usize = 80;
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{:?}...", text.get(..end).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Splits before the first character that `is_end` accepts.
fn split_at_first(text: &str, is_end: impl Fn(char) -> bool) -> (&str, &str) {
    let end = text.find(is_end).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

fn socket_address(text: &str, examples: &str) -> Result<SocketAddr, String> {
    let bare = text
        .parse()
        .map(|ip: IpAddr| SocketAddr::new(ip, limits::DNS_PORT));
    bare.or_else(|_| text.parse()).map_err(|_| {
        let mut message = format!(
            "{} is not an IP address with or without a port; write one such as {examples}, or an \
             IP address alone for port {}",
            quoted(text),
            limits::DNS_PORT
        );
        if text.contains('%') {
            message.push_str("; the scope of a link-local address is a number: \"[fe80::1%2]:53\"");
        }
        message
    })
}

/// An identifier for NSID.
pub(super) fn nsid(text: &str) -> Result<String, String> {
    let max = limits::NSID_MAX;
    if text.len() > max || text.chars().any(char::is_control) {
        return Err(format!("write at most {max} bytes of printable text"));
    }
    Ok(text.to_owned())
}

/// Who is told that an answer comes from a verified packet.
pub(super) fn authentic_data(text: &str) -> Result<AuthenticData, String> {
    match text {
        "never" => Ok(AuthenticData::Never),
        "loopback" => Ok(AuthenticData::Loopback),
        "always" => Ok(AuthenticData::Always),
        _ => Err("write \"never\", \"loopback\" or \"always\"".to_owned()),
    }
}

/// What is made of a key with a search domain behind it.
pub(super) fn search_domains(text: &str) -> Result<SearchDomains, String> {
    match text {
        "nxdomain" => Ok(SearchDomains::NxDomain),
        "answer" => Ok(SearchDomains::Answer),
        _ => Err("write \"nxdomain\" or \"answer\"".to_owned()),
    }
}

/// A domain that stands for itself and all below it.
pub(super) fn domain(text: &str) -> Result<String, String> {
    domain_name(text).ok_or_else(|| {
        format!(
            "{} is not a domain name; write labels of 1 to 63 letters, digits, \"-\" or \"_\", \
             joined by dots, such as \"lan\" or \"168.192.in-addr.arpa\"",
            quoted(text)
        )
    })
}

/// A domain that is forwarded to servers of its own.
pub(super) fn rule_domain(text: &str) -> Result<String, String> {
    match text {
        "." => Err(
            "\".\" is every domain, whose servers stand in upstream.servers; write one such as \
             \"lan\""
                .to_owned(),
        ),
        _ => domain(text),
    }
}

/// Who is asked.
pub(super) fn upstream_mode(text: &str) -> Result<UpstreamMode, String> {
    match text {
        "forward" => Ok(UpstreamMode::Forward),
        "recursive" => Ok(UpstreamMode::Recursive),
        _ => Err("write \"forward\" or \"recursive\"".to_owned()),
    }
}

/// Which of several resolvers is asked.
pub(super) fn strategy(text: &str) -> Result<Strategy, String> {
    match text {
        "fastest" => Ok(Strategy::Fastest),
        "in-order" => Ok(Strategy::InOrder),
        "parallel" => Ok(Strategy::Parallel),
        _ => Err("write \"fastest\", \"in-order\" or \"parallel\"".to_owned()),
    }
}

/// Whether private addresses are dropped from answers.
pub(super) fn rebinding_guard(text: &str) -> Result<RebindingGuard, String> {
    match text {
        "auto" => Ok(RebindingGuard::Auto),
        "on" => Ok(RebindingGuard::On),
        "off" => Ok(RebindingGuard::Off),
        _ => Err("write \"auto\", \"on\" or \"off\"".to_owned()),
    }
}
