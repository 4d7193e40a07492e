//! Messages with their length before them, over TCP (RFC 7766) or TLS (RFC 7858): many queries under
//! way, responses in any order.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, split};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::LinkError;
use super::connection::{Channel, Connection, MAX_UNDER_WAY};
use super::health::{Health, IDLE_TIMEOUT};
use crate::wire::{self, HEADER_LEN};

/// Queries without a response on one connection, those included that nobody waits for any more: their
/// IDs are not free, as the response may still come. With more the connection is made anew.
const MAX_UNANSWERED: usize = 4 * MAX_UNDER_WAY;
/// Responses that answer no query of this connection; with more the server is not in its right mind.
const MAX_STRAY: usize = 16;
/// Queries that go out in one write at most.
const MAX_BATCH: usize = 64;
/// How long the server may refuse to take bytes.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long saying goodbye may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Where queries are put on a connection.
#[derive(Debug)]
pub(super) struct Queries {
    outgoing: mpsc::Sender<Vec<u8>>,
    unanswered: Arc<Unanswered>,
}

/// The queries that have no response yet, by the ID that they went out with.
#[derive(Debug, Default)]
struct Unanswered(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    waiting: HashMap<u16, oneshot::Sender<Vec<u8>>>,
    end: Option<LinkError>,
}

/// A connection over a stream that is ready for messages.
pub(super) fn connection<S>(stream: S) -> Connection
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let health = Arc::new(Health::new());
    let unanswered = Arc::new(Unanswered::default());
    let (outgoing, queue) = mpsc::channel(MAX_UNDER_WAY);
    let driver = drive(stream, queue, Arc::clone(&unanswered), Arc::clone(&health));
    let queries = Queries {
        outgoing,
        unanswered,
    };
    Connection::new(Channel::Stream(queries), health, driver)
}

impl Queries {
    /// Sends a query under an ID of this connection's own.
    pub(super) async fn ask(&self, query: &[u8]) -> Result<Vec<u8>, LinkError> {
        let (id, response) = self.unanswered.add()?;
        let length = u16::try_from(query.len()).unwrap_or(u16::MAX);
        // RFC 7766 section 8: length and message in one write.
        let mut framed = Vec::with_capacity(query.len() + 2);
        framed.extend(length.to_be_bytes());
        framed.extend_from_slice(query);
        wire::write_at(&mut framed, 2, &id.to_be_bytes());
        if self.outgoing.send(framed).await.is_err() {
            return Err(self.unanswered.why());
        }
        response.await.map_err(|_| self.unanswered.why())
    }
}

impl Unanswered {
    fn add(&self) -> Result<(u16, oneshot::Receiver<Vec<u8>>), LinkError> {
        let mut table = self.lock();
        if let Some(error) = &table.end {
            return Err(error.clone());
        }
        if table.waiting.len() >= MAX_UNANSWERED {
            return Err(lost("the server leaves too many queries unanswered"));
        }
        // Nobody who sees other IDs can tell this one (RFC 5452 section 4.3). Most are free.
        let id = loop {
            let id = rand::random();
            if !table.waiting.contains_key(&id) {
                break id;
            }
        };
        let (sender, receiver) = oneshot::channel();
        table.waiting.insert(id, sender);
        Ok((id, receiver))
    }

    /// Gives a response to who waits for it. `false` if there was no such query.
    fn answer(&self, message: Vec<u8>) -> bool {
        let id = wire::read_u16(&message, 0);
        let waiting = id.and_then(|id| self.lock().waiting.remove(&id));
        let known = waiting.is_some();
        if let Some(waiting) = waiting {
            // Whoever asked may have gone.
            let _ = waiting.send(message);
        }
        known
    }

    fn end(&self, error: LinkError) {
        let mut table = self.lock();
        table.end = Some(error);
        table.waiting.clear();
    }

    fn why(&self) -> LinkError {
        let end = self.lock().end.clone();
        end.unwrap_or_else(|| lost("closed"))
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads and writes until the connection ends; gives the reason.
async fn drive<S>(
    stream: S,
    mut queue: mpsc::Receiver<Vec<u8>>,
    unanswered: Arc<Unanswered>,
    health: Arc<Health>,
) -> LinkError
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (reader, mut writer) = split(stream);
    let error = tokio::select! {
        error = read(reader, &unanswered, &health) => error,
        error = write(&mut writer, &mut queue) => error,
    };
    health.end(error.clone());
    unanswered.end(error.clone());
    let _ = timeout(CLOSE_TIMEOUT, writer.shutdown()).await;
    error
}

async fn read<R>(reader: R, unanswered: &Unanswered, health: &Health) -> LinkError
where
    R: AsyncRead + Unpin,
{
    let mut reader = BufReader::new(reader);
    let mut stray = 0;
    loop {
        let message = match read_message(&mut reader).await {
            Ok(message) => message,
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                return lost("closed by the server");
            }
            Err(error) => return lost(&error.to_string()),
        };
        if message.len() < HEADER_LEN {
            return lost("the server sent a message shorter than a header");
        }
        if unanswered.answer(message) {
            health.heard();
            continue;
        }
        stray += 1;
        if stray > MAX_STRAY {
            return lost("the server sent too many responses that nobody asked for");
        }
    }
}

async fn read_message<R>(reader: &mut R) -> std::io::Result<Vec<u8>>
where
    R: AsyncRead + Unpin,
{
    let length = reader.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    reader.read_exact(&mut message).await?;
    Ok(message)
}

async fn write<W>(writer: &mut W, queue: &mut mpsc::Receiver<Vec<u8>>) -> LinkError
where
    W: AsyncWrite + Unpin,
{
    let mut batch = Vec::new();
    loop {
        match timeout(IDLE_TIMEOUT, queue.recv_many(&mut batch, MAX_BATCH)).await {
            Ok(0) => return lost("no longer needed"),
            Ok(_) => {}
            Err(_) => return lost("idle"),
        }
        let bytes = batch.concat();
        batch.clear();
        let write = async {
            writer.write_all(&bytes).await?;
            writer.flush().await
        };
        match timeout(WRITE_TIMEOUT, write).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return lost(&error.to_string()),
            Err(_) => return lost("the server takes no queries any more"),
        }
    }
}

fn lost(why: &str) -> LinkError {
    LinkError::Lost(why.to_owned())
}

#[cfg(test)]
mod tests;
