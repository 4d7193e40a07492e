use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use super::super::tests::pass;
use super::*;
use crate::wire::{self, HEADER_LEN};

pub(in super::super) const A: u16 = 1;
const AAAA: u16 = 28;

/// A server that knows the addresses of `dns.example`: how often it was asked, and whether it fails.
#[derive(Debug, Default)]
pub(in super::super) struct Server {
    asked: AtomicUsize,
    fails: AtomicBool,
}

/// Starts a server that gives these records, data by type, all with this TTL.
pub(in super::super) async fn server(
    records: Vec<(u16, Vec<u8>)>,
    ttl: u32,
) -> (SocketAddr, Arc<Server>) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    let server = Arc::new(Server::default());
    let state = Arc::clone(&server);
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
            state.asked.fetch_add(1, Ordering::SeqCst);
            let query = &buffer[..length];
            let (name, at) = wire::read_name(query, HEADER_LEN).unwrap();
            assert_eq!(name.to_lowercase().to_ascii(), "dns.example.");
            let asked = wire::read_u16(query, at).unwrap();
            let mut reply = query[..at + 4].to_vec();
            reply[2] |= 0x80;
            reply[3] = if state.fails.load(Ordering::SeqCst) {
                2
            } else {
                0x80
            };
            reply[10..12].fill(0);
            if !state.fails.load(Ordering::SeqCst) {
                for (rtype, data) in records.iter().filter(|(rtype, _)| *rtype == asked) {
                    reply[7] += 1;
                    reply.extend([0xc0, 12]);
                    reply.extend(rtype.to_be_bytes());
                    reply.extend([0, 1]);
                    reply.extend(ttl.to_be_bytes());
                    reply.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
                    reply.extend(data);
                }
            }
            socket.send_to(&reply, client).await.unwrap();
        }
    });
    (address, server)
}

fn both_families() -> Vec<(u16, Vec<u8>)> {
    vec![(A, vec![192, 0, 2, 1]), (AAAA, vec![0x20; 16])]
}

fn expected() -> Vec<IpAddr> {
    vec![IpAddr::from([0x20; 16]), IpAddr::from([192, 0, 2, 1])]
}

const HOST: &str = "dns.example";

#[tokio::test]
async fn both_families_are_asked_for_once_until_their_time_is_over() {
    let (address, server) = server(both_families(), 300).await;
    let bootstrap = Arc::new(Bootstrap::new(vec![address]));
    let mut lookups = JoinSet::new();
    for _ in 0..20 {
        let bootstrap = Arc::clone(&bootstrap);
        lookups.spawn(async move { bootstrap.resolve(HOST).await });
    }
    for result in lookups.join_all().await {
        assert_eq!(result, Ok(expected()));
    }
    assert_eq!(server.asked.load(Ordering::SeqCst), 2);
    pass(Duration::from_secs(290)).await;
    assert_eq!(bootstrap.resolve(HOST).await, Ok(expected()));
    assert_eq!(server.asked.load(Ordering::SeqCst), 2);
    pass(Duration::from_secs(11)).await;
    assert_eq!(bootstrap.resolve(HOST).await, Ok(expected()));
    assert_eq!(server.asked.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_low_ttl_holds_for_a_minute_unless_the_addresses_do_not_work() {
    let (address, server) = server(both_families(), 1).await;
    let bootstrap = Bootstrap::new(vec![address]);
    bootstrap.resolve(HOST).await.unwrap();
    pass(MIN_TTL - Duration::from_secs(5)).await;
    bootstrap.doubt(HOST).await;
    bootstrap.resolve(HOST).await.unwrap();
    assert_eq!(server.asked.load(Ordering::SeqCst), 2);
    pass(Duration::from_secs(6)).await;
    bootstrap.resolve(HOST).await.unwrap();
    assert_eq!(server.asked.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn addresses_that_do_not_work_are_looked_up_again_before_their_time() {
    let (address, server) = server(both_families(), 7200).await;
    let bootstrap = Bootstrap::new(vec![address]);
    bootstrap.resolve(HOST).await.unwrap();
    pass(2 * MIN_TTL).await;
    bootstrap.resolve(HOST).await.unwrap();
    assert_eq!(server.asked.load(Ordering::SeqCst), 2);
    bootstrap.doubt(HOST).await;
    bootstrap.resolve(HOST).await.unwrap();
    assert_eq!(server.asked.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn old_addresses_are_used_when_no_server_knows_new_ones() {
    let (address, server) = server(both_families(), 60).await;
    let bootstrap = Bootstrap::new(vec![address]);
    bootstrap.resolve(HOST).await.unwrap();
    server.fails.store(true, Ordering::SeqCst);
    pass(Duration::from_secs(3600)).await;
    assert_eq!(bootstrap.resolve(HOST).await, Ok(expected()));
    assert_eq!(server.asked.load(Ordering::SeqCst), 4);
    assert_eq!(bootstrap.resolve(HOST).await, Ok(expected()));
    assert_eq!(
        server.asked.load(Ordering::SeqCst),
        4,
        "not at each question"
    );
    pass(RETRY_AFTER).await;
    bootstrap.resolve(HOST).await.unwrap();
    assert_eq!(server.asked.load(Ordering::SeqCst), 6);
}

#[tokio::test]
async fn the_next_server_is_asked_when_one_fails_or_knows_nothing() {
    let (failing, server_failing) = server(vec![], 60).await;
    server_failing.fails.store(true, Ordering::SeqCst);
    let (knowing_nothing, _) = server(vec![], 60).await;
    // Of one family alone.
    let (good, _) = server(vec![(A, vec![192, 0, 2, 1])], 60).await;
    let bootstrap = Bootstrap::new(vec![failing, knowing_nothing, good]);
    let v4 = vec![IpAddr::from([192, 0, 2, 1])];
    assert_eq!(bootstrap.resolve(HOST).await, Ok(v4));

    let bootstrap = Bootstrap::new(vec![failing, knowing_nothing]);
    let error = bootstrap.resolve(HOST).await.unwrap_err();
    let expected = "cannot resolve the server's name: RCODE 2; it has no address";
    assert_eq!(error, expected);

    // A failure is no absence.
    let error = Bootstrap::new(vec![failing]).resolve(HOST).await;
    let expected = "cannot resolve the server's name: RCODE 2".to_owned();
    assert_eq!(error, Err(expected));
}
