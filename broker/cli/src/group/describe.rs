//! `plimsoll group describe`: members, and how far the group is in each partition.

use std::collections::BTreeMap;

use clap::Args;
use futures_util::stream::{StreamExt, TryStreamExt, iter};
use plimsoll_client::{
    Admin, AssignedPartitions, ErrorCode, GroupDescription, GroupOffset, RequestError,
    StartPosition,
};
use plimsoll_protocol::ids::TopicName;

use super::render::{DescribedJson, PartitionJson, members, one_line, partitions};
use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::request::request_failure;

/// Partitions whose end is asked for at once.
const ASKED_AT_ONCE: usize = 32;

/// Show a group: its members with what they own, and how far it is behind in each partition
///
/// LAG is the number of records behind the committed offset; "-" where nothing is committed yet.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  plimsoll group describe billing\n  plimsoll group describe \
                             billing --json | jq .lag"
)]
pub(super) struct DescribeArgs {
    /// The group
    group: String,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

impl DescribeArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let (described, standings) = connection
            .with_client(async |client| {
                let looked = look(&client.admin(), &self.group).await;
                let doing = format!("describe group {}", self.group);
                looked.map_err(|error| request_failure(&doing, &error))
            })
            .await?;
        let mut output = Output::stdout();
        if self.json {
            output.json(&DescribedJson::of(&described, standings))?;
        } else {
            output.line(&one_line(&described, &standings))?;
            let tables = [members(&described), partitions(&standings)];
            for table in tables.iter().filter(|table| !table.is_empty()) {
                output.line("")?;
                table.lines().iter().try_for_each(|line| output.line(line))?;
            }
        }
        output.flush()?;
        Ok(Exit::Done)
    }
}

async fn look(
    admin: &Admin,
    group: &str,
) -> Result<(GroupDescription, Vec<PartitionJson>), RequestError> {
    let handle = admin.group(group);
    let described = handle.describe().await?;
    let offsets = handle.offsets().await?;
    let mut found = standings(&described, offsets);
    // What the group's members want and nobody owns yet.
    let mut wanted: Vec<&TopicName> = described.members.iter().flat_map(|it| &it.topics).collect();
    wanted.sort();
    wanted.dedup();
    for topic in wanted {
        let Ok(info) = admin.describe_topic(topic.as_str()).await else { continue };
        for partition in 0..info.topic.partitions {
            let place = (topic.clone(), partition);
            found.entry(place).or_insert_with(|| PartitionJson::new(topic, partition));
        }
    }
    let ended = iter(found.into_values().map(|standing| with_end(admin, standing)));
    let standings = ended.buffered(ASKED_AT_ONCE).try_collect().await?;
    Ok((described, standings))
}

/// What is committed, and who owns what.
fn standings(
    described: &GroupDescription,
    offsets: Vec<GroupOffset>,
) -> BTreeMap<(TopicName, u32), PartitionJson> {
    let mut found = BTreeMap::new();
    for offset in offsets {
        let place = (offset.topic.clone(), offset.partition.0);
        let standing = found
            .entry(place)
            .or_insert_with(|| PartitionJson::new(&offset.topic, offset.partition.0));
        standing.committed = Some(offset.offset.0);
        standing.committed_ms = Some(offset.committed_ms);
        standing.metadata = offset.metadata;
    }
    for member in &described.members {
        for AssignedPartitions { topic, partitions, .. } in &member.owns {
            for partition in partitions {
                let standing = found
                    .entry((topic.clone(), partition.0))
                    .or_insert_with(|| PartitionJson::new(topic, partition.0));
                standing.owned_by(member);
            }
        }
    }
    found
}

async fn with_end(
    admin: &Admin,
    mut standing: PartitionJson,
) -> Result<PartitionJson, RequestError> {
    let asked = admin.offsets(&standing.topic, standing.partition, vec![StartPosition::Latest]);
    match asked.await {
        Ok(offsets) => standing.ends_at(offsets.first().map(|offset| offset.0)),
        // Deleted meanwhile.
        Err(error) if error.code() == Some(ErrorCode::UnknownTopic) => {}
        Err(error) => return Err(error),
    }
    Ok(standing)
}
