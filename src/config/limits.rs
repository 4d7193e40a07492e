//! The defaults and bounds of the settings, with where they come from.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The default and the bounds of a duration.
#[derive(Debug)]
pub(super) struct DurationLimit {
    /// The value if the key is missing.
    pub(super) default: Duration,
    /// The shortest that is allowed.
    pub(super) min: Duration,
    /// The longest that is allowed.
    pub(super) max: Duration,
    /// Whether only whole seconds are allowed, as DNS expresses TTLs in them.
    pub(super) whole_seconds: bool,
    /// The end of the sentence that states the bounds: their source, or nothing.
    pub(super) source: &'static str,
}

/// The default and the bounds of a number.
#[derive(Debug)]
pub(super) struct NumberLimit<T> {
    /// The value if the key is missing.
    pub(super) default: T,
    /// The lowest that is allowed.
    pub(super) min: T,
    /// The highest that is allowed.
    pub(super) max: T,
}

/// Largest configuration file: 1 MiB. A larger one is a mistake, and is not read to its end.
pub(super) const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Most problems that one error lists: 100. More would not be read by anyone.
pub(super) const MAX_PROBLEMS: usize = 100;

/// Port of an address that is written without one.
pub(super) use crate::endpoint::DNS_PORT;

/// `listen.max-tcp-connections`: 512 by default, half of the usual limit of 1024 open files, which leaves
/// the rest for upstream queries; at least 1, as a DNS server must serve TCP (RFC 7766 section
/// 5); at most 65,535, beyond which no host of this kind is in use.
pub(super) const TCP_CONNECTIONS: NumberLimit<usize> = NumberLimit {
    default: 512,
    min: 1,
    max: 65_535,
};

/// `listen.max-tcp-connections-per-client`: 64 by default, more than any client opens (RFC 7766 section
/// 6.2.2 wants one), and few enough for eight clients to be served beside each other.
pub(super) const TCP_CONNECTIONS_PER_CLIENT: NumberLimit<usize> = NumberLimit {
    default: 64,
    ..TCP_CONNECTIONS
};

/// `listen.nsid`: tells no more than what answers.
pub(super) const NSID_DEFAULT: &str = "pkbridge";
/// `listen.nsid`: at most 64 bytes, so that it never decides whether an answer fits.
pub(super) const NSID_MAX: usize = 64;

/// `access.allow`: the loopback networks by default (RFC 6890 section 2.2).
pub(super) const ALLOW_DEFAULT: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
];

/// `names.suffixes`: `pkarr` by default.
pub(super) const SUFFIX_DEFAULT: &str = "pkarr";
/// `names.suffixes`: at most 200 characters each. A domain name has at most 253 (RFC 1035 section
/// 2.3.4), of which the key and its dot take 53.
pub(super) const SUFFIX_MAX_CHARS: usize = 200;
/// `names.hosts-file`: the system's (hosts(5)).
pub(super) const HOSTS_FILE_DEFAULT: &str = "/etc/hosts";

/// `upstream.servers`, `upstream.bootstrap`, and `servers` of a rule: at most 64, as all of them are
/// probed from time to time.
pub(super) const SERVERS_MAX: usize = 64;
/// `[[forward]]`: at most 1,024 rules, each of which keeps connections of its own.
pub(super) const RULES_MAX: usize = 1024;
/// `[records]`: at most 100,000 records, some ten megabytes. More belong into a hosts file or a name
/// server.
pub(super) const RECORDS_MAX: usize = 100_000;

/// `upstream.timeout`: 2 s by default, from 100 ms to 30 s. Stub resolvers give up after 5 s
/// (resolv.conf(5)), and an answer must come before that.
pub(super) const UPSTREAM_TIMEOUT: DurationLimit = DurationLimit {
    default: Duration::from_secs(2),
    min: Duration::from_millis(100),
    max: Duration::from_secs(30),
    whole_seconds: false,
    source: "",
};

/// `dht.bootstrap`: well-known nodes of the Mainline DHT, and one that the Pkarr project runs.
pub(super) const BOOTSTRAP_DEFAULT: [&str; 4] = [
    "router.bittorrent.com:6881",
    "dht.transmissionbt.com:6881",
    "dht.libtorrent.org:25401",
    "relay.pkarr.org:6881",
];
/// `dht.bind-address`: the last port from which there are four.
pub(super) const DHT_PORT_MAX: u16 = 65_532;
/// `dht.bootstrap`: at most 64 nodes, all of which are asked at each start.
pub(super) const BOOTSTRAP_MAX: usize = 64;

/// `dht.lookup-timeout`: 4 s by default, from 100 ms to 30 s. Stub resolvers give up after 5 s
/// (resolv.conf(5)), and an answer must come before that.
pub(super) const LOOKUP_TIMEOUT: DurationLimit = DurationLimit {
    default: Duration::from_secs(4),
    min: Duration::from_millis(100),
    max: Duration::from_secs(30),
    whole_seconds: false,
    source: "",
};

/// `dht.packet-min-ttl`: 60 s by default, from 0 s to 1 h. One lookup asks tens of nodes, so that a
/// TTL of zero must not cause one for each query; a change must show within the hour.
pub(super) const PACKET_MIN_TTL: DurationLimit = DurationLimit {
    default: Duration::from_secs(60),
    min: Duration::ZERO,
    max: Duration::from_secs(HOUR),
    whole_seconds: true,
    source: "",
};

/// `dht.linger`: none by default, at most 1 s, by when a lookup is at its end.
pub(super) const LINGER: DurationLimit = DurationLimit {
    default: Duration::ZERO,
    min: Duration::ZERO,
    max: Duration::from_secs(1),
    whole_seconds: false,
    source: "",
};

/// `dht.max-lookups-per-second`: 125 by default: with a hundred datagrams each, about what the socket
/// buffers and half a core of a small machine take.
pub(super) const LOOKUPS_PER_SECOND: NumberLimit<u32> = NumberLimit {
    default: 125,
    min: 1,
    max: 1000,
};

/// `dht.max-misses-per-client`: 10 a second by default, counted over a minute.
pub(super) const MISSES_PER_CLIENT: NumberLimit<u32> = NumberLimit {
    default: 10,
    min: 1,
    max: 1000,
};

/// `relays.urls`: at most 8, all of which are asked for the same keys.
pub(super) const RELAYS_MAX: usize = 8;

/// `keep-alive.keys`: at most 128. One after the other they take some seconds each, and all of them must have
/// had their turn within the shortest interval.
pub(super) const KEEP_ALIVE_MAX: usize = 128;
/// `keep-alive.interval`: 1 h by default, as BEP 44 recommends, from 10 min to 90 min: nodes forget an item
/// after two hours.
pub(super) const KEEP_ALIVE_INTERVAL: DurationLimit = DurationLimit {
    default: Duration::from_secs(HOUR),
    min: Duration::from_secs(10 * MINUTE),
    max: Duration::from_secs(90 * MINUTE),
    whole_seconds: false,
    source: ", as DHT nodes forget an item after two hours",
};
/// `keep-alive.max-age`: 365 d by default, from 1 d to 3650 d. An owner who only puts a packet again does not
/// sign it anew.
pub(super) const KEEP_ALIVE_MAX_AGE: DurationLimit = DurationLimit {
    default: Duration::from_secs(365 * DAY),
    min: Duration::from_secs(DAY),
    max: Duration::from_secs(3650 * DAY),
    whole_seconds: false,
    source: "",
};

/// `cache.max-stale`: 7 d by default, to 30 d. RFC 8767 section 5 suggests one to three days; the
/// records of a public key leave the DHT within hours when their owner's machine is off.
pub(super) const MAX_STALE: DurationLimit = DurationLimit {
    default: Duration::from_secs(7 * DAY),
    min: Duration::ZERO,
    max: Duration::from_secs(30 * DAY),
    whole_seconds: true,
    source: "",
};

/// `cache.stale-wait`: none by default, to 1.8 s, which RFC 8767 section 5 suggests; a name behind an alias
/// may wait twice, and stub resolvers give up after 5 s.
pub(super) const STALE_WAIT: DurationLimit = DurationLimit {
    default: Duration::ZERO,
    min: Duration::ZERO,
    max: Duration::from_millis(1800),
    whole_seconds: false,
    source: ", which RFC 8767 section 5 suggests",
};

/// `state.max-bytes`: 64 MiB by default, some fifty thousand packets; at least 1 MiB, about a thousand.
pub(super) const STATE_MAX_BYTES_DEFAULT: u64 = 64 * 1024 * 1024;
/// See [`STATE_MAX_BYTES_DEFAULT`].
pub(super) const STATE_MAX_BYTES_MIN: u64 = 1024 * 1024;

/// `cache.max-bytes`: 64 MiB by default.
pub(super) const MAX_BYTES_DEFAULT: u64 = 64 * 1024 * 1024;
/// `cache.max-bytes`: at least 64 KiB, which is one DNS message of the largest size (RFC 1035
/// section 4.2.2).
pub(super) const MAX_BYTES_MIN: u64 = 64 * 1024;

/// `cache.min-ttl`: 0 s by default, from 0 s to 1 h. To raise a TTL is to serve data that its owner
/// may have changed, so that the bound is low.
pub(super) const MIN_TTL: DurationLimit = DurationLimit {
    default: Duration::ZERO,
    min: Duration::ZERO,
    max: Duration::from_secs(HOUR),
    whole_seconds: true,
    source: "",
};

/// `cache.max-ttl`: 1 d by default, from 1 s to 7 d. RFC 8767 section 4 wants TTLs to be capped on
/// the order of days to weeks, and recommends 7 days.
pub(super) const MAX_TTL: DurationLimit = DurationLimit {
    default: Duration::from_secs(DAY),
    min: Duration::from_secs(1),
    max: Duration::from_secs(7 * DAY),
    whole_seconds: true,
    source: ", the cap that RFC 8767 section 4 recommends",
};

/// `cache.negative-ttl`: 5 min by default, from 0 s to 3 h. RFC 2308 section 5 wants a limit, and
/// has found one to three hours to work well.
pub(super) const NEGATIVE_TTL: DurationLimit = DurationLimit {
    default: Duration::from_secs(5 * MINUTE),
    min: Duration::ZERO,
    max: Duration::from_secs(3 * HOUR),
    whole_seconds: true,
    source: ", as RFC 2308 section 5 wants a limit of one to three hours",
};

/// `cache.failure-ttl`: 5 s by default, from 1 s to 5 min, which RFC 9520 section 3.2 demands.
pub(super) const FAILURE_TTL: DurationLimit = DurationLimit {
    default: Duration::from_secs(5),
    min: Duration::from_secs(1),
    max: Duration::from_secs(5 * MINUTE),
    whole_seconds: true,
    source: ", the bounds that RFC 9520 section 3.2 sets",
};

/// `state.directory`: `/var/lib/pkbridge` by default (FHS 3.0 section 5.8).
pub(super) const STATE_DIRECTORY_DEFAULT: &str = "/var/lib/pkbridge";

/// `control.socket`: in the directory that systemd makes for the service (FHS 3.0 section 3.15).
pub(super) const CONTROL_SOCKET_DEFAULT: &str = "/run/pkbridge/control.sock";
/// `control.socket`: at most 107 bytes, which with a NUL fill the address of a Unix socket (unix(7)).
pub(super) const SOCKET_PATH_MAX: usize = 107;

/// `log.level`: `info` by default.
pub(super) const LOG_LEVEL_DEFAULT: &str = "info";
/// `log.level`: the levels, from the fewest messages to the most.
pub(super) const LOG_LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
