//! UDP: one task a socket reads and answers what needs no lookup; each lookup is a task.

use std::sync::Arc;

use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admit::Transport;
use super::{CurrentService, MAX_WAITING, Next, reply};
use crate::resolve::{Ede, ede};
use crate::wire::MAX_MESSAGE_LEN;

/// Serves a socket until `stop`; questions in flight are tasks of `tasks`.
pub(crate) async fn serve_udp(
    socket: UdpSocket,
    service: Arc<CurrentService>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let socket = Arc::new(socket);
    let waiting = Arc::new(Semaphore::new(MAX_WAITING));
    let mut buffer = vec![0; MAX_MESSAGE_LEN];
    loop {
        let received = tokio::select! {
            () = stop.cancelled() => return,
            received = socket.recv_from(&mut buffer) => received,
        };
        let (length, client) = match received {
            Ok(received) => received,
            Err(error) => {
                // ICMP errors of earlier replies come up here; they say nothing of the next query.
                tracing::debug!(%error, "cannot receive");
                tokio::task::yield_now().await;
                continue;
            }
        };
        let message = buffer.get(..length).unwrap_or_default();
        let service = service.load_full();
        match service.take(message, client, Transport::Udp) {
            Next::Nothing => {}
            Next::Send(bytes) => send(&socket, &bytes, client).await,
            Next::LookUp(asked) => {
                let Ok(place) = Arc::clone(&waiting).try_acquire_owned() else {
                    let busy = Ede::new(ede::NOT_READY, "too many lookups under way");
                    send(&socket, &reply::error(&asked.head, 2, Some(&busy)), client).await;
                    continue;
                };
                let socket = Arc::clone(&socket);
                tasks.spawn(async move {
                    let bytes = service.look_up(*asked).await;
                    send(&socket, &bytes, client).await;
                    drop(place);
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, bytes: &[u8], client: std::net::SocketAddr) {
    if let Err(error) = socket.send_to(bytes, client).await {
        tracing::debug!(%client, %error, "cannot send");
    }
}
