//! What only the node itself can tell, for a file that all nodes share: its zone, its labels, its addresses, the
//! collector of traces beside it.
//!
//! Kubernetes gives a pod such facts as variables; a configuration mounted from a ConfigMap is the same on every node.
//! Invariant: a fact is checked like the key that it stands for, and an empty one says nothing; what is wrong with it is told
//! with the flag and the variable that said it, and never with a line of the file.

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

    /// The flag and the variable, of which one has said what stands under a key now; nothing if the file has.
    pub(super) fn giver(&self, key: &str) -> Option<&'static str> {
        let says = |text: &String| !text.is_empty();
        let is_advertise =
            key.strip_prefix("swarm.advertise").is_some_and(|rest| rest.is_empty() || rest.starts_with('['));
        let label = key.strip_prefix("swarm.labels.").and_then(|label| self.labels.get(label));
        match key {
            "swarm.zone" if self.zone.as_ref().is_some_and(says) => Some("--zone or SHOAL_ZONE"),
            "traces.endpoint" if self.traces.as_ref().is_some_and(says) => {
                Some("--traces or OTEL_EXPORTER_OTLP_ENDPOINT")
            }
            _ if is_advertise && self.advertise.iter().any(says) => Some("--advertise or SHOAL_ADVERTISE"),
            _ if label.is_some_and(says) => Some("--labels or SHOAL_LABELS"),
            _ => None,
        }
    }
}
