//! What happened to locks, and what happens.

use clap::Args;
use plimsoll_client::{LockEvent, LockEventError, LockWatch};

use super::render::{EventJson, event_line};
use super::{NamespaceArgs, lock_failure};
use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::output::Output;

/// Print what happened to a lock, the earliest first
///
/// As far back as the namespace keeps it (`plimsoll lock namespace create --history`).
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  plimsoll lock history nightly\n  plimsoll lock history nightly \
                       --json | jq -r 'select(.what == \"expired\") | .label'"
)]
pub(super) struct HistoryArgs {
    /// The lock
    lock: String,
    #[command(flatten)]
    namespace: NamespaceArgs,
    /// Print a JSON object per line
    #[arg(long)]
    json: bool,
}

impl HistoryArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        connection
            .with_client(async |client| {
                let opened =
                    client.admin().locks(&self.namespace.namespace).history(&self.lock).await;
                let doing = format!("read the history of lock {}", self.lock);
                let mut events = opened.map_err(|error| lock_failure(&doing, &error))?;
                let mut output = Output::stdout();
                while let Some(event) = events.next().await {
                    print(&mut output, event, self.json)?;
                }
                output.flush()?;
                Ok(Exit::Done)
            })
            .await
    }
}

/// Print what happens to locks from now on, until Ctrl-C
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  plimsoll lock watch\n  plimsoll lock watch nightly --namespace jobs \
                       --json"
)]
pub(super) struct WatchArgs {
    /// The lock; default: all of the namespace
    lock: Option<String>,
    #[command(flatten)]
    namespace: NamespaceArgs,
    /// Print a JSON object per line
    #[arg(long)]
    json: bool,
}

impl WatchArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let mut interrupt = Interrupt::listen()?;
        connection
            .with_client(async |client| {
                let locks = client.locks(&self.namespace.namespace);
                let opened = match &self.lock {
                    Some(lock) => locks.watch(lock).await,
                    None => locks.watch_prefix("").await,
                };
                let mut events = opened.map_err(|error| lock_failure("watch locks", &error))?;
                follow(&mut events, &mut interrupt, self.json).await
            })
            .await
    }
}

async fn follow(
    events: &mut LockWatch,
    interrupt: &mut Interrupt,
    json: bool,
) -> Result<Exit, Failure> {
    let mut output = Output::stdout();
    loop {
        let event = tokio::select! {
            biased;
            () = interrupt.asked() => break,
            event = events.next() => event,
        };
        let Some(event) = event else { break };
        print(&mut output, event, json)?;
        output.flush()?;
    }
    Ok(Exit::Done)
}

fn print(
    output: &mut Output,
    event: Result<LockEvent, LockEventError>,
    json: bool,
) -> Result<(), Failure> {
    let event = event.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    if json { output.json(&EventJson::of(&event)) } else { output.line(&event_line(&event)) }
}
