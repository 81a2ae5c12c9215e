//! libFuzzer program of the target `vhost_user`; the body is in the library.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sumeru_fuzz::vhost_user::run(data));
