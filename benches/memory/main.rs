//! What a cached answer and a cached packet take of the memory, and whether the bound of the configuration is
//! kept; beside unbound.
//!
//! `just bench-memory` runs it. A million names are asked for, each once: with a cache that holds them all, what
//! the resolver has grown by is theirs; with one that does not, it must stop growing. Packets are put into the
//! packets' cache in a process of its own, since to look up a million would take hours.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::wildcard_enum_match_arm,
    missing_docs,
    reason = "a benchmark: what goes wrong ends it"
)]

#[path = "../peers/mod.rs"]
mod peers;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use futures_util::future::BoxFuture;
use hickory_proto::rr::rdata::{A, TXT};
use hickory_proto::rr::{Name, RData, Record};
use pkbridge::pkarr::{PublicKey, SignedPacket, SigningKey};
use pkbridge::resolve::{
    Asker, Ending, FetchPacket, HoldTimes, Holders, Packets, See, Sighting, Wanted,
};

use peers::{Cpus, Kind, Resolver, Upstream, installed, memory_of, query, socket};

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Questions under way at any time.
const WINDOW: usize = 200;
/// After this time without an answer, those that are under way are lost.
const PATIENCE: Duration = Duration::from_millis(500);
/// What is left to do when the last one has been put in.
const SETTLE: Duration = Duration::from_secs(1);
const MIB: u64 = 1 << 20;
/// Room for all.
const LARGE_MIB: u64 = 8192;

#[derive(Debug, Clone, Parser)]
#[command(
    about = "Bytes of a cached answer and packet, and whether bounds are kept; beside unbound"
)]
struct Options {
    /// Names, and packets
    #[arg(long, default_value_t = 1_000_000)]
    names: u32,
    /// The bound that is to be kept, in MiB
    #[arg(long, default_value_t = 64)]
    bound: u64,
    /// The program, instead of the one that cargo has built
    #[arg(long, default_value = env!("CARGO_BIN_EXE_pkbridge"))]
    pkbridge: PathBuf,
    /// A small run that shows that the program works
    #[arg(long)]
    test: bool,
    /// Fill a cache of packets with this bound, in MiB, and say what it takes; used by the program itself
    #[arg(long, hide = true)]
    packets: Option<u64>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let mut options = Options::parse();
    if options.test {
        options.names = 2000;
    }
    if let Some(bound) = options.packets {
        println!("{}", fill_with_packets(options.names, bound * MIB));
        return;
    }
    let (names, bound) = (options.names, options.bound);
    println!("growth by {names} names, by {names} packets: MiB, and bytes for each");
    println!(
        "  {:28} {:>12} {:>10} {:>26}",
        "",
        "room for all",
        "bytes",
        format!("bound of {bound} MiB")
    );
    for kind in installed(vec![Kind::Pkbridge, Kind::Unbound(1)]) {
        let all = by_answers(kind, &options, LARGE_MIB);
        let bounded = by_answers(kind, &options, bound);
        show(&format!("{}, answers", kind.name()), all, bounded, &options);
    }
    let (all, bounded) = (by_packets(&options, LARGE_MIB), by_packets(&options, bound));
    show("pkbridge, packets", all, bounded, &options);
}

fn show(what: &str, all: u64, bounded: u64, options: &Options) {
    let mib = |bytes: u64| bytes as f64 / MIB as f64;
    println!(
        "  {what:28} {:12.1} {:10.0} {:12.1} ({:4.0} % of it)",
        mib(all),
        all as f64 / f64::from(options.names),
        mib(bounded),
        mib(bounded) * 100.0 / options.bound as f64
    );
}

/// What a resolver grows by.
fn by_answers(kind: Kind, options: &Options, cache_mib: u64) -> u64 {
    let cpus = Cpus::new(None, None);
    let upstream = Upstream::start();
    let program = &options.pkbridge;
    let resolver = Resolver::with_cache(kind, program, &cpus.resolver, upstream.address, cache_mib);
    let before = resolver.memory();
    let answered = ask(resolver.address, options.names);
    let lost = options.names - answered;
    assert!(
        lost < options.names / 100,
        "{}: {lost} were lost",
        kind.name()
    );
    std::thread::sleep(SETTLE);
    resolver.memory().saturating_sub(before)
}

/// Asks for each name once; how many were answered.
fn ask(server: SocketAddr, names: u32) -> u32 {
    let socket = socket();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut next, mut answered, mut under_way) = (0, 0, 0);
    let mut reply = [0; 1500];
    while next < names || under_way > 0 {
        while next < names && under_way < WINDOW {
            socket.send(&query(&format!("host-{next}"))).unwrap();
            (next, under_way) = (next + 1, under_way + 1);
        }
        match socket.recv(&mut reply) {
            Ok(length) => {
                under_way -= 1;
                answered += u32::from(length > 3 && reply[3] & 0xf == 0);
            }
            Err(_) => under_way = 0,
        }
    }
    answered
}

/// What the packets' cache grows by: asked of a process that does nothing else.
fn by_packets(options: &Options, bound_mib: u64) -> u64 {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--packets", &bound_mib.to_string()]);
    command.args(["--names", &options.names.to_string()]);
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.trim().parse().unwrap_or_else(|_| panic!("{text}"))
}

/// Everybody has published an address and a text.
#[derive(Debug)]
struct Everybody;

fn secret(number: u32) -> SigningKey {
    let mut secret = [7; 32];
    secret[..4].copy_from_slice(&number.to_be_bytes());
    SigningKey::from_bytes(&secret)
}

fn packet(number: u32) -> SignedPacket {
    let secret = secret(number);
    let key = PublicKey::from_bytes(&secret.verifying_key().to_bytes()).unwrap();
    let apex = Name::from_ascii(format!("{key}.")).unwrap();
    let text = apex.prepend_label("_hello").unwrap();
    let records = vec![
        Record::from_rdata(apex, 86_400, RData::A(A::new(192, 0, 2, 1))),
        Record::from_rdata(
            text,
            86_400,
            RData::TXT(TXT::new(vec!["hello, world".to_owned()])),
        ),
    ];
    SignedPacket::sign_records(&secret, 1, records).unwrap()
}

impl FetchPacket for Everybody {
    fn fetch<'a>(&'a self, wanted: Wanted, see: &'a mut See<'_>) -> BoxFuture<'a, Ending> {
        let number = NEXT.load(std::sync::atomic::Ordering::Relaxed);
        let packet = packet(number);
        assert_eq!(packet.key(), wanted.key);
        see(Sighting::Packet(packet));
        Box::pin(async { Ending::Complete(Holders::default()) })
    }
}

/// The packet that is looked for.
static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

fn fill_with_packets(count: u32, max_bytes: u64) -> u64 {
    const DAY: Duration = Duration::from_secs(86_400);
    let times = HoldTimes {
        min: Duration::from_secs(300),
        max: DAY,
        empty: DAY,
        failure: Duration::from_secs(5),
        max_stale: DAY,
        stale_wait: Duration::ZERO,
    };
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_time().build().unwrap();
    runtime.block_on(async {
        let packets = Packets::new(Arc::new(Everybody), None, max_bytes, times);
        let before = memory_of("self");
        for number in 0..count {
            NEXT.store(number, std::sync::atomic::Ordering::Relaxed);
            let key = secret(number).verifying_key().to_bytes();
            let key = PublicKey::from_bytes(&key).unwrap();
            packets.newest(key, Asker::Refresh).await;
            // Its lookup ends.
            tokio::task::yield_now().await;
        }
        let (held, _) = packets.usage();
        assert!(held > 0);
        memory_of("self").saturating_sub(before)
    })
}
