//! What `context` does, in a program that exports no traces: nothing.

use http::{HeaderMap, HeaderValue};
use tracing::Span;

/// Makes the span that headers name the parent of this one.
pub fn adopt(_span: &Span, _headers: &HeaderMap) {}

/// What tells another member which span its work belongs to.
pub fn carried() -> Option<HeaderValue> {
    None
}

/// The span's trace, in hex.
pub fn id(_span: &Span) -> Option<String> {
    None
}

/// Says that a span waited for what another one tells of.
pub fn link(_span: &Span, _to: &Span) {}
