//! TCP: length-prefixed messages, many on the way at once, answered as they become ready (RFC 7766).

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admit::Transport;
use super::{CurrentService, Next};

/// How long a connection may be idle, or take over one message (RFC 7766 section 6.2.3).
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take to accept an answer before the connection is closed.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Questions of one connection that are looked up at once; the next one is read when one is done.
const MAX_PIPELINED: usize = 64;
/// Pause after the system had no more sockets to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Counts the connections of all listeners against a limit that a reload may change.
#[derive(Debug)]
pub(crate) struct Places {
    taken: AtomicUsize,
    limit: AtomicUsize,
}

/// One connection's place, free again when it is dropped.
struct Place(Arc<Places>);

impl Places {
    /// Room for `limit` connections.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            taken: AtomicUsize::new(0),
            limit: AtomicUsize::new(limit),
        })
    }

    /// Changes the limit. Connections that are open stay, and count.
    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    fn take(self: &Arc<Self>) -> Option<Place> {
        let limit = self.limit.load(Ordering::Relaxed);
        let more = |taken| (taken < limit).then_some(taken + 1);
        self.taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .ok()
            .map(|_| Place(Arc::clone(self)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves a listener until `stop`; connections are tasks of `tasks`, each with a place of `places`.
pub(crate) async fn serve_tcp(
    listener: TcpListener,
    service: Arc<CurrentService>,
    places: Arc<Places>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // All places taken: closing at once tells the client to try elsewhere or later.
        let Some(place) = places.take() else {
            continue;
        };
        let service = Arc::clone(&service);
        let (inner_tasks, stop) = (tasks.clone(), stop.clone());
        tasks.spawn(async move {
            if let Err(error) = serve_connection(stream, service, inner_tasks, stop).await {
                tracing::debug!(%error, "a connection broke");
            }
            drop(place);
        });
    }
}

async fn serve_connection(
    stream: TcpStream,
    service: Arc<CurrentService>,
    tasks: TaskTracker,
    stop: CancellationToken,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    let (replies, queue) = mpsc::channel(MAX_PIPELINED);
    let broken = CancellationToken::new();
    let writing = tasks.spawn(write_replies(writer, queue, broken.clone()));
    let read = tokio::select! {
        () = stop.cancelled() => Ok(()),
        () = broken.cancelled() => Ok(()),
        read = read_questions(reader, service, replies, tasks) => read,
    };
    // Answers in flight still go out: each lookup holds a sender.
    let _ = writing.await;
    read
}

/// Reads until the client closes its side, is idle too long, or sends what is no message.
async fn read_questions(
    mut reader: OwnedReadHalf,
    service: Arc<CurrentService>,
    replies: mpsc::Sender<Vec<u8>>,
    tasks: TaskTracker,
) -> std::io::Result<()> {
    let client = reader.peer_addr()?;
    let pipelined = Arc::new(Semaphore::new(MAX_PIPELINED));
    let mut message = Vec::new();
    loop {
        match timeout(IDLE_TIMEOUT, read_message(&mut reader, &mut message)).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return Ok(()),
            Ok(Err(error)) => return Err(error),
            // Idle; but not while it waits for us.
            Err(_) if pipelined.available_permits() < MAX_PIPELINED => {
                let all = u32::try_from(MAX_PIPELINED).unwrap_or(u32::MAX);
                drop(pipelined.acquire_many(all).await);
                return Ok(());
            }
            Err(_) => return Ok(()),
        }
        let service = service.load_full();
        match service.take(&message, client, Transport::Tcp) {
            // A stream that carries what is no query is of no use to anybody.
            Next::Nothing => return Ok(()),
            Next::Send(bytes) => {
                if replies.send(bytes).await.is_err() {
                    return Ok(());
                }
            }
            Next::LookUp(asked) => {
                let Ok(place) = Arc::clone(&pipelined).acquire_owned().await else {
                    return Ok(());
                };
                let replies = replies.clone();
                tasks.spawn(async move {
                    let bytes = service.look_up(*asked).await;
                    // An error means that the client has gone.
                    let _ = replies.send(bytes).await;
                    drop(place);
                });
            }
        }
    }
}

/// Reads one message; `false` at the end of the stream.
async fn read_message(reader: &mut OwnedReadHalf, message: &mut Vec<u8>) -> std::io::Result<bool> {
    let length = match reader.read_u16().await {
        Ok(length) => length,
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) => return Err(error),
    };
    message.resize(usize::from(length), 0);
    reader.read_exact(message).await?;
    Ok(true)
}

async fn write_replies(
    mut writer: OwnedWriteHalf,
    mut queue: mpsc::Receiver<Vec<u8>>,
    broken: CancellationToken,
) {
    let _guard = broken.drop_guard();
    while let Some(reply) = queue.recv().await {
        let Ok(length) = u16::try_from(reply.len()) else {
            continue;
        };
        let framed = [&length.to_be_bytes(), reply.as_slice()].concat();
        match timeout(WRITE_TIMEOUT, writer.write_all(&framed)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}
