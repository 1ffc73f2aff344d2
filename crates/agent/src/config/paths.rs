//! A key that takes one path or a list of them.
//!
//! Invariant: what was written as one path is shown as one path, and what was not written is not shown.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Paths in the order in which they were written; none if the key is not set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths(Vec<PathBuf>);

impl Paths {
    /// Each with the key that names it: `upstream.docker_config`, or `upstream.docker_config[1]` in a list.
    pub fn named<'a>(&'a self, key: &'a str) -> impl Iterator<Item = (String, &'a Path)> {
        let is_list = self.0.len() > 1;
        self.0.iter().enumerate().map(move |(index, path)| {
            let key = if is_list { format!("{key}[{index}]") } else { key.to_owned() };
            (key, path.as_path())
        })
    }

    /// The paths alone.
    pub fn all(&self) -> &[PathBuf] {
        &self.0
    }
}

impl Serialize for Paths {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [] => serializer.serialize_none(),
            [one] => one.serialize(serializer),
            all => all.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Paths {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMore;
        impl<'de> Visitor<'de> for OneOrMore {
            type Value = Paths;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path, or a list of paths")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Paths, E> {
                Ok(Paths(vec![text.into()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Paths, A::Error> {
                let mut paths = Vec::new();
                while let Some(path) = list.next_element()? {
                    paths.push(path);
                }
                Ok(Paths(paths))
            }
        }
        deserializer.deserialize_any(OneOrMore)
    }
}
