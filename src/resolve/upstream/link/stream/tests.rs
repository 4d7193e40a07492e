use std::collections::HashSet;

use tokio::io::{DuplexStream, duplex};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::super::health::MAX_SILENCE;
use super::super::tests::{answer_all, query, receive, reply, send};
use super::*;

/// A connection, and the server's end of it.
fn connected() -> (Arc<Connection>, DuplexStream) {
    let (ours, theirs) = duplex(1 << 20);
    (Arc::new(connection(ours)), theirs)
}

fn ask(
    asks: &mut JoinSet<Result<Vec<u8>, LinkError>>,
    connection: &Arc<Connection>,
    query: Vec<u8>,
) {
    let connection = Arc::clone(connection);
    asks.spawn(async move { connection.ask(&query).await });
}

fn is_over(connection: &Connection) -> bool {
    connection.end(Instant::now()).is_some()
}

#[tokio::test(start_paused = true)]
async fn responses_in_any_order_go_to_who_asked_with_the_id_that_they_used() {
    let (connection, mut server) = connected();
    let mut asks = JoinSet::new();
    let texts = ["a", "b", "c", "d"];
    for text in texts {
        ask(&mut asks, &connection, query(7, text));
    }
    let mut queries = Vec::new();
    for _ in texts {
        queries.push(receive(&mut server).await.unwrap());
    }
    let ids: HashSet<&[u8]> = queries.iter().map(|query| &query[..2]).collect();
    assert_eq!(ids.len(), texts.len(), "each has an ID of its own");
    for query in queries.iter().rev() {
        send(&mut server, &reply(query)).await;
    }
    let mut responses: Vec<_> = asks
        .join_all()
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    responses.sort();
    let expected: Vec<_> = texts.iter().map(|text| reply(&query(7, text))).collect();
    assert_eq!(responses, expected);
}

#[tokio::test(start_paused = true)]
async fn responses_that_nobody_asked_for_are_dropped() {
    let (connection, mut server) = connected();
    for _ in 0..MAX_STRAY {
        let mut asks = JoinSet::new();
        ask(&mut asks, &connection, query(7, "x"));
        let received = receive(&mut server).await.unwrap();
        let right = reply(&received);
        let mut other = right.clone();
        other[1] ^= 1;
        other.extend(b"forged");
        send(&mut server, &other).await;
        send(&mut server, &right).await;
        let response = asks.join_next().await.unwrap().unwrap();
        assert_eq!(response, Ok(reply(&query(7, "x"))));
    }
    assert!(!is_over(&connection));
    // The first one twice: one too many.
    let mut asks = JoinSet::new();
    ask(&mut asks, &connection, query(7, "x"));
    ask(&mut asks, &connection, query(8, "y"));
    let received = receive(&mut server).await.unwrap();
    send(&mut server, &reply(&received)).await;
    send(&mut server, &reply(&received)).await;
    let results = asks.join_all().await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    let lost = |result: &&Result<_, LinkError>| matches!(result, Err(LinkError::Lost(_)));
    assert_eq!(results.iter().filter(lost).count(), 1);
    assert!(is_over(&connection));
}

#[tokio::test(start_paused = true)]
async fn late_responses_harm_nothing() {
    let (connection, mut server) = connected();
    let mut late = Vec::new();
    for _ in 0..3 * MAX_STRAY {
        let asked = query(7, "slow");
        let patience = Duration::from_millis(10);
        let gone = timeout(patience, connection.ask(&asked)).await;
        assert!(gone.is_err());
        late.push(receive(&mut server).await.unwrap());
    }
    let mut asks = JoinSet::new();
    ask(&mut asks, &connection, query(9, "x"));
    let received = receive(&mut server).await.unwrap();
    for query in late {
        send(&mut server, &reply(&query)).await;
    }
    send(&mut server, &reply(&received)).await;
    let response = asks.join_next().await.unwrap().unwrap();
    assert_eq!(response, Ok(reply(&query(9, "x"))));
    assert!(!is_over(&connection));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_late_is_not_taken_for_dead() {
    let (connection, mut server) = connected();
    for _ in 0..10 {
        let asked = query(7, "slow");
        let gone = timeout(MAX_SILENCE / 2, connection.ask(&asked)).await;
        assert!(gone.is_err());
        let late = receive(&mut server).await.unwrap();
        send(&mut server, &reply(&late)).await;
        sleep(Duration::from_millis(10)).await;
        assert!(!is_over(&connection));
    }
    for _ in 0..3 {
        let gone = timeout(MAX_SILENCE / 2, connection.ask(&query(7, "lost"))).await;
        assert!(gone.is_err());
    }
    assert!(is_over(&connection));
}

#[tokio::test(start_paused = true)]
async fn more_queries_than_a_connection_takes_wait() {
    let (connection, mut server) = connected();
    let mut asks = JoinSet::new();
    for _ in 0..MAX_UNDER_WAY + 10 {
        ask(&mut asks, &connection, query(7, "x"));
    }
    let mut queries = Vec::new();
    let second = Duration::from_secs(1);
    while let Ok(Some(query)) = timeout(second, receive(&mut server)).await {
        queries.push(query);
    }
    assert_eq!(queries.len(), MAX_UNDER_WAY);
    for query in &queries {
        send(&mut server, &reply(query)).await;
    }
    let rest = tokio::spawn(async move { answer_all(&mut server).await });
    for result in asks.join_all().await {
        assert_eq!(result, Ok(reply(&query(7, "x"))));
    }
    drop(connection);
    rest.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_leaves_everything_unanswered_is_left() {
    let (connection, mut server) = connected();
    let reader = tokio::spawn(async move { while receive(&mut server).await.is_some() {} });
    for _ in 0..MAX_UNANSWERED {
        let asked = query(7, "x");
        let gone = timeout(Duration::from_nanos(1), connection.ask(&asked)).await;
        assert!(gone.is_err());
    }
    let result = connection.ask(&query(7, "x")).await;
    assert!(matches!(result, Err(LinkError::Lost(_))), "{result:?}");
    assert!(is_over(&connection));
    drop(connection);
    reader.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_after_a_minute() {
    let (connection, server) = connected();
    let server = tokio::spawn(async move {
        let mut server = server;
        answer_all(&mut server).await;
    });
    connection.ask(&query(7, "x")).await.unwrap();
    sleep(IDLE_TIMEOUT - Duration::from_millis(1)).await;
    assert!(!is_over(&connection));
    sleep(Duration::from_millis(2)).await;
    assert!(is_over(&connection));
    server.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_message_shorter_than_a_header_ends_the_connection() {
    for message in [&b""[..], b"abc", &[0; HEADER_LEN - 1]] {
        let (connection, mut server) = connected();
        let mut asks = JoinSet::new();
        ask(&mut asks, &connection, query(7, "x"));
        receive(&mut server).await.unwrap();
        send(&mut server, message).await;
        let result = asks.join_next().await.unwrap().unwrap();
        assert!(matches!(result, Err(LinkError::Lost(_))), "{result:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_stops_half_way_is_no_response() {
    let (connection, mut server) = connected();
    let mut asks = JoinSet::new();
    ask(&mut asks, &connection, query(7, "x"));
    let received = receive(&mut server).await.unwrap();
    let length = u16::try_from(received.len() + 1).unwrap();
    server.write_all(&length.to_be_bytes()).await.unwrap();
    server.write_all(&reply(&received)).await.unwrap();
    drop(server);
    let result = asks.join_next().await.unwrap().unwrap();
    assert_eq!(result, Err(lost("closed by the server")));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_no_queries_is_given_up() {
    // Room for less than one.
    let (ours, _theirs) = duplex(8);
    let connection = connection(ours);
    let result = connection.ask(&query(7, "x")).await;
    assert_eq!(result, Err(lost("the server takes no queries any more")));
}
