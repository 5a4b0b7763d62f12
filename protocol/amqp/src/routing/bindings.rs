//! The bindings of one exchange, found by the exchange's rule.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::exchange::Rule;
use super::headers::headers_match;
use super::keys::MessageKeys;
use super::topic::Trie;
use crate::shortstr::ShortStr;
use crate::table::FieldTable;

/// Where a binding leads.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Destination {
    /// A queue.
    Queue(ShortStr),
    /// Another exchange.
    Exchange(ShortStr),
}

/// A binding of an exchange. Two with the same fields are one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Binding {
    /// Where it leads.
    pub destination: Destination,
    /// Its key or pattern.
    pub key: ShortStr,
    /// Its arguments, sorted by name.
    pub arguments: FieldTable,
}

/// Destinations, and how many bindings lead to each: those that differ in their arguments only.
pub(super) type Counted = BTreeMap<Destination, usize>;

pub(super) fn count_up(counted: &mut Counted, destination: &Destination) {
    *counted.entry(destination.clone()).or_default() += 1;
}

pub(super) fn count_down<K: Ord>(counted: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counted.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counted.remove(key);
        }
    }
}

#[derive(Debug, Clone)]
enum Index {
    Direct(HashMap<ShortStr, Counted>),
    Fanout(Counted),
    Topic(Trie),
    /// Headers are compared with each binding in turn.
    Headers,
}

#[derive(Debug, Clone)]
pub(super) struct Bindings {
    all: BTreeSet<Binding>,
    index: Index,
}

impl Bindings {
    pub(super) fn new(rule: Rule) -> Self {
        let index = match rule {
            Rule::Direct => Index::Direct(HashMap::new()),
            Rule::Fanout => Index::Fanout(Counted::new()),
            Rule::Topic => Index::Topic(Trie::new()),
            Rule::Headers => Index::Headers,
        };
        Self { all: BTreeSet::new(), index }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Binding> {
        self.all.iter()
    }

    pub(super) fn into_all(self) -> BTreeSet<Binding> {
        self.all
    }

    /// Adds a binding; false where it is there.
    pub(super) fn insert(&mut self, binding: Binding) -> bool {
        if self.all.contains(&binding) {
            return false;
        }
        let Binding { destination, key, .. } = &binding;
        match &mut self.index {
            Index::Direct(keys) => count_up(keys.entry(key.clone()).or_default(), destination),
            Index::Fanout(counted) => count_up(counted, destination),
            Index::Topic(trie) => trie.insert(key, destination),
            Index::Headers => {}
        }
        self.all.insert(binding)
    }

    /// Removes a binding; false where there is none.
    pub(super) fn remove(&mut self, binding: &Binding) -> bool {
        if !self.all.remove(binding) {
            return false;
        }
        let Binding { destination, key, .. } = binding;
        match &mut self.index {
            Index::Direct(keys) => {
                if let Some(counted) = keys.get_mut(key) {
                    count_down(counted, destination);
                    if counted.is_empty() {
                        keys.remove(key);
                    }
                }
            }
            Index::Fanout(counted) => count_down(counted, destination),
            Index::Topic(trie) => trie.remove(key, destination),
            Index::Headers => {}
        }
        true
    }

    /// Removes all bindings to a destination.
    pub(super) fn remove_to(&mut self, destination: &Destination) -> Vec<Binding> {
        let first = Binding {
            destination: destination.clone(),
            key: ShortStr::EMPTY,
            arguments: FieldTable::default(),
        };
        let gone: Vec<_> = self
            .all
            .range(first..)
            .take_while(|binding| binding.destination == *destination)
            .cloned()
            .collect();
        for binding in &gone {
            self.remove(binding);
        }
        gone
    }

    /// Calls `visit` with each destination of a message, with some more than once.
    pub(super) fn visit<'a>(
        &'a self,
        message: &MessageKeys<'_>,
        mut visit: impl FnMut(&'a Destination),
    ) {
        match &self.index {
            Index::Direct(keys) => {
                for counted in message.keys().filter_map(|key| keys.get(key)) {
                    counted.keys().for_each(&mut visit);
                }
            }
            Index::Fanout(counted) => counted.keys().for_each(visit),
            Index::Topic(trie) => message.keys().for_each(|key| trie.visit(key, &mut visit)),
            Index::Headers => {
                for binding in &self.all {
                    if headers_match(binding.arguments.fields(), message.headers()) {
                        visit(&binding.destination);
                    }
                }
            }
        }
    }
}
