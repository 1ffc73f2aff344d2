//! `WWW-Authenticate` of a hostile registry.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shoal_agent::upstream::challenges_of;

fuzz_target!(|lines: Vec<&[u8]>| {
    let mut headers = http::HeaderMap::new();
    for line in lines.into_iter().take(16) {
        if let Ok(value) = http::HeaderValue::from_bytes(line) {
            headers.append(http::header::WWW_AUTHENTICATE, value);
        }
    }
    let _ = challenges_of(&headers);
});
