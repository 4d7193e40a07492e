//! The DNS message of a packet, in the form that the reference implementation builds: a reply with ID 0, all
//! records in the answer section, names compressed where it compresses them. So what fits there fits here.

use std::collections::HashMap;

use hickory_proto::rr::{Name, RecordType};

use super::zone::Record;
use crate::wire::{self, CLASS_IN, HEADER_LEN, flags};

/// The highest offset that a pointer can have (RFC 1035 section 4.1.4).
const MAX_POINTER: u16 = 0x3fff;
/// The bits that make two bytes a pointer.
const POINTER: u16 = 0xc000;

/// A DNS message of records.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Composed {
    /// The message.
    pub dns: Vec<u8>,
    /// Bytes that each record takes in it, in the order of the records. The first with a name also takes
    /// the room of the name.
    pub sizes: Vec<usize>,
}

/// Writes records as one message. A message that is too large for a packet is written as well, so that it can
/// be told what takes the room.
///
/// ```
/// use pkbridge::pkarr::{PublicKey, SigningKey, compose, read_zone_file};
///
/// let key = PublicKey::from(&SigningKey::from_bytes(&[7; 32]));
/// let message = compose(&read_zone_file(b"@ A 192.0.2.1\nwww CNAME @", key)?);
/// assert_eq!(message.sizes, [68, 18]);
/// assert_eq!(message.dns.len(), 12 + 68 + 18);
/// # Ok::<(), pkbridge::pkarr::ZoneFileErrors>(())
/// ```
pub fn compose(records: &[Record]) -> Composed {
    let mut writer = Writer::new();
    let sizes = records
        .iter()
        .map(|record| {
            writer.write(
                &record.owner,
                record.rtype,
                CLASS_IN,
                record.ttl,
                &record.rdata,
            )
        })
        .collect();
    Composed {
        dns: writer.finish(),
        sizes,
    }
}

/// A message in the making.
pub(super) struct Writer {
    dns: Vec<u8>,
    count: u16,
    /// Where each name, and each end of it, has been written, in its letter case.
    written: HashMap<Vec<u8>, u16>,
}

impl Writer {
    pub(super) fn new() -> Self {
        let mut dns = vec![0; HEADER_LEN];
        wire::write_at(&mut dns, 2, &flags::QR.to_be_bytes());
        Self {
            dns,
            count: 0,
            written: HashMap::new(),
        }
    }

    /// Writes a record, its data with names uncompressed; returns how many bytes it takes.
    pub(super) fn write(
        &mut self,
        owner: &Name,
        rtype: RecordType,
        class: u16,
        ttl: u32,
        rdata: &[u8],
    ) -> usize {
        let start = self.dns.len();
        self.write_name(&wire::name_bytes(owner));
        self.dns.extend(u16::from(rtype).to_be_bytes());
        self.dns.extend(class.to_be_bytes());
        self.dns.extend(ttl.to_be_bytes());
        let length_at = self.dns.len();
        self.dns.extend([0; 2]);
        self.write_rdata(rtype, rdata);
        let length = self.dns.len() - length_at - 2;
        // What does not fit these numbers is far above a packet's size, and refused for that.
        let length = u16::try_from(length).unwrap_or(u16::MAX);
        wire::write_at(&mut self.dns, length_at, &length.to_be_bytes());
        self.count = self.count.saturating_add(1);
        self.dns.len() - start
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        wire::write_at(&mut self.dns, 6, &self.count.to_be_bytes());
        self.dns
    }

    fn write_rdata(&mut self, rtype: RecordType, rdata: &[u8]) {
        let Some((prefix, names)) = compressible(rtype, rdata) else {
            self.dns.extend_from_slice(rdata);
            return;
        };
        let (prefix, mut rest) = rdata.split_at(prefix);
        self.dns.extend_from_slice(prefix);
        for _ in 0..names {
            let end = uncompressed_end(rest).unwrap_or(rest.len());
            let (name, behind) = rest.split_at(end);
            self.write_name(name);
            rest = behind;
        }
        self.dns.extend_from_slice(rest);
    }

    /// Writes an uncompressed name: label by label, until the rest of it stands somewhere already.
    fn write_name(&mut self, mut name: &[u8]) {
        while let Some((&length, _)) = name.split_first().filter(|(length, _)| **length > 0) {
            if let Some(offset) = self.written.get(name) {
                self.dns.extend((POINTER | offset).to_be_bytes());
                return;
            }
            let offset = u16::try_from(self.dns.len()).unwrap_or(u16::MAX);
            if offset <= MAX_POINTER {
                self.written.insert(name.to_vec(), offset);
            }
            let (label, rest) = name.split_at((usize::from(length) + 1).min(name.len()));
            self.dns.extend_from_slice(label);
            name = rest;
        }
        self.dns.push(0);
    }
}

/// How many bytes stand in front of the names in a type's data, and how many names there are, if the reference
/// compresses them. Every reader knows of names in these: RFC 3597 section 4.
fn compressible(rtype: RecordType, rdata: &[u8]) -> Option<(usize, usize)> {
    let (prefix, names) = match u16::from(rtype) {
        2..=5 | 7..=9 | 12 | 23 => (0, 1), // NS MD MF CNAME MB MG MR PTR NSAP-PTR
        6 | 14 | 17 => (0, 2),             // SOA MINFO RP
        15 | 18 | 21 => (2, 1),            // MX AFSDB RT
        _ => return None,
    };
    // Data that is not of its type's shape stays as it is.
    let mut rest = rdata.get(prefix..)?;
    for _ in 0..names {
        rest = rest.get(uncompressed_end(rest)?..)?;
    }
    Some((prefix, names))
}

/// The end of the uncompressed name that the bytes begin with.
fn uncompressed_end(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match usize::from(*bytes.get(at)?) {
            0 => return Some(at + 1),
            length @ 1..=63 => at += length + 1,
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pkarr::{PublicKey, SigningKey, read_zone_file};

    fn composed(zone: &str) -> (Composed, Vec<Record>) {
        let key = PublicKey::from(&SigningKey::from_bytes(&[7; 32]));
        let records = read_zone_file(zone.as_bytes(), key).unwrap();
        (compose(&records), records)
    }

    #[test]
    fn what_is_written_is_read_again_and_the_sizes_add_up() {
        let zone = "@ SOA ns hostmaster.mail 1 2 3 4 5\n@ MX 10 mail\nmail A 192.0.2.1\n\
                    @ RP a.mail .\nwww CNAME mail\n_s._tcp SRV 0 0 1 www\n@ HTTPS 1 www alpn=h2\n\
                    @ AFSDB 1 x.example.\n@ TXT \"mail\" \"\"\n";
        let (message, records) = composed(zone);
        let sum: usize = message.sizes.iter().sum();
        assert_eq!(sum + HEADER_LEN, message.dns.len());
        let layout = wire::Layout::read(&message.dns).unwrap();
        assert_eq!(layout.header.flags, flags::QR);
        assert_eq!((layout.header.id, layout.end), (0, message.dns.len()));
        let read: Vec<Record> = layout
            .records
            .iter()
            .map(|at| Record {
                owner: wire::read_name(&message.dns, at.start).unwrap().0,
                rtype: at.rtype.into(),
                ttl: at.ttl,
                rdata: wire::map_rdata(&message.dns, at.rdata.clone(), at.rtype.into(), |n| n)
                    .unwrap(),
            })
            .collect();
        assert_eq!(read, records);
    }

    #[test]
    fn a_name_is_written_once_but_in_data_where_it_must_not_be_compressed() {
        let key = PublicKey::from(&SigningKey::from_bytes(&[7; 32])).to_string();
        let count = |zone: &str| {
            let dns = composed(zone).0.dns;
            let found = dns.windows(key.len()).filter(|w| *w == key.as_bytes());
            found.count()
        };
        assert_eq!(
            count("@ NS ns\nns A 192.0.2.1\n@ MX 1 a.ns\nb RP c.b @\n"),
            1
        );
        assert_eq!(count("@ SRV 0 0 1 a\n@ HTTPS 1 b\nc DNAME d\n"), 4);
    }

    #[test]
    fn data_that_is_not_of_its_types_shape_stays_as_it_is() {
        for rdata in [&b""[..], b"\x05ab", b"\xc0\x0c", b"\x01a\0\0"] {
            let record = Record {
                owner: Name::root(),
                rtype: RecordType::MX,
                ttl: 1,
                rdata: rdata.to_vec(),
            };
            assert!(compose(&[record]).dns.ends_with(rdata));
        }
    }
}
