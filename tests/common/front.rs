//! A resolver that answers as its `Names` say, on a UDP socket, before a scripted upstream that is asked
//! over UDP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use hickory_proto::rr::Name;
use pkbridge::pkarr::SignedPacket;
use pkbridge::resolve::{
    AnswerCache, Ending, Failure, FetchPacket, Forward, HoldTimes, Holders, Names, Packets,
    Question, Resolver, Response, See, Sighting, Ttls, Wanted,
};
use pkbridge::serve::{AuthenticData, ServeSettings, Service, Transport};
use tokio::net::UdpSocket;

use super::{exchange_udp, name, query};

/// The TTL of what has no records, in seconds.
pub const NEGATIVE_TTL: u32 = 300;

/// The DHT has one packet at most.
#[derive(Debug)]
struct OnePacket(Option<SignedPacket>);

impl FetchPacket for OnePacket {
    fn fetch<'a>(&'a self, wanted: Wanted, see: &'a mut See<'_>) -> BoxFuture<'a, Ending> {
        let packet = self.0.clone().filter(|packet| packet.key() == wanted.key);
        packet
            .into_iter()
            .for_each(|packet| see(Sighting::Packet(packet)));
        Box::pin(async { Ending::Complete(Holders::default()) })
    }
}

/// Asks one server over UDP, and has rules for these domains.
pub fn asking(server: SocketAddr, rules: &[&str]) -> Arc<dyn Forward> {
    let rules = rules.iter().map(|domain| name(domain)).collect();
    Arc::new(OneServer(server, rules))
}

#[derive(Debug)]
struct OneServer(SocketAddr, Vec<Name>);

impl Forward for OneServer {
    fn forward<'a>(&'a self, question: &'a Question) -> BoxFuture<'a, Result<Response, Failure>> {
        Box::pin(async move {
            let mut query = query(&question.name.to_ascii(), question.rtype);
            let edns = query.edns.as_mut().unwrap();
            edns.set_dnssec_ok(question.dnssec_ok);
            let reply = exchange_udp(self.0, &query.to_vec().unwrap()).await;
            Ok(Response::from_message(reply).unwrap())
        })
    }

    fn has_rule_for(&self, name: &Name) -> bool {
        self.1.iter().any(|domain| domain.zone_of(name))
    }
}

/// A resolver; its local records are watched.
pub fn resolver(names: Names, packet: Option<SignedPacket>, forward: Arc<dyn Forward>) -> Resolver {
    let day = Duration::from_secs(86_400);
    let times = HoldTimes {
        min: Duration::from_secs(60),
        max: day,
        empty: day,
        failure: Duration::ZERO,
        max_stale: Duration::ZERO,
        stale_wait: Duration::ZERO,
    };
    let ttls = Ttls {
        min: 0,
        max: 86_400,
        negative: NEGATIVE_TTL,
        failure: 5,
    };
    let answers = AnswerCache::new(1 << 20);
    names.local.watch(answers.clone());
    let packets = Packets::new(Arc::new(OnePacket(packet)), None, 1 << 20, times);
    Resolver::new(names, packets, forward, ttls, answers)
}

/// Serves what `resolver` answers; ends with the test's runtime.
pub async fn serve(resolver: Resolver) -> SocketAddr {
    let settings = ServeSettings {
        allow: vec!["127.0.0.0/8".parse().unwrap()],
        authentic_data: AuthenticData::Always,
        nsid: String::new(),
    };
    let service = Arc::new(Service::new(settings, resolver).unwrap());
    let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
            let (service, socket) = (Arc::clone(&service), Arc::clone(&socket));
            let message = buffer[..length].to_vec();
            tokio::spawn(async move {
                let reply = service.respond(&message, client, Transport::Udp).await;
                socket.send_to(&reply.unwrap(), client).await.unwrap();
            });
        }
    });
    address
}
