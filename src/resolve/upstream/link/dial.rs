//! Connects to an endpoint: finds its addresses and tries them as RFC 8305 ("happy eyeballs") has it.

use std::future::Future;
use std::net::SocketAddr;
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

/// How long connecting may take, handshakes and all: two lost packets, or a server far away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an address may take before the next is tried beside it (RFC 8305 section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// Addresses of one host that are tried.
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

    /// Makes a connection.
    pub(super) async fn connect(&self) -> Result<Connection, LinkError> {
        let known = self.endpoint.known_addresses();
        let name = match &self.endpoint.host {
            Host::Address(_) => return self.try_all(&known).await,
            Host::Name(name) => name,
        };
        if !known.is_empty()
            && let Ok(connection) = self.try_all(&known).await
        {
            return Ok(connection);
        }
        let addresses = self.bootstrap.resolve(name).await;
        let addresses = addresses.map_err(LinkError::Connect)?.into_iter();
        let addresses = addresses.map(|address| SocketAddr::new(address, self.endpoint.port));
        let result = self.try_all(&addresses.collect::<Vec<_>>()).await;
        if result.is_err() {
            self.bootstrap.doubt(name).await;
        }
        result
    }

    async fn try_all(&self, addresses: &[SocketAddr]) -> Result<Connection, LinkError> {
        let preferred = *self.lock();
        let addresses = in_order(addresses, preferred);
        let attempts = race(addresses, |address| self.connect_to(address));
        let attempts = timeout(CONNECT_TIMEOUT, attempts);
        let (address, connection) = match attempts.await {
            Ok(result) => result?,
            Err(_) => return Err(LinkError::Connect("timed out".to_owned())),
        };
        *self.lock() = Some(address);
        Ok(connection)
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

async fn connect_tcp(server: SocketAddr) -> Result<TcpStream, LinkError> {
    let failed = |error: std::io::Error| LinkError::Connect(error.to_string());
    let stream = TcpStream::connect(server).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}

async fn connect_tls(
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
fn in_order(addresses: &[SocketAddr], preferred: Option<SocketAddr>) -> Vec<SocketAddr> {
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
/// The first to succeed wins, and the others are dropped.
async fn race<T, A>(
    addresses: Vec<SocketAddr>,
    connect: impl Fn(SocketAddr) -> A,
) -> Result<(SocketAddr, T), LinkError>
where
    A: Future<Output = Result<T, LinkError>>,
{
    let several = addresses.len() > 1;
    let mut waiting = addresses.into_iter();
    let mut running = FuturesUnordered::new();
    let mut errors = Vec::new();
    loop {
        if let Some(address) = waiting.next() {
            let attempt = connect(address);
            running.push(async move { (address, attempt.await) });
        }
        tokio::select! {
            ended = running.next() => match ended {
                Some((address, Ok(connection))) => return Ok((address, connection)),
                Some((address, Err(LinkError::Connect(why) | LinkError::Lost(why)))) if several => {
                    errors.push(format!("{}: {why}", address.ip()));
                }
                Some((_, Err(LinkError::Connect(why) | LinkError::Lost(why)))) => errors.push(why),
                Some((_, Err(error))) => errors.push(error.to_string()),
                None => return Err(LinkError::Connect(errors.join("; "))),
            },
            () = sleep(ATTEMPT_DELAY), if waiting.len() > 0 => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

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
                    "192.0.2.2" => std::future::pending().await,
                    _ => Ok(address),
                }
            }
        };
        let all = addresses(&["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"]);
        let (address, _) = race(all.clone(), connect).await.unwrap();
        assert_eq!(address, all[2]);
        let times = [Duration::ZERO, Duration::ZERO, ATTEMPT_DELAY];
        let expected: Vec<_> = all.iter().copied().zip(times).collect();
        assert_eq!(tried.into_inner(), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn the_error_names_each_address() {
        let connect = |address: SocketAddr| async move {
            if address.is_ipv6() {
                sleep(Duration::from_secs(1)).await;
            }
            Err::<(), _>(LinkError::Connect("refused".to_owned()))
        };
        let error = race(addresses(&["2001:db8::1", "192.0.2.1"]), connect).await;
        let expected = "192.0.2.1: refused; 2001:db8::1: refused".to_owned();
        assert_eq!(error, Err(LinkError::Connect(expected)));
    }
}
