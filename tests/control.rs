//! The control socket and the verbs that use it: `status`, `flush` and `explain`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic"
)]

mod common;

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::*;
use futures_util::future::BoxFuture;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::{Name, RData, RecordType};
use pkbridge::control::{
    BindFault, CacheUse, Cached, Control, ControlListener, Dht, Explanation, Flush, Flushed,
    Freshness, Instance, KeepAlive, LastLookup, Lookups, Packet, Relay, Request, Source, Status,
    Store, serve_control,
};
use pkbridge::pkarr::PublicKey;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{OnceCell, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Longest wait for anything; only a failing test waits that long.
const PATIENCE: Duration = Duration::from_secs(60);
const KEY: &str = "ppsczdihmrgi8ft4xhkfcn3x8uhkdmbrfroyocrhqggcmurb4xno";

/// Where the socket is in a test's directory.
fn socket_in(directory: &Directory) -> PathBuf {
    directory.join("control.sock")
}

/// A service that remembers what it was asked, and gives `status` only with a permit of its gate.
struct Fake {
    asked: Mutex<Vec<String>>,
    gate: Semaphore,
    /// Questions for `status` that are at the gate or past it.
    entered: watch::Sender<usize>,
}

impl Control for Fake {
    fn status(&self) -> BoxFuture<'_, Status> {
        Box::pin(async {
            self.entered.send_modify(|entered| *entered += 1);
            self.gate.acquire().await.unwrap().forget();
            status()
        })
    }

    fn flush(&self, what: Flush) -> BoxFuture<'_, Flushed> {
        let text = match what {
            Flush::All => "all".to_owned(),
            Flush::Key(key) => format!("key {key}"),
            Flush::Name(name) => format!("name {name}"),
        };
        self.asked.lock().unwrap().push(text);
        let flushed = Flushed {
            answers: 12,
            packets: 1,
        };
        Box::pin(std::future::ready(flushed))
    }

    fn explain(&self, name: Name) -> BoxFuture<'_, Explanation> {
        Box::pin(std::future::ready(explanation(name.to_string())))
    }
}

fn status() -> Status {
    let mib = 1 << 20;
    Status {
        version: "0.1.0".to_owned(),
        uptime_seconds: 3 * 86_400 + 61,
        listening: vec!["127.0.0.1:53".parse().unwrap(), "[::1]:53".parse().unwrap()],
        lost_queries: 6,
        upstreams: vec!["192.0.2.1:53".to_owned()],
        answers: CacheUse {
            entries: 1234,
            bytes: 2 * mib + mib / 2,
            max_bytes: 48 * mib,
        },
        packets: CacheUse {
            entries: 56,
            bytes: 31_000,
            max_bytes: 16 * mib,
        },
        store: Some(Store {
            state: "read-only".to_owned(),
            reason: Some("the disk is full".to_owned()),
            path: "/var/lib/pkbridge/packets".to_owned(),
            packets: 1,
            bytes: 512,
            max_bytes: 64 * mib,
            sequence_numbers: 2048,
            waiting: 3,
            salvaged: 0,
            dropped: 4,
        }),
        dht: Dht {
            instances: vec![
                Instance {
                    address: "0.0.0.0:6881".to_owned(),
                    joined: true,
                    nodes: 134,
                },
                Instance {
                    address: String::new(),
                    joined: false,
                    nodes: 0,
                },
            ],
            lookups: Lookups {
                found: 120,
                too_few_answers: 2,
                refused: 1,
                under_way: 5,
                ..Lookups::default()
            },
            answered_share: Some(0.867),
            refused_packets: [("wrong signature".to_owned(), 7)].into(),
        },
        relays: vec![
            Relay {
                url: "https://relay.example".to_owned(),
                answered: 3,
                failed: 0,
                last_error: None,
                pause_seconds: 0,
            },
            Relay {
                url: "http://127.0.0.1:6881".to_owned(),
                answered: 0,
                failed: 2,
                last_error: Some("HTTP status 500".to_owned()),
                pause_seconds: 2,
            },
        ],
        keep_alive: Some(KeepAlive {
            keys: 5,
            kept: 2,
            absent: 0,
            let_go: 1,
            failed: 1,
            last_put_seconds_ago: Some(720),
        }),
    }
}

const STATUS_TEXT: &str = "\
pkbridge     0.1.0, up 3d1m1s
listening    127.0.0.1:53
             [::1]:53
lost         6 queries that came faster than they could be read
upstreams    192.0.2.1:53
answers      1234, 2.5 MiB of 48.0 MiB
packets      56, 30.2 KiB of 16.0 MiB
store        read-only: the disk is full
             /var/lib/pkbridge/packets
             1 packet and 2048 sequence numbers without one, 512 B of 64.0 MiB
             3 waiting to be written
             4 dropped unwritten
DHT          joined at 0.0.0.0:6881, 134 nodes
             joining, 0 nodes
lookups      5 under way, 0 waiting
             120 found
             2 with too few answers
             1 refused: over a budget, or too many waiting
answered by  87 % of the nodes asked
bad packets  7 wrong signature
relays       https://relay.example: 3 answered, 0 failed
             http://127.0.0.1:6881: 0 answered, 2 failed, the last: HTTP status 500; asked again in 2s
keep-alive   5 keys: 2 put on the DHT again, 1 let go, 1 failed, 1 not yet; the last 12m ago
";

fn explanation(name: String) -> Explanation {
    Explanation {
        name,
        kind: "public-key name".to_owned(),
        key: Some(KEY.to_owned()),
        highest_seq: Some(1_798_761_599_000_000),
        packet: Some(Packet {
            seq: 1_798_761_599_000_000,
            signed_at: 1_798_761_599,
            source: Source::Dht,
            confirmed_seconds_ago: Some(40),
            holders: Some(18),
            older_holders: Some(2),
            bytes: 412,
            records: 3,
            state: Freshness::Provisional,
            fresh_left_seconds: 20,
            last_lookup: Some(LastLookup {
                outcome: "too few DHT nodes answered".to_owned(),
                seconds_ago: 4,
            }),
            next_lookup_seconds: Some(20),
        }),
        answers: vec![
            Cached {
                rtype: "A".to_owned(),
                rcode: "NOERROR".to_owned(),
                age_seconds: 40,
                left_seconds: 260,
                bytes: 128,
                extended_errors: Vec::new(),
            },
            Cached {
                rtype: "HTTPS".to_owned(),
                rcode: "SERVFAIL".to_owned(),
                age_seconds: 1,
                left_seconds: 4,
                bytes: 75,
                extended_errors: vec!["EDE 22: no \u{1b}answer".to_owned()],
            },
        ],
        next: "It is answered from the packet in memory.".to_owned(),
    }
}

const EXPLANATION_TEXT: &str = "\
kind         public-key name
key          ppsczdihmrgi8ft4xhkfcn3x8uhkdmbrfroyocrhqggcmurb4xno
packet       seq 1798761599000000, signed 2026-12-31 23:59:59 UTC
             3 records, 412 B, from the network
             provisional, for 20s: a newer one may follow
             confirmed 40s ago, held by 18 nodes, an older one by 2
             last lookup 4s ago: too few DHT nodes answered
answers      A      NOERROR   128 B, 40s old, 4m20s left
             HTTPS  SERVFAIL  75 B, 1s old, 4s left
                    EDE 22: no \\027answer
next         It is answered from the packet in memory.
";

/// A served control socket.
struct Running {
    directory: Directory,
    fake: Arc<Fake>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    /// With an open gate.
    fn start() -> Self {
        Self::with_permits(Semaphore::MAX_PERMITS)
    }

    fn with_permits(permits: usize) -> Self {
        let directory = Directory::new();
        let listener = ControlListener::bind(&socket_in(&directory)).unwrap();
        assert_eq!(listener.path(), socket_in(&directory));
        let fake = Arc::new(Fake {
            asked: Mutex::default(),
            gate: Semaphore::new(permits),
            entered: watch::Sender::new(0),
        });
        let stop = CancellationToken::new();
        let task = tokio::spawn(serve_control(listener, fake.clone(), stop.clone()));
        Self {
            directory,
            fake,
            stop,
            task,
        }
    }

    fn socket(&self) -> PathBuf {
        socket_in(&self.directory)
    }

    /// Connects and sends.
    async fn send(&self, bytes: &[u8]) -> UnixStream {
        let mut stream = UnixStream::connect(self.socket()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream
    }

    /// What comes for these bytes.
    async fn exchange(&self, bytes: &[u8]) -> Value {
        reply(self.send(bytes).await).await
    }

    /// Runs the program with this socket.
    async fn program(&self, arguments: &[&str]) -> Output {
        let socket = self.socket();
        program(&[arguments, &["--socket", socket.to_str().unwrap()]].concat()).await
    }
}

/// The one line that comes before the end.
async fn reply(mut stream: UnixStream) -> Value {
    let mut text = Vec::new();
    let mut part = [0; 4096];
    while !text.ends_with(b"\n") {
        let length = stream.read(&mut part).await.unwrap();
        assert_ne!(
            length,
            0,
            "closed after {:?}",
            String::from_utf8_lossy(&text)
        );
        text.extend_from_slice(&part[..length]);
    }
    serde_json::from_slice(&text).unwrap()
}

/// The text of an error reply.
fn error(reply: &Value) -> &str {
    reply["error"].as_str().unwrap_or_else(|| panic!("{reply}"))
}

async fn program(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pkbridge"));
    command.args(arguments).stdin(Stdio::null());
    let run = tokio::task::spawn_blocking(move || command.output().unwrap());
    timeout(PATIENCE, run).await.unwrap().unwrap()
}

#[track_caller]
fn assert_prints(output: &Output, expected: &str) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        expected,
        "{errors}"
    );
    assert_eq!(output.status.code(), Some(0), "{errors}");
}

/// It ends with `code`, nothing on standard output, and its one complaint.
#[track_caller]
fn complaint(output: &Output, code: i32) -> String {
    let errors = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{errors}");
    assert_eq!(output.stdout, b"", "{errors}");
    errors
}

#[tokio::test]
async fn status_is_shown_for_people_and_as_json() {
    let running = Running::start();
    assert_prints(&running.program(&["status"]).await, STATUS_TEXT);
    let output = running.program(&["status", "--json"]).await;
    assert_eq!(output.status.code(), Some(0));
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown, serde_json::to_value(status()).unwrap());
}

#[tokio::test]
async fn explain_is_shown_for_people_and_as_json() {
    let running = Running::start();
    let uri = format!("pk:{KEY}");
    for name in [KEY, &format!("{KEY}."), &uri, &format!("https://{KEY}/")] {
        let expected = format!("name         {KEY}.\n{EXPLANATION_TEXT}");
        assert_prints(&running.program(&["explain", name]).await, &expected);
    }
    let output = running.program(&["explain", "a/b.Example", "--json"]).await;
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout.is_ascii(), "nothing drives the terminal");
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        shown["answers"][1]["extended_errors"],
        json!(["EDE 22: no \u{1b}answer"])
    );
    assert_eq!(shown["packet"]["source"], "DHT");
    assert_eq!(shown["packet"]["state"], "provisional");
}

#[tokio::test]
async fn flush_takes_all_a_key_or_a_name() {
    let running = Running::start();
    for (what, asked) in [
        ("all", "all".to_owned()),
        ("all.", "name all.".to_owned()),
        (KEY, format!("key {KEY}")),
        (&format!("pk:{KEY}"), format!("key {KEY}")),
        (&format!("{KEY}."), format!("key {KEY}")),
        (
            &format!("www.{KEY}.pkarr"),
            format!("name www.{KEY}.pkarr."),
        ),
        ("example.com", "name example.com.".to_owned()),
    ] {
        let output = running.program(&["flush", what]).await;
        assert_prints(&output, "flushed 12 answers and 1 packet\n");
        assert_eq!(running.fake.asked.lock().unwrap().split_off(0), [asked]);
    }
    let output = running.program(&["flush", "all", "--json"]).await;
    assert_prints(&output, "{\"answers\":12,\"packets\":1}\n");
}

#[tokio::test]
async fn the_socket_of_the_configuration_is_used() {
    let running = Running::start();
    let file = running.directory.0.join("config.toml");
    let config = file.to_str().unwrap();
    let write = |text: String| std::fs::write(&file, text).unwrap();

    write(format!("control.socket = {:?}", running.socket()));
    let output = program(&["flush", "all", "--config", config]).await;
    assert_prints(&output, "flushed 12 answers and 1 packet\n");

    write("control.socket = \"\"".to_owned());
    let output = program(&["status", "--config", config]).await;
    assert!(complaint(&output, 1).contains("has no control socket"));

    write("control.socket = 5".to_owned());
    let output = program(&["status", "--config", config]).await;
    assert!(complaint(&output, 78).contains("[control].socket"));

    let both = running.program(&["status", "--config", config]).await;
    assert!(complaint(&both, 2).contains("--config"));
}

#[tokio::test]
async fn wrong_arguments_are_usage_errors() {
    let second_spelling = format!("{}9", &KEY[..51]);
    let cases: [(&[&str], &str); 8] = [
        (&["status", "extra"], "extra"),
        (&["flush"], "all|NAME|KEY"),
        (&["flush", "a..b"], "labels of 1 to 63"),
        (&["flush", &second_spelling], "canonical"),
        (&["explain"], "<NAME>"),
        (&["explain", ""], "labels of 1 to 63"),
        (&["explain", "a b"], "cannot contain"),
        (&["explain", "pk:"], "labels of 1 to 63"),
    ];
    for (arguments, about) in cases {
        let told = complaint(&program(arguments).await, 2);
        assert!(told.contains(about), "{arguments:?}: {told}");
    }
}

#[tokio::test]
async fn without_a_service_each_verb_says_where_it_looked() {
    let directory = Directory::new();
    let socket = socket_in(&directory);
    let path = socket.to_str().unwrap();
    let verbs: [&[&str]; 3] = [&["status"], &["flush", "all"], &["explain", "a.example"]];
    for verb in verbs {
        let told = complaint(&program(&[verb, &["--socket", path]].concat()).await, 1);
        assert!(
            told.contains(path) && told.contains("does the service run"),
            "{told}"
        );
    }
    // What an abrupt end leaves behind.
    drop(StdUnixListener::bind(&socket).unwrap());
    let told = complaint(&program(&["status", "--socket", path]).await, 1);
    assert!(
        told.contains(path) && told.contains("does not run"),
        "{told}"
    );
}

#[tokio::test]
async fn what_is_no_service_of_ours_is_not_believed() {
    let directory = Directory::new();
    let listener = StdUnixListener::bind(socket_in(&directory)).unwrap();
    let socket = socket_in(&directory);
    let path = socket.to_str().unwrap();
    for (line, about) in [
        ("", "a whole reply"),
        ("220 mail\r\n", "a whole reply"),
        ("{\"ok\":{\"answers\":1", "a whole reply"),
        ("{\"ok\":{\"answers\":1}}\n", "missing field `packets`"),
        ("{\"error\":\"not\\u001b now\"}\n", "says: not\\027 now"),
    ] {
        let listener = listener.try_clone().unwrap();
        let other = std::thread::spawn(move || {
            use std::io::{BufRead, Write};
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = String::new();
            let mut reader = std::io::BufReader::new(stream.try_clone().unwrap());
            reader.read_line(&mut request).unwrap();
            stream.write_all(line.as_bytes()).unwrap();
            request
        });
        let told = complaint(&program(&["flush", "all", "--socket", path]).await, 1);
        assert!(told.contains(about), "{told}");
        let request = other.join().unwrap();
        assert_eq!(request, "{\"verb\":\"flush\",\"what\":\"all\"}\n");
    }
}

#[tokio::test]
async fn the_help_lists_the_verbs() {
    let output = program(&["--help"]).await;
    let help = String::from_utf8(output.stdout).unwrap();
    for verb in ["status", "flush", "explain"] {
        let listed = |line: &str| line.trim_start().starts_with(verb);
        assert!(help.lines().any(listed), "{verb}: {help}");
    }
}

#[tokio::test]
async fn what_is_no_request_gets_an_error() {
    let running = Running::start();
    for (line, about) in [
        ("\n", "not a request"),
        ("GET / HTTP/1.1\r\n\r\n", "not a request"),
        ("\u{0}\u{ff}\n", "not a request"),
        ("{\"verb\":\"dance\"}\n", "unknown variant `dance`"),
        (
            "{\"verb\":\"status\",\"verbose\":true}\n",
            "unknown field `verbose`",
        ),
        (
            "{\"verb\":\"explain\",\"name\":\"a..b\"}\n",
            "labels of 1 to 63",
        ),
    ] {
        let reply = running.exchange(line.as_bytes()).await;
        assert!(error(&reply).contains(about), "{line}: {reply}");
    }
    // It still serves.
    let reply = running.exchange(b"{\"verb\":\"status\"}\n").await;
    assert_eq!(reply["ok"]["version"], "0.1.0");
}

#[tokio::test]
async fn a_request_of_1024_bytes_is_read_and_a_longer_one_refused() {
    let running = Running::start();
    // JSON lets blanks stand between its parts.
    let request = |length: usize| {
        let blanks = " ".repeat(length - "{\"verb\":\"status\"}\n".len());
        format!("{{{blanks}\"verb\":\"status\"}}\n")
    };
    let reply = running.exchange(request(1024).as_bytes()).await;
    assert_eq!(reply["ok"]["version"], "0.1.0");
    for length in [1025, 20_000] {
        let reply = running.exchange(request(length).as_bytes()).await;
        assert_eq!(error(&reply), "a request has at most 1024 bytes");
    }
}

#[tokio::test]
async fn a_line_that_ends_with_the_connection_is_a_request_and_nothing_is_none() {
    let running = Running::start();
    let mut stream = running.send(b"{\"verb\":\"status\"}").await;
    stream.shutdown().await.unwrap();
    assert_eq!(reply(stream).await["ok"]["version"], "0.1.0");

    let mut silent = running.send(b"").await;
    silent.shutdown().await.unwrap();
    let mut text = String::new();
    silent.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "");
}

#[tokio::test(start_paused = true)]
async fn a_request_has_five_seconds_to_come() {
    let running = Running::start();
    let started = Instant::now();
    let reply = running.exchange(b"{\"verb\":").await;
    assert_eq!(error(&reply), "the request did not come within 5 s");
    assert_eq!(started.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn an_answer_has_ten_seconds_to_come() {
    let running = Running::with_permits(0);
    let reply = running.exchange(b"{\"verb\":\"status\"}\n").await;
    assert_eq!(error(&reply), "no answer within 10 s");
}

/// Lets everything happen that can: with paused time, a sleep ends when nothing else is left to do but
/// to look at the sockets.
async fn settle() {
    for _ in 0..20 {
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn eight_are_served_at_once_and_the_others_wait() {
    let running = Running::with_permits(0);
    let mut streams = Vec::new();
    for _ in 0..9 {
        streams.push(running.send(b"{\"verb\":\"status\"}\n").await);
    }
    settle().await;
    assert_eq!(*running.fake.entered.borrow(), 8);
    running.fake.gate.add_permits(1);
    settle().await;
    assert_eq!(*running.fake.entered.borrow(), 9);
    running.fake.gate.add_permits(8);
    for stream in streams {
        assert_eq!(reply(stream).await["ok"]["version"], "0.1.0");
    }
}

#[tokio::test]
async fn only_the_owner_and_the_group_may_connect_and_the_file_goes_at_stop() {
    let running = Running::start();
    let mode = std::fs::metadata(running.socket())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o660);
    running.stop.cancel();
    running.task.await.unwrap();
    let left = std::fs::read_dir(&running.directory.0).unwrap().count();
    assert_eq!(left, 0);
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_nobody() {
    let running = Running::with_permits(0);
    let mut stream = running.send(b"{\"verb\":\"status\"}\n").await;
    let mut entered = running.fake.entered.subscribe();
    entered.wait_for(|entered| *entered == 1).await.unwrap();
    running.stop.cancel();
    running.task.await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "");
}

#[track_caller]
fn refusal(path: &Path) -> (BindFault, String) {
    let error = ControlListener::bind(path).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(path.to_str().unwrap()), "{text}");
    assert!(
        ControlListener::open(path).is_none(),
        "the service goes on without"
    );
    (error.fault, text)
}

#[tokio::test]
async fn the_socket_of_a_dead_process_is_replaced() {
    let directory = Directory::new();
    drop(StdUnixListener::bind(socket_in(&directory)).unwrap());
    assert!(socket_in(&directory).exists());
    let listener = ControlListener::bind(&socket_in(&directory)).unwrap();
    UnixStream::connect(socket_in(&directory)).await.unwrap();
    drop(listener);
    assert!(!socket_in(&directory).exists());
}

#[tokio::test]
async fn the_socket_of_a_live_process_is_left_alone() {
    let running = Running::start();
    let (fault, text) = refusal(&running.socket());
    assert!(matches!(fault, BindFault::InUse), "{fault:?}");
    assert!(text.contains("another process listens there"), "{text}");
    // Nor is one taken for dead that is too busy to accept.
    let directory = Directory::new();
    let busy = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    let address = socket2::SockAddr::unix(socket_in(&directory)).unwrap();
    busy.bind(&address).unwrap();
    busy.listen(0).unwrap();
    let _fills_the_backlog = UnixStream::connect(socket_in(&directory)).await.unwrap();
    assert!(matches!(
        refusal(&socket_in(&directory)).0,
        BindFault::InUse
    ));

    let reply = running.exchange(b"{\"verb\":\"status\"}\n").await;
    assert_eq!(reply["ok"]["version"], "0.1.0");
}

#[tokio::test]
async fn what_is_no_socket_is_left_alone() {
    let directory = Directory::new();
    std::fs::write(socket_in(&directory), "precious").unwrap();
    let (fault, text) = refusal(&socket_in(&directory));
    assert!(matches!(fault, BindFault::NotASocket), "{fault:?}");
    assert!(text.contains("remove it"), "{text}");
    let text = std::fs::read_to_string(socket_in(&directory)).unwrap();
    assert_eq!(text, "precious");
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_told_with_the_remedy() {
    let directory = Directory::new();
    for path in [
        directory.0.join("none/control.sock"),
        PathBuf::from("/proc/version/control.sock"),
    ] {
        let (fault, text) = refusal(&path);
        assert!(matches!(fault, BindFault::NoDirectory), "{fault:?}");
        assert!(text.contains("make it, or set [control] socket"), "{text}");
    }
    let (fault, _) = refusal(&directory.0.join("s".repeat(200)));
    assert!(matches!(fault, BindFault::System(_)), "{fault:?}");
}

#[tokio::test]
async fn a_file_that_another_process_put_in_its_place_is_not_removed() {
    let directory = Directory::new();
    let listener = ControlListener::bind(&socket_in(&directory)).unwrap();
    std::fs::remove_file(socket_in(&directory)).unwrap();
    let _other = StdUnixListener::bind(socket_in(&directory)).unwrap();
    drop(listener);
    assert!(socket_in(&directory).exists());
}

// The running program, as an operator meets it.

/// A `seq`: the 14th of November 2023, 22:13:20 UTC.
const SEQ: u64 = 1_700_000_000_000_000;

/// `pkbridge serve`, killed with the test. What it writes is in `log` of its directory.
struct Service {
    directory: Directory,
    socket: PathBuf,
    child: Child,
    address: SocketAddr,
}

/// What differs between the configurations here.
#[derive(Default)]
struct Settings<'a> {
    bootstrap: &'a [String],
    upstreams: Vec<SocketAddr>,
    has_state: bool,
    /// More lines of `[dht]`, `[cache]` and `[names]`.
    dht: &'a str,
    cache: &'a str,
    names: &'a str,
}

impl Service {
    async fn start(settings: &Settings<'_>) -> Self {
        let directory = Directory::new();
        let socket = socket_in(&directory);
        write_config(&directory, &socket, settings);
        let child = spawn(&directory);
        let mut service = Self {
            directory,
            socket,
            child,
            address: ([127, 0, 0, 1], 0).into(),
        };
        service.listens().await;
        service
    }

    /// Waits until the control socket answers, and learns the address of the DNS socket.
    async fn listens(&mut self) {
        until("the control socket answers", async || {
            let request = Request::Status;
            pkbridge::control::ask(&self.socket, &request).await.is_ok()
        })
        .await;
        self.address = self.status().await.listening[0];
    }

    fn signal(&self, signal: &str) {
        let mut kill = Command::new("kill");
        kill.arg(format!("-{signal}"))
            .arg(self.child.id().to_string());
        assert!(kill.status().unwrap().success());
    }

    /// Ends it by a signal and waits for the end.
    fn end(&mut self, signal: &str) {
        self.signal(signal);
        self.child.wait().unwrap();
    }

    /// What a verb prints.
    async fn says(&self, arguments: &[&str]) -> String {
        let socket = self.socket.to_str().unwrap();
        let output = program(&[arguments, &["--socket", socket]].concat()).await;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A report, as JSON has it.
    async fn report<R: serde::de::DeserializeOwned>(&self, arguments: &[&str]) -> R {
        let text = self.says(&[arguments, &["--json"]].concat()).await;
        serde_json::from_str(&text).unwrap()
    }

    async fn status(&self) -> Status {
        self.report(&["status"]).await
    }

    async fn explain(&self, name: &str) -> Explanation {
        self.report(&["explain", name]).await
    }

    async fn ask(&self, name: &str, rtype: RecordType) -> Message {
        ask(self.address, name, rtype).await
    }

    /// The lookups so far that found a packet, once none is under way.
    async fn found(&self) -> u64 {
        until("no lookup is under way", async || {
            let lookups = self.status().await.dht.lookups;
            lookups.under_way == 0 && lookups.waiting == 0
        })
        .await;
        self.status().await.dht.lookups.found
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write_config(directory: &Directory, socket: &Path, settings: &Settings<'_>) {
    let nobody = ["127.0.0.1:9".to_owned()];
    let bootstrap = match settings.bootstrap {
        [] => &nobody,
        bootstrap => bootstrap,
    };
    let state = directory.0.join("state");
    let state = if settings.has_state {
        std::fs::create_dir_all(&state).unwrap();
        state.to_str().unwrap()
    } else {
        ""
    };
    let mut upstreams: Vec<_> = settings.upstreams.iter().map(ToString::to_string).collect();
    if upstreams.is_empty() {
        // Without any, those of the system would be used.
        upstreams = nobody.to_vec();
    }
    let Settings {
        dht, cache, names, ..
    } = settings;
    let text = format!(
        "listen.addresses = [\"127.0.0.1:0\"]\n\
         upstream.servers = {upstreams:?}\n\
         state.directory = {state:?}\n\
         control.socket = {socket:?}\n\
         [dht]\nbootstrap = {bootstrap:?}\nbind-address = \"127.0.0.1\"\n{dht}\n\
         [cache]\n{cache}\n\
         [names]\n{names}\n"
    );
    std::fs::write(directory.0.join("config.toml"), text).unwrap();
}

fn spawn(directory: &Directory) -> Child {
    let log = directory.0.join("log");
    let log = File::options().create(true).append(true).open(log).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pkbridge"));
    command
        .args(["serve", "--config"])
        .arg(directory.0.join("config.toml"))
        .env_remove("NOTIFY_SOCKET")
        .env_remove("LISTEN_FDS")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    command.spawn().unwrap()
}

/// One DHT for all tests, as it takes long to start. Each test has keys of its own on it.
async fn dht() -> &'static TestDht {
    // More nodes than the services of these tests have, which are silent once they have stopped.
    static DHT: OnceCell<TestDht> = OnceCell::const_new();
    DHT.get_or_init(|| TestDht::start(30)).await
}

/// Publishes a TXT record at a key.
async fn publish(dht: &TestDht, number: u8, seq: u64, ttl: u32) -> PublicKey {
    let secret = secret(number);
    let key = key_of(&secret);
    let text = RData::TXT(TXT::new(vec![seq.to_string()]));
    dht.publish(&sign(&secret, seq, vec![(below(key, ""), ttl, text)]))
        .await;
    key
}

#[tokio::test]
async fn the_status_of_a_service_with_nobody_around_it() {
    let service = Service::start(&Settings::default()).await;
    let text = service.says(&["status"]).await;
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("pkbridge     0.1.0, up "), "{text}");
    let head = [
        format!("listening    {}", service.address),
        "upstreams    127.0.0.1:9".to_owned(),
        "answers      0, 0 B of 48.0 MiB".to_owned(),
        "packets      0, 0 B of 16.0 MiB".to_owned(),
        "store        none".to_owned(),
    ];
    assert_eq!(lines[1..6], head, "{text}");
    assert!(lines[6].starts_with("DHT          joining"), "{text}");
    assert_eq!(lines[10], "lookups      0 under way, 0 waiting", "{text}");
    assert_eq!(lines.len(), 11, "{text}");

    let status = service.status().await;
    assert_eq!(status.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(status.store, None);
    assert_eq!(status.dht.instances.len(), 4);
    let joined = |instance: &Instance| instance.joined || instance.nodes > 0;
    assert!(!status.dht.instances.iter().any(joined), "{status:?}");
    assert_eq!(status.dht.lookups, Lookups::default());
    assert_eq!(status.dht.answered_share, None);
}

#[tokio::test]
async fn the_status_counts_lookups_caches_and_what_is_on_disk() {
    let dht = dht().await;
    let key = publish(dht, 1, SEQ, 300).await.to_string();
    let unpublished = key_of(&secret(2)).to_string();
    let upstream = Upstream::plain(300).await;
    let service = Service::start(&Settings {
        bootstrap: &dht.testnet.bootstrap,
        upstreams: vec![upstream.address],
        has_state: true,
        ..Settings::default()
    })
    .await;
    assert_eq!(
        rcode(&service.ask(&key, RecordType::TXT).await),
        ResponseCode::NoError
    );
    assert_eq!(
        rcode(&service.ask(&unpublished, RecordType::A).await),
        ResponseCode::NXDomain
    );
    service.ask("www.example.com", RecordType::A).await;
    assert_eq!(service.found().await, 1);
    until("the packet is on disk", async || {
        let store = service.status().await.store.unwrap();
        store.packets == 1 && store.waiting == 0
    })
    .await;

    let status = service.status().await;
    assert_eq!(status.dht.lookups.absent, 1);
    assert!(status.dht.instances.iter().any(|instance| instance.joined));
    assert_eq!(status.packets.entries, 1);
    assert!(status.packets.bytes > 0 && status.answers.bytes > 0);
    assert_eq!(status.upstreams, [upstream.address.to_string()]);
    let store = status.store.unwrap();
    assert_eq!((store.state.as_str(), &store.reason), ("ready", &None));
    let state = service.directory.0.join("state");
    assert_eq!(Path::new(&store.path), state);
    let text = service.says(&["status"]).await;
    for line in [
        "store        ready\n".to_owned(),
        format!("             {}\n", state.display()),
        "             1 packet, ".to_owned(),
        "lookups      0 under way, 0 waiting\n             1 found\n             1 absent\n"
            .to_owned(),
    ] {
        assert!(text.contains(&line), "{line}: {text}");
    }
}

#[tokio::test]
async fn explain_tells_what_becomes_of_each_kind_of_name() {
    let upstream = Upstream::plain(300).await;
    let service = Service::start(&Settings {
        upstreams: vec![upstream.address],
        ..Settings::default()
    })
    .await;
    let key = key_of(&secret(3)).to_string();
    let weak = "y".repeat(52);
    let nxdomain = "NXDOMAIN, without asking anybody";
    let here = "answered here, without asking anybody";
    for (name, kind, next) in [
        (
            format!("{key}.lan"),
            "public-key name with a search domain",
            nxdomain.to_owned(),
        ),
        (
            format!("{weak}.lan"),
            "public-key name with a search domain",
            nxdomain.to_owned(),
        ),
        (
            weak,
            "not a public key",
            format!("{nxdomain}: a weak key, for which anybody can sign"),
        ),
        ("pkarr".to_owned(), "suffix", here.to_owned()),
        (
            "www.pkarr".to_owned(),
            "under a suffix",
            nxdomain.to_owned(),
        ),
        ("printer.local".to_owned(), "special-use", here.to_owned()),
        (
            "Www.Example.com".to_owned(),
            "forwarded",
            "forwarded".to_owned(),
        ),
    ] {
        let shown = name.to_lowercase();
        let expected = format!(
            "name         {shown}.\nkind         {kind}\nanswers      none cached\nnext         {next}\n"
        );
        assert_eq!(service.says(&["explain", &name]).await, expected);
    }
    let expected = format!(
        "name         www.{key}.pkarr.\nkind         public-key name\nkey          {key}\n\
         packet       none known\nanswers      none cached\nnext         looked for in the DHT\n"
    );
    assert_eq!(
        service
            .says(&["explain", &format!("www.{key}.pkarr")])
            .await,
        expected
    );

    service.ask("www.example.com", RecordType::A).await;
    service.ask("printer.local", RecordType::A).await;
    let forwarded = service.explain("WWW.example.com").await;
    assert_eq!(
        forwarded.next,
        "cached types are answered from the cache, others forwarded"
    );
    assert_eq!(forwarded.answers.len(), 1);
    let answer = &forwarded.answers[0];
    assert_eq!(
        (answer.rtype.as_str(), answer.rcode.as_str()),
        ("A", "NOERROR")
    );
    assert!((1..=300).contains(&answer.left_seconds), "{answer:?}");
    let special = service.explain("printer.local").await;
    assert_eq!(special.answers[0].rcode, "NXDOMAIN");
    assert_eq!(upstream.names(), ["www.example.com."]);
}

#[tokio::test]
async fn explain_follows_search_domains_if_they_are_answered() {
    let service = Service::start(&Settings {
        names: "search-domains = \"answer\"",
        ..Settings::default()
    })
    .await;
    let key = key_of(&secret(4)).to_string();
    let explained = service.explain(&format!("www.{key}.home.lan")).await;
    assert_eq!(explained.key, Some(key));
    assert_eq!(explained.next, "looked for in the DHT");
    let weak = format!("{}.lan", "y".repeat(52));
    let explained = service.explain(&weak).await;
    assert_eq!(explained.key, None);
    assert_eq!(explained.next, "NXDOMAIN, without asking anybody");
}

#[tokio::test]
async fn explain_tells_of_a_packet_and_of_an_absence() {
    let dht = dht().await;
    let key = publish(dht, 5, SEQ, 3600).await.to_string();
    let unpublished = key_of(&secret(6)).to_string();
    let service = Service::start(&Settings {
        bootstrap: &dht.testnet.bootstrap,
        ..Settings::default()
    })
    .await;
    service.ask(&key, RecordType::TXT).await;
    service.found().await;
    // The first answer was made while the lookup went on; these are made at its end.
    service.ask(&key, RecordType::TXT).await;
    service.ask(&key, RecordType::A).await;
    let explained = service.explain(&key).await;
    let packet = explained.packet.expect("a packet");
    assert_eq!((packet.seq, packet.signed_at), (SEQ, SEQ / 1_000_000));
    assert_eq!(
        (packet.source, packet.state),
        (Source::Dht, Freshness::Fresh)
    );
    assert_eq!(packet.records, 1);
    assert!(packet.holders.is_some_and(|holders| holders > 0));
    assert_eq!(packet.older_holders, Some(0));
    assert!((3000..=3600).contains(&packet.fresh_left_seconds));
    assert!((2000..=2880).contains(&packet.next_lookup_seconds.unwrap()));
    assert_eq!(packet.last_lookup.unwrap().outcome, "found");
    assert_eq!(explained.highest_seq, Some(SEQ));
    let types: Vec<_> = explained
        .answers
        .iter()
        .map(|answer| &answer.rtype)
        .collect();
    assert_eq!(types, ["A", "TXT"]);
    let text = service.says(&["explain", &key]).await;
    for part in [
        "packet       seq 1700000000000000, signed 2023-11-14 22:13:20 UTC\n             1 record, ",
        " B, from the network\n             fresh for ",
        " ago, held by ",
        "answers      A    NOERROR  ",
        "\n             TXT  NOERROR  ",
        "\nnext         answered from the packet; a newer one is looked for in ",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    for part in ["highest seq", "last lookup"] {
        assert!(!text.contains(part), "{part}: {text}");
    }

    service.ask(&unpublished, RecordType::A).await;
    let absent = service.explain(&unpublished).await;
    assert!(
        absent
            .next
            .starts_with("NXDOMAIN: nobody has the key; it is looked for again in "),
        "{}",
        absent.next
    );
    assert_eq!((absent.packet, absent.highest_seq), (None, None));
    assert_eq!(absent.answers[0].rcode, "NXDOMAIN");
    let ede = format!("EDE 0: nobody on the DHT has a packet of this key: {unpublished}");
    assert_eq!(absent.answers[0].extended_errors, [ede]);
}

#[tokio::test]
async fn explain_tells_whether_a_packet_past_its_time_is_served() {
    let dht = dht().await;
    let key = publish(dht, 7, SEQ, 0).await.to_string();
    for (cache, state, next) in [
        (
            "",
            Freshness::Stale,
            "answered from the stale packet; a newer one is looked for meanwhile",
        ),
        (
            "stale-wait = \"1s\"",
            Freshness::Stale,
            "answered from a newer packet if one is found within 1s, else from the stale one",
        ),
        (
            "max-stale = \"0s\"",
            Freshness::Expired,
            "looked for in the DHT",
        ),
    ] {
        let service = Service::start(&Settings {
            bootstrap: &dht.testnet.bootstrap,
            dht: "packet-min-ttl = \"0s\"",
            cache,
            ..Settings::default()
        })
        .await;
        service.ask(&key, RecordType::TXT).await;
        service.found().await;
        let explained = service.explain(&key).await;
        let packet = explained.packet.expect("a packet");
        assert_eq!(packet.state, state, "{cache}");
        assert_eq!(packet.fresh_left_seconds, 0);
        assert_eq!(packet.next_lookup_seconds, Some(0));
        assert_eq!(explained.next, next);
    }
}

#[tokio::test]
async fn what_is_flushed_is_looked_up_again_and_nothing_else() {
    let dht = dht().await;
    let key = publish(dht, 8, SEQ, 3600).await.to_string();
    let upstream = Upstream::plain(3600).await;
    let service = Service::start(&Settings {
        bootstrap: &dht.testnet.bootstrap,
        upstreams: vec![upstream.address],
        ..Settings::default()
    })
    .await;
    // The lookups and forwarded questions so far, after questions for all that is cached.
    let asked = async || {
        for name in [
            &key,
            &format!("{key}.pkarr"),
            "www.example.com",
            "mail.example.com",
        ] {
            let rtype = if name.starts_with(&key) {
                RecordType::TXT
            } else {
                RecordType::A
            };
            assert_eq!(
                rcode(&service.ask(name, rtype).await),
                ResponseCode::NoError
            );
            service.found().await;
        }
        (service.found().await, upstream.count())
    };
    asked().await;
    assert_eq!(asked().await, (1, 2));
    assert_eq!(
        service.says(&["flush", &key]).await,
        "flushed 2 answers and 1 packet\n"
    );
    assert_eq!(asked().await, (2, 2));
    assert_eq!(asked().await, (2, 2));
    let below = format!("any.{key}.PKARR");
    assert_eq!(
        service.says(&["flush", &below]).await,
        "flushed 2 answers and 1 packet\n"
    );
    assert_eq!(asked().await, (3, 2));
    assert_eq!(
        service.says(&["flush", "WWW.example.com"]).await,
        "flushed 1 answer and 0 packets\n"
    );
    assert_eq!(asked().await, (3, 3));
    assert_eq!(
        service.says(&["flush", "example.com"]).await,
        "flushed 0 answers and 0 packets\n"
    );
    assert_eq!(asked().await, (3, 3));
    assert_eq!(
        service.says(&["flush", "all"]).await,
        "flushed 4 answers and 1 packet\n"
    );
    assert_eq!(asked().await, (4, 5));
}

#[tokio::test]
async fn an_older_packet_is_refused_after_a_flush_and_explain_says_why() {
    let (newer, older) = (dht().await, TestDht::start(10).await);
    let key = publish(newer, 9, SEQ, 3600).await.to_string();
    publish(&older, 9, SEQ - 1_000_000, 3600).await;
    let settings = Settings {
        bootstrap: &newer.testnet.bootstrap,
        has_state: true,
        ..Settings::default()
    };
    let service = Service::start(&settings).await;
    service.ask(&key, RecordType::TXT).await;
    assert_eq!(service.found().await, 1);

    let settings = Settings {
        bootstrap: &older.testnet.bootstrap,
        ..settings
    };
    write_config(&service.directory, &service.socket, &settings);
    service.signal("HUP");
    until("the other DHT is used", async || {
        service.status().await.dht.lookups.found == 0
    })
    .await;
    service.says(&["flush", "all"]).await;
    let reply = service.ask(&key, RecordType::TXT).await;
    assert_eq!(rcode(&reply), ResponseCode::ServFail, "{reply}");
    assert_eq!(ede(&reply).map(|(code, _)| code), Some(24));
    service.found().await;

    let explained = service.explain(&key).await;
    assert_eq!((explained.packet, explained.highest_seq), (None, Some(SEQ)));
    let text = service.says(&["explain", &key]).await;
    for part in [
        "packet       none known\nhighest seq  1700000000000000: older packets are refused\n",
        "EDE 24: only packets older than seq 1700000000000000, which was seen before, were found\n",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let refused = service.status().await.dht.refused_packets;
    assert_eq!(refused["older than one seen before"], 1);
}

#[tokio::test]
async fn after_an_abrupt_end_the_next_start_takes_the_socket_and_knows_the_packets() {
    let dht = dht().await;
    let key = publish(dht, 10, SEQ, 3600).await.to_string();
    let mut settings = Settings {
        bootstrap: &dht.testnet.bootstrap,
        has_state: true,
        ..Settings::default()
    };
    let mut service = Service::start(&settings).await;
    service.ask(&key, RecordType::TXT).await;
    let stored = async |service: &Service| {
        let store = service.status().await.store.unwrap();
        store.packets == 1 && store.waiting == 0
    };
    until("the packet is on disk", async || stored(&service).await).await;
    service.end("KILL");
    assert!(service.socket.exists(), "an abrupt end leaves the file");

    settings.bootstrap = &[];
    write_config(&service.directory, &service.socket, &settings);
    service.child = spawn(&service.directory);
    service.listens().await;
    until("the store is open", async || stored(&service).await).await;
    let packet = service.explain(&key).await.packet.expect("the packet");
    assert_eq!(
        (packet.source, packet.state),
        (Source::Disk, Freshness::Stale)
    );
    assert_eq!(packet.confirmed_seconds_ago, None);
    let text = service.says(&["explain", &key]).await;
    assert!(text.contains("from disk\n"), "{text}");
    // Counted though it was never asked for.
    assert_eq!(
        service.says(&["flush", &key]).await,
        "flushed 0 answers and 1 packet\n"
    );
    until("the store has forgotten it", async || {
        service.status().await.store.unwrap().packets == 0
    })
    .await;
    let explained = service.explain(&key).await;
    assert_eq!((explained.packet, explained.highest_seq), (None, Some(SEQ)));
    service.end("TERM");
    assert!(!service.socket.exists(), "the file goes with the service");
}

#[tokio::test]
async fn a_reload_moves_the_socket_and_takes_it_away() {
    let settings = Settings::default();
    let mut service = Service::start(&settings).await;
    let before = std::mem::replace(&mut service.socket, service.directory.0.join("moved.sock"));
    write_config(&service.directory, &service.socket, &settings);
    service.signal("HUP");
    service.listens().await;
    until("the old one is gone", async || !before.exists()).await;

    let none = Path::new("");
    write_config(&service.directory, none, &settings);
    service.signal("HUP");
    until("there is none", async || !service.socket.exists()).await;
    let moved = service.socket.to_str().unwrap();
    let told = complaint(&program(&["status", "--socket", moved]).await, 1);
    assert!(told.contains("does the service run"), "{told}");
}
