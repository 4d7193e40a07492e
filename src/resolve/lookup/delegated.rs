//! A name that a packet delegates to name servers: asked of them, and given out under the name that
//! was asked.

use std::net::IpAddr;

use hickory_proto::rr::{Name, RecordType};
use tokio::time::Instant;

use super::addresses::OnBehalf;
use super::packet::View;
use super::{Chain, Ending, Lookup, MAX_ALIASES, Step};
use crate::pkarr::{PublicKeyName, Record};
use crate::resolve::answers::Question;
use crate::resolve::delegation::NameServer;
use crate::resolve::failure::Failure;
use crate::wire::{self, Section};

impl Lookup {
    pub(super) async fn ask_name_servers(
        &self,
        question: &Question,
        of_key: &PublicKeyName,
        cut: Name,
        servers: Vec<(Name, Vec<IpAddr>)>,
        view: &View<'_>,
        chain: &mut Chain,
    ) -> Result<Step, Failure> {
        let delegations = self.delegations.as_ref().filter(|_| chain.may_delegate);
        let Some(delegations) = delegations else {
            return Err(Failure::Delegated(cut.to_ascii()));
        };
        let servers = servers
            .into_iter()
            .map(|(name, addresses)| NameServer { name, addresses })
            .collect();
        // The name servers know the key's own names; suffixes are ours.
        let asked = Question {
            name: of_key.in_zone.to_lowercase(),
            ..question.clone()
        };
        let addresses = OnBehalf {
            lookup: self,
            asker: chain.asker,
        };
        let response = delegations.ask(&cut, servers, &asked, &addresses).await?;
        chain.now = Instant::now();
        chain.verified = false;
        let section = |section| -> Vec<Record> {
            let records = response.layout.section(section);
            let records = records.filter_map(|record| response.record(record));
            let view = |record: Record| {
                let mapped =
                    wire::map_rdata(&record.rdata, 0..record.rdata.len(), record.rtype, |name| {
                        view.name(name)
                    });
                Record {
                    owner: view.name(record.owner),
                    ttl: record.ttl.clamp(self.ttls.min, self.ttls.max),
                    rdata: mapped.unwrap_or(record.rdata),
                    rtype: record.rtype,
                }
            };
            records.map(view).collect()
        };
        let answers = section(Section::Answer);
        let authorities = section(Section::Authority);
        for record in answers.iter().chain(&authorities) {
            chain.holds_for(record.ttl);
        }
        // An SOA, or an RCODE, tells of the end of the chain.
        let is_open = response.rcode == 0 && authorities.is_empty();
        let alias = is_open
            .then(|| unanswered_alias(&answers, view.name(of_key.in_zone.clone()), question.rtype))
            .flatten();
        if alias.is_none() {
            chain.holds_for(self.forwarded_lifetime(&response, question.rtype));
        }
        chain.answers.extend(answers);
        Ok(match alias {
            Some(target) => Step::Alias(target),
            None => Step::Done(Ending {
                rcode: response.rcode,
                authorities,
            }),
        })
    }
}

/// The end of a chain of aliases behind which the answer has no more to say.
fn unanswered_alias(answers: &[Record], name: Name, rtype: RecordType) -> Option<Name> {
    if [RecordType::CNAME, RecordType::ANY].contains(&rtype) {
        return None;
    }
    let mut name = name;
    for followed in 0..=MAX_ALIASES {
        let at_name = |record: &&Record| record.owner == name;
        if answers.iter().filter(at_name).any(|r| r.rtype == rtype) {
            return None;
        }
        let cname = answers
            .iter()
            .filter(at_name)
            .find(|record| record.rtype == RecordType::CNAME);
        match cname {
            Some(cname) => name = wire::read_name(&cname.rdata, 0).ok()?.0,
            None => return (followed > 0).then_some(name),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use ed25519_dalek::SigningKey;
    use futures_util::future::BoxFuture;
    use hickory_proto::op::{Message, ResponseCode};
    use hickory_proto::rr::rdata::{A, CNAME, NS, SOA};
    use hickory_proto::rr::{RData, Record as ProtoRecord};
    use tokio::net::UdpSocket;

    use super::*;
    use crate::pkarr::{PublicKey, SignedPacket, Suffixes};
    use crate::resolve::delegation::Delegations;
    use crate::resolve::lookup::Names;
    use crate::resolve::{
        AnswerCache, Asker, Ending, FetchPacket, Forward, HoldTimes, Holders, Packets, Response,
        See, Sighting, Ttls, Wanted,
    };

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

    #[derive(Debug)]
    struct OnePacket(SignedPacket);

    impl FetchPacket for OnePacket {
        fn fetch<'a>(&'a self, _: Wanted, see: &'a mut See<'_>) -> BoxFuture<'a, Ending> {
            see(Sighting::Packet(self.0.clone()));
            Box::pin(async { Ending::Complete(Holders::default()) })
        }
    }

    #[derive(Debug)]
    struct NoUpstream;

    impl Forward for NoUpstream {
        fn forward<'a>(&'a self, _: &'a Question) -> BoxFuture<'a, Result<Response, Failure>> {
            Box::pin(async { panic!("a public-key name was forwarded") })
        }
    }

    fn key() -> String {
        let secret = SigningKey::from_bytes(&[9; 32]);
        let bytes = secret.verifying_key().to_bytes();
        PublicKey::from_bytes(&bytes).unwrap().to_string()
    }

    fn n(text: &str) -> Name {
        Name::from_ascii(text.replace("KEY", &key()) + ".").unwrap()
    }

    fn a() -> RData {
        RData::A(A::from(ADDRESS))
    }

    /// A name server for `sub.KEY` on loopback, what it was asked, and a lookup whose only packet
    /// delegates to it.
    async fn start(allow_private: bool) -> (Lookup, Arc<Mutex<Vec<Message>>>) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = asked.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let query = Message::from_vec(&buffer[..length]).unwrap();
                let name = query.queries[0].name().clone();
                let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
                reply.metadata.authoritative = true;
                reply.add_query(query.queries[0].clone());
                let record = |data| ProtoRecord::from_rdata(name.clone(), 60, data);
                if name == n("host.sub.KEY") {
                    reply.add_answer(record(a()));
                } else if name == n("alias.sub.KEY") {
                    reply.add_answer(record(RData::CNAME(CNAME(n("www.KEY")))));
                } else if name == n("sub.KEY") {
                    reply.add_answer(record(RData::NS(NS(n("ns.sub.KEY")))));
                } else {
                    reply.metadata.response_code = ResponseCode::NXDomain;
                    let soa = SOA::new(n("sub.KEY"), n("h.sub.KEY"), 1, 2, 3, 4, 20);
                    let soa = ProtoRecord::from_rdata(n("sub.KEY"), 60, RData::SOA(soa));
                    reply.add_authority(soa);
                }
                heard.lock().unwrap().push(query);
                let bytes = reply.to_vec().unwrap();
                socket.send_to(&bytes, from).await.unwrap();
            }
        });
        let records = [
            (n("sub.KEY"), RData::NS(NS(n("ns.sub.KEY")))),
            (n("ns.sub.KEY"), RData::A(A::from(Ipv4Addr::LOCALHOST))),
            (n("www.KEY"), a()),
        ]
        .map(|(owner, data)| ProtoRecord::from_rdata(owner, 300, data));
        let secret = SigningKey::from_bytes(&[9; 32]);
        let packet = SignedPacket::sign_records(&secret, 1, records.to_vec()).unwrap();
        let times = HoldTimes {
            min: Duration::from_secs(60),
            max: Duration::from_secs(600),
            empty: Duration::from_secs(60),
            failure: Duration::from_secs(5),
            max_stale: Duration::ZERO,
            stale_wait: Duration::ZERO,
        };
        let lookup = Lookup {
            names: Names {
                suffixes: Suffixes::new(["pkarr"]),
                ..Names::default()
            },
            packets: Packets::new(Arc::new(OnePacket(packet)), None, 1 << 20, times),
            forward: Arc::new(NoUpstream),
            delegations: Some(
                Delegations::new(allow_private, Duration::from_secs(4)).at_port(port),
            ),
            ttls: Ttls {
                min: 0,
                max: 600,
                negative: 300,
                failure: 5,
            },
            cache: AnswerCache::new(1 << 20),
        };
        (lookup, asked)
    }

    async fn ask(lookup: &Lookup, name: &str, rtype: RecordType) -> (Message, Vec<u16>) {
        let question = Question {
            name: n(name),
            rtype,
            dnssec_ok: false,
            checking_disabled: false,
        };
        let answer = lookup.answer(&question, Asker::Refresh).await;
        assert!(!answer.is_verified(), "no signature covers it");
        let codes = answer.edes().iter().map(|ede| ede.code).collect();
        (Message::from_vec(answer.wire()).unwrap(), codes)
    }

    #[tokio::test]
    async fn a_delegated_name_is_asked_of_its_name_server_without_rd_and_without_the_suffix() {
        let (lookup, asked) = start(true).await;
        for name in ["host.sub.KEY", "host.sub.KEY.pkarr"] {
            let (reply, _) = ask(&lookup, name, RecordType::A).await;
            assert_eq!(reply.answers.len(), 1, "{reply}");
            assert_eq!(reply.answers[0].name, n(name));
            assert_eq!(reply.answers[0].data, a());
        }
        let asked = asked.lock().unwrap();
        assert_eq!(asked.len(), 2);
        for query in asked.iter() {
            assert_eq!(*query.queries[0].name(), n("host.sub.KEY"));
            assert!(!query.metadata.recursion_desired);
        }
    }

    #[tokio::test]
    async fn an_alias_out_of_the_delegation_goes_on_in_the_packet() {
        let (lookup, _) = start(true).await;
        let (reply, _) = ask(&lookup, "alias.sub.KEY.pkarr", RecordType::A).await;
        let owners: Vec<_> = reply.answers.iter().map(|record| &record.name).collect();
        assert_eq!(owners, [&n("alias.sub.KEY.pkarr"), &n("www.KEY.pkarr")]);
        assert_eq!(reply.answers[1].data, a());
    }

    #[tokio::test]
    async fn what_the_name_server_denies_does_not_exist() {
        let (lookup, _) = start(true).await;
        let (reply, _) = ask(&lookup, "missing.sub.KEY.pkarr", RecordType::A).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(reply.authorities[0].name, n("sub.KEY.pkarr"));
    }

    #[tokio::test]
    async fn under_a_suffix_the_name_servers_are_not_shown() {
        let (lookup, _) = start(true).await;
        let (reply, _) = ask(&lookup, "sub.KEY.pkarr", RecordType::NS).await;
        assert_eq!(reply.answers[0].data, RData::NS(NS(n("pkarr"))));
        let (reply, _) = ask(&lookup, "sub.KEY", RecordType::NS).await;
        assert_eq!(reply.answers[0].data, RData::NS(NS(n("ns.sub.KEY"))));
    }

    #[tokio::test]
    async fn a_packet_cannot_make_us_ask_private_addresses() {
        let (lookup, asked) = start(false).await;
        let (reply, codes) = ask(&lookup, "host.sub.KEY", RecordType::A).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
        assert_eq!(codes, [crate::resolve::ede::BLOCKED]);
        assert!(asked.lock().unwrap().is_empty());
    }
}
