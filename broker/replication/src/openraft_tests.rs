//! What the cluster relies on in openraft, tried against openraft alone: three members over the
//! simulated disk, a network of function calls with cuts, ticks off, virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::alias::{SnapshotOf, VoteOf};
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::entry::{RaftEntry as _, RaftPayload as _};
use openraft::errors::{
    ClientWriteError, ForwardReason, RPCError, RaftError, ReplicationClosed, StreamingError,
    Unreachable,
};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{Instant as _, OptionalSend, ReadPolicy, ServerState};
use plimsoll_delivery::command::{QueueCommand, QueueEntry, SubscriptionId};
use plimsoll_log::disk::sim::SimDisk;
use plimsoll_log::{Driver, Durability, FatalError, GroupLog, GroupOptions, Store, StoreConfig};
use plimsoll_protocol::ids::{GroupId, LogId, LogIndex, Term};

use crate::config::{HostConfig, LEASE};
use crate::fold::{Fold, GroupKind};
use crate::log_store::LogStore;
use crate::membership;
use crate::shared::{Published, Shared};
use crate::snapshot::GroupSnapshot;
use crate::state_machine::StateMachine;
use crate::types::{Entry, Member, Payload, Proposal, Types, to_raft};
use crate::wake::Raft;

/// Who can be called by whom.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    members: BTreeMap<u64, Raft>,
    cut: BTreeSet<(u64, u64)>,
    transfers_lost: bool,
}

struct Call {
    from: u64,
    to: u64,
    calls: Calls,
}

impl Calls {
    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.0.lock().unwrap()
    }

    /// Nothing goes between the node and the others any more.
    fn isolate(&self, node: u64) {
        for other in 1..=3 {
            self.table().cut.extend([(node, other), (other, node)]);
        }
    }

    fn heal(&self) {
        self.table().cut.clear();
    }
}

impl Call {
    fn member(&self) -> Result<Raft, Unreachable<Types>> {
        let table = self.calls.table();
        let is_cut = table.cut.contains(&(self.from, self.to));
        let member = table.members.get(&self.to).filter(|_| !is_cut).cloned();
        member.ok_or_else(|| Unreachable::from_string("cut"))
    }
}

fn gone(error: impl Display) -> RPCError<Types> {
    Unreachable::from_string(error).into()
}

impl RaftNetworkFactory<Types> for Call {
    type Network = Self;

    async fn new_client(&mut self, to: u64, _node: &Member) -> Self {
        Self { from: self.from, to, calls: self.calls.clone() }
    }
}

impl RaftNetworkV2<Types> for Call {
    type SnapshotData = GroupSnapshot;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        self.member()?.append_entries(request).await.map_err(gone)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.member()?.vote(request).await.map_err(gone)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.member()?.pre_vote(request).await.map_err(gone)
    }

    async fn full_snapshot(
        &mut self,
        _vote: VoteOf<Types>,
        _snapshot: SnapshotOf<Types, GroupSnapshot>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        Err(StreamingError::Unreachable(Unreachable::from_string("none are sent")))
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        if self.calls.table().transfers_lost {
            return Err(gone("lost"));
        }
        self.member()?.handle_transfer_leader(request).await.map_err(gone)
    }
}

/// Three members of one group, born by the same entry.
struct Members {
    calls: Calls,
    logs: BTreeMap<u64, Arc<GroupLog>>,
}

impl Members {
    async fn new() -> Self {
        let mut members = Self { calls: Calls::default(), logs: BTreeMap::new() };
        for id in 1..=3 {
            members.start(id).await;
        }
        members
    }

    async fn start(&mut self, id: u64) {
        let config = StoreConfig {
            journal_file_bytes: 1 << 20,
            journal_bytes_max: 8 << 20,
            free_bytes_min: 0,
            ..StoreConfig::default()
        };
        let on_fatal = Box::new(|error: &FatalError| panic!("{error}"));
        let disk = Arc::new(SimDisk::new(id));
        let store = Store::open(disk, config, Driver::Manual, on_fatal).unwrap();
        let options = GroupOptions { durability: Durability::Durable, segment_bytes: 64 << 10 };
        let log = store.create_group(GroupId(1), options).unwrap();
        tokio::spawn(async move {
            loop {
                while store.step() {}
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        let birth = Payload::membership(membership::of_birth([1, 2, 3]));
        let first = LogId::new(Term(0), LogIndex(0));
        let entry = Entry::new(to_raft(first), birth);
        log.append(vec![entry.into()], Box::new(|_| {})).unwrap();
        let fold = Fold::empty(GroupKind::Partition);
        let shared = Shared::new(fold, Published::new(), log.clone());
        let raft = Raft::build(
            id,
            HostConfig::default().raft(Durability::Durable).unwrap(),
            Call { from: id, to: id, calls: self.calls.clone() },
            LogStore::new(log.clone(), shared.clone()),
            StateMachine::new(shared),
        )
        .await
        .unwrap();
        raft.run();
        self.calls.table().members.insert(id, raft);
        self.logs.insert(id, log);
    }

    fn raft(&self, id: u64) -> Raft {
        self.calls.table().members[&id].clone()
    }

    /// Asks for votes until the member leads and has folded its term's first entry.
    async fn elect(&self, id: u64) {
        let raft = self.raft(id);
        while !raft.is_leader() {
            raft.trigger().elect(true).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let term = self.term(id);
        let mut metrics = raft.data_metrics();
        while metrics.borrow_and_update().last_applied.is_none_or(|id| id.leader_id.term != term) {
            metrics.changed().await.unwrap();
        }
    }

    fn term(&self, id: u64) -> u64 {
        self.raft(id).server_metrics().borrow_watched().vote.leader_id.term
    }

    async fn write(&self, id: u64) -> Result<u64, ClientWriteError<Types>> {
        // Of a queue that is not there: it changes nothing.
        let commands = vec![QueueCommand::Close];
        let entry = QueueEntry { subscription: SubscriptionId::QUEUE, commands };
        let proposal = Proposal::control(entry.encode(), 0);
        match self.raft(id).client_write(proposal).await {
            Ok(response) => Ok(response.log_id.index),
            Err(RaftError::APIError(error)) => Err(error),
            Err(RaftError::Fatal(error)) => panic!("{error}"),
        }
    }

    fn age_of_ack(&self, id: u64) -> Option<Duration> {
        let acked = self.raft(id).data_metrics().borrow_watched().last_quorum_acked;
        acked.map(|at| at.elapsed())
    }
}

/// `trigger().elect(true)` works with every timer off, and a group that is born by the same entry on
/// each member elects although nobody initialised it (D1, D5).
#[tokio::test(start_paused = true)]
async fn members_born_by_one_entry_elect_on_demand() {
    let members = Members::new().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    for id in 1..=3 {
        let metrics = members.raft(id).server_metrics();
        assert_eq!(
            metrics.borrow_watched().state,
            ServerState::Follower,
            "nobody stands by itself"
        );
        assert_eq!(metrics.borrow_watched().membership_config.membership().voter_ids().count(), 3);
    }
    members.elect(2).await;
    assert_eq!(members.write(2).await.unwrap(), 2, "after the birth and the term's first entry");
    assert_eq!(members.logs[&1].term_at(LogIndex(0)), Some(Term(0)));
}

/// A leader without traffic may not write until a heartbeat has renewed its lease, and then may
/// (D3). Without a quorum it stays refused.
#[tokio::test(start_paused = true)]
async fn heartbeat_renews_the_lease_of_an_idle_leader() {
    let members = Members::new().await;
    members.elect(1).await;
    members.write(1).await.unwrap();
    for _ in 0..3 {
        tokio::time::sleep(LEASE * 20).await;
        let refused = members.write(1).await.unwrap_err();
        let ClientWriteError::ForwardToLeader(forward) = refused else { panic!("{refused}") };
        assert!(matches!(forward.reason, ForwardReason::LeaseExpired));
        members.raft(1).trigger().heartbeat().await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(members.age_of_ack(1).unwrap() < LEASE / 2);
        members.write(1).await.unwrap();
    }
    members.calls.isolate(1);
    tokio::time::sleep(LEASE * 2).await;
    members.raft(1).trigger().heartbeat().await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(members.age_of_ack(1).unwrap() > LEASE);
    assert!(members.write(1).await.is_err());
}

/// A member that has heard its leader within the lease starts no election, and grants none; after
/// the lease it does both.
#[tokio::test(start_paused = true)]
async fn lease_of_a_silent_leader_lapses() {
    let members = Members::new().await;
    members.elect(1).await;
    members.write(1).await.unwrap();
    members.raft(2).trigger().elect(true).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(members.raft(1).is_leader() && members.term(2) == members.term(1));
    // Nothing renews it: without the shield any member deposes a healthy leader now.
    tokio::time::sleep(LEASE).await;
    members.elect(2).await;
    assert!(members.term(2) > 1);
}

/// A deposed leader finds out by the next heartbeat; what it proposes is refused or discarded, and
/// its read index is refused.
#[tokio::test(start_paused = true)]
async fn deposed_leader_cannot_confirm_itself() {
    let members = Members::new().await;
    members.elect(1).await;
    members.write(1).await.unwrap();
    members.calls.isolate(1);
    tokio::time::sleep(LEASE * 2).await;
    members.elect(3).await;
    let index = members.write(3).await.unwrap();
    assert!(members.raft(1).is_leader(), "nobody told it");
    let read = members.raft(1);
    let reading =
        tokio::time::timeout(Duration::from_secs(5), read.get_read_log_id(ReadPolicy::ReadIndex));
    assert!(!matches!(reading.await, Ok(Ok(_))), "a read index of a deposed leader");
    members.calls.heal();
    let _ = members.raft(1).get_read_log_id(ReadPolicy::ReadIndex).await.unwrap_err();
    members.raft(3).trigger().heartbeat().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!members.raft(1).is_leader());
    assert_eq!(members.logs[&1].bounds().last.unwrap().index.0, index);
}

/// A transfer of leadership that never arrives leaves the leader mute: it takes no writes and no
/// elections, for ever. Dropping the instance is the way out (CLUSTER.md section 10).
#[tokio::test(start_paused = true)]
async fn lost_transfer_leaves_the_leader_mute() {
    let members = Members::new().await;
    members.elect(1).await;
    members.write(1).await.unwrap();
    members.calls.table().transfers_lost = true;
    members.raft(1).trigger().transfer_leader(2).await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(members.raft(1).is_leader());
    members.raft(1).trigger().heartbeat().await.unwrap();
    members.raft(1).trigger().elect(true).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let refused = members.write(1).await.unwrap_err();
    let ClientWriteError::ForwardToLeader(forward) = refused else { panic!("{refused}") };
    assert!(matches!(forward.reason, ForwardReason::LeadershipTransfer));
    // The others elect as soon as they are asked to, and it follows.
    members.elect(2).await;
    members.write(2).await.unwrap();
}

/// A transfer that arrives moves leadership within the lease.
#[tokio::test(start_paused = true)]
async fn transfer_moves_leadership_at_once() {
    let members = Members::new().await;
    members.elect(1).await;
    members.write(1).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    members.raft(1).trigger().transfer_leader(2).await.unwrap();
    let mut metrics = members.raft(2).server_metrics();
    tokio::time::timeout(Duration::from_millis(250), async {
        while metrics.borrow_and_update().state != ServerState::Leader {
            metrics.changed().await.unwrap();
        }
    })
    .await
    .expect("member 2 leads");
    tokio::time::sleep(Duration::from_millis(50)).await;
    members.write(2).await.unwrap();
    assert!(!members.raft(1).is_leader());
}
