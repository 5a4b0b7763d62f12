//! Changing keys: `put`, `cas`, `delete`.

use std::io::Read as _;
use std::time::Duration;

use clap::Args;
use plimsoll_client::{Client, Kv, Revision};
use plimsoll_protocol::ids::TopicName;

use super::kv_failure;
use super::render::ChangedJson;
use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::{Failure, note};
use crate::fence::FenceArgs;
use crate::output::Output;
use crate::quantity::parse_duration;
use crate::request::known_topic;

/// Give a key a value
///
/// Prints the revision. Without a condition it does not matter what the key has.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  plimsoll kv put settings colour blue\n  plimsoll kv put settings \
                             owner me --if-absent --ttl 30s\n  plimsoll kv put settings page - \
                             < page.html\n  plimsoll kv put settings colour red --fence jobs/nightly/42"
)]
pub(super) struct PutArgs {
    /// The topic
    #[arg(value_parser = known_topic)]
    topic: TopicName,
    /// The key
    key: String,
    /// Its value; `-` reads it from standard input
    #[arg(allow_hyphen_values = true)]
    value: String,
    /// Only where the key has no value
    #[arg(long)]
    if_absent: bool,
    /// How long the value lives, by the leader's clock
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ttl: Option<Duration>,
    #[command(flatten)]
    fence: FenceArgs,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// Give a key a value, where it has the one of this revision
///
/// Prints the new revision. Compare and set: whoever was faster wins, and is not overwritten.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  plimsoll kv cas settings colour 17 red\n  \
                             plimsoll kv cas settings page 17 - < page.html")]
pub(super) struct CasArgs {
    /// The topic
    #[arg(value_parser = known_topic)]
    topic: TopicName,
    /// The key
    key: String,
    /// The revision that it must have
    #[arg(value_name = "EXPECTED-REVISION")]
    expected: Revision,
    /// Its new value; `-` reads it from standard input
    #[arg(allow_hyphen_values = true)]
    value: String,
    /// How long the value lives, by the leader's clock
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ttl: Option<Duration>,
    #[command(flatten)]
    fence: FenceArgs,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// Take a key's value away
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  plimsoll kv delete settings colour\n  \
                             plimsoll kv delete settings colour --revision 17")]
pub(super) struct DeleteArgs {
    /// The topic
    #[arg(value_parser = known_topic)]
    topic: TopicName,
    /// The key
    key: String,
    /// Only where it has this revision
    #[arg(long, value_name = "N")]
    revision: Option<Revision>,
    #[command(flatten)]
    fence: FenceArgs,
}

/// The map with what was asked for.
fn map(client: &Client, topic: &TopicName, ttl: Option<Duration>, fence: &FenceArgs) -> Kv {
    let mut kv = client.kv(topic.as_str());
    if let Some(ttl) = ttl {
        kv = kv.with_ttl(ttl);
    }
    match &fence.fence {
        Some(fence) => kv.with_fence(fence.clone()),
        None => kv,
    }
}

/// The value that a word on the command line stands for.
fn value_of(word: &str) -> Result<Vec<u8>, Failure> {
    if word != "-" {
        return Ok(word.as_bytes().to_vec());
    }
    let mut value = Vec::new();
    std::io::stdin()
        .lock()
        .read_to_end(&mut value)
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot read: {error}")))?;
    Ok(value)
}

fn print(key: &str, revision: Revision, json: bool) -> Result<Exit, Failure> {
    let mut output = Output::stdout();
    match json {
        true => output.json(&ChangedJson { key, revision: revision.0 })?,
        false => output.line(&revision.to_string())?,
    }
    output.flush()?;
    Ok(Exit::Done)
}

impl PutArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let (topic, key) = (&self.topic, &self.key);
        // Before anything else, so that a broken pipe changes nothing.
        let value = value_of(&self.value)?;
        let revision = connection
            .with_client(async |client| {
                let kv = map(client, topic, self.ttl, &self.fence);
                let stored = match self.if_absent {
                    true => kv.put_if_absent(key, value).await,
                    false => kv.put(key, value).await,
                };
                stored.map_err(|error| kv_failure(&format!("put {key} in {topic}"), topic, &error))
            })
            .await?;
        print(key, revision, self.json)
    }
}

impl CasArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let (topic, key) = (&self.topic, &self.key);
        let value = value_of(&self.value)?;
        let revision = connection
            .with_client(async |client| {
                let kv = map(client, topic, self.ttl, &self.fence);
                let stored = kv.compare_and_set(key, value, self.expected).await;
                let doing = format!("set {key} of {topic} at revision {}", self.expected);
                stored.map_err(|error| kv_failure(&doing, topic, &error))
            })
            .await?;
        print(key, revision, self.json)
    }
}

impl DeleteArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let (topic, key) = (&self.topic, &self.key);
        let had = connection
            .with_client(async |client| {
                let kv = map(client, topic, None, &self.fence);
                let deleted = match self.revision {
                    Some(revision) => kv.delete_if(key, revision).await.map(|_| Some(revision)),
                    None => kv.delete(key).await,
                };
                let doing = format!("delete {key} of {topic}");
                deleted.map_err(|error| kv_failure(&doing, topic, &error))
            })
            .await?;
        note(&match had {
            Some(revision) => format!("deleted {key} of {topic}, which had revision {revision}"),
            None => format!("{key} of {topic} had no value"),
        });
        Ok(Exit::Done)
    }
}
