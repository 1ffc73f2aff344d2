//! The answer for one repository: who is asked, and, for those who wonder, who is not and why.
//!
//! Invariants: no place is asked twice; a source that is forbidden is in no plan, under whatever name a mirror would
//! lead to it.

use std::fmt;

use super::compose::{Place, Route};
use super::{Asking, Names, SourceScope, TagOrder};
use crate::location::Location;
use crate::name::Scope;

/// Who is asked for a repository's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// In the order in which they are asked.
    pub candidates: Vec<Candidate>,
    /// The narrowest source of a set that covers the repository; none where there is no such set.
    pub matched: Option<SourceScope>,
    /// The source whose mirrors are taken. Wider than `matched` if that has none of its own.
    pub decided_by: Option<SourceScope>,
    /// Who is first for tags, where a mirror is asked for them.
    pub tag_order: Option<TagOrder>,
    /// Who is not asked.
    pub left_out: Vec<LeftOut>,
}

/// Somebody who is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Whether it is the source itself.
    pub kind: CandidateKind,
    /// Where the repository is there, and under which name.
    pub scope: Scope,
    /// Whether the registry that is meant is named as well (`?ns=`): a mirror of a whole registry under its own names may
    /// mirror others, too.
    pub sends_namespace: bool,
    /// Names of the sets that list it; none for a source that no set lists.
    pub from: Names,
}

/// What somebody is who can be asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CandidateKind {
    /// The registry that the name of the image says.
    Source,
    /// A mirror, as the sets have it.
    Mirror(Location),
}

/// Somebody who is not asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Who.
    pub kind: CandidateKind,
    /// Names of the sets that list it, or that forbid it.
    pub from: Names,
    /// Why.
    pub reason: Reason,
}

/// Why somebody is not asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The source is forbidden (M3).
    NeverContactSource,
    /// Its sets do not serve this: mirrors are asked for tags only where a set says so (T1).
    NotFor(Asking),
    /// A narrower source has mirrors of its own.
    Narrower(SourceScope),
    /// The mirror has no name for this repository: nothing is left of it.
    NoNameThere,
    /// It leads to where somebody before it leads.
    SamePlace,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NeverContactSource => f.write_str("never_contact_source"),
            Reason::NotFor(Asking::Tag) => f.write_str("not asked for tags: serves = \"digests\""),
            Reason::NotFor(Asking::Digest) => f.write_str("not asked for digests: serves = \"tags\""),
            Reason::Narrower(source) => write!(f, "the mirrors of {source} apply, which is narrower"),
            Reason::NoNameThere => f.write_str("has no name for this repository: nothing is left of it"),
            Reason::SamePlace => f.write_str("leads to the same repository as one that is asked before"),
        }
    }
}

/// The plan for a repository. `covering` are the routes whose source covers it, the narrowest first.
pub(super) fn plan(covering: &[&Route], scope: &Scope, asking: Asking) -> Plan {
    let deciding_at = covering.iter().position(|route| route.has_mirrors());
    let (narrower, wider) = covering.split_at(deciding_at.map_or(covering.len(), |at| at + 1));
    let deciding = deciding_at.map(|at| covering[at]);
    let mut plan = Plan {
        candidates: Vec::new(),
        matched: covering.first().map(|route| route.source.clone()),
        decided_by: deciding.map(|route| route.source.clone()),
        tag_order: deciding
            .filter(|route| asking == Asking::Tag && has_mirrors(route, asking))
            .map(|r| r.tag_order),
        left_out: Vec::new(),
    };
    // A source without mirrors of its own may still forbid what the wider one allows, and the other way round.
    let forbidden_by: Names = narrower.iter().flat_map(|route| route.forbidden_by.iter().cloned()).collect();
    let source_alone = [Place { mirror: None, from: Vec::new() }];
    let places = deciding.map_or(&source_alone[..], |route| route.places(asking));
    for place in in_order(places, plan.tag_order) {
        plan.add(place, deciding, scope, &forbidden_by);
    }
    if let Some(route) = deciding {
        plan.leave_out_other_kinds(route, asking);
        plan.leave_out_wider(wider, route);
    }
    plan
}

fn has_mirrors(route: &Route, asking: Asking) -> bool {
    route.mirrors(asking).next().is_some()
}

/// The composed order, with the source before all others where tags ask for that (T3).
fn in_order(places: &[Place], tag_order: Option<TagOrder>) -> Vec<&Place> {
    let mut order: Vec<&Place> = places.iter().collect();
    match tag_order {
        // A stable sort by one bit: the mirrors stay as they are.
        Some(TagOrder::SourceFirst) => order.sort_by_key(|place| place.mirror.is_some()),
        Some(TagOrder::MirrorFirst) | None => {}
    }
    order
}

impl Plan {
    fn add(&mut self, place: &Place, route: Option<&Route>, scope: &Scope, forbidden_by: &Names) {
        let covered = route.and_then(|route| route.source.prefix());
        let at = match &place.mirror {
            None => Some(scope.clone()),
            Some(mirror) => mirror.place(covered, &scope.repository),
        };
        let is_source = at.as_ref() == Some(scope);
        let kind = match &place.mirror {
            Some(mirror) if !is_source => CandidateKind::Mirror(mirror.clone()),
            _ => CandidateKind::Source,
        };
        let mut leave_out = |kind, from: &Names, reason| {
            self.left_out.push(LeftOut { kind, from: from.clone(), reason });
        };
        let Some(at) = at else {
            leave_out(kind, &place.from, Reason::NoNameThere);
            return;
        };
        if is_source && !forbidden_by.is_empty() {
            leave_out(kind, forbidden_by, Reason::NeverContactSource);
            return;
        }
        if self.candidates.iter().any(|known| known.scope == at) {
            // That the source comes last by itself is nothing to tell.
            if !place.from.is_empty() {
                leave_out(kind, &place.from, Reason::SamePlace);
            }
            return;
        }
        let keeps_names = covered.is_none() && place.mirror.as_ref().is_some_and(|m| m.prefix.is_none());
        self.candidates.push(Candidate {
            sends_namespace: !is_source && keeps_names,
            kind,
            scope: at,
            from: place.from.clone(),
        });
    }

    /// The mirrors of the same source that are there for something else.
    fn leave_out_other_kinds(&mut self, route: &Route, asking: Asking) {
        let other = match asking {
            Asking::Digest => Asking::Tag,
            Asking::Tag => Asking::Digest,
        };
        for (mirror, from) in route.mirrors(other) {
            if !route.mirrors(asking).any(|(known, _)| known == mirror) {
                let kind = CandidateKind::Mirror(mirror.clone());
                self.left_out.push(LeftOut { kind, from: from.clone(), reason: Reason::NotFor(asking) });
            }
        }
    }

    /// The mirrors of wider sources.
    fn leave_out_wider(&mut self, wider: &[&Route], deciding: &Route) {
        for route in wider {
            for (mirror, from) in route.mirrors(Asking::Digest).chain(route.mirrors(Asking::Tag)) {
                let left_out = LeftOut {
                    kind: CandidateKind::Mirror(mirror.clone()),
                    from: from.clone(),
                    reason: Reason::Narrower(deciding.source.clone()),
                };
                if !self.left_out.contains(&left_out) {
                    self.left_out.push(left_out);
                }
            }
        }
    }
}
