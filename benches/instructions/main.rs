//! How many instructions of its own a question costs the service: a number that no other load on the machine
//! changes. What the kernel does is not in it.
//!
//! `just bench` runs it, after the micro-benchmarks. The program runs under callgrind (Debian package valgrind),
//! twice for each kind of question: the difference of the two counts is that of the questions alone.

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

#[path = "../peers/mod.rs"]
mod peers;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use clap::Parser;

use peers::{Cpus, Kind, Resolver, Upstream, query, socket};

/// Questions under way at any time.
const WINDOW: u32 = 32;
/// Under callgrind everything takes fifty times as long.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Parser)]
#[command(about = "Instructions that a question costs, by callgrind")]
struct Options {
    /// Questions that are counted
    #[arg(long, default_value_t = 20_000)]
    questions: u32,
    /// Names that are in the cache
    #[arg(long, default_value_t = 1000)]
    names: u32,
    /// The program, instead of the one that cargo has built
    #[arg(long, default_value = env!("CARGO_BIN_EXE_pkbridge"))]
    pkbridge: PathBuf,
    /// A small run that shows that the program works
    #[arg(long)]
    test: bool,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// A kind of question.
#[derive(Debug, Clone, Copy)]
enum What {
    Hits,
    HitsOverTcp,
    Misses,
}

fn main() {
    let mut options = Options::parse();
    if options.test {
        (options.questions, options.names) = (200, 50);
    }
    let valgrind = Command::new("valgrind").arg("--version").output();
    if !valgrind.is_ok_and(|output| output.status.success()) {
        println!("valgrind is not installed");
        return;
    }
    println!("instructions of a question, of {}", options.questions);
    let kinds = [
        (What::Hits, "hit over UDP"),
        (What::HitsOverTcp, "hit over TCP"),
        (What::Misses, "forwarded miss over UDP"),
    ];
    // One shows that it works.
    let shown = if options.test { 1 } else { kinds.len() };
    for (what, name) in kinds.into_iter().take(shown) {
        let counted = options.questions;
        let few = count(&options, what, counted / 2);
        let more = count(&options, what, counted / 2 + counted);
        println!(
            "  {name:24} {:8}",
            more.saturating_sub(few) / u64::from(counted)
        );
    }
}

/// The instructions of the program's whole life, with so many questions.
fn count(options: &Options, what: What, questions: u32) -> u64 {
    let directory = std::env::temp_dir();
    let directory = directory.join(format!("pkbridge-bench-{:016x}", rand::random::<u64>()));
    fs::create_dir(&directory).unwrap();
    let (log, script) = (directory.join("callgrind"), directory.join("pkbridge"));
    let program = options.pkbridge.display();
    let text = format!(
        "#!/bin/sh\nexec valgrind --tool=callgrind --callgrind-out-file=/dev/null --log-file={} {program} \"$@\"\n",
        log.display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).unwrap();
    let (cpus, upstream) = (Cpus::new(None, None), Upstream::start());
    let resolver = Resolver::start(Kind::Pkbridge, &script, &cpus.resolver, upstream.address);
    let warm: Vec<_> = (0..options.names)
        .map(|number| query(&format!("host-{number}")))
        .collect();
    ask(resolver.address, &warm);
    let cached = |number| query(&format!("host-{}", number % options.names));
    match what {
        What::Hits => ask(
            resolver.address,
            &(0..questions).map(cached).collect::<Vec<_>>(),
        ),
        What::HitsOverTcp => {
            ask_over_tcp(
                resolver.address,
                &(0..questions).map(cached).collect::<Vec<_>>(),
            );
        }
        What::Misses => {
            let new = |number| query(&format!("new-{number}"));
            ask(
                resolver.address,
                &(0..questions).map(new).collect::<Vec<_>>(),
            );
        }
    }
    drop(resolver);
    let text = fs::read_to_string(&log).unwrap();
    let _ = fs::remove_dir_all(&directory);
    let collected = text
        .lines()
        .find_map(|line| line.split_once("Collected : "));
    let (_, collected) = collected.unwrap_or_else(|| panic!("callgrind said:\n{text}"));
    collected.trim().parse().unwrap()
}

/// Asks all, and waits for all answers.
fn ask(server: SocketAddr, queries: &[Vec<u8>]) {
    let socket: UdpSocket = socket();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reply = [0; 1500];
    let mut receive = || {
        socket.recv(&mut reply).expect("an answer");
        assert_eq!(reply[3] & 0xf, 0, "an answer without an error");
    };
    for window in queries.chunks(WINDOW as usize) {
        for query in window {
            socket.send(query).unwrap();
        }
        window.iter().for_each(|_| receive());
    }
}

/// The same over one connection.
fn ask_over_tcp(server: SocketAddr, queries: &[Vec<u8>]) {
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reply = [0; 1500];
    for window in queries.chunks(WINDOW as usize) {
        let framed = window.iter().flat_map(|query| {
            let length = (query.len() as u16).to_be_bytes();
            [&length[..], query].concat()
        });
        stream.write_all(&framed.collect::<Vec<u8>>()).unwrap();
        for _ in window {
            stream.read_exact(&mut reply[..2]).unwrap();
            let length = usize::from(u16::from_be_bytes([reply[0], reply[1]]));
            stream.read_exact(&mut reply[..length]).unwrap();
            assert_eq!(reply[3] & 0xf, 0, "an answer without an error");
        }
    }
}
