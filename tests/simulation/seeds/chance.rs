//! No chance but the seed's, in a process that runs one seed.
//!
//! tokio draws random numbers that nobody can seed from outside (which of several waiters of a watch
//! channel is woken first). They come from the standard library's hasher keys, and those from
//! `getrandom`, which the standard library calls through a symbol that a program may define. One seed
//! is one process, because tokio also counts its runtimes.

use std::ffi::{c_uint, c_void};
use std::sync::atomic::{AtomicU64, Ordering};

/// What the next random bytes are made of; 0 where they are the system's.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// From now on all random bytes of this process come from the seed.
pub(crate) fn come_from(seed: u64) {
    NEXT.store(seed | 1 << 63, Ordering::Relaxed);
}

/// Fills `buffer`, as the C library's function of this name does.
#[expect(unsafe_code, reason = "a symbol of the C library, called with a pointer")]
#[unsafe(no_mangle)]
extern "C" fn getrandom(buffer: *mut c_void, length: usize, _flags: c_uint) -> isize {
    if buffer.is_null() {
        return 0;
    }
    // SAFETY: the caller owns `length` writable bytes at `buffer`, by the contract of getrandom(2).
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    if NEXT.load(Ordering::Relaxed) == 0 {
        return match rustix::rand::getrandom(bytes, rustix::rand::GetRandomFlags::empty()) {
            Ok(filled) => filled.cast_signed(),
            Err(_) => -1,
        };
    }
    for piece in bytes.chunks_mut(8) {
        let number = NEXT.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let mixed = (number ^ (number >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        piece.copy_from_slice(&mixed.to_le_bytes()[..piece.len()]);
    }
    length.cast_signed()
}
