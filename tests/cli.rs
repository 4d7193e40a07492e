//! The real program: its verbs, exit codes, signals, logs and messages to systemd.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic"
)]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use serde_json::Value;

/// The longest wait for anything: a bound for a test that fails, not a measure for one that passes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Nothing of this leaves the host: all servers are closed ports on loopback.
const CONFIGURATION: &str = r#"
[listen]
addresses = ["127.0.0.1:0"]
[upstream]
servers = ["127.0.0.1:9"]
timeout = "300ms"
[dht]
bootstrap = ["127.0.0.1:9"]
bind-address = "127.0.0.1"
lookup-timeout = "300ms"
[state]
directory = ""
[control]
socket = ""
"#;

/// A running program with the lines that it writes. It is ended with the test, also by a panic.
struct Program {
    child: Child,
    output: Lines,
    errors: Lines,
}

/// The lines of a stream, read on a thread so that the writer never waits.
struct Lines {
    coming: Receiver<String>,
    seen: Vec<String>,
}

/// What is left of a program that has ended.
struct Ended {
    code: Option<i32>,
    output: String,
    errors: String,
}

impl Lines {
    fn read(stream: impl Read + Send + 'static) -> Self {
        let (sender, coming) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let seen = Vec::new();
        Self { coming, seen }
    }

    /// The next line; `None` at the end.
    fn next(&mut self) -> Option<String> {
        match self.coming.recv_timeout(PATIENCE) {
            Ok(line) => {
                self.seen.push(line.clone());
                Some(line)
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("nothing more after\n{}", self.text()),
        }
    }

    /// The next line that contains `text`.
    fn wait_for(&mut self, text: &str) -> String {
        self.wait_for_any(&[text])
    }

    /// The next line that contains one of these.
    fn wait_for_any(&mut self, texts: &[&str]) -> String {
        while let Some(line) = self.next() {
            if texts.iter().any(|text| line.contains(text)) {
                return line;
            }
        }
        panic!("{texts:?} is not in\n{}", self.text());
    }

    /// Everything to the end.
    fn all(&mut self) -> String {
        while self.next().is_some() {}
        self.text()
    }

    fn text(&self) -> String {
        self.seen.join("\n")
    }
}

impl Program {
    fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, &[])
    }

    fn start_with(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pkbridge"));
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for variable in [
            "RUST_LOG",
            "JOURNAL_STREAM",
            "NOTIFY_SOCKET",
            "WATCHDOG_USEC",
            "WATCHDOG_PID",
            "LISTEN_PID",
            "LISTEN_FDS",
            "LISTEN_FDNAMES",
        ] {
            command.env_remove(variable);
        }
        command.envs(environment.iter().copied());
        let mut child = command.spawn().unwrap();
        let output = Lines::read(child.stdout.take().unwrap());
        let errors = Lines::read(child.stderr.take().unwrap());
        Self {
            child,
            output,
            errors,
        }
    }

    /// Sends a signal, such as `TERM`.
    fn signal(&self, signal: &str) {
        let mut kill = Command::new("kill");
        kill.arg(format!("-{signal}"))
            .arg(self.child.id().to_string());
        assert!(kill.status().unwrap().success());
    }

    /// Waits until it ends by itself.
    fn end(mut self) -> Ended {
        let output = self.output.all();
        let errors = self.errors.all();
        let code = self.child.wait().unwrap().code();
        Ended {
            code,
            output,
            errors,
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the program to its end.
fn run(arguments: &[&str]) -> Ended {
    Program::start(arguments).end()
}

impl Ended {
    #[track_caller]
    fn assert_code(&self, code: i32) {
        let Self { output, errors, .. } = self;
        assert_eq!(
            self.code,
            Some(code),
            "output:\n{output}\nerrors:\n{errors}"
        );
    }
}

/// A configuration file in a directory of its own, which goes with the test.
struct File {
    directory: common::Directory,
    path: PathBuf,
}

impl File {
    fn new(text: &str) -> Self {
        let directory = common::Directory::new();
        let path = directory.join("config.toml");
        let file = Self { directory, path };
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.path, text).unwrap();
    }

    fn text(&self) -> &str {
        self.path.to_str().unwrap()
    }
}

/// `serve` with nothing reachable around it, and its address.
fn serve(file: &File, environment: &[(&str, &str)]) -> (Program, SocketAddr) {
    let arguments = ["serve", "--config", file.text()];
    let mut program = Program::start_with(&arguments, environment);
    let line = program.errors.wait_for("listening address=");
    let address = line.rsplit("address=").next().unwrap();
    (program, address.parse().unwrap())
}

/// Asks over UDP.
fn ask(server: SocketAddr, owner: &str, rtype: RecordType) -> Message {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(server).unwrap();
    let query = common::query(owner, rtype).to_vec().unwrap();
    socket.send(&query).unwrap();
    let mut reply = vec![0; 4096];
    let length = socket.recv(&mut reply).expect("a reply");
    Message::from_vec(&reply[..length]).unwrap()
}

fn rcode(server: SocketAddr, owner: &str) -> ResponseCode {
    common::rcode(&ask(server, owner, RecordType::A))
}

/// The all-zero key: weak, so nobody's, and answered without a network.
fn weak_key() -> String {
    "y".repeat(52)
}

/// A port that is free over UDP and TCP, at least now.
fn free_port() -> u16 {
    loop {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = udp.local_addr().unwrap().port();
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// `demo` on a free port. Another process may take the port meanwhile: then another one is tried.
fn demo(more: &[&str]) -> (Program, u16) {
    for _ in 0..10 {
        let port = free_port();
        let text = port.to_string();
        let arguments = [&["demo", "--port", &text], more].concat();
        let mut program = Program::start(&arguments);
        while let Some(line) = program.output.next() {
            if line.starts_with("name ") {
                return (program, port);
            }
        }
        let errors = program.errors.all();
        assert!(errors.contains("in use"), "{errors}");
    }
    panic!("no free port in ten attempts");
}

#[test]
fn check_takes_the_shipped_configuration() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/pkbridge.toml");
    let ended = run(&["check", "--config", path]);
    ended.assert_code(0);
    assert_eq!(ended.output, format!("{path}: ok"));
    assert_eq!(ended.errors, "");
}

#[test]
fn a_broken_configuration_is_78_with_file_line_and_column_of_every_problem() {
    let file = File::new("[cache]\nmax-tll = \"1d\"\n[dht]\n  lookup-timeout = \"never\"\n");
    for verb in ["check", "serve"] {
        let ended = run(&[verb, "--config", file.text()]);
        ended.assert_code(78);
        assert_eq!(ended.output, "");
        let lines: Vec<&str> = ended.errors.lines().collect();
        assert_eq!(lines.len(), 2, "{}", ended.errors);
        let path = file.text();
        assert!(lines[0].contains(&format!("{path}:2:1: ")), "{}", lines[0]);
        assert!(lines[0].contains("max-ttl"), "{}", lines[0]);
        assert!(lines[1].contains(&format!("{path}:4:")), "{}", lines[1]);
        assert!(lines[1].contains("lookup-timeout"), "{}", lines[1]);
    }
    file.write("[cache\n");
    let ended = run(&["check", "--config", file.text()]);
    ended.assert_code(78);
    assert!(ended.errors.contains(&format!("{}:1:", file.text())));
}

#[test]
fn a_named_configuration_that_is_not_there_is_78() {
    let file = File::new("");
    let missing = format!("{}.not", file.text());
    for verb in ["check", "serve"] {
        let ended = run(&[verb, "--config", &missing]);
        ended.assert_code(78);
        assert!(ended.errors.contains(&missing), "{}", ended.errors);
    }
}

#[test]
fn usage_errors_are_2_and_say_what_is_wrong() {
    let cases: [(&[&str], &str); 10] = [
        (&["--nonsense"], "--nonsense"),
        (&["frobnicate"], "frobnicate"),
        (&["serve", "--port", "53"], "--port"),
        (&["check", "extra"], "extra"),
        (&["query"], "<NAME>"),
        (&["query", "example.com", "NOTYPE"], "NOTYPE"),
        (
            &["query", "example.com", "--server", "nonsense"],
            "nonsense",
        ),
        (&["query", "a..b"], "a..b"),
        (&["resolve"], "<KEY_OR_NAME>"),
        (&["demo", "--port", "0"], "--port"),
    ];
    for (arguments, about) in cases {
        let ended = run(arguments);
        ended.assert_code(2);
        assert!(ended.errors.contains(about), "{}", ended.errors);
        assert_eq!(ended.output, "");
    }
}

#[test]
fn without_arguments_it_prints_its_help() {
    let ended = run(&[]);
    let help = run(&["--help"]);
    help.assert_code(0);
    for text in [&ended.errors, &help.output] {
        assert!(text.contains("Usage: pkbridge"), "{text}");
        for verb in ["serve", "check", "query", "demo"] {
            let listed = |line: &str| line.trim_start().starts_with(verb);
            assert!(text.lines().any(listed), "{verb}: {text}");
        }
    }
}

#[test]
fn it_tells_its_version() {
    let ended = run(&["--version"]);
    ended.assert_code(0);
    assert_eq!(
        ended.output,
        concat!("pkbridge ", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn serve_on_a_busy_port_is_1_and_names_the_holder() {
    let holder = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = holder.local_addr().unwrap();
    let file = File::new(&CONFIGURATION.replace("127.0.0.1:0", &address.to_string()));
    let ended = run(&["serve", "--config", file.text()]);
    ended.assert_code(1);
    let said = &ended.errors;
    assert!(said.contains(&address.to_string()), "{said}");
    if cfg!(target_os = "linux") {
        let pid = format!("(pid {})", std::process::id());
        assert!(said.contains("held by") && said.contains(&pid), "{said}");
    }
}

#[test]
fn serve_answers_with_nothing_reachable_and_stops_in_peace() {
    for signal in ["TERM", "INT"] {
        let file = File::new(CONFIGURATION);
        let (program, address) = serve(&file, &[]);
        assert_eq!(rcode(address, &weak_key()), ResponseCode::NXDomain);
        // What needs others is a failure, not silence.
        assert_eq!(rcode(address, "example.com"), ResponseCode::ServFail);
        let key = common::key_of(&common::secret(1)).to_string();
        assert_eq!(rcode(address, &key), ResponseCode::ServFail);
        program.signal(signal);
        let ended = program.end();
        ended.assert_code(0);
        assert!(ended.errors.contains("stopped"), "{}", ended.errors);
        assert_eq!(ended.output, "");
    }
}

#[test]
fn a_question_in_flight_is_answered_before_serve_stops() {
    let upstream = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    upstream.set_read_timeout(Some(PATIENCE)).unwrap();
    let address = upstream.local_addr().unwrap().to_string();
    let text = CONFIGURATION.replace("127.0.0.1:9\"]\ntimeout", &format!("{address}\"]\ntimeout"));
    let file = File::new(&text.replacen("300ms", "4s", 1));
    let (mut program, address) = serve(&file, &[]);
    let client = thread::spawn(move || rcode(address, "slow.example"));
    let mut query = vec![0; 4096];
    let (length, server) = upstream.recv_from(&mut query).expect("a forwarded query");
    program.signal("TERM");
    program.errors.wait_for("stopping");
    let mut reply = common::reply_to(&query[..length]);
    reply.metadata.response_code = ResponseCode::NXDomain;
    upstream.send_to(&reply.to_vec().unwrap(), server).unwrap();
    assert_eq!(client.join().unwrap(), ResponseCode::NXDomain);
    program.end().assert_code(0);
}

#[test]
fn serve_reloads_on_sighup_and_keeps_the_old_configuration_on_an_error() {
    let file = File::new(CONFIGURATION);
    let (mut program, address) = serve(&file, &[]);
    // Somebody else's suffix is forwarded, and there is nobody; our own is answered here.
    assert_eq!(rcode(address, "x.key"), ResponseCode::ServFail);
    file.write(&format!("{CONFIGURATION}[names]\nsuffixes = [\"key\"]\n"));
    reload(&mut program, Reloaded::Taken);
    assert_eq!(rcode(address, "x.key"), ResponseCode::NXDomain);

    let broken = format!("{CONFIGURATION}[names]\nsuffixes = 7\n");
    let line = 1 + broken.lines().position(|l| l == "suffixes = 7").unwrap();
    file.write(&broken);
    reload(&mut program, Reloaded::Refused);
    let place = format!("{}:{line}:", file.text());
    let mut said = program.errors.seen.iter();
    let said = said.find(|said| said.contains(&place)).expect("the place");
    assert!(said.contains("ERROR"), "{said}");
    assert_eq!(rcode(address, "x.key"), ResponseCode::NXDomain);
    // A configuration that is right but cannot be carried out changes nothing, either.
    let holder = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let busy = holder.local_addr().unwrap();
    file.write(&CONFIGURATION.replace("127.0.0.1:0", &busy.to_string()));
    reload(&mut program, Reloaded::Refused);
    assert_eq!(rcode(address, "x.key"), ResponseCode::NXDomain);
    program.signal("TERM");
    program.end().assert_code(0);
}

#[test]
fn the_log_level_is_reloaded() {
    let file = File::new(CONFIGURATION);
    let (mut program, address) = serve(&file, &[]);
    file.write(&format!("{CONFIGURATION}[log]\nlevel = \"debug\"\n"));
    reload(&mut program, Reloaded::Taken);
    ask(address, "x.pkarr", RecordType::A);
    program.errors.wait_for("x.pkarr");
}

#[test]
fn a_reload_that_cannot_be_carried_out_leaves_the_log_level() {
    let file = File::new(CONFIGURATION);
    let (mut program, address) = serve(&file, &[]);
    let holder = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let busy = holder.local_addr().unwrap();
    let text = CONFIGURATION.replace("127.0.0.1:0", &busy.to_string());
    file.write(&format!("{text}[log]\nlevel = \"debug\"\n"));
    reload(&mut program, Reloaded::Refused);
    ask(address, "x.pkarr", RecordType::A);
    program.signal("TERM");
    let ended = program.end();
    assert!(!ended.errors.contains("DEBUG"), "{}", ended.errors);
}

#[test]
fn a_log_filter_that_check_refuses_is_refused_on_reload() {
    let file = File::new(CONFIGURATION);
    let (mut program, _) = serve(&file, &[]);
    file.write(&format!(
        "{CONFIGURATION}[log]\nlevel = \"info,pkbridge[=debug\"\n"
    ));
    run(&["check", "--config", file.text()]).assert_code(78);
    reload(&mut program, Reloaded::Refused);
}

#[derive(Debug, PartialEq, Eq)]
enum Reloaded {
    Taken,
    Refused,
}

/// Sends SIGHUP and waits for what the program says to it.
#[track_caller]
fn reload(program: &mut Program, expected: Reloaded) {
    program.signal("HUP");
    let said = program
        .errors
        .wait_for_any(&["reloaded", "the old configuration stays"]);
    let found = if said.contains("reloaded") {
        Reloaded::Taken
    } else {
        Reloaded::Refused
    };
    assert_eq!(found, expected, "{}", program.errors.text());
}

#[test]
fn systemd_is_told_of_ready_status_watchdog_and_stopping() {
    let file = File::new(CONFIGURATION);
    let path = file.directory.join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(PATIENCE)).unwrap();
    let wait_for = |expected: &str| loop {
        let mut buffer = [0; 4096];
        let length = systemd.recv(&mut buffer).expect("a message to systemd");
        let message = String::from_utf8(buffer[..length].to_vec()).unwrap();
        if message.lines().any(|line| line == expected) {
            return message;
        }
    };
    let socket = path.to_str().unwrap();
    let environment = [("NOTIFY_SOCKET", socket), ("WATCHDOG_USEC", "300000")];
    let (program, address) = serve(&file, &environment);
    let ready = wait_for("READY=1");
    let status = ready.lines().find_map(|line| line.strip_prefix("STATUS="));
    let status = status.expect("a status");
    assert!(status.contains(&address.to_string()), "{status}");
    // Again and again.
    wait_for("WATCHDOG=1");
    wait_for("WATCHDOG=1");
    program.signal("TERM");
    wait_for("STOPPING=1");
    program.end().assert_code(0);
}

#[test]
fn a_name_that_was_asked_is_logged_at_debug_level_and_not_above() {
    let label = "A-Telltale-Label";
    let lower = label.to_ascii_lowercase();
    let key = common::key_of(&common::secret(2)).to_string();
    let names = [
        format!("{label}.example.com"),
        format!("{label}.{key}"),
        format!("{label}.{}", weak_key()),
        format!("{label}.pkarr"),
        format!("{label}.{key}.lan"),
    ];
    let file = File::new(CONFIGURATION);
    let logged = |environment: &[(&str, &str)]| {
        let (program, address) = serve(&file, environment);
        for name in &names {
            ask(address, name, RecordType::A);
        }
        program.signal("TERM");
        let ended = program.end();
        ended.assert_code(0);
        ended.errors.to_ascii_lowercase()
    };
    let quiet = logged(&[]);
    assert!(quiet.contains("info"), "{quiet}");
    assert!(!quiet.contains(&lower) && !quiet.contains(&key), "{quiet}");
    let loud = logged(&[("RUST_LOG", "pkbridge=debug")]);
    for name in &names {
        assert!(loud.contains(&name.to_ascii_lowercase()), "{name}: {loud}");
    }
    for line in loud.lines().filter(|line| line.contains(&lower)) {
        assert!(line.contains("debug"), "{line}");
    }
}

#[test]
fn the_configured_level_counts_unless_rust_log_is_set() {
    let file = File::new(&format!("{CONFIGURATION}[log]\nlevel = \"debug\"\n"));
    let (mut program, address) = serve(&file, &[]);
    ask(address, "x.pkarr", RecordType::A);
    program.errors.wait_for("x.pkarr");
    drop(program);
    let path = ["serve", "--config", file.text()];
    let program = Program::start_with(&path, &[("RUST_LOG", "not a filter=x=y")]);
    assert_ne!(program.end().code, Some(0));
}

#[test]
fn lines_for_the_journal_begin_with_their_priority() {
    let file = File::new(CONFIGURATION);
    let (program, _) = serve(&file, &[("JOURNAL_STREAM", "8:1")]);
    program.signal("TERM");
    let errors = program.end().errors;
    assert!(
        errors.lines().any(|line| line.starts_with("<6>")),
        "{errors}"
    );
    // sd-daemon(3): the journal has its own clock, and no colours.
    let plain = |line: &str| line.starts_with('<') && !line.contains('\u{1b}');
    assert!(errors.lines().all(plain), "{errors}");
}

#[test]
fn query_tells_found_missing_and_failed_by_its_exit_code() {
    let file = File::new(CONFIGURATION);
    let (_program, address) = serve(&file, &[]);
    let server = address.to_string();
    let query = |arguments: &[&str]| run(&[&["query", "--server", &server], arguments].concat());
    let found = query(&["pkarr", "SOA"]);
    found.assert_code(0);
    assert!(
        found.output.contains("hostmaster.pkarr."),
        "{}",
        found.output
    );
    let missing = query(&[&weak_key()]);
    missing.assert_code(1);
    assert!(missing.output.contains("NXDOMAIN"), "{}", missing.output);
    assert!(missing.output.contains("weak key"), "{}", missing.output);
    let no_data = query(&["pkarr", "TXT"]);
    no_data.assert_code(1);
    assert!(no_data.output.contains("NODATA"), "{}", no_data.output);
    let failed = query(&["example.com"]);
    failed.assert_code(3);
    assert!(failed.output.contains("SERVFAIL"), "{}", failed.output);
    // Nobody is there.
    let closed = format!("127.0.0.1:{}", free_port());
    let ended = run(&["query", "--server", &closed, "example.com"]);
    ended.assert_code(3);
    assert!(ended.output.contains(&closed), "{}", ended.output);
}

#[test]
fn query_prints_json() {
    let file = File::new(CONFIGURATION);
    let (_program, address) = serve(&file, &[]);
    let server = address.to_string();
    let query = |name: &str, rtype: &str, code| -> Value {
        let ended = run(&["query", name, rtype, "--server", &server, "--json"]);
        ended.assert_code(code);
        serde_json::from_str(&ended.output).unwrap()
    };
    let found = query("pkarr", "SOA", 0);
    assert_eq!(found["name"], "pkarr.");
    assert_eq!(found["type"], "SOA");
    assert_eq!(found["server"], server);
    assert_eq!(found["transport"], "UDP");
    assert_eq!(
        (&found["rcode"], &found["status"]),
        (&"NOERROR".into(), &"found".into())
    );
    assert_eq!(
        (&found["flags"]["aa"], &found["flags"]["ra"]),
        (&true.into(), &true.into())
    );
    assert_eq!(found["answers"][0]["name"], "pkarr.");
    assert_eq!(found["answers"][0]["type"], "SOA");
    assert!(found["answers"][0]["ttl"].is_u64());
    assert!(found["milliseconds"].is_f64());
    let missing = query(&weak_key(), "A", 1);
    assert_eq!(missing["status"], "nxdomain");
    assert_eq!(missing["answers"], Value::Array(Vec::new()));
    assert_eq!(missing["authority"][0]["type"], "SOA");
    let text = missing["ede"][0]["text"].as_str().unwrap();
    assert!(text.contains("weak key"), "{text}");
    assert_eq!(missing["ede"][0]["code"], 0);
}

#[test]
fn demo_once_prints_a_table_in_which_all_is_right() {
    let (program, _) = demo(&["--once"]);
    let ended = program.end();
    ended.assert_code(0);
    let rows = ended
        .output
        .lines()
        .skip_while(|line| !line.starts_with("name "));
    let rows: Vec<&str> = rows.skip(1).take_while(|line| !line.is_empty()).collect();
    assert!(rows.len() >= 12, "{}", ended.output);
    for row in &rows {
        assert!(row.ends_with("  ok"), "{row}");
    }
    // What the demo is to show.
    for shown in [
        "TXT", "A", "AAAA", "MX", "HTTPS", "TCP", "NODATA", "NXDOMAIN", "SERVFAIL",
    ] {
        let has = |row: &&str| row.split([' ', ',']).any(|word| word == shown);
        assert!(rows.iter().any(has), "{shown}: {}", ended.output);
    }
}

#[test]
fn demo_stays_until_it_is_interrupted() {
    let (mut program, port) = demo(&[]);
    program.output.wait_for("Serving on");
    let text = program.output.text();
    let key = text
        .lines()
        .map(str::trim)
        .find(|line| line.parse::<pkbridge::pkarr::PublicKey>().is_ok())
        .expect("the key on a line of its own");
    let server = format!("127.0.0.1:{port}");
    let found = run(&["query", "--server", &server, &format!("www.{key}")]);
    found.assert_code(0);
    assert!(found.output.contains("192.0.2.10"), "{}", found.output);
    // The lines to paste are right: each asks this server for a name of this key.
    let hint = program.output.wait_for("dig @127.0.0.1");
    assert!(
        hint.contains(&format!("-p {port} ")) && hint.contains(key),
        "{hint}"
    );
    program.signal("INT");
    program.end().assert_code(0);
}

#[test]
fn demo_on_a_busy_port_fails_and_names_the_holder() {
    let holder = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = holder.local_addr().unwrap().port().to_string();
    let ended = run(&["demo", "--once", "--port", &port]);
    ended.assert_code(1);
    let said = &ended.errors;
    assert!(said.contains(&format!("127.0.0.1:{port}")), "{said}");
    assert!(said.contains("--port"), "{said}");
    if cfg!(target_os = "linux") {
        let pid = format!("(pid {})", std::process::id());
        assert!(said.contains(&pid), "{said}");
    }
}
