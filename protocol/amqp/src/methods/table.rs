//! The table of methods. `ticket` is the specification's `reserved-1`; `kind` its `type`.

use super::*;
use crate::shortstr::ShortStr;
use crate::table::FieldTable;

/// A long string: any bytes.
pub type LongStr = Bytes;

methods! {
    /// The server introduces itself.
    ConnectionStart (10, 10) "connection.start" to client {
        version_major: u8, version_minor: u8, server_properties: FieldTable,
        mechanisms: LongStr, locales: LongStr
    };
    /// The client introduces itself and logs in.
    ConnectionStartOk (10, 11) "connection.start-ok" to server {
        client_properties: FieldTable, mechanism: ShortStr, response: LongStr, locale: ShortStr
    };
    /// The server asks more to log the client in.
    ConnectionSecure (10, 20) "connection.secure" to client { challenge: LongStr };
    /// The client answers that.
    ConnectionSecureOk (10, 21) "connection.secure-ok" to server { response: LongStr };
    /// The server offers limits.
    ConnectionTune (10, 30) "connection.tune" to client {
        channel_max: u16, frame_max: u32, heartbeat: u16
    };
    /// The client takes or lowers them.
    ConnectionTuneOk (10, 31) "connection.tune-ok" to server {
        channel_max: u16, frame_max: u32, heartbeat: u16
    };
    /// The client opens a virtual host.
    ConnectionOpen (10, 40) "connection.open" to server {
        virtual_host: ShortStr, capabilities: ShortStr, insist: bool
    };
    /// It is open.
    ConnectionOpenOk (10, 41) "connection.open-ok" to client { known_hosts: ShortStr };
    /// One end ends the connection.
    ConnectionClose (10, 50) "connection.close" to both {
        reply_code: u16, reply_text: ShortStr, class_id: u16, method_id: u16
    };
    /// The other agrees.
    ConnectionCloseOk (10, 51) "connection.close-ok" to both {};
    /// The server takes no publishes for now. RabbitMQ, "Blocked Connection Notifications".
    ConnectionBlocked (10, 60) "connection.blocked" to client { reason: ShortStr };
    /// It takes them again.
    ConnectionUnblocked (10, 61) "connection.unblocked" to client {};
    /// The client's credentials are renewed. RabbitMQ, "AMQP 0-9-1 Extensions".
    ConnectionUpdateSecret (10, 70) "connection.update-secret" to server {
        new_secret: LongStr, reason: ShortStr
    };
    /// They were taken.
    ConnectionUpdateSecretOk (10, 71) "connection.update-secret-ok" to client {};

    /// Opens a channel.
    ChannelOpen (20, 10) "channel.open" to server { out_of_band: ShortStr };
    /// It is open.
    ChannelOpenOk (20, 11) "channel.open-ok" to client { channel_id: LongStr };
    /// Asks the other end to pause or to go on.
    ChannelFlow (20, 20) "channel.flow" to both { active: bool };
    /// It does.
    ChannelFlowOk (20, 21) "channel.flow-ok" to both { active: bool };
    /// One end ends the channel.
    ChannelClose (20, 40) "channel.close" to both {
        reply_code: u16, reply_text: ShortStr, class_id: u16, method_id: u16
    };
    /// The other agrees.
    ChannelCloseOk (20, 41) "channel.close-ok" to both {};

    /// Asks for an access ticket; of AMQP 0-8, answered for old clients.
    AccessRequest (30, 10) "access.request" to server {
        realm: ShortStr, exclusive: bool, passive: bool, active: bool, write: bool, read: bool
    };
    /// The ticket, which means nothing.
    AccessRequestOk (30, 11) "access.request-ok" to client { ticket: u16 };

    /// Makes an exchange, or checks that it is there.
    ExchangeDeclare (40, 10) "exchange.declare" to server {
        ticket: u16, exchange: ShortStr, kind: ShortStr, passive: bool, durable: bool,
        auto_delete: bool, internal: bool, no_wait: bool, arguments: FieldTable
    };
    /// It is there.
    ExchangeDeclareOk (40, 11) "exchange.declare-ok" to client {};
    /// Deletes an exchange.
    ExchangeDelete (40, 20) "exchange.delete" to server {
        ticket: u16, exchange: ShortStr, if_unused: bool, no_wait: bool
    };
    /// It is gone.
    ExchangeDeleteOk (40, 21) "exchange.delete-ok" to client {};
    /// Binds an exchange to an exchange. RabbitMQ, "Exchange to Exchange Bindings".
    ExchangeBind (40, 30) "exchange.bind" to server {
        ticket: u16, destination: ShortStr, source: ShortStr, routing_key: ShortStr,
        no_wait: bool, arguments: FieldTable
    };
    /// It is bound.
    ExchangeBindOk (40, 31) "exchange.bind-ok" to client {};
    /// Undoes such a binding.
    ExchangeUnbind (40, 40) "exchange.unbind" to server {
        ticket: u16, destination: ShortStr, source: ShortStr, routing_key: ShortStr,
        no_wait: bool, arguments: FieldTable
    };
    /// It is undone. Its number is 51, not 41.
    ExchangeUnbindOk (40, 51) "exchange.unbind-ok" to client {};

    /// Makes a queue, or checks that it is there.
    QueueDeclare (50, 10) "queue.declare" to server {
        ticket: u16, queue: ShortStr, passive: bool, durable: bool, exclusive: bool,
        auto_delete: bool, no_wait: bool, arguments: FieldTable
    };
    /// It is there.
    QueueDeclareOk (50, 11) "queue.declare-ok" to client {
        queue: ShortStr, message_count: u32, consumer_count: u32
    };
    /// Binds a queue to an exchange.
    QueueBind (50, 20) "queue.bind" to server {
        ticket: u16, queue: ShortStr, exchange: ShortStr, routing_key: ShortStr,
        no_wait: bool, arguments: FieldTable
    };
    /// It is bound.
    QueueBindOk (50, 21) "queue.bind-ok" to client {};
    /// Undoes a binding.
    QueueUnbind (50, 50) "queue.unbind" to server {
        ticket: u16, queue: ShortStr, exchange: ShortStr, routing_key: ShortStr,
        arguments: FieldTable
    };
    /// It is undone.
    QueueUnbindOk (50, 51) "queue.unbind-ok" to client {};
    /// Drops the messages that wait in a queue.
    QueuePurge (50, 30) "queue.purge" to server { ticket: u16, queue: ShortStr, no_wait: bool };
    /// How many were dropped.
    QueuePurgeOk (50, 31) "queue.purge-ok" to client { message_count: u32 };
    /// Deletes a queue.
    QueueDelete (50, 40) "queue.delete" to server {
        ticket: u16, queue: ShortStr, if_unused: bool, if_empty: bool, no_wait: bool
    };
    /// How many messages went with it.
    QueueDeleteOk (50, 41) "queue.delete-ok" to client { message_count: u32 };

    /// Limits messages in flight.
    BasicQos (60, 10) "basic.qos" to server {
        prefetch_size: u32, prefetch_count: u16, global: bool
    };
    /// They are limited.
    BasicQosOk (60, 11) "basic.qos-ok" to client {};
    /// Begins a consumer.
    BasicConsume (60, 20) "basic.consume" to server {
        ticket: u16, queue: ShortStr, consumer_tag: ShortStr, no_local: bool, no_ack: bool,
        exclusive: bool, no_wait: bool, arguments: FieldTable
    };
    /// Its tag.
    BasicConsumeOk (60, 21) "basic.consume-ok" to client { consumer_tag: ShortStr };
    /// Ends a consumer. From the server: RabbitMQ, "Consumer Cancel Notification".
    BasicCancel (60, 30) "basic.cancel" to both { consumer_tag: ShortStr, no_wait: bool };
    /// It has ended.
    BasicCancelOk (60, 31) "basic.cancel-ok" to both { consumer_tag: ShortStr };
    /// Publishes the content that follows.
    BasicPublish (60, 40) "basic.publish" to server content {
        ticket: u16, exchange: ShortStr, routing_key: ShortStr, mandatory: bool, immediate: bool
    };
    /// Gives a message back that could not be routed.
    BasicReturn (60, 50) "basic.return" to client content {
        reply_code: u16, reply_text: ShortStr, exchange: ShortStr, routing_key: ShortStr
    };
    /// Delivers a message to a consumer.
    BasicDeliver (60, 60) "basic.deliver" to client content {
        consumer_tag: ShortStr, delivery_tag: u64, redelivered: bool, exchange: ShortStr,
        routing_key: ShortStr
    };
    /// Asks for one message.
    BasicGet (60, 70) "basic.get" to server { ticket: u16, queue: ShortStr, no_ack: bool };
    /// Here it is.
    BasicGetOk (60, 71) "basic.get-ok" to client content {
        delivery_tag: u64, redelivered: bool, exchange: ShortStr, routing_key: ShortStr,
        message_count: u32
    };
    /// There is none.
    BasicGetEmpty (60, 72) "basic.get-empty" to client { cluster_id: ShortStr };
    /// Settles messages; from the server, confirms publishes.
    BasicAck (60, 80) "basic.ack" to both { delivery_tag: u64, multiple: bool };
    /// Refuses one message.
    BasicReject (60, 90) "basic.reject" to server { delivery_tag: u64, requeue: bool };
    /// Asks for all unsettled messages again, without an answer.
    BasicRecoverAsync (60, 100) "basic.recover-async" to server { requeue: bool };
    /// Asks for all unsettled messages again.
    BasicRecover (60, 110) "basic.recover" to server { requeue: bool };
    /// They will come.
    BasicRecoverOk (60, 111) "basic.recover-ok" to client {};
    /// Refuses messages; from the server, publishes. RabbitMQ, "Negative Acknowledgements".
    BasicNack (60, 120) "basic.nack" to both { delivery_tag: u64, multiple: bool, requeue: bool };

    /// From now on publishes are confirmed. RabbitMQ, "Publisher Confirms".
    ConfirmSelect (85, 10) "confirm.select" to server { no_wait: bool };
    /// They are.
    ConfirmSelectOk (85, 11) "confirm.select-ok" to client {};

    /// From now on publishes and acks wait for a commit.
    TxSelect (90, 10) "tx.select" to server {};
    /// They do.
    TxSelectOk (90, 11) "tx.select-ok" to client {};
    /// Carries out what waits.
    TxCommit (90, 20) "tx.commit" to server {};
    /// It was.
    TxCommitOk (90, 21) "tx.commit-ok" to client {};
    /// Forgets what waits.
    TxRollback (90, 30) "tx.rollback" to server {};
    /// It was forgotten.
    TxRollbackOk (90, 31) "tx.rollback-ok" to client {};
}
