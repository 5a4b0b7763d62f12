//! etcd's locks, for comparison: a client that takes a lock and gives it back, in the two ways that etcd has.
//!
//! ```text
//!  mod      Etcd, its clients, and leases that are kept alive
//!  grpc     calls over an HTTP/2 connection      message  what is asked and answered      wire  protobuf
//! ```
//! Both ways are `etcdctl lock`'s, and each is two proposals to etcd's log, written durably: the transaction
//! that its client library sends ([`Way::Transaction`]), and the service that does the same within the server
//! ([`Way::Service`]). Neither is always faster, so a measurement tries both. A client has one lease for the
//! whole run, as a session of ours does.

#[cfg(test)]
pub(crate) mod fake;
mod grpc;
mod message;
mod wire;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use tokio::task::{AbortHandle, JoinSet};

use grpc::Channel;
use message::path;

/// As `etcdctl lock` has it by default, in seconds.
const LEASE_TTL_S: i64 = 60;
const KEEP_EVERY: Duration = Duration::from_secs(LEASE_TTL_S as u64 / 3);

/// How a lock is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// A transaction that puts a key where there is none; the key is deleted in the end.
    Transaction,
    /// `Lock` and `Unlock` of etcd's service for locks.
    Service,
}

impl Way {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::Transaction, Self::Service];

    /// What the report calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Transaction => "transaction",
            Self::Service => "lock-service",
        }
    }
}

/// An etcd that somebody else runs.
#[derive(Debug, Clone)]
pub(crate) struct Etcd {
    authority: String,
    /// Its version, as it says itself.
    pub(crate) version: String,
}

impl Etcd {
    /// The etcd at `http://HOST:PORT`.
    ///
    /// # Errors
    /// Another kind of address, or nobody answers there.
    pub(crate) async fn at(url: &str) -> anyhow::Result<Self> {
        let authority = url.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
        let authority = authority.with_context(|| format!("{url} is no http://HOST:PORT"))?;
        let channel = Channel::connect(authority).await?;
        let status = channel.call(path::STATUS, &[]).await?;
        let version = message::version(&status)?;
        Ok(Self { authority: authority.to_owned(), version })
    }

    /// Clients with a lease each, and a connection each or one for all.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub(crate) async fn clients(
        &self,
        count: u32,
        one_connection: bool,
    ) -> anyhow::Result<Vec<EtcdClient>> {
        let shared = Channel::connect(&self.authority).await?;
        let mut clients = Vec::new();
        for _ in 0..count {
            let channel = match one_connection {
                true => shared.clone(),
                false => Channel::connect(&self.authority).await?,
            };
            clients.push(EtcdClient::new(channel).await?);
        }
        Ok(clients)
    }
}

/// A client of etcd with a lease, which is kept alive for as long as this is there.
#[derive(Debug)]
pub(crate) struct EtcdClient {
    channel: Channel,
    lease: i64,
    keeping: AbortHandle,
}

impl EtcdClient {
    async fn new(channel: Channel) -> anyhow::Result<Self> {
        let granted = channel.call(path::LEASE_GRANT, &message::lease_grant(LEASE_TTL_S)).await?;
        let lease = message::granted_lease(&granted)?;
        let keeping = tokio::spawn(keep(channel.clone(), lease)).abort_handle();
        Ok(Self { channel, lease, keeping })
    }

    /// Takes a lock that nobody else uses; gives back the key that holds it.
    ///
    /// # Errors
    /// When etcd does not answer or refuses it, or somebody else holds the lock.
    pub(crate) async fn lock(&self, way: Way, name: &str) -> anyhow::Result<Bytes> {
        match way {
            Way::Service => {
                let asked = message::lock(name, self.lease);
                Ok(message::locked_key(&self.channel.call(path::LOCK, &asked).await?)?)
            }
            Way::Transaction => {
                let key = Bytes::from(format!("{name}/{:x}", self.lease));
                let asked = message::mutex(name, &key, self.lease);
                let answer = self.channel.call(path::TXN, &asked).await?;
                let owner = message::owner(&answer)?;
                ensure!(owner == key, "somebody else holds {name}");
                Ok(key)
            }
        }
    }

    /// Gives a lock back.
    ///
    /// # Errors
    /// When etcd does not answer, or the key was not there: the lease ran out.
    pub(crate) async fn unlock(&self, way: Way, key: &[u8]) -> anyhow::Result<()> {
        match way {
            Way::Service => self.channel.call(path::UNLOCK, &message::key(key)).await.map(drop),
            Way::Transaction => {
                let answer = self.channel.call(path::DELETE_RANGE, &message::key(key)).await?;
                ensure!(message::is_deleted(&answer)?, "a lock was lost while it was held");
                Ok(())
            }
        }
    }

    /// Ends the lease, and with it what it holds.
    ///
    /// # Errors
    /// When etcd does not answer, or the lease has run out.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        self.keeping.abort();
        self.channel.call(path::LEASE_REVOKE, &message::lease(self.lease)).await.map(drop)
    }
}

impl Drop for EtcdClient {
    fn drop(&mut self) {
        self.keeping.abort();
    }
}

/// Keeps a lease alive. One that is lost shows where a lock is given back.
async fn keep(channel: Channel, lease: i64) {
    loop {
        tokio::time::sleep(KEEP_EVERY).await;
        let answer = channel.call(path::LEASE_KEEP_ALIVE, &message::lease(lease)).await;
        let left_s = answer.ok().and_then(|answer| message::kept_ttl(&answer).ok());
        if left_s.is_none_or(|left_s| left_s == 0) {
            return;
        }
    }
}

/// Ends the leases of all clients.
///
/// # Errors
/// The first failure, when all were tried.
pub(crate) async fn close(clients: Vec<EtcdClient>) -> anyhow::Result<()> {
    let mut closing: JoinSet<_> = clients.into_iter().map(EtcdClient::close).collect();
    let mut outcome = Ok(());
    while let Some(closed) = closing.join_next().await {
        outcome = outcome.and(closed?);
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::fake::{FakeEtcd, VERSION};
    use super::*;

    /// Every way, with a connection each and with one for all, at whatever is at the URL.
    async fn every_way(url: &str) {
        let etcd = Etcd::at(url).await.unwrap();
        for one_connection in [true, false] {
            let clients = etcd.clients(2, one_connection).await.unwrap();
            for way in Way::ALL {
                for (index, client) in clients.iter().enumerate() {
                    let name = format!("plimsoll-bench/test-{index}");
                    for _ in 0..3 {
                        let key = client.lock(way, &name).await.unwrap();
                        assert!(key.starts_with(name.as_bytes()), "{key:?}");
                        client.unlock(way, &key).await.unwrap();
                    }
                }
            }
            close(clients).await.unwrap();
        }
    }

    #[tokio::test]
    async fn locks_are_taken_in_every_way_and_nothing_is_left() {
        let (fake, url) = FakeEtcd::start().await;
        every_way(&url).await;
        assert_eq!(fake.left(), (0, 0));
        assert_eq!(Etcd::at(&url).await.unwrap().version, VERSION);
    }

    /// `PLIMSOLL_ETCD_URL=http://127.0.0.1:2379 cargo test -p plimsoll-bench etcd`
    #[tokio::test]
    async fn locks_of_a_real_etcd_are_taken_in_every_way() {
        if let Ok(url) = std::env::var("PLIMSOLL_ETCD_URL") {
            every_way(&url).await;
            let etcd = Etcd::at(&url).await.unwrap();
            assert!(etcd.version.starts_with("3."), "{}", etcd.version);
            let client = etcd.clients(1, true).await.unwrap().remove(0);
            let (channel, lease) = (client.channel.clone(), message::lease(client.lease));
            let kept = channel.call(path::LEASE_KEEP_ALIVE, &lease).await.unwrap();
            assert_eq!(message::kept_ttl(&kept), Ok(LEASE_TTL_S));
            client.close().await.unwrap();
            let refused = channel.call(path::LEASE_REVOKE, &lease).await;
            let told = refused.unwrap_err().to_string();
            assert!(told.contains("lease not found"), "{told}");
        }
    }

    #[tokio::test]
    async fn a_lock_that_another_has_is_not_taken() {
        let (_fake, url) = FakeEtcd::start().await;
        let clients = Etcd::at(&url).await.unwrap().clients(2, false).await.unwrap();
        let key = clients[0].lock(Way::Transaction, "a").await.unwrap();
        let told = clients[1].lock(Way::Transaction, "a").await.unwrap_err().to_string();
        assert_eq!(told, "somebody else holds a");
        clients[0].unlock(Way::Transaction, &key).await.unwrap();
        let told = clients[0].unlock(Way::Transaction, &key).await.unwrap_err().to_string();
        assert_eq!(told, "a lock was lost while it was held");
    }

    #[tokio::test]
    async fn where_no_etcd_is_the_address_is_told() {
        let told = Etcd::at("http://127.0.0.1:1").await.unwrap_err().to_string();
        assert_eq!(told, "no etcd at 127.0.0.1:1");
        let told = Etcd::at("127.0.0.1:2379").await.unwrap_err().to_string();
        assert_eq!(told, "127.0.0.1:2379 is no http://HOST:PORT");
    }
}
