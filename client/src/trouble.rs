//! What keeps a producer or consumer from going on: remembered for who gives up, and told in the log
//! once, when it lasts. A node that is started again is back before anybody is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// How long trouble lasts before it is told.
const TOLD_AFTER: Duration = Duration::from_secs(2);

/// Whether one of the tasks of a producer or consumer has told of the present trouble: they all meet
/// the same one, and one line is enough.
pub(crate) type Told = Arc<AtomicBool>;

/// The trouble of one task. See the module.
#[derive(Debug)]
pub(crate) struct Trouble {
    told: Told,
    met: Option<(Instant, String)>,
}

impl Trouble {
    pub(crate) fn none(told: Told) -> Self {
        Self { told, met: None }
    }

    /// An attempt failed. Gives the reason when it is time to tell, which is once.
    #[must_use = "it is to be told"]
    pub(crate) fn meet(&mut self, reason: String, now: Instant) -> Option<&str> {
        let since = self.met.as_ref().map_or(now, |(since, _)| *since);
        let (_, reason) = self.met.insert((since, reason));
        let lasts = now.saturating_duration_since(since) >= TOLD_AFTER;
        (lasts && !self.told.swap(true, Ordering::Relaxed)).then_some(reason.as_str())
    }

    /// An attempt succeeded.
    pub(crate) fn over(&mut self) {
        if self.met.take().is_some() {
            self.told.store(false, Ordering::Relaxed);
        }
    }

    /// Why the last attempt failed; `None` when it did not.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.met.as_ref().map(|(_, reason)| reason.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_told_once_by_one_task_when_it_lasts_and_anew_after_it_was_over() {
        let told = Told::default();
        let mut tasks = [Trouble::none(Arc::clone(&told)), Trouble::none(told)];
        let began = Instant::now();
        let later = began + TOLD_AFTER;
        for task in &mut tasks {
            assert_eq!(task.meet("no answer".to_owned(), began), None);
        }
        assert_eq!(tasks[0].meet("disk full".to_owned(), later), Some("disk full"));
        assert_eq!(tasks[0].meet("disk full".to_owned(), later), None);
        assert_eq!(tasks[1].meet("disk full".to_owned(), later), None);
        assert_eq!(tasks[1].reason(), Some("disk full"));
        tasks[0].over();
        assert_eq!(tasks[0].reason(), None);
        assert_eq!(tasks[0].meet("again".to_owned(), later), None, "it has just begun");
        assert_eq!(tasks[0].meet("again".to_owned(), later + TOLD_AFTER), Some("again"));
    }
}
