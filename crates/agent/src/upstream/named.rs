//! Registries that no configuration names, but clients do.
//!
//! Question: what is known of a registry whose name a client has chosen? Answer: its source, with all that it has learned (its
//! health, what it wants to be spared, credentials), while it is among the last that were asked for. Prevents: that made-up names
//! take memory without bound, and that they take the place of the registries that are used.
//!
//! Invariant: the labels of metrics, which are never given back, are few: the first names have their own, all others share one.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use shoal_engine::Registry;

use super::limits::{LABELLED_REGISTRIES_MAX, UNCONFIGURED_REGISTRIES_MAX};
use super::source::Source;

/// Label of all registries that have none of their own.
pub(super) const OTHER: &str = "other";

/// See the module's head.
#[derive(Default)]
pub(super) struct Named(Mutex<Table>);

#[derive(Default)]
struct Table {
    /// Each with the number of its last use.
    sources: HashMap<Registry, (Arc<Source>, u64)>,
    uses: u64,
    labelled: HashSet<Registry>,
}

impl Named {
    /// The source of a registry. One that is not known is what `make` makes with this label.
    pub fn get<E>(
        &self,
        registry: &Registry,
        make: impl FnOnce(&str) -> Result<Source, E>,
    ) -> Result<Arc<Source>, E> {
        let mut guard = self.0.lock();
        let table = &mut *guard;
        table.uses += 1;
        if let Some((source, used)) = table.sources.get_mut(registry) {
            *used = table.uses;
            return Ok(Arc::clone(source));
        }
        let has_label = table.labelled.len() < LABELLED_REGISTRIES_MAX || table.labelled.contains(registry);
        let source = Arc::new(make(if has_label { registry.as_str() } else { OTHER })?);
        if has_label {
            table.labelled.insert(registry.clone());
        }
        if table.sources.len() >= UNCONFIGURED_REGISTRIES_MAX {
            table.forget_oldest();
        }
        table.sources.insert(registry.clone(), (Arc::clone(&source), table.uses));
        Ok(source)
    }

    /// All that are known.
    pub fn all(&self) -> Vec<Arc<Source>> {
        self.0.lock().sources.values().map(|(source, _)| Arc::clone(source)).collect()
    }
}

impl Table {
    fn forget_oldest(&mut self) {
        let oldest = self.sources.iter().min_by_key(|(_, (_, used))| *used);
        if let Some(oldest) = oldest.map(|(registry, _)| registry.clone()) {
            self.sources.remove(&oldest);
        }
    }
}
