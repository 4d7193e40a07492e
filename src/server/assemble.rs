//! The parts of a server, each as the configuration has it.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::StartError;
use super::control::Parts;
use super::forwarding::{self, CurrentForward};
use crate::config::{self, Config, SearchDomains};
use crate::endpoint::RelayUrl;
use crate::pkarr::Suffixes;
use crate::resolve::{
    AnswerCache, Dht, DhtSettings, HoldTimes, HostsByForwarding, KeepAlive, KeepAliveSettings,
    LocalRecord, LocalRecords, Names, Packets, RebindingGuard, Relays, Resolver, Reuse, Sources,
    Store, StoreSettings, Tls, Ttls,
};
use crate::serve::{AuthenticData, ServeSettings, Service};

/// The part of the cache's bytes that packets get; answers get the rest. An answer is asked for far
/// more often than the packet behind it.
const PACKETS_SHARE: u64 = 4;
/// TTL of local records, in seconds: the next cache forgets them as soon as one is used to.
const LOCAL_TTL: u32 = 60;
/// The file with DHT nodes in the state directory.
const NODES_FILE: &str = "dht-nodes";

pub(super) fn start_dht(
    config: &Config,
    forward: &Arc<CurrentForward>,
    stop: CancellationToken,
) -> Arc<Dht> {
    let directory = config.state.directory.as_ref();
    let settings = DhtSettings {
        bootstrap: config.dht.bootstrap.clone(),
        bind_address: config.dht.bind_address,
        lookup_timeout: config.dht.lookup_timeout,
        linger: config.dht.linger,
        lookups_per_second: config.dht.max_lookups_per_second,
        misses_per_client: config.dht.max_misses_per_client,
        nodes_file: directory.map(|directory| directory.join(NODES_FILE)),
    };
    Dht::start(settings, hosts(config, forward), stop)
}

/// Who knows the addresses of DHT nodes and relays that are given by name.
fn hosts(config: &Config, forward: &Arc<CurrentForward>) -> Arc<HostsByForwarding> {
    Arc::new(HostsByForwarding {
        forward: forward.clone(),
        suffixes: Suffixes::new(&config.names.suffixes),
    })
}

/// The relays at `urls`.
///
/// # Errors
/// If the file of certificate authorities cannot be used.
pub(super) fn relays(
    config: &Config,
    urls: &[RelayUrl],
    forward: &Arc<CurrentForward>,
) -> Result<Arc<Relays>, StartError> {
    if urls.is_empty() {
        return Ok(Arc::default());
    }
    let tls = Tls::new(config.upstream.ca_file.as_deref());
    let tls = tls.map_err(|error| StartError::Upstream(error.to_string()))?;
    Ok(Arc::new(Relays::new(urls, &tls, &hosts(config, forward))))
}

pub(super) fn open_store(config: &Config) -> Option<Arc<Store>> {
    let directory = config.state.directory.clone()?;
    Some(Store::open(StoreSettings {
        directory,
        max_bytes: config.state.max_bytes,
    }))
}

/// Starts keeping packets alive; keys that `before` had keep their times.
pub(super) fn keep_alive(
    config: &Config,
    packets: &Arc<Packets>,
    dht: &Arc<Dht>,
    before: Option<&KeepAlive>,
) -> Arc<KeepAlive> {
    let settings = KeepAliveSettings {
        keys: config.keep_alive.keys.clone(),
        interval: config.keep_alive.interval,
        max_age: config.keep_alive.max_age,
    };
    let packets = Arc::clone(packets);
    Arc::new(KeepAlive::start(settings, packets, dht.clone(), before))
}

/// The part of the cache's bytes that packets get.
pub(super) fn packets_max_bytes(config: &Config) -> u64 {
    config.cache.max_bytes / PACKETS_SHARE
}

/// The part that answers get.
pub(super) fn answers_max_bytes(config: &Config) -> u64 {
    config.cache.max_bytes - packets_max_bytes(config)
}

pub(super) fn answers(config: &Config) -> AnswerCache {
    AnswerCache::new(answers_max_bytes(config)).with_reuse(Reuse {
        max_stale: config.cache.max_stale,
        stale_wait: config.cache.stale_wait,
        prefetch: config.cache.prefetch,
        // A denial that is validated proves what it denies, and no more than that: not all of them are
        // proved, and there may be islands of trust below.
        nxdomain_cut: config.cache.nxdomain_cut && !config.upstream.validate,
    })
}

pub(super) fn packets(
    config: &Config,
    dht: &Arc<Dht>,
    relays: &Arc<Relays>,
    store: Option<&Arc<Store>>,
) -> Arc<Packets> {
    let times = HoldTimes {
        min: config.dht.packet_min_ttl.max(config.cache.min_ttl),
        max: config.cache.max_ttl,
        empty: config.cache.negative_ttl,
        failure: config.cache.failure_ttl,
        max_stale: config.cache.max_stale,
        stale_wait: config.cache.stale_wait,
    };
    Packets::new(
        Arc::new(Sources::new(Arc::clone(dht), Arc::clone(relays))),
        store.map(Arc::clone),
        packets_max_bytes(config),
        times,
    )
}

pub(super) fn service(config: &Config, parts: &Parts) -> Result<Service, StartError> {
    let cache = &config.cache;
    let ttls = Ttls {
        min: whole_seconds(cache.min_ttl),
        max: whole_seconds(cache.max_ttl),
        negative: whole_seconds(cache.negative_ttl),
        failure: whole_seconds(cache.failure_ttl),
    };
    let names = Names {
        suffixes: parts.suffixes.clone(),
        answer_search_domains: config.names.search_domains == SearchDomains::Answer,
        synthesise_addresses: config.names.synthesise_addresses,
        special_use: config.names.special_use,
        follow_delegations: config.delegation.follow,
        private_name_servers: config.delegation.allow_private,
        local: Arc::clone(&parts.local),
        rebinding: Arc::new(rebinding_guard(config)),
    };
    let resolver = Resolver::new(
        names,
        Arc::clone(&parts.packets),
        parts.forward.clone(),
        ttls,
        parts.answers.clone(),
    );
    let settings = ServeSettings {
        allow: config.access.allow.clone(),
        authentic_data: match config.access.authentic_data {
            config::AuthenticData::Never => AuthenticData::Never,
            config::AuthenticData::Loopback => AuthenticData::Loopback,
            config::AuthenticData::Always => AuthenticData::Always,
        },
        nsid: config.listen.nsid.clone(),
    };
    Service::new(settings, resolver).map_err(StartError::Access)
}

/// What the operator has given records on this host.
pub(super) fn local_records(config: &Config) -> LocalRecords {
    let record = |record: &config::LocalRecord| {
        Some(LocalRecord {
            name: forwarding::name(&record.name)?,
            rtype: record.rtype,
            rdata: record.rdata.clone(),
        })
    };
    LocalRecords::new(
        config.records.iter().filter_map(record).collect(),
        config.names.hosts_file.clone(),
        Suffixes::new(&config.names.suffixes),
        LOCAL_TTL,
    )
}

fn rebinding_guard(config: &Config) -> RebindingGuard {
    let allow = config.rebinding.allow.iter();
    RebindingGuard::new(
        is_guarded(config),
        allow.filter_map(|text| forwarding::name(text)).collect(),
    )
}

/// Whether private addresses are dropped from answers.
fn is_guarded(config: &Config) -> bool {
    let serves_others = || {
        let networks = &mut config.access.allow.iter();
        networks.any(|network| !network.network().is_loopback())
    };
    match config.rebinding.guard {
        config::RebindingGuard::Auto => serves_others(),
        config::RebindingGuard::On => true,
        config::RebindingGuard::Off => false,
    }
}

/// Whether two configurations that follow each other have the same answers, as far as they tell. A file
/// that the upstreams need may be another one under the same name.
pub(super) fn have_same_answers(before: &Config, now: &Config) -> bool {
    // All tables, so that a new one is not forgotten here.
    let Config {
        listen: _,
        access: _,
        names,
        delegation,
        upstream,
        forward,
        records,
        rebinding,
        dht: _,
        relays: _,
        keep_alive: _,
        cache,
        state: _,
        control: _,
        log: _,
    } = before;
    let needs_no_file = upstream.ca_file.is_none()
        && upstream.trust_anchors.is_none()
        && upstream.root_hints.is_none();
    needs_no_file
        && *names == now.names
        && *delegation == now.delegation
        && *upstream == now.upstream
        && *forward == now.forward
        && *records == now.records
        && *rebinding == now.rebinding
        && is_guarded(before) == is_guarded(now)
        && *cache == now.cache
}

fn whole_seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}
