//! A pull through the agent, measured: what a runtime would wait for, request by request.
//!
//! Question: a pull was slow; what did it wait for? Answer: the requests of a runtime are made, in its order and with its
//! parallelism; each tells when it was begun, when its first byte came, when its last, and afterwards the agent tells who sent
//! the bytes. Nothing is unpacked and nothing is kept here, so what is left is the network and the agent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Client, Method, Response, StatusCode};
use serde::{Deserialize, Serialize};
use shoal_engine::{Digest, Reference};

use crate::driver::hash_function;
use crate::image::Image;
use crate::loopback;
use crate::manifest::{self, Kind, MANIFEST_BYTES_MAX, Platform};
use crate::warm::Platforms;

/// Time after which a request that brings nothing is given up: more than the agent gives itself.
const SILENCE_MAX: Duration = Duration::from_secs(120);
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
    /// A request broke off, or brought nothing for two minutes.
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
        let Some(digest) = digest else {
            return Err(PullError::Manifest { what, reason: "its answer has no digest".into() });
        };
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
        let begun_ms = self.now_ms();
        let request = self.http.request(method, url).header(ACCEPT, manifest::ACCEPT).send();
        let response = match tokio::time::timeout(SILENCE_MAX, request).await {
            Ok(Ok(response)) => response,
            Ok(Err(source)) if source.is_connect() => {
                return Err(PullError::NoAgent { mirror: self.plan.mirror.clone(), source });
            }
            Ok(Err(source)) => return Err(PullError::Broken { what, source }),
            Err(_) => return Err(silent(what)),
        };
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(Answer { response, what, begun_ms });
        }
        let said = tokio::time::timeout(SILENCE_MAX, response.text()).await;
        let said = said.ok().and_then(Result::ok).unwrap_or_default();
        Err(PullError::Status { what, status, said: in_words(said.trim()) })
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
        loop {
            let chunk = match tokio::time::timeout(SILENCE_MAX, response.chunk()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => break,
                Ok(Err(source)) => return Err(PullError::Broken { what: name, source }),
                Err(_) => return Err(silent(name)),
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

/// What a registry's error says: its message, and what each source said.
fn in_words(said: &str) -> String {
    #[derive(Deserialize)]
    struct Envelope {
        errors: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default)]
        message: String,
        #[serde(default)]
        detail: serde_json::Value,
    }
    let text = |cause: &serde_json::Value| {
        Some(format!("{}: {}", cause.get("source")?.as_str()?, cause.get("reason")?.as_str()?))
    };
    let entry = serde_json::from_str(said).ok().and_then(|of: Envelope| of.errors.into_iter().next());
    let words = entry.filter(|entry| !entry.message.is_empty()).map(|Entry { message, detail }| {
        let causes = detail.as_array().map(|causes| causes.iter().filter_map(text).collect::<Vec<_>>());
        match causes.unwrap_or_default() {
            causes if causes.is_empty() => message,
            causes => format!("{message}: {}", causes.join("; ")),
        }
    });
    words.as_deref().unwrap_or(said).chars().take(SAID_CHARS_MAX).collect()
}

fn silent(what: String) -> PullError {
    let said = format!("nothing within {} s", SILENCE_MAX.as_secs());
    PullError::Status { what, status: StatusCode::GATEWAY_TIMEOUT, said }
}

#[cfg(test)]
mod tests {
    use super::in_words;

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
