//! Requests about virtual hosts, users, permissions and queues of AMQP.

use std::collections::BTreeMap;
use std::sync::Arc;

use plimsoll_amqp_gateway::permissions::check_pattern;
use plimsoll_protocol::api::{
    AMQP_PASSWORD_BYTES_MAX, AmqpGrant, AmqpGrantName, AmqpPermissions, AmqpQueueInfo,
    AmqpQueueName, AmqpUserInfo, AmqpUserPut, ClearAmqpPermissionsRequest,
    ClearAmqpPermissionsResponse, CreateVhostRequest, CreateVhostResponse, DeleteAmqpUserRequest,
    DeleteVhostRequest, Done, ListAmqpPermissionsRequest, ListAmqpPermissionsResponse,
    ListAmqpQueuesRequest, ListAmqpQueuesResponse, ListAmqpUsersRequest, ListAmqpUsersResponse,
    ListVhostsRequest, ListVhostsResponse, PutAmqpUserRequest, SetAmqpPermissionsRequest,
    VhostInfo,
};
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_state::catalog::Catalog;
use plimsoll_state::catalog::amqp::{AmqpCommand, AmqpText, Permissions};

use super::session::Session;
use super::stream::{Answer, done};
use crate::amqp::hashed;

/// What an answer in pages holds at most, besides its head; less where frames are small.
const PAGE_BYTES_MAX: usize = 256 << 10;
/// No [`VhostInfo`] takes more: a name and numbers.
const VHOST_BYTES_MAX: usize = 288;
/// No [`AmqpUserInfo`] takes more: a name, 16 tags, a number.
const USER_BYTES_MAX: usize = 4400;
/// No [`AmqpGrant`] takes more: two names and three patterns.
const GRANT_BYTES_MAX: usize = 2100;
/// No [`AmqpQueueInfo`] takes more: three names and a few bytes.
const QUEUE_BYTES_MAX: usize = 800;

fn invalid(what: &str) -> ErrorResponse {
    ErrorResponse::new(ErrorCode::InvalidArgument, what)
}

/// A name of AMQP. That it is not empty the catalog checks.
fn text(what: &str, text: &str) -> Result<AmqpText, ErrorResponse> {
    AmqpText::try_from(text).map_err(|error| invalid(&format!("{what}: {error}")))
}

/// The catalog for a list: what was changed through another node a moment ago is in it, where the cluster can be
/// asked.
async fn newest(session: &Session) -> Arc<Catalog> {
    session.broker.catch_up().await;
    session.broker.catalog()
}

/// A page of what `all` gives: so many items as fit, and whether there are more.
fn page<T>(session: &Session, bytes_max: usize, all: impl Iterator<Item = T>) -> (Vec<T>, bool) {
    let frame_bytes = session.broker.limits().frame_bytes_max as usize;
    let room = (PAGE_BYTES_MAX.min(frame_bytes / 4) / bytes_max).max(1);
    let mut all = all;
    let items = all.by_ref().take(room).collect();
    (items, all.next().is_some())
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Makes a virtual host.
pub(super) async fn create_vhost(
    session: Arc<Session>,
    request: CreateVhostRequest,
) -> Result<Answer<CreateVhostRequest>, ErrorResponse> {
    let vhost = text("the name of a virtual host", &request.vhost)?;
    let created = session.broker.change_amqp(AmqpCommand::CreateVhost { vhost }).await?;
    done(CreateVhostResponse { created })
}

/// Removes a virtual host.
pub(super) async fn delete_vhost(
    session: Arc<Session>,
    request: DeleteVhostRequest,
) -> Result<Answer<DeleteVhostRequest>, ErrorResponse> {
    let vhost = text("the name of a virtual host", &request.vhost)?;
    session.broker.change_amqp(AmqpCommand::DeleteVhost { vhost }).await?;
    done(Done {})
}

/// Lists virtual hosts, a page.
pub(super) async fn list_vhosts(
    session: Arc<Session>,
    request: ListVhostsRequest,
) -> Result<Answer<ListVhostsRequest>, ErrorResponse> {
    let catalog = newest(&session).await;
    let mut users: BTreeMap<&AmqpText, usize> = BTreeMap::new();
    for (_, user) in catalog.amqp().users() {
        user.permissions.keys().for_each(|vhost| *users.entry(vhost).or_default() += 1);
    }
    let after = request.after.as_deref();
    let vhosts =
        catalog.amqp().vhosts().filter(|(name, _)| after.is_none_or(|after| name.as_str() > after));
    let vhosts = vhosts.map(|(name, vhost)| VhostInfo {
        vhost: name.as_str().to_owned(),
        created_ms: vhost.created_ms(),
        exchanges: number(vhost.exchanges().count()),
        queues: number(vhost.queues().count()),
        users: number(users.get(name).copied().unwrap_or(0)),
    });
    let (vhosts, has_more) = page(&session, VHOST_BYTES_MAX, vhosts);
    done(ListVhostsResponse { vhosts, has_more })
}

fn check_password(password: &str) -> Result<(), ErrorResponse> {
    match password.len() {
        0 => Err(invalid("a password must not be empty: who is not to log in is deleted")),
        1..=AMQP_PASSWORD_BYTES_MAX if password.contains('\0') => {
            Err(invalid("a password has no NUL: clients cannot send it"))
        }
        1..=AMQP_PASSWORD_BYTES_MAX => Ok(()),
        bytes => {
            let most = AMQP_PASSWORD_BYTES_MAX;
            Err(invalid(&format!("a password of {bytes} bytes is too long: at most {most}")))
        }
    }
}

/// Makes or changes a user.
pub(super) async fn put_user(
    session: Arc<Session>,
    request: PutAmqpUserRequest,
) -> Result<Answer<PutAmqpUserRequest>, ErrorResponse> {
    let PutAmqpUserRequest { user: name, password, tags, put } = request;
    let user = text("the name of a user", &name)?;
    password.as_deref().map_or(Ok(()), check_password)?;
    let tags = tags.map(|tags| tags.iter().map(|tag| text("a tag", tag)).collect::<Result<_, _>>());
    let tags = tags.transpose()?;
    let is_there = newest(&session).await.amqp().user(&name).is_some();
    match put {
        AmqpUserPut::Create if is_there => {
            let message = format!("there is a user '{name}' already: nothing was changed");
            return Err(ErrorResponse::new(ErrorCode::UserExists, message));
        }
        AmqpUserPut::Change if !is_there => {
            let message = format!("there is no user '{name}'");
            return Err(ErrorResponse::new(ErrorCode::UnknownUser, message));
        }
        _ => {}
    }
    let password = password.as_deref().map(hashed);
    session.broker.change_amqp(AmqpCommand::PutUser { user, password, tags }).await?;
    done(Done {})
}

/// Removes a user.
pub(super) async fn delete_user(
    session: Arc<Session>,
    request: DeleteAmqpUserRequest,
) -> Result<Answer<DeleteAmqpUserRequest>, ErrorResponse> {
    let user = text("the name of a user", &request.user)?;
    session.broker.change_amqp(AmqpCommand::DeleteUser { user }).await?;
    done(Done {})
}

/// Lists users, a page.
pub(super) async fn list_users(
    session: Arc<Session>,
    request: ListAmqpUsersRequest,
) -> Result<Answer<ListAmqpUsersRequest>, ErrorResponse> {
    let catalog = newest(&session).await;
    let after = request.after.as_deref();
    let users =
        catalog.amqp().users().filter(|(name, _)| after.is_none_or(|after| name.as_str() > after));
    let users = users.map(|(name, user)| AmqpUserInfo {
        user: name.as_str().to_owned(),
        tags: user.tags.iter().map(|tag| tag.as_str().to_owned()).collect(),
        vhosts: number(user.permissions.len()),
    });
    let (users, has_more) = page(&session, USER_BYTES_MAX, users);
    done(ListAmqpUsersResponse { users, has_more })
}

/// Says what a user may do.
pub(super) async fn set_permissions(
    session: Arc<Session>,
    request: SetAmqpPermissionsRequest,
) -> Result<Answer<SetAmqpPermissionsRequest>, ErrorResponse> {
    let user = text("the name of a user", &request.user)?;
    let vhost = text("the name of a virtual host", &request.vhost)?;
    let AmqpPermissions { configure, write, read } = request.permissions;
    for (what, pattern) in [("configure", &configure), ("write", &write), ("read", &read)] {
        check_pattern(pattern).map_err(|error| invalid(&format!("{what}: {error}")))?;
    }
    let permissions = Permissions { configure, write, read };
    session.broker.change_amqp(AmqpCommand::SetPermissions { user, vhost, permissions }).await?;
    done(Done {})
}

/// Shuts a user out.
pub(super) async fn clear_permissions(
    session: Arc<Session>,
    request: ClearAmqpPermissionsRequest,
) -> Result<Answer<ClearAmqpPermissionsRequest>, ErrorResponse> {
    let user = text("the name of a user", &request.user)?;
    let vhost = text("the name of a virtual host", &request.vhost)?;
    let command = AmqpCommand::ClearPermissions { user, vhost };
    let cleared = session.broker.change_amqp(command).await?;
    done(ClearAmqpPermissionsResponse { cleared })
}

/// Lists permissions, a page.
pub(super) async fn list_permissions(
    session: Arc<Session>,
    request: ListAmqpPermissionsRequest,
) -> Result<Answer<ListAmqpPermissionsRequest>, ErrorResponse> {
    let catalog = newest(&session).await;
    let ListAmqpPermissionsRequest { vhost, user, after } = request;
    let is_asked = |asked: &Option<String>, name: &AmqpText| {
        asked.as_deref().is_none_or(|asked| asked == name.as_str())
    };
    let is_behind = |user: &AmqpText, vhost: &AmqpText| {
        after
            .as_ref()
            .is_none_or(|after| (user.as_str(), vhost.as_str()) > (&after.user, &after.vhost))
    };
    let users = catalog.amqp().users().filter(|(name, _)| is_asked(&user, name));
    let grants = users.flat_map(|(name, user)| user.permissions.iter().map(move |of| (name, of)));
    let grants = grants.filter(|(user, (name, _))| is_asked(&vhost, name) && is_behind(user, name));
    let grants = grants.map(|(user, (vhost, permissions))| AmqpGrant {
        name: AmqpGrantName { user: user.as_str().to_owned(), vhost: vhost.as_str().to_owned() },
        permissions: AmqpPermissions {
            configure: permissions.configure.clone(),
            write: permissions.write.clone(),
            read: permissions.read.clone(),
        },
    });
    let (grants, has_more) = page(&session, GRANT_BYTES_MAX, grants);
    done(ListAmqpPermissionsResponse { grants, has_more })
}

/// Lists queues, a page.
pub(super) async fn list_queues(
    session: Arc<Session>,
    request: ListAmqpQueuesRequest,
) -> Result<Answer<ListAmqpQueuesRequest>, ErrorResponse> {
    let catalog = newest(&session).await;
    let ListAmqpQueuesRequest { vhost, after } = request;
    let is_asked = |name: &str| vhost.as_deref().is_none_or(|asked| asked == name);
    let is_behind = |vhost: &str, queue: &str| {
        after.as_ref().is_none_or(|after| (vhost, queue) > (&*after.vhost, &*after.queue))
    };
    let vhosts = catalog.amqp().vhosts().filter(|(name, _)| is_asked(name.as_str()));
    let queues =
        vhosts.flat_map(|(vhost, of)| of.queues().map(move |(name, it)| (vhost, name, it)));
    let queues = queues.filter(|(vhost, name, _)| is_behind(vhost.as_str(), name.as_str()));
    let queues = queues.map(|(vhost, name, queue)| AmqpQueueInfo {
        name: AmqpQueueName { vhost: vhost.as_str().to_owned(), queue: name.as_str().to_owned() },
        topic: queue.spec.topic.as_str().to_owned(),
        created_ms: queue.created_ms,
        durable: queue.spec.durable,
        auto_delete: queue.spec.auto_delete,
        exclusive: queue.spec.connection.is_some(),
    });
    let (queues, has_more) = page(&session, QUEUE_BYTES_MAX, queues);
    done(ListAmqpQueuesResponse { queues, has_more })
}

#[cfg(test)]
mod tests {
    use plimsoll_protocol::ids::TOPIC_NAME_BYTES_MAX;
    use plimsoll_protocol::wire::encode_to_bytes;
    use plimsoll_state::catalog::amqp::{PATTERN_BYTES_MAX, TAGS_MAX, TEXT_BYTES_MAX};

    use super::*;

    #[test]
    fn the_largest_items_of_a_page_are_as_large_as_is_reckoned_with() {
        let name = || "x".repeat(TEXT_BYTES_MAX);
        let pattern = || "x".repeat(PATTERN_BYTES_MAX);
        let (exchanges, queues, users) = (u32::MAX, u32::MAX, u32::MAX);
        let vhost = VhostInfo { vhost: name(), created_ms: i64::MAX, exchanges, queues, users };
        assert!(encode_to_bytes(&vhost).len() <= VHOST_BYTES_MAX);
        let user = AmqpUserInfo { user: name(), tags: vec![name(); TAGS_MAX], vhosts: u32::MAX };
        assert!(encode_to_bytes(&user).len() <= USER_BYTES_MAX);
        let permissions =
            AmqpPermissions { configure: pattern(), write: pattern(), read: pattern() };
        let grant = AmqpGrant { name: AmqpGrantName { user: name(), vhost: name() }, permissions };
        assert!(encode_to_bytes(&grant).len() <= GRANT_BYTES_MAX);
        let queue = AmqpQueueInfo {
            name: AmqpQueueName { vhost: name(), queue: name() },
            topic: "x".repeat(TOPIC_NAME_BYTES_MAX),
            created_ms: i64::MAX,
            durable: true,
            auto_delete: true,
            exclusive: true,
        };
        assert!(encode_to_bytes(&queue).len() <= QUEUE_BYTES_MAX);
    }

    #[test]
    fn passwords_are_what_clients_can_send() {
        for good in ["x", "größe", " ", &"x".repeat(AMQP_PASSWORD_BYTES_MAX)] {
            assert!(check_password(good).is_ok(), "{good:?}");
        }
        for bad in ["", "a\0b", &"x".repeat(AMQP_PASSWORD_BYTES_MAX + 1)] {
            let refused = check_password(bad).unwrap_err();
            assert_eq!(refused.code, ErrorCode::InvalidArgument);
            assert!(bad.is_empty() || !refused.message.contains(bad), "{refused}");
        }
    }
}
