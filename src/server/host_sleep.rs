//! Notices that the host has slept.
//!
//! Timers and caches go by a clock that stands still meanwhile (CLOCK_MONOTONIC), while what they hold grows
//! older. Another clock of the kernel goes on (CLOCK_BOOTTIME): the two part by the time that the host sleeps.

use std::time::Duration;

use tokio::time::sleep;

/// How often the clocks are compared: soon after a host wakes the first questions come.
const INTERVAL: Duration = Duration::from_secs(1);
/// Less is no sleep: the clocks are read one after the other.
const SHORTEST: Duration = Duration::from_secs(1);

/// The sleep of this host.
#[derive(Debug)]
pub(super) struct HostSleep {
    /// How long it has slept since its start.
    so_far: Duration,
}

impl HostSleep {
    pub(super) fn from_now_on() -> Self {
        Self {
            so_far: slept_since_boot(),
        }
    }

    /// Waits until the host has slept, and returns for how long. Nothing is lost if it is dropped while it
    /// waits.
    pub(super) async fn ended(&mut self) -> Duration {
        loop {
            sleep(INTERVAL).await;
            if let Some(slept) = self.counted(slept_since_boot()) {
                return slept;
            }
        }
    }

    /// What has come to it since the last time.
    fn counted(&mut self, since_boot: Duration) -> Option<Duration> {
        let slept = since_boot.checked_sub(self.so_far)?;
        (slept >= SHORTEST).then(|| {
            self.so_far = since_boot;
            slept
        })
    }
}

/// How far the two clocks are apart; zero where there is only one.
#[cfg(target_os = "linux")]
fn slept_since_boot() -> Duration {
    use nix::time::{ClockId, clock_gettime};
    // In this order a pause between the two is not taken for a sleep.
    let [all, awake] = [ClockId::CLOCK_BOOTTIME, ClockId::CLOCK_MONOTONIC]
        .map(|clock| clock_gettime(clock).map_or(Duration::ZERO, Duration::from));
    all.saturating_sub(awake)
}

#[cfg(not(target_os = "linux"))]
fn slept_since_boot() -> Duration {
    Duration::ZERO
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sleep_is_told_once() {
        let second = Duration::from_secs(1);
        let mut sleep = HostSleep { so_far: 7 * second };
        assert_eq!(sleep.counted(7 * second), None);
        assert_eq!(sleep.counted(7 * second + SHORTEST / 2), None);
        assert_eq!(sleep.counted(3607 * second), Some(3600 * second));
        assert_eq!(sleep.counted(3607 * second), None);
        assert_eq!(sleep.counted(3606 * second), None);
        assert_eq!(sleep.counted(3609 * second), Some(2 * second));
    }

    #[test]
    fn an_awake_host_does_not_sleep() {
        let mut sleep = HostSleep::from_now_on();
        assert_eq!(sleep.counted(slept_since_boot()), None);
    }
}
