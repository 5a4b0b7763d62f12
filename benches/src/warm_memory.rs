//! Memory that the machine really has.
//!
//! A virtual machine's host backs memory page by page when it is touched for the first time, and may
//! take back what lies free: here that costs about 3 s per GB, against 0.2 s per GB for memory that is
//! there. A load that fills the page cache would measure the host. So what the load will need is
//! touched once and given back to the system before anything is measured.

use std::hint::black_box;

/// What buffers and the second copy of the load's topic need besides the load, in bytes.
const SLACK_BYTES: u64 = 1 << 30;
/// Part of the available memory that is touched at most, in percent.
const AVAILABLE_PERCENT_MAX: u64 = 60;
const PAGE_BYTES: usize = 4096;

/// Touches as much as a load of `load_bytes` needs with the uncounted load before it. Blocks for
/// seconds on a fresh machine.
pub(crate) fn touch_for(load_bytes: u64) {
    let wanted = load_bytes.saturating_mul(2).saturating_add(SLACK_BYTES);
    let bytes = wanted.min(available_bytes() / 100 * AVAILABLE_PERCENT_MAX);
    let Ok(bytes) = usize::try_from(bytes) else { return };
    let mut memory: Vec<u8> = Vec::new();
    if memory.try_reserve_exact(bytes).is_err() {
        return;
    }
    memory.resize(bytes, 0);
    for page in memory.chunks_mut(PAGE_BYTES) {
        page[0] = 1;
    }
    black_box(&memory);
}

/// `MemAvailable` of `/proc/meminfo`, in bytes; 0 where it cannot be read.
fn available_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
