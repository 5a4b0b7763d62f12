//! Reading keys: `get` and `scan`.

use clap::Args;
use plimsoll_client::{Client, Kv};
use plimsoll_protocol::ids::TopicName;

use super::kv_failure;
use super::render::EntryJson;
use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::request::known_topic;

/// Print the value of a key
///
/// Ends with 3 where it has none.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  plimsoll kv get settings colour\n  \
                             plimsoll kv get settings colour --json | jq .revision")]
pub(super) struct GetArgs {
    /// The topic
    #[arg(value_parser = known_topic)]
    topic: TopicName,
    /// The key
    key: String,
    /// What any replica has: perhaps without what was acknowledged a moment ago
    #[arg(long)]
    stale: bool,
    /// Print a JSON object, with the revision
    #[arg(long)]
    json: bool,
}

/// List keys and values, in the order of the keys
///
/// A line is the key, a tab and the value. Keys that are changed meanwhile are seen before or after that.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  plimsoll kv scan settings\n  \
                             plimsoll kv scan settings user. --keys-only --limit 100\n  \
                             plimsoll kv scan settings --json | jq -r .key")]
pub(super) struct ScanArgs {
    /// The topic
    #[arg(value_parser = known_topic)]
    topic: TopicName,
    /// Only keys that begin with this
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    /// Leave the values out
    #[arg(long)]
    keys_only: bool,
    /// End after so many keys
    #[arg(long, short = 'n', value_name = "N")]
    limit: Option<u64>,
    /// What any replica has: perhaps without what was acknowledged a moment ago
    #[arg(long)]
    stale: bool,
    /// Print a JSON object per line
    #[arg(long)]
    json: bool,
}

fn map(client: &Client, topic: &TopicName, is_stale: bool) -> Kv {
    let kv = client.kv(topic.as_str());
    if is_stale { kv.stale() } else { kv }
}

impl GetArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let (topic, key) = (&self.topic, &self.key);
        let found = connection
            .with_client(async |client| {
                let found = map(client, topic, self.stale).get(key).await;
                found.map_err(|error| kv_failure(&format!("get {key} of {topic}"), topic, &error))
            })
            .await?;
        let Some(entry) = found else {
            return Err(Failure::new(Exit::NotFound, format!("{key} of {topic} has no value"))
                .hint(format!("`plimsoll kv scan {topic} --keys-only` lists the keys")));
        };
        let mut output = Output::stdout();
        if self.json {
            output.json(&EntryJson::of(&entry, true))?;
        } else {
            output.bytes(&entry.value)?;
            output.bytes(b"\n")?;
        }
        output.flush()?;
        Ok(Exit::Done)
    }
}

impl ScanArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let mut output = Output::stdout();
        connection.with_client(async |client| self.print(client, &mut output).await).await?;
        output.flush()?;
        Ok(Exit::Done)
    }

    async fn print(&self, client: &Client, output: &mut Output) -> Result<(), Failure> {
        let topic = &self.topic;
        let mut scan = map(client, topic, self.stale).scan(&self.prefix);
        if self.keys_only {
            scan = scan.keys_only();
        }
        let mut left = self.limit.unwrap_or(u64::MAX);
        while left > 0
            && let Some(entry) = scan.next().await
        {
            let entry =
                entry.map_err(|error| kv_failure(&format!("scan {topic}"), topic, &error))?;
            left -= 1;
            if self.json {
                output.json(&EntryJson::of(&entry, !self.keys_only))?;
                continue;
            }
            output.bytes(&entry.key)?;
            if !self.keys_only {
                output.bytes(b"\t")?;
                output.bytes(&entry.value)?;
            }
            output.bytes(b"\n")?;
        }
        Ok(())
    }
}
