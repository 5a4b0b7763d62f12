//! What a node says of itself to the catalog: the first one that it is there, each one where it is
//! reached now.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use plimsoll_gateways::{Broker, JoinToken};
use plimsoll_protocol::ids::NodeId;
use plimsoll_state::catalog::{Catalog, CatalogCommand, CatalogReply, JoinSecret, NodeSpec};
use tokio::time::timeout;

use crate::files;

/// Between two attempts to be heard.
const PAUSE: Duration = Duration::from_secs(1);
/// In the data directory: what allows to join this node's cluster.
const TOKEN_FILE: &str = "join.token";

/// What there is to say.
pub(crate) struct Introduction {
    pub(crate) node: NodeId,
    pub(crate) spec: NodeSpec,
    /// Whether this node made the cluster.
    pub(crate) founder: bool,
    /// For a catalog that has no secret yet.
    pub(crate) new_secret: [u8; 32],
    /// Where the join token is left; nowhere in a simulation.
    pub(crate) data: Option<PathBuf>,
}

/// Says it, again whenever the catalog says otherwise, and leaves the join token in the data
/// directory. `tell_removed` is called once the catalog says that this node was removed.
pub(crate) async fn introduce(
    broker: Arc<Broker>,
    introduction: Introduction,
    tell_removed: impl Fn() + Send,
) {
    let mut changes = broker.catalog_changes();
    let mut left = None;
    loop {
        let catalog = changes.borrow_and_update().clone();
        if catalog.node(introduction.node).is_some_and(|meta| !meta.is_member()) {
            tell_removed();
            return;
        }
        let mut again = false;
        if let Some(command) = introduction.next(&catalog) {
            match broker.propose(command).await {
                Ok(CatalogReply::Refused(refusal)) => {
                    again = true;
                    tracing::warn!(%refusal, "the cluster does not take what this node says of itself");
                }
                Ok(_) => {}
                Err(error) => {
                    again = true;
                    tracing::debug!(%error, "the catalog does not answer");
                }
            }
        }
        if let (Some(data), Some(token)) = (introduction.data.clone(), broker.join_token())
            && left.as_ref() != Some(&token)
        {
            let leaves = token.clone();
            let leaving = tokio::task::spawn_blocking(move || leave_token(&data, &leaves)).await;
            match leaving {
                Ok(Err(error)) => {
                    again = true;
                    tracing::warn!(%error, "no join token was left in the data directory");
                }
                _ => left = Some(token),
            }
        }
        if said {
            // Whatever the catalog says by now: not before its time.
            sleep(contest.pause()).await;
            continue;
        }
        match again {
            // Whatever comes first: news, or another attempt.
            true => drop(timeout(PAUSE, changes.changed()).await),
            false => {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

impl Introduction {
    /// What the catalog should be told, as it stands.
    fn next(&self, catalog: &Catalog) -> Option<CatalogCommand> {
        let (node, spec) = (self.node, self.spec.clone());
        if !catalog.is_set_up() {
            let join_secret = JoinSecret(self.new_secret);
            return self.founder.then_some(CatalogCommand::SetUp { node, spec, join_secret });
        }
        let known = catalog.node(node)?;
        (known.spec != self.spec).then_some(CatalogCommand::UpdateNode { node, spec })
    }
}

fn leave_token(data: &Path, token: &JoinToken) -> std::io::Result<()> {
    files::replace(&data.join(TOKEN_FILE), format!("{token}\n").as_bytes(), 0o600)
}
