//! Groups for people, and as JSON.

use plimsoll_client::{AssignedPartitions, GroupDescription, GroupInfo, GroupMember};
use plimsoll_protocol::ids::TopicName;
use serde::Serialize;

use crate::table::Table;

/// A group in a list.
#[derive(Debug, Serialize)]
pub(super) struct GroupJson<'a> {
    group: &'a str,
    state: &'static str,
    members: u32,
    committed_partitions: u32,
    generation: u64,
}

impl<'a> GroupJson<'a> {
    pub(super) fn of(info: &'a GroupInfo) -> Self {
        Self {
            group: &info.group,
            state: info.phase.as_str(),
            members: info.members,
            committed_partitions: info.offsets,
            generation: info.generation,
        }
    }
}

pub(super) fn list(groups: &[GroupInfo]) -> Table {
    let mut table = Table::new(&["GROUP", "STATE", ">MEMBERS", ">COMMITTED", ">GENERATION"]);
    for group in groups {
        table.row(vec![
            group.group.clone(),
            group.phase.as_str().to_owned(),
            group.members.to_string(),
            group.offsets.to_string(),
            group.generation.to_string(),
        ]);
    }
    table
}

/// How far a group is in one partition.
#[derive(Debug, Serialize)]
pub(super) struct PartitionJson {
    pub(super) topic: String,
    pub(super) partition: u32,
    pub(super) committed: Option<u64>,
    end: Option<u64>,
    lag: Option<u64>,
    owner: Option<String>,
    #[serde(skip)]
    owner_name: Option<String>,
    pub(super) committed_ms: Option<i64>,
    pub(super) metadata: Option<String>,
}

impl PartitionJson {
    pub(super) fn new(topic: &TopicName, partition: u32) -> Self {
        Self {
            topic: topic.to_string(),
            partition,
            committed: None,
            end: None,
            lag: None,
            owner: None,
            owner_name: None,
            committed_ms: None,
            metadata: None,
        }
    }

    pub(super) fn owned_by(&mut self, member: &GroupMember) {
        self.owner = Some(id(member));
        self.owner_name = Some(name(member));
    }

    pub(super) fn ends_at(&mut self, end: Option<u64>) {
        self.end = end;
        self.lag = end.zip(self.committed).map(|(end, at)| end.saturating_sub(at));
    }
}

/// A member as 32 hexadecimal digits.
fn id(member: &GroupMember) -> String {
    format!("{:032x}", member.member)
}

/// What tells members apart for a person: the instance, or the client's name, and the id's beginning.
fn name(member: &GroupMember) -> String {
    match &member.instance {
        Some(instance) => instance.clone(),
        None => format!("{}-{}", member.client, &id(member)[..8]),
    }
}

#[derive(Debug, Serialize)]
struct MemberJson<'a> {
    member: String,
    client: &'a str,
    instance: Option<&'a str>,
    topics: Vec<&'a str>,
    session_ms: u32,
    rebalance_ms: u32,
    session_left_ms: u64,
    epoch: u64,
    owns: Vec<TopicPartitionsJson<'a>>,
    should_own: Vec<TopicPartitionsJson<'a>>,
}

#[derive(Debug, Serialize)]
struct TopicPartitionsJson<'a> {
    topic: &'a str,
    partitions: Vec<u32>,
}

fn assigned(all: &[AssignedPartitions]) -> Vec<TopicPartitionsJson<'_>> {
    all.iter()
        .map(|one| TopicPartitionsJson {
            topic: one.topic.as_str(),
            partitions: one.partitions.iter().map(|partition| partition.0).collect(),
        })
        .collect()
}

/// A group with its members and partitions.
#[derive(Debug, Serialize)]
pub(super) struct DescribedJson<'a> {
    group: &'a str,
    state: &'static str,
    generation: u64,
    /// Records behind the committed offsets, where there are any.
    lag: u64,
    quiet_since_ms: Option<i64>,
    members: Vec<MemberJson<'a>>,
    partitions: Vec<PartitionJson>,
}

impl<'a> DescribedJson<'a> {
    pub(super) fn of(described: &'a GroupDescription, partitions: Vec<PartitionJson>) -> Self {
        let member = |member: &'a GroupMember| MemberJson {
            member: id(member),
            client: &member.client,
            instance: member.instance.as_deref(),
            topics: member.topics.iter().map(TopicName::as_str).collect(),
            session_ms: member.session_ms,
            rebalance_ms: member.rebalance_ms,
            session_left_ms: member.session_left_ms,
            epoch: member.epoch,
            owns: assigned(&member.owns),
            should_own: assigned(&member.should_own),
        };
        Self {
            group: &described.info.group,
            state: described.info.phase.as_str(),
            generation: described.info.generation,
            lag: total_lag(&partitions),
            quiet_since_ms: described.quiet_since_ms,
            members: described.members.iter().map(member).collect(),
            partitions,
        }
    }
}

fn total_lag(partitions: &[PartitionJson]) -> u64 {
    partitions.iter().filter_map(|standing| standing.lag).sum()
}

/// `billing: settled, 2 members, 12 partitions, lag 340`.
pub(super) fn one_line(described: &GroupDescription, partitions: &[PartitionJson]) -> String {
    let info = &described.info;
    let plural = |count: usize| if count == 1 { "" } else { "s" };
    let members = described.members.len();
    format!(
        "{}: {}, {members} member{}, {} partition{}, lag {}",
        info.group,
        info.phase.as_str(),
        plural(members),
        partitions.len(),
        plural(partitions.len()),
        total_lag(partitions)
    )
}

pub(super) fn members(described: &GroupDescription) -> Table {
    let mut table =
        Table::new(&["MEMBER", "CLIENT", ">OWNS", ">SHOULD OWN", ">SESSION LEFT", "ID"]);
    let count =
        |all: &[AssignedPartitions]| all.iter().map(|one| one.partitions.len()).sum::<usize>();
    for member in &described.members {
        table.row(vec![
            name(member),
            member.client.clone(),
            count(&member.owns).to_string(),
            count(&member.should_own).to_string(),
            format!("{} s", member.session_left_ms / 1000),
            id(member),
        ]);
    }
    table
}

pub(super) fn partitions(standings: &[PartitionJson]) -> Table {
    let mut table = Table::new(&["TOPIC", ">PARTITION", ">COMMITTED", ">END", ">LAG", "OWNER"]);
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |n| n.to_string());
    for standing in standings {
        table.row(vec![
            standing.topic.clone(),
            standing.partition.to_string(),
            number(standing.committed),
            number(standing.end),
            number(standing.lag),
            standing.owner_name.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_what_is_behind_the_committed_offset() {
        let mut standing = PartitionJson::new(&"orders".parse().unwrap(), 3);
        standing.ends_at(Some(10));
        assert_eq!(standing.lag, None, "nothing is committed");
        for (committed, end, lag) in [(4, 10, 6), (10, 10, 0), (11, 10, 0)] {
            standing.committed = Some(committed);
            standing.ends_at(Some(end));
            assert_eq!(standing.lag, Some(lag));
        }
    }
}
