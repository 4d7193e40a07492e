//! Thousands of Mainline DHT nodes in one process, for tests and measurements.
//!
//! Each node has a socket and a loopback address of its own and speaks the real protocol (BEP 5, mutable
//! items of BEP 44, the `ip` of BEP 42), so that unchanged clients work on it: the `mainline` crate,
//! libtorrent. A seed makes the network: the same ids, tables and dead nodes each time.
//!
//! **Modelled**: routing tables as nodes have them after a long time, with dead nodes still in them;
//! round trips with jitter (the whole of it is put on the reply); replies that get lost; poisoners, which
//! answer every search with invented nodes near the target; holders with an older item; outages. The
//! network knows for each lookup how fast an ideal client would have been ([`Trace`]), since it knows
//! which reply named which node, and what round trips it drew.
//!
//! **Not modelled**: tables do not learn, nodes never ask anybody, and so clients are in no table, read
//! only or not, and are never pinged. No peers and no `announce_peer`, no immutable items, no salts, no
//! IPv6. Tokens and items do not expire; nodes have no rate limits and ban nobody. Requests are never
//! lost or late. Round trips are even: a node is not always slow, nor far from some clients. All
//! addresses are in 127.0.0.0/8, each in a /24 of its own: clients see one region of the network and
//! need no secure ids (BEP 42). At the addresses of invented nodes nobody listens, which the system
//! tells clients that want to know (ICMP). libtorrent 2.1 puts and gets with its default settings.
//!
//! ```
//! use dht_simulator::{Network, Settings};
//! use std::time::Duration;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! let network = Network::start(Settings {
//!     nodes: 1000,
//!     round_trip: Duration::from_millis(50),
//!     dead: 0.25,
//!     ..Settings::default()
//! })
//! .await?;
//! let addresses = network.bootstrap();
//! # assert_eq!(addresses.len(), 4);
//! # Ok(())
//! # }
//! ```

mod bencode;
mod network;
mod protocol;
mod sockets;
mod table;
mod trace;
mod traffic;
mod world;

pub use network::Network;
pub use protocol::{Item, MAX_VALUE};
pub use trace::Trace;
pub use traffic::{ClientTraffic, Counts, Traffic};
pub use world::{HOLDERS, MAX_NODES, Settings};
