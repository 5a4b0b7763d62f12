//! What a node says of itself to the catalog: the first one that it is there, each one where it is
//! reached now.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use plimsoll_gateways::{Broker, JoinToken};
use plimsoll_protocol::ids::NodeId;
use plimsoll_state::catalog::{Catalog, CatalogCommand, CatalogReply, JoinSecret, NodeSpec};
use tokio::time::{sleep, timeout};

use crate::files;

/// Between two attempts to be heard.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two claims to an address that another node claims as well, at most: each is an entry of the
/// catalog's log for good, and wakes everybody who watches it.
const CONTEST_PAUSE_MAX: Duration = Duration::from_secs(256);
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
    let mut contest = Contest::default();
    loop {
        let catalog = changes.borrow_and_update().clone();
        if catalog.node(introduction.node).is_some_and(|meta| !meta.is_member()) {
            tell_removed();
            return;
        }
        let (mut again, mut said) = (false, false);
        if let Some(command) = introduction.next(&catalog) {
            let rival = introduction.rival(&catalog);
            match broker.propose(command).await {
                Ok(CatalogReply::Refused(refusal)) => {
                    again = true;
                    tracing::warn!(%refusal, "the cluster does not take what this node says of itself");
                }
                Ok(_) => {
                    if let Some(rival) = rival {
                        tracing::warn!(%rival, address = introduction.spec.address,
                            "another node said that it is reached at this node's address: one of the \
                             two has the wrong `advertise`, correct it and start that node again");
                    }
                    said = true;
                    contest.claim(rival.is_some());
                }
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

    /// The member that has this node's address, by the catalog.
    fn rival(&self, catalog: &Catalog) -> Option<NodeId> {
        let mut members = catalog.members();
        let at = members
            .find(|(node, meta)| *node != self.node && meta.spec.address == self.spec.address);
        at.map(|(node, _)| node)
    }
}

/// How long this node waits after it has said something: ever longer, while another one says of itself
/// what this one does.
#[derive(Debug, Default)]
struct Contest {
    claims: u32,
}

impl Contest {
    fn claim(&mut self, is_contested: bool) {
        self.claims = if is_contested { self.claims + 1 } else { 0 };
    }

    fn pause(&self) -> Duration {
        CONTEST_PAUSE_MAX.min(PAUSE * (1 << self.claims.min(8)))
    }
}

fn leave_token(data: &Path, token: &JoinToken) -> std::io::Result<()> {
    files::replace(&data.join(TOKEN_FILE), format!("{token}\n").as_bytes(), 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contested_address_is_claimed_ever_less_often() {
        let mut contest = Contest::default();
        let mut pause_after = |is_contested| {
            contest.claim(is_contested);
            contest.pause().as_secs()
        };
        assert_eq!(pause_after(false), 1);
        let pauses = [(); 10].map(|()| pause_after(true));
        assert_eq!(pauses, [2, 4, 8, 16, 32, 64, 128, 256, 256, 256]);
        assert_eq!(pause_after(false), 1);
    }
}
