//! The wire format of DNS messages (RFC 1035 section 4), read without understanding every type.
//!
//! pkbridge keeps answers as the bytes that arrived. So it needs to know where names, TTLs and record
//! data lie, and must not choke on a type that no library knows. Everything here checks bounds and
//! panics on no input.

use std::ops::Range;

use hickory_proto::rr::{Name, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

/// Bytes of a message header (RFC 1035 section 4.1.1).
pub const HEADER_LEN: usize = 12;
/// Longest name on the wire, in bytes (RFC 1035 section 3.1).
pub const MAX_NAME_LEN: usize = 255;
/// Longest message that a length prefix over TCP can announce (RFC 1035 section 4.2.2).
pub const MAX_MESSAGE_LEN: usize = 65_535;
/// The EDNS option that carries an Extended DNS Error (RFC 8914 section 2).
pub const OPTION_EDE: u16 = 15;
/// The class IN.
pub const CLASS_IN: u16 = 1;

/// Bits of the second 16-bit word of the header (RFC 1035 section 4.1.1, RFC 4035 section 3).
pub mod flags {
    /// This is a response.
    pub const QR: u16 = 0x8000;
    /// The four bits of the operation code.
    pub const OPCODE: u16 = 0x7800;
    /// Authoritative answer.
    pub const AA: u16 = 0x0400;
    /// Truncated.
    pub const TC: u16 = 0x0200;
    /// Recursion desired.
    pub const RD: u16 = 0x0100;
    /// Recursion available.
    pub const RA: u16 = 0x0080;
    /// Authentic data.
    pub const AD: u16 = 0x0020;
    /// Checking disabled.
    pub const CD: u16 = 0x0010;
    /// The low four bits of the RCODE.
    pub const RCODE: u16 = 0x000f;
}

/// What makes bytes not a DNS message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The message ends before something that it announces.
    #[error("the message is cut short")]
    Truncated,
    /// A label of an unknown kind, a pointer that does not point backwards, or a name over 255 bytes.
    #[error("a name is malformed")]
    BadName,
}

/// The big-endian 16-bit number at `at`.
pub fn read_u16(message: &[u8], at: usize) -> Option<u16> {
    let bytes = message.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

/// The big-endian 32-bit number at `at`.
pub fn read_u32(message: &[u8], at: usize) -> Option<u32> {
    let bytes = message.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// Overwrites the bytes at `at`; does nothing where they would not fit.
pub fn write_at(message: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(slot) = message.get_mut(at..at.saturating_add(bytes.len())) {
        slot.copy_from_slice(bytes);
    }
}

/// A TTL as it counts: values with the top bit set are 0 (RFC 2181 section 8).
pub fn effective_ttl(raw: u32) -> u32 {
    if raw >> 31 == 0 { raw } else { 0 }
}

/// The header of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Transaction ID.
    pub id: u16,
    /// The flag word; see [`flags`].
    pub flags: u16,
    /// Entries in the question, answer, authority and additional sections.
    pub counts: [u16; 4],
}

impl Header {
    /// Reads the header; `None` if there are fewer than 12 bytes.
    pub fn read(message: &[u8]) -> Option<Self> {
        Some(Self {
            id: read_u16(message, 0)?,
            flags: read_u16(message, 2)?,
            counts: [
                read_u16(message, 4)?,
                read_u16(message, 6)?,
                read_u16(message, 8)?,
                read_u16(message, 10)?,
            ],
        })
    }

    /// The operation code (0 is QUERY).
    pub fn opcode(&self) -> u16 {
        (self.flags & flags::OPCODE) >> 11
    }

    /// Whether a flag of [`flags`] is set.
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// The position after the name at `at`. A pointer must lead to an earlier place behind the header, and
/// the labels there must not reach into what pointed at them (RFC 1035 section 4.1.4: "a prior
/// occurrence"); the whole name must fit 255 bytes. So a walk always ends.
pub fn skip_name(message: &[u8], at: usize) -> Result<usize, WireError> {
    walk_name(message, at, |_| true)
}

/// Shows each label of the name at `at`, from the left and without the root, until `show` says that it
/// has seen enough. What is no name ends where it goes wrong.
pub fn show_labels<'a>(message: &'a [u8], at: usize, mut show: impl FnMut(&'a [u8]) -> bool) {
    let _ = walk_name(message, at, |place| {
        match message.get(place.start + 1..place.end) {
            Some([]) | None => true,
            Some(label) => show(label),
        }
    });
}

/// As [`skip_name`]; each label's place, with its length byte, must be to the liking of `accept`.
fn walk_name(
    message: &[u8],
    at: usize,
    mut accept: impl FnMut(Range<usize>) -> bool,
) -> Result<usize, WireError> {
    let mut position = at;
    let mut start = at;
    let mut limit = usize::MAX;
    let mut end = None;
    let mut length = 1_usize;
    loop {
        if position >= limit {
            return Err(WireError::BadName);
        }
        let byte = usize::from(*message.get(position).ok_or(WireError::Truncated)?);
        let next = position + byte + 1;
        match byte {
            0..=63 if !accept(position..next) => return Err(WireError::BadName),
            0 => return Ok(end.unwrap_or(next)),
            1..=63 => {
                length += byte + 1;
                if length > MAX_NAME_LEN {
                    return Err(WireError::BadName);
                }
                position = next;
            }
            192..=255 => {
                let pointer = read_u16(message, position).ok_or(WireError::Truncated)?;
                let target = usize::from(pointer & 0x3fff);
                if target >= start || target < HEADER_LEN {
                    return Err(WireError::BadName);
                }
                end.get_or_insert(position + 2);
                limit = start;
                start = target;
                position = target;
            }
            _ => return Err(WireError::BadName),
        }
    }
}

/// The name at `at` and the position after it.
pub fn read_name(message: &[u8], at: usize) -> Result<(Name, usize), WireError> {
    let end = skip_name(message, at)?;
    let offset = u16::try_from(at).map_err(|_| WireError::Truncated)?;
    let mut decoder = BinDecoder::new(message).clone(offset);
    let mut name = Name::read(&mut decoder).map_err(|_| WireError::BadName)?;
    name.set_fqdn(true);
    Ok((name, end))
}

/// A name as uncompressed bytes, in its own letter case.
pub fn name_bytes(name: &Name) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len() + 1);
    for label in name.iter() {
        // A label of hickory's is 1 to 63 bytes long.
        bytes.push(u8::try_from(label.len()).unwrap_or(0));
        bytes.extend_from_slice(label);
    }
    bytes.push(0);
    bytes
}

/// The end of the question's name when it is plain: no pointer, so that it can be echoed anywhere.
pub fn plain_question(message: &[u8]) -> Option<Range<usize>> {
    let mut position = HEADER_LEN;
    loop {
        let length = usize::from(*message.get(position)?);
        match length {
            0 => break,
            1..=63 => position += length + 1,
            _ => return None,
        }
    }
    let end = position + 5;
    let name_length = position + 1 - HEADER_LEN;
    (name_length <= MAX_NAME_LEN && message.len() >= end).then_some(HEADER_LEN..end)
}

/// The section that a record stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// Answer.
    Answer,
    /// Authority.
    Authority,
    /// Additional.
    Additional,
}

/// Where one record of a message lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordAt {
    /// The section.
    pub section: Section,
    /// Position of the owner name, which is where the record starts.
    pub start: usize,
    /// The type's number.
    pub rtype: u16,
    /// The class's number.
    pub class: u16,
    /// Position of the 4-byte TTL.
    pub ttl_at: usize,
    /// The TTL as it stands there.
    pub ttl: u32,
    /// The record data; its end is the end of the record.
    pub rdata: Range<usize>,
}

/// Where everything in a message lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The header.
    pub header: Header,
    /// Position after the question section.
    pub question_end: usize,
    /// The records of all sections, in order.
    pub records: Vec<RecordAt>,
    /// Position after the last record; bytes after it belong to nothing.
    pub end: usize,
}

impl Layout {
    /// Walks a whole message, blind to types. The work is bounded by the message's length, whatever
    /// its counts claim.
    pub fn read(message: &[u8]) -> Result<Self, WireError> {
        let header = Header::read(message).ok_or(WireError::Truncated)?;
        let [questions, answers, authorities, additionals] = header.counts;
        let mut position = HEADER_LEN;
        for _ in 0..questions {
            position = skip_name(message, position)? + 4;
            if position > message.len() {
                return Err(WireError::Truncated);
            }
        }
        let question_end = position;
        let mut records: Vec<RecordAt> = Vec::new();
        for (section, count) in [
            (Section::Answer, answers),
            (Section::Authority, authorities),
            (Section::Additional, additionals),
        ] {
            for _ in 0..count {
                let record = read_record(message, position, section, &records)?;
                position = record.rdata.end;
                records.push(record);
            }
        }
        Ok(Self {
            header,
            question_end,
            records,
            end: position,
        })
    }

    /// The records of one section.
    pub fn section(&self, section: Section) -> impl Iterator<Item = &RecordAt> {
        self.records
            .iter()
            .filter(move |record| record.section == section)
    }
}

/// Reads the record at `start`. Its owner may be spelt by bytes of the question, of other owners and of
/// record data, but not by the numbers of the records before it: TTLs change, and the name with them.
fn read_record(
    message: &[u8],
    start: usize,
    section: Section,
    before: &[RecordAt],
) -> Result<RecordAt, WireError> {
    let is_name = |label: Range<usize>| {
        // The first record whose data begins behind the label's start.
        let next = before.partition_point(|record| record.rdata.start <= label.start);
        before
            .get(next)
            .is_none_or(|record| label.end <= record.ttl_at - 4)
    };
    let fixed = walk_name(message, start, is_name)?;
    let field = |offset| read_u16(message, fixed + offset).ok_or(WireError::Truncated);
    let ttl = read_u32(message, fixed + 4).ok_or(WireError::Truncated)?;
    let rdata_start = fixed + 10;
    let rdata_end = rdata_start + usize::from(field(8)?);
    if rdata_end > message.len() {
        return Err(WireError::Truncated);
    }
    Ok(RecordAt {
        section,
        start,
        rtype: field(0)?,
        class: field(2)?,
        ttl_at: fixed + 4,
        ttl,
        rdata: rdata_start..rdata_end,
    })
}

/// A piece of record data, as far as its shape matters here.
#[derive(Clone, Copy)]
enum Field {
    Bytes(usize),
    Name,
    CharacterString,
    /// One or more character strings up to the end.
    CharacterStrings,
    Rest,
}

/// The shape of a type's record data: the types whose names may be compressed (RFC 3597 section 4),
/// the ones whose size or strings a client would trip over, and SVCB and HTTPS, whose target follows
/// the suffix that was asked. All others are bytes.
fn shape(rtype: RecordType) -> &'static [Field] {
    use Field::{Bytes, CharacterString, CharacterStrings, Name, Rest};
    match u16::from(rtype) {
        1 => &[Bytes(4)],                          // A
        2..=5 | 7..=9 | 12 | 23 | 39 => &[Name],   // NS MD MF CNAME MB MG MR PTR NSAP-PTR DNAME
        6 => &[Name, Name, Bytes(20)],             // SOA
        13 => &[CharacterString, CharacterString], // HINFO
        14 | 17 => &[Name, Name],                  // MINFO RP
        15 | 18 | 21 | 36 => &[Bytes(2), Name],    // MX AFSDB RT KX
        16 | 99 => &[CharacterStrings],            // TXT SPF
        24 => &[Bytes(18), Name, Rest],            // SIG
        26 => &[Bytes(2), Name, Name],             // PX
        28 => &[Bytes(16)],                        // AAAA
        30 => &[Name, Rest],                       // NXT
        33 => &[Bytes(6), Name],                   // SRV
        35 => &[
            Bytes(4),
            CharacterString,
            CharacterString,
            CharacterString,
            Name,
        ], // NAPTR
        64 | 65 => &[Bytes(2), Name, Rest],        // SVCB HTTPS
        _ => &[Rest],
    }
}

/// The record data in `range` with its names uncompressed and passed through `map`; `None` if the
/// bytes do not have the shape of the type.
pub fn map_rdata(
    message: &[u8],
    range: Range<usize>,
    rtype: RecordType,
    map: impl Fn(Name) -> Name,
) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(range.len());
    let mut position = range.start;
    let within = |end: usize| (end <= range.end).then_some(end);
    for field in shape(rtype) {
        let end = match field {
            Field::Bytes(length) => within(position + length)?,
            Field::CharacterString => character_string_end(message, position).and_then(within)?,
            Field::CharacterStrings => {
                let mut end = character_string_end(message, position).and_then(within)?;
                while end < range.end {
                    end = character_string_end(message, end).and_then(within)?;
                }
                end
            }
            Field::Name => {
                let (name, end) = read_name(message, position).ok()?;
                out.extend(name_bytes(&map(name)));
                position = within(end)?;
                continue;
            }
            Field::Rest => range.end,
        };
        out.extend_from_slice(message.get(position..end)?);
        position = end;
    }
    (position == range.end).then_some(out)
}

fn character_string_end(message: &[u8], at: usize) -> Option<usize> {
    Some(at + 1 + usize::from(*message.get(at)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        let mut name = Name::from_ascii(text).unwrap();
        name.set_fqdn(true);
        name
    }

    #[test]
    fn a_pointer_must_point_backwards() {
        let mut message = vec![0; 12];
        message.extend([0xc0, 12]);
        assert_eq!(skip_name(&message, 12), Err(WireError::BadName));
        let mut message = vec![0; 12];
        message.extend([1, b'a', 0xc0, 12]);
        assert_eq!(skip_name(&message, 12), Err(WireError::BadName));
        let mut message = vec![0; 12];
        message.extend([1, b'a', 0, 0xc0, 12]);
        assert_eq!(skip_name(&message, 15), Ok(17));
        assert_eq!(read_name(&message, 15).unwrap().0, name("a."));
    }

    #[test]
    fn labels_behind_a_pointer_must_not_reach_into_what_points() {
        // Offset 0: a label of 10 bytes, then one of 3 that takes in the name at 12.
        let mut message = vec![10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3];
        message.extend([0xc0, 0, 0, 0]);
        assert_eq!(skip_name(&message, 12), Err(WireError::BadName));
        assert_eq!(read_name(&message, 12), Err(WireError::BadName));
    }

    #[test]
    fn an_owner_must_not_be_spelt_by_a_ttl_or_the_header() {
        let with_owner = |pointer: u8| {
            let mut message = vec![0; 12];
            message[7] = 2;
            // A record of the root with TTL 0x01_61_00_00, and one whose owner points somewhere.
            message.extend([0, 0, 1, 0, 1, 1, b'a', 0, 0, 0, 0]);
            message.extend([0xc0, pointer, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0]);
            message
        };
        let (root, ttl, header) = (12, 17, 8);
        assert!(Layout::read(&with_owner(root)).is_ok());
        assert_eq!(Layout::read(&with_owner(ttl)), Err(WireError::BadName));
        assert_eq!(Layout::read(&with_owner(header)), Err(WireError::BadName));
    }

    #[test]
    fn a_name_over_255_bytes_is_refused() {
        let mut message = vec![0; 12];
        for _ in 0..4 {
            message.push(62);
            message.extend([b'x'; 62]);
        }
        message.push(0);
        assert_eq!(skip_name(&message, 12), Ok(message.len()));
        message.pop();
        message.extend([3, b'a', b'b', b'c', 0]);
        assert_eq!(skip_name(&message, 12), Err(WireError::BadName));
    }

    #[test]
    fn counts_that_lie_cost_nothing() {
        let mut message = vec![0; 12];
        message[6..12].fill(0xff);
        assert_eq!(Layout::read(&message), Err(WireError::Truncated));
    }

    #[test]
    fn names_in_record_data_are_expanded_and_mapped() {
        // "a." at 12, then an MX whose exchange is a pointer to it.
        let mut message = vec![0; 12];
        message.extend([1, b'a', 0]);
        message.extend([0, 10, 0xc0, 12]);
        let rdata = map_rdata(&message, 15..19, RecordType::MX, |found| {
            found.append_name(&name("pkarr.")).unwrap()
        });
        assert_eq!(rdata.unwrap(), b"\x00\x0a\x01a\x05pkarr\x00");
    }

    #[test]
    fn record_data_of_the_wrong_shape_is_refused() {
        let message = [4, b'a', b'b', 0, 0, 0, 0];
        let keep = |name: Name| name;
        assert!(map_rdata(&message, 0..6, RecordType::A, keep).is_none());
        assert!(map_rdata(&message, 0..4, RecordType::A, keep).is_some());
        assert!(map_rdata(&message, 0..3, RecordType::TXT, keep).is_none());
        assert!(map_rdata(&message, 0..0, RecordType::TXT, keep).is_none());
        assert!(map_rdata(&message, 0..3, RecordType::Unknown(4711), keep).is_some());
    }

    #[test]
    fn no_bytes_make_the_walk_panic() {
        let mut state = 1_u32;
        for round in 0..20_000_usize {
            let mut message = vec![0_u8; round % 90];
            for byte in &mut message {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let random = (state >> 24) as u8;
                *byte = if random < 160 { random % 4 } else { random };
            }
            let _ = Layout::read(&message);
            let _ = plain_question(&message);
            for at in 0..message.len() {
                let _ = read_name(&message, at);
                let _ = map_rdata(&message, at..message.len(), RecordType::NAPTR, |name| name);
            }
        }
    }
}
