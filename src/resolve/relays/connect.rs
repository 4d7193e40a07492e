//! Connections to one relay: TCP, and TLS over it unless the relay is near.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use hyper::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use tower_service::Service;

use crate::endpoint::{Endpoint, Host};
use crate::resolve::system::HostsByForwarding;
use crate::resolve::upstream::{
    CONNECT_TIMEOUT, LinkError, Tls, TlsClient, connect_tcp, connect_tls, in_order, race,
};

/// Makes connections to one relay, for the HTTP client that keeps them.
#[derive(Debug, Clone)]
pub(super) struct Connector(Arc<Dialer>);

#[derive(Debug)]
struct Dialer {
    server: Endpoint,
    /// `None` in the clear.
    tls: Option<Result<TlsClient, LinkError>>,
    hosts: Arc<HostsByForwarding>,
    /// The addresses of its name that were found last.
    found: Mutex<Vec<IpAddr>>,
}

/// A connection that is ready for HTTP.
pub(super) struct Stream {
    bytes: Pin<Box<dyn Duplex>>,
    speaks_http2: bool,
}

/// Bytes both ways.
trait Duplex: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Duplex for T {}

impl Connector {
    pub(super) fn new(server: Endpoint, tls: &Tls, hosts: Arc<HostsByForwarding>) -> Self {
        Self(Arc::new(Dialer {
            tls: server.is_encrypted().then(|| tls.web_client(&server)),
            server,
            hosts,
            found: Mutex::default(),
        }))
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = LinkError;
    type Future = BoxFuture<'static, Result<TokioIo<Stream>, LinkError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let dialer = Arc::clone(&self.0);
        Box::pin(async move { dialer.connect().await.map(TokioIo::new) })
    }
}

impl Dialer {
    async fn connect(&self) -> Result<Stream, LinkError> {
        let known = in_order(&self.server.known_addresses(), None);
        let more = async { Ok(in_order(&self.look_up().await?, None)) };
        let attempt = |address| async move {
            let attempt = timeout(CONNECT_TIMEOUT, self.connect_to(address)).await;
            attempt.unwrap_or_else(|_| Err(LinkError::Connect("timed out".to_owned())))
        };
        let (_, stream) = race(known, more, attempt).await?;
        Ok(stream)
    }

    /// The addresses of its name, as the upstreams know them, or knew them last.
    async fn look_up(&self) -> Result<Vec<SocketAddr>, LinkError> {
        let Host::Name(name) = &self.server.host else {
            return Ok(Vec::new());
        };
        let looked_up = self.hosts.addresses(name).await;
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        match looked_up {
            Ok(addresses) => *found = addresses,
            Err(error) if found.is_empty() => {
                let error = format!("the address of {name} cannot be had: {error}");
                return Err(LinkError::Connect(error));
            }
            Err(error) => tracing::debug!(name, error, "the last known addresses are used"),
        }
        if found.is_empty() {
            return Err(LinkError::Connect(format!("{name} has no address")));
        }
        let port = self.server.port;
        Ok(found.iter().map(|ip| SocketAddr::new(*ip, port)).collect())
    }

    async fn connect_to(&self, address: SocketAddr) -> Result<Stream, LinkError> {
        let Some(tls) = &self.tls else {
            let bytes = Box::pin(connect_tcp(address).await?);
            return Ok(Stream {
                bytes,
                speaks_http2: false,
            });
        };
        let tls = tls.as_ref().map_err(Clone::clone)?;
        let bytes = connect_tls(address, tls).await?;
        let speaks_http2 = bytes.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(Stream {
            bytes: Box::pin(bytes),
            speaks_http2,
        })
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        match self.speaks_http2 {
            true => Connected::new().negotiated_h2(),
            false => Connected::new(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.bytes.as_mut().poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.bytes.as_mut().poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.bytes.as_mut().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.bytes.as_mut().poll_shutdown(context)
    }
}
