//! Bindings: which exchange leads where.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::AmqpObjects;
use super::limits::AmqpKind;
use super::refusal::AmqpRefusal;
use super::reply::AmqpReply;
use super::text::AmqpText;
use super::vhosts::Vhost;
use crate::catalog::variants::{wire_fields, wire_variants};

wire_variants! {
    /// Where a binding leads.
    #[derive(PartialOrd, Ord)]
    pub enum Destination as "destination of a binding" {
        /// A queue.
        Queue = 1 {
            /// Its name.
            name: AmqpText,
        },
        /// Another exchange.
        Exchange = 2 {
            /// Its name.
            name: AmqpText,
        },
    }
}

/// A binding of an exchange. Two with the same fields are one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Binding {
    /// Where it leads.
    pub destination: Destination,
    /// Its key or pattern.
    pub key: AmqpText,
    /// Its arguments, an encoded field table of at most
    /// [`ARGUMENTS_BYTES_MAX`](super::ARGUMENTS_BYTES_MAX) bytes. Sorted by name, by whoever proposes:
    /// tables are compared by their bytes.
    pub arguments: Bytes,
}

wire_fields!(Binding { destination: Destination, key: AmqpText, arguments: Bytes });

/// The bindings of a virtual host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Bindings {
    by_source: Arc<BTreeMap<AmqpText, Arc<BTreeSet<Binding>>>>,
    /// Which exchanges have bindings to a destination, and how many. Derived, never stored.
    sources: Arc<BTreeMap<Destination, BTreeMap<AmqpText, usize>>>,
    count: usize,
}

impl Bindings {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&AmqpText, &Binding)> {
        self.by_source
            .iter()
            .flat_map(|(source, bindings)| bindings.iter().map(move |one| (source, one)))
    }

    pub(super) fn from(&self, source: &str) -> impl Iterator<Item = &Binding> {
        self.by_source.get(source).into_iter().flat_map(|bindings| bindings.iter())
    }

    pub(super) fn to<'a>(
        &'a self,
        destination: &'a Destination,
    ) -> impl Iterator<Item = (&'a AmqpText, &'a Binding)> {
        let sources = self.sources.get(destination).into_iter().flat_map(BTreeMap::keys);
        sources.flat_map(move |source| {
            let bindings = self.by_source.get(source).expect("its bindings were counted");
            leading_to(bindings, destination).map(move |one| (source, one))
        })
    }

    pub(super) fn has_source(&self, source: &AmqpText) -> bool {
        self.by_source.contains_key(source)
    }

    pub(super) fn contains(&self, source: &AmqpText, binding: &Binding) -> bool {
        self.by_source.get(source).is_some_and(|bindings| bindings.contains(binding))
    }

    /// Adds a binding; false where it is there.
    pub(super) fn insert(&mut self, source: AmqpText, binding: Binding) -> bool {
        if self.contains(&source, &binding) {
            return false;
        }
        let sources = Arc::make_mut(&mut self.sources);
        let sources = sources.entry(binding.destination.clone()).or_default();
        *sources.entry(source.clone()).or_default() += 1;
        let bindings = Arc::make_mut(&mut self.by_source).entry(source).or_default();
        self.count += 1;
        Arc::make_mut(bindings).insert(binding)
    }

    /// Removes a binding; false where there is none.
    pub(super) fn remove(&mut self, source: &AmqpText, binding: &Binding) -> bool {
        if !self.contains(source, binding) {
            return false;
        }
        let by_source = Arc::make_mut(&mut self.by_source);
        let bindings = by_source.get_mut(source).expect("the binding is there");
        Arc::make_mut(bindings).remove(binding);
        if bindings.is_empty() {
            by_source.remove(source);
        }
        self.count -= 1;
        self.count_down(&binding.destination, source);
        true
    }

    /// Removes all bindings of an exchange. Gives the bytes of their arguments.
    pub(super) fn remove_from(&mut self, source: &AmqpText) -> usize {
        if !self.has_source(source) {
            return 0;
        }
        let gone = Arc::make_mut(&mut self.by_source).remove(source).expect("it was just seen");
        for binding in gone.iter() {
            self.count_down(&binding.destination, source);
        }
        self.count -= gone.len();
        gone.iter().map(|binding| binding.arguments.len()).sum()
    }

    /// Removes all bindings to a destination. Gives their sources, and the bytes of their arguments.
    pub(super) fn remove_to(&mut self, destination: &Destination) -> (Vec<AmqpText>, usize) {
        let gone: Vec<(AmqpText, Binding)> =
            self.to(destination).map(|(source, one)| (source.clone(), one.clone())).collect();
        for (source, binding) in &gone {
            self.remove(source, binding);
        }
        let bytes = gone.iter().map(|(_, binding)| binding.arguments.len()).sum();
        let mut sources: Vec<_> = gone.into_iter().map(|(source, _)| source).collect();
        sources.dedup();
        (sources, bytes)
    }

    /// One binding of `source` to `destination` is gone.
    fn count_down(&mut self, destination: &Destination, source: &AmqpText) {
        let all = Arc::make_mut(&mut self.sources);
        let sources = all.get_mut(destination).expect("its bindings were counted");
        let count = sources.get_mut(source).expect("its bindings were counted");
        *count -= 1;
        if *count == 0 {
            sources.remove(source);
        }
        if sources.is_empty() {
            all.remove(destination);
        }
    }
}

/// Those of the bindings of an exchange that lead to a destination.
fn leading_to<'a>(
    bindings: &'a BTreeSet<Binding>,
    destination: &'a Destination,
) -> impl Iterator<Item = &'a Binding> {
    let first = Binding {
        destination: destination.clone(),
        key: AmqpText::default(),
        arguments: Bytes::new(),
    };
    bindings.range(first..).take_while(move |binding| binding.destination == *destination)
}

impl Vhost {
    /// Whether both ends of a binding are there: the first that is missing.
    pub(super) fn check_ends(
        &self,
        own: &AmqpText,
        source: &AmqpText,
        destination: &Destination,
    ) -> Result<(), AmqpRefusal> {
        let vhost = || own.clone();
        let no_exchange = |name: &AmqpText| AmqpRefusal::UnknownExchange {
            vhost: vhost(),
            exchange: name.clone(),
        };
        match destination {
            _ if !self.has_exchange(source) => Err(no_exchange(source)),
            Destination::Exchange { name } if !self.has_exchange(name) => Err(no_exchange(name)),
            Destination::Queue { name } if !self.queues.contains_key(name) => {
                Err(AmqpRefusal::UnknownQueue { vhost: vhost(), queue: name.clone() })
            }
            _ => Ok(()),
        }
    }
}

impl AmqpObjects {
    pub(super) fn bind(
        &mut self,
        vhost: &AmqpText,
        source: AmqpText,
        binding: Binding,
    ) -> Result<AmqpReply, AmqpRefusal> {
        let known = self.known_vhost(vhost)?;
        known.check_ends(vhost, &source, &binding.destination)?;
        if known.bindings.contains(&source, &binding) {
            return Ok(AmqpReply::Done { changed: false });
        }
        self.check_room(AmqpKind::Bindings)?;
        self.check_arguments(&binding.arguments)?;
        self.change(vhost, |vhost| {
            vhost.argument_bytes += binding.arguments.len();
            vhost.bindings.insert(source, binding);
        });
        Ok(AmqpReply::Done { changed: true })
    }

    pub(super) fn unbind(
        &mut self,
        vhost: &AmqpText,
        source: &AmqpText,
        binding: &Binding,
    ) -> Result<AmqpReply, AmqpRefusal> {
        let changed = self.known_vhost(vhost)?.bindings.contains(source, binding);
        if changed {
            self.change(vhost, |vhost| vhost.remove_binding(source, binding));
        }
        Ok(AmqpReply::Done { changed })
    }
}
