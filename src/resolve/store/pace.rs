//! How long a read is waited for, and when it is said that reads are slow.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Longest time that a caller waits for what is on disk: after it the network may be faster.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(1);
/// The same while reads run into their time: a disk that hangs is not to cost each key a second.
pub(super) const SLOW_READ_TIMEOUT: Duration = Duration::from_millis(20);
/// How long no read may have run into its time before reads are called quick again: a disk that is at
/// times slow, at times quick, is told of once.
pub(super) const QUICK_AGAIN: Duration = Duration::from_secs(60);

/// How reads have gone.
#[derive(Debug, Default)]
pub(super) struct Pace(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The last one ran into its time.
    is_slow: bool,
    /// When one last did, from when this was said until reads are called quick again.
    said_slow: Option<Instant>,
}

impl Pace {
    /// How long a read is waited for.
    pub(super) fn patience(&self) -> Duration {
        if self.lock().is_slow {
            SLOW_READ_TIMEOUT
        } else {
            READ_TIMEOUT
        }
    }

    /// Notes whether a read came in time; true if that is to be told.
    pub(super) fn note(&self, in_time: bool) -> bool {
        let mut state = self.lock();
        let now = Instant::now();
        state.is_slow = !in_time;
        if !in_time {
            return state.said_slow.replace(now).is_none();
        }
        let is_news = |slow: &mut Instant| now.duration_since(*slow) >= QUICK_AGAIN;
        state.said_slow.take_if(is_news).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_is_slow_at_times_is_told_of_once() {
        let pace = Pace::default();
        assert!(!pace.note(true));
        assert_eq!(pace.patience(), READ_TIMEOUT);
        assert!(pace.note(false));
        for _ in 0..100 {
            assert_eq!(pace.patience(), SLOW_READ_TIMEOUT);
            assert!(!pace.note(false));
            tokio::time::advance(QUICK_AGAIN / 2).await;
            assert!(!pace.note(true));
            assert_eq!(pace.patience(), READ_TIMEOUT);
            assert!(!pace.note(false));
        }
        tokio::time::advance(QUICK_AGAIN).await;
        assert!(pace.note(true), "it is quick again");
        assert!(!pace.note(true));
        assert!(pace.note(false), "and slow again");
    }
}
