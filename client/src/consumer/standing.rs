//! Whether a subscription stands, and when its node was heard last, for whoever keeps a copy of what it brings.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::time::Instant;

use crate::link::Link;
use crate::pulse::Pulse;

/// See the module. Written by the subscription's task, read by anybody.
#[derive(Debug)]
pub(crate) struct Standing(Mutex<State>);

#[derive(Debug)]
enum State {
    /// The node of this pulse pushes.
    Stands(Arc<Pulse>),
    /// Nobody does; when somebody did, or it was begun.
    Fell(Instant),
}

impl Standing {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State::Fell(Instant::now()))))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no code panics while it holds this lock")
    }

    pub(super) fn stands(&self, link: &Arc<Link>) {
        *self.state() = State::Stands(Arc::clone(link.pulse()));
    }

    pub(super) fn fell(&self) {
        let mut state = self.state();
        if let State::Stands(pulse) = &*state {
            *state = State::Fell(pulse.heard_at());
        }
    }

    /// Whether it stands, and when its node was heard last.
    pub(crate) fn look(&self) -> (bool, Instant) {
        match &*self.state() {
            State::Stands(pulse) => (true, pulse.heard_at()),
            State::Fell(at) => (false, *at),
        }
    }
}
