//! Which nodes? All of them, those with certain labels or in certain zones, and of these some.
//!
//! Invariant: the same members and the same words give the same nodes, so that a request that is made again meets those that
//! are warm already; of which some are wanted, these are spread over the zones.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use shoal_engine::peer::Member;

use crate::swarm::name;

/// The key that stands for the zone; every other one is a label.
pub const ZONE: &str = "zone";
/// Least part of a member's name that selects it.
const NAME_MIN: usize = 6;
/// Values of a label that an error lists.
const SHOWN_MAX: usize = 12;

/// A choice of nodes. What it does not say excludes nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    /// IP addresses, or beginnings of names, as `shoal peers` shows them.
    #[serde(default)]
    pub names: Vec<String>,
    /// Labels, and `zone`: a node has one of the values of each key.
    #[serde(default)]
    pub labels: BTreeMap<String, BTreeSet<String>>,
    /// At most so many of them.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub count: Option<usize>,
    /// So many of a hundred of them, rounded up.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 100)]
    pub percent: Option<u8>,
}

/// A label as it is written: `zone=eu-1a`.
///
/// # Errors
/// How to write it.
pub fn term(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => Ok((key.into(), value.into())),
        _ => Err("write it as key=value, such as zone=eu-1a or pool=gpu".into()),
    }
}

/// Labels for [`Selection::labels`]: one key twice means either value.
pub fn labelled(terms: impl IntoIterator<Item = (String, String)>) -> BTreeMap<String, BTreeSet<String>> {
    let mut labels: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (key, value) in terms {
        labels.entry(key).or_default().insert(value);
    }
    labels
}

/// Why no nodes can be chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// Both a number and a part.
    #[error("both a count and a percentage of nodes are given; give one of them")]
    Both,
    /// None of them, or more than all.
    #[error("{0} is no number of nodes; it must be 1 or more, and a percentage 100 or less")]
    Number(usize),
    /// What is no name.
    #[error(
        "{0:?} is no node's name; give an IP address, or at least {NAME_MIN} digits of a name as `shoal peers` shows \
         them, or \"all\""
    )]
    Name(String),
    /// Too little of a name.
    #[error(
        "{0} is too short for a node's name: give at least {NAME_MIN} digits, as `shoal peers` shows them"
    )]
    Short(String),
    /// Nobody has this name.
    #[error("no member's name begins with {0}; `shoal peers` lists them")]
    NoSuchName(String),
    /// Nobody is there.
    #[error("no member is at {0}; `shoal peers` lists their addresses")]
    NoSuchAddress(IpAddr),
    /// Nobody has this label, or the key is not known at all.
    #[error("no member has {key}={value}; there is {there}")]
    NoSuchLabel {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// What there is instead.
        there: String,
    },
    /// Each label is somebody's, but all of them are nobody's.
    #[error("no member has all of {0}")]
    NoneLeft(String),
}

impl Selection {
    /// Chooses among members.
    ///
    /// # Errors
    /// Nobody is left, or the words make no sense.
    pub fn choose(&self, members: &[Arc<Member>]) -> Result<Vec<Arc<Member>>, SelectError> {
        if self.count.is_some() && self.percent.is_some() {
            return Err(SelectError::Both);
        }
        for text in &self.names {
            let address = text.parse::<IpAddr>().ok();
            if address.is_none() {
                check_name(text)?;
            }
            if !members.iter().any(|member| is_called(member, text)) {
                let text = || SelectError::NoSuchName(text.clone());
                return Err(address.map_or_else(text, SelectError::NoSuchAddress));
            }
        }
        for (key, value) in self.terms() {
            if !members.iter().any(|member| value_of(member, key) == Some(value)) {
                return Err(no_such_label(members, key, value));
            }
        }
        let chosen: Vec<_> = members.iter().filter(|member| self.fits(member)).cloned().collect();
        if chosen.is_empty() {
            let terms: Vec<_> = self.terms().map(|(key, value)| format!("{key}={value}")).collect();
            return Err(SelectError::NoneLeft(terms.join(",")));
        }
        let most = match (self.count, self.percent) {
            (Some(0), _) => return Err(SelectError::Number(0)),
            (_, Some(percent)) if percent == 0 || percent > 100 => {
                return Err(SelectError::Number(usize::from(percent)));
            }
            (Some(count), _) => count,
            (None, Some(percent)) => (chosen.len() * usize::from(percent)).div_ceil(100),
            (None, None) => return Ok(chosen),
        };
        Ok(spread(chosen, most))
    }

    /// Whether a member is one of those that are meant, how many there may ever be.
    pub fn fits(&self, member: &Member) -> bool {
        let by_name = self.names.is_empty() || self.names.iter().any(|text| is_called(member, text));
        let fits = |(key, values): (&String, &BTreeSet<String>)| {
            value_of(member, key).is_some_and(|value| values.contains(value))
        };
        by_name && self.labels.iter().all(fits)
    }

    fn terms(&self) -> impl Iterator<Item = (&str, &str)> {
        self.labels.iter().flat_map(|(key, values)| values.iter().map(|value| (key.as_str(), value.as_str())))
    }
}

fn check_name(text: &str) -> Result<(), SelectError> {
    match text.len() {
        0 => Err(SelectError::Name(text.to_owned())),
        _ if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) => Err(SelectError::Name(text.to_owned())),
        len if len < NAME_MIN => Err(SelectError::Short(text.to_owned())),
        _ => Ok(()),
    }
}

/// Whether a member has this address, or a name that begins so.
fn is_called(member: &Member, text: &str) -> bool {
    match text.parse::<IpAddr>() {
        Ok(ip) => member.addresses.iter().any(|address| address.ip() == ip),
        Err(_) => name(&member.peer).starts_with(&text.to_lowercase()),
    }
}

fn value_of<'m>(member: &'m Member, key: &str) -> Option<&'m str> {
    if key == ZONE {
        return Some(&member.zone);
    }
    member.labels.iter().find(|(k, _)| **k == *key).map(|(_, value)| &**value)
}

fn no_such_label(members: &[Arc<Member>], key: &str, value: &str) -> SelectError {
    let values: BTreeSet<&str> =
        members.iter().filter_map(|m| value_of(m, key)).filter(|value| !value.is_empty()).collect();
    let listed = |of: BTreeSet<&str>| {
        let more = if of.len() > SHOWN_MAX { ", ..." } else { "" };
        of.into_iter().take(SHOWN_MAX).collect::<Vec<_>>().join(", ") + more
    };
    let there = if values.is_empty() {
        let keys: BTreeSet<&str> = members.iter().flat_map(|m| m.labels.iter().map(|(k, _)| &**k)).collect();
        let zones = members.iter().any(|m| !m.zone.is_empty()).then_some(ZONE);
        let keys: BTreeSet<&str> = keys.into_iter().chain(zones).collect();
        if keys.is_empty() {
            "no label at all (swarm.zone and swarm.labels give them)".to_owned()
        } else {
            format!("no {key}; the keys are {}", listed(keys))
        }
    } else {
        format!("{key}={}", listed(values))
    };
    SelectError::NoSuchLabel { key: key.to_owned(), value: value.to_owned(), there }
}

/// The first of each zone, then the second of each, until there are enough.
fn spread(members: Vec<Arc<Member>>, most: usize) -> Vec<Arc<Member>> {
    let mut zones: BTreeMap<Box<str>, VecDeque<Arc<Member>>> = BTreeMap::new();
    for member in members {
        zones.entry(member.zone.clone()).or_default().push_back(member);
    }
    let mut chosen = Vec::new();
    loop {
        let before = chosen.len();
        for zone in zones.values_mut() {
            if chosen.len() < most {
                chosen.extend(zone.pop_front());
            }
        }
        if chosen.len() == before {
            return chosen;
        }
    }
}
