//! The trace of a pull: which spans it consists of, and how it goes from one process to the next.
//!
//! ```text
//! request                    what a client asked, until the last byte of the answer has left
//! +- resolve                 a manifest or tag that is not here, once for all who ask at the same time
//! |  +- question             to its home  ->  answer (there)  ->  resolve
//! +- flight                  a blob that is not here, from its first client to its place in the store
//!    +- look                 into the store
//!    +- lease                the part that this member fetches for all
//!    |  +- transfer          from the object store, a mirror or the registry
//!    +- transfer             from a member  ->  answer (there)
//!    +- verify, commit
//! ```
//! Invariants: every span has the target [`TARGET`] and is there only if somebody takes traces away ([`export`]); otherwise a
//! span costs one look at a flag, and no log line shows it. What a client's trace says about sampling holds for everybody who
//! takes part in its pull. A span that outlives its request, as a flight may, is still its child.

#[cfg_attr(not(feature = "otlp"), path = "trace/no_context.rs")]
mod context;
#[cfg_attr(not(feature = "otlp"), path = "trace/no_export.rs")]
mod export;
mod headers;

use std::fmt;
use std::path::PathBuf;

use tracing::{Span, field};
use tracing_subscriber::{Layer, Registry};
use url::Url;

pub use context::{adopt, carried, id, link};
pub use export::{Exporter, start};
pub use headers::{HeadersError, read as read_headers};

/// Target of all spans.
pub const TARGET: &str = "shoal::trace";

/// The cargo feature that exports traces.
pub const FEATURE: &str = "otlp";

/// Whether this program can export traces.
pub const IS_BUILT_IN: bool = cfg!(feature = "otlp");

/// What takes the spans.
pub type SpanLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// Where traces go.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceSettings {
    /// The collector: `/v1/traces` is added to it.
    pub endpoint: Url,
    /// Part of the pulls that are traced unless their client has decided, from 0 to 1; `None` leaves it to the standard
    /// variables, and without them means all.
    pub ratio: Option<f64>,
    /// File with headers for the collector, read each time.
    pub headers_file: Option<PathBuf>,
    /// CA certificates in PEM form, trusted besides the system's.
    pub ca: Option<Vec<u8>>,
    /// What tells this agent from others.
    pub instance: String,
    /// Its zone.
    pub zone: String,
}

/// Why traces cannot be exported. The operator has to act.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The HTTP client cannot be made.
    #[error("cannot make a client for the collector of traces")]
    Client(#[source] reqwest::Error),
    /// The certificates cannot be used.
    #[error("traces.ca: {0}")]
    Ca(String),
    /// A standard variable or the endpoint cannot be used.
    #[error("traces cannot be exported: {0}")]
    Exporter(String),
}

/// Says that a span ends now. One that is kept and not entered, as that of a body or a flight, would end when it was left last.
pub fn end(span: &Span) {
    span.in_scope(|| ());
}

/// Ends a span well or badly. The fields must have been declared.
pub fn outcome<E: fmt::Display + ?Sized>(span: &Span, result: Result<&str, &E>) {
    if span.is_disabled() {
        return;
    }
    match result {
        Ok(how) => {
            span.record("shoal.outcome", how);
        }
        Err(error) => {
            span.record("shoal.outcome", "failed");
            span.record("otel.status_code", "ERROR");
            span.record("otel.status_description", field::display(error));
        }
    }
}
