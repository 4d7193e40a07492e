//! The control socket, by which `pkbridge status`, `flush` and `explain` talk to the running service.
//!
//! A Unix stream socket, to which root and the service's group may connect. One connection is one
//! exchange: a request, which is a JSON object on one line, and a reply, which is one too:
//!
//! ```text
//! {"verb":"status"}                                  {"ok":{...}}       a Status
//! {"verb":"flush","what":"all"}                      {"ok":{...}}       a Flushed
//! {"verb":"explain","name":"www.example.com."}       {"ok":{...}}       an Explanation
//! {"verb":"dance"}                                   {"error":"..."}    text for people
//! ```
//!
//! A field that a request does not have is an error, for it would be a wish that is not heard. Who
//! reads a report leaves out what it does not know, so that a report can grow.

mod client;
mod listener;
mod report;
mod request;
mod serve;

use futures_util::future::BoxFuture;
use hickory_proto::rr::Name;

pub use client::{AskError, ask};
pub use listener::{BindError, BindFault, ControlListener};
pub use report::{
    CacheUse, Cached, Dht, Explanation, FOUND, Flushed, Freshness, Instance, KeepAlive, LastLookup,
    Lookups, Packet, Relay, Source, Status, Store,
};
pub use request::{Flush, Request, RequestError};
pub use serve::serve_control;

/// What the running service can tell and do.
pub trait Control: Send + Sync {
    /// How the service is.
    fn status(&self) -> BoxFuture<'_, Status>;

    /// Forgets what is cached, so that the next question is looked up anew. What guards against older
    /// packets (the highest sequence number seen of each key) is not forgotten.
    fn flush(&self, what: Flush) -> BoxFuture<'_, Flushed>;

    /// What is known of a name, and what a question for it would do. Looks nothing up.
    fn explain(&self, name: Name) -> BoxFuture<'_, Explanation>;
}
