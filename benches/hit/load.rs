//! The client: one thread that asks for names that are in the cache, over many sockets.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use super::batch::{BATCH, Batch};
use super::peers::{self, socket};

/// Sockets, so that a server with several of its own finds work for each.
const SOCKETS: usize = 16;
/// How long the load is on before it is measured.
const WARM_UP: Duration = Duration::from_millis(300);
/// After this time without an answer, what is under way is lost.
const LOST_AFTER: Duration = Duration::from_millis(500);

/// How the client asks.
#[derive(Debug, Clone, Copy)]
pub(super) enum Load {
    /// As much as the server can answer.
    Full,
    /// So many a second.
    Rate(f64),
    /// So many a second, beside [`FLOOD`] questions for new names.
    Flooded(f64),
}

/// Questions a second for names that nobody has asked for: more than any resolver can look up.
pub(super) const FLOOD: f64 = 50_000.0;

/// What came of it, in the measured time.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) answers: u64,
    pub(super) time: Duration,
    /// What the server took of the CPU.
    pub(super) cpu: Duration,
    /// Microseconds, in order.
    pub(super) latencies: Vec<f64>,
    pub(super) lost: u64,
}

/// Queries for the names that are asked for again and again.
pub(super) fn queries(count: usize) -> Vec<Vec<u8>> {
    let query = |number: usize| {
        let mut query = peers::query(&format!("host-{number}"));
        query[11] = 1;
        // An OPT that offers 1232 bytes, as stubs send it.
        query.extend([0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0]);
        query
    };
    (0..count).map(query).collect()
}

/// Asks for each name until there is an answer, so that all are in the cache.
pub(super) fn warm_up(server: SocketAddr, queries: &[Vec<u8>]) {
    let socket = socket();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(LOST_AFTER)).unwrap();
    let mut reply = [0; 1500];
    for query in queries {
        while socket
            .send(query)
            .and_then(|_| socket.recv(&mut reply))
            .is_err()
        {}
    }
}

struct Client {
    socket: UdpSocket,
    /// When the question with this ID was asked, in microseconds; negative if none is under way.
    sent: Vec<f64>,
    next: u16,
    under_way: usize,
}

impl Client {
    fn new(server: SocketAddr) -> Self {
        let socket = socket();
        socket.connect(server).unwrap();
        Self {
            socket,
            sent: vec![-1.0; 1 << 16],
            next: 0,
            under_way: 0,
        }
    }

    fn ask(
        &mut self,
        count: usize,
        queries: &mut impl Iterator<Item = Vec<u8>>,
        batch: &mut Batch,
        now: f64,
    ) {
        batch.clear();
        for mut query in queries.take(count) {
            query[..2].copy_from_slice(&self.next.to_be_bytes());
            batch.push(&query);
            self.sent[usize::from(self.next)] = now;
            self.next = self.next.wrapping_add(1);
        }
        batch.send_connected(&self.socket);
        self.under_way += count;
    }

    /// Takes the answers that have come; how long they took is added to `latencies`.
    fn take(&mut self, batch: &mut Batch, now: impl Fn() -> f64, latencies: &mut Vec<f64>) {
        if batch.receive(&self.socket, false) == 0 {
            return;
        }
        let now = now();
        for reply in batch.datagrams() {
            let id = usize::from(u16::from_be_bytes([reply[0], reply[1]]));
            let sent = std::mem::replace(&mut self.sent[id], -1.0);
            if sent >= 0.0 {
                assert_eq!(reply[3] & 0xf, 0, "an answer is expected");
                latencies.push(now - sent);
                self.under_way = self.under_way.saturating_sub(1);
            }
        }
    }
}

/// A client that asks for new names, and listens to nobody.
struct Flood {
    socket: UdpSocket,
    /// In front of the number, so that no two are alike.
    name: String,
    asked: u64,
}

impl Flood {
    fn new(server: SocketAddr) -> Self {
        let socket = socket();
        socket.connect(server).unwrap();
        Self {
            socket,
            name: format!("{:016x}", rand::random::<u64>()),
            asked: 0,
        }
    }

    /// Asks for what is due.
    fn go_on(&mut self, batch: &mut Batch, elapsed: Duration) {
        let due = (elapsed.as_secs_f64() * FLOOD) as u64;
        let count = due.saturating_sub(self.asked).min(BATCH as u64);
        batch.clear();
        for number in 0..count {
            let label = format!("{}-{}", self.name, due + number);
            batch.push(&peers::query(&label));
        }
        if count > 0 {
            batch.send_connected(&self.socket);
        }
        // What could not be sent in time is not made up for.
        self.asked = due;
        batch.receive(&self.socket, false);
    }
}

/// Puts a load on a server; `cpu` tells the time that it has taken.
pub(super) fn put(
    load: Load,
    server: SocketAddr,
    queries: &[Vec<u8>],
    time: Duration,
    cpu: impl Fn() -> Duration,
) -> Outcome {
    let mut clients: Vec<Client> = (0..SOCKETS).map(|_| Client::new(server)).collect();
    let mut queries = queries.iter().cycle().cloned();
    let mut flood = matches!(load, Load::Flooded(_)).then(|| Flood::new(server));
    let mut batch = Batch::new();
    let mut latencies = Vec::new();
    let started = Instant::now();
    let micros = || started.elapsed().as_secs_f64() * 1e6;
    let (mut asked, mut lost) = (0_u64, 0);
    let mut heard = started;
    // Since when it is measured, and what the CPU time was then.
    let mut measured = None;
    while started.elapsed() < WARM_UP + time {
        if measured.is_none() && started.elapsed() > WARM_UP {
            latencies.clear();
            measured = Some((Instant::now(), cpu()));
        }
        if let Some(flood) = &mut flood {
            flood.go_on(&mut batch, started.elapsed());
        }
        let before = latencies.len();
        for client in &mut clients {
            client.take(&mut batch, micros, &mut latencies);
            let count = match load {
                // In batches, as a server under load gets them.
                Load::Full if client.under_way > BATCH / 2 => 0,
                Load::Full => BATCH - client.under_way,
                Load::Rate(rate) | Load::Flooded(rate) => {
                    let due = (started.elapsed().as_secs_f64() * rate) as u64;
                    usize::try_from(due - asked).unwrap().min(BATCH)
                }
            };
            if count > 0 {
                client.ask(count, &mut queries, &mut batch, micros());
                asked += u64::try_from(count).unwrap();
            }
        }
        if latencies.len() > before {
            heard = Instant::now();
        } else if heard.elapsed() > LOST_AFTER {
            lost += clients.iter().map(|client| client.under_way).sum::<usize>();
            clients.iter_mut().for_each(|client| client.under_way = 0);
            heard = Instant::now();
        }
    }
    let (since, before) = measured.unwrap();
    let (time, cpu) = (since.elapsed(), cpu() - before);
    latencies.sort_by(f64::total_cmp);
    Outcome {
        answers: u64::try_from(latencies.len()).unwrap(),
        time,
        cpu,
        latencies,
        lost: u64::try_from(lost).unwrap(),
    }
}
