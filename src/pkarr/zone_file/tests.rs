use std::collections::BTreeSet;

use super::*;
use crate::pkarr::{SigningKey, secret_key_text};
use crate::wire;

fn key() -> PublicKey {
    PublicKey::from(&SigningKey::from_bytes(&[7; 32]))
}

/// The records as `owner ttl type hex`, the key shown as `@`.
fn read(text: &str) -> Result<Vec<String>, Vec<String>> {
    let apex = format!("{}.", key());
    let records = read_zone_file(text.as_bytes(), key());
    let records =
        records.map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let shown = records.iter().map(|record| {
        let owner = record.owner.to_ascii().replace(&apex, "@");
        let data: String = record
            .rdata
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("{owner} {} {} {data}", record.ttl, u16::from(record.rtype))
    });
    Ok(shown.collect())
}

#[track_caller]
fn data(line: &str) -> String {
    let records = read(&format!("@ {line}")).unwrap_or_else(|errors| panic!("{line}: {errors:?}"));
    assert_eq!(records.len(), 1, "{line}");
    records[0].rsplit(' ').next().unwrap().to_owned()
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The key's name on the wire.
fn apex_hex() -> String {
    hex(wire::name_bytes(&apex_of(key())))
}

#[test]
fn a_whole_file() {
    let key = key();
    let text = format!(
        "$TTL 1h ; for all\n\
         @ IN SOA ns hostmaster ( 1 ; serial\n  2h 10m 1w 300 )\n\
         \t60 IN A 192.0.2.1\n\
         \x20  AAAA 2001:db8::1\n\
         www IN 30 CNAME @\n\
         {key}. TXT \"a; b\" c\n\
         $ORIGIN sub\n\
         @ A 192.0.2.2\n\
         \\*.x\\.y class1 type1 \\# 4 c0000203\n"
    );
    let root = apex_hex();
    let ns = format!("026e73{root}0a686f73746d6173746572{root}");
    assert_eq!(
        read(&text).unwrap(),
        [
            format!("@ 3600 6 {ns}0000000100001c200000025800093a800000012c"),
            "@ 60 1 c0000201".to_owned(),
            "@ 3600 28 20010db8000000000000000000000001".to_owned(),
            format!("www.@ 30 5 {root}"),
            format!("@ 3600 16 04{}0163", hex("a; b")),
            "sub.@ 3600 1 c0000202".to_owned(),
            "*.x\\.y.sub.@ 3600 1 c0000203".to_owned(),
        ]
    );
}

#[test]
fn ttls_come_from_the_record_the_file_the_record_before_or_nowhere() {
    let ttls = |text: &str| -> Vec<u32> {
        let records = read_zone_file(text.as_bytes(), key()).unwrap();
        records.iter().map(|record| record.ttl).collect()
    };
    let text = "@ A 192.0.2.1\n@ 60 A 192.0.2.2\n@ A 192.0.2.3\n$TTL 2m\n@ A 192.0.2.4\n";
    assert_eq!(ttls(text), [DEFAULT_TTL, 60, 60, 120]);
    assert_eq!(ttls("@ IN 5 A 192.0.2.1\n@ 6 IN A 192.0.2.2"), [5, 6]);
}

#[test]
fn the_data_of_each_type_that_has_a_form_of_its_own() {
    let root = apex_hex();
    for (line, expected) in [
        ("NS ns.example.", hex(b"\x02ns\x07example\0")),
        ("PTR @", root.clone()),
        ("DNAME .", "00".to_owned()),
        ("MX 10 mail", format!("000a{}{root}", hex(b"\x04mail"))),
        ("TXT \"\" \\\"é\\200", hex(b"\x00\x04\"\xc3\xa9\xc8")),
        ("SPF v=spf1", hex(b"\x06v=spf1")),
        ("HINFO PC \"Unix V\"", hex(b"\x02PC\x06Unix V")),
        ("RP a. b.", hex(b"\x01a\0\x01b\0")),
        ("AFSDB 1 a.", hex(b"\0\x01\x01a\0")),
        ("KX 1 a.", hex(b"\0\x01\x01a\0")),
        ("SRV 1 2 8080 .", "000100021f9000".to_owned()),
        (
            "NAPTR 1 2 s sip+d2u \"\" a.",
            hex(b"\0\x01\0\x02\x01s\x07sip+d2u\0\x01a\0"),
        ),
        (
            "CAA 128 issue \"ca.example; x=1\"",
            hex(b"\x80\x05issueca.example; x=1"),
        ),
        ("URI 1 2 \"https://a/\"", hex(b"\0\x01\0\x02https://a/")),
        ("SSHFP 4 2 ( ab CD\n ef )", "0402abcdef".to_owned()),
        ("TLSA 3 1 1 abcd", "030101abcd".to_owned()),
        ("SMIMEA 3 1 1 abcd", "030101abcd".to_owned()),
        ("DS 60485 ed25519 2 ABCD", "ec450f02abcd".to_owned()),
        ("CDS 0 DELETE 0 00", "0000000000".to_owned()),
        ("DNSKEY 257 3 15 AQ ID", "0101030f010203".to_owned()),
        ("CERT PKIX 1 8 AQID", "0001000108010203".to_owned()),
        ("OPENPGPKEY AQID", "010203".to_owned()),
        ("DHCID AQID", "010203".to_owned()),
        ("ZONEMD 1 1 1 abcd", "000000010101abcd".to_owned()),
        ("EUI48 00-00-5e-00-53-2a", "00005e00532a".to_owned()),
        (
            "EUI64 00-00-5E-EF-10-00-00-2A",
            "00005eef1000002a".to_owned(),
        ),
        ("TYPE65534 \\# 3 ab cdef", "abcdef".to_owned()),
        ("TYPE65534 \\# 0", String::new()),
        ("LOC \\# 2 0001", "0001".to_owned()),
        ("MX \\# 4 000a0000", "bad".to_owned()),
    ] {
        if expected == "bad" {
            assert!(read(&format!("@ {line}")).is_err(), "{line}");
            continue;
        }
        assert_eq!(data(line), expected, "{line}");
    }
}

/// As dnspython reads them.
#[test]
fn the_data_of_types_that_few_zones_have() {
    for (line, expected) in [
        (
            "LOC 52 22 23.000 N 4 53 32.000 E -2.00m 0.00m 10000m 10m",
            "000016138b3cf018810cbce0009895b8",
        ),
        (
            "LOC 42 21 54 N 71 06 18 W -24m 30m",
            "0033161389172dd070be15f000988d20",
        ),
        ("LOC 10 S 20 30 E 100", "001216137ddaaf00846619400098bd90"),
        (
            "APL 1:192.168.32.0/21 !1:192.168.38.0/28 2:2001:db8::/32 1:0.0.0.0/0",
            "00011503c0a82000011c83c0a8260002200420010db800010000",
        ),
        (
            "IPSECKEY 10 1 2 192.0.2.38 AQNRU3mG7TVTO2BkR47usntb102uFJtugbo6BSGvgqt4AQ==",
            "0a0102c0000226010351537986ed35533b6064478eeeb27b5bd74dae149b6e81ba3a0521af82ab7801",
        ),
        (
            "IPSECKEY 10 0 2 . AQNRU3mG7TVTO2BkR47usntb102uFJtugbo6BSGvgqt4AQ==",
            "0a0002010351537986ed35533b6064478eeeb27b5bd74dae149b6e81ba3a0521af82ab7801",
        ),
        (
            "IPSECKEY 10 3 2 mygateway.example. AQNRU3mG7TVTO2BkR47usntb102uFJtugbo6BSGvgqt4AQ==",
            "0a0302096d7967617465776179076578616d706c6500010351537986ed35533b6064478eeeb27b5bd74dae149b6e81ba3a0521af82ab7801",
        ),
        (
            "IPSECKEY 10 2 2 2001:db8::1 AQNRU3mG",
            "0a020220010db8000000000000000000000001010351537986",
        ),
        (
            "HIP 2 200100107B1A74DF365639CC39F1D578 AwEAAbdxyhNuSutc5EMzxTs9LBPCIkOFH8cI rvs1.example. rvs2.example.",
            "1002001b200100107b1a74df365639cc39f1d57803010001b771ca136e4aeb5ce44333c53b3d2c13c22243851fc7080472767331076578616d706c65000472767332076578616d706c6500",
        ),
        (
            "NSEC host.example. A MX RRSIG NSEC TYPE1234",
            "04686f7374076578616d706c65000006400100000003041b000000000000000000000000000000000000000000000000000020",
        ),
        (
            "NSEC3 1 1 12 aabbccdd 2t7b4g4vsa5smi47k61mv5bv1a22bojr MX DNSKEY NS SOA NSEC3PARAM RRSIG",
            "0101000c04aabbccdd14174eb2409fe28bcb4887a1836f957f0a8425e27b000722010000000290",
        ),
        (
            "NSEC3 1 0 0 - 2t7b4g4vsa5smi47k61mv5bv1a22bojr A",
            "010000000014174eb2409fe28bcb4887a1836f957f0a8425e27b000140",
        ),
        ("NSEC3PARAM 1 0 12 aabbccdd", "0100000c04aabbccdd"),
        ("CSYNC 66 3 A NS AAAA", "000000420003000460000008"),
        (
            "RRSIG A RSASHA1 3 86400 20030322173103 20030220173103 2642 example.com. oJB1W6WNGv+ldvQ3WDG0MQkg5IEhjRip8WTr",
            "00010503000151803e7c9dd73e5510d70a52076578616d706c6503636f6d00a090755ba58d1affa576f4375831b4310920e481218d18a9f164eb",
        ),
        (
            "RRSIG TYPE1234 13 3 86400 1893456000 20240229000000 2642 example.com. oJB1",
            "04d20d030001518070dbd88065dfc9000a52076578616d706c6503636f6d00a09075",
        ),
        ("NID 10 0014:4fff:ff20:ee64", "000a00144fffff20ee64"),
        ("L32 10 10.1.2.0", "000a0a010200"),
        ("L64 10 2001:0DB8:1140:1000", "000a20010db811401000"),
        (
            "LP 10 l64-subnet1.example.com.",
            "000a0b6c36342d7375626e657431076578616d706c6503636f6d00",
        ),
    ] {
        assert_eq!(data(line), expected, "{line}");
    }
    for line in [
        "LOC 91 N 0 E 0",
        "LOC 90 0 0.001 N 0 E 0",
        "LOC 1 60 N 0 E 0",
        "LOC 1 2 3 4 N 0 E 0",
        "LOC N 0 E 0",
        "LOC 1 N 181 E 0",
        "LOC 1 N 1 E",
        "LOC 1 N 1 E 0.001m",
        "LOC 1 N 1 E -100001m",
        "LOC 1 N 1 E 0 90000000001m",
        "LOC 1 N 1 E 0 1m 1m 1m 1m",
        "APL 192.0.2.0/24",
        "APL 1:192.0.2.0/33",
        "APL 3:192.0.2.0/24",
        "APL 1:2001:db8::/32",
        "IPSECKEY 10 0 2 192.0.2.1 AQID",
        "IPSECKEY 10 4 2 . AQID",
        "IPSECKEY 10 1 2 192.0.2.1",
        "HIP 2 xyz AQID",
        "HIP 2 2001",
        "NSEC a. NONESUCH",
        "NSEC3 1 0 0 zz 2t7b4g4vsa5smi47k61mv5bv1a22bojr A",
        "NSEC3 1 0 0 - 2t7w A",
        "RRSIG A 13 3 1 20261301000000 20261201000000 1 a. AQID",
        "RRSIG A 13 3 1 20250229000000 20261201000000 1 a. AQID",
        "NID 10 14:4fff:ff20",
        "NID 10 14:4fff:ff20:+e64",
        "L64 10 20010:db8:1:1",
    ] {
        assert!(read(&format!("@ {line}")).is_err(), "{line}");
    }
}

/// RFC 9460 appendix D.1 and D.2: the test vectors.
#[test]
fn service_bindings_as_in_the_vectors_of_their_rfc() {
    let foo = "03666f6f076578616d706c6503636f6d00";
    let org = "03666f6f076578616d706c65036f726700";
    for (line, expected) in [
        ("HTTPS 0 foo.example.com.", format!("0000{foo}")),
        ("SVCB 1 .", "000100".to_owned()),
        (
            "SVCB 16 foo.example.com. port=53",
            format!("0010{foo}000300020035"),
        ),
        (
            "SVCB 1 foo.example.com. key667=hello",
            format!("0001{foo}029b000568656c6c6f"),
        ),
        (
            "SVCB 1 foo.example.com. key667=\"hello\\210qoo\"",
            format!("0001{foo}029b000968656c6c6fd2716f6f"),
        ),
        (
            "SVCB 1 foo.example.com. (\n ipv6hint=\"2001:db8::1,2001:db8::53:1\"\n )",
            format!(
                "0001{foo}0006002020010db800000000000000000000000120010db8000000000000000000530001"
            ),
        ),
        (
            "SVCB 16 foo.example.org. (alpn=h2,h3-19 mandatory=ipv4hint,alpn\n ipv4hint=192.0.2.1)",
            format!("0010{org}000000040001000400010009026832") + "0568332d313900040004c0000201",
        ),
        (
            "SVCB 16 foo.example.org. alpn=\"f\\\\\\\\oo\\\\,bar,h2\"",
            format!("0010{org}0001000c08665c6f6f2c626172026832"),
        ),
        (
            "SVCB 16 foo.example.org. alpn=f\\\\\\092oo\\092,bar,h2",
            format!("0010{org}0001000c08665c6f6f2c626172026832"),
        ),
        (
            "HTTPS 1 . alpn=h2 no-default-alpn ech=AQID dohpath=/q{?dns} ohttp",
            "00010000010003026832000200000005000301020300070008".to_owned()
                + &hex("/q{?dns}")
                + "00080000",
        ),
    ] {
        assert_eq!(data(line), expected, "{line}");
    }
}

/// RFC 9460 appendix D.3, and more of the kind.
#[test]
fn service_bindings_that_are_wrong() {
    for parameters in [
        "key123=abc key123=def",
        "mandatory",
        "alpn",
        "port",
        "ipv4hint",
        "ipv6hint",
        "no-default-alpn=abc alpn=h2",
        "no-default-alpn",
        "mandatory=key123",
        "mandatory=mandatory",
        "mandatory=key123,key123 key123=abc",
        "port=65536",
        "port=+1",
        "alpn=h2,,h3",
        "alpn=\"a\\\\b\"",
        "ipv4hint=192.0.2.1,::1",
        "ech=!",
        "key65535=a",
        "key01=a",
        "Port=1",
        "x=1",
        "\"port=1\"",
        "alpn=h2\\256",
    ] {
        let line = format!("@ SVCB 1 . {parameters}");
        assert!(read(&line).is_err(), "{line}");
    }
    assert!(read("@ HTTPS 0 a. port=1").is_err(), "an alias has none");
}

#[test]
fn errors_tell_the_line_the_column_and_what_is_right() {
    let outside = format!(
        "5:1: \"example.com.\" is outside of the zone of {}. (a final dot ends a name, and without it \
         the key is put behind)",
        key()
    );
    let with_suffix = format!("{}.pkarr.", key());
    let suffixed = format!(
        "7:1: \"{with_suffix}\" is outside of the zone of {}. (names end in the key alone, and whoever \
         asks puts .pkarr behind it)",
        key()
    );
    let long = "x".repeat(256);
    let text = format!(
        "  A 192.0.2.1\n\
         @ A 192.0.2.256\n\
         @ 1x A 192.0.2.1\n\
         $INCLUDE other.zone\n\
         example.com. A 192.0.2.1\n\
         \x20 A 192.0.2.1\n\
         {with_suffix} A 192.0.2.1\n\
         é A 192.0.2.1\n\
         a..b A 192.0.2.1\n\
         @ CH TXT x\n\
         @ FOO x\n\
         @ MX 10\n\
         @ A 192.0.2.1 192.0.2.2\n\
         @ TXT {long}\n\
         @ KEY 0 3 1 A\n\
         @ TYPE1 \\# 3 010203\n\
         @ 300\n\
         @ ANY \\# 0\n\
         $TTL\n"
    );
    let key = key();
    assert_eq!(
        read(&text).unwrap_err(),
        [
            "1:3: a line that begins with space goes on with the name of the record before, and there \
             is none; @ is the key itself",
            "2:5: \"192.0.2.256\" is not an IPv4 address, such as 192.0.2.1",
            "3:3: \"1x\" is no time; write seconds up to 2147483647, or such as 1h30m",
            "4:1: $INCLUDE is not read: what is signed stands in one file; copy the lines here",
            &outside,
            &suffixed,
            "8:1: \"é\" is not ASCII; write an internationalised name in its form xn--...",
            "9:1: \"a..b\" is no domain name: labels have 1 to 63 bytes, and a name 255 with what \
             completes it",
            "10:3: \"CH\" is a class that nobody serves; leave it out",
            "11:3: \"FOO\" is no record type; write one such as A, AAAA, CNAME, TXT or HTTPS, or TYPE \
             and its number",
            "12:8: MX lacks a name",
            "13:15: \"192.0.2.2\" is more than A has",
            "14:7: this text has 256 bytes, and one string at most 255; write it as several, \"...\" \
             \"...\"",
            "15:7: data of the type KEY is not read in its own form; write it as bytes: \\# LENGTH \
             HEX (RFC 3597 section 5)",
            "16:9: these bytes are no data of the type TYPE1 (names must not be compressed)",
            "17:6: the record lacks its type, such as A or TXT",
            "18:3: ANY is for queries, and no type of records in a zone",
            "19:5: $TTL lacks its value",
        ],
        "{key}"
    );
}

#[test]
fn an_alias_stands_alone_but_at_the_key() {
    let text = "@ CNAME a.\n@ A 192.0.2.1\nb CNAME a.\nB A 192.0.2.1\nc CNAME a.\nc CNAME d.\nb CNAME a.\n";
    let errors = read(text).unwrap_err();
    let places: Vec<&str> = errors
        .iter()
        .filter_map(|error| error.split(": ").next())
        .collect();
    assert_eq!(places, ["4:1", "6:1"]);
}

#[test]
fn what_is_there_twice_is_taken_once() {
    let records = read("@ A 192.0.2.1\n@ 60 A 192.0.2.1\n@ A 192.0.2.2\n").unwrap();
    assert_eq!(records.len(), 2);
}

#[test]
fn nothing_that_drives_a_terminal_gets_into_a_message() {
    let text = b"@ \"\x1b[2J\" x\n@ A \"\xff\x1b\"\n\"\x1b\" A 1\n";
    for error in &read_zone_file(text, key()).unwrap_err() {
        assert!(!error.message.contains('\u{1b}'), "{error:?}");
    }
}

#[test]
fn variables_stand_where_an_address_may() {
    let text = b"@ A $IPV4\nhome AAAA $ipv6\n@ HTTPS 1 . alpn=h2 ipv4hint=192.0.2.9,$IPV4 ipv6hint=$IPV6\n\
                 note TXT $IPV4 \"$IPV6\"\n";
    let plain = |v4: &str, v6: &str| {
        let text = String::from_utf8_lossy(text).replace("$ipv6", "$IPV6");
        let (address, note) = text.split_at(text.find("note").unwrap());
        let filled = address.replace("$IPV4", v4).replace("$IPV6", v6) + note;
        read_zone_file(filled.as_bytes(), key()).unwrap()
    };
    let both = HostAddresses {
        ipv4: Some([198, 51, 100, 7].into()),
        ipv6: Some("2001:db8::7".parse().unwrap()),
    };
    let filled = fill_zone_file(text, key(), both).unwrap();
    assert!(filled.has_ipv4 && filled.has_ipv6);
    assert_eq!(filled.left_out, []);
    assert_eq!(filled.records, plain("198.51.100.7", "2001:db8::7"));

    let one = HostAddresses { ipv6: None, ..both };
    let filled = fill_zone_file(text, key(), one).unwrap();
    let left: Vec<_> = filled.left_out.iter().map(ToString::to_string).collect();
    assert_eq!(
        left,
        [
            "2:11: the IPv6 address of $IPV6 is not known; this AAAA record is left out",
            "3:46: the IPv6 address of $IPV6 is not known; the hint is left out",
        ]
    );
    let expected = b"@ A 198.51.100.7\n@ HTTPS 1 . alpn=h2 ipv4hint=192.0.2.9,198.51.100.7\n\
                     note TXT $IPV4 \"$IPV6\"\n";
    assert_eq!(filled.records, read_zone_file(expected, key()).unwrap());

    // Without addresses they are what is wrong, and quoted or elsewhere they are none.
    assert_eq!(read_zone_file(text, key()).unwrap_err().iter().count(), 4);
    for text in ["@ A $IPV6", "@ A \"$IPV4\"", "@ A $IPV4x", "@ NS $IPV4."] {
        let filled = fill_zone_file(text.as_bytes(), key(), both);
        assert!(filled.is_err() || !filled.unwrap().has_ipv4, "{text}");
    }
    let only_text = fill_zone_file(b"@ TXT $IPV4", key(), both).unwrap();
    assert!(!only_text.has_ipv4);
}

#[test]
fn no_text_makes_it_panic_and_errors_have_a_bound() {
    let pieces = [
        "@",
        " ",
        "\n",
        "(",
        ")",
        "\"",
        "\\",
        ";",
        "A",
        "TXT",
        "\\#",
        "4",
        "HTTPS 1 .",
        "alpn=",
        "$TTL",
        "$ORIGIN",
        "192.0.2.1",
        "$IPV4",
        "é",
        "\\25",
        "www",
        ".",
        "IN",
        "=",
        ",",
        "\0",
    ];
    let mut state = 1_u32;
    let mut lengths = BTreeSet::new();
    for _ in 0..20_000 {
        let mut text = String::new();
        for _ in 0..12 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            text += pieces[(state >> 16) as usize % pieces.len()];
        }
        lengths
            .insert(read_zone_file(text.as_bytes(), key()).map_or_else(|e| e.iter().len(), |_| 0));
    }
    assert!(lengths.len() > 3, "{lengths:?}");
    let errors = read_zone_file("x\n".repeat(1000).as_bytes(), key()).unwrap_err();
    assert_eq!(errors.iter().len(), MAX_ERRORS);
}

#[test]
fn a_secret_key_in_its_place_is_not_told() {
    let secret = secret_key_text(&SigningKey::from_bytes(&[7; 32]));
    let errors = read_zone_file(secret.as_bytes(), key()).unwrap_err();
    let only = "1:1: this is a secret key file, and no zone file; keep it to yourself";
    assert_eq!(errors.to_string(), only);
}
