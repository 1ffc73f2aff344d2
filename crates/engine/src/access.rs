//! Access rules: may this be served, and who is asked for it?
//!
//! Question: a client names a registry, a repository and perhaps a tag; does the operator allow that, only as far as it is
//! on this node, not at all, or from somewhere else than its name says? Answer: the most specific rule that matches decides;
//! where none matches, everything is allowed (C18). Prevents: a rule for one product that a wider rule beside it undoes,
//! and two nodes that judge differently because their files list the same rules in another order.
//!
//! The most specific is, in this order: the one with an exact registry before `*.example.com` before `*`; with more literal
//! characters in its repository; with a tag; with more literal characters in its tag; with fewer stars; written earlier.

use std::cmp::Reverse;
use std::fmt;
use std::str::FromStr;

use crate::location::Location;
use crate::name::{NameError, REPOSITORY_CHARS_MAX, Registry, Scope, TAG_CHARS_MAX, Tag};

/// What a rule does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// Served, fetched where it is not there.
    #[default]
    Allow,
    /// Never served, whether it is there or not.
    Deny,
    /// Served from what is on the node; no source is asked.
    LocalOnly,
}

/// What a rule is about.
#[derive(Clone, PartialEq, Eq)]
pub struct Pattern {
    registry: RegistryPattern,
    /// Component by component. `**` at the end has been made `*/**`: it means everything below.
    components: Vec<Component>,
    tag: Option<Box<str>>,
    text: Box<str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum RegistryPattern {
    Any,
    /// The part behind `*`, with its dot; any depth of subdomain. Without a port it is for every port.
    Below(Box<str>),
    Exact(Registry),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Component {
    /// `**`: any number of components.
    Any,
    /// One component; its stars stand for any characters.
    One(Box<str>),
}

/// Why a text is no pattern. The configuration is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// There is no repository.
    #[error("has no repository; write registry/repository[:tag], such as \"docker.io/library/**\"")]
    NoRepository,
    /// The registry is neither a name nor a wildcard.
    #[error("registry: {0}; or write * or *.example.com")]
    Registry(#[from] NameError),
    /// The repository has something that no repository has.
    #[error(
        "the repository has lower-case letters, digits, . _ - and / only, with * for a part of one component and ** for any number of whole ones"
    )]
    Repository,
    /// The tag has something that no tag has.
    #[error("the tag has letters, digits, . _ - only, at most {TAG_CHARS_MAX}, with * for any of them")]
    Tag,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it is about.
    pub pattern: Pattern,
    /// What it does.
    pub action: Action,
    /// Where is asked instead of where the name says; for [`Action::Allow`] alone.
    pub upstream: Option<Location>,
}

/// Two rules about exactly the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rules {} and {} are both about {pattern}", first + 1, second + 1)]
pub struct RuleConflict {
    /// Place of the earlier rule, from 0.
    pub first: usize,
    /// Place of the later one.
    pub second: usize,
    /// What both are about.
    pub pattern: Pattern,
}

/// What the rules say of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// What is done.
    pub action: Action,
    /// Where is asked instead of where the name says; the repository keeps its whole name below the location's prefix.
    pub upstream: Option<Location>,
    /// The rule that decided; `None` where none matches.
    pub rule: Option<Pattern>,
}

impl Decision {
    /// Who is asked about a repository: the upstream that was chosen for it, or the registry of its name.
    pub fn origin(&self, scope: &Scope) -> Scope {
        let chosen = self.upstream.as_ref().and_then(|location| location.place(None, &scope.repository));
        chosen.unwrap_or_else(|| scope.clone())
    }
}

/// All rules, the most specific first.
#[derive(Clone, Debug, Default)]
pub struct Rules(Vec<Rule>);

impl Rules {
    /// Puts the rules of a file into their order.
    ///
    /// # Errors
    /// Every pair of rules that are about the same.
    pub fn new(mut rules: Vec<Rule>) -> Result<Self, Vec<RuleConflict>> {
        let conflict = |second: usize| {
            let pattern = &rules[second].pattern;
            let first = rules[..second].iter().position(|rule| rule.pattern.is_same(pattern))?;
            Some(RuleConflict { first, second, pattern: pattern.clone() })
        };
        let conflicts: Vec<_> = (0..rules.len()).filter_map(conflict).collect();
        if !conflicts.is_empty() {
            return Err(conflicts);
        }
        // Stable: of two with equal weight the earlier stays first.
        rules.sort_by_key(|rule| Reverse(rule.pattern.weight()));
        Ok(Rules(rules))
    }

    /// What is done with a request: for a tag if it names one; a manifest or blob by digest, and a list, are judged by
    /// their repository, and rules for tags are not about them.
    pub fn decide(&self, scope: &Scope, tag: Option<&Tag>) -> Decision {
        match self.0.iter().find(|rule| rule.pattern.matches(scope, tag)) {
            Some(rule) => Decision {
                action: rule.action,
                upstream: rule.upstream.clone(),
                rule: Some(rule.pattern.clone()),
            },
            None => Decision::default(),
        }
    }

    /// Whether there are no rules.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Pattern {
    /// Whether it is about this image.
    pub fn matches(&self, scope: &Scope, tag: Option<&Tag>) -> bool {
        let registry = match &self.registry {
            RegistryPattern::Any => true,
            RegistryPattern::Below(domain) => is_below(scope.registry.as_str(), domain),
            RegistryPattern::Exact(registry) => *registry == scope.registry,
        };
        let tagged = match (&self.tag, tag) {
            (None, _) => true,
            (Some(pattern), Some(tag)) => text_matches(pattern, tag.as_str()),
            (Some(_), None) => false,
        };
        registry && tagged && {
            let names: Vec<&str> = scope.repository.as_str().split('/').collect();
            wildcard(
                &self.components,
                &names,
                |c| *c == Component::Any,
                |component, name| match component {
                    Component::Any => unreachable!("stands for any number of components"),
                    Component::One(pattern) => text_matches(pattern, name),
                },
            )
        }
    }

    /// Whether two patterns, however they are written, are about the same.
    fn is_same(&self, other: &Pattern) -> bool {
        (&self.registry, &self.components, &self.tag) == (&other.registry, &other.components, &other.tag)
    }

    fn weight(&self) -> (u8, usize, bool, usize, Reverse<usize>) {
        let (rank, domain) = match &self.registry {
            RegistryPattern::Any => (0, 0),
            RegistryPattern::Below(domain) => (1, domain.len()),
            RegistryPattern::Exact(_) => (2, 0),
        };
        let literal = |text: &str| text.bytes().filter(|b| *b != b'*').count();
        let repository = self.text.split_once('/').map_or("", |(_, rest)| rest);
        let repository = repository.split(':').next().unwrap_or_default();
        let stars = self.text.bytes().filter(|b| *b == b'*').count();
        let tag = self.tag.as_deref();
        (rank, domain + literal(repository), tag.is_some(), tag.map_or(0, literal), Reverse(stars))
    }
}

fn is_below(registry: &str, domain: &str) -> bool {
    let has_port = |text: &str| text.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
    let host = match registry.rsplit_once(':') {
        Some((host, _)) if has_port(registry) && !has_port(domain) => host,
        _ => registry,
    };
    host.len() > domain.len() && host.ends_with(domain)
}

fn text_matches(pattern: &str, text: &str) -> bool {
    wildcard(pattern.as_bytes(), text.as_bytes(), |b| *b == b'*', |expected, found| expected == found)
}

/// Matches a sequence against a pattern in which some elements stand for any number of elements. One look back to the
/// last of these is enough, so the time is bounded by the product of the lengths. (The crates for this bring the whole
/// language of the shell along, with brackets and braces that a pattern here must not have.)
fn wildcard<P, T>(
    pattern: &[P],
    text: &[T],
    is_any: impl Fn(&P) -> bool,
    fits: impl Fn(&P, &T) -> bool,
) -> bool {
    let (mut at, mut matched, mut back) = (0, 0, None);
    while matched < text.len() {
        match pattern.get(at) {
            Some(element) if is_any(element) => {
                back = Some((at, matched));
                at += 1;
            }
            Some(element) if fits(element, &text[matched]) => {
                at += 1;
                matched += 1;
            }
            _ => {
                // The last such element stands for one more than was tried.
                let Some((any, from)) = back else { return false };
                back = Some((any, from + 1));
                at = any + 1;
                matched = from + 1;
            }
        }
    }
    pattern[at..].iter().all(is_any)
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let (registry, rest) = text.split_once('/').ok_or(PatternError::NoRepository)?;
        let (repository, tag) = match rest.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (rest, None),
        };
        let is_tag = |tag: &str| {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-' | b'*');
            !tag.is_empty() && tag.len() <= TAG_CHARS_MAX && tag.bytes().all(allowed) && !tag.contains("**")
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(PatternError::Tag);
        }
        Ok(Pattern {
            registry: registry_pattern(registry)?,
            components: components(repository)?,
            tag: tag.map(Into::into),
            text: text.into(),
        })
    }
}

fn registry_pattern(text: &str) -> Result<RegistryPattern, NameError> {
    if text == "*" {
        return Ok(RegistryPattern::Any);
    }
    match text.strip_prefix('*') {
        Some(domain) if domain.starts_with('.') => {
            // What stands behind the dot has to be a registry's name itself.
            let name: Registry = domain[1..].parse()?;
            Ok(RegistryPattern::Below(format!(".{name}").into()))
        }
        _ => Ok(RegistryPattern::Exact(text.parse()?)),
    }
}

fn components(text: &str) -> Result<Vec<Component>, PatternError> {
    let allowed =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-' | b'*' | b'/');
    if text.is_empty() {
        return Err(PatternError::NoRepository);
    }
    if text.len() > REPOSITORY_CHARS_MAX || !text.bytes().all(allowed) {
        return Err(PatternError::Repository);
    }
    let mut components = Vec::new();
    for name in text.split('/') {
        match name {
            "**" if components.last() == Some(&Component::Any) => {}
            "**" => components.push(Component::Any),
            "" => return Err(PatternError::Repository),
            name if name.contains("**") => return Err(PatternError::Repository),
            name => components.push(Component::One(name.into())),
        }
    }
    if components.last() == Some(&Component::Any) && components.len() > 1 {
        components.insert(components.len() - 1, Component::One("*".into()));
    }
    Ok(components)
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests;
