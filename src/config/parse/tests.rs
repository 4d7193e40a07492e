//! Tests of upstreams, rules, records and the guard.

use std::fmt::Write as _;

use hickory_proto::rr::RecordType;
use proptest::prelude::*;

use crate::config::{Config, LocalRecord, RebindingGuard, Strategy as Asked, UpstreamMode, values};
use crate::endpoint::Endpoint;
use crate::pkarr::{PublicKey, SigningKey};

const SHIPPED: &str = include_str!("../../../config/pkbridge.toml");
/// A label that is a public key.
const KEY: &str = "ybndrfg8ejkmcpqxot1uwisza345h769ybndrfg8ejkmcpqxot1u";

fn parse(text: &str) -> Config {
    Config::parse(text, "f").unwrap()
}

fn refusal(text: &str) -> String {
    Config::parse(text, "f").unwrap_err().to_string()
}

fn assert_refused(cases: &[(&str, &[&str])]) {
    for (text, lines) in cases {
        assert_eq!(refusal(text), lines.join("\n"), "for the text:\n{text}");
    }
}

fn endpoint(text: &str) -> Endpoint {
    text.parse().unwrap()
}

fn records(text: &str) -> Vec<(String, RecordType, Vec<u8>)> {
    let of = |record: LocalRecord| (record.name, record.rtype, record.rdata);
    let config = parse(&format!("[records]\n{text}"));
    config.records.into_iter().map(of).collect()
}

/// A list of so many strings.
fn list(count: usize, item: impl Fn(usize) -> String) -> String {
    let items: Vec<String> = (0..count).map(|n| format!("{:?}", item(n))).collect();
    format!("[{}]", items.join(", "))
}

#[test]
fn the_examples_of_the_shipped_file_are_right() {
    let mut text = String::new();
    let mut uncommented = 0;
    let mut is_example = false;
    for line in SHIPPED.lines() {
        let bare = line.strip_prefix("# ");
        let starts = bare.is_some_and(|bare| bare == "[[forward]]" || bare == "[records]");
        is_example = starts || is_example && bare.is_some_and(|bare| bare.contains(" = "));
        uncommented += usize::from(is_example);
        let line = bare.filter(|_| is_example).unwrap_or(line);
        writeln!(text, "{line}").unwrap();
    }
    assert_eq!(uncommented, 11);
    let config = parse(&text);
    let domains: Vec<_> = config.forward.iter().map(|rule| &rule.domains).collect();
    assert_eq!(domains[0], &["lan", "168.192.in-addr.arpa"]);
    assert_eq!(domains[1], &["corp.example"]);
    assert_eq!(config.forward[0].servers, [endpoint("192.168.1.1")]);
    assert_eq!(config.forward[1].servers.len(), 2);
    let records: Vec<_> = config
        .records
        .iter()
        .map(|record| (record.name.as_str(), record.rtype))
        .collect();
    // In the order of the names.
    assert_eq!(
        records,
        [
            ("files.lan", RecordType::CNAME),
            ("lan", RecordType::MX),
            ("nas.lan", RecordType::A),
            ("printer.lan", RecordType::A),
            ("printer.lan", RecordType::AAAA),
            ("printer.lan", RecordType::TXT),
        ]
    );
    let others = Config {
        forward: Vec::new(),
        records: Vec::new(),
        ..config
    };
    assert_eq!(others, Config::default());
}

#[test]
fn the_ways_to_write_a_server_in_the_shipped_file_are_right() {
    let mut found = 0;
    for line in SHIPPED.lines() {
        let Some(written) = line
            .strip_prefix("#   ")
            .filter(|line| line.starts_with('"'))
        else {
            continue;
        };
        let (written, _) = written.split_once("  ").unwrap_or((written, ""));
        let servers = written.split('"').skip(1).step_by(2);
        for server in servers.filter(|server| !server.ends_with("...")) {
            let written = endpoint(server);
            assert_eq!(endpoint(&written.to_string()), written);
            found += 1;
        }
    }
    assert_eq!(found, 7);
}

#[test]
fn choices_are_read() {
    let upstream = |text: &str| parse(&format!("[upstream]\n{text}")).upstream;
    assert_eq!(
        upstream("mode = \"recursive\"\nroot-hints = \"/r\"").mode,
        UpstreamMode::Recursive
    );
    for (text, strategy) in [
        ("fastest", Asked::Fastest),
        ("in-order", Asked::InOrder),
        ("parallel", Asked::Parallel),
    ] {
        assert_eq!(upstream(&format!("strategy = {text:?}")).strategy, strategy);
    }
    for (text, guard) in [
        ("auto", RebindingGuard::Auto),
        ("on", RebindingGuard::On),
        ("off", RebindingGuard::Off),
    ] {
        let config = parse(&format!("rebinding.guard = {text:?}"));
        assert_eq!(config.rebinding.guard, guard);
    }
    let allow = format!("rebinding.allow = [\"Plex.direct.\", \"{KEY}\", \"{KEY}.pkarr\"]");
    assert_eq!(
        parse(&allow).rebinding.allow,
        ["plex.direct", KEY, &format!("{KEY}.pkarr")]
    );
    assert_eq!(parse("names.hosts-file = \"\"").names.hosts_file, None);
    assert_refused(&[
        (
            "upstream.mode = \"forwards\"",
            &["f:1:17: [upstream].mode: write \"forward\" or \"recursive\""],
        ),
        (
            "upstream.strategy = \"random\"",
            &["f:1:21: [upstream].strategy: write \"fastest\", \"in-order\" or \"parallel\""],
        ),
        (
            "rebinding.guard = true",
            &["f:1:19: [rebinding].guard: expected a string such as \"auto\", found boolean"],
        ),
        (
            "rebinding.guard = \"yes\"",
            &["f:1:19: [rebinding].guard: write \"auto\", \"on\" or \"off\""],
        ),
        (
            "rebinding.allow = [\".\"]",
            &[
                "f:1:20: [rebinding].allow: \".\" is not a domain name; write labels of 1 to 63 \
                 letters, digits, \"-\" or \"_\", joined by dots, such as \"lan\" or \
                 \"168.192.in-addr.arpa\"",
            ],
        ),
    ]);
}

#[test]
fn paths_of_files_are_absolute() {
    for (key, example, without) in [
        ("names.hosts-file", "/etc/hosts", "read none"),
        (
            "upstream.ca-file",
            "/etc/pkbridge/ca.pem",
            "use the system's authorities",
        ),
        (
            "upstream.trust-anchors",
            "/usr/share/dns/root.key",
            "use those built in",
        ),
        (
            "upstream.root-hints",
            "/usr/share/dns/root.hints",
            "use those built in",
        ),
    ] {
        let (table, name) = key.split_once('.').unwrap();
        let column = key.len() + 4;
        let line = format!(
            "f:1:{column}: [{table}].{name}: \"etc/x\" is not an absolute path; write one such as \
             {example:?}, or \"\" to {without}"
        );
        assert_eq!(refusal(&format!("{key} = \"etc/x\"")), line);
        assert_eq!(
            parse(&format!("{key} = \"\"")).listen,
            Config::default().listen
        );
    }
}

#[test]
fn lists_of_servers_are_bounded() {
    let address = |n| format!("192.0.2.{n}");
    for (start, path, column) in [
        ("upstream.servers = ", "[upstream].servers", 20),
        ("upstream.bootstrap = ", "[upstream].bootstrap", 22),
        (
            "forward = [{domains = [\"lan\"], servers = ",
            "[[forward]].servers",
            42,
        ),
    ] {
        let end = if start.contains('{') { "}]" } else { "" };
        parse(&format!("{start}{}{end}", list(64, address)));
        assert_eq!(
            refusal(&format!("{start}{}{end}", list(65, address))),
            format!("f:1:{column}: {path}: 65 servers are listed; list at most 64")
        );
    }
}

#[test]
fn servers_by_name_need_somebody_to_ask() {
    let message = |server: &str| {
        format!(
            "{server} is given by name, and there is nobody to ask for its address; list a \
             resolver in upstream.bootstrap, such as \"9.9.9.9\", or write the address here: \
             ?address=IP, behind the name"
        )
    };
    let rule = "[[forward]]\ndomains = [\"lan\"]\nservers = [\"192.0.2.1\", \"tls://dns.lan\"]\n";
    let quad9 = "[upstream]\nservers = [\"https://dns.quad9.net\"]\n";
    assert_refused(&[
        (
            quad9,
            &[&format!(
                "f:2:12: [upstream].servers: {}",
                message("https://dns.quad9.net/dns-query")
            )],
        ),
        (
            &format!("[upstream]\nmode = \"recursive\"\n{rule}"),
            &[&format!(
                "f:5:25: [[forward]].servers: {}",
                message("tls://dns.lan")
            )],
        ),
        // A list that is refused is not called empty as well.
        (
            &format!("{quad9}bootstrap = [\"dns.example\"]"),
            &[
                "f:3:14: [upstream].bootstrap: \"dns.example\" is not an IP address with or without \
                 a port; write one such as \"192.0.2.1:53\", \"[2001:db8::1]:53\", or an IP address \
                 alone for port 53",
            ],
        ),
        (
            &format!("{quad9}bootstrap = [\"tls://9.9.9.9\"]"),
            &[
                "f:3:14: [upstream].bootstrap: \"tls://9.9.9.9\" is not an IP address with or \
                 without a port; write one such as \"192.0.2.1:53\", \"[2001:db8::1]:53\", or an IP \
                 address alone for port 53",
            ],
        ),
    ]);
    let told = parse(&format!("{quad9}bootstrap = [\"9.9.9.9\"]\n{rule}"));
    assert_eq!(told.upstream.bootstrap, ["9.9.9.9:53".parse().unwrap()]);
    parse("upstream.servers = [\"tls://dns.example?address=192.0.2.1\"]");
    // The address of this stamp is in it.
    parse(
        "upstream.servers = [\"sdns://AgMAAAAAAAAADDk0LjE0MC4xNC4xNCCaOjT3J965vKUQA9nOnDn48n3ZxSQpAcK\
         6saROY1oCGQ9kbnMuYWRndWFyZC5jb20KL2Rucy1xdWVyeQ\"]",
    );
}

#[test]
fn servers_of_every_kind_that_are_a_listen_address_are_refused() {
    let message = |server: &str, listen: &str| {
        format!(
            "{server} is pkbridge itself, which listens on {listen}, so that a query would be \
             forwarded in a loop; write the address of another resolver"
        )
    };
    let text = "listen.addresses = [\"192.0.2.1:853\", \"0.0.0.0:53\"]\n\
                [upstream]\n\
                servers = [\"tls://192.0.2.1#a.example\", \"tcp://127.0.0.2\", \"192.0.2.1\"]\n\
                bootstrap = [\"192.0.2.9\", \"127.0.0.1\"]\n\
                [[forward]]\n\
                domains = [\"lan\"]\n\
                servers = [\"192.0.2.1\", \"quic://a.example?address=192.0.2.7&address=192.0.2.1\"]\n";
    assert_refused(&[(
        text,
        &[
            &format!(
                "f:3:12: [upstream].servers: {}",
                message("tls://192.0.2.1#a.example", "192.0.2.1:853")
            ),
            &format!(
                "f:3:41: [upstream].servers: {}",
                message("tcp://127.0.0.2", "0.0.0.0:53")
            ),
            &format!(
                "f:4:27: [upstream].bootstrap: {}",
                message("127.0.0.1:53", "0.0.0.0:53")
            ),
            &format!(
                "f:7:25: [[forward]].servers: {}",
                message(
                    "quic://a.example?address=192.0.2.7&address=192.0.2.1",
                    "192.0.2.1:853"
                )
            ),
        ],
    )]);
}

#[test]
fn settings_of_a_mode_that_is_not_chosen_are_refused() {
    assert_refused(&[
        (
            "[upstream]\nmode = \"recursive\"\nservers = [\"192.0.2.1\"]",
            &[
                "f:3:11: [upstream].servers: with the mode \"recursive\" nothing is forwarded to \
                 these; leave them out, or write mode = \"forward\"",
            ],
        ),
        (
            "[upstream]\nroot-hints = \"/usr/share/dns/root.hints\"",
            &[
                "f:2:14: [upstream].root-hints: root servers are asked in the mode \"recursive\" \
                 only; leave it out, or write mode = \"recursive\"",
            ],
        ),
        (
            "[upstream]\ntrust-anchors = \"/root.key\"\nnegative-trust-anchors = [\"lan\"]",
            &[
                "f:2:17: [upstream].trust-anchors: nothing is checked by DNSSEC without validate; \
                 write validate = true, or leave this out",
                "f:3:26: [upstream].negative-trust-anchors: nothing is checked by DNSSEC without \
                 validate; write validate = true, or leave this out",
            ],
        ),
        (
            "[upstream]\ntrust-anchors = \"/root.key\"\nvalidate = 1",
            &["f:3:12: [upstream].validate: expected true or false, found integer"],
        ),
    ]);
    parse("[upstream]\ntrust-anchors = \"\"\nnegative-trust-anchors = []\nservers = []");
    parse("[upstream]\nmode = \"recursive\"\nvalidate = true\ntrust-anchors = \"/root.key\"");
}

#[test]
fn rules_are_checked() {
    let rule =
        |domains: &str| format!("[[forward]]\nservers = [\"192.0.2.1\"]\ndomains = {domains}\n");
    assert_refused(&[
        (
            "[forward]\ndomains = [\"lan\"]",
            &[
                "f:1:1: [[forward]]: expected a list of tables, found table; write the keys below \
                 [[forward]]",
            ],
        ),
        (
            "forward = [\"lan\"]",
            &[
                "f:1:12: [[forward]]: expected a table, found string; write the keys below [[forward]]",
            ],
        ),
        (
            "[[forward]]\ndomain = [\"lan\"]",
            &[
                "f:1:1: [[forward]]: the key \"domains\" is missing from this rule",
                "f:1:1: [[forward]]: the key \"servers\" is missing from this rule",
                "f:2:1: [[forward]].domain: unknown key \"domain\"; did you mean \"domains\"?",
            ],
        ),
        (
            "[[forward]]\nzones = []\ndomains = [\"lan\"]\nservers = []",
            &[
                "f:2:1: [[forward]].zones: unknown key \"zones\"; the keys of [[forward]] are \
                 domains, servers",
                "f:4:11: [[forward]].servers: nobody could answer for these domains; list at least \
                 one server such as \"192.168.1.1\"",
            ],
        ),
        (
            "domains = []",
            &[
                "f:1:1: domains: the key \"domains\" is outside of its table; write it below \
                 [[forward]]",
            ],
        ),
        (
            &rule("[]"),
            &[
                "f:3:11: [[forward]].domains: a rule without a domain is never used; list at least \
                 one such as \"lan\", or leave the rule out",
            ],
        ),
        (
            &rule("[\".\"]"),
            &[
                "f:3:12: [[forward]].domains: \".\" is every domain, whose servers stand in \
                 upstream.servers; write one such as \"lan\"",
            ],
        ),
        (
            &rule("[\"*.lan\"]"),
            &[
                "f:3:12: [[forward]].domains: \"*.lan\" is not a domain name; write labels of 1 to \
                 63 letters, digits, \"-\" or \"_\", joined by dots, such as \"lan\" or \
                 \"168.192.in-addr.arpa\"",
            ],
        ),
        (
            &rule("[\"lan\", \"LAN.\"]"),
            &["f:3:19: [[forward]].domains: \"LAN.\" is listed twice; leave one out"],
        ),
        (
            &format!("{}{}", rule("[\"lan\"]"), rule("[\"a.lan\", \"Lan\"]")),
            &["f:6:21: [[forward]].domains: \"Lan\" is in another rule, too; leave one out"],
        ),
        (
            &rule(&format!("[\"{KEY}\", \"a.{KEY}.lan\"]")),
            &[
                &format!(
                    "f:3:12: [[forward]].domains: \"{KEY}\" has a label in the form of a public \
                     key, and is never forwarded; leave it out"
                ),
                &format!(
                    "f:3:68: [[forward]].domains: \"a.{KEY}.lan\" has a label in the form of a \
                     public key, and is never forwarded; leave it out"
                ),
            ],
        ),
        (
            &format!(
                "names.suffixes = [\"a.key\"]\n{}",
                rule("[\"pkarr\", \"key\", \"x.A.key\"]")
            ),
            &[
                "f:4:28: [[forward]].domains: \"x.A.key\" is under the suffix \"a.key\" of public \
                 keys, and is never forwarded; leave it out",
            ],
        ),
        (
            &rule("[\"pkarr\"]"),
            &[
                "f:3:12: [[forward]].domains: \"pkarr\" is under the suffix \"pkarr\" of public \
                 keys, and is never forwarded; leave it out",
            ],
        ),
    ]);
    // Suffixes that are refused refuse nothing.
    let only = refusal(&format!("names.suffixes = [\"\"]\n{}", rule("[\"pkarr\"]")));
    assert_eq!(only.lines().count(), 1, "{only}");
}

#[test]
fn rules_are_bounded() {
    let rules = |count: usize| -> String {
        (0..count)
            .map(|n| format!("[[forward]]\ndomains = [\"d{n}\"]\nservers = [\"192.0.2.1\"]\n"))
            .collect()
    };
    assert_eq!(parse(&rules(1024)).forward.len(), 1024);
    assert_eq!(
        refusal(&rules(1026)),
        "f:3073:1: [[forward]]: 1026 rules are listed; list at most 1024"
    );
}

#[test]
fn a_fault_has_its_place_behind_a_rule_that_is_no_table() {
    let loops = |server: &str| {
        format!(
            "[[forward]].servers: {server} is pkbridge itself, which listens on 127.0.0.1:53, so that \
             a query would be forwarded in a loop; write the address of another resolver"
        )
    };
    let text = "forward = [5,\n{domains = [\"a\"],\nservers = [\"192.0.2.1\"]},\n\
                {domains = [\"b\"],\nservers = [\"127.0.0.1\"]}]";
    assert_refused(&[(
        text,
        &[
            "f:1:12: [[forward]]: expected a table, found integer; write the keys below [[forward]]",
            &format!("f:5:12: {}", loops("127.0.0.1:53")),
        ],
    )]);
}

#[test]
fn a_node_of_the_dht_has_no_public_key_name() {
    let fault =
        "and cannot be asked for before the DHT is joined; write another name, or the address";
    let text = format!(
        "names.suffixes = [\"key\"]\n[dht]\nbootstrap = [\n\"{KEY}:1\",\n\"X.{KEY}.Lan:1\",\n\
         \"node.key:1\",\n\"node.pkarr:1\",\n\"192.0.2.1:1\"]"
    );
    let label = "has a label in the form of a public key";
    let x = format!("x.{}.lan:1", KEY);
    assert_refused(&[(
        &text,
        &[
            &format!("f:4:1: [dht].bootstrap: \"{KEY}:1\" {label}, {fault}"),
            &format!("f:5:1: [dht].bootstrap: {x:?} {label}, {fault}"),
            &format!(
                "f:6:1: [dht].bootstrap: \"node.key:1\" is under the suffix \"key\" of public keys, \
                 {fault}"
            ),
        ],
    )]);
}

#[test]
fn relays_are_checked_and_bounded() {
    let fault = "and the relay would be needed to find it; write another name, or the address";
    let text = format!(
        "names.suffixes = [\"key\"]\n[relays]\nurls = [\n\"https://relay.key\",\n\"https://a.{KEY}\",\n\
         \"http://relay.example\",\n\"https://relay.example/\",\n\"https://RELAY.example\"]"
    );
    assert_refused(&[(
        &text,
        &[
            &format!(
                "f:4:1: [relays].urls: the host of https://relay.key is under the suffix \"key\" of \
                 public keys, {fault}"
            ),
            &format!(
                "f:5:1: [relays].urls: \"https://a.{KEY}\" has a host with the label \"{KEY}\", which is \
                 a public key; such a name is never sent to another resolver, so that its address would \
                 not be found"
            ),
            "f:6:1: [relays].urls: \"http://relay.example\" would tell everybody on the way which keys \
             are asked for; write https://, or the loopback or private address of a relay of one's own, as \
             in http://127.0.0.1:6881",
            "f:8:1: [relays].urls: \"https://RELAY.example\" is listed twice; leave one out",
        ],
    )]);
    let relays = |count| {
        format!(
            "relays.urls = {}",
            list(count, |n| format!("https://r{n}.example"))
        )
    };
    assert_eq!(parse(&relays(8)).relays.urls.len(), 8);
    let refused = "f:1:15: [relays].urls: 9 relays are listed; list at most 8";
    assert_refused(&[(&relays(9), &[refused])]);
}

#[test]
fn keys_that_are_kept_alive_are_checked_and_bounded() {
    let key = values::EXAMPLE_KEY;
    let config = parse(&format!("keep-alive.keys = [\"pk:{key}\"]"));
    assert_eq!(config.keep_alive.keys, [key.parse().unwrap()]);
    assert_eq!(parse("[keep-alive]\n").keep_alive.keys, []);
    let weak = "y".repeat(52);
    let upper = key.to_uppercase();
    assert_refused(&[
        (
            &format!("[keep-alive]\nkeys = [\"{weak}\", \"{key}\", \"{upper}\"]"),
            &[
                &format!(
                    "f:2:9: [keep-alive].keys: \"{weak}\" is no public key: a weak key, for which \
                     anybody can sign; write a key such as \"{key}\""
                ),
                &format!("f:2:121: [keep-alive].keys: \"{upper}\" is listed twice; leave one out"),
            ],
        ),
        (
            "[keep-alive]\ninterval = \"2h\"\nmax-age = \"1h\"",
            &[
                "f:2:12: [keep-alive].interval: \"2h\" is out of bounds; write a duration from 10m to \
                 1h30m, as DHT nodes forget an item after two hours",
                "f:3:11: [keep-alive].max-age: \"1h\" is out of bounds; write a duration from 1d to 3650d",
            ],
        ),
    ]);
    let many = list(129, |number| {
        let mut secret = [1; 32];
        secret[..8].copy_from_slice(&number.to_be_bytes());
        let secret = SigningKey::from_bytes(&secret);
        let key = PublicKey::from_bytes(&secret.verifying_key().to_bytes());
        key.unwrap().to_string()
    });
    assert_eq!(
        refusal(&format!("keep-alive.keys = {many}")),
        "f:1:19: [keep-alive].keys: 129 keys are listed; list at most 128"
    );
}

#[test]
fn records_are_read_as_they_stand_in_zone_files() {
    let a = |last| (RecordType::A, vec![192, 168, 1, last]);
    let nas = |(rtype, rdata)| ("nas.lan".to_owned(), rtype, rdata);
    assert_eq!(records("\"NAS.lan.\" = \"192.168.1.5\""), [nas(a(5))]);
    let mut loopback = vec![0; 16];
    loopback[15] = 1;
    assert_eq!(
        records("\"nas.lan\" = [\"192.168.1.5\", \"A 192.168.1.6\", \"aaaa\\t::1\"]"),
        [nas(a(5)), nas(a(6)), nas((RecordType::AAAA, loopback))]
    );
    for (text, rtype, rdata) in [
        ("CNAME b.lan.", RecordType::CNAME, &b"\x01b\x03lan\0"[..]),
        // Names are absolute; there is nothing that they could be relative to.
        ("CNAME b.lan", RecordType::CNAME, b"\x01b\x03lan\0"),
        ("PTR B.lan.", RecordType::PTR, b"\x01b\x03lan\0"),
        ("MX 10 m.lan.", RecordType::MX, b"\0\x0a\x01m\x03lan\0"),
        ("TXT hello", RecordType::TXT, b"\x05hello"),
        ("TXT \\\"a b\\\" \\\"\\\"", RecordType::TXT, b"\x03a b\0"),
        (
            "SRV 1 2 443 b.lan.",
            RecordType::SRV,
            b"\0\x01\0\x02\x01\xbb\x01b\x03lan\0",
        ),
        ("TXT \\\"a;b\\\" c", RecordType::TXT, b"\x03a;b\x01c"),
        ("TXT \\\"\u{fc}\\\"", RecordType::TXT, b"\x02\xc3\xbc"),
        (
            "HINFO \\\"a b\\\" \\\"c d\\\"",
            RecordType::HINFO,
            b"\x03a b\x03c d",
        ),
        ("DS 1 8 2 ab CD", RecordType::DS, b"\0\x01\x08\x02\xab\xcd"),
        (
            "CAA 0 issue \\\"a; b=c\\\"",
            RecordType::CAA,
            b"\0\x05issuea; b=c",
        ),
        // No name of it points at another one.
        (
            "SOA b.lan. b.lan. 1 2 3 4 5",
            RecordType::SOA,
            b"\x01b\x03lan\0\x01b\x03lan\0\0\0\0\x01\0\0\0\x02\0\0\0\x03\0\0\0\x04\0\0\0\x05",
        ),
    ] {
        let read = records(&format!("\"_x.lan\" = \"{text}\""));
        assert_eq!(
            read,
            [("_x.lan".to_owned(), rtype, rdata.to_vec())],
            "{text}"
        );
    }
    let reverse = records("\"5.1.168.192.in-addr.arpa\" = \"PTR nas.lan.\"");
    assert_eq!(reverse[0].0, "5.1.168.192.in-addr.arpa");
}

#[test]
fn records_are_checked() {
    let not_record = "is neither an IP address nor a known type with its data; write one such as \
                      \"192.168.1.5\", \"CNAME nas.lan.\" or \"MX 10 mail.lan.\"";
    let line = |column: usize, text: &str, fault: &str| {
        format!("f:1:{column}: [records].\"a.lan\": {text:?} {fault}")
    };
    for text in [
        "",
        "192.168.1.256",
        "fe80::1%eth0",
        "b.lan",
        "NONSENSE x",
        "OPT",
        " 192.168.1.5",
    ] {
        let expected = line(19, text, not_record);
        assert_eq!(refusal(&format!("records.\"a.lan\" = {text:?}")), expected);
    }
    for text in [
        "A",
        "A x",
        "A 192.168.1.5 192.168.1.6",
        "CNAME",
        "CNAME b.lan. c.lan.",
        "CNAME a..b",
        "MX b.lan.",
        "MX 10 b.lan. c.lan.",
        "ANY x",
        "NULL x",
        "RRSIG x",
        "DNSKEY x",
        "TXT \"a",
        // What the parser would take, and make another record of.
        "TXT",
        "TXT ",
        "TXT ; comment",
        "A 192.168.1.5 ;comment",
        "A 192.168.1.5;comment",
        "TXT \"\\200\"",
        "CNAME \\300",
        "CNAME \\300.lan",
        "CNAME b\u{fc}.lan",
        "TXT a\\;b",
        "TXT a\"b;c\"",
        "TXT (\"a b\")",
        "ANAME b.lan.",
        "DS 1 8 2",
        "DS 1 8 2 f",
        "DS 1 8 2 \"\"",
        "DS 1 8 2 abc",
        "HINFO a b c",
        "HINFO \"a\"b\"c\"",
        "HINFO \"a b\" c d",
        "CAA 0 issue \"a\" b",
        "NAPTR 1 2 \"s\" \"x\" \"\" a.lan. b",
    ] {
        let refused = refusal(&format!("records.\"a.lan\" = {text:?}"));
        let rtype = text.split(' ').next().unwrap();
        let start = line(
            19,
            text,
            &format!("is not read as a record of the type {rtype}: "),
        );
        assert!(refused.starts_with(&start), "{text}: {refused}");
        assert!(refused.len() > start.len() && refused.lines().count() == 1);
    }
    assert!(refusal(&format!("records.\"a.lan\" = \"TXT {}\"", "a".repeat(256))).contains("TXT"));
    assert_refused(&[
        (
            "[records]\nnas.lan = \"192.168.1.5\"",
            &[
                "f:2:1: [records].nas: the dots of this name are taken for those of TOML; put the \
                 name in quotes, as in \"nas.lan\" = \"192.168.1.5\"",
            ],
        ),
        (
            "[records]\n\"a b\" = \"192.168.1.5\"\nlan = 5\nx = []\ny = [[\"::1\"]]",
            &[
                "f:2:1: [records].\"a b\": \"a b\" is not a domain name; write labels of 1 to 63 \
                 letters, digits, \"-\" or \"_\", joined by dots, such as \"lan\" or \
                 \"168.192.in-addr.arpa\"",
                "f:3:7: [records].lan: expected a string such as \"192.168.1.5\", or a list, found \
                 integer",
                "f:4:5: [records].x: the list is empty; write at least one record, or leave the name \
                 out",
                "f:5:6: [records].y: expected a string such as \"192.168.1.5\", found array",
            ],
        ),
        (
            "[records]\n\"a.lan\" = \"192.168.1.5\"\n\"A.lan.\" = \"192.168.1.6\"",
            // The table has its keys in the order of their letters, so that the second comes first.
            &[
                "f:2:1: [records].\"a.lan\": \"a.lan\" is listed twice; write all its records in one \
                 list",
            ],
        ),
        (
            "records.x = [\"192.168.1.5\", \"A 192.168.1.5\"]",
            &["f:1:29: [records].x: the record is listed twice; leave one out"],
        ),
        (
            "records.x = [\"CNAME a.lan\", \"192.168.1.5\"]\n[records.y]\n",
            &[
                "f:1:13: [records].x: a name with a CNAME record has no other records (RFC 1034 \
                 section 3.6.2); leave the CNAME or the others out",
                "f:2:10: [records].y: the dots of this name are taken for those of TOML; put the \
                 name in quotes, as in \"nas.lan\" = \"192.168.1.5\"",
            ],
        ),
        (
            "records.x = [\"CNAME a.lan\", \"CNAME b.lan\"]",
            &[
                "f:1:13: [records].x: a name with a CNAME record has no other records (RFC 1034 \
                 section 3.6.2); leave the CNAME or the others out",
            ],
        ),
        (
            &format!(
                "[records]\n{KEY} = \"::1\"\n\"x.{KEY}.lan\" = \"::1\"\n\"a.pkarr\" = \"::1\""
            ),
            &[
                &format!(
                    "f:2:1: [records].{KEY}: \"{KEY}\" has a label in the form of a public key, \
                     which nothing but a signed packet answers; leave it out"
                ),
                &format!(
                    "f:3:1: [records].\"x.{KEY}.lan\": \"x.{KEY}.lan\" has a label in the form of a \
                     public key, which nothing but a signed packet answers; leave it out"
                ),
                "f:4:1: [records].\"a.pkarr\": \"a.pkarr\" is under the suffix \"pkarr\" of public \
                 keys, which nothing but a signed packet answers; leave it out",
            ],
        ),
        (
            "records = 1",
            &["f:1:11: [records]: expected a table, found integer; write the keys below [records]"],
        ),
    ]);
}

#[test]
fn records_are_bounded() {
    let mut text = "[records]\n".to_owned();
    for n in 0..4 {
        writeln!(text, "n{n}=[").unwrap();
        for m in 0..=25_000_u32 {
            write!(text, "\"::{m:x}\",").unwrap();
        }
        writeln!(text, "]").unwrap();
    }
    assert_eq!(
        refusal(&text),
        "f:2:1: [records]: 100004 records are listed; list at most 100000, and the rest in the file \
         of names.hosts-file"
    );
}

/// Texts near to records, as well as any.
fn near_records() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "A",
        "AAAA",
        "CNAME",
        "MX",
        "TXT",
        "SRV",
        "SOA",
        "CAA",
        "SVCB",
        "HTTPS",
        "NAPTR",
        "TLSA",
        "SSHFP",
        "CERT",
        "DS",
        "HINFO",
        "CSYNC",
        "OPENPGPKEY",
        "SMIMEA",
        "ANAME",
        "NS",
        "ZERO",
        " ",
        " ",
        " ",
        "\"",
        "\\",
        "(",
        ")",
        ";",
        "\n",
        "$",
        "@",
        "0",
        "1",
        "65536",
        "issue",
        "ca.lan",
        ".",
        "alpn=h2",
        "ipv4hint=192.0.2.1",
        "key65535=",
        "=",
        "3",
        "ab",
        "AwEAAQ==",
        "\\200",
        "\u{fc}",
    ]);
    prop_oneof![
        any::<String>(),
        prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat()),
    ]
}

proptest! {
    #[test]
    fn any_record_is_read_or_refused(text in near_records()) {
        let quoted = toml_string(&text);
        let file = format!("records.x = {quoted}");
        match Config::parse(&file, "f") {
            Ok(config) => prop_assert!(u16::try_from(config.records[0].rdata.len()).is_ok()),
            Err(error) => {
                prop_assert_eq!(error.problems().len(), 1);
                prop_assert!(!error.to_string().contains(char::is_control));
            }
        }
    }
}

/// Text as a string of TOML.
fn toml_string(text: &str) -> String {
    let mut quoted = "\"".to_owned();
    for c in text.chars() {
        write!(quoted, "\\U{:08x}", u32::from(c)).unwrap();
    }
    quoted + "\""
}
