//! Small blobs that members ask each other for in one round trip: an image's configuration, a layer of a few files.
//!
//! Question: how does a thousand nodes' wish for the same few kilobytes cost upstream one request and each node one round trip? Answer:
//! everybody asks the blob's first home, which has it or fetches it for all as it would for a client of its own. Prevents: a join, a
//! lease and a stream for each node, which a layer of gigabytes is worth and a kilobyte is not.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use shoal_engine::peer::PeerId;
use shoal_engine::{Digest, Scope};
use shoal_store::Visibility;
use tracing::{Instrument as _, Span};

use super::Swarm;
use super::ask::{Where, question_span};
use super::failover::{FIRST_TIMEOUT, Missed, Reached, wait_for};
use crate::driver::Handle;
use crate::node::{Node, visibility_of, written};

/// Largest blob that is asked for like this, bytes. A home sends it once to each node: to a thousand of them in a quarter of a second at
/// 1 Gbit/s. What is larger is spread by all who have it.
pub(crate) const SMALL_BLOB_BYTES_MAX: u64 = 32 << 10;

/// Where one is asked for.
pub(super) const PATH: &str = "/shoal/1/blob";
/// The header with who may have it, beside its bytes.
const VISIBILITY_HEADER: &str = "shoal-visibility";

/// Which blob a member wants.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Question {
    #[serde(flatten)]
    repository: Where,
    digest: String,
    /// Bytes, as a manifest says, which the home may not have seen.
    size: u64,
}

impl Swarm {
    /// Asks a home for the bytes of a small blob, and for who may have them. `None` if it does not tell in time: then the blob has to come
    /// like any other. The bytes are not verified.
    pub(crate) async fn ask_small_blob(
        &self,
        home: PeerId,
        scope: &Scope,
        (digest, size): (&Digest, u64),
        driver: &Handle,
    ) -> Option<(Bytes, Visibility)> {
        let reached = Reached::default();
        let asked = self.small_blob(home, scope, (digest, size), &reached).instrument(question_span(&home));
        let missed = tokio::select! {
            biased;
            answer = asked => match answer {
                Ok(answer) => return Some(answer),
                Err(missed) => missed,
            },
            () = wait_for(&reached, FIRST_TIMEOUT, driver.until_silent(home, *digest)) => {
                Missed::Away("it does not answer".into())
            }
        };
        tracing::debug!(?home, digest = %digest.short(), why = %missed, "the home of a small blob does not send it");
        None
    }

    async fn small_blob(
        &self,
        home: PeerId,
        scope: &Scope,
        (digest, size): (&Digest, u64),
        reached: &Reached,
    ) -> Result<(Bytes, Visibility), Missed> {
        let question = Question { repository: Where::of(scope), digest: digest.to_string(), size };
        let (response, connection) = self.post(home, PATH, &question, reached).await?;
        let visibility = response.headers().get(VISIBILITY_HEADER).and_then(|text| text.to_str().ok());
        let visibility = visibility.and_then(visibility_of);
        let visibility =
            visibility.ok_or_else(|| Missed::Unknown("it does not tell who may have it".into()))?;
        let bytes_max = usize::try_from(SMALL_BLOB_BYTES_MAX).expect("it fits into memory");
        let bytes = self.read(response, connection, bytes_max).await.map_err(Missed::Away)?;
        self.0.download.pass(bytes.len()).await;
        self.0.metrics.peer_received_bytes.inc_by(bytes.len() as u64);
        Ok((bytes, visibility))
    }
}

/// Answers a member.
pub(super) async fn answer(State(node): State<Node>, Json(question): Json<Question>) -> Response {
    let (Some(scope), Ok(digest)) = (question.repository.scope(), question.digest.parse::<Digest>()) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    Span::current().record("shoal.digest", digest.short());
    let Some((bytes, visibility)) = node.small_blob_for_member(scope, digest, question.size).await else {
        return StatusCode::NOT_FOUND.into_response();
    };
    Span::current().record("shoal.bytes", bytes.len());
    ([(VISIBILITY_HEADER, written(visibility))], bytes).into_response()
}
