//! From sets to one route for each source, and what stands in the way of that.
//!
//! Invariant: a route does not depend on the order in which sets were given; sets that contradict each other give no
//! route at all, because either reading would be somebody's surprise (M4).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::order::Precedence;
use super::{Asking, MirrorSet, Names, Serves, SourceScope, TagOrder};
use crate::location::Location;

/// Why sets cannot be composed. The operator is at fault; nothing has been changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MirrorConflict {
    /// One set is for everything, another for a part of it (M4): it cannot be told whether the part was meant as a limit.
    #[error(
        "sets {all} and {part} both mirror {source_scope}, {all} for everything and {part} for {serves} only; give {all} serves = \"digests\" or \"tags\", or {part} serves = \"all\""
    )]
    Serves {
        /// The source of both.
        source_scope: SourceScope,
        /// The set for everything.
        all: String,
        /// The set for a part.
        part: String,
        /// Which part.
        serves: Serves,
    },
    /// One set forbids the source, another does not.
    #[error(
        "sets {never} and {allowed} both mirror {source_scope}, and only {never} says never_contact_source; say the same in both"
    )]
    NeverContactSource {
        /// The source of both.
        source_scope: SourceScope,
        /// The set that forbids it.
        never: String,
        /// The set that does not.
        allowed: String,
    },
    /// One set wants the source first for tags, another the mirrors.
    #[error(
        "sets {source_first} and {mirror_first} both mirror {source_scope}, one with tag_order = \"source-first\", the other with \"mirror-first\"; say the same in both"
    )]
    TagOrder {
        /// The source of both.
        source_scope: SourceScope,
        /// The set that wants the source first.
        source_first: String,
        /// The set that wants the mirrors first.
        mirror_first: String,
    },
    /// One set forbids the source and lists it among the mirrors.
    #[error(
        "set {set} says never_contact_source and has its source {source_scope} among its mirrors; remove one of them"
    )]
    ForbiddenAndListed {
        /// The source.
        source_scope: SourceScope,
        /// The set.
        set: String,
    },
}

impl MirrorConflict {
    /// The sets that contradict each other: two, or one that contradicts itself.
    pub fn sets(&self) -> Vec<&str> {
        match self {
            MirrorConflict::Serves { all, part, .. } => vec![all, part],
            MirrorConflict::NeverContactSource { never, allowed, .. } => vec![never, allowed],
            MirrorConflict::TagOrder { source_first, mirror_first, .. } => vec![source_first, mirror_first],
            MirrorConflict::ForbiddenAndListed { set, .. } => vec![set],
        }
    }
}

/// What all sets of one source say together.
#[derive(Clone, Debug)]
pub(super) struct Route {
    /// What is mirrored.
    pub source: SourceScope,
    /// Whom to ask for what has a digest; the source among them.
    pub digests: Vec<Place>,
    /// Whom to ask for what may change; the source among them. Still in the composed order.
    pub tags: Vec<Place>,
    /// Who is first for tags.
    pub tag_order: TagOrder,
    /// The sets that forbid the source; it is forbidden if there is one.
    pub forbidden_by: Names,
}

/// One place of a composed order.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The mirror; none is the source.
    pub mirror: Option<Location>,
    /// The sets that list it.
    pub from: Names,
}

impl Route {
    /// The composed order.
    pub fn places(&self, asking: Asking) -> &[Place] {
        match asking {
            Asking::Digest => &self.digests,
            Asking::Tag => &self.tags,
        }
    }

    /// The mirrors of an order.
    pub fn mirrors(&self, asking: Asking) -> impl Iterator<Item = (&Location, &Names)> {
        self.places(asking).iter().filter_map(|place| Some((place.mirror.as_ref()?, &place.from)))
    }

    /// Whether it has a mirror for anything.
    pub fn has_mirrors(&self) -> bool {
        [Asking::Digest, Asking::Tag].into_iter().any(|asking| self.mirrors(asking).next().is_some())
    }
}

/// One route for each source.
pub(super) fn routes(sets: Vec<MirrorSet>) -> Result<Vec<Route>, Vec<MirrorConflict>> {
    let mut by_source: BTreeMap<SourceScope, Vec<MirrorSet>> = BTreeMap::new();
    for set in sets {
        by_source.entry(set.source.clone()).or_default().push(set);
    }
    let mut conflicts = Vec::new();
    let mut routes = Vec::new();
    for (source, mut sets) in by_source {
        sets.sort_by(|a, b| (&a.name, &a.mirrors).cmp(&(&b.name, &b.mirrors)));
        find_conflicts(&source, &sets, &mut conflicts);
        routes.push(route(source, &sets));
    }
    if conflicts.is_empty() { Ok(routes) } else { Err(conflicts) }
}

fn route(source: SourceScope, sets: &[MirrorSet]) -> Route {
    let forbidding = sets.iter().filter(|set| set.never_contact_source);
    Route {
        digests: compose(&source, sets, Asking::Digest),
        tags: compose(&source, sets, Asking::Tag),
        tag_order: with_mirrors(sets).find_map(|set| set.tag_order).unwrap_or_default(),
        forbidden_by: forbidding.map(|set| set.name.as_str().into()).collect(),
        source,
    }
}

/// The sets that have a mirror besides the source; the others are none (M2).
fn with_mirrors(sets: &[MirrorSet]) -> impl Iterator<Item = &MirrorSet> {
    sets.iter().filter(|set| set.real_mirrors().next().is_some())
}

fn compose(source: &SourceScope, sets: &[MirrorSet], asking: Asking) -> Vec<Place> {
    let source_name = source.to_string();
    // Names as they are written, so that the order is the one that an operator would work out on paper.
    let mut places: BTreeMap<String, Place> = BTreeMap::new();
    places.insert(source_name.clone(), Place { mirror: None, from: Vec::new() });
    let mut listed: Vec<Vec<String>> = Vec::new();
    for set in with_mirrors(sets).filter(|set| set.serves.includes(asking)) {
        let name: Arc<str> = set.name.as_str().into();
        listed.push(set.mirrors.iter().map(Location::to_string).collect());
        for mirror in &set.mirrors {
            let is_source = source.is_at(mirror);
            let place = places
                .entry(mirror.to_string())
                .or_insert_with(|| Place { mirror: (!is_source).then(|| mirror.clone()), from: Vec::new() });
            if !place.from.contains(&name) {
                place.from.push(Arc::clone(&name));
            }
        }
    }
    let mut precedence = Precedence::new(&source_name);
    for mirrors in &listed {
        precedence.add(&mirrors.iter().map(String::as_str).collect::<Vec<_>>());
    }
    precedence.sorted().into_iter().filter_map(|name| places.get(name).cloned()).collect()
}

/// At most one conflict of each kind: the rest of a long list says nothing new.
fn find_conflicts(source: &SourceScope, sets: &[MirrorSet], conflicts: &mut Vec<MirrorConflict>) {
    let name = |set: &MirrorSet| set.name.clone();
    let never = sets.iter().find(|set| set.never_contact_source);
    let allowed = sets.iter().find(|set| !set.never_contact_source);
    if let (Some(never), Some(allowed)) = (never, allowed) {
        conflicts.push(MirrorConflict::NeverContactSource {
            source_scope: source.clone(),
            never: name(never),
            allowed: name(allowed),
        });
    }
    for set in sets.iter().filter(|set| set.never_contact_source) {
        if set.mirrors.iter().any(|mirror| source.is_at(mirror)) {
            conflicts
                .push(MirrorConflict::ForbiddenAndListed { source_scope: source.clone(), set: name(set) });
        }
    }
    let all = with_mirrors(sets).find(|set| set.serves == Serves::All);
    let part = with_mirrors(sets).find(|set| set.serves != Serves::All);
    if let (Some(all), Some(part)) = (all, part) {
        conflicts.push(MirrorConflict::Serves {
            source_scope: source.clone(),
            all: name(all),
            part: name(part),
            serves: part.serves,
        });
    }
    let wants = |order| with_mirrors(sets).find(move |set| set.tag_order == Some(order));
    if let (Some(source_first), Some(mirror_first)) =
        (wants(TagOrder::SourceFirst), wants(TagOrder::MirrorFirst))
    {
        conflicts.push(MirrorConflict::TagOrder {
            source_scope: source.clone(),
            source_first: name(source_first),
            mirror_first: name(mirror_first),
        });
    }
}
