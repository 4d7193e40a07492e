//! The client of the `mainline` crate on simulated networks.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic"
)]

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use dht_simulator::{HOLDERS, Item, Network, Settings, Trace};
use futures_util::StreamExt;
use mainline::async_dht::AsyncDht;
use mainline::{Dht, GetMutableOutcome, MutableItem, SigningKey};
use tokio::time::Instant;

/// A client that has joined the network.
///
/// Replies without a round trip come in bursts, and a client that gets no time to read loses some of
/// them to its own full buffer. So the tests ask little of how many replies it counts, and look at the
/// network for the rest.
async fn client(network: &Network) -> AsyncDht {
    let client = Dht::builder()
        .bootstrap(&network.bootstrap())
        .bind_address(Ipv4Addr::LOCALHOST)
        .build()
        .unwrap()
        .as_async();
    assert!(client.bootstrapped().await);
    client
}

fn signed(seed: u8, seq: i64) -> MutableItem {
    let key = SigningKey::from_bytes(&[seed; 32]);
    MutableItem::new(key, format!("value {seq}").as_bytes(), seq, None)
}

fn item(seed: u8, seq: i64) -> Item {
    let signed = signed(seed, seq);
    Item {
        key: *signed.key(),
        signature: *signed.signature(),
        seq,
        value: signed.value().to_vec(),
    }
}

/// A whole lookup: the `seq`s of the values that came, and how it ended.
async fn lookup(
    client: &AsyncDht,
    key: &[u8; 32],
    seq: Option<i64>,
) -> (Vec<i64>, GetMutableOutcome) {
    let found = client.get_mutable_detailed(key, None, seq);
    let seqs = found.items.map(|item| item.seq()).collect().await;
    (seqs, found.outcome.recv().await)
}

fn distinct(seqs: Vec<i64>) -> Vec<i64> {
    let seqs: BTreeSet<i64> = seqs.into_iter().collect();
    seqs.into_iter().collect()
}

#[tokio::test]
async fn stored_items_are_found() {
    let settings = Settings {
        nodes: 1_000,
        ..Settings::default()
    };
    let network = Network::start(settings).await.unwrap();
    let client = client(&network).await;
    for seed in 0..10 {
        let item = item(seed, 7);
        assert_eq!(network.store(&item), HOLDERS);
        let (seqs, outcome) = lookup(&client, &item.key, None).await;
        assert_eq!(distinct(seqs), [7]);
        assert_eq!(outcome.invalid_values + outcome.invalid_responses, 0);
    }
    let traffic = network.traffic();
    assert_eq!(traffic.received, traffic.answered);
    assert_eq!(traffic.received.bad, 0);
}

#[tokio::test]
async fn an_absent_key_ends_as_a_completed_lookup() {
    let settings = Settings {
        nodes: 300,
        ..Settings::default()
    };
    let network = Network::start(settings).await.unwrap();
    let (seqs, outcome) = lookup(&client(&network).await, &item(1, 1).key, None).await;
    assert!(seqs.is_empty());
    assert!(outcome.no_values >= 8, "{outcome:?}");
    assert_eq!(outcome.responded(), outcome.no_values);
    assert_eq!(network.traffic().answered.get, u64::from(outcome.queried));
}

#[tokio::test]
async fn what_one_client_puts_another_one_gets() {
    let network = Network::start(Settings::default()).await.unwrap();
    let put = client(&network).await.put_mutable(signed(1, 5), None).await;
    put.unwrap();
    let key = *signed(1, 5).key();
    let holders = network.holders(&key)[&5];
    assert!(holders >= 10, "{holders}");
    let (seqs, _) = lookup(&client(&network).await, &key, None).await;
    assert_eq!(distinct(seqs), [5]);
    let late = client(&network).await;
    // The client calls it a success if less than half of the nodes that it puts to refuse.
    let _ = late.put_mutable(signed(1, 4), None).await;
    assert_eq!(network.holders(&key)[&5], holders);
}

#[tokio::test]
async fn items_are_found_past_a_quarter_of_dead_nodes() {
    let settings = Settings {
        nodes: 1_000,
        dead: 0.25,
        ..Settings::default()
    };
    let network = Network::start(settings).await.unwrap();
    let client = client(&network).await;
    for seed in 0..10 {
        let item = item(seed, 7);
        network.store(&item);
        let found = client.get_mutable(&item.key, None, None).next().await;
        assert_eq!(found.unwrap().seq(), 7);
    }
    let traffic = network.traffic();
    assert!(traffic.answered.get < traffic.received.get, "{traffic:?}");
}

#[tokio::test]
async fn with_stale_holders_both_items_are_seen() {
    let network = Network::start(Settings::default()).await.unwrap();
    let (older, newer) = (item(1, 1), item(1, 2));
    network.store(&older);
    network.store_on(&newer, |rank| rank % 4 != 0);
    let (seqs, _) = lookup(&client(&network).await, &older.key, None).await;
    assert_eq!(distinct(seqs), [1, 2]);
}

#[tokio::test]
async fn who_asks_for_newer_items_gets_no_others() {
    let network = Network::start(Settings::default()).await.unwrap();
    let client = client(&network).await;
    let item = item(1, 5);
    network.store(&item);
    let (seqs, outcome) = lookup(&client, &item.key, Some(5)).await;
    assert!(seqs.is_empty());
    assert!(outcome.no_more_recent >= 1, "{outcome:?}");
    let (seqs, _) = lookup(&client, &item.key, Some(4)).await;
    assert_eq!(distinct(seqs), [5]);
}

#[tokio::test]
async fn poisoners_make_a_client_ask_nodes_that_do_not_exist() {
    let settings = Settings {
        poisoners: 0.5,
        ..Settings::default()
    };
    let network = Network::start(settings).await.unwrap();
    let (_, outcome) = lookup(&client(&network).await, &item(1, 1).key, None).await;
    let real = network.traffic().received.get;
    assert!(u64::from(outcome.queried) >= real + 8, "{outcome:?}");
}

#[tokio::test]
async fn the_floor_is_whole_round_trips_and_never_more_than_the_client_needed() {
    let round_trip = Duration::from_millis(20);
    let settings = Settings {
        nodes: 1_000,
        round_trip,
        trace: true,
        ..Settings::default()
    };
    let network = Network::start(settings).await.unwrap();
    let client = client(&network).await;
    for seed in 0..5 {
        let item = item(seed, 7);
        network.store(&item);
        let asked = Instant::now();
        let found = client.get_mutable_detailed(&item.key, None, None);
        let mut items = found.items;
        assert_eq!(items.next().await.unwrap().seq(), 7);
        let measured = asked.elapsed();
        drop(items);
        let outcome = found.outcome.recv().await;
        let traces = network.take_traces();
        let [trace] = traces.as_slice() else {
            panic!("{traces:?}");
        };
        let Trace {
            floor_first: Some(floor),
            ..
        } = trace
        else {
            panic!("{trace:?}");
        };
        assert_eq!(*floor, round_trip * trace.hops);
        assert!(*floor <= measured, "{floor:?} {measured:?}");
        assert_eq!(trace.floor_newest, trace.floor_first);
        assert_eq!(trace.target, item.target());
        assert_eq!(
            (trace.asked, trace.answered),
            (outcome.queried, outcome.queried)
        );
    }
}
