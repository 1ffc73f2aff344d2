//! What is rolled out: versions of an application.

use std::fs;

use shoal_tests::image::{self, Blob, Image};
use shoal_tests::place;

/// The registry of the images, as their names have it.
pub const REGISTRY: &str = "registry.test";
/// The application's repository there.
pub const REPOSITORY: &str = "team/app";
/// Bytes of the layer with data.
const DATA_BYTES: usize = 6_000_000;
/// How long the process of a pod's sandbox stays: longer than the test.
const FOREVER: &str = "86400";

/// One version, with an image that runs.
pub struct Release {
    /// `v1` and so on.
    pub tag: &'static str,
    /// As a pod names it.
    pub name: String,
    /// It has no layer in common with another release: containerd 1.6 may remove a snapshot that two images share when one of
    /// them is removed while the other is unpacked.
    pub image: Image,
    /// A command in it that ends well if the data in the image is what was built.
    pub check: [String; 4],
}

impl Release {
    /// One with this tag, its data of noise.
    pub fn new(tag: &'static str, seed: u64) -> Self {
        let busybox = place::program("busybox", "busybox-static");
        let busybox = fs::read(busybox).expect("an installed program can be read");
        let data = image::noise(seed, DATA_BYTES);
        let (program, file) = (format!("{tag}/busybox"), format!("{tag}/data"));
        let layers = vec![Blob::layer_of(&program, 0o755, &busybox), Blob::layer_of(&file, 0o644, &data)];
        let program = format!("/{program}");
        let digest = image::sha256(&data);
        let sum = digest.trim_start_matches("sha256:");
        let script = format!("echo '{sum}  /{file}' | {program} sha256sum -c");
        let image = Image::of(layers, "amd64", &[&program, "sleep", FOREVER]);
        let check = [program, "sh".to_owned(), "-c".to_owned(), script];
        Release { tag, name: format!("{REGISTRY}/{REPOSITORY}:{tag}"), image, check }
    }
}
