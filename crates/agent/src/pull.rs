//! A pull through the agent, measured: what a runtime would wait for, request by request.
//!
//! Question: a pull was slow; what did it wait for? Answer: the requests of a runtime are made, in its order and with its
//! parallelism; each tells when it was begun, when its first byte came, when its last, and afterwards the agent tells who sent
//! the bytes. Nothing is unpacked and nothing is kept here, so what is left is the network and the agent.

use std::error::Error as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Client, Method, Response, StatusCode};
use serde::{Deserialize, Serialize};
use shoal_engine::{Digest, Reference};

use crate::driver::hash_function;
use crate::image::Image;
use crate::loopback;
use crate::manifest::{self, Kind, MANIFEST_BYTES_MAX, Platform};
use crate::warm::Platforms;

/// What an agent that meets a deadline of its own may take to say so.
const SAYING_SO: Duration = Duration::from_secs(5);
/// Indexes inside indexes that are followed.
const DEPTH_MAX: usize = 3;
/// Most of an error's text that is repeated, in characters.
const SAID_CHARS_MAX: usize = 800;

/// What is to be pulled, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The image.
    pub image: Image,
    /// Which manifest of an index.
    pub platforms: Platforms,
    /// Where the agent listens: `http://host:port`.
    pub mirror: String,
    /// Blobs at a time.
    pub parallel: usize,
    /// How long the agent may say nothing.
    pub patience: Patience,
}

/// How long the agent may say nothing. An image that comes slowly is no reason to give up: the agent has deadlines of its
/// own, and answers when it meets one. Only an agent that hangs says nothing beyond them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    answer: Duration,
    body: Duration,
}

impl Patience {
    /// With an agent whose `registry.answer_timeout` and `registry.body_idle_timeout` these are.
    pub fn with(answer_timeout: Duration, body_idle_timeout: Duration) -> Self {
        Patience { answer: answer_timeout + SAYING_SO, body: body_idle_timeout + SAYING_SO }
    }
}

/// What a request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// What a tag points to.
    Tag,
    /// A list of manifests by platform.
    Index,
    /// One image's list of blobs.
    Manifest,
    /// Its configuration.
    Config,
    /// A part of its file system.
    Layer,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// What it was for.
    pub what: What,
    /// What it named or answered.
    pub digest: Digest,
    /// Bytes of its body.
    pub bytes: u64,
    /// When it was sent, milliseconds from the beginning of the pull.
    pub begun_ms: f64,
    /// When its first byte came.
    pub first_ms: f64,
    /// When its last byte had come and been hashed.
    pub done_ms: f64,
}

/// What a pull was like.
#[derive(Clone, Debug, PartialEq)]
pub struct Pulled {
    /// The requests, in the order in which they were sent.
    pub steps: Vec<Step>,
    /// What the image is for, if that is something else than was asked for.
    pub note: Option<String>,
}

/// How far a pull is; shared with whoever shows it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes that have come.
    pub bytes: AtomicU64,
    /// Bytes that are to come, as far as manifests have told.
    pub of: AtomicU64,
    /// What was asked for last.
    asked: Mutex<String>,
}

impl Progress {
    /// What was asked for last; nothing before the first request.
    pub fn asked(&self) -> String {
        self.asked.lock().clone()
    }
}

/// Why a pull ended early.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// Nobody listens there.
    #[error("no agent listens at {mirror}")]
    NoAgent {
        /// Where.
        mirror: String,
        /// What the system said.
        source: reqwest::Error,
    },
    /// Somebody listens there who is no agent.
    #[error("what answers at {mirror} is no registry: {reason}")]
    NoRegistry {
        /// Where.
        mirror: String,
        /// By what that is seen.
        reason: String,
    },
    /// The agent does not answer, although its own deadline is over.
    #[error("the agent at {mirror} did not answer within {waited:?} ({what})")]
    Late {
        /// Where.
        mirror: String,
        /// What was asked for.
        what: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// A body stands still, although the agent would have ended it.
    #[error("nothing came of {what} within {waited:?}")]
    Silent {
        /// What was asked for.
        what: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// A request was answered with an error.
    #[error("{what} was answered {status}: {said}")]
    Status {
        /// What was asked for.
        what: String,
        /// The answer.
        status: StatusCode,
        /// The agent's words, cut.
        said: String,
    },
    /// A request broke off.
    #[error("{what} broke off")]
    Broken {
        /// What was asked for.
        what: String,
        /// How.
        source: reqwest::Error,
    },
    /// The bytes are not what was asked for.
    #[error("the bytes of {what} do not match its digest")]
    Wrong {
        /// What was asked for.
        what: String,
    },
    /// A manifest cannot be read.
    #[error("{what} cannot be read: {reason}")]
    Manifest {
        /// Which.
        what: String,
        /// Why.
        reason: String,
    },
    /// The image is not for the wanted platform.
    #[error("the image is not for this platform; it is for {0} (--platform)")]
    Platform(String),
    /// The system does not give what an HTTP client needs.
    #[error("no HTTP client can be made: {0}")]
    Client(String),
}

/// Pulls the image.
///
/// # Errors
/// See [`PullError`]. What was asked for before is asked for no more.
pub async fn pull(plan: &Plan, progress: &Progress) -> Result<Pulled, PullError> {
    let http = loopback::client("shoal-pull").map_err(|error| PullError::Client(error.to_string()))?;
    let puller = Puller { http, plan, progress, begun: Instant::now() };
    let mut steps = Vec::new();
    let blobs = puller.manifests(&mut steps).await?;
    let mut pulled = stream::iter(blobs)
        .map(|(what, digest)| puller.blob(what, digest))
        .buffer_unordered(plan.parallel.max(1));
    let mut platform = None;
    while let Some(pulled) = pulled.next().await {
        let (step, its) = pulled?;
        steps.push(step);
        platform = platform.or(its);
    }
    steps.sort_by(|a, b| a.begun_ms.total_cmp(&b.begun_ms));
    // What is in an index was chosen by its platform.
    let is_chosen = steps.iter().any(|step| step.what == What::Index);
    let note = platform.filter(|_| !is_chosen).and_then(|there| plan.platforms.miss(&there));
    Ok(Pulled { steps, note })
}

struct Puller<'p> {
    http: Client,
    plan: &'p Plan,
    progress: &'p Progress,
    begun: Instant,
}

/// An answer whose body is still to come.
struct Answer {
    response: Response,
    what: String,
    begun_ms: f64,
}

impl Puller<'_> {
    fn now_ms(&self) -> f64 {
        self.begun.elapsed().as_secs_f64() * 1e3
    }

    /// From the name to the blobs.
    async fn manifests(&self, steps: &mut Vec<Step>) -> Result<Vec<(What, Digest)>, PullError> {
        let reference = self.plan.image.reference();
        let mut digest = match reference {
            Some(Reference::Digest(digest)) => digest,
            Some(Reference::Tag(tag)) => self.tag(&tag.to_string(), steps).await?,
            None => return Ok(Vec::new()),
        };
        for _ in 0..=DEPTH_MAX {
            let (parsed, what) = self.manifest(digest, steps).await?;
            if parsed.kind == Kind::Image {
                let named = parsed.config.iter().map(|config| (What::Config, config));
                let named = named.chain(parsed.layers.iter().map(|layer| (What::Layer, layer)));
                let named: Vec<_> = named.filter(|(_, blob)| !blob.is_foreign).collect();
                let of = named.iter().map(|(_, blob)| blob.size).sum();
                self.progress.of.fetch_add(of, Ordering::Relaxed);
                let mut blobs: Vec<_> = named.iter().map(|(what, blob)| (*what, blob.digest)).collect();
                let mut seen = std::collections::BTreeSet::new();
                blobs.retain(|(_, digest)| seen.insert(*digest));
                return Ok(blobs);
            }
            let chosen = parsed.children.iter().find(|(_, for_)| self.plan.platforms.fits(for_.as_ref()));
            digest = match chosen {
                Some((child, _)) => child.digest,
                None if parsed.kind == Kind::Index => {
                    let there = parsed.children.iter().filter_map(|(_, for_)| for_.as_ref());
                    let there: Vec<_> = there.map(ToString::to_string).collect();
                    return Err(PullError::Platform(there.join(", ")));
                }
                None => return Err(PullError::Manifest { what, reason: "it names no blobs".into() }),
            };
        }
        Err(PullError::Manifest { what: digest.to_string(), reason: "its indexes do not end".into() })
    }

    async fn tag(&self, tag: &str, steps: &mut Vec<Step>) -> Result<Digest, PullError> {
        let Answer { response, what, begun_ms } = match self.ask(Method::HEAD, "manifests", tag).await {
            // Only a GET is told why not.
            Err(PullError::Status { .. }) => self.ask(Method::GET, "manifests", tag).await?,
            answer => answer?,
        };
        let header = response.headers().get("docker-content-digest").and_then(|digest| digest.to_str().ok());
        let digest = header.and_then(|digest| digest.parse().ok());
        // An agent says it with every tag.
        let digest = digest.ok_or_else(|| self.no_registry(format!("its answer to {what} has no digest")))?;
        let done_ms = self.now_ms();
        steps.push(Step { what: What::Tag, digest, bytes: 0, begun_ms, first_ms: done_ms, done_ms });
        Ok(digest)
    }

    async fn manifest(
        &self,
        digest: Digest,
        steps: &mut Vec<Step>,
    ) -> Result<(manifest::Parsed, String), PullError> {
        let answer = self.ask(Method::GET, "manifests", &digest.to_string()).await?;
        let media_type = answer.response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = media_type.unwrap_or_default().to_owned();
        let what = answer.what.clone();
        let mut bytes = Vec::new();
        let step = self.receive(answer, What::Manifest, digest, |chunk| {
            let fits = bytes.len() + chunk.len() <= MANIFEST_BYTES_MAX;
            if fits {
                bytes.extend_from_slice(chunk);
            }
            fits
        });
        let mut step = step.await?;
        let parsed = manifest::parse(&media_type, &bytes);
        let parsed =
            parsed.map_err(|error| PullError::Manifest { what: what.clone(), reason: error.to_string() })?;
        if parsed.kind == Kind::Index {
            step.what = What::Index;
        }
        steps.push(step);
        Ok((parsed, what))
    }

    /// A configuration says what the image is for, too.
    async fn blob(&self, what: What, digest: Digest) -> Result<(Step, Option<Platform>), PullError> {
        let answer = self.ask(Method::GET, "blobs", &digest.to_string()).await?;
        let mut config = Vec::new();
        let step = self.receive(answer, what, digest, |chunk| {
            self.progress.bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            if what == What::Config && config.len() + chunk.len() <= MANIFEST_BYTES_MAX {
                config.extend_from_slice(chunk);
            }
            true
        });
        let step = step.await?;
        Ok((step, manifest::platform_of(&config)))
    }

    async fn ask(&self, method: Method, kind: &str, reference: &str) -> Result<Answer, PullError> {
        let scope = &self.plan.image.scope;
        let url = format!(
            "{}/v2/{}/{kind}/{reference}?ns={}",
            self.plan.mirror.trim_end_matches('/'),
            scope.repository,
            scope.registry
        );
        let what = format!("{scope}: {kind}/{reference}");
        self.progress.asked.lock().clone_from(&what);
        let begun_ms = self.now_ms();
        let has_body = method != Method::HEAD;
        let request = self.http.request(method, url).header(ACCEPT, manifest::ACCEPT).send();
        let (mirror, waited) = (self.plan.mirror.clone(), self.plan.patience.answer);
        let response = match tokio::time::timeout(waited, request).await {
            Ok(Ok(response)) => response,
            Ok(Err(source)) if source.is_connect() => return Err(PullError::NoAgent { mirror, source }),
            Ok(Err(source)) if is_no_http(&source) => {
                return Err(self.no_registry("it does not speak HTTP".into()));
            }
            Ok(Err(source)) => return Err(PullError::Broken { what, source }),
            Err(_) => return Err(PullError::Late { mirror, what, waited }),
        };
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(Answer { response, what, begun_ms });
        }
        let said = tokio::time::timeout(waited, response.text()).await.ok().and_then(Result::ok);
        let is_strange = said.as_deref().is_some_and(|said| entry(said).is_none());
        // A proxy before the agent may say in words of its own that the agent is gone.
        if is_strange && has_body && status.is_client_error() {
            return Err(
                self.no_registry(format!("it answered {status} to {what}, in words that no registry has"))
            );
        }
        Err(PullError::Status { what, status, said: in_words(said.unwrap_or_default().trim()) })
    }

    fn no_registry(&self, reason: String) -> PullError {
        PullError::NoRegistry { mirror: self.plan.mirror.clone(), reason }
    }

    async fn receive(
        &self,
        answer: Answer,
        what: What,
        digest: Digest,
        mut take: impl FnMut(&Bytes) -> bool,
    ) -> Result<Step, PullError> {
        let Answer { mut response, what: name, begun_ms } = answer;
        let mut hash = ring::digest::Context::new(hash_function(digest));
        let (mut bytes, mut first_ms) = (0, None);
        let waited = self.plan.patience.body;
        loop {
            let chunk = match tokio::time::timeout(waited, response.chunk()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => break,
                Ok(Err(source)) => return Err(PullError::Broken { what: name, source }),
                Err(_) => return Err(PullError::Silent { what: name, waited }),
            };
            first_ms.get_or_insert_with(|| self.now_ms());
            hash.update(&chunk);
            bytes += chunk.len() as u64;
            if !take(&chunk) {
                return Err(PullError::Manifest { what: name, reason: "it is too long".into() });
            }
        }
        if hash.finish().as_ref() != digest.hash() {
            return Err(PullError::Wrong { what: name });
        }
        let done_ms = self.now_ms();
        Ok(Step { what, digest, bytes, begun_ms, first_ms: first_ms.unwrap_or(done_ms), done_ms })
    }
}

/// Whether what came is no answer in HTTP.
fn is_no_http(error: &reqwest::Error) -> bool {
    let mut next = error.source();
    while let Some(cause) = next {
        if cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
            return true;
        }
        next = cause.source();
    }
    false
}

/// An error as registries write it.
#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    message: String,
    #[serde(default)]
    detail: serde_json::Value,
}

/// The first error of a registry's answer; nothing if it is no answer of a registry.
fn entry(said: &str) -> Option<Entry> {
    #[derive(Deserialize)]
    struct Envelope {
        errors: Vec<Entry>,
    }
    serde_json::from_str(said).ok().and_then(|of: Envelope| of.errors.into_iter().next())
}

/// What a registry's error says: its message, and what each source said.
fn in_words(said: &str) -> String {
    let text = |cause: &serde_json::Value| {
        Some(format!("{}: {}", cause.get("source")?.as_str()?, cause.get("reason")?.as_str()?))
    };
    let entry = entry(said).filter(|entry| !entry.message.is_empty());
    let words = entry.map(|Entry { message, detail }| {
        let causes = detail.as_array().map(|causes| causes.iter().filter_map(text).collect::<Vec<_>>());
        match causes.unwrap_or_default() {
            causes if causes.is_empty() => message,
            causes => format!("{message}: {}", causes.join("; ")),
        }
    });
    words.as_deref().unwrap_or(said).chars().take(SAID_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    const PATIENCE: Patience = Patience { answer: Duration::from_secs(30), body: Duration::from_secs(65) };

    fn plan(mirror: String) -> Plan {
        let (image, platforms) = ("redis:7".parse().unwrap(), Platforms::parse(&[]).unwrap());
        Plan { image, platforms, mirror, parallel: 1, patience: PATIENCE }
    }

    /// Somebody who says the same to whoever asks.
    async fn stranger(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        format!("http://{address}")
    }

    /// The kernel takes the connection; who should answer has been stopped.
    #[tokio::test(start_paused = true)]
    async fn an_agent_that_hangs_is_asked_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let plan = plan(format!("http://{}", listener.local_addr().unwrap()));
        let (begun, progress) = (tokio::time::Instant::now(), Progress::default());
        let error = pull(&plan, &progress).await.unwrap_err();
        assert!(matches!(&error, PullError::Late { waited, .. } if *waited == PATIENCE.answer), "{error}");
        assert!(error.to_string().contains(" did not answer within 30s "), "{error}");
        assert!(begun.elapsed() < 2 * PATIENCE.answer, "{:?}", begun.elapsed());
        assert_eq!(progress.asked(), "docker.io/library/redis: manifests/7");
    }

    #[tokio::test]
    async fn what_answers_may_be_no_registry() {
        let table = [
            ("SSH-2.0-OpenSSH_9.9\r\n", "does not speak HTTP"),
            ("HTTP/1.1 404 -\r\nconnection: close\r\n\r\n<html>no</html>", "answered 404"),
            ("HTTP/1.1 200 -\r\nconnection: close\r\n\r\n<html>yes</html>", "has no digest"),
        ];
        for (answer, reason) in table {
            let error = pull(&plan(stranger(answer).await), &Progress::default()).await.unwrap_err();
            assert!(matches!(error, PullError::NoRegistry { .. }), "{answer}: {error}");
            assert!(error.to_string().contains(reason), "{answer}: {error}");
        }
    }

    #[test]
    fn the_agent_has_more_time_than_it_gives_itself() {
        let seconds = Duration::from_secs;
        assert_eq!(Patience::with(seconds(25), seconds(60)), PATIENCE);
    }

    #[test]
    fn an_error_in_words() {
        let table = [
            (
                r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no source has it","detail":[{"source":"https://r.test/v2/a","reason":"answered 404"},{"source":"https://m.test","reason":"cannot connect"}]}]}"#,
                "no source has it: https://r.test/v2/a: answered 404; https://m.test: cannot connect",
            ),
            (
                r#"{"errors":[{"code":"UNKNOWN","message":"the agent is shutting down"}]}"#,
                "the agent is shutting down",
            ),
            (r#"{"errors":[]}"#, r#"{"errors":[]}"#),
            ("<html>no</html>", "<html>no</html>"),
        ];
        for (said, expected) in table {
            assert_eq!(in_words(said), expected);
        }
    }
}
