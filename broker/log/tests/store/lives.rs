//! Whose a directory is, and its lives: each opening is counted, and knows whether the power failed
//! before it.

use std::sync::Arc;

use plimsoll_log::disk::Disk;
use plimsoll_log::disk::sim::{CrashPlan, SimDisk};
use plimsoll_log::{Driver, Identity, OpenError, Store, StoreConfig};
use plimsoll_protocol::ids::NodeId;

use crate::support::*;

const GIVEN: Identity = Identity { cluster_id: [0xab; 16], node_id: NodeId(5) };

fn open_sim(disk: &SimDisk, identity: Option<Identity>) -> Result<Arc<Store>, OpenError> {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let on_fatal = Box::new(|error: &plimsoll_log::FatalError| panic!("fatal: {error}"));
    let config = StoreConfig { identity, ..small_config() };
    Store::open(shared, config, Driver::Manual, on_fatal)
}

#[test]
fn new_directory_becomes_the_given_nodes() {
    let disk = SimDisk::new(1);
    let store = open_sim(&disk, Some(GIVEN)).unwrap();
    assert_eq!(store.identity(), GIVEN);
    drop(store);
    assert_eq!(open_sim(&disk, Some(GIVEN)).unwrap().identity(), GIVEN);
    assert_eq!(open_sim(&disk, None).unwrap().identity(), GIVEN);
}

#[test]
fn directory_of_another_node_is_refused_with_both_names() {
    let disk = SimDisk::new(1);
    drop(open_sim(&disk, Some(GIVEN)).unwrap());
    let before = disk.kill_process();
    let other = Identity { node_id: NodeId(6), ..GIVEN };
    let error = open_sim(&disk, Some(other)).unwrap_err();
    assert!(matches!(error, OpenError::OtherIdentity { found: GIVEN, .. }));
    let text = error.to_string();
    assert!(text.contains("node 5 of cluster abab") && text.contains("as node 6"), "{text}");
    let journals = |disk: &SimDisk| {
        disk.files().into_iter().filter(|(path, _)| path.starts_with("journal")).count()
    };
    assert_eq!(journals(&disk), journals(&before), "nothing was changed");
}

#[test]
fn each_opening_is_counted_and_has_a_nonce_of_its_own() {
    let disk = SimDisk::new(1);
    let (mut last, mut nonces) = (0, Vec::new());
    for life in 0..6 {
        let store = open_sim(&disk, None).unwrap();
        assert!(store.incarnation() > last);
        last = store.incarnation();
        nonces.push(store.boot_nonce());
        if life % 2 == 0 {
            store.close();
        }
    }
    nonces.sort_unstable();
    nonces.dedup();
    assert_eq!(nonces.len(), 6);
    // What was counted is durable, also where nothing else was written.
    let crashed = disk.crash(&CrashPlan::NOTHING);
    assert!(open_sim(&crashed, None).unwrap().incarnation() > last);
}

#[test]
fn power_failure_is_told_from_a_killed_process() {
    let disk = SimDisk::new(1);
    let store = open_sim(&disk, None).unwrap();
    assert!(!store.was_power_loss_possible(), "a new directory has nothing to lose");
    store.create_group(GROUP, small_segments()).unwrap();
    while store.step() {}
    let killed = disk.kill_process();
    assert!(!open_sim(&killed, None).unwrap().was_power_loss_possible());

    let failed = disk.crash(&CrashPlan::EVERYTHING);
    let after = open_sim(&failed, None).unwrap();
    assert!(after.was_power_loss_possible());
    after.close();
    let after = open_sim(&failed.kill_process(), None).unwrap();
    assert!(after.was_power_loss_possible(), "nobody has said that all is there again");
    after.settle_power_loss().unwrap();
    assert!(!after.was_power_loss_possible());
    after.close();

    store.close();
    let failed = disk.crash(&CrashPlan::NOTHING);
    let after = open_sim(&failed, None).unwrap();
    assert!(!after.was_power_loss_possible(), "what is closed is on stable storage");
}
