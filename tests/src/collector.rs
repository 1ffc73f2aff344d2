//! A collector of traces: takes spans over OTLP as HTTP with protobuf, and remembers them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span as Received;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::place;

/// A span that has come.
#[derive(Clone, Debug)]
pub struct Span {
    /// Who sent it, by `service.name`.
    pub service: String,
    /// Its trace, in hex.
    pub trace: String,
    /// Its name in the trace, in hex.
    pub id: String,
    /// The span that it is a part of; empty for the first.
    pub parent: String,
    /// What it is.
    pub name: String,
    /// What it says.
    pub attributes: BTreeMap<String, String>,
    /// Begin and end, nanoseconds since 1970.
    pub times: (u64, u64),
    /// Spans that it points to.
    pub links: Vec<String>,
    /// Whether it is about something that failed.
    pub failed: bool,
}

impl Span {
    /// An attribute; empty if it has none.
    pub fn get(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }
}

#[derive(Default)]
struct Kept {
    spans: Mutex<Vec<Span>>,
    /// What has to stand in `Authorization`.
    authorization: Option<String>,
}

/// The collector; ends when it is dropped.
pub struct Collector {
    address: SocketAddr,
    kept: Arc<Kept>,
    task: JoinHandle<()>,
}

impl Collector {
    /// Takes spans from everybody.
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// Takes spans from whoever shows this in `Authorization`.
    pub async fn start_with(authorization: Option<&str>) -> Self {
        let listener = TcpListener::bind((place::loopback(), 4318)).await.expect("the address is ours");
        let address = listener.local_addr().expect("it listens");
        let authorization = authorization.map(ToOwned::to_owned);
        let kept = Arc::new(Kept { authorization, ..Kept::default() });
        let app = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&kept));
        let task = tokio::spawn(async move { axum::serve(listener, app).await.expect("it serves") });
        Collector { address, kept, task }
    }

    /// What an agent is told.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All spans that have come.
    pub fn spans(&self) -> Vec<Span> {
        self.kept.spans.lock().expect("nobody panics with it").clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn take(State(kept): State<Arc<Kept>>, headers: HeaderMap, body: Bytes) -> (StatusCode, &'static str) {
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if kept.authorization.as_deref().is_some_and(|wanted| shown != Some(wanted)) {
        return (StatusCode::UNAUTHORIZED, "");
    }
    let Ok(request) = ExportTraceServiceRequest::decode(body) else {
        return (StatusCode::BAD_REQUEST, "");
    };
    let mut spans = kept.spans.lock().expect("nobody panics with it");
    for resource in request.resource_spans {
        let own = attributes(resource.resource.map(|resource| resource.attributes).unwrap_or_default());
        let service = own.get("service.name").cloned().unwrap_or_default();
        let received = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
        spans.extend(received.map(|span| of(span, service.clone())));
    }
    (StatusCode::OK, "")
}

fn of(span: Received, service: String) -> Span {
    Span {
        service,
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        name: span.name,
        attributes: attributes(span.attributes),
        times: (span.start_time_unix_nano, span.end_time_unix_nano),
        links: span.links.iter().map(|link| hex(&link.span_id)).collect(),
        // 2 is "error" in the protocol.
        failed: span.status.is_some_and(|status| status.code == 2),
    }
}

fn attributes(all: Vec<KeyValue>) -> BTreeMap<String, String> {
    all.into_iter().map(|attribute| (attribute.key, text(attribute.value))).collect()
}

fn text(value: Option<AnyValue>) -> String {
    match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(is)) => is.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        _ => String::new(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
