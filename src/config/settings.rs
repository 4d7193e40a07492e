//! All settings, and their defaults.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

use hickory_proto::rr::RecordType;
use ipnet::IpNet;

use super::limits;
use crate::endpoint::{Endpoint, RelayUrl};
use crate::pkarr::PublicKey;

/// All settings of the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where clients are served.
    pub listen: Listen,
    /// Which clients are served.
    pub access: Access,
    /// Which names, besides those that end in a bare key, are public-key names.
    pub names: Names,
    /// Name servers that packets delegate to.
    pub delegation: Delegation,
    /// Who answers every other name.
    pub upstream: Upstream,
    /// Who answers the names of particular domains; no domain is in two of them.
    pub forward: Vec<ForwardRule>,
    /// Records that are answered from here.
    pub records: Vec<LocalRecord>,
    /// Whether private addresses are accepted from the Internet.
    pub rebinding: Rebinding,
    /// The Mainline DHT, which holds the signed packets of public keys.
    pub dht: Dht,
    /// Pkarr relays, which are asked beside the DHT.
    pub relays: Relays,
    /// Keys whose packets are put on the DHT again.
    pub keep_alive: KeepAlive,
    /// The caches of answers and packets.
    pub cache: Cache,
    /// What is kept between runs.
    pub state: State,
    /// How the running service is asked about itself.
    pub control: Control,
    /// What is logged.
    pub log: Log,
}

/// The table `[listen]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Addresses that are served over both UDP and TCP; never empty, and without duplicates.
    /// Port 0 stands for any free port.
    pub addresses: Vec<SocketAddr>,
    /// How many TCP connections may be open at a time, over all addresses.
    pub max_tcp_connections: usize,
    /// How many of them one client address may have.
    pub max_tcp_connections_per_client: usize,
    /// The name server identifier that is told on request (RFC 5001); empty tells none.
    pub nsid: String,
}

/// The table `[access]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Networks whose clients are answered; never empty, and without host bits.
    pub allow: Vec<IpNet>,
    /// Who is told, by the AD bit, that an answer comes from a verified packet.
    pub authentic_data: AuthenticData,
}

/// Clients that get the AD bit on answers from verified packets, if they ask for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthenticData {
    /// None.
    Never,
    /// Those on this host: nothing between them and this program can forge it.
    Loopback,
    /// All.
    Always,
}

/// The table `[names]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Suffixes that may follow a public key, in lower case and without a final dot.
    pub suffixes: Vec<String>,
    /// What becomes of a key with a search domain behind it.
    pub search_domains: SearchDomains,
    /// Whether addresses are made from a name's HTTPS or SVCB records if it has none of its own.
    pub synthesise_addresses: bool,
    /// Whether special-use names (RFC 6761 and others) are answered here.
    pub special_use: bool,
    /// Absolute path of a file in the form of hosts(5) whose names are answered from it; `None` is
    /// none.
    pub hosts_file: Option<PathBuf>,
}

/// What becomes of `<key>.lan` and the like, which stubs make of their search lists. Such a name is
/// never forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SearchDomains {
    /// It does not exist; the stub goes on to the key itself.
    NxDomain,
    /// It is answered as the key.
    Answer,
}

/// The table `[delegation]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delegation {
    /// Whether NS records in packets are followed to those name servers.
    pub follow: bool,
    /// Whether name servers at private, loopback and link-local addresses are asked.
    pub allow_private: bool,
}

/// The table `[upstream]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Who is asked.
    pub mode: UpstreamMode,
    /// Resolvers to forward to, without duplicates. Empty stands for those of `/etc/resolv.conf` that
    /// are not this daemon itself; empty in the mode [`UpstreamMode::Recursive`].
    pub servers: Vec<Endpoint>,
    /// Resolvers that are asked for the addresses of those that are given by name; not empty if there
    /// are any, here or in a [`ForwardRule`].
    pub bootstrap: Vec<SocketAddr>,
    /// Which of several resolvers is asked.
    pub strategy: Strategy,
    /// How long one query may take in all, over all servers.
    pub timeout: Duration,
    /// Absolute path of a PEM file with the certificate authorities that encrypted resolvers are
    /// checked by; `None` takes the system's.
    pub ca_file: Option<PathBuf>,
    /// Whether answers are checked by DNSSEC.
    pub validate: bool,
    /// Absolute path of a file with the keys of the root zone; `None` takes those built in.
    pub trust_anchors: Option<PathBuf>,
    /// Domains in which nothing is checked (RFC 7646), in lower case and without a final dot.
    pub negative_trust_anchors: Vec<String>,
    /// Absolute path of a file with the addresses of the root servers; `None` takes those built in.
    pub root_hints: Option<PathBuf>,
}

/// Who is asked for names that are no public-key names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamMode {
    /// Other resolvers.
    Forward,
    /// The name servers of the domains themselves, from the root on.
    Recursive,
}

/// Which of several resolvers is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// The one that has been the fastest.
    Fastest,
    /// The first one that works.
    InOrder,
    /// All at once.
    Parallel,
}

/// An element of `[[forward]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardRule {
    /// Domains, each for itself and all below it, in lower case and without a final dot; never empty,
    /// and none is a public-key name or stands under a suffix.
    pub domains: Vec<String>,
    /// The resolvers that are asked for them; never empty, and without duplicates.
    pub servers: Vec<Endpoint>,
}

/// A record of the table `[records]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalRecord {
    /// The owner, in lower case and without a final dot; never a public-key name, nor under a suffix.
    pub name: String,
    /// The type.
    pub rtype: RecordType,
    /// The data in wire form, with all names in it uncompressed and in lower case.
    pub rdata: Vec<u8>,
}

/// The table `[rebinding]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebinding {
    /// Whether private addresses are dropped from answers.
    pub guard: RebindingGuard,
    /// Domains that may have them, each for itself and all below it, in lower case and without a final
    /// dot; public-key names may be among them.
    pub allow: Vec<String>,
}

/// Whether private addresses are dropped from answers that come from the Internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RebindingGuard {
    /// If clients beyond this host are served.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// The table `[dht]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dht {
    /// Nodes to join the DHT by, each `host:port`; never empty. Their names are resolved through
    /// the upstream servers, never through the system, whose resolver may be this daemon.
    pub bootstrap: Vec<String>,
    /// Address of the DHT's UDP sockets. Port 0 stands for any free ports, another one for itself and
    /// the next three.
    pub bind_address: SocketAddrV4,
    /// How long a lookup may take from its start.
    pub lookup_timeout: Duration,
    /// A packet is fetched again no sooner than this, however low the TTLs of its records.
    pub packet_min_ttl: Duration,
    /// How long the first packet that a lookup finds is held back for a newer one.
    pub linger: Duration,
    /// Lookups that may start in a second.
    pub max_lookups_per_second: u32,
    /// Lookups of one client that may find nothing in a second, counted over a minute.
    pub max_misses_per_client: u32,
}

/// The table `[relays]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relays {
    /// The relays, without duplicates; none by default.
    pub urls: Vec<RelayUrl>,
}

/// The table `[keep-alive]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepAlive {
    /// The keys, without duplicates; none by default.
    pub keys: Vec<PublicKey>,
    /// The longest time between two puts of a packet.
    pub interval: Duration,
    /// How long ago a packet may have been signed.
    pub max_age: Duration,
}

/// The table `[cache]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// Memory that the caches may use, in bytes.
    pub max_bytes: u64,
    /// Lowest TTL of an answer; lower ones are raised to it.
    pub min_ttl: Duration,
    /// Highest TTL of an answer; higher ones are lowered to it.
    pub max_ttl: Duration,
    /// Longest time that NXDOMAIN or NODATA is kept, and the minimum field of the SOA record that
    /// is synthesised for a public-key zone.
    pub negative_ttl: Duration,
    /// How long a failure is remembered.
    pub failure_ttl: Duration,
    /// How long what is past its time is served when nothing newer can be had; zero serves none.
    pub max_stale: Duration,
    /// How long something newer is waited for before that.
    pub stale_wait: Duration,
    /// Whether names that are asked for late in the life of their answer are looked up anew before it
    /// ends.
    pub prefetch: bool,
    /// Whether a name below one that does not exist is answered alike (RFC 8020).
    pub nxdomain_cut: bool,
}

/// The table `[state]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Absolute path of the directory that state is saved to; `None` saves nothing.
    pub directory: Option<PathBuf>,
    /// Bytes of packets that are kept there.
    pub max_bytes: u64,
}

/// The table `[control]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// Absolute path of the control socket; `None` is none.
    pub socket: Option<PathBuf>,
}

/// The table `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// A level, or a filter such as `info,pkbridge::resolve=debug`.
    pub level: String,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            listen: Listen {
                addresses: vec![
                    SocketAddr::from((Ipv4Addr::LOCALHOST, limits::DNS_PORT)),
                    SocketAddr::from((Ipv6Addr::LOCALHOST, limits::DNS_PORT)),
                ],
                max_tcp_connections: limits::TCP_CONNECTIONS.default,
                max_tcp_connections_per_client: limits::TCP_CONNECTIONS_PER_CLIENT.default,
                nsid: limits::NSID_DEFAULT.to_owned(),
            },
            access: Access {
                allow: limits::ALLOW_DEFAULT.to_vec(),
                authentic_data: AuthenticData::Loopback,
            },
            names: Names {
                suffixes: vec![limits::SUFFIX_DEFAULT.to_owned()],
                search_domains: SearchDomains::NxDomain,
                synthesise_addresses: true,
                special_use: true,
                hosts_file: Some(PathBuf::from(limits::HOSTS_FILE_DEFAULT)),
            },
            delegation: Delegation {
                follow: true,
                allow_private: false,
            },
            upstream: Upstream {
                mode: UpstreamMode::Forward,
                servers: Vec::new(),
                bootstrap: Vec::new(),
                strategy: Strategy::Fastest,
                timeout: limits::UPSTREAM_TIMEOUT.default,
                ca_file: None,
                validate: false,
                trust_anchors: None,
                negative_trust_anchors: Vec::new(),
                root_hints: None,
            },
            forward: Vec::new(),
            records: Vec::new(),
            rebinding: Rebinding {
                guard: RebindingGuard::Auto,
                allow: Vec::new(),
            },
            dht: Dht {
                bootstrap: limits::BOOTSTRAP_DEFAULT.map(str::to_owned).to_vec(),
                bind_address: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
                lookup_timeout: limits::LOOKUP_TIMEOUT.default,
                packet_min_ttl: limits::PACKET_MIN_TTL.default,
                linger: limits::LINGER.default,
                max_lookups_per_second: limits::LOOKUPS_PER_SECOND.default,
                max_misses_per_client: limits::MISSES_PER_CLIENT.default,
            },
            relays: Relays { urls: Vec::new() },
            keep_alive: KeepAlive {
                keys: Vec::new(),
                interval: limits::KEEP_ALIVE_INTERVAL.default,
                max_age: limits::KEEP_ALIVE_MAX_AGE.default,
            },
            cache: Cache {
                max_bytes: limits::MAX_BYTES_DEFAULT,
                min_ttl: limits::MIN_TTL.default,
                max_ttl: limits::MAX_TTL.default,
                negative_ttl: limits::NEGATIVE_TTL.default,
                failure_ttl: limits::FAILURE_TTL.default,
                max_stale: limits::MAX_STALE.default,
                stale_wait: limits::STALE_WAIT.default,
                prefetch: true,
                nxdomain_cut: true,
            },
            state: State {
                directory: Some(PathBuf::from(limits::STATE_DIRECTORY_DEFAULT)),
                max_bytes: limits::STATE_MAX_BYTES_DEFAULT,
            },
            control: Control {
                socket: Some(PathBuf::from(limits::CONTROL_SOCKET_DEFAULT)),
            },
            log: Log {
                level: limits::LOG_LEVEL_DEFAULT.to_owned(),
            },
        }
    }
}
