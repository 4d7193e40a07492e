//! The store as a whole, on real files: restarts, damage, kills, bounds.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use ed25519_dalek::SigningKey;

use super::disk::{Tables, guarded};
use super::pending::MAX_CHANGES;
use super::record::Secret;
use super::*;

const LARGE: u64 = 64 << 20;

/// A directory of a test's own, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("pkbridge-store-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn store(&self) -> PathBuf {
        self.0.join("packets.redb")
    }

    fn damaged(&self) -> PathBuf {
        self.0.join("packets.damaged")
    }

    fn secret(&self) -> PathBuf {
        self.0.join("packets.secret")
    }

    fn open(&self) -> Arc<Store> {
        self.open_with(LARGE)
    }

    fn open_with(&self, max_bytes: u64) -> Arc<Store> {
        Store::open(StoreSettings {
            directory: self.0.clone(),
            max_bytes,
        })
    }

    /// A closed store with these packets.
    async fn with(packets: &[SignedPacket]) -> Self {
        let scratch = Self::new();
        let store = scratch.open();
        for packet in packets {
            store.put(packet, at(1000));
        }
        store.close().await;
        scratch
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Store {
    /// Waits until the store is as it should be. A minute is never needed.
    fn until(&self, mut what: impl FnMut(&StoreHealth) -> bool) -> StoreHealth {
        let start = tokio::time::Instant::now();
        loop {
            let health = self.health();
            if what(&health) {
                return health;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "{health:?}");
            // Woken by any news; looks again at times, for not all that changes is news.
            let step = Duration::from_millis(20);
            let waited = self.shared.news.wait_timeout(self.shared.lock(), step);
            drop(waited);
        }
    }

    fn until_written(&self) -> StoreHealth {
        self.until(|health| health.state == StoreState::Ready && health.dirty == 0)
    }
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn secret(number: u32) -> SigningKey {
    let mut bytes = [7; 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    SigningKey::from_bytes(&bytes)
}

/// A packet of 500 bytes; the DNS message is a header without records, and bytes after it.
fn packet(number: u32, seq: u64) -> SignedPacket {
    let mut dns = vec![0; 12];
    let noise = (0..384_u32).map(|i| (number.wrapping_mul(31) ^ i.wrapping_mul(7)) as u8);
    dns.extend(noise);
    SignedPacket::sign(&secret(number), seq, &dns).unwrap()
}

fn packets(count: u32) -> Vec<SignedPacket> {
    (0..count).map(|number| packet(number, 10)).collect()
}

fn key(number: u32) -> PublicKey {
    packet(number, 1).key()
}

fn stored(packet: &SignedPacket, seconds: u64) -> Remembered {
    Remembered {
        packet: Some(StoredPacket {
            packet: packet.clone(),
            confirmed: at(seconds),
        }),
        seq: Some(packet.seq()),
    }
}

/// Asks again where a busy machine was too slow.
async fn get(store: &Store, key: PublicKey) -> Option<Remembered> {
    let start = tokio::time::Instant::now();
    loop {
        let found = store.get(key).await;
        let may_come = matches!(
            store.health().state,
            StoreState::Opening | StoreState::Ready
        );
        if found.is_some() || !may_come || start.elapsed() > Duration::from_secs(60) {
            return found;
        }
    }
}

async fn seqs(store: &Store, number: u32) -> (Option<u64>, Option<u64>) {
    let remembered = get(store, key(number)).await.unwrap();
    (remembered.packet.map(|p| p.packet.seq()), remembered.seq)
}

/// How many of these packets the store has.
async fn count(store: &Store, packets: &[SignedPacket]) -> usize {
    let mut count = 0;
    for packet in packets {
        let found = get(store, packet.key()).await;
        let found = found.and_then(|found| found.packet);
        count += usize::from(found.is_some_and(|found| found.packet == *packet));
    }
    count
}

// What a store is for.

#[tokio::test]
async fn what_is_put_is_there_at_once_and_after_a_restart() {
    let scratch = Scratch::new();
    let directory = scratch.0.join("made/when/missing");
    let settings = StoreSettings {
        directory: directory.clone(),
        max_bytes: LARGE,
    };
    let store = Store::open(settings.clone());
    let packet = packet(1, 10);
    assert_eq!(get(&store, packet.key()).await, Some(Remembered::default()));
    store.put(&packet, at(1234));
    assert_eq!(get(&store, packet.key()).await, Some(stored(&packet, 1234)));
    store.until_written();
    assert_eq!(get(&store, packet.key()).await, Some(stored(&packet, 1234)));
    store.close().await;
    assert_eq!(store.health().state, StoreState::Off("closed".to_owned()));
    assert_eq!(store.get(packet.key()).await, None);
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    assert_eq!(mode(&directory.join("packets.redb")), 0o600);
    assert_eq!(mode(&directory.join("packets.secret")), 0o600);
    let store = Store::open(settings);
    assert_eq!(get(&store, packet.key()).await, Some(stored(&packet, 1234)));
    assert_eq!(store.health().packets, 1);
}

#[tokio::test]
async fn a_store_that_is_dropped_writes_what_is_left() {
    let scratch = Scratch::new();
    let packets = packets(10);
    let store = scratch.open();
    store.until_written();
    for packet in &packets {
        store.put(packet, at(1));
    }
    drop(store);
    // The second one waits until the first has let go.
    let store = scratch.open();
    store.until(|health| health.packets == 10);
    assert_eq!(count(&store, &packets).await, 10);
}

#[tokio::test]
async fn a_file_that_others_could_read_is_made_private() {
    let scratch = Scratch::with(&packets(1)).await;
    let paths = [scratch.store(), scratch.secret()];
    for path in &paths {
        let open = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(path, open).unwrap();
    }
    let store = scratch.open();
    store.until_written();
    for path in paths {
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
    }
}

#[tokio::test]
async fn an_older_packet_never_replaces_a_newer_one() {
    let scratch = Scratch::new();
    let store = scratch.open();
    store.put(&packet(1, 10), at(1));
    store.put(&packet(1, 9), at(2));
    assert_eq!(seqs(&store, 1).await, (Some(10), Some(10)), "in memory");
    store.until_written();
    store.put(&packet(1, 8), at(3));
    assert_eq!(seqs(&store, 1).await, (Some(10), Some(10)), "over the disk");
    store.close().await;
    let store = scratch.open();
    assert_eq!(seqs(&store, 1).await, (Some(10), Some(10)), "on disk");
    store.put(&packet(1, 11), at(4));
    assert_eq!(seqs(&store, 1).await, (Some(11), Some(11)));
    // On a tie the greater DNS bytes win, in whatever order they come.
    let with = |last: u8| {
        let dns = [&[0; 12], [last].as_slice()].concat();
        SignedPacket::sign(&secret(2), 5, &dns).unwrap()
    };
    store.put(&with(7), at(5));
    store.until_written();
    store.put(&with(6), at(6));
    store.until_written();
    assert_eq!(get(&store, with(7).key()).await, Some(stored(&with(7), 5)));
    store.put(&with(8), at(7));
    store.until_written();
    assert_eq!(get(&store, with(7).key()).await, Some(stored(&with(8), 7)));
}

#[tokio::test]
async fn a_newer_item_without_a_packet_is_remembered_beside_the_packet() {
    let scratch = Scratch::new();
    let store = scratch.open();
    store.put_seq(key(2), 20);
    store.put(&packet(1, 10), at(1));
    store.put_seq(key(1), 12);
    store.put_seq(key(1), 11);
    for _ in 0..2 {
        assert_eq!(seqs(&store, 1).await, (Some(10), Some(12)));
        assert_eq!(seqs(&store, 2).await, (None, Some(20)));
        store.until_written();
    }
    let health = store.health();
    assert_eq!((health.packets, health.seqs), (1, 1));
    // What is older than the item is not taken in, but what is there can be confirmed.
    store.put(&packet(1, 11), at(10_000));
    store.put(&packet(2, 19), at(10_000));
    assert_eq!(seqs(&store, 1).await, (Some(10), Some(12)));
    assert_eq!(seqs(&store, 2).await, (None, Some(20)));
    store.until_written();
    store.put(&packet(1, 10), at(10_000));
    store.until_written();
    let found = get(&store, key(1)).await.unwrap();
    let confirmed = found.packet.unwrap().confirmed;
    assert_eq!(confirmed, at(10_000));
    store.put(&packet(2, 20), at(1));
    store.until_written();
    assert_eq!(seqs(&store, 2).await, (Some(20), Some(20)));
    assert_eq!(store.health().seqs, 0);
}

#[tokio::test]
async fn what_is_forgotten_leaves_its_seq() {
    let scratch = Scratch::with(&packets(5)).await;
    let store = scratch.open();
    store.forget(Some(key(1)));
    assert_eq!(seqs(&store, 1).await, (None, Some(10)), "in memory");
    store.until_written();
    assert_eq!(seqs(&store, 1).await, (None, Some(10)), "on disk");
    assert_eq!(seqs(&store, 2).await, (Some(10), Some(10)));
    store.put(&packet(9, 30), at(1));
    store.forget(None);
    store.put(&packet(3, 10), at(2));
    for place in ["in memory", "on disk", "after a restart"] {
        assert_eq!(seqs(&store, 2).await, (None, Some(10)), "{place}");
        assert_eq!(seqs(&store, 9).await, (None, Some(30)), "{place}");
        assert_eq!(seqs(&store, 3).await, (Some(10), Some(10)), "{place}");
        store.until_written();
    }
    store.close().await;
    let store = scratch.open();
    assert_eq!(seqs(&store, 2).await, (None, Some(10)));
    assert_eq!(seqs(&store, 9).await, (None, Some(30)));
    let health = store.health();
    assert_eq!((health.packets, health.seqs), (1, 5));
}

#[tokio::test]
async fn confirming_a_packet_again_soon_writes_nothing() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let packet = packet(1, 10);
    for (put, kept) in [(1000, 1000), (1599, 1000), (1600, 1600), (500, 500)] {
        store.put(&packet, at(put));
        store.until_written();
        assert_eq!(
            get(&store, packet.key()).await,
            Some(stored(&packet, kept)),
            "{put}"
        );
    }
    // A clock before 1970 is no reason to fail.
    store.put(&packet, UNIX_EPOCH - Duration::from_secs(1));
    store.until_written();
    assert_eq!(get(&store, packet.key()).await, Some(stored(&packet, 500)));
}

#[tokio::test(start_paused = true)]
async fn a_paused_clock_does_not_cut_reads_short() {
    let packets = packets(3);
    let scratch = Scratch::with(&packets).await;
    let store = scratch.open();
    assert_eq!(count(&store, &packets).await, 3);
}

#[tokio::test]
async fn a_disk_that_hangs_costs_one_read_a_second_and_no_more() {
    let scratch = Scratch::with(&packets(3)).await;
    let store = scratch.open();
    store.until_written();
    let shared = Arc::clone(&store.shared);
    let (hangs, is_hanging) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let disk = std::thread::spawn(move || {
        let held = shared.disk.write().unwrap();
        hangs.send(()).unwrap();
        let _ = released.recv();
        drop(held);
    });
    is_hanging.recv().unwrap();
    store.put(&packet(7, 10), at(1));
    store.put_seq(key(8), 10);
    let start = tokio::time::Instant::now();
    assert_eq!(store.get(key(0)).await, None);
    assert!(start.elapsed() >= READ_TIMEOUT);
    // Also where all threads for reads hang.
    let start = tokio::time::Instant::now();
    for number in 0..60 {
        let found = store.get(key(number % 3)).await;
        assert_eq!(found, None);
    }
    assert!(start.elapsed() < 30 * READ_TIMEOUT, "{:?}", start.elapsed());
    let waiting = stored(&packet(7, 10), 1);
    assert_eq!(store.get(key(7)).await, Some(waiting));
    assert_eq!(store.get(key(8)).await, None, "a seq alone is not enough");
    release.send(()).unwrap();
    disk.join().unwrap();
    assert_eq!(seqs(&store, 0).await, (Some(10), Some(10)));
    assert_eq!(seqs(&store, 8).await, (None, Some(10)));
}

/// The time that a kill may cost. Any other load may make a round slow, but a defect makes all so.
#[tokio::test]
async fn what_is_put_is_on_the_disk_within_a_second_however_much_comes_after_it() {
    let scratch = Scratch::new();
    let store = scratch.open();
    store.until_written();
    let mut put = 0;
    let mut round = || {
        let (start, before) = (tokio::time::Instant::now(), put);
        store.until(|health| {
            store.put(&packet(put, 1), at(1));
            put += 1;
            health.packets > u64::from(before)
        });
        start.elapsed()
    };
    let fastest = (0..60)
        .map(|_| round())
        .find(|took| *took < Duration::from_secs(1));
    assert!(fastest.is_some());
}

// Bounds.

#[tokio::test]
async fn the_least_useful_packets_go_first_and_leave_their_seqs() {
    let scratch = Scratch::new();
    let cost = packet(0, 1).to_bytes().len() as u64 + 34 + disk::RECORD_OVERHEAD;
    let bound = 4 * cost + 10;
    // Every opening begins a tick.
    for number in 0..4 {
        let store = scratch.open_with(bound);
        store.put(&packet(number, 10), at(1));
        store.close().await;
    }
    let store = scratch.open_with(bound);
    assert_eq!(store.until_written().bytes, 4 * cost);
    store.touch(key(0));
    store.touch(key(1));
    store.put(&packet(2, 10), at(1));
    store.until_written();
    store.put(&packet(4, 10), at(1));
    let health = store.until_written();
    assert_eq!((health.packets, health.seqs), (4, 1));
    assert_eq!(
        seqs(&store, 3).await,
        (None, Some(10)),
        "asked for longest ago"
    );
    for number in [0, 1, 2, 4] {
        assert_eq!(seqs(&store, number).await, (Some(10), Some(10)), "{number}");
    }
    // A smaller bound holds from the first write on.
    store.close().await;
    let store = scratch.open_with(cost);
    store.put(&packet(5, 10), at(1));
    let health = store.until(|health| health.packets == 1);
    assert_eq!((health.bytes, health.seqs), (cost, 5));
    assert_eq!(seqs(&store, 5).await, (Some(10), Some(10)));
}

#[test]
fn seqs_are_bounded_and_the_oldest_go_first() {
    let memory = redb::backends::InMemoryBackend::new();
    let disk = Disk::open(memory, Secret::random(), false).unwrap();
    let mut tables = Tables::read(&disk, LARGE).unwrap();
    tables.max_seqs = 5;
    for number in 0..8 {
        let mut changes = Changes::default();
        changes.of(key(number)).put_seq(9);
        tables.tick += 1;
        tables.apply(&disk, &changes).unwrap();
    }
    assert_eq!(tables.usage.seqs, 5);
    for number in 0..8 {
        let found = disk.record(&key(number)).unwrap();
        assert_eq!(matches!(found, OnDisk::Record(_)), number >= 3, "{number}");
    }
    let again = Tables::read(&disk, LARGE).unwrap();
    assert_eq!(again.usage, tables.usage, "counting gives the same");
    assert!(again.tick > tables.tick);
}

#[test]
fn changes_are_bounded_and_the_oldest_go_first() {
    let keys: Vec<PublicKey> = (0..3).map(key).collect();
    let mut changes = Changes::default();
    for &key in &keys {
        changes.of(key).put_seq(1);
    }
    // One for another key each, without signing thousands of packets.
    let mut bytes = [0; 32];
    let mut number = 0_u32;
    while changes.len() < MAX_CHANGES {
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        number += 1;
        if let Ok(key) = PublicKey::from_bytes(&bytes) {
            changes.of(key).put_seq(1);
        }
    }
    assert_eq!(changes.dropped, 0);
    changes.of(key(3)).put_seq(1);
    assert_eq!((changes.len(), changes.dropped), (MAX_CHANGES, 1));
    assert!(changes.get(&keys[0]).is_none());
    assert!(changes.get(&keys[1]).is_some());
    // Put back in front of later ones, the oldest go again.
    let mut later = Changes::default();
    later.of(key(4)).put_seq(1);
    later.of(keys[2]).put_seq(7);
    changes.then(later);
    assert_eq!((changes.len(), changes.dropped), (MAX_CHANGES, 2));
    assert!(changes.get(&keys[1]).is_none());
    assert_eq!(changes.get(&keys[2]).and_then(|change| change.seq), Some(7));
}

#[test]
fn changes_one_after_the_other_are_the_same_as_both_at_once() {
    type Step = fn(&mut Change);
    let steps: [Step; 6] = [
        |change| change.put(packet(1, 10), 1),
        |change| change.put(packet(1, 11), 2),
        |change| change.put_seq(12),
        Change::forget,
        |change| change.touched = true,
        |change| change.put(packet(1, 9), 3),
    ];
    let key = key(1);
    let apply = |record, change: &Changes| match change.get(&key) {
        Some(change) => Record::changed(record, &key, change, 5),
        None => record,
    };
    for first in steps {
        for second in steps {
            for third in steps {
                let mut apart = [Changes::default(), Changes::default(), Changes::default()];
                for (changes, step) in apart.iter_mut().zip([first, second, third]) {
                    step(changes.of(key));
                }
                let one_by_one = apart.iter().fold(None, apply);
                let [mut merged, b, c] = apart;
                merged.then(b);
                merged.then(c);
                let at_once = apply(None, &merged);
                assert_eq!(seen(&one_by_one), seen(&at_once));
            }
        }
    }
    fn seen(record: &Option<Record>) -> (Option<SignedPacket>, u64) {
        let packet = record.as_ref().and_then(Record::packet);
        (packet, record.as_ref().map_or(0, |record| record.seq))
    }
}

// Damage.

/// Something done to a file.
type Damage = fn(&Path);

fn damages() -> Vec<(&'static str, Damage)> {
    vec![
        ("truncated to half", |path| {
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.set_len(path.metadata().unwrap().len() / 2).unwrap();
        }),
        ("flipped bytes all over", |path| {
            let mut bytes = std::fs::read(path).unwrap();
            let mut at = 5000;
            while at < bytes.len() {
                bytes[at] ^= 0x55;
                at += 9973;
            }
            std::fs::write(path, bytes).unwrap();
        }),
        ("a header of zeros", |path| {
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.write_all_at(&[0; 4096], 0).unwrap();
        }),
        ("a later version of the library's format", |path| {
            let file = std::fs::File::options().write(true).open(path).unwrap();
            // Both commit slots begin with the version.
            file.write_all_at(&[99], 64).unwrap();
            file.write_all_at(&[99], 192).unwrap();
        }),
        ("a later schema", |path| {
            let database = redb::Database::create(path).unwrap();
            let write = database.begin_write().unwrap();
            let facts = redb::TableDefinition::<&str, u64>::new("facts");
            write
                .open_table(facts)
                .unwrap()
                .insert("schema", disk::SCHEMA + 1)
                .unwrap();
            write.commit().unwrap();
        }),
        ("garbage in front", |path| {
            let bytes = std::fs::read(path).unwrap();
            std::fs::write(path, [b"what is this".as_slice(), &bytes].concat()).unwrap();
        }),
    ]
}

fn damage(name: &str) -> Damage {
    let found = damages().into_iter().find(|(known, _)| *known == name);
    found.unwrap().1
}

/// The packets that stand whole in a file.
fn whole_in(path: &Path, packets: &[SignedPacket]) -> Vec<SignedPacket> {
    let file = std::fs::read(path).unwrap();
    let mut found = HashSet::new();
    for at in 0..file.len().saturating_sub(104) {
        if let Some(bytes) = file[at..].strip_prefix(&record::MARK) {
            // Mark 4, check 8, length 2, tick 4, confirmed 8, seq 8, then the packet.
            // One whose length is hit is not whole.
            let is_whole = bytes.get(8..10) == Some(&500_u16.to_be_bytes());
            let body = bytes.get(30..30 + 500).filter(|_| is_whole);
            let body = body.unwrap_or_default();
            found.extend(SignedPacket::from_bytes(body).map(|packet| packet.key()));
        }
    }
    let is_whole = |packet: &&SignedPacket| found.contains(&packet.key());
    packets.iter().filter(is_whole).cloned().collect()
}

#[tokio::test]
async fn all_that_is_whole_in_a_damaged_file_is_saved_and_the_file_is_kept() {
    let packets = packets(300);
    for (name, damage) in damages() {
        let scratch = Scratch::with(&packets).await;
        damage(&scratch.store());
        let found = std::fs::read(scratch.store()).unwrap();
        let whole = whole_in(&scratch.store(), &packets);
        assert!(whole.len() > 100, "{name}: {}", whole.len());
        let store = scratch.open();
        assert_eq!(count(&store, &whole).await, whole.len(), "{name}");
        let health = store.health();
        assert_eq!(health.state, StoreState::Ready, "{name}");
        assert_eq!(health.salvaged, whole.len() as u64, "{name}");
        let kept = std::fs::read(scratch.damaged()).unwrap();
        assert!(kept == found, "{name}: the file is kept as it was found");
        // And the store works.
        store.put(&packet(9999, 1), at(1));
        store.close().await;
        let store = scratch.open();
        assert_eq!(count(&store, &whole).await, whole.len(), "{name}");
        assert_eq!(seqs(&store, 9999).await, (Some(1), Some(1)), "{name}");
        assert_eq!(store.health().salvaged, 0, "{name}");
        assert_eq!(scratch.0.read_dir().unwrap().count(), 3, "{name}");
    }
}

#[tokio::test]
async fn garbage_and_nothing_are_replaced() {
    for (bytes, is_kept) in [
        (vec![0x5A; 100_000], true),
        (vec![1], true),
        (vec![], false),
    ] {
        let scratch = Scratch::new();
        std::fs::write(scratch.store(), &bytes).unwrap();
        let store = scratch.open();
        store.put(&packet(1, 10), at(1));
        assert_eq!(store.until_written().packets, 1);
        assert_eq!(scratch.damaged().exists(), is_kept);
        store.close().await;
        let store = scratch.open();
        assert_eq!(seqs(&store, 1).await, (Some(10), Some(10)));
    }
}

#[tokio::test]
async fn seqs_are_saved_from_a_damaged_file_and_the_newest_copy_wins() {
    let scratch = Scratch::new();
    // Old copies stay in pages that are free now.
    for seq in 10..20 {
        let store = scratch.open();
        for number in 0..50 {
            store.put(&packet(number, seq), at(1));
        }
        store.put_seq(key(100), seq + 5);
        store.close().await;
    }
    let store = scratch.open();
    store.forget(Some(key(7)));
    store.close().await;
    let file = std::fs::File::options()
        .write(true)
        .open(scratch.store())
        .unwrap();
    file.write_all_at(&[0; 512], 0).unwrap();
    let store = scratch.open();
    for number in 0..50 {
        let packet = (number != 7).then_some(19);
        assert_eq!(seqs(&store, number).await, (packet, Some(19)), "{number}");
    }
    assert_eq!(seqs(&store, 100).await, (None, Some(24)));
    assert_eq!(store.health().salvaged, 51);
}

/// Damage of many kinds at many places: no more is lost than was hit, nothing unverified comes out, and
/// no panic leaves the store.
#[tokio::test]
async fn random_damage_costs_what_it_hits_and_no_more() {
    let packets = packets(120);
    let original = Scratch::with(&packets).await;
    let bytes = std::fs::read(original.store()).unwrap();
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % bound as u64) as usize
    };
    for round in 0..24 {
        let scratch = Scratch::new();
        let mut bytes = bytes.clone();
        for _ in 0..1 + round % 20 {
            let at = random(bytes.len());
            let len = 1 + random(200);
            let value = random(256) as u8;
            for byte in bytes.iter_mut().skip(at).take(len) {
                *byte ^= value;
            }
        }
        std::fs::write(scratch.store(), bytes).unwrap();
        let whole = whole_in(&scratch.store(), &packets);
        let store = scratch.open();
        assert_eq!(count(&store, &whole).await, whole.len(), "round {round}");
        store.put(&packet(1, 11), at(1));
        store.until_written();
        assert_eq!(seqs(&store, 1).await, (Some(11), Some(11)));
    }
}

/// A disk that loses pages under a running store.
#[tokio::test]
async fn damage_that_is_found_while_running_is_repaired() {
    let packets = packets(4000);
    let scratch = Scratch::with(&packets).await;
    let store = scratch.open();
    assert_eq!(store.until_written().packets, 4000);
    let file = std::fs::File::options()
        .write(true)
        .open(scratch.store())
        .unwrap();
    let len = file.metadata().unwrap().len();
    // Every second page, so that there are records in both kinds.
    for page in (1..len / 4096).step_by(2) {
        file.write_all_at(&[0xA5; 4096], page * 4096).unwrap();
    }
    let whole = whole_in(&scratch.store(), &packets);
    assert!(whole.len() > 1000, "{}", whole.len());
    for packet in &packets {
        store.get(packet.key()).await;
    }
    store.put(&packet(9999, 1), at(1));
    store.until(|health| health.salvaged > 0 && health.dirty == 0);
    // Until the damage was found, free pages with old copies may have been written again.
    let left = whole_in(&scratch.damaged(), &packets);
    assert!(
        left.len() + 100 > whole.len(),
        "{} of {}",
        left.len(),
        whole.len()
    );
    assert_eq!(count(&store, &left).await, left.len());
    assert_eq!(seqs(&store, 9999).await, (Some(1), Some(1)));
}

#[tokio::test]
async fn a_record_that_is_not_signed_is_removed_and_counted() {
    let scratch = Scratch::with(&packets(3)).await;
    // Written by somebody with a right check, but no signature, and the other way round.
    let database = redb::Database::create(scratch.store()).unwrap();
    let write = database.begin_write().unwrap();
    let table = redb::TableDefinition::<&[u8; 32], &[u8]>::new("records");
    {
        let mut records = write.open_table(table).unwrap();
        let record = |packet: &SignedPacket, confirmed, secret: &Secret| {
            let mut change = Change::default();
            change.put(packet.clone(), confirmed);
            let record = Record::changed(None, &packet.key(), &change, 1);
            record.unwrap().to_bytes(secret)
        };
        let mut forged = record(&packet(1, 10), 1, &scratch.read_secret());
        // A byte of the packet, and the check as if it had been so.
        forged[200] ^= 1;
        let check = scratch.read_secret().check(&forged[12..]);
        forged[4..12].copy_from_slice(&check.to_be_bytes());
        let strange = record(&packet(4, 10), 1 << 40, &Secret::random());
        let values = [
            (1, forged),
            (2, b"nothing".to_vec()),
            (3, forged_seq(3, &Secret::random())),
            (4, strange),
        ];
        for (number, value) in values {
            records
                .insert(key(number).as_bytes(), value.as_slice())
                .unwrap();
        }
    }
    write.commit().unwrap();
    drop(database);
    let store = scratch.open();
    assert_eq!(get(&store, key(1)).await, Some(Remembered::default()));
    assert_eq!(get(&store, key(2)).await, Some(Remembered::default()));
    assert_eq!(get(&store, key(3)).await, Some(Remembered::default()));
    assert_eq!(seqs(&store, 0).await, (Some(10), Some(10)));
    // What is signed counts, but not what else its record says.
    let signed = stored(&packet(4, 10), 0);
    assert_eq!(get(&store, key(4)).await, Some(signed));
    assert_eq!(
        store.until(|health| health.refused == 3).state,
        StoreState::Ready
    );
    // The keys can be used again.
    store.put(&packet(1, 5), at(1));
    store.until_written();
    assert_eq!(seqs(&store, 1).await, (Some(5), Some(5)));
}

impl Scratch {
    fn read_secret(&self) -> Secret {
        Secret(std::fs::read(self.secret()).unwrap().try_into().unwrap())
    }
}

/// A record that says that the highest `seq` there can be was seen of a key.
fn forged_seq(number: u32, secret: &Secret) -> Vec<u8> {
    let mut change = Change::default();
    change.put_seq(i64::MAX as u64);
    let record = Record::changed(None, &key(number), &change, u32::MAX);
    record.unwrap().to_bytes(secret)
}

/// A packet with these bytes in a TXT record.
fn packet_around(number: u32, bytes: &[u8]) -> SignedPacket {
    use hickory_proto::rr::{Name, RData, Record, rdata::TXT};
    let owner = Name::from_ascii(format!("{}.", key(number))).unwrap();
    let text = RData::TXT(TXT::from_bytes(vec![bytes]));
    let records = vec![Record::from_rdata(owner, 300, text)];
    SignedPacket::sign_records(&secret(number), 10, records).unwrap()
}

/// A bit of the signature of each copy of a packet in a file.
fn damage_packet(path: &Path, packet: &SignedPacket) {
    let mut file = std::fs::read(path).unwrap();
    let packet = packet.to_bytes();
    let is_here = |at: &usize| file[*at..].starts_with(&packet);
    let places: Vec<usize> = (0..file.len()).filter(is_here).collect();
    assert!(!places.is_empty());
    for at in places {
        file[at + 40] ^= 1;
    }
    std::fs::write(path, file).unwrap();
}

/// Whoever publishes a packet chooses its bytes, and those of what looks like a record in it.
#[tokio::test]
async fn what_looks_like_a_record_inside_a_packet_says_nothing_of_another_key() {
    const VICTIM: u32 = 1;
    const ATTACKER: u32 = 2;
    type Harm = fn(&Scratch, &SignedPacket);
    let kinds: [(&str, Harm); 6] = [
        ("a later schema", |scratch, _| {
            damage("a later schema")(&scratch.store());
        }),
        ("a header of zeros", |scratch, _| {
            damage("a header of zeros")(&scratch.store());
        }),
        ("its own record is damaged", |scratch, packet| {
            damage_packet(&scratch.store(), packet);
        }),
        ("the secret is lost", |scratch, _| {
            std::fs::remove_file(scratch.secret()).unwrap();
        }),
        ("the secret is cut short", |scratch, _| {
            std::fs::write(scratch.secret(), [0; 15]).unwrap();
        }),
        ("the secret is another one", |scratch, _| {
            std::fs::write(scratch.secret(), [9; 16]).unwrap();
        }),
    ];
    for (name, damage) in kinds {
        for knows_secret in [false, true] {
            let scratch = Scratch::with(&[packet(VICTIM, 10)]).await;
            let secret = if knows_secret {
                scratch.read_secret()
            } else {
                // SipHash without a key is SipHash with this one.
                Secret([0; 16])
            };
            let outer = packet_around(ATTACKER, &forged_seq(VICTIM, &secret));
            let store = scratch.open();
            store.put(&outer, at(1));
            store.put_seq(key(3), 20);
            store.close().await;
            damage(&scratch, &outer);
            let store = scratch.open();
            let is_hit = name == "its own record is damaged";
            // So this test looks at the right place: there, only the secret keeps the forgery out.
            let floor = if knows_secret && is_hit {
                i64::MAX as u64
            } else {
                10
            };
            let seen = seqs(&store, VICTIM).await;
            assert_eq!(
                seen,
                (Some(10).filter(|_| floor == 10), Some(floor)),
                "{name}"
            );
            let found = get(&store, outer.key()).await.unwrap().packet;
            assert_eq!(found.is_some(), !is_hit, "{name}");
            // What nobody signed is known by the secret alone.
            let floor = (!name.contains("secret")).then_some(20);
            assert_eq!(seqs(&store, 3).await, (None, floor), "{name}");
            assert!(store.health().salvaged > 0, "{name}");
            assert!(scratch.damaged().exists(), "{name}");
            store.put_seq(key(5), 30);
            store.close().await;
            let mode = scratch.secret().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
            let store = scratch.open();
            assert_eq!(seqs(&store, 5).await, (None, Some(30)), "{name}");
            assert_eq!(store.health().salvaged, 0, "{name}");
        }
    }
}

#[tokio::test]
async fn a_damaged_file_that_cannot_be_replaced_is_read_once_and_replaced_later() {
    let packets = packets(100);
    let scratch = Scratch::with(&packets).await;
    damage("a header of zeros")(&scratch.store());
    // Not even root can make a file here.
    let in_the_way = scratch.0.join("packets.new");
    std::fs::create_dir(&in_the_way).unwrap();
    let store = scratch.open();
    store.until(|health| matches!(health.state, StoreState::Failing(_)));
    assert_eq!(count(&store, &packets).await, 100);
    let generation = store.shared.lock().generation;
    // Tries once more to write this, at least.
    store.put(&packet(200, 1), at(1));
    store.close().await;
    assert_eq!(store.shared.lock().generation, generation, "not read again");
    assert_eq!(store.health().salvaged, 0);
    assert!(!scratch.damaged().exists());
    let store = scratch.open();
    store.until(|health| matches!(health.state, StoreState::Failing(_)));
    std::fs::remove_dir(&in_the_way).unwrap();
    let health = store.until(|health| {
        let is_open = store.shared.disk.read().unwrap().is_some();
        assert!(is_open, "it is read all the time");
        health.state == StoreState::Ready
    });
    assert_eq!(health.salvaged, 100);
    assert_eq!(count(&store, &packets).await, 100);
    assert!(scratch.damaged().exists());
}

#[tokio::test]
async fn a_rebuilding_that_was_cut_short_is_completed() {
    let packets = packets(20);
    // Between the two renamings.
    let scratch = Scratch::with(&packets).await;
    std::fs::rename(scratch.store(), scratch.0.join("packets.new")).unwrap();
    let store = scratch.open();
    assert_eq!(count(&store, &packets).await, 20);
    store.close().await;
    // Before the first.
    std::fs::write(scratch.0.join("packets.new"), b"half a store").unwrap();
    let store = scratch.open();
    assert_eq!(count(&store, &packets).await, 20);
    assert!(!scratch.0.join("packets.new").exists());
    // One that another process is at is left alone.
    std::fs::write(scratch.0.join("packets.new"), b"half a store").unwrap();
    let second = scratch.open();
    second.until(|health| health.state != StoreState::Opening);
    assert!(scratch.0.join("packets.new").exists());
}

#[test]
fn a_panic_costs_the_store_alone() {
    let outcome = guarded(|| -> Result<(), _> { panic!("page {}", 7) });
    assert_eq!(outcome.unwrap_err().to_string(), "page 7");
    let scratch = Scratch::new();
    let files = Files::new(scratch.0.clone(), LARGE);
    let outcome = files.open(None, || panic!("page {}", 8));
    assert_eq!(outcome.unwrap_err().to_string(), "page 8");
}

#[test]
fn a_file_under_an_overlay_is_read_and_never_written() {
    let scratch = Scratch::new();
    let path = scratch.0.join("file");
    let original: Vec<u8> = (0..10_000_u32).map(|i| (i % 251) as u8).collect();
    std::fs::write(&path, &original).unwrap();
    let overlay = overlay::Overlay::new(std::fs::File::open(&path).unwrap()).unwrap();
    let mut model = original.clone();
    let mut state = 1_u64;
    for _ in 0..2000 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let (kind, at, len) = (state >> 62, (state >> 33) % 20_000, (state >> 20) % 9000);
        let (offset, end) = (at as usize, (at + len) as usize);
        use redb::StorageBackend;
        match kind {
            0 => {
                overlay.set_len(at).unwrap();
                model.resize(offset, 0);
            }
            1 if end <= model.len() => {
                let bytes = vec![(state >> 40) as u8; len as usize];
                overlay.write(at, &bytes).unwrap();
                model[offset..end].copy_from_slice(&bytes);
            }
            _ => {
                let mut out = vec![1; len as usize];
                let read = overlay.read(at, &mut out);
                assert_eq!(read.is_ok(), end <= model.len());
                if read.is_ok() {
                    assert!(out == model[offset..end]);
                }
            }
        }
        assert_eq!(overlay.len().unwrap(), model.len() as u64);
    }
    assert!(std::fs::read(&path).unwrap() == original);
}

// Others.

#[tokio::test]
async fn a_second_store_on_the_directory_waits_for_the_first() {
    let scratch = Scratch::with(&packets(3)).await;
    let first = scratch.open();
    first.until_written();
    let second = scratch.open();
    let health = second.until(|health| health.state != StoreState::Opening);
    let StoreState::Failing(reason) = health.state else {
        panic!("{health:?}");
    };
    assert!(reason.contains("in use"), "{reason}");
    second.put(&packet(5, 10), at(1));
    assert_eq!(seqs(&second, 5).await, (Some(10), Some(10)), "from memory");
    second.put_seq(key(6), 9);
    for number in [0, 6, 7] {
        let found = second.get(key(number)).await;
        assert_eq!(found, None, "{number}: who knows");
    }
    first.put(&packet(6, 10), at(1));
    first.until_written();
    first.close().await;
    second.until_written();
    for number in [0, 1, 2, 5, 6] {
        assert_eq!(
            seqs(&second, number).await,
            (Some(10), Some(10)),
            "{number}"
        );
    }
}

/// Runs one of the tests below marked as ignored in a process of its own, with the directory and what it
/// is to do in the environment.
fn child(test: &str, scratch: &Scratch, shell: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{shell} exec \"$0\" \"$@\"")])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .arg(format!("resolve::store::tests::{test}"))
        .env("PKBRIDGE_TEST_STORE", &scratch.0)
        .stdout(Stdio::piped());
    command
}

/// In a child: the directory, which the parent removes.
fn given() -> std::mem::ManuallyDrop<Scratch> {
    let path = std::env::var("PKBRIDGE_TEST_STORE").unwrap();
    std::mem::ManuallyDrop::new(Scratch(path.into()))
}

#[test]
#[ignore = "the child of the test below"]
fn child_writes_until_it_is_killed() {
    let scratch = given();
    let store = scratch.open();
    let mut out = std::io::stdout().lock();
    let mut put = 0;
    for round in 0.. {
        for _ in 0..20 {
            store.put(&packet(put % 500, u64::from(put / 500) + 1), at(1));
            put += 1;
        }
        writeln!(out, "put {put}").unwrap();
        if round % 5 == 0 {
            store.until_written();
            writeln!(out, "written {put}").unwrap();
        }
    }
}

#[tokio::test]
async fn a_kill_at_any_moment_loses_nothing_that_was_written() {
    let scratch = Scratch::new();
    let mut last = 0;
    for round in 0..12_u64 {
        let mut child = child("child_writes_until_it_is_killed", &scratch, "")
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut written = 0;
        let mut lines = 0;
        for line in out.lines().map_while(Result::ok) {
            let Some(number) = line.split("written ").nth(1) else {
                continue;
            };
            written = number.parse::<u32>().unwrap();
            lines += 1;
            if lines > round % 4 {
                // The child writes on until the signal has come.
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(written > 0, "round {round}");
        last = written.max(last);
        let store = scratch.open();
        for number in 0..500.min(last) {
            let seq = u64::from((last - 1 - number) / 500) + 1;
            let (packet, newest) = seqs(&store, number).await;
            assert!(
                packet >= Some(seq) && newest == packet,
                "round {round}: {number}"
            );
        }
        assert_eq!(store.health().salvaged, 0, "no damage");
        store.close().await;
    }
}

#[test]
#[ignore = "the child of the test below"]
fn child_meets_a_limit_of_file_size() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let scratch = given();
        let store = scratch.open();
        let first = packets(100);
        for packet in &first {
            store.put(packet, at(1));
        }
        store.until_written();
        let mut put = first.clone();
        while !matches!(store.health().state, StoreState::Failing(_)) {
            put.push(packet(u32::try_from(put.len()).unwrap(), 10));
            store.put(put.last().unwrap(), at(1));
        }
        assert_eq!(count(&store, &put).await, put.len(), "while it fails");
        let lift = std::env::var("PKBRIDGE_TEST_LIFT").unwrap();
        let lifted = Command::new("sh").args(["-c", &lift]).status();
        assert!(lifted.unwrap().success());
        store.until_written();
        assert_eq!(count(&store, &put).await, put.len(), "when it works again");
        let health = store.health();
        assert_eq!((health.packets, health.dropped), (put.len() as u64, 0));
        store.close().await;
        println!("all {} are there", put.len());
    });
}

/// A limit on the size of files stands for a full disk: both refuse writes, and this one every system
/// has. SIGXFSZ is ignored, so that it is an error.
#[tokio::test]
async fn a_full_disk_loses_nothing_and_is_written_again_when_there_is_room() {
    let scratch = Scratch::new();
    let limit = "trap '' XFSZ; ulimit -S -f 6000; \
                 export PKBRIDGE_TEST_LIFT='prlimit --pid $PPID --fsize=unlimited';";
    let output = child("child_meets_a_limit_of_file_size", &scratch, limit)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let count: u64 = text
        .split("all ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let store = scratch.open();
    assert_eq!(store.until_written().packets, count);
    assert_eq!(store.health().salvaged, 0);
}

#[test]
#[ignore = "the child of the test below"]
fn child_says_what_it_finds() {
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let scratch = given();
        let packets = packets(100);
        let store = scratch.open();
        let found = count(&store, &packets).await;
        // Reading after a write that cannot be done goes on.
        store.put(&packet(9999, 1), at(1));
        assert_eq!(seqs(&store, 9999).await, (Some(1), Some(1)));
        assert_eq!(count(&store, &packets).await, found);
        let state = serde_json::to_string(&store.health().state).unwrap();
        println!("state {state} found {found}");
        // Not closed: what cannot be written then is another message.
        std::mem::forget(store);
    });
}

/// Runs the child as somebody who may not do all.
fn says(scratch: &Scratch) -> (String, Vec<String>) {
    let mut command = child("child_says_what_it_finds", scratch, "");
    let is_root = Path::new("/proc/self").metadata().unwrap().uid() == 0;
    if is_root {
        command.uid(65_534).gid(65_534);
    }
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let state = text.lines().find_map(|line| line.split_once("state "));
    let warnings = errors.lines().filter(|line| line.contains("WARN"));
    (
        state.unwrap().1.to_owned(),
        warnings.map(str::to_owned).collect(),
    )
}

/// Everybody may do this with the directory and the files in it.
fn permit(scratch: &Scratch, directory: u32, file: u32) {
    let paths = [
        (scratch.store(), file),
        (scratch.secret(), file),
        (scratch.0.clone(), directory),
    ];
    for (path, mode) in paths {
        if path.exists() {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
    }
}

#[tokio::test]
async fn whatever_is_wrong_there_is_one_warning_that_names_the_file() {
    let packets = packets(100);
    let one = |scratch: &Scratch, name: &str, found: &str, reason: &str| {
        let (state, warnings) = says(scratch);
        assert!(state.contains(found), "{name}: {state}");
        assert_eq!(warnings.len(), 1, "{name}: {warnings:?}");
        let path = scratch.store().display().to_string();
        assert!(warnings[0].contains(&path), "{name}: {warnings:?}");
        assert!(warnings[0].contains(reason), "{name}: {warnings:?}");
    };
    // Damaged.
    for (name, damage) in damages() {
        let scratch = Scratch::with(&packets).await;
        damage(&scratch.store());
        let whole = whole_in(&scratch.store(), &packets).len();
        permit(&scratch, 0o777, 0o666);
        let owner = scratch.store().metadata().unwrap().uid();
        if owner == 0 {
            std::os::unix::fs::chown(scratch.store(), Some(65_534), Some(65_534)).unwrap();
        }
        let found = format!("\"ready\" found {whole}");
        one(&scratch, name, &found, "is damaged or of another version");
    }
    // The same, and it cannot be written.
    for (name, damage) in damages() {
        let scratch = Scratch::with(&packets).await;
        damage(&scratch.store());
        let whole = whole_in(&scratch.store(), &packets).len();
        let before = std::fs::read(scratch.store()).unwrap();
        permit(&scratch, 0o555, 0o444);
        let (state, warnings) = says(&scratch);
        assert_eq!(warnings.len(), 2, "{name}: {warnings:?}");
        assert!(warnings[0].contains("cannot be replaced"), "{warnings:?}");
        assert!(!warnings[0].contains("packets.damaged"), "{warnings:?}");
        assert!(warnings[1].contains("may not be written"), "{warnings:?}");
        assert!(state.contains("read-only"), "{name}: {state}");
        assert!(state.contains(&format!("found {whole}")), "{name}: {state}");
        permit(&scratch, 0o755, 0o644);
        assert!(std::fs::read(scratch.store()).unwrap() == before, "{name}");
    }
    // Whole, but read-only: the file, the directory.
    let scratch = Scratch::with(&packets).await;
    permit(&scratch, 0o755, 0o444);
    one(&scratch, "file", "read-only", "Permission denied");
    permit(&scratch, 0o555, 0o444);
    one(&scratch, "directory", "found 100", "Permission denied");
    // Not to be read at all.
    permit(&scratch, 0o555, 0o400);
    one(&scratch, "private", "found 0", "Permission denied");
    permit(&scratch, 0o755, 0o644);
    // No directory, and none can be made.
    let scratch = Scratch::new();
    permit(&scratch, 0o555, 0);
    let below = Scratch(scratch.0.join("missing"));
    one(&below, "missing", "found 0", "Permission denied");
    permit(&scratch, 0o755, 0);
    // In use.
    let scratch = Scratch::with(&packets).await;
    let holder = scratch.open();
    holder.until_written();
    permit(&scratch, 0o777, 0o666);
    one(&scratch, "locked", "found 0", "in use by another process");
    // Missing is how every store begins.
    let scratch = Scratch::new();
    permit(&scratch, 0o777, 0);
    let (state, warnings) = says(&scratch);
    assert!(state.contains("\"ready\" found 0"), "{state}");
    assert_eq!(warnings, Vec::<String>::new());
}
