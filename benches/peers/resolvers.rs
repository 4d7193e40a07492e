//! The resolvers under test, each a process of its own on CPUs of its own.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long a resolver may take to start; for a loaded machine.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long it may take to end by itself.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Pkbridge,
    /// With so many threads.
    Unbound(u8),
    Dnsdist,
    /// With a packet cache.
    CachingDnsdist,
    Dnsmasq,
    KnotResolver,
    /// No resolver: it sends back what it gets, a batch at a time. What the kernel costs.
    Echo,
}

impl Kind {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Pkbridge => "pkbridge".to_owned(),
            Self::Unbound(1) => "unbound".to_owned(),
            Self::Unbound(threads) => format!("unbound, {threads} threads"),
            Self::Dnsdist => "dnsdist, no cache".to_owned(),
            Self::CachingDnsdist => "dnsdist".to_owned(),
            Self::Dnsmasq => "dnsmasq".to_owned(),
            Self::KnotResolver => "knot-resolver".to_owned(),
            Self::Echo => "echo".to_owned(),
        }
    }

    /// Whether this machine has it.
    pub(crate) fn is_installed(self) -> bool {
        let (program, option) = match self {
            Self::Pkbridge | Self::Echo => return true,
            Self::Unbound(_) => ("unbound", "-V"),
            Self::Dnsdist | Self::CachingDnsdist => ("dnsdist", "--version"),
            Self::Dnsmasq => ("dnsmasq", "--version"),
            Self::KnotResolver => ("kresd", "--version"),
        };
        let mut command = Command::new(program);
        let command = command.arg(option);
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    }
}

/// The bound of caches, unless a benchmark sets it.
const CACHE_MIB: u64 = 64;

/// A resolver that answers.
pub(crate) struct Resolver {
    child: Child,
    directory: PathBuf,
    pub(crate) address: SocketAddr,
}

impl Resolver {
    /// Starts one on `cpus`, forwarding to `upstream`, and waits until it answers.
    pub(crate) fn start(kind: Kind, program: &Path, cpus: &str, upstream: SocketAddr) -> Self {
        Self::with_cache(kind, program, cpus, upstream, CACHE_MIB)
    }

    /// The same, with a cache of so many MiB, if it takes a bound in bytes.
    pub(crate) fn with_cache(
        kind: Kind,
        program: &Path,
        cpus: &str,
        upstream: SocketAddr,
        cache_mib: u64,
    ) -> Self {
        let name = format!("pkbridge-bench-{:016x}", rand::random::<u64>());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory).unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let file = directory.join("configuration");
        fs::write(
            &file,
            configuration(kind, &directory, address, upstream, cache_mib),
        )
        .unwrap();
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", cpus]);
        match kind {
            Kind::Pkbridge => command.arg(program).args(["serve", "--config"]).arg(&file),
            Kind::Unbound(_) => command.args(["unbound", "-d", "-c"]).arg(&file),
            Kind::Dnsdist | Kind::CachingDnsdist => command
                .args(["dnsdist", "--supervised", "--disable-syslog", "-C"])
                .arg(&file),
            Kind::Dnsmasq => command.args(["dnsmasq", "-k", "-C"]).arg(&file),
            Kind::KnotResolver => command
                .args(["kresd", "-n", "-c"])
                .arg(&file)
                .arg(&directory),
            // This program, see its option `--echo`.
            Kind::Echo => command
                .arg(std::env::current_exe().unwrap())
                .args(["--echo", &address.to_string()]),
        };
        let log = fs::File::create(directory.join("log")).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("taskset: {error}"));
        let mut resolver = Self {
            child,
            directory,
            address,
        };
        resolver.wait_until_ready(kind);
        resolver
    }

    fn wait_until_ready(&mut self, kind: Kind) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(self.address).unwrap();
        let wait = Duration::from_millis(100);
        socket.set_read_timeout(Some(wait)).unwrap();
        let started = Instant::now();
        let query = b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x05ready\x07example\0\0\x01\0\x01";
        let mut reply = [0; 512];
        loop {
            let asked = socket.send(query).and_then(|_| socket.recv(&mut reply));
            let is_answer = reply[2] & 0x80 != 0 && reply[3] & 0xf == 0;
            if asked.is_ok_and(|length| length > 3) && (is_answer || kind == Kind::Echo) {
                return;
            }
            let has_ended = self.child.try_wait().unwrap().is_some();
            if has_ended || started.elapsed() > START_TIMEOUT {
                let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
                panic!("{} does not answer; it said:\n{log}", kind.name());
            }
            // A refused datagram fails at once.
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The memory that it has, in bytes: what is resident and no file's.
    pub(crate) fn memory(&self) -> u64 {
        super::memory_of(&self.child.id().to_string())
    }

    /// CPU time, user and system, that its threads have taken so far: what the scheduler has counted, in
    /// nanoseconds. Sending over loopback includes the kernel's work of delivery, for all alike.
    pub(crate) fn cpu(&self) -> Duration {
        let tasks = format!("/proc/{}/task", self.child.id());
        let tasks = fs::read_dir(tasks).unwrap();
        let of_task = |task: std::io::Result<fs::DirEntry>| {
            let path = task.unwrap().path().join("schedstat");
            match fs::read_to_string(path) {
                Ok(text) => text.split(' ').next().unwrap().parse::<u64>().unwrap(),
                Err(error) if error.kind() == ErrorKind::NotFound => 0,
                Err(error) => panic!("schedstat: {error}"),
            }
        };
        Duration::from_nanos(tasks.map(of_task).sum())
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let started = Instant::now();
        while started.elapsed() < STOP_TIMEOUT && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A port that was free a moment ago, over UDP and TCP.
fn free_port() -> u16 {
    loop {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        if std::net::TcpListener::bind(address).is_ok() {
            return address.port();
        }
    }
}

/// All forward all that they are asked and validate nothing. The caches of the two that have one are of
/// one size.
fn configuration(
    kind: Kind,
    directory: &Path,
    address: SocketAddr,
    upstream: SocketAddr,
    cache_mib: u64,
) -> String {
    // unbound has one for messages, and one for the records in them.
    let (messages_mib, records_mib) = (cache_mib / 3, cache_mib - cache_mib / 3);
    let (ip, port) = (address.ip(), address.port());
    let directory = directory.display();
    match kind {
        Kind::Pkbridge => format!(
            "[listen]\naddresses = [\"{address}\"]\n\
             [upstream]\nservers = [\"{upstream}\"]\n\
             [dht]\nbootstrap = [\"127.0.0.1:9\"]\nbind-address = \"127.0.0.1\"\n\
             [cache]\nmax-bytes = \"{cache_mib}MiB\"\n\
             [state]\ndirectory = \"\"\n\
             [control]\nsocket = \"\"\n\
             [log]\nlevel = \"warn\"\n"
        ),
        Kind::Unbound(threads) => format!(
            "server:\n  directory: \"{directory}\"\n  chroot: \"\"\n  username: \"\"\n  \
             pidfile: \"{directory}/pid\"\n  use-syslog: no\n  logfile: \"\"\n  \
             interface: {ip}\n  port: {port}\n  num-threads: {threads}\n  \
             do-not-query-localhost: no\n  module-config: \"iterator\"\n  \
             msg-cache-size: {messages_mib}m\n  rrset-cache-size: {records_mib}m\n  so-rcvbuf: 4m\n\
             remote-control:\n  control-enable: no\n\
             forward-zone:\n  name: \".\"\n  forward-addr: {}@{}\n",
            upstream.ip(),
            upstream.port()
        ),
        Kind::Dnsdist | Kind::CachingDnsdist => {
            let cache = "getPool(\"\"):setCache(newPacketCache(100000, {}))\n";
            let cache = if kind == Kind::Dnsdist { "" } else { cache };
            format!(
                "setLocal(\"{address}\")\nnewServer({{address=\"{upstream}\"}})\n\
                 setMaxUDPOutstanding(65535)\nsetSecurityPollSuffix(\"\")\n{cache}"
            )
        }
        Kind::Dnsmasq => format!(
            "listen-address={ip}\nport={port}\nbind-interfaces\nno-resolv\nno-hosts\n\
             server={}#{}\ncache-size=10000\ndns-forward-max=1000\nuser=root\n\
             pid-file={directory}/pid\n",
            upstream.ip(),
            upstream.port()
        ),
        Kind::KnotResolver => format!(
            "net.listen('{ip}', {port}, {{ kind = 'dns' }})\n\
             cache.open(100 * MB, 'lmdb://{directory}/cache')\n\
             trust_anchors.remove('.')\nmodules.unload('ta_update')\n\
             policy.add(policy.all(policy.FORWARD('{}@{}')))\n",
            upstream.ip(),
            upstream.port()
        ),
        Kind::Echo => String::new(),
    }
}
