//! Registries, repositories, tags and references: the names of the distribution specification, checked where they
//! enter, so that everything behind the front can rely on their form.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::ids::{Digest, DigestError};

/// Longest repository name: the specification recommends that host and name together stay within 255 characters.
pub const REPOSITORY_CHARS_MAX: usize = 255;
/// Longest tag (distribution-spec, "Pull").
pub const TAG_CHARS_MAX: usize = 128;
/// Longest registry host, port included: 253 for a DNS name, brackets and port.
pub const REGISTRY_CHARS_MAX: usize = 263;

/// Why a name was refused. The request is at fault; asking again does not help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The registry is not `host` or `host:port`.
    #[error(
        "{0:?} is not a registry host; write host or host:port, for example docker.io or registry.test:5000"
    )]
    Registry(String),
    /// The repository does not match the specification's grammar.
    #[error(
        "{0:?} is not a repository name: lower-case letters, digits and single separators (. _ __ -), components between slashes"
    )]
    Repository(String),
    /// The tag does not match the specification's grammar.
    #[error("{0:?} is not a tag: at most 128 letters, digits, _ . -, not starting with . or -")]
    Tag(String),
    /// The reference looked like a digest and was none.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

/// What is quoted back of a name that was refused; an attacker's megabyte does not belong into a log line.
fn excerpt(text: &str) -> String {
    text.chars().take(80).collect()
}

macro_rules! text_name {
    ($name:ident, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The checked text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_name!(
    Registry,
    "A registry by the name clients use: `docker.io`, `registry.test:5000`, `[::1]:5000`. Lower case."
);
text_name!(Repository, "A repository inside a registry: `library/redis`.");
text_name!(Tag, "A tag: mutable name of a manifest.");

impl Registry {
    /// Docker Hub by the name that users write and runtimes put into `ns`.
    pub const DOCKER_HUB: &'static str = "docker.io";

    /// Whether a first path component can only be a registry and not a repository: it has a dot or a port, or is
    /// `localhost` (the rule that Docker references have used from the start).
    pub fn looks_like(component: &str) -> bool {
        component == "localhost" || component.contains(['.', ':']) || component.starts_with("localhost__")
    }
}

impl FromStr for Registry {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let refused = || NameError::Registry(excerpt(text));
        if text.is_empty() || text.len() > REGISTRY_CHARS_MAX {
            return Err(refused());
        }
        let (host, port) = split_port(text).ok_or_else(refused)?;
        if let Some(port) = port {
            let well_formed = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
            if !well_formed || port.parse::<u16>().is_err() {
                return Err(refused());
            }
        }
        let valid = match host.strip_prefix('[') {
            Some(v6) => v6.strip_suffix(']').is_some_and(|a| a.parse::<std::net::Ipv6Addr>().is_ok()),
            None if ends_in_a_number(host) => host.parse::<std::net::Ipv4Addr>().is_ok(),
            None => !host.is_empty() && host.split('.').all(host_label),
        };
        if !valid {
            return Err(refused());
        }
        let lower = text.to_ascii_lowercase();
        // One registry must have one name, or its tags and rules would exist twice.
        let name = match lower.as_str() {
            "index.docker.io" | "registry-1.docker.io" | "docker.io:443" => Registry::DOCKER_HUB,
            other => other,
        };
        Ok(Registry(name.into()))
    }
}

/// Host and port; the colons of a bracketed IPv6 address belong to the host.
fn split_port(text: &str) -> Option<(&str, Option<&str>)> {
    if text.starts_with('[') {
        let close = text.find(']')?;
        let (host, rest) = text.split_at(close + 1);
        return match rest.strip_prefix(':') {
            Some(port) => Some((host, Some(port))),
            None if rest.is_empty() => Some((host, None)),
            None => None,
        };
    }
    Some(match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    })
}

/// Whether URLs take a host for an IPv4 address, right or wrong (WHATWG URL, 3.5, "ends in a number"). Only one way to write one is a
/// registry's name.
fn ends_in_a_number(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or(host);
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    let is_hex = hex.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    is_hex || !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit())
}

fn host_label(label: &str) -> bool {
    !label.is_empty()
        && label.len() <= 63
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

impl FromStr for Repository {
    type Err = NameError;

    /// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*` (distribution-spec, "Pull").
    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() > REPOSITORY_CHARS_MAX || !text.split('/').all(repository_component) {
            return Err(NameError::Repository(excerpt(text)));
        }
        Ok(Repository(text.into()))
    }
}

fn repository_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !alphanumeric(*first) || !alphanumeric(*last) {
        return false;
    }
    // Between two letters stands one separator: a dot, one or two underscores, or any number of dashes.
    bytes.split(|b| alphanumeric(*b)).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
    })
}

impl FromStr for Tag {
    type Err = NameError;

    /// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}` (distribution-spec, "Pull").
    fn from_str(text: &str) -> Result<Self, NameError> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let valid = text.len() <= TAG_CHARS_MAX
            && text.bytes().next().is_some_and(word)
            && text.bytes().all(|b| word(b) || b == b'.' || b == b'-');
        if !valid {
            return Err(NameError::Tag(excerpt(text)));
        }
        Ok(Tag(text.into()))
    }
}

/// What a manifest is asked by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reference {
    /// A mutable name.
    Tag(Tag),
    /// An immutable name.
    Digest(Digest),
}

impl FromStr for Reference {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        // A tag cannot contain a colon, so a colon can only be meant as a digest's.
        if text.contains(':') {
            Ok(Reference::Digest(text.parse()?))
        } else {
            Ok(Reference::Tag(text.parse()?))
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Tag(tag) => fmt::Display::fmt(tag, f),
            Reference::Digest(digest) => fmt::Display::fmt(digest, f),
        }
    }
}

/// A repository of a registry: where a request's content belongs to, and where upstream is asked for it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode)]
pub struct Scope {
    /// The registry by the name clients use.
    pub registry: Registry,
    /// The repository inside it.
    pub repository: Repository,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries() {
        for good in ["docker.io", "ghcr.io:443", "localhost:5000", "127.0.0.1", "[::1]:5000", "a_b.test"] {
            assert_eq!(good.parse::<Registry>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "host:",
            "host:x",
            "host:70000",
            "-a.b",
            "a..b",
            "[::1",
            "[zz]",
            "a/b",
            "user@host",
            "[::1]x",
            "a b",
            // Addresses that are none, or written in another way.
            "127.0.0.15000",
            "127.0.1",
            "127.0.0.01",
            "0x7f.0.0.1",
            "registry.0x7F",
            "300:5000",
        ] {
            assert!(bad.parse::<Registry>().is_err(), "{bad}");
        }
        assert_eq!("Index.Docker.io".parse::<Registry>().unwrap().as_str(), "docker.io");
    }

    #[test]
    fn repositories() {
        for good in ["a", "library/redis", "a.b_c__d-e---f/9", "manifests/blobs/tags"] {
            assert!(good.parse::<Repository>().is_ok(), "{good}");
        }
        for bad in ["", "/a", "a/", "a//b", "A", "a..b", "a___b", "_a", "a-", "a.-b", "ä", "../etc"] {
            assert!(bad.parse::<Repository>().is_err(), "{bad}");
        }
        assert!("a".repeat(256).parse::<Repository>().is_err());
    }

    #[test]
    fn references() {
        assert!(matches!("v1.0-rc_1".parse(), Ok(Reference::Tag(_))));
        assert!(matches!("_x".parse(), Ok(Reference::Tag(_))));
        for bad in ["", ".a", "-a", "a/b", "sha256:zz", &"a".repeat(129)] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }
}
