//! The clients: every question is new.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::peers::socket;

/// Sockets, so that a resolver with several of its own finds work for each.
const SOCKETS: usize = 16;
/// After this time a question counts as lost; resolvers give up earlier.
const LOST_AFTER: Duration = Duration::from_secs(3);
/// How long the load is on before it is measured.
const WARM_UP: Duration = Duration::from_millis(300);
/// How often a client that hears nothing looks whether it is over.
const PATIENCE: Duration = Duration::from_millis(50);

/// How the clients ask.
#[derive(Debug, Clone, Copy)]
pub(super) enum Load {
    /// So many questions under way at any time.
    Window(usize),
    /// So many a second.
    Rate(f64),
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Answers with RCODE 0 in the measured time.
    pub(super) answers: u64,
    /// The measured time.
    pub(super) time: Duration,
    /// What the resolver took of the CPU in it.
    pub(super) cpu: Duration,
    /// Microseconds, in order.
    pub(super) latencies: Vec<f64>,
    /// Answers with other RCODEs.
    pub(super) failures: BTreeMap<u8, u64>,
    /// Questions without an answer.
    pub(super) lost: u64,
}

/// Names that nobody has asked for before.
#[derive(Debug)]
pub(super) struct Names {
    /// What stands behind the number, and the rest of the question.
    tail: Vec<u8>,
    next: AtomicU64,
}

impl Names {
    pub(super) fn new() -> Self {
        let random = format!("{:016x}", rand::random::<u64>());
        let mut tail = Vec::new();
        for label in [&random, "bench", "example", ""] {
            tail.push(u8::try_from(label.len()).unwrap());
            tail.extend(label.as_bytes());
        }
        tail.extend([0, 1, 0, 1]);
        let next = AtomicU64::new(0);
        Self { tail, next }
    }

    /// How many have been asked for.
    pub(super) fn asked(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// A query for the next name.
    fn query(&self, id: u16) -> Vec<u8> {
        let number = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        let mut query = Vec::with_capacity(80);
        query.extend(id.to_be_bytes());
        query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        query.push(u8::try_from(number.len()).unwrap());
        query.extend(number.as_bytes());
        query.extend(&self.tail);
        query
    }
}

/// What the threads share.
struct Shared {
    names: Arc<Names>,
    started: Instant,
    /// Whether an answer is to be followed by a question.
    is_closed: bool,
    measuring: AtomicBool,
    sending: AtomicBool,
    over: AtomicBool,
    answers: AtomicU64,
    under_way: AtomicUsize,
    lost: AtomicU64,
    failures: Mutex<BTreeMap<u8, u64>>,
}

impl Shared {
    /// Never 0.
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap() + 1
    }
}

/// One socket.
struct Client {
    socket: UdpSocket,
    /// When the question with this ID was asked; 0 if none is under way.
    sent: Vec<AtomicU64>,
    next: AtomicU16,
    shared: Arc<Shared>,
}

impl Client {
    fn new(server: SocketAddr, shared: Arc<Shared>) -> Arc<Self> {
        let socket = socket();
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Arc::new(Self {
            socket,
            sent: (0..=u16::MAX).map(|_| AtomicU64::new(0)).collect(),
            next: AtomicU16::new(0),
            shared,
        })
    }

    fn ask(&self) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let query = self.shared.names.query(id);
        let now = self.shared.now();
        if self.sent[usize::from(id)].swap(now, Ordering::Relaxed) != 0 {
            // All IDs are under way.
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        } else {
            self.shared.under_way.fetch_add(1, Ordering::Relaxed);
        }
        self.socket.send(&query).unwrap();
    }

    /// Takes answers until it is over; the times that they took while it was measured.
    fn listen(&self) -> Vec<f64> {
        let mut latencies = Vec::new();
        let mut buffer = [0; 1500];
        let mut looked = Instant::now();
        while !self.shared.over.load(Ordering::Relaxed) {
            if let Ok(length) = self.socket.recv(&mut buffer)
                && length >= 12
            {
                self.take(&buffer, &mut latencies);
            }
            if looked.elapsed() > Duration::from_secs(1) {
                looked = Instant::now();
                self.look_for_lost();
            }
        }
        latencies
    }

    fn take(&self, reply: &[u8], latencies: &mut Vec<f64>) {
        let shared = &self.shared;
        let id = usize::from(u16::from_be_bytes([reply[0], reply[1]]));
        let sent = self.sent[id].swap(0, Ordering::Relaxed);
        if sent == 0 {
            return;
        }
        shared.under_way.fetch_sub(1, Ordering::Relaxed);
        let rcode = reply[3] & 0xf;
        // An answer has a record, or it is none.
        if rcode != 0 || reply[7] == 0 {
            *shared.failures.lock().unwrap().entry(rcode).or_default() += 1;
        } else if shared.measuring.load(Ordering::Relaxed) {
            shared.answers.fetch_add(1, Ordering::Relaxed);
            latencies.push((shared.now() - sent) as f64 / 1e3);
        }
        self.ask_again();
    }

    fn ask_again(&self) {
        if self.shared.is_closed && self.shared.sending.load(Ordering::Relaxed) {
            self.ask();
        }
    }

    fn look_for_lost(&self) {
        let limit = u64::try_from(LOST_AFTER.as_nanos()).unwrap();
        let now = self.shared.now();
        for slot in &self.sent {
            let sent = slot.load(Ordering::Relaxed);
            if sent != 0 && now.saturating_sub(sent) > limit {
                slot.store(0, Ordering::Relaxed);
                self.shared.under_way.fetch_sub(1, Ordering::Relaxed);
                self.shared.lost.fetch_add(1, Ordering::Relaxed);
                self.ask_again();
            }
        }
    }
}

/// Puts a load on a server; `cpu` tells the time that it has taken.
pub(super) fn put(
    load: Load,
    server: SocketAddr,
    names: &Arc<Names>,
    time: Duration,
    cpu: impl Fn() -> Duration,
) -> Outcome {
    let shared = Arc::new(Shared {
        names: Arc::clone(names),
        started: Instant::now(),
        is_closed: matches!(load, Load::Window(_)),
        measuring: AtomicBool::new(false),
        sending: AtomicBool::new(true),
        over: AtomicBool::new(false),
        answers: AtomicU64::new(0),
        under_way: AtomicUsize::new(0),
        lost: AtomicU64::new(0),
        failures: Mutex::default(),
    });
    let sockets = match load {
        Load::Window(window) => window.min(SOCKETS),
        Load::Rate(_) => SOCKETS,
    };
    let clients: Vec<_> = (0..sockets)
        .map(|_| Client::new(server, Arc::clone(&shared)))
        .collect();
    let listen = |client: &Arc<Client>| {
        let client = Arc::clone(client);
        thread::spawn(move || client.listen())
    };
    let listeners: Vec<_> = clients.iter().map(listen).collect();
    let sender = match load {
        Load::Window(window) => {
            // Not in one burst: that would overflow the resolver's socket before it has begun.
            for client in clients.iter().cycle().take(window) {
                client.ask();
                thread::sleep(Duration::from_micros(50));
            }
            None
        }
        Load::Rate(rate) => {
            let (clients, shared) = (clients.clone(), Arc::clone(&shared));
            Some(thread::spawn(move || ask_steadily(&clients, &shared, rate)))
        }
    };

    thread::sleep(WARM_UP);
    let (started, before) = (Instant::now(), cpu());
    shared.measuring.store(true, Ordering::Relaxed);
    thread::sleep(time);
    shared.measuring.store(false, Ordering::Relaxed);
    let (time, cpu) = (started.elapsed(), cpu() - before);

    shared.sending.store(false, Ordering::Relaxed);
    if let Some(sender) = sender {
        sender.join().unwrap();
    }
    let stopped = Instant::now();
    while shared.under_way.load(Ordering::Relaxed) > 0 && stopped.elapsed() < LOST_AFTER {
        thread::sleep(Duration::from_millis(5));
    }
    shared.over.store(true, Ordering::Relaxed);
    let latencies = listeners.into_iter().map(|thread| thread.join().unwrap());
    let mut latencies: Vec<f64> = latencies.flatten().collect();
    latencies.sort_by(f64::total_cmp);
    let left = u64::try_from(shared.under_way.load(Ordering::Relaxed)).unwrap();
    Outcome {
        answers: shared.answers.load(Ordering::Relaxed),
        time,
        cpu,
        latencies,
        failures: shared.failures.lock().unwrap().clone(),
        lost: shared.lost.load(Ordering::Relaxed) + left,
    }
}

/// Asks at a rate, evenly; what could not be asked in time is made up for.
fn ask_steadily(clients: &[Arc<Client>], shared: &Shared, rate: f64) {
    let started = Instant::now();
    let mut clients = clients.iter().cycle();
    let mut asked = 0_u32;
    while shared.sending.load(Ordering::Relaxed) {
        let due = Duration::from_secs_f64(f64::from(asked) / rate);
        match due.checked_sub(started.elapsed()) {
            Some(wait) if wait > Duration::from_micros(20) => thread::sleep(wait),
            _ => {
                clients.next().unwrap().ask();
                asked += 1;
            }
        }
    }
}
