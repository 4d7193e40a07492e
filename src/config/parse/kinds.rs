//! The kinds of values: strings, lists, numbers and what else TOML has, read with their places.

use std::collections::HashSet;
use std::hash::Hash;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::super::limits::{self, DurationLimit, NumberLimit};
use super::super::values::{self, quoted};
use crate::endpoint::Endpoint;

pub(super) type Value<'t> = Spanned<DeValue<'t>>;

/// A value, or what is wrong: each a byte offset and a message.
pub(super) type Outcome<T> = Result<T, Vec<(usize, String)>>;

pub(super) fn assign<T>(setting: &mut T, outcome: Outcome<T>) -> Outcome<()> {
    *setting = outcome?;
    Ok(())
}

pub(super) fn fault<T>(value: &Value<'_>, message: impl Into<String>) -> Outcome<T> {
    Err(vec![(value.span().start, message.into())])
}

pub(super) fn wrong_type<T>(value: &Value<'_>, expected: &str) -> Outcome<T> {
    let found = value.get_ref().type_str();
    fault(value, format!("expected {expected}, found {found}"))
}

/// A string that `convert` accepts.
pub(super) fn string<T>(
    value: &Value<'_>,
    example: &str,
    convert: impl Fn(&str) -> Result<T, String>,
) -> Outcome<T> {
    match value.get_ref().as_str() {
        Some(text) => convert(text).or_else(|message| fault(value, message)),
        None => wrong_type(value, &format!("a string such as {example:?}")),
    }
}

/// A list of strings that `convert` accepts, no two of them for the same thing.
pub(super) fn list<T: Clone + Eq + Hash>(
    value: &Value<'_>,
    example: &str,
    convert: fn(&str) -> Result<T, String>,
) -> Outcome<Vec<T>> {
    let Some(elements) = value.get_ref().as_array() else {
        return wrong_type(value, &format!("a list such as [{example:?}]"));
    };
    let mut items: Vec<T> = Vec::new();
    let mut seen = HashSet::new();
    let mut faults = Vec::new();
    for element in elements {
        let shown = element.get_ref().as_str().map(quoted).unwrap_or_default();
        match string(element, example, convert) {
            Ok(item) if seen.insert(item.clone()) => items.push(item),
            Ok(_) => faults.push((
                element.span().start,
                format!("{shown} is listed twice; leave one out"),
            )),
            Err(more) => faults.extend(more),
        }
    }
    if faults.is_empty() {
        Ok(items)
    } else {
        Err(faults)
    }
}

pub(super) fn non_empty<T>(
    value: &Value<'_>,
    hint: &str,
    items: Outcome<Vec<T>>,
) -> Outcome<Vec<T>> {
    let items = items?;
    if items.is_empty() {
        fault(value, hint)
    } else {
        Ok(items)
    }
}

pub(super) fn bootstrap(value: &Value<'_>) -> Outcome<Vec<String>> {
    let hint = "the DHT cannot be joined without one; list at least \
                \"router.bittorrent.com:6881\"";
    let nodes = list(value, "router.bittorrent.com:6881", values::bootstrap_node);
    let nodes = non_empty(value, hint, nodes)?;
    at_most(limits::BOOTSTRAP_MAX, "nodes", value, nodes)
}

/// Servers to forward to.
pub(super) fn servers(value: &Value<'_>) -> Outcome<Vec<Endpoint>> {
    let servers = list(value, "192.0.2.1:53", values::upstream_server)?;
    at_most(limits::SERVERS_MAX, "servers", value, servers)
}

/// Domains.
pub(super) fn domains(value: &Value<'_>) -> Outcome<Vec<String>> {
    list(value, "lan", values::domain)
}

pub(super) fn at_most<T>(
    max: usize,
    what: &str,
    value: &Value<'_>,
    items: Vec<T>,
) -> Outcome<Vec<T>> {
    match items.len() {
        count if count > max => fault(
            value,
            format!("{count} {what} are listed; list at most {max}"),
        ),
        _ => Ok(items),
    }
}

pub(super) fn duration(value: &Value<'_>, limit: &DurationLimit) -> Outcome<Duration> {
    string(value, "5s", |text| values::limited_duration(text, limit))
}

/// An integer of the file, which may have more digits than any type holds.
fn integer<T: TryFrom<i128>>(value: &Value<'_>) -> Option<T> {
    let digits = value.get_ref().as_integer()?;
    let number = i128::from_str_radix(digits.as_str(), digits.radix()).ok()?;
    T::try_from(number).ok()
}

pub(super) fn boolean(value: &Value<'_>) -> Outcome<bool> {
    match value.get_ref().as_bool() {
        Some(value) => Ok(value),
        None => wrong_type(value, "true or false"),
    }
}

pub(super) fn number<T>(value: &Value<'_>, limit: &NumberLimit<T>) -> Outcome<T>
where
    T: Copy + PartialOrd + std::fmt::Display + TryFrom<i128>,
{
    let (min, max) = (limit.min, limit.max);
    if !value.get_ref().is_integer() {
        return wrong_type(value, &format!("an integer such as {}", limit.default));
    }
    match integer(value).filter(|count| (min..=max).contains(count)) {
        Some(count) => Ok(count),
        None => {
            let message = format!("the number is out of bounds; write one from {min} to {max}");
            fault(value, message)
        }
    }
}

pub(super) fn max_bytes(value: &Value<'_>, min: u64) -> Outcome<u64> {
    let bytes = match value.get_ref().as_str() {
        Some(text) => values::size(text).or_else(|message| fault(value, message))?,
        None if value.get_ref().is_integer() => {
            let message = "the number is out of bounds; write a size such as \"64MiB\"";
            integer(value).map_or_else(|| fault(value, message), Ok)?
        }
        None => return wrong_type(value, "an integer or a string such as \"64MiB\""),
    };
    if bytes < min {
        let least = min / 1024;
        let message = format!("{bytes} bytes are too few; write at least \"{least}KiB\"");
        return fault(value, message);
    }
    Ok(bytes)
}
