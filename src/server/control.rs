//! What the running server tells and does for whoever talks to its control socket.

use crate::endpoint::Endpoint;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};
use tokio::time::Instant;

use super::CurrentForward;
use super::assemble::{answers_max_bytes, packets_max_bytes};
use super::losses::lost_queries;
use crate::config::{Config, SearchDomains, format_duration};
use crate::control::{
    self, CacheUse, Cached, Control, Explanation, Flush, Flushed, Freshness, LastLookup, Lookups,
    Packet, Status,
};
use crate::pkarr::{NameKind, PublicKey, PublicKeyName, Suffixes, Zone, signed_at};
use crate::resolve::{
    Answer, AnswerCache, Dht, Ede, Forward, Held, KeepAlive, KeyState, LocalRecords, Packets,
    Relays, Source, Store, StoreState, is_special_use,
};

/// The parts of the server that can be asked. Replaced as a whole on reload.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) started: Instant,
    pub(super) config: Config,
    pub(super) suffixes: Suffixes,
    pub(super) local: Arc<LocalRecords>,
    pub(super) listening: Vec<SocketAddr>,
    pub(super) forward: Arc<CurrentForward>,
    pub(super) dht: Arc<Dht>,
    pub(super) store: Option<Arc<Store>>,
    pub(super) packets: Arc<Packets>,
    pub(super) relays: Arc<Relays>,
    pub(super) keep_alive: Arc<KeepAlive>,
    pub(super) answers: AnswerCache,
}

/// The parts in force.
#[derive(Debug)]
pub(super) struct CurrentParts(pub(super) ArcSwap<Parts>);

impl Control for CurrentParts {
    fn status(&self) -> BoxFuture<'_, Status> {
        let parts = self.0.load_full();
        Box::pin(async move { parts.status() })
    }

    fn flush(&self, what: Flush) -> BoxFuture<'_, Flushed> {
        let parts = self.0.load_full();
        Box::pin(async move { parts.flush(&what).await })
    }

    fn explain(&self, name: Name) -> BoxFuture<'_, Explanation> {
        let parts = self.0.load_full();
        Box::pin(async move { parts.explain(&name).await })
    }
}

impl Parts {
    fn status(&self) -> Status {
        let (answers, answer_bytes) = self.answers.usage();
        let (packets, packet_bytes) = self.packets.usage();
        // The service manager may give several sockets of one address.
        let mut listening = self.listening.clone();
        listening.sort_unstable();
        listening.dedup();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            listening,
            lost_queries: lost_queries(&self.listening),
            upstreams: self.upstreams().iter().map(ToString::to_string).collect(),
            answers: CacheUse {
                entries: answers,
                bytes: answer_bytes,
                max_bytes: answers_max_bytes(&self.config),
            },
            packets: CacheUse {
                entries: packets,
                bytes: packet_bytes,
                max_bytes: packets_max_bytes(&self.config),
            },
            store: self.store.as_ref().map(|store| self.store_status(store)),
            dht: self.dht_status(),
            relays: self.relays_status(),
            keep_alive: self.keep_alive_status(),
        }
    }

    fn upstreams(&self) -> Vec<Endpoint> {
        self.forward.servers()
    }

    fn store_status(&self, store: &Store) -> control::Store {
        let health = store.health();
        let (state, reason) = match health.state {
            StoreState::Opening => ("opening", None),
            StoreState::Ready => ("ready", None),
            StoreState::ReadOnly(reason) => ("read-only", Some(reason)),
            StoreState::Failing(reason) => ("failing", Some(reason)),
            StoreState::Off(reason) => ("off", Some(reason)),
        };
        let directory = self.config.state.directory.as_ref();
        control::Store {
            state: state.to_owned(),
            reason,
            path: directory.map_or_else(String::new, |path| path.display().to_string()),
            packets: health.packets,
            bytes: health.bytes,
            max_bytes: self.config.state.max_bytes,
            sequence_numbers: health.seqs,
            waiting: count(health.dirty),
            salvaged: health.salvaged,
            dropped: health.dropped,
        }
    }

    fn dht_status(&self) -> control::Dht {
        let status = self.dht.status();
        let lookups = status.lookups;
        let refused = status.refused_packets.into_iter();
        let mut refused: BTreeMap<_, _> = refused
            .map(|(reason, count)| (reason.to_owned(), count))
            .collect();
        let rollbacks = self.packets.rollbacks();
        if rollbacks > 0 {
            refused.insert("older than one seen before".to_owned(), rollbacks);
        }
        let instances = status.instances.into_iter().map(|instance| {
            let address = instance.address.map(|address| address.to_string());
            control::Instance {
                address: address.unwrap_or_default(),
                joined: instance.joined,
                nodes: count(instance.nodes),
            }
        });
        control::Dht {
            instances: instances.collect(),
            lookups: Lookups {
                found: lookups.found,
                absent: lookups.absent,
                too_few_answers: lookups.too_few_answers,
                failed: lookups.failed,
                invalid_packet: lookups.invalid_packet,
                refused: lookups.refused,
                under_way: lookups.under_way,
                waiting: lookups.waiting,
            },
            answered_share: status.answered_share,
            refused_packets: refused,
        }
    }

    fn relays_status(&self) -> Vec<control::Relay> {
        let relays = self.relays.status().into_iter();
        let status = relays.map(|relay| control::Relay {
            url: relay.url,
            answered: relay.answered,
            failed: relay.failed,
            last_error: relay.last_error,
            pause_seconds: relay
                .pause
                .as_millis()
                .div_ceil(1000)
                .try_into()
                .unwrap_or(u64::MAX),
        });
        status.collect()
    }

    fn keep_alive_status(&self) -> Option<control::KeepAlive> {
        let status = self.keep_alive.status();
        (status.keys > 0).then(|| control::KeepAlive {
            keys: count(status.keys),
            kept: count(status.kept),
            absent: count(status.absent),
            let_go: count(status.let_go),
            failed: count(status.failed),
            last_put_seconds_ago: status.last_put.map(|put| put.elapsed().as_secs()),
        })
    }

    async fn flush(&self, what: &Flush) -> Flushed {
        match what {
            Flush::All => {
                let stored = self.store.as_ref().map(|store| store.health().packets);
                Flushed {
                    // Those in memory are in the store, too.
                    packets: self.packets.forget(None).max(stored.unwrap_or_default()),
                    answers: self.answers.forget(|_| true),
                }
            }
            Flush::Key(key) => self.flush_key(*key).await,
            Flush::Name(name) => match self.key_of(name) {
                Some(key) => self.flush_key(key).await,
                None => Flushed {
                    packets: 0,
                    answers: self.answers.forget(|cached| cached == name),
                },
            },
        }
    }

    async fn flush_key(&self, key: PublicKey) -> Flushed {
        // One that is on disk alone comes into memory, and is counted.
        self.packets.state(key).await;
        Flushed {
            packets: self.packets.forget(Some(key)),
            answers: self
                .answers
                .forget(|name| has_label(name, &key.to_string())),
        }
    }

    /// The key that a name is at or below, as written or before a suffix or search domain.
    fn key_of(&self, name: &Name) -> Option<PublicKey> {
        match self.suffixes.classify(name) {
            NameKind::PublicKey(of_key) => Some(of_key.key),
            NameKind::SearchList => {
                PublicKeyName::with_search_domain(name).map(|of_key| of_key.key)
            }
            NameKind::NotAKey(_)
            | NameKind::Suffix(_)
            | NameKind::UnderSuffix(_)
            | NameKind::Ordinary => None,
        }
    }

    async fn explain(&self, name: &Name) -> Explanation {
        let now = Instant::now();
        let name = &name.to_lowercase();
        let mut answers = self.answers.of_name(name, now);
        answers.sort_by_key(|(rtype, _)| u16::from(*rtype));
        let (kind, key, mut next) = self.explain_kind(name, !answers.is_empty());
        let mut explanation = Explanation {
            name: name.to_ascii(),
            kind: kind.to_owned(),
            key: key.map(|key| key.to_string()),
            highest_seq: None,
            packet: None,
            answers: answers
                .iter()
                .map(|(rtype, answer)| shown(*rtype, answer, now))
                .collect(),
            next: String::new(),
        };
        if let Some(key) = key {
            let state = self.packets.state(key).await;
            // One from the disk is stale from this very instant on.
            let now = Instant::now();
            next = next_of_key(&state, self.config.cache.stale_wait, now);
            explanation.highest_seq = state.known_seq;
            explanation.packet = state.held.as_ref().map(|held| packet(held, &state, now));
        }
        Explanation {
            next,
            ..explanation
        }
    }

    /// What a name is, the key whose packet answers for it, and what its next question does if there is
    /// none.
    fn explain_kind(
        &self,
        name: &Name,
        is_cached: bool,
    ) -> (&'static str, Option<PublicKey>, String) {
        let here = "answered here, without asking anybody";
        let nxdomain = "NXDOMAIN, without asking anybody";
        let (kind, next) = match self.suffixes.classify(name) {
            NameKind::PublicKey(of_key) => {
                return ("public-key name", Some(of_key.key), String::new());
            }
            NameKind::SearchList => {
                let answers = self.config.names.search_domains == SearchDomains::Answer;
                let kind = "public-key name with a search domain";
                let key = self.key_of(name).filter(|_| answers);
                return (kind, key, nxdomain.to_owned());
            }
            NameKind::NotAKey(error) => {
                return ("not a public key", None, format!("{nxdomain}: {error}"));
            }
            NameKind::Suffix(_) => ("suffix", here),
            NameKind::UnderSuffix(_) => ("under a suffix", nxdomain),
            NameKind::Ordinary if self.local.has(name) => ("local name", here),
            NameKind::Ordinary if self.forward.has_rule_for(name) => (
                "forwarded by a rule",
                "forwarded to the servers of its [[forward]] rule",
            ),
            NameKind::Ordinary if self.config.names.special_use && is_special_use(name) => {
                ("special-use", here)
            }
            NameKind::Ordinary if self.forward.is_recursive() => (
                "ordinary name",
                "asked of its name servers, from the root on",
            ),
            NameKind::Ordinary => {
                let next = match (self.upstreams().is_empty(), is_cached) {
                    (false, false) => "forwarded",
                    (false, true) => "cached types are answered from the cache, others forwarded",
                    (true, false) => "SERVFAIL: no upstream resolver is configured",
                    (true, true) => {
                        "cached types are answered from the cache, others SERVFAIL: no upstream \
                         resolver is configured"
                    }
                };
                ("forwarded", next)
            }
        };
        (kind, None, next.to_owned())
    }
}

/// What the next question for a name of a key does.
fn next_of_key(state: &KeyState, stale_wait: Duration, now: Instant) -> String {
    let wait = next_lookup(state, now);
    let served = state.held.as_ref().filter(|held| now < held.stale_until);
    match (served, &state.miss, wait) {
        (Some(held), _, None | Some(0)) if !held.is_fresh(now) && !stale_wait.is_zero() => format!(
            "answered from a newer packet if one is found within {}, else from the stale one",
            format_duration(stale_wait)
        ),
        (Some(held), _, wait) => {
            let stale = if held.is_fresh(now) { "" } else { "stale " };
            let look = match wait {
                None => "a newer one is being looked for".to_owned(),
                Some(0) => "a newer one is looked for meanwhile".to_owned(),
                Some(wait) => format!("a newer one is looked for {}", in_at_least(wait)),
            };
            format!("answered from the {stale}packet; {look}")
        }
        (None, _, None) => "waits for the lookup that is under way".to_owned(),
        (None, Some(miss), Some(wait @ 1..)) => {
            let why = match &miss.failure {
                None => "NXDOMAIN: nobody has the key".to_owned(),
                Some(failure) => format!("SERVFAIL: {failure}"),
            };
            format!("{why}; it is looked for again {}", in_at_least(wait))
        }
        (None, _, Some(_)) => "looked for in the DHT".to_owned(),
    }
}

fn in_at_least(seconds: u64) -> String {
    let time = format_duration(Duration::from_secs(seconds));
    format!("in {time} at the earliest")
}

/// Seconds until a question starts a lookup of the key; `None` while one is under way.
fn next_lookup(state: &KeyState, now: Instant) -> Option<u64> {
    let fresh = state.held.as_ref().filter(|held| held.is_fresh(now));
    let refresh_at = fresh.map(|held| held.refresh_at);
    let next = refresh_at.max(state.miss.as_ref().map(|miss| miss.until));
    let next = next.map_or(0, |next| seconds_until(next, now));
    (!state.is_under_way).then_some(next)
}

fn packet(held: &Held, state: &KeyState, now: Instant) -> Packet {
    // One that is provisional is found, but its lookup has not told yet that it is the newest.
    let is_confirmed = held.source == Source::Network && !held.is_provisional;
    let seconds_since = |then| now.saturating_duration_since(then).as_secs();
    let confirmed = is_confirmed.then(|| seconds_since(held.fetched));
    let last_lookup = match &state.miss {
        Some(miss) => Some(LastLookup {
            outcome: match &miss.failure {
                None => "nobody has the key".to_owned(),
                Some(failure) => failure.to_string(),
            },
            seconds_ago: seconds_since(miss.at),
        }),
        None => confirmed.map(|seconds_ago| LastLookup {
            outcome: control::FOUND.to_owned(),
            seconds_ago,
        }),
    };
    Packet {
        seq: held.packet.seq(),
        signed_at: signed_at(held.packet.seq()),
        source: match held.source {
            Source::Network => control::Source::Dht,
            Source::Disk => control::Source::Disk,
        },
        confirmed_seconds_ago: confirmed,
        holders: held.holders.map(|holders| u64::from(holders.newest)),
        older_holders: held.holders.map(|holders| u64::from(holders.older)),
        bytes: count(held.packet.dns().len()),
        records: count(Zone::new(&held.packet, 0).records().len()),
        state: if now >= held.stale_until {
            Freshness::Expired
        } else if !held.is_fresh(now) {
            Freshness::Stale
        } else if held.is_provisional {
            Freshness::Provisional
        } else {
            Freshness::Fresh
        },
        fresh_left_seconds: seconds_until(held.expires, now),
        last_lookup,
        next_lookup_seconds: next_lookup(state, now),
    }
}

fn shown(rtype: RecordType, answer: &Answer, now: Instant) -> Cached {
    let ede = |ede: &Ede| match ede.text.as_str() {
        "" => format!("EDE {}", ede.code),
        text => format!("EDE {}: {text}", ede.code),
    };
    let rcode: ResponseCode = answer.rcode().into();
    Cached {
        // RFC 3597 section 5.
        rtype: if matches!(rtype, RecordType::Unknown(_)) {
            format!("TYPE{}", u16::from(rtype))
        } else {
            rtype.to_string()
        },
        rcode: if matches!(rcode, ResponseCode::Unknown(_)) {
            format!("RCODE{}", answer.rcode())
        } else {
            format!("{rcode:?}").to_uppercase()
        },
        age_seconds: u64::from(answer.age(now)),
        left_seconds: seconds_until(now + answer.left(now), now),
        bytes: count(answer.wire().len()),
        extended_errors: answer.edes().iter().map(ede).collect(),
    }
}

/// Whether a name is at or below a key, with whatever behind it. It is looked for in every cached answer,
/// so that the names are not sorted.
fn has_label(name: &Name, label: &str) -> bool {
    name.iter()
        .any(|found| found.eq_ignore_ascii_case(label.as_bytes()))
}

fn count(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Whole seconds, rounded up: 0 is now.
fn seconds_until(then: Instant, now: Instant) -> u64 {
    let left = then.saturating_duration_since(now);
    (left + Duration::from_millis(999)).as_secs()
}
