//! Who may have what: the operator's rules (rows C18, C19), private repositories (C15; sections 2.7 and 7 of the contract),
//! and that a digest alone is no right. A real agent, a scripted registry with accounts, and at the end a real registry and
//! a real containerd.

mod links;
mod private;
mod real;
mod rules;
mod verify;

use shoal_tests::agent::{Agent, REGISTRY, Setup};
use shoal_tests::http::{self, Answer, Client};
use shoal_tests::origin::{Kind, Origin, Seen};
use toml::{Table, Value};

/// The repository that most tests use.
const REPOSITORY: &str = "team/app";

/// An origin and an agent in front of it.
struct Stand {
    origin: Origin,
    agent: Agent,
    client: Client,
}

impl Stand {
    async fn with(change: impl FnOnce(Setup) -> Setup) -> Self {
        let origin = Origin::start().await;
        let agent = change(Setup::new(&origin.url())).start().await;
        Stand { origin, agent, client: Client::new() }
    }

    /// GET of something in a repository of a registry.
    async fn get(&self, registry: &str, path: &str) -> Answer {
        self.client.get(&self.url(registry, path)).await
    }

    /// The same with a token, or whatever stands in `Authorization`.
    async fn get_as(&self, authorization: &str, path: &str) -> Answer {
        let request = self.client.request("GET", &self.url(REGISTRY, path));
        http::read(request.header("Authorization", authorization)).await
    }

    fn url(&self, registry: &str, path: &str) -> String {
        let joint = if path.contains('?') { '&' } else { '?' };
        format!("{}/v2/{path}{joint}ns={registry}", self.agent.url())
    }

    /// Waits until what a manifest has set in motion is stored, so that a test speaks of the store.
    async fn settled(&self) {
        self.agent.until_idle().await;
    }
}

/// A rule of a configuration.
fn rule(pattern: &str, action: &str, upstream: Option<&str>) -> Value {
    let mut table = Table::new();
    table.insert("match".into(), pattern.into());
    table.insert("action".into(), action.into());
    if let Some(upstream) = upstream {
        table.insert("upstream".into(), upstream.into());
    }
    Value::Table(table)
}

/// Requests that an origin has seen for content, tokens left out.
fn content_requests(origin: &Origin) -> Vec<Seen> {
    let mut seen = origin.seen();
    seen.retain(|seen| seen.kind != Kind::Token);
    seen
}

/// Panics unless an answer is a 404 that sends the client on: no challenge, and nothing of the content.
#[track_caller]
fn expect_not_served(answer: &Answer, what: &str) {
    assert_eq!(answer.status, 404, "{what}");
    assert!(!answer.headers.contains_key("www-authenticate"), "{what}: a challenge");
    assert!(answer.body.len() < 1000, "{what}: a body of {} bytes", answer.body.len());
}
