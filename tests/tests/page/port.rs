//! Who is shown the page, and what its answers carry.

use shoal_tests::agent::{Agent, Setup};
use shoal_tests::http::{Client, read, read_some};
use shoal_tests::origin::Origin;

async fn get(agent: &Agent, path: &str, host: Option<&str>) -> shoal_tests::http::Answer {
    let request = Client::new().request("GET", &format!("http://{}{path}", agent.setup().observe_address()));
    read(match host {
        Some(host) => request.header("Host", host),
        None => request,
    })
    .await
}

/// The page is there on loopback, for those who are there, and lets a browser load nothing from elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_is_for_those_on_this_machine() {
    let origin = Origin::start().await;
    let agent = Agent::start(&origin.url()).await;
    let page = get(&agent, "/", None).await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    for path in ["/", "/page/main.js", "/page/page.css", "/v1/blobs/nothing/story"] {
        let answer = get(&agent, path, None).await;
        let policy = answer.header("content-security-policy").to_owned();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
    }
    assert_eq!(get(&agent, "/page/../main.js", None).await.status, 404);
    for (host, status) in [("localhost:5080", 200), ("rebound.example.com:5080", 421)] {
        assert_eq!(get(&agent, "/", Some(host)).await.status, status, "{host}");
    }
    // Whoever scrapes may call it what they like.
    assert_eq!(get(&agent, "/metrics", Some("node-7.example.com:5080")).await.status, 200);
    let changing =
        Client::new().request("POST", &format!("http://{}/v1/events", agent.setup().observe_address()));
    assert_eq!(read(changing).await.status, 405);
    let url = format!("http://{}/v1/events", agent.setup().observe_address());
    let mut events = Client::new().open(&url).await;
    assert_eq!(events.headers()["content-type"], "text/event-stream");
    let first = read_some(&mut events, 20).await;
    assert!(first.starts_with(b"event: snapshot\ndata: {"), "{first:?}");
}

/// What else the agent can do is not on this port, and the page can be switched off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_else_is_shown() {
    let origin = Origin::start().await;
    let agent = Agent::start(&origin.url()).await;
    for path in ["/v1/status", "/v1/peers", "/v1/blobs", "/v1/warm", "/v1/openapi.json"] {
        assert_eq!(get(&agent, path, None).await.status, 404, "{path}");
    }
    drop(agent);
    let agent = Setup::new(&origin.url()).set("observe.page", false).start().await;
    for path in ["/", "/page/main.js", "/v1/events"] {
        assert_eq!(get(&agent, path, None).await.status, 404, "{path}");
    }
    assert_eq!(get(&agent, "/metrics", None).await.status, 200);
}
