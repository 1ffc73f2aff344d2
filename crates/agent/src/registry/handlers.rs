//! From a request to its answer: one function per endpoint.
//!
//! Nothing here is kept between requests. A handler may be dropped at any await, when its client leaves; what others
//! wait for lives behind [`Pulls`].

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method};
use shoal_engine::{Digest, Reference};
use tracing::{Instrument as _, Span, field};

use crate::metrics::Metrics;
use crate::node::{Asked, Cause, Listing, ManifestReply, Part, PullError};
use crate::registry::error::Refusal;
use crate::registry::multipart::Multipart;
use crate::registry::path::{self, Kind, Route, Target};
use crate::registry::range::{self, Resolved, Wanted};
use crate::registry::record::{Named, Record, Sent};
use crate::registry::respond::{self, Content, Freshness};
use crate::registry::{Blob, FrontSettings, Pulls, conditional};
use crate::trace::{self, TARGET};
use crate::upstream;

/// One listener's view of the node.
pub struct Front<P> {
    pulls: P,
    settings: FrontSettings,
    metrics: Arc<Metrics>,
}

impl<P: Pulls> Front<P> {
    /// A front that asks `pulls`.
    pub fn new(pulls: P, settings: FrontSettings, metrics: Arc<Metrics>) -> Self {
        Front { pulls, settings, metrics }
    }
}

/// Answers one request. Its body, if it has one, is not read: no request that is served here needs one, and the
/// connection closes rather than read a long one.
pub async fn serve<P: Pulls>(State(front): State<Arc<Front<P>>>, request: Request) -> Response {
    let (head, _unread) = request.into_parts();
    let client = head.extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip().to_canonical());
    let span = request_span(&head);
    let mut record = Record::begin(Arc::clone(&front.metrics), head.method.clone(), client, span.clone());
    let response = match front.route(&head, client, &mut record).instrument(span).await {
        Ok(response) => response,
        Err(refusal) => {
            // What is sent now is our own text, not content.
            record.source = None;
            record.failure = Some(refusal.summary());
            refusal.into_response(&head.method)
        }
    };
    let (answer, body) = response.into_parts();
    let body = record.answered(answer.status, body);
    Response::from_parts(answer, body)
}

/// The span of a request, in its client's trace if it has one. What becomes known later is for the record to add.
fn request_span(head: &Parts) -> Span {
    let span = tracing::info_span!(
        target: TARGET,
        "request",
        otel.kind = "server",
        otel.name = field::Empty,
        otel.status_code = field::Empty,
        otel.status_description = field::Empty,
        http.request.method = head.method.as_str(),
        http.response.status_code = field::Empty,
        shoal.registry = field::Empty,
        shoal.repository = field::Empty,
        shoal.reference = field::Empty,
        shoal.source = field::Empty,
        shoal.bytes = field::Empty,
        shoal.outcome = field::Empty
    );
    if !span.is_disabled() {
        // A name has to be there before anything is below it.
        let (kind, _) = path::parse(head.uri.path(), head.uri.query(), None);
        span.record("otel.name", format!("{} {}", head.method, kind.as_str()));
        trace::adopt(&span, &head.headers);
    }
    span
}

/// A request whose target is known.
struct Call<'a> {
    head: &'a Parts,
    target: &'a Target,
    asked: Asked,
    is_head: bool,
}

impl Call<'_> {
    fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    fn namespace(&self) -> Option<&str> {
        self.target.addressing.ns.as_deref()
    }

    /// Whether the answer may be owed to a token.
    fn shows_token(&self) -> bool {
        self.asked.bearer.is_some()
    }

    /// The part that a GET wants of content with this digest; a HEAD has no ranges (RFC 9110 section 14.2).
    fn wanted(&self, digest: &Digest) -> Wanted {
        if self.is_head || !conditional::range_applies(self.headers(), digest) {
            Wanted::Whole
        } else {
            range::wanted(self.headers())
        }
    }
}

impl<P: Pulls> Front<P> {
    async fn route(
        &self,
        head: &Parts,
        client: Option<IpAddr>,
        record: &mut Record,
    ) -> Result<Response, Refusal> {
        let is_head = head.method == Method::HEAD;
        let default = self.settings.default_registry.as_ref();
        let (kind, route) = path::parse(head.uri.path(), head.uri.query(), default);
        record.kind = kind;
        if !is_head && head.method != Method::GET {
            return Err(Refusal::method(&head.method));
        }
        let route = route.map_err(|error| Refusal::route(&error))?;
        let target = match &route {
            Route::Base => return self.base(head, is_head).await,
            Route::Manifest(target, _) | Route::Blob(target, _) | Route::Listing(target, _) => target,
        };
        record.scope = Some(target.scope.clone());
        let refused = |error| Refusal::pull(error, kind);
        let hops = upstream::Hops::of(&head.headers);
        // One that has been here before would wait for itself.
        if hops.count() > upstream::HOPS_MAX || hops.include(&self.settings.instance) {
            return Err(refused(PullError::Loop));
        }
        let bearer = upstream::ClientToken::of(&head.headers);
        let asked = Asked { scope: target.scope.clone(), hops, client, bearer };
        let call = Call { head, target, asked, is_head };
        // Each endpoint's future is boxed: the largest would otherwise be carried by every request.
        let answer: std::pin::Pin<Box<dyn Future<Output = _> + Send + '_>> = match &route {
            Route::Base => unreachable!("answered above"),
            Route::Manifest(_, reference) => Box::pin(self.manifest(&call, reference, record)),
            Route::Blob(_, digest) => Box::pin(self.blob(&call, *digest, record)),
            Route::Listing(_, listing) => Box::pin(self.listing(&call, listing, record)),
        };
        answer.await.map_err(refused)
    }

    /// The version check. It names no registry; only where the listener has one can a client be told to show a token,
    /// and some clients learn of that nowhere else (`contract.md` 3.1).
    async fn base(&self, head: &Parts, is_head: bool) -> Result<Response, Refusal> {
        if let Some(registry) = &self.settings.default_registry {
            let token = upstream::ClientToken::of(&head.headers);
            let pinged = self.pulls.ping(registry, token.as_ref()).await;
            pinged.map_err(|error| Refusal::pull(error, Kind::Base))?;
        }
        Ok(respond::base(is_head))
    }

    async fn manifest(
        &self,
        call: &Call<'_>,
        reference: &Reference,
        record: &mut Record,
    ) -> Result<Response, PullError> {
        record.named = Some(Named::Manifest(reference.clone()));
        let reply = self.pulls.manifest(&call.asked, reference, !call.is_head).await?;
        record.source = Some(reply.source);
        let content = Content {
            digest: &reply.digest,
            media_type: respond::media_type(&reply.media_type),
            size: reply.size,
            freshness: match reference {
                Reference::Digest(_) => Freshness::Immutable,
                Reference::Tag(_) => Freshness::For(reply.max_age.unwrap_or(Duration::ZERO)),
            },
            for_one: call.shows_token(),
            namespace: call.namespace(),
            stale: reply.stale.as_deref(),
        };
        if conditional::is_not_modified(call.headers(), &reply.digest) {
            return Ok(content.not_modified());
        }
        if call.is_head {
            return Ok(content.whole(Body::empty()));
        }
        let bytes = manifest_bytes(call, &reply)?;
        let part = match call.wanted(&reply.digest) {
            // No client asks for several ranges of a manifest; all of it is a right answer.
            Wanted::Whole | Wanted::Several(_) => return Ok(content.whole(Body::from(bytes))),
            Wanted::Nothing => return Err(PullError::Unsatisfiable { size: reply.size }),
            Wanted::One(part) => part,
        };
        let range = part.resolve(reply.size).ok_or(PullError::Unsatisfiable { size: reply.size })?;
        record.sent = Some(Sent::Range(range.clone(), reply.size));
        // In bounds: the size is the length of the bytes, checked above.
        let slice = bytes.slice(range.start as usize..range.end as usize);
        Ok(content.partial(&range, Body::from(slice)))
    }

    async fn blob(
        &self,
        call: &Call<'_>,
        digest: Digest,
        record: &mut Record,
    ) -> Result<Response, PullError> {
        record.named = Some(Named::Digest(digest));
        let content = |size| Content {
            digest: &digest,
            media_type: respond::OCTET_STREAM,
            size,
            freshness: Freshness::Immutable,
            for_one: call.shows_token(),
            namespace: call.namespace(),
            stale: None,
        };
        // A client that has the blob gets a 304, but only for a blob that exists: the size says so, and costs a
        // look-up in the store or at most a HEAD upstream.
        let is_not_modified = conditional::is_not_modified(call.headers(), &digest);
        if is_not_modified || call.is_head {
            let (size, source) = self.pulls.blob_size(&call.asked, digest).await?;
            record.source = Some(source);
            let content = content(size);
            return Ok(if is_not_modified { content.not_modified() } else { content.whole(Body::empty()) });
        }
        match call.wanted(&digest) {
            Wanted::Whole => {
                let blob = self.open(call, digest, Part::Whole, record).await?;
                Ok(content(blob.size).whole(Body::new(blob.body)))
            }
            Wanted::One(part) => match self.open(call, digest, part, record).await {
                // An empty blob has no range to send, and a client that puts `bytes=0-` on every request
                // (containerd 2.1.0) wants the empty blob, not an error.
                Err(PullError::Unsatisfiable { size: 0 }) => {
                    let blob = self.open(call, digest, Part::Whole, record).await?;
                    Ok(content(blob.size).whole(Body::new(blob.body)))
                }
                Err(error) => Err(error),
                Ok(blob) => Ok(partial(&content(blob.size), blob, record)),
            },
            Wanted::Several(parts) => {
                let (size, _) = self.pulls.blob_size(&call.asked, digest).await?;
                self.parts(call, &content(size), &parts, record).await
            }
            Wanted::Nothing => {
                let (size, _) = self.pulls.blob_size(&call.asked, digest).await?;
                Err(PullError::Unsatisfiable { size })
            }
        }
    }

    async fn parts(
        &self,
        call: &Call<'_>,
        content: &Content<'_>,
        parts: &[Part],
        record: &mut Record,
    ) -> Result<Response, PullError> {
        let digest = *content.digest;
        let ranges = match range::resolve_several(parts, content.size) {
            Resolved::Nothing if content.size > 0 => {
                return Err(PullError::Unsatisfiable { size: content.size });
            }
            Resolved::Nothing | Resolved::Whole => {
                let blob = self.open(call, digest, Part::Whole, record).await?;
                return Ok(content.whole(Body::new(blob.body)));
            }
            Resolved::One(range) => {
                let blob = self.open(call, digest, bounded(&range), record).await?;
                return Ok(partial(content, blob, record));
            }
            Resolved::Several(ranges) => ranges,
        };
        // The first part is opened before the head is sent, so that what fails can still be told by a status.
        let first = self.open(call, digest, bounded(&ranges[0]), record).await?;
        let has_start = ranges.iter().any(|range| range.start == 0);
        record.sent = Some(Sent::Parts { count: ranges.len(), has_start });
        let body =
            Multipart::new(self.pulls.clone(), call.asked.clone(), digest, content.size, ranges, first);
        Ok(content.multipart(body.media_type(), body.length(), Body::new(body)))
    }

    async fn open(
        &self,
        call: &Call<'_>,
        digest: Digest,
        part: Part,
        record: &mut Record,
    ) -> Result<Blob<P::Body>, PullError> {
        let blob = self.pulls.open_blob(&call.asked, digest, part).await?;
        record.source = Some(blob.source);
        Ok(blob)
    }

    async fn listing(
        &self,
        call: &Call<'_>,
        listing: &Listing,
        record: &mut Record,
    ) -> Result<Response, PullError> {
        if let Listing::Referrers { digest, .. } = listing {
            record.named = Some(Named::Digest(*digest));
        }
        let reply = self.pulls.listing(&call.asked, listing).await?;
        record.source = Some(reply.source);
        let list = respond::List {
            media_type: respond::media_type(&reply.media_type),
            size: reply.body.len() as u64,
            max_age: reply.max_age,
            for_one: call.shows_token(),
            next: reply.next.as_ref().map(|next| path::listing_uri(&call.target.addressing, next)),
            filters_applied: reply.is_filtered.then_some("artifactType"),
            namespace: call.namespace(),
            stale: reply.stale.as_deref(),
        };
        Ok(list.answer(if call.is_head { Body::empty() } else { Body::from(reply.body.clone()) }))
    }
}

fn bounded(range: &Range<u64>) -> Part {
    Part::Bounded(range.start, range.end - 1)
}

/// 206, even for a range that covers everything: a client that sent `Range` and gets a 200 takes the server for one
/// without ranges (`contract.md` 2.5).
fn partial<B>(content: &Content<'_>, blob: Blob<B>, record: &mut Record) -> Response
where
    B: http_body::Body<Data = Bytes, Error: Into<axum::BoxError>> + Send + 'static,
{
    record.sent = Some(Sent::Range(blob.range.clone(), blob.size));
    content.partial(&blob.range, Body::new(blob.body))
}

/// The bytes of a manifest that was asked for with them. Without them, or with too many or too few, the answer would
/// contradict its own head; the client had better ask the next source.
fn manifest_bytes(call: &Call<'_>, reply: &ManifestReply) -> Result<Bytes, PullError> {
    let reason = match &reply.bytes {
        Some(bytes) if bytes.len() as u64 == reply.size => return Ok(bytes.clone()),
        Some(bytes) => format!("the manifest has {} bytes, {} were announced", bytes.len(), reply.size),
        None => "the manifest came without its bytes".to_owned(),
    };
    Err(PullError::Exhausted(vec![Cause { source: call.target.scope.to_string(), reason }]))
}

#[cfg(test)]
mod tests;
