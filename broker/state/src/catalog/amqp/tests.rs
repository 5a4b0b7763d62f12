//! Users, virtual hosts, exchanges and bindings; what the tests of all files have in common.

use bytes::Bytes;
use plimsoll_protocol::api::{QueueSettings, TopicConfig};
use plimsoll_protocol::ids::{NodeId, TopicName};

use super::*;
use crate::catalog::CatalogCommand;

pub(super) fn text(text: &str) -> AmqpText {
    AmqpText::try_from(text).unwrap()
}

/// A catalog that carries out commands about the objects of AMQP.
pub(super) fn catalog() -> Catalog {
    let mut catalog = Catalog::default();
    catalog.apply(CatalogCommand::SetLevel { level: LEVEL_QUEUES }, 0);
    catalog
}

pub(super) fn run(catalog: &mut Catalog, command: AmqpCommand) -> AmqpReply {
    match catalog.apply(CatalogCommand::Amqp { command }, 7) {
        CatalogReply::Amqp(reply) => reply,
        other => panic!("{other:?}"),
    }
}

pub(super) fn refused(catalog: &mut Catalog, command: AmqpCommand) -> AmqpRefusal {
    let before = catalog.clone();
    match catalog.apply(CatalogCommand::Amqp { command }, 7) {
        CatalogReply::Refused(CatalogRefusal::Amqp { refusal }) => {
            assert_eq!(*catalog, before, "a refusal changes nothing");
            refusal
        }
        other => panic!("{other:?}"),
    }
}

pub(super) const CHANGED: AmqpReply = AmqpReply::Done { changed: true };
pub(super) const UNCHANGED: AmqpReply = AmqpReply::Done { changed: false };

pub(super) fn create_vhost(vhost: &str) -> AmqpCommand {
    AmqpCommand::CreateVhost { vhost: text(vhost) }
}

pub(super) fn exchange() -> Exchange {
    Exchange {
        kind: text("topic"),
        durable: true,
        auto_delete: false,
        internal: false,
        arguments: Bytes::from_static(b"abc"),
    }
}

pub(super) fn declare_exchange(name: &str, exchange: Exchange) -> AmqpCommand {
    AmqpCommand::DeclareExchange { vhost: text("/"), name: text(name), exchange }
}

fn auto_delete(name: &str) -> AmqpCommand {
    declare_exchange(name, Exchange { auto_delete: true, ..exchange() })
}

pub(super) fn declare_queue(name: &str) -> AmqpCommand {
    AmqpCommand::DeclareQueue {
        vhost: text("/"),
        name: text(name),
        queue: QueueSpec {
            durable: true,
            auto_delete: false,
            node: NodeId(1),
            connection: None,
            arguments: Bytes::from_static(b"args"),
            topic: TopicName::internal(&format!("__amqp.{name}")).unwrap(),
        },
        replicas: 1,
        config: TopicConfig::default(),
        settings: QueueSettings::default(),
        placement: None,
    }
}

pub(super) fn to_queue(name: &str, key: &str) -> Binding {
    let destination = Destination::Queue { name: text(name) };
    Binding { destination, key: text(key), arguments: Bytes::from_static(b"x") }
}

fn to_exchange(name: &str) -> Binding {
    let destination = Destination::Exchange { name: text(name) };
    Binding { destination, key: text("k"), arguments: Bytes::new() }
}

pub(super) fn bind(source: &str, binding: Binding) -> AmqpCommand {
    AmqpCommand::Bind { vhost: text("/"), source: text(source), binding }
}

fn unbind(source: &str, binding: Binding) -> AmqpCommand {
    AmqpCommand::Unbind { vhost: text("/"), source: text(source), binding }
}

fn delete_exchange(name: &str, if_unused: bool) -> AmqpCommand {
    AmqpCommand::DeleteExchange { vhost: text("/"), name: text(name), if_unused }
}

pub(super) fn vhost(catalog: &Catalog) -> &Vhost {
    catalog.amqp().vhost("/").unwrap()
}

pub(super) fn exchanges(catalog: &Catalog) -> Vec<&str> {
    vhost(catalog).exchanges().map(|(name, _)| name.as_str()).collect()
}

fn password(hash: &'static [u8]) -> Option<PasswordHash> {
    Some(PasswordHash { algorithm: text("sha256"), hash: Bytes::from_static(hash) })
}

fn put_user(user: &str, password: Option<PasswordHash>, tags: Option<&str>) -> AmqpCommand {
    let tags = tags.map(|tag| vec![text(tag)]);
    AmqpCommand::PutUser { user: text(user), password, tags }
}

fn allow(user: &str, vhost: &str, permissions: Permissions) -> AmqpCommand {
    AmqpCommand::SetPermissions { user: text(user), vhost: text(vhost), permissions }
}

#[test]
fn first_vhost_and_guest_are_there_and_may_be_deleted() {
    let mut catalog = catalog();
    let guest = catalog.amqp().user("guest").unwrap();
    assert_eq!(guest.password, PasswordHash::of_guest());
    assert_eq!(guest.permissions.get("/"), Some(&Permissions::all()));
    assert_eq!(run(&mut catalog, create_vhost("/")), UNCHANGED);
    let delete = AmqpCommand::DeleteUser { user: text("guest") };
    assert_eq!(run(&mut catalog, delete.clone()), CHANGED);
    assert_eq!(refused(&mut catalog, delete), AmqpRefusal::UnknownUser { user: text("guest") });
    run(&mut catalog, AmqpCommand::DeleteVhost { vhost: text("/") });
    assert_eq!((catalog.amqp().users().count(), catalog.amqp().vhosts().count()), (0, 0));
}

#[test]
fn below_the_level_nothing_is_carried_out() {
    let mut catalog = Catalog::default();
    catalog.apply(CatalogCommand::SetLevel { level: LEVEL_QUEUES - 1 }, 0);
    let before = catalog.clone();
    let reply = catalog.apply(CatalogCommand::Amqp { command: create_vhost("v") }, 7);
    let now = LEVEL_QUEUES - 1;
    let too_low = CatalogRefusal::LevelTooLow { needed: LEVEL_QUEUES, now };
    assert_eq!(reply, CatalogReply::Refused(too_low));
    assert_eq!(catalog, before);
}

#[test]
fn user_keeps_what_is_not_given() {
    let mut catalog = catalog();
    let no_password = AmqpRefusal::NoPassword { user: text("a") };
    assert_eq!(refused(&mut catalog, put_user("a", None, Some("t"))), no_password);
    assert_eq!(run(&mut catalog, put_user("a", password(b"1"), None)), CHANGED);
    assert_eq!(run(&mut catalog, allow("a", "/", Permissions::all())), CHANGED);
    assert_eq!(run(&mut catalog, put_user("a", None, Some("t"))), CHANGED);
    let user = catalog.amqp().user("a").unwrap();
    assert_eq!((Some(&user.password), &user.tags), (password(b"1").as_ref(), &vec![text("t")]));
    assert_eq!(user.permissions.len(), 1);
    assert_eq!(run(&mut catalog, put_user("a", password(b"1"), Some("t"))), UNCHANGED);
    let name = AmqpRefusal::NoName { what: "user".into() };
    assert_eq!(refused(&mut catalog, put_user("", password(b"1"), None)), name);
}

#[test]
fn hash_of_a_password_is_not_printed() {
    let user = User { password: password(b"secret").unwrap(), ..User::guest(text("/")) };
    let hash = format!("{:?}", user.password.hash);
    assert!(!format!("{user:?}").contains(&hash));
}

#[test]
fn permissions_are_for_users_and_vhosts_that_are_there() {
    let mut catalog = catalog();
    let all = Permissions::all;
    let no_user = AmqpRefusal::UnknownUser { user: text("b") };
    assert_eq!(refused(&mut catalog, allow("b", "/", all())), no_user);
    let no_vhost = AmqpRefusal::UnknownVhost { vhost: text("v") };
    assert_eq!(refused(&mut catalog, allow("guest", "v", all())), no_vhost);
    run(&mut catalog, create_vhost("v"));
    assert_eq!(run(&mut catalog, allow("guest", "v", all())), CHANGED);
    assert_eq!(run(&mut catalog, allow("guest", "v", all())), UNCHANGED);
    let none = Permissions { write: String::new(), ..all() };
    assert_eq!(run(&mut catalog, allow("guest", "v", none.clone())), CHANGED);
    assert_eq!(catalog.amqp().user("guest").unwrap().permissions.get("v"), Some(&none));
    let clear = AmqpCommand::ClearPermissions { user: text("guest"), vhost: text("v") };
    assert_eq!(run(&mut catalog, clear.clone()), CHANGED);
    assert_eq!(run(&mut catalog, clear), UNCHANGED);
    run(&mut catalog, allow("guest", "v", all()));
    run(&mut catalog, AmqpCommand::DeleteVhost { vhost: text("v") });
    let left = &catalog.amqp().user("guest").unwrap().permissions;
    assert_eq!(left.keys().map(AmqpText::as_str).collect::<Vec<_>>(), ["/"]);
}

#[test]
fn lengths_are_bounded() {
    let mut catalog = catalog();
    let long = Bytes::from(vec![0; PASSWORD_HASH_BYTES_MAX + 1]);
    let long = PasswordHash { algorithm: text("sha256"), hash: long };
    let refusal = refused(&mut catalog, put_user("a", Some(long), None));
    assert!(matches!(refusal, AmqpRefusal::TooLong { bytes: 513, bytes_max: 512, .. }));
    let pattern = Permissions { read: "a".repeat(PATTERN_BYTES_MAX + 1), ..Permissions::all() };
    let refusal = refused(&mut catalog, allow("guest", "/", pattern));
    assert!(matches!(refusal, AmqpRefusal::TooLong { .. }));
    let arguments = Bytes::from(vec![0; ARGUMENTS_BYTES_MAX + 1]);
    let long = declare_exchange("e", Exchange { arguments, ..exchange() });
    assert!(matches!(refused(&mut catalog, long), AmqpRefusal::TooLong { .. }));
    let tags = Some(vec![text("t"); TAGS_MAX + 1]);
    let tags = AmqpCommand::PutUser { user: text("guest"), password: None, tags };
    assert_eq!(refused(&mut catalog, tags), AmqpRefusal::TooMany { kind: AmqpKind::Tags });
    assert_eq!(AmqpText::try_from("é".repeat(128).as_str()), Err(AmqpTextTooLong { bytes: 256 }));
}

#[test]
fn numbers_are_bounded() {
    let mut catalog = catalog();
    for number in 1..VHOSTS_MAX {
        assert_eq!(run(&mut catalog, create_vhost(&number.to_string())), CHANGED);
    }
    let most = AmqpRefusal::TooMany { kind: AmqpKind::Vhosts };
    assert_eq!(refused(&mut catalog, create_vhost("one more")), most);
    assert_eq!(run(&mut catalog, create_vhost("1")), UNCHANGED);
    let arguments = Bytes::from(vec![0; ARGUMENTS_BYTES_MAX]);
    let of = |name: usize| {
        let exchange = Exchange { arguments: arguments.clone(), ..exchange() };
        declare_exchange(&format!("{name}"), exchange)
    };
    let fit = ARGUMENTS_TOTAL_BYTES_MAX / ARGUMENTS_BYTES_MAX;
    for name in 0..fit {
        run(&mut catalog, of(name));
    }
    let most = AmqpRefusal::TooMany { kind: AmqpKind::ArgumentBytes };
    assert_eq!(refused(&mut catalog, of(fit)), most);
    run(&mut catalog, delete_exchange("0", false));
    run(&mut catalog, of(fit));
}

#[test]
fn exchange_that_is_there_is_shown_as_it_is() {
    let mut catalog = catalog();
    let first = Arc::new(exchange());
    let AmqpReply::Exchange { exchange: made, existed: false } =
        run(&mut catalog, declare_exchange("e", exchange()))
    else {
        panic!("it was not there")
    };
    assert_eq!(made, first);
    let epoch = catalog.amqp().epoch();
    let other = Exchange { kind: text("direct"), internal: true, ..exchange() };
    let there = AmqpReply::Exchange { exchange: first, existed: true };
    assert_eq!(run(&mut catalog, declare_exchange("e", other)), there);
    assert_eq!(catalog.amqp().epoch(), epoch);
    assert_eq!(run(&mut catalog, delete_exchange("e", true)), CHANGED);
    assert_eq!(run(&mut catalog, delete_exchange("e", true)), UNCHANGED);
}

#[test]
fn exchanges_of_every_vhost_are_bound_but_not_declared() {
    let mut catalog = catalog();
    for name in ["", "amq.direct", "amq.mine"] {
        let reserved = AmqpRefusal::ReservedExchange { exchange: text(name) };
        assert_eq!(refused(&mut catalog, declare_exchange(name, exchange())), reserved);
        assert_eq!(refused(&mut catalog, delete_exchange(name, false)), reserved);
    }
    assert_eq!(run(&mut catalog, bind("amq.topic", to_exchange("amq.fanout"))), CHANGED);
    let unknown = |name| AmqpRefusal::UnknownExchange { vhost: text("/"), exchange: text(name) };
    assert_eq!(refused(&mut catalog, bind("", to_exchange("amq.fanout"))), unknown(""));
    assert_eq!(refused(&mut catalog, bind("amq.topic", to_exchange("amq.m"))), unknown("amq.m"));
    let queue = AmqpRefusal::UnknownQueue { vhost: text("/"), queue: text("q") };
    assert_eq!(refused(&mut catalog, bind("amq.topic", to_queue("q", ""))), queue);
}

#[test]
fn binding_is_there_once() {
    let mut catalog = catalog();
    run(&mut catalog, declare_exchange("e", exchange()));
    run(&mut catalog, declare_queue("q"));
    assert_eq!(run(&mut catalog, bind("e", to_queue("q", "k"))), CHANGED);
    assert_eq!(run(&mut catalog, bind("e", to_queue("q", "k"))), UNCHANGED);
    let other = Binding { arguments: Bytes::new(), ..to_queue("q", "k") };
    assert_eq!(run(&mut catalog, bind("e", other.clone())), CHANGED);
    let bindings: Vec<_> = vhost(&catalog).bindings_from("e").collect();
    assert_eq!(bindings, [&other, &to_queue("q", "k")]);
    let in_use = AmqpRefusal::ExchangeInUse { vhost: text("/"), exchange: text("e") };
    assert_eq!(refused(&mut catalog, delete_exchange("e", true)), in_use);
    assert_eq!(run(&mut catalog, unbind("e", other.clone())), CHANGED);
    assert_eq!(run(&mut catalog, unbind("e", other)), UNCHANGED);
    assert_eq!(run(&mut catalog, delete_exchange("e", false)), CHANGED);
    assert_eq!(vhost(&catalog).bindings().count(), 0);
}

#[test]
fn exchange_goes_with_its_last_binding_and_takes_others_along() {
    let mut catalog = catalog();
    for name in ["a", "b", "c"] {
        run(&mut catalog, auto_delete(name));
    }
    run(&mut catalog, declare_exchange("stays", exchange()));
    run(&mut catalog, declare_queue("q"));
    run(&mut catalog, bind("a", to_exchange("b")));
    run(&mut catalog, bind("b", to_exchange("c")));
    run(&mut catalog, bind("b", to_exchange("stays")));
    run(&mut catalog, bind("c", to_queue("q", "1")));
    run(&mut catalog, bind("c", to_queue("q", "2")));
    run(&mut catalog, bind("stays", to_queue("q", "3")));
    run(&mut catalog, unbind("c", to_queue("q", "1")));
    assert_eq!(exchanges(&catalog), ["a", "b", "c", "stays"]);
    // The last binding of c: b still leads to another exchange.
    run(&mut catalog, unbind("c", to_queue("q", "2")));
    assert_eq!(exchanges(&catalog), ["a", "b", "stays"]);
    assert_eq!(run(&mut catalog, delete_exchange("stays", false)), CHANGED);
    assert_eq!(exchanges(&catalog), [""; 0]);
    assert_eq!(vhost(&catalog).bindings().count(), 0);
}

#[test]
fn exchange_that_was_never_bound_does_not_delete_itself() {
    let mut catalog = catalog();
    run(&mut catalog, auto_delete("a"));
    run(&mut catalog, declare_queue("q"));
    run(&mut catalog, unbind("a", to_queue("q", "k")));
    assert_eq!(exchanges(&catalog), ["a"]);
}

#[test]
fn change_shows_in_its_vhost_only_and_snapshots_stay() {
    let mut catalog = catalog();
    run(&mut catalog, create_vhost("v"));
    let before = catalog.clone();
    let other = Arc::clone(catalog.amqp().vhost("v").unwrap());
    run(&mut catalog, declare_exchange("e", exchange()));
    assert!(Arc::ptr_eq(&other, catalog.amqp().vhost("v").unwrap()));
    let epoch = catalog.amqp().epoch();
    assert!(before.amqp().epoch() < epoch && vhost(&before).changed() < epoch);
    assert_eq!((vhost(&catalog).changed(), vhost(&before).exchanges().count()), (epoch, 0));
    assert!(catalog.amqp().access_epoch() < epoch);
    run(&mut catalog, put_user("a", password(b"1"), None));
    assert_eq!(catalog.amqp().access_epoch(), catalog.amqp().epoch());
    assert_eq!(vhost(&catalog).changed(), epoch);
    // The same name again is another virtual host.
    let changed = other.changed();
    run(&mut catalog, AmqpCommand::DeleteVhost { vhost: text("v") });
    run(&mut catalog, create_vhost("v"));
    assert!(catalog.amqp().vhost("v").unwrap().changed() > changed);
}
