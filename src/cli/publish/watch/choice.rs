//! What is put: the zone signed anew, the same packet again, or somebody else's.

use crate::pkarr::SignedPacket;
use crate::resolve::Sighting;

/// What is put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Choice {
    /// The packet that says what the zone does, unchanged.
    Again(SignedPacket),
    /// The zone, signed anew.
    Sign,
    /// What somebody else who has the key has published meanwhile.
    Others(SignedPacket),
    /// Nothing: that is no valid packet.
    OthersInvalid {
        /// Its sequence number.
        seq: u64,
    },
}

/// Chooses. `dns` is what the zone says, `is_new` whether its owner has said it since the last time, `ours` what
/// was put then, `newest` what there is now.
pub(super) fn choose(
    dns: &[u8],
    is_new: bool,
    ours: Option<&SignedPacket>,
    newest: Option<Sighting>,
) -> Choice {
    let own_seq = ours.map_or(0, SignedPacket::seq);
    let newer = newest.filter(|newest| match newest {
        // Of two with one sequence number the greater bytes win, and they are not ours.
        Sighting::Packet(packet) => packet.seq() >= own_seq && Some(packet) != ours,
        Sighting::Invalid { seq, .. } => *seq > own_seq,
    });
    match (newer, ours) {
        (Some(Sighting::Packet(packet)), _) if packet.dns() == dns => Choice::Again(packet),
        (Some(_), _) if is_new => Choice::Sign,
        (Some(Sighting::Packet(packet)), _) => Choice::Others(packet),
        (Some(Sighting::Invalid { seq, .. }), _) => Choice::OthersInvalid { seq },
        (None, Some(ours)) if ours.dns() == dns => Choice::Again(ours.clone()),
        (None, _) => Choice::Sign,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pkarr::{SigningKey, compose, read_zone_file};

    /// Two zones, as they are signed.
    fn dns() -> [Vec<u8>; 2] {
        let secret = SigningKey::from_bytes(&[5; 32]);
        ["@ A 192.0.2.1", "@ A 192.0.2.2"]
            .map(|zone| compose(&read_zone_file(zone.as_bytes(), (&secret).into()).unwrap()).dns)
    }

    fn signed(seq: u64, dns: &[u8]) -> SignedPacket {
        SignedPacket::sign(&SigningKey::from_bytes(&[5; 32]), seq, dns).unwrap()
    }

    #[test]
    fn what_says_the_same_is_put_again_unchanged() {
        let [here, there] = dns();
        let ours = signed(10, &here);
        for (ours, newest) in [
            (None, Some(signed(10, &here))),
            (Some(signed(10, &here)), Some(signed(10, &here))),
            (Some(signed(9, &here)), Some(signed(10, &here))),
            // The network has lost it, or has an older one.
            (Some(signed(10, &here)), None),
            (Some(signed(10, &here)), Some(signed(9, &there))),
        ] {
            for is_new in [false, true] {
                let newest = newest.clone().map(Sighting::Packet);
                let choice = choose(&here, is_new, ours.as_ref(), newest);
                assert_eq!(choice, Choice::Again(signed(10, &here)));
            }
        }
        assert_eq!(choose(&there, false, Some(&ours), None), Choice::Sign);
        let newest = Sighting::Packet(ours.clone());
        assert_eq!(
            choose(&there, false, Some(&ours), Some(newest)),
            Choice::Sign
        );
        assert_eq!(choose(&here, true, None, None), Choice::Sign);
    }

    #[test]
    fn somebody_elses_stays_unless_the_owner_says_something_new() {
        let [here, there] = dns();
        let ours = signed(10, &here);
        let invalid = Sighting::Invalid {
            seq: 11,
            reason: String::new(),
        };
        let theirs = Sighting::Packet(signed(11, &there));
        let tied = Sighting::Packet(signed(10, &there));
        for (newest, choice) in [
            (&theirs, Choice::Others(signed(11, &there))),
            (&tied, Choice::Others(signed(10, &there))),
            (&invalid, Choice::OthersInvalid { seq: 11 }),
        ] {
            let chosen = |is_new, ours| choose(&here, is_new, ours, Some(newest.clone()));
            assert_eq!(chosen(false, Some(&ours)), choice);
            assert_eq!(chosen(true, Some(&ours)), Choice::Sign);
            // At the start the owner's word is new.
            assert_eq!(chosen(true, None), Choice::Sign);
        }
    }
}
