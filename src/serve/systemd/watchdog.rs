//! The watchdog: systemd restarts the service unless it answers DNS queries.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::send;

/// The longest wait for the answer to a probe.
const MAX_PROBE_TIME: Duration = Duration::from_secs(5);

/// Feeds the watchdog, if systemd asked for one (sd_watchdog_enabled(3)), as long as the program
/// answers queries to its own UDP sockets at `addresses`, which may change.
///
/// A third of the watchdog's time apart it sends a query to one of them, in turn, and a second one
/// if the first is not answered in time. Only an answer makes it send `WATCHDOG=1`: what restarts
/// the service is that it does not answer, whatever the reason. Where two or more addresses are
/// given and only one of them answers, the watchdog is still fed, and a warning is logged for
/// each failure.
///
/// Returns when `stop` is cancelled, or at once if there is no watchdog. Without a UDP address there
/// is nothing to ask; then it switches the watchdog off, since it would otherwise end the service.
pub async fn watchdog(mut addresses: watch::Receiver<Vec<SocketAddr>>, stop: CancellationToken) {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else {
        return;
    };
    loop {
        let asked = addresses.borrow_and_update().clone();
        if asked.is_empty() {
            warn!("no UDP address to send watchdog queries to: the watchdog is switched off");
            send(&[NotifyState::WatchdogUsec(0)]);
            return;
        }
        let feed = || send(&[NotifyState::Watchdog]);
        tokio::select! {
            () = feed_while_answered(&asked, limit / 3, &stop, feed) => return,
            // A reload has changed them: from the first one of the new on.
            changed = addresses.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

/// Calls `feed` at each `interval` at which the address whose turn it is answers.
async fn feed_while_answered(
    addresses: &[SocketAddr],
    interval: Duration,
    stop: &CancellationToken,
    mut feed: impl FnMut(),
) {
    let timeout = interval.min(MAX_PROBE_TIME);
    let mut ticks = tokio::time::interval(interval);
    // Two timeouts may take a little longer than the interval. The next turn is then due at once,
    // and must not wait for the next multiple of the interval: that would be the watchdog's limit.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for &address in addresses.iter().cycle() {
        let turn = async {
            ticks.tick().await;
            match probe(address, timeout).await {
                Ok(()) => Ok(()),
                // UDP may lose a datagram, for one when the socket's buffer is full.
                Err(_) => probe(address, timeout).await,
            }
        };
        match stop.run_until_cancelled(turn).await {
            None => return,
            Some(Ok(())) => feed(),
            Some(Err(error)) => {
                warn!(%address, %error, "own watchdog query not answered; watchdog not fed");
            }
        }
    }
}

/// Sends one query to the program's own socket at `address` and waits for the answer, which may
/// have any RCODE.
async fn probe(address: SocketAddr, timeout: Duration) -> io::Result<()> {
    match tokio::time::timeout(timeout, exchange(reachable(address))).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no answer within {timeout:?}"),
        )),
    }
}

/// Sends the query to `address` from a socket of its own and waits for the answer.
async fn exchange(address: SocketAddr) -> io::Result<()> {
    let local: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = tokio::net::UdpSocket::bind((local, 0)).await?;
    // Connected: the kernel drops datagrams from elsewhere, and reports a closed port.
    socket.connect(address).await?;
    let mut query = QUERY;
    let [first, second, ..] = &mut query;
    // An ID that nobody can predict, so that no other local process can feed the watchdog.
    let id: [u8; 2] = rand::random();
    [*first, *second] = id;
    socket.send(&query).await?;
    // The header is all that is looked at; the kernel drops the rest of a longer datagram.
    let mut header = [0; HEADER.len()];
    loop {
        let length = socket.recv(&mut header).await?;
        let [first, second, flags, ..] = header;
        if length == header.len() && [first, second] == id && flags & QR != 0 {
            return Ok(());
        }
    }
}

/// Where a socket bound to `address` can be asked: an unspecified address stands for all of the
/// host's, of which the loopback address is always there.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// The QR bit in the third octet of a header: the message is an answer (RFC 1035 section 4.1.1).
const QR: u8 = 0x80;

/// The header of the query: ID 0, RD set, one question (RFC 1035 section 4.1.1).
const HEADER: [u8; 12] = [0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];

/// What follows the name's only label: the root, type SOA, class IN (RFC 1035 sections 3.2 and
/// 4.1.2).
const AFTER_LABEL: [u8; 5] = [0, 0, 6, 0, 1];

/// The number of octets in the name's only label.
const LABEL_LENGTH: u8 = 52;

/// The length of the query: the header, the label with its length, and the rest.
const QUERY_LENGTH: usize = 12 + 1 + 52 + 5;

/// The query that a probe sends, but for the ID. The program answers it by itself, without the
/// network and without a look into a cache: the name is the all-zero key in z-base-32, which is a
/// weak key (a point of small order) and therefore no name at all.
const QUERY: [u8; QUERY_LENGTH] = query();

/// Puts [`QUERY`] together.
const fn query() -> [u8; QUERY_LENGTH] {
    let mut query = [b'y'; QUERY_LENGTH];
    let (header, question) = query.split_at_mut(HEADER.len());
    header.copy_from_slice(&HEADER);
    if let [length, label_and_rest @ ..] = question {
        *length = LABEL_LENGTH;
        let (_, rest) = label_and_rest.split_at_mut(label_and_rest.len() - AFTER_LABEL.len());
        rest.copy_from_slice(&AFTER_LABEL);
    }
    query
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::sync::mpsc;

    use super::*;

    /// The longest wait in real time for something that is to happen at once: a bound for a test
    /// that fails, not a measure for one that passes.
    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn the_query() {
        let mut expected = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 52];
        expected.extend([b'y'; 52]);
        expected.extend([0, 0, 6, 0, 1]);
        assert_eq!(QUERY.as_slice(), expected);
    }

    #[test]
    fn an_unspecified_address_is_asked_at_loopback() {
        for (bound, asked) in [
            ("0.0.0.0:53", "127.0.0.1:53"),
            ("[::]:53", "[::1]:53"),
            ("192.0.2.1:53", "192.0.2.1:53"),
            ("[fe80::1%3]:53", "[fe80::1%3]:53"),
        ] {
            let bound: SocketAddr = bound.parse().unwrap();
            assert_eq!(reachable(bound).to_string(), asked);
        }
    }

    /// How a scripted server treats a query.
    #[derive(Debug, Clone, Copy)]
    enum Script {
        /// REFUSED, without a question: any answer counts.
        Refused,
        /// No answer.
        Silent,
        /// An answer with another ID.
        WrongId,
        /// The query itself, whose QR bit is 0.
        Echo,
        /// An answer that is shorter than a header.
        Short,
        /// An answer with another ID, and then the right one.
        WrongThenRight,
    }

    /// Receives `count` queries, checks them, and answers them by the script.
    fn answer(socket: &UdpSocket, script: Script, count: usize) {
        for _ in 0..count {
            let mut buffer = [0; 512];
            let (length, client) = socket.recv_from(&mut buffer).unwrap();
            if length < HEADER.len() {
                return;
            }
            assert_eq!(buffer[2..length], QUERY[2..]);
            let [first, second] = [buffer[0], buffer[1]];
            let right = [first, second, 0x81, 5, 0, 0, 0, 0, 0, 0, 0, 0];
            let wrong = [first ^ 1, second, 0x81, 5, 0, 0, 0, 0, 0, 0, 0, 0];
            let answers: Vec<&[u8]> = match script {
                Script::Refused => vec![&right],
                Script::Silent => vec![],
                Script::WrongId => vec![&wrong],
                Script::Echo => vec![&buffer[..length]],
                Script::Short => vec![&right[..11]],
                Script::WrongThenRight => vec![&wrong, &right],
            };
            for answer in answers {
                socket.send_to(answer, client).unwrap();
            }
        }
    }

    /// A scripted server on a thread of its own.
    ///
    /// It runs as a blocking task of the runtime. That has a point: as long as one is there, paused
    /// time does not advance by itself, which it otherwise does while a datagram is on its way.
    struct Server {
        address: SocketAddr,
        /// One item for each query that was received and, if so scripted, answered.
        queries: tokio::sync::mpsc::UnboundedReceiver<()>,
    }

    impl Server {
        fn start(script: Script) -> Server {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let address = socket.local_addr().unwrap();
            let (sender, queries) = tokio::sync::mpsc::unbounded_channel();
            let (started, start) = mpsc::channel();
            tokio::task::spawn_blocking(move || {
                started.send(()).unwrap();
                // Ends when the test no longer listens; its end sends a last, empty datagram.
                while !sender.is_closed() {
                    answer(&socket, script, 1);
                    let _ = sender.send(());
                }
            });
            start.recv().unwrap();
            Server { address, queries }
        }

        async fn query(&mut self) {
            self.queries.recv().await.unwrap();
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            self.queries.close();
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.send_to(&[], self.address).unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_takes_any_answer_with_its_id() {
        for script in [Script::Refused, Script::WrongThenRight] {
            let server = Server::start(script);
            probe(server.address, MAX_PROBE_TIME).await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_takes_nothing_else() {
        for script in [Script::Silent, Script::WrongId, Script::Echo, Script::Short] {
            let mut server = Server::start(script);
            let task = tokio::spawn(probe(server.address, MAX_PROBE_TIME));
            server.query().await;
            tokio::time::advance(MAX_PROBE_TIME).await;
            let error = task.await.unwrap().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{script:?}");
        }
    }

    #[tokio::test]
    async fn a_probe_of_a_closed_port_fails() {
        // Bound to the same port of another address, so that nobody else gets it meanwhile.
        let socket = UdpSocket::bind("127.0.0.2:0").unwrap();
        let address = SocketAddr::new(
            Ipv4Addr::LOCALHOST.into(),
            socket.local_addr().unwrap().port(),
        );
        assert!(probe(address, MAX_PROBE_TIME).await.is_err());
    }

    const INTERVAL: Duration = Duration::from_secs(10);

    /// The loop over `addresses` as a task, with what it feeds.
    struct Loop {
        fed: tokio::sync::mpsc::UnboundedReceiver<()>,
        stop: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    }

    impl Loop {
        fn start(addresses: Vec<SocketAddr>) -> Loop {
            let (sender, fed) = tokio::sync::mpsc::unbounded_channel();
            let stop = CancellationToken::new();
            let stopped = stop.clone();
            let task = tokio::spawn(async move {
                let feed = || sender.send(()).unwrap();
                feed_while_answered(&addresses, INTERVAL, &stopped, feed).await;
            });
            Loop { fed, stop, task }
        }

        /// Ends the loop and says how often it fed the watchdog since that was last asked.
        async fn end(mut self) -> usize {
            self.stop.cancel();
            self.task.await.unwrap();
            let mut count = 0;
            while self.fed.recv().await.is_some() {
                count += 1;
            }
            count
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answering_server_feeds_the_watchdog() {
        let mut server = Server::start(Script::Refused);
        let mut run = Loop::start(vec![server.address]);
        for _ in 0..3 {
            server.query().await;
            run.fed.recv().await.unwrap();
            tokio::time::advance(INTERVAL - Duration::from_millis(1)).await;
            assert!(
                server.queries.try_recv().is_err(),
                "one query in each interval"
            );
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        server.query().await;
        run.fed.recv().await.unwrap();
        assert_eq!(run.end().await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_does_not() {
        never_feeds(Script::Silent).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_id_does_not() {
        never_feeds(Script::WrongId).await;
    }

    async fn never_feeds(script: Script) {
        let mut server = Server::start(script);
        let run = Loop::start(vec![server.address]);
        for _ in 0..3 {
            // The query and the repeated one; after twice 5 s the next turn is due.
            server.query().await;
            tokio::time::advance(MAX_PROBE_TIME).await;
            server.query().await;
            tokio::time::advance(MAX_PROBE_TIME).await;
        }
        server.query().await;
        assert_eq!(run.end().await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_take_turns() {
        let mut silent = Server::start(Script::Silent);
        let mut server = Server::start(Script::Refused);
        let mut run = Loop::start(vec![silent.address, server.address]);
        for _ in 0..2 {
            silent.query().await;
            tokio::time::advance(MAX_PROBE_TIME).await;
            silent.query().await;
            tokio::time::advance(MAX_PROBE_TIME).await;
            server.query().await;
            run.fed.recv().await.unwrap();
            tokio::time::advance(INTERVAL).await;
        }
        silent.query().await;
        assert_eq!(run.end().await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn stops_amid_a_probe() {
        let mut server = Server::start(Script::Silent);
        let run = Loop::start(vec![server.address]);
        server.query().await;
        assert_eq!(run.end().await, 0);
    }
}
