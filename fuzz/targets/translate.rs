//! libFuzzer program of the target `translate`; the body is in the library.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sumeru_fuzz::translate::run(data));
