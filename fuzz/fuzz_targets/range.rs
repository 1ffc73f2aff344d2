//! `Range` headers against blobs of any size.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shoal_agent::registry::range::{self, Wanted};

fuzz_target!(|input: (u64, &str)| {
    let (size, text) = input;
    match range::parse(text) {
        Wanted::One(part) => {
            if let Some(range) = part.resolve(size) {
                assert!(range.start < range.end && range.end <= size);
            }
        }
        Wanted::Several(parts) => {
            let _ = range::resolve_several(&parts, size);
        }
        _ => {}
    }
});
