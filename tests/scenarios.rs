//! Scenarios: whole exchanges as data. The files in `tests/scenarios/` say in order what the DHT and the
//! upstream hold, what arrives, and what must leave, on a clock that stands still.
//!
//! A line that starts with `#` is a comment. `scenario NAME` starts one, named for the rule it holds; it
//! has a service of its own. Its other lines are steps; indented lines belong to the step above.
//!
//! - `config KEY = VALUE`: a line of a configuration file, before all other steps.
//! - `at SECONDS`: the clock goes on to that time since the scenario's start. After each step, of whatever
//!   kind, what is under way goes on as far as it can while the clock stands.
//! - `dht @KEY1 seq=SECONDS [after=TIME] [lasts=TIME]`: from now on the DHT holds a packet with the
//!   indented records for that key. A lookup finds it `after` that time and `lasts` until its end, which
//!   is the same if it is not said. A time is in seconds, or such as `2ms`. Or `dht @KEY1` and one of
//!   `absent`, `fails` (too few nodes answer), `not-ready`, `invalid=SECONDS` (a signed item that is no
//!   packet).
//! - `then @KEY1 seq=SECONDS [after=TIME]`, or with `invalid=SECONDS`: the same lookups find that one
//!   next, so long after their start. It stands below the `dht` step of its key.
//! - `upstream NAME TYPE [do] [cd] [after=TIME] RCODE [FLAGS]`: from now on the upstream answers that
//!   question with the indented records and `ede CODE TEXT`; or `fails` in place of an RCODE. A script
//!   with `do` or `cd` is for such questions alone.
//! - `ask NAME TYPE [WORDS]`: a query arrives, with RD, and with an OPT that says 1232 bytes, unless the
//!   words say otherwise: `no-rd`, `no-opt`, `ad`, `cd`, `do`, `qr`, `z`, `class=N`, `opcode=N`, `count=N`
//!   (questions), `size=N`, `version=N`, `option=CODE:HEX`, `tcp`, `from=ADDRESS:PORT` (127.0.0.1:5300
//!   else). Or `ask raw HEX [WORDS]`: those bytes.
//! - `reply RCODE [FLAGS]`: what leaves, all of it: flags AA TC RD RA Z AD CD, and the indented lines in any
//!   order, which are the records of the sections, `ede CODE [PART OF THE TEXT]`, and `option CODE [HEX]`
//!   for other EDNS options. QR, the ID, the opcode, the question in the client's spelling, an OPT with
//!   1232 bytes and the client's DO bit if and only if the query had an OPT, and the size limit are always
//!   checked; what deviates is a line too, such as `no opt` or `no question`. Or `silence`.
//! - `asked dht N upstream N`: how often each was asked since the start. Being asked what has no script is
//!   a failure.
//!
//! A record is `[SECTION] OWNER TTL [CH] TYPE DATA`; without a section (in packets alone) it is an answer.
//! Owners in packets and upstreams' answers may be relative to the key or the question's name, which is `@`.
//! Data is written as in zone files, with full names, or as `\# LENGTH HEX`; a word like `x*200` is 200
//! times `x`. `@KEY1` to `@KEY9` stand for keys, `@UPPER1` for the same in upper case.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by a panic"
)]

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::NULL;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use pkbridge::config::{self, Config, SearchDomains};
use pkbridge::pkarr::{PublicKey, SignedPacket, SigningKey, Suffixes};
use pkbridge::resolve::{
    AnswerCache, Ending, Failure, FetchPacket, Forward, HoldTimes, Holders, LocalRecord,
    LocalRecords, Names, Packets, Question, RebindingGuard, Resolver, Response, Reuse, See,
    Sighting, Ttls, Wanted,
};
use pkbridge::serve::{AuthenticData, ServeSettings, Service, Transport};
use pkbridge::wire::{self, Header, Layout, flags};
use tokio::time::{Instant, sleep_until};

/// The bits of the header, in the order in which they are written.
const FLAGS: [(&str, u16); 7] = [
    ("AA", flags::AA),
    ("TC", flags::TC),
    ("RD", flags::RD),
    ("RA", flags::RA),
    ("Z", 0x40),
    ("AD", flags::AD),
    ("CD", flags::CD),
];
const SECTIONS: [&str; 3] = ["answer", "authority", "additional"];
/// How often what is under way is let go on; a lookup needs a few turns from its question to its end.
const TURNS: usize = 32;
/// The TTL of local records, as the server gives it.
const LOCAL_TTL: u32 = 60;
/// The words of a query.
const QUERY_WORDS: &str =
    "no-rd no-opt ad cd do qr z class opcode count size version option tcp from";
const OPT: u16 = 41;

type Outcome<T> = Result<T, String>;
/// What an upstream says.
type Said = Result<Response, Failure>;

/// What a lookup in the DHT sees, each after so long, and how it ends.
#[derive(Debug, Clone)]
struct DhtLookup {
    sightings: Vec<(Duration, Sighting)>,
    lasts: Duration,
    ending: Ending,
}

/// The keys, each with its number.
static KEYS: LazyLock<Vec<(u8, SigningKey, PublicKey)>> = LazyLock::new(|| {
    let key = |number| {
        let secret = SigningKey::from_bytes(&[number; 32]);
        let key = PublicKey::from_bytes(&secret.verifying_key().to_bytes()).unwrap();
        (number, secret, key)
    };
    (1..=9).map(key).collect()
});

/// Replaces placeholders by keys, or keys by placeholders.
fn map_keys(text: &str, to_keys: bool) -> String {
    KEYS.iter().fold(text.to_owned(), |text, (number, _, key)| {
        let (lower, upper) = (format!("@KEY{number}"), format!("@UPPER{number}"));
        let z32 = key.to_string();
        let upper_z32 = z32.to_ascii_uppercase();
        if to_keys {
            text.replace(&lower, &z32).replace(&upper, &upper_z32)
        } else {
            text.replace(&z32, &lower).replace(&upper_z32, &upper)
        }
    })
}

/// What the DHT and the upstream hold, and how often they were asked.
#[derive(Debug, Default)]
struct World {
    dht: Mutex<HashMap<PublicKey, DhtLookup>>,
    upstream: Mutex<HashMap<String, (Duration, Said)>>,
    fetches: AtomicUsize,
    forwards: AtomicUsize,
    /// What was asked for without a script.
    surprises: Mutex<Vec<String>>,
}

impl FetchPacket for World {
    fn fetch<'a>(&'a self, wanted: Wanted, see: &'a mut See<'_>) -> BoxFuture<'a, Ending> {
        Box::pin(async move {
            self.fetches.fetch_add(1, Ordering::Relaxed);
            let start = Instant::now();
            let script = self.dht.lock().unwrap().get(&wanted.key).cloned();
            let Some(script) = script else {
                self.be_surprised(format!("the DHT was asked for {}", wanted.key));
                return Ending::Complete(Holders::default());
            };
            for (after, sighting) in script.sightings {
                until(start + after).await;
                see(sighting);
            }
            until(start + script.lasts).await;
            script.ending
        })
    }
}

impl Forward for World {
    fn forward<'a>(&'a self, asked: &'a Question) -> BoxFuture<'a, Said> {
        Box::pin(async move {
            self.forwards.fetch_add(1, Ordering::Relaxed);
            let plain = format!("{} {}", asked.name.to_ascii(), type_name(asked.rtype));
            let dnssec_ok = if asked.dnssec_ok { " do" } else { "" };
            let unchecked = if asked.checking_disabled { " cd" } else { "" };
            let exact = format!("{plain}{dnssec_ok}{unchecked}");
            let scripts = self.upstream.lock().unwrap().clone();
            let script = scripts.get(&exact).or_else(|| scripts.get(&plain));
            let Some((delay, said)) = script.cloned() else {
                self.be_surprised(format!("the upstream was asked {exact}"));
                return Err(Failure::NoUpstream);
            };
            until(Instant::now() + delay).await;
            said
        })
    }
}

impl World {
    fn be_surprised(&self, surprise: String) {
        self.surprises.lock().unwrap().push(surprise);
    }
}

/// Waits; a time that has come takes no turn of the clock.
async fn until(time: Instant) {
    if time > Instant::now() {
        sleep_until(time).await;
    }
}

/// A line and its number.
type Line = (usize, String);

#[derive(Debug)]
struct Step {
    head: Line,
    body: Vec<Line>,
}

#[derive(Debug)]
struct Scenario {
    name: Line,
    steps: Vec<Step>,
}

fn read(text: &str) -> Vec<Scenario> {
    let mut scenarios: Vec<Scenario> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let text = map_keys(line.trim(), true);
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let head = (index + 1, text);
        if let Some(name) = head.1.strip_prefix("scenario ") {
            let name = (head.0, name.to_owned());
            let steps = Vec::new();
            scenarios.push(Scenario { name, steps });
            continue;
        }
        let steps = &mut scenarios.last_mut().expect("no scenario yet").steps;
        if line.starts_with(' ') {
            steps.last_mut().expect("no step yet").body.push(head);
        } else {
            let body = Vec::new();
            steps.push(Step { head, body });
        }
    }
    scenarios
}

fn number<T: std::str::FromStr>(text: &str) -> Outcome<T> {
    text.parse().map_err(|_| format!("bad number: {text}"))
}

/// The value of a word such as `size=512`.
fn value<T: std::str::FromStr>(words: &[&str], key: &str) -> Outcome<Option<T>> {
    let value = |word: &&str| number(word.strip_prefix(key)?.strip_prefix('=')?).into();
    words.iter().find_map(value).transpose()
}

/// The time that a word such as `after=3` or `after=2ms` says; none if there is no such word.
fn time(words: &[&str], key: &str) -> Outcome<Duration> {
    let text: String = value(words, key)?.unwrap_or("0".to_owned());
    match text.strip_suffix("ms") {
        Some(milliseconds) => number(milliseconds).map(Duration::from_millis),
        None => number(&text).map(Duration::from_secs),
    }
}

/// The first part of each word, such as `after` of `after=3`, is to be one of these.
fn are_known(words: &[&str], known: &str) -> Outcome<()> {
    let key = |word: &&str| word.split('=').next().unwrap_or_default().to_owned();
    let is_known = |key: &String| known.split(' ').any(|known| known == key);
    match words.iter().map(key).find(|key| !is_known(key)) {
        Some(word) => Err(format!("unknown word: {word}")),
        None => Ok(()),
    }
}

fn unhex(text: &str) -> Outcome<Vec<u8>> {
    let digits = |at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    let bytes: Option<_> = (0..text.len()).step_by(2).map(digits).collect();
    bytes.ok_or_else(|| format!("bad hexadecimal digits: {text}"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn type_of(text: &str) -> Outcome<RecordType> {
    let number = text
        .strip_prefix("TYPE")
        .and_then(|n| n.parse::<u16>().ok());
    let known = || text.parse().map_err(|_| format!("no type: {text}"));
    number.map_or_else(known, |number| Ok(number.into()))
}

fn type_name(rtype: RecordType) -> String {
    match rtype {
        RecordType::Unknown(number) => format!("TYPE{number}"),
        known => known.to_string(),
    }
}

/// Such as `NXDOMAIN`. BADSIG has the number of BADVERS, and is in no message without TSIG.
fn rcode_name(rcode: ResponseCode) -> String {
    let name = format!("{rcode:?}").to_ascii_uppercase();
    name.replace("BADSIG", "BADVERS")
}

fn flags_of(words: &[&str]) -> Outcome<u16> {
    words.iter().try_fold(0, |bits, word| {
        let flag = FLAGS.iter().find(|(name, _)| name == word);
        let (_, bit) = flag.ok_or_else(|| format!("no flag: {word}"))?;
        Ok(bits | bit)
    })
}

fn flag_names(bits: u16) -> String {
    let set = FLAGS.iter().filter(|(_, bit)| bits & bit != 0);
    set.map(|(name, _)| format!(" {name}")).collect()
}

fn name_of(text: &str, origin: &str) -> Outcome<Name> {
    let text = match text {
        "@" => origin.to_owned(),
        full if full.ends_with('.') => full.to_owned(),
        relative => format!("{relative}.{origin}"),
    };
    Name::from_ascii(&text).map_err(|error| format!("{text}: {error}"))
}

fn data_of(rtype: RecordType, words: &[&str]) -> Outcome<RData> {
    let opaque = |bytes: Vec<u8>| {
        // `NULL::with` panics if there are none.
        let mut rdata = NULL::new();
        rdata.anything = bytes;
        RData::Unknown { code: rtype, rdata }
    };
    match words {
        ["\\#", length, digits @ ..] => {
            let bytes = unhex(&digits.concat())?;
            let fits = bytes.len() == number::<usize>(length)?;
            fits.then(|| opaque(bytes))
                .ok_or("another length".to_owned())
        }
        // hickory does not know it.
        [target] if rtype == RecordType::DNAME => {
            Ok(opaque(wire::name_bytes(&name_of(target, ".")?)))
        }
        _ => {
            let repeated = |word: &&str| match word.split_once('*') {
                Some((letter, count)) if count.parse::<usize>().is_ok() => {
                    letter.repeat(count.parse().unwrap())
                }
                _ => (*word).to_owned(),
            };
            let text: Vec<String> = words.iter().map(repeated).collect();
            RData::try_from_str(rtype, &text.join(" ")).map_err(|error| error.to_string())
        }
    }
}

fn record_of(text: &str, origin: &str) -> Outcome<(usize, Record)> {
    let mut words: Vec<&str> = text.split_whitespace().collect();
    let section = SECTIONS.iter().position(|section| *section == words[0]);
    words.drain(..usize::from(section.is_some()));
    let chaos = words.get(2) == Some(&"CH");
    if chaos {
        words.remove(2);
    }
    let [owner, ttl, rtype, data @ ..] = words.as_slice() else {
        return Err(format!("no record: {text}"));
    };
    let data = data_of(type_of(rtype)?, data).map_err(|error| format!("{text}: {error}"))?;
    let mut record = Record::from_rdata(name_of(owner, origin)?, number(ttl)?, data);
    record.dns_class = if chaos { DNSClass::CH } else { DNSClass::IN };
    Ok((section.unwrap_or(0), record))
}

fn show(section: usize, record: &Record) -> String {
    let (section, owner) = (SECTIONS[section], record.name.to_ascii());
    let class = if record.dns_class == DNSClass::IN {
        ""
    } else {
        "CH "
    };
    let rtype = type_name(record.record_type());
    let data = match &record.data {
        RData::Unknown { rdata, .. } if !rdata.anything.is_empty() => {
            format!("\\# {} {}", rdata.anything.len(), hex(&rdata.anything))
        }
        RData::Unknown { .. } | RData::Update0(_) => "\\# 0".to_owned(),
        known => known.to_string(),
    };
    format!("{section} {owner} {} {class}{rtype} {data}", record.ttl)
}

/// A reply with these records.
fn message(asked: Option<Query>, records: &[Line], origin: &str) -> Outcome<Vec<u8>> {
    let mut message = Message::response(0, OpCode::Query);
    message.add_queries(asked);
    for (line, text) in records {
        let (section, record) = record_of(text, origin).map_err(|e| format!("line {line}: {e}"))?;
        match section {
            0 => message.add_answer(record),
            1 => message.add_authority(record),
            _ => message.add_additional(record),
        };
    }
    message.to_vec().map_err(|error| error.to_string())
}

fn option(code: u16, parts: &[&[u8]]) -> Vec<u8> {
    let data = parts.concat();
    [
        &code.to_be_bytes()[..],
        &(data.len() as u16).to_be_bytes(),
        &data,
    ]
    .concat()
}

fn opt(size: u16, ttl: [u8; 4], options: &[u8]) -> Vec<u8> {
    let mut opt = vec![0, 0, 41];
    opt.extend(size.to_be_bytes());
    opt.extend(ttl);
    opt.extend((options.len() as u16).to_be_bytes());
    opt.extend(options);
    opt
}

fn query(words: &[&str]) -> Outcome<Vec<u8>> {
    let [name, rtype, words @ ..] = words else {
        return Err("a name and a type are missing".to_owned());
    };
    are_known(words, QUERY_WORDS)?;
    if *name == "raw" {
        return unhex(rtype);
    }
    let bit = |word: &str, bit: u16| if words.contains(&word) { bit } else { 0 };
    let word = value(words, "opcode")?.unwrap_or(0) << 11
        | (flags::RD ^ bit("no-rd", flags::RD))
        | bit("ad", flags::AD)
        | bit("cd", flags::CD)
        | bit("qr", flags::QR)
        | bit("z", 0x40);
    let count: u16 = value(words, "count")?.unwrap_or(1);
    let mut bytes = Vec::new();
    for number in [0xbeef, word, count, 0, 0, 1 - bit("no-opt", 1)] {
        bytes.extend(number.to_be_bytes());
    }
    for _ in 0..count {
        bytes.extend(wire::name_bytes(&name_of(name, ".")?));
        bytes.extend(u16::from(type_of(rtype)?).to_be_bytes());
        bytes.extend(
            value(words, "class")?
                .unwrap_or(wire::CLASS_IN)
                .to_be_bytes(),
        );
    }
    if !words.contains(&"no-opt") {
        let mut options = Vec::new();
        for text in words.iter().filter_map(|word| word.strip_prefix("option=")) {
            let (code, data) = text.split_once(':').ok_or("an option is CODE:HEX")?;
            options.extend(option(number(code)?, &[&unhex(data)?]));
        }
        let [dnssec_ok, _] = bit("do", 0x8000).to_be_bytes();
        let ttl = [0, value(words, "version")?.unwrap_or(0), dnssec_ok, 0];
        bytes.extend(opt(value(words, "size")?.unwrap_or(1232), ttl, &options));
    }
    Ok(bytes)
}

/// What left, as lines; see the top.
fn describe(query: &[u8], transport: Transport, reply: Option<&[u8]>) -> Vec<String> {
    let Some(reply) = reply else {
        return vec!["silence".to_owned()];
    };
    let Ok(layout) = Layout::read(reply) else {
        return vec![format!("malformed: {}", hex(reply))];
    };
    let opt_of = |layout: &Layout| layout.records.iter().find(|r| r.rtype == OPT).cloned();
    let asked = Header::read(query).unwrap();
    let asked_opt = Layout::read(query).ok().as_ref().and_then(opt_of);
    let opt = opt_of(&layout);
    let question = Some(&reply[wire::HEADER_LEN..layout.question_end]);
    let echo = wire::plain_question(query).map(|range| &query[range]);
    let header = layout.header;
    let high = opt.as_ref().map_or(0, |opt| opt.ttl >> 24) as u16;
    let rcode = rcode_name((high << 4 | header.flags & flags::RCODE).into());
    let size = asked_opt
        .as_ref()
        .map_or(512, |opt| opt.class.clamp(512, 1232));
    let limit = if transport == Transport::Udp {
        size
    } else {
        u16::MAX
    };
    // Version, flags and size.
    let form = opt.as_ref().map(|opt| (opt.ttl & 0xff_ffff, opt.class));
    let right = asked_opt.as_ref().map(|opt| (opt.ttl & 0x8000, 1232));
    let deviations = [
        (header.id != asked.id, "another ID"),
        (!header.has(flags::QR), "no response"),
        (header.opcode() != asked.opcode(), "another opcode"),
        (header.counts[0] == 0, "no question"),
        (
            header.counts[0] != 0 && question != echo,
            "another question",
        ),
        (opt.is_some() && asked_opt.is_none(), "opt"),
        (opt.is_none() && asked_opt.is_some(), "no opt"),
        (
            opt.is_some() && asked_opt.is_some() && form != right,
            "another version, DO or size",
        ),
        (layout.end != reply.len(), "bytes behind the records"),
        (reply.len() > limit.into(), "over the size limit"),
    ];
    let mut lines = vec![format!("{rcode}{}", flag_names(header.flags))];
    let deviations = deviations.iter().filter(|(is_so, _)| *is_so);
    lines.extend(deviations.map(|(_, what)| (*what).to_owned()));
    for at in layout.records.iter().filter(|record| record.rtype != OPT) {
        let mut decoder = BinDecoder::new(reply).clone(at.start as u16);
        lines.push(match Record::read(&mut decoder) {
            Ok(record) => show(at.section as usize, &record),
            Err(error) => format!("malformed: {error}"),
        });
    }
    let mut options = opt.map_or(&[][..], |opt| &reply[opt.rdata]);
    while let [c0, c1, l0, l1, rest @ ..] = options {
        let (code, length) = (
            u16::from_be_bytes([*c0, *c1]),
            u16::from_be_bytes([*l0, *l1]),
        );
        let (data, rest) = rest.split_at(length.into());
        options = rest;
        lines.push(if code == wire::OPTION_EDE {
            let (code, text) = data.split_at(2);
            let code = u16::from_be_bytes([code[0], code[1]]);
            format!("ede {code} {}", String::from_utf8_lossy(text))
        } else {
            format!("option {code} {}", hex(data))
        });
    }
    lines
}

/// Compares lines in any order, and tells which are missing and which nobody expected.
fn compare(expected: &[String], mut got: Vec<String>) -> Outcome<()> {
    let mut wrong = String::new();
    for line in expected {
        // Of an Extended DNS Error or an option, the data may be left out, or given in part.
        let words: Vec<&str> = line.splitn(3, ' ').collect();
        let is_loose = ["ede", "option"].contains(&words[0]);
        let found = got.iter().position(|got| {
            let parts: Vec<&str> = got.splitn(3, ' ').collect();
            let part = words.get(2).unwrap_or(&"");
            got == line || is_loose && parts[..2] == words[..2] && parts[2].contains(part)
        });
        match found {
            Some(at) => drop(got.remove(at)),
            None => wrong += &format!("\n    expected  {line}"),
        }
    }
    let unexpected = got.iter().map(|line| format!("\n    got       {line}"));
    wrong.extend(unexpected);
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

/// A service with this configuration, as the server makes it.
fn service(config: &Config, world: &Arc<World>) -> Outcome<Service> {
    let cache = &config.cache;
    let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap();
    let times = HoldTimes {
        min: config.dht.packet_min_ttl.max(cache.min_ttl),
        max: cache.max_ttl,
        empty: cache.negative_ttl,
        failure: cache.failure_ttl,
        max_stale: cache.max_stale,
        stale_wait: cache.stale_wait,
    };
    let local_record = |record: &config::LocalRecord| LocalRecord {
        name: name_of(&format!("{}.", record.name), ".").unwrap(),
        rtype: record.rtype,
        rdata: record.rdata.clone(),
    };
    let allow = config.rebinding.allow.iter();
    let names = Names {
        suffixes: Suffixes::new(&config.names.suffixes),
        answer_search_domains: config.names.search_domains == SearchDomains::Answer,
        synthesise_addresses: config.names.synthesise_addresses,
        special_use: config.names.special_use,
        follow_delegations: config.delegation.follow,
        private_name_servers: config.delegation.allow_private,
        local: Arc::new(LocalRecords::new(
            config.records.iter().map(local_record).collect(),
            None,
            Suffixes::new(&config.names.suffixes),
            LOCAL_TTL,
        )),
        rebinding: Arc::new(RebindingGuard::new(
            config.rebinding.guard == config::RebindingGuard::On,
            allow.map(|text| Name::from_ascii(text).unwrap()).collect(),
        )),
    };
    let ttls = Ttls {
        min: seconds(cache.min_ttl),
        max: seconds(cache.max_ttl),
        negative: seconds(cache.negative_ttl),
        failure: seconds(cache.failure_ttl),
    };
    let packets = Packets::new(world.clone(), None, 1 << 20, times);
    let cache = AnswerCache::new(1 << 20).with_reuse(Reuse {
        max_stale: cache.max_stale,
        stale_wait: cache.stale_wait,
        prefetch: cache.prefetch,
        nxdomain_cut: cache.nxdomain_cut,
    });
    let resolver = Resolver::new(names, packets, world.clone(), ttls, cache);
    let settings = ServeSettings {
        allow: config.access.allow.clone(),
        authentic_data: match config.access.authentic_data {
            config::AuthenticData::Never => AuthenticData::Never,
            config::AuthenticData::Loopback => AuthenticData::Loopback,
            config::AuthenticData::Always => AuthenticData::Always,
        },
        nsid: config.listen.nsid.clone(),
    };
    Service::new(settings, resolver)
}

/// A scenario under way.
struct Run {
    world: Arc<World>,
    service: Service,
    start: Instant,
    /// What left and has not been looked at.
    left: Option<Vec<String>>,
}

impl Run {
    async fn step(&mut self, step: &Step) -> Outcome<()> {
        let words: Vec<&str> = step.head.1.split_whitespace().collect();
        let may_have_body = ["dht", "then", "upstream", "reply"].contains(&words[0]);
        if !may_have_body && !step.body.is_empty() {
            return Err("nothing may be indented below this".to_owned());
        }
        let left = self.left.take();
        if let ["reply", ..] | ["silence"] = words.as_slice() {
            return compare(
                &expected(&words, &step.body)?,
                left.ok_or("nothing was asked")?,
            );
        }
        if left.is_some() {
            return Err("what left before was not looked at".to_owned());
        }
        match words.as_slice() {
            ["at", seconds] => {
                let then = self.start + Duration::from_secs(number(seconds)?);
                if then < Instant::now() {
                    return Err("that is over".to_owned());
                }
                // What is under way goes on meanwhile.
                until(then).await;
                Ok(())
            }
            ["dht", key, words @ ..] => self.publish(key, words, &step.body),
            ["then", key, words @ ..] => self.publish_next(key, words, &step.body),
            ["upstream", name, rtype, words @ ..] => self.script(name, rtype, words, &step.body),
            ["ask", words @ ..] => self.ask(words).await,
            ["asked", "dht", dht, "upstream", upstream] => {
                let expected = (number(dht)?, number(upstream)?);
                let World {
                    fetches, forwards, ..
                } = &*self.world;
                let asked = (
                    fetches.load(Ordering::Relaxed),
                    forwards.load(Ordering::Relaxed),
                );
                let text = || format!("asked were dht {} upstream {}", asked.0, asked.1);
                (asked == expected).then_some(()).ok_or_else(text)
            }
            _ => Err("no such step".to_owned()),
        }
    }

    fn publish(&self, label: &str, words: &[&str], body: &[Line]) -> Outcome<()> {
        are_known(words, "seq after lasts absent fails not-ready invalid")?;
        let after = time(words, "after")?;
        let lasts = time(words, "lasts")?.max(after);
        let has = |word| words.contains(&word);
        let found = sighting(label, words, body)?;
        let ending = match &found {
            Some(_) => Ending::Complete(Holders::default()),
            None if has("absent") => Ending::Complete(Holders::default()),
            None if has("fails") => Ending::Poor,
            None if has("not-ready") => Ending::Failed(Failure::DhtNotReady),
            None => return Err("what does the DHT hold?".to_owned()),
        };
        let lookup = DhtLookup {
            sightings: found.map(|found| (after, found)).into_iter().collect(),
            lasts,
            ending,
        };
        let mut dht = self.world.dht.lock().unwrap();
        dht.insert(key_of(label)?.2, lookup);
        Ok(())
    }

    fn publish_next(&self, label: &str, words: &[&str], body: &[Line]) -> Outcome<()> {
        are_known(words, "seq after invalid")?;
        let after = time(words, "after")?;
        let found = sighting(label, words, body)?.ok_or("what is found next?")?;
        let mut dht = self.world.dht.lock().unwrap();
        let lookup = dht.get_mut(&key_of(label)?.2);
        let lookup = lookup.ok_or("what is found first?")?;
        let (before, _) = lookup.sightings.last().ok_or("what is found first?")?;
        if after < *before {
            return Err("the one before it is found later".to_owned());
        }
        lookup.sightings.push((after, found));
        lookup.lasts = lookup.lasts.max(after);
        Ok(())
    }

    fn script(&self, name: &str, rtype: &str, words: &[&str], body: &[Line]) -> Outcome<()> {
        let delay = time(words, "after")?;
        let mut script = format!("{name} {rtype}");
        let mut words = words
            .iter()
            .copied()
            .filter(|word| !word.contains('='))
            .peekable();
        while let Some(bit) = words.next_if(|word| ["do", "cd"].contains(word)) {
            script = format!("{script} {bit}");
        }
        let outcome = words.next().ok_or("what does the upstream say?")?;
        let said = if outcome == "fails" {
            Err(Failure::Upstream("it is silent".to_owned()))
        } else {
            let is_meant = |rcode: &u16| rcode_name((*rcode).into()) == outcome;
            let rcode = (0..256)
                .find(is_meant)
                .ok_or_else(|| format!("no RCODE: {outcome}"))?;
            let set = flags_of(&words.collect::<Vec<_>>())? | (rcode & flags::RCODE);
            let (edes, records): (Vec<_>, Vec<_>) = body
                .iter()
                .cloned()
                .partition(|(_, text)| text.starts_with("ede "));
            let asked = Query::query(name_of(name, ".")?, type_of(rtype)?);
            let mut bytes = message(Some(asked), &records, name)?;
            let mut options = Vec::new();
            for (_, text) in edes {
                let (code, text) = text[4..].split_once(' ').ok_or("an EDE without text")?;
                let code = number::<u16>(code)?.to_be_bytes();
                options.extend(option(wire::OPTION_EDE, &[&code, text.as_bytes()]));
            }
            let word = flags::QR | flags::RD | flags::RA | set;
            wire::write_at(&mut bytes, 2, &word.to_be_bytes());
            let additionals = wire::read_u16(&bytes, 10).unwrap() + 1;
            wire::write_at(&mut bytes, 10, &additionals.to_be_bytes());
            bytes.extend(opt(1232, [(rcode >> 4) as u8, 0, 0, 0], &options));
            let response = Response::from_message(bytes).ok_or("malformed")?;
            Ok(response.for_clients(true))
        };
        self.world
            .upstream
            .lock()
            .unwrap()
            .insert(script, (delay, said));
        Ok(())
    }

    async fn ask(&mut self, words: &[&str]) -> Outcome<()> {
        let query = query(words)?;
        let client = SocketAddr::from((Ipv4Addr::LOCALHOST, 5300));
        let client = value(words, "from")?.unwrap_or(client);
        let tcp = words.contains(&"tcp");
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        let reply = self.service.respond(&query, client, transport).await;
        self.left = Some(describe(&query, transport, reply.as_deref()));
        Ok(())
    }

    /// Lets what is under way go on as far as it can while the clock stands, and tells what was asked
    /// for without a script.
    async fn settle(&self) -> Outcome<()> {
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
        }
        let surprises = std::mem::take(&mut *self.world.surprises.lock().unwrap());
        if surprises.is_empty() {
            Ok(())
        } else {
            Err(surprises.join(", "))
        }
    }
}

/// The key that stands in for `@KEY1` to `@KEY9`, with its number and its secret.
fn key_of(label: &str) -> Outcome<&'static (u8, SigningKey, PublicKey)> {
    let found = KEYS.iter().find(|(_, _, key)| key.to_string() == label);
    found.ok_or_else(|| "a key is @KEY1 to @KEY9".to_owned())
}

/// The packet that `seq=` and the records below it tell, or the item that `invalid=` tells.
fn sighting(label: &str, words: &[&str], body: &[Line]) -> Outcome<Option<Sighting>> {
    let (_, secret, _) = key_of(label)?;
    let micros = |seconds: u64| seconds * 1_000_000;
    if let Some(seq) = value(words, "seq")?.map(micros) {
        let dns = message(None, body, &format!("{label}."))?;
        let packet = SignedPacket::sign(secret, seq, &dns);
        let packet = packet.map_err(|error| error.to_string())?;
        return Ok(Some(Sighting::Packet(packet)));
    }
    if !body.is_empty() {
        return Err("records need a seq".to_owned());
    }
    let invalid = value(words, "invalid")?.map(micros);
    let reason = "the signed bytes are no DNS message".to_owned();
    Ok(invalid.map(|seq| Sighting::Invalid { seq, reason }))
}

fn expected(words: &[&str], body: &[Line]) -> Outcome<Vec<String>> {
    let ["reply", rcode, set @ ..] = words else {
        return Ok(vec![words.join(" ")]);
    };
    let mut expected = vec![format!("{rcode}{}", flag_names(flags_of(set)?))];
    for (line, text) in body {
        let first = text.split(' ').next().unwrap_or_default();
        expected.push(if SECTIONS.contains(&first) {
            let record = record_of(text, ".").map_err(|error| format!("line {line}: {error}"))?;
            show(record.0, &record.1)
        } else {
            text.clone()
        });
    }
    Ok(expected)
}

/// Runs a scenario and returns what went wrong, each with the number of its line.
async fn run(scenario: &Scenario) -> Vec<Line> {
    let config = |step: &Step| step.head.1.strip_prefix("config ").map(str::to_owned);
    let lines: Vec<String> = scenario.steps.iter().map_while(config).collect();
    let world = Arc::<World>::default();
    let config = Config::parse(&lines.join("\n"), "config").map_err(|error| error.to_string());
    let service = match config.and_then(|config| service(&config, &world)) {
        Ok(service) => service,
        Err(error) => return vec![(scenario.name.0, error)],
    };
    let (start, left) = (Instant::now(), None);
    let mut run = Run {
        world,
        service,
        start,
        left,
    };
    let mut wrong = Vec::new();
    for step in &scenario.steps[lines.len()..] {
        for outcome in [run.step(step).await, run.settle().await] {
            if let Err(error) = outcome {
                wrong.push((step.head.0, map_keys(&error, false)));
            }
        }
    }
    if run.left.is_some() {
        let text = "the last reply was not looked at".to_owned();
        wrong.push((scenario.name.0, text));
    }
    wrong
}

#[tokio::test(start_paused = true)]
async fn every_scenario_goes_as_written() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scenarios");
    let entries = std::fs::read_dir(directory).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let (mut names, mut failures) = (HashSet::new(), Vec::new());
    for path in files {
        let file = path.file_name().unwrap().display().to_string();
        for scenario in read(&std::fs::read_to_string(&path).unwrap()) {
            let name = &scenario.name.1;
            assert!(names.insert(name.clone()), "{file}: two of {name}");
            for (line, error) in run(&scenario).await {
                failures.push(format!("tests/scenarios/{file}:{line}: {name}: {error}"));
            }
        }
    }
    let all = names.len();
    assert!(all >= 240, "only {all} scenarios");
    let count = failures.len();
    assert!(
        failures.is_empty(),
        "{count} failures in {all} scenarios\n{}",
        failures.join("\n")
    );
}

/// What went wrong with steps, for the keys and records of a small scenario.
async fn wrong(steps: &str) -> Vec<Line> {
    let start = "scenario x\ndht @KEY1 seq=1\n www 300 A 192.0.2.1\n";
    let scenarios = read(&format!("{start}{steps}"));
    run(&scenarios[0]).await
}

#[tokio::test(start_paused = true)]
async fn a_right_expectation_is_not_reported() {
    let steps = "ask www.@UPPER1. A\nreply NOERROR RD RA\n answer www.@UPPER1. 300 A 192.0.2.1\n\
        asked dht 1 upstream 0\nask a.b. A qr\nsilence";
    assert_eq!(wrong(steps).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_lookup_finds_one_packet_after_another_until_its_end() {
    let lookup = "dht @KEY1 seq=1 after=1 lasts=4\n www 300 A 192.0.2.1\n\
        then @KEY1 seq=2 after=2500ms\n www 300 A 192.0.2.2\n";
    let asked = |at: &str, ttl: u32, address: &str| {
        let answer = format!("answer www.@KEY1. {ttl} A {address}");
        format!("{at}ask www.@KEY1. A\nreply NOERROR RD RA\n {answer}\n")
    };
    let steps = [
        lookup.to_owned(),
        asked("", 30, "192.0.2.1"),
        asked("at 3\n", 30, "192.0.2.2"),
        asked("at 4\n", 299, "192.0.2.2"),
        "asked dht 1 upstream 0".to_owned(),
    ];
    assert_eq!(wrong(&steps.concat()).await, []);
    let too_early = "dht @KEY1 seq=1 after=1\nthen @KEY1 seq=2";
    let text = "the one before it is found later".to_owned();
    assert_eq!(wrong(too_early).await, [(5, text)]);
}

#[tokio::test(start_paused = true)]
async fn what_a_step_starts_goes_on_before_the_next() {
    let stale = "ask www.@KEY1. A\nreply NOERROR RD RA\n answer www.@KEY1. 300 A 192.0.2.1\nat 300\n\
        ask www.@KEY1. A\nreply NOERROR RD RA\n answer www.@KEY1. 30 A 192.0.2.1\n ede 3\n";
    let fresh = "ask www.@KEY1. A\nreply NOERROR RD RA\n answer www.@KEY1. 300 A 192.0.2.1\n\
        asked dht 2 upstream 0";
    assert_eq!(wrong(&format!("{stale}{fresh}")).await, []);
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_wrong_expectation_is_reported_at_its_line() {
    let answer = "answer www.@KEY1. 300 A 192.0.2.1";
    for (reply, text) in [
        ("reply NXDOMAIN RD RA\n {}", "expected  NXDOMAIN RD RA"),
        ("reply NOERROR RD RA AA\n {}", "got       NOERROR RD RA"),
        ("reply NOERROR RD\n {}", "expected  NOERROR RD"),
        ("reply NOERROR RD RA", "got       {}"),
        ("reply NOERROR RD RA\n {}\n {}", "expected  {}"),
        (
            "reply NOERROR RD RA\n answer www.@KEY1. 299 A 192.0.2.1",
            "got       {}",
        ),
        (
            "reply NOERROR RD RA\n answer www.@KEY1. 300 A 192.0.2.2",
            "got       {}",
        ),
        (
            "reply NOERROR RD RA\n authority www.@KEY1. 300 A 192.0.2.1",
            "got       {}",
        ),
        ("reply NOERROR RD RA\n {}\n ede 3", "expected  ede 3"),
        ("reply NOERROR RD RA\n {}\n no opt", "expected  no opt"),
        ("reply NOERROR RD RA FA\n {}", "no flag: FA"),
        ("silence", "expected  silence"),
        ("at 1", "not looked at"),
    ] {
        let reply = reply.replace("{}", answer);
        let wrong = wrong(&format!("ask www.@KEY1. A\n{reply}")).await;
        let [(5, error)] = wrong.as_slice() else {
            panic!("{reply}: {wrong:?}");
        };
        assert!(
            error.contains(&text.replace("{}", answer)),
            "{reply}: {error}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn steps_that_cannot_be_and_questions_without_a_script_are_reported() {
    for (step, text) in [
        ("asked dht 1 upstream 0", "asked were dht 0 upstream 0"),
        ("ask www.@KEY2. A", "the DHT was asked for @KEY2"),
        (
            "ask www.example. A do",
            "the upstream was asked www.example. A do",
        ),
        ("ask www.@KEY1. A dnssec", "unknown word: dnssec"),
        ("ask www.@KEY1. AB", "no type: AB"),
        ("ask www.@KEY1. A size=x", "bad number: x"),
        ("upstream www.example. A OK", "no RCODE: OK"),
        ("dht @KEY1 gone", "unknown word: gone"),
        ("dht @KEY1 after=1", "what does the DHT hold?"),
        ("dht @KEY1 absent\n www 300 A 192.0.2.1", "need a seq"),
        ("then @KEY2 seq=2", "what is found first?"),
        ("then @KEY1 after=1", "what is found next?"),
        ("then @KEY1 seq=2 lasts=1", "unknown word: lasts"),
        ("dht @KEY1 seq=1 after=2us", "bad number: 2us"),
        ("dht @KEY1 seq=1\n www 300 A 192.0.2", "line 5"),
        ("config names.special-use = true", "no such step"),
        ("reply NOERROR", "nothing was asked"),
    ] {
        let wrong = wrong(step).await;
        let found = wrong
            .iter()
            .any(|(line, error)| *line == 4 && error.contains(text));
        assert!(found, "{step}: {wrong:?}");
    }
    let wrong = wrong("ask www.@KEY1. A").await;
    assert!(wrong[0].1.contains("not looked at"), "{wrong:?}");
}
