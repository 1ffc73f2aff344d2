//! RocksDB's C++ is compiled once: it takes twenty minutes, and cargo would do it again for every change of a feature
//! anywhere among the build scripts' dependencies.
//!
//! What a build has made is kept in the cache folder under the version of its crate, and later builds link it
//! (`ROCKSDB_LIB_DIR`, which the crate's build script looks at).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, place};

const CRATE: &str = "librocksdb-sys";
const LIBRARY: &str = "librocksdb.a";

/// Lets a cargo command link what has been kept, if there is something.
pub fn link(cargo: &mut Command) -> Result {
    if std::env::var_os("ROCKSDB_LIB_DIR").is_some() {
        return Ok(());
    }
    if let Some(folder) = kept()? {
        cargo.env("ROCKSDB_LIB_DIR", folder).env("ROCKSDB_STATIC", "1");
    }
    Ok(())
}

/// The folder with the library of the version that is locked; what an earlier build has left is taken in first.
fn kept() -> Result<Option<PathBuf>> {
    let Some(version) = locked() else { return Ok(None) };
    let name = format!("rocksdb-{version}-{}", std::env::consts::ARCH);
    let folder = place::cache()?.join(name);
    if !folder.join(LIBRARY).exists() && !take_in(&version, &folder) {
        return Ok(None);
    }
    Ok(Some(folder))
}

/// The version of the crate in Cargo.lock.
fn locked() -> Option<String> {
    let lock = fs::read_to_string(place::root().join("Cargo.lock")).ok()?;
    let entry = lock.split("[[package]]").find(|entry| entry.contains(&format!("name = \"{CRATE}\"")))?;
    let line = entry.lines().find_map(|line| line.strip_prefix("version = "))?;
    Some(line.trim_matches('"').to_owned())
}

/// Copies the library of an earlier build into `folder`; tells whether there was one. Anything that goes wrong here costs
/// time in the build that follows, and is no reason against it.
fn take_in(version: &str, folder: &Path) -> bool {
    let Ok(target) = place::target() else { return false };
    let Ok(scripts) = fs::read_dir(target.join("debug/build")) else { return false };
    let is_of_version = |script: &Path| {
        let said = fs::read_to_string(script.join("output")).unwrap_or_default();
        let manifest = said.lines().find_map(|line| line.strip_prefix("cargo:cargo_manifest_dir="));
        manifest.is_some_and(|path| path.ends_with(&format!("{CRATE}-{version}")))
    };
    let script = scripts.flatten().map(|entry| entry.path()).find(|script| {
        let is_ours = script.file_name().is_some_and(|name| name.to_string_lossy().starts_with(CRATE));
        is_ours && script.join("out").join(LIBRARY).exists() && is_of_version(script)
    });
    let Some(script) = script else { return false };
    // Under its name only when it is complete: two commands may do this at a time.
    let part = folder.join(format!("{LIBRARY}.{}", std::process::id()));
    fs::create_dir_all(folder)
        .and_then(|()| fs::copy(script.join("out").join(LIBRARY), &part))
        .and_then(|_| fs::rename(&part, folder.join(LIBRARY)))
        .is_ok()
}
