//! Any bytes as the DNS message of a properly signed packet: verified, read as a zone, looked up.
#![no_main]

use hickory_proto::rr::RecordType;
use libfuzzer_sys::fuzz_target;
use pkbridge::pkarr::{Lookup, SignedPacket, SigningKey, Zone};

fuzz_target!(|dns: &[u8]| {
    let secret = SigningKey::from_bytes(&[7; 32]);
    let Ok(packet) = SignedPacket::sign(&secret, 1, dns) else {
        return;
    };
    assert_eq!(
        SignedPacket::from_bytes(&packet.to_bytes()),
        Ok(packet.clone())
    );
    let zone = Zone::new(&packet, 300);
    for record in zone.records() {
        assert!(zone.apex().zone_of(&record.owner));
        for rtype in [record.rtype, RecordType::A, RecordType::ANY] {
            // A name that has records exists.
            let found = zone.lookup(&record.owner, rtype);
            assert_ne!(found, Lookup::NxDomain);
        }
        if let Ok(below) = record.owner.prepend_label("x") {
            let _ = zone.lookup(&below, RecordType::A);
        }
    }
});
