//! `plimsoll lock run`: holds a lock while a command runs, and stops the command when the lock is lost.

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;
use plimsoll_client::{Client, Lock, LockError, LockGuard, LockLost, Locks, NewLockNamespace};
use rustix::process::Signal;
use tokio::time::{Instant, sleep_until};

use super::process::{Asked, Running, code_of_signal};
use super::{NamespaceArgs, lock_failure, refused};
use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::{Failure, note};
use crate::quantity::{duration_text, parse_duration};

/// Where the command finds its fence.
const FENCE: &str = "PLIMSOLL_FENCE";

const AFTER_HELP: &str = "\
Examples:
  plimsoll lock run nightly -- ./report.sh
  plimsoll lock run deploy --no-wait -- ./deploy.sh production
  plimsoll lock run gpu --permits 4 --wait 10m -- python3 train.py
  plimsoll lock run primary --lead 10.0.0.7:5432 --guard orders -- ./serve.sh

The command finds its fence in PLIMSOLL_FENCE, as namespace/lock/token. What it writes with it is refused once
another holder has been seen: at once where the lock guards the topic (--guard).

The lock is held until the command ends. When the lock is lost meanwhile (no node was reached for as long as
its lease, this process was stopped, an operator took it), the command gets SIGTERM, and SIGKILL after --grace.
SIGINT, SIGTERM and SIGHUP are handed on to the command, and the lock is released when it has ended. The command
has a process group of its own, and signals go to all of it; on a terminal it does not, and they go to the command
alone. What it leaves running in the background is not waited for.

A SIGKILL of `plimsoll lock run` itself leaves the command running, without the lock once the lease is over: only its
fence keeps what it writes from counting then, in guarded topics (--guard) before the next holder begins.

Exit codes:
  the command's own; 128 and the signal's number where a signal ended it
  75   the lock was not acquired: it is taken, or the wait is over; the command was not started
  76   the lock was lost: the command was stopped, or has ended without it
  126  the command cannot be run
  127  there is no such command
  others as `plimsoll --help`, where nothing was acquired";

/// Run a command while holding a lock
///
/// Waits for the lock in the order of arrival, keeps it while the command runs, and gives it back.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct RunArgs {
    /// The lock
    lock: String,
    #[command(flatten)]
    namespace: NamespaceArgs,
    /// How long nothing may be heard of this process before others get the lock, 1s to 10m
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "10s")]
    lease: Duration,
    /// Wait no longer than this; default: for ever
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    wait: Option<Duration>,
    /// Do not wait at all
    #[arg(long, conflicts_with = "wait")]
    no_wait: bool,
    /// As one of several readers, of a lock that has writers
    #[arg(long, conflicts_with_all = ["write", "permits", "lead"])]
    read: bool,
    /// As the only writer, of a lock that has readers
    #[arg(long, conflicts_with_all = ["permits", "lead"])]
    write: bool,
    /// As one of at most N holders
    #[arg(long, value_name = "N", conflicts_with = "lead",
          value_parser = clap::value_parser!(u32).range(1..))]
    permits: Option<u32>,
    /// As the leader of an election, whose observers see VALUE
    #[arg(long, value_name = "VALUE")]
    lead: Option<String>,
    /// A topic in which former holders are shut out before the command starts; may be given several times
    #[arg(long, value_name = "TOPIC")]
    guard: Vec<String>,
    /// How long the command may take to end after SIGTERM when the lock is lost
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "5s")]
    grace: Duration,
    /// Who holds it, for people who look at the lock [default: the client's name and process]
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
    /// Make the namespace where there is none
    #[arg(long)]
    create_namespace: bool,
    /// The command and its arguments, behind --
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl RunArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let mut asked = Asked::listen()?;
        match connection.with_client(async |client| self.hold(client, &mut asked).await).await? {
            0 => Ok(Exit::Done),
            // Any number may be the command's; everything is given back already.
            code => std::process::exit(code.into()),
        }
    }

    /// Runs the command under the lock; the exit code that tells how it ended.
    async fn hold(&self, client: &Client, asked: &mut Asked) -> Result<u8, Failure> {
        let namespace = &self.namespace.namespace;
        if self.create_namespace {
            let mut wanted = NewLockNamespace::new(namespace);
            wanted.if_not_exists = true;
            let made = client.admin().create_lock_namespace(wanted).await;
            let doing = format!("create namespace {namespace}");
            made.map_err(|error| refused(&doing, self.namespace.all(), &error))?;
        }
        let locks = client.locks(namespace).lease(self.lease);
        let locks = match &self.label {
            Some(label) => locks.label(label),
            None => locks,
        };
        let acquired = tokio::select! {
            biased;
            signal = asked.next() => Err(signal),
            acquired = self.lock(&locks).acquire() => Ok(acquired),
        };
        let outcome = match acquired {
            Ok(Ok(guard)) => self.work(guard, asked).await,
            Ok(Err(error)) => {
                let about = self.namespace.about(&self.lock);
                Err(lock_failure(&format!("acquire lock {}", self.lock), about, &error))
            }
            Err(signal) => Ok(code_of_signal(signal)),
        };
        // Whatever is still on its way is given up by this.
        locks.close().await;
        outcome
    }

    fn lock(&self, locks: &Locks) -> Lock {
        let lock = locks.lock(&self.lock).guards(&self.guard);
        let lock = match (&self.lead, self.permits) {
            (Some(value), _) => lock.lead(value),
            (None, Some(permits)) => lock.permit_of(permits),
            (None, None) if self.read => lock.read(),
            (None, None) if self.write => lock.write(),
            (None, None) => lock.exclusive(),
        };
        match self.wait {
            _ if self.no_wait => lock.wait(Duration::ZERO),
            Some(wait) => lock.wait(wait),
            None => lock,
        }
    }

    async fn work(&self, guard: LockGuard, asked: &mut Asked) -> Result<u8, Failure> {
        let fence = guard.fence().to_string();
        let mut running = match Running::start(&self.command, (FENCE, fence)) {
            Ok(running) => running,
            Err((code, told)) => {
                note(&format!("error: {told}"));
                self.give_back(guard).await?;
                return Ok(code);
            }
        };
        let lost = guard.lost();
        tokio::pin!(lost);
        let code = loop {
            tokio::select! {
                biased;
                lost = &mut lost => return Err(self.stop(&mut running, &lost).await),
                code = running.ended() => break code?,
                signal = asked.next() => running.forward(signal),
            }
        };
        self.give_back(guard).await?;
        Ok(code)
    }

    /// The command has to end: its lock may be another's already.
    async fn stop(&self, running: &mut Running, lost: &LockLost) -> Failure {
        let grace = duration_text(self.grace);
        note(&format!("{lost}; stopping the command, which has {grace} to end"));
        let until = Instant::now() + self.grace;
        running.send(Signal::TERM);
        let ended = tokio::select! {
            ended = running.ended() => ended,
            () = sleep_until(until) => {
                running.send(Signal::KILL);
                running.ended().await
            }
        };
        match ended {
            Ok(code) => {
                let told = format!("{lost}; the command was stopped and ended with {code}");
                Failure::new(Exit::LockLost, told)
            }
            Err(failure) => failure,
        }
    }

    async fn give_back(&self, guard: LockGuard) -> Result<(), Failure> {
        match guard.release().await {
            Ok(()) => Ok(()),
            Err(error @ (LockError::Request(_) | LockError::OutcomeUnknown { .. })) => {
                note(&format!("note: the lock ends with its lease: {error}"));
                Ok(())
            }
            Err(error) => {
                let told = format!("the command ended without its lock: {error}");
                Err(Failure::new(Exit::LockLost, told))
            }
        }
    }
}
