//! What a public-key name means: keys, names, signed packets, zones. Pure: no clock, no sockets, no
//! configuration.

mod key;
mod message;
mod name;
mod secret_key;
mod signed_packet;
mod zone;
mod zone_file;

pub use key::{KeyError, PublicKey, Z32_ALPHABET, Z32_LEN};
pub use message::{Composed, compose};
pub use name::{NameError, NameKind, PublicKeyName, Suffixes, parse_name};
pub use secret_key::{SecretKeyError, read_secret_key, secret_key_text};
pub use signed_packet::{MAX_DNS_LEN, PacketError, SignedPacket, signed_at};
pub(crate) use zone::soa_record;
pub use zone::{Lookup, Record, Zone};
pub use zone_file::{
    DEFAULT_TTL, FilledZone, HostAddresses, ZoneFileError, fill_zone_file, read_zone_file,
};

pub use ed25519_dalek::SigningKey;
