//! Changes of the catalog that clients ask for.

use bytes::Bytes;
use plimsoll_amqp::error::{Fault, ReplyCode, Resource};
use plimsoll_amqp::routing::{
    Destination, Overflow, QueueArguments, QueueKind, QueueShape, sorted_arguments,
};
use plimsoll_amqp::shortstr::ShortStr;
use plimsoll_amqp::table::FieldTable;
use plimsoll_amqp_gateway::backend::Refusal;
use plimsoll_amqp_gateway::catalog::{Change, Changed, ConnectionId};
use plimsoll_protocol::api::{QUEUE_LEVELS_MAX, QueueOverflow, QueueSettings, TopicConfig};
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::ids::TopicName;
use plimsoll_state::catalog::amqp::{
    self as stored, AmqpCommand, AmqpRefusal, AmqpReply, QueueSpec,
};
use plimsoll_state::catalog::{Catalog, CatalogCommand, CatalogRefusal, CatalogReply, planning};

use super::backend::AmqpBroker;
use super::hosts::text;
use super::letters;

/// How long a consumer holds a message: RabbitMQ's consumer timeout.
const LEASE_MS: u32 = 30 * 60 * 1000;
/// The least that a topic's configuration may have.
const RETENTION_MS_MIN: u64 = 1000;
/// The range of the size of a topic's segments, in bytes.
const SEGMENT_BYTES_MIN: u32 = 64 << 10;
const SEGMENT_BYTES_MAX: u32 = 1 << 30;
/// Names of the topics that hold queues: those of AMQP may have any characters.
const TOPIC_PREFIX: &str = "__amqp.";
/// How often a declaration is made anew because another change of the placement came first.
const ATTEMPTS: usize = 10;

impl AmqpBroker {
    /// Changes the catalog, and shows the change to this node's connections.
    pub(super) async fn carry_out(
        &self,
        vhost: &ShortStr,
        change: Change,
    ) -> Result<Changed, Refusal> {
        let outcome = match change {
            Change::DeclareQueue { name, shape, owner, declared_by } => {
                self.forget_last_life().await?;
                self.declare_queue(vhost, name, &shape, owner, declared_by).await
            }
            other => self.propose(self.command(vhost, other)).await,
        };
        self.hosts().refresh(&self.broker().catalog());
        outcome
    }

    /// The command of a change, but for the declaration of a queue.
    fn command(&self, vhost: &ShortStr, change: Change) -> AmqpCommand {
        let (vhost, node) = (text(vhost), self.broker().identity().node_id);
        match change {
            Change::DeclareExchange(entry) => AmqpCommand::DeclareExchange {
                vhost,
                name: text(&entry.name),
                exchange: stored::Exchange {
                    kind: text(entry.shape.type_name()),
                    durable: entry.shape.durable,
                    auto_delete: entry.shape.auto_delete,
                    internal: entry.shape.internal,
                    arguments: bytes_of(&entry.shape.arguments),
                },
            },
            Change::DeleteExchange { name, if_unused } => {
                AmqpCommand::DeleteExchange { vhost, name: text(&name), if_unused }
            }
            Change::DeleteQueue { name, declaration } => {
                AmqpCommand::DeleteQueue { vhost, name: text(&name), declaration }
            }
            Change::Bind(entry) => {
                let binding = entry.binding;
                AmqpCommand::Bind {
                    vhost,
                    source: text(&entry.source),
                    binding: stored_binding(binding.destination, &binding.key, &binding.arguments),
                }
            }
            Change::Unbind { source, destination, key, arguments } => AmqpCommand::Unbind {
                vhost,
                source: text(&source),
                binding: stored_binding(destination, &key, &arguments),
            },
            Change::ForgetOwner(connection) => {
                AmqpCommand::ForgetOwner { node, connection: connection.0 }
            }
            Change::DeclareQueue { .. } => unreachable!("it needs a place, and is made elsewhere"),
        }
    }

    async fn declare_queue(
        &self,
        vhost: &ShortStr,
        name: ShortStr,
        shape: &QueueShape,
        owner: Option<ConnectionId>,
        _declared_by: ConnectionId,
    ) -> Result<Changed, Refusal> {
        let arguments = QueueArguments::read(&shape.arguments, Resource::queue(&name, vhost))?;
        let settings = settings(&arguments);
        let config = topic_config(&arguments);
        let topic = format!("{TOPIC_PREFIX}{:032x}", self.random_bits());
        let topic = TopicName::internal(&topic).expect("a prefix and hex digits are a name");
        for _ in 0..ATTEMPTS {
            let catalog = self.broker().catalog();
            let (replicas, placed) = replicas(&catalog, shape, &arguments);
            let down = self.broker().down_nodes(&catalog);
            let mut placement = planning::place_topic_beside(&catalog, 1, placed, &down)
                .map_err(|error| Refusal::Unavailable { reason: error.to_string() })?;
            // What goes with its connection or node lies there: no other one's end takes it.
            let me = self.broker().identity().node_id;
            let mut nodes = planning::placement_nodes(&catalog).into_iter();
            if goes_with_its_node(shape) && nodes.any(|node| node.id == me && !node.draining) {
                placement.replicas = vec![[me].into()];
            }
            let queue = QueueSpec {
                durable: shape.durable,
                auto_delete: shape.auto_delete,
                node: self.broker().identity().node_id,
                connection: owner.map(|owner| owner.0),
                arguments: bytes_of(&shape.arguments),
                topic: topic.clone(),
            };
            let (vhost, name, placement) = (text(vhost), text(&name), Some(placement));
            let (config, settings) = (config.clone(), settings.clone());
            let command = match arguments.kind {
                QueueKind::Stream => {
                    AmqpCommand::DeclareStream { vhost, name, queue, replicas, config, placement }
                }
                QueueKind::Classic | QueueKind::Quorum => AmqpCommand::DeclareQueue {
                    vhost,
                    name,
                    queue,
                    replicas,
                    config,
                    settings,
                    placement,
                },
            };
            match self.reply(command).await? {
                CatalogReply::Refused(CatalogRefusal::StalePlacement { .. }) => {
                    // The answer can come before the change that it speaks of is in the copy here.
                    tokio::task::yield_now().await;
                }
                reply => return self.changed(reply).await,
            }
        }
        Err(Refusal::Unavailable { reason: "the placement changes all the time".to_owned() })
    }

    pub(super) async fn propose(&self, command: AmqpCommand) -> Result<Changed, Refusal> {
        let reply = self.reply(command).await?;
        self.changed(reply).await
    }

    async fn reply(&self, command: AmqpCommand) -> Result<CatalogReply, Refusal> {
        let unavailable = |error: ErrorResponse| Refusal::Unavailable { reason: error.message };
        self.broker().raise_level().await.map_err(unavailable)?;
        self.broker().propose(CatalogCommand::Amqp { command }).await.map_err(unavailable)
    }

    async fn changed(&self, reply: CatalogReply) -> Result<Changed, Refusal> {
        let made = |made: bool| if made { Changed::Made } else { Changed::AsItWas };
        match reply {
            CatalogReply::Amqp(AmqpReply::Done { changed }) => Ok(made(changed)),
            CatalogReply::Amqp(
                AmqpReply::Exchange { existed, .. } | AmqpReply::Queue { existed, .. },
            ) => Ok(made(!existed)),
            CatalogReply::Amqp(AmqpReply::Removed { groups }) => {
                // What fails is told where it fails, and removed at the next start.
                let _ = self.broker().remove_groups(groups.iter().copied()).await;
                Ok(made(!groups.is_empty()))
            }
            CatalogReply::Refused(CatalogRefusal::Amqp { refusal }) => Err(fault(&refusal)),
            CatalogReply::Refused(refusal) => {
                Err(Refusal::Unavailable { reason: refusal.to_string() })
            }
            _ => Err(Refusal::Unavailable { reason: "the catalog answered otherwise".to_owned() }),
        }
    }
}

/// What a client is told of a refusal.
fn fault(refusal: &AmqpRefusal) -> Refusal {
    let code = match refusal {
        AmqpRefusal::UnknownVhost { .. } => ReplyCode::NotAllowed,
        AmqpRefusal::UnknownUser { .. } | AmqpRefusal::ReservedExchange { .. } => {
            ReplyCode::AccessRefused
        }
        AmqpRefusal::UnknownExchange { .. } | AmqpRefusal::UnknownQueue { .. } => {
            ReplyCode::NotFound
        }
        AmqpRefusal::TooMany { .. } => ReplyCode::ResourceError,
        _ => ReplyCode::PreconditionFailed,
    };
    Fault::new(code, refusal.to_string()).into()
}

fn bytes_of(table: &FieldTable) -> Bytes {
    Bytes::copy_from_slice(table.as_bytes())
}

fn stored_binding(
    destination: Destination,
    key: &ShortStr,
    arguments: &FieldTable,
) -> stored::Binding {
    stored::Binding {
        destination: match destination {
            Destination::Queue(name) => stored::Destination::Queue { name: text(&name) },
            Destination::Exchange(name) => stored::Destination::Exchange { name: text(&name) },
        },
        key: text(key),
        arguments: bytes_of(&sorted_arguments(arguments)),
    }
}

fn goes_with_its_node(shape: &QueueShape) -> bool {
    !shape.durable || shape.exclusive
}

/// How many replicas a queue is to have, and gets now: what goes with its connection or node needs no copies; a
/// stream says how many it wants.
fn replicas(catalog: &Catalog, shape: &QueueShape, arguments: &QueueArguments) -> (u16, u16) {
    if goes_with_its_node(shape) {
        return (1, 1);
    }
    let (most, placed) = planning::replica_counts(catalog, 0);
    let wanted = arguments.replicas.map_or(most, |n| u16::try_from(n).unwrap_or(most).min(most));
    (wanted, wanted.min(placed))
}

/// What becomes of records: those of a queue stay until they are settled, those of a stream as long as it was
/// declared. The size of its pieces is brought into the range that there is.
fn topic_config(arguments: &QueueArguments) -> TopicConfig {
    let mut config = TopicConfig { retention_ms: None, ..TopicConfig::default() };
    if arguments.kind == QueueKind::Stream {
        config.retention_ms = arguments.max_age_ms.map(|ms| ms.max(RETENTION_MS_MIN));
        let bytes = arguments.max_length_bytes;
        config.retention_bytes = bytes.map(|bytes| bytes.max(u64::from(SEGMENT_BYTES_MIN)));
        if let Some(bytes) = arguments.segment_bytes {
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            config.segment_bytes = bytes.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        }
    }
    config
}

fn settings(arguments: &QueueArguments) -> QueueSettings {
    let levels = arguments.max_priority.map_or(1, |most| most.saturating_add(1));
    // RabbitMQ counts what comes after the first delivery; its classic queues have no limit.
    let attempts_max = match (arguments.delivery_limit, arguments.kind) {
        (Some(limit), _) => u32::try_from(limit.saturating_add(1)).unwrap_or(u32::MAX),
        (None, QueueKind::Quorum) => 21,
        (None, _) => 0,
    };
    QueueSettings {
        single_active: arguments.single_active_consumer,
        levels: levels.clamp(1, QUEUE_LEVELS_MAX),
        lease_ms: LEASE_MS,
        attempts_max,
        ttl_ms: arguments.message_ttl_ms.map(|ms| u64::from(ms).max(1)),
        length_max: arguments.max_length,
        bytes_max: arguments.max_length_bytes,
        overflow: match arguments.overflow {
            Overflow::DropHead => QueueOverflow::DropHead,
            Overflow::RejectPublish | Overflow::RejectPublishDlx => QueueOverflow::Reject,
        },
        dead_letter: arguments.dead_letter_exchange.is_some().then(|| letters::TARGET.to_owned()),
        ..QueueSettings::default()
    }
}

/// Whether a request failed because the queue is not (any more).
pub(crate) fn is_deleted(error: &ErrorResponse) -> bool {
    matches!(error.code, ErrorCode::UnknownTopic | ErrorCode::UnknownQueue)
}
