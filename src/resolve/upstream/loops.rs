//! Forwarding loops: an upstream that sends our questions back to us, itself or through others.
//!
//! A server that is slower than usual gets a test question, for a name that nobody else asks. If that
//! name is asked of us, the server loops. If it is answered, it was the other name that is slow, and not
//! the server. A question that loops cannot multiply: it meets its own
//! lookup under way and waits with it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hickory_proto::rr::{Name, RecordType};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::server::{Server, Trouble};
use crate::resolve::answers::Question;

/// Test questions under way at once. They are rare: beyond this number no more are sent.
const MAX_TESTS: usize = 64;
/// How long a test question may take. One that loops is back within milliseconds.
const TEST_TIMEOUT: Duration = Duration::from_secs(2);
/// No server gets more than one in this time. Shorter than a question may take, so that nearly every one
/// that is slow has a test of its own.
const TEST_PAUSE: Duration = Duration::from_secs(1);
/// Below this name there is nothing (RFC 6761 section 6.5), and every forwarder forwards it.
const TEST_DOMAIN: &str = "loop-test.pkbridge.example.";

/// Test questions under way, by their names.
#[derive(Debug, Default)]
pub(super) struct Loops {
    tests: Mutex<HashMap<Name, Test>>,
    caught: Notify,
}

#[derive(Debug)]
struct Test {
    server: Arc<Server>,
    came_back: bool,
}

impl Loops {
    /// Sends a test question to a server, below `domain` if it is asked for that alone.
    pub(super) fn test(self: &Arc<Self>, server: &Arc<Server>, domain: Option<&Name>) {
        let now = Instant::now();
        if !server.pulse().take_loop_test(now, TEST_PAUSE) {
            return;
        }
        let Some(name) = test_name(domain) else {
            return;
        };
        {
            let mut tests = self.lock();
            if tests.len() >= MAX_TESTS {
                return;
            }
            let test = Test {
                server: Arc::clone(server),
                came_back: false,
            };
            tests.insert(name.clone(), test);
        }
        let (loops, server) = (Arc::clone(self), Arc::clone(server));
        tokio::spawn(async move {
            let question = Question {
                name: name.clone(),
                rtype: RecordType::TXT,
                dnssec_ok: false,
                checking_disabled: false,
            };
            let answer = server.ask(&question, now + TEST_TIMEOUT).await;
            let test = loops.lock().remove(&name);
            if matches!(answer, Err(Trouble::TimedOut)) {
                server.note_silence(now);
            }
            let is_cured = answer.is_ok() && test.is_some_and(|test| !test.came_back);
            if is_cured && server.pulse().loops_no_more() {
                let server = server.endpoint();
                tracing::info!(%server, "an upstream does not send questions back any more");
            }
        });
    }

    /// Whether a question is one of ours that has come back; its server is not asked for a while
    /// then.
    pub(super) fn is_test(&self, name: &Name) -> bool {
        let mut tests = self.lock();
        if tests.is_empty() {
            return false;
        }
        let Some(test) = tests.get_mut(name) else {
            return false;
        };
        test.came_back = true;
        let server = Arc::clone(&test.server);
        drop(tests);
        if server.pulse().loops(Instant::now()) {
            let server = server.endpoint();
            tracing::error!(
                %server,
                "a forwarding loop: this upstream sends questions back to pkbridge; set [upstream] \
                 servers (or [[forward]] servers) to resolvers that do not forward to pkbridge, or \
                 take pkbridge out of that resolver's own upstreams"
            );
        }
        self.caught.notify_waiters();
        true
    }

    /// Ends when a server is found to loop.
    pub(super) async fn caught(&self) {
        self.caught.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Name, Test>> {
        // Nothing panics while it is held.
        self.tests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a name is one of those that test questions have.
pub(super) fn is_below_test_domain(name: &Name) -> bool {
    let mut labels = name.iter().rev();
    let domain = [b"example".as_slice(), b"pkbridge", b"loop-test"];
    domain.into_iter().all(|label| {
        let here = labels.next();
        here.is_some_and(|here| here.eq_ignore_ascii_case(label))
    })
}

fn test_name(domain: Option<&Name>) -> Option<Name> {
    let label = format!("{:016x}", rand::random::<u64>());
    let domain = match domain {
        Some(domain) => domain.clone(),
        None => Name::from_ascii(TEST_DOMAIN).ok()?,
    };
    domain.prepend_label(label).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_names_are_below_the_test_domain() {
        let name = test_name(None).unwrap();
        assert!(is_below_test_domain(&name), "{name}");
        assert_ne!(test_name(None).unwrap(), name);
        for other in ["example.", "pkbridge.example.", "loop-test.example.", "."] {
            assert!(!is_below_test_domain(&Name::from_ascii(other).unwrap()));
        }
        let lan = Name::from_ascii("lan.").unwrap();
        assert!(lan.zone_of(&test_name(Some(&lan)).unwrap()));
    }
}
