//! Any bytes as a DNS message: the type-blind walk, names, and record data of every shape.
#![no_main]

use hickory_proto::rr::RecordType;
use libfuzzer_sys::fuzz_target;
use pkbridge::wire::{self, Layout};

fuzz_target!(|message: &[u8]| {
    let _ = wire::plain_question(message);
    let Ok(layout) = Layout::read(message) else {
        return;
    };
    assert!(layout.question_end <= layout.end && layout.end <= message.len());
    for record in &layout.records {
        let (owner, _) = wire::read_name(message, record.start).expect("walked before");
        // What was read can be written and read again.
        let written = wire::name_bytes(&owner);
        assert_eq!(wire::read_name(&written, 0), Ok((owner, written.len())));
        let rtype = RecordType::from(record.rtype);
        if let Some(expanded) = wire::map_rdata(message, record.rdata.clone(), rtype, |name| name) {
            // Expanded record data needs no message around it, and stays as it is.
            let again = wire::map_rdata(&expanded, 0..expanded.len(), rtype, |name| name);
            assert_eq!(again, Some(expanded));
        }
    }
});
