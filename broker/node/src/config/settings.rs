//! The table of settings: one place that makes the struct, its defaults, its bounds, the reader of
//! files and flags, and the reference page.
//!
//! Invariant: every setting that exists is a line here, and nowhere else.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::value::{
    ByteSize, ConfigValue, DAY, GIB, HOUR, KIB, MIB, MINUTE, NameList, PeerTransport, SECOND,
    parse_bounded,
};

/// What is known of one setting besides its value.
pub struct Setting {
    /// Its key in a file; in capitals behind `PLIMSOLL_` its environment variable.
    pub key: &'static str,
    /// The group it is listed under on the reference page.
    pub group: &'static str,
    /// Meaning, unit, and what gets worse in each direction; Markdown.
    pub doc: &'static str,
    /// The kind of value.
    pub kind: &'static str,
    /// The default as it would be written.
    pub default: String,
    /// The bounds as they would be written.
    pub bounds: Option<(String, String)>,
    pub(super) set: fn(&mut NodeConfig, &str) -> Result<(), String>,
    pub(super) get: fn(&NodeConfig) -> String,
}

/// Settings whose values are never printed with the others.
const SECRETS: &[&str] = &["join_token"];

macro_rules! settings {
    ($( [$group:literal] $(
        $(#[doc = $doc:literal])+
        $key:ident : $type:ty = $default:expr $(, in $bounds:expr)?;
    )* )*) => {
        /// The settings of a node. `plimsoll config reference` prints this page.
        #[derive(Clone, PartialEq, Eq)]
        pub struct NodeConfig {
            $($( $(#[doc = $doc])+ pub $key: $type, )*)*
        }

        impl std::fmt::Debug for NodeConfig {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let shown = |key, value: &dyn std::fmt::Debug| match SECRETS.contains(&key) {
                    true => "(secret)".to_owned(),
                    false => format!("{value:?}"),
                };
                f.debug_struct("NodeConfig")
                    $($( .field(
                        stringify!($key),
                        &format_args!("{}", shown(stringify!($key), &self.$key)),
                    ) )*)*
                    .finish()
            }
        }

        impl Default for NodeConfig {
            fn default() -> Self {
                Self { $($( $key: $default, )*)* }
            }
        }

        /// All settings, in the order of the reference page.
        pub fn settings() -> Vec<Setting> {
            let default = NodeConfig::default();
            vec![$($( {
                #[allow(unused_mut, unused_assignments, reason = "not every setting has bounds")]
                let mut bounds: Option<RangeInclusive<u64>> = None;
                $( bounds = Some($bounds); )?
                Setting {
                    key: stringify!($key),
                    group: $group,
                    doc: concat!($($doc, "\n"),+),
                    kind: <$type as ConfigValue>::KIND,
                    default: default.$key.render(),
                    bounds: bounds.map(|bounds| (
                        <$type as ConfigValue>::render_bound(*bounds.start()),
                        <$type as ConfigValue>::render_bound(*bounds.end()),
                    )),
                    set: |config, text| {
                        #[allow(unused_mut, unused_assignments, reason = "as above")]
                        let mut bounds: Option<RangeInclusive<u64>> = None;
                        $( bounds = Some($bounds); )?
                        config.$key = parse_bounded(text, bounds)?;
                        Ok(())
                    },
                    get: |config| config.$key.render(),
                }
            } ),*),*]
        }
    };
}

settings! {
    ["Where"]

    /// The data directory; made if it is missing, locked by one process.
    /// It wants a real disk: on a network file system an acknowledgement is worth what that file
    /// system promises.
    data: PathBuf = PathBuf::from("plimsoll-data");

    /// Where the node listens: QUIC on the UDP port and TLS on the TCP port of the same number.
    /// Port 0 takes a free one. Only this machine can reach `127.0.0.1`; with `0.0.0.0:7420` or
    /// `[::]:7420` everybody can who reaches the machine, and this version has no logins: keep such
    /// an address behind a firewall.
    listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 7420));

    /// A second address for TCP *without* encryption. Off unless it is named. Everybody on the way
    /// reads and changes what passes; for benchmarks and for hosts that encrypt below.
    listen_plaintext: Option<SocketAddr> = None;

    /// Where the node listens for AMQP 0-9-1 *without* encryption, such as `127.0.0.1:5672`. Off unless it
    /// is named. The user `guest` may come from this machine only.
    listen_amqp: Option<SocketAddr> = None;

    /// Where the node listens for AMQP 0-9-1 over TLS, such as `0.0.0.0:5671`, with the certificate that
    /// clients see. Off unless it is named.
    listen_amqps: Option<SocketAddr> = None;

    ["Cluster"]

    /// Address (`HOST:PORT`) of any node of a cluster to become a member of. Read at the first start
    /// of a data directory; one that is a member already does not join again.
    join: Option<String> = None;

    /// What allows to join: `plimsoll cluster token` prints it on any member's machine. Without it,
    /// the token that a node of this user left on this machine is taken. Keep it secret: who has it
    /// can become a member, and a member can read everything.
    join_token: Option<String> = None;

    /// Address (`HOST:PORT`) at which other nodes and clients reach this node; the address it
    /// listens on unless named. Needed where `listen` is `0.0.0.0` or `[::]`.
    advertise: Option<String> = None;

    /// What fails together with this node: a rack, a zone. Replicas of a partition are put into
    /// different racks where there are enough.
    rack: Option<String> = None;

    /// Share of the partitions that this node takes, in hundredths: 200 takes twice as many as 100.
    weight: u32 = 100, in 1..=1000;

    /// How nodes speak with each other: `quic` or `tls`. All nodes understand both; this one is used
    /// for connections that this node makes.
    peer_transport: PeerTransport = PeerTransport::Quic;

    /// Nodes tell each other that they live this often. Shorter: more work at rest; longer: a dead
    /// node is noticed later.
    liveness_interval: Duration = Duration::from_millis(100), in 20..=10 * SECOND;

    /// A node that was not heard of for this time is held for dead, and its partitions get other
    /// leaders; at least four intervals, and the same on all nodes. Shorter: a stall of a busy node is
    /// mistaken for death; longer: partitions of a dead node wait longer.
    liveness_timeout: Duration = Duration::from_millis(500), in 500..=MINUTE;

    /// How fast this node sends segments to others when replicas move, all transfers together, per
    /// second. Higher: moves end sooner; lower: clients notice them less.
    move_bytes_per_second: ByteSize = ByteSize(64 * MIB), in 64 * KIB..=64 * GIB;

    /// Replicas that are copied at a time in the whole cluster; the node that leads the catalog goes by
    /// its own figure. A node receives and sends at most two of them. More: a new node has its share
    /// sooner; fewer: clients notice the moves less.
    moves_max: u32 = 8, in 1..=1024;

    ["Certificates"]

    /// Names and addresses, besides `localhost`, `127.0.0.1`, `::1`, the listen address and the
    /// host name, that clients dial and that the self-made certificate must carry.
    tls_names: NameList = NameList::default();

    /// A certificate chain (PEM) to use instead of the self-made one; needs `tls_key`.
    tls_certificate: Option<PathBuf> = None;

    /// The private key (PEM) of `tls_certificate`.
    tls_key: Option<PathBuf> = None;

    /// The authority (PEM) that clients should trust for `tls_certificate`; it is only handed on
    /// to clients of this machine. Without it they need `--ca`.
    tls_authority: Option<PathBuf> = None;

    /// The self-made certificate is renewed at a start when it would end within this time.
    /// Shorter: a node that is never restarted may reach the end. Longer: clients that pin the
    /// certificate itself, not its authority, see a change more often.
    tls_renew_before: Duration = Duration::from_millis(30 * DAY), in DAY..=300 * DAY;

    ["Connections"]

    /// Connections open at once, over all transports and of AMQP. Each costs about 20 KiB idle and
    /// a file handle when it is TCP. Lower: clients are refused (`TooManyConnections`, AMQP's 530);
    /// higher: more memory for whoever opens them.
    connections_max: usize = 16_384, in 1..=1_000_000;

    /// Connections open at once from one address. Lower: many clients behind one address refuse
    /// each other; higher: one host can take all of `connections_max`.
    connections_per_address_max: usize = 12_288, in 1..=1_000_000;

    /// Connections that have not said `Hello`, handshakes included. Each costs up to 100 KiB and may
    /// last for `handshake_timeout` and `hello_timeout`. Lower: many clients that connect at one time
    /// wait or are refused, and try again; higher: more memory for strangers.
    unauthenticated_max: usize = 1024, in 1..=65_536;

    /// As `unauthenticated_max`, from one address. Lower: many clients behind one address that
    /// connect at one time are refused, and try again; higher: one host can keep others from
    /// connecting.
    unauthenticated_per_address_max: usize = 256, in 1..=65_536;

    /// Streams that one QUIC connection may have open: one per (producer, partition), one per
    /// subscription, one for control. Lower: the partitions of a client share streams;
    /// higher: one connection may hold more tasks and buffers.
    streams_per_connection_max: u32 = 8192, in 2..=1_000_000;

    /// Time for a TLS or QUIC handshake. Shorter: slow links fail; longer: half-open
    /// connections live longer.
    handshake_timeout: Duration = Duration::from_secs(5), in 100..=MINUTE;

    /// Time for the first request (`Hello`) after the handshake. As above.
    hello_timeout: Duration = Duration::from_secs(10), in 100..=MINUTE;

    /// A connection whose peer was not heard of for this time is closed (QUIC; on TCP the
    /// keep-alive probes give up after about this time). Shorter: a laptop that sleeps must dial
    /// again; longer: dead peers hold their place.
    idle_timeout: Duration = Duration::from_secs(30), in SECOND..=10 * MINUTE;

    ["Limits"]

    /// The largest frame. Batches, subscriptions and fetches stay below it. Lower: large records
    /// are refused; higher: one connection can hold more memory.
    frame_bytes_max: ByteSize = ByteSize(16 * MIB), in 64 * KIB..=GIB;

    /// The largest record batch as sent, header included; a topic may ask for less. Lower: large
    /// records are refused; higher: more memory per request, and longer journal writes that others
    /// wait behind.
    batch_bytes_max: ByteSize = ByteSize(8 * MIB), in 4 * KIB..=512 * MIB;

    /// The largest batch after decompression. Lower: well compressed batches are refused; higher:
    /// more CPU and memory for whoever sends a small batch that grows.
    records_bytes_max: ByteSize = ByteSize(64 * MIB), in 4 * KIB..=GIB;

    /// Records in one batch. Lower: large batches of tiny records are refused; higher: more CPU for
    /// whoever sends one frame.
    batch_records_max: u32 = 1_000_000, in 1..=16_000_000;

    /// Bytes of produce requests taken in and not yet answered, over the whole node; above it
    /// the node stops reading, so that producers wait. Lower: less throughput with many producers;
    /// higher: more memory.
    in_flight_bytes_max: ByteSize = ByteSize(256 * MIB), in MIB..=64 * GIB;

    /// As `in_flight_bytes_max`, for one connection: what one client can take from the others.
    connection_in_flight_bytes_max: ByteSize = ByteSize(32 * MIB), in MIB..=4 * GIB;

    /// Bytes of frames that are being received, over the whole node: a frame above 64 KiB (over QUIC
    /// above 4 KiB) that does not come in one piece takes room for all of it, from its header until
    /// `in_flight_bytes_max` has it. Above it the node stops reading such frames. Lower: less
    /// throughput with many producers of large batches; higher: more memory for whoever begins large
    /// frames.
    receiving_bytes_max: ByteSize = ByteSize(256 * MIB), in MIB..=2 * GIB;

    /// As `receiving_bytes_max`, for one connection: what one client can take from the others.
    connection_receiving_bytes_max: ByteSize = ByteSize(32 * MIB), in MIB..=2 * GIB;

    /// While a frame waits for room of `receiving_bytes_max`, a connection that has some must get on
    /// within this time, over all of its streams, by 64 KiB and by a sixteenth of what its unfinished
    /// frames have; by 64 KiB while only its own frames wait for `connection_receiving_bytes_max`. A
    /// frame that has come must not wait longer than this for answers that its peer does not read.
    /// Else the connection is closed (`Timeout`). Shorter: slow links fail when the node is short of
    /// room; longer: peers that stall keep others waiting longer.
    receive_stall_timeout: Duration = Duration::from_secs(10), in 100..=10 * MINUTE;

    /// Bytes of compressed batches, as they are without compression, that are checked at once, over
    /// the whole node; one connection has `records_bytes_max` of it at most. Above it the node stops
    /// reading. Lower: compressed batches wait for each other; higher: more memory.
    checking_bytes_max: ByteSize = ByteSize(256 * MIB), in MIB..=64 * GIB;

    /// Requests of one stream (QUIC) or connection (TCP) that are worked on at once, produce
    /// requests aside; above it the node stops reading there. Lower: many concurrent fetches on one
    /// connection wait for each other; higher: more memory for one connection.
    requests_per_stream_max: u32 = 256, in 1..=65_536;

    /// Subscriptions open at once, over the whole node. Each costs a few KiB and up to two frames
    /// in flight.
    subscriptions_max: usize = 100_000, in 1..=10_000_000;

    /// Subscriptions open at once on one connection. Lower: consumers of many partitions are
    /// refused; higher: one connection can take all of `subscriptions_max`.
    subscriptions_per_connection_max: usize = 8192, in 1..=1_000_000;

    /// Payload of one pushed or fetched frame where the client does not ask for less. Smaller:
    /// more frames and more CPU per byte; larger: more memory per subscription and longer turns.
    delivery_bytes: ByteSize = ByteSize(MIB), in 4 * KIB..=64 * MIB;

    /// Topics of the node. Lower: creating more is refused; higher: a larger catalog to keep in
    /// memory and to write at checkpoints, about 200 bytes per topic.
    topics_max: usize = 100_000, in 1..=100_000;

    /// Partitions of one topic. Each costs a few hundred bytes when idle, two files when it has
    /// records.
    partitions_per_topic_max: u32 = 100_000, in 1..=100_000;

    ["Storage"]

    /// Size of one journal file; two at least are preallocated. Smaller: files change more often;
    /// larger: more disk, and a longer first start.
    journal_file_bytes: ByteSize = ByteSize(64 * MIB), in MIB..=4 * GIB;

    /// Journal files together. When it is full, appends wait for a checkpoint. Smaller: such waits
    /// at bursts; larger: more disk, and a longer replay after a crash.
    journal_bytes_max: ByteSize = ByteSize(512 * MIB), in 4 * MIB..=64 * GIB;

    /// A checkpoint is made after this many journaled bytes. Smaller: more syncing; larger: a
    /// longer replay after a crash.
    checkpoint_bytes: ByteSize = ByteSize(128 * MIB), in MIB..=32 * GIB;

    /// A checkpoint is made after this time when anything was journaled. As above.
    checkpoint_interval: Duration = Duration::from_secs(5), in 100..=HOUR;

    /// Appended bytes that wait to be written to segments; above it appends wait. Smaller: bursts
    /// wait; larger: more memory.
    unwritten_bytes_max: ByteSize = ByteSize(256 * MIB), in 4 * MIB..=64 * GIB;

    /// Distance of entries in a segment's index. Smaller: larger indexes; larger: more reading per
    /// seek by offset or time.
    index_interval_bytes: ByteSize = ByteSize(64 * KIB), in 4 * KIB..=16 * MIB;

    /// Segments held open (a file handle and a map each). Fewer: many active partitions open and
    /// close all the time; more: address space and handles.
    open_segments_max: usize = 4096, in 16..=1_000_000;

    /// Free space below which produce is refused (`LowDiskSpace`) while consuming, deleting and
    /// retention go on. Smaller: nothing is left for other writers of the disk; larger: space that
    /// is never used.
    free_bytes_min: ByteSize = ByteSize(256 * MIB), in MIB..=1024 * GIB;

    ["Housekeeping"]

    /// A partition without traffic for this time is put to sleep: its Raft instance is dropped
    /// until the next request. Shorter: partitions with rare traffic wake (about a millisecond) more
    /// often; longer: idle partitions hold memory.
    sleep_after: Duration = Duration::from_secs(30), in 100..=DAY;

    /// How often retention looks for old segments. Shorter: more work; longer: old data stays
    /// longer.
    retention_interval: Duration = Duration::from_secs(30), in 100..=DAY;

    /// How much compaction of topics with `cleanup=compact` reads and writes in a second. Smaller: such topics
    /// take more disk while much is written to them; larger: less of the disk is left for others meanwhile.
    compaction_bytes_per_s: ByteSize = ByteSize(64 * MIB), in MIB..=1024 * GIB;

    /// How long a graceful shutdown waits for requests that are being worked on. Shorter: producers
    /// see unknown outcomes and repeat; longer: a stuck client holds up the end.
    shutdown_timeout: Duration = Duration::from_secs(10), in 0..=10 * MINUTE;
}
