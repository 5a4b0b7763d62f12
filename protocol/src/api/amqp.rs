//! Who may do what through AMQP: virtual hosts, users, and what users may do in virtual hosts; and what native
//! clients call the queues that are declared there.
//!
//! Names are texts of 1 to 255 bytes. What a page of a list leaves out is asked for with `after`, the last
//! of the page before. A change is answered when it is committed and in force on the node that was asked; on
//! the others it is a moment later.

use crate::api::{Done, request};
use crate::wire::{wire_enum, wire_struct};

/// Most bytes of a password.
pub const AMQP_PASSWORD_BYTES_MAX: usize = 255;

wire_struct! {
    /// Makes a virtual host. One that is there stays as it is.
    pub struct CreateVhostRequest {
        /// Its name.
        pub vhost: String,
    }
}

wire_struct! {
    /// The virtual host is there.
    pub struct CreateVhostResponse {
        /// Whether it was not before.
        pub created: bool,
    }
}

request!(CreateVhostRequest, CreateVhost, 1 -> CreateVhostResponse);

wire_struct! {
    /// Removes a virtual host with its exchanges, queues, their messages, bindings and permissions. Its
    /// connections are closed.
    pub struct DeleteVhostRequest {
        /// Its name.
        pub vhost: String,
    }
}

request!(DeleteVhostRequest, DeleteVhost, 1 -> Done);

wire_struct! {
    /// Lists virtual hosts by name, page by page.
    pub struct ListVhostsRequest {
        /// Only those behind this name.
        pub after: Option<String>,
    }
}

wire_struct! {
    /// A virtual host.
    pub struct VhostInfo {
        /// Its name.
        pub vhost: String,
        /// When it was made, in milliseconds since 1970 (UTC); 0: it is there from the beginning.
        pub created_ms: i64,
        /// Exchanges that were declared in it.
        pub exchanges: u32,
        /// Its queues.
        pub queues: u32,
        /// Users that may enter it.
        pub users: u32,
    }
}

wire_struct! {
    /// The virtual hosts, as many as one answer holds.
    pub struct ListVhostsResponse {
        /// By name.
        pub vhosts: Vec<VhostInfo>,
        /// There are more behind the last one of these.
        pub has_more: bool,
    }
}

request!(ListVhostsRequest, ListVhosts, 1 -> ListVhostsResponse);

wire_enum! {
    /// Whether a user must be new.
    pub enum AmqpUserPut as "way to put a user" {
        /// There must be none of the name.
        Create = 0 / "create",
        /// There must be one of the name.
        Change = 1 / "change",
        /// Either.
        CreateOrChange = 2 / "create-or-change",
    }
}

wire_struct! {
    /// Makes a user or changes one. A new one may enter no virtual host yet.
    pub struct PutAmqpUserRequest hides password {
        /// Its name.
        pub user: String,
        /// Its password: 1 to [`AMQP_PASSWORD_BYTES_MAX`] bytes, none of them 0. The node keeps a salted hash
        /// of it. Left out it stays as it is; a new user needs one.
        pub password: Option<String>,
        /// Its tags, which replace those that it has. Left out they stay as they are.
        pub tags: Option<Vec<String>>,
        /// Whether it must be new. Looked at before the change, so that of two who create the same user at
        /// the same moment both may be told that they did.
        pub put: AmqpUserPut,
    }
}

request!(PutAmqpUserRequest, PutAmqpUser, 1 -> Done);

wire_struct! {
    /// Removes a user and its permissions, and closes its connections. What it declared stays.
    pub struct DeleteAmqpUserRequest {
        /// Its name.
        pub user: String,
    }
}

request!(DeleteAmqpUserRequest, DeleteAmqpUser, 1 -> Done);

wire_struct! {
    /// Lists users by name, page by page.
    pub struct ListAmqpUsersRequest {
        /// Only those behind this name.
        pub after: Option<String>,
    }
}

wire_struct! {
    /// A user.
    pub struct AmqpUserInfo {
        /// Its name.
        pub user: String,
        /// Its tags.
        pub tags: Vec<String>,
        /// Virtual hosts that it may enter.
        pub vhosts: u32,
    }
}

wire_struct! {
    /// The users, as many as one answer holds.
    pub struct ListAmqpUsersResponse {
        /// By name.
        pub users: Vec<AmqpUserInfo>,
        /// There are more behind the last one of these.
        pub has_more: bool,
    }
}

request!(ListAmqpUsersRequest, ListAmqpUsers, 1 -> ListAmqpUsersResponse);

wire_struct! {
    /// What a user may do in a virtual host: patterns for the names of exchanges and queues. A name is
    /// allowed where the pattern is found in it; an empty pattern allows nothing.
    pub struct AmqpPermissions {
        /// What it may declare and delete.
        pub configure: String,
        /// What it may publish to, and bind.
        pub write: String,
        /// What it may consume from, and bind to.
        pub read: String,
    }
}

wire_struct! {
    /// Says what a user may do in a virtual host, in place of what it could before.
    pub struct SetAmqpPermissionsRequest {
        /// The virtual host.
        pub vhost: String,
        /// The user.
        pub user: String,
        /// What it may do.
        pub permissions: AmqpPermissions,
    }
}

request!(SetAmqpPermissionsRequest, SetAmqpPermissions, 1 -> Done);

wire_struct! {
    /// Shuts a user out of a virtual host. Its connections there stay open and may do nothing more.
    pub struct ClearAmqpPermissionsRequest {
        /// The virtual host.
        pub vhost: String,
        /// The user.
        pub user: String,
    }
}

wire_struct! {
    /// The user may not enter the virtual host.
    pub struct ClearAmqpPermissionsResponse {
        /// Whether it might before.
        pub cleared: bool,
    }
}

request!(ClearAmqpPermissionsRequest, ClearAmqpPermissions, 1 -> ClearAmqpPermissionsResponse);

wire_struct! {
    /// Names what one user may do in one virtual host.
    pub struct AmqpGrantName {
        /// The user.
        pub user: String,
        /// The virtual host.
        pub vhost: String,
    }
}

wire_struct! {
    /// Lists permissions by user and virtual host, page by page.
    pub struct ListAmqpPermissionsRequest {
        /// Only those in this virtual host.
        pub vhost: Option<String>,
        /// Only those of this user.
        pub user: Option<String>,
        /// Only those behind this one.
        pub after: Option<AmqpGrantName>,
    }
}

wire_struct! {
    /// What one user may do in one virtual host.
    pub struct AmqpGrant {
        /// Whose it is, and where.
        pub name: AmqpGrantName,
        /// What it may do.
        pub permissions: AmqpPermissions,
    }
}

wire_struct! {
    /// The permissions, as many as one answer holds.
    pub struct ListAmqpPermissionsResponse {
        /// By user, then by virtual host.
        pub grants: Vec<AmqpGrant>,
        /// There are more behind the last one of these.
        pub has_more: bool,
    }
}

request!(ListAmqpPermissionsRequest, ListAmqpPermissions, 1 -> ListAmqpPermissionsResponse);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn password_is_never_printed() {
        let request = PutAmqpUserRequest {
            user: "ann".into(),
            password: Some("s3cret".into()),
            tags: None,
            put: AmqpUserPut::Create,
        };
        let printed = format!("{request:?}");
        assert!(printed.contains("ann") && !printed.contains("s3cret"), "{printed}");
    }
}

wire_struct! {
    /// Names one queue of AMQP.
    pub struct AmqpQueueName {
        /// Its virtual host.
        pub vhost: String,
        /// Its name there.
        pub queue: String,
    }
}

wire_struct! {
    /// Lists queues by virtual host and name, page by page.
    pub struct ListAmqpQueuesRequest {
        /// Only those in this virtual host.
        pub vhost: Option<String>,
        /// Only those behind this one.
        pub after: Option<AmqpQueueName>,
    }
}

wire_struct! {
    /// A queue that AMQP clients declared.
    pub struct AmqpQueueInfo {
        /// Which it is.
        pub name: AmqpQueueName,
        /// The topic that holds it: what native clients call it.
        pub topic: String,
        /// When it was declared, in milliseconds since 1970 (UTC).
        pub created_ms: i64,
        /// Whether it outlives the node that it was declared on.
        pub durable: bool,
        /// Whether it is gone with its last consumer.
        pub auto_delete: bool,
        /// Whether it is one connection's own.
        pub exclusive: bool,
    }
}

wire_struct! {
    /// The queues, as many as one answer holds.
    pub struct ListAmqpQueuesResponse {
        /// By virtual host and name.
        pub queues: Vec<AmqpQueueInfo>,
        /// There are more behind the last one of these.
        pub has_more: bool,
    }
}

request!(ListAmqpQueuesRequest, ListAmqpQueues, 1 -> ListAmqpQueuesResponse);
