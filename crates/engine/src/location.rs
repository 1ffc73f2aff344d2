//! Locations: where a repository is kept, when that is not where its name says.
//!
//! Question: a mirror, or an upstream that an operator has chosen, keeps `docker.io/library/redis` somewhere else; under
//! which name is it asked for there? Answer: what the source's prefix covers is taken off, the location's own prefix is
//! put before the rest, component by component. Prevents: `docker.io/library` covering `docker.io/library-of-mine`.

use std::fmt;
use std::str::FromStr;

use crate::name::{NameError, Registry, Repository, Scope};

/// `host[:port][/prefix]`: a registry, or a part of one. Written without a scheme; how the host is reached is set where
/// registries are (`contract.md` 3.1).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// The registry.
    pub registry: Registry,
    /// What stands before every repository's name there.
    pub prefix: Option<Repository>,
}

impl Location {
    /// The name under which `repository` is kept here, if what `covered` names is kept at this location. `None` when
    /// `covered` does not cover the repository, or nothing would be left to ask for.
    pub fn place(&self, covered: Option<&Repository>, repository: &Repository) -> Option<Scope> {
        let rest = match covered {
            None => Some(repository.as_str()),
            Some(covered) => below(covered, repository)?,
        };
        let name = match (&self.prefix, rest) {
            (Some(prefix), Some(rest)) => format!("{prefix}/{rest}").parse().ok()?,
            (Some(prefix), None) => prefix.clone(),
            (None, Some(rest)) => rest.parse().ok()?,
            (None, None) => return None,
        };
        Some(Scope { registry: self.registry.clone(), repository: name })
    }
}

/// What is left of a repository's name below a prefix: `Some(None)` where both are the same, `None` where it does not
/// lie below.
pub fn below<'a>(prefix: &Repository, repository: &'a Repository) -> Option<Option<&'a str>> {
    match repository.as_str().strip_prefix(prefix.as_str())? {
        "" => Some(None),
        rest => rest.strip_prefix('/').map(Some),
    }
}

impl FromStr for Location {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (registry, prefix) = match text.split_once('/') {
            Some((registry, prefix)) => (registry, Some(prefix.parse()?)),
            None => (text, None),
        };
        Ok(Location { registry: registry.parse()?, prefix })
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.prefix {
            Some(prefix) => write!(f, "{}/{prefix}", self.registry),
            None => fmt::Display::fmt(&self.registry, f),
        }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_repository_is_kept() {
        let table = [
            ("m.test", None, "library/redis", Some("m.test/library/redis")),
            ("m.test:5000/hub", None, "library/redis", Some("m.test:5000/hub/library/redis")),
            ("m.test/hub", Some("library"), "library/redis", Some("m.test/hub/redis")),
            ("m.test", Some("library"), "library/redis", Some("m.test/redis")),
            ("m.test/hub/redis", Some("library/redis"), "library/redis", Some("m.test/hub/redis")),
            ("m.test", Some("library/redis"), "library/redis", None),
            ("m.test/hub", Some("library"), "library-of-mine/redis", None),
            ("m.test/hub", Some("library"), "other/redis", None),
        ];
        for (location, covered, repository, expected) in table {
            let covered: Option<Repository> = covered.map(|text| text.parse().unwrap());
            let found = location
                .parse::<Location>()
                .unwrap()
                .place(covered.as_ref(), &repository.parse().unwrap())
                .map(|scope| scope.to_string());
            assert_eq!(found.as_deref(), expected, "{location} {covered:?} {repository}");
        }
    }

    #[test]
    fn what_is_no_location() {
        for bad in ["", "https://m.test", "m.test/", "m.test/Hub", "/hub", "m.test//hub"] {
            assert!(bad.parse::<Location>().is_err(), "{bad}");
        }
        assert_eq!("M.test/hub".parse::<Location>().unwrap().to_string(), "m.test/hub");
    }
}
