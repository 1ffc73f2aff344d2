//! The other end of the admin API: what the command line uses.

mod reach;
mod streamed;

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shoal_engine::Digest;
use tokio::net::UnixStream;
use tokio_util::task::AbortOnDropHandle;

use super::Refusal;
use super::blobs::{BlobEntry, Page, Verified};
use super::peers::Peers;
use super::status::Status;
use super::stock::{GcReport, GcRequest};
use super::warm::WarmList;
use crate::driver::BlobStory;
use crate::registry::proof::Proof;
use crate::stock::{Contents, StockAnswer, StockRequest};
use crate::warm::{WarmPlan, WarmRequest, WarmStatus};

pub use reach::RemoteError;

pub(super) use streamed::Streamed;

use reach::Reach;

/// How long an agent may take to answer on its own machine. Verifying reads the whole blob and has no limit.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Longest time for what an agent knows without looking far; the commands begin with it, so one that hangs is found soon.
const QUICK_ANSWER_MAX: Duration = Duration::from_secs(5);

/// Longest answer: a page of blobs is a quarter of a MiB.
pub(super) const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Why the agent did not do what it was asked. `at` is its socket or its address.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers there: there is no agent, or it listens elsewhere.
    #[error("no agent answers on {at}")]
    NoAgent {
        /// Where.
        at: String,
        /// What the system said.
        source: io::Error,
    },
    /// The socket belongs to somebody else.
    #[error("this user may not use {at}")]
    Denied {
        /// Where.
        at: String,
        /// What the system said.
        source: io::Error,
    },
    /// The agent left in the middle, or is not one.
    #[error("the agent on {at} did not answer the request")]
    Broken {
        /// Where.
        at: String,
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The agent is too busy, or hangs.
    #[error("the agent on {at} did not answer within {waited:?}")]
    Late {
        /// Where.
        at: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The agent has read the request and says no.
    #[error("{error}")]
    Refused {
        /// 404 for a blob that is not there, 401 where a token is wanted.
        status: StatusCode,
        /// The agent's words.
        error: String,
    },
}

/// Talks to an agent; one connection for each question.
#[derive(Clone, Debug)]
pub struct AdminClient {
    reach: Reach,
}

impl AdminClient {
    /// The agent behind a socket. Connects to nothing yet.
    pub fn new(path: &Path) -> Self {
        AdminClient { reach: Reach::Socket(path.to_owned()) }
    }

    /// The agent behind a TLS port, such as `https://node-7:5443`, with the token in a file. Its certificate is signed by `ca`,
    /// or by somebody whom this system trusts. Connects to nothing yet.
    ///
    /// # Errors
    /// What is wrong with one of them.
    pub fn remote(url: &str, token_file: &Path, ca: Option<&Path>) -> Result<Self, RemoteError> {
        Ok(AdminClient { reach: Reach::remote(url, token_file, ca)? })
    }

    /// The agent at a glance.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.ask_quickly("/v1/status").await
    }

    /// The agent's process as the kernel knows it, which an agent in a container cannot say of itself. `None` where nobody
    /// answers, and for a process of another PID namespace or of another machine.
    pub async fn agents_pid(&self) -> Option<u32> {
        let Reach::Socket(path) = &self.reach else { return None };
        let stream = tokio::time::timeout(ANSWER_MAX, UnixStream::connect(path)).await.ok()?.ok()?;
        let pid = stream.peer_cred().ok()?.pid()?;
        u32::try_from(pid).ok().filter(|pid| *pid != 0)
    }

    /// Where a blob came from.
    pub async fn explain(&self, digest: &Digest) -> Result<BlobStory, ClientError> {
        self.ask(Method::GET, &format!("/v1/blobs/{digest}/story")).await
    }

    /// What an image is made of, as far as the agent's node knows.
    pub async fn contents(&self, image: &str) -> Result<Contents, ClientError> {
        self.ask(Method::GET, &format!("/v1/contents?image={}", escaped(image))).await
    }

    /// A challenge that the agent's registry ports will answer.
    pub async fn proof(&self) -> Result<Proof, ClientError> {
        let body = self.in_time(self.request(Method::POST, "/v1/proofs")).await?;
        self.parsed(&body)
    }

    /// The members of the swarm.
    pub async fn peers(&self) -> Result<Peers, ClientError> {
        self.ask_quickly("/v1/peers").await
    }

    /// Blobs after `after`, ordered by digest.
    pub async fn blobs(&self, after: Option<&Digest>) -> Result<Page, ClientError> {
        let query = after.map_or_else(String::new, |digest| format!("?after={digest}"));
        self.ask(Method::GET, &format!("/v1/blobs{query}")).await
    }

    /// What is known of one blob.
    pub async fn blob(&self, digest: &Digest) -> Result<BlobEntry, ClientError> {
        self.ask(Method::GET, &format!("/v1/blobs/{digest}")).await
    }

    /// Removes a blob.
    pub async fn remove(&self, digest: &Digest) -> Result<(), ClientError> {
        self.tell(Method::DELETE, &format!("/v1/blobs/{digest}")).await
    }

    /// Hashes a blob; takes as long as its bytes do.
    pub async fn verify(&self, digest: &Digest) -> Result<Verified, ClientError> {
        let body = self.request(Method::POST, &format!("/v1/blobs/{digest}/verify")).await?;
        self.parsed(&body)
    }

    /// Keeps a blob from being evicted, or no longer.
    pub async fn pin(&self, digest: &Digest, pinned: bool) -> Result<(), ClientError> {
        let method = if pinned { Method::PUT } else { Method::DELETE };
        self.tell(method, &format!("/v1/blobs/{digest}/pin")).await
    }

    /// Evicts, pins or unpins images. Takes as long as the slowest member, and has no limit here.
    pub async fn stock(&self, request: &StockRequest) -> Result<StockAnswer, ClientError> {
        self.post("/v1/stock", request).await
    }

    /// Cleans up the store; takes as long as the disk does.
    pub async fn gc(&self, request: &GcRequest) -> Result<GcReport, ClientError> {
        self.post("/v1/gc", request).await
    }

    /// Begins to warm.
    pub async fn warm(&self, request: &WarmRequest) -> Result<WarmStatus, ClientError> {
        self.in_time(self.post("/v1/warm", request)).await
    }

    /// What warming would do. Takes as long as the registry and the slowest member, and has no limit here.
    pub async fn plan_warm(&self, request: &WarmRequest) -> Result<WarmPlan, ClientError> {
        self.post("/v1/warm", request).await
    }

    /// The requests to warm that the agent knows, or those of all members.
    pub async fn warm_list(&self, cluster: bool) -> Result<WarmList, ClientError> {
        match cluster {
            true => self.ask(Method::GET, "/v1/warm?cluster=true").await,
            false => self.ask(Method::GET, "/v1/warm").await,
        }
    }

    /// How far one of them is.
    pub async fn warm_status(&self, id: &str) -> Result<WarmStatus, ClientError> {
        self.ask(Method::GET, &format!("/v1/warm/{}", escaped(id))).await
    }

    /// Ends one of them.
    pub async fn cancel_warm(&self, id: &str) -> Result<(), ClientError> {
        self.tell(Method::DELETE, &format!("/v1/warm/{}", escaped(id))).await
    }

    /// How far one of them is, from now on until it is over.
    pub async fn warm_events(&self, id: &str) -> Result<WarmEvents, ClientError> {
        Ok(WarmEvents(Streamed::open(self, &format!("/v1/warm/{}/events", escaped(id))).await?))
    }

    async fn tell(&self, method: Method, target: &str) -> Result<(), ClientError> {
        self.in_time(self.request(method, target)).await.map(drop)
    }

    async fn post<T: DeserializeOwned>(
        &self,
        target: &str,
        request: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(request).map_err(|error| self.broken(error))?;
        let body = self.send(Method::POST, target, body.into()).await?;
        self.parsed(&body)
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, target: &str) -> Result<T, ClientError> {
        let body = self.in_time(self.request(method, target)).await?;
        self.parsed(&body)
    }

    pub(super) async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        self.within(ANSWER_MAX, work).await
    }

    /// For answers that begin at once.
    async fn soon<T>(&self, work: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
        self.within(QUICK_ANSWER_MAX, work).await
    }

    async fn within<T>(
        &self,
        waited: Duration,
        work: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        let late = |_| Err(ClientError::Late { at: self.reach.to_string(), waited });
        tokio::time::timeout(waited, work).await.unwrap_or_else(late)
    }

    /// Asks what an agent that is well answers at once, whatever its disk does.
    async fn ask_quickly<T: DeserializeOwned>(&self, target: &str) -> Result<T, ClientError> {
        let body = self.within(QUICK_ANSWER_MAX, self.request(Method::GET, target)).await?;
        self.parsed(&body)
    }

    pub(super) fn parsed<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(body).map_err(|error| self.broken(error))
    }

    async fn request(&self, method: Method, target: &str) -> Result<Bytes, ClientError> {
        self.send(method, target, Bytes::new()).await
    }

    async fn send(&self, method: Method, target: &str, body: Bytes) -> Result<Bytes, ClientError> {
        let (response, _connection) = self.open(method, target, body).await?;
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok(body.map_err(|error| self.broken(error))?.to_bytes())
    }

    /// Sends a request; the answer's body is still on its way, and ends with the connection.
    pub(super) async fn open(
        &self,
        method: Method,
        target: &str,
        body: Bytes,
    ) -> Result<(Response<Incoming>, AbortOnDropHandle<()>), ClientError> {
        let stream = self.reach.connect().await.map_err(|source| self.unreachable(source))?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| self.broken(error))?;
        // How it ends is seen by whoever reads from it.
        let connection = AbortOnDropHandle::new(tokio::spawn(async move { connection.await.unwrap_or(()) }));
        let mut request = Request::builder().method(method).uri(target).header("host", self.reach.host());
        if let Some(token) = self.reach.token() {
            request = request.header("authorization", token);
        }
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        let request = request.body(Full::new(body)).map_err(|error| self.broken(error))?;
        let response = sender.send_request(request).await.map_err(|error| self.broken(error))?;
        if response.status().is_success() {
            return Ok((response, connection));
        }
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| self.broken(error))?.to_bytes();
        let refusal: Result<Refusal, _> = serde_json::from_slice(&body);
        let error =
            refusal.map_or_else(|_| format!("the agent answered {}", head.status), |refusal| refusal.error);
        Err(ClientError::Refused { status: head.status, error })
    }

    fn unreachable(&self, source: io::Error) -> ClientError {
        let at = self.reach.to_string();
        match source.kind() {
            io::ErrorKind::PermissionDenied => ClientError::Denied { at, source },
            // Somebody is there whose certificate is not accepted, or who does not speak TLS.
            io::ErrorKind::InvalidData => ClientError::Broken { at, source: source.into() },
            _ => ClientError::NoAgent { at, source },
        }
    }

    pub(super) fn broken(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
        ClientError::Broken { at: self.reach.to_string(), source: source.into() }
    }
}

/// What comes of a request to warm, as it happens.
pub struct WarmEvents(Streamed);

impl WarmEvents {
    /// The next news. `None` when there are no more: after the request is over, or because the agent has ended.
    ///
    /// # Errors
    /// The agent is gone or hangs.
    pub async fn next(&mut self) -> Result<Option<WarmStatus>, ClientError> {
        let line = self.0.next(b"\n", "line").await?;
        line.map(|line| self.0.client.parsed(&line)).transpose()
    }
}

/// A word of the user's as a part of a path.
fn escaped(word: &str) -> String {
    percent_encoding::utf8_percent_encode(word, percent_encoding::NON_ALPHANUMERIC).to_string()
}
