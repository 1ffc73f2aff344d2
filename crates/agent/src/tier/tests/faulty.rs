//! A store in memory that remembers what it was asked and fails as it is told.

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An error comes at once.
    Fails,
    /// Nothing ever comes.
    Hangs,
    /// The body of a GET ends cleanly after so many bytes.
    EndsAfter(u64),
    /// Nothing comes after so many bytes of the body of a GET.
    StallsAfter(u64),
}

#[derive(Debug)]
pub struct Faulty {
    pub inner: InMemory,
    /// By the beginning of a request: `get`, `put cache/blobs`.
    faults: Mutex<BTreeMap<String, Fault>>,
    asked: Mutex<Vec<String>>,
}

impl Faulty {
    pub fn over(inner: InMemory) -> Self {
        Faulty { inner, faults: Mutex::default(), asked: Mutex::default() }
    }

    /// Requests that begin like this go wrong from now on.
    pub fn fail(&self, request: &str, fault: Fault) {
        self.faults.lock().insert(request.to_owned(), fault);
    }

    pub fn heal(&self) {
        self.faults.lock().clear();
    }

    /// What was asked since the last time.
    pub fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock())
    }

    async fn ask(&self, operation: &str, path: &Path) -> Result<Option<Fault>> {
        let request = format!("{operation} {path}");
        let fault = {
            let faults = self.faults.lock();
            faults.iter().find(|(beginning, _)| request.starts_with(*beginning)).map(|(_, fault)| *fault)
        };
        self.asked.lock().push(request);
        match fault {
            Some(Fault::Fails) => {
                Err(Error::Generic { store: "Faulty", source: "the store is out of order".into() })
            }
            Some(Fault::Hangs) => std::future::pending().await,
            other => Ok(other),
        }
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

/// The first bytes of a body, and whether it then stalls.
fn cut(
    body: BoxStream<'static, Result<Bytes>>,
    bytes: u64,
    stalls: bool,
) -> BoxStream<'static, Result<Bytes>> {
    let head = stream::once(async move {
        let all: Vec<u8> = body.map(|chunk| chunk.unwrap().to_vec()).concat().await;
        Ok(Bytes::from(all).slice(..usize::try_from(bytes).unwrap()))
    });
    if stalls { head.chain(stream::pending()).boxed() } else { head.boxed() }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.ask("put", path).await?;
        self.inner.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.ask("multipart", path).await?;
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let fault = self.ask(if options.head { "head" } else { "get" }, path).await?;
        let got = self.inner.get_opts(path, options).await?;
        let (bytes, stalls) = match fault {
            Some(Fault::EndsAfter(bytes)) => (bytes, false),
            Some(Fault::StallsAfter(bytes)) => (bytes, true),
            _ => return Ok(got),
        };
        let (meta, range) = (got.meta.clone(), got.range.clone());
        let (attributes, extensions) = (got.attributes.clone(), got.extensions.clone());
        let payload = GetResultPayload::Stream(cut(got.into_stream(), bytes, stalls));
        Ok(GetResult { payload, meta, range, attributes, extensions })
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
