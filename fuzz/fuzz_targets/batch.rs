//! Payloads of batches.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fieldcast_fuzz::batch(bytes));
