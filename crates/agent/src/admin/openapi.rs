//! The admin API's own description, from the same declarations as its routes: neither can have what the other lacks.

use std::sync::OnceLock;

use axum::http::header;
use axum::response::IntoResponse;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{IntoParams, IntoResponses, Modify, OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{AdminState, Refusal, blobs, events, hooks, peers, proof, status, stock, warm};
use crate::watch::{Change, Snapshot};

/// A blob's name: the algorithm and the hash in lower-case hex.
#[derive(ToSchema)]
#[schema(pattern = "^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$")]
#[expect(dead_code, reason = "it only describes how a digest is written")]
pub struct DigestText(String);

#[derive(OpenApi)]
#[openapi(
    info(
        title = "shoal",
        version = "1.0.0",
        description = "The admin API of a shoal agent. It is served on a unix socket (`admin.socket`) to the agent's own user \
                       and root, and, if `admin.address` is set, over TLS to whoever shows the token. Paths that begin with \
                       another version than /v1 may come beside these; within /v1 nothing is taken away, and readers have to \
                       ignore what they do not know."
    ),
    tags(
        (name = "agent", description = "This agent at a glance."),
        (name = "blobs", description = "The store, blob by blob."),
        (name = "swarm", description = "The members, and where a blob came from."),
        (name = "warm", description = "Images onto nodes before anybody asks for them."),
    ),
    components(schemas(Snapshot, Change)),
    security((), ("token" = [])),
    modifiers(&Token)
)]
struct Frame;

struct Token;

impl Modify for Token {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let mut scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        scheme.description =
            Some("The token of `admin.token_file`, on the TLS port. The unix socket asks for none.".into());
        document
            .components
            .get_or_insert_default()
            .add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// The routes, and what they say of themselves.
pub(super) fn routes() -> OpenApiRouter<AdminState> {
    OpenApiRouter::with_openapi(Frame::openapi())
        .routes(routes!(status::status))
        .routes(routes!(events::events))
        .routes(routes!(peers::list))
        .routes(routes!(proof::hand_out))
        .routes(routes!(blobs::list))
        .routes(routes!(blobs::show, blobs::remove))
        .routes(routes!(peers::story))
        .routes(routes!(blobs::verify))
        .routes(routes!(blobs::pin, blobs::unpin))
        .routes(routes!(stock::stock))
        .routes(routes!(stock::gc))
        .routes(routes!(stock::contents))
        .routes(routes!(warm::list, warm::begin))
        .routes(routes!(warm::show, warm::cancel))
        .routes(routes!(warm::events))
        .routes(routes!(hooks::push))
        .routes(routes!(document))
}

/// The OpenAPI document, as it is served and committed.
pub fn text() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        let mut text = routes().into_openapi().to_pretty_json().expect("a document has a JSON form");
        text.push('\n');
        text
    })
}

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", operation_id = "openapi", tag = "agent",
    responses((status = 200, description = "An OpenAPI 3.1 document.", body = serde_json::Value)))]
async fn document() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], text())
}

/// Which blob a path is about.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it only describes a part of paths")]
pub(super) struct OfBlob {
    /// The blob.
    #[param(inline)]
    digest: DigestText,
}

/// Which request to warm a path is about.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it only describes a part of paths")]
pub(super) struct OfRequest {
    /// Name of the request.
    id: String,
}

/// What every path that takes a digest may answer.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "it only describes answers that `Refusal` gives")]
pub(super) enum BlobRefusals {
    /// That is no digest.
    #[response(status = 400)]
    NoDigest(Refusal),
    /// There is no such blob.
    #[response(status = 404)]
    Missing(Refusal),
    /// The disk does not answer, or the agent is ending.
    #[response(status = 503)]
    Unavailable(Refusal),
}

#[cfg(test)]
mod tests {
    /// Generated clients name their functions by these.
    #[test]
    fn operations_have_names_of_their_own() {
        let document: serde_json::Value = serde_json::from_str(super::text()).unwrap();
        let paths = document["paths"].as_object().unwrap().values();
        let operations = paths.flat_map(|path| path.as_object().unwrap().values());
        let mut names: Vec<&str> = operations.map(|one| one["operationId"].as_str().unwrap()).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    /// `docs/openapi.json` is what this program serves.
    #[test]
    fn the_committed_document_is_current() {
        let committed = include_str!("../../../../docs/openapi.json");
        assert!(
            committed == super::text(),
            "docs/openapi.json is not what the code says: write it anew with `shoal api openapi > docs/openapi.json`"
        );
    }
}
