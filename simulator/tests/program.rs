//! The program, as a benchmark drives it.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

struct Program {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Program {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_dht-simulator"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            input,
            output,
        }
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn obey(&mut self, command: &str) -> Value {
        writeln!(self.input, "{command}").unwrap();
        self.line()
    }
}

#[test]
fn the_program_tells_its_bootstrap_nodes_obeys_line_by_line_and_ends_with_its_input() {
    let arguments = [
        "--nodes", "50", "--rtt", "1ms", "--dead", "0.2", "--seed", "1", "--trace",
    ];
    let mut program = Program::start(&arguments);
    let bootstrap = program.line();
    let nodes = bootstrap["bootstrap"].as_array().unwrap();
    assert!(!nodes.is_empty());
    for node in nodes {
        assert!(node.as_str().unwrap().starts_with("127."), "{node}");
    }
    let (key, signature) = ("ab".repeat(32), "cd".repeat(64));
    let item = |seq: i64, ranks: Option<&[u8]>| json!({"key": key, "signature": signature, "seq": seq, "value": "00ff", "ranks": ranks});
    let one = json!({ "store": item(1, None) }).to_string();
    assert_eq!(program.obey(&one), json!({ "stored": 20 }));
    let many = json!({ "store": [item(2, Some(&[0, 1, 2])), item(3, Some(&[2]))] });
    assert_eq!(program.obey(&many.to_string()), json!({ "stored": 4 }));
    let holders = json!({ "holders": key }).to_string();
    let expected = json!({ "holders": { "1": 17, "2": 2, "3": 1 } });
    assert_eq!(program.obey(&holders), expected);
    for silent in [true, false] {
        let command = json!({ "silent": silent });
        assert_eq!(program.obey(&command.to_string()), command);
    }
    assert_eq!(program.obey("\"traces\""), json!({ "traces": [] }));
    let traffic = program.obey("\"traffic\"");
    assert_eq!(traffic["traffic"]["received"]["total"], json!(0));
    for wrong in ["", "stop", "{\"silent\":1}", "{\"holders\":\"ab\"}"] {
        assert!(program.obey(wrong)["error"].is_string(), "{wrong}");
    }
    drop(program.input);
    assert!(program.child.wait().unwrap().success());
}

#[test]
fn settings_that_make_no_network_end_the_program_with_an_error() {
    let output = Command::new(env!("CARGO_BIN_EXE_dht-simulator"))
        .args(["--dead", "2"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("dead is a share"), "{said}");
}
