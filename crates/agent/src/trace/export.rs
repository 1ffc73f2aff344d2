//! Traces on their way to a collector: OTLP over HTTP, as protobuf.
//!
//! Invariant: a collector that is slow, full or away costs no pull anything. Spans that have ended go into a queue with a
//! bound (the SDK's, 2048 unless `OTEL_BSP_MAX_QUEUE_SIZE` says otherwise), from which a thread of its own takes them; what
//! does not fit is dropped. That nothing arrives is logged once, and once that it does again.

mod collector;

use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{Key, KeyValue};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::{EnvResourceDetector, ResourceDetector as _, SdkProvidedResourceDetector};
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tokio::runtime::Handle;
use tracing::Level;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;

use super::{SpanLayer, TARGET, TraceError, TraceSettings};
use collector::Collector;

/// Longest time for one batch, unless `OTEL_EXPORTER_OTLP_TIMEOUT` says otherwise; the SDK's own.
const BATCH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the end of the agent waits for a collector to take the last spans.
const END_MAX: Duration = Duration::from_secs(2);
/// Where the kernel tells the machine's name, which on Kubernetes is the pod's.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";
/// What spans are called as a group.
const SCOPE: &str = "shoal";

/// Exports traces until it is dropped, which sends the last ones. To be dropped while the runtime still runs.
#[must_use = "the last spans are lost without it"]
pub struct Exporter(SdkTracerProvider);

/// Begins to export traces, if that is configured. The runtime carries them.
///
/// # Errors
/// The settings, or one of the standard variables, are of no use.
pub fn start(settings: Option<&TraceSettings>, runtime: &Handle) -> Result<Option<Exporter>, TraceError> {
    let Some(settings) = settings else { return Ok(None) };
    let collector = Collector::new(settings, runtime.clone(), BATCH_TIMEOUT)?;
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(collector)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(traces_of(settings))
        .build()
        .map_err(|error| TraceError::Exporter(error.to_string()))?;
    let mut provider =
        SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource(settings));
    if let Some(ratio) = settings.ratio {
        let of_roots = Sampler::TraceIdRatioBased(ratio);
        provider = provider.with_sampler(Sampler::ParentBased(Box::new(of_roots)));
    }
    Ok(Some(Exporter(provider.build())))
}

impl Exporter {
    /// What takes the spans.
    pub fn layer(&self) -> SpanLayer {
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer(SCOPE))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_level(false)
            .with_tracked_inactivity(false)
            .with_context_activation(false)
            .with_filter(Targets::new().with_target(TARGET, Level::TRACE))
            .boxed()
    }

    /// Sends the last ones, as dropping it does.
    pub fn end(self) {
        drop(self);
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        // A collector that does not take them has been told of.
        let _ = self.0.shutdown_with_timeout(END_MAX);
    }
}

/// The collector's address for traces, as `OTEL_EXPORTER_OTLP_ENDPOINT` is read.
fn traces_of(settings: &TraceSettings) -> String {
    format!("{}/v1/traces", settings.endpoint.as_str().trim_end_matches('/'))
}

/// Who speaks. What the standard variables say goes before what the agent says.
fn resource(settings: &TraceSettings) -> Resource {
    let host = std::fs::read_to_string(HOST_NAME).unwrap_or_default();
    let host = host.trim();
    let own = [
        KeyValue::new("service.name", "shoal"),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", format!("{host}/{}", settings.instance)),
    ];
    let zone = (!settings.zone.is_empty()).then(|| KeyValue::new("shoal.zone", settings.zone.clone()));
    Resource::builder_empty()
        .with_attributes(own.into_iter().chain(zone))
        .with_detector(Box::new(EnvResourceDetector::new()))
        .with_attributes(name_of_variables())
        .build()
}

/// `OTEL_SERVICE_NAME`, which the SDK does not read apart from a name that it makes up.
fn name_of_variables() -> Option<KeyValue> {
    let name = SdkProvidedResourceDetector.detect().get(&Key::from_static_str("service.name"))?;
    let is_made_up = name.as_str().starts_with("unknown_service");
    (!is_made_up).then(|| KeyValue::new("service.name", name))
}
