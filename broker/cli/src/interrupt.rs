//! Ctrl-C and SIGTERM: the first asks a command to finish what it has begun, the second ends it at
//! once.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::exit::Exit;
use crate::failure::Failure;

/// What shells expect of a process that a Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// Whether somebody wants the command to end.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt {
    asked: watch::Receiver<bool>,
}

impl Interrupt {
    /// Begins to listen. From here on a signal does not end the process by itself.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let failed = |error: std::io::Error| {
            Failure::new(Exit::Failed, format!("cannot listen for signals: {error}"))
        };
        let mut interrupts = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminations = signal(SignalKind::terminate()).map_err(failed)?;
        let (ask, asked) = watch::channel(false);
        tokio::spawn(async move {
            for first in [true, false] {
                tokio::select! {
                    _ = interrupts.recv() => {}
                    _ = terminations.recv() => {}
                }
                if first {
                    ask.send_replace(true);
                } else {
                    std::process::exit(INTERRUPTED);
                }
            }
        });
        Ok(Self { asked })
    }

    /// Waits until the command should end.
    pub(crate) async fn asked(&mut self) {
        // The task that sends lives as long as the process.
        let _ = self.asked.wait_for(|asked| *asked).await;
    }

    /// Whether the command should end.
    pub(crate) fn is_asked(&self) -> bool {
        *self.asked.borrow()
    }
}
