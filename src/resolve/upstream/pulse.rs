//! How a server is doing: how long its answers take, whether it answers at all.

use std::time::Duration;

use tokio::time::Instant;

/// Of a new round-trip time, the part that goes into the smoothed one, and into its variation (RFC
/// 6298 section 2).
const RTT_GAIN: u32 = 8;
const VARIATION_GAIN: u32 = 4;
/// Variations after which an answer is later than usual (RFC 6298 section 2).
const USUAL_VARIATIONS: u32 = 4;
/// Bounds of the wait for a server before the next one is asked as well. The lower one is for servers
/// in the same house, which must look up themselves what they do not have.
const PATIENCE_MIN: Duration = Duration::from_millis(30);
const PATIENCE_MAX: Duration = Duration::from_millis(300);
/// How long a measurement holds; then a question is sent to the server beside the one that is asked.
const MEASURE_AGAIN: Duration = Duration::from_secs(60);
/// First and longest pause between questions to a server that does not answer.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// How long a server that sends our questions back to us is left alone before it is tested again.
const LOOP_PAUSE: Duration = Duration::from_secs(60);
/// How long a server is asked last that gives bogus answers where others give good ones.
pub(super) const DOUBT: Duration = Duration::from_secs(60);
/// SERVFAIL, REFUSED and their like, one after the other, before an operator is told: single names often
/// fail, and a server that is not to be asked refuses all.
const MAX_REFUSALS: u32 = 16;

/// What is known of a server's health.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    rtt: Option<Rtt>,
    measured: Option<Instant>,
    answered: Option<Instant>,
    /// Failures since the last answer, one after the other.
    failures: u32,
    failed: Option<Instant>,
    /// Answers since the last good one, one after the other.
    refusals: u32,
    /// When it is tried again, if it fails.
    retry: Option<Instant>,
    loops_until: Option<Instant>,
    loop_tested: Option<Instant>,
    doubted_until: Option<Instant>,
    /// Whether somebody is finding out how it does.
    is_probed: bool,
}

#[derive(Debug, Clone, Copy)]
struct Rtt {
    smoothed: Duration,
    variation: Duration,
}

/// A change that an operator wants to know of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It does not answer any more.
    Fails,
    /// It answers again.
    Answers,
    /// It answers, and nothing of use.
    Refuses,
    /// Its answers are of use again.
    Serves,
}

impl Pulse {
    /// Takes the time that an answer took.
    pub(super) fn answered(&mut self, now: Instant, took: Duration) -> Option<Change> {
        let rtt = match self.rtt {
            None => Rtt {
                smoothed: took,
                variation: took / 2,
            },
            Some(Rtt {
                smoothed,
                variation,
            }) => {
                let off = smoothed.abs_diff(took);
                Rtt {
                    smoothed: (smoothed * (RTT_GAIN - 1) + took) / RTT_GAIN,
                    variation: (variation * (VARIATION_GAIN - 1) + off) / VARIATION_GAIN,
                }
            }
        };
        self.rtt = Some(rtt);
        self.measured = Some(now);
        self.answered = Some(now);
        let change = self.is_failing().then_some(Change::Answers);
        self.failures = 0;
        self.retry = None;
        change
    }

    /// Takes whether an answer was a server's failure.
    pub(super) fn refused(&mut self, refused: bool) -> Option<Change> {
        if !refused {
            let before = std::mem::take(&mut self.refusals);
            return (before >= MAX_REFUSALS).then_some(Change::Serves);
        }
        self.refusals = self.refusals.saturating_add(1);
        (self.refusals == MAX_REFUSALS).then_some(Change::Refuses)
    }

    /// Takes that there was silence after a question of this time. It may be the name that is slow: a
    /// server fails if it has been sent a test question since, and has not answered that either.
    pub(super) fn silent(&mut self, now: Instant, asked: Instant) -> Option<Change> {
        let is_tested = self.loop_tested.is_some_and(|tested| tested >= asked);
        if is_tested || self.is_failing() {
            return self.failed(now, asked);
        }
        None
    }

    /// Takes that a question of this time was not answered.
    pub(super) fn failed(&mut self, now: Instant, asked: Instant) -> Option<Change> {
        if self.answered.is_some_and(|answered| answered >= asked) {
            // A datagram was lost, no more.
            return None;
        }
        if self.failed.is_some_and(|failed| failed > asked) {
            // One failure, felt by all who asked meanwhile.
            return None;
        }
        self.failed = Some(now);
        let change = (!self.is_failing()).then_some(Change::Fails);
        let pause = RETRY_MIN * 2_u32.saturating_pow(self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        self.retry = Some(now + pause.min(RETRY_MAX));
        change
    }

    /// Whether a test question may be sent, `pause` after the last one.
    pub(super) fn take_loop_test(&mut self, now: Instant, pause: Duration) -> bool {
        let is_past = |at: Instant| now.saturating_duration_since(at) >= pause;
        let taken = self.loop_tested.is_none_or(is_past);
        if taken {
            self.loop_tested = Some(now);
        }
        taken
    }

    /// Takes that the server sends questions back to us; whether this is news.
    pub(super) fn loops(&mut self, now: Instant) -> bool {
        let news = self.loops_until.is_none();
        // Also if it is to be tested again: then it has been, with this result.
        self.loops_until = Some(now + LOOP_PAUSE);
        news
    }

    /// Takes that a test question did not come back; whether this is news.
    pub(super) fn loops_no_more(&mut self) -> bool {
        self.loops_until.take().is_some()
    }

    /// Whether it must not be asked: until a test question has not come back.
    pub(super) fn is_looping(&self) -> bool {
        self.loops_until.is_some()
    }

    /// Whether it should be tested whether it still sends questions back.
    pub(super) fn should_test(&self, now: Instant) -> bool {
        self.loops_until.is_some_and(|until| now >= until)
    }

    /// Takes that it told what is bogus, and another one did not; whether that is the first time.
    pub(super) fn doubted(&mut self, now: Instant) -> bool {
        self.doubted_until.replace(now + DOUBT).is_none()
    }

    pub(super) fn is_doubted(&self, now: Instant) -> bool {
        self.doubted_until.is_some_and(|until| now < until)
    }

    pub(super) fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// The usual time of an answer; `None` if there has been none.
    pub(super) fn usual(&self) -> Option<Duration> {
        self.rtt.map(|rtt| rtt.smoothed)
    }

    /// How long its answer is waited for before the next server is asked.
    pub(super) fn patience(&self) -> Duration {
        let late = |rtt: Rtt| rtt.smoothed + rtt.variation * USUAL_VARIATIONS;
        self.rtt
            .map_or(PATIENCE_MAX, late)
            .clamp(PATIENCE_MIN, PATIENCE_MAX)
    }

    /// Whether a question should go to it only to see how it does; then nobody else does that until
    /// [`Pulse::probed`].
    pub(super) fn take_probe(&mut self, now: Instant, measures: bool) -> bool {
        let due = match self.retry {
            Some(retry) => now >= retry,
            None => {
                let is_old = |at: Instant| now.saturating_duration_since(at) >= MEASURE_AGAIN;
                measures && self.measured.is_none_or(is_old)
            }
        };
        let taken = due && !self.is_probed && !self.is_looping();
        self.is_probed |= taken;
        taken
    }

    /// The end of what [`Pulse::take_probe`] began.
    pub(super) fn probed(&mut self) {
        self.is_probed = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn patience_is_what_is_usual_and_a_margin() {
        let mut pulse = Pulse::default();
        assert_eq!(pulse.patience(), PATIENCE_MAX);
        for _ in 0..100 {
            pulse.answered(Instant::now(), 50 * MS);
        }
        assert_eq!(pulse.usual().map(|usual| usual.as_millis()), Some(50));
        assert!(pulse.patience() < 60 * MS);
        for took in [40, 160].into_iter().cycle().take(100) {
            pulse.answered(Instant::now(), took * MS);
        }
        assert!(pulse.patience() > 200 * MS);
        pulse.answered(Instant::now(), 2000 * MS);
        assert_eq!(pulse.patience(), PATIENCE_MAX);
        for _ in 0..100 {
            pulse.answered(Instant::now(), MS);
        }
        assert_eq!(pulse.patience(), PATIENCE_MIN);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_fails_is_tried_ever_more_seldom() {
        let mut pulse = Pulse::default();
        let mut now = Instant::now();
        assert_eq!(pulse.failed(now, now), Some(Change::Fails));
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let before = now;
            while !pulse.take_probe(now, false) {
                now += RETRY_MIN;
            }
            pauses.push(now.duration_since(before).as_secs());
            assert!(!pulse.take_probe(now, false), "one at a time");
            pulse.probed();
            assert_eq!(pulse.failed(now, now), None);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pulse.answered(now, MS), Some(Change::Answers));
        assert!(!pulse.take_probe(now, false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_datagram_is_no_failure() {
        let mut pulse = Pulse::default();
        let asked = Instant::now();
        pulse.answered(asked + MS, MS);
        assert_eq!(pulse.failed(asked + 2000 * MS, asked), None);
        assert!(!pulse.is_failing());
        let change = pulse.failed(asked + 4000 * MS, asked + 2 * MS);
        assert_eq!(change, Some(Change::Fails));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_name_is_no_failure_of_its_server() {
        let mut pulse = Pulse::default();
        let mut now = Instant::now();
        for _ in 0..10 {
            let asked = now;
            let tested = pulse.take_loop_test(asked + 300 * MS, 1000 * MS);
            if tested {
                pulse.answered(asked + 310 * MS, 10 * MS);
            }
            now = asked + 2000 * MS;
            assert_eq!(pulse.silent(now, asked), None);
            // No test could be sent after this one.
            assert_eq!(pulse.silent(now, asked + 320 * MS), None);
            now += 100 * MS;
        }
        assert!(!pulse.is_failing());
        // Neither the name nor the test is answered.
        assert!(pulse.take_loop_test(now + 300 * MS, 1000 * MS));
        assert_eq!(pulse.silent(now + 2000 * MS, now), Some(Change::Fails));
        let later = now + 60_000 * MS;
        assert_eq!(pulse.silent(later, later - 2000 * MS), None);
        assert_eq!(pulse.answered(later, MS), Some(Change::Answers));
    }

    #[tokio::test(start_paused = true)]
    async fn an_operator_is_told_once_of_a_server_that_refuses_everything() {
        let mut pulse = Pulse::default();
        for _ in 0..10 {
            for _ in 1..MAX_REFUSALS {
                assert_eq!(pulse.refused(true), None);
            }
            // It did answer something.
            assert_eq!(pulse.refused(false), None);
        }
        for _ in 1..MAX_REFUSALS {
            assert_eq!(pulse.refused(true), None);
        }
        assert_eq!(pulse.refused(true), Some(Change::Refuses));
        for _ in 0..100 {
            assert_eq!(pulse.refused(true), None);
        }
        assert_eq!(pulse.refused(false), Some(Change::Serves));
        assert_eq!(pulse.refused(false), None);
    }

    #[tokio::test(start_paused = true)]
    async fn questions_that_fail_together_are_one_failure() {
        let mut pulse = Pulse::default();
        let asked = Instant::now();
        let now = asked + RETRY_MIN;
        assert_eq!(pulse.failed(now, asked), Some(Change::Fails));
        for late in 1..100 {
            assert_eq!(pulse.failed(now + late * MS, asked + late * MS), None);
        }
        assert!(pulse.take_probe(now + RETRY_MIN, false), "the first pause");
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_measurement_is_repeated_and_a_loop_is_not_asked() {
        let mut pulse = Pulse::default();
        let now = Instant::now();
        assert!(!pulse.take_probe(now, false));
        assert!(pulse.take_probe(now, true));
        pulse.probed();
        pulse.answered(now, MS);
        assert!(!pulse.take_probe(now, true));
        assert!(pulse.take_probe(now + MEASURE_AGAIN, true));
        pulse.probed();
        assert!(pulse.loops(now));
        assert!(!pulse.loops(now));
        assert!(pulse.is_looping());
        assert!(!pulse.take_probe(now + MEASURE_AGAIN, true));
        assert!(!pulse.should_test(now));
        assert!(pulse.should_test(now + LOOP_PAUSE));
        assert!(pulse.is_looping(), "until a test says otherwise");
        assert!(pulse.loops_no_more());
        assert!(!pulse.is_looping());
        assert!(pulse.loops(now), "it is news again");
    }
}
