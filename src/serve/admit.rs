//! Accepts or refuses what a client sent, before any of it is looked up.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::DNSClass;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;

use super::access::{Access, RefusalLimit};
use super::cookies::{Cookies, Judged};
use super::edns::{self, MIN_PAYLOAD, QueryOpt, ReplyOpt};
use super::reply::{self, Head};
use super::udp::Plain;
use super::{AuthenticData, ServeSettings};
use crate::resolve::{Asker, Ede, Question, UDP_PAYLOAD_LEN, ede};
use crate::wire::{self, Header, Layout, flags};

/// The opcode QUERY (RFC 1035 section 4.1.1).
const QUERY: u16 = 0;
/// Types that transfer zones (RFC 1995, RFC 5936).
const IXFR: u16 = 251;
const AXFR: u16 = 252;

/// How a message came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram: answers have a size limit.
    Udp,
    /// On a stream.
    Tcp,
}

/// What is done with a message.
#[derive(Debug)]
pub(super) enum Admission {
    /// Silence.
    Drop,
    /// An answer without a lookup.
    Reply(Vec<u8>),
    /// A question to look up.
    Question(Box<Asked>),
}

/// An admitted question, and what its answer must look like.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// What to look up.
    pub(super) question: Question,
    /// On whose behalf.
    pub(super) asker: Asker,
    /// What the reply copies from the query.
    pub(super) head: Head,
}

impl Asked {
    /// A plain query from a client that is served; `None` if its type has to be refused.
    pub(super) fn plain(
        query: &Plain<'_>,
        head: &Head<&[u8]>,
        client: SocketAddr,
    ) -> Option<Box<Self>> {
        let question = query.question()?;
        if is_refused(question.rtype.into()) {
            return None;
        }
        Some(Box::new(Self {
            question,
            asker: client.ip().into(),
            head: head.to_owned(),
        }))
    }
}

/// Judges messages.
#[derive(Debug)]
pub(super) struct Gate {
    access: Access,
    refusals: RefusalLimit,
    cookies: Cookies,
    authentic_data: AuthenticData,
    /// `None` tells nobody.
    nsid: Option<Arc<str>>,
}

/// What is answered without a lookup.
struct AtOnce {
    rcode: ResponseCode,
    ede: Option<Ede>,
}

impl AtOnce {
    fn plain(rcode: ResponseCode) -> Self {
        Self { rcode, ede: None }
    }

    fn because(rcode: ResponseCode, ede: u16, text: &str) -> Self {
        let ede = Some(Ede::new(ede, text));
        Self { rcode, ede }
    }
}

impl Gate {
    /// # Errors
    /// A text, if the networks cannot be used.
    pub(super) fn new(settings: ServeSettings) -> Result<Self, String> {
        Ok(Self {
            access: Access::new(&settings.allow)?,
            refusals: RefusalLimit::new(),
            cookies: Cookies::new(),
            authentic_data: settings.authentic_data,
            nsid: Some(settings.nsid.into()).filter(|nsid: &Arc<str>| !nsid.is_empty()),
        })
    }

    /// Judges a message.
    pub(super) fn admit(
        &self,
        message: &[u8],
        client: SocketAddr,
        transport: Transport,
    ) -> Admission {
        let Some(header) = Header::read(message) else {
            return Admission::Drop;
        };
        // A response must never be answered, or two servers could be made to talk forever; and nobody
        // can be reached at port 0.
        if header.has(flags::QR) || client.port() == 0 {
            return Admission::Drop;
        }
        let served = self.access.allows(client.ip());
        if !served && !self.refusals.permits(client.ip()) {
            return Admission::Drop;
        }
        // Its work is bounded by the message's length. A parser that trusts the counts comes after it.
        let layout = Layout::read(message).ok();
        let opt = layout
            .as_ref()
            .and_then(|layout| QueryOpt::read(message, layout, transport));
        let cookie = opt
            .as_ref()
            .and_then(|opt| opt.cookie.as_ref())
            .map(|cookie| self.cookies.judge(cookie, client.ip()));
        let [questions, ..] = header.counts;
        let question = wire::plain_question(message).filter(|_| questions == 1);
        let query = Query {
            message,
            header,
            question: question.and_then(|question| message.get(question)),
            walked: layout.is_some(),
            opt,
            cookie,
        };
        let head = self.head(&query, client.ip(), transport);
        match query.judge(served, client, transport) {
            Ok(question) => Admission::Question(Box::new(Asked {
                question,
                asker: client.ip().into(),
                head,
            })),
            Err(AtOnce { rcode, ede }) => {
                Admission::Reply(reply::error(&head, rcode.into(), ede.as_ref()))
            }
        }
    }

    /// What the reply to a plain query looks like; `None` if its client is not served.
    pub(super) fn admit_plain<'a>(
        &self,
        query: &Plain<'a>,
        client: SocketAddr,
    ) -> Option<Head<&'a [u8]>> {
        if client.port() == 0 || !self.access.allows(client.ip()) {
            return None;
        }
        Some(Head {
            id: query.id,
            flags: query.flags,
            question: query.question,
            opt: query.opt.map(|(_, dnssec_ok)| ReplyOpt {
                dnssec_ok,
                cookie: None,
                nsid: None,
                keepalive: false,
            }),
            may_vouch: self.may_vouch(client.ip()),
            limit: udp_limit(query.opt.map(|(payload, _)| payload)),
        })
    }

    /// What any reply to a query looks like.
    fn head(&self, query: &Query<'_>, client: IpAddr, transport: Transport) -> Head {
        let opt = query.opt.as_ref();
        Head {
            id: query.header.id,
            flags: query.header.flags,
            question: query.question.unwrap_or_default().to_vec(),
            opt: opt.map(|opt| ReplyOpt {
                dnssec_ok: opt.dnssec_ok,
                cookie: query.cookie.map(|cookie| cookie.reply),
                nsid: self.nsid.clone().filter(|_| opt.nsid),
                keepalive: opt.keepalive,
            }),
            may_vouch: self.may_vouch(client),
            limit: match transport {
                Transport::Udp => udp_limit(opt.map(|opt| opt.payload)),
                Transport::Tcp => u16::MAX.into(),
            },
        }
    }

    fn may_vouch(&self, client: IpAddr) -> bool {
        match self.authentic_data {
            AuthenticData::Never => false,
            AuthenticData::Loopback => client.to_canonical().is_loopback(),
            AuthenticData::Always => true,
        }
    }
}

/// The largest reply over UDP: what the client takes, and at most what is never fragmented.
fn udp_limit(payload: Option<u16>) -> usize {
    let payload = payload.unwrap_or(MIN_PAYLOAD);
    payload.clamp(MIN_PAYLOAD, UDP_PAYLOAD_LEN).into()
}

/// A message that is not a response, as far as it can be read.
struct Query<'a> {
    message: &'a [u8],
    header: Header,
    /// The question section, if it is one question and can be echoed as it is.
    question: Option<&'a [u8]>,
    /// All records lie within the message.
    walked: bool,
    opt: Option<QueryOpt<'a>>,
    cookie: Option<Judged>,
}

impl Query<'_> {
    /// The question to look up, or what is answered without.
    fn judge(
        &self,
        served: bool,
        client: SocketAddr,
        transport: Transport,
    ) -> Result<Question, AtOnce> {
        // What the rest of another opcode's message means is not known.
        if self.header.opcode() != QUERY {
            let text = "only queries are answered";
            return Err(AtOnce::because(
                ResponseCode::NotImp,
                ede::NOT_SUPPORTED,
                text,
            ));
        }
        let malformed = || AtOnce::plain(ResponseCode::FormErr);
        if !self.walked {
            return Err(malformed());
        }
        if let Some(opt) = &self.opt {
            // RFC 6891 section 6.1.3, before the options, which another version may change.
            if opt.version != edns::VERSION {
                return Err(AtOnce::plain(ResponseCode::BADVERS));
            }
            if !opt.well_formed {
                return Err(malformed());
            }
        }
        let [questions, answers, authorities, _] = self.header.counts;
        if [questions, answers, authorities] == [0; 3] {
            return Err(self.without_question(served));
        }
        let question = self.question.ok_or_else(malformed)?;
        let &[type_high, type_low, _, _] = question.last_chunk().ok_or_else(malformed)?;
        let rtype = u16::from_be_bytes([type_high, type_low]);
        // RFC 1995 section 3: an IXFR query tells the zone that the client has.
        if answers != 0 || authorities > u16::from(rtype == IXFR) {
            return Err(malformed());
        }
        let request = self.parse(client, transport).ok_or_else(malformed)?;
        let asked = request.queries.queries().first().ok_or_else(malformed)?;
        if !served {
            return Err(not_served());
        }
        let refused = |rcode| {
            let text = "only ordinary types of class IN";
            AtOnce::because(rcode, ede::NOT_SUPPORTED, text)
        };
        if is_meta(rtype) {
            return Err(refused(ResponseCode::FormErr));
        }
        if asked.query_class() != DNSClass::IN || [AXFR, IXFR].contains(&rtype) {
            return Err(refused(ResponseCode::Refused));
        }
        Ok(Question {
            name: asked.name().into(),
            rtype: asked.query_type(),
            dnssec_ok: self.opt.as_ref().is_some_and(|opt| opt.dnssec_ok),
            checking_disabled: self.header.has(flags::CD),
        })
    }

    /// What a message without any question gets: one with a cookie asks for a server cookie, or whether
    /// its own is still valid (RFC 7873 section 5.4).
    fn without_question(&self, served: bool) -> AtOnce {
        match self.cookie {
            None => AtOnce::plain(ResponseCode::FormErr),
            Some(_) if !served => not_served(),
            Some(cookie) if cookie.bad => AtOnce::plain(ResponseCode::BADCOOKIE),
            Some(_) => AtOnce::plain(ResponseCode::NoError),
        }
    }

    /// Has the whole message parsed, with options that nobody can take offence at: those that it may
    /// have are judged already.
    fn parse(&self, client: SocketAddr, transport: Transport) -> Option<Request> {
        let mut message = self.message.to_vec();
        if let Some(opt) = &self.opt {
            opt.blank_options(&mut message);
        }
        let protocol = match transport {
            Transport::Udp => Protocol::Udp,
            Transport::Tcp => Protocol::Tcp,
        };
        Request::from_bytes(message, client, protocol).ok()
    }
}

fn not_served() -> AtOnce {
    let text = "this client's network is not served";
    AtOnce::because(ResponseCode::Refused, ede::PROHIBITED, text)
}

/// Types that are not looked up.
fn is_refused(rtype: u16) -> bool {
    is_meta(rtype) || [AXFR, IXFR].contains(&rtype)
}

/// Types that no question may have: they are no data, and mean something else in a message (RFC 6895
/// section 3.1). ANY is none of them, and a zone transfer is a question, if one that is refused.
fn is_meta(rtype: u16) -> bool {
    let is_exception = [IXFR, AXFR].contains(&rtype);
    rtype == 0 || rtype == edns::OPT || (128..255).contains(&rtype) && !is_exception
}
