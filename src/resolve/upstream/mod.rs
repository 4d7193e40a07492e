//! Forwards questions to upstream resolvers.
//!
//! A question goes to the servers of the longest domain that has a rule, or else to those for all
//! names; among them a [`Strategy`] says whom to ask first. The next one is asked when one fails, or is
//! later than usual; the first usable answer wins.

mod group;
mod link;
mod loops;
mod manners;
mod pulse;
mod server;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use hickory_proto::rr::Name;

use super::answers::Question;
use super::failure::Failure;
use super::response::Response;
use crate::endpoint::Endpoint;
use group::Group;
use link::Bootstrap;
use loops::Loops;
use server::Server;

pub use link::{Tls, TrustError};
// A relay is connected to in the same way.
pub(super) use link::{
    CONNECT_TIMEOUT, LinkError, MAX_HEADERS_LEN, TlsClient, authority, connect_tcp, connect_tls,
    in_order, race,
};

/// What the resolver needs of whoever answers ordinary names.
pub trait Forward: Send + Sync + std::fmt::Debug {
    /// Asks a question. Answers of any RCODE are answers; a failure is the lack of one.
    fn forward<'a>(&'a self, question: &'a Question) -> BoxFuture<'a, Result<Response, Failure>>;

    /// The same, asked of others than the servers `past` ([`Response::server`]). It is a failure if there are
    /// none.
    fn forward_past<'a>(
        &'a self,
        question: &'a Question,
        past: &'a [usize],
    ) -> BoxFuture<'a, Result<Response, Failure>> {
        match past {
            [] => self.forward(question),
            _ => Box::pin(async { Err(Failure::NoUpstream) }),
        }
    }

    /// Says that what this server told of a name is bogus, and what another one told is not.
    fn doubt(&self, _name: &Name, _server: usize) {}

    /// Whether the operator has named servers for this name: it is theirs to answer then, even if it
    /// is a special-use name or has private addresses.
    fn has_rule_for(&self, _name: &Name) -> bool {
        false
    }

    /// Whether nobody who could answer for this name has answered lately, so that there is little to wait
    /// for.
    fn is_down_for(&self, _name: &Name) -> bool {
        false
    }
}

/// Whom to ask first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strategy {
    /// The one whose answers take the least time.
    #[default]
    Fastest,
    /// The first in the list that works.
    InOrder,
    /// Up to three at once.
    Parallel,
}

/// The upstreams, and how they are asked.
#[derive(Debug, Clone)]
pub struct UpstreamSettings {
    /// The servers for all names without a rule.
    pub servers: Vec<Endpoint>,
    /// Servers for some domains.
    pub rules: Vec<ForwardRule>,
    /// Whom to ask first.
    pub strategy: Strategy,
    /// How long a question may take in all.
    pub timeout: Duration,
    /// What certificates are trusted.
    pub tls: Arc<Tls>,
    /// Who knows the addresses of servers that are given by name.
    pub bootstrap: Vec<SocketAddr>,
}

/// Domains that have servers of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardRule {
    /// The domains, with all below them.
    pub domains: Vec<Name>,
    /// Their servers.
    pub servers: Vec<Endpoint>,
}

/// The configured upstream resolvers.
#[derive(Debug)]
pub struct Upstreams {
    others: Group,
    /// Who answers for names without a rule instead of them.
    instead: Option<Arc<dyn Forward>>,
    /// By domain, in lower case.
    rules: HashMap<Name, Group>,
    /// The number of labels of the longest domain that has a rule.
    longest: u8,
    loops: Arc<Loops>,
}

/// Who is asked for a name.
enum Who<'a> {
    Group(&'a Group),
    Instead(&'a dyn Forward),
}

impl Upstreams {
    /// Forwards as the settings say. No server is spoken to before there is a question.
    pub fn new(settings: UpstreamSettings) -> Self {
        let loops = Arc::new(Loops::default());
        let bootstrap = Arc::new(Bootstrap::new(settings.bootstrap));
        let servers = |endpoints: Vec<Endpoint>| -> Vec<Arc<Server>> {
            let server = |endpoint| {
                let (tls, bootstrap) = (Arc::clone(&settings.tls), Arc::clone(&bootstrap));
                Arc::new(Server::new(endpoint, tls, bootstrap))
            };
            endpoints.into_iter().map(server).collect()
        };
        let group = |domain, servers| {
            let (strategy, timeout) = (settings.strategy, settings.timeout);
            Group::new(domain, servers, strategy, timeout, Arc::clone(&loops))
        };
        let mut rules = HashMap::new();
        for rule in settings.rules {
            let servers = servers(rule.servers);
            for domain in rule.domains {
                let domain = domain.to_lowercase();
                rules.insert(domain.clone(), group(Some(domain), servers.clone()));
            }
        }
        Self {
            others: group(None, servers(settings.servers)),
            instead: None,
            longest: rules.keys().map(Name::num_labels).max().unwrap_or(0),
            rules,
            loops,
        }
    }

    /// Names without a rule are answered by `others` instead of the servers for them.
    #[must_use]
    pub fn with_others(self, others: Arc<dyn Forward>) -> Self {
        Self {
            instead: Some(others),
            ..self
        }
    }

    /// Who is asked for a name.
    fn who_knows(&self, name: &Name) -> Who<'_> {
        match (self.rule(name), &self.instead) {
            (Some(group), _) => Who::Group(group),
            (None, Some(others)) => Who::Instead(others.as_ref()),
            (None, None) => Who::Group(&self.others),
        }
    }

    /// The servers of the longest domain that a name is in and that has a rule.
    fn rule(&self, name: &Name) -> Option<&Group> {
        let labels = name.num_labels().min(self.longest);
        (1..=labels)
            .rev()
            .find_map(|labels| self.rules.get(&name.trim_to(usize::from(labels))))
    }
}

impl Forward for Upstreams {
    fn forward<'a>(&'a self, question: &'a Question) -> BoxFuture<'a, Result<Response, Failure>> {
        self.forward_past(question, &[])
    }

    fn forward_past<'a>(
        &'a self,
        question: &'a Question,
        past: &'a [usize],
    ) -> BoxFuture<'a, Result<Response, Failure>> {
        Box::pin(async move {
            if self.loops.is_test(&question.name) {
                return Err(Failure::Loop);
            }
            match self.who_knows(&question.name) {
                Who::Group(group) => group.ask(question, past).await,
                Who::Instead(others) => others.forward(question).await,
            }
        })
    }

    fn doubt(&self, name: &Name, server: usize) {
        if let Who::Group(group) = self.who_knows(name) {
            group.doubt(server);
        }
    }

    fn has_rule_for(&self, name: &Name) -> bool {
        // A test question must come as far as here, whatever is known of its name.
        loops::is_below_test_domain(name)
            || !self.rules.is_empty() && self.rule(&name.to_lowercase()).is_some()
    }

    fn is_down_for(&self, name: &Name) -> bool {
        match self.who_knows(&name.to_lowercase()) {
            Who::Group(group) => group.is_down(),
            Who::Instead(others) => others.is_down_for(name),
        }
    }
}
