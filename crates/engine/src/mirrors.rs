//! Mirrors: which places are asked for a repository's content, and in which order.
//!
//! Question: several mirror sets speak of one source, some for digests only, some for tags as well; who is asked, in
//! which order? Answer: the most specific source that covers the repository decides; its sets are composed into one
//! order that is the same on every node; the source itself stands last for digests, and first for tags unless the
//! operator says otherwise. Prevents: nodes that ask in different orders, a tag that moves back because a mirror lags
//! behind (T4), and a source that is asked although it must never be (M1-M4, T1-T3 of `contract.md` 1c).

mod compose;
mod order;
mod plan;
mod scope;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::location::Location;
use crate::name::{Registry, Scope};

pub use compose::MirrorConflict;
pub use plan::{Candidate, CandidateKind, LeftOut, Plan, Reason};
pub use scope::{ScopeError, SourceScope};

use compose::Route;

/// Most sets: an OpenShift cluster with every operator catalogue mirrored has some hundreds.
pub const SETS_MAX: usize = 4096;
/// Most mirrors in one set: each that fails costs a walk its time.
pub const MIRRORS_PER_SET_MAX: usize = 64;

/// What the mirrors of a set may be asked for. Tags are a matter of trust: whoever writes a mirror's tags chooses what
/// runs (T5), while a digest can only be answered rightly or not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Serves {
    /// What has a digest: blobs, and manifests by digest.
    #[default]
    Digests,
    /// What may change: tags, tag lists and referrers.
    Tags,
    /// Both.
    All,
}

impl Serves {
    /// Whether such a question is among them.
    pub const fn includes(self, asking: Asking) -> bool {
        match (self, asking) {
            (Serves::All, _) | (Serves::Digests, Asking::Digest) | (Serves::Tags, Asking::Tag) => true,
            (Serves::Digests, Asking::Tag) | (Serves::Tags, Asking::Digest) => false,
        }
    }
}

/// Who is asked first about what may change, where mirrors are asked at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TagOrder {
    /// The source, so that a mirror that lags behind is seen only in an outage.
    #[default]
    SourceFirst,
    /// The mirrors, in their composed order.
    MirrorFirst,
}

/// What a walk does when a mirror refuses with a status that is no failure of its own (401, 403, ...).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnDenied {
    /// The walk ends: a mirror that refuses is configured wrongly, and going on would hide it.
    #[default]
    Stop,
    /// The next source is asked.
    Continue,
}

/// The word that configuration has for it.
macro_rules! words {
    ($name:ident, $($variant:ident => $word:literal),+) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $($name::$variant => $word,)+ })
            }
        }
    };
}

words!(Serves, Digests => "digests", Tags => "tags", All => "all");
words!(TagOrder, SourceFirst => "source-first", MirrorFirst => "mirror-first");
words!(OnDenied, Stop => "stop", Continue => "continue");

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asking {
    /// Something named by its digest.
    Digest,
    /// Something that may change: a tag, a tag list, a list of referrers.
    Tag,
}

/// Mirrors of one source, the preferred one first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorSet {
    /// How messages call it.
    pub name: String,
    /// What is mirrored.
    pub source: SourceScope,
    /// Where. The source itself may stand among them: it is then asked at that place instead of last.
    pub mirrors: Vec<Location>,
    /// What they may be asked for.
    pub serves: Serves,
    /// Who is asked first for tags; none leaves it to the other sets of the source.
    pub tag_order: Option<TagOrder>,
    /// Whether the source is asked for nothing at all (M3).
    pub never_contact_source: bool,
}

impl MirrorSet {
    /// The mirrors that are not the source itself.
    pub fn real_mirrors(&self) -> impl Iterator<Item = &Location> {
        self.mirrors.iter().filter(|mirror| !self.source.is_at(mirror))
    }
}

/// All sets, composed. The default has none: every repository is asked at its source alone.
#[derive(Clone, Debug, Default)]
pub struct Mirrors {
    /// What is known of each registry that is named in full, the narrowest source first.
    exact: BTreeMap<Registry, Vec<Route>>,
    /// What is known of the domains below which any registry is meant, the narrowest source first.
    below: Vec<Route>,
    locations: BTreeSet<Location>,
}

impl Mirrors {
    /// Composes sets. The result does not depend on their order.
    ///
    /// # Errors
    /// Every contradiction between sets. The operator is at fault.
    pub fn new(sets: Vec<MirrorSet>) -> Result<Mirrors, Vec<MirrorConflict>> {
        let locations = sets.iter().flat_map(MirrorSet::real_mirrors).cloned().collect();
        let (mut exact, mut below) = (BTreeMap::<Registry, Vec<Route>>::new(), Vec::new());
        for route in compose::routes(sets)? {
            match route.source.registry() {
                Some(registry) => exact.entry(registry.clone()).or_default().push(route),
                None => below.push(route),
            }
        }
        for routes in exact.values_mut().chain(std::iter::once(&mut below)) {
            routes.sort_by(|a, b| b.source.cmp_specificity(&a.source));
        }
        Ok(Mirrors { exact, below, locations })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.below.is_empty()
    }

    /// Every mirror, once.
    pub fn locations(&self) -> impl Iterator<Item = &Location> {
        self.locations.iter()
    }

    /// Who is asked for a repository's content, in that order. Empty where the source is never asked and no mirror may
    /// be.
    pub fn candidates(&self, scope: &Scope, asking: Asking) -> Plan {
        // From the narrowest source to the widest; a name in full before a domain.
        let covering: Vec<&Route> = self
            .exact
            .get(&scope.registry)
            .into_iter()
            .flatten()
            .chain(&self.below)
            .filter(|route| route.source.covers(scope))
            .collect();
        plan::plan(&covering, scope, asking)
    }
}

/// Names of sets, shared by everything that came from them.
type Names = Vec<Arc<str>>;
