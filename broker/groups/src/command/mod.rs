//! What a leader writes into the log about consumer groups: control entries of commands.
//!
//! The coordinator decides, with a clock and with what it holds in memory; the fold ([`crate::state`])
//! notes what was decided, and refuses what would give a partition two owners. Keep-alives are not
//! commands: only changes of who is a member, who owns what, and what is committed.

mod code;
mod entry;

use std::collections::BTreeSet;
use std::sync::Arc;

use plimsoll_protocol::ids::Offset;
use thiserror::Error;

use crate::ids::{Epoch, MemberId, TopicId, TopicPartition};
use crate::time::UnixMs;

pub(crate) use code::{decode_metadata, decode_spec, encode_spec, put_metadata};
pub(crate) use entry::decode_name;
pub use entry::{DOMAIN, GroupsEntry};

/// Longest name of a client or of an instance, in bytes.
pub const CLIENT_BYTES_MAX: usize = 255;
/// Longest text beside a committed offset, in bytes.
pub const METADATA_BYTES_MAX: usize = 4_096;
/// Most topics of one member.
pub const TOPICS_MAX: usize = 1_000;
/// Shortest session and shortest time to revoke, in milliseconds: below it a pause of the network ends
/// sessions.
pub const SESSION_MS_MIN: u32 = 1_000;
/// Longest of both, in milliseconds: an hour.
pub const SESSION_MS_MAX: u32 = 60 * 60 * 1_000;

/// Who a member is and what it wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberSpec {
    /// The client's name, for people; at most [`CLIENT_BYTES_MAX`] bytes.
    pub client: String,
    /// A name that outlives the process, of 1 to [`CLIENT_BYTES_MAX`] bytes: who joins with it takes the
    /// place of who had it. Without, the member is dynamic. No two processes may have the same.
    pub instance: Option<String>,
    /// Topics to share with the others, 1 to [`TOPICS_MAX`].
    pub topics: BTreeSet<TopicId>,
    /// How long the member may be silent, in milliseconds, [`SESSION_MS_MIN`] to [`SESSION_MS_MAX`];
    /// 45,000 is usual. Longer: what a dead member owned waits longer. Shorter: a pause ends the session.
    pub session_ms: u32,
    /// How long the member may take to give up what it is asked to, in the same bounds; 300,000 is usual.
    pub rebalance_ms: u32,
}

/// Why a member cannot be as it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SpecError {
    /// The client's name is too long.
    #[error("the name of the client has {bytes} bytes, {CLIENT_BYTES_MAX} are allowed; shorten it")]
    Client {
        /// How long it is.
        bytes: usize,
    },
    /// The instance's name is empty or too long.
    #[error(
        "the name of the instance has {bytes} bytes, 1 to {CLIENT_BYTES_MAX} are allowed; \
         leave it out for a dynamic member"
    )]
    Instance {
        /// How long it is.
        bytes: usize,
    },
    /// No topics, or too many.
    #[error("a member has 1 to {TOPICS_MAX} topics, not {topics}; use several groups")]
    Topics {
        /// How many it wants.
        topics: usize,
    },
    /// A session of no use.
    #[error("a session timeout is {SESSION_MS_MIN} to {SESSION_MS_MAX} ms, not {ms}")]
    Session {
        /// What was asked for.
        ms: u32,
    },
    /// A time to revoke of no use.
    #[error("a rebalance timeout is {SESSION_MS_MIN} to {SESSION_MS_MAX} ms, not {ms}")]
    Rebalance {
        /// What was asked for.
        ms: u32,
    },
}

impl MemberSpec {
    /// Checks the bounds that the fields' docs name.
    ///
    /// # Errors
    /// By the first field that is out of them.
    pub fn check(&self) -> Result<(), SpecError> {
        if self.client.len() > CLIENT_BYTES_MAX {
            return Err(SpecError::Client { bytes: self.client.len() });
        }
        if let Some(bytes) = self.instance.as_ref().map(String::len)
            && !(1..=CLIENT_BYTES_MAX).contains(&bytes)
        {
            return Err(SpecError::Instance { bytes });
        }
        if !(1..=TOPICS_MAX).contains(&self.topics.len()) {
            return Err(SpecError::Topics { topics: self.topics.len() });
        }
        let bounds = SESSION_MS_MIN..=SESSION_MS_MAX;
        if !bounds.contains(&self.session_ms) {
            return Err(SpecError::Session { ms: self.session_ms });
        }
        if !bounds.contains(&self.rebalance_ms) {
            return Err(SpecError::Rebalance { ms: self.rebalance_ms });
        }
        Ok(())
    }

    /// How often the member should say that it is alive, in milliseconds: a fifth of its session, 5 s at
    /// most.
    #[must_use]
    pub fn heartbeat_ms(&self) -> u32 {
        (self.session_ms / 5).min(5_000)
    }
}

/// Why a member is one no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Removal {
    /// It left.
    Left = 1,
    /// It was silent for longer than its session.
    SessionEnded = 2,
    /// It kept what it was asked to give up for longer than its rebalance timeout.
    RevocationOverdue = 3,
}

impl Removal {
    /// Every way, by number.
    pub const ALL: [Self; 3] = [Self::Left, Self::SessionEnded, Self::RevocationOverdue];
}

/// Who commits, as a member of the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committer {
    /// The member.
    pub member: MemberId,
    /// The last epoch that it was told.
    pub epoch: Epoch,
}

/// How far a group has come in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetCommit {
    /// Which partition.
    pub at: TopicPartition,
    /// The next record to read.
    pub offset: Offset,
    /// What the client wants to find beside it; at most [`METADATA_BYTES_MAX`] bytes.
    pub metadata: Option<Arc<str>>,
}

/// One change of one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupCommand {
    /// A member begins, owning nothing that it knows of. One that is there begins anew and keeps what it
    /// is granted; one whose instance is there takes its place and what it was granted. In each case what
    /// was said under an earlier epoch counts no longer.
    Join {
        /// Who.
        member: MemberId,
        /// What it says of itself.
        spec: Box<MemberSpec>,
    },
    /// A member ends, and what it owned is free.
    Remove {
        /// Who.
        member: MemberId,
        /// What the leader knew of it; one that joined later stays.
        epoch: Epoch,
        /// Why.
        why: Removal,
    },
    /// A member owns these from now on: all of them are free.
    Grant {
        /// Who.
        member: MemberId,
        /// What, rising.
        partitions: Vec<TopicPartition>,
    },
    /// A member has said that it stopped with these.
    Release {
        /// Who.
        member: MemberId,
        /// When it said so; what it was granted later stays.
        epoch: Epoch,
        /// What, rising.
        partitions: Vec<TopicPartition>,
    },
    /// Offsets are committed: of a member only where it owns the partition, of nobody only in a group
    /// without members.
    Commit {
        /// By whom.
        by: Option<Committer>,
        /// What, rising by partition.
        offsets: Vec<OffsetCommit>,
    },
    /// An administrator sets offsets, or takes them away. Only in a group without members, unless forced.
    Reset {
        /// What, rising by partition.
        offsets: Vec<(TopicPartition, Option<Offset>)>,
        /// Whether members do not hinder it.
        forced: bool,
    },
    /// A topic is deleted: nobody owns it, nothing is committed in it.
    Forget {
        /// Which.
        topic: TopicId,
    },
    /// The group was without members for too long and is deleted, unless something happened meanwhile.
    Expire {
        /// Since when it is as it is.
        quiet_since: UnixMs,
    },
    /// An administrator deletes the group. Only one without members, unless forced.
    Delete {
        /// Whether members do not hinder it.
        forced: bool,
    },
}
