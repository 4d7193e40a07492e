//! The only way from the recursor to the network: each of its queries passes here.

use std::cell::Cell;
use std::future::{Ready, ready};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select_ok;
use futures_util::stream::{BoxStream, StreamExt, once};
use hickory_proto::op::{DnsRequest, DnsResponse, Message};
use hickory_proto::rr::Name;
use hickory_resolver::config::ConnectionConfig;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsHandle, NetError};
use hickory_resolver::{ConnectionProvider, PoolContext};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::message;
use crate::pkarr::{NameKind, Suffixes};
use crate::resolve::answers::Question;
use crate::resolve::delegation::reach::{Reach, reach};
use crate::resolve::exchange::exchange;
use crate::resolve::lookup::is_special_use;
use crate::resolve::query::Peer;
use crate::resolve::response::Response;

/// Name servers asked at once; further queries wait. Each takes two sockets at most.
const MAX_ASKED: usize = 256;
/// After how long a query is sent once more, in case it was lost. Most name servers are nearer.
const RESEND_AFTER: Duration = Duration::from_millis(300);
/// How long a name server may take, resent query and TCP included, before the next one is asked.
const PATIENCE: Duration = Duration::from_secs(1);
/// Queries to name servers for one question. A name of 34 labels, as IPv6 addresses have them in
/// ip6.arpa, takes as many, and a delegation without addresses some more for each of its servers;
/// delegations made for the purpose could take thousands (CVE-2020-8616).
pub(super) const MAX_QUERIES: u32 = 128;

tokio::task_local! {
    /// How many more queries may be sent for the question that this task looks up.
    pub(super) static QUERIES_LEFT: Cell<u32>;
}

/// All name servers.
#[derive(Clone)]
pub(super) struct NameServers(Arc<Shared>);

struct Shared {
    suffixes: Suffixes,
    rules: Vec<Name>,
    private: bool,
    port: u16,
    places: Semaphore,
    runtime: TokioRuntimeProvider,
}

impl NameServers {
    /// Name servers at `port`, at private addresses only if that is wished. Names under `suffixes`,
    /// all others that may be a public key's, and those at or below one of `rules` are not asked for.
    pub(super) fn new(suffixes: Suffixes, rules: Vec<Name>, private: bool, port: u16) -> Self {
        Self(Arc::new(Shared {
            suffixes,
            rules,
            private,
            port,
            places: Semaphore::new(MAX_ASKED),
            runtime: TokioRuntimeProvider::default(),
        }))
    }

    /// Whether a name server at this address may be asked.
    pub(super) fn may_be_at(&self, address: IpAddr) -> bool {
        match reach(address) {
            Reach::Public => true,
            Reach::Private => self.0.private,
            Reach::Nobody => false,
        }
    }

    /// Why a name is asked of no name server; `None` if it may be.
    pub(super) fn refuse(&self, name: &Name) -> Option<&'static str> {
        let Shared {
            suffixes, rules, ..
        } = &*self.0;
        if suffixes.classify(name) != NameKind::Ordinary {
            Some("name servers are not asked for public-key names")
        } else if is_special_use(&name.to_lowercase()) {
            Some("name servers are not asked for special-use names")
        } else if rules.iter().any(|domain| domain.zone_of(name)) {
            Some("name servers are not asked for names that have servers of their own")
        } else {
            None
        }
    }
}

impl ConnectionProvider for NameServers {
    type Conn = NameServer;
    type FutureConn = Ready<Result<NameServer, NetError>>;
    type RuntimeProvider = TokioRuntimeProvider;

    fn new_connection(
        &self,
        ip: IpAddr,
        _: &ConnectionConfig,
        _: &PoolContext,
    ) -> Result<Self::FutureConn, NetError> {
        if !self.may_be_at(ip) {
            return Err(NetError::Timeout);
        }
        Ok(ready(Ok(NameServer {
            address: SocketAddr::new(ip, self.0.port),
            all: self.clone(),
        })))
    }

    fn runtime_provider(&self) -> &TokioRuntimeProvider {
        &self.0.runtime
    }
}

/// One name server.
#[derive(Clone)]
pub(super) struct NameServer {
    address: SocketAddr,
    all: NameServers,
}

impl DnsHandle for NameServer {
    type Response = BoxStream<'static, Result<DnsResponse, NetError>>;
    type Runtime = TokioRuntimeProvider;

    fn send(&self, request: DnsRequest) -> Self::Response {
        // Here and not in the future, which another task may run.
        let question = self.admit(&request);
        let server = self.clone();
        once(async move {
            let message = server.ask(&question?).await?;
            DnsResponse::from_message(message).map_err(NetError::from)
        })
        .boxed()
    }
}

impl NameServer {
    /// The question, if it may be asked. These errors end the lookup: no other server is better.
    fn admit(&self, request: &DnsRequest) -> Result<Question, NetError> {
        let query = request.queries.first();
        let query = query.ok_or(NetError::Message("a query without a question"))?;
        let name = query.name().to_lowercase();
        if let Some(reason) = self.all.refuse(&name) {
            return Err(NetError::Message(reason));
        }
        let left = QUERIES_LEFT.try_with(|left| left.replace(left.get().saturating_sub(1)));
        if left.unwrap_or(0) == 0 {
            return Err(NetError::Message("too many queries for one question"));
        }
        Ok(Question {
            name,
            rtype: query.query_type(),
            dnssec_ok: true,
            checking_disabled: false,
        })
    }

    /// Asks. Whatever goes wrong is said to be a timeout: that makes the recursor ask the next server,
    /// remember that this one is slow, and give up when all of them fail, which other errors do not.
    async fn ask(&self, question: &Question) -> Result<Message, NetError> {
        let place = self.all.0.places.acquire().await;
        let _place = place.map_err(|_| NetError::Timeout)?;
        let reason = match timeout(PATIENCE, self.exchange(question)).await {
            Ok(Ok(response)) => match message::take(&response, question) {
                Ok(message) => return Ok(message),
                Err(reason) => reason.to_owned(),
            },
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it does not answer".to_owned(),
        };
        let (server, name) = (self.address, &question.name);
        tracing::debug!(%server, %name, rtype = %question.rtype, reason, "a name server fails");
        Err(NetError::Timeout)
    }

    async fn exchange(&self, question: &Question) -> std::io::Result<Response> {
        let ask = || Box::pin(exchange(self.address, Peer::NameServer, question));
        let mut first = ask();
        match timeout(RESEND_AFTER, &mut first).await {
            Ok(result) => result,
            Err(_) => Ok(select_ok([first, ask()]).await?.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_asked_only_if_that_is_wished() {
        let may_be_at = |private, address: &str| {
            let servers = NameServers::new(Suffixes::default(), vec![], private, 53);
            servers.may_be_at(address.parse().unwrap())
        };
        for address in [
            "127.0.0.1",
            "10.1.2.3",
            "fe80::1",
            "fd00::1",
            "::ffff:127.0.0.1",
        ] {
            assert!(!may_be_at(false, address), "{address}");
            assert!(may_be_at(true, address), "{address}");
        }
        for address in ["0.0.0.0", "255.255.255.255", "ff02::1", "224.0.0.1"] {
            assert!(!may_be_at(true, address), "{address}");
        }
        assert!(may_be_at(false, "198.41.0.4"));
        assert!(may_be_at(false, "2001:500:2::c"));
    }
}
