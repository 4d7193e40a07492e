//! Micro-benchmarks of what every query or packet costs: `just bench`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a benchmark that fails should stop"
)]

use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use pkbridge::pkarr::{PublicKey, SignedPacket, SigningKey, Suffixes, Zone};
use pkbridge::wire::Layout;

fn main() {
    divan::main();
}

/// A packet with `count` TXT records, each under a name of its own.
fn packet(count: u32) -> SignedPacket {
    let secret = SigningKey::from_bytes(&[1; 32]);
    let key = PublicKey::from_bytes(&secret.verifying_key().to_bytes()).unwrap();
    let records = (0..count)
        .map(|number| {
            let owner = Name::from_ascii(format!("n{number}.{key}.")).unwrap();
            let data = RData::TXT(TXT::new(vec!["0123456789".to_owned()]));
            Record::from_rdata(owner, 300, data)
        })
        .collect();
    SignedPacket::sign_records(&secret, 1, records).unwrap()
}

#[divan::bench]
fn verify_packet(bencher: divan::Bencher<'_, '_>) {
    let bytes = packet(20).to_bytes();
    bencher.bench(|| SignedPacket::from_bytes(divan::black_box(&bytes)).unwrap());
}

#[divan::bench]
fn read_zone(bencher: divan::Bencher<'_, '_>) {
    let packet = packet(20);
    bencher.bench(|| Zone::new(divan::black_box(&packet), 300));
}

#[divan::bench]
fn look_up_in_zone(bencher: divan::Bencher<'_, '_>) {
    let packet = packet(20);
    let zone = Zone::new(&packet, 300);
    let name = zone.apex().prepend_label("n19").unwrap();
    bencher.bench_local(|| drop(zone.lookup(divan::black_box(&name), RecordType::TXT)));
}

#[divan::bench]
fn classify_name(bencher: divan::Bencher<'_, '_>) {
    let suffixes = Suffixes::new(["pkarr"]);
    let key = packet(1).key();
    let name = Name::from_ascii(format!("www.{key}.pkarr.")).unwrap();
    bencher.bench(|| suffixes.classify(divan::black_box(&name)));
}

#[divan::bench]
fn walk_message(bencher: divan::Bencher<'_, '_>) {
    let packet = packet(20);
    bencher.bench(|| Layout::read(divan::black_box(packet.dns())).unwrap());
}

/// The store on the disk of the temporary directory.
mod store {
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use pkbridge::pkarr::{SignedPacket, SigningKey};
    use pkbridge::resolve::{Store, StoreSettings};
    use tokio::runtime::Runtime;

    /// A directory of its own, removed at the end.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let name = format!("pkbridge-bench-{}-{name}", std::process::id());
            let directory = Self(std::env::temp_dir().join(name));
            directory.clear();
            directory
        }

        fn clear(&self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }

        fn open(&self) -> Arc<Store> {
            Store::open(StoreSettings {
                directory: self.0.clone(),
                max_bytes: 64 << 20,
            })
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            self.clear();
        }
    }

    /// Packets of 500 bytes.
    fn packets(count: u32) -> Vec<SignedPacket> {
        let packet = |number: u32| {
            let mut secret = [7; 32];
            secret[..4].copy_from_slice(&number.to_be_bytes());
            SignedPacket::sign(&SigningKey::from_bytes(&secret), 1, &[0; 396]).unwrap()
        };
        (0..count).map(packet).collect()
    }

    fn put(store: &Store, packets: &[SignedPacket]) {
        for packet in packets {
            store.put(packet, SystemTime::UNIX_EPOCH);
        }
    }

    /// Until all are on the disk.
    #[divan::bench(sample_count = 10, sample_size = 1)]
    fn put_1000(bencher: divan::Bencher<'_, '_>) {
        let (runtime, directory, packets) = (
            Runtime::new().unwrap(),
            Directory::new("put"),
            packets(1000),
        );
        bencher
            .with_inputs(|| {
                directory.clear();
                directory.open()
            })
            .bench_local_values(|store| {
                put(&store, &packets);
                runtime.block_on(store.close());
            });
    }

    #[divan::bench]
    fn get(bencher: divan::Bencher<'_, '_>) {
        let (runtime, directory, packets) = (
            Runtime::new().unwrap(),
            Directory::new("get"),
            packets(1000),
        );
        let store = directory.open();
        put(&store, &packets);
        while store.health().dirty > 0 {
            std::thread::sleep(Duration::from_millis(10));
        }
        let key = packets.last().unwrap().key();
        bencher.bench_local(|| runtime.block_on(store.get(key)).unwrap());
        runtime.block_on(store.close());
    }

    /// Until the first read is answered; then it is closed.
    #[divan::bench(sample_count = 10, sample_size = 1)]
    fn open_with_10000(bencher: divan::Bencher<'_, '_>) {
        let (runtime, directory, packets) = (
            Runtime::new().unwrap(),
            Directory::new("open"),
            packets(10_000),
        );
        // No more than wait for the disk at once.
        for packets in packets.chunks(5000) {
            let store = directory.open();
            put(&store, packets);
            runtime.block_on(store.close());
        }
        let key = packets.last().unwrap().key();
        bencher.bench_local(|| {
            let store = directory.open();
            let found = runtime.block_on(store.get(key)).unwrap();
            assert!(found.packet.is_some());
            runtime.block_on(store.close());
        });
    }
}
