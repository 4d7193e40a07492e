//! What goes to an upstream or a name server, as bytes.

use super::answers::Question;
use crate::wire::{HEADER_LEN, flags};

/// The UDP payload size that pkbridge announces: no fragments on any path (DNS flag day 2020).
pub const UDP_PAYLOAD_LEN: u16 = 1232;
/// The type of the OPT pseudo-record.
pub(super) const OPT: u16 = 41;
/// The option COOKIE (RFC 7873 section 4).
pub(super) const OPTION_COOKIE: u16 = 10;
/// The option Padding (RFC 7830 section 3).
const OPTION_PADDING: u16 = 12;
/// An encrypted query is as long as a multiple of this (RFC 8467 section 4.1).
const PADDING_BLOCK: usize = 128;
/// Code and length of an option, which stand before its data.
const OPTION_HEAD_LEN: usize = 4;
/// The bit that tells upper from lower case in ASCII.
const CASE_BIT: u8 = 0x20;

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// One that looks for the answer on our behalf.
    Resolver,
    /// One that tells what it has itself: an iterative query (RFC 1034 section 5.3.3).
    NameServer,
}

/// How a query is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style<'a> {
    /// Whether it has an OPT.
    pub(super) edns: bool,
    /// Whether the letters of its name are in random case, which a forger has to guess
    /// (draft-vixie-dnsext-dns0x20).
    pub(super) mixes_case: bool,
    /// The data of the COOKIE option; empty for none.
    pub(super) cookie: &'a [u8],
    /// Whether its length is to tell nothing: for encrypted transports.
    pub(super) padded: bool,
}

impl Default for Style<'_> {
    fn default() -> Self {
        Self {
            edns: true,
            mixes_case: false,
            cookie: &[],
            padded: false,
        }
    }
}

/// A query with a random ID.
#[derive(Debug)]
pub(super) struct Query {
    bytes: Vec<u8>,
    question_end: usize,
}

impl Query {
    /// A query for `peer`. What a resolver is to do for us does not concern a name server.
    pub(super) fn new(peer: Peer, question: &Question, style: &Style<'_>) -> Self {
        let word = match peer {
            // AD asks for the AD bit of the answer (RFC 6840 section 5.7).
            Peer::Resolver if question.checking_disabled => flags::RD | flags::AD | flags::CD,
            Peer::Resolver => flags::RD | flags::AD,
            Peer::NameServer => 0,
        };
        let mut bytes = Vec::with_capacity(PADDING_BLOCK);
        bytes.extend(rand::random::<u16>().to_be_bytes());
        bytes.extend(word.to_be_bytes());
        bytes.extend([0, 1, 0, 0, 0, 0, 0, u8::from(style.edns)]);
        question.write_to(&mut bytes);
        let question_end = bytes.len();
        if style.mixes_case {
            mix_case(bytes.get_mut(HEADER_LEN..).unwrap_or_default(), question);
        }
        if style.edns {
            let dnssec_ok = if question.dnssec_ok { 0x80 } else { 0 };
            bytes.push(0);
            bytes.extend(OPT.to_be_bytes());
            bytes.extend(UDP_PAYLOAD_LEN.to_be_bytes());
            bytes.extend([0, 0, dnssec_ok, 0]);
            append_options(&mut bytes, style);
        }
        Self {
            bytes,
            question_end,
        }
    }

    /// The message.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The question section, as it is spelt in the message.
    pub(super) fn question(&self) -> &[u8] {
        let question = self.bytes.get(HEADER_LEN..self.question_end);
        question.unwrap_or_default()
    }
}

/// The length of the options, and they.
fn append_options(bytes: &mut Vec<u8>, style: &Style<'_>) {
    let mut length = 0;
    let cookie = style.cookie;
    if !cookie.is_empty() {
        length += OPTION_HEAD_LEN + cookie.len();
    }
    let mut padding = 0;
    if style.padded {
        length += OPTION_HEAD_LEN;
        let unpadded = bytes.len() + 2 + length;
        padding = unpadded.next_multiple_of(PADDING_BLOCK) - unpadded;
        length += padding;
    }
    // A cookie has at most 40 bytes, and padding less than a block.
    let as_u16 = |length| u16::try_from(length).unwrap_or(0).to_be_bytes();
    bytes.extend(as_u16(length));
    if !cookie.is_empty() {
        bytes.extend(OPTION_COOKIE.to_be_bytes());
        bytes.extend(as_u16(cookie.len()));
        bytes.extend(cookie);
    }
    if style.padded {
        bytes.extend(OPTION_PADDING.to_be_bytes());
        bytes.extend(as_u16(padding));
        bytes.resize(bytes.len() + padding, 0);
    }
}

/// Gives each letter of the name a random case. The question is in lower case.
fn mix_case(question: &mut [u8], asked: &Question) {
    // As many bits as a name has bytes at most.
    let bits: [u64; 4] = rand::random();
    let mut bits = bits
        .iter()
        .flat_map(|word| (0..64).map(move |bit| word >> bit & 1 == 1));
    let mut labels = asked.name.iter().map(<[u8]>::len);
    let mut rest = question;
    while let Some(length) = labels.next()
        && let Some((label, behind)) = rest
            .get_mut(1..)
            .and_then(|name| name.split_at_mut_checked(length))
    {
        for byte in label {
            if byte.is_ascii_lowercase() && bits.next().unwrap_or(false) {
                *byte &= !CASE_BIT;
            }
        }
        rest = behind;
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::{Name, RecordType};

    use super::*;

    fn question(name: &str) -> Question {
        Question {
            name: Name::from_ascii(name).unwrap(),
            rtype: RecordType::A,
            dnssec_ok: true,
            checking_disabled: false,
        }
    }

    fn styled(name: &str, style: &Style<'_>) -> Query {
        Query::new(Peer::Resolver, &question(name), style)
    }

    #[test]
    fn letters_get_either_case_and_nothing_else_changes() {
        let style = Style {
            mixes_case: true,
            ..Style::default()
        };
        let name = "aa.zz-09_.abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz.";
        let plain = question(name).wire();
        let mut seen = [[false; 2]; 255];
        for _ in 0..200 {
            let query = styled(name, &style);
            assert!(query.question().eq_ignore_ascii_case(&plain));
            for (at, (mixed, plain)) in query.question().iter().zip(&plain).enumerate() {
                seen[at][usize::from(mixed != plain)] = true;
                assert!(plain.is_ascii_lowercase() || mixed == plain);
            }
        }
        let letters = |at: &usize| plain[*at].is_ascii_lowercase();
        // The bytes behind the name are no letters, although some look like lengths of labels.
        let name_len = plain.len() - 4;
        assert!(
            (0..name_len)
                .filter(letters)
                .all(|at| seen[at] == [true; 2])
        );
    }

    #[test]
    fn a_padded_query_is_as_long_as_its_neighbours() {
        let style = Style {
            padded: true,
            ..Style::default()
        };
        for name in ["a.", "some.example.", "a-somewhat-longer.name.example.com."] {
            let query = styled(name, &style);
            assert_eq!(query.bytes().len(), 128, "{name}");
            assert!(crate::wire::Layout::read(query.bytes()).is_ok());
        }
        let long = format!("{0}.{0}.", "x".repeat(63));
        assert_eq!(styled(&long, &style).bytes().len(), 256);
    }

    #[test]
    fn options_stand_in_the_opt_with_their_lengths() {
        let style = Style {
            cookie: b"12345678",
            ..Style::default()
        };
        let query = styled("a.", &style);
        let end = query.bytes().len();
        assert_eq!(query.bytes()[end - 12..end - 8], [0, 10, 0, 8]);
        assert_eq!(query.bytes()[end - 14..end - 12], [0, 12]);
        let layout = crate::wire::Layout::read(query.bytes()).unwrap();
        assert_eq!(layout.records[0].rtype, OPT);
    }
}
