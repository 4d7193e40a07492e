//! What no value shows by itself: settings that contradict each other.

use std::collections::HashSet;
use std::net::SocketAddr;

use hickory_proto::rr::Name;
use toml::de::DeTable;

use super::super::values::{self, format_duration, quoted};
use super::super::{Config, UpstreamMode};
use super::kinds::Value;
use super::{Fault, key_path};
use crate::endpoint::{Endpoint, Host};
use crate::pkarr::{NameKind, Suffixes};

/// Finds the contradictions; a setting that has been refused is in none.
pub(super) fn check(root: &DeTable<'_>, config: &Config, faults: &mut Vec<Fault>) {
    let suffixes_key = key_path("[names]", "suffixes");
    let suffixes = match is_refused(&suffixes_key, faults) {
        true => Suffixes::default(),
        false => Suffixes::new(&config.names.suffixes),
    };
    check_ttl_order(root, config, faults);
    check_loops(root, config, faults);
    check_bootstrap(root, config, faults);
    check_mode(root, config, faults);
    check_validation(root, config, faults);
    check_rules(root, &suffixes, faults);
    check_records(root, &suffixes, faults);
    check_nodes(root, &suffixes, faults);
    check_relays(root, &suffixes, faults);
}

/// The value of a key, if the file has it.
fn find<'r, 't>(root: &'r DeTable<'t>, table: &str, key: &str) -> Option<&'r Value<'t>> {
    root.get(table)?.get_ref().get(key)
}

/// The elements of a list.
fn elements<'r, 't>(list: Option<&'r Value<'t>>) -> impl Iterator<Item = &'r Value<'t>> {
    let array = list.and_then(|list| list.get_ref().as_array());
    array.into_iter().flatten()
}

fn is_refused(key: &str, faults: &[Fault]) -> bool {
    faults.iter().any(|fault| fault.key == key)
}

/// A server as the file has it.
struct Written<'c> {
    offset: usize,
    key: String,
    server: &'c Endpoint,
}

/// All servers that are forwarded to, with their places.
fn servers<'c>(root: &DeTable<'_>, config: &'c Config) -> Vec<Written<'c>> {
    let mut written = Vec::new();
    let mut add = |key: &str, list: Option<&Value<'_>>, servers: &'c [Endpoint]| {
        written.extend(
            elements(list)
                .zip(servers)
                .map(|(element, server)| Written {
                    offset: element.span().start,
                    key: key.to_owned(),
                    server,
                }),
        );
    };
    let list = find(root, "upstream", "servers");
    add(
        &key_path("[upstream]", "servers"),
        list,
        &config.upstream.servers,
    );
    // What is no table has been refused, and left out of the configuration.
    let rules = elements(root.get("forward")).filter(|rule| rule.get_ref().is_table());
    for (rule, read) in rules.zip(&config.forward) {
        let list = rule.get_ref().get("servers");
        add(&key_path("[[forward]]", "servers"), list, &read.servers);
    }
    written
}

fn check_ttl_order(root: &DeTable<'_>, config: &Config, faults: &mut Vec<Fault>) {
    let (min, max) = (config.cache.min_ttl, config.cache.max_ttl);
    let given = |key| find(root, "cache", key).map(|value| (key, value.span().start));
    if let Some((key, offset)) = given("min-ttl").or_else(|| given("max-ttl"))
        && min > max
    {
        let (min, max) = (format_duration(min), format_duration(max));
        let message = format!("min-ttl ({min}) is over max-ttl ({max}); lower it or raise max-ttl");
        faults.push(Fault::new(offset, &key_path("[cache]", key), message));
    }
}

/// Refuses a server that is this daemon: a query that is forwarded to it would come back, and be
/// forwarded again, without end.
fn check_loops(root: &DeTable<'_>, config: &Config, faults: &mut Vec<Fault>) {
    if is_refused(&key_path("[listen]", "addresses"), faults) {
        return;
    }
    let own = |address: &SocketAddr| {
        let mut listening = config.listen.addresses.iter();
        listening.find(|listen| reaches(*address, **listen))
    };
    let mut say = |offset, key: &str, server: &dyn std::fmt::Display, listen: &SocketAddr| {
        let message = format!(
            "{server} is pkbridge itself, which listens on {listen}, so that a query would be \
             forwarded in a loop; write the address of another resolver"
        );
        faults.push(Fault::new(offset, key, message));
    };
    for Written {
        offset,
        key,
        server,
    } in servers(root, config)
    {
        if let Some(listen) = server.known_addresses().iter().find_map(own) {
            say(offset, &key, server, listen);
        }
    }
    let list = find(root, "upstream", "bootstrap");
    for (element, server) in elements(list).zip(&config.upstream.bootstrap) {
        if let Some(listen) = own(server) {
            let key = key_path("[upstream]", "bootstrap");
            say(element.span().start, &key, server, listen);
        }
    }
}

/// Whether a query to `server` arrives at a socket that listens on `listen`.
fn reaches(server: SocketAddr, listen: SocketAddr) -> bool {
    let (server_ip, listen_ip) = (server.ip().to_canonical(), listen.ip().to_canonical());
    // Two links may each have a node with the same link-local address, such as fe80::1.
    let is_same = server_ip == listen_ip && scope(server) == scope(listen);
    let is_covered = listen_ip.is_unspecified() && server_ip.is_loopback();
    server.port() == listen.port() && (is_same || is_covered)
}

fn scope(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(address) => address.scope_id(),
    }
}

/// Refuses a server without an address if nobody can be asked for it: the system's resolver may be
/// this daemon.
fn check_bootstrap(root: &DeTable<'_>, config: &Config, faults: &mut Vec<Fault>) {
    let is_refused = is_refused(&key_path("[upstream]", "bootstrap"), faults);
    if is_refused || !config.upstream.bootstrap.is_empty() {
        return;
    }
    for Written {
        offset,
        key,
        server,
    } in servers(root, config)
    {
        if server.needs_bootstrap() {
            let message = format!(
                "{server} is given by name, and there is nobody to ask for its address; list a \
                 resolver in upstream.bootstrap, such as \"9.9.9.9\", or write the address here: \
                 ?address=IP, behind the name"
            );
            faults.push(Fault::new(offset, &key, message));
        }
    }
}

/// Refuses settings of the mode that is not chosen.
fn check_mode(root: &DeTable<'_>, config: &Config, faults: &mut Vec<Fault>) {
    let mut say = |key, message: &str| {
        if let Some(value) = find(root, "upstream", key) {
            let offset = value.span().start;
            faults.push(Fault::new(offset, &key_path("[upstream]", key), message));
        }
    };
    match config.upstream.mode {
        UpstreamMode::Recursive if !config.upstream.servers.is_empty() => say(
            "servers",
            "with the mode \"recursive\" nothing is forwarded to these; leave them out, or write \
             mode = \"forward\"",
        ),
        UpstreamMode::Forward if config.upstream.root_hints.is_some() => say(
            "root-hints",
            "root servers are asked in the mode \"recursive\" only; leave it out, or write mode = \
             \"recursive\"",
        ),
        UpstreamMode::Recursive | UpstreamMode::Forward => {}
    }
}

/// Refuses settings of a validation that does not take place: who writes them relies on it.
fn check_validation(root: &DeTable<'_>, config: &Config, faults: &mut Vec<Fault>) {
    let upstream = &config.upstream;
    if upstream.validate || is_refused(&key_path("[upstream]", "validate"), faults) {
        return;
    }
    for (key, is_set) in [
        ("trust-anchors", upstream.trust_anchors.is_some()),
        (
            "negative-trust-anchors",
            !upstream.negative_trust_anchors.is_empty(),
        ),
    ] {
        if let Some(value) = find(root, "upstream", key).filter(|_| is_set) {
            let message = "nothing is checked by DNSSEC without validate; write validate = true, \
                           or leave this out";
            let offset = value.span().start;
            faults.push(Fault::new(offset, &key_path("[upstream]", key), message));
        }
    }
}

/// Refuses rules for names that are never forwarded, and two rules for one domain.
fn check_rules(root: &DeTable<'_>, suffixes: &Suffixes, faults: &mut Vec<Fault>) {
    let key = key_path("[[forward]]", "domains");
    let mut seen = HashSet::new();
    for rule in elements(root.get("forward")) {
        let mut of_rule = Vec::new();
        for element in elements(rule.get_ref().get("domains")) {
            let Some(text) = element.get_ref().as_str() else {
                continue;
            };
            let Ok(domain) = values::domain(text) else {
                continue;
            };
            let mut say = |message| faults.push(Fault::new(element.span().start, &key, message));
            if seen.contains(&domain) {
                say(format!(
                    "{} is in another rule, too; leave one out",
                    quoted(text)
                ));
            }
            if let Some(reason) = not_ordinary(&domain, suffixes) {
                say(format!(
                    "{} {reason}, and is never forwarded; leave it out",
                    quoted(text)
                ));
            }
            of_rule.push(domain);
        }
        seen.extend(of_rule);
    }
}

/// Refuses records for names that only a verified packet answers.
fn check_records(root: &DeTable<'_>, suffixes: &Suffixes, faults: &mut Vec<Fault>) {
    let records = root
        .get("records")
        .and_then(|value| value.get_ref().as_table());
    for (key, _) in records.into_iter().flatten() {
        let Ok(name) = values::domain(key.get_ref()) else {
            continue;
        };
        if let Some(reason) = not_ordinary(&name, suffixes) {
            let shown = quoted(key.get_ref());
            let path = key_path("[records]", key.get_ref());
            let message = format!(
                "{shown} {reason}, which nothing but a signed packet answers; leave it out"
            );
            faults.push(Fault::new(key.span().start, &path, message));
        }
    }
}

/// Refuses DHT nodes whose names would have to be asked of an upstream, which must not see them.
fn check_nodes(root: &DeTable<'_>, suffixes: &Suffixes, faults: &mut Vec<Fault>) {
    let key = key_path("[dht]", "bootstrap");
    for element in elements(find(root, "dht", "bootstrap")) {
        let node = element.get_ref().as_str().map(values::bootstrap_node);
        let Some(Ok(node)) = node else {
            continue;
        };
        let host = node.split(':').next().unwrap_or_default();
        if let Some(reason) = not_ordinary(host, suffixes) {
            let message = format!(
                "{} {reason}, and cannot be asked for before the DHT is joined; write another \
                 name, or the address",
                quoted(&node)
            );
            faults.push(Fault::new(element.span().start, &key, message));
        }
    }
}

/// Refuses relays whose names would have to be asked of an upstream, which must not see them.
fn check_relays(root: &DeTable<'_>, suffixes: &Suffixes, faults: &mut Vec<Fault>) {
    let key = key_path("[relays]", "urls");
    for element in elements(find(root, "relays", "urls")) {
        let relay = element.get_ref().as_str().map(values::relay);
        let Some(Ok(relay)) = relay else {
            continue;
        };
        if let Host::Name(host) = &relay.server.host
            && let Some(reason) = not_ordinary(host, suffixes)
        {
            let message = format!(
                "the host of {relay} {reason}, and the relay would be needed to find it; write another \
                 name, or the address"
            );
            faults.push(Fault::new(element.span().start, &key, message));
        }
    }
}

/// Why a name is not one that may have an answer from elsewhere.
fn not_ordinary(name: &str, suffixes: &Suffixes) -> Option<String> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    match suffixes.classify(&name) {
        NameKind::PublicKey(_) | NameKind::NotAKey(_) | NameKind::SearchList => {
            Some("has a label in the form of a public key".to_owned())
        }
        NameKind::Suffix(suffix) | NameKind::UnderSuffix(suffix) => {
            let suffix = suffix.to_ascii();
            let suffix = suffix.trim_end_matches('.');
            Some(format!("is under the suffix \"{suffix}\" of public keys"))
        }
        NameKind::Ordinary => None,
    }
}
