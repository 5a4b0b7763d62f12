//! Places for connections and subscriptions: counted when taken, given back when dropped.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// How many connections may be open, in total and per address.
#[derive(Debug)]
pub(crate) struct ConnectionPlaces {
    total_max: usize,
    per_address_max: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// Why there is no place for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoPlace {
    /// The node is full.
    #[error("this node serves {limit} connections already; close some or raise `connections_max`")]
    Node {
        /// The limit.
        limit: usize,
    },
    /// This address has its share.
    #[error(
        "this node serves {limit} connections of your address already; share connections or raise \
         `connections_per_address_max`"
    )]
    Address {
        /// The limit.
        limit: usize,
    },
}

/// One connection's place; dropping it gives the place back.
#[derive(Debug)]
pub(crate) struct ConnectionPlace {
    places: Arc<ConnectionPlaces>,
    address: IpAddr,
}

impl ConnectionPlaces {
    /// Room for `total_max` connections, `per_address_max` of them from one address.
    pub(crate) fn new(total_max: usize, per_address_max: usize) -> Arc<Self> {
        Arc::new(Self { total_max, per_address_max, taken: Mutex::default() })
    }

    /// Takes a place.
    ///
    /// # Errors
    /// Where there is none.
    pub(crate) fn take(self: &Arc<Self>, address: IpAddr) -> Result<ConnectionPlace, NoPlace> {
        // ::ffff:10.0.0.1 and 10.0.0.1 are one host.
        let address = address.to_canonical();
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.total >= self.total_max {
            return Err(NoPlace::Node { limit: self.total_max });
        }
        let of_address = taken.by_address.entry(address).or_default();
        if *of_address >= self.per_address_max {
            return Err(NoPlace::Address { limit: self.per_address_max });
        }
        *of_address += 1;
        taken.total += 1;
        Ok(ConnectionPlace { places: Arc::clone(self), address })
    }

    /// Whether an address has half of its share or more.
    pub(crate) fn is_crowded(&self, address: IpAddr) -> bool {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let of_address = taken.by_address.get(&address.to_canonical()).copied().unwrap_or(0);
        of_address > 0 && of_address >= self.per_address_max / 2
    }

    /// Places taken now.
    pub(crate) fn taken(&self) -> usize {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).total
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.total -= 1;
        if let Some(count) = taken.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                taken.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_total_and_per_address_and_given_back() {
        let places = ConnectionPlaces::new(3, 2);
        let [here, there]: [IpAddr; 2] = ["10.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        let first = places.take(here).unwrap();
        let _second = places.take(mapped).unwrap();
        assert_eq!(places.take(here).unwrap_err(), NoPlace::Address { limit: 2 });
        let _third = places.take(there).unwrap();
        assert_eq!(places.take(there).unwrap_err(), NoPlace::Node { limit: 3 });
        assert!(places.is_crowded(mapped) && places.is_crowded(there), "half of two is one");
        assert!(!places.is_crowded("10.0.0.2".parse().unwrap()));
        drop(first);
        assert_eq!(places.taken(), 2);
        assert!(places.take(here).is_ok());
        assert_eq!(places.taken.lock().unwrap().by_address.len(), 2);
    }
}
