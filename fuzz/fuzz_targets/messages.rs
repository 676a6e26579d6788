//! All small messages.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fieldcast_fuzz::messages(bytes));
