//! The network as a client with a plain socket sees it.

use std::net::UdpSocket;

use ed25519_dalek::{Signer, SigningKey};

use super::*;
use crate::bencode::{Dictionary, Value, Writer};

/// Longer than any reply takes, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client that asks one thing at a time.
struct Client {
    socket: UdpSocket,
    buffer: [u8; MAX_DATAGRAM],
}

impl Client {
    fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            socket,
            buffer: [0; MAX_DATAGRAM],
        }
    }

    fn address(&self) -> SocketAddrV4 {
        match self.socket.local_addr().unwrap() {
            SocketAddr::V4(address) => address,
            SocketAddr::V6(address) => panic!("{address}"),
        }
    }

    fn send(&self, to: SocketAddrV4, query: &str, arguments: &str, transaction: &str) {
        let id = "2:id20:abcdefghij0123456789";
        let method = format!("{}:{query}", query.len());
        let transaction = format!("{}:{transaction}", transaction.len());
        let datagram = format!("d1:ad{id}{arguments}e1:q{method}1:t{transaction}1:y1:qe");
        let bytes: Vec<u8> = datagram.chars().map(|c| u8::try_from(c).unwrap()).collect();
        self.socket.send_to(&bytes, to).unwrap();
    }

    fn receive(&mut self) -> Dictionary<'_> {
        let (length, _) = self.socket.recv_from(&mut self.buffer).unwrap();
        Dictionary::read(&self.buffer[..length]).unwrap()
    }

    fn ask(&mut self, to: SocketAddrV4, query: &str, arguments: &str) -> Dictionary<'_> {
        self.send(to, query, arguments, "aa");
        self.receive()
    }

    /// Asks for a token and puts with it; gives the code of the error, if it was one.
    fn put(&mut self, to: SocketAddrV4, item: &Item, cas: Option<i64>) -> Option<i64> {
        let get = argument("target", &item.target());
        let reply = self.ask(to, "get", &get);
        let token = part(&reply, "r").bytes("token").unwrap().to_vec();
        self.put_with(to, item, cas, &token)
    }

    fn put_with(
        &mut self,
        to: SocketAddrV4,
        item: &Item,
        cas: Option<i64>,
        token: &[u8],
    ) -> Option<i64> {
        let cas = cas.map_or(String::new(), |cas| format!("3:casi{cas}e"));
        let key = argument("k", &item.key);
        let seq = format!("3:seqi{}e", item.seq);
        let signature = argument("sig", &item.signature);
        let token = argument("token", token);
        let value = argument("v", &item.value);
        self.refusal(
            to,
            "put",
            &format!("{cas}{key}{seq}{signature}{token}{value}"),
        )
    }

    /// The code of the error that is the reply, if it is one.
    fn refusal(&mut self, to: SocketAddrV4, query: &str, arguments: &str) -> Option<i64> {
        let reply = self.ask(to, query, arguments);
        if reply.bytes("y") == Some(b"r") {
            return None;
        }
        assert_eq!(reply.bytes("y"), Some(&b"e"[..]));
        // The reader skips lists.
        let rest = self.buffer.strip_prefix(b"d1:eli").unwrap();
        let digits = rest.split(|byte| *byte == b'e').next().unwrap();
        Some(str::from_utf8(digits).unwrap().parse().unwrap())
    }
}

/// A key and a byte string, each byte as the character of that number.
fn argument(name: &str, bytes: &[u8]) -> String {
    let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
    format!("{}:{name}{}:{text}", name.len(), bytes.len())
}

fn part<'a, 'b>(reply: &'b Dictionary<'a>, name: &str) -> &'b Dictionary<'a> {
    match reply.get(name) {
        Some(Value::Dictionary(part)) => part,
        other => panic!("{name}: {other:?}"),
    }
}

fn item(seed: u8, seq: i64, value: &[u8]) -> Item {
    let key = SigningKey::from_bytes(&[seed; 32]);
    let mut signed = Writer::default();
    signed.bytes(b"seq").integer(seq).bytes(b"v").bytes(value);
    Item {
        key: key.verifying_key().to_bytes(),
        signature: key.sign(&signed.finish()).to_bytes(),
        seq,
        value: value.to_vec(),
    }
}

/// The nodes that a reply names.
fn named(reply: &Dictionary<'_>) -> Vec<(Id, SocketAddrV4)> {
    let infos = part(reply, "r").bytes("nodes").unwrap();
    let node = |info: &[u8]| {
        let id: [u8; 20] = info[..20].try_into().unwrap();
        let ip: [u8; 4] = info[20..24].try_into().unwrap();
        let port = u16::from_be_bytes([info[24], info[25]]);
        (Id::from(id), SocketAddrV4::new(ip.into(), port))
    };
    assert_eq!(infos.len() % 26, 0);
    infos.chunks(26).map(node).collect()
}

/// The address of the first node of that role.
fn first(network: &Network, role: Role) -> SocketAddrV4 {
    let mut nodes = network.shared.world.nodes.iter();
    let place = nodes.position(|node| node.role == role).unwrap();
    network.shared.address(place)
}

/// Waits until the network has that many requests.
async fn until_received(network: &Network, count: u64) {
    while network.traffic().received.total() < count {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_node_answers_under_its_id_with_the_clients_address_and_any_transaction_id() {
    let network = Network::start(Settings::default()).await.unwrap();
    let mut client = Client::new();
    let to = first(&network, Role::Honest);
    let own = client.address();
    for transaction in ["", "a", "aaaa", &"x".repeat(300)] {
        client.send(to, "ping", "", transaction);
        let reply = client.receive();
        assert_eq!(reply.bytes("t"), Some(transaction.as_bytes()));
        assert_eq!(reply.bytes("y"), Some(&b"r"[..]));
        let id = network.shared.world.ids[0].bytes();
        assert_eq!(part(&reply, "r").bytes("id"), Some(&id[..]));
        let [high, low] = own.port().to_be_bytes();
        assert_eq!(reply.bytes("ip"), Some(&[127, 0, 0, 1, high, low][..]));
    }
}

#[tokio::test]
async fn a_node_names_the_nearest_nodes_that_it_knows() {
    for bucket in [8, 20] {
        let settings = Settings {
            nodes: 300,
            bucket,
            ..Settings::default()
        };
        let network = Network::start(settings).await.unwrap();
        let world = &network.shared.world;
        let target = Id::from([0x5a; 20]);
        let mut contacts = world.nodes[0].contacts.clone();
        contacts.sort_by_key(|place| world.ids[*place] ^ target);
        let nearest: Vec<_> = contacts[..bucket]
            .iter()
            .map(|place| (world.ids[*place], network.shared.address(*place)))
            .collect();
        let to = network.shared.address(0);
        let mut client = Client::new();
        let asked = argument("target", &target.bytes());
        assert_eq!(named(&client.ask(to, "find_node", &asked)), nearest);
        let reply = client.ask(to, "get", &asked);
        assert_eq!(named(&reply), nearest);
        assert!(part(&reply, "r").bytes("token").is_some());
        assert!(part(&reply, "r").get("v").is_none());
        let asked = argument("info_hash", &target.bytes());
        let reply = client.ask(to, "get_peers", &asked);
        assert_eq!(named(&reply), nearest);
        assert!(part(&reply, "r").get("values").is_none());
    }
}

#[tokio::test]
async fn bad_requests_are_refused_and_what_is_no_request_is_ignored() {
    let network = Network::start(Settings::default()).await.unwrap();
    let mut client = Client::new();
    let to = first(&network, Role::Honest);
    for garbage in ["", "d1:y1:re", "ping"] {
        client.socket.send_to(garbage.as_bytes(), to).unwrap();
    }
    assert_eq!(client.refusal(to, "find_node", ""), Some(203));
    assert_eq!(client.refusal(to, "announce_peer", ""), Some(204));
    assert_eq!(client.refusal(to, "ping", ""), None);
    let traffic = network.traffic();
    assert_eq!(traffic.ignored, 3);
    assert_eq!((traffic.received.bad, traffic.received.ping), (2, 1));
    assert_eq!((traffic.answered.bad, traffic.answered.ping), (2, 1));
}

#[tokio::test]
async fn a_get_shows_the_item_and_its_seq_alone_to_who_has_it() {
    let network = Network::start(Settings::default()).await.unwrap();
    let mut client = Client::new();
    let item = item(1, 5, b"value");
    assert_eq!(network.store(&item), world::HOLDERS);
    let target = Id::from(item.target());
    let holder = network.shared.world.holders(target)[0];
    let to = network.shared.address(holder);
    let asked = argument("target", &item.target());
    for seq in [None, Some(4)] {
        let seq = seq.map_or(String::new(), |seq: i64| format!("3:seqi{seq}e"));
        let reply = client.ask(to, "get", &format!("{seq}{asked}"));
        let reply = part(&reply, "r");
        assert_eq!(reply.bytes("v"), Some(&b"value"[..]));
        assert_eq!(reply.bytes("k"), Some(&item.key[..]));
        assert_eq!(reply.bytes("sig"), Some(&item.signature[..]));
        assert_eq!(reply.integer("seq"), Some(5));
    }
    for seq in [5, 6] {
        let reply = client.ask(to, "get", &format!("3:seqi{seq}e{asked}"));
        let reply = part(&reply, "r");
        assert_eq!(reply.integer("seq"), Some(5));
        for absent in ["v", "k", "sig"] {
            assert!(reply.get(absent).is_none(), "{absent}");
        }
        assert!(reply.bytes("token").is_some() && reply.bytes("nodes").is_some());
    }
}

#[tokio::test]
async fn a_put_obeys_token_signature_cas_and_seq() {
    let network = Network::start(Settings::default()).await.unwrap();
    let mut client = Client::new();
    let to = first(&network, Role::Honest);
    let first_item = item(1, 5, b"five");
    let held = |seq| BTreeMap::from([(seq, 1)]);
    assert_eq!(client.put_with(to, &first_item, None, b"wrong"), Some(203));
    let forged = Item {
        seq: 6,
        ..first_item.clone()
    };
    assert_eq!(client.put(to, &forged, None), Some(206));
    assert!(network.holders(&first_item.key).is_empty());
    // Without an item there is nothing to compare with.
    assert_eq!(client.put(to, &first_item, Some(1)), None);
    assert_eq!(network.holders(&first_item.key), held(5));
    assert_eq!(client.put(to, &item(1, 4, b"four"), None), Some(302));
    assert_eq!(client.put(to, &item(1, 5, b"other"), None), Some(302));
    assert_eq!(client.put(to, &first_item, None), None);
    assert_eq!(client.put(to, &item(1, 6, b"six"), Some(4)), Some(301));
    assert_eq!(network.holders(&first_item.key), held(5));
    assert_eq!(client.put(to, &item(1, 6, b"six"), Some(5)), None);
    assert_eq!(network.holders(&first_item.key), held(6));
    assert_eq!(client.put(to, &item(1, 7, &[0xff; 1_000]), None), None);
    assert_eq!(client.put(to, &item(1, 8, &[0xff; 1_001]), None), Some(205));
    assert_eq!(network.holders(&first_item.key), held(7));
}

#[tokio::test]
async fn an_item_too_big_is_not_stored_directly_either() {
    let network = Network::start(Settings::default()).await.unwrap();
    let big = item(1, 1, &[0; 1_001]);
    assert_eq!(network.store(&big), 0);
    assert!(network.holders(&big.key).is_empty());
}

#[tokio::test]
async fn items_stay_on_the_ranks_that_they_were_given_to() {
    let network = Network::start(Settings::default()).await.unwrap();
    let (older, newer) = (item(1, 1, b"older"), item(1, 2, b"newer"));
    assert_eq!(network.store(&older), 20);
    assert_eq!(network.store_on(&newer, |rank| rank % 4 != 0), 15);
    let expected = BTreeMap::from([(1, 5), (2, 15)]);
    assert_eq!(network.holders(&older.key), expected);
}

#[tokio::test]
async fn a_poisoner_names_invented_nodes_near_the_target_and_keeps_nothing() {
    let settings = Settings {
        poisoners: 0.5,
        ..Settings::default()
    };
    let network = Network::start(settings).await.unwrap();
    let mut client = Client::new();
    let to = first(&network, Role::Poisoner);
    let item = item(1, 5, b"value");
    let target = Id::from(item.target());
    let asked = argument("target", &item.target());
    for query in ["find_node", "get"] {
        let nodes = named(&client.ask(to, query, &asked));
        assert_eq!(nodes.len(), 8);
        for (id, address) in nodes {
            assert_eq!(id.high, target.high);
            assert!(!network.shared.world.ids.contains(&id));
            assert!(address.ip().octets()[1] >= 128);
        }
    }
    assert_eq!(client.put(to, &item, None), None);
    assert!(network.holders(&item.key).is_empty());
    assert_eq!(client.refusal(to, "ping", ""), None);
}

#[tokio::test]
async fn dead_nodes_are_asked_and_never_answer() {
    let settings = Settings {
        dead: 0.5,
        ..Settings::default()
    };
    let network = Network::start(settings).await.unwrap();
    let mut client = Client::new();
    client.send(first(&network, Role::Dead), "ping", "", "dead");
    until_received(&network, 1).await;
    // Had the dead node answered, its reply would have been under way before this one.
    let reply = client.ask(first(&network, Role::Honest), "ping", "");
    assert_eq!(reply.bytes("t"), Some(&b"aa"[..]));
    assert_eq!(network.traffic().answered.total(), 1);
}

#[tokio::test]
async fn in_an_outage_nobody_answers_and_after_it_all_do_again() {
    let network = Network::start(Settings::default()).await.unwrap();
    let mut client = Client::new();
    let to = first(&network, Role::Honest);
    network.set_silent(true);
    client.send(to, "ping", "", "lost");
    until_received(&network, 1).await;
    network.set_silent(false);
    let reply = client.ask(to, "ping", "");
    assert_eq!(reply.bytes("t"), Some(&b"aa"[..]));
    let traffic = network.traffic();
    let (received, answered) = (traffic.received.total(), traffic.answered.total());
    assert_eq!((received, answered), (2, 1));
}

#[tokio::test]
async fn replies_get_lost_as_often_as_it_is_set() {
    let settings = Settings {
        loss: 0.3,
        ..Settings::default()
    };
    let network = Network::start(settings).await.unwrap();
    let client = Client::new();
    let to = first(&network, Role::Honest);
    for sent in 1..=1_000 {
        client.send(to, "ping", "", "aa");
        until_received(&network, sent).await;
    }
    while network.shared.state().under_way > 0 {
        tokio::task::yield_now().await;
    }
    // The draws are the seed's: 300 of 1000, give or take three standard deviations.
    let answered = network.traffic().answered.ping;
    assert!((657..743).contains(&answered), "{answered}");
}

#[tokio::test]
async fn a_reply_takes_its_round_trip() {
    let settings = Settings {
        round_trip: Duration::from_millis(30),
        jitter: Duration::from_millis(10),
        ..Settings::default()
    };
    let network = Network::start(settings).await.unwrap();
    let mut client = Client::new();
    let to = first(&network, Role::Honest);
    for _ in 0..5 {
        let asked = Instant::now();
        client.ask(to, "ping", "");
        assert!(asked.elapsed() >= Duration::from_millis(20));
    }
    let mut draws = StdRng::seed_from_u64(1);
    let drawn: Vec<u128> = (0..1_000)
        .map(|_| network.shared.round_trip(&mut draws).as_millis())
        .collect();
    assert!(drawn.iter().all(|millis| (20..=40).contains(millis)));
    assert!(drawn.contains(&21) && drawn.contains(&39));
}

#[tokio::test]
async fn traffic_is_counted_by_kind_and_client() {
    let network = Network::start(Settings::default()).await.unwrap();
    let (mut one, mut other) = (Client::new(), Client::new());
    let near = argument("target", &[1; 20]);
    let to = |place| network.shared.address(place);
    one.ask(to(0), "ping", "");
    one.ask(to(1), "find_node", &near);
    one.ask(to(2), "get", &near);
    other.ask(to(0), "get_peers", &argument("info_hash", &[1; 20]));
    let traffic = network.traffic();
    let expected = crate::Counts {
        ping: 1,
        find_node: 1,
        get: 1,
        get_peers: 1,
        ..crate::Counts::default()
    };
    assert_eq!((traffic.received, traffic.answered), (expected, expected));
    let of = |client: &Client| traffic.clients[&client.address()];
    assert_eq!((of(&one).messages, of(&one).peak), (3, 1));
    assert_eq!((of(&other).messages, of(&other).peak), (1, 1));
}

#[tokio::test]
async fn a_dropped_network_gives_its_port_back() {
    let network = Network::start(Settings::default()).await.unwrap();
    let port = network.shared.port;
    drop(network);
    let settings = Settings {
        port,
        ..Settings::default()
    };
    let again = Network::start(settings.clone()).await.unwrap();
    assert_eq!(again.shared.port, port);
    let error = Network::start(settings).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}

#[tokio::test]
async fn settings_that_make_no_network_are_an_error() {
    let settings = Settings {
        dead: 1.0,
        ..Settings::default()
    };
    let error = Network::start(settings).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}
