//! From an answer to the bytes that leave: ID, flags, the client's spelling, TTLs, OPT, size.

use tokio::time::Instant;

use crate::resolve::{Answer, Ede, UDP_PAYLOAD_LEN};
use crate::wire::{self, HEADER_LEN, MAX_MESSAGE_LEN, OPTION_EDE, flags};

/// RCODE SERVFAIL: what a client without EDNS gets for an RCODE that needs it.
const SERVFAIL: u16 = 2;

/// What a reply copies from its query.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    /// Transaction ID.
    pub(crate) id: u16,
    /// The query's flag word.
    pub(crate) flags: u16,
    /// The question section, in the client's own letter case; empty if it could not be read.
    pub(crate) question: Vec<u8>,
    /// The DO bit of the query's OPT; `None` without OPT.
    pub(crate) dnssec_ok: Option<bool>,
    /// Largest reply in bytes.
    pub(crate) limit: usize,
}

/// The reply that carries an answer.
pub(crate) fn answer(head: &Head, answer: &Answer, now: Instant) -> Vec<u8> {
    let mut reply = answer.wire().to_vec();
    let age = answer.age(now);
    for &offset in answer.ttl_offsets() {
        let at = usize::from(offset);
        if let Some(ttl) = wire::read_u32(&reply, at) {
            wire::write_at(&mut reply, at, &ttl.saturating_sub(age).to_be_bytes());
        }
    }
    wire::write_at(&mut reply, HEADER_LEN, &head.question);
    let kept = wire::read_u16(&reply, 2).unwrap_or(0);
    finish(
        head,
        reply,
        answer.question_end(),
        kept,
        answer.rcode(),
        answer.ede(),
    )
}

/// A reply without records.
pub(crate) fn error(head: &Head, rcode: u16, ede: Option<&Ede>) -> Vec<u8> {
    let mut reply = vec![0; HEADER_LEN];
    let questions = u16::from(!head.question.is_empty());
    wire::write_at(&mut reply, 4, &questions.to_be_bytes());
    reply.extend_from_slice(&head.question);
    let end = reply.len();
    finish(head, reply, end, 0, rcode, ede)
}

/// Writes ID and flags, appends the OPT, and cuts down what is over the limit.
fn finish(
    head: &Head,
    mut reply: Vec<u8>,
    question_end: usize,
    kept: u16,
    rcode: u16,
    ede: Option<&Ede>,
) -> Vec<u8> {
    let rcode = if rcode > flags::RCODE && head.dnssec_ok.is_none() {
        SERVFAIL
    } else {
        rcode
    };
    let wants_ad = head.dnssec_ok == Some(true) || head.flags & flags::AD != 0;
    let mut word = flags::QR | flags::RA;
    // The opcode is copied, too (RFC 1035 section 4.1.1); Z stays zero.
    word |= head.flags & (flags::OPCODE | flags::RD | flags::CD);
    word |= kept & flags::AA;
    if wants_ad {
        // RFC 6840 section 5.8: only for those who asked.
        word |= kept & flags::AD;
    }
    word |= rcode & flags::RCODE;

    let mut opt = opt(head, rcode, ede);
    if reply.len() + opt.len() > head.limit {
        // The text is the first thing that can be spared.
        opt = self::opt(head, rcode, None);
    }
    if reply.len() + opt.len() > head.limit.min(MAX_MESSAGE_LEN) {
        // RFC 6891 section 7: the OPT stays in a truncated reply. RFC 2181 section 9: the client
        // ignores what is left of the records, so none are.
        word |= flags::TC;
        reply.truncate(question_end);
        wire::write_at(&mut reply, 6, &[0; 6]);
    }
    wire::write_at(&mut reply, 0, &head.id.to_be_bytes());
    wire::write_at(&mut reply, 2, &word.to_be_bytes());
    if !opt.is_empty() {
        let additionals = wire::read_u16(&reply, 10).unwrap_or(0).saturating_add(1);
        wire::write_at(&mut reply, 10, &additionals.to_be_bytes());
        reply.extend(opt);
    }
    reply
}

/// The OPT of a reply, if the query had one (RFC 6891 section 6.1.1).
fn opt(head: &Head, rcode: u16, ede: Option<&Ede>) -> Vec<u8> {
    let Some(dnssec_ok) = head.dnssec_ok else {
        return Vec::new();
    };
    let [_, rcode_high] = (rcode >> 4).to_be_bytes();
    let mut options = Vec::new();
    if let Some(ede) = ede {
        let length = u16::try_from(2 + ede.text.len()).unwrap_or(2);
        let text = ede.text.as_bytes().get(..usize::from(length) - 2);
        options.extend(OPTION_EDE.to_be_bytes());
        options.extend(length.to_be_bytes());
        options.extend(ede.code.to_be_bytes());
        options.extend(text.unwrap_or_default());
    }
    let mut opt = vec![0, 0, 41];
    opt.extend(UDP_PAYLOAD_LEN.to_be_bytes());
    opt.extend([rcode_high, 0, if dnssec_ok { 0x80 } else { 0 }, 0]);
    opt.extend(u16::try_from(options.len()).unwrap_or(0).to_be_bytes());
    opt.extend(options);
    opt
}

#[cfg(test)]
mod tests {
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

    fn head(dnssec_ok: Option<bool>) -> Head {
        Head {
            id: 0x1234,
            flags: flags::RD | flags::CD,
            question: b"\x07eXample\x03CoM\x00\x00\x01\x00\x01".to_vec(),
            dnssec_ok,
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

    #[tokio::test(start_paused = true)]
    async fn the_clients_id_spelling_and_bits_and_ttls_counted_down() {
        let stored = stored(2);
        tokio::time::advance(Duration::from_secs(100)).await;
        let reply = answer(&head(None), &stored, Instant::now());
        assert_eq!(reply[..2], [0x12, 0x34]);
        assert_eq!(&reply[12..29], head(None).question);
        let message = Message::from_vec(&reply).unwrap();
        assert!(message.metadata.authoritative && message.metadata.recursion_available);
        assert!(message.metadata.recursion_desired && message.metadata.checking_disabled);
        assert!(!message.metadata.authentic_data, "nobody asked for AD");
        assert!(message.edns.is_none());
        assert!(message.answers.iter().all(|record| record.ttl == 200));
        let asked_ad = Head {
            flags: flags::AD,
            ..head(None)
        };
        let message = Message::from_vec(&answer(&asked_ad, &stored, Instant::now())).unwrap();
        assert!(message.metadata.authentic_data);
        tokio::time::advance(Duration::from_secs(1000)).await;
        let message = Message::from_vec(&answer(&asked_ad, &stored, Instant::now())).unwrap();
        assert!(message.answers.iter().all(|record| record.ttl == 0));
    }

    #[tokio::test]
    async fn rfc6891_7_a_truncated_reply_keeps_question_and_opt() {
        let stored = stored(40);
        let reply = answer(&head(Some(true)), &stored, Instant::now());
        let message = Message::from_vec(&reply).unwrap();
        assert!(message.metadata.truncation);
        assert_eq!((message.queries.len(), message.answers.len()), (1, 0));
        assert!(message.edns.unwrap().flags().dnssec_ok);
        let roomy = Head {
            limit: 1232,
            ..head(Some(false))
        };
        let message = Message::from_vec(&answer(&roomy, &stored, Instant::now())).unwrap();
        assert!(!message.metadata.truncation);
        assert_eq!(message.answers.len(), 40);
    }

    #[tokio::test]
    async fn an_ede_that_does_not_fit_goes_before_the_records() {
        let ede = Ede::new(3, "x".repeat(EDE_TEXT_LEN));
        let stored = stored(20).with_ede(Some(ede));
        let message =
            Message::from_vec(&answer(&head(Some(false)), &stored, Instant::now())).unwrap();
        assert_eq!(message.answers.len(), 20);
        assert!(message.edns.unwrap().options().as_ref().is_empty());
    }

    #[tokio::test]
    async fn a_failure_says_why() {
        let failure = Answer::failure(&question(), &Failure::NoUpstream, Duration::ZERO);
        let reply = answer(&head(Some(false)), &failure, Instant::now());
        let message = Message::from_vec(&reply).unwrap();
        assert_eq!(u16::from(message.metadata.response_code), SERVFAIL);
        let text = b"\x00\x16no upstream resolver is configured";
        assert!(reply.windows(text.len()).any(|window| window == text));
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
