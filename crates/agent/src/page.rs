//! The status page: one page for people, on the port of metrics and health, and the two paths of the API that it reads.
//!
//! Question: what may somebody see who reaches that port? Answer: on loopback, everything on the page, which is names of
//! images, digests, and the addresses of members, but no credentials and no content; elsewhere nothing, unless the operator
//! says `observe.page = true`. Prevents: a port that was opened for a scraper showing what runs in the cluster.
//!
//! Invariants: nothing here changes anything; the page loads nothing from anywhere else and runs no script but its own; a
//! page of another site that has its name resolve to loopback is not answered.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use tokio::sync::Semaphore;

use crate::admin::{Refusal, events};
use crate::watch::Feed;

/// What the page consists of: path below `/page/`, media type, content.
const FILES: [(&str, &str, &str); 8] = [
    ("page.css", CSS, include_str!("page/page.css")),
    ("icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
    ("main.js", SCRIPT, include_str!("page/main.js")),
    ("format.js", SCRIPT, include_str!("page/format.js")),
    ("map.js", SCRIPT, include_str!("page/map.js")),
    ("chart.js", SCRIPT, include_str!("page/chart.js")),
    ("lists.js", SCRIPT, include_str!("page/lists.js")),
    ("story.js", SCRIPT, include_str!("page/story.js")),
];

const INDEX: &str = include_str!("page/index.html");
const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// What a browser lets the page do: load its own files, and ask its own agent.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Stories that are told at a time: each asks other members.
const STORIES_AT_ONCE_MAX: usize = 4;

/// The page and what it reads: events, and `stories`, which answers for one blob. `local_only` for a port that only this
/// machine reaches.
pub fn router(feed: Feed, stories: MethodRouter, local_only: bool) -> Router {
    let places = Arc::new(Semaphore::new(STORIES_AT_ONCE_MAX));
    let stories = stories.layer(middleware::from_fn_with_state(places, one_of_few));
    let router = Router::new()
        .route("/", get(index))
        .route("/page/{file}", get(file))
        .route("/v1/events", get(events::events).with_state(feed))
        .route("/v1/blobs/{digest}/story", stories)
        .layer(middleware::map_response(guarded));
    if local_only { router.layer(middleware::from_fn(from_here)) } else { router }
}

async fn index() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, HTML)], INDEX)
}

async fn file(Path(name): Path<String>) -> Response {
    match FILES.iter().find(|(of, ..)| *of == name) {
        Some((_, media_type, content)) => ([(header::CONTENT_TYPE, *media_type)], *content).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// What holds for every answer.
async fn guarded(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
    response
}

/// Answers those who name this machine by an address or as `localhost`: a name from elsewhere can resolve to loopback, and
/// then a page of that name could read along.
async fn from_here(request: Request, next: Next) -> Response {
    if names_this_machine(request.headers()) {
        return next.run(request).await;
    }
    let words = "the status page is for this machine: open it by its address or as localhost\n";
    (StatusCode::MISDIRECTED_REQUEST, words).into_response()
}

fn names_this_machine(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let authority: Result<http::uri::Authority, _> = host.parse();
    authority.is_ok_and(|authority| {
        let name = authority.host().trim_start_matches('[').trim_end_matches(']');
        name == "localhost" || name.parse::<IpAddr>().is_ok()
    })
}

async fn one_of_few(State(places): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    match places.try_acquire() {
        Ok(_one) => next.run(request).await,
        Err(_) => Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "others are asking; try again in a second")
            .into_response(),
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;
    use tower::ServiceExt as _;

    use super::*;
    use crate::watch::{Look, Traffic, View};

    #[test]
    fn only_addresses_and_localhost_name_this_machine() {
        let table = [
            ("localhost:5080", true),
            ("127.0.0.1:5080", true),
            ("[::1]:5080", true),
            ("10.0.0.7", true),
            ("rebound.example.com:5080", false),
            ("localhost.example.com", false),
            ("", false),
        ];
        for (host, expected) in table {
            let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(host))]);
            assert_eq!(names_this_machine(&headers), expected, "{host:?}");
        }
    }

    #[tokio::test]
    async fn a_page_for_others_may_be_called_by_any_name() {
        let nobody = || get(|| async { StatusCode::NOT_FOUND });
        let feed = || Feed::new(Nothing, &TaskTracker::new(), &CancellationToken::new());
        for (local_only, status) in [(true, StatusCode::MISDIRECTED_REQUEST), (false, StatusCode::OK)] {
            let request = Request::get("/").header(header::HOST, "shoal.example.com");
            let request = request.body(axum::body::Body::empty()).unwrap();
            let answer = router(feed(), nobody(), local_only).oneshot(request).await.unwrap();
            assert_eq!(answer.status(), status);
            assert_eq!(answer.headers().contains_key(header::CONTENT_SECURITY_POLICY), !local_only);
        }
    }

    struct Nothing;

    #[async_trait::async_trait]
    impl Look for Nothing {
        async fn look(&self) -> View {
            View::default()
        }

        fn traffic(&self) -> Traffic {
            Traffic::default()
        }
    }

    #[test]
    fn the_page_names_nothing_from_elsewhere_and_has_no_inline_script() {
        let all = FILES.iter().map(|(name, _, text)| (*name, *text)).chain([("index.html", INDEX)]);
        for (name, text) in all {
            let text = text.replace("http://www.w3.org/2000/svg", "");
            assert!(
                !text.contains("//cdn") && !text.contains("http://") && !text.contains("https://"),
                "{name}"
            );
        }
        assert!(!INDEX.contains("<style") && !INDEX.contains(" style=") && !INDEX.contains(" onclick="));
        for script in INDEX.split("<script").skip(1) {
            assert!(script.contains("src="), "{script}");
        }
        for part in INDEX.split("page/").skip(1) {
            let name = part.split('"').next().unwrap_or_default();
            assert!(FILES.iter().any(|(of, ..)| *of == name), "{name} is not among the files");
        }
    }
}
