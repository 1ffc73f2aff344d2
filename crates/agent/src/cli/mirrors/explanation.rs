//! What there is to say about an image's sources, as data: for people it is printed as text, for machines as JSON.
//!
//! What is configured is all that is in it. What an agent knows about its sources, such as one that it does not ask for a
//! while, belongs beside each [`Asked`].

use serde::Serialize;
use shoal_engine::mirrors::{Asking, Candidate, CandidateKind, LeftOut};

use crate::cli::Failure;
use crate::image::Image;
use crate::upstream::Settings;

/// Who is asked for an image.
#[derive(Debug, Serialize)]
pub(super) struct Explanation {
    /// The image, in full.
    pub image: String,
    /// For what may change.
    pub tags: Walk,
    /// For what has a digest.
    pub digests: Walk,
}

/// Who is asked for one kind of thing.
#[derive(Debug, Serialize)]
pub(super) struct Walk {
    /// The narrowest source of a set that covers the repository.
    pub matched: Option<String>,
    /// The source whose mirrors are taken.
    pub decided_by: Option<String>,
    /// Who is first for tags, where mirrors are asked for them.
    pub tag_order: Option<String>,
    /// In this order.
    pub asked: Vec<Asked>,
    /// Who is not.
    pub left_out: Vec<NotAsked>,
}

/// Somebody who is asked.
#[derive(Debug, Serialize)]
pub(super) struct Asked {
    /// `source` or `mirror`.
    pub kind: &'static str,
    pub registry: String,
    /// The name of the repository there.
    pub repository: String,
    pub endpoint: String,
    /// The registry that is named in `?ns=`.
    pub namespace: Option<String>,
    /// `yes`, `none`, or why those that are configured cannot be had. Never which.
    pub credentials: String,
    /// The sets that list it.
    pub sets: Vec<String>,
}

/// Somebody who is not asked.
#[derive(Debug, Serialize)]
pub(super) struct NotAsked {
    /// `the source`, or the mirror as sets have it.
    pub who: String,
    /// The sets that list or forbid it.
    pub sets: Vec<String>,
    pub reason: String,
}

impl Explanation {
    pub async fn new(image: &Image, settings: &Settings) -> Result<Self, Failure> {
        Ok(Explanation {
            image: image.to_string(),
            tags: Walk::new(image, Asking::Tag, settings).await?,
            digests: Walk::new(image, Asking::Digest, settings).await?,
        })
    }
}

impl Walk {
    async fn new(image: &Image, asking: Asking, settings: &Settings) -> Result<Self, Failure> {
        let plan = settings.mirrors.mirrors.candidates(&image.scope, asking);
        let mut asked = Vec::new();
        for candidate in &plan.candidates {
            asked.push(Asked::new(candidate, image, settings).await?);
        }
        Ok(Walk {
            matched: plan.matched.map(|source| source.to_string()),
            decided_by: plan.decided_by.map(|source| source.to_string()),
            tag_order: plan.tag_order.map(|order| order.to_string()),
            asked,
            left_out: plan.left_out.iter().map(NotAsked::new).collect(),
        })
    }
}

impl Asked {
    async fn new(candidate: &Candidate, image: &Image, settings: &Settings) -> Result<Self, Failure> {
        let registry = &candidate.scope.registry;
        let wrong = |error| Failure::Start(crate::app::StartError::Upstream(error));
        let reach = settings.reach(registry).await.map_err(wrong)?;
        Ok(Asked {
            kind: match candidate.kind {
                CandidateKind::Source => "source",
                CandidateKind::Mirror(_) => "mirror",
            },
            registry: registry.to_string(),
            repository: candidate.scope.repository.to_string(),
            endpoint: reach.endpoint.as_str().trim_end_matches('/').to_owned(),
            namespace: candidate.sends_namespace.then(|| image.scope.registry.to_string()),
            credentials: match reach.has_credentials {
                Ok(true) => "yes".to_owned(),
                Ok(false) => "none".to_owned(),
                Err(error) => format!("unusable: {}", crate::causes::chain(&*error)),
            },
            sets: candidate.from.iter().map(ToString::to_string).collect(),
        })
    }
}

impl NotAsked {
    fn new(left_out: &LeftOut) -> Self {
        NotAsked {
            who: match &left_out.kind {
                CandidateKind::Source => "the source".to_owned(),
                CandidateKind::Mirror(location) => location.to_string(),
            },
            sets: left_out.from.iter().map(ToString::to_string).collect(),
            reason: left_out.reason.to_string(),
        }
    }
}
