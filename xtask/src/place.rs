//! Where things are: the checkout, and the folder for what outlives it.

use std::path::{Path, PathBuf};

use crate::Result;

/// The root of the checkout that this was started from. Asked for at run time: with a target folder that several
/// checkouts share, cargo may run the program that another of them built.
pub fn root() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&package).parent().expect("xtask lies inside the checkout").to_owned()
}

/// `${XDG_CACHE_HOME:-$HOME/.cache}/shoal`: compiled code and unpacked components, kept between checkouts.
pub fn cache() -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_CACHE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".cache")))
        .map(|folder| folder.join("shoal"))
        .ok_or_else(|| {
            "neither XDG_CACHE_HOME nor HOME is set: there is no folder to keep compiled code in".to_owned()
        })
}

/// Cargo's target folder: `CARGO_TARGET_DIR`, or `target` in [`cache`].
pub fn target() -> Result<PathBuf> {
    match std::env::var_os("CARGO_TARGET_DIR").filter(|value| !value.is_empty()) {
        Some(folder) => Ok(std::path::absolute(&folder).unwrap_or_else(|_| folder.into())),
        None => Ok(cache()?.join("target")),
    }
}
