//! What must hold in every history, told in the simplest way: a table of all messages.

use std::collections::BTreeMap;

use plimsoll_delivery::command::{QueueCommand, QueueEntry, Reason};
use plimsoll_delivery::config::{Counting, Mode, Overflow, QueueConfig};
use plimsoll_delivery::dispatch::{
    ConsumerId, DeadLetterOrder, Delivery, Explanation, Limits, Message, Outcome,
};
use plimsoll_delivery::state::QueueState;
use plimsoll_delivery::time::{Monotonic, Now};
use plimsoll_protocol::ids::Offset;

struct Line {
    message: Message,
    level: u8,
    /// With whom, in which attempt and how long, as this leader said.
    held: Option<Delivery>,
    /// The highest attempt that any leader, and that this leader, delivered.
    attempts: u32,
    attempts_here: u32,
    /// This leader has decided its end, or its wait.
    decided: bool,
    /// It was released with a wait, or was made to wait.
    waited: bool,
    /// The attempt whose release with a wait is not written yet: when it is, the fold tells.
    being_released: Option<u32>,
    /// This leader was told to purge what nobody held.
    purging: bool,
    /// A committed entry accepted it, or ended it otherwise.
    accepted: bool,
    ended: Option<Reason>,
}

impl Line {
    /// An order from outside ends it, if it has not ended before.
    fn ends(&mut self, reason: Reason) {
        if !self.accepted {
            self.ended.get_or_insert(reason);
        }
    }
}

pub(crate) struct Checks {
    config: QueueConfig,
    lines: Vec<Line>,
}

impl Checks {
    pub(crate) fn new(config: QueueConfig) -> Self {
        Self { config, lines: Vec::new() }
    }

    fn line(&mut self, offset: Offset) -> &mut Line {
        &mut self.lines[offset.0 as usize]
    }

    pub(crate) fn appended(&mut self, message: Message) {
        self.lines.push(Line {
            message,
            level: message.priority.min(self.config.levels - 1),
            held: None,
            attempts: 0,
            attempts_here: 0,
            decided: false,
            waited: message.deliver_at.is_some(),
            being_released: None,
            purging: false,
            accepted: false,
            ended: None,
        });
    }

    pub(crate) fn delivered(
        &mut self,
        delivery: &Delivery,
        state: &QueueState,
        now: Now,
        limits: Limits,
    ) {
        let Delivery { offset, attempt, .. } = *delivery;
        assert!(state.is_unsettled(offset), "{offset} is settled and was delivered");
        assert!(state.mark(offset).buried.is_none(), "{offset} is a dead letter");
        let before = self.config.counting == Counting::Before;
        let (max, recorded) = (self.config.attempts_max, state.mark(offset).attempts);
        let keyed = self.config.mode == Mode::KeyShared;
        let line = self.line(offset);
        assert!(!line.decided, "the end of {offset} was decided");
        assert!(!line.accepted && line.ended.is_none());
        if let Some(held) = line.held {
            assert!(held.until <= now.monotonic, "{offset} is in two deliveries at once");
        }
        if before {
            assert!(attempt > line.attempts, "attempt {attempt} of {offset} was delivered before");
            assert!(recorded >= attempt, "attempt {attempt} of {offset} is not written");
        } else {
            assert!(attempt <= line.attempts + 1, "{offset}: an attempt was left out");
            assert!(attempt > line.attempts_here && attempt >= recorded);
        }
        assert!(max == 0 || attempt <= max, "{offset} was delivered more than {max} times");
        assert!(line.message.expires_at.is_none_or(|end| end > now.unix || before));
        if line.attempts_here == 0 && recorded == 0 {
            assert!(line.message.deliver_at.is_none_or(|due| due <= now.unix), "{offset} is early");
        }
        if let Some(due) = state.mark(offset).delayed_until {
            assert!(due <= now.unix, "{offset} waits until {due:?}");
        }
        line.held = Some(*delivery);
        line.attempts = line.attempts.max(attempt);
        line.attempts_here = attempt;
        if keyed {
            self.check_key(offset, state, now);
        } else if !before && self.config.overflow == Overflow::Reject {
            self.check_order(offset, state, now, limits);
        }
    }

    /// All messages of its key before it are over, but for those that were scheduled for later.
    fn check_key(&self, offset: Offset, state: &QueueState, now: Now) {
        let message = &self.lines[offset.0 as usize].message;
        let Some(key) = message.key else { return };
        for other in &self.lines[..offset.0 as usize] {
            let earlier = other.message.offset;
            let same = other.message.key == Some(key) && other.message.deliver_at.is_none();
            if same && message.deliver_at.is_none() {
                let over = other.purging && other.held.is_none()
                    || !state.is_unsettled(earlier)
                    || state.mark(earlier).buried.is_some();
                assert!(over, "{offset} overtook {earlier} of the same key");
            }
        }
        let is_held = |line: &&Line| line.held.is_some_and(|held| held.until > now.monotonic);
        let held = self.lines.iter().filter(is_held);
        let held = held.filter(|line| line.message.key == Some(key)).count();
        assert!(held <= 1, "{held} messages of one key are held");
    }

    /// Nothing that is ready goes before it: of a higher level, or of its level with a lower offset. The
    /// latter holds as long as there is room to load what becomes ready at the wrong moment.
    fn check_order(&self, offset: Offset, state: &QueueState, now: Now, limits: Limits) {
        let level = self.lines[offset.0 as usize].level;
        for other in &self.lines {
            let mark = state.mark(other.message.offset);
            let ready = state.is_unsettled(other.message.offset)
                && !other.decided
                && other.being_released.is_none()
                && !other.purging
                && other.held.is_none()
                && mark.buried.is_none()
                && (self.config.attempts_max == 0 || mark.attempts < self.config.attempts_max)
                && mark.delayed_until.is_none_or(|due| due <= now.unix)
                && other.message.deliver_at.is_none_or(|due| due <= now.unix)
                && other.message.expires_at.is_none_or(|end| end > now.unix);
            let sooner = other.level > level
                || other.level == level
                    && other.message.offset < offset
                    && !other.waited
                    && limits.window > 4;
            let first = &other.message.offset;
            assert!(!(ready && sooner), "{offset} overtook {first} ({} loaded)", limits.window);
        }
    }

    pub(crate) fn extended(&mut self, offset: Offset, until: Monotonic) {
        let line = self.line(offset);
        line.held.as_mut().expect("it is held").until = until;
    }

    pub(crate) fn settled(&mut self, delivery: &Delivery, outcome: Outcome) {
        let backoff = self.config.backoff_ms(delivery.attempt);
        let exhausted =
            self.config.attempts_max > 0 && delivery.attempt >= self.config.attempts_max;
        let line = self.line(delivery.offset);
        let held = line.held.take().expect("only what is held can be settled");
        assert_eq!((held.consumer, held.attempt), (delivery.consumer, delivery.attempt));
        let ready = match outcome {
            Outcome::Release { delay_ms } => delay_ms.unwrap_or(backoff) == 0 && !exhausted,
            Outcome::Accept | Outcome::Reject => false,
        };
        line.waited |= !ready;
        line.being_released = (!ready).then_some(delivery.attempt);
        line.decided = !ready && (exhausted || !matches!(outcome, Outcome::Release { .. }));
    }

    pub(crate) fn is_over(&mut self, delivery: &Delivery, now: Monotonic) -> bool {
        delivery.until <= now || self.line(delivery.offset).held.as_ref() != Some(delivery)
    }

    /// What a consumer held is ready at once; what its lease ended of may wait, and stays noted.
    pub(crate) fn let_go_all_of(&mut self, consumer: ConsumerId, now: Monotonic) {
        let max = self.config.attempts_max;
        for line in &mut self.lines {
            let held = line.held.take_if(|held| held.consumer == consumer && held.until > now);
            line.decided |= held.is_some_and(|held| max > 0 && held.attempt >= max);
        }
    }

    pub(crate) fn decided(&mut self, offset: Offset) {
        self.line(offset).decided = true;
    }

    pub(crate) fn purged(&mut self, upto: Offset) {
        for line in &mut self.lines[..upto.0 as usize] {
            // What consumers hold stays; the rest is as good as gone for this leader.
            (line.waited, line.purging) = (true, true);
        }
    }

    pub(crate) fn committed(&mut self, entry: &QueueEntry) {
        for command in &entry.commands {
            match command {
                QueueCommand::Release { items } => {
                    for item in items {
                        self.line(item.offset)
                            .being_released
                            .take_if(|attempt| *attempt <= item.attempt);
                    }
                }
                QueueCommand::Settle { runs } => {
                    for offset in runs.iter().flat_map(|run| run.offsets()) {
                        self.line(offset).accepted = true;
                    }
                }
                QueueCommand::Drop { reason, runs } => {
                    for offset in runs.iter().flat_map(|run| run.offsets()) {
                        self.line(offset).ended = Some(*reason);
                    }
                }
                QueueCommand::DeadLetter { items } => {
                    for (item, offset) in
                        items.iter().flat_map(|item| item.run.offsets().map(move |o| (item, o)))
                    {
                        self.line(offset).ended = Some(item.reason);
                    }
                }
                QueueCommand::Cancel { offset } => {
                    self.line(*offset).ends(Reason::Cancelled);
                }
                QueueCommand::Purge { upto, held } => {
                    let stays: Vec<_> = held.iter().flat_map(|run| run.offsets()).collect();
                    for offset in (0..upto.0).map(Offset).filter(|offset| !stays.contains(offset)) {
                        self.line(offset).ends(Reason::Purged);
                    }
                }
                _ => {}
            }
        }
    }

    pub(crate) fn ordered(&mut self, order: &DeadLetterOrder, state: &QueueState) {
        assert_eq!(state.mark(order.offset).buried, Some(order.reason));
        assert_eq!(self.line(order.offset).ended, Some(order.reason));
    }

    pub(crate) fn leader_changed(&mut self, state: &QueueState) {
        for line in &mut self.lines {
            (line.held, line.decided, line.attempts_here) = (None, false, 0);
            (line.purging, line.being_released) = (false, None);
            line.waited = line.message.deliver_at.is_some()
                || state.mark(line.message.offset).delayed_until.is_some();
        }
    }

    pub(crate) fn explained(&mut self, offset: Offset, said: &Explanation, state: &QueueState) {
        let known = offset < state.end();
        match said {
            Explanation::Unknown => assert!(!known),
            Explanation::Settled => assert!(self.line(offset).accepted),
            Explanation::Ended(end) => assert_eq!(self.line(offset).ended, Some(end.reason)),
            Explanation::DeadLettered { reason, .. } => {
                assert_eq!(state.mark(offset).buried, Some(*reason));
            }
            Explanation::Held { consumer, attempt, .. } => {
                // A granted delivery is held before it is polled.
                if let Some(held) = self.line(offset).held {
                    assert!(held.attempt < *attempt || held.consumer == *consumer);
                }
            }
            Explanation::BehindKey { of, .. } => {
                let key = self.line(offset).message.key;
                assert!(key.is_some() && self.line(*of).message.key == key && *of != offset);
            }
            Explanation::Waiting { ahead, .. } => {
                assert!(*ahead < self.lines.len() as u64 && state.is_unsettled(offset));
            }
            Explanation::Granting { .. }
            | Explanation::Ending
            | Explanation::Delayed { .. }
            | Explanation::Expired => assert!(state.is_unsettled(offset)),
        }
    }

    /// Everything has ended, each in a way that its history allows.
    pub(crate) fn finished(&self, copies: &BTreeMap<Offset, u32>, may_drop: bool) {
        for line in &self.lines {
            let offset = line.message.offset;
            let copied = copies.get(&offset).copied().unwrap_or(0);
            match line.ended {
                None => assert!(line.accepted && copied == 0, "{offset} is lost"),
                Some(Reason::Expired) => assert!(line.message.expires_at.is_some()),
                Some(Reason::AttemptsExhausted) => {
                    // Written before it is delivered, an attempt counts even if its leader died between.
                    let before = self.config.counting == Counting::Before;
                    assert!((line.attempts > 0 || before) && self.config.attempts_max > 0);
                }
                Some(Reason::LengthExceeded) => {
                    assert!(may_drop || self.config.length_max.is_some(), "{offset} was dropped");
                }
                Some(Reason::Rejected | Reason::Cancelled | Reason::Purged) => {}
                Some(Reason::Lost) => panic!("{offset} was in the log"),
            }
            if self.config.dead_letter.is_some() && line.accepted {
                assert!(line.ended.is_none() || copied > 0, "{offset} was not copied");
            }
        }
    }
}
