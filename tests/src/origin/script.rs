//! What a test can make the origin do: which requests, how often, and what goes wrong.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::accounts::Accounts;
use super::{Kind, Seen};

/// A place where an answer waits until the test lets it go on.
#[derive(Clone, Debug)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    /// A closed gate.
    pub fn closed() -> Self {
        Gate(Arc::new(watch::channel(false).0))
    }

    /// Lets everything through from now on.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    pub(super) async fn pass(&self) {
        let mut state = self.0.subscribe();
        // The sender lives as long as this clone of the gate.
        let _ = state.wait_for(|open| *open).await;
    }
}

/// Which requests a rule is for. An empty match is for all.
#[derive(Clone, Debug, Default)]
pub struct Match {
    kind: Option<Kind>,
    method: Option<&'static str>,
    reference: Option<String>,
    ranged: Option<bool>,
}

impl Match {
    /// Every request.
    pub fn any() -> Self {
        Match::default()
    }

    /// Every request of a kind.
    pub fn kind(kind: Kind) -> Self {
        Match { kind: Some(kind), ..Match::default() }
    }

    /// GETs of one blob.
    pub fn blob(digest: &str) -> Self {
        Match {
            kind: Some(Kind::Blob),
            method: Some("GET"),
            reference: Some(digest.to_owned()),
            ranged: None,
        }
    }

    /// GETs of one blob at the storage server.
    pub fn storage(digest: &str) -> Self {
        Match { kind: Some(Kind::Storage), ..Match::blob(digest) }
    }

    /// HEADs and GETs of one manifest.
    pub fn manifest(reference: &str) -> Self {
        Match { kind: Some(Kind::Manifest), reference: Some(reference.to_owned()), ..Match::default() }
    }

    /// Only this method.
    #[must_use]
    pub fn method(mut self, method: &'static str) -> Self {
        self.method = Some(method);
        self
    }

    /// Only with (or only without) a `Range` header.
    #[must_use]
    pub fn ranged(mut self, ranged: bool) -> Self {
        self.ranged = Some(ranged);
        self
    }

    fn fits(&self, seen: &Seen) -> bool {
        self.kind.is_none_or(|kind| kind == seen.kind)
            && self.method.is_none_or(|method| method == seen.method)
            && self.reference.as_ref().is_none_or(|reference| *reference == seen.reference)
            && self.ranged.is_none_or(|ranged| ranged == seen.header("range").is_some())
    }
}

/// How a connection ends in the middle of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// TCP reset; RST_STREAM with INTERNAL_ERROR over HTTP/2.
    Reset,
    /// An orderly close, short of Content-Length; GOAWAY and a close over HTTP/2.
    Close,
}

/// What the origin does differently in one answer.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub(super) status: Option<(u16, Bytes)>,
    pub(super) headers: Vec<(String, String)>,
    pub(super) without: Vec<&'static str>,
    pub(super) before_head: Option<Gate>,
    pub(super) pause: Option<(u64, Gate)>,
    pub(super) end: Option<(u64, End)>,
    pub(super) rate: Option<u64>,
    pub(super) flip: Option<u64>,
    pub(super) ignore_range: bool,
    pub(super) redirect: Option<String>,
    pub(super) gzip: bool,
    pub(super) chunked: bool,
    pub(super) content_range: Option<String>,
}

impl Plan {
    /// Answers well.
    pub fn well() -> Self {
        Plan::default()
    }

    /// Another status, with a body of a few words of HTML.
    pub fn status(status: u16) -> Self {
        Plan::status_with(status, "<html><body>no</body></html>")
    }

    /// Another status with this body.
    pub fn status_with(status: u16, body: &'static str) -> Self {
        Plan { status: Some((status, Bytes::from_static(body.as_bytes()))), ..Plan::default() }
    }

    /// TCP reset after so many body bytes.
    pub fn reset_after(bytes: u64) -> Self {
        Plan { end: Some((bytes, End::Reset)), ..Plan::default() }
    }

    /// Orderly close after so many body bytes, short of the announced length.
    pub fn close_after(bytes: u64) -> Self {
        Plan { end: Some((bytes, End::Close)), ..Plan::default() }
    }

    /// Waits at the gate after so many body bytes; a gate that is never opened is a stall.
    pub fn pause_after(bytes: u64, gate: &Gate) -> Self {
        Plan { pause: Some((bytes, gate.clone())), ..Plan::default() }
    }

    /// Waits at the gate before the first header byte.
    pub fn hold(gate: &Gate) -> Self {
        Plan { before_head: Some(gate.clone()), ..Plan::default() }
    }

    /// Body bytes per second.
    pub fn rate(bytes: u64) -> Self {
        Plan { rate: Some(bytes), ..Plan::default() }
    }

    /// Flips one bit of the byte at this offset of the whole content.
    pub fn wrong_byte_at(offset: u64) -> Self {
        Plan { flip: Some(offset), ..Plan::default() }
    }

    /// 200 and everything, whatever `Range` says.
    pub fn ignore_range() -> Self {
        Plan { ignore_range: true, ..Plan::default() }
    }

    /// 307 to this location, which may be relative.
    pub fn redirect(location: impl Into<String>) -> Self {
        Plan { redirect: Some(location.into()), ..Plan::default() }
    }

    /// `Content-Encoding: gzip`.
    pub fn gzip() -> Self {
        Plan { gzip: true, ..Plan::default() }
    }

    /// No Content-Length: chunked transfer coding.
    pub fn chunked() -> Self {
        Plan { chunked: true, ..Plan::default() }
    }

    /// A `Content-Range` that does not say what the body is.
    pub fn content_range(value: &str) -> Self {
        Plan { content_range: Some(value.to_owned()), ..Plan::default() }
    }

    /// Also sends this header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Leaves a header out.
    #[must_use]
    pub fn without(mut self, name: &'static str) -> Self {
        self.without.push(name);
        self
    }

    /// Also waits at the gate before the first header byte.
    #[must_use]
    pub fn held_by(mut self, gate: &Gate) -> Self {
        self.before_head = Some(gate.clone());
        self
    }

    /// Also at this rate.
    #[must_use]
    pub fn at_rate(mut self, bytes: u64) -> Self {
        self.rate = Some(bytes);
        self
    }
}

/// Credentials the origin asks for.
#[derive(Clone, Debug)]
pub enum Auth {
    /// `Authorization: Basic`.
    Basic {
        /// User name.
        user: String,
        /// Password.
        password: String,
    },
    /// `Authorization: Bearer`, with tokens from `/token` of the same server.
    Bearer {
        /// Credentials that the token server wants; `None` hands tokens to everybody.
        account: Option<(String, String)>,
        /// Realm to name instead of its own token server.
        realm: Option<String>,
        /// `expires_in` of the tokens, seconds.
        expires_in: u64,
    },
    /// `Authorization: Bearer`, with tokens that are good for what their account may pull.
    Accounts(Accounts),
}

/// A match, what happens, and how often still.
pub(super) struct Rule {
    pub(super) when: Match,
    pub(super) plan: Plan,
    pub(super) left: Option<u32>,
}

/// The plan for a request, counting it.
pub(super) fn plan(rules: &mut [Rule], seen: &Seen) -> Plan {
    let rule = rules.iter_mut().find(|rule| rule.left != Some(0) && rule.when.fits(seen));
    rule.map_or_else(Plan::default, |rule| {
        if let Some(left) = &mut rule.left {
            *left -= 1;
        }
        rule.plan.clone()
    })
}
