//! Loops (C17): how a request shows which agents it has passed through.
//!
//! Each agent adds itself to `Via` (RFC 9110, section 7.6.3) under a pseudonym that starts with `shoal`. Agents in
//! front of this one are known by number only, so they are repeated without their names.

use http::header::VIA;
use http::{HeaderMap, HeaderValue};

const PSEUDONYM: &str = "shoal";

/// How many agents have forwarded the request that carries these headers.
pub fn hops_of(headers: &HeaderMap) -> u32 {
    let count = headers
        .get_all(VIA)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter(|entry| is_agent(entry))
        .count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// `1.1 shoal`, `HTTP/1.1 shoal-1f00 (comment)`.
fn is_agent(entry: &str) -> bool {
    let received_by = entry.split_whitespace().nth(1).unwrap_or_default();
    received_by == PSEUDONYM || received_by.strip_prefix(PSEUDONYM).is_some_and(|rest| rest.starts_with('-'))
}

/// The `Via` of a request that has passed `before` agents and now passes this one.
pub(super) fn via(before: u32, instance: &str) -> HeaderValue {
    let earlier = format!("1.1 {PSEUDONYM}, ").repeat(before as usize);
    HeaderValue::try_from(format!("{earlier}1.1 {PSEUDONYM}-{instance}"))
        .expect("the instance's name was checked when the settings were")
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

    #[test]
    fn agents_are_counted_and_others_are_not() {
        let table: &[(&[&str], u32)] = &[
            (&[], 0),
            (&["1.1 varnish"], 0),
            (&["1.1 shoal-1f00"], 1),
            (&["1.1 shoal, 1.1 varnish, 1.1 shoal-2"], 2),
            (&["1.1 shoal-1", "2 shoal-2 (a comment)"], 2),
            (&["1.1 shoals.test", "shoal", ""], 0),
        ];
        for (lines, hops) in table {
            let mut headers = HeaderMap::new();
            for line in *lines {
                headers.append(VIA, line.parse().unwrap());
            }
            assert_eq!(hops_of(&headers), *hops, "{lines:?}");
        }
    }

    #[test]
    fn every_agent_adds_one() {
        let mut headers = HeaderMap::new();
        for hops in 0..5 {
            assert_eq!(hops_of(&headers), hops);
            headers.insert(VIA, via(hops_of(&headers), "1f00"));
        }
    }
}
