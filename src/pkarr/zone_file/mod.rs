//! Zone files (RFC 1035 section 5, RFC 2308 section 4, RFC 3597 section 5) of a public key's zone: the
//! records that its owner is about to sign.
//!
//! The DNS library has a parser of its own, which does not tell where an error is, knows neither bytes nor
//! types without a name, and takes `\DDD` for something else.

mod lexer;
mod rare;
mod rdata;
mod svcb;
mod text;
mod variables;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;

use hickory_proto::rr::{Name, RecordType};

use super::key::PublicKey;
use super::secret_key::read_secret_key;
use super::zone::{Record, apex_of, is_meta};
use lexer::{Entry, Lexer, Place, Word};
use variables::Variables;

pub use variables::HostAddresses;

/// TTL of records in a file that says none, in seconds: short, so that a change of address is soon seen.
pub const DEFAULT_TTL: u32 = 300;
/// Errors that are told at most.
const MAX_ERRORS: usize = 20;

/// What is wrong with a zone file, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error("{line}:{column}: {message}")]
pub struct ZoneFileError {
    /// The line, counted from 1.
    pub line: usize,
    /// The column in characters, counted from 1.
    pub column: usize,
    /// What is wrong, and what would be right. Safe to print.
    pub message: String,
}

/// A zone file whose variables have been filled in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FilledZone {
    /// Its records.
    pub records: Vec<Record>,
    /// Whether `$IPV4` stands in the file.
    pub has_ipv4: bool,
    /// Whether `$IPV6` stands in the file.
    pub has_ipv6: bool,
    /// What was left out because its address is not known, and where; 20 at most.
    pub left_out: Vec<ZoneFileError>,
}

/// All that is wrong with a zone file, in its order; 20 errors at most, and one at least. Shown as one a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneFileErrors(Vec<ZoneFileError>);

impl ZoneFileErrors {
    /// The errors.
    pub fn iter(&self) -> std::slice::Iter<'_, ZoneFileError> {
        self.0.iter()
    }
}

impl<'e> IntoIterator for &'e ZoneFileErrors {
    type Item = &'e ZoneFileError;
    type IntoIter = std::slice::Iter<'e, ZoneFileError>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for ZoneFileErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, error) in self.iter().enumerate() {
            let end_of_last = if number == 0 { "" } else { "\n" };
            write!(f, "{end_of_last}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ZoneFileErrors {}

/// Reads the zone file of a key: names without a final dot end in the key, unless `$ORIGIN` says
/// otherwise. A record that is there twice is taken once.
///
/// ```
/// use pkbridge::pkarr::{PublicKey, SigningKey, read_zone_file};
///
/// let key = PublicKey::from(&SigningKey::from_bytes(&[7; 32]));
/// let records = read_zone_file(b"$TTL 5m\n@ A 192.0.2.1\nwww CNAME @ ; an alias\n", key)?;
/// assert_eq!(records[1].owner.to_ascii(), format!("www.{key}."));
/// assert_eq!(records[1].ttl, 300);
///
/// let errors = read_zone_file(b"@ A 192.0.2.256", key).unwrap_err();
/// assert!(errors.to_string().starts_with("1:5: "), "{errors}");
/// # Ok::<(), pkbridge::pkarr::ZoneFileErrors>(())
/// ```
///
/// # Errors
/// All that is wrong. Variables are, too: see [`fill_zone_file`].
pub fn read_zone_file(text: &[u8], key: PublicKey) -> Result<Vec<Record>, ZoneFileErrors> {
    let filled = fill_zone_file(text, key, HostAddresses::default())?;
    if filled.left_out.is_empty() {
        Ok(filled.records)
    } else {
        Err(ZoneFileErrors(filled.left_out))
    }
}

/// The same for one with variables: where an IPv4 address may stand, in A records and ipv4hint, `$IPV4` may;
/// where an IPv6 address may, `$IPV6`. A record, or hint, whose address is `None` is left out.
///
/// ```
/// use pkbridge::pkarr::{HostAddresses, PublicKey, SigningKey, fill_zone_file, read_zone_file};
///
/// let key = PublicKey::from(&SigningKey::from_bytes(&[7; 32]));
/// let addresses = HostAddresses {
///     ipv4: Some([192, 0, 2, 1].into()),
///     ipv6: None,
/// };
/// let zone = fill_zone_file(b"@ A $IPV4\n@ AAAA $IPV6\n", key, addresses)?;
/// assert_eq!(zone.records, read_zone_file(b"@ A 192.0.2.1", key)?);
/// assert_eq!(zone.left_out.len(), 1);
/// # Ok::<(), pkbridge::pkarr::ZoneFileErrors>(())
/// ```
///
/// # Errors
/// All that is wrong.
pub fn fill_zone_file(
    text: &[u8],
    key: PublicKey,
    addresses: HostAddresses,
) -> Result<FilledZone, ZoneFileErrors> {
    if read_secret_key(text).is_ok() {
        // Its first word would be in the message.
        let message = "this is a secret key file, and no zone file; keep it to yourself";
        let error = Place { line: 1, column: 1 }.error(message);
        return Err(ZoneFileErrors(vec![error]));
    }
    let apex = apex_of(key);
    let mut reader = Reader {
        origin: apex.clone(),
        apex,
        default_ttl: None,
        last_ttl: None,
        owner: None,
        variables: Variables {
            addresses,
            ..Variables::default()
        },
        records: Vec::new(),
        places: Vec::new(),
    };
    let mut errors = Vec::new();
    for entry in Lexer::new(text) {
        errors.extend(entry.and_then(|entry| reader.take(&entry)).err());
    }
    errors.extend(reader.beside_aliases());
    // Those beside aliases come last of all.
    errors.sort_by_key(|error| (error.line, error.column));
    errors.truncate(MAX_ERRORS);
    if !errors.is_empty() {
        return Err(ZoneFileErrors(errors));
    }
    let mut variables = reader.variables;
    variables.left_out.truncate(MAX_ERRORS);
    Ok(FilledZone {
        records: reader.records,
        has_ipv4: variables.has_ipv4,
        has_ipv6: variables.has_ipv6,
        left_out: variables.left_out,
    })
}

/// What has been read so far.
struct Reader {
    apex: Name,
    origin: Name,
    /// Of `$TTL`.
    default_ttl: Option<u32>,
    /// Of the record before.
    last_ttl: Option<u32>,
    /// Of the record before; `None` if it had a fault.
    owner: Option<Owner>,
    variables: Variables,
    records: Vec<Record>,
    /// Where each record begins.
    places: Vec<Place>,
}

/// The owner of the records that follow it.
enum Owner {
    Name(Name),
    /// Has been complained of.
    Refused,
}

impl Reader {
    fn take(&mut self, entry: &Entry<'_>) -> Result<(), ZoneFileError> {
        let Some((first, rest)) = entry.words.split_first() else {
            return Ok(());
        };
        let is_directive = !first.is_quoted && first.raw.starts_with(b"$");
        if is_directive {
            return self.take_directive(first, rest, entry.end);
        }
        if entry.has_no_owner {
            return match &self.owner {
                Some(Owner::Name(name)) => {
                    let name = name.clone();
                    self.take_record(name, first.place, &entry.words, entry.end)
                }
                Some(Owner::Refused) => Ok(()),
                None => Err(first.error(
                    "a line that begins with space goes on with the name of the record before, and \
                     there is none; @ is the key itself",
                )),
            };
        }
        self.owner = Some(Owner::Refused);
        let owner = first.name(&self.origin)?;
        if !self.apex.zone_of(&owner) {
            return Err(self.outside(first, &owner));
        }
        self.owner = Some(Owner::Name(owner.clone()));
        self.take_record(owner, first.place, rest, entry.end)
    }

    fn take_directive(
        &mut self,
        first: &Word<'_>,
        rest: &[Word<'_>],
        end: Place,
    ) -> Result<(), ZoneFileError> {
        let directive = String::from_utf8_lossy(first.raw).to_ascii_uppercase();
        let is_known = match directive.as_str() {
            "$ORIGIN" | "$TTL" => true,
            "$INCLUDE" => {
                return Err(first.error(
                    "$INCLUDE is not read: what is signed stands in one file; copy the lines here",
                ));
            }
            _ => false,
        };
        let (value, more) = match rest {
            _ if !is_known => {
                let message = format!("{} is unknown; $ORIGIN and $TTL are read", first.shown());
                return Err(first.error(message));
            }
            [] => return Err(end.error(format!("{directive} lacks its value"))),
            [value, more @ ..] => (value, more),
        };
        if let Some(word) = more.first() {
            let message = format!("{} is more than {directive} has", word.shown());
            return Err(word.error(message));
        }
        if directive == "$TTL" {
            self.default_ttl = Some(value.time()?);
        } else {
            self.origin = value.name(&self.origin)?;
        }
        Ok(())
    }

    /// A record: TTL and class in either order, the type, its data.
    fn take_record(
        &mut self,
        owner: Name,
        place: Place,
        mut words: &[Word<'_>],
        end: Place,
    ) -> Result<(), ZoneFileError> {
        let (mut ttl, mut class) = (None, None);
        let word = loop {
            let Some((word, rest)) = words.split_first() else {
                return Err(end.error("the record lacks its type, such as A or TXT"));
            };
            words = rest;
            if ttl.is_none() && word.raw.first().is_some_and(u8::is_ascii_digit) {
                ttl = Some(word.time()?);
            } else if class.is_none() && is_class(word) {
                class = Some(take_class(word)?);
            } else {
                break word;
            }
        };
        let shown = word.plain().filter(|_| !word.is_quoted).unwrap_or_default();
        let shown = shown.to_ascii_uppercase();
        let rtype = rdata::type_number(&shown).ok_or_else(|| {
            word.error(format!(
                "{} is no record type; write one such as A, AAAA, CNAME, TXT or HTTPS, or TYPE and \
                 its number",
                word.shown()
            ))
        })?;
        if is_meta(rtype) {
            let message = format!("{shown} is for queries, and no type of records in a zone");
            return Err(word.error(message));
        }
        let variables = &mut self.variables;
        let rdata = rdata::read(rtype, &shown, words, end, &self.origin, variables)?;
        if ttl.is_some() {
            self.last_ttl = ttl;
        }
        // RFC 2308 section 4: $TTL first, then, as RFC 1035 section 5.1 has it, the last that was stated.
        let ttl = ttl.or(self.default_ttl).or(self.last_ttl);
        let Some(rdata) = rdata else {
            return Ok(());
        };
        let record = Record {
            owner,
            rtype: RecordType::from(rtype),
            ttl: ttl.unwrap_or(DEFAULT_TTL),
            rdata,
        };
        let is_same = |other: &Record| {
            (other.rtype, &other.owner, &other.rdata)
                == (record.rtype, &record.owner, &record.rdata)
        };
        if !self.records.iter().any(is_same) {
            self.records.push(record);
            self.places.push(place);
        }
        Ok(())
    }

    fn outside(&self, word: &Word<'_>, owner: &Name) -> ZoneFileError {
        let key = self.apex.to_ascii();
        let has_suffix = owner.iter().any(|label| {
            self.apex
                .iter()
                .any(|apex| apex.eq_ignore_ascii_case(label))
        });
        let hint = if has_suffix {
            "names end in the key alone, and whoever asks puts .pkarr behind it"
        } else {
            "a final dot ends a name, and without it the key is put behind"
        };
        word.error(format!(
            "{} is outside of the zone of {key} ({hint})",
            word.shown()
        ))
    }

    /// Records that nobody would get: a name with a CNAME has no other data (RFC 1034 section 3.6.2). The
    /// key itself may have both, as packets have it; there the CNAME is for what else is asked.
    fn beside_aliases(&self) -> Vec<ZoneFileError> {
        let records = || self.records.iter().zip(&self.places);
        let is_alias = |record: &Record| record.rtype == RecordType::CNAME;
        let aliases: HashSet<Name> = records()
            .filter(|(record, _)| is_alias(record) && record.owner != self.apex)
            .map(|(record, _)| record.owner.to_lowercase())
            .collect();
        let mut seen = HashSet::new();
        records()
            .filter(|(record, _)| {
                let owner = record.owner.to_lowercase();
                aliases.contains(&owner) && (!is_alias(record) || !seen.insert(owner))
            })
            .map(|(_, place)| {
                place.error(
                    "this name has a CNAME, and then no other records (RFC 1034 section 3.6.2); \
                     leave the CNAME or this out",
                )
            })
            .collect()
    }
}

fn is_class(word: &Word<'_>) -> bool {
    let text = word.plain().filter(|_| !word.is_quoted);
    text.is_some_and(|text| {
        let text = text.to_ascii_uppercase();
        matches!(text.as_str(), "IN" | "CH" | "HS" | "CS") || text.starts_with("CLASS")
    })
}

fn take_class(word: &Word<'_>) -> Result<(), ZoneFileError> {
    match word.plain() {
        Some(text) if text.eq_ignore_ascii_case("IN") || text.eq_ignore_ascii_case("CLASS1") => {
            Ok(())
        }
        _ => {
            let message = format!(
                "{} is a class that nobody serves; leave it out",
                word.shown()
            );
            Err(word.error(message))
        }
    }
}
