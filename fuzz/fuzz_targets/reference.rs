//! Request paths and queries, and the names in them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shoal_agent::registry::path;
use shoal_engine::{Digest, Reference, Registry, Repository};

fuzz_target!(|text: &str| {
    let default = "docker.io".parse::<Registry>().ok();
    let (path, query) = match text.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (text, None),
    };
    let _ = path::parse(path, query, None);
    let _ = path::parse(path, query, default.as_ref());
    // What parses is written as it was read, so that no two texts name the same thing in different ways.
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(reference.to_string(), text);
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
    if let Ok(repository) = text.parse::<Repository>() {
        assert!(!repository.as_str().contains(".."));
    }
    if let Ok(registry) = text.parse::<Registry>() {
        assert_eq!(registry.as_str().parse::<Registry>().expect("a name that was accepted"), registry);
    }
});
