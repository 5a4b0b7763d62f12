//! When the lease of a session ends, as its client counts: from before it sent what was answered, less a
//! margin. So the client's view ends first, whatever the network did, while both clocks run equally fast
//! within a hundredth.
//!
//! ```text
//!  client   sent ├────────── lease - margin ──────┤ holds nothing any more
//!  node         ····came ├──────────────── lease ───────────────┤ may give the locks to others
//! ```
//! What has ended stays ended: an answer that comes later renews nothing.

use std::time::Duration;

use super::clock::LeaseTime;
use super::error::LossCause;

/// The part of the margin that does not depend on the lease: clocks of coarse ticks, and the time from a look
/// at the clock to the act.
const MARGIN: Duration = Duration::from_millis(50);

/// What the client takes off a lease: a hundredth of it, for clocks of unequal rates, and 50 ms.
pub(super) fn margin(lease: Duration) -> Duration {
    lease / 100 + MARGIN
}

/// The lease of one session. See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lease {
    ends: LeaseTime,
    over: Option<LossCause>,
}

impl Lease {
    /// Of a session that an answer says to live for `lease`, whose request was sent at `sent`, or later.
    pub(super) fn begin(sent: LeaseTime, lease: Duration) -> Self {
        Self { ends: sent.plus(lease.saturating_sub(margin(lease))), over: None }
    }

    /// Why it is over, as was found before.
    pub(super) fn over(&self) -> Option<LossCause> {
        self.over
    }

    /// When it ends if it is not renewed.
    pub(super) fn ends(&self) -> LeaseTime {
        self.ends
    }

    /// Whether it is over at `now`.
    pub(super) fn is_over(&self, now: LeaseTime) -> bool {
        self.over.is_some() || now >= self.ends
    }

    /// Looks at the clock. Whether it is found to be over for the first time.
    pub(super) fn look(&mut self, now: LeaseTime) -> bool {
        now >= self.ends && self.end(LossCause::LeaseRanOut)
    }

    /// An answer that came at `now` to what was sent at `sent` says that the session lives for `lease`.
    /// Whether it is found to be over for the first time.
    pub(super) fn renew(&mut self, sent: LeaseTime, lease: Duration, now: LeaseTime) -> bool {
        if self.look(now) {
            return true;
        }
        if self.over.is_none() {
            self.ends = self.ends.max(Self::begin(sent, lease).ends);
        }
        false
    }

    /// It is over. Whether it was not before.
    pub(super) fn end(&mut self, why: LossCause) -> bool {
        let is_first = self.over.is_none();
        self.over.get_or_insert(why);
        is_first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN: Duration = Duration::from_secs(10);

    fn ms(ms: u64) -> LeaseTime {
        LeaseTime(Duration::from_millis(ms))
    }

    #[test]
    fn the_margin_is_a_hundredth_and_fifty_ms() {
        assert_eq!(margin(TEN), Duration::from_millis(150));
        assert_eq!(Lease::begin(ms(7), TEN).ends(), ms(9_857));
        assert_eq!(Lease::begin(ms(0), Duration::from_secs(1)).ends(), ms(940));
    }

    #[test]
    fn a_clock_that_is_slow_by_a_hundredth_stops_before_the_node_does() {
        for lease_ms in [1_000, 1_001, 12_345, 600_000] {
            let believed = Lease::begin(ms(0), Duration::from_millis(lease_ms)).ends().0;
            assert!(believed * 1_010 / 1_000 < Duration::from_millis(lease_ms), "{lease_ms}");
        }
    }

    #[test]
    fn a_lease_ends_by_itself_and_says_so_once() {
        let mut lease = Lease::begin(ms(0), TEN);
        assert!(!lease.look(ms(9_849)) && !lease.is_over(ms(9_849)));
        assert!(lease.is_over(ms(9_850)));
        assert!(lease.look(ms(9_850)));
        assert!(!lease.look(ms(9_851)));
        assert_eq!(lease.over(), Some(LossCause::LeaseRanOut));
    }

    #[test]
    fn renewals_count_from_when_they_were_sent() {
        let mut lease = Lease::begin(ms(0), TEN);
        assert!(!lease.renew(ms(3_000), TEN, ms(9_000)));
        assert_eq!(lease.ends(), ms(12_850));
        // The answer to an earlier one comes late.
        assert!(!lease.renew(ms(1_000), TEN, ms(9_100)));
        assert_eq!(lease.ends(), ms(12_850));
    }

    /// The client was stopped: the answer lies there, and the lease that it renews is over.
    #[test]
    fn what_has_ended_is_not_renewed() {
        let mut lease = Lease::begin(ms(0), TEN);
        assert!(lease.renew(ms(3_000), TEN, ms(20_000)));
        assert!(!lease.renew(ms(20_001), TEN, ms(20_002)));
        assert!(lease.is_over(ms(20_002)));

        let mut lease = Lease::begin(ms(0), TEN);
        assert!(lease.end(LossCause::SessionGone));
        assert!(!lease.end(LossCause::LeaseRanOut));
        assert!(!lease.renew(ms(1), TEN, ms(2)));
        assert_eq!(lease.over(), Some(LossCause::SessionGone));
        assert!(lease.is_over(ms(3)));
    }

    #[test]
    fn an_answer_that_is_older_than_its_lease_renews_nothing() {
        let mut lease = Lease::begin(ms(0), Duration::from_secs(600));
        assert!(!lease.renew(ms(0), Duration::from_secs(1), ms(5_000)));
        assert_eq!(lease.ends(), Lease::begin(ms(0), Duration::from_secs(600)).ends());
    }
}
