//! Changing keys: `put`, `cas`, `delete`.

use std::io::Read as _;
use std::time::Duration;

use clap::Args;
use plimsoll_client::{Client, Deleted, Kv, Revision};
use plimsoll_protocol::ids::TopicName;

use super::kv_failure;
use super::render::{ChangedJson, DeletedJson};
use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::{Failure, note};
use crate::fence::FenceArgs;
use crate::output::Output;
use crate::quantity::parse_duration;
use crate::request::known_topic;

/// Which key.
#[derive(Debug, Args)]
struct KeyArgs {
    /// The topic
    #[arg(value_parser = known_topic)]
    topic: TopicName,
    /// The key
    key: String,
}

/// What it gets, and how.
#[derive(Debug, Args)]
struct ValueArgs {
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

/// Give a key a value
///
/// Prints the revision. Without a condition it does not matter what the key has; with one that does not hold
/// nothing is changed, and it ends with 7.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  plimsoll kv put settings colour blue\n  plimsoll kv put settings \
                             owner me --if-absent --ttl 30s\n  plimsoll kv put settings page - \
                             < page.html\n  plimsoll kv put settings colour red --fence jobs/nightly/42"
)]
pub(super) struct PutArgs {
    #[command(flatten)]
    key: KeyArgs,
    #[command(flatten)]
    value: ValueArgs,
    /// Only where the key has no value
    #[arg(long)]
    if_absent: bool,
    /// Only where the key has a value, whichever
    #[arg(long, conflicts_with = "if_absent")]
    if_present: bool,
}

/// Give a key a value, where it has the one of this revision
///
/// Prints the new revision. Compare and set: whoever was faster wins, and is not overwritten. Ends with 7 where
/// the key has another revision, or no value.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  plimsoll kv cas settings colour 17 red\n  \
                             plimsoll kv cas settings page 17 - < page.html")]
pub(super) struct CasArgs {
    #[command(flatten)]
    key: KeyArgs,
    /// The revision that it must have
    #[arg(value_name = "EXPECTED-REVISION")]
    expected: Revision,
    #[command(flatten)]
    value: ValueArgs,
}

/// Take a key's value away
///
/// With --revision it ends with 7 where the key has another one, or no value.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  plimsoll kv delete settings colour\n  \
                             plimsoll kv delete settings colour --revision 17 --json")]
pub(super) struct DeleteArgs {
    #[command(flatten)]
    key: KeyArgs,
    /// Only where it has this revision
    #[arg(long, value_name = "N")]
    revision: Option<Revision>,
    #[command(flatten)]
    fence: FenceArgs,
    /// Print a JSON object: the revision of the deletion, and the one that the key had before
    #[arg(long)]
    json: bool,
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
        let KeyArgs { topic, key } = &self.key;
        let ValueArgs { value, ttl, fence, json } = &self.value;
        // Before anything else, so that a broken pipe changes nothing.
        let value = value_of(value)?;
        let revision = connection
            .with_client(async |client| {
                let kv = map(client, topic, *ttl, fence);
                let stored = match (self.if_absent, self.if_present) {
                    (true, _) => kv.put_if_absent(key, value).await,
                    (_, true) => kv.put_if_present(key, value).await,
                    _ => kv.put(key, value).await,
                };
                stored.map_err(|error| kv_failure(&format!("put {key} in {topic}"), topic, &error))
            })
            .await?;
        print(key, revision, *json)
    }
}

impl CasArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let KeyArgs { topic, key } = &self.key;
        let ValueArgs { value, ttl, fence, json } = &self.value;
        let value = value_of(value)?;
        let revision = connection
            .with_client(async |client| {
                let kv = map(client, topic, *ttl, fence);
                let stored = kv.compare_and_set(key, value, self.expected).await;
                let doing = format!("set {key} of {topic} at revision {}", self.expected);
                stored.map_err(|error| kv_failure(&doing, topic, &error))
            })
            .await?;
        print(key, revision, *json)
    }
}

impl DeleteArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let KeyArgs { topic, key } = &self.key;
        let Deleted { revision, before } = connection
            .with_client(async |client| {
                let kv = map(client, topic, None, &self.fence);
                let deleted = match self.revision {
                    Some(had) => {
                        let deleted = kv.delete_if(key, had).await;
                        deleted.map(|revision| Deleted { revision, before: Some(had) })
                    }
                    None => kv.delete(key).await,
                };
                let doing = format!("delete {key} of {topic}");
                deleted.map_err(|error| kv_failure(&doing, topic, &error))
            })
            .await?;
        if self.json {
            let before = before.map(|before| before.0);
            let mut output = Output::stdout();
            output.json(&DeletedJson { key, revision: revision.0, before })?;
            output.flush()?;
        } else {
            note(&match before {
                Some(before) => format!("deleted {key} of {topic}, which had revision {before}"),
                None => format!("{key} of {topic} had no value"),
            });
        }
        Ok(Exit::Done)
    }
}
