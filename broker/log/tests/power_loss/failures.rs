//! What did not pass, collected from all threads: one failure says little, twenty show what they have
//! in common.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Enough to see what they have in common.
const KEPT_MAX: usize = 20;

/// The first failures, in words.
#[derive(Debug, Default)]
pub(crate) struct Failures(Mutex<Vec<String>>);

impl Failures {
    fn notes(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a check; where it panics, notes what `describe` says and the reason.
    pub(crate) fn watch<T>(
        &self,
        describe: impl Fn() -> String,
        check: impl FnOnce() -> T,
    ) -> Option<T> {
        match panic::catch_unwind(AssertUnwindSafe(check)) {
            Ok(value) => Some(value),
            Err(panic) => {
                let mut notes = self.notes();
                if notes.len() < KEPT_MAX {
                    notes.push(format!("{}\n{}\n", describe(), reason(&*panic)));
                }
                None
            }
        }
    }

    /// Whether there is no need to look on.
    pub(crate) fn are_enough(&self) -> bool {
        self.notes().len() >= KEPT_MAX
    }

    /// Ends the test where something did not pass.
    pub(crate) fn expect_none(&self) {
        let notes = self.notes();
        assert!(notes.is_empty(), "{} failures:\n\n{}", notes.len(), notes.join("\n"));
    }
}

fn reason(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked")
}
