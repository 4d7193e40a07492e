//! How a relay does, and how long one that fails is left alone.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::relay::RelayError;

/// The pause after the first failure in a row; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause: where only relays can be reached, one that is back is to be found soon.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// The longest that a relay can ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// How a relay does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayStatus {
    /// Its URL.
    pub url: String,
    /// Lookups that it has answered, since the start.
    pub answered: u64,
    /// Those that it has not, or wrongly.
    pub failed: u64,
    /// Why, if it was the last one.
    pub last_error: Option<String>,
    /// For how long it is left alone.
    pub pause: Duration,
}

/// What is known of how a relay does.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Failures in a row.
    failures: u32,
    /// When it may be asked again.
    until: Option<Instant>,
    answered: u64,
    failed: u64,
    last_error: Option<String>,
}

impl Health {
    /// Whether there is no pause.
    ///
    /// # Errors
    /// When it ends.
    pub(super) fn check(&self) -> Result<(), RelayError> {
        let now = Instant::now();
        match self.lock().until {
            Some(until) if now < until => {
                let left = until.saturating_duration_since(now);
                Err(RelayError::Paused(left.as_secs() + 1))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Takes in how a request ended; tells whether that is news: it has begun to fail, or to work again.
    pub(super) fn take(&self, error: Option<&RelayError>) -> bool {
        let mut state = self.lock();
        state.last_error = error.map(ToString::to_string);
        let count = match error {
            Some(_) => &mut state.failed,
            None => &mut state.answered,
        };
        *count += 1;
        let Some(error) = error.filter(|error| error.is_of_relay()) else {
            state.until = None;
            return std::mem::take(&mut state.failures) > 0;
        };
        let doubled = FIRST_PAUSE.saturating_mul(1 << state.failures.min(16));
        let mut pause = doubled.min(MAX_PAUSE);
        if let RelayError::TooManyRequests(Some(seconds)) = error {
            pause = pause.max(Duration::from_secs(*seconds).min(MAX_RETRY_AFTER));
        }
        // Requests that were under way together fail together.
        if state.until.is_none_or(|until| until <= Instant::now()) {
            state.failures = state.failures.saturating_add(1);
            state.until = Some(Instant::now() + pause);
            return state.failures == 1;
        }
        false
    }

    pub(super) fn status(&self, url: String) -> RelayStatus {
        let state = self.lock();
        let until = state.until;
        RelayStatus {
            url,
            answered: state.answered,
            failed: state.failed,
            last_error: state.last_error.clone(),
            pause: until.map_or(Duration::ZERO, |until| {
                until.saturating_duration_since(Instant::now())
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    /// The seconds of the pause, if there is one.
    fn left(health: &Health) -> Option<u64> {
        match health.check() {
            Ok(()) => None,
            Err(RelayError::Paused(seconds)) => Some(seconds),
            Err(error) => unreachable!("{error}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_double_and_end_with_what_works() {
        let health = Health::default();
        let lost = RelayError::Connection("lost".to_owned());
        assert_eq!(left(&health), None);
        for (seconds, is_news) in [
            (1, true),
            (2, false),
            (4, false),
            (8, false),
            (16, false),
            (30, false),
            (30, false),
        ] {
            assert_eq!(health.take(Some(&lost)), is_news);
            // One that began before the pause.
            assert!(!health.take(Some(&lost)));
            advance(Duration::from_secs(seconds) - Duration::from_millis(1)).await;
            assert_eq!(left(&health), Some(1));
            advance(Duration::from_millis(1)).await;
            assert_eq!(left(&health), None);
        }
        assert!(health.take(None) && !health.take(None));
        // A packet that is refused says nothing of the relay.
        let refused = RelayError::Packet(crate::pkarr::PacketError::Signature);
        assert!(!health.take(Some(&refused)));
        assert_eq!(left(&health), None);
        let status = health.status("https://relay.example".to_owned());
        assert_eq!((status.answered, status.failed), (2, 15));
        assert_eq!(status.last_error, Some(refused.to_string()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_relay_can_ask_for_longer_pauses() {
        for (asked, expected) in [(None, 1), (Some(0), 1), (Some(60), 60), (Some(9000), 300)] {
            let health = Health::default();
            health.take(Some(&RelayError::TooManyRequests(asked)));
            advance(Duration::from_secs(expected) - Duration::from_millis(1)).await;
            assert_eq!(left(&health), Some(1), "{asked:?}");
            advance(Duration::from_millis(1)).await;
            assert_eq!(left(&health), None, "{asked:?}");
        }
    }
}
