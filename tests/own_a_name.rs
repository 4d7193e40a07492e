//! What the owner of a name does: makes a key, writes a zone file, publishes it. By the real program, on a DHT
//! on loopback, and with the reference implementation on the other side.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic"
)]

mod common;

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use common::program::{Ended, run, run_in, write_key, write_zone};
use common::{
    Directory, PATIENCE, Running, TestDht, ask, below, data, key_of, secret, sign, until,
};
use hickory_proto::rr::rdata::{A, TXT};
use hickory_proto::rr::{RData, RecordType};
use pkbridge::pkarr::{PublicKey, SignedPacket};
use serde_json::Value;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;

/// Arguments that publish `zone` with the key file `my.key` on a DHT.
async fn publish(directory: &Directory, dht: &TestDht, more: &[&str]) -> Ended {
    let mut arguments = vec!["publish", "my.zone", "--key", "my.key"];
    for node in &dht.testnet.bootstrap {
        arguments.extend(["--bootstrap", node]);
    }
    arguments.extend(more);
    run(directory, &arguments).await
}

#[test]
fn a_new_key_is_a_file_for_its_owner_alone_and_is_never_overwritten() {
    let directory = Directory::new();
    let made = run_in(&directory.0, &["keygen", "--out", "my.key"]).expect(0);
    let path = directory.join("my.key");
    let mode = path.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.trim_end().len(), 64);
    assert!(!made.output.contains(text.trim()) && made.errors.is_empty());

    let again = run_in(&directory.0, &["keygen", "--out", "my.key"]).expect(1);
    assert!(
        again.errors.contains("never overwritten"),
        "{}",
        again.errors
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);

    let shown = run_in(&directory.0, &["key", "my.key", "--json"]).expect(0);
    assert_eq!(shown.errors, "");
    let key: PublicKey = shown.json()["key"].as_str().unwrap().parse().unwrap();
    let address = format!("https://{key}.pkarr/");
    assert_eq!(shown.json()["url"], address.as_str());
    assert!(made.output.contains(&key.to_string()) && made.output.contains(&address));

    let with_code = run_in(&directory.0, &["key", "my.key", "--qr"]).expect(0);
    assert!(
        with_code.output.contains(&"█".repeat(41)),
        "{}",
        with_code.output
    );

    // Without --out the key names the file; two are two.
    let one = run_in(&directory.0, &["keygen", "--json"]).expect(0).json();
    let two = run_in(&directory.0, &["keygen", "--json"]).expect(0).json();
    assert_ne!(one["key"], two["key"]);
    assert_eq!(one["file"], format!("{}.key", one["key"].as_str().unwrap()));
    assert!(directory.join(one["file"].as_str().unwrap()).exists());
}

#[test]
fn key_files_of_the_reference_implementation_and_ours_are_the_same() {
    let directory = Directory::new();
    let theirs = pkarr::Keypair::random();
    let path = directory.join("theirs.key");
    theirs.write_secret_key_file(&path).unwrap();
    let shown = run_in(&directory.0, &["key", "theirs.key", "--json"]).expect(0);
    assert_eq!(shown.json()["key"], theirs.to_z32());

    let made = run_in(&directory.0, &["keygen", "--out", "ours.key", "--json"]).expect(0);
    let read = pkarr::Keypair::from_secret_key_file(&directory.join("ours.key")).unwrap();
    assert_eq!(made.json()["key"], read.to_z32());
}

#[test]
fn a_key_file_that_is_none_is_refused_and_one_that_others_may_read_is_told() {
    let directory = Directory::new();
    let key = write_key(&directory, 3);
    let path = directory.join("my.key");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    let shown = run_in(&directory.0, &["key", "my.key"]).expect(0);
    assert!(shown.errors.contains("(mode 0640)"), "{}", shown.errors);
    assert!(shown.output.contains(&key.to_string()));

    // What systemd lets a service read alone has the mode that its access control list makes.
    let as_credential = Command::new(env!("CARGO_BIN_EXE_pkbridge"))
        .arg("key")
        .arg(&path)
        .env("CREDENTIALS_DIRECTORY", &directory.0)
        .output()
        .unwrap();
    assert!(as_credential.status.success() && as_credential.stderr.is_empty());

    std::fs::write(&path, "5ec7e7".repeat(10)).unwrap();
    let refused = run_in(&directory.0, &["key", "my.key"]).expect(1);
    assert!(
        refused.errors.contains("this one has 60 characters"),
        "{}",
        refused.errors
    );
    assert!(!refused.errors.contains("5ec7e7"), "{}", refused.errors);
    run_in(&directory.0, &["key", "missing.key"]).expect(1);
    let unwritable = run_in(&directory.0, &["keygen", "--out", "no/such/directory.key"]).expect(1);
    assert!(
        unwritable.errors.contains("cannot be written"),
        "{}",
        unwritable.errors
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_published_zone_file_is_answered_and_the_reference_reads_it() {
    let directory = Directory::new();
    let dht = TestDht::start(10).await;
    let key = write_key(&directory, 11);
    write_zone(
        &directory,
        "$TTL 5m\n@ A 192.0.2.11\n_hello TXT \"Hello\" ; a comment\nwww CNAME @\n\
         @ HTTPS 1 . alpn=h2,h3\n",
    );
    let done = publish(&directory, &dht, &["--json"]).await.expect(0);
    let report = done.json();
    assert_eq!(report["key"], key.to_string());
    assert_eq!(report["replaces_seq"], Value::Null);
    assert_eq!(report["records"].as_array().unwrap().len(), 4);
    let holders = report["holders"].as_u64().unwrap();
    assert!(
        holders >= 5 && report["stored"].as_u64().unwrap() >= 5,
        "{report}"
    );

    let server = Running::start(dht.config());
    server.warm(key).await;
    let reply = ask(server.address, &format!("www.{key}.pkarr"), RecordType::A).await;
    assert_eq!(
        data(&reply, RecordType::A),
        [RData::A(A::new(192, 0, 2, 11))]
    );
    let reply = ask(server.address, &format!("_hello.{key}"), RecordType::TXT).await;
    let hello = RData::TXT(TXT::new(vec!["Hello".to_owned()]));
    assert_eq!(data(&reply, RecordType::TXT), [hello]);

    let bytes = unhex(report["signed_packet_hex"].as_str().unwrap());
    let theirs = pkarr::PublicKey::try_from(&bytes[..32]).unwrap();
    let read = pkarr::SignedPacket::from_relay_payload(&theirs, &bytes[32..].to_vec().into());
    let read = read.unwrap();
    assert_eq!(read.public_key().to_z32(), key.to_string());
    let fresh: Vec<_> = read.resource_records("_hello").collect();
    assert_eq!((fresh.len(), fresh[0].ttl), (1, 300));
    assert_eq!(read.all_resource_records().count(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_replaces_what_was_there_also_from_another_program() {
    let directory = Directory::new();
    let dht = TestDht::start(10).await;
    let key = write_key(&directory, 12);
    // Built by the reference; its clock is ahead by far.
    let future = 4_000_000_000_000_000_u64;
    let before = pkarr::SignedPacket::builder()
        .txt("old".try_into().unwrap(), "x".try_into().unwrap(), 60)
        .timestamp(future.into())
        .sign(&pkarr::Keypair::from_secret_key(&[12; 32]))
        .unwrap();
    dht.publish(&SignedPacket::from_bytes(before.as_bytes()).unwrap())
        .await;

    write_zone(&directory, "@ A 192.0.2.12\n");
    let done = publish(&directory, &dht, &["--json"]).await.expect(0);
    assert_eq!(done.json()["replaces_seq"], future);
    assert_eq!(done.json()["seq"], future + 1);
    assert!(
        done.errors.contains("later than the clock"),
        "{}",
        done.errors
    );

    write_zone(&directory, "@ A 192.0.2.13\n");
    let done = publish(&directory, &dht, &[]).await.expect(0);
    assert!(done.output.contains("read back"), "{}", done.output);
    let server = Running::start(dht.config());
    server.warm(key).await;
    let reply = ask(server.address, &key.to_string(), RecordType::A).await;
    assert_eq!(
        data(&reply, RecordType::A),
        [RData::A(A::new(192, 0, 2, 13))]
    );
}

/// Its own client, which is another user of the DHT's library, on the same network.
#[tokio::test(flavor = "multi_thread")]
async fn the_reference_finds_what_is_published_here_and_is_found_here() {
    let directory = Directory::new();
    let dht = TestDht::start(10).await;
    let theirs = pkarr::Client::builder()
        .no_default_network()
        .bootstrap(&dht.testnet.bootstrap)
        .build()
        .unwrap();
    let resolve = async |key: &pkarr::PublicKey| {
        let policy = pkarr::ResolvePolicy::NetworkOnly;
        theirs.resolve(key, policy).await.unwrap()
    };

    let key = write_key(&directory, 17);
    write_zone(&directory, "@ A 192.0.2.17\n_hello TXT ours\n");
    let done = publish(&directory, &dht, &["--json"]).await.expect(0);
    let keypair = pkarr::Keypair::from_secret_key(&[17; 32]);
    let found = resolve(&keypair.public_key()).await;
    let bytes = unhex(done.json()["signed_packet_hex"].as_str().unwrap());
    assert_eq!(found.as_bytes().to_vec(), bytes);

    // In its place.
    let packet = pkarr::SignedPacket::builder()
        .txt(
            "_hello".try_into().unwrap(),
            "theirs".try_into().unwrap(),
            60,
        )
        .sign(&keypair)
        .unwrap();
    assert!(theirs.publish(&packet).await.unwrap() >= 5);
    let mut arguments = vec!["resolve", "--json"];
    for node in &dht.testnet.bootstrap {
        arguments.extend(["--bootstrap", node]);
    }
    let name = format!("_hello.{key}.pkarr");
    arguments.push(&name);
    let found = run(&directory, &arguments).await.expect(0).json();
    assert_eq!(found["packet"]["seq"], packet.timestamp().as_u64());
    assert_eq!(found["packet"]["records"][0]["data"], "theirs");
    assert_eq!(found["held"]["older"], 0);

    // And ours in the place of that one.
    let done = publish(&directory, &dht, &["--json"]).await.expect(0);
    assert_eq!(done.json()["replaces_seq"], packet.timestamp().as_u64());
    let found = resolve(&keypair.public_key()).await;
    assert_eq!(found.timestamp().as_u64(), done.json()["seq"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_shows_the_packet_and_asks_nobody() {
    let directory = Directory::new();
    let key = write_key(&directory, 13);
    write_zone(
        &directory,
        "@ A 192.0.2.1\nwww CNAME @\n@ TYPE65534 \\# 1 ff\n",
    );
    // Where nothing listens; it would fail.
    let node = ["--bootstrap", "127.0.0.1:9"];
    let arguments = ["publish", "my.zone", "--key", "my.key", "--dry-run"];
    let shown = run(&directory, &[&arguments[..], &node].concat())
        .await
        .expect(0);
    for expected in [
        &format!("key          {key}"),
        "3 records, 111 of 1000 bytes",
        "nothing was published",
        &format!("www.{key}."),
        "\\# 1 ff",
    ] {
        assert!(
            shown.output.contains(expected),
            "{expected}: {}",
            shown.output
        );
    }
    let report = run(&directory, &[&arguments[..], &["--json"]].concat())
        .await
        .expect(0)
        .json();
    let packet = SignedPacket::from_bytes(&unhex(report["signed_packet_hex"].as_str().unwrap()));
    assert_eq!(packet.unwrap().key(), key);
    let sizes = report["records"].as_array().unwrap().iter();
    let sum: u64 = sizes.map(|record| record["bytes"].as_u64().unwrap()).sum();
    assert_eq!(
        (sum + 12, Value::from(sum + 12)),
        (111, report["bytes"].clone())
    );
    assert_eq!(report["holders"], Value::Null);
}

/// What the DNS library reads, what it does not know, and what it does not take for that type.
#[tokio::test]
async fn records_without_data_are_shown_too() {
    let directory = Directory::new();
    write_key(&directory, 13);
    write_zone(&directory, "x APL \\# 0\ny TYPE65280 \\# 0\nz DS \\# 0\n");
    let arguments = ["publish", "my.zone", "--key", "my.key", "--dry-run"];
    let shown = run(&directory, &arguments).await.expect(0);
    assert_eq!(
        shown.output.matches("\\# 0\n").count(),
        3,
        "{}",
        shown.output
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_network_it_says_so_and_may_be_tried_again() {
    let directory = Directory::new();
    write_key(&directory, 14);
    write_zone(&directory, "@ A 192.0.2.1\n");
    let arguments = [
        "publish",
        "my.zone",
        "--key",
        "my.key",
        "--bootstrap",
        "127.0.0.1:9",
    ];
    let ended = run(&directory, &arguments).await.expect(3);
    assert!(
        ended.errors.contains("no DHT node answers"),
        "{}",
        ended.errors
    );
}

#[test]
fn what_is_wrong_is_told_and_nothing_is_published() {
    let directory = Directory::new();
    write_key(&directory, 15);
    let publish = |expected: i32| {
        let arguments = ["publish", "my.zone", "--key", "my.key"];
        run_in(&directory.0, &arguments).expect(expected).errors
    };
    write_zone(&directory, "@ A 192.0.2.1\n@ A 192.0.2\n$INCLUDE x\n");
    let errors = publish(1);
    let lines: Vec<&str> = errors.lines().collect();
    assert!(
        lines[0].starts_with("pkbridge: my.zone:2:5: \"192.0.2\""),
        "{errors}"
    );
    assert!(
        lines[1].starts_with("pkbridge: my.zone:3:1: $INCLUDE"),
        "{errors}"
    );
    assert_eq!(lines.len(), 2);

    write_zone(&directory, "; nothing\n");
    assert!(publish(1).contains("there is no record"));

    let text = |length| format!("\"{}\" ", "x".repeat(length));
    let large = text(255).repeat(3);
    write_zone(
        &directory,
        &format!(
            "@ A 192.0.2.1\nmiddle TXT {}\nlarge TXT {large}\n",
            text(200)
        ),
    );
    let errors = publish(1);
    let lines: Vec<&str> = errors.lines().collect();
    assert!(
        lines[0].contains("a packet of 1086 bytes, and the DHT takes 1000"),
        "{errors}"
    );
    for (line, (size, name)) in [(786, "large."), (220, "middle."), (68, "192.0.2.1")]
        .iter()
        .enumerate()
        .map(|(at, expected)| (lines[at + 1], expected))
    {
        assert!(
            line.contains(&format!(" {size} B")) && line.contains(name),
            "{errors}"
        );
    }

    std::fs::remove_file(directory.join("my.zone")).unwrap();
    assert!(publish(1).contains("cannot be read"));
    // The key in the place of the zone is not told.
    let arguments = ["publish", "my.key", "--key", "my.key"];
    let ended = run_in(&directory.0, &arguments).expect(1);
    assert!(!ended.errors.contains("0f0f"), "{}", ended.errors);
}

/// `publish --watch`, and the lines that it says.
struct Watcher {
    program: std::process::Child,
    /// What systemd is told.
    notices: UnixDatagram,
    lines: UnboundedReceiver<String>,
}

impl Watcher {
    fn start(directory: &Directory, dht: &TestDht, more: &[&str]) -> Self {
        let nodes = dht.testnet.bootstrap.iter();
        let nodes = nodes.flat_map(|node| ["--bootstrap", node]);
        Self::start_with(
            directory,
            &nodes.chain(more.iter().copied()).collect::<Vec<_>>(),
        )
    }

    fn start_with(directory: &Directory, more: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pkbridge"));
        command.args(["publish", "my.zone", "--key", "my.key", "--watch", "--json"]);
        let socket = directory.join("notify");
        let notices = UnixDatagram::bind(&socket).unwrap();
        command
            .args(more)
            .env_remove("RUST_LOG")
            .env("NOTIFY_SOCKET", &socket)
            .current_dir(&directory.0)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut program = command.spawn().unwrap();
        let (sender, lines) = tokio::sync::mpsc::unbounded_channel();
        let (output, errors) = (
            program.stdout.take().unwrap(),
            program.stderr.take().unwrap(),
        );
        let tell = sender.clone();
        std::thread::spawn(move || {
            BufReader::new(output)
                .lines()
                .try_for_each(|line| tell.send(line.unwrap()))
        });
        std::thread::spawn(move || {
            BufReader::new(errors)
                .lines()
                .try_for_each(|line| sender.send(line.unwrap()))
        });
        Self {
            program,
            notices,
            lines,
        }
    }

    /// The next line in which this stands.
    async fn says(&mut self, expected: &str) -> String {
        let mut said = Vec::new();
        let find = async {
            loop {
                let line = self.lines.recv().await.expect(expected);
                if line.contains(expected) {
                    return line;
                }
                said.push(line);
            }
        };
        let found = timeout(PATIENCE, find).await.ok();
        found.unwrap_or_else(|| panic!("{expected:?} is not in {said:#?}"))
    }

    /// What was published next, as it says.
    async fn publishes(&mut self) -> Value {
        serde_json::from_str(&self.says("\"signed_packet_hex\"").await).unwrap()
    }

    /// What systemd has been told since.
    fn notices(&self) -> String {
        self.notices.set_nonblocking(true).unwrap();
        let mut text = String::new();
        let mut buffer = [0; 1024];
        while let Ok(length) = self.notices.recv(&mut buffer) {
            text += &String::from_utf8_lossy(&buffer[..length]);
        }
        text
    }

    fn signal(&self, signal: &str) {
        let pid = self.program.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .unwrap()
                .success()
        );
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_zone_follows_its_file_and_leaves_what_others_published() {
    let directory = Directory::new();
    let dht = TestDht::start(10).await;
    let key = write_key(&directory, 21);
    write_zone(&directory, "@ A $IPV4\n");
    let mut watcher = Watcher::start(&directory, &dht, &["--interface", "lo"]);
    let first = watcher.publishes().await;
    assert_eq!(first["records"][0]["data"], "127.0.0.1");
    assert_eq!(first["replaces_seq"], Value::Null);
    let notices = watcher.notices();
    assert!(
        notices.contains("READY=1") && notices.contains("STATUS=published seq"),
        "{notices}"
    );
    let seq = |report: &Value| report["seq"].as_u64().unwrap();

    // Nothing is new but the time of the file: the same packet, once more.
    write_zone(&directory, "@ A $IPV4\n");
    let again = watcher.publishes().await;
    assert_eq!(again["signed_packet_hex"], first["signed_packet_hex"]);

    write_zone(&directory, "@ A 192.0.2.1\n");
    let second = watcher.publishes().await;
    assert_eq!(second["records"][0]["data"], "192.0.2.1");
    assert_eq!(second["replaces_seq"], first["seq"]);
    assert!(seq(&second) > seq(&first));

    // Somebody else publishes; a file that is no zone is no reason to overwrite that.
    let server = Running::start(dht.config());
    server.dht.becomes(true).await;
    let address = RData::A(A::new(192, 0, 2, 99));
    let others_seq = seq(&second) + 1_000_000;
    let others = sign(&secret(21), others_seq, vec![(below(key, ""), 60, address)]);
    server
        .dht
        .publish(&others, Some(seq(&second)))
        .await
        .unwrap();
    write_zone(&directory, "@ A 192.0.2\n");
    let error = watcher.says("my.zone:1:5").await;
    assert!(error.contains("ERROR"), "{error}");
    let kept = watcher.says("somebody else").await;
    assert!(
        kept.contains(&format!("seq {others_seq}")) && kept.contains("kept alive"),
        "{kept}"
    );
    let newest = server.dht.newest(key).await.unwrap().unwrap();
    assert_eq!(newest.seq(), others_seq);

    // The owner's next word goes over it.
    write_zone(&directory, "@ A 192.0.2.3\n");
    watcher.signal("-HUP");
    let last = watcher.publishes().await;
    assert_eq!(last["replaces_seq"], others_seq);
    assert!(seq(&last) > others_seq);

    watcher.signal("-TERM");
    watcher.says("stopped").await;
    assert!(watcher.program.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_zone_is_published_by_relays_alone_where_udp_is_blocked() {
    let directory = Directory::new();
    let dht = TestDht::start(10).await;
    let relay = pkarr_relay::Relay::run_test(&dht.testnet.bootstrap)
        .await
        .unwrap();
    let url = format!("http://127.0.0.1:{}", relay.relay_address().port());
    write_key(&directory, 23);
    write_zone(&directory, "@ A 192.0.2.1\n");
    let mut watcher = Watcher::start_with(&directory, &["--no-dht", "--relay", &url]);
    let first = watcher.publishes().await;
    assert_eq!(first["relays"][0]["published"], true, "{first}");
    assert_eq!(first["stored"], Value::Null);

    write_zone(&directory, "@ A 192.0.2.2\n");
    let second = watcher.publishes().await;
    assert_eq!(second["replaces_seq"], first["seq"]);
    assert_eq!(second["relays"][0]["published"], true, "{second}");
    relay.shutdown();
    watcher.signal("-HUP");
    watcher.says("so nothing was published").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_are_not_known_are_not_published() {
    let directory = Directory::new();
    let dht = TestDht::start(10).await;
    write_key(&directory, 22);
    write_zone(&directory, "@ A $IPV4\nwww AAAA $IPV6\n");
    // The nodes see 127.0.0.1, which is no public address, and this machine may have none.
    let shown = publish(&directory, &dht, &["--dry-run"]).await.expect(0);
    if shown
        .errors
        .contains("the IPv4 address of $IPV4 is not known")
    {
        let ended = publish(&directory, &dht, &[]).await.expect(3);
        assert!(ended.errors.contains("--interface"), "{}", ended.errors);
    }
    let server = Running::start(dht.config());
    let seen = async || server.dht.public_address().await == Some(Ipv4Addr::LOCALHOST);
    until("the nodes say where they see us", seen).await;
    // Of an interface it is known.
    let done = publish(&directory, &dht, &["--interface", "lo", "--json"])
        .await
        .expect(0);
    assert_eq!(done.json()["records"][0]["data"], "127.0.0.1");
    let ended = publish(&directory, &dht, &["--interface", "nosuch0"])
        .await
        .expect(1);
    assert!(
        ended.errors.contains("nosuch0") && ended.errors.contains("lo"),
        "{}",
        ended.errors
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_publishers_never_overwrite_each_other_without_a_word() {
    use pkbridge::resolve::PublishError;

    let dht = TestDht::start(10).await;
    let server = Running::start(dht.config());
    server.dht.becomes(true).await;
    let secret = secret(16);
    let key = key_of(&secret);
    let packet = |seq: u64| {
        let address = RData::A(A::from(Ipv4Addr::from(u32::try_from(seq).unwrap())));
        sign(&secret, seq, vec![(below(key, ""), 60, address)])
    };
    // Both have found nothing; the first wins.
    server.dht.publish(&packet(10), None).await.unwrap();
    let late = server.dht.publish(&packet(11), None).await;
    assert_eq!(late, Err(PublishError::Overtaken { seq: 10 }));
    // Both have found the packet of 10.
    server.dht.publish(&packet(20), Some(10)).await.unwrap();
    for seq in [21, 19] {
        let late = server.dht.publish(&packet(seq), Some(10)).await;
        assert_eq!(late, Err(PublishError::Overtaken { seq: 20 }), "{seq}");
    }
    let newest = server.dht.newest(key).await.unwrap().unwrap();
    assert_eq!(newest.seq(), 20);
    // Most nodes hold one older than the newest that was found: they refuse the comparison, and nobody is
    // overwritten.
    let done = server.dht.publish(&packet(40), Some(30)).await.unwrap();
    assert!(
        done.holders.newest >= 5 && done.holders.older == 0,
        "{done:?}"
    );
    let newest = server.dht.newest(key).await.unwrap().unwrap();
    assert_eq!(newest.seq(), 40);
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
        .collect()
}
