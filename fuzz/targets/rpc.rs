//! libFuzzer program of the target `rpc`; the body is in the library.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sumeru_fuzz::rpc::run(data));
