//! The addresses of upstreams that are given by name, from servers that are given by address. The
//! system's resolver is never asked: it may be this program.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use hickory_proto::rr::{Name, RecordType};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::resolve::answers::Question;
use crate::resolve::exchange::exchange;
use crate::resolve::query::Peer;
use crate::resolve::response::Response;
use crate::wire::Section;

/// How long one server may take.
const SERVER_TIMEOUT: Duration = Duration::from_millis(1500);
/// Addresses are believed for this long at least: a new connection costs no lookup.
const MIN_TTL: Duration = Duration::from_secs(60);
/// And for this long at most.
const MAX_TTL: Duration = Duration::from_secs(24 * 3600);
/// How long old addresses are used before the servers that failed to give new ones are asked again.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// Resolves the names of upstreams through servers that are given as addresses.
#[derive(Debug)]
pub(in crate::resolve::upstream) struct Bootstrap {
    servers: Vec<SocketAddr>,
    /// As many as the configuration has names.
    hosts: StdMutex<HashMap<String, Arc<Mutex<Known>>>>,
}

/// What is known of a host. It is locked while it is looked up, so that one lookup does for all.
#[derive(Debug, Default)]
struct Known {
    addresses: Vec<IpAddr>,
    looked_up: Option<Instant>,
    until: Option<Instant>,
}

impl Bootstrap {
    /// Asks `servers`, in this order.
    pub(in crate::resolve::upstream) fn new(servers: Vec<SocketAddr>) -> Self {
        Self {
            servers,
            hosts: StdMutex::default(),
        }
    }

    /// Whether there is anyone to ask.
    pub(super) fn has_servers(&self) -> bool {
        !self.servers.is_empty()
    }

    /// The addresses of a host; the error says why there are none, without naming anybody: clients see
    /// it.
    pub(super) async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        let known = self.known(host);
        let mut known = known.lock().await;
        if known.until.is_some_and(|until| Instant::now() < until) {
            return Ok(known.addresses.clone());
        }
        match self.look_up(host).await {
            Ok((addresses, ttl)) => {
                let now = Instant::now();
                known.looked_up = Some(now);
                known.until = Some(now + ttl.clamp(MIN_TTL, MAX_TTL));
                known.addresses.clone_from(&addresses);
                Ok(addresses)
            }
            Err(why) if known.addresses.is_empty() => {
                Err(format!("cannot resolve the server's name: {why}"))
            }
            Err(why) => {
                tracing::debug!(
                    host,
                    why,
                    "the last known addresses of an upstream are used"
                );
                known.until = Some(Instant::now() + RETRY_AFTER);
                Ok(known.addresses.clone())
            }
        }
    }

    /// The addresses have not worked: they are looked up again, unless that was just done.
    pub(super) async fn doubt(&self, host: &str) {
        let known = self.known(host);
        let mut known = known.lock().await;
        let not_before = known.looked_up.map(|at| at + MIN_TTL);
        known.until = known.until.min(not_before);
    }

    fn known(&self, host: &str) -> Arc<Mutex<Known>> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(hosts.entry(host.to_owned()).or_default())
    }

    async fn look_up(&self, host: &str) -> Result<(Vec<IpAddr>, Duration), String> {
        let mut name = Name::from_ascii(host).map_err(|error| error.to_string())?;
        name.set_fqdn(true);
        let name = name.to_lowercase();
        if self.servers.is_empty() {
            return Err("there are no bootstrap servers".to_owned());
        }
        let mut errors = Vec::new();
        for server in &self.servers {
            let mut failed = |why: String| {
                tracing::debug!(host, %server, why, "a bootstrap server is of no help");
                if !errors.contains(&why) {
                    errors.push(why);
                }
            };
            let both = async {
                tokio::join!(
                    addresses(*server, &name, RecordType::AAAA),
                    addresses(*server, &name, RecordType::A)
                )
            };
            let Ok((v6, v4)) = timeout(SERVER_TIMEOUT, both).await else {
                failed("timed out".to_owned());
                continue;
            };
            let says_all = v6.is_ok() && v4.is_ok();
            let mut found = Vec::new();
            let mut ttl = MAX_TTL;
            for answer in [v6, v4] {
                match answer {
                    Ok((addresses, seconds)) => {
                        found.extend(addresses);
                        ttl = ttl.min(seconds);
                    }
                    // What is missing is looked for again soon.
                    Err(why) => {
                        ttl = MIN_TTL;
                        failed(why);
                    }
                }
            }
            if !found.is_empty() {
                return Ok((found, ttl));
            }
            if says_all {
                failed("it has no address".to_owned());
            }
        }
        Err(errors.join("; "))
    }
}

/// The addresses of one family, and for how long they hold.
async fn addresses(
    server: SocketAddr,
    name: &Name,
    rtype: RecordType,
) -> Result<(Vec<IpAddr>, Duration), String> {
    let question = Question {
        name: name.clone(),
        rtype,
        dnssec_ok: false,
        checking_disabled: false,
    };
    let response = exchange(server, Peer::Resolver, &question).await;
    let response = response.map_err(|error| error.to_string())?;
    if response.is_server_failure() {
        return Err(format!("RCODE {}", response.rcode));
    }
    let mut ttl = MAX_TTL;
    let mut found = Vec::new();
    for record in response.layout.section(Section::Answer) {
        ttl = ttl.min(Duration::from_secs(record.ttl.into()));
        if record.rtype == u16::from(rtype) {
            found.extend(address(&response, record.rdata.clone()));
        }
    }
    Ok((found, ttl))
}

fn address(response: &Response, rdata: std::ops::Range<usize>) -> Option<IpAddr> {
    let rdata = response.wire.get(rdata)?;
    let v4 = <[u8; 4]>::try_from(rdata).map(|octets| Ipv4Addr::from(octets).into());
    let v6 = <[u8; 16]>::try_from(rdata).map(|octets| Ipv6Addr::from(octets).into());
    v4.or(v6).ok()
}

#[cfg(test)]
pub(super) mod tests;
