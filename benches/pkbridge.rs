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

/// Answers from the cache, from the bytes of the query to those of the reply.
mod hit {
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::time::Duration;

    use futures_util::FutureExt;
    use futures_util::future::{BoxFuture, ready};
    use pkbridge::resolve::{
        AnswerCache, Ending, Failure, FetchPacket, Forward, HoldTimes, Holders, Names, Packets,
        Question, Resolver, Response, See, Ttls, Wanted,
    };
    use pkbridge::serve::{AtHand, AuthenticData, ServeSettings, Service, Transport};

    /// The DHT is empty.
    #[derive(Debug)]
    struct Nobody;

    impl FetchPacket for Nobody {
        fn fetch<'a>(&'a self, _: Wanted, _: &'a mut See<'_>) -> BoxFuture<'a, Ending> {
            Box::pin(ready(Ending::Complete(Holders::default())))
        }
    }

    /// Every name has one address.
    #[derive(Debug)]
    struct OneAddress;

    impl Forward for OneAddress {
        fn forward<'a>(
            &'a self,
            question: &'a Question,
        ) -> BoxFuture<'a, Result<Response, Failure>> {
            let mut wire = vec![0, 0, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
            wire.extend(question.wire());
            wire.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 192, 0, 2, 1]);
            Box::pin(ready(Ok(Response::from_message(wire).unwrap())))
        }
    }

    fn service() -> Service {
        const DAY: Duration = Duration::from_secs(86_400);
        let times = HoldTimes {
            min: DAY,
            max: DAY,
            empty: DAY,
            failure: DAY,
            max_stale: DAY,
            stale_wait: Duration::ZERO,
        };
        let ttls = Ttls {
            min: 0,
            max: 86_400,
            negative: 300,
            failure: 5,
        };
        let packets = Packets::new(Arc::new(Nobody), None, 1 << 20, times);
        let answers = AnswerCache::new(1 << 24);
        let resolver = Resolver::new(
            Names::default(),
            packets,
            Arc::new(OneAddress),
            ttls,
            answers,
        );
        let settings = ServeSettings {
            allow: vec!["127.0.0.0/8".parse().unwrap()],
            authentic_data: AuthenticData::Never,
            nsid: String::new(),
        };
        Service::new(settings, resolver).unwrap()
    }

    /// A service that has the answer to the query.
    fn warm() -> (tokio::runtime::Runtime, Service, Vec<u8>, SocketAddr) {
        let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
        query.extend(b"\x03www\x05bench\x07example\0\0\x01\0\x01");
        query.extend([0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0]);
        let client = SocketAddr::from(([127, 0, 0, 1], 5353));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let service = {
            let _inside = runtime.enter();
            service()
        };
        let reply = runtime.block_on(service.respond(&query, client, Transport::Udp));
        assert_eq!(reply.unwrap()[3] & 0xf, 0);
        (runtime, service, query, client)
    }

    /// What a thread has at hand that reads UDP.
    #[divan::bench]
    fn at_hand(bencher: divan::Bencher<'_, '_>) {
        let (_runtime, service, query, client) = warm();
        let (mut at_hand, mut reply) = (AtHand::new(), Vec::new());
        bencher.bench_local(|| {
            let query = divan::black_box(&query);
            assert!(service.respond_at_once(query, client, &mut at_hand, &mut reply));
        });
    }

    /// Everything else: over TCP, or with options.
    #[divan::bench]
    fn in_cache(bencher: divan::Bencher<'_, '_>) {
        let (runtime, service, query, client) = warm();
        let _inside = runtime.enter();
        bencher.bench_local(|| {
            let query = divan::black_box(&query);
            let reply = service.respond(query, client, Transport::Tcp);
            reply.now_or_never().flatten().unwrap()
        });
    }
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
            // It is not waited for long at a time.
            let found = std::iter::repeat_with(|| runtime.block_on(store.get(key)));
            let found = found.flatten().next().unwrap();
            assert!(found.packet.is_some());
            runtime.block_on(store.close());
        });
    }
}
