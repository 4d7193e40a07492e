//! The table `[records]`: domain names with their records.

use std::collections::HashSet;
use std::net::IpAddr;
use std::str::FromStr;

use hickory_proto::rr::{RData, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder, NameEncoding};
use toml::de::DeTable;

use super::super::values::{self, quoted};
use super::super::{LocalRecord, limits};
use super::kinds::{Outcome, Value, fault, string, wrong_type};
use super::{Fault, key_path};

/// A record as it is written, for messages.
const EXAMPLE: &str = "192.168.1.5";

/// The records of all names.
pub(super) fn read(entries: &DeTable<'_>, faults: &mut Vec<Fault>) -> Vec<LocalRecord> {
    let mut records = Vec::new();
    let mut names = HashSet::new();
    for (key, value) in entries {
        let path = key_path("[records]", key.get_ref());
        let mut say = |offset, message| faults.push(Fault::new(offset, &path, message));
        let name = match values::domain(key.get_ref()) {
            _ if value.get_ref().is_table() => {
                let message = "the dots of this name are taken for those of TOML; put the name in \
                               quotes, as in \"nas.lan\" = \"192.168.1.5\"";
                say(key.span().start, message.to_owned());
                continue;
            }
            Err(message) => {
                say(key.span().start, message);
                continue;
            }
            Ok(name) => name,
        };
        if !names.insert(name.clone()) {
            let message = format!(
                "{} is listed twice; write all its records in one list",
                quoted(key.get_ref())
            );
            say(key.span().start, message);
        }
        match records_of(value) {
            Ok(found) => records.extend(found.into_iter().map(|(rtype, rdata)| LocalRecord {
                name: name.clone(),
                rtype,
                rdata,
            })),
            Err(found) => found
                .into_iter()
                .for_each(|(offset, message)| say(offset, message)),
        }
    }
    let (count, max) = (records.len(), limits::RECORDS_MAX);
    if count > max
        && let Some((key, _)) = entries.iter().next()
    {
        let message = format!(
            "{count} records are listed; list at most {max}, and the rest in the file of \
             names.hosts-file"
        );
        faults.push(Fault::new(key.span().start, "[records]", message));
    }
    records
}

/// The records of one name: a string, or a list of them.
fn records_of(value: &Value<'_>) -> Outcome<Vec<(RecordType, Vec<u8>)>> {
    let elements: Vec<&Value<'_>> = match value.get_ref().as_array() {
        Some(elements) => elements.iter().collect(),
        None if value.get_ref().is_str() => vec![value],
        None => return wrong_type(value, &format!("a string such as {EXAMPLE:?}, or a list")),
    };
    if elements.is_empty() {
        return fault(
            value,
            "the list is empty; write at least one record, or leave the name out",
        );
    }
    let mut records = Vec::new();
    let mut seen = HashSet::new();
    let mut faults = Vec::new();
    for element in elements {
        match string(element, EXAMPLE, record) {
            Ok(record) => {
                if seen.insert(record.clone()) {
                    records.push(record);
                } else {
                    let message = "the record is listed twice; leave one out";
                    faults.push((element.span().start, message.to_owned()));
                }
            }
            Err(found) => faults.extend(found),
        }
    }
    let has_alias = records.iter().any(|(rtype, _)| *rtype == RecordType::CNAME);
    if has_alias && records.len() > 1 {
        let message = "a name with a CNAME record has no other records (RFC 1034 section 3.6.2); \
                       leave the CNAME or the others out";
        faults.push((value.span().start, message.to_owned()));
    }
    if faults.is_empty() {
        Ok(records)
    } else {
        Err(faults)
    }
}

/// One record: an address, or a type and its data in the form of zone files (RFC 1035 section 5.1).
fn record(text: &str) -> Result<(RecordType, Vec<u8>), String> {
    let shown = quoted(text);
    match text.parse() {
        Ok(IpAddr::V4(ip)) => return Ok((RecordType::A, ip.octets().to_vec())),
        Ok(IpAddr::V6(ip)) => return Ok((RecordType::AAAA, ip.octets().to_vec())),
        Err(_) => {}
    }
    let (rtype, data) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    let rtype = RecordType::from_str(&rtype.to_ascii_uppercase()).map_err(|_| {
        format!(
            "{shown} is neither an IP address nor a known type with its data; write one such as \
             \"{EXAMPLE}\", \"CNAME nas.lan.\" or \"MX 10 mail.lan.\""
        )
    })?;
    let wrong = |error: &str| {
        let error = quoted(error);
        let error = error.trim_matches('"');
        format!("{shown} is not read as a record of the type {rtype}: {error}")
    };
    let fields = fields(data).map_err(wrong)?;
    check_fields(rtype, &fields).map_err(|error| wrong(&error))?;
    let read = RData::try_from_str(rtype, data).map_err(|error| wrong(&error.to_string()))?;
    let mut rdata = Vec::new();
    let mut encoder = BinEncoder::new(&mut rdata);
    encoder.set_name_encoding(NameEncoding::Uncompressed);
    read.emit(&mut encoder)
        .map_err(|error| wrong(&error.to_string()))?;
    Ok((rtype, rdata))
}

/// The fields of the data (RFC 1035 section 5.1), with their quotes.
///
/// # Errors
/// What the parser would drop or misread without a word.
fn fields(data: &str) -> Result<Vec<&str>, &'static str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let mut fields = Vec::new();
    let mut start = None;
    for (at, c) in data.char_indices() {
        if is_escaped && c.is_ascii_digit() {
            return Err("it has a byte in digits; write the character itself");
        }
        // Outside of quotes it is read so before a digit alone.
        let was_escaped = is_quoted && is_escaped;
        is_escaped = c == '\\' && !was_escaped;
        match c {
            _ if was_escaped => {}
            '"' if is_quoted => {
                is_quoted = false;
                fields.extend(start.take().and_then(|start| data.get(start..=at)));
            }
            _ if is_quoted => {}
            '"' if start.is_some() => return Err("it has a quote within a word"),
            ';' => return Err("it has a comment, or \";\" outside of quotes"),
            '(' | ')' => return Err("it has a parenthesis outside of quotes"),
            _ if c.is_ascii_whitespace() => {
                fields.extend(start.take().and_then(|start| data.get(start..at)));
            }
            _ => {
                is_quoted = c == '"';
                start.get_or_insert(at);
            }
        }
    }
    fields.extend(start.and_then(|start| data.get(start..)));
    Ok(fields)
}

/// Refuses what the parser takes without being able to make a record of it.
fn check_fields(rtype: RecordType, fields: &[&str]) -> Result<(), String> {
    if fields.is_empty() {
        return Err("there is no data".to_owned());
    }
    if rtype == RecordType::ANAME {
        return Err("it is no type of DNS; write a CNAME, or the addresses".to_owned());
    }
    // It would be taken for an internationalised name.
    let is_text = |field: &str| field.starts_with('"');
    if fields
        .iter()
        .any(|field| !is_text(field) && !field.is_ascii())
    {
        return Err("it is not ASCII; text has quotes, and names have the form xn--".to_owned());
    }
    if let Some(max) = fields_of(rtype).filter(|max| fields.len() > *max) {
        return Err(format!("there is more than it has ({max})"));
    }
    // RFC 4034 section 5.3: half a byte would be dropped.
    let digits: usize = fields.iter().skip(3).map(|field| field.len()).sum();
    if rtype == RecordType::DS && (digits == 0 || digits % 2 == 1) {
        return Err("the digest is no row of bytes, which have two hexadecimal digits".to_owned());
    }
    Ok(())
}

/// How many fields the data has, of types that have a fixed number: the parser leaves out what
/// follows them.
fn fields_of(rtype: RecordType) -> Option<usize> {
    let fields = [
        (RecordType::A, 1),
        (RecordType::AAAA, 1),
        (RecordType::CNAME, 1),
        (RecordType::NS, 1),
        (RecordType::PTR, 1),
        (RecordType::MX, 2),
        (RecordType::HINFO, 2),
        (RecordType::CAA, 3),
        (RecordType::SRV, 4),
        (RecordType::NAPTR, 6),
        (RecordType::SOA, 7),
    ];
    let found = fields.iter().find(|(known, _)| *known == rtype);
    found.map(|(_, count)| *count)
}
