//! Mirror configuration of others: `registries.conf`, `hosts.toml`, Kubernetes objects. What comes of it is a right
//! configuration, whatever they say.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use shoal_agent::config::Config;
use shoal_agent::import::Import;
use shoal_engine::Registry;

fuzz_target!(|input: (u8, &str)| {
    let (kind, text) = input;
    let (mut import, path) = (Import::default(), Path::new("file"));
    match kind % 3 {
        0 => import.registries_conf_text(path, text),
        1 => {
            let registry: Registry = "docker.io".parse().expect("the name of a registry");
            import.hosts_toml_text(path, &registry, text);
        }
        _ => import.kubernetes_text(path, text),
    }
    if let Ok(imported) = import.finish(&[]) {
        // Files that are named may not be there; nothing else may be wrong.
        if !imported.text.contains("ca = ") && !imported.text.contains("client_key = ") {
            Config::parse(&imported.text, None).expect("what was imported is right");
        }
    }
});
