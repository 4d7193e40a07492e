//! What the system's configuration says: the resolvers of `/etc/resolv.conf` that are not pkbridge,
//! and the names of DHT nodes and relays, which must not be asked of the system.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use hickory_proto::rr::{Name, RecordType};

use super::answers::Question;
use super::dht::ResolveHost;
use super::upstream::Forward;
use crate::pkarr::{NameKind, Suffixes};
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

/// Whether what is sent to `server` comes to one of the addresses that are listened on.
pub fn is_ourselves(server: SocketAddr, listening: &[SocketAddr]) -> bool {
    listening.iter().any(|own| {
        let is_same =
            own.ip().to_canonical() == server.ip().to_canonical() && scope(*own) == scope(server);
        own.port() == server.port() && (is_same || own.ip().is_unspecified() && is_local(server))
    })
}

/// Two links may each have a node with the same link-local address, such as fe80::1.
fn scope(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(address) => address.scope_id(),
    }
}

/// Whether an address is one of this host's: only then can a socket be bound to it.
fn is_local(mut address: SocketAddr) -> bool {
    address.set_port(0);
    let ip = address.ip().to_canonical();
    ip.is_loopback() || ip.is_unspecified() || UdpSocket::bind(address).is_ok()
}

/// Resolves the names of DHT nodes and relays through the upstreams, which see no public-key name.
#[derive(Debug)]
pub struct HostsByForwarding {
    /// Who is asked.
    pub forward: Arc<dyn Forward>,
    /// The suffixes under which keys stand.
    pub suffixes: Suffixes,
}

impl HostsByForwarding {
    /// The addresses of a host: IPv6 and IPv4 together.
    ///
    /// # Errors
    /// A text, if none is known.
    pub(super) async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        let (v6, v4) = tokio::join!(
            self.ask(host, RecordType::AAAA, |rdata| {
                Some(Ipv6Addr::from(<[u8; 16]>::try_from(rdata).ok()?).into())
            }),
            self.ask(host, RecordType::A, |rdata| ipv4(rdata).map(IpAddr::V4)),
        );
        match (v6, v4) {
            (Err(error), Err(_)) => Err(error),
            (v6, v4) => Ok([v6.unwrap_or_default(), v4.unwrap_or_default()].concat()),
        }
    }

    /// The data of a host's records of a type.
    async fn ask<T>(
        &self,
        host: &str,
        rtype: RecordType,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, String> {
        let mut name = Name::from_ascii(host).map_err(|error| error.to_string())?;
        name.set_fqdn(true);
        if self.suffixes.classify(&name) != NameKind::Ordinary {
            return Err("it is a public-key name, which is asked of nobody".to_owned());
        }
        let question = Question {
            name: name.to_lowercase(),
            rtype,
            dnssec_ok: false,
            checking_disabled: false,
        };
        let response = self.forward.forward(&question).await;
        let response = response.map_err(|failure| failure.to_string())?;
        let records = response.layout.section(Section::Answer);
        Ok(records
            .filter(|record| record.rtype == u16::from(rtype))
            .filter_map(|record| response.wire.get(record.rdata.clone()))
            .filter_map(read)
            .collect())
    }
}

impl ResolveHost for HostsByForwarding {
    fn resolve_host<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Vec<Ipv4Addr>> {
        Box::pin(async move {
            let addresses = self.ask(host, RecordType::A, ipv4).await;
            addresses.unwrap_or_else(|error| {
                tracing::debug!(host, error, "cannot resolve the name of a DHT node");
                Vec::new()
            })
        })
    }
}

fn ipv4(rdata: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(rdata).map(Ipv4Addr::from).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::pkarr::PublicKey;
    use crate::resolve::failure::Failure;
    use crate::resolve::response::Response;

    /// Knows nothing, and what it was asked for.
    #[derive(Debug, Default)]
    struct Asked(Mutex<Vec<String>>);

    impl Forward for Asked {
        fn forward<'a>(
            &'a self,
            question: &'a Question,
        ) -> BoxFuture<'a, Result<Response, Failure>> {
            self.0.lock().unwrap().push(question.name.to_ascii());
            Box::pin(async { Err(Failure::NoUpstream) })
        }
    }

    #[tokio::test]
    async fn no_upstream_is_asked_for_a_public_key_name() {
        let asked = Arc::new(Asked::default());
        let hosts = HostsByForwarding {
            forward: asked.clone(),
            suffixes: Suffixes::new(["pkarr"]),
        };
        let key = "ybndrfg8ejkmcpqxot1uwisza345h769ybndrfg8ejkmcpqxot1u";
        assert!(PublicKey::is_key_like(key.as_bytes()));
        let names = [
            key,
            &format!("node.{key}.lan"),
            "node.pkarr",
            "node.example",
        ];
        for name in names {
            assert!(hosts.resolve_host(name).await.is_empty());
        }
        assert_eq!(*asked.0.lock().unwrap(), ["node.example."]);
    }

    #[test]
    fn a_link_local_address_is_ours_on_its_own_link_alone() {
        let is_ourselves = |server: &str| {
            let listening = ["[fe80::1%2]:53", "[::1]:53", "127.0.0.1:53"];
            let listening = listening.map(|address| address.parse().unwrap());
            is_ourselves(server.parse().unwrap(), &listening)
        };
        for server in ["[fe80::1%2]:53", "127.0.0.1:53", "[::ffff:127.0.0.1]:53"] {
            assert!(is_ourselves(server), "{server}");
        }
        for server in ["[fe80::1%3]:53", "[fe80::1%2]:54", "127.0.0.2:53"] {
            assert!(!is_ourselves(server), "{server}");
        }
    }

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
