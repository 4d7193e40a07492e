use std::future::Future;

use bytes::Buf;
use h3::server::RequestStream;
use http::{HeaderMap, Request, Response};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::super::Link;
use super::super::quic::tests::{quic_server, resumptions};
use super::super::tests::*;
use super::*;
use crate::endpoint::Transport;

type Stream = RequestStream<h3_quinn::BidiStream<Bytes>, Bytes>;

const PATH: &str = "/dns-query";

/// An HTTP/3 server; `serve` gets each request with its body.
async fn server<F, S>(serve: F) -> (Link, Taken)
where
    F: Fn(Request<()>, Vec<u8>, Stream) -> S + Clone + Send + Sync + 'static,
    S: Future<Output = ()> + Send + 'static,
{
    let authority = Authority::new("test authority");
    let identity = authority.issue(&[SERVER_NAME]);
    let accept = move |_, quic| {
        let serve = serve.clone();
        async move {
            let quic = h3_quinn::Connection::new(quic);
            let mut connection = h3::server::Connection::new(quic).await.unwrap();
            while let Ok(Some(resolver)) = connection.accept().await {
                let serve = serve.clone();
                tokio::spawn(async move {
                    let (request, mut stream) = resolver.resolve_request().await.unwrap();
                    let mut body = Vec::new();
                    while let Ok(Some(mut piece)) = stream.recv_data().await {
                        body.extend(piece.copy_to_bytes(piece.remaining()));
                    }
                    serve(request, body, stream).await;
                });
            }
        }
    };
    let (address, taken) = quic_server(identity, b"h3", accept).await;
    let transport = Transport::Https {
        path: PATH.to_owned(),
        http3: true,
    };
    let endpoint = endpoint(transport, address);
    let link = Link::new(endpoint, authority.trusted(), no_bootstrap());
    (link, taken)
}

async fn answer(mut stream: Stream, status: u16, media_type: &str, body: Vec<u8>) {
    let response = Response::builder()
        .status(status)
        .header("content-type", media_type)
        .body(())
        .unwrap();
    // The client may have had enough of it.
    let _ = stream.send_response(response).await;
    let _ = stream.send_data(body.into()).await;
    let _ = stream.finish().await;
}

const MESSAGE: &str = "application/dns-message";

#[tokio::test]
async fn sessions_are_resumed() {
    let transport = Transport::Https {
        path: PATH.to_owned(),
        http3: true,
    };
    let resumed = resumptions(transport, b"h3", |_, quic| async move {
        let connection = h3_quinn::Connection::new(quic.clone());
        let mut connection = h3::server::Connection::new(connection).await.unwrap();
        let resolver = connection.accept().await.unwrap().unwrap();
        let (_, mut stream) = resolver.resolve_request().await.unwrap();
        let mut body = Vec::new();
        while let Ok(Some(mut piece)) = stream.recv_data().await {
            body.extend(piece.copy_to_bytes(piece.remaining()));
        }
        answer(stream, 200, MESSAGE, reply(&body)).await;
        // The client has had its response when it is told to go.
        connection.shutdown(0).await.unwrap();
        let _ = connection.accept().await;
        quic.close(quinn::VarInt::from_u32(0), b"");
    })
    .await;
    assert_eq!(resumed, 1);
}

#[tokio::test]
async fn a_request_says_what_it_must_and_nothing_more() {
    let (told, mut seen) = mpsc::unbounded_channel();
    let (link, _) = server(move |request, body, stream| {
        let told = told.clone();
        async move {
            told.send((request, body.clone())).unwrap();
            answer(stream, 200, MESSAGE, reply(&body)).await;
        }
    })
    .await;
    let asked = query(7, "x");
    assert_eq!(link.ask(&asked).await, Ok(reply(&asked)));
    let (request, body) = seen.recv().await.unwrap();
    assert_eq!(body, query(0, "x"));
    assert_eq!(request.method(), http::Method::POST);
    assert_eq!(request.uri().authority().unwrap().host(), SERVER_NAME);
    assert_eq!(request.uri().path_and_query().unwrap(), PATH);
    let mut expected = HeaderMap::new();
    expected.insert("accept", MESSAGE.parse().unwrap());
    expected.insert("content-type", MESSAGE.parse().unwrap());
    expected.insert("content-length", asked.len().into());
    assert_eq!(request.headers(), &expected);
}

#[tokio::test]
async fn many_queries_share_a_connection() {
    let (link, taken) =
        server(|_, body, stream| async move { answer(stream, 200, MESSAGE, reply(&body)).await })
            .await;
    let link = Arc::new(link);
    let mut asks = JoinSet::new();
    for id in 0..200 {
        let link = Arc::clone(&link);
        asks.spawn(async move {
            let query = query(id, &id.to_string());
            assert_eq!(link.ask(&query).await, Ok(reply(&query)));
        });
    }
    while let Some(ask) = asks.join_next().await {
        ask.unwrap();
    }
    assert_eq!(taken.count(), 1);
}

#[tokio::test]
async fn what_is_no_message_is_an_error_and_the_connection_stays() {
    let (link, taken) = server(|_, body, mut stream| async move {
        match &body[12..] {
            b"500" => answer(stream, 500, MESSAGE, reply(&body)).await,
            b"html" => answer(stream, 200, "text/html", reply(&body)).await,
            b"large" => answer(stream, 200, MESSAGE, vec![0; 65_536]).await,
            b"largest" => {
                let body = [reply(&body), vec![0; 65_535 - body.len()]].concat();
                answer(stream, 200, MESSAGE, body).await;
            }
            b"short" => answer(stream, 200, MESSAGE, vec![0; 11]).await,
            b"reset" => stream.stop_stream(Code::H3_INTERNAL_ERROR),
            _ => answer(stream, 200, MESSAGE, reply(&body)).await,
        }
    })
    .await;
    let ask = async |text: &str| link.ask(&query(7, text)).await;
    assert_eq!(ask("500").await, Err(LinkError::Status(500)));
    for text in ["html", "large", "short", "reset"] {
        let result = ask(text).await;
        assert!(
            matches!(result, Err(LinkError::Answer(_))),
            "{text}: {result:?}"
        );
    }
    assert_eq!(ask("largest").await.unwrap().len(), 65_535);
    assert_eq!(ask("well").await, Ok(reply(&query(7, "well"))));
    assert_eq!(taken.count(), 1);
}

#[tokio::test]
async fn a_query_that_nobody_waits_for_harms_nothing() {
    let (told, mut seen) = mpsc::unbounded_channel();
    let (link, taken) = server(move |_, body, stream| {
        let told = told.clone();
        async move {
            told.send(()).unwrap();
            if body.ends_with(b"slow") {
                std::future::pending::<()>().await;
            }
            answer(stream, 200, MESSAGE, reply(&body)).await;
        }
    })
    .await;
    let slow = query(7, "slow");
    for _ in 0..20 {
        tokio::select! {
            _ = link.ask(&slow) => panic!("answered"),
            seen = seen.recv() => assert_eq!(seen, Some(())),
        }
    }
    let query = query(7, "x");
    assert_eq!(link.ask(&query).await, Ok(reply(&query)));
    assert_eq!(taken.count(), 1);
}

#[tokio::test]
async fn time_in_the_caches_of_http_is_taken_from_the_ttls() {
    let (link, _) = server(|_, body, mut stream| async move {
        let response = Response::builder()
            .header("content-type", MESSAGE)
            .header("age", "250")
            .body(())
            .unwrap();
        stream.send_response(response).await.unwrap();
        let body = reply_with_ttl(&body, 600).into();
        stream.send_data(body).await.unwrap();
        stream.finish().await.unwrap();
    })
    .await;
    let query = query(7, "x");
    assert_eq!(link.ask(&query).await, Ok(reply_with_ttl(&query, 350)));
}
