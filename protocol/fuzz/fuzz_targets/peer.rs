#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| plimsoll_protocol::fuzzing::peer(data));
