//! Names with records on this host: of the configuration and of a hosts file that changes, over real
//! sockets, before a scripted upstream.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic"
)]

mod common;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::front::{asking, resolver, serve};
use common::*;
use futures_util::future::BoxFuture;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, HTTPS, PTR, SVCB, TXT};
use hickory_proto::rr::{RData, Record, RecordType};
use hickory_proto::serialize::binary::BinEncodable;
use pkbridge::pkarr::{SignedPacket, Suffixes};
use pkbridge::resolve::{
    Asker, Failure, Forward, LocalRecord, LocalRecords, Names, Question, Response,
};

/// The TTL of local records.
const TTL: u32 = 60;
/// The TTL of what the upstream says.
const UPSTREAM_TTL: u32 = 3600;

fn address(text: &str) -> RData {
    match text.parse().unwrap() {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

fn cname(target: &str) -> RData {
    RData::CNAME(CNAME(name(target)))
}

fn pointer(target: &str) -> RData {
    RData::PTR(PTR(name(target)))
}

/// What the upstream says to every A question.
fn from_upstream() -> RData {
    address("192.0.2.1")
}

fn record(owner: &str, data: &RData) -> LocalRecord {
    LocalRecord {
        name: name(owner),
        rtype: data.record_type(),
        rdata: data.to_bytes().unwrap(),
    }
}

fn names(records: Vec<LocalRecord>, hosts_file: Option<&Path>) -> Names {
    let suffixes = Suffixes::new(["pkarr"]);
    let hosts_file = hosts_file.map(Path::to_owned);
    let local = LocalRecords::new(records, hosts_file, suffixes.clone(), TTL);
    Names {
        suffixes,
        special_use: true,
        local: Arc::new(local),
        ..Names::default()
    }
}

/// A server with a hosts file, and its upstream.
struct Here {
    server: SocketAddr,
    upstream: Upstream,
    directory: Directory,
}

impl Here {
    async fn start(records: Vec<LocalRecord>, hosts: &str) -> Self {
        Self::start_with(records, hosts, None, &[]).await
    }

    async fn start_with(
        records: Vec<LocalRecord>,
        hosts: &str,
        packet: Option<SignedPacket>,
        rules: &[&str],
    ) -> Self {
        let directory = Directory::new();
        std::fs::write(directory.join("hosts"), hosts).unwrap();
        let names = names(records, Some(&directory.join("hosts")));
        let upstream = Upstream::plain(UPSTREAM_TTL).await;
        let forward = asking(upstream.address, rules);
        let server = serve(resolver(names, packet, forward)).await;
        Self {
            server,
            upstream,
            directory,
        }
    }

    async fn ask(&self, owner: &str, rtype: RecordType) -> Message {
        ask(self.server, owner, rtype).await
    }

    /// The data of the asked type.
    async fn data(&self, owner: &str, rtype: RecordType) -> Vec<RData> {
        data(&self.ask(owner, rtype).await, rtype)
    }

    /// Puts another file in the place of the hosts file, as most editors do.
    fn rename_over(&self, hosts: &str) {
        let new = self.directory.join("new");
        std::fs::write(&new, hosts).unwrap();
        std::fs::rename(new, self.directory.join("hosts")).unwrap();
    }

    async fn until_a(&self, owner: &str, expected: RData) {
        let expected = [expected];
        until(owner, async || {
            self.data(owner, RecordType::A).await == expected
        })
        .await;
    }
}

/// NOERROR without the type, and an SOA that says so.
#[track_caller]
fn assert_nodata(reply: &Message) {
    assert_eq!(rcode(reply), ResponseCode::NoError, "{reply}");
    assert!(reply.answers.is_empty(), "{reply}");
    let [soa] = reply.authorities.as_slice() else {
        panic!("one SOA is expected: {reply}");
    };
    assert_eq!(soa.record_type(), RecordType::SOA);
    assert_eq!(soa.name, *reply.queries[0].name());
    assert!(soa.ttl <= TTL, "{reply}");
}

#[tokio::test]
async fn names_of_the_hosts_file_are_answered_with_all_their_addresses() {
    let here = Here::start(
        vec![],
        "192.168.1.5\tnas.lan nas  # the box\n\
         # 192.168.1.9 nas.lan\n\n\
         192.168.1.6 NAS.lan\n\
         fd00::5 nas.lan\n",
    )
    .await;
    let reply = here.ask("nas.lan", RecordType::A).await;
    let both = [address("192.168.1.5"), address("192.168.1.6")];
    assert_eq!(data(&reply, RecordType::A), both);
    assert_eq!(reply.answers[0].ttl, TTL);
    assert!(reply.metadata.authoritative);
    assert!(!reply.metadata.authentic_data);
    assert_eq!(here.data("nAs.LAN", RecordType::A).await, both);
    assert_eq!(here.data("nas", RecordType::A).await, [both[0].clone()]);
    let ipv6 = here.data("nas.lan", RecordType::AAAA).await;
    assert_eq!(ipv6, [address("fd00::5")]);
    assert_eq!(here.upstream.count(), 0);
}

#[tokio::test]
async fn what_a_local_name_has_not_is_nodata_and_asked_of_nobody() {
    let records = vec![record("printer.lan", &address("192.168.1.7"))];
    let here = Here::start(records, "192.168.1.5 nas.lan nas\n").await;
    for owner in ["nas.lan", "nas", "printer.lan"] {
        for rtype in [RecordType::AAAA, RecordType::HTTPS, RecordType::MX] {
            assert_nodata(&here.ask(owner, rtype).await);
        }
    }
    assert_nodata(&here.ask("nas.lan", RecordType::CNAME).await);
    assert_nodata(&here.ask("5.1.168.192.in-addr.arpa", RecordType::TXT).await);
    assert_eq!(here.upstream.count(), 0);
    // Only the name itself is local.
    let below = here.data("www.nas.lan", RecordType::A).await;
    assert_eq!(below, [from_upstream()]);
}

#[tokio::test]
async fn pointers_are_made_of_addresses_and_name_the_first_name() {
    let records = vec![
        record("a.lan", &address("192.168.1.1")),
        record("b.lan", &address("192.168.1.1")),
        record("c.lan", &address("192.168.1.2")),
        record("2.1.168.192.in-addr.arpa", &pointer("set.lan")),
    ];
    let here = Here::start(
        records,
        "192.168.1.1 hosts.lan\n\
         192.168.1.2 hosts.lan\n\
         192.168.1.3 canonical.lan alias.lan\n\
         192.168.1.3 later.lan\n\
         fd00::5 canonical.lan\n\
         0.0.0.0 blocked.example\n\
         127.0.0.1 localhost mine.lan\n",
    )
    .await;
    for (owner, expected) in [
        ("1.1.168.192.in-addr.arpa", "a.lan"),
        ("2.1.168.192.in-addr.arpa", "set.lan"),
        ("3.1.168.192.in-addr.arpa", "canonical.lan"),
        (
            "5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.D.f.ip6.arpa",
            "canonical.lan",
        ),
        ("1.0.0.127.in-addr.arpa", "localhost"),
    ] {
        let found = here.data(owner, RecordType::PTR).await;
        assert_eq!(found, [pointer(expected)], "{owner}");
    }
    for owner in [
        "4.1.168.192.in-addr.arpa",
        "03.1.168.192.in-addr.arpa",
        "1.168.192.in-addr.arpa",
        "0.0.0.0.in-addr.arpa",
    ] {
        let found = here.ask(owner, RecordType::PTR).await;
        assert!(found.answers.is_empty(), "{found}");
    }
    assert_eq!(here.upstream.count(), 0);
}

#[tokio::test]
async fn a_local_alias_leads_anywhere() {
    let (secret, key) = (secret(1), key_of(&secret(1)));
    let packet = sign(
        &secret,
        1,
        vec![(below(key, ""), 300, address("192.0.2.7"))],
    );
    let records = vec![
        record("to-hosts.lan", &cname("nas.lan")),
        record("to-upstream.lan", &cname("www.example.com")),
        record("to-key.lan", &cname(&format!("{key}.pkarr"))),
        record("loop.lan", &cname("loop.lan")),
    ];
    let here = Here::start_with(records, "192.168.1.5 nas.lan\n", Some(packet), &[]).await;
    for (owner, target, expected) in [
        ("to-hosts.lan", "nas.lan", "192.168.1.5"),
        ("to-key.lan", &format!("{key}.pkarr"), "192.0.2.7"),
        ("to-upstream.lan", "www.example.com", "192.0.2.1"),
    ] {
        let reply = here.ask(owner, RecordType::A).await;
        assert_eq!(data(&reply, RecordType::CNAME), [cname(target)], "{reply}");
        assert_eq!(data(&reply, RecordType::A), [address(expected)], "{reply}");
        let alias = here.ask(owner, RecordType::CNAME).await;
        assert_eq!(alias.answers.len(), 1, "{alias}");
    }
    assert_eq!(here.upstream.names(), ["www.example.com."]);
    let reply = here.ask("loop.lan", RecordType::A).await;
    assert_eq!(rcode(&reply), ResponseCode::ServFail);
}

#[tokio::test]
async fn a_type_that_the_configuration_has_is_not_taken_from_the_hosts_file() {
    let text = RData::TXT(TXT::new(vec!["hello".to_owned()]));
    let records = vec![
        record("both.lan", &address("192.168.1.1")),
        record("text.lan", &text),
    ];
    let here = Here::start(records, "192.168.1.2 both.lan text.lan\nfd00::2 both.lan\n").await;
    let a = here.data("both.lan", RecordType::A).await;
    assert_eq!(a, [address("192.168.1.1")]);
    let aaaa = here.data("both.lan", RecordType::AAAA).await;
    assert_eq!(aaaa, [address("fd00::2")]);
    let any = here.ask("text.lan", RecordType::ANY).await;
    let any: Vec<RData> = any.answers.into_iter().map(|record| record.data).collect();
    assert_eq!(any, [text, address("192.168.1.2")]);
}

#[tokio::test]
async fn a_hosts_file_cannot_answer_for_public_keys_and_localhost() {
    let (secret, key) = (secret(1), key_of(&secret(1)));
    let packet = sign(
        &secret,
        1,
        vec![(below(key, ""), 300, address("192.0.2.7"))],
    );
    let hosts = format!(
        "192.168.1.1 {key} {key}.pkarr x.pkarr www.{key} localhost a.localhost good.lan\n\
         fe80::1%eth0 scoped.lan\n300.1.1.1 bad.lan\n192.168.1.2\n192.168.1.3 a..b fine.lan\n"
    );
    let here = Here::start_with(vec![], &hosts, Some(packet), &[]).await;
    for owner in [key.to_string(), format!("{key}.pkarr")] {
        let found = here.data(&owner, RecordType::A).await;
        assert_eq!(found, [address("192.0.2.7")]);
    }
    let reply = here.ask("x.pkarr", RecordType::A).await;
    assert_eq!(rcode(&reply), ResponseCode::NXDomain);
    for owner in ["localhost", "a.localhost"] {
        let found = here.data(owner, RecordType::A).await;
        assert_eq!(found, [address("127.0.0.1")]);
    }
    // The rest of such a line, and of the file, holds.
    let good = here.data("good.lan", RecordType::A).await;
    assert_eq!(good, [address("192.168.1.1")]);
    let fine = here.data("fine.lan", RecordType::A).await;
    assert_eq!(fine, [address("192.168.1.3")]);
    assert_eq!(here.upstream.count(), 0);
}

/// Debian writes such a line for the host itself.
#[tokio::test]
async fn the_addresses_of_this_host_for_itself_are_told_to_nobody() {
    let hosts = "127.0.0.1 localhost\n127.0.1.1 host.example.com host\n::1 six.example.com\n\
                 ::ffff:127.0.0.1 mapped.example.com\n192.168.1.5 both.example.com\n\
                 127.0.1.1 both.example.com\n";
    let here = Here::start(vec![], hosts).await;
    for owner in ["host.example.com", "six.example.com", "mapped.example.com"] {
        let found = here.data(owner, RecordType::A).await;
        assert_eq!(found, [from_upstream()]);
    }
    let both = here.data("both.example.com", RecordType::A).await;
    assert_eq!(both, [address("192.168.1.5")]);
    let reply = here.ask("1.1.0.127.in-addr.arpa", RecordType::PTR).await;
    assert!(reply.answers.is_empty(), "{reply}");
}

#[tokio::test]
async fn a_rule_takes_special_names_to_its_servers_but_not_local_ones() {
    let hosts = "192.168.1.5 nas.local\n";
    let here = Here::start_with(vec![], hosts, None, &["local", "10.in-addr.arpa"]).await;
    let local = here.data("nas.local", RecordType::A).await;
    assert_eq!(local, [address("192.168.1.5")]);
    let ruled = here.data("printer.local", RecordType::A).await;
    assert_eq!(ruled, [from_upstream()]);
    here.ask("1.0.0.10.in-addr.arpa", RecordType::PTR).await;
    let asked = ["printer.local.", "1.0.0.10.in-addr.arpa."];
    assert_eq!(here.upstream.names(), asked);
    // Without a rule special names stay here.
    for owner in ["printer.home.arpa", "1.1.168.192.in-addr.arpa"] {
        let reply = here.ask(owner, RecordType::A).await;
        assert_eq!(rcode(&reply), ResponseCode::NXDomain);
    }
    assert_eq!(here.upstream.count(), asked.len());
}

#[tokio::test]
async fn a_change_of_the_hosts_file_counts_at_once_whatever_is_cached() {
    let (secret, key) = (secret(1), key_of(&secret(1)));
    let service = HTTPS(SVCB::new(1, name("new.lan"), vec![]));
    let records = vec![
        (below(key, ""), 300, cname("new.lan")),
        (below(key, "web"), 300, RData::HTTPS(service)),
    ];
    let packet = sign(&secret, 1, records);
    let here = Here::start_with(vec![], "192.168.1.1 old.lan\n", Some(packet), &[]).await;
    here.until_a("old.lan", address("192.168.1.1")).await;
    // Cached for long: the name itself, behind an alias, and beside a service binding.
    here.until_a("new.lan", from_upstream()).await;
    here.until_a(&key.to_string(), from_upstream()).await;
    let beside = async || {
        let reply = here.ask(&format!("web.{key}"), RecordType::HTTPS).await;
        let beside = reply.additionals.into_iter().map(|record| record.data);
        beside.collect::<Vec<_>>()
    };
    assert_eq!(beside().await, [from_upstream()]);
    here.rename_over("192.168.1.2 new.lan\n");
    here.until_a("new.lan", address("192.168.1.2")).await;
    here.until_a(&key.to_string(), address("192.168.1.2")).await;
    assert_eq!(beside().await, [address("192.168.1.2")]);
    here.until_a("old.lan", from_upstream()).await;
    // Written in place, with the same length.
    std::fs::write(here.directory.join("hosts"), "192.168.1.3 new.lan\n").unwrap();
    here.until_a("new.lan", address("192.168.1.3")).await;
    here.until_a(&key.to_string(), address("192.168.1.3")).await;
    assert_eq!(beside().await, [address("192.168.1.3")]);
}

#[tokio::test]
async fn a_missing_hosts_file_has_no_names_and_is_looked_for() {
    let here = Here::start(vec![], "192.168.1.1 nas.lan\n").await;
    here.until_a("nas.lan", address("192.168.1.1")).await;
    std::fs::remove_file(here.directory.join("hosts")).unwrap();
    here.until_a("nas.lan", from_upstream()).await;
    here.rename_over("192.168.1.2 nas.lan\n");
    here.until_a("nas.lan", address("192.168.1.2")).await;
}

/// Writes into this hosts file when it is asked, and answers when that has been taken in.
#[derive(Debug)]
struct Slow(PathBuf);

impl Forward for Slow {
    fn forward<'a>(&'a self, question: &'a Question) -> BoxFuture<'a, Result<Response, Failure>> {
        Box::pin(async move {
            std::fs::write(&self.0, "192.168.1.1 new.lan\n").unwrap();
            // The clock is paused, and stands still while the file is read.
            tokio::time::sleep(Duration::from_secs(3)).await;
            let query = query(&question.name.to_ascii(), question.rtype);
            let mut reply = reply_to(&query.to_vec().unwrap());
            let record = Record::from_rdata(question.name.clone(), UPSTREAM_TTL, from_upstream());
            reply.add_answer(record);
            Ok(Response::from_message(reply.to_vec().unwrap()).unwrap())
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_that_becomes_local_while_it_is_looked_up_is_answered_here() {
    let directory = Directory::new();
    let hosts = directory.join("hosts");
    let names = names(vec![], Some(&hosts));
    let resolver = resolver(names, None, Arc::new(Slow(hosts)));
    let question = Question {
        name: name("new.lan"),
        rtype: RecordType::A,
        dnssec_ok: false,
        checking_disabled: false,
    };
    let answer = resolver.resolve(question, Asker::Refresh).await;
    let reply = Message::from_vec(answer.wire()).unwrap();
    assert_eq!(data(&reply, RecordType::A), [address("192.168.1.1")]);
}
