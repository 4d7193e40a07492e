//! What a panic does: it ends the process, unless it comes from a future that is isolated on purpose.
//!
//! A resolver that lost a task in silence would go on with a part of it dead. So the process ends and
//! the service manager starts a new one. The exception is the DHT library, whose own threads or calls
//! may panic on what strangers send: that costs one DHT node, which is built anew. And the database of
//! the packet store, which may panic on a damaged file.

use std::any::Any;
use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

/// The exit code of a Rust program that panicked.
pub const EXIT_PANIC: i32 = 101;
/// The name that the DHT library gives its threads.
const DHT_THREAD: &str = "Mainline Dht actor thread";

thread_local! {
    static ISOLATED: Cell<bool> = const { Cell::new(false) };
}

/// Makes every panic that is not isolated end the process, after the message of the previous hook.
/// For the program; a library's user may want their own.
pub fn end_process_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        let in_dht = std::thread::current().name() == Some(DHT_THREAD);
        if !in_dht && !ISOLATED.get() {
            std::process::exit(EXIT_PANIC);
        }
    }));
}

/// Runs something whose panics are its output: `Err` with the message.
pub fn isolate<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    let outer = ISOLATED.replace(true);
    // What a panic leaves half done is dropped by the caller and not used again.
    let outcome = catch_unwind(AssertUnwindSafe(run));
    ISOLATED.set(outer);
    outcome.map_err(|payload| message(payload.as_ref()))
}

/// A future whose panics are its output: `Err` with the message.
pub struct Isolated<F>(Pin<Box<F>>);

impl<F: Future> Isolated<F> {
    /// Isolates a future.
    pub fn new(future: F) -> Self {
        Self(Box::pin(future))
    }
}

impl<F> std::fmt::Debug for Isolated<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Isolated")
    }
}

impl<F: Future> Future for Isolated<F> {
    type Output = Result<F::Output, String>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match isolate(|| self.0.as_mut().poll(context)) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    }
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panicked".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_inside_is_an_error_outside() {
        let result = Isolated::new(async { panic!("inside {}", 1) }).await;
        assert_eq!(result, Err::<(), _>("inside 1".to_owned()));
        assert_eq!(Isolated::new(async { 7 }).await, Ok(7));
        assert!(!ISOLATED.get());
        assert_eq!(isolate(|| panic!("here")), Err::<(), _>("here".to_owned()));
        assert_eq!(isolate(|| ISOLATED.get()), Ok(true));
        assert!(!ISOLATED.get());
    }
}
