//! The real program with sockets that it inherits: from `systemd-socket-activate`, and of all kinds
//! at once from a launcher that passes them as systemd does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test fails by a panic, and shows what the program logged"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// The longest wait for something that is to happen at once: a bound for a test that fails, not a
/// measure for one that passes.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_pkbridge");

/// Nothing of this leaves the host: the servers are closed ports on loopback. The listen addresses
/// are the default ones, which the program must not bind when it inherits sockets.
const CONFIGURATION: &str = r#"
[upstream]
servers = ["127.0.0.1:9"]
[dht]
bootstrap = ["127.0.0.1:9"]
bind-address = "127.0.0.1"
[state]
directory = ""
[control]
socket = ""
"#;

#[test]
fn udp_from_systemd() {
    let directory = Directory::new("udp");
    let (_program, address) = socket_activate(&directory, &["--datagram"], || {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.local_addr().unwrap()
    });
    ask_udp(address);
    // The first query started the program; this one it gets while it runs.
    ask_udp(address);
}

#[test]
fn tcp_from_systemd() {
    let directory = Directory::new("tcp");
    let (_program, address) = socket_activate(&directory, &[], || {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.local_addr().unwrap()
    });
    ask_tcp(address);
    ask_tcp(address);
}

#[test]
fn udp_and_tcp_over_ipv4_and_ipv6_at_once() {
    let directory = Directory::new("all");
    let (_program, addresses) = launch_all(&directory, |_| ());
    let [udp4, tcp4, udp6, tcp6] = addresses;
    assert_eq!(
        [udp4, tcp4].map(|address| address.ip()),
        [Ipv4Addr::LOCALHOST; 2]
    );
    assert_eq!(
        [udp6, tcp6].map(|address| address.ip()),
        [Ipv6Addr::LOCALHOST; 2]
    );
    ask_udp(udp4);
    ask_udp(udp6);
    ask_tcp(tcp4);
    ask_tcp(tcp6);
}

/// The program reports itself ready without a network, and answers the watchdog's own query on a
/// socket that it inherited.
#[test]
fn ready_and_watchdog() {
    let directory = Directory::new("notify");
    let path = directory.0.join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(PATIENCE)).unwrap();
    let (_program, _addresses) = launch_all(&directory, |command| {
        command
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "30000000");
    });
    let next = || {
        let mut buffer = [0; 4096];
        let length = systemd.recv(&mut buffer).expect("a message to systemd");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    for expected in ["READY=1", "WATCHDOG=1"] {
        while !next().lines().any(|line| line == expected) {}
    }
}

/// A socket that DNS cannot be served on is an error, and the program says which one it is.
#[test]
fn refuses_other_sockets() {
    for (kind, found) in [
        ("file", "neither a UDP nor a TCP socket"),
        ("unix", "neither a UDP nor a TCP socket"),
        ("tcp-bound", "a TCP socket that does not listen"),
        ("udp-connected", "a UDP socket connected to one peer"),
        ("udp-unbound", "a UDP socket that is not bound to a port"),
    ] {
        let directory = Directory::new(kind);
        let mut program = launch(&directory, &format!("udp4,{kind}"), |_| ());
        let line = program.errors.recv_timeout(PATIENCE).unwrap();
        assert_eq!(
            line,
            format!(
                "pkbridge: inherited socket 1 (counted from 0), named `dns`, is {found}; expected \
                 a UDP socket (ListenDatagram=) or a listening TCP socket (ListenStream= with \
                 Accept=no), over IPv4 or IPv6"
            )
        );
        assert_eq!(program.child.wait().unwrap().code(), Some(78));
    }
}

/// Runs the program under `systemd-socket-activate`, which starts it when the first query arrives.
///
/// The command does not take port 0, so `free` finds a port. Another process may take it meanwhile:
/// then another one is tried.
fn socket_activate(
    directory: &Directory,
    options: &[&str],
    free: impl Fn() -> SocketAddr,
) -> (Program, SocketAddr) {
    for _ in 0..10 {
        let address = free();
        let mut command = Command::new("systemd-socket-activate");
        command
            .args(options)
            .arg(format!("--listen={address}"))
            .arg("--fdname=dns");
        command
            .arg(PROGRAM)
            .args(["serve", "--config"])
            .arg(directory.configuration());
        let mut program = Program::start(
            &mut command,
            "systemd-socket-activate: not found; Debian has it in the package `systemd`",
        );
        // The lines before the program itself starts; an end means that the port was taken.
        while let Ok(line) = program.errors.recv_timeout(PATIENCE) {
            if line.contains("Listening on") {
                return (program, address);
            }
        }
        assert!(
            program.child.try_wait().unwrap().is_some(),
            "it did not listen"
        );
    }
    panic!("no free port in ten attempts");
}

/// Binds sockets of the kinds that its first argument lists, says where, moves them to the descriptors
/// from 3 on, sets the variables and becomes the program that the other arguments give. Only the
/// process itself can do so, since `LISTEN_PID` must be its own.
const LAUNCHER: &str = r#"
import os, socket, sys
def make(kind):
    if kind == "file":
        return os.open("/dev/null", os.O_RDWR)
    if kind == "unix":
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).detach()
    v6 = kind.endswith("6")
    family, host = (socket.AF_INET6, "::1") if v6 else (socket.AF_INET, "127.0.0.1")
    udp = kind.startswith("udp")
    s = socket.socket(family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
    if kind != "udp-unbound":
        s.bind((host, 0))
    if kind == "udp-connected":
        s.connect((host, 9))
    if kind in ("tcp4", "tcp6"):
        s.listen()
    port = s.getsockname()[1]
    print(f"[{host}]:{port}" if v6 else f"{host}:{port}", flush=True)
    return s.detach()
kinds = sys.argv[1].split(",")
# Out of the way first, so that no descriptor is overwritten before it is moved.
high = [os.dup2(make(kind), 100 + i) for i, kind in enumerate(kinds)]
for i, fd in enumerate(high):
    os.dup2(fd, 3 + i, inheritable=True)
    os.close(fd)
os.environ["LISTEN_FDS"] = str(len(kinds))
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDNAMES"] = ":".join(["dns"] * len(kinds))
os.execv(sys.argv[2], sys.argv[2:])
"#;

/// Runs the program with sockets of these kinds.
fn launch(directory: &Directory, kinds: &str, adapt: impl FnOnce(&mut Command)) -> Program {
    let mut command = Command::new("python3");
    command
        .args(["-c", LAUNCHER, kinds, PROGRAM, "serve", "--config"])
        .arg(directory.configuration());
    adapt(&mut command);
    Program::start(
        &mut command,
        "python3: not found; Debian has it in the package `python3`",
    )
}

/// Runs the program with four sockets, and says where they are: UDP and TCP over IPv4, then over
/// IPv6.
fn launch_all(
    directory: &Directory,
    adapt: impl FnOnce(&mut Command),
) -> (Program, [SocketAddr; 4]) {
    let program = launch(directory, "udp4,tcp4,udp6,tcp6", adapt);
    let addresses = std::array::from_fn(|_| {
        let line = program
            .output
            .recv_timeout(PATIENCE)
            .expect("the launcher binds its sockets");
        line.parse().unwrap()
    });
    (program, addresses)
}

/// A running program with the lines that it writes. It is ended with the test, also by a panic.
///
/// Both launchers replace themselves by the program, so one process is all there is to end.
struct Program {
    child: Child,
    output: Receiver<String>,
    errors: Receiver<String>,
}

impl Program {
    fn start(command: &mut Command, not_found: &str) -> Program {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect(not_found);
        let output: ChildStdout = child.stdout.take().unwrap();
        let errors: ChildStderr = child.stderr.take().unwrap();
        Program {
            child,
            output: lines(output),
            errors: lines(errors),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a stream, read to its end on a thread so that the writer never waits.
fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            eprintln!("{line}");
            let _ = sender.send(line);
        }
    });
    receiver
}

/// A directory for one test with the configuration in it, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        // Short: the path of a Unix socket has at most 107 octets (unix(7)).
        let name = format!("pkbridge-activation-{name}-{}", std::process::id());
        let directory = Directory(std::env::temp_dir().join(name));
        std::fs::create_dir_all(&directory.0).unwrap();
        std::fs::write(directory.configuration(), CONFIGURATION).unwrap();
        directory
    }

    fn configuration(&self) -> PathBuf {
        Path::new(&self.0).join("config.toml")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A query that the program answers by itself, without the network: the all-zero key in z-base-32,
/// which is a weak key; type SOA, class IN.
fn query(id: u16) -> Vec<u8> {
    let mut query = id.to_be_bytes().to_vec();
    // RD, one question (RFC 1035 section 4.1.1).
    query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 52]);
    query.extend([b'y'; 52]);
    query.extend([0, 0, 6, 0, 1]);
    query
}

fn assert_nxdomain(answer: &[u8], id: u16) {
    assert!(answer.len() >= 12, "an answer has a header: {answer:?}");
    assert_eq!(answer[..2], id.to_be_bytes(), "the ID");
    assert_eq!(answer[2] & 0x80, 0x80, "QR");
    assert_eq!(answer[3] & 0x0f, 3, "the RCODE is NXDOMAIN");
}

fn ask_udp(address: SocketAddr) {
    let socket = UdpSocket::bind((address.ip(), 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(address).unwrap();
    socket.send(&query(0x1234)).unwrap();
    let mut answer = [0; 4096];
    let length = socket.recv(&mut answer).expect("an answer over UDP");
    assert_nxdomain(&answer[..length], 0x1234);
}

fn ask_tcp(address: SocketAddr) {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let query = query(0x5678);
    // The length goes before the message (RFC 1035 section 4.2.2).
    let length = u16::try_from(query.len()).unwrap().to_be_bytes();
    stream
        .write_all(&[length.as_slice(), &query].concat())
        .unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).expect("an answer over TCP");
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).expect("the whole answer");
    assert_nxdomain(&answer, 0x5678);
}
