//! What must be undone, as a stack that survives panics and termination signals.
//!
//! An action is registered with [`defer`] and runs exactly once: when its [`Deferred`] is dropped, or, newest first,
//! when SIGINT, SIGTERM or SIGHUP arrives; after that the process ends the way the signal would have ended it.
//! SIGKILL cannot be handled: processes are covered by [`crate::process`], names by the sweep in [`crate::place`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

type Action = Box<dyn FnOnce() + Send>;

struct Stack {
    next: u64,
    /// Registered and not yet begun, oldest first.
    waiting: Vec<(u64, Action)>,
    /// Begun and not yet finished.
    running: usize,
}

static STACK: Mutex<Stack> = Mutex::new(Stack {
    next: 0,
    waiting: Vec::new(),
    running: 0,
});
static FINISHED: Condvar = Condvar::new();
static SIGNALS: Once = Once::new();
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How long a signal waits for actions that other threads are in the middle of.
const PATIENCE: Duration = Duration::from_secs(15);

fn stack() -> MutexGuard<'static, Stack> {
    // No action runs under the lock, so a poisoned lock still guards a sound list.
    STACK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An action that will run when this value is dropped, unless a signal ran it first.
#[derive(Debug)]
#[must_use = "dropping it at once undoes the work at once"]
pub struct Deferred(u64);

/// Registers `action`. The first call installs the handlers of the termination signals.
pub fn defer(action: impl FnOnce() + Send + 'static) -> Deferred {
    SIGNALS.call_once(watch_signals);
    let mut stack = stack();
    let id = stack.next;
    stack.next += 1;
    stack.waiting.push((id, Box::new(action)));
    Deferred(id)
}

impl Deferred {
    /// Gives the action up: what it would have undone stays.
    pub fn forget(self) {
        let mut stack = stack();
        stack.waiting.retain(|(id, _)| *id != self.0);
        drop(stack);
        std::mem::forget(self);
    }
}

impl Drop for Deferred {
    fn drop(&mut self) {
        run_one(|waiting| waiting.iter().position(|(id, _)| *id == self.0));
    }
}

/// Runs the action that `pick` points at. Returns false when there is none.
fn run_one(pick: impl FnOnce(&[(u64, Action)]) -> Option<usize>) -> bool {
    let mut guard = stack();
    let Some(index) = pick(&guard.waiting) else {
        return false;
    };
    let (_, action) = guard.waiting.remove(index);
    guard.running += 1;
    drop(guard);
    // An action that panics must neither end the signal thread nor leave the count wrong.
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(action));
    stack().running -= 1;
    FINISHED.notify_all();
    true
}

/// Runs everything that is registered, newest first, and waits for what other threads have begun.
pub fn run_all() {
    while run_one(|waiting| waiting.len().checked_sub(1)) {}
    let guard = stack();
    let _ = FINISHED.wait_timeout_while(guard, PATIENCE, |stack| stack.running > 0);
}

/// Never returns if a termination signal has arrived: the cleanup ends the process. To be called before a failure is
/// reported, because what fails after a signal fails because of it, and an early exit would cut the cleanup short.
pub fn yield_to_signal() {
    while INTERRUPTED.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

fn watch_signals() {
    let signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]);
    let mut signals = match signals {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("cleanup after signals is not available: {error}");
            return;
        }
    };
    let thread = std::thread::Builder::new()
        .name("cleanup".into())
        .spawn(move || {
            if let Some(signal) = signals.forever().next() {
                INTERRUPTED.store(true, Ordering::SeqCst);
                eprintln!("\nsignal {signal}: cleaning up");
                run_all();
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
        });
    if let Err(error) = thread {
        eprintln!("cleanup after signals is not available: {error}");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn an_action_runs_once_and_not_after_forget() {
        let runs = Arc::new(AtomicU32::new(0));
        let count = |runs: &Arc<AtomicU32>| {
            let runs = Arc::clone(runs);
            defer(move || {
                runs.fetch_add(1, Ordering::SeqCst);
            })
        };
        drop(count(&runs));
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        count(&runs).forget();
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        let panicking = defer(|| panic!("on purpose"));
        drop(panicking);
        assert_eq!(stack().running, 0);
    }
}
