//! Tests of the configuration file.

use std::net::SocketAddr;
use std::time::Duration;

use super::parse::Keys;
use super::*;
use crate::endpoint::Endpoint;
use hickory_proto::rr::RecordType;

const SHIPPED: &str = include_str!("../../config/pkbridge.toml");

/// A rule and records, which the shipped file has only as comments.
const EXAMPLES: &str = "[[forward]]\ndomains = [\"lan\", \"a.b\"]\nservers = [\"tls://192.0.2.1:1#a.b\"]\n\
                        [records]\n\"a.lan\" = [\"::1\", 'TXT \"a b\"', \"MX 10 b.lan.\"]\n";

/// The file's text, and the lines of the error that refuses it.
type Refusal<'a> = (&'a str, &'a [&'a str]);

/// A label that is a public key.
const KEY: &str = "ybndrfg8ejkmcpqxot1uwisza345h769ybndrfg8ejkmcpqxot1u";

fn parse(text: &str) -> Config {
    Config::parse(text, "test.toml").unwrap()
}

fn refusal(text: &str) -> String {
    Config::parse(text, "f").unwrap_err().to_string()
}

fn assert_refused(cases: &[Refusal<'_>]) {
    for (text, lines) in cases {
        assert_eq!(refusal(text), lines.join("\n"), "for the text:\n{text}");
    }
}

/// The tables that stand alone.
fn tables() -> impl Iterator<Item = &'static parse::Table> {
    let alone = |table: &&parse::Table| matches!(table.keys, Keys::Table(_));
    parse::TABLES.iter().filter(alone)
}

/// Every key of those as `(table, key)`.
fn keys() -> impl Iterator<Item = (&'static str, &'static str)> {
    tables().flat_map(|table| table.keys.names().into_iter().map(|key| (table.name, key)))
}

#[test]
fn the_shipped_file_and_an_empty_one_are_the_defaults() {
    assert_eq!(parse(SHIPPED), Config::default());
    assert_eq!(parse(""), Config::default());
    assert_eq!(
        parse("\u{feff}[log]\r\nlevel = \"info\"\r\n"),
        Config::default()
    );
    for table in tables() {
        assert_eq!(parse(&format!("[{}]\n", table.name)), Config::default());
    }
    assert_eq!(parse("[records]\n"), Config::default());
    assert_eq!(parse("forward = []\n"), Config::default());
}

#[test]
fn the_shipped_file_has_every_key_below_a_comment() {
    let lines: Vec<&str> = SHIPPED.lines().collect();
    let mut table = "";
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'))
        {
            table = name;
        } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            assert!(lines[index - 1].starts_with("# "), "{key} is not explained");
            found.push((table, key));
        }
    }
    assert_eq!(found, keys().collect::<Vec<_>>());
    assert_eq!(found.len(), 49);
}

#[test]
fn any_key_of_the_shipped_file_may_be_missing() {
    for (_, key) in keys() {
        let start = SHIPPED.find(&format!("\n{key} = ")).unwrap() + 1;
        let end = start
            + SHIPPED[start..]
                .find("\n\n")
                .unwrap_or(SHIPPED.len() - start);
        let without = format!("{}{}", &SHIPPED[..start], &SHIPPED[end..]);
        assert_eq!(parse(&without), Config::default(), "without {key}");
    }
}

#[test]
fn every_key_has_an_effect() {
    let all = r#"
        listen.addresses = ["127.0.0.1", "::1", "[fe80::1%2]:5353", "0.0.0.0:0"]
        listen.max-tcp-connections = 1_000
        listen.max-tcp-connections-per-client = 7
        listen.nsid = "gateway"
        [access]
        allow = ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "2001:db8::1", "0.0.0.0/0"]
        authentic-data = "always"
        [names]
        suffixes = ["PKarr.", "key_s.Example"]
        search-domains = "answer"
        synthesise-addresses = false
        special-use = false
        hosts-file = "/etc/hosts.lan"
        [delegation]
        follow = false
        allow-private = true
        [upstream]
        mode = "forward"
        servers = ["192.0.2.1", "[fe80::1%2]", "tcp://127.0.0.53", "tls://dns.example"]
        bootstrap = ["192.0.2.1", "2001:db8::1", "127.0.0.53:54", "[::1]:5300"]
        strategy = "in-order"
        timeout = "100ms"
        ca-file = "/etc/ca.pem"
        validate = true
        trust-anchors = "/etc/root.key"
        negative-trust-anchors = ["Broken.Example."]
        root-hints = ""
        [[forward]]
        domains = ["LAN", "168.192.in-addr.arpa."]
        servers = ["192.168.1.1"]
        [records]
        "NAS.lan" = "192.168.1.5"
        [rebinding]
        guard = "on"
        allow = ["plex.direct"]
        [dht]
        bootstrap = ["Node.example.:1", "192.0.2.1:65535"]
        bind-address = "192.0.2.2:6881"
        lookup-timeout = "30s"
        packet-min-ttl = "1h"
        linger = "30ms"
        max-lookups-per-second = 1000
        max-misses-per-client = 1
        [relays]
        urls = ["https://Relay.example/a/", "http://127.0.0.1:6881"]
        [keep-alive]
        keys = ["O4dksfbqk85ogzdb5osziw6befigbuxmuxkuxq8434q89uj56uyy"]
        interval = "90m"
        max-age = "3650d"
        [cache]
        max-bytes = 0x10000
        min-ttl = "30m"
        max-ttl = "1h30m"
        negative-ttl = "0s"
        failure-ttl = "300s"
        max-stale = "30d"
        stale-wait = "1800ms"
        prefetch = false
        nxdomain-cut = false
        [state]
        directory = ""
        max-bytes = "1MiB"
        [control]
        socket = ""
        [log]
        level = "warn,pkbridge::resolve=DEBUG,hyper=off"
    "#;
    let second = |seconds| Duration::from_secs(seconds);
    let socket = |text: &&str| text.parse::<SocketAddr>().unwrap();
    let expected = Config {
        listen: Listen {
            addresses: ["127.0.0.1:53", "[::1]:53", "[fe80::1%2]:5353", "0.0.0.0:0"]
                .iter()
                .map(socket)
                .collect(),
            max_tcp_connections: 1000,
            max_tcp_connections_per_client: 7,
            nsid: "gateway".to_owned(),
        },
        access: Access {
            allow: [
                "10.0.0.0/8",
                "192.0.2.7/32",
                "2001:db8::/32",
                "2001:db8::1/128",
                "0.0.0.0/0",
            ]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect(),
            authentic_data: AuthenticData::Always,
        },
        names: Names {
            suffixes: vec!["pkarr".to_owned(), "key_s.example".to_owned()],
            search_domains: SearchDomains::Answer,
            synthesise_addresses: false,
            special_use: false,
            hosts_file: Some("/etc/hosts.lan".into()),
        },
        delegation: Delegation {
            follow: false,
            allow_private: true,
        },
        upstream: Upstream {
            mode: UpstreamMode::Forward,
            servers: [
                "192.0.2.1:53",
                "[fe80::1%2]:53",
                "tcp://127.0.0.53:53",
                "tls://dns.example:853",
            ]
            .map(|text| text.parse().unwrap())
            .to_vec(),
            bootstrap: [
                "192.0.2.1:53",
                "[2001:db8::1]:53",
                "127.0.0.53:54",
                "[::1]:5300",
            ]
            .iter()
            .map(socket)
            .collect(),
            strategy: Strategy::InOrder,
            timeout: Duration::from_millis(100),
            ca_file: Some("/etc/ca.pem".into()),
            validate: true,
            trust_anchors: Some("/etc/root.key".into()),
            negative_trust_anchors: vec!["broken.example".to_owned()],
            root_hints: None,
        },
        forward: vec![ForwardRule {
            domains: vec!["lan".to_owned(), "168.192.in-addr.arpa".to_owned()],
            servers: vec![Endpoint::plain("192.168.1.1:53".parse().unwrap())],
        }],
        records: vec![LocalRecord {
            name: "nas.lan".to_owned(),
            rtype: RecordType::A,
            rdata: vec![192, 168, 1, 5],
        }],
        rebinding: Rebinding {
            guard: RebindingGuard::On,
            allow: vec!["plex.direct".to_owned()],
        },
        dht: Dht {
            bootstrap: vec!["node.example:1".to_owned(), "192.0.2.1:65535".to_owned()],
            bind_address: "192.0.2.2:6881".parse().unwrap(),
            lookup_timeout: second(30),
            packet_min_ttl: second(3600),
            linger: Duration::from_millis(30),
            max_lookups_per_second: 1000,
            max_misses_per_client: 1,
        },
        relays: Relays {
            urls: ["https://relay.example/a", "http://127.0.0.1:6881"]
                .map(|url| url.parse().unwrap())
                .to_vec(),
        },
        keep_alive: KeepAlive {
            keys: vec![values::EXAMPLE_KEY.parse().unwrap()],
            interval: second(5400),
            max_age: second(3650 * 86_400),
        },
        cache: Cache {
            max_bytes: 65536,
            min_ttl: second(1800),
            max_ttl: second(5400),
            negative_ttl: second(0),
            failure_ttl: second(300),
            max_stale: second(30 * 86_400),
            stale_wait: Duration::from_millis(1800),
            prefetch: false,
            nxdomain_cut: false,
        },
        state: State {
            directory: None,
            max_bytes: 1 << 20,
        },
        control: Control { socket: None },
        log: Log {
            level: "warn,pkbridge::resolve=DEBUG,hyper=off".to_owned(),
        },
    };
    assert_eq!(parse(all), expected);
}

#[test]
fn empty_lists_that_are_fine_and_sizes() {
    assert_eq!(
        parse("names.suffixes = []").names.suffixes,
        Vec::<String>::new()
    );
    assert_eq!(parse("upstream.servers = []").upstream.servers, Vec::new());
    for (size, bytes) in [
        ("\"64KiB\"", 65536),
        ("\"70000B\"", 70000),
        ("\"70000\"", 70000),
        ("\"1GiB\"", 1 << 30),
        ("\"512MiB\"", 512 << 20),
        ("9223372036854775807", u64::try_from(i64::MAX).unwrap()),
    ] {
        assert_eq!(
            parse(&format!("cache.max-bytes = {size}")).cache.max_bytes,
            bytes
        );
    }
}

#[test]
fn unknown_names_are_refused_with_the_nearest() {
    assert_refused(&[
        (
            "[listen]\nmax-tcp-conections = 5",
            &[
                "f:2:1: [listen].max-tcp-conections: unknown key \"max-tcp-conections\"; did you \
               mean \"max-tcp-connections\"?",
            ],
        ),
        (
            "[cache]\n\tmin_ttl = \"5s\"",
            &["f:2:2: [cache].min_ttl: unknown key \"min_ttl\"; did you mean \"min-ttl\"?"],
        ),
        (
            "[upstream]\nretries = 5",
            &[
                "f:2:1: [upstream].retries: unknown key \"retries\"; the keys of [upstream] are \
               mode, servers, bootstrap, strategy, timeout, ca-file, validate, trust-anchors, \
               negative-trust-anchors, root-hints",
            ],
        ),
        (
            "[cahce]",
            &["f:1:2: [cahce]: unknown table \"cahce\"; did you mean \"cache\"?"],
        ),
        (
            "[metrics]",
            &[
                "f:1:2: [metrics]: unknown table \"metrics\"; the tables are listen, access, names, \
               delegation, upstream, forward, records, rebinding, dht, relays, keep-alive, cache, state, \
               control, log",
            ],
        ),
        (
            "allow = []",
            &["f:1:1: allow: the key \"allow\" is outside of its table; write it below [access]"],
        ),
        (
            "lisen = 1",
            &["f:1:1: lisen: unknown key \"lisen\"; did you mean \"listen\"?"],
        ),
        (
            "[log]\n\"a\\nb\" = 1",
            &["f:2:1: [log].\"a\\nb\": unknown key \"a\\nb\"; the keys of [log] are level"],
        ),
    ]);
}

#[test]
fn text_that_is_not_toml_is_refused_with_its_place() {
    assert_refused(&[
        (
            "[log]\nlevel = \"info\"\nlevel = \"warn\"",
            &["f:3:1: duplicate key"],
        ),
        ("[log]\n[cache]\n[log]", &["f:3:2: duplicate key"]),
        ("[log\n", &["f:1:5: unclosed table, expected `]`"]),
        (
            "[log]\nlevel = \n[cache]\nmin-ttl = 5x\n",
            &[
                "f:2:9: string values must be quoted, expected literal string",
                "f:4:11: string values must be quoted, expected literal string",
            ],
        ),
    ]);
}

#[test]
fn wrong_types_are_refused() {
    assert_refused(&[
        (
            "cache.max-ttl = 5",
            &["f:1:17: [cache].max-ttl: expected a string such as \"5s\", found integer"],
        ),
        (
            "listen.addresses = \"127.0.0.1\"",
            &[
                "f:1:20: [listen].addresses: expected a list such as [\"127.0.0.1:53\"], found \
               string",
            ],
        ),
        (
            "names.suffixes = [\n\"a\",\n  true]",
            &["f:3:3: [names].suffixes: expected a string such as \"pkarr\", found boolean"],
        ),
        (
            "listen.max-tcp-connections = \"5\"",
            &[
                "f:1:30: [listen].max-tcp-connections: expected an integer such as 512, found string",
            ],
        ),
        (
            "cache.max-bytes = 1.5",
            &[
                "f:1:19: [cache].max-bytes: expected an integer or a string such as \"64MiB\", found \
               float",
            ],
        ),
        (
            "log = \"info\"",
            &["f:1:7: [log]: expected a table, found string; write the keys below [log]"],
        ),
        (
            "[[log]]",
            &["f:1:1: [log]: expected a table, found array; write the keys below [log]"],
        ),
        (
            "log.level.x = 1",
            &["f:1:5: [log].level: expected a string such as \"info\", found table"],
        ),
    ]);
}

#[test]
fn listen_and_access_are_checked() {
    let not_ip = "is not an IP address with or without a port; write one such as \
                  \"127.0.0.1:53\", \"[::1]:53\", or an IP address alone for port 53";
    assert_refused(&[
        (
            "listen.addresses = [\"localhost:53\"]",
            &[&format!(
                "f:1:21: [listen].addresses: \"localhost:53\" {not_ip}"
            )],
        ),
        (
            "listen.addresses = [\"::1\", \"fe80::1%eth0\"]",
            &[&format!(
                "f:1:28: [listen].addresses: \"fe80::1%eth0\" {not_ip}; the scope of a link-local \
                 address is a number: \"[fe80::1%2]:53\""
            )],
        ),
        (
            "listen.addresses = [\"::1\", \"[::1]:53\"]",
            &["f:1:28: [listen].addresses: \"[::1]:53\" is listed twice; leave one out"],
        ),
        (
            "listen.addresses = []",
            &[
                "f:1:20: [listen].addresses: the list is empty, so that no client could ask; list \
               at least one address such as \"127.0.0.1:53\"",
            ],
        ),
        (
            "listen.max-tcp-connections = 0",
            &[
                "f:1:30: [listen].max-tcp-connections: the number is out of bounds; write one from 1 \
               to 65535",
            ],
        ),
        (
            "listen.max-tcp-connections = -99999999999999999999999999999999999999999999",
            &[
                "f:1:30: [listen].max-tcp-connections: the number is out of bounds; write one from 1 \
               to 65535",
            ],
        ),
        (
            "access.allow = [\"192.168.1.5/24\"]",
            &[
                "f:1:17: [access].allow: \"192.168.1.5/24\" has host bits set; write \
               \"192.168.1.0/24\"",
            ],
        ),
        (
            "access.allow = [\"10.0.0.0/33\"]",
            &[
                "f:1:17: [access].allow: \"10.0.0.0/33\" is not a network; write one such as \
               \"192.168.1.0/24\", \"2001:db8::/32\" or an IP address alone",
            ],
        ),
        (
            "access.allow = [\"10.0.0.1\", \"10.0.0.1/32\"]",
            &["f:1:29: [access].allow: \"10.0.0.1/32\" is listed twice; leave one out"],
        ),
        (
            "access.allow = []",
            &["f:1:16: [access].allow: nobody would be served; list at least \"127.0.0.0/8\""],
        ),
    ]);
}

#[test]
fn choices_are_checked() {
    assert_refused(&[
        (
            "[access]\nauthentic-data = \"all\"",
            &["f:2:18: [access].authentic-data: write \"never\", \"loopback\" or \"always\""],
        ),
        (
            "[names]\nsearch-domains = \"yes\"",
            &["f:2:18: [names].search-domains: write \"nxdomain\" or \"answer\""],
        ),
        (
            "[names]\nspecial-use = 1",
            &["f:2:15: [names].special-use: expected true or false, found integer"],
        ),
        (
            "[listen]\nnsid = \"a\\u0007\"",
            &["f:2:8: [listen].nsid: write at most 64 bytes of printable text"],
        ),
    ]);
}

#[test]
fn suffixes_are_checked() {
    let bare = "is no suffix, as names that end in a bare key are always answered; write one such \
                as \"pkarr\", or leave it out";
    let not_name = "is not a domain name; write labels of 1 to 63 letters, digits, \"-\" or \"_\", \
                    joined by dots, such as \"pkarr\"";
    for text in ["", "."] {
        let line = format!("f:1:19: [names].suffixes: {text:?} {bare}");
        assert_eq!(refusal(&format!("names.suffixes = [{text:?}]")), line);
    }
    let long_label = "a".repeat(64);
    for text in ["a..b", "-a", "a-", "a b", "ü", "a..", &long_label] {
        let line = format!("f:1:19: [names].suffixes: {text:?} {not_name}");
        assert_eq!(refusal(&format!("names.suffixes = [{text:?}]")), line);
    }
    let long = format!("{}a", "a.".repeat(100));
    let shown = &long[..80];
    assert_refused(&[
        (
            &format!("names.suffixes = [\"{long}\"]"),
            &[&format!(
                "f:1:19: [names].suffixes: \"{shown}\"... is longer than 200 characters; write a \
                 shorter one, as a key has to fit before it"
            )],
        ),
        (
            "names.suffixes = [\"pkarr\", \"PKARR.\"]",
            &["f:1:28: [names].suffixes: \"PKARR.\" is listed twice; leave one out"],
        ),
        (
            &format!("names.suffixes = [\"x.{}\"]", KEY.to_uppercase()),
            &[&format!(
                "f:1:19: [names].suffixes: \"x.{}\" has the label \"{KEY}\", which is a public key, \
                 so that it would itself be a public-key name; write one such as \"pkarr\"",
                KEY.to_uppercase()
            )],
        ),
    ]);
    let fine = [&long[..199], &KEY[1..], &KEY.replace('y', "l")];
    for text in fine {
        assert_eq!(
            parse(&format!("names.suffixes = [\"{text}\"]"))
                .names
                .suffixes,
            [text]
        );
    }
}

#[test]
fn upstreams_are_checked() {
    let examples = "write one such as \"192.0.2.1:53\", \"[2001:db8::1]:53\"";
    let cases = [
        ("dns.example", "is not an IP address with or without a port"),
        ("[192.0.2.1]", "is not an IP address with or without a port"),
        ("192.0.2.1:0", "has port 0, which no server has"),
        (
            "0.0.0.0",
            "is the unspecified address, which is no server's",
        ),
        (
            "[::]:53",
            "is the unspecified address, which is no server's",
        ),
        (
            "224.0.0.251",
            "is a multicast address, which is no server's",
        ),
        ("ff02::fb", "is a multicast address, which is no server's"),
        (
            "255.255.255.255",
            "is the broadcast address, which is no server's",
        ),
    ];
    for (text, fault) in cases {
        let more = if fault.contains("not an IP") {
            ", or an IP address alone for port 53"
        } else {
            ""
        };
        let line = format!("f:1:21: [upstream].servers: {text:?} {fault}; {examples}{more}");
        assert_eq!(refusal(&format!("upstream.servers = [{text:?}]")), line);
    }
    assert_refused(&[
        (
            "upstream.servers = [\"192.0.2.1\", \"192.0.2.1:53\"]",
            &["f:1:34: [upstream].servers: \"192.0.2.1:53\" is listed twice; leave one out"],
        ),
        (
            "upstream.timeout = \"99ms\"",
            &[
                "f:1:20: [upstream].timeout: \"99ms\" is out of bounds; write a duration from 100ms \
               to 30s",
            ],
        ),
    ]);
}

#[test]
fn an_upstream_that_is_a_listen_address_is_refused() {
    let parse_pair = |listen: &str, server: &str| {
        let text = format!("listen.addresses = [{listen:?}]\nupstream.servers = [{server:?}]");
        Config::parse(&text, "f").map_err(|error| error.to_string())
    };
    for (listen, server, shown) in [
        ("127.0.0.1:53", "127.0.0.1", "127.0.0.1:53"),
        ("[::1]:5353", "[::1]:5353", "[::1]:5353"),
        (
            "192.0.2.1:53",
            "[::ffff:192.0.2.1]:53",
            "[::ffff:192.0.2.1]:53",
        ),
        ("0.0.0.0:53", "127.0.0.53", "127.0.0.53:53"),
        ("[::]:53", "::1", "[::1]:53"),
        ("[::]:53", "127.0.0.1", "127.0.0.1:53"),
    ] {
        let line = format!(
            "f:2:21: [upstream].servers: {shown} is pkbridge itself, which listens on {listen}, so \
             that a query would be forwarded in a loop; write the address of another resolver"
        );
        assert_eq!(parse_pair(listen, server), Err(line));
    }
    for (listen, server) in [
        ("127.0.0.1:53", "127.0.0.1:54"),
        ("127.0.0.1:53", "127.0.0.53:53"),
        ("0.0.0.0:53", "127.0.0.1:5300"),
        ("0.0.0.0:53", "192.0.2.1:53"),
        ("[fe80::1%2]:53", "[fe80::1%3]:53"),
    ] {
        assert!(parse_pair(listen, server).is_ok(), "{listen} {server}");
    }
    // The default addresses count, too, and an address list that is refused causes no more errors.
    assert!(refusal("upstream.servers = [\"127.0.0.1\"]").contains("in a loop"));
    let listen_only = refusal("upstream.servers = [\"127.0.0.1\"]\nlisten.addresses = []");
    assert!(!listen_only.contains("in a loop"), "{listen_only}");
}

#[test]
fn the_dht_is_checked() {
    let examples = "write \"router.bittorrent.com:6881\" or \"192.0.2.1:6881\"";
    let ipv6 = "is an IPv6 address, but the DHT is IPv4 only";
    let port = "has no port from 1 to 65535";
    let host = "has neither a domain name nor an IPv4 address";
    for (text, fault) in [
        ("[2001:db8::1]:6881", ipv6),
        ("2001:db8::1", ipv6),
        ("router.example", "lacks a port"),
        ("router.example:0", port),
        ("router.example:65536", port),
        ("router.example:+1", port),
        ("router.example:", port),
        (":6881", host),
        ("a_b..example:6881", host),
        ("192.0.2.256:6881", host),
    ] {
        let line = format!("f:1:18: [dht].bootstrap: {text:?} {fault}; {examples}");
        assert_eq!(refusal(&format!("dht.bootstrap = [{text:?}]")), line);
    }
    let many = |count| {
        let nodes: Vec<String> = (0..count).map(|n| format!("\"n{n}.example:1\"")).collect();
        format!("dht.bootstrap = [{}]", nodes.join(", "))
    };
    assert_eq!(parse(&many(64)).dht.bootstrap.len(), 64);
    assert_refused(&[
        (
            "dht.bootstrap = []",
            &[
                "f:1:17: [dht].bootstrap: the DHT cannot be joined without one; list at least \
               \"router.bittorrent.com:6881\"",
            ],
        ),
        (
            &many(65),
            &["f:1:17: [dht].bootstrap: 65 nodes are listed; list at most 64"],
        ),
        (
            "dht.bind-address = \"[::]:6881\"",
            &[
                "f:1:20: [dht].bind-address: \"[::]:6881\" is not an IPv4 address with or without a \
               port; write \"0.0.0.0\" or \"0.0.0.0:6881\"",
            ],
        ),
        (
            "dht.lookup-timeout = \"31s\"",
            &[
                "f:1:22: [dht].lookup-timeout: \"31s\" is out of bounds; write a duration from 100ms \
               to 30s",
            ],
        ),
        (
            "dht.packet-min-ttl = \"1500ms\"",
            &[
                "f:1:22: [dht].packet-min-ttl: \"1500ms\" is not a whole number of seconds, as DNS \
               counts them; write \"1s\"",
            ],
        ),
    ]);
}

#[test]
fn the_cache_is_checked() {
    assert_refused(&[
        (
            "cache.max-bytes = 65535",
            &["f:1:19: [cache].max-bytes: 65535 bytes are too few; write at least \"64KiB\""],
        ),
        (
            "cache.max-bytes = -1",
            &[
                "f:1:19: [cache].max-bytes: the number is out of bounds; write a size such as \
               \"64MiB\"",
            ],
        ),
        (
            "cache.max-bytes = \"64MB\"",
            &[
                "f:1:19: [cache].max-bytes: \"64MB\" is not a size; write bytes as a number, or a \
               string such as \"512KiB\", \"64MiB\" or \"1GiB\"",
            ],
        ),
        (
            "cache.max-bytes = \"99999999999GiB\"",
            &[
                "f:1:19: [cache].max-bytes: \"99999999999GiB\" is too large; write a size such as \
               \"64MiB\"",
            ],
        ),
        (
            "[cache]\nmax-ttl = \"30m\"\nmin-ttl = \"1h\"",
            &[
                "f:3:11: [cache].min-ttl: min-ttl (1h) is over max-ttl (30m); lower it or raise \
               max-ttl",
            ],
        ),
        (
            "cache.min-ttl = \"2h\"",
            &["f:1:17: [cache].min-ttl: \"2h\" is out of bounds; write a duration from 0s to 1h"],
        ),
        (
            "cache.max-ttl = \"8d\"",
            &[
                "f:1:17: [cache].max-ttl: \"8d\" is out of bounds; write a duration from 1s to 7d, \
               the cap that RFC 8767 section 4 recommends",
            ],
        ),
        (
            "cache.negative-ttl = \"4h\"",
            &[
                "f:1:22: [cache].negative-ttl: \"4h\" is out of bounds; write a duration from 0s to \
               3h, as RFC 2308 section 5 wants a limit of one to three hours",
            ],
        ),
        (
            "cache.failure-ttl = \"999ms\"",
            &[
                "f:1:21: [cache].failure-ttl: \"999ms\" is out of bounds; write a duration from 1s \
               to 5m, the bounds that RFC 9520 section 3.2 sets",
            ],
        ),
    ]);
}

#[test]
fn the_paths_and_the_level_are_checked() {
    let not_level = "is not a level; write error, warn, info, debug or trace, or a filter such as \
                     \"info,pkbridge::resolve=debug\"";
    for (text, level) in [
        ("", ""),
        ("verbose", "verbose"),
        ("off", "off"),
        ("info,", ""),
        ("info,pkbridge=loud,hyper=5x", "loud"),
        ("in\u{7}fo", "in\u{7}fo"),
    ] {
        let line = format!("f:1:13: [log].level: {level:?} {not_level}");
        let text = text.replace('\u{7}', "\\u0007");
        assert_eq!(refusal(&format!("log.level = \"{text}\"")), line);
    }
    assert_refused(&[
        (
            "state.directory = \"var/lib\"",
            &[
                "f:1:19: [state].directory: \"var/lib\" is not an absolute path; write one such as \
               \"/var/lib/pkbridge\", or \"\" to save nothing",
            ],
        ),
        (
            "state.directory = \"/a\\u0000b\"",
            &[
                "f:1:19: [state].directory: \"/a\\0b\" is not an absolute path; write one such as \
               \"/var/lib/pkbridge\", or \"\" to save nothing",
            ],
        ),
        (
            "control.socket = \"run/x.sock\"",
            &[
                "f:1:18: [control].socket: \"run/x.sock\" is not an absolute path of at most 107 \
               bytes; write one such as \"/run/pkbridge/control.sock\", or \"\" for no control \
               socket",
            ],
        ),
    ]);
    let socket = |length: usize| format!("control.socket = \"/{}\"", "s".repeat(length - 1));
    let path = format!("/{}", "s".repeat(106));
    assert_eq!(parse(&socket(107)).control.socket, Some(path.into()));
    assert!(refusal(&socket(108)).contains("at most 107 bytes"));
}

#[test]
fn all_problems_are_reported_in_the_order_of_the_file() {
    let text = "[upstream]\nservers = [\"127.0.0.1\", \"[::1]:53\"]\n[lisen]\n[cache]\n\
                # ü\nmin-ttl = \"1h\"\nmax-ttl = \"1s\"\nfailure-ttl = 5\n\
                [access]\n'ü' = 1\nallow = [\"ü\", \"::/129\", 4]\n";
    let error = Config::parse(text, "f").unwrap_err();
    let places: Vec<_> = error
        .problems()
        .iter()
        .map(|problem| (problem.line, problem.column, problem.key.as_str()))
        .collect();
    assert_eq!(
        places,
        [
            (2, 12, "[upstream].servers"),
            (2, 25, "[upstream].servers"),
            (3, 2, "[lisen]"),
            (6, 11, "[cache].min-ttl"),
            (8, 15, "[cache].failure-ttl"),
            (10, 1, "[access].\"ü\""),
            (11, 10, "[access].allow"),
            (11, 15, "[access].allow"),
            (11, 25, "[access].allow"),
        ]
    );
    assert_eq!(error.to_string().lines().count(), places.len());
    assert!(!error.is_not_found());
}

#[test]
fn durations_are_read_and_written() {
    for (text, millis) in [
        ("0s", 0),
        ("300ms", 300),
        ("5s", 5_000),
        ("2m", 120_000),
        ("1h30m", 5_400_000),
        ("7d", 604_800_000),
        ("1d2h3m4s5ms", 93_784_005),
    ] {
        assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)));
        assert_eq!(format_duration(Duration::from_millis(millis)), text);
    }
    assert_eq!(parse_duration("2w"), parse_duration("14d"));
    assert_eq!(
        parse_duration("18446744073709551615ms"),
        Ok(Duration::from_millis(u64::MAX))
    );
    assert_eq!(format_duration(Duration::from_nanos(1)), "0s");
    assert!(!format_duration(Duration::MAX).is_empty());
    let shape = "is not a duration; write one such as \"5s\", \"300ms\" or \"1h30m\"";
    for (text, message) in [
        ("", shape),
        ("s", shape),
        ("-5s", shape),
        (" 5s", shape),
        ("5", "lacks a unit; write \"5s\" for seconds"),
        ("1h30", "lacks a unit; write \"30s\" for seconds"),
        (
            "5y",
            "has the unknown unit \"y\"; the units are ms, s, m, h, d and w",
        ),
        (
            "1.5s",
            "has the unknown unit \".\"; the units are ms, s, m, h, d and w",
        ),
        (
            "5 s",
            "has the unknown unit \" s\"; the units are ms, s, m, h, d and w",
        ),
        (
            "18446744073709551616ms",
            "is too long; write a shorter duration such as \"5s\"",
        ),
        (
            "18446744073709551615s",
            "is too long; write a shorter duration such as \"5s\"",
        ),
        (
            "18446744073709551615ms1ms",
            "is too long; write a shorter duration such as \"5s\"",
        ),
    ] {
        assert_eq!(parse_duration(text), Err(format!("{text:?} {message}")));
    }
}

#[test]
fn a_file_that_cannot_be_read_is_told_apart() {
    let error = Config::load(Path::new("/nonexistent/pkbridge.toml")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/nonexistent/pkbridge.toml: cannot read: No such file or directory (os error 2)"
    );
    assert!(error.is_not_found() && error.problems().is_empty());
    let error = Config::load(Path::new("/")).unwrap_err();
    assert!(error.to_string().starts_with("/: cannot read: "), "{error}");
    assert!(!error.is_not_found());
}

#[test]
fn a_file_is_loaded_and_must_be_text_of_a_sensible_size() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/pkbridge.toml");
    assert_eq!(Config::load(&shipped), Ok(Config::default()));
    let error = parse_bytes(b"[log]\n# \xc3\xbc \xff\n", "f").unwrap_err();
    assert_eq!(
        error.to_string(),
        "f:2:5: the text is not UTF-8; save the file in that encoding"
    );
    assert_eq!(
        refusal(&" ".repeat(1024 * 1024 + 1)),
        "f:1:1: the file is larger than 1 MiB; is it a configuration file?"
    );
    assert_eq!(parse(&" ".repeat(1024 * 1024)), Config::default());
}

#[test]
fn endless_problems_are_cut_short() {
    let unknown: String = (0..102).map(|n| format!("k{n} = 1\n")).collect();
    let text = refusal(&unknown);
    assert_eq!(text.lines().count(), 101);
    assert!(
        text.ends_with("\nf: 2 more problems are not shown"),
        "{text}"
    );
    for filler in [
        "[", "a=[", "=", "\0", "\u{1b}\n", "\"", "x.", "[a.b]\n", "{", "'''\\", "é=\n",
    ] {
        let text = refusal(&filler.repeat(100_000 / filler.len()));
        assert!(
            text.lines().count() <= 101 && text.len() < 100_000,
            "{filler:?}"
        );
        assert!(
            !text.replace('\n', "").contains(char::is_control),
            "{filler:?}"
        );
    }
    let long_name = format!("{} = 1", "a".repeat(1_000_000));
    assert!(refusal(&long_name).len() < 1000);
}

#[test]
fn no_damaged_file_causes_a_panic() {
    let damage = ["", "\"", "[", "]", "=", "\0", "é", "\n", "9", "-", "."];
    // Table by table, and each place in one way: all of the file in all ways would take too long.
    let tables = SHIPPED.split("\n[").skip(1);
    for table in tables
        .map(|rest| format!("[{rest}"))
        .chain([EXAMPLES.to_owned()])
    {
        for (at, _) in table.char_indices() {
            let (before, after) = table.split_at(at);
            drop(Config::parse(before, "f"));
            let mut rest = after.chars();
            rest.next();
            let damage = damage[at % damage.len()];
            drop(Config::parse(
                &format!("{before}{damage}{}", rest.as_str()),
                "f",
            ));
        }
    }
}
