//! What the system's configuration says: the resolvers of `/etc/resolv.conf` that are not pkbridge,
//! and the names of DHT nodes, which must not be asked of the system.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use hickory_proto::rr::{Name, RecordType};

use super::answers::Question;
use super::dht::ResolveHost;
use super::upstream::Forward;
use crate::wire::Section;

/// The port of DNS.
const DNS_PORT: u16 = 53;

/// The resolvers that a `resolv.conf` names, without those that are pkbridge itself. None if there
/// is no such file.
pub fn system_servers(resolv_conf: &Path, listening: &[SocketAddr]) -> Vec<SocketAddr> {
    let config = std::fs::read(resolv_conf)
        .ok()
        .and_then(|text| hickory_resolver::system_conf::parse_resolv_conf(text).ok());
    let Some((config, _)) = config else {
        return Vec::new();
    };
    let mut servers: Vec<SocketAddr> = Vec::new();
    for server in config.name_servers() {
        let address = SocketAddr::new(server.ip, DNS_PORT);
        if !is_ourselves(address, listening) && !servers.contains(&address) {
            servers.push(address);
        }
    }
    servers
}

fn is_ourselves(server: SocketAddr, listening: &[SocketAddr]) -> bool {
    listening.iter().any(|own| {
        own.port() == server.port()
            && (own.ip() == server.ip() || (own.ip().is_unspecified() && is_local(server.ip())))
    })
}

/// Whether an address is one of this host's: only then can a socket be bound to it.
fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified() || UdpSocket::bind((ip, 0)).is_ok()
}

/// Resolves the names of DHT nodes through the upstreams.
#[derive(Debug)]
pub struct HostsByForwarding(pub Arc<dyn Forward>);

impl ResolveHost for HostsByForwarding {
    fn resolve_host<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Vec<Ipv4Addr>> {
        Box::pin(async move {
            let Ok(mut name) = Name::from_ascii(host) else {
                return Vec::new();
            };
            name.set_fqdn(true);
            let question = Question {
                name: name.to_lowercase(),
                rtype: RecordType::A,
                dnssec_ok: false,
                checking_disabled: false,
            };
            match self.0.forward(&question).await {
                Ok(response) => response
                    .layout
                    .section(Section::Answer)
                    .filter(|record| record.rtype == u16::from(RecordType::A))
                    .filter_map(|record| response.wire.get(record.rdata.clone()))
                    .filter_map(|rdata| <[u8; 4]>::try_from(rdata).ok())
                    .map(Ipv4Addr::from)
                    .collect(),
                Err(error) => {
                    tracing::debug!(%error, "cannot resolve the name of a DHT node");
                    Vec::new()
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolv_conf_without_ourselves() {
        let file = std::env::temp_dir().join(format!("pkbridge-resolv-{}", std::process::id()));
        let text = "# comment\nsearch lan\nnameserver 127.0.0.1\nnameserver 192.0.2.1\n\
                    nameserver 192.0.2.1\nnameserver ::1\noptions edns0\n";
        std::fs::write(&file, text).unwrap();
        let servers = |listening: &[&str]| -> Vec<String> {
            let listening: Vec<_> = listening.iter().map(|a| a.parse().unwrap()).collect();
            let servers = system_servers(&file, &listening);
            servers.iter().map(ToString::to_string).collect()
        };
        let other = ["192.0.2.1:53"];
        assert_eq!(servers(&["127.0.0.1:53", "[::1]:53"]), other);
        assert_eq!(servers(&["0.0.0.0:53"]), other);
        assert_eq!(servers(&["127.0.0.1:5300"]).len(), 3);
        std::fs::remove_file(&file).unwrap();
        assert!(servers(&["127.0.0.1:53"]).is_empty());
    }
}
