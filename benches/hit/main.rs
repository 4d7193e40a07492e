//! Cache hits: what an answer costs that a resolver has, beside other resolvers and beside an echo, which
//! is what the kernel takes to receive and send a datagram.
//!
//! `just bench-hit` runs it. A thousand names are asked for again and again, as fast as the resolver
//! answers, then at half of unbound's rate; over TCP by dnsperf; and beside a flood of questions for new names,
//! which are more than can be looked up. The resolvers have a CPU of their
//! own, one runs at a time, and the rounds go round all of them, so that what else happens on the
//! machine hits all alike.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    clippy::wildcard_enum_match_arm,
    missing_docs,
    reason = "a benchmark: what goes wrong ends it"
)]

mod batch;
mod load;
#[path = "../peers/mod.rs"]
mod peers;

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::Parser;

use load::{Load, Outcome};
use peers::{Cpus, Kind, Resolver, Spread, Upstream, installed};

#[derive(Debug, Clone, Parser)]
#[command(about = "Cache hits, beside other resolvers and an echo")]
struct Options {
    /// Rounds over all resolvers
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Names that are asked for
    #[arg(long, default_value_t = 1000)]
    names: usize,
    /// Answers a second of the half load; by default half of what unbound came to in its first round
    #[arg(long)]
    rate: Option<f64>,
    /// CPUs of the clients and the upstream, as taskset has them; by default the first one
    #[arg(long)]
    cpus: Option<String>,
    /// CPUs of the resolver; by default the second one
    #[arg(long)]
    resolver_cpus: Option<String>,
    /// Measure pkbridge and the echo alone
    #[arg(long)]
    alone: bool,
    /// The program, instead of the one that cargo has built
    #[arg(long, default_value = env!("CARGO_BIN_EXE_pkbridge"))]
    pkbridge: PathBuf,
    /// A small run that shows that the program works
    #[arg(long)]
    test: bool,
    /// Send back what comes to this address; used by the program itself
    #[arg(long, hide = true)]
    echo: Option<SocketAddr>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// One of the measurements of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Full,
    Half,
    Tcp,
    Flooded,
}

/// What a measurement came to.
#[derive(Debug, Clone, Copy)]
struct Figures {
    /// Answers a second.
    rate: f64,
    /// Microseconds of CPU for an answer.
    cpu: f64,
    /// Share of the time that the resolver was on a CPU.
    busy: f64,
    /// Microseconds.
    p50: f64,
    p99: f64,
    lost: u64,
}

type Results = BTreeMap<(What, Kind), Vec<Figures>>;

fn main() {
    let mut options = Options::parse();
    if let Some(address) = options.echo {
        let socket = UdpSocket::bind(address).unwrap();
        batch::echo(&socket);
    }
    if options.test {
        (options.rounds, options.seconds, options.names) = (1, 0.1, 10);
    }
    let cpus = Cpus::new(options.cpus.clone(), options.resolver_cpus.clone());
    cpus.take_own();
    let mut kinds = vec![Kind::Echo, Kind::Pkbridge];
    if !options.alone {
        // unbound is measured before the others, since the half load is half of its.
        kinds = vec![
            Kind::Unbound(1),
            Kind::Echo,
            Kind::Pkbridge,
            Kind::CachingDnsdist,
            Kind::Dnsmasq,
            Kind::KnotResolver,
        ];
    }
    let kinds = installed(kinds);
    let upstream = Upstream::start();
    let queries = load::queries(options.names);
    let mut results = Results::new();
    for round in 0..options.rounds {
        // Another one begins each time, once the half load is known.
        for turn in 0..kinds.len() {
            let kind = kinds[(round + turn) % kinds.len()];
            measure(kind, &options, &cpus, &upstream, &queries, &mut results);
        }
    }
    println!(
        "\n{} names; median of {} rounds of {} s (least-most); resolver on CPU {}, clients on CPU {}",
        options.names, options.rounds, options.seconds, cpus.resolver, cpus.own
    );
    show(&kinds, &results);
}

fn measure(
    kind: Kind,
    options: &Options,
    cpus: &Cpus,
    upstream: &Upstream,
    queries: &[Vec<u8>],
    results: &mut Results,
) {
    let resolver = Resolver::start(kind, &options.pkbridge, &cpus.resolver, upstream.address);
    load::warm_up(resolver.address, queries);
    let asked = upstream.asked();
    let time = Duration::from_secs_f64(options.seconds);
    let put = |load| load::put(load, resolver.address, queries, time, || resolver.cpu());
    let full = figures(&put(Load::Full));
    let rate = *results
        .get(&(What::Full, Kind::Unbound(1)))
        .and_then(|rounds| rounds.first())
        .map_or(&full.rate, |unbound: &Figures| &unbound.rate);
    let rate = options.rate.unwrap_or(rate / 2.0).max(1.0);
    let half = figures(&put(Load::Rate(rate)));
    let mut took = vec![(What::Full, full), (What::Half, half)];
    if kind != Kind::Echo
        && let Some(tcp) = over_tcp(&resolver, options.names, options.seconds)
    {
        took.push((What::Tcp, tcp));
    }
    // Some look their names up again ahead of time; nearly all answers must be hits.
    let asked = upstream.asked() - asked;
    let few = u64::try_from(options.names).unwrap() * 2;
    assert!(
        kind == Kind::Echo || options.test && kind != Kind::Pkbridge || asked < few,
        "{} asked {asked} times",
        kind.name()
    );
    if kind != Kind::Echo {
        took.push((What::Flooded, figures(&put(Load::Flooded(rate / 4.0)))));
    }
    for (what, figures) in took {
        assert!(
            !options.test || kind != Kind::Pkbridge || figures.rate > 0.0,
            "{}: {figures:?}",
            kind.name()
        );
        results.entry((what, kind)).or_default().push(figures);
    }
}

fn figures(outcome: &Outcome) -> Figures {
    let answers = outcome.answers.max(1) as f64;
    let at = |percent: usize| {
        let index = outcome.latencies.len() * percent / 100;
        outcome.latencies.get(index).copied().unwrap_or(f64::NAN)
    };
    Figures {
        rate: outcome.answers as f64 / outcome.time.as_secs_f64(),
        cpu: outcome.cpu.as_secs_f64() * 1e6 / answers,
        busy: outcome.cpu.as_secs_f64() / outcome.time.as_secs_f64(),
        p50: at(50),
        p99: at(99),
        lost: outcome.lost,
    }
}

/// The same names over TCP, by dnsperf: four connections, a hundred questions under way.
fn over_tcp(resolver: &Resolver, names: usize, seconds: f64) -> Option<Figures> {
    let file = std::env::temp_dir().join(format!("pkbridge-bench-{:016x}", rand::random::<u64>()));
    let lines = (0..names).map(|number| format!("host-{number}.bench.example A\n"));
    fs::write(&file, lines.collect::<String>()).unwrap();
    let figures = dnsperf(resolver, &file, seconds);
    fs::remove_file(&file).unwrap();
    figures
}

fn dnsperf(resolver: &Resolver, names: &Path, seconds: f64) -> Option<Figures> {
    let (ip, port) = (
        resolver.address.ip().to_string(),
        resolver.address.port().to_string(),
    );
    let seconds = seconds.ceil().to_string();
    let before = resolver.cpu();
    let output = Command::new("dnsperf")
        .args([
            "-m", "tcp", "-s", &ip, "-p", &port, "-l", &seconds, "-c", "4", "-q", "100", "-d",
        ])
        .arg(names)
        .output()
        .ok()?;
    let cpu = (resolver.cpu() - before).as_secs_f64();
    let text = String::from_utf8_lossy(&output.stdout);
    let number = |label: &str| {
        let line = text
            .lines()
            .find(|line| line.trim_start().starts_with(label))?;
        line.split_whitespace()
            .find_map(|word| word.parse::<f64>().ok())
    };
    let answers = number("Queries completed:")?;
    let time = number("Run time (s):")?;
    Some(Figures {
        rate: answers / time,
        cpu: cpu * 1e6 / answers,
        busy: cpu / time,
        p50: f64::NAN,
        p99: f64::NAN,
        lost: number("Queries lost:")? as u64,
    })
}

fn show(kinds: &[Kind], results: &Results) {
    let flood = format!(
        "UDP, at an eighth of unbound's rate, beside {} new names a second",
        load::FLOOD
    );
    for (what, title) in [
        (What::Full, "UDP, as fast as it goes"),
        (What::Half, "UDP, at half of unbound's rate"),
        (What::Tcp, "TCP, 4 connections, 100 under way"),
        (What::Flooded, flood.as_str()),
    ] {
        println!(
            "\n{title}\n  {:16} {:>26} {:>20} {:>5} {:>8} {:>8} {:>6}",
            "", "answers/s", "CPU us/answer", "busy", "p50 us", "p99 us", "lost"
        );
        for kind in kinds {
            let Some(rounds) = results.get(&(what, *kind)) else {
                continue;
            };
            let of = |field: fn(&Figures) -> f64| Spread::of(rounds.iter().map(field).collect());
            let (rate, cpu) = (of(|f| f.rate), of(|f| f.cpu));
            println!(
                "  {:16} {:8.0} ({:7.0}-{:7.0}) {:6.2} ({:5.2}-{:5.2}) {:4.0}% {:8.0} {:8.0} {:6}",
                kind.name(),
                rate.median,
                rate.least,
                rate.most,
                cpu.median,
                cpu.least,
                cpu.most,
                of(|f| f.busy).median * 100.0,
                of(|f| f.p50).median,
                of(|f| f.p99).median,
                rounds.iter().map(|f| f.lost).sum::<u64>()
            );
        }
    }
}
