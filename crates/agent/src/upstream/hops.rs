//! Loops (C17): how a request shows which agents it has passed through.
//!
//! Each agent adds itself to `Via` (RFC 9110, section 7.6.3) under a pseudonym that starts with `shoal`, behind those
//! that are there. An agent that finds itself in a request refuses it at once: it would otherwise wait for itself.

use http::header::VIA;
use http::{HeaderMap, HeaderValue};

use super::limits::HOPS_MAX;

const PSEUDONYM: &str = "shoal";

/// The agents that have forwarded a request, first one first, by the names they gave themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hops(Vec<Box<str>>);

impl Hops {
    /// The agents that have forwarded the request with these headers; no more are kept than it takes to see that they
    /// are too many.
    pub fn of(headers: &HeaderMap) -> Self {
        let lines = headers.get_all(VIA).iter().filter_map(|value| value.to_str().ok());
        let names = lines.flat_map(|line| line.split(',')).filter_map(agent).map(Box::from);
        Hops(names.take(HOPS_MAX as usize + 1).collect())
    }

    /// How many they are.
    pub fn count(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    /// Whether the agent of this name is one of them.
    pub fn include(&self, instance: &str) -> bool {
        self.0.iter().any(|name| **name == *instance)
    }

    /// The `Via` of the request that goes on from here.
    pub(super) fn via(&self, instance: &str) -> HeaderValue {
        let earlier: String = self.0.iter().map(|name| format!("1.1 {PSEUDONYM}-{name}, ")).collect();
        HeaderValue::try_from(format!("{earlier}1.1 {PSEUDONYM}-{instance}")).expect(
            "the instance's name was checked when the settings were, and the others when they were read",
        )
    }
}

/// The agent's name in `1.1 shoal-1f00`, `HTTP/1.1 shoal-1f00 (comment)`.
fn agent(entry: &str) -> Option<&str> {
    let received_by = entry.split_whitespace().nth(1)?;
    received_by.strip_prefix(PSEUDONYM)?.strip_prefix('-').filter(|name| is_instance(name))
}

/// Whether a name can stand in `Via` (RFC 9110, `token`).
pub(super) fn is_instance(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hops(lines: &[&str]) -> Hops {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(VIA, line.parse().unwrap());
        }
        Hops::of(&headers)
    }

    #[test]
    fn agents_are_counted_and_others_are_not() {
        let table: &[(&[&str], &[&str])] = &[
            (&[], &[]),
            (&["1.1 varnish"], &[]),
            (&["1.1 shoal-1f00"], &["1f00"]),
            (&["1.1 shoal-1, 1.1 varnish, 1.1 shoal-2"], &["1", "2"]),
            (&["1.1 shoal-1", "2 shoal-2 (a comment)"], &["1", "2"]),
            (&["1.1 shoals.test", "shoal", "1.1 shoal", "1.1 shoal-", "1.1 shoal-\u{e9}", ""], &[]),
        ];
        for (lines, names) in table {
            let hops = hops(lines);
            assert_eq!(hops.0.iter().map(|n| &**n).collect::<Vec<_>>(), *names, "{lines:?}");
            assert!(names.iter().all(|name| hops.include(name)) && !hops.include("other"));
        }
        assert_eq!(hops(&["1.1 shoal-1"; 100]).count(), HOPS_MAX + 1, "a long header is no long list");
    }

    #[test]
    fn every_agent_adds_itself() {
        let mut headers = HeaderMap::new();
        for before in 0..5 {
            let hops = Hops::of(&headers);
            assert_eq!(hops.count(), before);
            headers.insert(VIA, hops.via(&format!("agent-{before}")));
        }
        assert!(Hops::of(&headers).include("agent-0"));
    }
}
