//! Manifests, which anybody who can push may write.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shoal_agent::manifest::{self, DESCRIPTORS_MAX};

const TYPES: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

fuzz_target!(|bytes: &[u8]| {
    for media_type in TYPES {
        if let Ok(parsed) = manifest::parse(media_type, bytes) {
            assert!(parsed.descriptors().count() <= DESCRIPTORS_MAX + 1);
        }
    }
});
