//! Images made of noise: incompressible, the same for the same seed, and real enough to be unpacked.

use bytes::Bytes;
use serde_json::json;

/// Media type of an OCI manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an OCI index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of an OCI configuration.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Media type of an uncompressed layer: unpacking costs a copy and no inflation.
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// `len` bytes that look like noise and depend on `seed` alone (SplitMix64).
pub fn noise(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5048_4f41_4c00_0000;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        out.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
    out.truncate(len);
    Bytes::from(out)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// `sha256:<hex>` of some bytes.
pub fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref()))
}

/// `sha512:<hex>` of some bytes.
pub fn sha512(bytes: &[u8]) -> String {
    format!("sha512:{}", hex(ring::digest::digest(&ring::digest::SHA512, bytes).as_ref()))
}

/// Bytes with their name and type.
#[derive(Clone, Debug)]
pub struct Blob {
    /// `sha256:<hex>`.
    pub digest: String,
    /// Media type of its descriptor.
    pub media_type: &'static str,
    /// The bytes.
    pub bytes: Bytes,
}

impl Blob {
    /// Names some bytes by their sha256.
    pub fn new(media_type: &'static str, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Blob { digest: sha256(&bytes), media_type, bytes }
    }

    /// A layer that is no archive, for clients that do not unpack.
    pub fn noise(seed: u64, len: usize) -> Self {
        Blob::new(LAYER, noise(seed, len))
    }

    /// A layer of one file with `len` bytes of noise.
    pub fn layer(seed: u64, len: usize) -> Self {
        Blob::layer_of(&format!("data/{seed}"), 0o644, &noise(seed, len))
    }

    /// A layer of one file.
    pub fn layer_of(path: &str, mode: u32, bytes: &[u8]) -> Self {
        let mut archive = tar::Builder::new(Vec::with_capacity(bytes.len() + 4096));
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(mode);
        header.set_mtime(0);
        archive.append_data(&mut header, path, bytes).expect("writing to memory cannot fail");
        Blob::new(LAYER, archive.into_inner().expect("writing to memory cannot fail"))
    }

    /// Size in bytes.
    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The descriptor of these bytes.
    pub fn descriptor(&self) -> serde_json::Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len()})
    }
}

/// A single-platform image.
#[derive(Clone, Debug)]
pub struct Image {
    /// Layers, lowest first.
    pub layers: Vec<Blob>,
    /// The configuration.
    pub config: Blob,
    /// The manifest.
    pub manifest: Blob,
}

impl Image {
    /// An image for linux/amd64 with one layer for each of `sizes` (bytes of the file in it).
    pub fn new(seed: u64, sizes: &[usize]) -> Self {
        Image::for_platform(seed, sizes, "amd64")
    }

    /// The same for linux on another architecture.
    pub fn for_platform(seed: u64, sizes: &[usize], architecture: &str) -> Self {
        let layers = sizes.iter().zip(0..).map(|(size, i)| Blob::layer(seed * 1000 + i, *size)).collect();
        Image::of(layers, architecture, &[])
    }

    /// An image for linux of these layers, in which a command runs unless another one is given.
    pub fn of(layers: Vec<Blob>, architecture: &str, command: &[&str]) -> Self {
        let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.digest.as_str()).collect();
        let process = if command.is_empty() { json!({}) } else { json!({"Cmd": command}) };
        let config = json!({
            "architecture": architecture, "os": "linux", "config": process,
            "rootfs": {"type": "layers", "diff_ids": diff_ids}
        });
        let config = Blob::new(CONFIG, config.to_string());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>()
        });
        Image { layers, config, manifest: Blob::new(MANIFEST, manifest.to_string()) }
    }

    /// The three-layer image of 130 MB that the runtimes pull.
    pub fn large(seed: u64) -> Self {
        Image::new(seed, &[80_000_000, 40_000_000, 10_000_000])
    }

    /// The same shape at a tenth of the size, for the cases where only the shape matters.
    pub fn small(seed: u64) -> Self {
        Image::new(seed, &[8_000_000, 4_000_000, 1_000_000])
    }

    /// Layers and configuration.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        self.layers.iter().chain([&self.config])
    }

    /// Bytes of layers and configuration.
    pub fn blob_bytes(&self) -> u64 {
        self.blobs().map(Blob::len).sum()
    }

    /// An index over images with their architectures.
    pub fn index(images: &[(&Image, &str)]) -> Blob {
        let manifests: Vec<_> = images
            .iter()
            .map(|(image, architecture)| {
                let mut descriptor = image.manifest.descriptor();
                descriptor["platform"] = json!({"os": "linux", "architecture": architecture});
                descriptor
            })
            .collect();
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        Blob::new(INDEX, index.to_string())
    }
}
