//! `lock` and `compaction` against an embedded node, small; with `PLIMSOLL_ETCD_URL` also beside a real etcd.

#![allow(clippy::unwrap_used, reason = "tests")]
#![expect(clippy::print_stderr, reason = "what it measures is shown with `--nocapture`")]

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Mutex;

use plimsoll_bench::{Event, Options, Report, Workload};

fn run(workload: Workload, options: Options) -> Report {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let data_dir: PathBuf = directory.path().to_owned();
    let options = Options { data_dir: Some(data_dir), ..options };
    let reports = Mutex::new(Vec::new());
    plimsoll_bench::run(&[workload], &options, &|event: Event<'_>| match event {
        Event::Report(report) => {
            eprintln!("{}", report.to_json());
            reports.lock().unwrap().push(report.clone());
        }
        Event::Note(text) | Event::Step(text) => eprintln!("{text}"),
        Event::Machine(_) | Event::Plan(_) => {}
    })
    .unwrap();
    let mut reports = reports.into_inner().unwrap();
    assert_eq!(reports.len(), 1);
    reports.remove(0)
}

#[test]
fn locks_are_taken_and_given_back_beside_journal_writes() {
    let options = Options {
        clients: NonZeroU32::new(3),
        records: Some(200),
        etcd: std::env::var("PLIMSOLL_ETCD_URL").ok(),
        ..Options::default()
    };
    let has_etcd = options.etcd.is_some();
    let report = run(Workload::Lock, options);
    assert_eq!((report.records, report.lock.clients), (200, Some(3)));
    assert!(report.lock.pairs_per_s.unwrap() > 0.0);
    assert!(report.latency_us.unwrap().p50 > 0.0);
    assert!(report.journal_write_us.unwrap().unwrap().p50 > 0.0);
    assert!(report.lock.ratio_to_two_writes.unwrap() > 0.0);
    assert_eq!(report.lock.etcd.is_some(), has_etcd);
}

#[test]
fn a_lock_goes_from_waiter_to_waiter() {
    let options = Options {
        handover: true,
        waiters: NonZeroU32::new(20),
        records: Some(100),
        ..Options::default()
    };
    let report = run(Workload::Lock, options);
    assert_eq!((report.records, report.lock.waiters), (100, Some(20)));
    assert!(report.lock.handover_us.unwrap().p50 > 0.0);
    assert!(report.lock.produce_us.unwrap().p50 > 0.0);
    assert!(report.lock.ratio_to_produce.unwrap() > 0.0);
}

#[test]
fn a_compacted_topic_is_compared_with_its_live_data_and_with_a_plain_one() {
    let options =
        Options { keys: NonZeroU32::new(1000), records: Some(50_000), ..Options::default() };
    let report = run(Workload::Compaction, options);
    let figures = report.compaction.unwrap();
    assert_eq!((report.records, figures.keys), (50_000, 1000));
    // 1,000 records of 100 bytes with a key of 8.
    assert!((108_000..130_000).contains(&figures.live_bytes), "{figures:?}");
    assert!(figures.append_ratio > 0.0 && figures.disk_ratio <= 1.5, "{figures:?}");
}
