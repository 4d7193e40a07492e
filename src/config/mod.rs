//! The configuration file: its settings, their defaults, and reading it.
//!
//! Every key and its bounds are explained in `config/pkbridge.toml`, which is also the file that is
//! shipped; reading it yields [`Config::default`]. A file is either taken whole or refused with all
//! the problems found in it.

mod limits;
mod parse;
#[cfg(test)]
mod tests;
mod values;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

pub use values::{format_duration, parse_duration};

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
    /// The Mainline DHT, which holds the signed packets of public keys.
    pub dht: Dht,
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
    /// Resolvers to forward to. Empty stands for those of `/etc/resolv.conf` that are not this
    /// daemon itself.
    pub servers: Vec<SocketAddr>,
    /// How long one query may take in all, over all servers.
    pub timeout: Duration,
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
            },
            delegation: Delegation {
                follow: true,
                allow_private: false,
            },
            upstream: Upstream {
                servers: Vec::new(),
                timeout: limits::UPSTREAM_TIMEOUT.default,
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
            cache: Cache {
                max_bytes: limits::MAX_BYTES_DEFAULT,
                min_ttl: limits::MIN_TTL.default,
                max_ttl: limits::MAX_TTL.default,
                negative_ttl: limits::NEGATIVE_TTL.default,
                failure_ttl: limits::FAILURE_TTL.default,
                max_stale: limits::MAX_STALE.default,
                stale_wait: limits::STALE_WAIT.default,
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

impl Config {
    /// Reads the file at `path`.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or as [`Config::parse`].
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let file = path.display().to_string();
        match read_limited(path) {
            Ok(bytes) => parse_bytes(&bytes, &file),
            Err(error) => Err(ConfigError {
                file,
                cause: Cause::Unreadable {
                    error: error.to_string(),
                    not_found: error.kind() == io::ErrorKind::NotFound,
                },
            }),
        }
    }

    /// Reads the text of a file; `file` is the name that errors show. A table or key that is
    /// missing has its default. Nothing else is read, neither another file nor the network.
    ///
    /// # Errors
    ///
    /// If the text is not TOML, or if it has an unknown key or a value that is refused. The error
    /// lists all the problems that were found.
    pub fn parse(text: &str, file: &str) -> Result<Config, ConfigError> {
        parse_bytes(text.as_bytes(), file)
    }
}

/// Why a configuration file was refused. It displays as one line for each problem, without a line
/// feed after the last one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    file: String,
    cause: Cause,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Cause {
    Unreadable {
        error: String,
        not_found: bool,
    },
    Invalid {
        problems: Vec<Problem>,
        omitted: usize,
    },
}

/// One thing that is wrong in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The line, counted from 1.
    pub line: usize,
    /// The column, counted in characters from 1.
    pub column: usize,
    /// The setting, such as `[cache].max-ttl`; empty if the text is not TOML.
    pub key: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl ConfigError {
    /// The problems, in the order of the file; empty if the file could not be read. At most the
    /// first hundred are listed.
    pub fn problems(&self) -> &[Problem] {
        match &self.cause {
            Cause::Unreadable { .. } => &[],
            Cause::Invalid { problems, .. } => problems,
        }
    }

    /// Whether there is no such file.
    pub fn is_not_found(&self) -> bool {
        match &self.cause {
            Cause::Unreadable { not_found, .. } => *not_found,
            Cause::Invalid { .. } => false,
        }
    }

    /// Locates the faults that were found in `text`, in the order of the file.
    fn invalid(file: &str, text: &str, mut faults: Vec<parse::Fault>) -> Self {
        faults.sort_by_key(|fault| fault.offset);
        let omitted = faults.len().saturating_sub(limits::MAX_PROBLEMS);
        faults.truncate(limits::MAX_PROBLEMS);
        let locate = |fault: parse::Fault| {
            let before = text.get(..fault.offset).unwrap_or(text);
            let line = before.rsplit('\n').next().unwrap_or_default();
            Problem {
                line: before.matches('\n').count() + 1,
                column: line.chars().count() + 1,
                key: fault.key,
                message: fault.message,
            }
        };
        ConfigError {
            file: file.to_owned(),
            cause: Cause::Invalid {
                problems: faults.into_iter().map(locate).collect(),
                omitted,
            },
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = &self.file;
        match &self.cause {
            Cause::Unreadable { error, .. } => write!(f, "{file}: cannot read: {error}"),
            Cause::Invalid { problems, omitted } => {
                for (index, problem) in problems.iter().enumerate() {
                    let feed = if index == 0 { "" } else { "\n" };
                    write!(f, "{feed}{file}:{problem}")?;
                }
                match omitted {
                    0 => Ok(()),
                    1 => write!(f, "\n{file}: 1 more problem is not shown"),
                    _ => write!(f, "\n{file}: {omitted} more problems are not shown"),
                }
            }
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.line, self.column)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}

/// Reads a file, but little more of it than is allowed: enough to see that it is too large.
fn read_limited(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(limits::MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn parse_bytes(bytes: &[u8], file: &str) -> Result<Config, ConfigError> {
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= limits::MAX_FILE_BYTES) {
        match std::str::from_utf8(bytes) {
            Ok(text) => {
                // Some editors put a byte order mark first; it is no column.
                let text = text.strip_prefix('\u{feff}').unwrap_or(text);
                parse::read(text).map_err(|faults| ConfigError::invalid(file, text, faults))
            }
            Err(error) => {
                let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
                let text = std::str::from_utf8(valid).unwrap_or_default();
                let message = "the text is not UTF-8; save the file in that encoding";
                let fault = parse::Fault::new(text.len(), "", message);
                Err(ConfigError::invalid(file, text, vec![fault]))
            }
        }
    } else {
        let message = "the file is larger than 1 MiB; is it a configuration file?";
        let fault = parse::Fault::new(0, "", message);
        Err(ConfigError::invalid(file, "", vec![fault]))
    }
}
