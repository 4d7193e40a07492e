//! Public keys as domains: a library, and the resolver `pkbridge` that is built on it.
//!
//! An Ed25519 public key is a domain: its owner signs a small DNS packet (Pkarr) and puts it on the
//! BitTorrent Mainline DHT (BEP 44). Two modules are for other programs:
//!
//! - [`pkarr`]: what a public-key name means: keys, signed packets, zones, zone files. No clock, no sockets.
//! - [`resolve`]: the DHT, where packets are published and found.
//!
//! ```
//! use std::sync::Arc;
//!
//! use pkbridge::pkarr::{PublicKey, SignedPacket, SigningKey, Zone, compose, read_zone_file};
//! use pkbridge::resolve::{Dht, DhtSettings, Sighting};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A DHT of ten nodes on loopback, in the place of the public one.
//! let network = tokio::task::spawn_blocking(|| mainline::Testnet::builder(10).build()).await??;
//! let dht = Dht::join(DhtSettings::new(&network.bootstrap), Arc::new(()));
//!
//! // The owner of a name: 32 bytes from the system's random number generator, in earnest.
//! let secret = SigningKey::from_bytes(&[7; 32]);
//! let key = PublicKey::from(&secret);
//! let records = read_zone_file(b"www 60 A 192.0.2.1", key)?;
//! let packet = SignedPacket::sign(&secret, 1_767_225_600_000_000, &compose(&records).dns)?;
//! let published = dht.publish(&packet, None).await?;
//! assert!(published.holders.newest > 0);
//!
//! // Anybody.
//! let Some(Sighting::Packet(found)) = dht.newest(key).await? else {
//!     panic!("it is published");
//! };
//! assert_eq!(found, packet);
//! assert_eq!(Zone::new(&found, 300).records(), records);
//! # Ok(())
//! # }
//! ```
//!
//! All else is public for the program, its tests, benchmarks and fuzz targets alone. It is not shown here, and
//! may change with every version; ARCHITECTURE.md in the repository is its map.
#![cfg_attr(
    test,
    allow(
        clippy::as_conversions,
        clippy::wildcard_enum_match_arm,
        reason = "a test that fails tells enough"
    )
)]

// From the outside in; each module uses only those below it. `config` is read by `cli` and `server` alone.
#[doc(hidden)]
pub mod cli;
#[doc(hidden)]
pub mod server;

#[doc(hidden)]
pub mod control;
#[doc(hidden)]
pub mod serve;

pub mod resolve;

pub mod pkarr;

#[doc(hidden)]
pub mod wire;

#[doc(hidden)]
pub mod config;
#[doc(hidden)]
pub mod endpoint;
mod file_look;
#[doc(hidden)]
pub mod panics;
mod readable;
