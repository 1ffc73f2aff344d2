//! Hashing a stored blob again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use ring::digest::{Context, SHA256, SHA512};
use shoal_engine::{Algorithm, Digest};

use super::Store;
use crate::blob::{Blob, Content, Home, Verification};
use crate::error::StoreError;
use crate::index::Durability;

/// Bytes read at a time.
const READ_BYTES: usize = 1 << 20;

impl Store {
    /// Reads a whole blob and hashes it. One of our own that is wrong is removed, also if it is in use or pinned.
    pub fn verify(&self, digest: &Digest) -> Result<Verification, StoreError> {
        let inner = &*self.inner;
        let Some(blob) = inner.own_blob(digest)?.or_else(|| inner.runtime_blob(digest)) else {
            return Ok(Verification::Missing);
        };
        let path = inner.layout.blob(digest);
        let found = hash(&blob).map_err(StoreError::io("read a blob", &path))?;
        if found == *digest {
            return Ok(Verification::Good { size: blob.size });
        }
        tracing::warn!(%digest, %found, home = ?blob.home, "a stored blob does not hash to its digest");
        let home = blob.home;
        drop(blob);
        if home == Home::Own {
            let hold = inner.claims.hold_to_remove(digest);
            if let Some(record) = inner.record(digest)? {
                inner.remove_blob(&hold, digest, &record, Durability::Disk)?;
            }
        }
        Ok(Verification::Wrong { found, home })
    }
}

fn hash(blob: &Blob) -> io::Result<Digest> {
    let algorithm = blob.digest.algorithm();
    let mut context = Context::new(match algorithm {
        Algorithm::Sha256 => &SHA256,
        Algorithm::Sha512 => &SHA512,
    });
    match &blob.content {
        Content::Inline(bytes) => context.update(bytes),
        Content::File(file) => hash_file(file, &mut context)?,
    }
    Ok(Digest::new(algorithm, context.finish().as_ref()))
}

/// To the end of the file, wherever that is: a file that has grown is wrong too.
fn hash_file(file: &File, context: &mut Context) -> io::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    let mut at = 0;
    loop {
        match file.read_at(&mut buffer, at) {
            Ok(0) => return Ok(()),
            Ok(read) => {
                context.update(&buffer[..read]);
                at += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
