//! From the name of an image to the blobs that a node needs to serve it.
//!
//! Invariant: what is listed is all that a runtime asks for when it pulls one of the chosen platforms: the index, the chosen
//! manifests, their configurations and their layers. Manifests stand last: they are on the asking node when the order goes
//! out, and their homes hear of it before anybody looks for them.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Write as _;

use shoal_engine::limits::WARM_BLOBS_MAX;
use shoal_engine::{Digest, Reference, Scope};

use crate::image::Image;
use crate::manifest::{self, Kind, ManifestError, Parsed, Platform};
use crate::node::{Node, PullError};

/// Indexes inside indexes that are followed.
const DEPTH_MAX: usize = 3;

/// Which manifests of an index are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Platforms {
    /// All of them, whatever they are for.
    All,
    /// Those for one of these. Without a variant, every variant.
    These(Vec<Platform>),
}

impl Platforms {
    /// Reads `os/architecture[/variant]` or `all`; nothing means what this agent runs on.
    ///
    /// # Errors
    /// What is no platform.
    pub fn parse(texts: &[String]) -> Result<Self, String> {
        if texts.iter().any(|text| text == "all") {
            return Ok(Platforms::All);
        }
        if texts.is_empty() {
            return Ok(Platforms::These(vec![own()]));
        }
        texts
            .iter()
            .map(|text| platform(text).ok_or_else(|| text.clone()))
            .collect::<Result<_, _>>()
            .map(Self::These)
    }

    /// What is to be said of an image that is for `there` and nothing else, if that is none of them.
    pub(crate) fn miss(&self, there: &Platform) -> Option<String> {
        match self {
            Platforms::These(wanted) if !self.fits(Some(there)) => {
                Some(format!("it is for {there} only, and not for {}", listed(wanted.iter())))
            }
            _ => None,
        }
    }

    /// Whether a manifest for `platform` is one of them.
    pub(crate) fn fits(&self, platform: Option<&Platform>) -> bool {
        match (self, platform) {
            (Platforms::All, _) => true,
            (Platforms::These(_), None) => false,
            (Platforms::These(wanted), Some(there)) => wanted.iter().any(|wanted| {
                let variant = wanted.variant.is_none() || wanted.variant == there.variant;
                wanted.os == there.os && wanted.architecture == there.architecture && variant
            }),
        }
    }
}

fn platform(text: &str) -> Option<Platform> {
    let is_word = |word: &str| {
        !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    let words: Vec<&str> = text.split('/').collect();
    if !words.iter().copied().all(is_word) {
        return None;
    }
    match words[..] {
        [os, architecture] => {
            Some(Platform { os: os.into(), architecture: architecture.into(), variant: None })
        }
        [os, architecture, variant] => {
            Some(Platform { os: os.into(), architecture: architecture.into(), variant: Some(variant.into()) })
        }
        _ => None,
    }
}

/// What this agent runs on, in the words of Go, which images use.
fn own() -> Platform {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    };
    Platform { os: std::env::consts::OS.to_owned(), architecture: architecture.to_owned(), variant: None }
}

/// An image, down to its blobs.
#[derive(Clone, Debug)]
pub(super) struct Resolved {
    pub scope: Scope,
    /// Of the index, or of the manifest where there is none.
    pub digest: Digest,
    /// The blobs and their sizes in bytes, each once.
    pub blobs: Vec<(Digest, u64)>,
    /// The configuration of an image that is in no index: nothing else says what it is for.
    pub config: Option<Digest>,
    /// What the operator should know.
    pub note: Option<String>,
}

impl Resolved {
    /// Bytes of all blobs.
    pub fn size(&self) -> u64 {
        self.blobs.iter().fold(0, |sum, (_, size)| sum.saturating_add(*size))
    }
}

/// Why an image cannot be warmed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResolveError {
    /// Its manifest cannot be had.
    #[error("{}", told(.0))]
    Pull(#[from] PullError),
    /// Its manifest cannot be read.
    #[error("its manifest cannot be read: {0}")]
    Manifest(#[from] ManifestError),
    /// It is not for the platforms that are wanted.
    #[error("it is not for {wanted}; it is for {there} (--platform)")]
    Platform {
        /// What was asked for.
        wanted: String,
        /// What there is.
        there: String,
    },
    /// It has more blobs than a warm set.
    #[error("it has {0} blobs, and {WARM_BLOBS_MAX} are warmed together; name fewer platforms")]
    TooLarge(usize),
    /// It goes on inside itself.
    #[error("its indexes are nested deeper than {DEPTH_MAX}")]
    Depth,
    /// A manifest came without its bytes.
    #[error("its manifest came without its bytes")]
    NoBytes,
}

/// The error with what the sources said.
fn told(error: &PullError) -> String {
    let mut text = error.to_string();
    let (PullError::Unknown(causes)
    | PullError::Denied(causes)
    | PullError::Withheld(causes)
    | PullError::Exhausted(causes)) = error
    else {
        return text;
    };
    for (at, cause) in causes.iter().enumerate() {
        let _ = write!(text, "{} {}: {}", if at == 0 { ":" } else { ";" }, cause.source, cause.reason);
    }
    text
}

/// Resolves an image as a client would, and fetches the manifests that are not here.
pub(super) async fn resolve(
    node: &Node,
    image: &Image,
    platforms: &Platforms,
) -> Result<Resolved, ResolveError> {
    let scope = &image.scope;
    // A name without tag and digest has the tag `latest`.
    let reference = image.reference().ok_or(ResolveError::NoBytes)?;
    let mut walk = Walk {
        node,
        scope,
        platforms,
        blobs: Vec::new(),
        manifests: Vec::new(),
        seen: BTreeSet::new(),
        config: None,
        notes: BTreeSet::new(),
    };
    let digest = walk.manifest(&reference).await?;
    if let Reference::Tag(tag) = &reference {
        node.spread_tag(scope, tag);
    }
    let Walk { mut blobs, manifests, config, notes, .. } = walk;
    blobs.extend(manifests);
    if blobs.len() > WARM_BLOBS_MAX {
        return Err(ResolveError::TooLarge(blobs.len()));
    }
    let notes: Vec<_> = notes.into_iter().collect();
    let note = Some(notes.join("; ")).filter(|note| !note.is_empty());
    Ok(Resolved { scope: scope.clone(), digest, blobs, config, note })
}

struct Walk<'w> {
    node: &'w Node,
    scope: &'w Scope,
    platforms: &'w Platforms,
    blobs: Vec<(Digest, u64)>,
    manifests: Vec<(Digest, u64)>,
    seen: BTreeSet<Digest>,
    config: Option<Digest>,
    notes: BTreeSet<String>,
}

impl Walk<'_> {
    /// Goes through a manifest and all that are below it; says the digest of the first.
    async fn manifest(&mut self, reference: &Reference) -> Result<Digest, ResolveError> {
        let mut first = None;
        let mut waiting = VecDeque::from([(reference.clone(), 0)]);
        while let Some((reference, depth)) = waiting.pop_front() {
            let reply = self.node.manifest_to_warm(self.scope, &reference).await?;
            first.get_or_insert(reply.digest);
            self.notes.extend(reply.stale);
            let bytes = reply.bytes.ok_or(ResolveError::NoBytes)?;
            if self.seen.insert(reply.digest) {
                self.manifests.push((reply.digest, reply.size));
            }
            let parsed = manifest::parse(&reply.media_type, &bytes)?;
            match parsed.kind {
                Kind::Image => {
                    self.image(&parsed);
                    let config = parsed.config.filter(|config| depth == 0 && manifest::is_config(config));
                    self.config = self.config.or(config.map(|config| config.digest));
                }
                Kind::Index if depth == DEPTH_MAX => return Err(ResolveError::Depth),
                Kind::Index => {
                    for child in self.children(&parsed, depth)? {
                        if !self.seen.contains(&child) {
                            waiting.push_back((Reference::Digest(child), depth + 1));
                        }
                    }
                }
                Kind::Other => {
                    let what =
                        format!("a manifest of type {} names no blobs that are known", reply.media_type);
                    self.notes.insert(what);
                }
            }
        }
        Ok(first.expect("the first manifest was read or an error returned"))
    }

    fn image(&mut self, parsed: &Parsed) {
        for blob in parsed.config.iter().chain(&parsed.layers) {
            if blob.is_foreign {
                self.notes
                    .insert("it has layers that are fetched from elsewhere; these are not warmed".into());
            } else if self.seen.insert(blob.digest) {
                self.blobs.push((blob.digest, blob.size));
            }
        }
    }

    fn children(&mut self, index: &Parsed, depth: usize) -> Result<Vec<Digest>, ResolveError> {
        // What is inside an index that was chosen is chosen, unless it says that it is for something else.
        let fits =
            |platform: Option<&Platform>| self.platforms.fits(platform) || (depth > 0 && platform.is_none());
        let chosen = index.children.iter().filter(|(_, platform)| fits(platform.as_ref()));
        let chosen: Vec<_> = chosen.map(|(child, _)| child.digest).collect();
        let Platforms::These(wanted) = self.platforms else { return Ok(chosen) };
        let named = || index.children.iter().filter_map(|(_, platform)| platform.as_ref());
        // Attestations are filed under a platform that nothing runs on.
        let there = || listed(named().filter(|platform| platform.os != "unknown"));
        if chosen.is_empty() {
            return Err(ResolveError::Platform { wanted: listed(wanted.iter()), there: there() });
        }
        let is_missing =
            |one: &&Platform| !named().any(|there| Platforms::These(vec![(*one).clone()]).fits(Some(there)));
        let missing: Vec<_> = wanted.iter().filter(is_missing).collect();
        if depth == 0 && !missing.is_empty() {
            self.notes.insert(format!(
                "it is not for {}; it is for {}",
                listed(missing.into_iter()),
                there()
            ));
        }
        Ok(chosen)
    }
}

/// Platforms in a sentence, each once.
fn listed<'p>(platforms: impl Iterator<Item = &'p Platform>) -> String {
    let platforms: BTreeSet<String> = platforms.map(ToString::to_string).collect();
    if platforms.is_empty() {
        return "nothing that it names".into();
    }
    platforms.into_iter().collect::<Vec<_>>().join(", ")
}
