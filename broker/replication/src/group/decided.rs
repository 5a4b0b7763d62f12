//! Batches that are stored only where something is true of every record before them.

use std::sync::Arc;

use bytes::Bytes;
use plimsoll_protocol::batch::BatchHeader;
use plimsoll_state::producers::Verdict;

use super::lead::Led;
use super::{FencePass, Group, known};
use crate::error::ProduceError;
use crate::fold::GroupKind;
use crate::pending::PendingProduce;
use crate::shared::{Begin, Tip};

/// Why a batch that was to be decided was not proposed.
#[derive(Debug)]
pub enum DecidedError<E> {
    /// It was decided so.
    Decided(E),
    /// As of any batch.
    Produce(ProduceError),
}

impl<E> From<ProduceError> for DecidedError<E> {
    fn from(error: ProduceError) -> Self {
        Self::Produce(error)
    }
}

impl Group {
    /// The outcome of a batch that is stored or in flight already, wherever it was asked for; nothing for any
    /// other. Nothing is proposed.
    pub async fn outcome_of(self: &Arc<Self>, header: &BatchHeader) -> Option<PendingProduce> {
        let led = self.lead().await.ok()?;
        let group = led.awake.as_ref().expect("lead() returned");
        match group.shared.judge(header) {
            begin @ (Begin::InFlight(_) | Begin::Verdict(Verdict::Duplicate { .. })) => {
                known(begin).expect("it is not to be proposed").ok()
            }
            _ => None,
        }
    }

    /// As [`Group::produce`], where `decide` says yes. It is asked while nothing else can be proposed, and
    /// told where the batch comes to lie: it must look at every record before, those that were proposed and
    /// are not applied yet included. Records are applied meanwhile, and nothing else is: others who want to
    /// propose wait for it, so it is to be short. It is asked again where proposals before it fail.
    ///
    /// With a `pass`, only in its term. A batch that is stored or in flight already is answered without being decided.
    ///
    /// # Errors
    /// [`DecidedError::Decided`] with what `decide` said; as [`Group::produce`] else. Nothing was proposed.
    ///
    /// # Panics
    /// When the group is not a partition.
    pub async fn produce_decided<E, F>(
        self: &Arc<Self>,
        batch: Bytes,
        header: BatchHeader,
        pass: Option<&FencePass>,
        mut decide: impl FnMut(Tip) -> F,
    ) -> Result<PendingProduce, DecidedError<E>>
    where
        F: Future<Output = Result<(), E>>,
    {
        assert_eq!(self.kind(), GroupKind::Partition, "batches go to partitions");
        loop {
            let Led { awake, term } = self.lead().await.map_err(ProduceError::from)?;
            if pass.is_some_and(|pass| pass.term != term) {
                return Err(ProduceError::from(self.not_leader()).into());
            }
            let group = awake.as_ref().expect("lead() returned");
            let tip = match group.shared.judge(&header) {
                Begin::Propose(tip) => tip,
                Begin::Doubtful => {
                    let settled = self.settled(group, term).await.map_err(ProduceError::from)?;
                    if let Some(fatal) = settled {
                        return Err(ProduceError::from(self.stopped(awake, fatal).await).into());
                    }
                    continue;
                }
                begin => return Ok(known(begin).expect("it is not to be proposed")?),
            };
            tokio::select! {
                biased;
                decided = decide(tip) => decided.map_err(DecidedError::Decided)?,
                // It may wait for what never comes.
                () = group.shared.doubt() => continue,
                () = group.deposed(term) => {

                    return Err(ProduceError::NotLeader(self.not_leader()).into());
                }
            }
            match group.shared.begin_at(tip, &header) {
                // It came up while it was decided, or another term began.
                None | Some(Begin::Doubtful) => {}
                Some(Begin::Propose(_)) => {
                    return Ok(self.send(Led { awake, term }, batch, header).await?);
                }
                Some(begin) => return Ok(known(begin).expect("it is not to be proposed")?),
            }
        }
    }
}
