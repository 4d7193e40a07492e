//! Cold keys: how fast they are found, beside the bare DHT library, on a simulated network.
//!
//! `just bench-cold` runs it: a thousand nodes, 50 ± 20 ms, a quarter of them dead. The simulator is a
//! process of its own and knows for each lookup what time an ideal client would have needed: the floor.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::wildcard_enum_match_arm,
    missing_docs,
    reason = "a benchmark: what goes wrong ends it"
)]

mod clients;
mod network;
mod system;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::{Name, RData, Record};
use mainline::Id;
use pkbridge::pkarr::{PublicKey, SignedPacket, SigningKey};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use clients::{Bridge, Found, ask, first_value, library, most_recent};
use network::{Floors, Network};

#[derive(Debug, Clone, Parser)]
#[command(about = "Cold keys on a simulated DHT")]
struct Options {
    /// Nodes of the network
    #[arg(long, default_value_t = 1000)]
    nodes: usize,
    /// Round trip
    #[arg(long, default_value = "50ms")]
    round_trip: String,
    /// How much longer or shorter one may be
    #[arg(long, default_value = "20ms")]
    jitter: String,
    /// Share of dead nodes
    #[arg(long, default_value_t = 0.25)]
    dead: f64,
    /// What makes the network
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Keys in the measurements of many
    #[arg(long, default_value_t = 2000)]
    keys: usize,
    /// Keys in the measurements one after the other
    #[arg(long, default_value_t = 100)]
    few: usize,
    /// Lookups a second in the measurement that is sustained
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// A small run that shows that the program works
    #[arg(long)]
    test: bool,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let mut options = Options::parse();
    if options.test {
        options.nodes = 60;
        options.round_trip = "5ms".to_owned();
        options.jitter = "2ms".to_owned();
        (options.keys, options.few) = (40, 5);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    runtime.block_on(run(&options));
}

async fn run(options: &Options) {
    println!(
        "{} nodes, {} ± {}, {:.0} % dead; seed {}; times in ms\n",
        options.nodes,
        options.round_trip,
        options.jitter,
        options.dead * 100.0,
        options.seed
    );
    let mut network = Network::start(options);
    one_by_one(options, &mut network).await;
    fresh_process(options, &mut network).await;
    sustained(options, &mut network).await;
    all_at_once(options, &mut network).await;
}

/// New keys with a packet, all different in all measurements.
fn publish(network: &mut Network, count: usize) -> Vec<PublicKey> {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    let sign = |_| {
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut secret = [7; 32];
        secret[..8].copy_from_slice(&number.to_be_bytes());
        let secret = SigningKey::from_bytes(&secret);
        let key = PublicKey::from_bytes(&secret.verifying_key().to_bytes()).unwrap();
        let owner = Name::from_ascii(format!("{key}.")).unwrap();
        let text = RData::TXT(TXT::new(vec!["cold".repeat(60)]));
        let record = Record::from_rdata(owner, 3600, text);
        SignedPacket::sign_records(&secret, 1_700_000_000_000_000 + number, vec![record]).unwrap()
    };
    let packets: Vec<_> = (0..count).map(sign).collect();
    network.store(&packets);
    packets.iter().map(SignedPacket::key).collect()
}

/// Keys that nobody has published.
fn unpublished(count: usize) -> Vec<PublicKey> {
    let key = |_| {
        let secret = SigningKey::from_bytes(&rand::random());
        PublicKey::from_bytes(&secret.verifying_key().to_bytes()).unwrap()
    };
    (0..count).map(key).collect()
}

fn target(key: PublicKey) -> String {
    let target: Id = mainline::MutableItem::target_from_key(key.as_bytes(), None);
    network::hex(target.as_bytes())
}

/// The lowest floor that any of these sockets had for a key.
fn floor_of(floors: &Floors, sockets: Option<&[String]>, key: PublicKey) -> Option<f64> {
    let target = target(key);
    let of_key = floors.iter().filter(|((client, found), _)| {
        *found == target && sockets.is_none_or(|sockets| sockets.contains(client))
    });
    of_key.map(|(_, floor)| *floor).reduce(f64::min)
}

/// Times, as a line of a table.
#[derive(Default)]
struct Times(Vec<f64>);

impl Times {
    fn add(&mut self, time: Duration) {
        self.0.push(time.as_secs_f64() * 1e3);
    }

    fn at(&mut self, percent: usize) -> f64 {
        self.0.sort_by(f64::total_cmp);
        let index = (self.0.len() * percent / 100).min(self.0.len().saturating_sub(1));
        self.0.get(index).copied().unwrap_or(f64::NAN)
    }

    fn line(&mut self) -> String {
        format!(
            "p50 {:7.1}  p90 {:7.1}  p99 {:7.1}  max {:7.1}",
            self.at(50),
            self.at(90),
            self.at(99),
            self.at(100)
        )
    }
}

/// One key after the other: the time to the first value, and how much of it is more than the floor.
async fn one_by_one(options: &Options, network: &mut Network) {
    println!("one by one, {} keys: first value", options.few);
    for client in ["pkbridge", "library", "library, newest"] {
        // Those of the last take seconds each.
        let is_slow = client == "library, newest";
        let count = if is_slow {
            options.few.div_ceil(5)
        } else {
            options.few
        };
        let keys = publish(network, count);
        let bridge = Bridge::start(&network.bootstrap, None);
        let dht = library(&network.bootstrap).await;
        bridge.joined().await;
        network.floors();
        let (mut times, mut missed) = (Vec::new(), 0);
        for key in keys {
            let (found, time) = match client {
                "pkbridge" => bridge.ask(key).await,
                "library" => first_value(&dht, key).await,
                _ => most_recent(&dht, key).await,
            };
            if found == Found::Packet {
                times.push((key, time));
            } else {
                missed += 1;
            }
            // Lookups do not overlap: the time is the latency alone.
            sleep(Duration::from_millis(200)).await;
        }
        let floors = network.floors();
        show_with_floor(client, &times, &floors, None, missed);
    }
    println!();
}

fn show_with_floor(
    client: &str,
    times: &[(PublicKey, Duration)],
    floors: &Floors,
    sockets: Option<&[String]>,
    missed: usize,
) {
    let (mut all, mut floor, mut over) = (Times::default(), Times::default(), Times::default());
    for (key, time) in times {
        all.add(*time);
        if let Some(least) = floor_of(floors, sockets, *key) {
            floor.0.push(least);
            over.0.push(time.as_secs_f64() * 1e3 - least);
        }
    }
    println!(
        "  {client:16} {}  floor p50 {:6.1}  over it p50 {:5.1} p90 {:5.1}  not found {missed}",
        all.line(),
        floor.at(50),
        over.at(50),
        over.at(90)
    );
}

/// The first question to a process that has just started, with a saved table.
async fn fresh_process(options: &Options, network: &mut Network) {
    let runs = options.few.div_ceil(5);
    println!("first question to a fresh process with a saved table, {runs} starts");
    let state = Directory::new();
    // It saves its table.
    let bridge = Bridge::start(&network.bootstrap, Some(state.path.clone()));
    bridge.joined().await;
    while !state.path.join("dht-nodes").exists() {
        sleep(Duration::from_millis(50)).await;
    }
    bridge.stop().await;
    let (mut times, mut missed) = (Vec::new(), 0);
    let mut floors = Floors::new();
    for key in publish(network, runs) {
        network.floors();
        // Bootstrap nodes of which nobody has heard: only the saved ones are of use.
        let nowhere = ["127.127.0.1:9".parse().unwrap()];
        let bridge = Bridge::start(&nowhere, Some(state.path.clone()));
        let (found, time) = bridge.ask(key).await;
        if found == Found::Packet {
            times.push((key, time));
        } else {
            missed += 1;
        }
        let sockets = bridge.sockets();
        let own = network.floors().into_iter();
        floors.extend(own.filter(|((client, _), _)| sockets.contains(client)));
        bridge.stop().await;
    }
    show_with_floor("pkbridge", &times, &floors, None, missed);
    println!();
}

/// So many new keys a second, a twentieth of them unpublished.
async fn sustained(options: &Options, network: &mut Network) {
    println!(
        "{} new keys a second, {} in all and a twentieth of that unpublished",
        options.rate, options.keys
    );
    for client in ["pkbridge", "library"] {
        let mut keys = publish(network, options.keys);
        let absent = unpublished(options.keys / 20);
        for (index, key) in absent.iter().enumerate() {
            keys.insert(index * 21, *key);
        }
        let bridge = Bridge::start(&network.bootstrap, None);
        let dht = library(&network.bootstrap).await;
        bridge.joined().await;
        let (cpu, dropped) = (system::cpu(), system::dropped());
        let mut asked = JoinSet::new();
        let mut pace = interval(Duration::from_secs(1) / options.rate);
        pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
        for key in keys {
            pace.tick().await;
            let (dht, server) = (dht.clone(), bridge.address());
            asked.spawn(async move {
                let answer = if client == "pkbridge" {
                    ask(server, key).await
                } else {
                    first_value(&dht, key).await
                };
                (key, answer)
            });
        }
        let (mut found, mut nobody) = (Times::default(), Times::default());
        let mut other = BTreeMap::<String, usize>::new();
        while let Some(answer) = asked.join_next().await {
            let (key, (what, time)) = answer.unwrap();
            match (what, absent.contains(&key)) {
                (Found::Packet, false) => found.add(time),
                (Found::Nobody, true) => nobody.add(time),
                (what, is_absent) => {
                    let of = if is_absent {
                        "unpublished"
                    } else {
                        "published"
                    };
                    *other.entry(format!("{of}: {what:?}")).or_default() += 1;
                }
            }
        }
        // What is still under way belongs to it.
        sleep(Duration::from_millis(1500)).await;
        let lookups = options.keys + absent.len();
        let cpu = (system::cpu() - cpu).as_secs_f64() * 1e3 / lookups as f64;
        println!(
            "  {client:16} {}  found {}/{}",
            found.line(),
            found.0.len(),
            options.keys
        );
        println!(
            "  {:16} {}  told {}/{}; else {other:?}; CPU {cpu:.2} ms a lookup; dropped {}",
            "  nobody has it",
            nobody.line(),
            nobody.0.len(),
            absent.len(),
            system::dropped() - dropped
        );
        bridge.stop().await;
    }
    println!();
}

/// All keys in one moment, then after a restart with the network gone.
async fn all_at_once(options: &Options, network: &mut Network) {
    println!("{} new keys at once", options.keys);
    let keys = publish(network, options.keys);
    let dht = library(&network.bootstrap).await;
    at_once("library", &keys, async |key| first_value(&dht, key).await).await;
    drop(dht);

    let state = Directory::new();
    let bridge = Bridge::start(&network.bootstrap, Some(state.path.clone()));
    bridge.joined().await;
    let (started, cpu, dropped) = (Instant::now(), system::cpu(), system::dropped());
    let server = bridge.address();
    at_once("pkbridge", &keys, async move |key| ask(server, key).await).await;
    // Their lookups go on, whether anybody waits or not.
    let is_done = || {
        let lookups = bridge.dht.status().lookups;
        lookups.waiting == 0 && lookups.under_way == 0
    };
    while !is_done() {
        sleep(Duration::from_millis(20)).await;
    }
    let time = started.elapsed();
    let cpu = (system::cpu() - cpu).as_secs_f64() * 1e3 / keys.len() as f64;
    let mut again = Times::default();
    let mut held = 0;
    for key in &keys {
        let (found, time) = bridge.ask(*key).await;
        held += usize::from(found == Found::Packet);
        again.add(time);
    }
    let peak = network.peak(&bridge.sockets());
    println!(
        "  {:16} all lookups done after {:.1} s; in the cache {held}/{}; CPU {cpu:.2} ms a lookup; \
         datagrams dropped {}; most messages of one socket to one node in a second {peak}",
        "",
        time.as_secs_f64(),
        keys.len(),
        system::dropped() - dropped
    );
    bridge.stop().await;

    println!("after a restart, with the DHT gone");
    network.silence();
    let bridge = Bridge::start(&network.bootstrap, Some(state.path.clone()));
    let (mut times, mut stale) = (Times::default(), 0);
    let mut first = None;
    for key in &keys {
        let (found, time) = bridge.ask(*key).await;
        first.get_or_insert(time);
        stale += usize::from(found == Found::Stale);
        times.add(time);
    }
    println!(
        "  {:16} {}  first {:.1}; stale answers {stale}/{}",
        "pkbridge",
        times.line(),
        first.unwrap_or_default().as_secs_f64() * 1e3,
        keys.len()
    );
    bridge.stop().await;
}

async fn at_once(
    client: &str,
    keys: &[PublicKey],
    look_up: impl AsyncFn(PublicKey) -> (Found, Duration),
) {
    let lookups = keys.iter().map(|key| look_up(*key));
    let answers = futures_util::future::join_all(lookups).await;
    let mut times = Times::default();
    let mut counts = BTreeMap::<String, usize>::new();
    for (found, time) in answers {
        times.add(time);
        *counts.entry(format!("{found:?}")).or_default() += 1;
    }
    println!("  {client:16} {}  {counts:?}", times.line());
}

/// A directory that goes when it is dropped.
struct Directory {
    path: PathBuf,
}

impl Directory {
    fn new() -> Self {
        let name = format!("pkbridge-bench-{:016x}", rand::random::<u64>());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self { path }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
