//! One question to one server: UDP, and TCP when the answer is truncated.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use rand::RngExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::answers::Question;
use super::response::{self, Peer, Response, Verdict};

/// Datagrams that do not answer the query before UDP is given up for TCP: somebody is guessing
/// (RFC 5452 section 4.4).
const MAX_WRONG_DATAGRAMS: usize = 16;
/// Random source ports tried before the system picks one (RFC 5452 section 9.2).
const PORT_TRIES: usize = 8;
/// The largest datagram that is read. Ours ask for 1232 at most; some servers send more.
const DATAGRAM_LEN: usize = 4096;

/// Asks one server; once more without EDNS if it does not know EDNS (RFC 6891 section 7).
pub(super) async fn exchange(
    server: SocketAddr,
    peer: Peer,
    question: &Question,
) -> std::io::Result<Response> {
    let response = exchange_once(server, peer, question, true).await?;
    if response.lacks_edns() {
        return exchange_once(server, peer, question, false).await;
    }
    Ok(response)
}

async fn exchange_once(
    server: SocketAddr,
    peer: Peer,
    question: &Question,
    edns: bool,
) -> std::io::Result<Response> {
    if let Some(response) = exchange_udp(server, peer, question, edns).await? {
        return Ok(response);
    }
    exchange_tcp(server, peer, question, edns).await
}

/// `None` when TCP must be asked: the answer is truncated, or somebody floods us with wrong ones.
async fn exchange_udp(
    server: SocketAddr,
    peer: Peer,
    question: &Question,
    edns: bool,
) -> std::io::Result<Option<Response>> {
    let query = response::query(rand::random(), peer, question, edns);
    // Connected, so that only the server's datagrams arrive and an ICMP refusal is felt at once.
    let socket = bind_random_port(server).await?;
    socket.connect(server).await?;
    socket.send(&query).await?;
    let mut buffer = vec![0; DATAGRAM_LEN];
    for _ in 0..MAX_WRONG_DATAGRAMS {
        let length = socket.recv(&mut buffer).await?;
        match response::accept(&query, buffer.get(..length).unwrap_or_default(), question) {
            Verdict::Answer(response) => return Ok(Some(response)),
            Verdict::Truncated => return Ok(None),
            Verdict::Malformed => return Err(malformed()),
            Verdict::NotOurs => {}
        }
    }
    Ok(None)
}

async fn exchange_tcp(
    server: SocketAddr,
    peer: Peer,
    question: &Question,
    edns: bool,
) -> std::io::Result<Response> {
    let query = response::query(rand::random(), peer, question, edns);
    let mut stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let length = u16::try_from(query.len()).map_err(|_| malformed())?;
    stream
        .write_all(&[&length.to_be_bytes(), query.as_slice()].concat())
        .await?;
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    match response::accept(&query, &message, question) {
        Verdict::Answer(response) => Ok(response),
        Verdict::Truncated | Verdict::Malformed | Verdict::NotOurs => Err(malformed()),
    }
}

fn malformed() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, "malformed answer")
}

/// A socket on a random port: the port is half of what a forger has to guess (RFC 5452 section 4.5).
async fn bind_random_port(server: SocketAddr) -> std::io::Result<UdpSocket> {
    let any = |port| match server {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
    };
    for _ in 0..PORT_TRIES {
        let port = rand::rng().random_range(1024..=u16::MAX);
        if let Ok(socket) = UdpSocket::bind(any(port)).await {
            return Ok(socket);
        }
    }
    UdpSocket::bind(any(0)).await
}
