//! Any bytes as a name on the wire: whatever holds a label in the form of a key, or ends in the
//! suffix, is never ordinary.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pkbridge::pkarr::{NameKind, PublicKey, Suffixes};
use pkbridge::wire;

fuzz_target!(|bytes: &[u8]| {
    let Ok((name, _)) = wire::read_name(bytes, 0) else {
        return;
    };
    let kind = Suffixes::new(["pkarr", "dev.key"]).classify(&name);
    let key_like = name.iter().any(PublicKey::is_key_like);
    let suffixed = name
        .iter()
        .last()
        .is_some_and(|label| label.eq_ignore_ascii_case(b"pkarr"));
    assert_eq!(kind == NameKind::Ordinary, !key_like && !suffixed && {
        let lower = name.to_lowercase().to_ascii();
        lower != "dev.key." && !lower.ends_with(".dev.key.")
    });
    // Letter case never matters.
    let upper: Vec<u8> = wire::name_bytes(&name).to_ascii_uppercase();
    if let Ok((upper, _)) = wire::read_name(&upper, 0) {
        let same = std::mem::discriminant(&Suffixes::new(["pkarr", "dev.key"]).classify(&upper));
        assert_eq!(std::mem::discriminant(&kind), same);
    }
});
