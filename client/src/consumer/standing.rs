//! Whether a subscription stands, and when its node was heard last, for whoever keeps a copy of what it brings.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use plimsoll_protocol::api::PingRequest;
use tokio::time::Instant;

use crate::link::Link;

/// See the module. Written by the subscription's task, read by anybody.
pub(crate) struct Standing(Mutex<State>);

enum State {
    /// The node at the other end pushes.
    Stands(Arc<Link>),
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
        *self.state() = State::Stands(Arc::clone(link));
    }

    pub(super) fn fell(&self) {
        let mut state = self.state();
        if let State::Stands(link) = &*state {
            *state = State::Fell(link.pulse().heard_at());
        }
    }

    /// Asks its node for a sign of life, where it was silent for so long. Of an only node nobody else asks that.
    pub(crate) fn ask_if_silent(&self, silent: Duration) {
        if let State::Stands(link) = &*self.state()
            && link.pulse().heard_at().elapsed() >= silent
        {
            let channel = Arc::clone(link.control());
            // The answer is heard, whoever waits for it.
            tokio::spawn(async move { drop(channel.request(PingRequest {}).await) });
        }
    }

    /// Whether it stands, and when its node was heard last.
    pub(crate) fn look(&self) -> (bool, Instant) {
        match &*self.state() {
            State::Stands(link) => (true, link.pulse().heard_at()),
            State::Fell(at) => (false, *at),
        }
    }
}
