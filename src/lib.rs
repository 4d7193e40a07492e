//! pkbridge: a local DNS resolver for public-key names.
//!
//! An Ed25519 public key is a domain: its owner signs a small DNS packet (Pkarr) and puts it on the
//! BitTorrent Mainline DHT (BEP 44). This crate answers such names over DNS, and forwards all others
//! to upstream resolvers.
//!
//! The map, from the outside in; each module uses only those below it:
//!
//! - [`cli`]: the command line, a file for each verb.
//! - [`server`]: the composition root: bound sockets, and a resolver behind them.
//! - [`control`]: the control socket, by which the command line asks the running service.
//! - [`serve`]: how clients are served: UDP, TCP, what is admitted, how replies are written.
//! - [`resolve`]: where answers come from: the cache, the DHT, upstreams.
//! - [`pkarr`]: what a public-key name means: keys, signed packets, zones. No clock, no sockets.
//! - [`wire`]: DNS messages as bytes.
//! - [`endpoint`]: how an upstream is reached, and written down.
//!
//! [`config`] is read by `cli` and `server` alone; [`panics`] says what a panic does; `readable`
//! are the sockets that are read, and `file_look` tells whether a file is another one.
#![cfg_attr(
    test,
    allow(
        clippy::as_conversions,
        clippy::wildcard_enum_match_arm,
        reason = "a test that fails tells enough"
    )
)]

pub mod cli;
pub mod config;
pub mod control;
pub mod endpoint;
mod file_look;
pub mod panics;
pub mod pkarr;
mod readable;
pub mod resolve;
pub mod serve;
pub mod server;
pub mod wire;
