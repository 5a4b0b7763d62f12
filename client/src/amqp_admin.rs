//! Who may do what through AMQP: virtual hosts, users, permissions; and the queues that it has.

use std::fmt;

use plimsoll_protocol::api::{
    AmqpGrant, AmqpPermissions, AmqpQueueInfo, AmqpUserInfo, AmqpUserPut,
    ClearAmqpPermissionsRequest, CreateVhostRequest, DeleteAmqpUserRequest, DeleteVhostRequest,
    ListAmqpPermissionsRequest, ListAmqpQueuesRequest, ListAmqpUsersRequest, ListVhostsRequest,
    PutAmqpUserRequest, SetAmqpPermissionsRequest, VhostInfo,
};

use crate::Admin;
use crate::error::RequestError;
use crate::requests::Repeat;

/// The password of a user: 1 to 255 bytes without NUL, which the node checks. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct AmqpPassword(String);

impl AmqpPassword {
    /// This password.
    pub fn new(password: impl Into<String>) -> Self {
        Self(password.into())
    }
}

impl fmt::Debug for AmqpPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AmqpPassword(..)")
    }
}

/// A change of a user. What is left out stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AmqpUserChange {
    /// Its password. Connections that are open stay open.
    pub password: Option<AmqpPassword>,
    /// Its tags, in place of those that it has.
    pub tags: Option<Vec<String>>,
}

/// Changes are in force on the node that answered when these return, and on the others a moment later.
impl Admin {
    /// Makes a virtual host; whether there was none of the name.
    ///
    /// # Errors
    /// When the name is empty or too long, there are too many, or nobody answers.
    pub async fn create_vhost(&self, vhost: &str) -> Result<bool, RequestError> {
        let request = CreateVhostRequest { vhost: vhost.to_owned() };
        self.shared.request(request, Repeat::Freely).await.map(|answer| answer.created)
    }

    /// Removes a virtual host with its exchanges, queues, messages, bindings and permissions. Its connections are
    /// closed.
    ///
    /// # Errors
    /// When there is none of the name, or nobody answers.
    pub async fn delete_vhost(&self, vhost: &str) -> Result<(), RequestError> {
        let request = DeleteVhostRequest { vhost: vhost.to_owned() };
        self.shared.request(request, Repeat::IfRefused).await.map(drop)
    }

    /// All virtual hosts, by name.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn list_vhosts(&self) -> Result<Vec<VhostInfo>, RequestError> {
        let ask = |last: Option<&VhostInfo>| ListVhostsRequest {
            after: last.map(|last| last.vhost.clone()),
        };
        self.shared.list(ask, |page| (page.vhosts, page.has_more)).await
    }

    /// Makes a user, who may enter no virtual host yet.
    ///
    /// # Errors
    /// When there is one of the name, the password cannot be, or nobody answers. After a lost connection it is
    /// not known whether it was made.
    pub async fn create_amqp_user(
        &self,
        user: &str,
        password: AmqpPassword,
        tags: Vec<String>,
    ) -> Result<(), RequestError> {
        let change = AmqpUserChange { password: Some(password), tags: Some(tags) };
        self.put_amqp_user(user, change, AmqpUserPut::Create, Repeat::IfRefused).await
    }

    /// Changes a user.
    ///
    /// # Errors
    /// When there is none of the name, the password cannot be, or nobody answers.
    pub async fn change_amqp_user(
        &self,
        user: &str,
        change: AmqpUserChange,
    ) -> Result<(), RequestError> {
        self.put_amqp_user(user, change, AmqpUserPut::Change, Repeat::Freely).await
    }

    async fn put_amqp_user(
        &self,
        user: &str,
        change: AmqpUserChange,
        put: AmqpUserPut,
        repeat: Repeat,
    ) -> Result<(), RequestError> {
        let AmqpUserChange { password, tags } = change;
        let password = password.map(|AmqpPassword(password)| password);
        let request = PutAmqpUserRequest { user: user.to_owned(), password, tags, put };
        self.shared.request(request, repeat).await.map(drop)
    }

    /// Removes a user and its permissions, and closes its connections. What it declared stays.
    ///
    /// # Errors
    /// When there is none of the name, or nobody answers.
    pub async fn delete_amqp_user(&self, user: &str) -> Result<(), RequestError> {
        let request = DeleteAmqpUserRequest { user: user.to_owned() };
        self.shared.request(request, Repeat::IfRefused).await.map(drop)
    }

    /// All users, by name.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn list_amqp_users(&self) -> Result<Vec<AmqpUserInfo>, RequestError> {
        let ask = |last: Option<&AmqpUserInfo>| ListAmqpUsersRequest {
            after: last.map(|last| last.user.clone()),
        };
        self.shared.list(ask, |page| (page.users, page.has_more)).await
    }

    /// Says what a user may do in a virtual host, in place of what it could before. Connections that are open
    /// are held to it too.
    ///
    /// # Errors
    /// When there is no such user or virtual host, a pattern is none, or nobody answers.
    pub async fn set_amqp_permissions(
        &self,
        vhost: &str,
        user: &str,
        permissions: AmqpPermissions,
    ) -> Result<(), RequestError> {
        let (vhost, user) = (vhost.to_owned(), user.to_owned());
        let request = SetAmqpPermissionsRequest { vhost, user, permissions };
        self.shared.request(request, Repeat::Freely).await.map(drop)
    }

    /// Shuts a user out of a virtual host; whether it might enter before. Its connections there stay open and
    /// may do nothing more.
    ///
    /// # Errors
    /// When there is no such user or virtual host, or nobody answers.
    pub async fn clear_amqp_permissions(
        &self,
        vhost: &str,
        user: &str,
    ) -> Result<bool, RequestError> {
        let (vhost, user) = (vhost.to_owned(), user.to_owned());
        let request = ClearAmqpPermissionsRequest { vhost, user };
        self.shared.request(request, Repeat::Freely).await.map(|answer| answer.cleared)
    }

    /// What users may do, by user and virtual host; only in `vhost` or only of `user`, where these are given.
    ///
    /// # Errors
    /// When nobody answers. Of a user or a virtual host that is not there the list is empty.
    pub async fn list_amqp_permissions(
        &self,
        vhost: Option<&str>,
        user: Option<&str>,
    ) -> Result<Vec<AmqpGrant>, RequestError> {
        let ask = |last: Option<&AmqpGrant>| ListAmqpPermissionsRequest {
            vhost: vhost.map(str::to_owned),
            user: user.map(str::to_owned),
            after: last.map(|last| last.name.clone()),
        };
        self.shared.list(ask, |page| (page.grants, page.has_more)).await
    }

    /// The queues that AMQP clients declared, by virtual host and name; only those of `vhost`, where it is given.
    /// Their topics are what consumers, producers and [`Admin::queue`] of this client call them.
    ///
    /// # Errors
    /// When nobody answers. Of a virtual host that is not there the list is empty.
    pub async fn list_amqp_queues(
        &self,
        vhost: Option<&str>,
    ) -> Result<Vec<AmqpQueueInfo>, RequestError> {
        let ask = |last: Option<&AmqpQueueInfo>| ListAmqpQueuesRequest {
            vhost: vhost.map(str::to_owned),
            after: last.map(|last| last.name.clone()),
        };
        self.shared.list(ask, |page| (page.queues, page.has_more)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn password_is_never_printed() {
        let password = Some(AmqpPassword::new("s3cret"));
        let change = AmqpUserChange { password, tags: None };
        assert!(!format!("{change:?}").contains("s3cret"));
    }
}
