//! TCP: length-prefixed messages, many on the way at once, answered as they become ready (RFC 7766,
//! RFC 9210).

mod connection;
mod places;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admit::Transport;
use super::{CurrentService, Next};
use connection::{Taken, converse};
use places::Place;

pub(crate) use places::Places;

/// Pause after the system had no more sockets to give: 100 ms, for others to be closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // RFC 9210 section 4.2: with no place for it, it is closed at once, so that the client knows.
        let Some(place) = places.take(client.ip()).await else {
            tracing::debug!(%client, "no place for a connection");
            continue;
        };
        let (service, stop) = (Arc::clone(&service), stop.clone());
        tasks.spawn(async move {
            if let Err(error) = serve_connection(stream, client, &service, place, &stop).await {
                tracing::debug!(%client, %error, "a connection broke");
            }
        });
    }
}

async fn serve_connection(
    mut stream: TcpStream,
    client: SocketAddr,
    service: &CurrentService,
    mut place: Place,
    stop: &CancellationToken,
) -> io::Result<()> {
    // Replies that are ready are written together, and must not wait for the next ones.
    stream.set_nodelay(true)?;
    let take = |message: &[u8]| {
        let service = service.load_full();
        match service.take(message, client, Transport::Tcp) {
            Next::Nothing => Taken::Nothing,
            Next::Send(reply) => Taken::Reply(reply),
            Next::LookUp(asked) => Taken::Later(async move { service.look_up(*asked).await }),
        }
    };
    let (reader, writer) = stream.split();
    let served = converse(reader, writer, take, &mut place, stop).await;
    // The place is free only when the socket is closed.
    drop(stream);
    drop(place);
    served
}
