//! Commands of the catalog, as they stand in the body of a control entry of group 0.
//!
//! ```text
//! version u8 = 2 | request id u128, 0: none | command u8 | fields
//! version u8 = 1 | command u8 = 1 to 4      | fields          (no node is known, no placement)
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use plimsoll_protocol::api::{QueueSettings, TopicConfig};
use plimsoll_protocol::ids::{GroupId, NodeId, TopicName};
use plimsoll_protocol::wire::{Decode, Encode, Reader};

use super::amqp::AmqpCommand;
use super::nodes::{JoinSecret, NodeSpec};
use super::patch::ConfigPatch;
use super::placement::PlacementChange;
use super::replicas::ProposedPlacement;
use super::variants::wire_variants;
use crate::decode::{DecodeStateError, versioned_since};

const OLDEST: u8 = 1;
const VERSION: u8 = 2;

wire_variants! {
    /// A change of the catalog.
    pub enum CatalogCommand as "command" {
        /// Makes a topic. The configuration was validated by whoever proposes.
        CreateTopic = 1 {
            /// Its name.
            topic: TopicName,
            /// Number of partitions.
            partitions: u32,
            /// Replicas of each.
            replicas: u16,
            /// Its configuration.
            config: TopicConfig,
            /// Whether a topic of this name may exist already; it stays as it is then.
            if_not_exists: bool,
            /// Where the partitions belong, of [`super::planning::place_topic`]. May be left out
            /// where there is at most one node.
            placement: Option<ProposedPlacement>,
        },
        /// Changes a topic.
        AlterTopic = 2 {
            /// Its name.
            topic: TopicName,
            /// The new number of partitions, not fewer than now.
            partitions: Option<u32>,
            /// What changes of its configuration.
            patch: ConfigPatch,
            /// Where the added partitions belong, of [`super::planning::extend_topic`]. May be left
            /// out where none are added or there is at most one node.
            placement: Option<ProposedPlacement>,
        },
        /// Removes a topic and its groups.
        DeleteTopic = 3 {
            /// Its name.
            topic: TopicName,
        },
        /// Takes a block of producer ids.
        AllocateProducerIds = 4 {
            /// How many.
            count: u32,
        },
        /// Makes the node that proposes it the first of the cluster, with everything that is there
        /// on it. Proposed by a node at its start that finds a catalog without nodes; done again it
        /// changes nothing.
        SetUp = 5 {
            /// The node.
            node: NodeId,
            /// What it says of itself.
            spec: NodeSpec,
            /// What nodes show to join.
            join_secret: JoinSecret,
        },
        /// Gives a new node its id. Under the same `join_id` it is the same id again.
        AddNode = 6 {
            /// Random, chosen by the node before it asked for the first time; not 0.
            join_id: u128,
            /// What it says of itself.
            spec: NodeSpec,
            /// Whether a node that is known by this address loses it. The proposer has seen that
            /// nobody answers there as that node, as when its disk was lost.
            takes_address: bool,
        },
        /// The node has a copy of the catalog: it may hold replicas.
        ActivateNode = 7 {
            /// The node.
            node: NodeId,
        },
        /// Says what a node is now. Proposed by itself at its start.
        UpdateNode = 8 {
            /// The node.
            node: NodeId,
            /// What it says of itself.
            spec: NodeSpec,
        },
        /// Has everything moved away from a node, or lets it have replicas again.
        DrainNode = 9 {
            /// The node.
            node: NodeId,
            /// Whether it is to be emptied.
            on: bool,
        },
        /// Takes a node out for good, once nothing belongs on it.
        RemoveNode = 10 {
            /// The node.
            node: NodeId,
            /// Also where partitions that were never used may lack it at their birth.
            force: bool,
        },
        /// Changes where partitions belong. Their births stay as they are.
        SetPlacement = 11 {
            /// [`super::Catalog::placement_epoch`] when it was computed.
            base: u64,
            /// The groups that change.
            changes: Vec<PlacementChange>,
        },
        /// Ends the births of groups, for good. Proposed once they have a leader, and before the
        /// first step of their first move.
        SealBirths = 12 {
            /// The groups.
            groups: Vec<GroupId>,
        },
        /// Changes how the cluster behaves.
        SetClusterSettings = 13 {
            /// Whether replicas are moved by themselves when nodes come or drain, if it changes.
            auto_rebalance: Option<bool>,
        },
        /// Makes join tokens that were given out before void.
        SetJoinSecret = 14 {
            /// The new secret.
            join_secret: JoinSecret,
        },
        /// Lets commands, entries and frames of a higher level be sent. Proposed once every node
        /// can read them.
        SetLevel = 15 {
            /// The level.
            level: u16,
        },
        /// Makes a topic that is a queue. Everything was validated by whoever proposes.
        CreateQueue = 16 {
            /// Its name.
            topic: TopicName,
            /// Number of partitions.
            partitions: u32,
            /// Replicas of each.
            replicas: u16,
            /// Its configuration.
            config: TopicConfig,
            /// Whether a queue of this name may exist already; it stays as it is then.
            if_not_exists: bool,
            /// As with [`CatalogCommand::CreateTopic`].
            placement: Option<ProposedPlacement>,
            /// How it behaves.
            settings: QueueSettings,
        },
        /// Changes a subscription, or the queue itself, whose name is empty.
        PutSubscription = 17 {
            /// The topic.
            topic: TopicName,
            /// The subscription.
            name: String,
            /// How it behaves from now on.
            settings: QueueSettings,
            /// Whether it is made where there is none.
            create: bool,
            /// Where a new one begins: behind what is stored, or at what can still be read.
            from_latest: bool,
        },
        /// Ends a subscription.
        DeleteSubscription = 18 {
            /// The topic.
            topic: TopicName,
            /// The subscription; not the queue's own.
            name: String,
        },
        /// Changes the objects of AMQP. Refused below [`LEVEL_QUEUES`], so that a build that cannot
        /// read it, which refuses it too, comes to the same catalog.
        ///
        /// [`LEVEL_QUEUES`]: super::amqp::LEVEL_QUEUES
        Amqp = 19 {
            /// The change.
            command: AmqpCommand,
        },
    }
}

impl CatalogCommand {
    /// The command as the body of an entry, of nobody's request.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        self.encode_for(0)
    }

    /// The command as the body of an entry. Sent again under the same `request_id` it is answered as
    /// the first time, and not carried out again. 0: of nobody's request.
    #[must_use]
    pub fn encode_for(&self, request_id: u128) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        request_id.encode(&mut out);
        Encode::encode(self, &mut out);
        out.freeze()
    }

    /// Reads what [`CatalogCommand::encode`] wrote, in this or the earlier version.
    ///
    /// # Errors
    /// When the bytes are no command of a version this build knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeStateError> {
        Self::decode_request(bytes).map(|(_, command)| command)
    }

    /// As [`CatalogCommand::decode`], with the id of the request.
    ///
    /// # Errors
    /// When the bytes are no command of a version this build knows.
    pub fn decode_request(bytes: &[u8]) -> Result<(u128, Self), DecodeStateError> {
        versioned_since(bytes, OLDEST, VERSION, |version, reader| match version {
            OLDEST => Ok((0, Self::decode_oldest(reader)?)),
            _ => Ok((u128::decode(reader)?, Decode::decode(reader)?)),
        })
    }

    fn decode_oldest(reader: &mut Reader<'_>) -> Result<Self, DecodeStateError> {
        match u8::decode(reader)? {
            1 => Ok(Self::CreateTopic {
                topic: TopicName::decode(reader)?,
                partitions: u32::decode(reader)?,
                replicas: u16::decode(reader)?,
                config: TopicConfig::decode(reader)?,
                if_not_exists: bool::decode(reader)?,
                placement: None,
            }),
            2 => Ok(Self::AlterTopic {
                topic: TopicName::decode(reader)?,
                partitions: Option::decode(reader)?,
                patch: ConfigPatch::decode(reader)?,
                placement: None,
            }),
            3 => Ok(Self::DeleteTopic { topic: TopicName::decode(reader)? }),
            4 => Ok(Self::AllocateProducerIds { count: u32::decode(reader)? }),
            _ => Err(DecodeStateError::Invalid { rule: "the command is a known one" }),
        }
    }
}
