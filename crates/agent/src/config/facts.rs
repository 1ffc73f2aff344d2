//! What only the node itself can tell, for a file that all nodes share: its zone, its labels, its addresses, the
//! collector of traces beside it.
//!
//! Kubernetes gives a pod such facts as variables; a configuration mounted from a ConfigMap is the same on every node.
//! Invariant: a fact is checked like the key that it stands for, and an empty one says nothing.

use std::collections::BTreeMap;

use super::schema;

/// Facts about this node; each goes before its key in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// For `swarm.zone`.
    pub zone: Option<String>,
    /// Added to `swarm.labels`, in place of one that has the same key there.
    pub labels: BTreeMap<String, String>,
    /// For `swarm.advertise`.
    pub advertise: Vec<String>,
    /// For `traces.endpoint`.
    pub traces: Option<String>,
}

impl NodeFacts {
    /// Puts the facts where the file has its keys.
    pub(super) fn apply(&self, file: &mut schema::File) {
        let swarm = &mut file.swarm;
        if let Some(zone) = self.zone.as_ref().filter(|zone| !zone.is_empty()) {
            swarm.zone.clone_from(zone);
        }
        let labels = self.labels.iter().filter(|(_, value)| !value.is_empty());
        swarm.labels.extend(labels.map(|(key, value)| (key.clone(), value.clone())));
        let advertise: Vec<String> = self.advertise.iter().filter(|a| !a.is_empty()).cloned().collect();
        if !advertise.is_empty() {
            swarm.advertise = advertise;
        }
        if let Some(endpoint) = self.traces.as_ref().filter(|endpoint| !endpoint.is_empty()) {
            file.traces.endpoint = Some(endpoint.clone());
        }
    }
}
