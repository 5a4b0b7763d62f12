//! How often an address may guess: so many failures a minute, then every login from there is refused
//! unseen until the minute is over. An IPv6 network of 64 bits counts as one address.
//!
//! Invariants: at most [`ADDRESSES_MAX`] addresses are remembered, the newest where there are more; who
//! never fails is never refused. Time is an argument.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// Addresses that are remembered.
const ADDRESSES_MAX: usize = 10_000;
/// How long failures count.
const WINDOW: Duration = Duration::from_secs(60);

/// The failures of each address since its window began.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    of: HashMap<IpAddr, (Duration, u32)>,
}

/// What counts as one address.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(network))
        }
        address => address,
    }
}

impl Failures {
    /// Whether the address may try at `now`; `most` failures are forgiven, 0: any number.
    pub(crate) fn may_try(&self, address: IpAddr, most: u32, now: Duration) -> bool {
        let Some((began, count)) = self.of.get(&source(address)) else { return true };
        most == 0 || *count < most || now >= *began + WINDOW
    }

    /// A login from there has failed.
    pub(crate) fn failed(&mut self, address: IpAddr, now: Duration) {
        let address = source(address);
        if self.of.len() >= ADDRESSES_MAX && !self.of.contains_key(&address) {
            self.of.retain(|_, (began, _)| now < *began + WINDOW);
            if self.of.len() >= ADDRESSES_MAX {
                // Whoever has so many addresses is not stopped by this.
                self.of.clear();
            }
        }
        let (began, count) = self.of.entry(address).or_insert((now, 0));
        if now >= *began + WINDOW {
            (*began, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn address_waits_for_the_end_of_its_minute() {
        let (one, other): (IpAddr, IpAddr) =
            ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let mut failures = Failures::default();
        for second in 0..3 {
            assert!(failures.may_try(one, 3, s(second)));
            failures.failed(one, s(second));
        }
        assert!(!failures.may_try(one, 3, s(59)) && failures.may_try(other, 3, s(59)));
        assert!(failures.may_try(one, 0, s(59)), "0 is no limit");
        assert!(failures.may_try(one, 3, s(60)));
        failures.failed(one, s(60));
        assert!(failures.may_try(one, 3, s(61)), "its count begins anew");
    }

    #[test]
    fn network_counts_as_one_and_memory_is_bounded() {
        let mut failures = Failures::default();
        failures.failed("2001:db8::1".parse().unwrap(), s(0));
        assert!(!failures.may_try("2001:db8::2".parse().unwrap(), 1, s(0)));
        assert!(failures.may_try("2001:db8:0:1::1".parse().unwrap(), 1, s(0)));
        for number in 0..3 * ADDRESSES_MAX as u32 {
            failures.failed(IpAddr::V4(number.into()), s(0));
            assert!(failures.of.len() <= ADDRESSES_MAX);
        }
    }
}
