//! Answers questions without an upstream: from the root's name servers down (RFC 1034 section 5.3.3).
//!
//! hickory's recursor finds the zones and their name servers and remembers them. Names are minimised
//! on the way (RFC 9156, without its limit of ten steps): a server sees one label more than its own
//! zone. Everything that it asks goes through `name_server`, which lets no public-key name, no
//! special-use name and no name with a rule pass, wherever it comes from. Aliases are followed here.
//!
//! What it keeps: the servers of 1,024 zones, as many single servers, and 1,024 messages that told of
//! them. Answers are kept by the answer cache alone, which stands before it: a second copy here would
//! outlive a flush, and be what a prefetch gets. Which servers a zone has is remembered through both.
//!
//! DNSSEC records are asked for and given to those who want them; nothing is validated here.

mod hints;
mod message;
mod name_server;

use std::cell::Cell;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::future::BoxFuture;
use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, Record as ProtoRecord, RecordType};
use hickory_resolver::config::ResolverOpts;
use hickory_resolver::recursor::{DnssecPolicy, Recursor, RecursorError, RecursorOptions};
use hickory_resolver::{TtlBounds, TtlConfig};
use tokio::time::{Instant, timeout};

use super::answers::Question;
use super::failure::Failure;
use super::query::UDP_PAYLOAD_LEN;
use super::response::Response;
use super::upstream::Forward;
use crate::pkarr::Suffixes;
use crate::wire::MAX_MESSAGE_LEN;

pub use hints::{read_root_hints, root_servers};

use name_server::{MAX_QUERIES, NameServers, QUERIES_LEFT};

/// Zones whose name servers are remembered, and name servers whose round trips are.
const MAX_ZONES: usize = 1024;
/// Messages of name servers that are kept: where zones begin.
const MAX_MESSAGES: u64 = 1024;
/// Steps from the root to a name and to the name servers without addresses on the way. The reverse
/// names of IPv6 have 34 labels.
const MAX_DEPTH: u8 = 64;
/// Aliases from zone to zone that are followed.
const MAX_ALIASES: usize = 12;

/// What the recursion is to do.
#[derive(Debug)]
pub struct RecursiveSettings {
    /// Where the root's name servers are; see [`root_servers`] and [`read_root_hints`].
    pub root_servers: Vec<IpAddr>,
    /// The suffixes under which keys stand: no name server is asked for what is below them.
    pub suffixes: Suffixes,
    /// Domains that others answer, with all below them: no name server is asked for these.
    pub rules: Vec<Name>,
    /// Whether name servers at private addresses are asked: anybody can delegate to them, and so have
    /// this host ask around in its own network. Needed for a root of one's own.
    pub private_name_servers: bool,
    /// The port of all name servers: 53, but in a test.
    pub port: u16,
    /// How long one question may take in all.
    pub timeout: Duration,
}

/// Finds answers from the root on.
pub struct Recursive {
    recursor: Recursor<NameServers>,
    servers: NameServers,
    timeout: Duration,
}

impl std::fmt::Debug for Recursive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recursive").finish_non_exhaustive()
    }
}

impl Recursive {
    /// Starts with nothing known but the root's name servers; asks nobody yet.
    ///
    /// # Errors
    /// If there are no root servers, or one of them may not be asked.
    pub fn new(settings: RecursiveSettings) -> Result<Self, String> {
        let RecursiveSettings {
            root_servers,
            suffixes,
            rules,
            private_name_servers,
            port,
            timeout,
        } = settings;
        let servers = NameServers::new(suffixes, rules, private_name_servers, port);
        if root_servers.is_empty() {
            return Err("there are no root servers".to_owned());
        }
        if let Some(address) = root_servers.iter().find(|ip| !servers.may_be_at(**ip)) {
            return Err(format!("the root server {address} is at a private address"));
        }
        let mut options = RecursorOptions {
            ns_cache_size: MAX_ZONES,
            response_cache_size: MAX_MESSAGES,
            ns_recursion_limit: MAX_DEPTH,
            recursion_limit: MAX_DEPTH,
            edns_payload_len: UDP_PAYLOAD_LEN,
            cache_policy: keep_zones_alone(),
            ..RecursorOptions::default()
        };
        // The recursor passes over the addresses that it may not ask in favour of others. What its
        // own list forgets is refused when it is to be asked.
        if private_name_servers {
            options.deny_server.clear();
        }
        let policy = DnssecPolicy::ValidationDisabled;
        let recursor = Recursor::new(&root_servers, policy, None, options, servers.clone());
        Ok(Self {
            recursor: recursor.map_err(|error| error.to_string())?,
            servers,
            timeout,
        })
    }

    /// The answer, with the aliases that lead to it. An alias to a name that no name server is asked for
    /// is the end: whoever asked knows where to go on.
    async fn follow(&self, question: &Question) -> Result<Response, Failure> {
        let mut whole = Message::response(0, OpCode::Query);
        whole.add_query(Query::query(question.name.clone(), question.rtype));
        let mut name = question.name.clone();
        for _ in 0..MAX_ALIASES {
            let mut message = self.ask(&name, question).await?;
            let target = self.open_alias(&mut message.answers, &name, question.rtype);
            let answers = message.answers.into_iter();
            whole
                .answers
                .extend(answers.filter(|r| !message::is_mark(r)));
            match target {
                None => {
                    whole.metadata.response_code = message.metadata.response_code;
                    whole.authorities.extend(message.authorities);
                    whole.additionals = message.additionals;
                    return write(&whole);
                }
                Some(target) => {
                    // The proof that an alias was made from a wildcard (RFC 4035 section 3.1.3.3).
                    let proofs = message.authorities.into_iter();
                    whole.authorities.extend(proofs.filter(is_proof));
                    name = target.to_lowercase();
                    if self.servers.refuse(&name).is_some() {
                        let leads_to = Some(Box::new(name));
                        return write(&whole).map(|response| Response {
                            leads_to,
                            ..response
                        });
                    }
                }
            }
        }
        Err(Failure::AliasChain)
    }

    /// Where the aliases from `name` on lead, if the answers have no record of the type there, or a name
    /// server is none to say what is there.
    fn open_alias(
        &self,
        answers: &mut Vec<ProtoRecord>,
        name: &Name,
        rtype: RecordType,
    ) -> Option<Name> {
        // RFC 1034 section 4.3.2 step 3a: a question for the alias itself is answered with it.
        if [RecordType::CNAME, RecordType::ANY].contains(&rtype) {
            return None;
        }
        let mut names = message::chain(answers, name);
        let is_refused = |name: &Name| self.servers.refuse(name).is_some();
        if let Some(before) = names.iter().skip(1).position(is_refused) {
            let behind = names.split_off(before + 1);
            answers.retain(|record| !behind.contains(&record.name));
            return behind.into_iter().next();
        }
        let last = names.pop()?;
        let answers_it =
            |record: &ProtoRecord| record.name == last && record.record_type() == rtype;
        (last != *name && !answers.iter().any(answers_it)).then_some(last)
    }

    /// What the authorities of the zone say of one name. Only a name server's word makes an absence;
    /// all errors of the recursor but that are failures.
    async fn ask(&self, name: &Name, question: &Question) -> Result<Message, Failure> {
        if let Some(reason) = self.servers.refuse(name) {
            // Not even the names above it are asked for.
            return Err(Failure::NameServers {
                cut: name.to_string(),
                reason: reason.to_owned(),
            });
        }
        let query = Query::query(name.clone(), question.rtype);
        let now = Instant::now().into_std();
        let resolve = self
            .recursor
            .resolve(query.clone(), now, question.dnssec_ok);
        match Box::pin(resolve).await {
            Ok(message) if message.metadata.authoritative => Ok(message),
            // A referral, when it is not told from a zone without a cut.
            Ok(_) => Err(Failure::NameServers {
                cut: name.to_string(),
                reason: "no authority has answered".to_owned(),
            }),
            // A name above this one does not exist. The recursor also invents such an error, and then
            // says that no records were missing.
            Err(RecursorError::Negative(denial))
                if denial.is_nx_domain() && denial.is_no_records_found() =>
            {
                let mut message = Message::response(0, OpCode::Query);
                message.metadata.response_code = ResponseCode::NXDomain;
                message.add_query(query);
                let authorities = denial.authorities.as_deref().unwrap_or_default();
                message.insert_authorities(authorities.to_vec());
                Ok(message.maybe_strip_dnssec_records(question.dnssec_ok))
            }
            Err(error) => Err(Failure::NameServers {
                cut: name.to_string(),
                reason: error.to_string(),
            }),
        }
    }
}

impl Forward for Recursive {
    fn forward<'a>(&'a self, question: &'a Question) -> BoxFuture<'a, Result<Response, Failure>> {
        Box::pin(async move {
            let follow = QUERIES_LEFT.scope(Cell::new(MAX_QUERIES), self.follow(question));
            let found = timeout(self.timeout, follow).await;
            found.unwrap_or_else(|_| {
                Err(Failure::NameServers {
                    cut: question.name.to_string(),
                    reason: "timed out".to_owned(),
                })
            })
        })
    }
}

/// Messages about the name servers of zones are kept for their time, and no others.
fn keep_zones_alone() -> TtlConfig {
    let mut nothing = ResolverOpts::default();
    nothing.positive_max_ttl = Some(Duration::ZERO);
    nothing.negative_max_ttl = Some(Duration::ZERO);
    let mut policy = TtlConfig::from_opts(&nothing);
    policy.with_query_type_ttl_bounds(RecordType::NS, TtlBounds::default());
    policy
}

/// Whether a record proves that others do not exist.
fn is_proof(record: &ProtoRecord) -> bool {
    [RecordType::NSEC, RecordType::NSEC3, RecordType::RRSIG].contains(&record.record_type())
}

fn write(message: &Message) -> Result<Response, Failure> {
    let bytes = message.to_vec().map_err(|_| Failure::Unwritable)?;
    if bytes.len() > MAX_MESSAGE_LEN {
        return Err(Failure::Unwritable);
    }
    Response::from_message(bytes).ok_or(Failure::Unwritable)
}
