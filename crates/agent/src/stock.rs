//! Images in the store: what of an image is on this node, and what becomes of it.
//!
//! Question: which blobs does the name of an image mean here? Answer: those that the stored manifest behind it names, as far
//! as they are stored; nobody else is asked. Prevents: an operator who wants an image gone and has to look up its layers,
//! and one who thereby takes layers from another image.
//!
//! Invariant: evicting an image leaves every blob that a manifest of another stored image names.

mod contents;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use shoal_engine::limits::WARM_BLOBS_MAX;
use shoal_engine::{Digest, Reference};
use shoal_store::{Blob, Home, Store, StoreError};

use crate::admin::openapi::DigestText;
use crate::image::{Image, ImageError};
use crate::manifest::{self, Kind, Parsed};
use crate::warm::NodeName;

pub use contents::{Contents, Part, contents};

/// Names in one request.
pub const NAMES_MAX: usize = 100;
/// Latest end of a pin, Unix seconds: the end of the year 9999.
const UNTIL_MAX: u64 = 253_402_300_799;
/// Digests that one tag may have on the nodes of a cluster: it was moved, and not all have looked since.
const MEANINGS_MAX: usize = 16;
/// Records that are read at a time while manifests are looked for.
const RECORDS_PER_READ: usize = 1000;

/// What is done with images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Deed {
    /// Nothing; only what is there is told.
    Look,
    /// They are removed, pinned or not, and tags are forgotten.
    Evict,
    /// They are kept from being evicted and from expiring.
    Pin,
    /// They may be evicted again.
    Unpin,
}

/// Something to do with images of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StockRequest {
    /// What.
    pub deed: Deed,
    /// Images as for a runtime, or digests.
    #[schema(min_items = 1, max_items = 100)]
    pub names: Vec<String>,
    /// For each name, digests that it has on other nodes; empty if that is not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Vec<DigestText>>)]
    pub also: Vec<Vec<Digest>>,
    /// For a pin: until when, in Unix seconds; without end if absent.
    #[serde(default)]
    #[schema(maximum = 253402300799_i64)]
    pub until: Option<u64>,
    /// Whether every member shall do it, and not only this one.
    #[serde(default)]
    pub cluster: bool,
}

/// Why a request about images is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StockError {
    /// A name that is none.
    #[error(transparent)]
    Name(#[from] ImageError),
    /// Nothing is named.
    #[error("no image is named")]
    Empty,
    /// Too many at a time.
    #[error("{0} images are named; at most {NAMES_MAX} at a time")]
    TooMany(usize),
    /// The pin would end in a time that no clock shows.
    #[error(
        "a pin until {0} s since 1970 ends later than {UNTIL_MAX}, the end of the year 9999; leave `until` out for one without an end"
    )]
    Until(u64),
}

/// What became of one name on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StockReport {
    /// As it was asked for.
    pub name: String,
    /// What it means on this node; nothing if that is not known here.
    #[schema(value_type = Option<DigestText>)]
    pub digest: Option<Digest>,
    /// Blobs that were removed, pinned or unpinned.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs of it that are not here.
    pub missing: u64,
    /// Blobs that stayed because another stored image has them.
    pub shared: u64,
    /// Blobs that belong to the container runtime and are left alone.
    pub runtime: u64,
    /// Of those that were removed, blobs that were pinned.
    #[serde(default)]
    pub pinned: u64,
}

/// What became of a request on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NodeStock {
    /// Which node.
    pub node: NodeName,
    /// One for each name, in the order of the request.
    pub reports: Vec<StockReport>,
    /// Why nothing is known of it.
    #[serde(default)]
    pub error: Option<String>,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StockAnswer {
    /// This node, then the others.
    pub nodes: Vec<NodeStock>,
}

/// An image, or a digest by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// Registry, repository, and tag or digest.
    Image(Image),
    /// A manifest with all it names, or one blob.
    Digest(Digest),
}

impl Name {
    /// Whether it means different things at different times.
    pub fn is_tag(&self) -> bool {
        matches!(self, Name::Image(Image { digest: None, .. }))
    }
}

impl FromStr for Name {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        match text.parse::<Digest>() {
            Ok(digest) => Ok(Name::Digest(digest)),
            Err(_) => text.parse().map(Name::Image),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Image(image) => image.fmt(f),
            Name::Digest(digest) => digest.fmt(f),
        }
    }
}

impl StockRequest {
    /// The names, all of them or none.
    ///
    /// # Errors
    /// What is no name, or too many.
    pub fn parsed(&self) -> Result<Vec<Name>, StockError> {
        if let Some(until) = self.until.filter(|until| *until > UNTIL_MAX) {
            return Err(StockError::Until(until));
        }
        match self.names.len() {
            0 => Err(StockError::Empty),
            count if count > NAMES_MAX => Err(StockError::TooMany(count)),
            _ => Ok(self.names.iter().map(|name| name.parse()).collect::<Result<_, _>>()?),
        }
    }
}

/// What the names mean on all these nodes together, for [`StockRequest::also`].
pub fn meanings(request: &StockRequest, nodes: &[NodeStock]) -> Vec<Vec<Digest>> {
    let of = |at: usize| {
        let digests = nodes.iter().filter_map(|node| node.reports.get(at)?.digest);
        digests.collect::<BTreeSet<_>>().into_iter().take(MEANINGS_MAX).collect()
    };
    (0..request.names.len()).map(of).collect()
}

/// Does it on this node. Reads and writes the disk.
///
/// # Errors
/// The store failed; what was done before stays done.
pub fn carry_out(
    store: &Store,
    names: &[Name],
    request: &StockRequest,
) -> Result<Vec<StockReport>, StoreError> {
    let until = request.until.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
    let each = |name, act: &dyn Fn(&Digest) -> Result<bool, StoreError>, holdings: &Holdings| {
        let mut report = holdings.report(name);
        for (digest, size) in &holdings.own {
            if act(digest)? {
                report.count(*size);
            }
        }
        Ok(report)
    };
    let mut reports = Vec::with_capacity(names.len());
    for (at, name) in names.iter().enumerate() {
        let also = request.also.get(at).map(Vec::as_slice).unwrap_or_default();
        let holdings = Holdings::of(store, name, also)?;
        reports.push(match request.deed {
            Deed::Look => each(name, &|_| Ok(true), &holdings)?,
            Deed::Evict => evict(store, name, &holdings)?,
            Deed::Pin => match until {
                Some(end) => each(name, &|digest| store.pin_until(digest, end), &holdings)?,
                None => each(name, &|digest| store.pin(digest), &holdings)?,
            },
            Deed::Unpin => each(name, &|digest| store.unpin(digest), &holdings)?,
        });
    }
    Ok(reports)
}

fn evict(store: &Store, name: &Name, holdings: &Holdings) -> Result<StockReport, StoreError> {
    let mut report = holdings.report(name);
    let needed = if holdings.own.len() > 1 { needed_elsewhere(store, holdings)? } else { BTreeSet::new() };
    // Before the blobs: who asks for the tag now must not be sent to what is going.
    if let Name::Image(Image { scope, tag: Some(tag), digest: None }) = name {
        store.remove_tag(scope, tag)?;
    }
    for (digest, size) in &holdings.own {
        if needed.contains(digest) && !holdings.roots.contains(digest) {
            report.shared += 1;
            continue;
        }
        let is_pinned = store.peek(digest)?.is_some_and(|info| info.pinned);
        if store.remove(digest)? {
            report.count(*size);
            report.pinned += u64::from(is_pinned);
        }
    }
    Ok(report)
}

/// What of a name is stored.
#[derive(Debug, Default)]
struct Holdings {
    /// What the name stands for.
    roots: BTreeSet<Digest>,
    /// The one that it stands for here, or else one that it stands for elsewhere and that is here.
    root: Option<Digest>,
    /// Blobs of the store, and their sizes in bytes.
    own: BTreeMap<Digest, u64>,
    /// Blobs that only the runtime has.
    runtime: BTreeSet<Digest>,
    missing: BTreeSet<Digest>,
}

impl Holdings {
    fn of(store: &Store, name: &Name, also: &[Digest]) -> Result<Self, StoreError> {
        let mut root = root(store, name)?;
        let mut roots: BTreeSet<_> = root.into_iter().collect();
        for digest in also.iter().take(MEANINGS_MAX) {
            // What a tag means elsewhere need not be here.
            if store.peek(digest)?.is_some() {
                roots.insert(*digest);
                root.get_or_insert(*digest);
            }
        }
        let mut waiting: VecDeque<_> = roots.iter().copied().collect();
        let mut holdings = Holdings { roots, root, ..Holdings::default() };
        while let Some(digest) = waiting.pop_front() {
            let Some(blob) = store.look(&digest)? else {
                holdings.missing.insert(digest);
                continue;
            };
            if !holdings.add(&blob) || holdings.len() > WARM_BLOBS_MAX {
                continue;
            }
            let Some(parsed) = read(&blob) else { continue };
            let children: Vec<_> = parsed.children.iter().map(|(child, _)| child.digest).collect();
            let mut here = Vec::new();
            for child in &children {
                if store.peek(child)?.is_some() {
                    here.push(*child);
                }
            }
            // An index names every platform; those that are not here were never wanted, unless none is.
            match (here.is_empty(), children.first()) {
                (true, Some(first)) => holdings.missing.extend([*first]),
                _ => waiting.extend(here),
            }
            for named in parsed.config.iter().chain(&parsed.layers).filter(|named| !named.is_foreign) {
                match store.peek(&named.digest)? {
                    Some(info) if info.home == Home::Own => {
                        holdings.own.insert(named.digest, info.size);
                    }
                    Some(_) => {
                        holdings.runtime.insert(named.digest);
                    }
                    None => {
                        holdings.missing.insert(named.digest);
                    }
                }
            }
        }
        Ok(holdings)
    }

    fn len(&self) -> usize {
        self.own.len() + self.runtime.len() + self.missing.len()
    }

    /// Whether it was not known.
    fn add(&mut self, blob: &Blob) -> bool {
        match blob.home {
            Home::Own => self.own.insert(blob.digest, blob.size).is_none(),
            Home::Runtime => self.runtime.insert(blob.digest),
        }
    }

    fn report(&self, name: &Name) -> StockReport {
        StockReport {
            name: name.to_string(),
            digest: self.root,
            missing: self.missing.len() as u64,
            runtime: self.runtime.len() as u64,
            ..StockReport::default()
        }
    }
}

impl StockReport {
    fn count(&mut self, bytes: u64) {
        self.blobs += 1;
        self.bytes += bytes;
    }
}

/// The digest that a name stands for on this node.
fn root(store: &Store, name: &Name) -> Result<Option<Digest>, StoreError> {
    let image = match name {
        Name::Digest(digest) => return Ok(Some(*digest)),
        Name::Image(image) => image,
    };
    match image.reference() {
        Some(Reference::Digest(digest)) => Ok(Some(digest)),
        Some(Reference::Tag(tag)) => Ok(store.tag(&image.scope, &tag)?.map(|record| record.digest)),
        None => Ok(None),
    }
}

/// Those of the blobs that manifests of other images name, also those of an index that has one of these for a child.
fn needed_elsewhere(store: &Store, holdings: &Holdings) -> Result<BTreeSet<Digest>, StoreError> {
    let mut needed = BTreeSet::new();
    let mut after = None;
    loop {
        let infos = store.list(after.as_ref(), RECORDS_PER_READ)?;
        let Some(last) = infos.last() else { return Ok(needed) };
        after = Some(last.digest);
        for info in infos.iter().filter(|info| !holdings.own.contains_key(&info.digest)) {
            // A rebuilt index has forgotten media types; then small blobs are looked into.
            let may_name = info.media_type.as_deref().map_or(info.inline, manifest::names_blobs);
            if !may_name {
                continue;
            }
            let Some(parsed) = store.look(&info.digest)?.as_ref().and_then(read) else {
                continue;
            };
            let named = parsed.descriptors().map(|named| named.digest);
            needed.extend(named.filter(|digest| holdings.own.contains_key(digest)));
        }
    }
}

/// What a stored blob names, if it is a manifest.
fn read(blob: &Blob) -> Option<Parsed> {
    if blob.media_type.as_deref().is_some_and(|media_type| !manifest::names_blobs(media_type)) {
        return None;
    }
    let bytes = manifest::stored_bytes(blob)?;
    let media_type = blob.media_type.clone().or_else(|| manifest::media_type_of(&bytes))?;
    manifest::parse(&media_type, &bytes).ok().filter(|parsed| parsed.kind != Kind::Other)
}

#[cfg(test)]
mod tests;
