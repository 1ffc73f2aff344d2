//! A node's container runtime without the runtime: the requests containerd makes for a pull, in its order and with
//! its parallelism, and nothing unpacked. A hundred of these cost less than one containerd.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::header::ACCEPT;
use reqwest::{Client, RequestBuilder, StatusCode};
use serde::Deserialize;

use super::image::{MANIFEST, SyntheticImage, sha256};
use crate::loopback as http;

/// Blobs that containerd fetches at a time (`max_concurrent_downloads`).
const BLOBS_AT_ONCE: usize = 3;

/// How a client makes sure that it got what it asked for.
#[derive(Clone, Copy)]
pub enum Check<'a> {
    /// Hashes all it receives, as containerd does: 4 to 5 CPU seconds per gigabyte.
    Digest,
    /// Compares all it receives with the image that was pushed, whose digests are known to be right. As strict, and
    /// next to free, so that many clients on one machine do not slow each other down.
    Against(&'a SyntheticImage),
}

/// One node that pulls.
pub struct LightClient {
    http: Client,
    base: String,
    namespace: Option<String>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    size: u64,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

impl LightClient {
    /// A client of the registry or mirror at `base` (`http://host:port`). A mirror is told by `ns` which registry is
    /// meant.
    pub fn new(base: &str, namespace: Option<&str>) -> Result<Self> {
        Ok(LightClient {
            http: http::client("shoal-demo-client")?,
            base: base.trim_end_matches('/').to_owned(),
            namespace: namespace.map(str::to_owned),
        })
    }

    /// Pulls an image: tag to digest, manifest, then configuration and layers. Adds to `received` as bytes arrive and
    /// returns how many they were. An error unless every byte is right.
    pub async fn pull(
        &self,
        repository: &str,
        tag: &str,
        check: Check<'_>,
        received: &AtomicU64,
    ) -> Result<u64> {
        let head = self.request(reqwest::Method::HEAD, repository, "manifests", tag).header(ACCEPT, MANIFEST);
        let head = http::send(head, StatusCode::OK).await?;
        let digest = head.headers().get("docker-content-digest").context("the tag's answer has no digest")?;
        let digest = digest.to_str()?.to_owned();
        let get =
            self.request(reqwest::Method::GET, repository, "manifests", &digest).header(ACCEPT, MANIFEST);
        let bytes = http::send(get, StatusCode::OK).await?.bytes().await?;
        ensure!(sha256(&bytes) == digest, "the manifest does not match its digest {digest}");
        if let Check::Against(image) = check {
            ensure!(digest == image.manifest.digest, "the tag names {digest}, not {}", image.manifest.digest);
        }
        received.fetch_add(bytes.len() as u64, Ordering::Relaxed);

        let manifest: Manifest = serde_json::from_slice(&bytes).context("the manifest cannot be read")?;
        let blobs = std::iter::once(&manifest.config).chain(&manifest.layers);
        let pulled = stream::iter(blobs)
            .map(|blob| self.blob(repository, blob, check, received))
            .buffer_unordered(BLOBS_AT_ONCE)
            .try_fold(0, |sum, size| std::future::ready(Ok(sum + size)))
            .await?;
        Ok(pulled + bytes.len() as u64)
    }

    async fn blob(
        &self,
        repository: &str,
        blob: &Descriptor,
        check: Check<'_>,
        received: &AtomicU64,
    ) -> Result<u64> {
        let get = self.request(reqwest::Method::GET, repository, "blobs", &blob.digest);
        let mut response = http::send(get, StatusCode::OK).await?;
        let mut verifier = Verifier::new(check, &blob.digest)?;
        let mut size = 0;
        while let Some(chunk) =
            response.chunk().await.with_context(|| format!("{} broke off", blob.digest))?
        {
            verifier.take(size, &chunk)?;
            size += chunk.len() as u64;
            received.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        }
        ensure!(size == blob.size, "{} has {size} bytes instead of {}", blob.digest, blob.size);
        verifier.end(&blob.digest)?;
        Ok(size)
    }

    fn request(
        &self,
        method: reqwest::Method,
        repository: &str,
        kind: &str,
        reference: &str,
    ) -> RequestBuilder {
        let mut url = format!("{}/v2/{repository}/{kind}/{reference}", self.base);
        if let Some(namespace) = &self.namespace {
            url.push_str("?ns=");
            url.push_str(namespace);
        }
        self.http.request(method, url)
    }
}

/// Checks one blob while it arrives.
enum Verifier<'a> {
    Digest(Box<ring::digest::Context>),
    Against(&'a [u8]),
}

impl<'a> Verifier<'a> {
    fn new(check: Check<'a>, digest: &str) -> Result<Self> {
        match check {
            Check::Digest => {
                Ok(Verifier::Digest(Box::new(ring::digest::Context::new(&ring::digest::SHA256))))
            }
            Check::Against(image) => {
                let content =
                    image.content(digest).with_context(|| format!("{digest} is not of this image"))?;
                Ok(Verifier::Against(&content.bytes))
            }
        }
    }

    fn take(&mut self, offset: u64, chunk: &[u8]) -> Result<()> {
        match self {
            Verifier::Digest(context) => context.update(chunk),
            Verifier::Against(bytes) => {
                let start = usize::try_from(offset)?;
                if bytes.get(start..start + chunk.len()) != Some(chunk) {
                    bail!("wrong bytes between {start} and {}", start + chunk.len());
                }
            }
        }
        Ok(())
    }

    fn end(self, digest: &str) -> Result<()> {
        if let Verifier::Digest(context) = self {
            let hash = context.finish();
            let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            ensure!(digest == format!("sha256:{hex}"), "the bytes of {digest} hash to sha256:{hex}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_byte_is_found_both_ways() {
        let image = SyntheticImage::new(5, 10_000);
        let layer = &image.layers[0];
        let mut wrong = layer.bytes.to_vec();
        wrong[3000] ^= 1;

        for check in [Check::Digest, Check::Against(&image)] {
            for (bytes, right) in [(layer.bytes.as_ref(), true), (wrong.as_slice(), false)] {
                let mut verifier = Verifier::new(check, &layer.digest).expect("a verifier");
                let taken =
                    bytes.chunks(1000).zip((0..).step_by(1000)).try_for_each(|(c, at)| verifier.take(at, c));
                assert_eq!(taken.and_then(|()| verifier.end(&layer.digest)).is_ok(), right);
            }
        }
    }

    #[test]
    fn content_of_another_image_is_refused() {
        let image = SyntheticImage::new(6, 10_000);
        let other = SyntheticImage::new(7, 10_000);
        assert!(Verifier::new(Check::Against(&image), &other.layers[0].digest).is_err());
    }
}
