//! Writes tombstones for keys whose time is over, where this node leads their partition: so that whoever
//! watches sees the deletion. Readers take such a key for absent already.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use plimsoll_protocol::batch::{
    BatchBuilder, BatchHeader, BatchLimits, Compression, PushOutcome, RecordView,
};
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::ids::{Offset, ProducerId};
use plimsoll_replication::Role;
use tokio::time::MissedTickBehavior;

use super::put::{Condition, Put};
use super::view::View;
use crate::broker::Broker;

/// How often it is looked for such keys.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Tombstones of one look.
const TOMBSTONES_MAX: usize = 1000;
/// Tombstones that are on their way at once.
const IN_FLIGHT: usize = 64;
/// How long it waits after a tombstone could not be stored.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

impl Broker {
    /// Sweeps for as long as the view is at work.
    pub(super) async fn sweep(self: &Arc<Self>, view: &View) -> Infallible {
        let mut look = tokio::time::interval(SWEEP_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            // A partition that sleeps is woken for it where this node may.
            let role = *view.group.role().borrow();
            if !matches!(role, Role::Leader { .. } | Role::Asleep) || self.check_space().is_err() {
                continue;
            }
            let now = self.now().unix.0;
            let due = view.index().expired(now, TOMBSTONES_MAX);
            let mut writing = stream::iter(due)
                .map(|(key, revision)| self.bury(view, key, revision))
                .buffer_unordered(IN_FLIGHT);
            let mut failed = None;
            while let Some(outcome) = writing.next().await {
                match outcome {
                    // Changed meanwhile.
                    Err(error) if error.code == ErrorCode::RevisionConflict => {}
                    Err(error) => failed = Some(error),
                    Ok(()) => {}
                }
                if failed.is_some() {
                    break;
                }
            }
            drop(writing);
            if let Some(error) = failed {
                tracing::debug!(topic = %view.named.topic, %error, "a tombstone was not stored");
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }

    async fn bury(
        self: &Arc<Self>,
        view: &View,
        key: Bytes,
        revision: Offset,
    ) -> Result<(), ErrorResponse> {
        let limits = BatchLimits { batch_bytes_max: u32::MAX, ..BatchLimits::default() };
        let mut builder = BatchBuilder::new(limits);
        let tombstone = RecordView {
            key: Some(&key),
            timestamp_ms: self.now().unix.0,
            ..RecordView::default()
        };
        let pushed = builder.push(tombstone);
        assert!(matches!(pushed, Ok(PushOutcome::Added)), "a key that a record had fits another");
        let batch = builder.finish(ProducerId::NONE, 0, 0, Compression::None);
        let header = BatchHeader::parse(&batch).expect("a batch that was just built");
        let turn = view.turn(key).await?;
        let put = Put { batch, header, condition: Condition::Expired(revision), pass: None };
        view.put(self, turn, put).await.map(drop)
    }
}
