//! What a connection has come to: whether it has ended, and whether its path looks dead.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::LinkError;

/// How long nothing may come back while queries are under way: a NAT that forgot the connection and a
/// server that lost its power say nothing. A query that has waited for this long is asked again on a new
/// connection, within the 2 s that it has by default; if the server is just slow, that costs no more.
pub(super) const MAX_SILENCE: Duration = Duration::from_millis(1500);
/// How long a connection is kept without a query. Servers keep one for 10 to 60 s.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// The state of one connection, shared by those who ask on it and the task that drives it.
#[derive(Debug)]
pub(super) struct Health(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Queries that are waited for.
    under_way: usize,
    /// The last response, or the first query after it, while queries are under way.
    silent_since: Instant,
    /// Silence before `silent_since` that no response has broken: those who waited have given up.
    silence: Duration,
    last_query: Instant,
    heard: bool,
    end: Option<(LinkError, Instant)>,
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    /// Why.
    pub(super) error: LinkError,
    /// When.
    pub(super) at: Instant,
    /// Whether it had ever given a response.
    pub(super) heard: bool,
}

/// A query under way; it is over when this is dropped.
#[derive(Debug)]
pub(super) struct UnderWay<'a>(&'a Health);

impl Health {
    /// Of a new connection.
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self(Mutex::new(State {
            under_way: 0,
            silent_since: now,
            silence: Duration::ZERO,
            last_query: now,
            heard: false,
            end: None,
        }))
    }

    /// A query is sent.
    pub(super) fn begin(&self) -> UnderWay<'_> {
        let now = Instant::now();
        let mut state = self.lock();
        if state.under_way == 0 {
            state.silent_since = now;
        }
        state.under_way += 1;
        state.last_query = now;
        drop(state);
        UnderWay(self)
    }

    /// A response came, be it a late one.
    pub(super) fn heard(&self) {
        let mut state = self.lock();
        state.heard = true;
        state.silence = Duration::ZERO;
        state.silent_since = Instant::now();
    }

    /// The connection is over; the first reason counts.
    pub(super) fn end(&self, error: LinkError) {
        let now = Instant::now();
        self.lock().end.get_or_insert((error, now));
    }

    /// How it ended, if it has or is given up now.
    pub(super) fn ended(&self, now: Instant) -> Option<Ended> {
        let mut state = self.lock();
        if state.silent_for(now) >= MAX_SILENCE && state.end.is_none() {
            let error = LinkError::Lost("nothing came back any more".to_owned());
            state.end = Some((error, now));
        }
        let heard = state.heard;
        let (error, at) = state.end.clone()?;
        Some(Ended { error, at, heard })
    }

    /// Waits until nothing has come back for [`MAX_SILENCE`]; for who has a query under way.
    pub(super) async fn silent(&self) {
        loop {
            let now = Instant::now();
            let left = MAX_SILENCE.saturating_sub(self.lock().silent_for(now));
            if left.is_zero() {
                return;
            }
            sleep_until(now + left).await;
        }
    }

    /// Waits until there has been no query for [`IDLE_TIMEOUT`].
    pub(super) async fn idle(&self) {
        loop {
            let until = self.lock().last_query + IDLE_TIMEOUT;
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn silent_for(&self, now: Instant) -> Duration {
        let current = match self.under_way {
            0 => Duration::ZERO,
            _ => now.saturating_duration_since(self.silent_since),
        };
        self.silence.saturating_add(current)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut state = self.0.lock();
        if state.under_way == 1 {
            state.silence = state.silent_for(now);
        }
        state.under_way = state.under_way.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn lost() -> LinkError {
        LinkError::Lost("gone".to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn silence_counts_only_while_somebody_waits() {
        let health = Health::new();
        advance(MAX_SILENCE * 10).await;
        assert_eq!(health.ended(Instant::now()), None);
        for _ in 0..3 {
            let query = health.begin();
            advance(MAX_SILENCE / 4).await;
            drop(query);
            advance(MAX_SILENCE).await;
        }
        assert_eq!(health.ended(Instant::now()), None, "three quarters of it");
        let query = health.begin();
        advance(MAX_SILENCE / 4).await;
        let ended = health.ended(Instant::now()).unwrap();
        assert!(!ended.heard);
        assert_eq!(ended.at, Instant::now());
        drop(query);
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_breaks_the_silence_of_all() {
        let health = Health::new();
        let slow = health.begin();
        for _ in 0..4 {
            advance(MAX_SILENCE / 2).await;
            let quick = health.begin();
            health.heard();
            drop(quick);
        }
        assert_eq!(health.ended(Instant::now()), None);
        drop(slow);
        advance(MAX_SILENCE * 2).await;
        assert_eq!(health.ended(Instant::now()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_reason_and_its_time_stay() {
        let health = Health::new();
        health.heard();
        health.end(lost());
        let at = Instant::now();
        advance(Duration::from_secs(1)).await;
        health.end(LinkError::Status(500));
        let ended = Ended {
            error: lost(),
            at,
            heard: true,
        };
        assert_eq!(health.ended(Instant::now()), Some(ended));
    }

    #[tokio::test(start_paused = true)]
    async fn idle_is_a_minute_after_the_last_query() {
        let health = Health::new();
        let start = Instant::now();
        advance(IDLE_TIMEOUT / 2).await;
        drop(health.begin());
        health.idle().await;
        assert_eq!(start.elapsed(), IDLE_TIMEOUT * 3 / 2);
    }
}
