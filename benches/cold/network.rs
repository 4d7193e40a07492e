//! The simulator as a process of its own, so that its CPU time is not the client's.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use pkbridge::pkarr::SignedPacket;
use serde_json::{Value, json};

use super::Options;

/// A simulated DHT.
pub(super) struct Network {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    pub(super) bootstrap: Vec<SocketAddrV4>,
}

/// The time that an ideal client would have needed, in milliseconds, by the client's socket and the
/// target.
pub(super) type Floors = HashMap<(String, String), f64>;

impl Network {
    pub(super) fn start(options: &Options) -> Self {
        let program = simulator();
        let mut child = Command::new(&program)
            .args(["--nodes", &options.nodes.to_string()])
            .args(["--rtt", &options.round_trip])
            .args(["--jitter", &options.jitter])
            .args(["--dead", &options.dead.to_string()])
            .args(["--seed", &options.seed.to_string(), "--trace"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "{}: {error}; build it with `cargo build --release -p dht-simulator`",
                    program.display()
                )
            });
        let input = child.stdin.take().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let first = read(&mut output);
        let bootstrap = first["bootstrap"].as_array().unwrap().iter();
        let bootstrap = bootstrap.map(|node| node.as_str().unwrap().parse().unwrap());
        Self {
            bootstrap: bootstrap.collect(),
            child,
            input,
            output,
        }
    }

    fn ask(&mut self, command: &Value) -> Value {
        writeln!(self.input, "{command}").unwrap();
        let answer = read(&mut self.output);
        assert!(answer.get("error").is_none(), "{answer}");
        answer
    }

    pub(super) fn store(&mut self, packets: &[SignedPacket]) {
        let items: Vec<Value> = packets.iter().map(item).collect();
        self.ask(&json!({ "store": items }));
    }

    pub(super) fn silence(&mut self) {
        self.ask(&json!({ "silent": true }));
    }

    /// The floors of the lookups since the last time.
    pub(super) fn floors(&mut self) -> Floors {
        let answer = self.ask(&json!("traces"));
        let traces = answer["traces"].as_array().unwrap();
        let floor = |trace: &Value| {
            let of = |field: &str| trace[field].as_str().unwrap().to_owned();
            let floor = trace["floor_first"].as_f64()?;
            Some(((of("client"), of("target")), floor))
        };
        traces.iter().filter_map(floor).collect()
    }

    /// The most messages that one of these sockets sent to one node in a second.
    pub(super) fn peak(&mut self, sockets: &[String]) -> u64 {
        let answer = self.ask(&json!("traffic"));
        let clients = answer["traffic"]["clients"].as_object().unwrap();
        let own = clients
            .iter()
            .filter(|(client, _)| sockets.contains(client));
        let peaks = own.map(|(_, client)| client["peak"].as_u64().unwrap());
        peaks.max().unwrap_or(0)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Beside this program's directory, where cargo puts it.
fn simulator() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let directory = own.parent().and_then(|deps| deps.parent()).unwrap();
    directory.join("dht-simulator")
}

fn read(output: &mut impl BufRead) -> Value {
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    serde_json::from_str(&line).expect("the simulator has ended")
}

fn item(packet: &SignedPacket) -> Value {
    json!({
        "key": hex(packet.key().as_bytes()),
        "signature": hex(packet.signature()),
        "seq": packet.seq(),
        "value": hex(packet.dns()),
    })
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
