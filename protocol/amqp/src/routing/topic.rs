//! Patterns of topic exchanges in a trie: words with dots between, `*` for one word, `#` for any
//! number of words, none included.
//!
//! Invariants: matching does not recurse; it holds each place of the trie once per word, so a key
//! costs at most its words times the places, whatever the patterns are. Nothing is left of a pattern
//! that was removed.
//!
//! Source: AMQP 0-9-1, 3.1.3.3; RabbitMQ, "Topic exchange": the empty key has no words.

use std::collections::HashMap;

use super::bindings::{Counted, Destination, count_down, count_up};

const ROOT: usize = 0;

#[derive(Debug, Clone, Default)]
struct Node {
    /// Next words; `*` and `#` among them.
    next: HashMap<Box<str>, usize>,
    /// Whether it stands for `#`.
    is_hash: bool,
    /// Where patterns lead that end here.
    ends: Counted,
}

/// A set of patterns with their destinations.
#[derive(Debug, Clone)]
pub struct Trie {
    nodes: Vec<Node>,
    free: Vec<usize>,
}

impl Default for Trie {
    fn default() -> Self {
        Self::new()
    }
}

fn words(key: &str) -> impl Iterator<Item = &str> {
    key.split('.').filter(move |_| !key.is_empty())
}

impl Trie {
    /// No patterns.
    #[must_use]
    pub fn new() -> Self {
        Self { nodes: vec![Node::default()], free: Vec::new() }
    }

    /// Adds a pattern; the same one may be added more than once.
    pub fn insert(&mut self, pattern: &str, destination: &Destination) {
        let mut at = ROOT;
        for word in words(pattern) {
            at = match self.nodes[at].next.get(word) {
                Some(next) => *next,
                None => {
                    let new = self.new_node(word == "#");
                    self.nodes[at].next.insert(word.into(), new);
                    new
                }
            };
        }
        count_up(&mut self.nodes[at].ends, destination);
    }

    fn new_node(&mut self, is_hash: bool) -> usize {
        let node = Node { is_hash, ..Node::default() };
        match self.free.pop() {
            Some(at) => {
                self.nodes[at] = node;
                at
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        }
    }

    /// Removes a pattern that was added once more than it was removed.
    pub fn remove(&mut self, pattern: &str, destination: &Destination) {
        let (mut at, mut way) = (ROOT, Vec::new());
        for word in words(pattern) {
            let Some(next) = self.nodes[at].next.get(word) else { return };
            way.push((at, word));
            at = *next;
        }
        count_down(&mut self.nodes[at].ends, destination);
        while let Some((before, word)) = way.pop() {
            let node = &self.nodes[at];
            if !node.next.is_empty() || !node.ends.is_empty() {
                return;
            }
            self.nodes[before].next.remove(word);
            self.free.push(at);
            at = before;
        }
    }

    /// Calls `visit` with the destinations of all patterns that match `key`, with some more than once.
    pub fn visit<'a>(&'a self, key: &str, mut visit: impl FnMut(&'a Destination)) {
        let mut places = vec![ROOT];
        self.step_over_nothing(&mut places);
        for word in words(key) {
            let mut next = Vec::new();
            for &place in &places {
                let node = &self.nodes[place];
                next.extend(node.next.get(word));
                next.extend(node.next.get("*"));
                if node.is_hash {
                    next.push(place);
                }
            }
            self.step_over_nothing(&mut next);
            places = next;
            if places.is_empty() {
                return;
            }
        }
        for place in places {
            self.nodes[place].ends.keys().for_each(&mut visit);
        }
    }

    /// Adds the places that a `#` reaches without a word, and leaves each place once.
    fn step_over_nothing(&self, places: &mut Vec<usize>) {
        places.sort_unstable();
        places.dedup();
        let mut at = 0;
        while let Some(&place) = places.get(at) {
            if let Some(&hash) = self.nodes[place].next.get("#")
                && !places.contains(&hash)
            {
                places.push(hash);
            }
            at += 1;
        }
    }

    /// How many places there are: what a test compares before and after.
    #[must_use]
    pub fn places(&self) -> usize {
        self.nodes.len() - self.free.len()
    }
}
