use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::hosts::{MAX_LEN, MAX_NAMES, Skipped};
use super::*;
use crate::resolve::answers::{Answer, AnswerCache, Question};
use crate::resolve::failure::Failure;

fn name(text: &str) -> Name {
    fqdn(Name::from_ascii(text).unwrap())
}

fn wire(text: &str) -> Vec<u8> {
    wire::name_bytes(&name(text))
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn read(text: impl AsRef<[u8]>) -> (Hosts, Skipped) {
    Hosts::read(text.as_ref(), |_| true).unwrap()
}

/// A file of its own for a test; goes with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(text: &str) -> Self {
        let name = format!("pkbridge-hosts-{:x}", rand::random::<u64>());
        let scratch = Self(std::env::temp_dir().join(name));
        scratch.write(text);
        scratch
    }

    fn write(&self, text: &str) {
        fs::write(&self.0, text).unwrap();
    }

    fn records(&self) -> LocalRecords {
        LocalRecords::new(vec![], Some(self.0.clone()), Suffixes::default(), 60)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_hosts_file_is_read_as_hosts_5_says() {
    let (hosts, skipped) = read(
        "192.168.1.5\tNas.lan \t nas# the box\r\n\
         #192.168.1.9 nas.lan\n\
         \n   \n\
         fd00::5 nas.lan.\n\
         192.168.1.5 nas.lan\n\
         \x20 192.168.1.6   nas.lan other_1.lan",
    );
    assert_eq!(skipped, Skipped::default());
    let both = [ip("192.168.1.5"), ip("fd00::5"), ip("192.168.1.6")];
    assert_eq!(hosts.addresses(&wire("nas.lan")), both);
    assert_eq!(hosts.addresses(&wire("nas")), [ip("192.168.1.5")]);
    assert_eq!(hosts.addresses(&wire("other_1.lan")), [ip("192.168.1.6")]);
    for missing in ["lan", "as.lan", "nas.lan.lan", "as", "."] {
        assert!(hosts.addresses(&wire(missing)).is_empty(), "{missing}");
    }
    assert_eq!(hosts.name_of(ip("192.168.1.5")), Some(&*wire("nas.lan")));
    assert_eq!(hosts.name_of(ip("192.168.1.9")), None);
}

#[test]
fn what_is_no_line_of_a_hosts_file_is_counted_and_the_first_is_told() {
    let long = "x".repeat(64);
    let text = format!(
        "192.168.1.1 a.lan\nfe80::1%eth0 b.lan\nnonsense c.lan\n192.168.1.2\n\
         192.168.1.3 {long}.lan d.lan\n192.168.1.4 e\\.lan .lan e..lan \u{fc}.lan"
    );
    let (hosts, skipped) = read(&text);
    assert_eq!(skipped.count, 5);
    let (line, reason) = skipped.first.unwrap();
    assert_eq!(line, 2);
    assert!(reason.contains("scope"), "{reason}");
    assert_eq!(hosts.len(), 2);
    assert_eq!(hosts.addresses(&wire("d.lan")), [ip("192.168.1.3")]);
}

#[test]
fn a_block_list_of_many_names_is_packed_and_no_address_of_it_has_a_name() {
    let mut text = String::from("127.0.0.1 localhost\n");
    for number in 0..50_000 {
        text += &format!("0.0.0.0 ads-{number}.tracker.example\n");
    }
    let (hosts, skipped) = read(&text);
    assert_eq!(skipped.count, 0);
    assert_eq!(hosts.len(), 50_000);
    for number in [0, 1, 25_000, 49_999] {
        let name = wire(&format!("ads-{number}.tracker.example"));
        assert_eq!(hosts.addresses(&name), [ip("0.0.0.0")]);
    }
    assert!(
        hosts
            .addresses(&wire("ads-50000.tracker.example"))
            .is_empty()
    );
    assert_eq!(hosts.name_of(ip("0.0.0.0")), None);
    assert_eq!(hosts.name_of(ip("127.0.0.1")), None);
}

#[test]
fn a_file_is_read_up_to_its_limits() {
    let names = |count: usize| "0.0.0.0".to_owned() + &" a".repeat(count);
    let (hosts, skipped) = read(names(MAX_NAMES));
    assert_eq!((hosts.len(), skipped.count), (MAX_NAMES, 0));
    let (hosts, skipped) = read(names(MAX_NAMES + 1));
    assert_eq!((hosts.len(), skipped.count), (MAX_NAMES, 1));

    let mut long = b"192.168.1.1 first.lan\n".to_vec();
    let last = b"\n192.168.1.2 last.lan\n";
    long.resize(usize::try_from(MAX_LEN).unwrap() - last.len(), b'#');
    long.extend(last);
    let (hosts, skipped) = read(&long);
    assert_eq!((hosts.len(), skipped.count), (2, 0));
    long.insert(30, b'#');
    let (hosts, skipped) = read(&long);
    assert_eq!(skipped.first.unwrap().0, 3);
    // A line that is cut short is not half a name.
    assert_eq!(hosts.len(), 1);
}

#[test]
fn no_bytes_make_reading_panic() {
    let mut state = 1_u32;
    for round in 0..20_000_usize {
        let mut text = vec![0_u8; round % 60];
        for byte in &mut text {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let random = usize::try_from(state >> 24).unwrap();
            *byte = b"1.:a \n#%\xff\0-"[random % 11];
        }
        let (hosts, _) = read(&text);
        let _ = hosts.addresses(b"\x01a\0");
        let _ = hosts.name_of(ip("1.1.1.1"));
    }
}

#[test]
fn a_change_counts_when_two_looks_have_seen_the_same() {
    let file = Scratch::new("192.168.1.1 a.lan\n");
    let answers = AnswerCache::new(1 << 20);
    let records = file.records();
    let mut state = records.first.clone();
    let mut look = || {
        state = records.look(state.clone(), &answers);
        ["a.lan", "b.lan"].map(|text| records.has(&name(text)))
    };
    assert_eq!(look(), [true, false]);
    file.write("192.168.1.1 b.lan\n");
    assert_eq!(look(), [true, false]);
    assert_eq!(look(), [false, true]);
    // Gone for a moment.
    fs::remove_file(&file.0).unwrap();
    assert_eq!(look(), [false, true]);
    file.write("192.168.1.1 a.lan b.lan\n");
    assert_eq!(look(), [false, true]);
    assert_eq!(look(), [true, true]);
    // Gone.
    fs::remove_file(&file.0).unwrap();
    assert_eq!(look(), [true, true]);
    assert_eq!(look(), [false, false]);
    // In the way is what cannot be read: what there is stays.
    file.write("192.168.1.1 a.lan\n");
    assert_eq!((look(), look()), ([false, false], [true, false]));
    fs::remove_file(&file.0).unwrap();
    fs::create_dir(&file.0).unwrap();
    assert_eq!((look(), look()), ([true, false], [true, false]));
    fs::remove_dir(&file.0).unwrap();
    file.write("192.168.1.1 b.lan\n");
    assert_eq!((look(), look()), ([true, false], [false, true]));
}

#[test]
fn a_change_voids_answers_made_from_the_file_and_those_for_its_new_names() {
    let file = Scratch::new("192.168.1.1 a.lan\n");
    let answers = AnswerCache::new(1 << 20);
    let records = file.records();
    let (_, ended) = records.of(&name("a.lan")).unwrap();
    let cached = |text: &str| {
        let question = Question {
            name: name(text),
            rtype: RecordType::A,
            dnssec_ok: false,
            checking_disabled: false,
        };
        let key = question.cache_key();
        let answer = Answer::failure(&question, &Failure::Internal, Duration::from_secs(60));
        (key, answer)
    };
    let is_cached = |text: &str| answers.get(&cached(text).0, Instant::now()).is_some();
    for text in ["b.lan", "c.lan"] {
        let (key, answer) = cached(text);
        answers.take_in(key, answer, Duration::ZERO);
    }
    file.write("192.168.1.1 b.lan\n");
    let state = records.look(records.first.clone(), &answers);
    assert!(!ended.load(Ordering::Relaxed));
    let state = records.look(state, &answers);
    assert!(ended.load(Ordering::Relaxed));
    assert!(!is_cached("b.lan"));
    assert!(is_cached("c.lan"));
    // One that was on its way into the cache goes at the next look.
    let (key, answer) = cached("b.lan");
    answers.take_in(key, answer, Duration::ZERO);
    records.look(state, &answers);
    assert!(!is_cached("b.lan"));
}
