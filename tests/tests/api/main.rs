//! The admin API as others use it: over TLS with a token, from the command line and by a program that knows nothing but its
//! OpenAPI document.

mod document;

use std::path::{Path, PathBuf};
use std::time::Duration;

use shoal_tests::agent::{Agent, REGISTRY, Setup, shoal};
use shoal_tests::docker_registry::DockerRegistry;
use shoal_tests::image::{Blob, Image};
use shoal_tests::origin::Origin;
use shoal_tests::process::Finished;
use shoal_tests::tls::Authority;
use shoal_tests::wait;

const TOKEN: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a6978";

/// Where an agent serves its API to others, and what it takes to use it.
struct Api {
    agent: Agent,
    url: String,
    ca: PathBuf,
    token: PathBuf,
}

impl Api {
    async fn start(origin: &str) -> Self {
        let (setup, url, ca, token) = Self::prepare(Setup::new(origin));
        Api { agent: setup.start().await, url, ca, token }
    }

    /// An agent that is to be started; where it will serve its API, the authority of its certificate, and the token's file.
    fn prepare(setup: Setup) -> (Setup, String, PathBuf, PathBuf) {
        let address = std::net::SocketAddr::new(setup.registry_address().ip(), 5443);
        let authority = Authority::new();
        let (certificate, key) = authority.server_pem_for(&[&address.ip().to_string()]);
        let file = |name: &str, text: &str| {
            let path = setup.folder().join(name);
            std::fs::write(&path, text).expect("the folder is ours");
            path
        };
        let (ca, token) = (file("ca.pem", &authority.pem()), file("token", &format!("{TOKEN}\n")));
        let (certificate, key) = (file("api.pem", &certificate), file("api-key.pem", &key));
        let text = |path: &Path| path.display().to_string();
        let setup = setup
            .set("admin.address", address.to_string())
            .set("admin.certificate", text(&certificate))
            .set("admin.key", text(&key))
            .set("admin.token_file", text(&token));
        (setup, format!("https://{address}"), ca, token)
    }

    /// Runs `shoal` against it.
    async fn shoal(&self, command: &[&str]) -> Finished {
        self.shoal_with(command, &self.token, &self.ca).await
    }

    async fn shoal_with(&self, command: &[&str], token: &Path, ca: &Path) -> Finished {
        let (token, ca) = (token.display().to_string(), ca.display().to_string());
        let remote = ["--api", self.url.as_str(), "--token-file", token.as_str(), "--ca", ca.as_str()];
        shoal(&[command, &remote].concat()).await
    }
}

/// The command line does with another machine's agent what it does with its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_of_another_machine_is_asked() {
    let origin = Origin::start().await;
    let blob = Blob::noise(770, 200_000);
    origin.add_blob(&blob);
    let api = Api::start(&origin.url()).await;
    api.agent.get_blob("team/app", &blob.digest).await.expect(200, &blob.bytes);
    api.agent.until_idle().await;
    let status = api.shoal(&["status"]).await.expect_ok("shoal status").output;
    assert!(status.contains("1 blob"), "{status}");
    let listed = api.shoal(&["blob", "ls"]).await.expect_ok("shoal blob ls").output;
    assert!(listed.contains(&blob.digest[..19]), "{listed}");
    api.shoal(&["explain", &blob.digest]).await.expect_ok("shoal explain");
    api.shoal(&["peers"]).await.expect_ok("shoal peers");
    api.shoal(&["prewarm", "ls"]).await.expect_ok("shoal prewarm ls");
    api.shoal(&["blob", "rm", &blob.digest]).await.expect_ok("shoal blob rm");
    assert_eq!(api.shoal(&["blob", "verify", &blob.digest]).await.code, Some(5));
}

/// Who lacks the token, or whose certificate is not the agent's, is told so in words, and nothing is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_are_refused() {
    let api = Api::start("http://127.0.0.1:1").await;
    let wrong = api.agent.setup().folder().join("wrong");
    std::fs::write(&wrong, TOKEN.replace('f', "e")).expect("the folder is ours");
    let refused = api.shoal_with(&["status"], &wrong, &api.ca).await;
    assert_eq!(refused.code, Some(1), "{}", refused.output);
    assert!(refused.output.contains("show the token of admin.token_file"), "{}", refused.output);
    api.agent.until_logged("the refusal", |log| log.contains("was refused")).await;
    assert!(!refused.output.contains(TOKEN) && !api.agent.log().contains(TOKEN));
    // A certificate of somebody else.
    let other = api.agent.setup().folder().join("other.pem");
    std::fs::write(&other, Authority::new().pem()).expect("the folder is ours");
    let refused = api.shoal_with(&["status"], &api.token, &other).await;
    assert!(!refused.ok && refused.output.contains("did not answer the request"), "{}", refused.output);
    assert!(refused.output.to_lowercase().contains("certificate"), "{}", refused.output);
    let plain = shoal(&["status", "--api", "http://127.0.0.1:5443", "--token-file", "/nonexistent"]).await;
    assert!(plain.code == Some(2) && plain.output.contains("https://"), "{}", plain.output);
}

/// A real registry tells the agent of a push, and the image is there before anybody has asked for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_warms_the_cluster() {
    let (setup, url, ca, _) = Api::prepare(Setup::new("http://127.0.0.1:1"));
    let hook = format!("{url}/v1/hooks/push?registry={REGISTRY}&match={REGISTRY}/team/**&pin=1h");
    let registry = DockerRegistry::start_telling(&hook, TOKEN, &ca).await;
    let agent = setup.registry(REGISTRY, &registry.url()).start().await;
    let (image, other) = (Image::new(780, &[200_000]), Image::new(781, &[100]));
    registry.push("else/where", "v1", &other).await;
    registry.push("team/app", "v1", &image).await;
    let stored = || async {
        let socket = agent.setup().socket().display().to_string();
        shoal(&["blob", "ls", "--json", "--socket", &socket]).await.expect_ok("shoal blob ls").output
    };
    wait::until("the image to be stored", Duration::from_secs(60), || async {
        let stored = stored().await;
        image.blobs().all(|blob| stored.contains(&blob.digest)) && stored.contains("\"pinned_until\":1")
    })
    .await;
    let stored = stored().await;
    assert!(other.blobs().all(|blob| !stored.contains(&blob.digest)), "nobody wanted that: {stored}");
}

/// A token that was changed is the one that counts, without a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_token_is_used() {
    let api = Api::start("http://127.0.0.1:1").await;
    let old = api.agent.setup().folder().join("old");
    std::fs::copy(&api.token, &old).expect("the folder is ours");
    std::fs::write(&api.token, TOKEN.replace('0', "9")).expect("the folder is ours");
    wait::until("the old token to be refused", Duration::from_secs(60), || async {
        !api.shoal_with(&["status"], &old, &api.ca).await.ok
    })
    .await;
    api.shoal(&["status"]).await.expect_ok("shoal status with the new token");
}

/// What is missing for the port, or of no use, is said before the agent starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_without_tls_or_token_is_refused() {
    let setup = Setup::new("http://127.0.0.1:1").set("admin.address", "127.0.0.1:5443");
    let finished = setup.run_to_end().await;
    assert!(!finished.ok);
    for key in ["admin.certificate", "admin.key", "admin.token_file"] {
        assert!(finished.output.contains(key), "{key} is not named: {}", finished.output);
    }
    let short = setup.folder().join("short");
    std::fs::write(&short, "secret").expect("the folder is ours");
    let (certificate, key) = Authority::new().server_pem();
    for (name, text) in [("c.pem", certificate), ("k.pem", key)] {
        std::fs::write(setup.folder().join(name), text).expect("the folder is ours");
    }
    let file = |name: &str| setup.folder().join(name).display().to_string();
    let (certificate, key) = (file("c.pem"), file("k.pem"));
    let setup = setup
        .set("admin.certificate", certificate)
        .set("admin.key", key)
        .set("admin.token_file", short.display().to_string());
    let finished = setup.run_to_end().await;
    assert!(!finished.ok && finished.output.contains("openssl rand -hex 32"), "{}", finished.output);
}
