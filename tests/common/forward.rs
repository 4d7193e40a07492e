//! `Upstreams` before scripted servers, their replies, and what pkbridge logs of them.

use std::cell::RefCell;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Once};

use hickory_proto::rr::RecordType;
use pkbridge::endpoint::Endpoint;
use pkbridge::resolve::{Forward, Question, Response, Strategy, Tls, UpstreamSettings, Upstreams};
use pkbridge::wire::{self, Layout, Section, flags};

use super::{PATIENCE, Upstream, name};

/// The flag word of a recursive resolver's reply.
pub const REPLY: u16 = flags::QR | flags::RD | flags::RA;
/// The option COOKIE.
pub const COOKIE: u16 = 10;

pub fn upstreams(servers: &[SocketAddr]) -> Upstreams {
    Upstreams::new(settings(servers))
}

pub fn settings(servers: &[SocketAddr]) -> UpstreamSettings {
    UpstreamSettings {
        servers: servers.iter().copied().map(Endpoint::plain).collect(),
        rules: Vec::new(),
        strategy: Strategy::Fastest,
        timeout: PATIENCE,
        tls: Arc::new(Tls::new(None).unwrap()),
        bootstrap: Vec::new(),
    }
}

pub fn question(owner: &str) -> Question {
    Question {
        name: name(owner),
        rtype: RecordType::A,
        dnssec_ok: false,
        checking_disabled: false,
    }
}

/// The last byte of the address that the upstreams give for a name.
pub async fn address(upstreams: &Upstreams, owner: &str) -> u8 {
    let response = upstreams.forward(&question(owner)).await.unwrap();
    last_byte(&response)
}

pub fn last_byte(response: &Response) -> u8 {
    let record = response.layout.section(Section::Answer).next().unwrap();
    *response.wire[record.rdata.clone()].last().unwrap()
}

/// A reply with `192.0.2.<last>` and an OPT with these options.
pub fn reply_with(query: &[u8], last: u8, rcode: u16, options: &[u8]) -> Vec<u8> {
    let question = wire::plain_question(query).unwrap();
    let mut message = query[..2].to_vec();
    message.extend((REPLY | (rcode & 0xf)).to_be_bytes());
    message.extend([0, 1, 0, 1, 0, 0, 0, 1]);
    message.extend(&query[question]);
    message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 192, 0, 2, last]);
    let high = u8::try_from(rcode >> 4).unwrap();
    message.extend([0, 0, 41, 4, 0xd0, high, 0, 0, 0]);
    message.extend(u16::try_from(options.len()).unwrap().to_be_bytes());
    message.extend(options);
    message
}

pub fn reply(query: &[u8], last: u8) -> Vec<u8> {
    reply_with(query, last, 0, &[])
}

pub async fn answering(last: u8) -> Upstream {
    Upstream::start(move |query, _| vec![reply(query, last)]).await
}

/// The cookie of a query.
pub fn cookie_of(query: &[u8]) -> Option<Vec<u8>> {
    let layout = Layout::read(query).unwrap();
    let opt = layout.records.iter().find(|record| record.rtype == 41)?;
    let options = &query[opt.rdata.clone()];
    let is_cookie = options.get(..2) == Some(&COOKIE.to_be_bytes());
    is_cookie.then(|| options[4..4 + usize::from(options[3])].to_vec())
}

/// What is logged at the level `info` and above by what runs on this thread: all of a test, whose runtime
/// has no other.
pub struct Log(Lines);

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

thread_local! {
    static LINES: RefCell<Lines> = RefCell::default();
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// From now on. One subscriber serves all threads: what one without a subscriber comes by first would
    /// count as disabled for the others as well.
    pub fn capture() -> Self {
        static SUBSCRIBER: Once = Once::new();
        SUBSCRIBER.call_once(|| {
            let subscriber = tracing_subscriber::fmt()
                .with_ansi(false)
                .with_writer(|| LINES.with_borrow(Lines::clone))
                .finish();
            tracing::subscriber::set_global_default(subscriber).unwrap();
            tracing::callsite::rebuild_interest_cache();
        });
        let lines = Lines::default();
        LINES.set(lines.clone());
        Self(lines)
    }

    /// The lines that have all of these words.
    pub fn lines(&self, words: &[&str]) -> Vec<String> {
        let log = String::from_utf8(self.0.0.lock().unwrap().clone()).unwrap();
        let lines = log.lines().map(str::to_owned);
        lines
            .filter(|line| words.iter().all(|word| line.contains(word)))
            .collect()
    }
}
