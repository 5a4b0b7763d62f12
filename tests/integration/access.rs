//! Virtual hosts, users and permissions of AMQP by the client. What they do to AMQP's clients is tested in
//! `tests/interop`.

use plimsoll_client::{AmqpPassword, AmqpPermissions, AmqpUserChange, ErrorCode};
use plimsoll_tests::{TestNode, within};
use plimsoll_transport::TransportKind;

fn everything() -> AmqpPermissions {
    let every = || ".*".to_owned();
    AmqpPermissions { configure: every(), write: every(), read: every() }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_their_permissions_outlive_the_node() {
    let mut node = TestNode::start().await;
    let admin = node.client(TransportKind::Quic).await.admin();
    assert!(within("create", admin.create_vhost("harbour")).await.unwrap());
    assert!(!within("create", admin.create_vhost("harbour")).await.unwrap());
    let (password, tags) = (AmqpPassword::new("s3cret"), vec!["monitoring".to_owned()]);
    within("create", admin.create_amqp_user("ann", password, tags)).await.unwrap();
    within("set", admin.set_amqp_permissions("harbour", "ann", everything())).await.unwrap();
    node.shut_down().await;
    node.start_again().await;
    let admin = node.client(TransportKind::Tls).await.admin();
    let users = within("list", admin.list_amqp_users()).await.unwrap();
    let [ann, guest] = &users[..] else { panic!("{users:?}") };
    assert_eq!((&*ann.user, &*ann.tags, ann.vhosts), ("ann", &["monitoring".to_owned()][..], 1));
    assert_eq!(guest.user, "guest");
    let grants = within("list", admin.list_amqp_permissions(Some("harbour"), None)).await.unwrap();
    let [grant] = &grants[..] else { panic!("{grants:?}") };
    assert_eq!((&*grant.name.user, &grant.permissions), ("ann", &everything()));
    assert!(within("clear", admin.clear_amqp_permissions("harbour", "ann")).await.unwrap());
    assert!(!within("clear", admin.clear_amqp_permissions("harbour", "ann")).await.unwrap());
    within("delete", admin.delete_amqp_user("ann")).await.unwrap();
    within("delete", admin.delete_vhost("harbour")).await.unwrap();
    assert_eq!(within("list", admin.list_vhosts()).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_their_codes() {
    let node = TestNode::start().await;
    let admin = node.client(TransportKind::Quic).await.admin();
    let password = || AmqpPassword::new("s3cret");
    let change = |password| AmqpUserChange { password, tags: None };
    let long = "x".repeat(256);
    let mut pattern = everything();
    pattern.write = "a(b".to_owned();
    let refusals = [
        (admin.create_vhost("").await.map(drop), ErrorCode::InvalidArgument),
        (admin.create_vhost(&long).await.map(drop), ErrorCode::InvalidArgument),
        (admin.delete_vhost("nowhere").await, ErrorCode::UnknownVhost),
        (admin.create_amqp_user("guest", password(), Vec::new()).await, ErrorCode::UserExists),
        (
            admin.create_amqp_user("ann", AmqpPassword::new(""), Vec::new()).await,
            ErrorCode::InvalidArgument,
        ),
        (
            admin.create_amqp_user("ann", AmqpPassword::new(&*long), Vec::new()).await,
            ErrorCode::InvalidArgument,
        ),
        (
            admin.create_amqp_user("ann", password(), vec!["tag".to_owned(); 17]).await,
            ErrorCode::InvalidArgument,
        ),
        (admin.change_amqp_user("ann", change(Some(password()))).await, ErrorCode::UnknownUser),
        (admin.delete_amqp_user("ann").await, ErrorCode::UnknownUser),
        (
            admin.set_amqp_permissions("nowhere", "guest", everything()).await,
            ErrorCode::UnknownVhost,
        ),
        (admin.set_amqp_permissions("/", "ann", everything()).await, ErrorCode::UnknownUser),
        (admin.set_amqp_permissions("/", "guest", pattern).await, ErrorCode::InvalidArgument),
    ];
    for (at, (outcome, code)) in refusals.into_iter().enumerate() {
        let error = outcome.expect_err("it is refused");
        assert_eq!(error.code(), Some(code), "{at}: {error}");
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
    let users = within("list", admin.list_amqp_users()).await.unwrap();
    assert_eq!(users.len(), 1, "nothing was changed: {users:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn long_lists_come_in_pages() {
    let node = TestNode::start().await;
    let admin = node.client(TransportKind::Quic).await.admin();
    // Three pages of permissions, as a page is reckoned with the largest.
    let names: Vec<String> = (0..260).map(|number| format!("vhost-{number:03}")).collect();
    for name in &names {
        within("create", admin.create_vhost(name)).await.unwrap();
        within("set", admin.set_amqp_permissions(name, "guest", everything())).await.unwrap();
    }
    let grants = within("list", admin.list_amqp_permissions(None, Some("guest"))).await.unwrap();
    let listed: Vec<&str> = grants.iter().map(|grant| &*grant.name.vhost).skip(1).collect();
    assert_eq!(listed, names, "the first is /");
    assert_eq!(within("list", admin.list_vhosts()).await.unwrap().len(), 261);
}
