//! The tables of mirrors.

use serde::{Deserialize, Serialize};
use shoal_engine::mirrors::{OnDenied, Serves, TagOrder};

use crate::config::quantity::Period;

/// `[mirrors]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mirrors {
    /// What happens when a mirror refuses (401, 403 and every other 4xx but 404 and 429): `stop` fails the request, because a
    /// mirror that refuses is configured wrongly; `continue` asks the next source. Default `stop`. With `continue` a wrong
    /// password shows only as slower pulls and more traffic at the source.
    pub on_denied: OnDenied,
    /// Longest time for a connection to a mirror while another source is left. Default 2 s. The last source has
    /// `upstream.connect_timeout`. Longer lets dead mirrors eat the client's patience.
    pub connect_timeout: Period,
    /// Longest time from the connection to the response headers of a mirror while another source is left. Default 5 s. Shorter
    /// than a pull-through proxy takes to fetch what it does not have, it makes that proxy useless for cold images.
    pub header_timeout: Period,
    /// Time that failing sources may cost one request together; what is left of the list is then skipped, down to the last
    /// source. Default 10 s. Should stay well below `registry.answer_timeout`.
    pub walk_budget: Period,
    /// What is mirrored where. Default: nothing.
    pub sets: Vec<MirrorSet>,
}

impl Default for Mirrors {
    fn default() -> Self {
        Mirrors {
            on_denied: OnDenied::default(),
            connect_timeout: Period::from_secs(2),
            header_timeout: Period::from_secs(5),
            walk_budget: Period::from_secs(10),
            sets: Vec::new(),
        }
    }
}

/// `[[mirrors.sets]]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MirrorSet {
    /// How messages call it. Default: its place, `mirrors.sets[0]`.
    pub name: Option<String>,
    /// What is mirrored: a registry, a part of it (`docker.io/library`), or every registry below a domain
    /// (`*.example.com`). Required. The narrowest source that covers a repository decides alone. Several sets may have the
    /// same source; they are composed.
    pub source: Option<String>,
    /// Where: `host[:port][/prefix]`, the preferred one first. Required. The source's own part of the name is taken off,
    /// the mirror's prefix put in its place. How a host is reached stands in `upstream.registries`. The source itself may
    /// be listed; otherwise it comes last.
    pub mirrors: Vec<String>,
    /// What they are asked for: `digests`, `tags`, or `all`. Default `digests`: a wrong answer to a digest is noticed, while
    /// whoever writes a mirror's tags decides what runs.
    pub serves: Serves,
    /// Who is asked first for tags: `source-first` or `mirror-first`. Default: what other sets of the source say, otherwise
    /// `source-first`. With `mirror-first` a mirror that lags behind moves tags back.
    pub tag_order: Option<TagOrder>,
    /// Whether the source is never asked for anything. Default false. What no mirror has then fails; so does every tag,
    /// unless a set serves tags.
    pub never_contact_source: bool,
}
