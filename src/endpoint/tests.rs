//! Tests of the ways to write an endpoint down.

use std::net::Ipv4Addr;

use data_encoding::BASE64URL_NOPAD;
use proptest::prelude::*;

use super::*;

const KEY: &str = "ybndrfg8ejkmcpqxot1uwisza345h769ybndrfg8ejkmcpqxot1u";
/// Base64 of 32 bytes of 7.
const SEVENS: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";

fn read(text: &str) -> Endpoint {
    text.parse()
        .unwrap_or_else(|fault| panic!("{text:?} {fault}"))
}

fn fault(text: &str) -> String {
    text.parse::<Endpoint>().unwrap_err()
}

fn named(transport: Transport, name: &str, port: u16) -> Endpoint {
    Endpoint {
        transport,
        host: Host::Name(name.to_owned()),
        port,
        ..Endpoint::plain("192.0.2.1:1".parse().unwrap())
    }
}

fn at(transport: Transport, address: &str) -> Endpoint {
    Endpoint {
        transport,
        ..Endpoint::plain(address.parse().unwrap())
    }
}

fn https(path: &str, http3: bool) -> Transport {
    Transport::Https {
        path: path.to_owned(),
        http3,
    }
}

/// A stamp of these bytes.
fn stamp(parts: &[&[u8]]) -> String {
    format!("sdns://{}", BASE64URL_NOPAD.encode(&parts.concat()))
}

/// A text behind its length.
fn lp(text: &str) -> Vec<u8> {
    let mut field = vec![u8::try_from(text.len()).unwrap()];
    field.extend(text.as_bytes());
    field
}

const PROPERTIES: &[u8] = &[7, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn plain_servers_are_addresses() {
    for (text, address) in [
        ("9.9.9.9", "9.9.9.9:53"),
        ("9.9.9.9:5353", "9.9.9.9:5353"),
        ("[2620:fe::fe]:53", "[2620:fe::fe]:53"),
        ("2620:fe::fe", "[2620:fe::fe]:53"),
        ("[2620:fe::fe]", "[2620:fe::fe]:53"),
        ("[fe80::1%2]:54", "[fe80::1%2]:54"),
        ("[fe80::1%2]", "[fe80::1%2]:53"),
        ("udp://9.9.9.9", "9.9.9.9:53"),
        ("UDP://[2620:fe::fe]:5353", "[2620:fe::fe]:5353"),
    ] {
        let endpoint = read(text);
        assert_eq!(
            endpoint,
            Endpoint::plain(address.parse().unwrap()),
            "{text}"
        );
        assert_eq!(endpoint.to_string(), address);
        assert_eq!(endpoint.known_addresses(), [address.parse().unwrap()]);
        assert!(!endpoint.is_encrypted() && !endpoint.needs_bootstrap());
    }
    assert_eq!(read("tcp://9.9.9.9"), at(Transport::Tcp, "9.9.9.9:53"),);
    assert_eq!(read("tcp://[::1]:5300").to_string(), "tcp://[::1]:5300");
}

#[test]
fn encrypted_servers_are_addresses_or_names() {
    let cloudflare = Endpoint {
        tls_name: Some("cloudflare-dns.com".to_owned()),
        ..at(Transport::Tls, "1.1.1.1:853")
    };
    assert_eq!(read("tls://1.1.1.1#cloudflare-dns.com"), cloudflare);
    assert_eq!(
        read("tls://DNS.Quad9.net."),
        named(Transport::Tls, "dns.quad9.net", 853)
    );
    assert_eq!(
        read("https://dns.quad9.net/dns-query"),
        named(https("/dns-query", false), "dns.quad9.net", 443)
    );
    let quad9 = Endpoint {
        tls_name: Some("dns.quad9.net".to_owned()),
        ..at(https("/dns-query", false), "9.9.9.9:443")
    };
    assert_eq!(read("https://9.9.9.9/dns-query#dns.quad9.net"), quad9);
    assert_eq!(
        read("h3://dns.quad9.net:8443/q/a-b_c~d%20?address=9.9.9.9&address=2620:fe::fe"),
        Endpoint {
            addresses: vec!["9.9.9.9".parse().unwrap(), "2620:fe::fe".parse().unwrap()],
            ..named(https("/q/a-b_c~d%20", true), "dns.quad9.net", 8443)
        }
    );
    assert_eq!(
        read("quic://dns.adguard.com"),
        named(Transport::Quic, "dns.adguard.com", 853)
    );
    // The usual path, and a name that says nothing new.
    assert_eq!(
        read("https://dns.google"),
        named(https("/dns-query", false), "dns.google", 443)
    );
    assert_eq!(
        read("tls://dns.google#DNS.google"),
        named(Transport::Tls, "dns.google", 853)
    );
}

#[test]
fn pins_are_hashes_in_base64() {
    let pinned = Endpoint {
        pins: vec![Pin::PublicKey([7; 32])],
        ..at(Transport::Tls, "192.0.2.1:8853")
    };
    let text = format!("tls://192.0.2.1:8853?pin-sha256={SEVENS}");
    assert_eq!(read(&text), pinned);
    assert_eq!(pinned.to_string(), text);
    let twice = Endpoint {
        pins: vec![Pin::PublicKey([7; 32]), Pin::Certificate([7; 32])],
        tls_name: Some("dns.example".to_owned()),
        ..pinned
    };
    let text = format!("{text}&cert-sha256={SEVENS}#dns.example");
    assert_eq!(read(&text), twice);
    assert_eq!(twice.to_string(), text);
}

#[test]
fn only_a_name_without_addresses_needs_a_bootstrap_server() {
    let needs = |text: &str| read(text).needs_bootstrap();
    assert!(needs("tls://dns.example") && needs("quic://dns.example"));
    assert!(!needs("tls://192.0.2.1#dns.example"));
    let told = read("https://dns.example?address=192.0.2.1");
    assert!(!told.needs_bootstrap() && told.is_encrypted());
    assert_eq!(told.known_addresses(), ["192.0.2.1:443".parse().unwrap()]);
    assert_eq!(read("tls://dns.example").known_addresses(), []);
}

#[test]
fn what_is_no_endpoint_is_told_with_what_would_be_right() {
    let base64 = "has a pin that is not a SHA-256 hash in Base64, which has 44 characters";
    let no_host =
        "has neither an IP address nor a host name such as \"dns.example\" where the host stands";
    let port = "has no port from 1 to 65535 behind the \":\"";
    let option = "has an unknown option behind the \"?\"; the options are pin-sha256=HASH, \
                  cert-sha256=HASH and address=IP, joined by \"&\"";
    let sni = "has no host name behind the \"#\"; write the name that the server's certificate is \
               for, as in tls://192.0.2.1#dns.example";
    let scheme = "has a scheme that is not known; the schemes are udp://, tcp://, tls://, https://, \
                  h3://, quic:// and sdns://";
    let examples = "write one such as \"192.0.2.1:53\", \"[2001:db8::1]:53\"";
    for (text, expected) in [
        ("dot://192.0.2.1", scheme),
        ("://", scheme),
        ("tls://", no_host),
        ("tls://a..b", no_host),
        ("tls://user@dns.example", no_host),
        ("tls://192.0.2.256", no_host),
        ("tls://d\u{fc}s.example", no_host),
        ("tls://dns.example:0", port),
        ("tls://dns.example:", port),
        ("tls://dns.example:+1", port),
        ("tls://[::1]:65536", port),
        ("tls://[::1", "lacks the \"]\" behind the IPv6 address"),
        ("tls://[::1]853", "has text between \"]\" and the port"),
        ("tls://[::g]", "has no IPv6 address between \"[\" and \"]\""),
        (
            "tls://[fe80::1%eth0]",
            "has no IPv6 address between \"[\" and \"]\"; the scope of a link-local address is a \
             number: [fe80::1%2]",
        ),
        (
            "tls://2620:fe::fe",
            "has an IPv6 address without brackets; write it as [2001:db8::1]",
        ),
        (
            "tls://0.0.0.0",
            "is the unspecified address, which is no server's",
        ),
        (
            "tls://[::ffff:255.255.255.255]",
            "is the broadcast address, which is no server's",
        ),
        (
            "tls://192.0.2.1/",
            "has a path, which only https:// and h3:// take; leave it out",
        ),
        (
            "https://dns.example/a b",
            "has a path that no URL can have; write one such as \"/dns-query\"",
        ),
        (
            "https://dns.example/dns-query{?dns}",
            "has a template in its path; leave out \"{?dns}\"",
        ),
        (
            "tcp://dns.example",
            "names a server of plain DNS, and nothing would prove that an address is that \
             server's; write an IP address, or use tls:// or https:// if it is offered",
        ),
        (
            "udp://192.0.2.1#dns.example",
            "has \"?\" or \"#\", which only encrypted transports take; leave it out",
        ),
        (
            &format!("tcp://192.0.2.1?pin-sha256={SEVENS}"),
            "has \"?\" or \"#\", which only encrypted transports take; leave it out",
        ),
        ("tls://192.0.2.1?", option),
        (&format!("tls://192.0.2.1?pin-sha265={SEVENS}"), option),
        ("tls://192.0.2.1?pin-sha256=BwcH", base64),
        (
            &format!("tls://192.0.2.1?pin-sha256={}", &SEVENS[..43]),
            base64,
        ),
        (
            "tls://dns.example?address=x",
            "has an address that is not an IP address such as 192.0.2.1 or 2001:db8::1",
        ),
        (
            "tls://192.0.2.1?address=192.0.2.1",
            "has \"address=\", which only a host name takes; leave it out",
        ),
        ("tls://192.0.2.1#", sni),
        ("tls://192.0.2.1#192.0.2.1", sni),
        (
            "0.0.0.0:54",
            &format!("is the unspecified address, which is no server's; {examples}"),
        ),
        (
            "dns.example",
            &format!(
                "is not an IP address with or without a port; {examples}, or an IP address alone \
                 for port 53"
            ),
        ),
    ] {
        assert_eq!(fault(text), expected, "{text}");
    }
    let long = format!("https://dns.example/{}", "a".repeat(4096));
    assert_eq!(fault(&long), "has more than 4096 characters");
}

#[test]
fn a_public_key_name_is_never_a_host() {
    for text in [
        format!("tls://{KEY}"),
        format!("https://dns.{}.example/", KEY.to_uppercase()),
        format!("quic://{KEY}.pkarr"),
        stamp(&[&[3], PROPERTIES, &lp("192.0.2.1"), &[0], &lp(KEY)]),
    ] {
        let expected = format!(
            "has a host with the label \"{KEY}\", which is a public key; such a name is never sent \
             to another resolver, so that its address would not be found"
        );
        assert_eq!(fault(&text), expected, "{text}");
    }
    // One letter less is a name like any other.
    assert_eq!(
        read(&format!("tls://{}", &KEY[1..])),
        named(Transport::Tls, &KEY[1..], 853)
    );
}

#[test]
fn stamps_that_are_in_use_are_read() {
    // From public lists: AdGuard over HTTPS, Google in plain DNS.
    for (text, expected) in [
        (
            "sdns://AgMAAAAAAAAADDk0LjE0MC4xNC4xNCCaOjT3J965vKUQA9nOnDn48n3ZxSQpAcK6saROY1oCGQ9kbnMuYWRndWFyZC5jb20KL2Rucy1xdWVyeQ",
            "https://dns.adguard.com/dns-query\
             ?cert-sha256=mjo09yfeubylEAPZzpw5+PJ92cUkKQHCurGkTmNaAhk=&address=94.140.14.14",
        ),
        ("sdns://AAUAAAAAAAAABzguOC44Ljg", "8.8.8.8:53"),
    ] {
        let endpoint = read(text);
        assert_eq!(endpoint.to_string(), expected);
        assert_eq!(read(expected), endpoint);
    }
}

#[test]
fn stamps_of_each_kind_are_endpoints() {
    let hash = [&[32][..], &[7; 32]].concat();
    let two_hashes = [&[32 | 0x80][..], &[7; 32], &[32], &[8; 32]].concat();
    let with_addresses = |endpoint: Endpoint, addresses: &[Ipv4Addr]| Endpoint {
        addresses: addresses.iter().copied().map(IpAddr::V4).collect(),
        ..endpoint
    };
    let ip = Ipv4Addr::new(192, 0, 2, 1);
    for (parts, expected) in [
        (
            vec![vec![0], PROPERTIES.to_vec(), lp("[2001:db8::1]:5353")],
            at(Transport::Udp, "[2001:db8::1]:5353"),
        ),
        (
            vec![
                vec![2],
                PROPERTIES.to_vec(),
                lp(""),
                vec![0],
                lp("a.example:8443"),
                lp("/q"),
            ],
            named(https("/q", false), "a.example", 8443),
        ),
        (
            vec![
                vec![3],
                PROPERTIES.to_vec(),
                lp("192.0.2.1:8853"),
                hash.clone(),
                lp("A.example"),
            ],
            with_addresses(
                Endpoint {
                    pins: vec![Pin::Certificate([7; 32])],
                    ..named(Transport::Tls, "a.example", 8853)
                },
                &[ip],
            ),
        ),
        (
            // Resolvers to ask for the name, which are not the server's own addresses.
            vec![
                vec![4],
                PROPERTIES.to_vec(),
                lp("192.0.2.1"),
                two_hashes,
                lp("a.example"),
                vec![7 | 0x80],
                b"9.9.9.9".to_vec(),
                lp("8.8.8.8"),
            ],
            with_addresses(
                Endpoint {
                    pins: vec![Pin::Certificate([7; 32]), Pin::Certificate([8; 32])],
                    ..named(Transport::Quic, "a.example", 853)
                },
                &[ip],
            ),
        ),
        (
            vec![
                vec![3],
                PROPERTIES.to_vec(),
                lp(":8853"),
                vec![0],
                lp("a.example"),
            ],
            named(Transport::Tls, "a.example", 8853),
        ),
        (
            vec![
                vec![3],
                PROPERTIES.to_vec(),
                lp("192.0.2.1"),
                vec![0],
                lp(""),
            ],
            at(Transport::Tls, "192.0.2.1:853"),
        ),
        (
            vec![
                vec![3],
                PROPERTIES.to_vec(),
                lp("192.0.2.1"),
                vec![0],
                lp("192.0.2.1:9"),
            ],
            at(Transport::Tls, "192.0.2.1:9"),
        ),
    ] {
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let endpoint = read(&stamp(&parts));
        assert_eq!(endpoint, expected);
        assert_eq!(read(&endpoint.to_string()), endpoint);
    }
}

#[test]
fn stamps_that_cannot_be_used_are_told() {
    let not_spoken = |what: &str| {
        format!(
            "is a DNS stamp for {what}, which is not spoken here; use one for plain DNS, DoT, DoH \
             or DoQ"
        )
    };
    let short = "is a DNS stamp that ends too early; copy the whole of it";
    for (text, expected) in [
        (stamp(&[&[1], PROPERTIES]), not_spoken("DNSCrypt")),
        (stamp(&[&[5], PROPERTIES]), not_spoken("Oblivious DoH")),
        (stamp(&[&[0x81]]), not_spoken("a relay of DNSCrypt")),
        (stamp(&[&[0x85]]), not_spoken("a relay of Oblivious DoH")),
        (
            stamp(&[&[0x42]]),
            "is a DNS stamp of the unknown protocol 0x42; use one for plain DNS, DoT, DoH or DoQ"
                .to_owned(),
        ),
        ("sdns://".to_owned(), short.to_owned()),
        (stamp(&[&[3], &PROPERTIES[1..]]), short.to_owned()),
        (stamp(&[&[3], PROPERTIES, &[9], b"192"]), short.to_owned()),
        (
            stamp(&[&[3], PROPERTIES, &lp("192.0.2.1"), &[0x80], &[1]]),
            short.to_owned(),
        ),
        (
            "sdns://AAUAAAAAAAAABzguOC44Ljg=".to_owned(),
            "is not a DNS stamp: behind sdns:// stands Base64 in the alphabet of URLs without \"=\""
                .to_owned(),
        ),
        (
            stamp(&[&[0], PROPERTIES, &lp("192.0.2.1"), &[0]]),
            "is a DNS stamp with more in it than its protocol has".to_owned(),
        ),
        (
            stamp(&[&[0], PROPERTIES, &lp("dns.example")]),
            "is a DNS stamp for plain DNS without an IP address".to_owned(),
        ),
        (
            stamp(&[&[3], PROPERTIES, &lp("dns.example"), &[0], &lp("dns.example")]),
            "is a DNS stamp with a name where the address stands".to_owned(),
        ),
        (
            stamp(&[&[3], PROPERTIES, &lp(""), &[0], &lp("")]),
            "is a DNS stamp with neither a name nor an address".to_owned(),
        ),
        (
            stamp(&[&[3], PROPERTIES, &lp("192.0.2.1"), &[0], &lp("192.0.2.2")]),
            "is a DNS stamp with two addresses that do not go together".to_owned(),
        ),
        (
            stamp(&[&[3], PROPERTIES, &lp(""), &[2, 1, 1], &lp("dns.example")]),
            "is a DNS stamp with a hash that is not of SHA-256".to_owned(),
        ),
        (
            stamp(&[&[3], PROPERTIES, &[1, 0xff], &[0], &lp("dns.example")]),
            "is a DNS stamp with a text that is not UTF-8".to_owned(),
        ),
    ] {
        assert_eq!(fault(&text), expected, "{text}");
    }
}

/// Texts near to endpoints, as well as any.
fn near_endpoints() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "tls://",
        "https://",
        "h3://",
        "tcp://",
        "udp://",
        "quic://",
        "sdns://",
        "[",
        "]",
        ":",
        "::",
        "1",
        "192.0.2.1",
        "2001:db8::1",
        "fe80::1%2",
        "dns.example",
        "853",
        "/",
        "/dns-query",
        "?",
        "&",
        "=",
        "#",
        "pin-sha256=",
        "address=",
        "%",
        SEVENS,
        KEY,
        "AAUAAAAAAAAABzguOC44Ljg",
        "\u{fc}",
    ]);
    prop_oneof![
        any::<String>(),
        prop::collection::vec(part, 0..9).prop_map(|parts| parts.concat()),
        prop::collection::vec(any::<u8>(), 0..60)
            .prop_map(|bytes| { format!("sdns://{}", BASE64URL_NOPAD.encode(&bytes)) }),
    ]
}

fn endpoints() -> impl Strategy<Value = Endpoint> {
    let transport = prop_oneof![
        Just(Transport::Tls),
        Just(Transport::Quic),
        ("(/[a-z~%&=]{0,5}){1,3}", any::<bool>())
            .prop_map(|(path, http3)| Transport::Https { path, http3 }),
    ];
    let ip = prop::sample::select(vec!["192.0.2.1", "2001:db8::1", "::1"])
        .prop_map(|ip| ip.parse::<IpAddr>().unwrap());
    let host = prop_oneof![
        ip.clone().prop_map(Host::Address),
        "[a-z]{1,9}(\\.[a-z]{2,9}){0,3}".prop_map(Host::Name)
    ];
    let pin = (any::<[u8; 32]>(), any::<bool>()).prop_map(|(hash, of_key)| match of_key {
        true => Pin::PublicKey(hash),
        false => Pin::Certificate(hash),
    });
    let tls_name = prop::option::of("[a-z]{1,9}\\.[0-9]{1,3}x");
    let several = 0..3_usize;
    let pins = prop::collection::vec(pin, several.clone());
    let addresses = prop::collection::vec(ip, several);
    (transport, host, 1..=u16::MAX, tls_name, pins, addresses).prop_map(
        |(transport, host, port, tls_name, pins, addresses)| Endpoint {
            transport,
            addresses: match host {
                Host::Address(_) => Vec::new(),
                Host::Name(_) => addresses,
            },
            host,
            scope: 0,
            port,
            tls_name,
            pins,
        },
    )
}

proptest! {
    #[test]
    fn any_text_is_an_endpoint_or_a_fault(text in near_endpoints()) {
        match text.parse::<Endpoint>() {
            Ok(endpoint) => {
                let written = endpoint.to_string();
                prop_assert_eq!(written.parse(), Ok(endpoint), "{}", written);
            }
            Err(fault) => prop_assert!(!fault.is_empty() && fault.len() < 400),
        }
    }

    #[test]
    fn an_endpoint_is_read_as_it_was_written(endpoint in endpoints()) {
        prop_assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
    }
}
