//! Who leads what, in the whole cluster: this node's own leaderships, and what other nodes say of
//! theirs.
//!
//! A claim is positive evidence. A leader that steps down, whose instance ends, or whose node began
//! a new life does not claim, so no belief in a deposed leader keeps the others from electing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};

use plimsoll_protocol::ids::{GroupId, NodeId, Term};

/// A change of this node's own leaderships, to be told to every node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct LeadsChange {
    /// Whether this is everything, and replaces what was said before.
    pub(crate) full: bool,
    pub(crate) add: Vec<(GroupId, Term)>,
    pub(crate) drop: Vec<GroupId>,
    /// Groups that this node cannot lead, because its replica is quarantined.
    pub(crate) unfit: Vec<GroupId>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Leaders(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    own: BTreeMap<GroupId, Term>,
    own_unfit: BTreeSet<GroupId>,
    others: BTreeMap<NodeId, Claims>,
    /// Who claims a group: mostly one node.
    by_group: BTreeMap<GroupId, Vec<NodeId>>,
}

#[derive(Debug, Default)]
struct Claims {
    leads: BTreeMap<GroupId, Term>,
    unfit: BTreeSet<GroupId>,
}

impl Leaders {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().expect("nothing panics while it holds the claims")
    }

    /// This node leads the group. `tell` gets the change while no other can come in between.
    pub(crate) fn claim(&self, group: GroupId, term: Term, tell: impl FnOnce(LeadsChange)) {
        let mut table = self.table();
        if table.own.insert(group, term) != Some(term) {
            tell(LeadsChange { add: vec![(group, term)], ..LeadsChange::default() });
        }
    }

    /// This node does not lead the group any more.
    pub(crate) fn release(&self, group: GroupId, tell: impl FnOnce(LeadsChange)) {
        let mut table = self.table();
        if table.own.remove(&group).is_some() {
            tell(LeadsChange { drop: vec![group], ..LeadsChange::default() });
        }
    }

    /// This node's replica of the group cannot be used, or can be again.
    pub(crate) fn set_unfit(&self, group: GroupId, unfit: bool, tell: impl FnOnce(LeadsChange)) {
        let mut table = self.table();
        let changed =
            if unfit { table.own_unfit.insert(group) } else { table.own_unfit.remove(&group) };
        match (changed, unfit) {
            (false, _) => {}
            (true, true) => tell(LeadsChange { unfit: vec![group], ..LeadsChange::default() }),
            // Only the whole list can take one back.
            (true, false) => tell(table.full()),
        }
    }

    /// Everything that this node claims, for a new link.
    pub(crate) fn with_full(&self, tell: impl FnOnce(LeadsChange)) {
        let table = self.table();
        tell(table.full());
    }

    /// Takes in what a node says. Returns the groups that it led before and does not lead now.
    pub(crate) fn heard(&self, from: NodeId, said: LeadsChange) -> Vec<GroupId> {
        let mut table = self.table();
        let mut gone = Vec::new();
        if said.full {
            gone = table.forget(from);
        }
        for (group, term) in said.add {
            table.others.entry(from).or_default().leads.insert(group, term);
            let claimants = table.by_group.entry(group).or_default();
            if !claimants.contains(&from) {
                claimants.push(from);
            }
        }
        for group in said.drop {
            if table.remove(from, group) {
                gone.push(group);
            }
        }
        let claims = table.others.entry(from).or_default();
        claims.unfit.extend(said.unfit);
        gone.retain(|group| !claims.leads.contains_key(group));
        gone
    }

    /// Forgets what a node said: it began a new life. Returns the groups that it led.
    pub(crate) fn forget(&self, node: NodeId) -> Vec<GroupId> {
        self.table().forget(node)
    }

    /// Which other nodes claim the group, and since which term.
    pub(crate) fn claimants(&self, group: GroupId) -> Vec<(NodeId, Term)> {
        let table = self.table();
        let nodes = table.by_group.get(&group).map(Vec::as_slice).unwrap_or_default();
        nodes.iter().map(|node| (*node, table.others[node].leads[&group])).collect()
    }

    /// The node that leads the group in the highest term, among those of which `lives` is true;
    /// this node included.
    pub(crate) fn leader(
        &self,
        group: GroupId,
        me: NodeId,
        lives: impl Fn(NodeId) -> bool,
    ) -> Option<(NodeId, Term)> {
        let own = self.table().own.get(&group).map(|term| (me, *term));
        let others = self.claimants(group).into_iter().filter(|(node, _)| lives(*node));
        others.chain(own).max_by_key(|(_, term)| *term)
    }

    /// Whether any node said that it cannot lead some group; this node, too.
    pub(crate) fn has_unfit(&self) -> bool {
        let table = self.table();
        !table.own_unfit.is_empty() || table.others.values().any(|claims| !claims.unfit.is_empty())
    }

    /// Whether a node said that it cannot lead the group; this node, too.
    pub(crate) fn is_unfit(&self, node: NodeId, me: NodeId, group: GroupId) -> bool {
        let table = self.table();
        match node == me {
            true => table.own_unfit.contains(&group),
            false => table.others.get(&node).is_some_and(|claims| claims.unfit.contains(&group)),
        }
    }
}

impl Table {
    fn full(&self) -> LeadsChange {
        LeadsChange {
            full: true,
            add: self.own.iter().map(|(group, term)| (*group, *term)).collect(),
            drop: Vec::new(),
            unfit: self.own_unfit.iter().copied().collect(),
        }
    }

    fn forget(&mut self, node: NodeId) -> Vec<GroupId> {
        let Some(claims) = self.others.get_mut(&node) else { return Vec::new() };
        claims.unfit.clear();
        let groups: Vec<_> = claims.leads.keys().copied().collect();
        for group in &groups {
            self.remove(node, *group);
        }
        groups
    }

    fn remove(&mut self, node: NodeId, group: GroupId) -> bool {
        let claims = self.others.entry(node).or_default();
        if claims.leads.remove(&group).is_none() {
            return false;
        }
        if let Some(claimants) = self.by_group.get_mut(&group) {
            claimants.retain(|claimant| *claimant != node);
            if claimants.is_empty() {
                self.by_group.remove(&group);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId(1);
    const A: NodeId = NodeId(2);
    const B: NodeId = NodeId(3);

    fn adds(full: bool, add: &[(u64, u64)]) -> LeadsChange {
        let add = add.iter().map(|(g, t)| (GroupId(*g), Term(*t))).collect();
        LeadsChange { full, add, ..LeadsChange::default() }
    }

    #[test]
    fn highest_term_of_a_living_node_leads() {
        let leaders = Leaders::default();
        leaders.heard(A, adds(true, &[(7, 3)]));
        leaders.heard(B, adds(true, &[(7, 5)]));
        assert_eq!(leaders.leader(GroupId(7), ME, |_| true), Some((B, Term(5))));
        assert_eq!(leaders.leader(GroupId(7), ME, |node| node == A), Some((A, Term(3))));
        leaders.claim(GroupId(7), Term(6), |_| {});
        assert_eq!(leaders.leader(GroupId(7), ME, |_| true), Some((ME, Term(6))));
        leaders.release(GroupId(7), |_| {});
        assert_eq!(leaders.leader(GroupId(7), ME, |_| false), None);
    }

    #[test]
    fn full_list_replaces_and_tells_what_went() {
        let leaders = Leaders::default();
        leaders.heard(A, adds(true, &[(1, 1), (2, 1), (3, 1)]));
        assert_eq!(leaders.heard(A, adds(true, &[(2, 4)])), [GroupId(1), GroupId(3)]);
        assert_eq!(leaders.claimants(GroupId(2)), [(A, Term(4))]);
        let dropped = LeadsChange { drop: vec![GroupId(2), GroupId(9)], ..LeadsChange::default() };
        assert_eq!(leaders.heard(A, dropped), [GroupId(2)]);
        assert!(leaders.claimants(GroupId(2)).is_empty());
    }

    #[test]
    fn only_changes_are_told() {
        let leaders = Leaders::default();
        let mut told = Vec::new();
        leaders.claim(GroupId(1), Term(1), |change| told.push(change));
        leaders.claim(GroupId(1), Term(1), |_| panic!("said already"));
        leaders.release(GroupId(1), |change| told.push(change));
        leaders.release(GroupId(1), |_| panic!("said already"));
        assert_eq!(told.len(), 2);
        leaders.set_unfit(GroupId(4), true, |change| assert_eq!(change.unfit, [GroupId(4)]));
        assert!(leaders.is_unfit(ME, ME, GroupId(4)), "it does not name itself either");
        leaders.set_unfit(GroupId(4), false, |change| assert!(change.full));
        assert!(!leaders.is_unfit(ME, ME, GroupId(4)));
    }
}
