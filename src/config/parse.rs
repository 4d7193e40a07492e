//! Reading the text of a configuration file: every key that there is, and the walk over the file
//! that collects all faults instead of ending at the first.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Config;
use super::limits::{self, DurationLimit, NumberLimit};
use super::values::{self, format_duration, quoted};

/// One thing that is wrong, at a byte offset of the text.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) offset: usize,
    pub(super) key: String,
    pub(super) message: String,
}

impl Fault {
    pub(super) fn new(offset: usize, key: &str, message: impl Into<String>) -> Self {
        Fault {
            offset,
            key: key.to_owned(),
            message: message.into(),
        }
    }
}

/// Reads a configuration, or finds all its faults, in no particular order.
pub(super) fn read(text: &str) -> Result<Config, Vec<Fault>> {
    let (root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        // The values of a text that is not TOML are guesses; complaints about them would mislead.
        return Err(syntax_faults(text, &errors));
    }
    let root = root.get_ref();
    let mut config = Config::default();
    let mut faults = Vec::new();
    for (name, value) in root {
        match TABLES.iter().find(|table| table.name == name.get_ref()) {
            Some(table) => read_table(table, value, &mut config, &mut faults),
            None => faults.push(unknown_table(name, value)),
        }
    }
    check_ttl_order(root, &config, &mut faults);
    check_loops(root, &config, &mut faults);
    if faults.is_empty() {
        Ok(config)
    } else {
        Err(faults)
    }
}

/// A table of the file.
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) keys: &'static [Key],
}

/// A key of a table, and how its value gets into the configuration.
pub(super) struct Key {
    pub(super) name: &'static str,
    read: fn(&Value<'_>, &mut Config) -> Outcome<()>,
}

/// Every key that there is.
pub(super) const TABLES: &[Table] = &[
    Table {
        name: "listen",
        keys: &[
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
        ],
    },
    Table {
        name: "access",
        keys: &[
            key("allow", |value, config| {
                let hint = "nobody would be served; list at least \"127.0.0.0/8\"";
                let networks = list(value, "127.0.0.0/8", values::network);
                assign(&mut config.access.allow, non_empty(value, hint, networks))
            }),
            key("authentic-data", |value, config| {
                let choice = string(value, "loopback", values::authentic_data);
                assign(&mut config.access.authentic_data, choice)
            }),
        ],
    },
    Table {
        name: "names",
        keys: &[
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
        ],
    },
    Table {
        name: "delegation",
        keys: &[
            key("follow", |value, config| {
                assign(&mut config.delegation.follow, boolean(value))
            }),
            key("allow-private", |value, config| {
                assign(&mut config.delegation.allow_private, boolean(value))
            }),
        ],
    },
    Table {
        name: "upstream",
        keys: &[
            key("servers", |value, config| {
                let servers = list(value, "192.0.2.1:53", values::upstream_address);
                assign(&mut config.upstream.servers, servers)
            }),
            key("timeout", |value, config| {
                assign(
                    &mut config.upstream.timeout,
                    duration(value, &limits::UPSTREAM_TIMEOUT),
                )
            }),
        ],
    },
    Table {
        name: "dht",
        keys: &[
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
        ],
    },
    Table {
        name: "cache",
        keys: &[
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
        ],
    },
    Table {
        name: "state",
        keys: &[
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
        ],
    },
    Table {
        name: "control",
        keys: &[key("socket", |value, config| {
            let socket = string(value, limits::CONTROL_SOCKET_DEFAULT, values::socket_path);
            assign(&mut config.control.socket, socket)
        })],
    },
    Table {
        name: "log",
        keys: &[key("level", |value, config| {
            let level = string(value, limits::LOG_LEVEL_DEFAULT, values::log_level);
            assign(&mut config.log.level, level)
        })],
    },
];

type Value<'t> = Spanned<DeValue<'t>>;

/// A value, or what is wrong: each a byte offset and a message.
type Outcome<T> = Result<T, Vec<(usize, String)>>;

const fn key(name: &'static str, read: fn(&Value<'_>, &mut Config) -> Outcome<()>) -> Key {
    Key { name, read }
}

fn assign<T>(setting: &mut T, outcome: Outcome<T>) -> Outcome<()> {
    *setting = outcome?;
    Ok(())
}

fn fault<T>(value: &Value<'_>, message: impl Into<String>) -> Outcome<T> {
    Err(vec![(value.span().start, message.into())])
}

fn wrong_type<T>(value: &Value<'_>, expected: &str) -> Outcome<T> {
    let found = value.get_ref().type_str();
    fault(value, format!("expected {expected}, found {found}"))
}

/// A string that `convert` accepts.
fn string<T>(
    value: &Value<'_>,
    example: &str,
    convert: impl Fn(&str) -> Result<T, String>,
) -> Outcome<T> {
    match value.get_ref().as_str() {
        Some(text) => convert(text).or_else(|message| fault(value, message)),
        None => wrong_type(value, &format!("a string such as {example:?}")),
    }
}

/// A list of strings that `convert` accepts, no two of them for the same thing.
fn list<T: PartialEq>(
    value: &Value<'_>,
    example: &str,
    convert: fn(&str) -> Result<T, String>,
) -> Outcome<Vec<T>> {
    let Some(elements) = value.get_ref().as_array() else {
        return wrong_type(value, &format!("a list such as [{example:?}]"));
    };
    let mut items: Vec<T> = Vec::new();
    let mut faults = Vec::new();
    for element in elements {
        let shown = element.get_ref().as_str().map(quoted).unwrap_or_default();
        match string(element, example, convert) {
            Ok(item) if items.contains(&item) => faults.push((
                element.span().start,
                format!("{shown} is listed twice; leave one out"),
            )),
            Ok(item) => items.push(item),
            Err(more) => faults.extend(more),
        }
    }
    if faults.is_empty() {
        Ok(items)
    } else {
        Err(faults)
    }
}

fn non_empty<T>(value: &Value<'_>, hint: &str, items: Outcome<Vec<T>>) -> Outcome<Vec<T>> {
    let items = items?;
    if items.is_empty() {
        fault(value, hint)
    } else {
        Ok(items)
    }
}

fn bootstrap(value: &Value<'_>) -> Outcome<Vec<String>> {
    let hint = "the DHT cannot be joined without one; list at least \
                \"router.bittorrent.com:6881\"";
    let nodes = list(value, "router.bittorrent.com:6881", values::bootstrap_node);
    let nodes = non_empty(value, hint, nodes)?;
    let (count, max) = (nodes.len(), limits::BOOTSTRAP_MAX);
    if count > max {
        return fault(
            value,
            format!("{count} nodes are listed; list at most {max}"),
        );
    }
    Ok(nodes)
}

fn duration(value: &Value<'_>, limit: &DurationLimit) -> Outcome<Duration> {
    string(value, "5s", |text| values::limited_duration(text, limit))
}

/// An integer of the file, which may have more digits than any type holds.
fn integer<T: TryFrom<i128>>(value: &Value<'_>) -> Option<T> {
    let digits = value.get_ref().as_integer()?;
    let number = i128::from_str_radix(digits.as_str(), digits.radix()).ok()?;
    T::try_from(number).ok()
}

fn boolean(value: &Value<'_>) -> Outcome<bool> {
    match value.get_ref().as_bool() {
        Some(value) => Ok(value),
        None => wrong_type(value, "true or false"),
    }
}

fn number<T>(value: &Value<'_>, limit: &NumberLimit<T>) -> Outcome<T>
where
    T: Copy + PartialOrd + std::fmt::Display + TryFrom<i128>,
{
    let (min, max) = (limit.min, limit.max);
    if !value.get_ref().is_integer() {
        return wrong_type(value, &format!("an integer such as {}", limit.default));
    }
    match integer(value).filter(|count| (min..=max).contains(count)) {
        Some(count) => Ok(count),
        None => {
            let message = format!("the number is out of bounds; write one from {min} to {max}");
            fault(value, message)
        }
    }
}

fn max_bytes(value: &Value<'_>, min: u64) -> Outcome<u64> {
    let bytes = match value.get_ref().as_str() {
        Some(text) => values::size(text).or_else(|message| fault(value, message))?,
        None if value.get_ref().is_integer() => {
            let message = "the number is out of bounds; write a size such as \"64MiB\"";
            integer(value).map_or_else(|| fault(value, message), Ok)?
        }
        None => return wrong_type(value, "an integer or a string such as \"64MiB\""),
    };
    if bytes < min {
        let least = min / 1024;
        let message = format!("{bytes} bytes are too few; write at least \"{least}KiB\"");
        return fault(value, message);
    }
    Ok(bytes)
}

fn read_table(table: &Table, value: &Value<'_>, config: &mut Config, faults: &mut Vec<Fault>) {
    let name = table.name;
    let Some(entries) = value.get_ref().as_table() else {
        let found = value.get_ref().type_str();
        let message = format!("expected a table, found {found}; write the keys below [{name}]");
        faults.push(Fault::new(
            value.span().start,
            &format!("[{name}]"),
            message,
        ));
        return;
    };
    for (key_name, value) in entries {
        let path = key_path(name, key_name.get_ref());
        match table.keys.iter().find(|key| key.name == key_name.get_ref()) {
            Some(key) => {
                let found = (key.read)(value, config).err().unwrap_or_default();
                let locate = |(offset, message)| Fault::new(offset, &path, message);
                faults.extend(found.into_iter().map(locate));
            }
            None => {
                let keys = table.keys.iter().map(|key| key.name).collect::<Vec<_>>();
                let hint = nearest(key_name.get_ref(), &keys)
                    .unwrap_or_else(|| format!("the keys of [{name}] are {}", keys.join(", ")));
                let message = format!("unknown key {}; {hint}", quoted(key_name.get_ref()));
                faults.push(Fault::new(key_name.span().start, &path, message));
            }
        }
    }
}

/// A name at the top of the file that is no table's: misspelt, or a key outside of its table.
fn unknown_table(name: &Spanned<Cow<'_, str>>, value: &Value<'_>) -> Fault {
    let (offset, name) = (name.span().start, name.get_ref());
    let shown = quoted(name);
    let has_key = |table: &&Table| table.keys.iter().any(|key| key.name == name);
    if let Some(table) = TABLES.iter().find(has_key) {
        let table = table.name;
        let message = format!("the key {shown} is outside of its table; write it below [{table}]");
        return Fault::new(offset, &bare(name), message);
    }
    let names = TABLES.iter().map(|table| table.name).collect::<Vec<_>>();
    let list = || format!("the tables are {}", names.join(", "));
    let hint = nearest(name, &names).unwrap_or_else(list);
    if value.get_ref().is_table() {
        let message = format!("unknown table {shown}; {hint}");
        Fault::new(offset, &format!("[{}]", bare(name)), message)
    } else {
        Fault::new(offset, &bare(name), format!("unknown key {shown}; {hint}"))
    }
}

/// A hint at the name that was probably meant, if one is near enough: one letter in three may be
/// wrong.
fn nearest(name: &str, known: &[&str]) -> Option<String> {
    const LONGEST: usize = 64;
    let distance = |known: &&str| strsim::damerau_levenshtein(name, known);
    let known = known
        .iter()
        .filter(|_| name.len() <= LONGEST)
        .min_by_key(|known| distance(known))?;
    (distance(known) <= known.len().div_ceil(3)).then(|| format!("did you mean \"{known}\"?"))
}

fn key_path(table: &str, key: &str) -> String {
    format!("[{table}].{}", bare(key))
}

/// A key as it is written in TOML: bare if it can be, or else quoted.
fn bare(key: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !key.is_empty() && key.len() <= 64 && key.chars().all(is_bare) {
        key.to_owned()
    } else {
        quoted(key)
    }
}

/// The first syntax error of each line; those that follow on a line are mostly caused by it.
fn syntax_faults(text: &str, errors: &[toml::de::Error]) -> Vec<Fault> {
    let mut faults: Vec<Fault> = Vec::new();
    for error in errors {
        let offset = error.span().map_or(text.len(), |span| span.start);
        let last = faults.last().map(|fault| fault.offset);
        let between = last.and_then(|last| text.get(last.min(offset)..last.max(offset)));
        if between.is_none_or(|between| between.contains('\n')) {
            let message = error.message().replace(char::is_control, " ");
            faults.push(Fault::new(offset, "", message));
        }
    }
    faults
}

/// The value of a key, if the file has it.
fn find<'r, 't>(root: &'r DeTable<'t>, table: &str, key: &str) -> Option<&'r Value<'t>> {
    root.get(table)?.get_ref().get(key)
}

fn check_ttl_order(root: &DeTable<'_>, config: &Config, faults: &mut Vec<Fault>) {
    let (min, max) = (config.cache.min_ttl, config.cache.max_ttl);
    let given = |key| find(root, "cache", key).map(|value| (key, value.span().start));
    if let Some((key, offset)) = given("min-ttl").or_else(|| given("max-ttl"))
        && min > max
    {
        let (min, max) = (format_duration(min), format_duration(max));
        let message = format!("min-ttl ({min}) is over max-ttl ({max}); lower it or raise max-ttl");
        faults.push(Fault::new(offset, &key_path("cache", key), message));
    }
}

/// Refuses an upstream server that is this daemon: a query that is forwarded to it would come back,
/// and be forwarded again, without end.
fn check_loops(root: &DeTable<'_>, config: &Config, faults: &mut Vec<Fault>) {
    let listen_key = key_path("listen", "addresses");
    if faults.iter().any(|fault| fault.key == listen_key) {
        return;
    }
    let path = key_path("upstream", "servers");
    let given = find(root, "upstream", "servers").and_then(|value| value.get_ref().as_array());
    for (element, server) in given.into_iter().flatten().zip(&config.upstream.servers) {
        let reaches = |listen: &&SocketAddr| reaches(*server, **listen);
        if let Some(listen) = config.listen.addresses.iter().find(reaches) {
            let message = format!(
                "{server} is pkbridge itself, which listens on {listen}, so that a query would be \
                 forwarded in a loop; write the address of another resolver"
            );
            faults.push(Fault::new(element.span().start, &path, message));
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
