//! STUB
use crate::endpoint::*;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
#[derive(Debug)]
pub(super) struct Link(Option<SocketAddr>);
/// x
#[derive(Debug)]
pub struct Tls;
impl Tls {
    /// x
    pub fn new(_ca: Option<&Path>) -> Result<Self, String> {
        Ok(Self)
    }
}
#[derive(Debug)]
pub(super) struct Bootstrap;
impl Bootstrap {
    pub(super) fn new(_s: Vec<SocketAddr>) -> Self {
        Self
    }
}
impl Link {
    pub(super) fn new(e: Endpoint, _tls: Arc<Tls>, _b: Arc<Bootstrap>) -> Self {
        Self(match e.host {
            Host::Address(ip) => Some(SocketAddr::new(ip, e.port)),
            Host::Name(_) => None,
        })
    }
    pub(super) async fn ask(&self, query: &[u8]) -> std::io::Result<Vec<u8>> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let Some(a) = self.0 else {
            return Err(std::io::Error::other("x"));
        };
        let mut stream = tokio::net::TcpStream::connect(a).await?;
        let length = u16::try_from(query.len()).unwrap_or(0);
        stream
            .write_all(&[&length.to_be_bytes(), query].concat())
            .await?;
        let length = stream.read_u16().await?;
        let mut message = vec![0; usize::from(length)];
        stream.read_exact(&mut message).await?;
        Ok(message)
    }
}
