//! Any bytes as a journal: recovery gives what is sound in them or refuses them, and never panics.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| djqs::internal::journal::fuzz::recover(data));
