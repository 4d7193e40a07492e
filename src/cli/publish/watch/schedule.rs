//! When the next round is due.

use std::time::{Duration, SystemTime};

use rand::RngExt;
use tokio::time::Instant;

/// The longest time between two rounds: nodes forget an item some two hours after it was last put (BEP 44).
const INTERVAL: Duration = Duration::from_secs(3600);
/// How soon after few nodes took it.
const AFTER_FEW: Duration = Duration::from_secs(600);
/// How soon after a failure, which doubles with each further one up to the interval.
const AFTER_FAILURE: Duration = Duration::from_secs(60);
/// The part of these times that is left to chance, so that not all publish at once after a power cut.
const JITTER: std::ops::Range<f64> = 0.8..1.0;

/// What a round has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// Enough nodes hold it.
    Well,
    /// Few do.
    Few,
    Failed,
}

/// When the next round is due.
#[derive(Debug)]
pub(super) struct Schedule {
    due: Instant,
    /// The same by the clock on the wall, which goes on while a host sleeps.
    due_on_wall: SystemTime,
    failures: u32,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            due: Instant::now(),
            due_on_wall: SystemTime::now(),
            failures: 0,
        }
    }
}

impl Schedule {
    /// Sets the time of the next round, and returns how long that is.
    pub(super) fn ended(&mut self, ended: Ended) -> Duration {
        self.failures = match ended {
            Ended::Failed => self.failures.saturating_add(1),
            Ended::Well | Ended::Few => 0,
        };
        let longest = match ended {
            Ended::Well => INTERVAL,
            Ended::Few => AFTER_FEW,
            Ended::Failed => {
                let doubled = 2_u32.saturating_pow(self.failures.saturating_sub(1));
                AFTER_FAILURE.saturating_mul(doubled).min(INTERVAL)
            }
        };
        let pause = longest.mul_f64(rand::rng().random_range(JITTER));
        self.due = Instant::now() + pause;
        self.due_on_wall = SystemTime::now() + pause;
        pause
    }

    pub(super) fn is_due(&self) -> bool {
        Instant::now() >= self.due || SystemTime::now() >= self.due_on_wall
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rounds_are_hourly_and_sooner_after_trouble() {
        let mut schedule = Schedule::default();
        assert!(schedule.is_due());
        let mut pauses = |ended| {
            let pause = schedule.ended(ended);
            (pause.as_secs_f64() / 60.0, schedule.is_due())
        };
        for (ended, longest) in [
            (Ended::Well, 60.0),
            (Ended::Few, 10.0),
            (Ended::Failed, 1.0),
            (Ended::Failed, 2.0),
            (Ended::Failed, 4.0),
            (Ended::Well, 60.0),
            (Ended::Failed, 1.0),
        ] {
            let (minutes, is_due) = pauses(ended);
            assert!(
                (0.8 * longest..longest).contains(&minutes),
                "{ended:?}: {minutes}"
            );
            assert!(!is_due);
        }
        for _ in 0..100 {
            assert!(pauses(Ended::Failed).0 <= 60.0);
        }
        tokio::time::advance(INTERVAL).await;
        assert!(schedule.is_due());
    }
}
