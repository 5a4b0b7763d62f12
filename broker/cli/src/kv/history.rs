//! `plimsoll kv history`: what a topic keeps of a key.

use clap::Args;
use plimsoll_protocol::ids::TopicName;

use super::kv_failure;
use super::render::print_event;
use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::{Failure, note};
use crate::output::Output;
use crate::request::known_topic;

/// Print what the topic keeps of a key, the oldest first
///
/// What was before is gone by compaction. Reads the key's partition from its begin to its end. A line is the
/// revision, put or deleted, the key and the value, with tabs between.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  plimsoll kv history settings colour\n  \
                             plimsoll kv history settings colour --json | jq -r .written")]
pub(super) struct HistoryArgs {
    /// The topic
    #[arg(value_parser = known_topic)]
    topic: TopicName,
    /// The key
    key: String,
    /// Print a JSON object per line
    #[arg(long)]
    json: bool,
}

impl HistoryArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let (topic, key) = (&self.topic, &self.key);
        let kept = connection
            .with_client(async |client| {
                let kept = client.kv(topic.as_str()).history(key).await;
                let doing = format!("read the history of {key} in {topic}");
                kept.map_err(|error| kv_failure(&doing, topic, &error))
            })
            .await?;
        let mut output = Output::stdout();
        kept.iter().try_for_each(|event| print_event(event, self.json, &mut output))?;
        output.flush()?;
        if kept.is_empty() && !self.json {
            note(&format!("{topic} keeps nothing of {key}"));
        }
        Ok(Exit::Done)
    }
}
