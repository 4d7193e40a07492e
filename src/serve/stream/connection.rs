//! One connection: messages in, replies out, and what a slow or silent client can cost. It knows
//! nothing of DNS but the length before each message, and nothing of sockets.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::super::TCP_IDLE_TIMEOUT;
use super::places::Place;

/// How long a connection may be idle, and how long one message may take to come.
const READ_TIMEOUT: Duration = TCP_IDLE_TIMEOUT;
/// How long a client may take to accept what is ready for it: as long as it may be silent.
const WRITE_TIMEOUT: Duration = TCP_IDLE_TIMEOUT;
/// Questions of one connection that are looked up at once: 64. The next one is not taken before one
/// is answered, so no connection can use up the lookups of all others.
// RFC 9210 section 4.2: a limit on the transactions of one connection.
const MAX_PIPELINED: usize = 64;
/// Replies that wait to be written: 64 KiB, room for one of any size. Beyond it nothing is added, so
/// with the last one it can be almost twice as much.
const MAX_UNWRITTEN: usize = 64 * 1024;
/// What one read is prepared to take, and what a buffer keeps while the connection is idle: 4 KiB,
/// tens of questions.
const BUFFER_LEN: usize = 4 * 1024;

/// What becomes of a message.
#[derive(Debug)]
pub(super) enum Taken<L> {
    /// It is no query: a stream that carries such is of no use to anybody.
    Nothing,
    /// The reply.
    Reply(Vec<u8>),
    /// The reply, later.
    Later(L),
}

/// What a connection waits for its client to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    /// Nothing: answers are on the way, or are not accepted fast enough to take more questions.
    No,
    /// To send the rest of a message.
    ForRest,
    /// To ask, or to close.
    Idle,
}

/// Answers the messages of a connection, each as soon as its reply is ready, until the client closes
/// its side, is silent for too long, or sends what is no query; or `stop`. Replies that are on the
/// way then still go out.
// RFC 7766 sections 6.2.1.1 and 7: questions are processed concurrently, and answered in any order.
pub(super) async fn converse<L: Future<Output = Vec<u8>>>(
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
    mut take: impl FnMut(&[u8]) -> Taken<L>,
    place: &mut Place,
    stop: &CancellationToken,
) -> io::Result<()> {
    let mut incoming = Incoming::default();
    let mut outgoing = Outgoing::new();
    let mut wanted = pin!(place.wanted());
    let mut stopped = pin!(stop.cancelled());
    let mut lookups = FuturesUnordered::new();
    let mut open = true;
    let (mut waiting, mut waiting_since) = (Waiting::Idle, Instant::now());
    loop {
        let mut heard = false;
        while open && lookups.len() < MAX_PIPELINED && outgoing.has_room() {
            let Some(message) = incoming.next() else {
                break;
            };
            heard = true;
            match take(message) {
                Taken::Nothing => open = false,
                Taken::Reply(reply) => outgoing.push(&reply),
                Taken::Later(lookup) => lookups.push(lookup),
            }
        }
        let owes = !lookups.is_empty() || !outgoing.is_empty();
        if !open && !owes {
            return Ok(());
        }
        // Not reading is what makes a client that does not read its answers wait.
        let reads = open && lookups.len() < MAX_PIPELINED && outgoing.has_room();
        let now_waiting = if reads && !incoming.is_empty() {
            Waiting::ForRest
        } else if owes {
            Waiting::No
        } else {
            Waiting::Idle
        };
        if heard || now_waiting != waiting {
            (waiting, waiting_since) = (now_waiting, Instant::now());
            place.set_idle(waiting == Waiting::Idle);
        }
        if waiting == Waiting::Idle {
            incoming.shrink();
            outgoing.shrink();
        }
        tokio::select! {
            // Replies before writing, so that all that are ready are written together.
            biased;
            () = &mut wanted => return Ok(()),
            () = &mut stopped, if open => open = false,
            Some(reply) = lookups.next(), if outgoing.has_room() => outgoing.push(&reply),
            written = writer.write(outgoing.bytes()), if !outgoing.is_empty() => match written? {
                0 => return Err(ErrorKind::WriteZero.into()),
                written => outgoing.remove(written),
            },
            read = incoming.fill(&mut reader), if reads => open = read? > 0,
            () = sleep_until(outgoing.due), if !outgoing.is_empty() => {
                return Err(ErrorKind::TimedOut.into());
            }
            () = sleep_until(waiting_since + READ_TIMEOUT), if waiting != Waiting::No => open = false,
        }
    }
}

/// What was read and not yet taken.
#[derive(Debug, Default)]
struct Incoming {
    bytes: Vec<u8>,
    taken: usize,
}

impl Incoming {
    /// The next message, if all of it is there.
    // RFC 1035 section 4.2.2: its length in two bytes, then the message.
    fn next(&mut self) -> Option<&[u8]> {
        let (length, rest) = self.bytes.get(self.taken..)?.split_first_chunk()?;
        let message = rest.get(..usize::from(u16::from_be_bytes(*length)))?;
        self.taken += length.len() + message.len();
        Some(message)
    }

    fn is_empty(&self) -> bool {
        self.bytes.len() == self.taken
    }

    /// Reads what is there; 0 at the end of the stream. Nothing is lost if it is cancelled. The
    /// buffer grows as bytes come: a length alone costs nothing.
    async fn fill(&mut self, reader: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.reserve(BUFFER_LEN);
        reader.read_buf(&mut self.bytes).await
    }

    fn shrink(&mut self) {
        if self.is_empty() {
            self.bytes.clear();
            self.taken = 0;
            self.bytes.shrink_to(BUFFER_LEN);
        }
    }
}

/// Replies with their lengths, to be written.
#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    /// When the client must have accepted the first `due_len` of them.
    due: Instant,
    due_len: usize,
}

impl Outgoing {
    fn new() -> Self {
        Self {
            bytes: Vec::new(),
            due: Instant::now(),
            due_len: 0,
        }
    }

    // RFC 7766 section 8: the length and the message go to TCP together.
    fn push(&mut self, reply: &[u8]) {
        // A longer one is no message; the resolver makes none.
        let Ok(length) = u16::try_from(reply.len()) else {
            return;
        };
        self.bytes.extend(length.to_be_bytes());
        self.bytes.extend(reply);
        if self.due_len == 0 {
            self.start_clock();
        }
    }

    /// The first bytes have been accepted. What came behind them since the clock started gets its
    /// own time: a client that reads steadily is never late.
    fn remove(&mut self, accepted: usize) {
        self.bytes.drain(..accepted);
        self.due_len = self.due_len.saturating_sub(accepted);
        if self.due_len == 0 {
            self.start_clock();
        }
    }

    fn start_clock(&mut self) {
        self.due = Instant::now() + WRITE_TIMEOUT;
        self.due_len = self.bytes.len();
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn has_room(&self) -> bool {
        self.bytes.len() < MAX_UNWRITTEN
    }

    fn shrink(&mut self) {
        self.bytes.shrink_to(BUFFER_LEN);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll};

    use futures_util::future::BoxFuture;
    use tokio::io::{DuplexStream, ReadHalf, WriteHalf, duplex, split};
    use tokio::sync::Semaphore;
    use tokio::task::JoinHandle;
    use tokio::time::{sleep, timeout};

    use super::super::places::Places;
    use super::*;

    /// Little that a pipe holds.
    const PIPE_LEN: usize = 64;
    const SECOND: Duration = Duration::from_secs(1);
    const CLIENT: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const BIG_LEN: usize = 60_000;

    type Lookup = BoxFuture<'static, Vec<u8>>;

    /// What the messages of the tests ask for: `slow` waits for the gate, `big` gets a reply of
    /// 60,000 bytes, `junk` is no query, and all others are echoed.
    fn script(gate: Arc<Semaphore>) -> impl FnMut(&[u8]) -> Taken<Lookup> {
        move |message| {
            let (message, gate) = (message.to_vec(), gate.clone());
            if message.starts_with(b"slow") {
                Taken::Later(Box::pin(async move {
                    gate.acquire().await.unwrap().forget();
                    message
                }))
            } else if message.starts_with(b"big") {
                Taken::Reply(vec![7; BIG_LEN])
            } else if message.starts_with(b"junk") {
                Taken::Nothing
            } else {
                Taken::Reply(message)
            }
        }
    }

    fn framed(message: &[u8]) -> Vec<u8> {
        let length = u16::try_from(message.len()).unwrap();
        [&length.to_be_bytes(), message].concat()
    }

    /// A connection at work, and its client.
    struct Talk {
        reader: ReadHalf<DuplexStream>,
        writer: WriteHalf<DuplexStream>,
        served: JoinHandle<io::Result<()>>,
        /// One permit lets one slow reply go.
        gate: Arc<Semaphore>,
        /// Messages taken.
        taken: Arc<AtomicUsize>,
        places: Arc<Places>,
        stop: CancellationToken,
    }

    impl Talk {
        /// The connection has the only place there is.
        async fn start() -> Self {
            let (client, server) = duplex(PIPE_LEN);
            let (gate, taken) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
            let (places, stop) = (Places::new(1, 1), CancellationToken::new());
            let mut place = places.take(CLIENT).await.unwrap();
            let mut script = script(gate.clone());
            let (count, stopped) = (taken.clone(), stop.clone());
            let served = tokio::spawn(async move {
                let take = |message: &[u8]| {
                    count.fetch_add(1, Ordering::Relaxed);
                    script(message)
                };
                let (reader, writer) = split(server);
                converse(reader, writer, take, &mut place, &stopped).await
            });
            let (reader, writer) = split(client);
            Self {
                reader,
                writer,
                served,
                gate,
                taken,
                places,
                stop,
            }
        }

        async fn ask(&mut self, message: &[u8]) {
            self.writer.write_all(&framed(message)).await.unwrap();
        }

        async fn reply(&mut self) -> Vec<u8> {
            let length = self.reader.read_u16().await.unwrap();
            let mut reply = vec![0; usize::from(length)];
            self.reader.read_exact(&mut reply).await.unwrap();
            reply
        }

        /// Nothing more comes; and how long that took to be known.
        async fn ends(&mut self) -> Duration {
            let since = Instant::now();
            assert_eq!(self.reader.read(&mut [0]).await.unwrap(), 0);
            since.elapsed()
        }

        /// Asks until the connection takes no more, and returns what was sent.
        async fn ask_until_blocked(&mut self, message: &[u8]) -> Vec<u8> {
            let (mut sent, bytes) = (Vec::new(), framed(message));
            for byte in bytes.iter().cycle() {
                // Time stands still while anybody has anything to do.
                if timeout(SECOND, self.writer.write_all(&[*byte]))
                    .await
                    .is_err()
                {
                    break;
                }
                sent.push(*byte);
                assert!(sent.len() < 1024 * 1024, "it reads on");
            }
            sent
        }
    }

    /// Remembers each write, and takes it whole.
    #[derive(Default)]
    struct Writes(Vec<Vec<u8>>);

    impl AsyncWrite for Writes {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.0.push(bytes.to_vec());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// What is written to a client that sends this at once, and then closes its side.
    async fn writes_for(messages: &[&[u8]]) -> Vec<Vec<u8>> {
        let sent: Vec<u8> = messages
            .iter()
            .flat_map(|message| framed(message))
            .collect();
        let mut place = Places::new(1, 1).take(CLIENT).await.unwrap();
        let (mut writes, stop) = (Writes::default(), CancellationToken::new());
        let take = script(Arc::new(Semaphore::new(1000)));
        converse(sent.as_slice(), &mut writes, take, &mut place, &stop)
            .await
            .unwrap();
        writes.0
    }

    #[tokio::test]
    async fn rfc7766_8_replies_that_are_ready_are_written_together() {
        let questions = vec![&b"question"[..]; 200];
        let writes = writes_for(&questions).await;
        assert_eq!(writes, [framed(b"question").repeat(200)]);
        // Those of lookups too.
        let writes = writes_for(&[b"slow 1", b"a", b"slow 2", b"b"]).await;
        assert_eq!(writes.len(), 1);
        assert_eq!(writes[0].len(), 2 * (2 + 6) + 2 * (2 + 1));
    }

    #[tokio::test]
    async fn what_waits_to_be_written_is_bounded() {
        let writes = writes_for(&[&b"big"[..]; 50]).await;
        let total: usize = writes.iter().map(Vec::len).sum();
        assert_eq!(total, 50 * (2 + BIG_LEN));
        for write in writes {
            assert!(write.len() < MAX_UNWRITTEN + 2 + usize::from(u16::MAX));
        }
    }

    #[tokio::test]
    async fn messages_of_all_sizes_are_taken() {
        for length in [0, 1, 511, BUFFER_LEN - 2, BUFFER_LEN, 65_535] {
            let message = vec![b'x'; length];
            let writes = writes_for(&[&message, b"the next"]).await;
            assert_eq!(
                writes.concat(),
                [framed(&message), framed(b"the next")].concat()
            );
        }
    }

    #[tokio::test]
    async fn junk_ends_it_when_the_replies_before_are_out() {
        let writes = writes_for(&[b"slow", b"a", b"junk", b"b"]).await;
        assert_eq!(writes.concat(), [framed(b"a"), framed(b"slow")].concat());
    }

    #[tokio::test(start_paused = true)]
    async fn rfc7766_6_2_3_an_idle_connection_is_closed() {
        let mut talk = Talk::start().await;
        assert_eq!(talk.ends().await, READ_TIMEOUT);
        assert!(talk.served.await.unwrap().is_ok());

        // It counts from the last reply, and not while one is awaited.
        let mut talk = Talk::start().await;
        sleep(9 * SECOND).await;
        talk.ask(b"slow").await;
        sleep(60 * SECOND).await;
        talk.gate.add_permits(1);
        assert_eq!(talk.reply().await, b"slow");
        sleep(9 * SECOND).await;
        talk.ask(b"a").await;
        assert_eq!(talk.reply().await, b"a");
        assert_eq!(talk.ends().await, READ_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_comes_too_slowly_is_cut() {
        let mut talk = Talk::start().await;
        sleep(9 * SECOND).await;
        let since = Instant::now();
        for byte in framed(b"not so fast").iter().take(10) {
            talk.writer.write_all(&[*byte]).await.unwrap();
            sleep(SECOND - Duration::from_millis(1)).await;
        }
        talk.ends().await;
        assert_eq!(since.elapsed(), READ_TIMEOUT);
        assert_eq!(talk.taken.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cut_message_costs_no_other_its_reply() {
        let mut talk = Talk::start().await;
        talk.ask(b"slow").await;
        talk.writer.write_all(&[0]).await.unwrap();
        sleep(2 * READ_TIMEOUT).await;
        // The rest comes too late.
        talk.writer.write_all(&[1, b'a']).await.unwrap();
        talk.gate.add_permits(1);
        assert_eq!(talk.reply().await, b"slow");
        assert_eq!(talk.ends().await, Duration::ZERO);
        assert_eq!(talk.taken.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_message_in_time_is_answered() {
        let mut talk = Talk::start().await;
        for _ in 0..3 {
            for byte in framed(b"slowly") {
                talk.writer.write_all(&[byte]).await.unwrap();
                sleep(SECOND).await;
            }
            talk.gate.add_permits(1);
            assert_eq!(talk.reply().await, b"slowly");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_is_not_read_from_and_then_cut() {
        for (question, most) in [(&b"big"[..], 2), (b"a", MAX_UNWRITTEN / 3 + PIPE_LEN)] {
            let mut talk = Talk::start().await;
            let since = Instant::now();
            talk.ask_until_blocked(question).await;
            // One second of that was the wait of this client.
            assert_eq!(since.elapsed(), SECOND);
            assert!(talk.taken.load(Ordering::Relaxed) <= most);
            let error = talk.served.await.unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut);
            assert_eq!(since.elapsed(), WRITE_TIMEOUT);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_late_gets_everything() {
        let mut talk = Talk::start().await;
        let sent = talk.ask_until_blocked(b"a question").await;
        let mut rest = talk.writer;
        // What of the last question is still missing.
        let length = framed(b"a question").len();
        let missing = framed(b"a question").split_off(sent.len() % length);
        let asked = sent.len() / length + 1;
        let finish = tokio::spawn(async move {
            rest.write_all(&missing).await.unwrap();
            rest.shutdown().await.unwrap();
        });
        let mut replies = Vec::new();
        talk.reader.read_to_end(&mut replies).await.unwrap();
        finish.await.unwrap();
        assert_eq!(replies, framed(b"a question").repeat(asked));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_slowly_but_steadily_is_not_cut() {
        let mut talk = Talk::start().await;
        talk.ask(b"big").await;
        talk.ask(b"big").await;
        let mut replies = vec![0; 2 * (2 + BIG_LEN)];
        for part in replies.chunks_mut(BIG_LEN / 9) {
            sleep(SECOND).await;
            talk.reader.read_exact(part).await.unwrap();
        }
        assert_eq!(replies, framed(&[7; BIG_LEN]).repeat(2));
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_questions_are_looked_up_at_once() {
        let mut talk = Talk::start().await;
        for _ in 0..MAX_PIPELINED {
            talk.ask(b"slow").await;
        }
        talk.ask(b"a").await;
        assert!(timeout(SECOND, talk.reply()).await.is_err());
        assert_eq!(talk.taken.load(Ordering::Relaxed), MAX_PIPELINED);
        talk.gate.add_permits(1);
        assert_eq!(talk.reply().await, b"slow");
        assert_eq!(talk.reply().await, b"a");
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_makes_room_and_a_busy_one_does_not() {
        let mut talk = Talk::start().await;
        talk.ask(b"slow").await;
        sleep(SECOND).await;
        assert!(
            talk.places.take(CLIENT).await.is_none(),
            "a reply is awaited"
        );
        talk.writer.write_all(&[0]).await.unwrap();
        talk.gate.add_permits(1);
        assert_eq!(talk.reply().await, b"slow");
        assert!(
            talk.places.take(CLIENT).await.is_none(),
            "a message is half read"
        );
        talk.writer.write_all(&[1, b'a']).await.unwrap();
        assert_eq!(talk.reply().await, b"a");
        sleep(SECOND).await;
        assert!(talk.places.take(CLIENT).await.is_some());
        assert_eq!(talk.ends().await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_it_when_the_replies_on_the_way_are_out() {
        let mut talk = Talk::start().await;
        talk.ask(b"slow").await;
        sleep(SECOND).await;
        talk.stop.cancel();
        sleep(SECOND).await;
        talk.ask(b"a").await;
        talk.gate.add_permits(1);
        assert_eq!(talk.reply().await, b"slow");
        assert_eq!(talk.ends().await, Duration::ZERO);
        assert!(talk.served.await.unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn buffers_are_given_back_when_idle() {
        let (mut incoming, mut outgoing) = (Incoming::default(), Outgoing::new());
        let message = framed(&vec![0; BIG_LEN]);
        incoming.bytes.extend(&message);
        assert_eq!(incoming.next().map(<[u8]>::len), Some(BIG_LEN));
        outgoing.push(&message);
        outgoing.remove(2 + message.len());
        incoming.shrink();
        outgoing.shrink();
        assert!(incoming.bytes.capacity() <= BUFFER_LEN);
        assert!(outgoing.bytes.capacity() <= BUFFER_LEN);
    }
}
