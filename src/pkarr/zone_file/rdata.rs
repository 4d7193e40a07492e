//! Record types and their data in the form of zone files.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use hickory_proto::rr::{Name, RecordType};

use super::ZoneFileError;
use super::lexer::{Place, Word};
use super::svcb;
use super::variables::{IPV4, IPV6, Variable, Variables};
use crate::wire;

/// Longest text of one string, in bytes (RFC 1035 section 3.3).
const MAX_STRING: usize = 255;
/// Longest data, in bytes (RFC 1035 section 3.2.1).
const MAX_DATA: usize = 65_535;

/// A field of the data, of one word unless it says otherwise.
#[derive(Debug, Clone, Copy)]
enum Field {
    U8,
    U16,
    U32,
    /// Seconds, also with units.
    Time,
    Ipv4,
    Ipv6,
    Name,
    /// A string of up to 255 bytes with its length in front.
    Text,
    /// One or more of these, to the end.
    Texts,
    /// A text without length.
    LongText,
    /// RFC 8659 section 4.1.1: letters and digits.
    Tag,
    /// Bytes in hexadecimal, to the end.
    Hex,
    /// Bytes in Base64, to the end.
    Base64,
    /// So many bytes in hexadecimal, with hyphens between them (RFC 7043).
    Eui(usize),
    /// RFC 4034 appendix A.1: a number or its mnemonic.
    Algorithm,
    /// RFC 4398 section 2.1: a number or its mnemonic.
    CertificateType,
    /// RFC 9460 section 2.1: all of the data.
    Svcb,
    /// RFC 4034 section 4.1.2: types, to the end.
    Types,
    /// The name of a type.
    Type,
    /// RFC 4034 section 3.2.
    Date,
    /// RFC 5155 section 3.3.
    Salt,
    Base32,
    /// RFC 6742: 64 bits.
    Locator,
    /// All of the data of these types.
    Apl,
    Hip,
    Ipseckey,
    Loc,
}

/// The types whose data is read in its own form. All others are written as `\# LENGTH HEX`.
#[rustfmt::skip]
fn fields(rtype: u16) -> Option<&'static [Field]> {
    use Field::*;
    Some(match rtype {
        1 => &[Ipv4],                                       // A
        2 | 5 | 12 | 39 => &[Name],                         // NS CNAME PTR DNAME
        6 => &[Name, Name, U32, Time, Time, Time, Time],    // SOA
        13 => &[Text, Text],                                // HINFO
        14 | 17 => &[Name, Name],                           // MINFO RP
        15 | 18 | 21 | 36 => &[U16, Name],                  // MX AFSDB RT KX
        16 | 99 => &[Texts],                                // TXT SPF
        28 => &[Ipv6],                                      // AAAA
        29 => &[Loc],                                       // LOC
        33 => &[U16, U16, U16, Name],                       // SRV
        35 => &[U16, U16, Text, Text, Text, Name],          // NAPTR
        37 => &[CertificateType, U16, Algorithm, Base64],   // CERT
        42 => &[Apl],                                       // APL
        43 | 59 => &[U16, Algorithm, U8, Hex],              // DS CDS
        44 => &[U8, U8, Hex],                               // SSHFP
        45 => &[Ipseckey],                                  // IPSECKEY
        46 => &[Type, Algorithm, U8, Time, Date, Date, U16, // RRSIG
                Name, Base64],
        47 => &[Name, Types],                               // NSEC
        48 | 60 => &[U16, U8, Algorithm, Base64],           // DNSKEY CDNSKEY
        49 | 61 => &[Base64],                               // DHCID OPENPGPKEY
        50 => &[U8, U8, U16, Salt, Base32, Types],          // NSEC3
        51 => &[U8, U8, U16, Salt],                         // NSEC3PARAM
        52 | 53 => &[U8, U8, U8, Hex],                      // TLSA SMIMEA
        55 => &[Hip],                                       // HIP
        62 => &[U32, U16, Types],                           // CSYNC
        63 => &[U32, U8, U8, Hex],                          // ZONEMD
        64 | 65 => &[Svcb],                                 // SVCB HTTPS
        104 | 106 => &[U16, Locator],                       // NID L64
        105 => &[U16, Ipv4],                                // L32
        107 => &[U16, Name],                                // LP
        108 => &[Eui(6)],                                   // EUI48
        109 => &[Eui(8)],                                   // EUI64
        256 => &[U16, U16, LongText],                       // URI
        257 => &[U8, Tag, LongText],                        // CAA
        _ => return None,
    })
}

/// Types that the DNS library has no name for.
const MORE_TYPES: [(&str, u16); 20] = [
    ("MINFO", 14),
    ("RP", 17),
    ("AFSDB", 18),
    ("RT", 21),
    ("LOC", 29),
    ("KX", 36),
    ("DNAME", 39),
    ("APL", 42),
    ("IPSECKEY", 45),
    ("DHCID", 49),
    ("HIP", 55),
    ("ZONEMD", 63),
    ("SPF", 99),
    ("NID", 104),
    ("L32", 105),
    ("L64", 106),
    ("LP", 107),
    ("EUI48", 108),
    ("EUI64", 109),
    ("URI", 256),
];

/// The number of a record type: by its name, or `TYPEnnn` (RFC 3597 section 5).
pub(super) fn type_number(text: &str) -> Option<u16> {
    let text = text.to_ascii_uppercase();
    if let Some(digits) = text.strip_prefix("TYPE") {
        let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
        return is_number.then(|| digits.parse().ok()).flatten();
    }
    let known = MORE_TYPES.iter().find(|(name, _)| *name == text);
    if let Some((_, number)) = known {
        return Some(*number);
    }
    let known = RecordType::from_str(&text).ok();
    // ANAME is an invention of the library.
    known
        .filter(|known| *known != RecordType::ANAME)
        .map(u16::from)
}

/// Reads the data of a record: the words behind its type. `end` is the place after them. `None` if it is an
/// address that is not known.
pub(super) fn read(
    rtype: u16,
    shown: &str,
    words: &[Word<'_>],
    end: Place,
    origin: &Name,
    variables: &mut Variables,
) -> Result<Option<Vec<u8>>, ZoneFileError> {
    let mut data = Data {
        words,
        end,
        origin,
        variables,
        bytes: Vec::new(),
        is_unknown: false,
    };
    let generic = |word: &&Word<'_>| !word.is_quoted && word.raw == b"\\#";
    if words.first().is_some_and(|word| generic(&word)) {
        data.read_generic(rtype, shown)?;
    } else if let Some(fields) = fields(rtype) {
        for field in fields {
            data.read_field(*field, shown)?;
        }
    } else {
        let message = format!(
            "data of the type {shown} is not read in its own form; write it as bytes: \\# LENGTH \
             HEX (RFC 3597 section 5)"
        );
        return Err(words.first().map_or(end, |word| word.place).error(message));
    }
    if let Some(word) = data.words.first() {
        let message = format!("{} is more than {shown} has", word.shown());
        return Err(word.error(message));
    }
    let length = data.bytes.len();
    if length > MAX_DATA {
        return Err(end.error(format!("the data has {length} bytes, more than {MAX_DATA}")));
    }
    Ok((!data.is_unknown).then_some(data.bytes))
}

/// Words that are still to be read, and the bytes that they have become so far.
pub(super) struct Data<'a> {
    words: &'a [Word<'a>],
    end: Place,
    origin: &'a Name,
    variables: &'a mut Variables,
    pub(super) bytes: Vec<u8>,
    /// Whether an address was asked for that is not known.
    is_unknown: bool,
}

impl<'a> Data<'a> {
    pub(super) fn next(&mut self, shown: &str, what: &str) -> Result<Word<'a>, ZoneFileError> {
        let (word, rest) = self
            .words
            .split_first()
            .ok_or_else(|| self.end.error(format!("{shown} lacks {what}")))?;
        self.words = rest;
        Ok(*word)
    }

    /// All that is left; at least one.
    fn rest(
        &mut self,
        shown: &str,
        what: &str,
    ) -> Result<(Word<'a>, &'a [Word<'a>]), ZoneFileError> {
        let all = self.words;
        let first = self.next(shown, what)?;
        self.words = &[];
        Ok((first, all))
    }

    fn read_field(&mut self, field: Field, shown: &str) -> Result<(), ZoneFileError> {
        match field {
            Field::U8 => self.read_u8(shown),
            Field::U16 => self.read_u16(shown),
            Field::U32 => {
                let word = self.next(shown, "a number")?;
                let number: u32 = word.number(u32::MAX)?;
                self.push(&number.to_be_bytes())
            }
            Field::Time => {
                let time = self.next(shown, "a time in seconds")?.time()?;
                self.push(&time.to_be_bytes())
            }
            Field::Ipv4 => {
                let known = self.variables.addresses.ipv4;
                let address = self.address(shown, &IPV4, known)?;
                self.push(&address.as_ref().map(Ipv4Addr::octets).unwrap_or_default())
            }
            Field::Ipv6 => {
                let known = self.variables.addresses.ipv6;
                let address = self.address(shown, &IPV6, known)?;
                self.push(&address.as_ref().map(Ipv6Addr::octets).unwrap_or_default())
            }
            Field::Name => self.read_name(shown),
            Field::Text => {
                let word = self.next(shown, "a text")?;
                self.push_text(&word)
            }
            Field::Texts => {
                let (_, words) = self.rest(shown, "a text")?;
                words.iter().try_for_each(|word| self.push_text(word))
            }
            Field::LongText => {
                let text = self.next(shown, "a text")?.bytes()?;
                self.push(&text)
            }
            Field::Tag => {
                let word = self.next(shown, "a tag, such as issue")?;
                let is_tag = word.raw.iter().all(u8::is_ascii_alphanumeric) && !word.raw.is_empty();
                if !is_tag {
                    let message = format!("{} is no tag, such as issue", word.shown());
                    return Err(word.error(message));
                }
                self.push_text(&word)
            }
            Field::Hex => self.read_hex(shown),
            Field::Base64 => self.read_base64(shown),
            Field::Eui(length) => self.read_eui(shown, length),
            Field::Algorithm => {
                let word = self.next(shown, "an algorithm")?;
                let known = word.plain().and_then(algorithm);
                let number = known.map_or_else(|| word.number(255), Ok)?;
                self.push(&[number])
            }
            Field::CertificateType => {
                let word = self.next(shown, "the kind of certificate")?;
                let known = word.plain().and_then(certificate_type);
                let number: u16 = known.map_or_else(|| word.number(65_535), Ok)?;
                self.push(&number.to_be_bytes())
            }
            Field::Svcb => {
                self.read_u16(shown)?;
                self.read_name(shown)?;
                let words = self.take_rest();
                let is_alias = self.bytes.starts_with(&[0, 0]);
                let parameters = svcb::parameters(words, is_alias, self.variables)?;
                self.push(&parameters)
            }
            Field::Types => self.read_types(),
            Field::Type => self.read_type(shown),
            Field::Date => self.read_date(shown),
            Field::Salt => self.read_salt(shown),
            Field::Base32 => self.read_base32(shown),
            Field::Locator => self.read_locator(shown),
            Field::Apl => self.read_prefixes(),
            Field::Hip => self.read_hip(shown),
            Field::Ipseckey => self.read_ipseckey(shown),
            Field::Loc => self.read_loc(shown),
        }
    }

    pub(super) fn read_base64(&mut self, shown: &str) -> Result<(), ZoneFileError> {
        let (first, words) = self.rest(shown, "bytes in Base64")?;
        let decoded = BASE64.decode(&joined(words)).ok();
        let bytes = decoded.filter(|bytes| !bytes.is_empty());
        self.push(&bytes.ok_or_else(|| first.error("from here on it is no Base64"))?)
    }

    /// All that is left; there may be nothing.
    pub(super) fn take_rest(&mut self) -> &'a [Word<'a>] {
        std::mem::take(&mut self.words)
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.words.is_empty()
    }

    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), ZoneFileError> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn push_text(&mut self, word: &Word<'_>) -> Result<(), ZoneFileError> {
        let text = word.bytes()?;
        let length = u8::try_from(text.len()).map_err(|_| {
            word.error(format!(
                "this text has {} bytes, and one string at most {MAX_STRING}; write it as several, \
                 \"...\" \"...\"",
                text.len()
            ))
        })?;
        self.push(&[length])?;
        self.push(&text)
    }

    pub(super) fn read_u8(&mut self, shown: &str) -> Result<(), ZoneFileError> {
        let number = self.next(shown, "a number")?.number(255)?;
        self.push(&[number])
    }

    fn read_u16(&mut self, shown: &str) -> Result<(), ZoneFileError> {
        let number: u16 = self.next(shown, "a number")?.number(65_535)?;
        self.push(&number.to_be_bytes())
    }

    pub(super) fn read_name(&mut self, shown: &str) -> Result<(), ZoneFileError> {
        let name = self.next(shown, "a name")?.name(self.origin)?;
        self.push(&wire::name_bytes(&name))
    }

    /// An address, or that which a variable stands for; `None` if that is not known.
    fn address<A: FromStr>(
        &mut self,
        shown: &str,
        variable: &Variable,
        known: Option<A>,
    ) -> Result<Option<A>, ZoneFileError> {
        let word = self.next(shown, variable.what)?;
        let text = word.plain().filter(|_| !word.is_quoted).unwrap_or_default();
        if variable.is(text) {
            let left_out = format!("this {shown} record is left out");
            self.variables
                .take(variable, &word, known.is_some(), &left_out);
            self.is_unknown |= known.is_none();
            return Ok(known);
        }
        literal(variable, &word).map(Some)
    }

    /// An address in the place of which no variable stands.
    pub(super) fn literal_address<A: FromStr>(
        &mut self,
        shown: &str,
        variable: &Variable,
    ) -> Result<A, ZoneFileError> {
        literal(variable, &self.next(shown, variable.what)?)
    }

    fn read_hex(&mut self, shown: &str) -> Result<(), ZoneFileError> {
        let (first, words) = self.rest(shown, "bytes in hexadecimal")?;
        let decoded = HEXLOWER_PERMISSIVE.decode(&joined(words));
        let bytes = decoded.ok().filter(|bytes| !bytes.is_empty());
        let bytes = bytes.ok_or_else(|| {
            first.error("from here on it is no row of bytes, two hexadecimal digits each")
        })?;
        self.push(&bytes)
    }

    fn read_eui(&mut self, shown: &str, length: usize) -> Result<(), ZoneFileError> {
        let word = self.next(shown, "an address of hexadecimal bytes")?;
        let text = word.plain().unwrap_or_default();
        let are_pairs = text.split('-').all(|pair| pair.len() == 2);
        let digits = text.replace('-', "");
        let decoded = HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok();
        let bytes = decoded.filter(|bytes| are_pairs && bytes.len() == length);
        let bytes = bytes.ok_or_else(|| {
            let example = "00-00-5e-00-53-2a-00-01";
            let example = example.get(..3 * length - 1).unwrap_or(example);
            word.error(format!("{} is no address such as {example}", word.shown()))
        })?;
        self.push(&bytes)
    }

    /// RFC 3597 section 5: `\# LENGTH HEX`.
    fn read_generic(&mut self, rtype: u16, shown: &str) -> Result<(), ZoneFileError> {
        let sign = self.next(shown, "its data")?;
        let word = self.next(shown, "the length of its data behind \\#")?;
        let length: u16 = word.number(65_535)?;
        let length = usize::from(length);
        if !self.words.is_empty() {
            self.read_hex(shown)?;
        }
        let found = self.bytes.len();
        if found != length {
            return Err(word.error(format!("there are {found} bytes, not {length}")));
        }
        // Behind where a name could point to: it has to be whole.
        let message = [&[0; wire::HEADER_LEN], self.bytes.as_slice()].concat();
        let range = wire::HEADER_LEN..message.len();
        let read = wire::map_rdata(&message, range, rtype.into(), |name| name);
        match read {
            Some(read) if read == self.bytes => Ok(()),
            Some(_) | None => Err(sign.error(format!(
                "these bytes are no data of the type {shown} (names must not be compressed)"
            ))),
        }
    }
}

fn literal<A: FromStr>(variable: &Variable, word: &Word<'_>) -> Result<A, ZoneFileError> {
    let Variable { what, example, .. } = variable;
    let address = word.plain().and_then(|text| text.parse().ok());
    address.ok_or_else(|| word.error(format!("{} is not {what}, such as {example}", word.shown())))
}

fn joined(words: &[Word<'_>]) -> Vec<u8> {
    words.iter().flat_map(|word| word.raw).copied().collect()
}

fn algorithm(mnemonic: &str) -> Option<u8> {
    Some(match mnemonic.to_ascii_uppercase().as_str() {
        "DELETE" => 0,
        "RSASHA1" => 5,
        "NSEC3RSASHA1" | "RSASHA1-NSEC3-SHA1" => 7,
        "RSASHA256" => 8,
        "RSASHA512" => 10,
        "ECDSAP256SHA256" => 13,
        "ECDSAP384SHA384" => 14,
        "ED25519" => 15,
        "ED448" => 16,
        _ => return None,
    })
}

fn certificate_type(mnemonic: &str) -> Option<u16> {
    Some(match mnemonic.to_ascii_uppercase().as_str() {
        "PKIX" => 1,
        "SPKI" => 2,
        "PGP" => 3,
        "IPKIX" => 4,
        "ISPKI" => 5,
        "IPGP" => 6,
        "ACPKIX" => 7,
        "IACPKIX" => 8,
        "URI" => 253,
        "OID" => 254,
        _ => return None,
    })
}
