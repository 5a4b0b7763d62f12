//! Dialogues on channels: declaring, publishing, consuming, settling, transactions, ends.

mod model {
    pub mod client;
}

use plimsoll_amqp::error::{ReplyCode, Resource};
use plimsoll_amqp::methods::*;
use plimsoll_amqp::properties::Properties;
use plimsoll_amqp::session::*;

use model::client::*;

fn queue(name: &str) -> Answer {
    Answer::Queue { name: s(name), message_count: 5, consumer_count: 2 }
}

#[test]
fn commands_wait_for_the_answer_of_their_channel_only() {
    let mut client = Client::with_channel();
    client.say(2, ChannelOpen::default());
    client.heard();
    client.say(1, QueueDeclare::default());
    client.say(1, QueueBind { exchange: s("amq.topic"), ..Default::default() });
    client.say(1, BasicGet { no_ack: true, ..Default::default() });
    client.say(2, QueuePurge { queue: s("other"), ..Default::default() });
    let requests = client.requests();
    let [Request { channel: one, ask: Ask::DeclareQueue(_) }, Request { channel: two, .. }] =
        &requests[..]
    else {
        panic!("{requests:?}")
    };
    client.answer(*two, Answer::Count(9));
    client.hears(2, QueuePurgeOk { message_count: 9 });
    client.answer(*one, queue("amq.gen-1"));
    let ok = QueueDeclareOk { queue: s("amq.gen-1"), message_count: 5, consumer_count: 2 };
    client.hears(1, ok);
    // The queue that was named just now is meant by the empty name, and with it by the empty key.
    let Ask::BindQueue(bind) = client.answer_all(Answer::Done) else { panic!("a bind") };
    assert_eq!((&*bind.queue, &*bind.routing_key), ("amq.gen-1", "amq.gen-1"));
    client.hears(1, QueueBindOk {});
    let ask = client.answer_all(Answer::Message(None));
    assert_eq!(ask, Ask::Get { queue: s("amq.gen-1"), no_ack: true });
    client.hears(1, BasicGetEmpty::default());
}

#[test]
fn backlog_is_bounded_by_not_reading() {
    let config = SessionConfig { backlog_bytes_max: 10_000, ..SessionConfig::default() };
    let mut client = Client::open(config);
    client.say(1, ChannelOpen::default());
    client.say(1, QueueDeclare::default());
    for _ in 0..100 {
        client.publish(1, "q", &[0; 500]);
    }
    assert!(!client.session.wants_input());
    let left = client.input.len();
    assert!(left > 30_000, "{left}");
    client.answer_all(queue("q"));
    assert_eq!(client.asks().len(), 100);
    assert!(client.input.is_empty() && client.session.wants_input());
}

#[test]
fn requests_that_need_no_broker_are_refused_at_once() {
    let cases: [(Method, (u16, &str)); 12] = [
        (
            QueueBind { exchange: s("x"), ..Default::default() }.into(),
            (404, "NOT_FOUND - no previously declared queue"),
        ),
        (
            QueueDeclare { queue: s("amq.mine"), ..Default::default() }.into(),
            (403, "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'"),
        ),
        (
            QueueDeclare { passive: true, ..Default::default() }.into(),
            (404, "NOT_FOUND - no queue '' in vhost '/'"),
        ),
        (
            ExchangeDelete { exchange: s("amq.topic"), ..Default::default() }.into(),
            (
                403,
                "ACCESS_REFUSED - deletion of system exchange 'amq.topic' in vhost '/' not allowed",
            ),
        ),
        (
            QueueBind { queue: s("q"), ..Default::default() }.into(),
            (403, "ACCESS_REFUSED - operation not permitted on the default exchange"),
        ),
        (TxCommit {}.into(), (406, "PRECONDITION_FAILED - channel is not transactional")),
        (TxRollback {}.into(), (406, "PRECONDITION_FAILED - channel is not transactional")),
        (
            BasicAck { delivery_tag: 7, multiple: false }.into(),
            (406, "PRECONDITION_FAILED - unknown delivery tag 7"),
        ),
        (
            BasicConsume { queue: s("amq.rabbitmq.reply-to"), ..Default::default() }.into(),
            (406, "PRECONDITION_FAILED - reply consumer cannot acknowledge"),
        ),
        (ChannelFlow { active: false }.into(), (540, "NOT_IMPLEMENTED - active=false")),
        (BasicRecover { requeue: false }.into(), (540, "NOT_IMPLEMENTED - requeue=false")),
        (
            BasicQos { prefetch_size: 9, ..Default::default() }.into(),
            (540, "NOT_IMPLEMENTED - prefetch_size!=0 (9)"),
        ),
    ];
    for (method, (code, text)) in cases {
        let mut client = Client::with_channel();
        let id = method.id();
        client.say(1, method);
        let channel = if code < 500 { 1 } else { 0 };
        let close = (code, text.to_owned(), id.class, id.method);
        assert_eq!(client.hears_close(channel), close);
        assert!(matches!(client.asks()[0], Ask::CloseChannel { .. }));
    }
}

#[test]
fn broker_refuses_and_the_number_is_used_again() {
    let mut client = Client::with_channel();
    client.say(1, QueueDeclare { queue: s("q"), passive: true, ..Default::default() });
    client.say(1, BasicGet { queue: s("q"), ..Default::default() });
    let request = client.requests().remove(0);
    client.answer(request.channel, Answer::Refused(Resource::queue("q", "/").not_found()));
    let text = "NOT_FOUND - no queue 'q' in vhost '/'";
    assert_eq!(client.hears_close(1), (404, text.into(), 50, 10));
    assert!(!client.session.is_live(request.channel));
    // Until close-ok everything is thrown away, half contents too.
    client.publish(1, "q", b"lost");
    client.say(1, ChannelClose::default());
    client.hears(1, ChannelCloseOk {});
    client.say(1, ChannelCloseOk {});
    let asks = client.asks();
    assert!(matches!(asks[..], [Ask::CloseChannel { .. }]), "{asks:?}");
    client.say(1, ChannelOpen::default());
    client.hears(1, ChannelOpenOk::default());
    // An answer to the life that ended is for nobody.
    client.answer(request.channel, queue("q"));
    assert!(client.heard().is_empty());
}

#[test]
fn client_closes_after_what_it_asked() {
    let mut client = Client::with_channel();
    client.consume("c", false);
    client.publish(1, "q", b"x");
    client.say(1, ChannelClose::default());
    client.say(1, TxSelect {});
    let requests = client.requests();
    assert!(matches!(requests[0].ask, Ask::Publish(_)));
    let Ask::CloseChannel { consumers, .. } = &requests[1].ask else { panic!("{requests:?}") };
    assert_eq!(consumers[..], [s("c")]);
    assert!(client.heard().is_empty(), "not before the broker took back what it had");
    client.answer(requests[1].channel, Answer::Done);
    client.hears(1, ChannelCloseOk {});
    client.say(1, ChannelOpen::default());
    client.hears(1, ChannelOpenOk::default());
}

#[test]
fn publishes_have_numbers_and_confirms_are_few() {
    let mut client = Client::with_channel();
    client.say(1, ConfirmSelect { no_wait: false });
    client.hears(1, ConfirmSelectOk {});
    for _ in 0..5 {
        client.publish(1, "q", &[7; 10_000]);
    }
    let requests = client.requests();
    let key = requests[0].channel;
    let numbers: Vec<_> = requests
        .iter()
        .map(|request| match &request.ask {
            Ask::Publish(publish) => {
                assert_eq!(publish.content.body[..], [7; 10_000]);
                publish.number
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5].map(Some));
    for number in [3, 1, 5, 2] {
        client.session.confirm(key, number, Confirmation::Taken);
    }
    let ack = |delivery_tag, multiple| Heard::Method(1, BasicAck { delivery_tag, multiple }.into());
    assert_eq!(client.heard(), [ack(3, true), ack(5, false)]);
    client.session.confirm(key, 4, Confirmation::Refused);
    client.hears(1, BasicNack { delivery_tag: 4, multiple: false, requeue: false });
    assert!(!client.session.has_output());
}

#[test]
fn publish_is_refused_with_what_came_after_it() {
    let mut client = Client::with_channel();
    let key = client.consume("c", false);
    client.session.deliver(key, "c", delivery(1)).unwrap();
    client.heard();
    client.publish(1, "q", b"1");
    client.publish(1, "q", b"2");
    client.say(1, BasicAck { delivery_tag: 1, multiple: false });
    assert!(matches!(client.session.poll_request().unwrap().ask, Ask::Publish(_)));
    let fault = Resource::exchange("x", "/").not_found().blamed_on(BasicPublish::ID);
    client.session.refuse(key, fault);
    let text = "NOT_FOUND - no exchange 'x' in vhost '/'";
    assert_eq!(client.hears_close(1), (404, text.into(), 60, 40));
    // What was settled stays so; the second publish is gone.
    let asks = client.asks();
    assert_eq!(asks[0], settle(Outcome::Accept, &[1]));
    assert!(matches!(asks[1..], [Ask::CloseChannel { .. }]), "{asks:?}");
}

#[test]
fn contents_are_checked_before_they_are_taken() {
    let with =
        |properties: Properties| content_frames(1, BasicPublish::default(), &properties, b"x", 100);
    let user_id = with(Properties { user_id: Some(s("root")), ..Default::default() });
    let reply_to = Some(s("amq.rabbitmq.reply-to"));
    let immediate = BasicPublish { immediate: true, ..Default::default() };
    let mut other_class =
        content_frames(1, BasicPublish::default(), &Properties::default(), b"x", 100);
    let header_at = other_class.len() - 9 - 22;
    other_class[header_at + 8] = 50;
    let mut too_much = content_frames(1, BasicPublish::default(), &Properties::default(), b"x", 9);
    put_raw(&mut too_much, 3, 1, b"y");
    let mut longer = content_frames(1, BasicPublish::default(), &Properties::default(), b"xy", 9);
    longer.truncate(longer.len() - 10);
    put_raw(&mut longer, 3, 1, b"xyz");
    let cases = [
        (
            user_id,
            (
                406,
                "PRECONDITION_FAILED - user_id property set to 'root' but authenticated user was 'guest'",
            ),
        ),
        (
            with(Properties { expiration: Some(s("soon")), ..Default::default() }),
            (406, "PRECONDITION_FAILED - invalid expiration 'soon': no_integer"),
        ),
        (
            with(Properties { reply_to, ..Default::default() }),
            (406, "PRECONDITION_FAILED - fast reply consumer does not exist"),
        ),
        (
            content_frames(1, immediate, &Properties::default(), b"x", 9),
            (540, "NOT_IMPLEMENTED - immediate=true"),
        ),
        (
            content_frames(1, BasicPublish::default(), &Properties::default(), &[0; 20_000], 4000),
            (
                406,
                "PRECONDITION_FAILED - message size 20000 is larger than configured max size 16384",
            ),
        ),
        (
            other_class,
            (
                505,
                "UNEXPECTED_FRAME - expected content header for class 60, got one for class 50 instead",
            ),
        ),
        (too_much, (505, "UNEXPECTED_FRAME - expected method frame, got non method frame instead")),
        (longer, (501, "FRAME_ERROR - content body frame exceeds remaining content size")),
    ];
    for (frames, (code, text)) in cases {
        let config = SessionConfig { message_bytes_max: 16_384, ..SessionConfig::default() };
        let mut client = Client::open(config);
        client.say(1, ChannelOpen::default());
        client.bytes(&frames);
        let (told, said, ..) = client.hears_close(if code < 500 { 1 } else { 0 });
        assert_eq!((told, &*said), (code, text));
    }
}

#[test]
fn message_without_a_queue_comes_back_before_its_confirm() {
    let mut client = Client::with_channel();
    client.say(1, ConfirmSelect { no_wait: true });
    let publish = BasicPublish { mandatory: true, ..Default::default() };
    client.bytes(&content_frames(1, publish, &Properties::default(), b"x", 100));
    let request = client.requests().remove(0);
    let Ask::Publish(publish) = request.ask else { panic!("a publish") };
    assert!(publish.mandatory);
    client.session.confirm(request.channel, 1, Confirmation::Taken);
    let returned = Returned {
        code: ReplyCode::NoRoute,
        exchange: publish.exchange,
        routing_key: publish.routing_key,
        properties: publish.content.encoded,
        body: publish.content.body,
    };
    client.session.return_message(request.channel, returned);
    let heard = client.heard();
    let Heard::Method(1, Method::BasicReturn(told)) = &heard[0] else { panic!("{heard:?}") };
    assert_eq!((told.reply_code, &*told.reply_text), (312, "NO_ROUTE"));
    assert!(matches!(heard[3], Heard::Method(1, Method::BasicAck(_))), "{heard:?}");
}

#[test]
fn message_that_is_too_large_is_refused_after_what_came_before_it() {
    let config = SessionConfig { message_bytes_max: 100, ..SessionConfig::default() };
    for closes in [false, true] {
        let mut client = Client::open(config.clone());
        client.say(1, ChannelOpen::default());
        client.heard();
        client.say(1, QueueDeclare { queue: s("q"), ..Default::default() });
        client.publish(1, "q", b"small");
        client.publish(1, "q", &[0; 101]);
        client.publish(1, "q", b"after");
        if closes {
            client.say(1, ChannelClose::default());
        }
        client.answer_all(queue("q"));
        let asks = client.asks();
        let [Ask::Publish(publish), Ask::CloseChannel { .. }] = &asks[..] else {
            panic!("{asks:?}")
        };
        assert_eq!(publish.content.body[..], *b"small");
        if !closes {
            let text =
                "PRECONDITION_FAILED - message size 101 is larger than configured max size 100";
            assert_eq!(client.hears_close(1), (406, text.into(), 60, 40));
        }
    }
}

#[test]
fn who_does_not_wait_hears_nothing() {
    let mut client = Client::with_channel();
    let no_wait = true;
    let methods: [(Method, Answer); 8] = [
        (ExchangeDeclare { exchange: s("x"), no_wait, ..Default::default() }.into(), Answer::Done),
        (QueueDeclare { queue: s("q"), no_wait, ..Default::default() }.into(), queue("q")),
        (
            QueueBind { queue: s("q"), exchange: s("x"), no_wait, ..Default::default() }.into(),
            Answer::Done,
        ),
        (
            ExchangeBind { source: s("x"), destination: s("y"), no_wait, ..Default::default() }
                .into(),
            Answer::Done,
        ),
        (
            BasicConsume { queue: s("q"), consumer_tag: s("c"), no_wait, ..Default::default() }
                .into(),
            Answer::Done,
        ),
        (BasicCancel { consumer_tag: s("c"), no_wait }.into(), Answer::Done),
        (QueuePurge { queue: s("q"), no_wait, ..Default::default() }.into(), Answer::Count(1)),
        (QueueDelete { queue: s("q"), no_wait, ..Default::default() }.into(), Answer::Count(1)),
    ];
    for (method, answer) in methods {
        client.say(1, method);
        client.answer_all(answer);
        assert!(client.heard().is_empty());
    }
    client.say(1, ConfirmSelect { no_wait });
    assert!(client.heard().is_empty());
}

#[test]
fn old_clients_get_their_ticket() {
    let mut client = Client::with_channel();
    client.say(1, AccessRequest::default());
    client.hears(1, AccessRequestOk { ticket: 1 });
    client.say(1, ChannelFlow { active: true });
    client.hears(1, ChannelFlowOk { active: true });
}
