//! What the service tells. Durations are in whole seconds, times in seconds of Unix time.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// How the service is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The version of pkbridge.
    pub version: String,
    /// Since it was started.
    pub uptime_seconds: u64,
    /// Addresses that are served.
    pub listening: Vec<SocketAddr>,
    /// UDP queries that came faster than they could be read, and were lost, since the start.
    pub lost_queries: u64,
    /// Who answers ordinary names, such as `192.0.2.1:53`.
    pub upstreams: Vec<String>,
    /// The cache of answers.
    pub answers: CacheUse,
    /// The packets in memory.
    pub packets: CacheUse,
    /// The packets on disk; `None` without a state directory.
    pub store: Option<Store>,
    /// The DHT.
    pub dht: Dht,
    /// Relays that are asked beside it; empty if there are none.
    pub relays: Vec<Relay>,
    /// Keys whose packets are put on the DHT again; `None` if there are none.
    pub keep_alive: Option<KeepAlive>,
}

/// How full a cache is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheUse {
    /// Things in it.
    pub entries: u64,
    /// Their weight in bytes.
    pub bytes: u64,
    /// The most bytes that it may have.
    pub max_bytes: u64,
}

/// The packets on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Store {
    /// One word, such as `ready`.
    pub state: String,
    /// Why it is in that state, if it is not as it should be.
    pub reason: Option<String>,
    /// Where it is.
    pub path: String,
    /// Packets in it.
    pub packets: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// The most bytes that it may have.
    pub max_bytes: u64,
    /// Keys without a packet whose highest sequence number is known.
    pub sequence_numbers: u64,
    /// Writes that are not on disk yet.
    pub waiting: u64,
    /// Records saved from a damaged file at the start.
    pub salvaged: u64,
    /// Writes given up, since the start.
    pub dropped: u64,
}

/// The DHT, as the service sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dht {
    /// The service's nodes.
    pub instances: Vec<Instance>,
    /// Lookups of packets.
    pub lookups: Lookups,
    /// The share of the nodes asked that answered, from 0 to 1, over recent lookups; `None` before the
    /// first.
    pub answered_share: Option<f64>,
    /// Packets that were refused, by reason, since the start.
    pub refused_packets: BTreeMap<String, u64>,
}

/// A node of the service's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// The address of its socket; empty while it has none.
    pub address: String,
    /// Whether it is in the DHT.
    pub joined: bool,
    /// Nodes in its routing table.
    pub nodes: u64,
}

/// Lookups: how many ended how since the start, and how many there are now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lookups {
    /// With a packet.
    pub found: u64,
    /// Enough nodes said that there is none.
    pub absent: u64,
    /// Too few nodes answered to tell.
    pub too_few_answers: u64,
    /// With an error.
    pub failed: u64,
    /// With a signed value that is no packet.
    pub invalid_packet: u64,
    /// Not started: a client over its budget, or too many waiting.
    pub refused: u64,
    /// Under way now.
    pub under_way: u64,
    /// Waiting for their turn now.
    pub waiting: u64,
}

/// A relay, as the service sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relay {
    /// Its URL.
    pub url: String,
    /// Lookups that it has answered, since the start.
    pub answered: u64,
    /// Those that it has not, or wrongly.
    pub failed: u64,
    /// Why, if it was the last one.
    pub last_error: Option<String>,
    /// For how long it is left alone after that.
    pub pause_seconds: u64,
}

/// Keys whose packets are put on the DHT again: how many came to what the last time; the rest has not had its
/// turn yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepAlive {
    /// Keys of the configuration.
    pub keys: u64,
    /// Their packet was put.
    pub kept: u64,
    /// Nobody has a packet.
    pub absent: u64,
    /// The packet is too old.
    pub let_go: u64,
    /// It failed, and is tried again.
    pub failed: u64,
    /// Since a packet was last put.
    pub last_put_seconds_ago: Option<u64>,
}

/// What a flush took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flushed {
    /// Answers.
    pub answers: u64,
    /// Packets, wherever they were: in memory, on disk or both.
    pub packets: u64,
}

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The name, with a final dot.
    pub name: String,
    /// What it is to pkbridge, such as `public-key name`, `special-use` or `forwarded`.
    pub kind: String,
    /// The key that it is under, in z-base-32.
    pub key: Option<String>,
    /// The highest sequence number ever seen of the key: packets below it are refused.
    pub highest_seq: Option<u64>,
    /// The key's packet, if there is one in memory or on disk.
    pub packet: Option<Packet>,
    /// Its answers in the cache.
    pub answers: Vec<Cached>,
    /// What the next question will do, in one line.
    pub next: String,
}

/// A signed packet and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packet {
    /// The sequence number, which is a time in microseconds for most publishers.
    pub seq: u64,
    /// That time, in seconds of Unix time.
    pub signed_at: u64,
    /// Where it came from.
    pub source: Source,
    /// Since a lookup last found it to be the newest.
    pub confirmed_seconds_ago: Option<u64>,
    /// Nodes that had it at that lookup.
    pub holders: Option<u64>,
    /// Nodes that had an older one then.
    pub older_holders: Option<u64>,
    /// The length of its DNS message.
    pub bytes: u64,
    /// Records in it.
    pub records: u64,
    /// Whether it answers questions.
    pub state: Freshness,
    /// How long it stays fresh; 0 if it is not.
    pub fresh_left_seconds: u64,
    /// How the last lookup of the key ended.
    pub last_lookup: Option<LastLookup>,
    /// Until the earliest next one: 0 if the next question starts it, `None` while one is under way.
    pub next_lookup_seconds: Option<u64>,
}

/// [`LastLookup::outcome`] of a lookup that found the packet or saw it again.
pub const FOUND: &str = "found";

/// The end of a lookup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastLookup {
    /// [`FOUND`], or why there is no newer packet, as text.
    pub outcome: String,
    /// Since then.
    pub seconds_ago: u64,
}

/// Where a packet came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// A lookup on the DHT, or at relays beside it.
    #[serde(rename = "DHT")]
    Dht,
    /// The store, after a start.
    #[serde(rename = "disk")]
    Disk,
}

/// Whether a packet answers questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Freshness {
    /// It does.
    Fresh,
    /// It does for a short time: the lookup that gave it goes on for a newer one.
    Provisional,
    /// Only while no newer one can be had.
    Stale,
    /// No more: `[cache] max-stale` is over, too.
    Expired,
}

/// An answer in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cached {
    /// The record type that was asked, such as `AAAA`.
    pub rtype: String,
    /// The response code, such as `NOERROR`.
    pub rcode: String,
    /// Since it was stored.
    pub age_seconds: u64,
    /// Until it expires.
    pub left_seconds: u64,
    /// Its length.
    pub bytes: u64,
    /// The Extended DNS Errors (RFC 8914) that go with it, as text.
    pub extended_errors: Vec<String>,
}
