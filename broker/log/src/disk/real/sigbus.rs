//! What happens when a mapped page cannot be read after all: one line on stderr, and the end.
//!
//! A medium error under a map is a signal. Every cold range is populated first, which turns it into
//! an error value; what is left is a page that was evicted and could not be read again. The process
//! must not go on, and the operator must see why it ended.
#![allow(unsafe_code, reason = "installing a signal handler is a call into the C library")]

use std::io;
use std::mem;
use std::ptr;

/// Makes SIGBUS print the address that could not be read and abort the process. Once per process,
/// before any map is made; calling it again changes nothing.
///
/// # Errors
/// What `sigaction` said.
pub fn install_sigbus_handler() -> io::Result<()> {
    // SAFETY: zero is a valid value of every field of `sigaction` (no flags, an empty mask on
    // Linux, the default handler), and those that matter are set below.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = report;
    action.sa_sigaction = handler as libc::sighandler_t;
    // On the alternate stack that the Rust runtime gives to each thread, where it has one.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESETHAND;
    // SAFETY: `action` is initialised, its handler has the signature that SA_SIGINFO asks for and
    // calls async-signal-safe functions only; the old action is not asked for.
    let result = unsafe { libc::sigaction(libc::SIGBUS, &action, ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

extern "C" fn report(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let address = if info.is_null() {
        0
    } else {
        // SAFETY: the kernel passes a valid siginfo to a handler with SA_SIGINFO, and `si_addr` is
        // the member that is set for SIGBUS.
        unsafe { (*info).si_addr() }.addr()
    };
    let mut line = [0; LINE_BYTES];
    let length = format_line(address, &mut line);
    // SAFETY: write(2) and abort(3) are async-signal-safe; the buffer is valid for `length` bytes.
    unsafe {
        libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), length);
        libc::abort();
    }
}

const BEFORE: &[u8] = b"plimsoll: SIGBUS: a mapped page could not be read at address 0x";
const AFTER: &[u8] = b"; the disk under the data directory failed or a file was cut from outside\n";
const LINE_BYTES: usize = BEFORE.len() + 16 + AFTER.len();

/// Writes the line without allocating; returns its length.
fn format_line(address: usize, line: &mut [u8; LINE_BYTES]) -> usize {
    let mut at = 0;
    let mut put = |byte: u8| {
        line[at] = byte;
        at += 1;
    };
    BEFORE.iter().for_each(|&byte| put(byte));
    for digit in (0..16).rev() {
        put(b"0123456789abcdef"[(address >> (digit * 4)) & 0xf]);
    }
    AFTER.iter().for_each(|&byte| put(byte));
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_names_the_address() {
        let mut line = [0; LINE_BYTES];
        let length = format_line(0x7f00_dead_beef, &mut line);
        let text = std::str::from_utf8(&line[..length]).unwrap();
        assert!(text.contains("address 0x00007f00deadbeef;"), "{text}");
        assert!(text.ends_with('\n'));
    }
}
