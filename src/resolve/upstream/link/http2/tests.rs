use std::future::Future;
use std::net::SocketAddr;

use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::super::Link;
use super::super::health::IDLE_TIMEOUT;
use super::super::tests::*;
use super::*;
use crate::endpoint::Transport;

type Server = h2::server::Connection<TlsStream<TcpStream>, Bytes>;

const PATH: &str = "/dns-query?x=1";

/// An HTTP/2 server; `serve` gets each connection and its number.
async fn server<F, S>(serve: F) -> (Link, Taken)
where
    F: Fn(usize, Server) -> S + Clone + Send + 'static,
    S: Future<Output = ()> + Send + 'static,
{
    server_with(h2::server::Builder::new(), serve).await
}

async fn server_with<F, S>(builder: h2::server::Builder, serve: F) -> (Link, Taken)
where
    F: Fn(usize, Server) -> S + Clone + Send + 'static,
    S: Future<Output = ()> + Send + 'static,
{
    let authority = Authority::new("test authority");
    let config = server_config(authority.issue(&[SERVER_NAME]), b"h2");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (address, taken) = tcp_server(move |number, stream| {
        let (acceptor, builder, serve) = (acceptor.clone(), builder.clone(), serve.clone());
        async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let connection = builder.handshake(stream).await.unwrap();
            serve(number, connection).await;
        }
    })
    .await;
    (link(address, &authority), taken)
}

fn link(server: SocketAddr, authority: &Authority) -> Link {
    let transport = Transport::Https {
        path: PATH.to_owned(),
        http3: false,
    };
    Link::new(
        endpoint(transport, server),
        authority.trusted(),
        no_bootstrap(),
    )
}

async fn body(stream: &mut RecvStream) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(Ok(piece)) = stream.data().await {
        let _ = stream.flow_control().release_capacity(piece.len());
        body.extend(piece);
    }
    body
}

fn answer(respond: &mut SendResponse<Bytes>, status: u16, media_type: &str, body: Vec<u8>) {
    let response = Response::builder()
        .status(status)
        .header("content-type", media_type)
        .body(())
        .unwrap();
    let mut stream = respond.send_response(response, false).unwrap();
    stream.send_data(body.into(), true).unwrap();
}

/// Answers each request as `respond` says from the query.
async fn serve_all(mut connection: Server, respond: fn(&mut SendResponse<Bytes>, Vec<u8>)) {
    let mut requests = JoinSet::new();
    while let Some(Ok((request, mut response))) = connection.accept().await {
        requests.spawn(async move {
            let query = body(&mut request.into_body()).await;
            respond(&mut response, query);
        });
    }
}

fn well(respond: &mut SendResponse<Bytes>, query: Vec<u8>) {
    answer(respond, 200, "application/dns-message", reply(&query));
}

fn is_answer(result: &Result<Vec<u8>, LinkError>) -> bool {
    matches!(result, Err(LinkError::Answer(_)))
}

#[tokio::test]
async fn a_request_says_what_it_must_and_nothing_more() {
    let (told, mut seen) = mpsc::unbounded_channel::<(Request<()>, Vec<u8>)>();
    let (link, _) = server(move |_, mut connection| {
        let told = told.clone();
        async move {
            while let Some(Ok((request, mut response))) = connection.accept().await {
                let (head, mut stream) = request.into_parts();
                let told = told.clone();
                tokio::spawn(async move {
                    let query = body(&mut stream).await;
                    well(&mut response, query.clone());
                    told.send((Request::from_parts(head, ()), query)).unwrap();
                });
            }
        }
    })
    .await;
    let asked = query(7, "x");
    assert_eq!(link.ask(&asked).await, Ok(reply(&asked)));
    let (request, body) = seen.recv().await.unwrap();
    assert_eq!(body, query(0, "x"));
    assert_eq!(request.method(), http::Method::POST);
    let authority = request.uri().authority().unwrap();
    assert_eq!(authority.host(), SERVER_NAME);
    assert_eq!(request.uri().path_and_query().unwrap(), PATH);
    assert_eq!(request.uri().scheme_str(), Some("https"));
    let mut expected = HeaderMap::new();
    expected.insert("accept", "application/dns-message".parse().unwrap());
    expected.insert("content-type", "application/dns-message".parse().unwrap());
    expected.insert("content-length", asked.len().into());
    assert_eq!(request.headers(), &expected);
}

#[tokio::test]
async fn queries_share_a_connection_and_are_answered_in_any_order() {
    let (link, taken) = server(|_, mut connection| async move {
        let mut open = Vec::new();
        while let Some(Ok((request, response))) = connection.accept().await {
            open.push((request.into_body(), response));
            if open.len() == 100 {
                let all = std::mem::take(&mut open);
                tokio::spawn(async move {
                    for (mut request, mut response) in all.into_iter().rev() {
                        let query = body(&mut request).await;
                        well(&mut response, query);
                    }
                });
            }
        }
    })
    .await;
    let link = Arc::new(link);
    let mut asks = JoinSet::new();
    for id in 0..100 {
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
async fn the_server_may_allow_few_requests_at_once() {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(2);
    let (link, taken) = server_with(builder, |_, connection| serve_all(connection, well)).await;
    let link = Arc::new(link);
    let mut asks = JoinSet::new();
    for id in 0..50 {
        let link = Arc::clone(&link);
        asks.spawn(async move {
            let query = query(id, "x");
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
    let (link, taken) = server(|_, connection| {
        serve_all(connection, |respond, query| {
            let message = "application/dns-message";
            let asked = String::from_utf8(query[12..].to_vec()).unwrap();
            match asked.as_str() {
                "500" => answer(respond, 500, message, reply(&query)),
                "404" => answer(respond, 404, "text/html", vec![]),
                "html" => answer(respond, 200, "text/html", reply(&query)),
                "large" => answer(respond, 200, message, vec![0; 65_536]),
                "largest" => {
                    let body = [reply(&query), vec![0; 65_535 - query.len()]].concat();
                    answer(respond, 200, message, body);
                }
                "short" => answer(respond, 200, message, vec![0; 11]),
                "id" => answer(respond, 200, message, [&[9], &reply(&query)[1..]].concat()),
                "reset" => respond.send_reset(Reason::INTERNAL_ERROR),
                _ => answer(respond, 200, "Application/DNS-Message; x=y", reply(&query)),
            }
        })
    })
    .await;
    let ask = async |text: &str| link.ask(&query(7, text)).await;
    for status in [500, 404] {
        assert_eq!(
            ask(&status.to_string()).await,
            Err(LinkError::Status(status))
        );
    }
    for text in ["html", "large", "short", "id", "reset"] {
        let result = ask(text).await;
        assert!(is_answer(&result), "{text}: {result:?}");
    }
    assert_eq!(ask("largest").await.unwrap().len(), 65_535);
    assert_eq!(ask("well").await, Ok(reply(&query(7, "well"))));
    assert_eq!(taken.count(), 1);
}

#[tokio::test]
async fn a_server_that_says_goodbye_is_connected_to_anew() {
    let (link, taken) = server(|_, mut connection| async move {
        let (request, mut response) = connection.accept().await.unwrap().unwrap();
        connection.graceful_shutdown();
        tokio::spawn(async move {
            let query = body(&mut request.into_body()).await;
            well(&mut response, query);
        });
        while connection.accept().await.is_some() {}
    })
    .await;
    for id in 0..5 {
        let query = query(id, "x");
        assert_eq!(link.ask(&query).await, Ok(reply(&query)));
    }
    assert_eq!(taken.count(), 5);
}

#[tokio::test]
async fn a_request_that_was_not_looked_at_is_sent_once_more() {
    let (link, taken) = server(|number, mut connection| async move {
        if number == 0 {
            let (_, mut response) = connection.accept().await.unwrap().unwrap();
            response.send_reset(Reason::REFUSED_STREAM);
            while connection.accept().await.is_some() {}
        } else if number == 1 {
            let _ = connection.accept().await;
            connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            while connection.accept().await.is_some() {}
        } else {
            serve_all(connection, well).await;
        }
    })
    .await;
    let query = query(1, "x");
    assert!(matches!(link.ask(&query).await, Err(LinkError::Lost(_))));
    assert_eq!(taken.count(), 2);
}

#[tokio::test]
async fn a_query_that_nobody_waits_for_is_cancelled() {
    let (told, mut seen) = mpsc::unbounded_channel();
    let (link, _) = server(move |_, mut connection| {
        let told = told.clone();
        async move {
            let mut open = Vec::new();
            while let Some(Ok((_, mut response))) = connection.accept().await {
                let told = told.clone();
                told.send(None).unwrap();
                open.push(tokio::spawn(async move {
                    let reason = std::future::poll_fn(|cx| response.poll_reset(cx)).await;
                    told.send(Some(reason.unwrap())).unwrap();
                }));
            }
        }
    })
    .await;
    let asked = query(1, "x");
    tokio::select! {
        _ = link.ask(&asked) => panic!("answered"),
        seen = seen.recv() => assert_eq!(seen, Some(None)),
    }
    assert_eq!(seen.recv().await, Some(Some(Reason::CANCEL)));
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_a_minute() {
    let (told, mut seen) = mpsc::unbounded_channel();
    let (link, taken) = server(move |_, connection| {
        let told = told.clone();
        async move {
            serve_all(connection, well).await;
            told.send(()).unwrap();
        }
    })
    .await;
    let query = query(1, "x");
    for connections in 1..3 {
        assert_eq!(link.ask(&query).await, Ok(reply(&query)));
        assert_eq!(taken.count(), connections);
        pass(IDLE_TIMEOUT - std::time::Duration::from_millis(100)).await;
        link.ask(&query).await.unwrap();
        assert_eq!(taken.count(), connections);
        pass(IDLE_TIMEOUT).await;
        assert_eq!(seen.recv().await, Some(()));
    }
}

#[tokio::test]
async fn a_server_without_http_2_is_named_so() {
    let authority = Authority::new("test authority");
    let mut config = server_config(authority.issue(&[SERVER_NAME]), b"");
    config.alpn_protocols.clear();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (address, _) = tcp_server(move |_, stream| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream = acceptor.accept(stream).await.unwrap();
            receive(&mut stream).await;
        }
    })
    .await;
    let error = link(address, &authority).ask(&query(1, "x")).await;
    let expected = "the server does not speak HTTP/2".to_owned();
    assert_eq!(error, Err(LinkError::Connect(expected)));
}

#[tokio::test]
async fn time_in_the_caches_of_http_is_taken_from_the_ttls() {
    let (link, _) = server(|_, connection| {
        serve_all(connection, |respond, query| {
            let response = Response::builder()
                .header("content-type", "application/dns-message")
                .header("age", "250")
                .body(())
                .unwrap();
            let mut stream = respond.send_response(response, false).unwrap();
            let body = reply_with_ttl(&query, 600).into();
            stream.send_data(body, true).unwrap();
        })
    })
    .await;
    let query = query(7, "x");
    assert_eq!(link.ask(&query).await, Ok(reply_with_ttl(&query, 350)));
}
