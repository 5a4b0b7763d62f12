//! Catalog and queues of [`Memory`](super::Memory), and what happens in them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use plimsoll_amqp::routing::{Destination, Overflow, Removed, Topology};
use plimsoll_amqp::shortstr::ShortStr;
use plimsoll_amqp_gateway::backend::*;
use plimsoll_amqp_gateway::catalog::*;
use plimsoll_amqp_gateway::dead_letters::{Death, dead_letter};
use plimsoll_amqp_gateway::inbox::{Published, Receipt};
use plimsoll_amqp_gateway::message::Stored;
use tokio::sync::{mpsc, watch};

/// A message that is in a queue or with a consumer.
pub(super) struct Message {
    pub(super) offset: u64,
    pub(super) attempts: u32,
    pub(super) record: Record,
}

impl Message {
    pub(super) fn stored(&self) -> Stored {
        Stored::new(
            self.record.value.clone(),
            self.record.timestamp_ms,
            self.record.headers.clone(),
        )
    }

    /// High priorities first, then the oldest.
    pub(super) fn place(&self) -> (u8, u64) {
        (u8::MAX - self.record.priority.unwrap_or(0), self.offset)
    }
}

pub(super) enum ToPort {
    Deliver(Delivery),
    End(ConsumerEnd),
}

pub(super) struct Consumer {
    pub(super) spec: ConsumerSpec,
    pub(super) retired: bool,
    pub(super) port: mpsc::UnboundedSender<ToPort>,
    pub(super) held: BTreeMap<u64, Message>,
}

impl Consumer {
    pub(super) fn counts(&self) -> bool {
        self.spec.prefetch_count > 0 && !self.retired
    }
}

pub(super) struct Queue {
    pub(super) entry: Arc<QueueEntry>,
    pub(super) ready: BTreeMap<(u8, u64), Message>,
    pub(super) delayed: Vec<Message>,
    pub(super) end: u64,
    pub(super) consumers: BTreeMap<u64, Consumer>,
    pub(super) turn: u64,
}

pub(super) struct Host {
    pub(super) topology: Topology,
    pub(super) exchanges: Vec<ExchangeEntry>,
    pub(super) queues: Vec<Arc<QueueEntry>>,
    pub(super) bindings: Vec<BindingEntry>,
    pub(super) permissions: Vec<(String, PermissionPatterns)>,
    pub(super) snapshot: watch::Sender<Arc<HostSnapshot>>,
}

pub(super) struct State {
    pub(super) hosts: BTreeMap<ShortStr, Host>,
    pub(super) users: BTreeMap<String, Arc<User>>,
    /// By topic.
    pub(super) queues: BTreeMap<Arc<str>, Queue>,
    pub(super) owners: BTreeMap<u64, ConnectionId>,
    pub(super) now_ms: i64,
    pub(super) next: u64,
    pub(super) holding: bool,
    pub(super) held_back: VecDeque<(Arc<QueueEntry>, Record, Receipt)>,
}

impl State {
    /// Shows the host as it is now.
    pub(super) fn show(&mut self, vhost: &str) {
        self.next += 1;
        let host = &self.hosts[vhost];
        host.snapshot.send_replace(Arc::new(HostSnapshot {
            generation: self.next,
            exchanges: host.exchanges.clone(),
            queues: host.queues.clone(),
            bindings: host.bindings.clone(),
            permissions: host.permissions.clone(),
        }));
    }

    pub(super) fn change(&mut self, vhost: &str, change: Change) -> Result<Changed, Refusal> {
        let host = self.hosts.get_mut(vhost).unwrap();
        let changed = match change {
            Change::DeclareExchange(entry) => {
                if host.exchanges.iter().any(|other| other.name == entry.name) {
                    return Ok(Changed::AsItWas);
                }
                host.topology.declare_exchange(&entry.name, entry.shape.clone())?;
                host.exchanges.push(entry);
                true
            }
            Change::DeleteExchange { name, if_unused } => {
                let removed = host.topology.delete_exchange(&name, if_unused)?;
                let there = !removed.exchanges.is_empty();
                host.forget(&removed);
                there
            }
            Change::Bind(entry) => {
                let BindingEntry { source, binding } = entry.clone();
                let new = host.topology.bind(
                    &source,
                    binding.destination,
                    binding.key,
                    &binding.arguments,
                );
                let new = new?;
                host.bindings.extend(new.then_some(entry));
                new
            }
            Change::Unbind { source, destination, key, arguments } => {
                let removed = host.topology.unbind(&source, destination, key, &arguments);
                let there = !removed.bindings.is_empty();
                host.forget(&removed);
                there
            }
            Change::DeclareQueue { name, shape, owner, .. } => {
                if !host.topology.add_queue(name.clone()) {
                    return Ok(Changed::AsItWas);
                }
                let declaration = self.next;
                let topic: Arc<str> = format!("{vhost}:{name}:{declaration}").into();
                self.owners.extend(owner.map(|owner| (declaration, owner)));
                let owner = owner.map(Owner::Here);
                let entry = QueueEntry::new(name, shape, owner, Arc::clone(&topic), declaration)?;
                let entry = Arc::new(entry);
                host.queues.push(Arc::clone(&entry));
                let queue = Queue {
                    entry,
                    ready: BTreeMap::new(),
                    delayed: Vec::new(),
                    end: 0,
                    consumers: BTreeMap::new(),
                    turn: 0,
                };
                self.queues.insert(topic, queue);
                true
            }
            Change::DeleteQueue { name, declaration } => self.delete(vhost, &name, declaration),
            Change::ForgetOwner(id) => {
                let owned: Vec<_> = self.owners.iter().filter(|(_, owner)| **owner == id).collect();
                let owned: Vec<u64> =
                    owned.into_iter().map(|(declaration, _)| *declaration).collect();
                let queues = host.queues.iter().filter(|q| owned.contains(&q.declaration));
                let gone: Vec<_> = queues.map(|q| (q.name.clone(), q.declaration)).collect();
                let any = !gone.is_empty();
                for (name, declaration) in gone {
                    self.delete(vhost, &name, declaration);
                }
                any
            }
        };
        self.show(vhost);
        Ok(if changed { Changed::Made } else { Changed::AsItWas })
    }

    pub(super) fn delete(&mut self, vhost: &str, name: &str, declaration: u64) -> bool {
        let host = self.hosts.get_mut(vhost).unwrap();
        let place =
            host.queues.iter().position(|q| &*q.name == name && q.declaration == declaration);
        let Some(place) = place else { return false };
        let entry = host.queues.remove(place);
        let removed = host.topology.remove_queue(name);
        host.forget(&removed);
        let queue = self.queues.remove(&entry.topic).unwrap();
        for consumer in queue.consumers.into_values() {
            let _ = consumer.port.send(ToPort::End(ConsumerEnd::Deleted));
        }
        true
    }

    pub(super) fn store(&mut self, queue: &Arc<QueueEntry>, record: Record, receipt: Receipt) {
        let Some(known) = self.queues.get(&queue.topic) else {
            return receipt.tell(Published::Deleted);
        };
        let is_full =
            queue.arguments.max_length.is_some_and(|most| known.ready.len() as u64 >= most);
        if is_full && queue.arguments.overflow != Overflow::DropHead {
            return receipt.tell(Published::Full);
        }
        self.push(queue, record);
        receipt.stored();
    }

    pub(super) fn push(&mut self, entry: &Arc<QueueEntry>, record: Record) {
        let Some(queue) = self.queues.get_mut(&entry.topic) else { return };
        let message = Message { offset: queue.end, attempts: 0, record };
        queue.end += 1;
        queue.delayed.push(message);
        self.serve(&entry.topic);
        let Some(queue) = self.queues.get_mut(&entry.topic) else { return };
        if let Some(most) = entry.arguments.max_length
            && queue.ready.len() as u64 > most
            && let Some((_, oldest)) = queue.ready.pop_first()
        {
            self.bury(entry, &oldest, Death::MaxLength);
        }
    }

    /// Gives a dead message to where dead letters go.
    pub(super) fn bury(&mut self, entry: &Arc<QueueEntry>, message: &Message, death: Death) {
        let letter = dead_letter(entry, &message.stored(), death, self.now_ms);
        let Some(letter) = letter else { return };
        let host = self.hosts.values().find(|host| host.topology.has_queue(&entry.name)).unwrap();
        let names = letter.route(&host.topology);
        let queues = host.queues.iter().filter(|queue| names.contains(&queue.name)).cloned();
        for queue in queues.collect::<Vec<_>>() {
            let record = letter.record(&queue, self.now_ms);
            self.push(&queue, record);
        }
    }

    /// Does what is due in a queue, and gives messages to who has room.
    pub(super) fn serve(&mut self, topic: &Arc<str>) {
        let now_ms = self.now_ms;
        let Some(queue) = self.queues.get_mut(topic) else { return };
        let is_due =
            |message: &mut Message| message.record.deliver_at_ms.is_none_or(|at| at <= now_ms);
        queue.ready.extend(queue.delayed.extract_if(.., is_due).map(|one| (one.place(), one)));
        let is_over =
            |message: &Message| message.record.expires_at_ms.is_some_and(|at| at <= now_ms);
        let over: Vec<_> =
            queue.ready.iter().filter(|(_, one)| is_over(one)).map(|(place, _)| *place).collect();
        let over: Vec<_> = over.iter().filter_map(|place| queue.ready.remove(place)).collect();
        while !queue.ready.is_empty() {
            let Some(id) = queue.whose_turn() else { break };
            let (_, mut message) = queue.ready.pop_first().unwrap();
            message.attempts += 1;
            let consumer = queue.consumers.get_mut(&id).unwrap();
            let (offset, attempt) = (message.offset, message.attempts);
            let delivery = Delivery { offset, attempt, record: message.stored() };
            let _ = consumer.port.send(ToPort::Deliver(delivery));
            consumer.held.insert(offset, message);
            queue.turn = id + 1;
        }
        let entry = Arc::clone(&queue.entry);
        for message in over {
            self.bury(&entry, &message, Death::Expired);
        }
    }
}

impl Host {
    pub(super) fn forget(&mut self, removed: &Removed) {
        self.exchanges.retain(|exchange| !removed.exchanges.contains(&exchange.name));
        self.bindings.retain(|entry| {
            !removed.bindings.iter().any(|(source, binding)| {
                *source == entry.source
                    && binding.destination == entry.binding.destination
                    && binding.key == entry.binding.key
            })
        });
        for (_, binding) in &removed.bindings {
            assert!(!matches!(&binding.destination, Destination::Queue(name) if name.is_empty()));
        }
    }
}

impl Queue {
    /// Who gets the next message: the highest priority that has room, in turn.
    pub(super) fn whose_turn(&self) -> Option<u64> {
        let counting = self.consumers.iter().filter(|(_, consumer)| consumer.counts());
        let mut counting: Vec<_> = counting.collect();
        if self.entry.arguments.single_active_consumer {
            counting.truncate(1);
        }
        let has_room = |consumer: &Consumer| {
            (consumer.held.len() as u64) < u64::from(consumer.spec.prefetch_count)
        };
        let with_room = counting.into_iter().filter(|(_, consumer)| has_room(consumer));
        let rank = |(id, consumer): &(&u64, &Consumer)| {
            (std::cmp::Reverse(consumer.spec.priority), **id < self.turn, **id)
        };
        with_room.min_by_key(rank).map(|(id, _)| *id)
    }

    pub(super) fn counting(&self) -> u32 {
        self.consumers.values().filter(|consumer| consumer.counts()).count() as u32
    }
}
