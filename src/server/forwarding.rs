//! Who answers ordinary names, as the configuration has it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use hickory_proto::rr::Name;

use crate::config::{self, Config, UpstreamMode};
use crate::endpoint::Endpoint;
use crate::pkarr::Suffixes;
use crate::resolve::{
    Anchors, Failure, Forward, ForwardRule, Question, Recursive, RecursiveSettings, Response,
    Strategy, Tls, UpstreamSettings, Upstreams, Validating, is_ourselves, read_root_hints,
    root_servers, system_servers,
};

/// The port of DNS.
const DNS_PORT: u16 = 53;
/// The shortest time for a question whose name servers have to be found first: three or four steps, and
/// each may meet a dead server.
const RECURSION_TIMEOUT: Duration = Duration::from_secs(4);

/// What a configuration comes to.
#[derive(Debug)]
pub(super) struct Forwarding {
    forward: Arc<dyn Forward>,
    /// The upstreams for all names without a rule.
    servers: Vec<Endpoint>,
    /// Whether there are none, as the name servers themselves are asked.
    is_recursive: bool,
}

impl Forwarding {
    /// The upstreams for all names without a rule.
    pub(super) fn servers(&self) -> &[Endpoint] {
        &self.servers
    }
}

/// The one in force. The DHT resolves the names of its bootstrap nodes through it too, so it sees a
/// reload.
#[derive(Debug)]
pub(super) struct CurrentForward(ArcSwap<Forwarding>);

impl CurrentForward {
    pub(super) fn new(forwarding: Forwarding) -> Self {
        Self(ArcSwap::from_pointee(forwarding))
    }

    pub(super) fn replace(&self, forwarding: Forwarding) {
        self.0.store(Arc::new(forwarding));
    }

    /// The upstreams for all names without a rule.
    pub(super) fn servers(&self) -> Vec<Endpoint> {
        self.0.load().servers.clone()
    }

    /// Whether there are none, as the name servers themselves are asked.
    pub(super) fn is_recursive(&self) -> bool {
        self.0.load().is_recursive
    }
}

impl Forward for CurrentForward {
    fn forward<'a>(&'a self, question: &'a Question) -> BoxFuture<'a, Result<Response, Failure>> {
        let forward = Arc::clone(&self.0.load().forward);
        Box::pin(async move { forward.forward(question).await })
    }

    fn has_rule_for(&self, name: &Name) -> bool {
        self.0.load().forward.has_rule_for(name)
    }

    fn is_down_for(&self, name: &Name) -> bool {
        self.0.load().forward.is_down_for(name)
    }
}

/// Makes it; speaks to nobody.
///
/// # Errors
/// A text, if a file cannot be used.
pub(super) fn forwarding(
    config: &Config,
    resolv_conf: Option<&Path>,
    listening: &[SocketAddr],
) -> Result<Forwarding, String> {
    let upstream = &config.upstream;
    let is_recursive = upstream.mode == UpstreamMode::Recursive;
    let servers = match resolv_conf {
        Some(path) if upstream.servers.is_empty() && !is_recursive => {
            of_the_system(path, listening)
        }
        Some(_) | None => upstream.servers.clone(),
    };
    for (key, server) in leading_back(config, listening) {
        tracing::error!(
            %server,
            "a forwarding loop: this server of {key} is pkbridge itself; write the address of another \
             resolver there"
        );
    }
    let settings = UpstreamSettings {
        servers: servers.clone(),
        rules: config.forward.iter().map(rule).collect(),
        strategy: match upstream.strategy {
            config::Strategy::Fastest => Strategy::Fastest,
            config::Strategy::InOrder => Strategy::InOrder,
            config::Strategy::Parallel => Strategy::Parallel,
        },
        timeout: upstream.timeout,
        tls: Arc::new(Tls::new(upstream.ca_file.as_deref()).map_err(|error| error.to_string())?),
        bootstrap: upstream.bootstrap.clone(),
    };
    let mut upstreams = Upstreams::new(settings);
    if is_recursive {
        upstreams = upstreams.with_others(Arc::new(recursive(config)?));
    }
    let mut forward: Arc<dyn Forward> = Arc::new(upstreams);
    if upstream.validate {
        forward = Arc::new(validating(config, forward)?);
    }
    Ok(Forwarding {
        forward,
        servers,
        is_recursive,
    })
}

/// The servers that are this one, each with the key that it stands in. When the configuration was read it
/// was not known which addresses this host has.
fn leading_back(config: &Config, listening: &[SocketAddr]) -> Vec<(&'static str, Endpoint)> {
    let upstream = &config.upstream;
    let servers = upstream.servers.iter().cloned();
    let of_rules = config.forward.iter().flat_map(|rule| rule.servers.clone());
    let bootstrap = upstream.bootstrap.iter().copied().map(Endpoint::plain);
    let all = servers
        .map(|server| ("[upstream] servers", server))
        .chain(of_rules.map(|server| ("[[forward]] servers", server)))
        .chain(bootstrap.map(|server| ("[upstream] bootstrap", server)));
    let is_here = |address: SocketAddr| is_ourselves(address, listening);
    all.filter(|(_, server)| server.known_addresses().into_iter().any(is_here))
        .collect()
}

fn recursive(config: &Config) -> Result<Recursive, String> {
    let hints = config.upstream.root_hints.as_deref();
    Recursive::new(RecursiveSettings {
        root_servers: hints.map_or_else(|| Ok(root_servers()), read_root_hints)?,
        suffixes: Suffixes::new(&config.names.suffixes),
        rules: config
            .forward
            .iter()
            .flat_map(|of| rule(of).domains)
            .collect(),
        private_name_servers: config.delegation.allow_private,
        port: DNS_PORT,
        timeout: config.upstream.timeout.max(RECURSION_TIMEOUT),
    })
}

fn validating(config: &Config, forward: Arc<dyn Forward>) -> Result<Validating, String> {
    let upstream = &config.upstream;
    let anchors = match &upstream.trust_anchors {
        Some(path) => Anchors::from_file(path).map_err(|error| error.to_string())?,
        None => Anchors::built_in(),
    };
    let negative = upstream.negative_trust_anchors.iter();
    let negative = negative.filter_map(|zone| name(zone)).collect();
    let suffixes = Suffixes::new(&config.names.suffixes);
    Ok(Validating::new(forward, anchors, negative, suffixes))
}

fn rule(rule: &config::ForwardRule) -> ForwardRule {
    let names = rule.domains.iter().filter_map(|domain| name(domain));
    ForwardRule {
        domains: names.collect(),
        servers: rule.servers.clone(),
    }
}

/// A name of the configuration, which has been checked.
pub(super) fn name(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name.to_lowercase())
}

fn of_the_system(resolv_conf: &Path, listening: &[SocketAddr]) -> Vec<Endpoint> {
    let servers = system_servers(resolv_conf, listening);
    let path = resolv_conf.display();
    if servers.is_empty() {
        tracing::warn!(
            "no upstream resolver: [upstream] servers is empty, and {path} names none but pkbridge \
             itself; ordinary names are answered SERVFAIL"
        );
    } else {
        tracing::info!(?servers, "upstream resolvers taken from {path}");
    }
    servers.into_iter().map(Endpoint::plain).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, UdpSocket};

    use super::*;

    /// An address of this host besides loopback; `None` if it has none.
    fn own_address() -> Option<IpAddr> {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect("192.0.2.1:53").ok()?;
        let ip = socket.local_addr().unwrap().ip();
        (!ip.is_unspecified()).then_some(ip)
    }

    #[test]
    fn servers_that_are_this_one_are_found_in_every_list() {
        let endpoint = |text: &str| text.parse::<Endpoint>().unwrap();
        let mut config = Config::default();
        config.upstream.servers = ["127.0.0.1:5300", "192.0.2.1:5300", "127.0.0.1:5301"]
            .map(endpoint)
            .to_vec();
        config.forward = vec![config::ForwardRule {
            domains: vec!["lan".to_owned()],
            servers: vec![endpoint("192.0.2.1"), endpoint("tcp://127.0.0.2:5300")],
        }];
        config.upstream.bootstrap = ["192.0.2.1:5300", "[::1]:5300"]
            .map(|address| address.parse().unwrap())
            .to_vec();
        let mut expected = vec![
            ("[upstream] servers", "127.0.0.1:5300".to_owned()),
            ("[[forward]] servers", "tcp://127.0.0.2:5300".to_owned()),
            ("[upstream] bootstrap", "[::1]:5300".to_owned()),
        ];
        if let Some(ip) = own_address() {
            let own = SocketAddr::new(ip, 5300);
            config.upstream.bootstrap.push(own);
            expected.push(("[upstream] bootstrap", own.to_string()));
        }
        let found = |listening: &str| -> Vec<(&str, String)> {
            let found = leading_back(&config, &[listening.parse().unwrap()]);
            let shown = found.into_iter().map(|(key, of)| (key, of.to_string()));
            shown.collect()
        };
        assert_eq!(found("0.0.0.0:5300"), expected);
        assert_eq!(found("127.0.0.1:5300"), expected[..1]);
        assert_eq!(found("0.0.0.0:5302"), []);
    }
}
