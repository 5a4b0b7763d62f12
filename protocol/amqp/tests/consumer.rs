//! Dialogues of consumers: windows, tags, settlements, transactions, ends.

mod model {
    pub mod client;
}

use bytes::Bytes;
use plimsoll_amqp::error::{Fault, ReplyCode};
use plimsoll_amqp::methods::*;
use plimsoll_amqp::session::*;

use model::client::*;

#[test]
fn windows_of_consumer_and_channel_bound_deliveries() {
    let mut client = Client::with_channel();
    client.say(1, BasicQos { prefetch_count: 2, ..Default::default() });
    client.hears(1, BasicQosOk {});
    let key = client.consume("a", false);
    client.say(1, BasicQos { prefetch_count: 3, ..Default::default() });
    client.hears(1, BasicQosOk {});
    client.consume("b", false);
    client.consume("all", true);
    let room = |client: &Client| ["a", "b", "all"].map(|tag| client.session.room(key, tag));
    assert_eq!(room(&client), [2, 3, usize::MAX]);
    for (index, tag) in ["a", "a", "b", "all"].into_iter().enumerate() {
        let number = index as u64 + 1;
        assert_eq!(client.session.deliver(key, tag, delivery(number)), Ok(number));
    }
    assert_eq!(room(&client), [0, 2, usize::MAX]);
    let deliver = BasicDeliver {
        consumer_tag: s("a"),
        delivery_tag: 1,
        redelivered: false,
        exchange: s("x"),
        routing_key: s("k"),
    };
    let heard = client.heard();
    assert_eq!(heard[0], Heard::Method(1, deliver.into()));
    assert_eq!(heard[2], Heard::Body(1, Bytes::from_static(b"hello")));
    assert_eq!(heard.len(), 12);

    // `global` is the window of the channel: three are in flight already.
    client.say(1, BasicQos { prefetch_count: 4, global: true, ..Default::default() });
    assert_eq!(room(&client), [0, 1, usize::MAX]);
    client.say(1, BasicAck { delivery_tag: 2, multiple: true });
    assert_eq!(room(&client), [2, 2, usize::MAX]);
    let Ask::Settle(Settlement { outcome: Outcome::Accept, deliveries }) = client.asks().remove(0)
    else {
        panic!("a settlement")
    };
    assert_eq!(deliveries.iter().map(|d| d.message.message).collect::<Vec<_>>(), [1, 2]);
    // A delivery that needed no ack has a tag, and the tag is not known.
    client.say(1, BasicAck { delivery_tag: 4, multiple: false });
    client.heard();
    let asks = client.asks();
    let [Ask::CloseChannel { consumers, unsettled }] = &asks[..] else { panic!("{asks:?}") };
    assert_eq!((consumers.len(), unsettled[0].message.message), (3, 3));
}

#[test]
fn settlements_in_a_row_are_one_request() {
    let mut client = Client::with_channel();
    let key = client.consume("c", false);
    for message in 1..=6 {
        client.session.deliver(key, "c", delivery(message)).unwrap();
    }
    client.heard();
    client.say(1, BasicAck { delivery_tag: 2, multiple: false });
    client.say(1, BasicAck { delivery_tag: 1, multiple: false });
    client.say(1, BasicReject { delivery_tag: 4, requeue: false });
    client.say(1, BasicNack { delivery_tag: 5, multiple: true, requeue: true });
    client.say(1, BasicRecover { requeue: true });
    assert_eq!(
        client.asks(),
        [
            settle(Outcome::Accept, &[2, 1]),
            settle(Outcome::Discard, &[4]),
            settle(Outcome::Requeue, &[3, 5, 6])
        ]
    );
    client.hears(1, BasicRecoverOk {});
    client.say(1, BasicAck { delivery_tag: 0, multiple: true });
    assert!(client.heard().is_empty(), "all of nothing is no error");
}

#[test]
fn messages_that_are_fetched_have_tags_too() {
    let mut client = Client::with_channel();
    client.say(1, BasicGet { queue: s("q"), ..Default::default() });
    client.answer_all(Answer::Message(Some((delivery(9), 41))));
    let ok = BasicGetOk {
        delivery_tag: 1,
        redelivered: false,
        exchange: s("x"),
        routing_key: s("k"),
        message_count: 41,
    };
    assert_eq!(client.heard()[0], Heard::Method(1, ok.into()));
    client.say(1, BasicAck { delivery_tag: 1, multiple: false });
    let Ask::Settle(settlement) = client.asks().remove(0) else { panic!("a settlement") };
    assert_eq!(settlement.deliveries[0].consumer_tag, None);
}

#[test]
fn transaction_waits_for_its_commit() {
    let mut client = Client::with_channel();
    let key = client.consume("c", false);
    for message in 1..=3 {
        client.session.deliver(key, "c", delivery(message)).unwrap();
    }
    client.heard();
    client.say(1, TxSelect {});
    client.hears(1, TxSelectOk {});
    client.publish(1, "q", b"never");
    client.say(1, BasicAck { delivery_tag: 2, multiple: true });
    assert!(matches!(client.asks()[..], [Ask::CheckPublish { .. }]));
    client.say(1, TxRollback {});
    client.hears(1, TxRollbackOk {});

    client.publish(1, "q", b"now");
    client.say(1, BasicAck { delivery_tag: 1, multiple: false });
    client.say(1, BasicAck { delivery_tag: 2, multiple: false });
    client.say(1, BasicReject { delivery_tag: 3, requeue: true });
    assert_eq!(client.asks().len(), 1);
    client.say(1, TxCommit {});
    let Ask::Commit { publishes, settlements } = client.answer_all(Answer::Done) else {
        panic!("a commit")
    };
    assert_eq!(publishes.iter().map(|p| &p.content.body[..]).collect::<Vec<_>>(), [b"now"]);
    let outcomes: Vec<_> = settlements.iter().map(|s| (s.outcome, s.deliveries.len())).collect();
    assert_eq!(outcomes, [(Outcome::Accept, 2), (Outcome::Requeue, 1)]);
    client.hears(1, TxCommitOk {});
    client.say(1, ConfirmSelect { no_wait: false });
    let text = "PRECONDITION_FAILED - cannot switch from tx to confirm mode";
    assert_eq!(client.hears_close(1).1, text);
}

#[test]
fn refused_commit_leaves_its_deliveries_to_the_broker() {
    let mut client = Client::with_channel();
    let key = client.consume("c", false);
    client.session.deliver(key, "c", delivery(1)).unwrap();
    client.say(1, TxSelect {});
    client.say(1, BasicAck { delivery_tag: 1, multiple: false });
    client.say(1, TxCommit {});
    client.heard();
    let fault = Fault::new(ReplyCode::PreconditionFailed, "partial tx completion");
    client.answer_all(Answer::Refused(fault));
    let text = "PRECONDITION_FAILED - partial tx completion";
    assert_eq!(client.hears_close(1), (406, text.into(), 90, 20));
    let asks = client.asks();
    let [Ask::CloseChannel { unsettled, .. }] = &asks[..] else { panic!("{asks:?}") };
    assert!(unsettled.is_empty(), "{unsettled:?}");
}

#[test]
fn transaction_is_bounded() {
    let config = SessionConfig { transaction_bytes_max: 10_000, ..SessionConfig::default() };
    let mut client = Client::open(config);
    client.say(1, ChannelOpen::default());
    client.say(1, TxSelect {});
    client.publish(1, "q", &[0; 9_000]);
    client.publish(1, "q", &[0; 9_000]);
    assert_eq!(client.hears_close(1).0, 406);
}

#[test]
fn consumers_end_by_either_side() {
    let mut client = Client::with_channel();
    let key = client.consume("c", false);
    client.session.deliver(key, "c", delivery(1)).unwrap();
    client.heard();
    client.say(1, BasicCancel { consumer_tag: s("c"), no_wait: false });
    assert!(client.session.deliver(key, "c", delivery(2)).is_err(), "none after cancel");
    assert_eq!(client.answer_all(Answer::Done), Ask::Cancel { consumer_tag: s("c") });
    client.hears(1, BasicCancelOk { consumer_tag: s("c") });
    // What it had can still be settled; an unknown tag is cancelled already.
    client.say(1, BasicAck { delivery_tag: 1, multiple: false });
    assert_eq!(client.asks(), [settle(Outcome::Accept, &[1])]);
    client.say(1, BasicCancel { consumer_tag: s("c"), no_wait: false });
    client.hears(1, BasicCancelOk { consumer_tag: s("c") });

    client.consume("d", false);
    client.session.cancel_consumer(key, "d");
    client.hears(1, BasicCancel { consumer_tag: s("d"), no_wait: true });
    assert_eq!(client.session.room(key, "d"), 0);

    client.consume("e", false);
    client.say(1, BasicConsume { queue: s("q"), consumer_tag: s("e"), ..Default::default() });
    let text = "NOT_ALLOWED - attempt to reuse consumer tag 'e'";
    assert_eq!(client.hears_close(0), (530, text.into(), 60, 20));
}

#[test]
fn consumer_without_tag_gets_one() {
    let mut client = Client::with_channel();
    client.say(1, BasicConsume { queue: s("q"), ..Default::default() });
    let Ask::Consume(consume) = client.answer_all(Answer::Done) else { panic!("a consumer") };
    assert!(consume.consumer_tag.starts_with("amq.ctag-"));
    client.hears(1, BasicConsumeOk { consumer_tag: consume.consumer_tag });
}

#[test]
fn client_that_does_not_read_is_not_delivered_to() {
    let config = SessionConfig { output_bytes_max: 10_000, ..SessionConfig::default() };
    let mut client = Client::open(config);
    client.say(1, ChannelOpen::default());
    client.heard();
    let key = client.consume("c", true);
    let mut delivered = 0;
    while client.session.room(key, "c") > 0 {
        client.session.deliver(key, "c", delivery(delivered)).unwrap();
        delivered += 1;
    }
    assert!(!client.session.wants_input() && delivered < 200, "{delivered}");
    client.output();
    assert!(client.session.wants_input() && client.session.room(key, "c") > 0);
}
