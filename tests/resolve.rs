//! `pkbridge resolve`: the program itself, on a simulated DHT.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic"
)]

mod common;

use std::time::Duration;

use common::program::{Ended, run, run_in};
use common::*;
use dht_simulator::{HOLDERS, Item, Network, Settings};
use ed25519_dalek::Signer;
use hickory_proto::rr::rdata::{A, TXT};
use hickory_proto::rr::{Name, RData};
use pkbridge::pkarr::{PublicKey, SignedPacket, SigningKey};
use serde_json::{Value, json};

/// A `seq`: 1 700 000 000 seconds in microseconds.
const SEQ: u64 = 1_700_000_000_000_000;
const SIGNED: &str = "2023-11-14 22:13:20 UTC";

async fn network() -> Network {
    let settings = Settings {
        nodes: 60,
        seed: 3,
        round_trip: Duration::from_millis(10),
        ..Settings::default()
    };
    Network::start(settings).await.unwrap()
}

/// Whatever the key has signed, or not.
fn item(secret: &SigningKey, seq: u64, value: &[u8], is_signed: bool) -> Item {
    let signable = [format!("3:seqi{seq}e1:v{}:", value.len()).as_bytes(), value].concat();
    let signature = match is_signed {
        true => secret.sign(&signable).to_bytes(),
        false => [7; 64],
    };
    Item {
        key: secret.verifying_key().to_bytes(),
        signature,
        seq: seq.try_into().unwrap(),
        value: value.to_vec(),
    }
}

fn packet(secret: &SigningKey, seq: u64) -> SignedPacket {
    let key = key_of(secret);
    let txt = |text: &str| RData::TXT(TXT::new(vec![text.to_owned()]));
    let records = [
        (below(key, ""), RData::A(A::new(192, 0, 2, 1))),
        (below(key, "www"), txt("w")),
        (below(key, "a.www"), txt("a")),
        (below(key, "*.pages"), txt("any")),
    ];
    let records = records.map(|(owner, data)| (owner, 300, data));
    sign(secret, seq, records.to_vec())
}

/// `pkbridge resolve`, with a configuration that leads nowhere else.
async fn resolve(network: &Network, arguments: &[&str]) -> Ended {
    let bootstrap: Vec<String> = network
        .bootstrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    resolve_from(&bootstrap, arguments).await
}

async fn resolve_from(bootstrap: &[String], arguments: &[&str]) -> Ended {
    let directory = Directory::new();
    let config = directory.join("config.toml");
    let text =
        format!("[dht]\nbootstrap = {bootstrap:?}\n[upstream]\nservers = [\"127.0.0.1:9\"]\n");
    std::fs::write(&config, text).unwrap();
    let arguments = [&["resolve"], arguments, &["--config", "config.toml"]].concat();
    let ended = run(&directory, &arguments).await;
    assert_eq!(ended.errors, "");
    ended
}

/// Its JSON object, with the exit code that was expected.
async fn resolve_json(network: &Network, name: &str, code: i32) -> Value {
    let ended = resolve(network, &[name, "--json"]).await;
    ended.expect(code).json()
}

fn owners(report: &Value) -> Vec<Name> {
    let records = report["packet"]["records"].as_array().unwrap().iter();
    records
        .map(|record| Name::from_ascii(record["name"].as_str().unwrap()).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packet_is_shown_with_its_records_and_who_holds_it() {
    let network = network().await;
    let secret = secret(1);
    let key = key_of(&secret);
    let new = packet(&secret, SEQ);
    network.store(&item_of(&new));
    let old = item_of(&packet(&secret, SEQ - 1_000_000));
    assert_eq!(network.store_on(&old, |rank| rank < 4), 4);
    let forged = item(&secret, SEQ + 5, new.dns(), false);
    assert_eq!(network.store_on(&forged, |rank| rank == 4), 1);

    let report = resolve_json(&network, &key.to_string(), 0).await;
    assert_eq!(report["status"], "found");
    assert_eq!(report["key"], key.to_string());
    assert_eq!(report["error"], Value::Null);
    let shown = &report["packet"];
    assert_eq!(shown["seq"], SEQ);
    assert_eq!(shown["signed"], SIGNED);
    assert_eq!(shown["bytes"], new.dns().len());
    assert_eq!(shown["signature"], "valid");
    assert!(shown["age_seconds"].as_u64().unwrap() > 80_000_000);
    assert_eq!(
        owners(&report),
        ["", "www", "a.www", "*.pages"].map(|sub| below(key, sub))
    );
    // The search may miss one or two of the nearest.
    let held = |what: &str| report["held"][what].as_u64().unwrap();
    assert_eq!(
        (held("older"), held("refused"), held("silent")),
        (4, 1, 0),
        "{report}"
    );
    assert!(held("newest") >= 12, "{report}");
    let nodes = report["nodes"].as_array().unwrap();
    assert!((18..=HOLDERS).contains(&nodes.len()), "{report}");
    let older = nodes.iter().find(|node| node["holds"] == "older").unwrap();
    assert_eq!(older["seq"], SEQ - 1_000_000);
    let refused = nodes
        .iter()
        .find(|node| node["holds"] == "refused")
        .unwrap();
    assert_eq!(refused["error"], "the signature is not valid");

    let ended = resolve(&network, &[&key.to_string()]).await;
    let text = ended.output;
    for line in [
        format!("packet       seq {SEQ}, signed {SIGNED}, "),
        "             4 records, ".to_owned(),
        format!("records      {key}.  "),
        format!(
            "  older: seq {}, signed 2023-11-14 22:13:19 UTC, ",
            SEQ - 1_000_000
        ),
        "  refused: the signature is not valid\n".to_owned(),
        ", an older one by 4, 1 with what is no packet of the key".to_owned(),
    ] {
        assert!(text.contains(&line), "{line}\nis not in\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_taken_in_every_spelling_and_only_its_records_are_shown() {
    let network = network().await;
    let secret = secret(2);
    let key = key_of(&secret);
    network.store(&item_of(&packet(&secret, SEQ)));
    let all: &[&str] = &["", "www", "a.www", "*.pages"];
    for (name, subs) in [
        (format!("{key}.pkarr"), all),
        (format!("pk:{key}"), all),
        (
            format!("https://{}.PKARR/x", key.to_string().to_uppercase()),
            all,
        ),
        (format!("www.{key}"), &["www", "a.www"]),
        (format!("x.pages.{key}.pkarr."), &["*.pages"]),
    ] {
        let report = resolve_json(&network, &name, 0).await;
        let expected: Vec<Name> = subs.iter().map(|sub| below(key, sub)).collect();
        assert_eq!(owners(&report), expected, "{name}");
        assert_eq!(report["packet"]["record_count"], 4);
    }
    let report = resolve_json(&network, &format!("missing.{key}"), 1).await;
    assert_eq!(
        (&report["status"], owners(&report)),
        (&json!("nodata"), vec![])
    );
    let ended = resolve(&network, &[&format!("missing.{key}")]).await;
    let text = ended.output;
    let none = format!("records      none of 4 is at or below missing.{key}.\n");
    assert!(text.contains(&none), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absence_is_told_from_silence_and_from_what_is_no_packet() {
    let network = network().await;
    let absent = resolve_json(&network, &key_of(&secret(3)).to_string(), 1).await;
    assert_eq!(absent["status"], "absent");
    assert_eq!(absent["packet"], Value::Null);
    assert!(absent["held"]["none"].as_u64().unwrap() >= 18, "{absent}");

    // Signed by the owner, and newer than the packet that some nodes still have.
    let secret = secret(4);
    network.store(&item(&secret, SEQ + 1, b"no DNS", true));
    network.store_on(&item_of(&packet(&secret, SEQ)), |rank| rank < 3);
    let invalid = resolve_json(&network, &key_of(&secret).to_string(), 3).await;
    assert_eq!(invalid["status"], "invalid");
    let error = invalid["error"].as_str().unwrap();
    let expected = format!("the newest item, seq {}, cannot be used: ", SEQ + 1);
    assert!(error.starts_with(&expected), "{error}");
    assert!(error.contains("no DNS message"), "{error}");
    assert_eq!(invalid["held"]["older"], 3, "{invalid}");

    let nobody = ["127.0.0.1:9".to_owned()];
    let ended = resolve_from(&nobody, &[&key_of(&secret).to_string()]).await;
    let text = ended.expect(3).output;
    let why = "packet       not known: no DHT node answers; asked were 127.0.0.1:9\n";
    assert!(text.contains(why), "{text}");

    // The option goes before the configuration.
    let bootstrap = network.bootstrap()[0].to_string();
    let name = key_of(&secret).to_string();
    let ended = resolve_from(&nobody, &[&name, "--bootstrap", &bootstrap]).await;
    let text = ended.output;
    assert!(text.contains("cannot be used"), "{text}");
}

#[test]
fn a_name_without_a_key_is_a_usage_error() {
    let key: PublicKey = key_of(&secret(5));
    let directory = Directory::new();
    for (name, error) in [
        ("example.com".to_owned(), "has no public key in it"),
        (format!("{key}.lan"), "must be the last label"),
        ("www.pkarr".to_owned(), "write KEY.pkarr"),
        ("y".repeat(52), "a weak key"),
        (format!("{}9", &key.to_string()[..51]), "must end in y or o"),
    ] {
        let ended = run_in(&directory.0, &["resolve", &name]);
        ended.expect(2).says(error);
    }
    let arguments = ["resolve", &key.to_string(), "--bootstrap", "192.0.2.1"];
    run_in(&directory.0, &arguments)
        .expect(2)
        .says("lacks a port");
}
