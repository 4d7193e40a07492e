//! Micro-benchmarks of what every query or packet costs: `just bench`.
#![allow(clippy::unwrap_used, reason = "a benchmark that fails should stop")]

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
