#![no_main]
//! See the module of this name in `src/`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| portcullis_fuzz::token::run(data));
