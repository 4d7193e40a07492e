//! Cache misses: what a forwarded question costs, beside unbound and dnsdist.
//!
//! `just bench-forward` runs it. Every name is new, so every question goes to the upstream, which is a
//! thread of this process. The resolvers have CPUs of their own, one runs at a time, and the rounds go
//! round all of them, so that what else happens on the machine hits all alike.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    clippy::wildcard_enum_match_arm,
    missing_docs,
    reason = "a benchmark: what goes wrong ends it"
)]

mod load;
#[path = "../peers/mod.rs"]
mod peers;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;

use load::{Load, Names, Outcome};
use peers::{Cpus, Kind, Resolver, Spread, Upstream, installed};

#[derive(Debug, Clone, Parser)]
#[command(about = "Cache misses, beside unbound and dnsdist")]
struct Options {
    /// Rounds over all resolvers
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Questions under way at any time; half load is half of what the second came to
    #[arg(long, value_delimiter = ',', default_values_t = [1, 100, 500])]
    windows: Vec<usize>,
    /// CPUs of the clients and the upstream, as taskset has them; by default the first one
    #[arg(long)]
    cpus: Option<String>,
    /// CPUs of the resolver; by default the second one
    #[arg(long)]
    resolver_cpus: Option<String>,
    /// Threads of unbound, for each a resolver
    #[arg(long, value_delimiter = ',', default_values_t = [1])]
    unbound_threads: Vec<u8>,
    /// Measure pkbridge alone
    #[arg(long)]
    alone: bool,
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

fn main() {
    let mut options = Options::parse();
    if options.test {
        (options.rounds, options.seconds) = (1, 0.1);
        options.windows = vec![1, 20];
    }
    assert!(
        options.windows.len() > 1,
        "half load is half of the second window's"
    );
    let cpus = Cpus::new(options.cpus.clone(), options.resolver_cpus.clone());
    cpus.take_own();
    let mut kinds = vec![Kind::Pkbridge];
    if !options.alone {
        kinds.extend(options.unbound_threads.iter().copied().map(Kind::Unbound));
        kinds.push(Kind::Dnsdist);
    }
    let kinds = installed(kinds);

    let upstream = Upstream::start();
    let names = Arc::new(Names::new());
    let mut results = BTreeMap::new();
    for round in 0..options.rounds {
        // Another one begins each time.
        for turn in 0..kinds.len() {
            let kind = kinds[(round + turn) % kinds.len()];
            measure(kind, &options, &cpus, &upstream, &names, &mut results);
        }
    }
    println!(
        "\nmedian of {} rounds of {} s (least-most); resolver on CPU {}, clients and upstream on CPU {}",
        options.rounds, options.seconds, cpus.resolver, cpus.own
    );
    show(&kinds, &options, &results);
    if options.test {
        // The others may lose what a busy machine does not let them read in time.
        for ((kind, _), rounds) in &results {
            let is_good = |f: &Figures| f.rate > 0.0 && (*kind != Kind::Pkbridge || f.failed == 0);
            assert!(rounds.iter().all(is_good), "{}: {rounds:?}", kind.name());
        }
    }
}

/// One measurement.
#[derive(Debug, Clone, Copy)]
struct Figures {
    /// Answers a second.
    rate: f64,
    /// Microseconds of CPU for an answer.
    cpu: f64,
    /// Share of the measured time that the resolver was on a CPU.
    busy: f64,
    /// Microseconds.
    p50: f64,
    p99: f64,
    /// Queries to the upstream for each question.
    asked: f64,
    /// Lost, or answered otherwise.
    failed: u64,
}

/// By resolver, and by number of the load.
type Results = BTreeMap<(Kind, usize), Vec<Figures>>;

fn measure(
    kind: Kind,
    options: &Options,
    cpus: &Cpus,
    upstream: &Upstream,
    names: &Arc<Names>,
    results: &mut Results,
) {
    let resolver = Resolver::start(kind, &options.pkbridge, &cpus.resolver, upstream.address);
    let mut rates = Vec::new();
    let windows = options.windows.iter().copied().map(Load::Window);
    let mut loads: Vec<Load> = windows.collect();
    for number in 0.. {
        let Some(load) = loads.get(number).copied() else {
            break;
        };
        let (asked, first) = (upstream.asked(), names.asked());
        let time = Duration::from_secs_f64(options.seconds);
        let outcome = load::put(load, resolver.address, names, time, || resolver.cpu());
        let asked = (upstream.asked() - asked) as f64 / (names.asked() - first) as f64;
        let figures = figures(&outcome, asked);
        if figures.failed > 0 {
            println!(
                "{}, {load:?}: {} lost, RCODEs {:?}",
                kind.name(),
                outcome.lost,
                outcome.failures
            );
        }
        rates.push(figures.rate);
        results.entry((kind, number)).or_default().push(figures);
        if rates.len() == options.windows.len() && loads.len() == rates.len() {
            loads.push(Load::Rate((rates[1] / 2.0).max(1.0)));
        }
    }
}

fn figures(outcome: &Outcome, asked: f64) -> Figures {
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
        asked,
        failed: outcome.lost + outcome.failures.values().sum::<u64>(),
    }
}

fn show(kinds: &[Kind], options: &Options, results: &Results) {
    for number in 0..=options.windows.len() {
        match options.windows.get(number) {
            Some(window) => println!("\n{window} under way"),
            None => println!("\nhalf the rate of {} under way", options.windows[1]),
        }
        println!(
            "  {:20} {:>24} {:>20} {:>5} {:>9} {:>9} {:>6} {:>7}",
            "", "answers/s", "CPU us/answer", "busy", "p50 us", "p99 us", "asked", "failed"
        );
        for kind in kinds {
            let Some(rounds) = results.get(&(*kind, number)) else {
                continue;
            };
            let of = |field: fn(&Figures) -> f64| Spread::of(rounds.iter().map(field).collect());
            let (rate, cpu) = (of(|f| f.rate), of(|f| f.cpu));
            println!(
                "  {:20} {:8.0} ({:6.0}-{:6.0}) {:6.1} ({:5.1}-{:5.1}) {:4.0}% {:9.0} {:9.0} {:6.2} {:7}",
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
                of(|f| f.asked).median,
                rounds.iter().map(|f| f.failed).sum::<u64>()
            );
        }
    }
}
