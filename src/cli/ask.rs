//! One DNS question over the wire, for `query` and `demo`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, Header, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{Name, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, DecodeError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{self, Instant};

use super::query::rcode_name;

/// How many times a question is sent over UDP before giving up.
const UDP_TRIES: u32 = 3;

/// Fits into one packet on practically every path, so that replies are not fragmented (RFC 9715).
const UDP_PAYLOAD: u16 = 1232;

/// How to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    /// UDP, then TCP when the reply is truncated.
    Auto,
    /// TCP only.
    Tcp,
}

/// What a server answered.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    /// The full response code, with the upper bits from the OPT record.
    pub rcode: ResponseCode,
    /// The decoded message.
    pub message: Message,
    /// Extended DNS Errors (RFC 8914): code and text. The text is as received, not sanitised.
    pub edes: Vec<(u16, String)>,
    /// From the first packet sent to the reply.
    pub elapsed: Duration,
    /// `UDP` or `TCP`.
    pub transport: &'static str,
}

/// Why there is no [`Reply`].
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    /// No reply within the whole time that was given.
    #[error("no answer from {} within {} s", .0, .1.as_secs_f64())]
    NoAnswer(SocketAddr, Duration),
    /// Nobody listens there.
    #[error("nothing listens at {0}")]
    Refused(SocketAddr),
    /// The server ended the TCP connection before a whole reply arrived.
    #[error("{0} closed the TCP connection without an answer")]
    Closed(SocketAddr),
    /// Any other network error.
    #[error("cannot reach {0}: {1}")]
    Network(SocketAddr, io::Error),
    /// A reply to this question that cannot be decoded, with the response code of its header.
    #[error("the reply ({}) cannot be decoded: {}", rcode_name(*.0), .1)]
    Malformed(ResponseCode, DecodeError),
    /// The question cannot be encoded.
    #[error("the question cannot be encoded: {0}")]
    Encode(#[from] ProtoError),
}

/// Asks `server` one question.
///
/// # Errors
///
/// When no decodable reply arrives within `timeout`. A reply with any response code is a [`Reply`].
pub(super) async fn ask(
    server: SocketAddr,
    name: &Name,
    rtype: RecordType,
    timeout: Duration,
    transport: Transport,
) -> Result<Reply, AskError> {
    let started = Instant::now();
    let mut name = name.clone();
    name.set_fqdn(true);
    let question = Query::query(name, rtype);
    let exchange = async {
        if transport == Transport::Auto {
            let raw = over_udp(server, &question, timeout).await?;
            if !is_truncated(&raw) {
                return Ok((raw, "UDP"));
            }
        }
        Ok((over_tcp(server, &question).await?, "TCP"))
    };
    let (raw, transport) = time::timeout(timeout, exchange)
        .await
        .unwrap_or(Err(AskError::NoAnswer(server, timeout)))?;
    Reply::decode(&raw, transport, started.elapsed())
}

impl Reply {
    fn decode(raw: &[u8], transport: &'static str, elapsed: Duration) -> Result<Self, AskError> {
        let message = Message::from_vec(raw).map_err(|error| {
            let rcode = ResponseCode::from_low(raw.get(3).copied().unwrap_or_default());
            AskError::Malformed(rcode, error)
        })?;
        let mut rcode = message.metadata.response_code;
        if rcode == ResponseCode::BADSIG {
            // 16 is BADSIG in a TSIG record only; in a header it is BADVERS (RFC 6895 Section 2.3).
            rcode = ResponseCode::BADVERS;
        }
        let edes = extended_errors(&message);
        Ok(Self {
            rcode,
            message,
            edes,
            elapsed,
            transport,
        })
    }
}

async fn over_udp(
    server: SocketAddr,
    question: &Query,
    timeout: Duration,
) -> Result<Vec<u8>, AskError> {
    let network = |error| network_error(server, error);
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // Port 0: the system picks a random one. Connected, so that only the server's packets arrive
    // and a closed port is an error at once (RFC 5452 Section 9.2).
    let socket = UdpSocket::bind((any, 0)).await.map_err(network)?;
    socket.connect(server).await.map_err(network)?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    // A slow reply to an earlier try is as good as one to the latest.
    let mut ids = Vec::new();
    for _ in 0..UDP_TRIES {
        let id = rand::random();
        ids.push(id);
        let message = encode(id, question)?;
        socket.send(&message).await.map_err(network)?;
        let receive = async {
            loop {
                let length = socket.recv(&mut buffer).await?;
                let raw = buffer.get(..length).unwrap_or_default();
                if is_reply(raw, &ids, question) {
                    return Ok(raw.to_vec());
                }
            }
        };
        if let Ok(result) = time::timeout(timeout / UDP_TRIES, receive).await {
            return result.map_err(network);
        }
    }
    Err(AskError::NoAnswer(server, timeout))
}

async fn over_tcp(server: SocketAddr, question: &Query) -> Result<Vec<u8>, AskError> {
    let id = rand::random();
    let message = encode(id, question)?;
    let exchange = async {
        let length = u16::try_from(message.len()).map_err(io::Error::other)?;
        // Length and message in one write (RFC 7766 Section 8).
        let frame = [&length.to_be_bytes(), message.as_slice()].concat();
        let mut stream = TcpStream::connect(server).await?;
        stream.write_all(&frame).await?;
        loop {
            let length = stream.read_u16().await?;
            let mut raw = vec![0; usize::from(length)];
            stream.read_exact(&mut raw).await?;
            if is_reply(&raw, &[id], question) {
                return Ok(raw);
            }
        }
    };
    exchange.await.map_err(|error| network_error(server, error))
}

fn network_error(server: SocketAddr, error: io::Error) -> AskError {
    if error.kind() == io::ErrorKind::ConnectionRefused {
        AskError::Refused(server)
    } else if error.kind() == io::ErrorKind::UnexpectedEof {
        AskError::Closed(server)
    } else {
        AskError::Network(server, error)
    }
}

fn encode(id: u16, question: &Query) -> Result<Vec<u8>, ProtoError> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(question.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_PAYLOAD);
    message.set_edns(edns);
    message.to_vec()
}

/// Whether `raw` answers `question`, asked under one of `ids` (RFC 5452 Section 9.1).
fn is_reply(raw: &[u8], ids: &[u16], question: &Query) -> bool {
    let mut decoder = BinDecoder::new(raw);
    let Ok(Header { metadata, counts }) = Header::read(&mut decoder) else {
        return false;
    };
    if metadata.message_type != MessageType::Response
        || metadata.op_code != OpCode::Query
        || !ids.contains(&metadata.id)
    {
        return false;
    }
    if counts.queries == 0 {
        // A server that could not read the question cannot repeat it: only an error fits.
        return !matches!(
            metadata.response_code,
            ResponseCode::NoError | ResponseCode::NXDomain
        );
    }
    // When not even the question can be decoded, the failure to decode the whole says why.
    Query::read(&mut decoder).map_or(true, |repeated| repeated == *question)
}

/// The TC bit (RFC 1035 Section 4.1.1).
fn is_truncated(raw: &[u8]) -> bool {
    raw.get(2).is_some_and(|flags| flags & 0x02 != 0)
}

fn extended_errors(message: &Message) -> Vec<(u16, String)> {
    let mut edes = Vec::new();
    for (_, option) in message.edns.iter().flat_map(|edns| edns.options().as_ref()) {
        if let EdnsOption::Unknown(15, data) = option
            && let Some((code, text)) = data.split_first_chunk()
        {
            // The text may end in a NUL, which is not part of it (RFC 8914 Section 2).
            let text = text.strip_suffix(b"\0").unwrap_or(text);
            let text = String::from_utf8_lossy(text).into_owned();
            edes.push((u16::from_be_bytes(*code), text));
        }
    }
    edes
}
