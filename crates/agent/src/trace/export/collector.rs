//! The connection to a collector: TLS as everywhere in the agent, headers from their file, answers of bounded size.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Limited};
use opentelemetry_http::{HttpClient, HttpError};
use rustls::ClientConfig;
use tokio::runtime::Handle;

use crate::tls;
use crate::trace::{TraceError, TraceSettings, headers};

/// Longest time for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Most bytes of an answer: it says how many spans were refused, and why.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// See the module's head. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Collector(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: reqwest::Client,
    runtime: Handle,
    endpoint: String,
    headers_file: Option<PathBuf>,
    /// Whether the last batch did not arrive: that is logged once.
    is_away: AtomicBool,
}

impl Collector {
    /// `timeout` is for one batch.
    pub fn new(settings: &TraceSettings, runtime: Handle, timeout: Duration) -> Result<Self, TraceError> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(client_tls(settings.ca.as_deref())?)
            .user_agent(concat!("shoal/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(timeout)
            .build()
            .map_err(TraceError::Client)?;
        Ok(Collector(Arc::new(Inner {
            client,
            runtime,
            endpoint: settings.endpoint.to_string(),
            headers_file: settings.headers_file.clone(),
            is_away: AtomicBool::new(false),
        })))
    }

    /// Tells the operator when traces stop arriving, and when they arrive again.
    fn note(&self, result: &Result<Response<Bytes>, HttpError>) {
        let endpoint = &self.0.endpoint;
        let why = match result {
            Ok(response) if response.status().is_success() => {
                if self.0.is_away.swap(false, Ordering::Relaxed) {
                    tracing::info!(%endpoint, "traces arrive again");
                }
                return;
            }
            Ok(response) => format!("the collector answered {}", response.status()),
            Err(error) => reason(error.as_ref()),
        };
        if !self.0.is_away.swap(true, Ordering::Relaxed) {
            tracing::warn!(%endpoint, why, "traces do not arrive; they are dropped until they do");
        }
    }

    async fn send(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        if let Some(path) = self.0.headers_file.clone() {
            let read = tokio::task::spawn_blocking(move || headers::read(&path)).await?;
            request.headers_mut().extend(read.map_err(|error| format!("traces.headers_file {error}"))?);
        }
        let response = self.0.client.execute(request.try_into()?).await?;
        let (head, body) = Response::<reqwest::Body>::from(response).into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes();
        Ok(Response::from_parts(head, body))
    }
}

#[async_trait]
impl HttpClient for Collector {
    /// Called on the exporter's own thread, which has no runtime.
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let this = self.clone();
        let sent = self.0.runtime.spawn(async move { this.send(request).await });
        let result = sent.await.unwrap_or_else(|error| Err(error.into()));
        self.note(&result);
        result
    }
}

/// An error with its causes: of a client's error the last one tells what happened.
fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn client_tls(ca: Option<&[u8]>) -> Result<ClientConfig, TraceError> {
    // What cannot be read there has been told by the client for the registries.
    let mut roots = tls::system_roots();
    if let Some(pem) = ca {
        tls::trust(&mut roots, pem).map_err(|error| TraceError::Ca(error.to_string()))?;
    }
    let builder = tls::client(roots).map_err(|error| TraceError::Ca(error.to_string()))?;
    Ok(builder.with_no_client_auth())
}
