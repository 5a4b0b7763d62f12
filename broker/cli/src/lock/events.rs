//! What happened to locks, and what happens.

use clap::Args;
use plimsoll_client::{Client, ErrorCode, LockEvent, LockEventError, LockWatch};

use super::render::{EventJson, Present, PresentJson, event_line, present_line};
use super::{NamespaceArgs, lock_failure, refused};
use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::{Failure, note};
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
                let NamespaceArgs { namespace } = &self.namespace;
                let opened = client.admin().locks(namespace).history(&self.lock).await;
                let about = self.namespace.about(&self.lock);
                let doing = format!("read the history of lock {}", self.lock);
                let mut events = opened.map_err(|error| lock_failure(&doing, about, &error))?;
                let mut output = Output::stdout();
                let mut is_empty = true;
                while let Some(event) = events.next().await {
                    is_empty = false;
                    print(&mut output, event, self.json)?;
                }
                output.flush()?;
                if is_empty {
                    note(&format!(
                        "namespace {namespace} keeps nothing of a lock {}; {} shows those that are in use",
                        self.lock,
                        about.list()
                    ));
                }
                Ok(Exit::Done)
            })
            .await
    }
}

const WATCH_HELP: &str = "\
Examples:
  plimsoll lock watch
  plimsoll lock watch nightly --namespace jobs --json
  plimsoll lock watch nightly --count 1                 until the next thing happens

First come the locks that are in use with those who hold them (`present` in JSON; of all locks, one holder each), then
what happens. What happened while that was gathered may come once more.";

/// Print who holds locks and what happens to them from now on, until Ctrl-C
#[derive(Debug, Args)]
#[command(after_long_help = WATCH_HELP)]
pub(super) struct WatchArgs {
    /// The lock; default: all of the namespace
    lock: Option<String>,
    #[command(flatten)]
    namespace: NamespaceArgs,
    /// End after so many things that happened
    #[arg(long, short = 'n', value_name = "N")]
    count: Option<u64>,
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
                let about = self.namespace.about(self.lock.as_deref().unwrap_or("NAME"));
                // Before anybody asks who holds them, so that nothing is missed between.
                let opened = match &self.lock {
                    Some(lock) => locks.watch(lock).await,
                    None => locks.watch_prefix("").await,
                };
                let mut events =
                    opened.map_err(|error| lock_failure("watch locks", about, &error))?;
                let mut output = Output::stdout();
                for present in self.present(client).await? {
                    match self.json {
                        true => output.json(&PresentJson::of(&present))?,
                        false => output.line(&present_line(&present))?,
                    }
                }
                self.follow(&mut events, &mut interrupt, &mut output).await
            })
            .await
    }

    /// The locks that are in use; one that is asked for by name also if it is not.
    async fn present(&self, client: &Client) -> Result<Vec<Present>, Failure> {
        let admin = client.admin().locks(&self.namespace.namespace);
        let about = self.namespace.about(self.lock.as_deref().unwrap_or("NAME"));
        let Some(lock) = &self.lock else {
            let listed = admin.list("").await;
            let listed = listed.map_err(|error| refused("list locks", about, &error))?;
            return Ok(listed.into_iter().map(Present::of_info).collect());
        };
        match admin.describe(lock).await {
            Ok(described) => Ok(vec![Present::of_description(described)]),
            Err(error) if error.code() == Some(ErrorCode::UnknownLock) => {
                note(&format!(
                    "lock {lock} is in no use yet; {} shows those that are",
                    about.list()
                ));
                Ok(vec![Present::unused(lock)])
            }
            Err(error) => Err(refused(&format!("describe lock {lock}"), about, &error)),
        }
    }

    async fn follow(
        &self,
        events: &mut LockWatch,
        interrupt: &mut Interrupt,
        output: &mut Output,
    ) -> Result<Exit, Failure> {
        let mut left = self.count.unwrap_or(u64::MAX);
        output.flush()?;
        while left > 0 {
            let event = tokio::select! {
                biased;
                () = interrupt.asked() => break,
                event = events.next() => event,
            };
            let Some(event) = event else { break };
            print(output, event, self.json)?;
            output.flush()?;
            left -= 1;
        }
        Ok(Exit::Done)
    }
}

fn print(
    output: &mut Output,
    event: Result<LockEvent, LockEventError>,
    json: bool,
) -> Result<(), Failure> {
    let event = event.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    if json { output.json(&EventJson::of(&event)) } else { output.line(&event_line(&event)) }
}
