//! Connects to an endpoint: finds its addresses and tries them as RFC 8305 ("happy eyeballs") has it.

use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::bootstrap::Bootstrap;
use super::connection::Connection;
use super::tls::{Tls, TlsClient};
use super::{LinkError, http, http2, http3, quic, stream};
use crate::endpoint::{Endpoint, Host, Transport};

/// How long connecting to one address may take, handshakes and all: two lost packets, or a server far
/// away.
pub(in crate::resolve) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an address may take before the next is tried beside it (RFC 8305 section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// Addresses of one host that are tried, of those that are given and of those that are found.
const MAX_ADDRESSES: usize = 8;

/// Knows how to connect to one endpoint.
#[derive(Debug)]
pub(super) struct Dialer {
    endpoint: Endpoint,
    tls: Result<Option<TlsClient>, LinkError>,
    bootstrap: Arc<Bootstrap>,
    /// The address that worked last.
    preferred: Mutex<Option<SocketAddr>>,
}

impl Dialer {
    /// For connections to `endpoint`.
    pub(super) fn new(endpoint: Endpoint, tls: &Tls, bootstrap: Arc<Bootstrap>) -> Self {
        Self {
            tls: tls.client(&endpoint),
            endpoint,
            bootstrap,
            preferred: Mutex::default(),
        }
    }

    /// Makes a connection: to the address that worked last or another of those that are known, and if
    /// that takes its time, to those that bootstrap servers know as well.
    pub(super) async fn connect(&self) -> Result<Connection, LinkError> {
        let preferred = *self.lock();
        let mut known = self.endpoint.known_addresses();
        if !known.is_empty() {
            // It may be one that a bootstrap server knew.
            known.extend(preferred);
        }
        let more = async { Ok(in_order(&self.look_up().await?, preferred)) };
        let attempt = |address| async move {
            let attempt = timeout(CONNECT_TIMEOUT, self.connect_to(address)).await;
            attempt.unwrap_or_else(|_| Err(LinkError::Connect("timed out".to_owned())))
        };
        let result = race(in_order(&known, preferred), more, attempt).await;
        if let (Err(_), Host::Name(name)) = (&result, &self.endpoint.host) {
            self.bootstrap.doubt(name).await;
        }
        let (address, connection) = result?;
        *self.lock() = Some(address);
        Ok(connection)
    }

    /// The addresses that bootstrap servers know; none of a server that can do without such servers and
    /// has none.
    async fn look_up(&self) -> Result<Vec<SocketAddr>, LinkError> {
        let name = match &self.endpoint.host {
            Host::Name(name) if self.endpoint.needs_bootstrap() || self.bootstrap.has_servers() => {
                name
            }
            Host::Name(_) | Host::Address(_) => return Ok(Vec::new()),
        };
        let addresses = self.bootstrap.resolve(name).await;
        let addresses = addresses.map_err(LinkError::Connect)?.into_iter();
        let port = self.endpoint.port;
        Ok(addresses.map(|ip| SocketAddr::new(ip, port)).collect())
    }

    async fn connect_to(&self, server: SocketAddr) -> Result<Connection, LinkError> {
        let tls = self.tls.as_ref().map_err(Clone::clone)?;
        match (&self.endpoint.transport, tls) {
            (Transport::Tls, Some(tls)) => Ok(stream::connection(connect_tls(server, tls).await?)),
            (Transport::Https { path, http3 }, Some(tls)) => {
                let uri = http::uri(&self.endpoint, path)?;
                if *http3 {
                    return http3::connection(quic::connect(server, tls).await?, uri).await;
                }
                let stream = connect_tls(server, tls).await?;
                if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                    let text = "the server does not speak HTTP/2".to_owned();
                    return Err(LinkError::Connect(text));
                }
                http2::connection(stream, uri).await
            }
            (Transport::Quic, Some(tls)) => Ok(quic::connection(quic::connect(server, tls).await?)),
            (Transport::Udp | Transport::Tcp, _) | (_, None) => {
                Ok(stream::connection(connect_tcp(server).await?))
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<SocketAddr>> {
        self.preferred
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

pub(in crate::resolve) async fn connect_tcp(server: SocketAddr) -> Result<TcpStream, LinkError> {
    let failed = |error: std::io::Error| LinkError::Connect(error.to_string());
    let stream = TcpStream::connect(server).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}

pub(in crate::resolve) async fn connect_tls(
    server: SocketAddr,
    tls: &TlsClient,
) -> Result<TlsStream<TcpStream>, LinkError> {
    let tcp = connect_tcp(server).await?;
    let connector = TlsConnector::from(tls.config());
    let handshake = connector.connect(tls.name().clone(), tcp).await;
    handshake.map_err(|error| LinkError::Connect(tls.explain(&error)))
}

/// The addresses in the order in which they are tried: the one that worked last, then IPv6 and IPv4
/// in turn (RFC 8305 section 4).
pub(in crate::resolve) fn in_order(
    addresses: &[SocketAddr],
    preferred: Option<SocketAddr>,
) -> Vec<SocketAddr> {
    let mut order: Vec<SocketAddr> = addresses
        .iter()
        .copied()
        .filter(|address| Some(*address) == preferred)
        .collect();
    let of = |v6: bool| addresses.iter().copied().filter(move |a| a.is_ipv6() == v6);
    let (mut sixes, mut fours) = (of(true), of(false));
    loop {
        let pair = [sixes.next(), fours.next()];
        if pair == [None, None] {
            break;
        }
        order.extend(pair.into_iter().flatten());
    }
    let mut seen = Vec::new();
    order.retain(|address| {
        let new = !seen.contains(address);
        seen.push(*address);
        new
    });
    order.truncate(MAX_ADDRESSES);
    order
}

/// Tries one address after the other: the next when one has failed, or has taken [`ATTEMPT_DELAY`].
/// `more` is waited for from then on, too, or once all have failed; what it gives comes before what is
/// left. The first to succeed wins, and the others are dropped. The error tells each reason once, and
/// no address: clients see it.
pub(in crate::resolve) async fn race<T, A>(
    addresses: Vec<SocketAddr>,
    more: impl Future<Output = Result<Vec<SocketAddr>, LinkError>>,
    connect: impl Fn(SocketAddr) -> A,
) -> Result<(SocketAddr, T), LinkError>
where
    A: Future<Output = Result<T, LinkError>>,
{
    let mut waiting = VecDeque::from(addresses);
    let mut tried = Vec::new();
    let mut running = FuturesUnordered::new();
    let mut more = pin!(more);
    let (mut wants_more, mut has_more) = (false, false);
    let mut reasons = Vec::new();
    let mut no_more = None;
    loop {
        if let Some(address) = waiting.pop_front() {
            if tried.contains(&address) {
                continue;
            }
            tried.push(address);
            let attempt = connect(address);
            running.push(async move { (address, attempt.await) });
        }
        wants_more |= running.is_empty();
        let has_next = !wants_more || !waiting.is_empty();
        tokio::select! {
            Some((address, result)) = running.next() => match result {
                Ok(connection) => return Ok((address, connection)),
                Err(error) => {
                    tracing::debug!(%address, %error, "an address of an upstream does not work");
                    let reason = reason(error);
                    if !reasons.contains(&reason) {
                        reasons.push(reason);
                    }
                }
            },
            found = &mut more, if wants_more && !has_more => {
                has_more = true;
                match found {
                    Ok(found) => found.into_iter().rev().for_each(|a| waiting.push_front(a)),
                    Err(error) => no_more = Some(reason(error)),
                }
            }
            () = sleep(ATTEMPT_DELAY), if has_next => wants_more = true,
            else => break,
        }
    }
    // What a server says tells more than that there are no others.
    reasons.extend(no_more);
    Err(LinkError::Connect(reasons.join("; ")))
}

/// Why there is no connection, without the words that say that there is none.
fn reason(error: LinkError) -> String {
    match error {
        LinkError::Connect(why) | LinkError::Lost(why) => why,
        LinkError::Status(_) | LinkError::Answer(_) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::future::pending;
    use std::net::IpAddr;

    use tokio::time::Instant;

    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        let address = |text: &&str| SocketAddr::new(text.parse().unwrap(), 853);
        texts.iter().map(address).collect()
    }

    #[test]
    fn families_take_turns_behind_the_address_that_worked() {
        let all = addresses(&["192.0.2.1", "192.0.2.2", "192.0.2.1", "2001:db8::1"]);
        let order = in_order(&all, None);
        assert_eq!(order, addresses(&["2001:db8::1", "192.0.2.1", "192.0.2.2"]));
        let order = in_order(&all, Some(all[1]));
        assert_eq!(order, addresses(&["192.0.2.2", "2001:db8::1", "192.0.2.1"]));
        let elsewhere = in_order(&all, Some("192.0.2.9:853".parse().unwrap()));
        assert_eq!(
            elsewhere.len(),
            3,
            "one that is no longer listed is not tried"
        );
        let many = (1..20).map(|port| SocketAddr::from(([192, 0, 2, 1], port)));
        let many: Vec<SocketAddr> = many.collect();
        assert_eq!(in_order(&many, None).len(), MAX_ADDRESSES);
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_address_is_tried_after_a_failure_or_a_quarter_of_a_second() {
        let start = Instant::now();
        let tried = RefCell::new(Vec::new());
        let connect = |address: SocketAddr| {
            tried.borrow_mut().push((address, start.elapsed()));
            async move {
                match address.ip().to_string().as_str() {
                    "192.0.2.1" => Err(LinkError::Connect("refused".to_owned())),
                    "192.0.2.2" => pending().await,
                    _ => Ok(()),
                }
            }
        };
        let all = addresses(&["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"]);
        let (address, _) = race(all.clone(), pending(), connect).await.unwrap();
        assert_eq!(address, all[2]);
        let times = [Duration::ZERO, Duration::ZERO, ATTEMPT_DELAY];
        let expected: Vec<_> = all.iter().copied().zip(times).collect();
        assert_eq!(tried.into_inner(), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn found_addresses_are_tried_beside_known_ones_that_take_their_time() {
        let start = Instant::now();
        let tried = RefCell::new(Vec::new());
        let connect = |address: SocketAddr| {
            tried.borrow_mut().push((address, start.elapsed()));
            async move {
                if address.ip() == IpAddr::from([192, 0, 2, 4]) {
                    return Ok(());
                }
                pending().await
            }
        };
        let all = addresses(&["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"]);
        let found = all.clone();
        let more = async { Ok([&found[..1], &found[2..]].concat()) };
        let (address, ()) = race(all[..2].to_vec(), more, connect).await.unwrap();
        assert_eq!(address, all[3]);
        // With the second known one, that is: they are had at once.
        let expected = [(0, 0), (1, 1), (2, 1), (3, 2)];
        let expected = expected.map(|(index, delays)| (all[index], ATTEMPT_DELAY * delays));
        assert_eq!(tried.into_inner(), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn more_addresses_are_not_looked_for_while_known_ones_may_do() {
        let all = addresses(&["192.0.2.1", "192.0.2.2"]);
        let works = &all[1];
        let connect = |address: SocketAddr| async move {
            if address != *works {
                return Err(LinkError::Connect("refused".to_owned()));
            }
            sleep(ATTEMPT_DELAY / 2).await;
            Ok(())
        };
        let looked_up = Cell::new(false);
        let more = async {
            looked_up.set(true);
            Ok(Vec::new())
        };
        race(all.clone(), more, connect).await.unwrap();
        assert!(!looked_up.get());
    }

    #[tokio::test(start_paused = true)]
    async fn the_error_tells_each_reason_once_and_no_address() {
        let connect = |address: SocketAddr| async move {
            if address.is_ipv6() {
                sleep(Duration::from_secs(1)).await;
                return Err::<(), _>(LinkError::Lost("closed".to_owned()));
            }
            Err(LinkError::Connect("refused".to_owned()))
        };
        let all = addresses(&["2001:db8::1", "192.0.2.1", "192.0.2.2"]);
        let more = async { Err(LinkError::Connect("cannot resolve".to_owned())) };
        let error = race(all, more, connect).await;
        let expected = "refused; closed; cannot resolve".to_owned();
        assert_eq!(error, Err(LinkError::Connect(expected)));
    }
}
