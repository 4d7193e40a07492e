//! The simulator as a program, so that a benchmark can run it as a process with a CPU time of its own.
//!
//! It prints its bootstrap addresses as one line of JSON, then obeys one command a line, and answers
//! each with one line, until the end of input:
//!
//! ```text
//! {"bootstrap":["127.1.0.1:40000", ...]}
//! {"store":{"key":HEX,"signature":HEX,"seq":1,"value":HEX}}   -> {"stored":20}
//! {"store":[{..., "ranks":[0,4,8]}, ...]}                     -> {"stored":3}
//! {"holders":HEX}                                             -> {"holders":{"1":20}}
//! {"silent":true}                                             -> {"silent":true}
//! "traces"                                                    -> {"traces":[...]}
//! "traffic"                                                   -> {"traffic":{...}}
//! anything else                                               -> {"error":"..."}
//! ```
//!
//! `ranks` are the holders that get the item, 0 the nearest; all without it. `stored` counts the copies.
//! Times of traces are in milliseconds. `traces` takes them: the next time there are only new ones.

use std::io::{self, BufRead, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use dht_simulator::{Counts, Item, Network, Settings, Trace, Traffic};
use serde::Deserialize;
use serde_json::{Value, json};

/// Runs a simulated Mainline DHT on loopback addresses. Reads commands from standard input.
#[derive(Debug, Parser)]
struct Arguments {
    /// Nodes, dead ones and poisoners included
    #[arg(long, default_value_t = 100)]
    nodes: usize,
    /// What makes the network
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Round trip, as in 50ms
    #[arg(long, default_value = "0ms", value_parser = duration)]
    rtt: Duration,
    /// How much longer or shorter a round trip may be
    #[arg(long, default_value = "0ms", value_parser = duration)]
    jitter: Duration,
    /// Share of replies that get lost
    #[arg(long, default_value_t = 0.0)]
    loss: f64,
    /// Share of nodes that never answer
    #[arg(long, default_value_t = 0.0)]
    dead: f64,
    /// Share of nodes that name invented nodes
    #[arg(long, default_value_t = 0.0)]
    poisoners: f64,
    /// Nodes of a sub-tree in a table, and nodes that a reply names
    #[arg(long, default_value_t = 8)]
    bucket: usize,
    /// Trace lookups
    #[arg(long)]
    trace: bool,
    /// UDP port of all nodes; 0 for a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
}

/// A line of input.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Command {
    Store(OneOrMany),
    Holders(Hex<32>),
    Silent(bool),
    Traces,
    Traffic,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(Stored),
    Many(Vec<Stored>),
}

#[derive(Debug, Deserialize)]
struct Stored {
    key: Hex<32>,
    signature: Hex<64>,
    seq: i64,
    value: String,
    ranks: Option<Vec<usize>>,
}

/// That many bytes, in hexadecimal.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct Hex<const N: usize>([u8; N]);

impl<const N: usize> TryFrom<String> for Hex<N> {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let bytes = bytes(&text)?;
        let wrong = |_| format!("{N} bytes in hexadecimal are expected");
        bytes.try_into().map(Self).map_err(wrong)
    }
}

fn bytes(hex: &str) -> Result<Vec<u8>, String> {
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| {
        let digits = pair.iter().all(u8::is_ascii_hexdigit);
        let text = str::from_utf8(pair).ok().filter(|_| digits)?;
        u8::from_str_radix(text, 16).ok()
    };
    let bytes: Option<Vec<u8>> = pairs.iter().map(byte).collect();
    let even = bytes.filter(|_| rest.is_empty());
    even.ok_or_else(|| "that is not hexadecimal".to_owned())
}

/// `50ms`, `1.5s` or `300us`.
fn duration(text: &str) -> Result<Duration, String> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.strip_prefix(number) {
        Some("s") => 1.0,
        Some("ms") => 1e-3,
        Some("us") => 1e-6,
        _ => return Err("a unit is missing: s, ms or us".to_owned()),
    };
    let seconds: f64 = number.parse().map_err(|_| "no number".to_owned())?;
    Duration::try_from_secs_f64(seconds * unit).map_err(|error| error.to_string())
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing can be done if standard error is gone, too.
            let _ = writeln!(io::stderr(), "dht-simulator: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> io::Result<()> {
    let settings = Settings {
        nodes: arguments.nodes,
        seed: arguments.seed,
        round_trip: arguments.rtt,
        jitter: arguments.jitter,
        loss: arguments.loss,
        dead: arguments.dead,
        poisoners: arguments.poisoners,
        bucket: arguments.bucket,
        trace: arguments.trace,
        port: arguments.port,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let network = runtime.block_on(Network::start(settings))?;
    let mut output = io::stdout().lock();
    let bootstrap = network.bootstrap();
    writeln!(output, "{}", json!({ "bootstrap": bootstrap }))?;
    for line in io::stdin().lock().lines() {
        let answer = obey(&network, &line?).unwrap_or_else(|error| json!({ "error": error }));
        writeln!(output, "{answer}")?;
    }
    Ok(())
}

fn obey(network: &Network, line: &str) -> Result<Value, String> {
    let command = serde_json::from_str(line).map_err(|error| error.to_string())?;
    Ok(match command {
        Command::Store(OneOrMany::One(item)) => json!({ "stored": store(network, item)? }),
        Command::Store(OneOrMany::Many(items)) => {
            let mut stored = 0;
            for item in items {
                stored += store(network, item)?;
            }
            json!({ "stored": stored })
        }
        Command::Holders(Hex(key)) => json!({ "holders": network.holders(&key) }),
        Command::Silent(silent) => {
            network.set_silent(silent);
            json!({ "silent": silent })
        }
        Command::Traces => {
            let traces: Vec<Value> = network.take_traces().iter().map(trace).collect();
            json!({ "traces": traces })
        }
        Command::Traffic => json!({ "traffic": traffic(&network.traffic()) }),
    })
}

fn store(network: &Network, stored: Stored) -> Result<usize, String> {
    let item = Item {
        key: stored.key.0,
        signature: stored.signature.0,
        seq: stored.seq,
        value: bytes(&stored.value)?,
    };
    Ok(match stored.ranks {
        Some(ranks) => network.store_on(&item, |rank| ranks.contains(&rank)),
        None => network.store(&item),
    })
}

fn trace(trace: &Trace) -> Value {
    let millis = |floor: Option<Duration>| floor.map(|floor| floor.as_secs_f64() * 1e3);
    let hex = trace.target.iter().map(|byte| format!("{byte:02x}"));
    json!({
        "client": trace.client,
        "target": hex.collect::<String>(),
        "floor_first": millis(trace.floor_first),
        "floor_newest": millis(trace.floor_newest),
        "asked": trace.asked,
        "answered": trace.answered,
        "hops": trace.hops,
    })
}

fn traffic(traffic: &Traffic) -> Value {
    let counts = |counts: &Counts| {
        json!({
            "ping": counts.ping,
            "find_node": counts.find_node,
            "get_peers": counts.get_peers,
            "get": counts.get,
            "put": counts.put,
            "bad": counts.bad,
            "total": counts.total(),
        })
    };
    let clients = traffic.clients.iter().map(|(client, traffic)| {
        let counts = json!({ "messages": traffic.messages, "peak": traffic.peak });
        (client.to_string(), counts)
    });
    json!({
        "received": counts(&traffic.received),
        "answered": counts(&traffic.answered),
        "ignored": traffic.ignored,
        "overflowed": traffic.overflowed,
        "untraced": traffic.untraced,
        "clients": clients.collect::<serde_json::Map<_, _>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("50ms"), Ok(Duration::from_millis(50)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1_500)));
        assert_eq!(duration("300us"), Ok(Duration::from_micros(300)));
        for wrong in ["50", "ms", "", "-1s", "1m", "1e99s", "infs"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn hexadecimal_is_read_strictly() {
        assert_eq!(bytes("00fFa1"), Ok(vec![0, 255, 161]));
        assert_eq!(bytes(""), Ok(Vec::new()));
        for wrong in ["0", "0g", "+1", " 1", "é"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}
