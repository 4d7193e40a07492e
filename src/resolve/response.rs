//! What is accepted from an upstream or a name server, as bytes.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};

use super::answers::Question;
use super::failure::Ede;
use super::query::{OPT, OPTION_COOKIE, Query};
use crate::pkarr::Record;
use crate::wire::{
    self, HEADER_LEN, Header, Layout, MAX_MESSAGE_LEN, OPTION_EDE, RecordAt, Section, flags,
};

/// A server's answer: its bytes without the OPT, whose contents are here.
#[derive(Debug, Clone)]
pub struct Response {
    /// The message, without OPT.
    pub wire: Vec<u8>,
    /// Where everything in it lies.
    pub layout: Layout,
    /// All 12 bits of the RCODE.
    pub rcode: u16,
    /// The server's Extended DNS Errors.
    pub edes: Vec<Ede>,
    /// The server's COOKIE option (RFC 7873): our part, and its own.
    pub(super) cookie: Option<Box<[u8]>>,
    /// Whether it speaks EDNS.
    pub(super) had_opt: bool,
    /// Whether the question came back letter by letter as it was sent.
    pub(super) keeps_case: bool,
    /// Where the aliases in it lead, if whoever gave it has not gone there: whoever asked is to go on with
    /// this name.
    pub(super) leads_to: Option<Box<Name>>,
    /// Which of the servers for the name gave it, if others may be asked instead.
    pub server: Option<usize>,
}

/// What a datagram, or a message on a stream, is to a query.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Its answer.
    Answer(Response),
    /// Its answer, cut short: ask over TCP.
    Truncated,
    /// Its answer by ID and question, but no DNS message.
    Malformed,
    /// Something else; the answer may still come (RFC 5452 section 9.1).
    NotOurs,
}

impl Response {
    /// Takes a whole message; `None` if it is malformed.
    pub fn from_message(message: Vec<u8>) -> Option<Self> {
        take_opt(message)
    }

    /// A record of the message on its own, names expanded; `None` if its data is not of its type's shape.
    pub fn record(&self, record: &RecordAt) -> Option<Record> {
        let rtype = RecordType::from(record.rtype);
        Some(Record {
            owner: wire::read_name(&self.wire, record.start).ok()?.0,
            rtype,
            ttl: wire::read_u32(&self.wire, record.ttl_at)?,
            rdata: wire::map_rdata(&self.wire, record.rdata.clone(), rtype, |name| name)?,
        })
    }

    /// Whether another server should be asked: this one would not or could not answer.
    pub fn is_server_failure(&self) -> bool {
        [
            ResponseCode::ServFail,
            ResponseCode::Refused,
            ResponseCode::FormErr,
            ResponseCode::NotImp,
            // What these are about is between the server and us.
            ResponseCode::BADVERS,
            ResponseCode::BADCOOKIE,
        ]
        .map(u16::from)
        .contains(&self.rcode)
    }

    /// Whether the server did not understand the query.
    pub(super) fn is_format_error(&self) -> bool {
        let stumbles = [ResponseCode::FormErr, ResponseCode::NotImp].map(u16::from);
        stumbles.contains(&self.rcode)
    }

    /// Whether the server stumbled over the OPT of the query.
    pub(super) fn lacks_edns(&self) -> bool {
        !self.had_opt && self.is_format_error()
    }

    /// Takes AA away, since the answer is no longer an authority's, and AD if somebody on the way
    /// could have set it (RFC 4035 section 4.9.3).
    #[must_use]
    pub fn for_clients(mut self, is_way_safe: bool) -> Self {
        let mut word = self.layout.header.flags & !flags::AA;
        if !is_way_safe {
            word &= !flags::AD;
        }
        self.layout.header.flags = word;
        wire::write_at(&mut self.wire, 2, &word.to_be_bytes());
        self
    }
}

/// Judges what came back for `query`. An answer has its ID and exactly its question (RFC 5452
/// section 9.1).
pub(super) fn accept(query: &Query, message: &[u8], question: &Question) -> Verdict {
    let Some(header) = Header::read(message) else {
        return Verdict::NotOurs;
    };
    let same_id = query.bytes().get(..2) == message.get(..2);
    if !same_id || !header.has(flags::QR) || header.opcode() != 0 {
        return Verdict::NotOurs;
    }
    let question = question.wire();
    let question_end = HEADER_LEN + question.len();
    let [questions, ..] = header.counts;
    let low_rcode = header.flags & flags::RCODE;
    // Some servers answer what they do not understand, or refuse, with a bare header. It proves
    // nothing, and it is no denial of a name.
    let no_errors = [ResponseCode::NoError, ResponseCode::NXDomain].map(u16::from);
    let is_bare = questions == 0 && message.len() == HEADER_LEN;
    let bare_error = is_bare && !no_errors.contains(&low_rcode);
    let mut keeps_case = false;
    if !bare_error {
        let echoed = message.get(HEADER_LEN..question_end).unwrap_or_default();
        if questions != 1 || !is_same_question(echoed, &question) {
            return Verdict::NotOurs;
        }
        keeps_case = echoed == query.question();
        if header.has(flags::TC) {
            return Verdict::Truncated;
        }
    }
    let mut wire = message.to_vec();
    if bare_error {
        wire::write_at(&mut wire, 4, &1_u16.to_be_bytes());
        wire.extend_from_slice(&question);
    } else {
        // The cached question is in lower case; each client gets its own spelling back.
        wire::write_at(&mut wire, HEADER_LEN, &question);
    }
    match take_opt(wire) {
        Some(mut response) => {
            lower_owners(&mut response, query, &question);
            Verdict::Answer(Response {
                keeps_case,
                ..response
            })
        }
        // Whoever cannot tell the case of the letters does not end the query with garbage.
        None if keeps_case => Verdict::Malformed,
        None => Verdict::NotOurs,
    }
}

/// Some servers write owner names out instead of pointing at the question: those that are the asked name,
/// or end it, are put in lower case, for the letter case of the query is nobody else's affair.
fn lower_owners(response: &mut Response, query: &Query, question: &[u8]) {
    let name = |question| <[u8]>::split_last_chunk::<4>(question).map_or(&[][..], |(name, _)| name);
    let (sent, plain) = (name(query.question()), name(question));
    if sent == plain {
        return;
    }
    for record in &response.layout.records {
        let is_pointer = response.wire.get(record.start).is_none_or(|b| *b > 63);
        // Type and class, two bytes each, stand between the owner and the TTL.
        let owner = record.start..record.ttl_at - 4;
        if is_pointer || !sent.ends_with(response.wire.get(owner.clone()).unwrap_or(&[0xff])) {
            continue;
        }
        let lower = plain.get(plain.len().saturating_sub(owner.len())..);
        wire::write_at(&mut response.wire, owner.start, lower.unwrap_or_default());
    }
}

/// Whether two questions are for the same name, in whatever case, the same type and the same class.
fn is_same_question(one: &[u8], other: &[u8]) -> bool {
    let split = |question| <[u8]>::split_last_chunk::<4>(question);
    let (Some((one, of_one)), Some((other, of_other))) = (split(one), split(other)) else {
        return false;
    };
    of_one == of_other && one.eq_ignore_ascii_case(other)
}

/// Takes the OPT out of a message. What stands behind it is written anew without compression, since
/// its pointers may no longer be right; OPT is nearly always last.
fn take_opt(mut wire: Vec<u8>) -> Option<Response> {
    let layout = Layout::read(&wire).ok()?;
    let mut rcode = layout.header.flags & flags::RCODE;
    let is_opt = |record: &RecordAt| record.rtype == OPT;
    let misplaced = |record: &RecordAt| is_opt(record) && record.section != Section::Additional;
    if layout.records.iter().any(misplaced) {
        // RFC 6891 section 6.1.1: only in the additional section.
        return None;
    }
    let mut opts = layout.section(Section::Additional).filter(|r| is_opt(r));
    let opt = opts.next().cloned();
    if opts.next().is_some() {
        // RFC 6891 section 6.1.1: no more than one.
        return None;
    }
    drop(opts);
    let Some(opt) = opt else {
        wire.truncate(layout.end);
        return Some(Response {
            layout,
            wire,
            rcode,
            edes: Vec::new(),
            cookie: None,
            had_opt: false,
            keeps_case: true,
            leads_to: None,
            server: None,
        });
    };
    let [rcode_high, ..] = opt.ttl.to_be_bytes();
    rcode |= u16::from(rcode_high) << 4;
    let options = wire.get(opt.rdata.clone())?;
    let edes = Options(options).filter(|(code, _)| *code == OPTION_EDE);
    let edes = edes.filter_map(|(_, data)| read_ede(data)).collect();
    let mut cookies = Options(options).filter(|(code, _)| *code == OPTION_COOKIE);
    let cookie = cookies.next().map(|(_, data)| data.into());
    let mut behind = Vec::new();
    for record in layout.records.iter().filter(|r| r.start > opt.start) {
        let (owner, fixed) = wire::read_name(&wire, record.start).ok()?;
        let rtype = record.rtype.into();
        let rdata = wire::map_rdata(&wire, record.rdata.clone(), rtype, |name| name)?;
        behind.extend(wire::name_bytes(&owner));
        behind.extend_from_slice(wire.get(fixed..fixed + 8)?);
        behind.extend(u16::try_from(rdata.len()).ok()?.to_be_bytes());
        behind.extend(rdata);
    }
    wire.truncate(opt.start);
    wire.extend(behind);
    if wire.len() > MAX_MESSAGE_LEN {
        return None;
    }
    let [_, _, _, additionals] = layout.header.counts;
    let left = additionals.checked_sub(1)?;
    wire::write_at(&mut wire, 10, &left.to_be_bytes());
    Some(Response {
        layout: Layout::read(&wire).ok()?,
        wire,
        rcode,
        edes,
        cookie,
        had_opt: true,
        keeps_case: true,
        leads_to: None,
        server: None,
    })
}

/// The options of an OPT: code and data.
struct Options<'a>(&'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (head, rest) = self.0.split_first_chunk::<4>()?;
        let (data, rest) = rest.split_at_checked(usize::from(wire::read_u16(head, 2)?))?;
        self.0 = rest;
        Some((wire::read_u16(head, 0)?, data))
    }
}

/// RFC 8914 section 2: the text is UTF-8 and may end in a zero byte.
fn read_ede(data: &[u8]) -> Option<Ede> {
    let (info_code, text) = data.split_first_chunk::<2>()?;
    let text = String::from_utf8_lossy(text);
    let text = text.trim_end_matches('\0');
    Some(Ede::new(u16::from_be_bytes(*info_code), text))
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::Name;

    use super::*;
    use crate::resolve::query::{Peer, Style};

    fn query() -> Query {
        Query::new(Peer::Resolver, &question(), &Style::default())
    }

    fn question() -> Question {
        Question {
            name: Name::from_ascii("example.com.").unwrap(),
            rtype: RecordType::A,
            dnssec_ok: false,
            checking_disabled: false,
        }
    }

    /// A reply to `query` with one A record, an OPT with an EDE, and another A behind the OPT.
    fn reply(query: &Query) -> Vec<u8> {
        let mut reply = query.bytes()[..HEADER_LEN].to_vec();
        reply[2] |= 0x80;
        reply[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 2]);
        reply.extend(question().wire());
        let a = |last| [&[0, 1, 0, 1, 0, 0, 1, 0, 0, 4, 192, 0, 2], &[last][..]].concat();
        reply.extend([0xc0, 12]);
        reply.extend(a(1));
        reply.extend([0, 0, 41, 4, 0xd0, 1, 0, 0, 0, 0, 9, 0, 15, 0, 5, 0, 22]);
        reply.extend(b"abc");
        reply.extend([1, b'x', 0xc0, 12]);
        reply.extend(a(2));
        reply
    }

    #[test]
    fn the_opt_is_taken_out_and_what_stands_behind_it_stays() {
        let query = query();
        let Verdict::Answer(response) = accept(&query, &reply(&query), &question()) else {
            panic!("refused");
        };
        assert_eq!(response.rcode, 16);
        assert_eq!(response.edes, [Ede::new(22, "abc")]);
        assert_eq!(response.layout.header.counts, [1, 1, 0, 1]);
        let last = response.layout.records.last().unwrap();
        let owner = wire::read_name(&response.wire, last.start).unwrap().0;
        assert_eq!(owner.to_ascii(), "x.example.com.");
        assert_eq!(response.wire[last.rdata.clone()], [192, 0, 2, 2]);
        assert_eq!(response.layout.end, response.wire.len());
    }

    #[test]
    fn only_the_asked_id_and_question_is_an_answer() {
        let query = query();
        let good = reply(&query);
        let verdict = |change: fn(&mut Vec<u8>)| {
            let mut message = good.clone();
            change(&mut message);
            accept(&query, &message, &question())
        };
        assert!(matches!(verdict(|_| ()), Verdict::Answer(_)));
        assert!(matches!(verdict(|m| m[13] = b'E'), Verdict::Answer(_)));
        assert!(matches!(verdict(|m| m[1] ^= 8), Verdict::NotOurs));
        assert!(matches!(verdict(|m| m[2] &= 0x7f), Verdict::NotOurs));
        assert!(matches!(verdict(|m| m[2] |= 0x28), Verdict::NotOurs));
        assert!(matches!(verdict(|m| m[13] = b'f'), Verdict::NotOurs));
        assert!(matches!(verdict(|m| m[26] = 28), Verdict::NotOurs));
        assert!(matches!(verdict(|m| m[5] = 2), Verdict::NotOurs));
        assert!(matches!(verdict(|m| m[2] |= 2), Verdict::Truncated));
        assert!(matches!(verdict(|m| m[7] = 9), Verdict::Malformed));
        assert!(matches!(verdict(|m| m.truncate(40)), Verdict::Malformed));
    }

    #[test]
    fn owners_in_the_letter_case_of_the_query_are_put_in_lower_case() {
        let style = Style {
            mixes_case: true,
            ..Style::default()
        };
        let query = Query::new(Peer::Resolver, &question(), &style);
        let mut message = query.bytes()[..HEADER_LEN].to_vec();
        message[2] |= 0x80;
        message[6..12].copy_from_slice(&[0, 5, 0, 0, 0, 0]);
        let asked = query.question();
        message.extend(asked);
        let name = &asked[..asked.len() - 4];
        let owners: [&[u8]; 5] = [
            &[0xc0, 12],
            name,
            &name[8..],
            &[0],
            // Of the server's own making.
            b"\x01X\xc0\x0c",
        ];
        for owner in owners {
            message.extend(owner);
            message.extend([0, 1, 0, 1, 0, 0, 1, 0, 0, 4, 192, 0, 2, 1]);
        }
        let Verdict::Answer(response) = accept(&query, &message, &question()) else {
            panic!("refused");
        };
        let owner = |record: &RecordAt| wire::read_name(&response.wire, record.start).unwrap().0;
        let owners: Vec<String> = response
            .layout
            .records
            .iter()
            .map(|record| owner(record).to_ascii())
            .collect();
        let expected = [
            "example.com.",
            "example.com.",
            "com.",
            ".",
            "X.example.com.",
        ];
        assert_eq!(owners, expected);
        assert_eq!(response.wire.len(), message.len());
    }

    #[test]
    fn rfc4035_4_9_3_ad_is_taken_away_if_somebody_could_have_set_it() {
        let query = query();
        let mut reply = reply(&query);
        reply[2] |= 0x04;
        reply[3] |= 0x20;
        for is_way_safe in [true, false] {
            let response = Response::from_message(reply.clone()).unwrap();
            let response = response.for_clients(is_way_safe);
            let header = Header::read(&response.wire).unwrap();
            assert_eq!(header, response.layout.header);
            assert_eq!(header.has(flags::AD), is_way_safe);
            assert!(!header.has(flags::AA));
        }
    }

    #[test]
    fn a_bare_header_with_an_error_is_an_answer() {
        let query = query();
        let mut bare = query.bytes()[..HEADER_LEN].to_vec();
        bare[2..12].copy_from_slice(&[0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0]);
        let Verdict::Answer(response) = accept(&query, &bare, &question()) else {
            panic!("refused");
        };
        assert!(response.lacks_edns());
        assert_eq!(response.layout.header.counts, [1, 0, 0, 0]);
        bare[3] = 0x80;
        assert!(matches!(
            accept(&query, &bare, &question()),
            Verdict::NotOurs
        ));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let query = query();
        let good = reply(&query);
        for at in 0..good.len() {
            for byte in [0, 1, 0x3f, 0xc0, 0xff] {
                let mut message = good.clone();
                message[at] = byte;
                let _ = accept(&query, &message, &question());
                let _ = accept(&query, &message[..at], &question());
            }
        }
    }
}
