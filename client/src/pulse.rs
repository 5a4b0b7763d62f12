//! Whether a node is alive, by what comes from it: every frame of a link counts, and a link that owes
//! something and is silent is asked for a sign of life before it is given up.
//!
//! What keeps false alarms rare on a machine that is busy with both ends:
//! - Silence is measured from the later of the last frame and the moment something was owed.
//! - A watcher that itself was late to look has stood still, and so has everything that would have
//!   read: it begins anew.
//! - A sign of life is asked for twice, on the control stream and by a connection of its own: on TCP
//!   the first may stand behind requests that the node holds back, and on QUIC behind records that this
//!   side does not read.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::config::Suspicion;

/// A timer that fires later than this by so much says that this process stood still.
const STALL: Duration = Duration::from_millis(100);
/// A link that is alive by its second connection and silent all the same is asked less and less often:
/// its silence is of this side's making.
const DOUBTS_MAX: u32 = 5;

/// What is awaited of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owed {
    /// An answer, as soon as the node has it.
    Answer,
    /// News, whenever there are any.
    News,
}

/// The signs of life of one link. See the module.
#[derive(Debug)]
pub(crate) struct Pulse {
    began: Instant,
    /// Microseconds from `began` to the last frame.
    heard_us: AtomicU64,
    owed: Mutex<Debts>,
    /// Something is owed where nothing was, or the link has ended.
    changed: Notify,
    ended: AtomicBool,
}

#[derive(Debug, Default)]
struct Debts {
    answers: Debt,
    news: Debt,
    doubts: u32,
}

#[derive(Debug, Default)]
struct Debt {
    count: usize,
    since: Option<Instant>,
}

/// Something that a link owes, until it is dropped.
#[derive(Debug)]
pub(crate) struct Owing {
    pulse: Arc<Pulse>,
    what: Owed,
}

impl Drop for Owing {
    fn drop(&mut self) {
        let mut debts = self.pulse.debts();
        let debt = debts.of(self.what);
        debt.count -= 1;
        if debt.count == 0 {
            debt.since = None;
        }
    }
}

impl Debts {
    fn of(&mut self, what: Owed) -> &mut Debt {
        match what {
            Owed::Answer => &mut self.answers,
            Owed::News => &mut self.news,
        }
    }
}

impl Pulse {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            heard_us: AtomicU64::new(0),
            owed: Mutex::default(),
            changed: Notify::new(),
            ended: AtomicBool::new(false),
        })
    }

    fn debts(&self) -> MutexGuard<'_, Debts> {
        self.owed.lock().expect("no code panics while it holds this lock")
    }

    /// A frame came.
    pub(crate) fn heard(&self) {
        let us = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.heard_us.store(us, Ordering::Relaxed);
    }

    /// When the last frame came; when the link was made, before the first.
    pub(crate) fn heard_at(&self) -> Instant {
        self.began + Duration::from_micros(self.heard_us.load(Ordering::Relaxed))
    }

    /// The link owes something from now on.
    pub(crate) fn owes(self: &Arc<Self>, what: Owed) -> Owing {
        let mut debts = self.debts();
        let debt = debts.of(what);
        debt.count += 1;
        let first = debt.count == 1;
        if first {
            debt.since = Some(Instant::now());
        }
        drop(debts);
        if first {
            self.changed.notify_one();
        }
        Owing { pulse: Arc::clone(self), what }
    }

    /// The link has ended: its watcher goes.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// When the link is to be asked for a sign of life if it stays silent; `None` while it owes nothing.
    fn due(&self, suspicion: &Suspicion) -> Option<Instant> {
        let heard = self.heard_at();
        let debts = self.debts();
        let due = |debt: &Debt, after: Duration| {
            Some(debt.since?.max(heard) + after * (1 << debts.doubts))
        };
        let answers = due(&debts.answers, suspicion.ask_after);
        let news = due(&debts.news, suspicion.ask_idle_after);
        answers.into_iter().chain(news).min()
    }

    fn doubt(&self) {
        let mut debts = self.debts();
        debts.doubts = (debts.doubts + 1).min(DOUBTS_MAX);
    }

    fn trust(&self) {
        self.debts().doubts = 0;
    }
}

/// How a silent link is looked at and given up.
pub(crate) trait Patient: Send + Sync {
    /// Whether there is anybody else to turn to.
    fn has_choice(&self) -> bool;
    /// How long a sign of life may take.
    fn patience(&self) -> Duration;
    /// How long the ping has before the second connection is tried.
    fn probe_after(&self) -> Duration;
    /// Asks on the control stream. Resolves when it was answered, never when it fails.
    fn ping(&self) -> BoxFuture<'static, ()>;
    /// Asks by a connection of its own. `false`: the node is certainly not there any more; resolves
    /// never when that is unknown.
    fn probe(&self) -> BoxFuture<'static, bool>;
    /// Gives the link up.
    fn give_up(&self, silent_for: Duration);
}

/// Watches one link to its end. It does not keep the link.
pub(crate) async fn watch<P: Patient>(pulse: Arc<Pulse>, link: Weak<P>, suspicion: Suspicion) {
    while !pulse.has_ended() {
        let Some(due) = pulse.due(&suspicion) else {
            pulse.changed.notified().await;
            continue;
        };
        if Instant::now() < due {
            tokio::select! {
                biased;
                () = pulse.changed.notified() => {}
                () = sleep_until(due) => {
                    if due.elapsed() > STALL {
                        pulse.heard();
                    }
                }
            }
            continue;
        }
        let Some(patient) = link.upgrade() else { return };
        if !patient.has_choice() {
            pulse.heard();
            continue;
        }
        match ask(&pulse, patient.as_ref()).await {
            Sign::Heard => {
                pulse.trust();
                pulse.heard();
            }
            Sign::Elsewhere => {
                pulse.doubt();
                pulse.heard();
            }
            Sign::StoodStill => pulse.heard(),
            Sign::None => {
                patient.give_up(pulse.heard_at().elapsed());
                return;
            }
        }
    }
}

/// What came of asking for a sign of life.
enum Sign {
    /// A frame came on the link.
    Heard,
    /// The node answers on another connection.
    Elsewhere,
    /// This process stood still: nothing is known.
    StoodStill,
    /// Silence, or the node is gone.
    None,
}

async fn ask(pulse: &Pulse, patient: &impl Patient) -> Sign {
    let asked = Instant::now();
    let (until, probe_at) = (asked + patient.patience(), asked + patient.probe_after());
    let mut pinging = patient.ping();
    let mut probing = {
        let probe = patient.probe();
        Box::pin(async move {
            sleep_until(probe_at).await;
            probe.await
        })
    };
    let sign = tokio::select! {
        biased;
        () = &mut pinging => return Sign::Heard,
        alive = &mut probing => if alive { Sign::Elsewhere } else { Sign::None },
        () = sleep_until(until) => {
            if until.elapsed() > STALL { Sign::StoodStill } else { Sign::None }
        }
    };
    if pulse.heard_at() > asked { Sign::Heard } else { sign }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// A node that answers after its delays; `None`: never.
    struct Node {
        alone: bool,
        ping: Option<Duration>,
        probe: Option<(Duration, bool)>,
        asked: AtomicUsize,
        given_up: Mutex<Option<Instant>>,
    }

    impl Node {
        fn new(ping: Option<u64>, probe: Option<(u64, bool)>) -> Arc<Self> {
            Arc::new(Self {
                alone: false,
                ping: ping.map(Duration::from_millis),
                probe: probe.map(|(ms, alive)| (Duration::from_millis(ms), alive)),
                asked: AtomicUsize::new(0),
                given_up: Mutex::new(None),
            })
        }

        fn given_up(&self) -> Option<Instant> {
            *self.given_up.lock().unwrap()
        }
    }

    impl Patient for Node {
        fn has_choice(&self) -> bool {
            !self.alone
        }
        fn patience(&self) -> Duration {
            Duration::from_millis(250)
        }
        fn probe_after(&self) -> Duration {
            Duration::from_millis(125)
        }
        fn ping(&self) -> BoxFuture<'static, ()> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let after = self.ping;
            async move {
                match after {
                    Some(after) => tokio::time::sleep(after).await,
                    None => std::future::pending().await,
                }
            }
            .boxed()
        }
        fn probe(&self) -> BoxFuture<'static, bool> {
            let outcome = self.probe;
            async move {
                let Some((after, alive)) = outcome else { std::future::pending().await };
                tokio::time::sleep(after).await;
                alive
            }
            .boxed()
        }
        fn give_up(&self, _silent_for: Duration) {
            *self.given_up.lock().unwrap() = Some(Instant::now());
        }
    }

    fn watched(node: &Arc<Node>) -> (Arc<Pulse>, tokio::task::JoinHandle<()>) {
        let pulse = Pulse::new();
        let link = Arc::downgrade(node);
        let watching = tokio::spawn(watch(Arc::clone(&pulse), link, Suspicion::default()));
        (pulse, watching)
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_link_that_owes_an_answer_is_given_up_after_both_periods() {
        let node = Node::new(None, None);
        let (pulse, watching) = watched(&node);
        let began = Instant::now();
        let _owing = pulse.owes(Owed::Answer);
        watching.await.unwrap();
        assert_eq!(node.given_up().unwrap() - began, Duration::from_millis(500));
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_that_only_listens_is_asked_later() {
        let node = Node::new(None, None);
        let (pulse, watching) = watched(&node);
        let began = Instant::now();
        let _owing = pulse.owes(Owed::News);
        watching.await.unwrap();
        assert_eq!(node.given_up().unwrap() - began, Duration::from_millis(750));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_is_gone_is_given_up_as_soon_as_that_is_certain() {
        let node = Node::new(None, Some((0, false)));
        let (pulse, watching) = watched(&node);
        let began = Instant::now();
        let _owing = pulse.owes(Owed::Answer);
        watching.await.unwrap();
        assert_eq!(node.given_up().unwrap() - began, Duration::from_millis(375));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_answers_pings_keeps_its_link_however_long_an_answer_takes() {
        let node = Node::new(Some(1), None);
        let (pulse, _watching) = watched(&node);
        let _owing = pulse.owes(Owed::Answer);
        let hearing = Arc::clone(&pulse);
        let hear = async {
            for _ in 0..100 {
                tokio::time::sleep(Duration::from_millis(251)).await;
                hearing.heard();
            }
        };
        hear.await;
        assert_eq!(node.given_up(), None);
        assert!(node.asked.load(Ordering::Relaxed) >= 90);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_answers_elsewhere_keeps_its_link_and_is_asked_less_often() {
        let node = Node::new(None, Some((1, true)));
        let (pulse, _watching) = watched(&node);
        let _owing = pulse.owes(Owed::Answer);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(node.given_up(), None);
        assert!(node.asked.load(Ordering::Relaxed) < 15, "{:?}", node.asked);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_asked_of_a_link_that_owes_nothing_or_of_the_only_node() {
        let node = Node::new(None, None);
        let (pulse, watching) = watched(&node);
        drop(pulse.owes(Owed::Answer));
        tokio::time::sleep(Duration::from_secs(10)).await;
        pulse.end();
        watching.await.unwrap();
        let mut alone = Arc::into_inner(Node::new(None, None)).unwrap();
        alone.alone = true;
        let alone = Arc::new(alone);
        let (pulse, _watching) = watched(&alone);
        let _owing = pulse.owes(Owed::Answer);
        tokio::time::sleep(Duration::from_secs(10)).await;
        for node in [node, alone] {
            assert_eq!(node.asked.load(Ordering::Relaxed), 0);
            assert_eq!(node.given_up(), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_stood_still_accuses_nobody() {
        let node = Node::new(None, None);
        let (pulse, watching) = watched(&node);
        let _owing = pulse.owes(Owed::Answer);
        let began = Instant::now();
        tokio::task::yield_now().await;
        // Both timers are long over when they are looked at.
        tokio::time::advance(Duration::from_millis(600)).await;
        tokio::task::yield_now().await;
        assert_eq!(node.given_up(), None);
        watching.await.unwrap();
        assert_eq!(node.given_up().unwrap() - began, Duration::from_millis(1100));
    }
}
