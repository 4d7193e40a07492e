//! What is known of a key, by a scripted network and a paused clock.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;

use ed25519_dalek::SigningKey;
use futures_util::future::BoxFuture;
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::{Name, RData, Record};
use tokio::time::sleep;

use super::*;

const CLIENT: Asker = Asker::Network(IpAddr::V4(Ipv4Addr::LOCALHOST));

/// A lookup: what it sees, each after so many milliseconds, and how it ends.
#[derive(Debug, Clone)]
struct Script {
    sightings: Vec<(u64, Sighting)>,
    lasts: u64,
    ending: Ending,
}

/// Plays one script a lookup, in order.
#[derive(Debug, Default)]
struct Scripted {
    scripts: Mutex<VecDeque<Script>>,
    askers: Mutex<Vec<Asker>>,
}

impl FetchPacket for Scripted {
    fn fetch<'a>(&'a self, wanted: Wanted, see: &'a mut See<'_>) -> BoxFuture<'a, Ending> {
        self.askers.lock().unwrap().push(wanted.asker);
        let next = self.scripts.lock().unwrap().pop_front();
        Box::pin(async move {
            let script = next.expect("one lookup too many");
            let start = Instant::now();
            for (after, sighting) in script.sightings {
                tokio::time::sleep_until(start + Duration::from_millis(after)).await;
                see(sighting);
            }
            tokio::time::sleep_until(start + Duration::from_millis(script.lasts)).await;
            script.ending
        })
    }
}

/// Packets from a script.
struct World {
    packets: Arc<Packets>,
    fetcher: Arc<Scripted>,
    key: PublicKey,
}

impl World {
    fn new(scripts: impl IntoIterator<Item = Script>) -> Self {
        Self::with_times(times(), scripts)
    }

    fn with_times(times: HoldTimes, scripts: impl IntoIterator<Item = Script>) -> Self {
        let fetcher = Arc::new(Scripted {
            scripts: Mutex::new(scripts.into_iter().collect()),
            askers: Mutex::default(),
        });
        Self {
            packets: Packets::new(fetcher.clone(), None, 1 << 20, times),
            fetcher,
            key: packet(1, 1).key(),
        }
    }

    async fn ask(&self) -> Known {
        self.packets.newest(self.key, CLIENT).await
    }

    /// Asks, and expects the packet while its time lasts.
    async fn fresh(&self) -> Arc<Held> {
        match self.ask().await {
            Known::Packet(held) => held,
            other => panic!("{other:?}"),
        }
    }

    /// Asks, and expects the packet past its time.
    async fn stale(&self) -> (Arc<Held>, String) {
        match self.ask().await {
            Known::Stale(held, reason) => (held, reason),
            other => panic!("{other:?}"),
        }
    }

    /// Asks for the first time, and waits for the lookup to end.
    async fn found(&self) -> Arc<Held> {
        self.fresh().await;
        pass(2000).await;
        self.fresh().await
    }

    fn lookups(&self) -> usize {
        self.fetcher.askers.lock().unwrap().len()
    }
}

fn times() -> HoldTimes {
    HoldTimes {
        min: Duration::from_secs(60),
        max: Duration::from_secs(600),
        empty: Duration::from_secs(300),
        failure: Duration::from_secs(5),
        max_stale: Duration::from_secs(7 * 86_400),
        stale_wait: Duration::ZERO,
    }
}

fn packet(seq: u64, ttl: u32) -> SignedPacket {
    let secret = SigningKey::from_bytes(&[5; 32]);
    let key = PublicKey::from_bytes(&secret.verifying_key().to_bytes()).unwrap();
    let owner = Name::from_ascii(format!("{key}.")).unwrap();
    let data = RData::TXT(TXT::new(vec![seq.to_string()]));
    SignedPacket::sign_records(&secret, seq, vec![Record::from_rdata(owner, ttl, data)]).unwrap()
}

fn complete() -> Ending {
    Ending::Complete(Holders {
        newest: 3,
        older: 1,
    })
}

/// A lookup that sees these after 50, 100, … ms and ends after a second.
fn sees(sightings: impl IntoIterator<Item = Sighting>) -> Script {
    let after = (1..).map(|count| count * 50);
    Script {
        sightings: after.zip(sightings).collect(),
        lasts: 1000,
        ending: complete(),
    }
}

fn finds(seq: u64, ttl: u32) -> Script {
    sees([Sighting::Packet(packet(seq, ttl))])
}

fn nobody() -> Script {
    sees([])
}

fn poor() -> Script {
    Script {
        ending: Ending::Poor,
        ..nobody()
    }
}

async fn pass(milliseconds: u64) {
    sleep(Duration::from_millis(milliseconds)).await;
}

async fn pass_seconds(seconds: u64) {
    pass(seconds * 1000).await;
}

#[tokio::test(start_paused = true)]
async fn a_packet_is_held_for_its_lowest_ttl_within_bounds() {
    for (ttl, seconds) in [(5, 60), (100, 100), (86_400, 600)] {
        let world = World::new([finds(1, ttl)]);
        let held = world.found().await;
        assert_eq!(held.expires - held.fetched, Duration::from_secs(seconds));
        assert_eq!(
            held.refresh_at - held.fetched,
            Duration::from_secs(seconds) * 8 / 10
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_packet_answers_and_is_believed_for_a_short_time_until_the_lookup_ends() {
    let world = World::new([finds(1, 600)]);
    let start = Instant::now();
    let first = world.fresh().await;
    assert_eq!(start.elapsed(), Duration::from_millis(50));
    assert!(first.is_provisional);
    assert_eq!(first.ttl_limit(), 30);
    assert_eq!(first.expires - first.fetched, Duration::from_secs(30));
    pass_seconds(1).await;
    let second = world.fresh().await;
    assert!(first.ended.load(Ordering::Relaxed));
    assert!(!second.is_provisional);
    assert_eq!(second.expires - first.fetched, Duration::from_secs(600));
    assert_eq!(second.holders.map(|holders| holders.newest), Some(3));
    assert_eq!(world.lookups(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_newer_packet_that_the_lookup_finds_later_replaces_the_first() {
    let sightings = [3, 5].map(|seq| Sighting::Packet(packet(seq, 600)));
    let world = World::new([sees(sightings)]);
    let first = world.fresh().await;
    assert_eq!(first.packet.seq(), 3);
    pass(60).await;
    assert_eq!(world.fresh().await.packet.seq(), 5);
    assert!(first.ended.load(Ordering::Relaxed));
}

#[tokio::test(start_paused = true)]
async fn a_lookup_goes_on_when_whoever_asked_has_gone() {
    let world = World::new([finds(1, 600)]);
    let asked = timeout(Duration::from_millis(10), world.ask()).await;
    assert!(asked.is_err(), "{asked:?}");
    pass(60).await;
    world.fresh().await;
    assert_eq!(world.lookups(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_newest_ever_seen_wins() {
    let world = World::new([finds(10, 60), finds(9, 60), finds(11, 60)]);
    let first = world.found().await;
    pass_seconds(60).await;
    world.stale().await;
    pass_seconds(2).await;
    let (held, reason) = world.stale().await;
    assert_eq!(held.packet.seq(), 10);
    assert!(
        reason.contains("only packets older than seq 10"),
        "{reason}"
    );
    assert_eq!(world.packets.rollbacks(), 1);
    assert!(!first.ended.load(Ordering::Relaxed));
    pass_seconds(30).await;
    assert_eq!(world.stale().await.0.packet.seq(), 10);
    pass_seconds(2).await;
    assert_eq!(world.fresh().await.packet.seq(), 11);
    assert!(first.ended.load(Ordering::Relaxed));
}

#[tokio::test(start_paused = true)]
async fn an_older_packet_is_refused_although_the_newer_one_is_forgotten() {
    let world = World::new([finds(10, 60), finds(9, 60), finds(10, 60)]);
    world.found().await;
    assert_eq!(world.packets.forget(Some(world.key)), 1);
    let known = world.ask().await;
    assert!(
        matches!(known, Known::Failed(Failure::OnlyOlderPackets(10))),
        "{known:?}"
    );
    assert_eq!(world.packets.forget(None), 0);
    assert_eq!(world.fresh().await.packet.seq(), 10);
}

#[tokio::test(start_paused = true)]
async fn forgetting_a_packet_does_not_forget_a_newer_item_that_is_none() {
    let invalid = Sighting::Invalid {
        seq: 12,
        reason: "odd".to_owned(),
    };
    let world = World::new([finds(10, 60), sees([invalid]), finds(11, 60)]);
    world.found().await;
    pass_seconds(60).await;
    world.stale().await;
    pass(2000).await;
    assert_eq!(world.packets.forget(Some(world.key)), 1);
    let known = world.ask().await;
    assert!(
        matches!(known, Known::Failed(Failure::OnlyOlderPackets(12))),
        "{known:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_not_an_absence_and_both_are_remembered_for_their_time() {
    let world = World::new([poor(), nobody(), finds(1, 60)]);
    let poor_miss = |known: Known| matches!(known, Known::Failed(Failure::DhtPoorMiss));
    assert!(poor_miss(world.ask().await));
    pass_seconds(4).await;
    assert!(poor_miss(world.ask().await));
    pass_seconds(1).await;
    assert!(matches!(world.ask().await, Known::Absent));
    pass_seconds(29).await;
    assert!(matches!(world.ask().await, Known::Absent));
    assert_eq!(world.lookups(), 2);
    pass_seconds(1).await;
    world.fresh().await;
}

#[tokio::test(start_paused = true)]
async fn an_absence_is_believed_for_longer_each_time() {
    let world = World::new((0..7).map(|_| nobody()));
    for (lookups, seconds) in (1..).zip([30, 60, 120, 240, 300, 300]) {
        world.ask().await;
        assert_eq!(world.lookups(), lookups);
        pass_seconds(seconds - 1).await;
        assert!(matches!(world.ask().await, Known::Absent));
        assert_eq!(world.lookups(), lookups);
        pass_seconds(1).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_packet_past_its_time_is_served_at_once_while_it_is_looked_for() {
    let world = World::new([finds(1, 60), finds(1, 60)]);
    world.found().await;
    pass_seconds(60).await;
    let start = Instant::now();
    let (held, reason) = world.stale().await;
    assert!(start.elapsed().is_zero());
    assert!(reason.contains("is being looked for"), "{reason}");
    pass(60).await;
    let again = world.fresh().await;
    assert!(
        held.ended.load(Ordering::Relaxed),
        "its stale answers must go"
    );
    assert!(again.fetched > held.fetched);
    let askers = world.fetcher.askers.lock().unwrap();
    assert_eq!(*askers, [CLIENT, Asker::Refresh]);
}

#[tokio::test(start_paused = true)]
async fn a_newer_packet_is_waited_for_first_if_the_configuration_says_so() {
    let stale_wait = Duration::from_millis(500);
    let slow = Script {
        sightings: vec![(800, Sighting::Packet(packet(3, 60)))],
        ..nobody()
    };
    let scripts = [finds(1, 60), finds(2, 60), slow, poor()];
    let world = World::with_times(
        HoldTimes {
            stale_wait,
            ..times()
        },
        scripts,
    );
    world.found().await;
    pass_seconds(60).await;
    assert_eq!(
        world.fresh().await.packet.seq(),
        2,
        "it came within the time"
    );
    pass_seconds(62).await;
    let start = Instant::now();
    assert_eq!(world.stale().await.0.packet.seq(), 2);
    assert_eq!(start.elapsed(), stale_wait);
    pass_seconds(1).await;
    assert_eq!(world.fresh().await.packet.seq(), 3);
}

#[tokio::test(start_paused = true)]
async fn with_no_time_for_stale_packets_a_failure_is_a_failure() {
    let max_stale = Duration::ZERO;
    let world = World::with_times(
        HoldTimes {
            max_stale,
            ..times()
        },
        [finds(1, 60), poor()],
    );
    world.found().await;
    pass_seconds(60).await;
    let known = world.ask().await;
    assert!(
        matches!(known, Known::Failed(Failure::DhtPoorMiss)),
        "{known:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_asked_for_late_in_its_time_is_fetched_ahead_of_it() {
    let world = World::new([finds(1, 100), finds(2, 100), finds(2, 100)]);
    world.found().await;
    pass_seconds(77).await;
    world.fresh().await;
    assert_eq!(world.lookups(), 1, "79 seconds of 100 are over");
    pass_seconds(2).await;
    let start = Instant::now();
    assert_eq!(world.fresh().await.packet.seq(), 1);
    assert!(start.elapsed().is_zero(), "nobody waits for it");
    pass(60).await;
    assert_eq!(world.fresh().await.packet.seq(), 2);
    assert_eq!(world.lookups(), 2);
    pass_seconds(200).await;
    assert_eq!(world.lookups(), 2, "nobody asks");
}

#[tokio::test(start_paused = true)]
async fn a_fetch_ahead_that_fails_is_not_repeated_at_once() {
    let world = World::new([finds(1, 100), poor(), poor()]);
    world.found().await;
    pass_seconds(79).await;
    for _ in 0..10 {
        world.fresh().await;
        pass_seconds(1).await;
    }
    assert_eq!(world.lookups(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_has_left_the_dht_is_served_and_looked_for_ever_more_rarely() {
    let absent = (0..20).map(|_| nobody());
    let world = World::new([finds(1, 60)].into_iter().chain(absent));
    world.found().await;
    pass_seconds(60).await;
    world.stale().await;
    // Half a second after the lookup's end.
    pass(1500).await;
    let mut lookups = 2;
    for seconds in [30, 60, 120, 240, 480, 960, 1920, 3600, 3600] {
        let (_, reason) = world.stale().await;
        assert!(reason.contains("has left the DHT"), "{reason}");
        pass_seconds(seconds - 1).await;
        world.stale().await;
        assert_eq!(world.lookups(), lookups);
        pass_seconds(1).await;
        world.stale().await;
        pass(1500).await;
        lookups += 1;
        assert_eq!(world.lookups(), lookups);
    }
    pass_seconds(7 * 86_400).await;
    assert!(matches!(world.ask().await, Known::Absent));
}

#[tokio::test(start_paused = true)]
async fn a_newer_item_that_is_no_packet_supersedes() {
    let invalid = |seq| {
        let reason = "too long".to_owned();
        sees([Sighting::Invalid { seq, reason }])
    };
    let world = World::new([finds(5, 60), invalid(6), finds(5, 60)]);
    world.found().await;
    for reason_part in ["seq 6: too long", "only packets older than seq 6"] {
        pass_seconds(60).await;
        world.stale().await;
        pass_seconds(2).await;
        let (_, reason) = world.stale().await;
        assert!(reason.contains(reason_part), "{reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_passing_failure_is_not_remembered_unless_a_packet_is_held() {
    let over_budget = Script {
        ending: Ending::Failed(Failure::OverBudget(1)),
        lasts: 0,
        ..nobody()
    };
    let world = World::new([over_budget.clone(), finds(1, 60), over_budget]);
    assert!(matches!(
        world.ask().await,
        Known::Failed(Failure::OverBudget(1))
    ));
    world.found().await;
    pass_seconds(60).await;
    world.stale().await;
    pass_seconds(1).await;
    let (_, reason) = world.stale().await;
    assert!(reason.contains("looked for again in 29 s"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn one_clients_budget_is_not_anothers() {
    let over_budget = Script {
        ending: Ending::Failed(Failure::OverBudget(1)),
        lasts: 100,
        ..nobody()
    };
    let world = World::new([over_budget, finds(1, 60)]);
    let other = Asker::Network(IpAddr::V4(Ipv4Addr::BROADCAST));
    let (first, second) = tokio::join!(
        world.packets.newest(world.key, other),
        world.packets.newest(world.key, CLIENT)
    );
    assert!(matches!(first, Known::Failed(Failure::OverBudget(1))));
    assert!(matches!(second, Known::Packet(_)), "{second:?}");
    assert_eq!(*world.fetcher.askers.lock().unwrap(), [other, CLIENT]);
}

/// The DHT could not be asked: it is held as long as its TTLs say, and not taken for the newest.
#[tokio::test(start_paused = true)]
async fn a_packet_of_relays_alone_has_its_time_and_is_not_put_on_the_dht() {
    let relayed = || Script {
        ending: Ending::Relayed,
        ..sees([Sighting::Packet(packet(7, 300))])
    };
    let world = World::new([relayed(), relayed()]);
    let held = world.found().await;
    assert!(!held.is_provisional);
    assert_eq!(held.expires - held.fetched, Duration::from_secs(300));
    assert_eq!((held.holders, held.ttl_limit()), (None, u32::MAX));
    let again = world.packets.look_again(world.key).await;
    assert_eq!(again.unwrap_err(), Failure::DhtPoorMiss);
}

#[tokio::test(start_paused = true)]
async fn packets_grow_older_while_the_clock_stands_still() {
    let world = World::new([finds(1, 600), nobody(), finds(2, 600)]);
    let held = world.found().await;
    let now = Instant::now();
    world.packets.grow_older(Duration::from_secs(300));
    assert!(
        held.ended.load(Ordering::Relaxed),
        "answers made from it are made anew"
    );
    let older = world.fresh().await;
    assert_eq!(older.packet.seq(), 1);
    assert_eq!(held.expires - older.expires, Duration::from_secs(300));
    world.packets.grow_older(Duration::from_secs(300));
    assert_eq!(world.stale().await.0.packet.seq(), 1);
    pass(2000).await;
    // Nobody has it, which is remembered, but not longer than the host slept.
    assert_eq!(world.stale().await.0.packet.seq(), 1);
    assert_eq!(world.lookups(), 2);
    world.packets.grow_older(Duration::from_secs(3600));
    assert_eq!(world.stale().await.0.packet.seq(), 1);
    pass(2000).await;
    assert_eq!(world.fresh().await.packet.seq(), 2);
    assert!(world.fresh().await.fetched >= now);
}
