//! What travels on a data stream (docs/WIRE.md, "Pieces").
//!
//! Invariant: nothing that a member sends makes this node reserve more memory than one piece of the blob it asked for.

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use shoal_engine::{Registry, Repository, Scope};
use shoal_store::Visibility;

/// Where a stream is asked for.
pub const STREAM_PATH: &str = "/shoal/1/stream";
/// The header that proves that who asks belongs to the cluster.
pub const PROOF_HEADER: &str = "shoal-proof";
/// The header that tells which span of a trace a request belongs to (W3C Trace Context). Clients send it as well.
pub const TRACE_HEADER: &str = "traceparent";

/// A piece follows: its number, the pieces that wait behind it, its length; each a `u32`, little endian; then its bytes.
const PIECE: u8 = 0;
/// A repository that the blob is known to be in follows: how it is known, and the two names, each behind its length.
const SOURCE: u8 = 1;

/// Longest name of a registry or repository that is taken in, bytes: the bound of the distribution specification.
const NAME_BYTES_MAX: usize = 255;

/// Why a stream cannot be read any further. The sender is at fault, or the way to it.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
    /// It ended inside a record.
    #[error("the stream ended in the middle")]
    Short,
    /// What came is no record.
    #[error("what came is not a record of a stream: {0}")]
    Strange(&'static str),
}

/// What a record says.
#[derive(Debug, PartialEq, Eq)]
pub enum Record {
    /// A piece; its bytes follow.
    Piece {
        /// Its number.
        piece: u32,
        /// Pieces that wait behind it.
        backlog: u32,
        /// Its length in bytes.
        len: u32,
    },
    /// A repository that has the blob.
    Source(Scope, Visibility),
}

/// The head of a piece.
pub fn piece_head(piece: u32, backlog: u32, len: u32) -> Bytes {
    let mut head = BytesMut::with_capacity(13);
    head.put_u8(PIECE);
    head.put_u32_le(piece);
    head.put_u32_le(backlog);
    head.put_u32_le(len);
    head.freeze()
}

/// A record that names a repository; `None` for names beyond the bound, which are not passed on.
pub fn source(scope: &Scope, visibility: Visibility) -> Option<Bytes> {
    let (registry, repository) = (scope.registry.as_str(), scope.repository.as_str());
    if registry.len().max(repository.len()) > NAME_BYTES_MAX {
        return None;
    }
    let mut record = BytesMut::with_capacity(4 + registry.len() + repository.len());
    record.put_u8(SOURCE);
    record.put_u8(match visibility {
        Visibility::Private => 0,
        Visibility::Mirrored => 1,
        Visibility::Public => 2,
    });
    for name in [registry, repository] {
        record.put_u8(u8::try_from(name.len()).expect("at most 255"));
        record.put_slice(name.as_bytes());
    }
    Some(record.freeze())
}

/// Takes records out of a response's body.
pub struct Records {
    body: Incoming,
    chunk: Bytes,
}

impl Records {
    /// The records of a body.
    pub fn new(body: Incoming) -> Self {
        Records { body, chunk: Bytes::new() }
    }

    /// The next record; `None` when the stream has ended. The bytes of a piece are to be read before the next.
    ///
    /// # Errors
    /// The stream is useless from here on.
    pub async fn next(&mut self) -> Result<Option<Record>, StreamError> {
        if !self.fill().await? {
            return Ok(None);
        }
        let [kind] = self.array().await?;
        match kind {
            PIECE => {
                let [piece, backlog, len] = [self.u32().await?, self.u32().await?, self.u32().await?];
                Ok(Some(Record::Piece { piece, backlog, len }))
            }
            SOURCE => {
                let visibility = match self.array().await? {
                    [0] => Visibility::Private,
                    [1] => Visibility::Mirrored,
                    [2] => Visibility::Public,
                    [_] => return Err(StreamError::Strange("an unknown visibility")),
                };
                let registry: Option<Registry> = self.name().await?.parse().ok();
                let repository: Option<Repository> = self.name().await?.parse().ok();
                match (registry, repository) {
                    (Some(registry), Some(repository)) => {
                        Ok(Some(Record::Source(Scope { registry, repository }, visibility)))
                    }
                    _ => Err(StreamError::Strange("a name that is none")),
                }
            }
            _ => Err(StreamError::Strange("an unknown kind")),
        }
    }

    /// The bytes of a piece whose head has been read, as they came: putting them together would be a copy.
    ///
    /// # Errors
    /// The stream is useless from here on.
    pub async fn bytes(&mut self, mut len: usize) -> Result<Vec<Bytes>, StreamError> {
        let mut chunks = Vec::new();
        while len > 0 {
            if !self.fill().await? {
                return Err(StreamError::Short);
            }
            let part = self.chunk.split_to(self.chunk.len().min(len));
            len -= part.len();
            chunks.push(part);
        }
        Ok(chunks)
    }

    /// Waits until there is something in the chunk; tells whether there is, or the body has ended.
    async fn fill(&mut self) -> Result<bool, StreamError> {
        while self.chunk.is_empty() {
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.chunk = data;
                    }
                }
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    async fn array<const N: usize>(&mut self) -> Result<[u8; N], StreamError> {
        let mut array = [0; N];
        for byte in &mut array {
            if !self.fill().await? {
                return Err(StreamError::Short);
            }
            *byte = self.chunk.split_to(1)[0];
        }
        Ok(array)
    }

    async fn u32(&mut self) -> Result<u32, StreamError> {
        self.array().await.map(u32::from_le_bytes)
    }

    async fn name(&mut self) -> Result<String, StreamError> {
        let [len] = self.array().await?;
        let bytes = self.bytes(usize::from(len)).await?.concat();
        String::from_utf8(bytes).map_err(|_| StreamError::Strange("a name that is no text"))
    }
}
