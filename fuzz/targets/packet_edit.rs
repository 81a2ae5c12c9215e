//! libFuzzer program of the target `packet_edit`; the body is in the library.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sumeru_fuzz::packet_edit::run(data));
