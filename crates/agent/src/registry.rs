//! The registry front: what container runtimes talk to.
//!
//! It turns HTTP into the four calls of [`Pulls`] and their answers into HTTP, and holds no state of its own: which
//! bytes exist, where they come from and how long they are good for is decided behind it. Nothing here waits for a
//! whole blob or copies one: a body is handed to the connection frame by frame, as it came.
//!
//! Every answer follows the response contract (`contract.md` 4.5): never a redirect, never a challenge unless the operator
//! has clients prove their right, never a compressed body, a 304 only to a client that asked conditionally, and no error status that a client would repeat.

pub mod conditional;
pub mod error;
pub mod handlers;
pub mod listen;
pub mod multipart;
pub mod path;
pub mod proof;
pub mod range;
pub mod record;
pub mod respond;
pub mod sendfile;

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use shoal_engine::{Digest, Reference, Registry};

use crate::listing::ListingReply;
use crate::metrics::{Metrics, Served};
use crate::node::{Asked, Listing, ManifestReply, Node, Part, PullError};
use crate::upstream::ClientToken;

/// What differs from listener to listener.
#[derive(Clone, Debug, Default)]
pub struct FrontSettings {
    /// The registry that is meant where a request names none: docker and CRI-O send neither `ns` nor a registry in
    /// the path when they are pointed at a plain mirror address. `None`: such a request is refused with an
    /// explanation.
    pub default_registry: Option<Registry>,
    /// This agent's own name in `Via`: a request that carries it goes round in a circle.
    pub instance: String,
}

/// What the front asks of the node. [`Node`] is the one implementation outside of tests.
pub trait Pulls: Clone + Send + Sync + Unpin + 'static {
    /// The bytes of a blob as they arrive. Its size hint must be exact.
    type Body: http_body::Body<Data = Bytes, Error: Into<axum::BoxError>> + Send + Unpin + 'static;

    /// A blob or a part of it; resolves when its first byte is there.
    fn open_blob(
        &self,
        asked: &Asked,
        digest: Digest,
        part: Part,
    ) -> impl Future<Output = Result<Blob<Self::Body>, PullError>> + Send;

    /// Size of a blob in bytes, and who knew it.
    fn blob_size(
        &self,
        asked: &Asked,
        digest: Digest,
    ) -> impl Future<Output = Result<(u64, Served), PullError>> + Send;

    /// A manifest, with its bytes if `body`.
    fn manifest(
        &self,
        asked: &Asked,
        reference: &Reference,
        body: bool,
    ) -> impl Future<Output = Result<ManifestReply, PullError>> + Send;

    /// A list of tags or referrers.
    fn listing(
        &self,
        asked: &Asked,
        listing: &Listing,
    ) -> impl Future<Output = Result<ListingReply, PullError>> + Send;

    /// Whether a client that shows this token, or none, is told by the version check that all is well.
    fn ping(
        &self,
        registry: &Registry,
        token: Option<&ClientToken>,
    ) -> impl Future<Output = Result<(), PullError>> + Send;
}

/// A blob, or a part of one, on its way ([`crate::node::BlobReply`] with the body's type left open).
#[derive(Debug)]
pub struct Blob<B> {
    /// Size of the whole blob, bytes.
    pub size: u64,
    /// What the body carries, end exclusive.
    pub range: Range<u64>,
    /// The bytes.
    pub body: B,
    /// Where they come from.
    pub source: Served,
}

impl Pulls for Node {
    type Body = crate::driver::BlobBody;

    async fn open_blob(
        &self,
        asked: &Asked,
        digest: Digest,
        part: Part,
    ) -> Result<Blob<Self::Body>, PullError> {
        let reply = Node::open_blob(self, asked, digest, part).await?;
        Ok(Blob { size: reply.size, range: reply.range, body: reply.body, source: reply.source })
    }

    async fn blob_size(&self, asked: &Asked, digest: Digest) -> Result<(u64, Served), PullError> {
        Node::blob_size(self, asked, digest).await
    }

    async fn manifest(
        &self,
        asked: &Asked,
        reference: &Reference,
        body: bool,
    ) -> Result<ManifestReply, PullError> {
        Node::manifest(self, asked, reference, body).await
    }

    async fn listing(&self, asked: &Asked, listing: &Listing) -> Result<ListingReply, PullError> {
        Node::listing(self, asked, listing).await
    }

    async fn ping(&self, registry: &Registry, token: Option<&ClientToken>) -> Result<(), PullError> {
        Node::ping(self, registry, token).await
    }
}

/// The service of one listener. The connection layer has to add `ConnectInfo<SocketAddr>` to the requests if the
/// client's address is to be known.
pub fn router<P: Pulls>(pulls: P, settings: FrontSettings, metrics: Arc<Metrics>) -> axum::Router {
    let front = Arc::new(handlers::Front::new(pulls, settings, metrics));
    // Repository names are of any depth and may contain `manifests` and `blobs` as components, which no router can
    // express: the path is taken apart from its right end in `path`.
    axum::Router::new().fallback(handlers::serve::<P>).with_state(front)
}
