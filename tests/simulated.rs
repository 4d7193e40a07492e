//! Lookups, freshness and floods on a simulated DHT: the real server, over real sockets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::*;
use dht_simulator::{HOLDERS, Network, Settings};
use futures_util::future::join_all;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::{RData, RecordType};
use pkbridge::config::Config;
use pkbridge::control::{self, Explanation, Flush, Freshness, Lookups, Request, Status};
use pkbridge::pkarr::{PublicKey, SignedPacket, SigningKey};
use pkbridge::resolve::LookupCounts;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// A `seq`: 1 700 000 000 seconds in microseconds.
const SEQ: u64 = 1_700_000_000_000_000;
/// What a stub waits for before it gives up, and before it sends its query again (resolv.conf(5) has
/// longer ones).
const STUB_PATIENCE: Duration = Duration::from_secs(5);
const STUB_RETRY: Duration = Duration::from_millis(500);
/// Less than any lookup takes in a silent network, which ends when its nodes are given up after 1 s.
const AT_ONCE: Duration = Duration::from_millis(900);
/// Longer than a failure and a stale answer are kept, and a failed lookup of a held packet is believed.
const RECHECK: Duration = Duration::from_secs(31);

/// Lookups that are started in a second.
const PACE: u32 = 40;

/// Lookups that may start at once after a pause, and of one client those that may wait: as in
/// `resolve::dht::turns`.
const BURST: u64 = 4;
const MAX_WAITING_OF_ONE: u64 = 2048;
/// Misses that a client may have in a minute, where two a second are allowed.
const BUDGET: u64 = 120;
/// Lookups that may be under way at a time: one takes 4 s at most, and PACE start in each.
const MAX_UNDER_WAY: u64 = 4 * 40 + BURST;
/// Clients that are told apart by their address.
const FLOODER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// Networks at a time: each has a socket a node, and a process may have 1024 files open by default.
static NETWORKS: Semaphore = Semaphore::const_new(2);

/// A simulated DHT.
struct Simulated {
    network: Network,
    _place: SemaphorePermit<'static>,
}

/// A key's owner.
struct Owner {
    secret: SigningKey,
    key: PublicKey,
}

/// What came of asking for the TXT of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    /// The packet with this `seq`.
    Fresh(u64),
    /// The packet with this `seq`, and why it is stale.
    Stale(u64, String),
    /// NXDOMAIN.
    Nobody,
    /// SERVFAIL with an Extended DNS Error.
    Failure(u16, String),
}

/// The program itself, with its control socket and its log in a directory.
struct Program {
    child: Child,
    address: SocketAddr,
    socket: PathBuf,
    log: PathBuf,
}

/// What a flooder was told.
#[derive(Debug, Default)]
struct Flood {
    sent: u64,
    nobody: u64,
    over_budget: u64,
    /// If its queue was full before that.
    too_many: u64,
}

/// A network of well-behaved nodes, not so near that all replies come at once.
fn settings() -> Settings {
    Settings {
        nodes: 100,
        seed: 1,
        round_trip: Duration::from_millis(30),
        jitter: Duration::from_millis(20),
        trace: true,
        ..Settings::default()
    }
}

impl Simulated {
    async fn start(settings: Settings) -> Self {
        let _place = NETWORKS.acquire().await.unwrap();
        let network = Network::start(settings).await.unwrap();
        Self { network, _place }
    }

    /// [`config`](common::config) with this DHT, and a pace that a debug build keeps up with: the sockets
    /// of its nodes lose no datagrams.
    fn config(&self) -> Config {
        let mut config = config();
        config.dht.bootstrap = self.bootstrap();
        config.dht.max_lookups_per_second = PACE;
        config
    }

    fn bootstrap(&self) -> Vec<String> {
        let nodes = self.network.bootstrap().into_iter();
        nodes.map(|node| node.to_string()).collect()
    }

    /// All holders have this packet, and no other of its key.
    fn store(&self, packet: &SignedPacket) {
        assert_eq!(self.network.store(&item_of(packet)), HOLDERS);
    }

    /// The holders of these ranks have this packet, in place of what they had.
    fn store_on(&self, packet: &SignedPacket, takes: impl FnMut(usize) -> bool) {
        assert!(self.network.store_on(&item_of(packet), takes) > 0);
    }

    /// The targets that were looked for since the last time.
    fn looked_for(&self) -> BTreeSet<[u8; 20]> {
        let traces = self.network.take_traces().into_iter();
        traces.map(|trace| trace.target).collect()
    }

    fn gets(&self) -> u64 {
        self.network.traffic().received.get
    }
}

impl Owner {
    fn new(number: u16) -> Self {
        let mut secret = [7; 32];
        secret[..2].copy_from_slice(&number.to_be_bytes());
        let secret = SigningKey::from_bytes(&secret);
        let key = key_of(&secret);
        Self { secret, key }
    }

    fn many(count: u16) -> Vec<Self> {
        (0..count).map(Self::new).collect()
    }

    /// A packet that tells its own `seq`.
    fn packet(&self, seq: u64) -> SignedPacket {
        let text = RData::TXT(TXT::new(vec![seq.to_string()]));
        sign(&self.secret, seq, vec![(below(self.key, ""), 3600, text)])
    }

    fn target(&self) -> [u8; 20] {
        item_of(&self.packet(SEQ)).target()
    }

    async fn ask(&self, server: SocketAddr) -> Told {
        told(&ask(server, &self.key.to_string(), RecordType::TXT).await)
    }
}

#[track_caller]
fn told(reply: &Message) -> Told {
    let seq = || {
        let answers = data(reply, RecordType::TXT);
        let [RData::TXT(text)] = answers.as_slice() else {
            panic!("{reply}");
        };
        text.to_string().parse().unwrap()
    };
    match (rcode(reply), ede(reply)) {
        (ResponseCode::NoError, None) => Told::Fresh(seq()),
        (ResponseCode::NoError, Some((3, why))) => Told::Stale(seq(), why),
        (ResponseCode::NXDomain, Some((0, _))) => Told::Nobody,
        (ResponseCode::ServFail, Some((code, why))) => Told::Failure(code, why),
        _ => panic!("{reply}"),
    }
}

async fn ask_all(owners: &[Owner], server: SocketAddr) -> Vec<Told> {
    join_all(owners.iter().map(|owner| owner.ask(server))).await
}

/// A key that nobody has published.
fn unpublished() -> Owner {
    let secret = SigningKey::from_bytes(&rand::random());
    let key = key_of(&secret);
    Owner { secret, key }
}

fn ended(lookups: LookupCounts) -> u64 {
    let LookupCounts {
        found,
        absent,
        too_few_answers,
        failed,
        invalid_packet,
        ..
    } = lookups;
    found + absent + too_few_answers + failed + invalid_packet
}

/// Waits until so many lookups have ended since the start, and none is left.
async fn lookups_end(server: &Running, count: u64) -> LookupCounts {
    until("the lookups end", async || {
        let lookups = server.dht.status().lookups;
        ended(lookups) >= count && lookups.under_way == 0 && lookups.waiting == 0
    })
    .await;
    let lookups = server.dht.status().lookups;
    assert_eq!(ended(lookups), count, "{lookups:?}");
    lookups
}

/// Datagrams that the sockets of the server's DHT nodes lost since they were full.
fn lost(server: &Running) -> u64 {
    let nodes = server.dht.status().instances.into_iter();
    let ports: Vec<u16> = nodes
        .filter_map(|node| Some(node.address?.port()))
        .collect();
    let table = std::fs::read_to_string("/proc/net/udp").unwrap();
    let lost = table.lines().skip(1).filter_map(|line| {
        let local = line.split_whitespace().nth(1)?.strip_prefix("0100007F:")?;
        let port = u16::from_str_radix(local, 16).ok()?;
        let drops = line.split_whitespace().last()?.parse::<u64>().ok()?;
        ports.contains(&port).then_some(drops)
    });
    lost.sum()
}

async fn until_joined(server: &Running) {
    until("all nodes have joined", async || {
        let status = server.dht.status();
        status.instances.iter().all(|instance| instance.joined)
    })
    .await;
}

/// Lets that much time pass for the server, at once. The DHT's nodes and the network have clocks of their
/// own.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// Stops a server and waits until it has saved what it knows.
async fn stop(mut server: Running) {
    server.stop.cancel();
    (&mut server.task).await.unwrap();
}

async fn explain(socket: &Path, key: PublicKey) -> Explanation {
    let request = Request::Explain(below(key, ""));
    serde_json::from_value(control::ask(socket, &request).await.unwrap()).unwrap()
}

async fn flush(socket: &Path, key: PublicKey) {
    let request = Request::Flush(Flush::Key(key));
    control::ask(socket, &request).await.unwrap();
}

/// `config` with a state directory and a control socket in `directory`.
fn with_state(directory: &Directory, mut config: Config) -> Config {
    config.state.directory = Some(directory.join("state"));
    config.control.socket = Some(directory.join("control"));
    config
}

impl Program {
    /// `serve` on this DHT with its state in `directory`/state; `more` are keys of the table `[dht]`, and
    /// other tables.
    async fn start(directory: &Directory, network: &Simulated, more: &str) -> Self {
        let path = |name| directory.join(name).display().to_string();
        let text = format!(
            "[listen]\naddresses = [\"127.0.0.1:0\"]\n\
             [state]\ndirectory = {:?}\n\
             [control]\nsocket = {:?}\n\
             [dht]\nbootstrap = {:?}\nbind-address = \"127.0.0.1\"\n{more}\n",
            path("state"),
            path("control"),
            network.bootstrap(),
        );
        let config = directory.join("config.toml");
        std::fs::write(&config, text).unwrap();
        let log = directory.join("log");
        let child = Command::new(env!("CARGO_BIN_EXE_pkbridge"))
            .args(["serve", "--config"])
            .arg(config)
            .env_remove("RUST_LOG")
            .env_remove("NOTIFY_SOCKET")
            .env_remove("LISTEN_FDS")
            .stdin(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        // Ended by its drop, should it never answer.
        let mut program = Self {
            child,
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            socket: directory.join("control"),
            log,
        };
        until("it answers", async || {
            let status = control::ask(&program.socket, &Request::Status).await;
            status.is_ok() && program.listening().is_some()
        })
        .await;
        program.address = program.listening().unwrap();
        program
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    fn listening(&self) -> Option<SocketAddr> {
        let log = self.log();
        let line = log.split_inclusive('\n').find_map(|line| {
            let (_, address) = line.strip_suffix('\n')?.split_once("listening address=")?;
            Some(address.to_owned())
        });
        Some(line?.parse().unwrap())
    }

    async fn joined(&self) {
        until("all nodes have joined", async || {
            let instances = self.status().await.dht.instances;
            instances.iter().all(|instance| instance.joined)
        })
        .await;
    }

    /// Waits until the store has so many packets on disk, and nothing more to write.
    async fn saved(&self, packets: u64) {
        until("the packets are on disk", async || {
            let store = self.status().await.store.unwrap();
            store.packets == packets && store.waiting == 0
        })
        .await;
    }

    async fn status(&self) -> Status {
        let status = control::ask(&self.socket, &Request::Status).await.unwrap();
        serde_json::from_value(status).unwrap()
    }

    async fn lookups(&self) -> Lookups {
        self.status().await.dht.lookups
    }

    /// Resident memory, in KiB.
    fn resident(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let number = line.unwrap().split_whitespace().nth(1).unwrap();
        number.parse().unwrap()
    }

    /// As `kill -9` does.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_hundred_keys_at_once_are_all_found_by_one_lookup_each() {
    let dht = Simulated::start(Settings {
        nodes: 200,
        dead: 0.25,
        ..settings()
    })
    .await;
    let owners = Owner::many(100);
    for owner in &owners {
        dht.store(&owner.packet(SEQ));
    }
    let server = Running::start(dht.config());
    let answers = ask_all(&owners, server.address).await;
    for (owner, answer) in owners.iter().zip(answers) {
        assert_eq!(answer, Told::Fresh(SEQ), "{}", owner.key);
    }
    let lookups = lookups_end(&server, 100).await;
    assert_eq!((lookups.found, lookups.refused), (100, 0), "{lookups:?}");

    let gets = dht.gets();
    for owner in &owners {
        assert_eq!(owner.ask(server.address).await, Told::Fresh(SEQ));
    }
    assert_eq!(dht.gets(), gets, "they are in the cache");
}

#[tokio::test]
async fn a_key_that_nobody_has_published_does_not_exist() {
    let dht = Simulated::start(Settings {
        dead: 0.25,
        ..settings()
    })
    .await;
    let server = Running::start(dht.config());
    for _ in 0..3 {
        assert_eq!(unpublished().ask(server.address).await, Told::Nobody);
    }
    let lookups = lookups_end(&server, 3).await;
    assert_eq!(lookups.absent, 3, "{lookups:?}");
}

#[tokio::test]
async fn keys_are_found_where_most_nodes_are_dead() {
    let dht = Simulated::start(Settings {
        nodes: 200,
        dead: 0.6,
        ..settings()
    })
    .await;
    let owners = Owner::many(40);
    for owner in &owners {
        dht.store(&owner.packet(SEQ));
    }
    let server = Running::start(dht.config());
    for answer in ask_all(&owners, server.address).await {
        assert_eq!(answer, Told::Fresh(SEQ));
    }
}

/// Six nodes are left to say that they have no packet: too few to believe, from wherever it is tried.
#[tokio::test]
async fn with_nearly_all_nodes_silent_nothing_is_said_to_not_exist() {
    let dht = Simulated::start(Settings {
        dead: 0.94,
        ..settings()
    })
    .await;
    let server = Running::start(dht.config());
    until_joined(&server).await;
    dht.network.take_traces();
    let keys: Vec<Owner> = (0..8).map(|_| unpublished()).collect();
    for answer in ask_all(&keys, server.address).await {
        let Told::Failure(22, why) = &answer else {
            panic!("{answer:?}");
        };
        assert!(why.contains("too few DHT nodes answered"), "{why}");
    }
    let lookups = lookups_end(&server, 8).await;
    assert_eq!(lookups.too_few_answers, 8, "{lookups:?}");
    let mut tries = BTreeMap::<[u8; 20], BTreeSet<_>>::new();
    for trace in dht.network.take_traces() {
        tries.entry(trace.target).or_default().insert(trace.client);
    }
    for key in keys {
        assert_eq!(tries[&key.target()].len(), 2, "each is tried on two nodes");
    }
}

#[tokio::test]
async fn keys_are_found_in_spite_of_poisoners() {
    let dht = Simulated::start(Settings {
        nodes: 200,
        dead: 0.1,
        poisoners: 0.05,
        ..settings()
    })
    .await;
    let owners = Owner::many(100);
    for owner in &owners {
        dht.store(&owner.packet(SEQ));
    }
    let server = Running::start(dht.config());
    for (owner, answer) in owners.iter().zip(ask_all(&owners, server.address).await) {
        assert_eq!(
            answer,
            Told::Fresh(SEQ),
            "{} lost {}",
            owner.key,
            lost(&server)
        );
    }
    let lookups = lookups_end(&server, 100).await;
    assert_eq!(lookups.found, 100, "{lookups:?}");
}

#[tokio::test]
async fn the_newest_packet_wins_and_what_was_told_before_goes_at_once() {
    let dht = Simulated::start(settings()).await;
    let owners = Owner::many(16);
    for (number, owner) in owners.iter().enumerate() {
        if number < 8 {
            // One node alone has the newer one.
            dht.store(&owner.packet(SEQ));
            dht.store_on(&owner.packet(SEQ + 1), |rank| rank == 10);
        } else {
            // A quarter have an older one.
            dht.store(&owner.packet(SEQ + 1));
            dht.store_on(&owner.packet(SEQ), |rank| rank % 4 == 0);
        }
    }
    let server = Running::start(dht.config());
    let first = ask_all(&owners, server.address).await;
    let old = |told: &&Told| **told == Told::Fresh(SEQ);
    // Of 20 nodes 19 have it: the chance that a key's first packet is not the older one is 1 in 20.
    assert!(first[..8].iter().any(|told| old(&told)), "{first:?}");
    let mut newest = vec![SEQ; owners.len()];
    loop {
        let lookups = server.dht.status().lookups;
        let is_over = ended(lookups) == 16;
        for (owner, newest) in owners.iter().zip(&mut newest) {
            let answer = owner.ask(server.address).await;
            let Told::Fresh(seq) = answer else {
                panic!(
                    "{answer:?} lost {} {:?}",
                    lost(&server),
                    server.dht.status()
                );
            };
            assert!(seq >= *newest, "an older one is told again");
            *newest = seq;
            assert!(!is_over || seq == SEQ + 1, "{}", owner.key);
        }
        if is_over {
            break;
        }
    }
}

/// So few have the older one that it cannot be believed by their number.
#[tokio::test]
async fn who_would_rather_wait_is_told_the_newest_first() {
    let dht = Simulated::start(settings()).await;
    let owners = Owner::many(12);
    for owner in &owners {
        dht.store_on(&owner.packet(SEQ), |rank| rank == 3 || rank == 9);
        dht.store_on(&owner.packet(SEQ + 1), |rank| rank == 6);
    }
    let mut config = dht.config();
    config.dht.linger = Duration::from_secs(1);
    let server = Running::start(config);
    until_joined(&server).await;
    for answer in ask_all(&owners, server.address).await {
        assert_eq!(answer, Told::Fresh(SEQ + 1));
    }
}

#[tokio::test]
async fn an_older_packet_is_never_taken_not_after_a_restart_nor_a_flush() {
    let directory = Directory::new();
    let dht = Simulated::start(settings()).await;
    let owners = Owner::many(3);
    let config = with_state(&directory, dht.config());
    let socket = config.control.socket.clone().unwrap();
    for owner in &owners {
        dht.store(&owner.packet(SEQ));
    }
    let server = Running::start(config.clone());
    for answer in ask_all(&owners, server.address).await {
        assert_eq!(answer, Told::Fresh(SEQ));
    }
    lookups_end(&server, 3).await;
    stop(server).await;

    // Of two keys all nodes have an older one, of the third a quarter.
    for owner in &owners[..2] {
        dht.store(&owner.packet(SEQ - 1));
    }
    dht.store_on(&owners[2].packet(SEQ - 1), |rank| rank % 4 == 0);
    let server = Running::start(config.clone());
    for answer in ask_all(&owners, server.address).await {
        let Told::Stale(SEQ, why) = &answer else {
            panic!("{answer:?}");
        };
        assert!(why.contains("from before the start"), "{why}");
    }
    lookups_end(&server, 3).await;
    assert_eq!(owners[2].ask(server.address).await, Told::Fresh(SEQ));
    let only_older = format!("only packets older than seq {SEQ}");
    for _ in 0..2 {
        pass(RECHECK).await;
        let before = ended(server.dht.status().lookups);
        for owner in &owners[..2] {
            assert!(matches!(
                owner.ask(server.address).await,
                Told::Stale(SEQ, _)
            ));
        }
        lookups_end(&server, before + 2).await;
    }
    // What was answered while it was being looked for.
    pass(Duration::from_secs(6)).await;
    for owner in &owners[..2] {
        let answer = owner.ask(server.address).await;
        let Told::Stale(SEQ, why) = &answer else {
            panic!("{answer:?}");
        };
        assert!(why.contains(&only_older), "{why}");
        let explained = explain(&socket, owner.key).await;
        let packet = explained.packet.unwrap();
        assert_eq!((packet.seq, packet.state), (SEQ, Freshness::Stale));
        let outcome = packet.last_lookup.unwrap().outcome;
        assert!(outcome.contains(&only_older), "{outcome}");
        assert!(
            explained.next.contains("stale packet"),
            "{}",
            explained.next
        );
    }

    flush(&socket, owners[0].key).await;
    let refused = |answer: Told| {
        let Told::Failure(24, why) = &answer else {
            panic!("{answer:?}");
        };
        assert!(why.contains(&only_older), "{why}");
    };
    refused(owners[0].ask(server.address).await);
    let explained = explain(&socket, owners[0].key).await;
    assert!(explained.packet.is_none(), "{explained:?}");
    assert!(explained.next.contains(&only_older), "{}", explained.next);
    stop(server).await;

    let server = Running::start(config);
    refused(owners[0].ask(server.address).await);
    assert!(matches!(
        owners[1].ask(server.address).await,
        Told::Stale(SEQ, _)
    ));
    for owner in &owners[..2] {
        dht.store(&owner.packet(SEQ + 1));
    }
    lookups_end(&server, 2).await;
    pass(RECHECK).await;
    for owner in &owners[..2] {
        until("the newer one is found", async || {
            owner.ask(server.address).await == Told::Fresh(SEQ + 1)
        })
        .await;
    }
}

#[tokio::test]
async fn after_a_restart_without_the_network_all_that_was_seen_is_answered() {
    let directory = Directory::new();
    let dht = Simulated::start(settings()).await;
    let owners = Owner::many(12);
    for owner in &owners {
        dht.store(&owner.packet(SEQ));
    }
    let mut config = with_state(&directory, dht.config());
    config.dht.lookup_timeout = Duration::from_millis(1500);
    let server = Running::start(config.clone());
    ask_all(&owners, server.address).await;
    assert_eq!(lookups_end(&server, 12).await.found, 12);
    stop(server).await;

    dht.network.set_silent(true);
    dht.looked_for();
    let server = Running::start(config);
    let (asked, others) = owners.split_at(4);
    for owner in asked {
        let started = Instant::now();
        let answer = owner.ask(server.address).await;
        assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
        let Told::Stale(SEQ, why) = &answer else {
            panic!("{answer:?}");
        };
        assert!(why.contains("from before the start"), "{why}");
    }
    let never_seen = unpublished().ask(server.address).await;
    assert!(
        matches!(never_seen, Told::Failure(14 | 22, _)),
        "{never_seen:?}"
    );
    let before = ended(lookups_end(&server, 5).await);

    dht.network.set_silent(false);
    for _ in 0..500 {
        // Its nodes wait longer each time before they are built anew.
        pass(Duration::from_secs(1)).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        if server.dht.status().instances.iter().all(|node| node.joined) {
            break;
        }
    }
    pass(RECHECK).await;
    dht.looked_for();
    let mut expected = BTreeSet::new();
    for owners in [asked, &others[..4]] {
        for owner in owners {
            let answer = owner.ask(server.address).await;
            assert!(matches!(answer, Told::Stale(SEQ, _)), "{answer:?}");
            expected.insert(owner.target());
        }
        for owner in owners {
            until("it is found again", async || {
                owner.ask(server.address).await == Told::Fresh(SEQ)
            })
            .await;
        }
        let lookups = lookups_end(&server, before + u64::try_from(expected.len()).unwrap()).await;
        assert_eq!(lookups.found, u64::try_from(expected.len()).unwrap());
    }
    let looked_for = dht.looked_for();
    for owner in &owners {
        let target = owner.target();
        assert_eq!(
            looked_for.contains(&target),
            expected.contains(&target),
            "what is asked for is looked for, and nothing else"
        );
    }
}

#[tokio::test]
async fn a_lookup_goes_on_when_its_client_has_gone() {
    let dht = Simulated::start(Settings {
        round_trip: Duration::from_millis(150),
        ..settings()
    })
    .await;
    let owners = Owner::many(2);
    for owner in &owners {
        dht.store(&owner.packet(SEQ));
    }
    let server = Running::start(dht.config());
    until_joined(&server).await;
    let question = |owner: &Owner| {
        let query = query(&owner.key.to_string(), RecordType::TXT);
        query.to_vec().unwrap()
    };
    let begun = async || {
        until("the lookup begins", async || {
            server.dht.status().lookups.under_way == 1
        })
        .await;
    };
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let sent = socket.send_to(&question(&owners[0]), server.address).await;
    sent.unwrap();
    begun().await;
    drop(socket);
    lookups_end(&server, 1).await;

    let mut stream = TcpStream::connect(server.address).await.unwrap();
    write_framed(&mut stream, &question(&owners[1])).await;
    begun().await;
    drop(stream);
    lookups_end(&server, 2).await;

    dht.network.set_silent(true);
    let gets = dht.gets();
    for owner in &owners {
        assert_eq!(owner.ask(server.address).await, Told::Fresh(SEQ));
    }
    assert_eq!(dht.gets(), gets);
}

/// Asks for random keys until it is told to stop, as fast as the server reads them: what the kernel drops
/// from a full socket is nothing that the server could answer for.
async fn flood(server: SocketAddr, told_to_stop: CancellationToken) -> Flood {
    let mut flood = Flood::default();
    let socket = UdpSocket::bind((FLOODER, 0)).await.unwrap();
    socket.connect(server).await.unwrap();
    let mut buffer = vec![0; 4096];
    while !told_to_stop.is_cancelled() {
        for _ in 0..32 {
            let query = query(&unpublished().key.to_string(), RecordType::TXT);
            socket.send(&query.to_vec().unwrap()).await.unwrap();
            flood.sent += 1;
        }
        // A new name, so that it waits for its turn behind what was sent before.
        let name = format!("f{}.example.", flood.sent);
        ask_as_stub(FLOODER, server, &name, RecordType::A).await;
        while let Ok(length) = socket.try_recv(&mut buffer) {
            match told(&Message::from_vec(&buffer[..length]).unwrap()) {
                Told::Nobody => flood.nobody += 1,
                Told::Failure(0, why) if why.contains("too many unpublished keys") => {
                    flood.over_budget += 1;
                }
                Told::Failure(14, why) if why.contains("too many lookups") => flood.too_many += 1,
                Told::Failure(22, why) if why.contains("still looking") => {}
                other @ (Told::Fresh(_) | Told::Stale(..) | Told::Failure(..)) => {
                    panic!("{other:?}")
                }
            }
        }
    }
    flood
}

/// As a stub does that sends again what may have been lost.
async fn ask_as_stub(
    client: Ipv4Addr,
    server: SocketAddr,
    name: &str,
    rtype: RecordType,
) -> Message {
    let socket = UdpSocket::bind((client, 0)).await.unwrap();
    socket.connect(server).await.unwrap();
    let query = query(name, rtype).to_vec().unwrap();
    let mut buffer = vec![0; 4096];
    let exchange = async {
        loop {
            socket.send(&query).await.unwrap();
            if let Ok(received) = timeout(STUB_RETRY, socket.recv(&mut buffer)).await {
                return received.unwrap();
            }
        }
    };
    let length = timeout(STUB_PATIENCE, exchange).await;
    let length = length.unwrap_or_else(|_| panic!("no answer for {name}"));
    Message::from_vec(&buffer[..length]).unwrap()
}

#[tokio::test]
async fn a_flood_of_random_keys_harms_nobody_but_the_flooder() {
    let directory = Directory::new();
    let dht = Simulated::start(Settings {
        trace: false,
        ..settings()
    })
    .await;
    let upstream = Upstream::plain(0).await;
    let owners = Owner::many(4);
    for owner in &owners {
        dht.store(&owner.packet(SEQ));
    }
    let more = format!(
        "max-lookups-per-second = {PACE}\nmax-misses-per-client = 2\n\
         [upstream]\nservers = [\"{}\"]",
        upstream.address
    );
    let program = Program::start(&directory, &dht, &more).await;
    let server = program.address;
    program.joined().await;
    let ask_key = async |client, owner: &Owner| {
        let name = owner.key.to_string();
        told(&ask_as_stub(client, server, &name, RecordType::TXT).await)
    };
    assert_eq!(ask_key(NEIGHBOUR, &owners[0]).await, Told::Fresh(SEQ));

    let (began, gets, resident) = (Instant::now(), dht.gets(), program.resident());
    let stop = CancellationToken::new();
    let neighbour = async {
        for (number, owner) in owners.iter().enumerate().skip(1) {
            // What is in the cache, what is forwarded, what is to be looked up.
            assert_eq!(ask_key(NEIGHBOUR, &owners[0]).await, Told::Fresh(SEQ));
            let name = format!("n{number}.example.");
            let reply = ask_as_stub(NEIGHBOUR, server, &name, RecordType::A).await;
            assert_eq!(data(&reply, RecordType::A).len(), 1, "{reply}");
            assert_eq!(ask_key(NEIGHBOUR, owner).await, Told::Fresh(SEQ));
            let lookups = program.lookups().await;
            assert!(lookups.waiting <= MAX_WAITING_OF_ONE + 1, "{lookups:?}");
            assert!(lookups.under_way <= MAX_UNDER_WAY, "{lookups:?}");
        }
        let lookups = program.lookups().await;
        assert!(
            lookups.absent < BUDGET,
            "they did not wait for the flooder to be stopped: {lookups:?}"
        );
        let refused = async |count| {
            until("the flooder is refused", async || {
                let lookups = program.lookups().await;
                lookups.refused >= count && lookups.waiting == 0
            })
            .await;
        };
        refused(1000).await;
        let resident = program.resident();
        refused(program.lookups().await.refused + 2000).await;
        stop.cancel();
        (resident, program.resident())
    };
    let ((once, twice), flood) = tokio::join!(neighbour, flood(server, stop.clone()));
    let (lookups, elapsed) = (program.lookups().await, began.elapsed());

    assert!(flood.sent > 3000 && flood.over_budget > 1000, "{flood:?}");
    assert!(flood.nobody <= lookups.absent, "{flood:?}, {lookups:?}");
    let asked = Instant::now();
    let answer = ask_key(FLOODER, &unpublished()).await;
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    assert!(matches!(answer, Told::Failure(0, _)), "{answer:?}");

    // And those that were under way when it was used up, and what was given back meanwhile.
    let misses = lookups.absent + lookups.too_few_answers;
    let allowed = BUDGET + MAX_UNDER_WAY + 2 * elapsed.as_secs();
    assert!((BUDGET..allowed).contains(&misses), "{lookups:?}");
    let started = misses + lookups.found + lookups.failed + lookups.under_way;
    let paced = elapsed.as_secs_f64() * f64::from(PACE);
    let paced = Duration::from_secs_f64(paced).as_secs() + BURST;
    // One was before.
    assert!(started <= paced + 2, "{lookups:?} in {elapsed:?}");
    let gets = dht.gets() - gets;
    assert!(gets <= 80 * started, "{gets} for {started} lookups");
    let clients = dht.network.traffic().clients;
    let peak = clients.values().map(|client| client.peak).max();
    assert!(
        peak.unwrap() <= 40,
        "requests to one node in a second: {peak:?}"
    );

    // A full queue and its lookups, and what was seen: 2,048 of 13 KB in a debug build. Then no more.
    let grown = once.saturating_sub(resident);
    assert!(grown < 64 << 10, "{grown} KiB");
    let grown = twice.saturating_sub(once);
    assert!(grown < 8 << 10, "{grown} KiB");
}

#[tokio::test]
async fn what_was_found_survives_a_kill() {
    let directory = Directory::new();
    let dht = Simulated::start(settings()).await;
    let owners = Owner::many(10);
    for owner in &owners {
        dht.store(&owner.packet(SEQ));
    }
    let more = format!("max-lookups-per-second = {PACE}");
    let program = Program::start(&directory, &dht, &more).await;
    for answer in ask_all(&owners, program.address).await {
        assert_eq!(answer, Told::Fresh(SEQ));
    }
    program.saved(10).await;
    program.kill();
    dht.network.set_silent(true);
    let program = Program::start(&directory, &dht, &more).await;
    for owner in &owners {
        let answer = owner.ask(program.address).await;
        let Told::Stale(SEQ, why) = &answer else {
            panic!("{answer:?}");
        };
        assert!(why.contains("from before the start"), "{why}");
    }
}

#[tokio::test]
async fn a_state_directory_that_is_none_is_told_and_done_without() {
    let directory = Directory::new();
    let dht = Simulated::start(settings()).await;
    let owner = Owner::new(1);
    dht.store(&owner.packet(SEQ));
    std::fs::write(directory.join("state"), "not a directory").unwrap();
    let program = Program::start(&directory, &dht, "").await;
    assert_eq!(owner.ask(program.address).await, Told::Fresh(SEQ));
    let store = program.status().await.store.unwrap();
    assert!(
        store.reason.is_some() && store.state != "ready",
        "{store:?}"
    );
    until("it is in the log", async || {
        let log = program.log();
        log.lines()
            .any(|line| line.contains(" WARN ") && line.contains("packet store"))
    })
    .await;
}

#[tokio::test]
async fn a_damaged_store_is_told_kept_and_replaced() {
    let directory = Directory::new();
    let dht = Simulated::start(settings()).await;
    let owner = Owner::new(1);
    dht.store(&owner.packet(SEQ));
    let state = directory.join("state");
    std::fs::create_dir(&state).unwrap();
    let garbage = b"no database ".repeat(1000);
    std::fs::write(state.join("packets.redb"), &garbage).unwrap();
    let program = Program::start(&directory, &dht, "").await;
    assert_eq!(owner.ask(program.address).await, Told::Fresh(SEQ));
    program.saved(1).await;
    let log = program.log();
    let is_told = |line: &str| line.contains(" WARN ") && line.contains("is damaged");
    assert!(log.lines().any(is_told), "{log}");
    assert!(std::fs::read(state.join("packets.damaged")).unwrap() == garbage);
    program.kill();
    dht.network.set_silent(true);
    let program = Program::start(&directory, &dht, "").await;
    let answer = owner.ask(program.address).await;
    assert!(matches!(answer, Told::Stale(SEQ, _)), "{answer:?}");
}

/// How many nodes hold the key's packet with this `seq`.
fn holders(network: &Simulated, owner: &Owner, seq: u64) -> usize {
    let holders = network.network.holders(owner.key.as_bytes());
    let held = holders.get(&i64::try_from(seq).unwrap());
    held.copied().unwrap_or_default()
}

async fn kept_alive(socket: &Path) -> control::KeepAlive {
    let status = control::ask(socket, &Request::Status).await.unwrap();
    let status: Status = serde_json::from_value(status).unwrap();
    status.keep_alive.unwrap()
}

/// The nodes that had a packet have left but for three: it is put on the others, then the newer one that has
/// come, and nothing of a key without a packet.
#[tokio::test]
async fn a_packet_is_kept_alive_and_a_newer_one_takes_its_place() {
    let network = Simulated::start(settings()).await;
    let directory = Directory::new();
    let [owner, nobody] = [Owner::new(1), Owner::new(2)];
    network.store_on(&owner.packet(SEQ), |rank| rank < 3);
    let mut config = with_state(&directory, network.config());
    config.keep_alive.keys = vec![owner.key, nobody.key];
    config.keep_alive.max_age = Duration::from_secs(100 * 365 * 86_400);
    let interval = config.keep_alive.interval;
    let server = Running::start(config.clone());
    until_joined(&server).await;
    let socket = directory.join("control");
    assert_eq!(kept_alive(&socket).await.keys, 2);

    // The first time comes within a tenth of the interval and some seconds.
    pass(interval / 10 + Duration::from_secs(11)).await;
    until("the packet is put", async || {
        holders(&network, &owner, SEQ) > 15
    })
    .await;
    until("both have had their turn", async || {
        let status = kept_alive(&socket).await;
        (status.kept, status.absent) == (1, 1)
    })
    .await;

    network.store_on(&owner.packet(SEQ + 1), |rank| rank < 3);
    pass(interval).await;
    until("the newer one is put", async || {
        let last = kept_alive(&socket).await.last_put_seconds_ago;
        holders(&network, &owner, SEQ + 1) > 15 && last.is_some_and(|ago| ago < 60)
    })
    .await;
    assert_eq!(
        network.network.holders(nobody.key.as_bytes()),
        BTreeMap::new()
    );
    assert_eq!(owner.ask(server.address).await, Told::Fresh(SEQ + 1));

    // A reload takes the change, and another one lets go of what has become too old.
    config.keep_alive.keys = vec![owner.key];
    config.keep_alive.max_age = Duration::from_secs(86_400);
    reload(&server, config.clone()).await;
    assert_eq!(kept_alive(&socket).await.keys, 1);
    pass(interval).await;
    until("it is let go", async || {
        kept_alive(&socket).await.let_go == 1
    })
    .await;
    config.keep_alive.keys = Vec::new();
    reload(&server, config).await;
    let status = control::ask(&socket, &Request::Status).await.unwrap();
    assert!(status["keep_alive"].is_null(), "{status}");
}
