//! Accepts or refuses what a client sent, before any of it is looked up.

use std::net::SocketAddr;

use hickory_proto::op::{Edns, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;

use super::reply::{self, Head};
use crate::resolve::{Ede, Question, UDP_PAYLOAD_LEN, ede};
use crate::wire::{self, Header, MAX_MESSAGE_LEN, flags};

/// The least that every client can take over UDP (RFC 1035 section 2.3.4).
const MIN_UDP_LEN: u16 = 512;
/// The EDNS version that is spoken (RFC 6891 section 6.1.3).
const EDNS_VERSION: u8 = 0;

/// How a message came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// In a datagram: answers have a size limit.
    Udp,
    /// On a stream.
    Tcp,
}

/// What is done with a message.
#[derive(Debug)]
pub(crate) enum Admission {
    /// Silence.
    Drop,
    /// An answer without a lookup.
    Reply(Vec<u8>),
    /// A question to look up.
    Question(Box<Asked>),
}

/// An admitted question, and what its answer must look like.
#[derive(Debug)]
pub(crate) struct Asked {
    /// What to look up.
    pub(crate) question: Question,
    /// What the reply copies from the query.
    pub(crate) head: Head,
}

/// Judges a message. `served` tells whether this client may ask; if not, `may_refuse` whether it is
/// told so.
pub(crate) fn admit(
    message: &[u8],
    client: SocketAddr,
    transport: Transport,
    served: bool,
    may_refuse: impl FnOnce() -> bool,
) -> Admission {
    let Some(header) = Header::read(message) else {
        return Admission::Drop;
    };
    // A response must never be answered, or two servers could be made to talk forever; and nobody
    // can be reached at port 0.
    if header.has(flags::QR) || client.port() == 0 {
        return Admission::Drop;
    }
    let mut head = Head {
        id: header.id,
        flags: header.flags,
        question: Vec::new(),
        dnssec_ok: None,
        limit: match transport {
            Transport::Udp => usize::from(MIN_UDP_LEN),
            Transport::Tcp => MAX_MESSAGE_LEN,
        },
    };
    if !served && !may_refuse() {
        return Admission::Drop;
    }
    let error = |head: &Head, code: ResponseCode, ede: Option<Ede>| {
        Admission::Reply(reply::error(head, code.into(), ede.as_ref()))
    };
    if header.opcode() != 0 {
        return error(&head, ResponseCode::NotImp, None);
    }
    // Before any parser: one that trusts the counts can be made to reserve megabytes.
    let [questions, answers, authorities, _] = header.counts;
    if questions != 1 || answers != 0 || authorities != 0 {
        return error(&head, ResponseCode::FormErr, None);
    }
    let Some(question) = wire::plain_question(message) else {
        return error(&head, ResponseCode::FormErr, None);
    };
    head.question = message.get(question).unwrap_or_default().to_vec();
    let protocol = match transport {
        Transport::Udp => Protocol::Udp,
        Transport::Tcp => Protocol::Tcp,
    };
    let Ok(request) = Request::from_bytes(message.to_vec(), client, protocol) else {
        return error(&head, ResponseCode::FormErr, None);
    };
    let Some(query) = request.queries.queries().first() else {
        return error(&head, ResponseCode::FormErr, None);
    };
    if let Some(edns) = &request.edns {
        head.dnssec_ok = Some(edns.flags().dnssec_ok);
        if transport == Transport::Udp {
            head.limit = usize::from(udp_limit(edns));
        }
        if edns.version() != EDNS_VERSION {
            return error(&head, ResponseCode::BADVERS, None);
        }
    }
    if !served {
        let ede = Ede::new(ede::PROHIBITED, "this client's network is not served");
        return error(&head, ResponseCode::Refused, Some(ede));
    }
    let rtype = query.query_type();
    if query.query_class() != DNSClass::IN || is_transfer_or_meta(rtype) {
        let ede = Ede::new(ede::NOT_SUPPORTED, "only ordinary types of class IN");
        return error(&head, ResponseCode::Refused, Some(ede));
    }
    Admission::Question(Box::new(Asked {
        question: Question {
            name: query.name().into(),
            rtype,
            dnssec_ok: head.dnssec_ok.unwrap_or(false),
            checking_disabled: header.has(flags::CD),
        },
        head,
    }))
}

/// The size of a UDP answer: what the client takes, but at least 512 (RFC 6891 section 6.2.3), and
/// at most what is never fragmented.
fn udp_limit(edns: &Edns) -> u16 {
    edns.max_payload().clamp(MIN_UDP_LEN, UDP_PAYLOAD_LEN)
}

/// Zone transfers and the other types that are no data (RFC 6895 section 3.1), but ANY.
fn is_transfer_or_meta(rtype: RecordType) -> bool {
    let number = u16::from(rtype);
    number == 0 || rtype == RecordType::OPT || (128..255).contains(&number)
}
