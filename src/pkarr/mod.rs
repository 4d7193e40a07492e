//! What a public-key name means: keys, names, signed packets, zones. Pure: no clock, no sockets, no
//! asynchronous runtime, no configuration.
//!
//! The owner of a name goes from a [zone file](read_zone_file) over the [message](compose) of its records to a
//! [`SignedPacket`]; who wants to know goes from a packet to its [`Zone`], and [looks up](Zone::lookup) in it:
//!
//! ```
//! use pkbridge::pkarr::{
//!     Lookup, PublicKey, RecordType, SignedPacket, SigningKey, Zone, compose, read_zone_file,
//! };
//!
//! let secret = SigningKey::from_bytes(&[7; 32]);
//! let records = read_zone_file(b"@ TXT \"Hello\"", PublicKey::from(&secret))?;
//! let packet = SignedPacket::sign(&secret, 1_767_225_600_000_000, &compose(&records).dns)?;
//!
//! let zone = Zone::new(&packet, 300);
//! let Lookup::Rrset { rdata, .. } = zone.lookup(zone.apex(), RecordType::TXT) else {
//!     panic!("there is such a record");
//! };
//! assert_eq!(rdata, [b"\x05Hello"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`resolve`](crate::resolve) puts packets on the DHT and finds them there.

mod calendar;
mod key;
mod message;
mod name;
mod secret_key;
mod signed_packet;
mod zone;
mod zone_file;

pub use key::{KeyError, PublicKey};
// For the tests, which make keys and what merely looks like one.
pub(crate) use calendar::{days_of, months_of};
#[doc(hidden)]
pub use key::{Z32_ALPHABET, Z32_LEN};
pub use message::{Composed, compose};
pub use name::{NameError, NameKind, PublicKeyName, Suffixes, parse_name};
pub use secret_key::{SecretKeyError, read_secret_key, secret_key_text};
pub use signed_packet::{MAX_DNS_LEN, PacketError, SignedPacket, signed_at};
pub(crate) use zone::soa_record;
pub use zone::{Lookup, Record, Zone};
pub use zone_file::{
    DEFAULT_TTL, FilledZone, HostAddresses, ZoneFileError, ZoneFileErrors, fill_zone_file,
    read_zone_file,
};

pub use crate::wire::WireError;
pub use ed25519_dalek::SigningKey;
pub use hickory_proto::rr::{Name, RecordType};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_it_may_go_to_other_threads() {
        fn goes<T: Send + Sync + 'static>() {}
        goes::<(PublicKey, SigningKey, SignedPacket, Zone, Record, Composed)>();
        goes::<(Suffixes, NameKind, Lookup<'static>)>();
        goes::<(
            KeyError,
            SecretKeyError,
            PacketError,
            NameError,
            ZoneFileErrors,
        )>();
    }

    #[test]
    fn a_secret_key_does_not_show() {
        let secret = SigningKey::from_bytes(&[0x5e; 32]);
        let shown = format!("{secret:?}").to_ascii_lowercase();
        assert!(
            !shown.contains("5e5e") && !shown.contains("94, 94"),
            "{shown}"
        );
    }
}
