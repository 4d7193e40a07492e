//! One question to one server: UDP, and TCP when the answer is truncated or may be forged.

use std::cell::RefCell;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use rand::RngExt;
use socket2::{Domain, Socket, Type};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest, Ready};
use tokio::net::TcpStream;

use super::answers::Question;
use super::query::{Peer, Query, Style};
use super::response::{self, Response, Verdict};
use crate::readable::readable;

/// Datagrams that do not answer the query before UDP is given up for TCP: somebody is guessing
/// (RFC 5452 section 4.4).
const MAX_WRONG_DATAGRAMS: usize = 16;
/// Random source ports tried before the system picks one (RFC 5452 section 9.2).
const PORT_TRIES: usize = 8;
/// The largest datagram that is read. Ours ask for 1232 at most; some servers send more.
const DATAGRAM_LEN: usize = 4096;

/// What UDP gave.
#[derive(Debug)]
pub(super) enum Datagram {
    /// An answer that is as good as UDP has them.
    Answer(Response),
    /// An answer without the letter case or the cookie that the query had in it: forged, or from a
    /// server that does not send them back. TCP tells which.
    Unproven(Response),
    /// Ask over TCP: the answer is cut short or garbage, or somebody floods us with wrong ones.
    AskTcp,
}

/// Asks one server; once more without EDNS if it does not know EDNS (RFC 6891 section 7).
pub(super) async fn exchange(
    server: SocketAddr,
    peer: Peer,
    question: &Question,
) -> io::Result<Response> {
    let style = Style {
        mixes_case: true,
        ..Style::default()
    };
    let response = exchange_once(server, peer, question, &style).await?;
    if response.lacks_edns() {
        let style = Style {
            edns: false,
            ..style
        };
        return exchange_once(server, peer, question, &style).await;
    }
    Ok(response)
}

async fn exchange_once(
    server: SocketAddr,
    peer: Peer,
    question: &Question,
    style: &Style<'_>,
) -> io::Result<Response> {
    let query = Query::new(peer, question, style);
    let answers = |response: &Response| response.keeps_case;
    match over_udp(server, &query, question, answers).await? {
        Datagram::Answer(response) => Ok(response),
        Datagram::Unproven(_) | Datagram::AskTcp => over_tcp(server, &query, question).await,
    }
}

/// One datagram there, and one back. `is_proven` says whether a response shows what a forger could
/// not know.
pub(super) async fn over_udp(
    server: SocketAddr,
    query: &Query,
    question: &Question,
    is_proven: impl Fn(&Response) -> bool,
) -> io::Result<Datagram> {
    let socket = send_from_random_port(server, query.bytes())?;
    for _ in 0..MAX_WRONG_DATAGRAMS {
        match receive(&socket, query, question).await? {
            Verdict::Answer(response) if is_proven(&response) => {
                return Ok(Datagram::Answer(response));
            }
            Verdict::Answer(response) => return Ok(Datagram::Unproven(response)),
            Verdict::Truncated | Verdict::Malformed => return Ok(Datagram::AskTcp),
            Verdict::NotOurs => {}
        }
    }
    Ok(Datagram::AskTcp)
}

/// Waits for a datagram, or for an ICMP error, which is no event of reading.
async fn receive(
    socket: &AsyncFd<UdpSocket>,
    query: &Query,
    question: &Question,
) -> io::Result<Verdict> {
    loop {
        let mut ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
        if ready.ready().is_error() {
            if let Some(error) = socket.get_ref().take_error()? {
                return Err(error);
            }
            // Looked at: the next one is another one.
            ready.clear_ready_matching(Ready::ERROR);
        }
        if let Ok(received) =
            ready.try_io(|socket| take_datagram(socket.get_ref(), query, question))
        {
            return received;
        }
    }
}

thread_local! {
    /// A datagram that is being looked at. To clear a new buffer for each costs as much as to look.
    static DATAGRAM: RefCell<[u8; DATAGRAM_LEN]> = const { RefCell::new([0; DATAGRAM_LEN]) };
}

/// Takes the datagram that is there.
fn take_datagram(socket: &UdpSocket, query: &Query, question: &Question) -> io::Result<Verdict> {
    DATAGRAM.with_borrow_mut(|buffer| {
        let length = socket.recv(buffer)?;
        let message = buffer.get(..length).unwrap_or_default();
        Ok(response::accept(query, message, question))
    })
}

/// A connection for one query.
async fn over_tcp(server: SocketAddr, query: &Query, question: &Question) -> io::Result<Response> {
    let mut stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let length = u16::try_from(query.bytes().len()).map_err(|_| malformed())?;
    stream
        .write_all(&[&length.to_be_bytes(), query.bytes()].concat())
        .await?;
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    answer_on_stream(query, &message, question)
}

/// The answer in a message that came over a connection, where there is no other to wait for.
pub(super) fn answer_on_stream(
    query: &Query,
    message: &[u8],
    question: &Question,
) -> io::Result<Response> {
    match response::accept(query, message, question) {
        Verdict::Answer(response) => Ok(response),
        Verdict::Truncated | Verdict::Malformed | Verdict::NotOurs => Err(malformed()),
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "malformed answer")
}

/// Sends a datagram from a random port: the port is half of what a forger has to guess (RFC 5452
/// section 4.5). Connected, so that only the server's datagrams arrive and an ICMP refusal is felt at
/// once. There is room in a new socket: nothing is waited for.
fn send_from_random_port(server: SocketAddr, message: &[u8]) -> io::Result<AsyncFd<UdpSocket>> {
    let socket = Socket::new(Domain::for_address(server), Type::DGRAM.nonblocking(), None)?;
    bind_random_port(&socket, server)?;
    socket.connect(&server.into())?;
    socket.send(message)?;
    readable(socket.into())
}

fn bind_random_port(socket: &Socket, server: SocketAddr) -> io::Result<()> {
    let any = |port| match server {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
    };
    for _ in 0..PORT_TRIES {
        let port = rand::rng().random_range(1024..=u16::MAX);
        if socket.bind(&any(port).into()).is_ok() {
            return Ok(());
        }
    }
    socket.bind(&any(0).into())
}
