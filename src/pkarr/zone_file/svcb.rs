//! The parameters of SVCB and HTTPS records (RFC 9460 sections 2.1 and 7, appendix A).

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use data_encoding::BASE64;

use super::ZoneFileError;
use super::lexer::Word;
use super::text::unescaped;
use super::variables::{IPV4, IPV6, Variable, Variables};

const MANDATORY: u16 = 0;
const ALPN: u16 = 1;
const NO_DEFAULT_ALPN: u16 = 2;
const PORT: u16 = 3;
const IPV4HINT: u16 = 4;
const ECH: u16 = 5;
const IPV6HINT: u16 = 6;
const OHTTP: u16 = 8;
/// Reserved as invalid (RFC 9460 section 14.3.2).
const INVALID: u16 = 65_535;

const KEYS: [(&str, u16); 9] = [
    ("mandatory", MANDATORY),
    ("alpn", ALPN),
    ("no-default-alpn", NO_DEFAULT_ALPN),
    ("port", PORT),
    ("ipv4hint", IPV4HINT),
    ("ech", ECH),
    ("ipv6hint", IPV6HINT),
    // RFC 9461, RFC 9540.
    ("dohpath", 7),
    ("ohttp", OHTTP),
];

/// The parameters as they stand in the record: in the order of their keys.
pub(super) fn parameters(
    words: &[Word<'_>],
    is_alias: bool,
    variables: &mut Variables,
) -> Result<Vec<u8>, ZoneFileError> {
    if let Some(word) = words.first().filter(|_| is_alias) {
        return Err(word.error(
            "a record of priority 0 is an alias, which has no parameters (RFC 9460 section 2.4.2)",
        ));
    }
    let mut values: BTreeMap<u16, (Word<'_>, Vec<u8>)> = BTreeMap::new();
    for word in words {
        let (key, value) = parameter(word, variables)?;
        if values.insert(key, (*word, value)).is_some() {
            return Err(word.error("this parameter is there twice"));
        }
    }
    check(&values)?;
    let mut bytes = Vec::new();
    for (key, (word, value)) in values {
        // Of an address that is not known there is no hint.
        if value.is_empty() && matches!(key, IPV4HINT | IPV6HINT) {
            continue;
        }
        let length =
            u16::try_from(value.len()).map_err(|_| word.error("this value is too long"))?;
        bytes.extend(key.to_be_bytes());
        bytes.extend(length.to_be_bytes());
        bytes.extend(value);
    }
    Ok(bytes)
}

/// RFC 9460 section 2.4.3: a record that contradicts itself is of no use to anybody.
fn check(values: &BTreeMap<u16, (Word<'_>, Vec<u8>)>) -> Result<(), ZoneFileError> {
    if let Some((word, keys)) = values.get(&MANDATORY) {
        let keys = keys.chunks_exact(2);
        let mut keys = keys.filter_map(|key| Some(u16::from_be_bytes(key.try_into().ok()?)));
        if keys.any(|key| !values.contains_key(&key)) {
            return Err(word.error("what is mandatory must be there, too"));
        }
    }
    match values.get(&NO_DEFAULT_ALPN) {
        Some((word, _)) if !values.contains_key(&ALPN) => {
            Err(word.error("no-default-alpn without alpn leaves no protocol"))
        }
        Some(_) | None => Ok(()),
    }
}

fn key_number(text: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(text).ok()?;
    if let Some((_, number)) = KEYS.iter().find(|(name, _)| *name == text) {
        return Some(*number);
    }
    let digits = text.strip_prefix("key")?;
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    let is_canonical = digits == "0" || !digits.starts_with('0');
    let number = digits.parse::<u16>().ok();
    let number = number.filter(|number| *number != INVALID);
    number.filter(|_| is_number && is_canonical)
}

/// A key, and its value in the form of the record.
fn parameter(word: &Word<'_>, variables: &mut Variables) -> Result<(u16, Vec<u8>), ZoneFileError> {
    let equals = word.raw.iter().position(|byte| *byte == b'=');
    let (key, value) = match equals.and_then(|at| word.raw.split_at_checked(at)) {
        Some((key, value)) => (key, value.get(1..)),
        None => (word.raw, None),
    };
    let number = key_number(key).filter(|_| !word.is_quoted).ok_or_else(|| {
        word.error(format!(
            "{} is no parameter; write one such as alpn=h2,h3, port=8443, or by its number \
             key667=\"value\"",
            word.shown()
        ))
    })?;
    let unquoted = value.map(|value| {
        let inner = value.strip_prefix(b"\"");
        inner
            .and_then(|inner| inner.strip_suffix(b"\""))
            .unwrap_or(value)
    });
    let text = unescaped(unquoted.unwrap_or_default()).ok_or_else(|| word.bad_escape())?;
    let is_known = KEYS.iter().any(|(name, _)| name.as_bytes() == key);
    // RFC 9460 section 2.1: what is given by its number is taken as it is.
    let known = match number {
        _ if !is_known => Some(text),
        IPV4HINT => {
            let known = variables.addresses.ipv4;
            let addresses = hints(&text, word, &IPV4, known, variables);
            addresses.map(|all| all.iter().flat_map(Ipv4Addr::octets).collect())
        }
        IPV6HINT => {
            let known = variables.addresses.ipv6;
            let addresses = hints(&text, word, &IPV6, known, variables);
            addresses.map(|all| all.iter().flat_map(Ipv6Addr::octets).collect())
        }
        _ => known_value(number, &text),
    };
    let value = known.ok_or_else(|| {
        let message = format!("{} is no value of {}", word.shown(), expected(number));
        word.error(message)
    })?;
    Ok((number, value))
}

/// What a value looks like, for messages.
fn expected(key: u16) -> &'static str {
    match key {
        MANDATORY => "mandatory, a list of other keys such as alpn,port",
        ALPN => "alpn, a list of protocols such as h2,h3",
        NO_DEFAULT_ALPN => "no-default-alpn, which has none",
        PORT => "port, a number up to 65535",
        IPV4HINT => "ipv4hint, a list of IPv4 addresses",
        ECH => "ech, which is Base64",
        IPV6HINT => "ipv6hint, a list of IPv6 addresses",
        OHTTP => "ohttp, which has none",
        _ => "dohpath, a path such as /dns-query{?dns}",
    }
}

fn known_value(key: u16, text: &[u8]) -> Option<Vec<u8>> {
    let plain = std::str::from_utf8(text).ok();
    match key {
        NO_DEFAULT_ALPN | OHTTP => text.is_empty().then(Vec::new),
        MANDATORY => {
            let keys = plain?.split(',').map(|key| key_number(key.as_bytes()));
            let mut keys = keys.collect::<Option<Vec<u16>>>()?;
            let count = keys.len();
            keys.sort_unstable();
            keys.dedup();
            let is_set = keys.len() == count && !keys.contains(&MANDATORY);
            is_set.then(|| keys.into_iter().flat_map(u16::to_be_bytes).collect())
        }
        ALPN => {
            let mut value = Vec::new();
            for item in list(text)? {
                value.push(u8::try_from(item.len()).ok().filter(|length| *length > 0)?);
                value.extend(item);
            }
            Some(value)
        }
        PORT => {
            let digits = plain?;
            let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
            let port = digits.parse::<u16>().ok().filter(|_| is_number)?;
            Some(port.to_be_bytes().to_vec())
        }
        ECH => BASE64.decode(text).ok().filter(|bytes| !bytes.is_empty()),
        _ => (!text.is_empty()).then(|| text.to_vec()),
    }
}

/// The addresses of a list. Those of a variable that are not known are left out.
fn hints<A: FromStr + Copy>(
    text: &[u8],
    word: &Word<'_>,
    variable: &Variable,
    known: Option<A>,
    variables: &mut Variables,
) -> Option<Vec<A>> {
    let mut addresses = Vec::new();
    for item in std::str::from_utf8(text).ok()?.split(',') {
        if variable.is(item) {
            variables.take(variable, word, known.is_some(), "the hint is left out");
            addresses.extend(known);
        } else {
            addresses.push(item.parse().ok()?);
        }
    }
    Some(addresses)
}

/// RFC 9460 appendix A.1: items between commas, in which `\,` is a comma and `\\` a backslash.
fn list(text: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut items = vec![Vec::new()];
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b',' => {
                items.push(Vec::new());
                continue;
            }
            b'\\' => bytes.next().filter(|next| matches!(next, b',' | b'\\'))?,
            plain => plain,
        };
        items.last_mut()?.push(*byte);
    }
    Some(items)
}
