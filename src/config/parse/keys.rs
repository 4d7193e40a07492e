//! Every table and key that there is, and how its value gets into the configuration.

use super::super::{Config, ForwardRule, limits, values};
use super::kinds::{
    Outcome, Value, assign, at_most, boolean, bootstrap, domains, duration, list, max_bytes,
    non_empty, number, servers, string,
};

/// A table of the file.
pub(in crate::config) struct Table {
    pub(in crate::config) name: &'static str,
    pub(in crate::config) keys: Keys,
}

/// What a table may have in it.
pub(in crate::config) enum Keys {
    /// These keys, in one table.
    Table(&'static [Key<Config>]),
    /// These keys, all of them, in each element of a list of tables.
    Rules(&'static [Key<ForwardRule>]),
    /// A domain name for each key.
    Records,
}

/// A key of a table, and how its value gets into the setting `T`.
pub(in crate::config) struct Key<T> {
    pub(in crate::config) name: &'static str,
    pub(super) read: fn(&Value<'_>, &mut T) -> Outcome<()>,
}

impl Table {
    /// Its name as it is written in the file.
    pub(super) fn shown(&self) -> String {
        let name = self.name;
        match self.keys {
            Keys::Table(_) | Keys::Records => format!("[{name}]"),
            Keys::Rules(_) => format!("[[{name}]]"),
        }
    }
}

impl Keys {
    /// The names of the keys, as far as they are given.
    pub(in crate::config) fn names(&self) -> Vec<&'static str> {
        match self {
            Keys::Table(keys) => keys.iter().map(|key| key.name).collect(),
            Keys::Rules(keys) => keys.iter().map(|key| key.name).collect(),
            Keys::Records => Vec::new(),
        }
    }
}

const fn key<T>(name: &'static str, read: fn(&Value<'_>, &mut T) -> Outcome<()>) -> Key<T> {
    Key { name, read }
}

/// Every key that there is.
pub(in crate::config) const TABLES: &[Table] = &[
    Table {
        name: "listen",
        keys: Keys::Table(&[
            key("addresses", |value, config| {
                let example = "127.0.0.1:53";
                let hint = "the list is empty, so that no client could ask; list at least one \
                            address such as \"127.0.0.1:53\"";
                let addresses = list(value, example, values::listen_address);
                assign(
                    &mut config.listen.addresses,
                    non_empty(value, hint, addresses),
                )
            }),
            key("max-tcp-connections", |value, config| {
                let count = number(value, &limits::TCP_CONNECTIONS);
                assign(&mut config.listen.max_tcp_connections, count)
            }),
            key("max-tcp-connections-per-client", |value, config| {
                let count = number(value, &limits::TCP_CONNECTIONS_PER_CLIENT);
                assign(&mut config.listen.max_tcp_connections_per_client, count)
            }),
            key("nsid", |value, config| {
                let nsid = string(value, limits::NSID_DEFAULT, values::nsid);
                assign(&mut config.listen.nsid, nsid)
            }),
        ]),
    },
    Table {
        name: "access",
        keys: Keys::Table(&[
            key("allow", |value, config| {
                let hint = "nobody would be served; list at least \"127.0.0.0/8\"";
                let networks = list(value, "127.0.0.0/8", values::network);
                assign(&mut config.access.allow, non_empty(value, hint, networks))
            }),
            key("authentic-data", |value, config| {
                let choice = string(value, "loopback", values::authentic_data);
                assign(&mut config.access.authentic_data, choice)
            }),
        ]),
    },
    Table {
        name: "names",
        keys: Keys::Table(&[
            key("suffixes", |value, config| {
                let suffixes = list(value, "pkarr", values::suffix);
                assign(&mut config.names.suffixes, suffixes)
            }),
            key("search-domains", |value, config| {
                let choice = string(value, "nxdomain", values::search_domains);
                assign(&mut config.names.search_domains, choice)
            }),
            key("synthesise-addresses", |value, config| {
                assign(&mut config.names.synthesise_addresses, boolean(value))
            }),
            key("special-use", |value, config| {
                assign(&mut config.names.special_use, boolean(value))
            }),
            key("hosts-file", |value, config| {
                let file = string(value, limits::HOSTS_FILE_DEFAULT, values::hosts_file);
                assign(&mut config.names.hosts_file, file)
            }),
        ]),
    },
    Table {
        name: "delegation",
        keys: Keys::Table(&[
            key("follow", |value, config| {
                assign(&mut config.delegation.follow, boolean(value))
            }),
            key("allow-private", |value, config| {
                assign(&mut config.delegation.allow_private, boolean(value))
            }),
        ]),
    },
    Table {
        name: "upstream",
        keys: Keys::Table(&[
            key("mode", |value, config| {
                let mode = string(value, "forward", values::upstream_mode);
                assign(&mut config.upstream.mode, mode)
            }),
            key("servers", |value, config| {
                assign(&mut config.upstream.servers, servers(value))
            }),
            key("bootstrap", |value, config| {
                let servers = list(value, "9.9.9.9", values::server_address)?;
                let servers = at_most(limits::SERVERS_MAX, "servers", value, servers);
                assign(&mut config.upstream.bootstrap, servers)
            }),
            key("strategy", |value, config| {
                let strategy = string(value, "fastest", values::strategy);
                assign(&mut config.upstream.strategy, strategy)
            }),
            key("timeout", |value, config| {
                assign(
                    &mut config.upstream.timeout,
                    duration(value, &limits::UPSTREAM_TIMEOUT),
                )
            }),
            key("ca-file", |value, config| {
                let file = string(value, "/etc/pkbridge/ca.pem", values::ca_file);
                assign(&mut config.upstream.ca_file, file)
            }),
            key("validate", |value, config| {
                assign(&mut config.upstream.validate, boolean(value))
            }),
            key("trust-anchors", |value, config| {
                let file = string(value, "/usr/share/dns/root.key", values::trust_anchors);
                assign(&mut config.upstream.trust_anchors, file)
            }),
            key("negative-trust-anchors", |value, config| {
                assign(&mut config.upstream.negative_trust_anchors, domains(value))
            }),
            key("root-hints", |value, config| {
                let file = string(value, "/usr/share/dns/root.hints", values::root_hints);
                assign(&mut config.upstream.root_hints, file)
            }),
        ]),
    },
    Table {
        name: "forward",
        keys: Keys::Rules(&[
            key("domains", |value, rule| {
                let hint = "a rule without a domain is never used; list at least one such as \
                            \"lan\", or leave the rule out";
                let domains = list(value, "lan", values::rule_domain);
                assign(&mut rule.domains, non_empty(value, hint, domains))
            }),
            key("servers", |value, rule| {
                let hint = "nobody could answer for these domains; list at least one server such \
                            as \"192.168.1.1\"";
                assign(&mut rule.servers, non_empty(value, hint, servers(value)))
            }),
        ]),
    },
    Table {
        name: "records",
        keys: Keys::Records,
    },
    Table {
        name: "rebinding",
        keys: Keys::Table(&[
            key("guard", |value, config| {
                let choice = string(value, "auto", values::rebinding_guard);
                assign(&mut config.rebinding.guard, choice)
            }),
            key("allow", |value, config| {
                assign(&mut config.rebinding.allow, domains(value))
            }),
        ]),
    },
    Table {
        name: "dht",
        keys: Keys::Table(&[
            key("bootstrap", |value, config| {
                assign(&mut config.dht.bootstrap, bootstrap(value))
            }),
            key("bind-address", |value, config| {
                let address = string(value, "0.0.0.0:6881", values::dht_address);
                assign(&mut config.dht.bind_address, address)
            }),
            key("lookup-timeout", |value, config| {
                assign(
                    &mut config.dht.lookup_timeout,
                    duration(value, &limits::LOOKUP_TIMEOUT),
                )
            }),
            key("packet-min-ttl", |value, config| {
                assign(
                    &mut config.dht.packet_min_ttl,
                    duration(value, &limits::PACKET_MIN_TTL),
                )
            }),
            key("linger", |value, config| {
                assign(&mut config.dht.linger, duration(value, &limits::LINGER))
            }),
            key("max-lookups-per-second", |value, config| {
                let count = number(value, &limits::LOOKUPS_PER_SECOND);
                assign(&mut config.dht.max_lookups_per_second, count)
            }),
            key("max-misses-per-client", |value, config| {
                let count = number(value, &limits::MISSES_PER_CLIENT);
                assign(&mut config.dht.max_misses_per_client, count)
            }),
        ]),
    },
    Table {
        name: "relays",
        keys: Keys::Table(&[key("urls", |value, config| {
            let relays = list(value, "https://relay.example", values::relay)?;
            let relays = at_most(limits::RELAYS_MAX, "relays", value, relays);
            assign(&mut config.relays.urls, relays)
        })]),
    },
    Table {
        name: "keep-alive",
        keys: Keys::Table(&[
            key("keys", |value, config| {
                let keys = list(value, values::EXAMPLE_KEY, values::public_key)?;
                let keys = at_most(limits::KEEP_ALIVE_MAX, "keys", value, keys);
                assign(&mut config.keep_alive.keys, keys)
            }),
            key("interval", |value, config| {
                assign(
                    &mut config.keep_alive.interval,
                    duration(value, &limits::KEEP_ALIVE_INTERVAL),
                )
            }),
            key("max-age", |value, config| {
                assign(
                    &mut config.keep_alive.max_age,
                    duration(value, &limits::KEEP_ALIVE_MAX_AGE),
                )
            }),
        ]),
    },
    Table {
        name: "cache",
        keys: Keys::Table(&[
            key("max-bytes", |value, config| {
                assign(
                    &mut config.cache.max_bytes,
                    max_bytes(value, limits::MAX_BYTES_MIN),
                )
            }),
            key("min-ttl", |value, config| {
                assign(&mut config.cache.min_ttl, duration(value, &limits::MIN_TTL))
            }),
            key("max-ttl", |value, config| {
                assign(&mut config.cache.max_ttl, duration(value, &limits::MAX_TTL))
            }),
            key("negative-ttl", |value, config| {
                assign(
                    &mut config.cache.negative_ttl,
                    duration(value, &limits::NEGATIVE_TTL),
                )
            }),
            key("failure-ttl", |value, config| {
                assign(
                    &mut config.cache.failure_ttl,
                    duration(value, &limits::FAILURE_TTL),
                )
            }),
            key("max-stale", |value, config| {
                assign(
                    &mut config.cache.max_stale,
                    duration(value, &limits::MAX_STALE),
                )
            }),
            key("stale-wait", |value, config| {
                assign(
                    &mut config.cache.stale_wait,
                    duration(value, &limits::STALE_WAIT),
                )
            }),
            key("prefetch", |value, config| {
                assign(&mut config.cache.prefetch, boolean(value))
            }),
            key("nxdomain-cut", |value, config| {
                assign(&mut config.cache.nxdomain_cut, boolean(value))
            }),
        ]),
    },
    Table {
        name: "state",
        keys: Keys::Table(&[
            key("directory", |value, config| {
                let directory = string(value, limits::STATE_DIRECTORY_DEFAULT, values::directory);
                assign(&mut config.state.directory, directory)
            }),
            key("max-bytes", |value, config| {
                assign(
                    &mut config.state.max_bytes,
                    max_bytes(value, limits::STATE_MAX_BYTES_MIN),
                )
            }),
        ]),
    },
    Table {
        name: "control",
        keys: Keys::Table(&[key("socket", |value, config| {
            let socket = string(value, limits::CONTROL_SOCKET_DEFAULT, values::socket_path);
            assign(&mut config.control.socket, socket)
        })]),
    },
    Table {
        name: "log",
        keys: Keys::Table(&[key("level", |value, config| {
            let level = string(value, limits::LOG_LEVEL_DEFAULT, values::log_level);
            assign(&mut config.log.level, level)
        })]),
    },
];
