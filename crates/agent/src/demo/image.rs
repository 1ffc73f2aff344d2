//! An image that is synthetic and real: its layers are archives that unpack, its bytes are noise that no disk, link or
//! store can shrink, and everything is named by its digest.

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Value, json};

/// Media type of an OCI manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Layers are not compressed: noise does not shrink, and a client then spends its time on moving bytes.
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Tenths of the image's size per layer: like most images, one layer holds most of the bytes.
const LAYER_TENTHS: [u64; 3] = [6, 3, 1];

/// Largest file in a layer, bytes. Layers are made of several files, as real ones are.
const FILE_MAX: u64 = 8 * 1024 * 1024;

/// Bytes with their name and type.
#[derive(Clone, Debug)]
pub struct Content {
    /// `sha256:<hex>`.
    pub digest: String,
    /// Media type of its descriptor.
    pub media_type: &'static str,
    /// The bytes.
    pub bytes: Bytes,
}

impl Content {
    /// Names some bytes by their SHA-256.
    pub fn new(media_type: &'static str, bytes: Bytes) -> Self {
        Content { digest: sha256(&bytes), media_type, bytes }
    }

    fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len()})
    }
}

/// `sha256:<hex>` of some bytes.
pub fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let hash = ring::digest::digest(&ring::digest::SHA256, bytes);
    hash.as_ref().iter().fold("sha256:".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// An image for linux/amd64, held in memory.
#[derive(Clone, Debug)]
pub struct SyntheticImage {
    /// Layers, lowest first.
    pub layers: Vec<Content>,
    /// The configuration.
    pub config: Content,
    /// The manifest.
    pub manifest: Content,
}

impl SyntheticImage {
    /// An image of about `size` bytes in three layers; the same for the same `seed`. Takes a few CPU seconds per
    /// gigabyte, mostly for the digests.
    pub fn new(seed: u64, size: u64) -> Self {
        let layer = |(number, tenths): (u64, u64)| {
            let (seed, size) = (seed.wrapping_mul(1_000).wrapping_add(number), size / 10 * tenths);
            Content::new(LAYER, archive(seed, size))
        };
        let layers: Vec<Content> = std::thread::scope(|scope| {
            let making: Vec<_> =
                (0..).zip(LAYER_TENTHS).map(|part| scope.spawn(move || layer(part))).collect();
            making.into_iter().map(|made| made.join().expect("making a layer does not panic")).collect()
        });
        let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.digest.as_str()).collect();
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/bin/true"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = Content::new(CONFIG, config.to_string().into());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(),
            "layers": layers.iter().map(Content::descriptor).collect::<Vec<_>>(),
        });
        let manifest = Content::new(MANIFEST, manifest.to_string().into());
        SyntheticImage { layers, config, manifest }
    }

    /// Configuration and layers.
    pub fn blobs(&self) -> impl Iterator<Item = &Content> {
        std::iter::once(&self.config).chain(&self.layers)
    }

    /// The blob or manifest of this digest.
    pub fn content(&self, digest: &str) -> Option<&Content> {
        self.blobs().chain([&self.manifest]).find(|content| content.digest == digest)
    }

    /// Bytes of the whole image: manifest, configuration, layers.
    pub fn size(&self) -> u64 {
        self.blobs().chain([&self.manifest]).map(|content| content.bytes.len() as u64).sum()
    }
}

/// An archive of files of noise, `size` bytes in all.
fn archive(seed: u64, size: u64) -> Bytes {
    let capacity = usize::try_from(size + size / 64 + 4096).expect("an image that is held in memory fits it");
    let mut archive = tar::Builder::new(BytesMut::with_capacity(capacity).writer());
    let mut left = size;
    for number in 0.. {
        let len = left.min(FILE_MAX);
        let mut header = tar::Header::new_gnu();
        header.set_size(len);
        header.set_mode(0o644);
        header.set_mtime(0);
        let data = noise(seed.wrapping_mul(10_000).wrapping_add(number), len);
        archive
            .append_data(&mut header, format!("opt/data-{seed}/{number}"), data.as_ref())
            .expect("writing to memory cannot fail");
        left -= len;
        if left == 0 {
            break;
        }
    }
    archive.into_inner().expect("writing to memory cannot fail").into_inner().freeze()
}

/// `len` bytes that look like noise and depend on `seed` alone (SplitMix64).
pub fn noise(seed: u64, len: u64) -> Bytes {
    let len = usize::try_from(len).expect("what is held in memory fits it");
    let mut state = seed;
    let mut out = BytesMut::with_capacity(len + 8);
    while out.len() < len {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        out.put_u64_le(z ^ (z >> 31));
    }
    out.truncate(len);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_image_and_another_one_another() {
        let image = SyntheticImage::new(1, 100_000);
        assert_eq!(image.manifest.digest, SyntheticImage::new(1, 100_000).manifest.digest);
        let other = SyntheticImage::new(2, 100_000);
        for (one, two) in image.blobs().zip(other.blobs()) {
            assert_ne!(one.digest, two.digest);
        }
    }

    #[test]
    fn layers_unpack_to_what_the_size_says() {
        let image = SyntheticImage::new(3, 20_000_000);
        let unpacked: u64 = image
            .layers
            .iter()
            .flat_map(|layer| {
                let mut archive = tar::Archive::new(layer.bytes.as_ref());
                let entries = archive.entries().expect("an archive");
                entries.map(|entry| entry.expect("an entry").size()).collect::<Vec<_>>()
            })
            .sum();
        assert_eq!(unpacked, 20_000_000);
    }

    #[test]
    fn the_manifest_describes_every_blob() {
        let image = SyntheticImage::new(4, 10_000);
        let manifest: Value = serde_json::from_slice(&image.manifest.bytes).expect("JSON");
        let described =
            std::iter::once(&manifest["config"]).chain(manifest["layers"].as_array().expect("a list"));
        for (descriptor, blob) in described.zip(image.blobs()) {
            assert_eq!(descriptor["digest"], blob.digest);
            assert_eq!(descriptor["size"], blob.bytes.len());
            assert_eq!(sha256(&blob.bytes), blob.digest);
        }
    }
}
