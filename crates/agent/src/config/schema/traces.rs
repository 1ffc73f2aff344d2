//! `[traces]`

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `[traces]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Traces {
    /// The collector that takes traces of pulls, over OTLP as HTTP with protobuf (port 4318 of most). Default: unset, none. The
    /// standard `OTEL_EXPORTER_OTLP_ENDPOINT` goes before it.
    pub endpoint: Option<String>,
    /// Part of the pulls that are traced, from 0 to 1. Default: unset, what `OTEL_TRACES_SAMPLER` says, without it all. A pull
    /// whose client or member has decided already is traced as decided.
    pub ratio: Option<f64>,
    /// File with headers for the collector, one `Name: value` a line. Default: unset. Read again with each batch. Headers cannot
    /// stand in this file: most are secrets.
    pub headers_file: Option<PathBuf>,
    /// CA certificates (PEM) for it, trusted besides the system's. Default: unset. Read once, at the start.
    pub ca: Option<PathBuf>,
}
