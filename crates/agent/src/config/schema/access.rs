//! `[access]`: what is served at all.

use serde::{Deserialize, Serialize};

/// `[access]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Access {
    /// What is allowed, and from where. Default: none, everything is allowed. The most specific rule that matches decides,
    /// wherever it stands.
    pub rules: Vec<AccessRule>,
}

/// `[[access.rules]]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccessRule {
    /// `registry/repository[:tag]`: `*` within a component, `**` for any number of components; the registry exact, `*` or
    /// `*.example.com`. Required. A rule with a tag is about that tag alone: the same image by its digest is judged by the
    /// repository.
    #[serde(rename = "match")]
    pub pattern: String,
    /// `allow`, `deny`, or `local-only`: served from this node, and never fetched. Default `allow`.
    pub action: AccessAction,
    /// Where is asked instead of where the name says, `host[:port][/prefix]`; the repository keeps its whole name below the
    /// prefix. Default: unset. How the host is reached stands in `upstream.registries`.
    pub upstream: Option<String>,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccessAction {
    /// Served and fetched.
    #[default]
    Allow,
    /// Not served.
    Deny,
    /// Served as far as it is here.
    LocalOnly,
}
