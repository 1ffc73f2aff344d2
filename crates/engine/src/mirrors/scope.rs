//! Sources: what a mirror set mirrors. A registry, a part of one, or every registry below a domain.
//!
//! Invariant: of all sources that cover a repository there is one order from the narrowest to the widest, whatever
//! order they were written in.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use crate::location::{Location, below};
use crate::name::{NameError, Registry, Repository, Scope};

/// `docker.io`, `docker.io/library`, `*.example.com`, `*.example.com/team`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceScope {
    host: Host,
    prefix: Option<Repository>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Host {
    /// One registry, its port included.
    Exact(Registry),
    /// Every registry whose host lies below this domain at any depth, whatever its port. Not the domain itself.
    Below(Registry),
}

/// Why a text names no source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// A name in it is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The part that is left open is not the front of a domain.
    #[error(
        "{0:?} leaves something else open than the front of a domain; write *.example.com, without a port"
    )]
    Wildcard(String),
}

impl SourceScope {
    /// The registry, where it is one.
    pub fn registry(&self) -> Option<&Registry> {
        match &self.host {
            Host::Exact(registry) => Some(registry),
            Host::Below(_) => None,
        }
    }

    /// What every repository's name begins with that is meant.
    pub fn prefix(&self) -> Option<&Repository> {
        self.prefix.as_ref()
    }

    /// Whether a repository belongs to it.
    pub fn covers(&self, scope: &Scope) -> bool {
        let covers_host = match &self.host {
            Host::Exact(registry) => *registry == scope.registry,
            Host::Below(domain) => is_below(domain.as_str(), scope.registry.as_str()),
        };
        covers_host && self.prefix.as_ref().is_none_or(|prefix| below(prefix, &scope.repository).is_some())
    }

    /// Whether a location is this source itself. A domain's sources have no one location.
    pub fn is_at(&self, location: &Location) -> bool {
        match &self.host {
            Host::Exact(registry) => *registry == location.registry && self.prefix == location.prefix,
            Host::Below(_) => false,
        }
    }

    /// Narrower is greater: a registry before a domain, a domain before the one it lies in, then the longer prefix.
    /// Sources that cover the same repository are equal only if they are the same.
    pub fn cmp_specificity(&self, other: &Self) -> Ordering {
        let rank = |scope: &Self| {
            let (is_exact, host_chars) = match &scope.host {
                Host::Exact(registry) => (true, registry.as_str().len()),
                Host::Below(domain) => (false, domain.as_str().len()),
            };
            (is_exact, host_chars, scope.prefix.as_ref().map_or(0, |prefix| prefix.as_str().len()))
        };
        rank(self).cmp(&rank(other)).then_with(|| self.cmp(other))
    }
}

/// Whether a registry's host lies below a domain. The host of an address has no domain.
fn is_below(domain: &str, registry: &str) -> bool {
    let host = registry.split(':').next().unwrap_or_default();
    host.strip_suffix(domain).is_some_and(|front| front.ends_with('.') && front.len() > 1)
}

impl FromStr for SourceScope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        let (host, prefix) = match text.split_once('/') {
            Some((host, prefix)) => (host, Some(prefix.parse()?)),
            None => (text, None),
        };
        if !host.contains('*') {
            return Ok(SourceScope { host: Host::Exact(host.parse()?), prefix });
        }
        let refused = || ScopeError::Wildcard(text.chars().take(80).collect());
        let domain = host.strip_prefix("*.").ok_or_else(refused)?;
        let parsed: Registry = domain.parse().map_err(|_| refused())?;
        // A port, an address, or one of the names that stand for Docker Hub: none of them has registries below it.
        if parsed.as_str().contains([':', '[']) || !parsed.as_str().eq_ignore_ascii_case(domain) {
            return Err(refused());
        }
        Ok(SourceScope { host: Host::Below(parsed), prefix })
    }
}

impl fmt::Display for SourceScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Exact(registry) => fmt::Display::fmt(registry, f)?,
            Host::Below(domain) => write!(f, "*.{domain}")?,
        }
        match &self.prefix {
            Some(prefix) => write!(f, "/{prefix}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for SourceScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(text: &str) -> Scope {
        let (registry, repository) = text.split_once('/').unwrap();
        Scope { registry: registry.parse().unwrap(), repository: repository.parse().unwrap() }
    }

    #[test]
    fn what_a_source_covers() {
        let table = [
            ("docker.io", "docker.io/library/redis", true),
            ("docker.io", "quay.io/library/redis", false),
            ("docker.io/library", "docker.io/library/redis", true),
            ("docker.io/library", "docker.io/library", true),
            ("docker.io/library", "docker.io/library-of-mine/redis", false),
            ("quay.io", "quay.io:8443/a", false),
            ("quay.io", "quay.io.example.com/a", false),
            ("*.example.com", "a.example.com/x", true),
            ("*.example.com", "a.b.example.com:5000/x", true),
            ("*.example.com", "example.com/x", false),
            ("*.example.com", "not-example.com/x", false),
            ("*.example.com/team", "a.example.com/team/x", true),
            ("*.example.com/team", "a.example.com/other/x", false),
        ];
        for (source, repository, expected) in table {
            let source: SourceScope = source.parse().unwrap();
            assert_eq!(source.covers(&scope(repository)), expected, "{source} {repository}");
        }
    }

    #[test]
    fn what_is_no_source() {
        for bad in [
            "",
            "*",
            "*.",
            "**.example.com",
            "*example.com",
            "a.*.example.com",
            "*.*.example.com",
            "*.example.com:5000",
            "*.[::1]",
            "*.1",
            "*.index.docker.io",
            "docker.io/",
            "docker.io/Library",
            "docker.io/lib*",
            "https://docker.io",
        ] {
            assert!(bad.parse::<SourceScope>().is_err(), "{bad}");
        }
        for good in ["docker.io", "a.test:5000/x/y", "*.example.com", "*.example.com/team"] {
            assert_eq!(good.parse::<SourceScope>().unwrap().to_string(), good);
        }
    }

    #[test]
    fn narrower_is_greater() {
        let ascending =
            ["*.com", "*.com/a", "*.example.com", "*.example.com/team", "a.test", "a.test/x", "a.test/x/y"];
        let parsed: Vec<SourceScope> = ascending.iter().map(|text| text.parse().unwrap()).collect();
        assert!(parsed.is_sorted_by(|a, b| a.cmp_specificity(b) == Ordering::Less), "{parsed:?}");
    }
}
