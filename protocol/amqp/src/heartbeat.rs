//! Signs of life: when to send one, and when the peer is dead. Time is an argument, counted from any
//! moment, never going back.
//!
//! Invariants: while nothing else is sent, a heartbeat leaves every half interval; a peer is dead
//! after two intervals without a byte of it. Any byte counts, not only heartbeats.
//!
//! Source: AMQP 0-9-1, 4.2.7; RabbitMQ, "Detecting Dead TCP Connections with Heartbeats".

use std::time::Duration;

/// The timers of one connection.
#[derive(Debug, Clone, Copy)]
pub struct Heartbeat {
    /// None: neither sent nor expected.
    interval: Option<Duration>,
    sent: Duration,
    received: Duration,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// A heartbeat is to be sent.
    Send,
    /// The peer is dead.
    Dead,
}

impl Heartbeat {
    /// No heartbeats.
    pub const OFF: Self = Self { interval: None, sent: Duration::ZERO, received: Duration::ZERO };

    /// Begins with the interval that was agreed on; 0 seconds: none.
    #[must_use]
    pub fn new(interval_s: u16, now: Duration) -> Self {
        let interval = (interval_s > 0).then(|| Duration::from_secs(interval_s.into()));
        Self { interval, sent: now, received: now }
    }

    /// Something was sent.
    pub fn sent(&mut self, now: Duration) {
        self.sent = self.sent.max(now);
    }

    /// Something has come, or nothing could because it was not read.
    pub fn received(&mut self, now: Duration) {
        self.received = self.received.max(now);
    }

    /// What is due at `now`.
    #[must_use]
    pub fn due(&self, now: Duration) -> Due {
        match self.interval {
            Some(interval) if now >= self.received + 2 * interval => Due::Dead,
            Some(interval) if now >= self.sent + interval / 2 => Due::Send,
            _ => Due::Nothing,
        }
    }

    /// When something is due next, if nothing is sent or comes.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let interval = self.interval?;
        Some((self.sent + interval / 2).min(self.received + 2 * interval))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn sent_every_half_interval_and_dead_after_two() {
        let mut heartbeat = Heartbeat::new(10, s(100));
        assert_eq!(heartbeat.deadline(), Some(s(105)));
        assert_eq!(heartbeat.due(s(104)), Due::Nothing);
        assert_eq!(heartbeat.due(s(105)), Due::Send);
        heartbeat.sent(s(119));
        assert_eq!(heartbeat.deadline(), Some(s(120)));
        assert_eq!(heartbeat.due(s(120)), Due::Dead);
        heartbeat.received(s(119));
        assert_eq!(heartbeat.due(s(138)), Due::Send);
        assert_eq!(heartbeat.due(s(139)), Due::Dead);
    }

    #[test]
    fn interval_of_zero_is_none() {
        let heartbeat = Heartbeat::new(0, s(0));
        assert_eq!((heartbeat.due(s(1 << 40)), heartbeat.deadline()), (Due::Nothing, None));
    }
}
