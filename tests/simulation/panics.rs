//! Panics of tasks: tokio lets a task that panics end quietly, and the world must not.

use std::cell::RefCell;
use std::sync::Once;

thread_local! {
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// From now on panics of this thread are kept; none is left of before.
pub(crate) fn listen() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.with_borrow_mut(|panics| panics.push(panic.to_string()));
            usual(panic);
        }));
    });
    PANICS.take();
}

/// One that came since.
pub(crate) fn take() -> Option<String> {
    PANICS.with_borrow_mut(|panics| panics.pop())
}
