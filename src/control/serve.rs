//! Serving the control socket: a task for each connection, few of them, each with little time.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Control, ControlListener, Request};

/// Connections at once: 8, for a few people and a script. The next waits in the kernel's backlog.
pub(super) const MAX_CONNECTIONS: usize = 8;
/// Longest request, with its end of line: 1 KiB. The longest name is a quarter of it.
const MAX_REQUEST: u64 = 1024;
/// How long a request may take to come: 5 s. A program writes it at once, a person pastes it.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take: 10 s. It waits for no network, but for a busy disk at most.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take to accept its reply: 5 s, as for its request.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after the system had no more sockets to give: 100 ms, for others to be closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A reply line.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Reply {
    Ok(Value),
    Error(String),
}

/// Serves the socket until `stop`, then removes its file; replies under way are given up.
pub async fn serve_control(
    listener: ControlListener,
    control: Arc<dyn Control>,
    stop: CancellationToken,
) {
    let mut exchanges = JoinSet::new();
    loop {
        let has_room = exchanges.len() < MAX_CONNECTIONS;
        tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = exchanges.join_next() => {}
            accepted = listener.accept(), if has_room => match accepted {
                Ok(stream) => {
                    let control = Arc::clone(&control);
                    exchanges.spawn(async move {
                        if let Err(error) = exchange(stream, control.as_ref()).await {
                            tracing::debug!(%error, "a control connection broke");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a control connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// One request and its reply.
async fn exchange(mut stream: UnixStream, control: &dyn Control) -> io::Result<()> {
    let mut line = Vec::new();
    let mut reader = BufReader::new((&mut stream).take(MAX_REQUEST));
    let reply = match timeout(REQUEST_TIMEOUT, reader.read_until(b'\n', &mut line)).await {
        Err(_) => {
            let seconds = REQUEST_TIMEOUT.as_secs();
            Reply::Error(format!("the request did not come within {seconds} s"))
        }
        // Somebody looked whether this process is alive.
        Ok(Ok(0)) => return Ok(()),
        Ok(Ok(length)) if !line.ends_with(b"\n") && at_limit(length) => {
            Reply::Error(format!("a request has at most {MAX_REQUEST} bytes"))
        }
        Ok(Ok(_)) => match Request::parse(&line) {
            Ok(request) => answer(request, control).await,
            Err(error) => Reply::Error(error.to_string()),
        },
        Ok(Err(error)) => return Err(error),
    };
    let mut line = serde_json::to_vec(&reply)?;
    line.push(b'\n');
    timeout(WRITE_TIMEOUT, stream.write_all(&line)).await??;
    Ok(())
}

fn at_limit(length: usize) -> bool {
    u64::try_from(length).is_ok_and(|length| length >= MAX_REQUEST)
}

async fn answer(request: Request, control: &dyn Control) -> Reply {
    let report = async {
        match request {
            Request::Status => serde_json::to_value(control.status().await),
            Request::Flush(what) => {
                let flushed = control.flush(what).await;
                let (answers, packets) = (flushed.answers, flushed.packets);
                tracing::info!(answers, packets, "flushed on request");
                serde_json::to_value(flushed)
            }
            Request::Explain(name) => serde_json::to_value(control.explain(name).await),
        }
    };
    match timeout(ANSWER_TIMEOUT, report).await {
        Ok(Ok(report)) => Reply::Ok(report),
        Ok(Err(error)) => Reply::Error(format!("the report cannot be written: {error}")),
        Err(_) => {
            let seconds = ANSWER_TIMEOUT.as_secs();
            Reply::Error(format!("no answer within {seconds} s"))
        }
    }
}
