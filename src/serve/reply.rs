//! From an answer to the bytes that leave: ID, flags, the client's spelling, TTLs, OPT, size.

use tokio::time::Instant;

use super::edns::{EdeRef, ReplyOpt, Without};
use crate::resolve::{Answer, Ede};
use crate::wire::{self, HEADER_LEN, MAX_MESSAGE_LEN, flags};

/// RCODE SERVFAIL: what a client without EDNS gets for an RCODE that needs it.
const SERVFAIL: u16 = 2;
/// INFO-CODE "Cached Error" (RFC 8914 section 4.14).
const CACHED_ERROR: EdeRef<'static> = (13, "");
/// Room for an OPT with the usual options, so that most replies are allocated once.
const OPT_ROOM: usize = 64;

/// What a reply copies from its query, and what it owes it. `Q` is the question section: a copy of it,
/// or a slice of the query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head<Q = Vec<u8>> {
    /// Transaction ID.
    pub(super) id: u16,
    /// The query's flag word.
    pub(super) flags: u16,
    /// The question section, in the client's own letter case; empty if it could not be read.
    pub(super) question: Q,
    /// The OPT, if the query had one.
    pub(super) opt: Option<ReplyOpt>,
    /// Whether this client, if it asks, may be told by AD that an answer comes from verified packets.
    pub(super) may_vouch: bool,
    /// Largest reply in bytes.
    pub(super) limit: usize,
}

impl Head<&[u8]> {
    /// The same with a question section of its own.
    pub(super) fn to_owned(&self) -> Head {
        Head {
            id: self.id,
            flags: self.flags,
            question: self.question.to_vec(),
            opt: self.opt.clone(),
            may_vouch: self.may_vouch,
            limit: self.limit,
        }
    }
}

/// The reply that carries an answer. `cached` says that it was not looked up for this query.
pub(crate) fn answer<Q: AsRef<[u8]>>(
    head: &Head<Q>,
    answer: &Answer,
    cached: bool,
    now: Instant,
) -> Vec<u8> {
    let mut reply = Vec::with_capacity(answer.wire().len() + OPT_ROOM);
    write_answer(&mut reply, head, answer, cached, now);
    reply
}

/// Writes the reply that carries an answer, in place of what is in the buffer.
pub(crate) fn write_answer<Q: AsRef<[u8]>>(
    reply: &mut Vec<u8>,
    head: &Head<Q>,
    answer: &Answer,
    cached: bool,
    now: Instant,
) {
    let mut kept = wire::read_u16(answer.wire(), 2).unwrap_or(0) & (flags::AA | flags::AD);
    if head.may_vouch && answer.is_verified() {
        kept |= flags::AD;
    }
    let content = Content {
        question_end: answer.question_end(),
        kept,
        rcode: answer.rcode(),
        edes: answer.edes(),
        cached_error: (cached && answer.is_failure()).then_some(CACHED_ERROR),
    };
    reply.clear();
    reply.extend_from_slice(answer.wire());
    wire::write_at(reply, HEADER_LEN, head.question.as_ref());
    let age = answer.age(now);
    if age > 0 {
        for &offset in answer.ttl_offsets() {
            let at = usize::from(offset);
            if let Some(ttl) = wire::read_u32(reply, at) {
                wire::write_at(reply, at, &ttl.saturating_sub(age).to_be_bytes());
            }
        }
    }
    finish(head, reply, &content);
}

/// A reply without records.
pub(crate) fn error<Q: AsRef<[u8]>>(head: &Head<Q>, rcode: u16, ede: Option<&Ede>) -> Vec<u8> {
    let question = head.question.as_ref();
    let question_end = HEADER_LEN + question.len();
    let mut reply = Vec::with_capacity(question_end + OPT_ROOM);
    reply.extend([0; HEADER_LEN]);
    let questions = u16::from(!question.is_empty());
    wire::write_at(&mut reply, 4, &questions.to_be_bytes());
    reply.extend_from_slice(question);
    let content = Content {
        question_end,
        kept: 0,
        rcode,
        edes: ede.map_or(&[], std::slice::from_ref),
        cached_error: None,
    };
    finish(head, &mut reply, &content);
    reply
}

fn pair(ede: &Ede) -> EdeRef<'_> {
    (ede.code, &ede.text)
}

/// What a reply says beside its records.
struct Content<'a> {
    /// Where the question ends.
    question_end: usize,
    /// AA and AD, as far as they hold.
    kept: u16,
    /// All 12 bits of the RCODE.
    rcode: u16,
    /// Why the answer is not plain (RFC 8914 section 2: there may be several).
    edes: &'a [Ede],
    /// One more, for a failure from the cache.
    cached_error: Option<EdeRef<'a>>,
}

/// Writes ID and flags, appends the OPT, and cuts down what is over the limit.
fn finish<Q>(head: &Head<Q>, reply: &mut Vec<u8>, content: &Content<'_>) {
    let rcode = if content.rcode > flags::RCODE && head.opt.is_none() {
        SERVFAIL
    } else {
        content.rcode
    };
    let dnssec_ok = head.opt.as_ref().is_some_and(|opt| opt.dnssec_ok);
    let wants_ad = dnssec_ok || head.flags & flags::AD != 0;
    let mut word = flags::QR | flags::RA;
    // The opcode is copied, too (RFC 1035 section 4.1.1); Z stays zero.
    word |= head.flags & (flags::OPCODE | flags::RD | flags::CD);
    word |= content.kept & flags::AA;
    if wants_ad {
        // RFC 6840 section 5.8: only for those who asked.
        word |= content.kept & flags::AD;
    }
    word |= rcode & flags::RCODE;
    if !fit_opt(head, reply, rcode, content) {
        // RFC 6891 section 7: the OPT stays in a truncated reply. RFC 2181 section 9: the client
        // ignores what is left of the records, so none are.
        word |= flags::TC;
        reply.truncate(content.question_end);
        wire::write_at(reply, 6, &[0; 6]);
        fit_opt(head, reply, rcode, content);
    }
    wire::write_at(reply, 0, &head.id.to_be_bytes());
    wire::write_at(reply, 2, &word.to_be_bytes());
    if head.opt.is_some() {
        let additionals = wire::read_u16(reply, 10).unwrap_or(0).saturating_add(1);
        wire::write_at(reply, 10, &additionals.to_be_bytes());
    }
}

/// Appends the OPT that the query calls for (RFC 6891 section 6.1.1), with as much in it as fits;
/// `false` if the reply is too large all the same.
fn fit_opt<Q>(head: &Head<Q>, reply: &mut Vec<u8>, rcode: u16, content: &Content<'_>) -> bool {
    let limit = head.limit.min(MAX_MESSAGE_LEN);
    let Some(opt) = &head.opt else {
        return reply.len() <= limit;
    };
    let end = reply.len();
    Without::ALL.into_iter().any(|without| {
        reply.truncate(end);
        opt.append_to(
            reply,
            rcode,
            content.edes.iter().map(pair).chain(content.cached_error),
            without,
        );
        reply.len() <= limit
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use hickory_proto::op::Message;
    use hickory_proto::rr::{Name, RecordType};

    use super::*;
    use crate::resolve::{Failure, Question};

    const EDE_TEXT_LEN: usize = 600;

    fn question() -> Question {
        Question {
            name: Name::from_ascii("example.com.").unwrap(),
            rtype: RecordType::A,
            dnssec_ok: false,
            checking_disabled: false,
        }
    }

    fn opt(dnssec_ok: bool) -> ReplyOpt {
        ReplyOpt {
            dnssec_ok,
            cookie: None,
            nsid: None,
            keepalive: false,
        }
    }

    fn head(dnssec_ok: Option<bool>) -> Head {
        Head {
            id: 0x1234,
            flags: flags::RD | flags::CD,
            question: b"\x07eXample\x03CoM\x00\x00\x01\x00\x01".to_vec(),
            opt: dnssec_ok.map(opt),
            may_vouch: false,
            limit: 512,
        }
    }

    /// An answer of `count` A records whose owner points to the question, TTL 300.
    fn stored(count: u16) -> Answer {
        let mut wire = vec![0, 0, 0x84, 0x20, 0, 1];
        wire.extend(count.to_be_bytes());
        wire.extend([0, 0, 0, 0]);
        wire.extend(question().wire());
        for last in 0..count {
            wire.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 192, 0]);
            wire.extend(last.to_be_bytes());
        }
        Answer::new(wire, 0, Instant::now(), Duration::from_secs(300)).unwrap()
    }

    /// The reply now, to a question that was looked up for it.
    fn reply(head: &Head, stored: &Answer) -> Vec<u8> {
        answer(head, stored, false, Instant::now())
    }

    /// The codes of the options in the OPT of a reply, in their order, and all their bytes.
    fn options(reply: &[u8]) -> (Vec<u16>, Vec<u8>) {
        let layout = wire::Layout::read(reply).unwrap();
        let record = layout.records.iter().find(|record| record.rtype == 41);
        let bytes = reply[record.unwrap().rdata.clone()].to_vec();
        let (mut codes, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            codes.push(wire::read_u16(&bytes, at).unwrap());
            at += 4 + usize::from(wire::read_u16(&bytes, at + 2).unwrap());
        }
        assert_eq!(at, bytes.len());
        (codes, bytes)
    }

    #[tokio::test(start_paused = true)]
    async fn a_reply_has_the_clients_id_spelling_and_flags_and_aged_ttls() {
        let stored = stored(2);
        tokio::time::advance(Duration::from_secs(100)).await;
        let bytes = reply(&head(None), &stored);
        assert_eq!(
            bytes[12..][..head(None).question.len()],
            head(None).question
        );
        let message = Message::from_vec(&bytes).unwrap();
        assert_eq!(message.metadata.id, 0x1234);
        assert!(message.metadata.recursion_available);
        assert!(message.metadata.recursion_desired);
        assert!(message.metadata.checking_disabled);
        assert!(message.metadata.authoritative, "AA is kept");
        assert!(!message.metadata.authentic_data, "nobody asked for AD");
        assert!(message.edns.is_none());
        assert!(message.answers.iter().all(|record| record.ttl == 200));
        let asked_ad = Head {
            flags: flags::AD,
            ..head(None)
        };
        let message = Message::from_vec(&reply(&asked_ad, &stored)).unwrap();
        assert!(message.metadata.authentic_data);
        tokio::time::advance(Duration::from_secs(1000)).await;
        let message = Message::from_vec(&reply(&asked_ad, &stored)).unwrap();
        assert!(message.answers.iter().all(|record| record.ttl == 0));
    }

    #[tokio::test]
    async fn rfc6840_5_8_ad_of_a_verified_answer_goes_to_those_who_asked_and_may_know() {
        for verified in [false, true] {
            let mut wire = vec![0, 0, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            wire.extend(question().wire());
            let stored = Answer::new(wire, 0, Instant::now(), Duration::ZERO).unwrap();
            let stored = stored.with_verified(verified);
            for (asked, dnssec_ok) in [
                (0, None),
                (0, Some(false)),
                (flags::AD, None),
                (0, Some(true)),
            ] {
                for may_vouch in [false, true] {
                    let head = Head {
                        flags: asked,
                        may_vouch,
                        ..head(dnssec_ok)
                    };
                    let wants = asked != 0 || dnssec_ok == Some(true);
                    let word = wire::read_u16(&reply(&head, &stored), 2).unwrap();
                    let told = word & flags::AD != 0;
                    assert_eq!(
                        told,
                        verified && wants && may_vouch,
                        "{asked} {dnssec_ok:?}"
                    );
                }
            }
        }
    }

    #[tokio::test]
    async fn rfc6891_7_a_truncated_reply_keeps_question_and_opt() {
        let stored = stored(40);
        let message = Message::from_vec(&reply(&head(Some(true)), &stored)).unwrap();
        assert!(message.metadata.truncation);
        assert_eq!((message.queries.len(), message.answers.len()), (1, 0));
        assert!(message.edns.unwrap().flags().dnssec_ok);
        let roomy = Head {
            limit: 1232,
            ..head(Some(false))
        };
        let message = Message::from_vec(&reply(&roomy, &stored)).unwrap();
        assert!(!message.metadata.truncation);
        assert_eq!(message.answers.len(), 40);
    }

    #[tokio::test]
    async fn options_that_do_not_fit_go_before_the_records_and_in_order() {
        const RECORDS: u16 = 20;
        let ede = Ede::new(3, "x".repeat(EDE_TEXT_LEN));
        let stored = stored(RECORDS).with_edes(vec![ede]);
        let with_options = |limit| Head {
            opt: Some(ReplyOpt {
                cookie: Some([7; 24]),
                nsid: Some(Arc::from("name")),
                keepalive: true,
                ..opt(false)
            }),
            limit,
            ..head(None)
        };
        let bare = stored.wire().len() + 11;
        let (cookie, ede, nsid, keepalive) = (28, 6, 8, 6);
        for (room, expected) in [
            (
                cookie + ede + EDE_TEXT_LEN + nsid + keepalive,
                &[10, 15, 3, 11][..],
            ),
            (cookie + ede + nsid + keepalive, &[10, 15, 3, 11]),
            (cookie + ede + nsid + keepalive - 1, &[10, 3, 11]),
            (cookie + nsid + keepalive, &[10, 3, 11]),
            (cookie + nsid + keepalive - 1, &[10, 11]),
            (cookie + keepalive, &[10, 11]),
            (cookie + keepalive - 1, &[10]),
            (cookie, &[10]),
        ] {
            let reply = reply(&with_options(bare + room), &stored);
            assert!(reply.len() <= bare + room);
            assert_eq!(options(&reply).0, expected, "{room}");
            let message = Message::from_vec(&reply).unwrap();
            assert!(!message.metadata.truncation, "{room}");
            assert_eq!(message.answers.len(), usize::from(RECORDS));
        }
        // Without the records there is room again.
        let reply = reply(&with_options(bare + cookie - 1), &stored);
        assert!(Message::from_vec(&reply).unwrap().metadata.truncation);
        assert_eq!(options(&reply).0, [10, 15, 3, 11]);
    }

    #[tokio::test]
    async fn a_failure_says_why_and_whether_it_is_an_old_one() {
        let failure = Answer::failure(&question(), &Failure::NoUpstream, Duration::ZERO);
        let looked_up = reply(&head(Some(false)), &failure);
        let message = Message::from_vec(&looked_up).unwrap();
        assert_eq!(u16::from(message.metadata.response_code), SERVFAIL);
        let own = b"\x00\x0f\x00\x24\x00\x16no upstream resolver is configured";
        assert_eq!(options(&looked_up).1, own);
        // RFC 8914 section 4.14, beside the reason itself (section 2).
        let cached = answer(&head(Some(false)), &failure, true, Instant::now());
        assert_eq!(
            options(&cached).1,
            [&own[..], &[0, 15, 0, 2, 0, 13]].concat()
        );
        let fine = answer(&head(Some(false)), &stored(1), true, Instant::now());
        assert_eq!(options(&fine).1, b"");
    }

    #[test]
    fn rfc6891_6_1_3_badvers_needs_an_opt() {
        let reply = error(&head(Some(false)), 16, None);
        let message = Message::from_vec(&reply).unwrap();
        assert_eq!(u16::from(message.metadata.response_code), 16);
        let reply = error(&head(None), 16, None);
        assert_eq!(u16::from(reply[3]) & flags::RCODE, SERVFAIL);
    }
}
