//! How a trace goes from one process to the next: the `traceparent` header (W3C Trace Context, level 1).

use http::{HeaderMap, HeaderValue};
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::TraceContextExt as _;
use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::swarm::TRACE_HEADER;

/// Makes the span that headers name the parent of this one, before anything has happened in it. Headers that name none, or
/// that are no such headers, leave it the first of its trace.
pub fn adopt(span: &Span, headers: &HeaderMap) {
    if span.is_disabled() || !headers.contains_key(TRACE_HEADER) {
        return;
    }
    let parent = TraceContextPropagator::new().extract(&HeaderExtractor(headers));
    // Fails for a span that nobody takes.
    let _ = span.set_parent(parent);
}

/// What tells another member which span its work belongs to; `None` where there is no trace.
pub fn carried() -> Option<HeaderValue> {
    let span = Span::current();
    if span.is_disabled() {
        return None;
    }
    let mut headers = HeaderMap::new();
    TraceContextPropagator::new().inject_context(&span.context(), &mut HeaderInjector(&mut headers));
    headers.remove(TRACE_HEADER)
}

/// The span's trace, in hex; `None` where there is none, or none that is exported.
pub fn id(span: &Span) -> Option<String> {
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    let span = context.span();
    let of = span.span_context();
    (of.is_valid() && of.is_sampled()).then(|| of.trace_id().to_string())
}

/// Says that a span waited for what another one tells of.
pub fn link(span: &Span, to: &Span) {
    if !span.is_disabled() && !to.is_disabled() {
        span.add_link(to.context().span().span_context().clone());
    }
}
