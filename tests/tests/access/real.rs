//! A real registry with token authentication, a real containerd, and an agent between them that has the client prove its
//! right and never sees a password.

use std::time::Duration;

use shoal_tests::agent::Setup;
use shoal_tests::containerd::{self, Containerd, REGISTRY};
use shoal_tests::docker_registry::DockerRegistry;
use shoal_tests::image::Image;
use shoal_tests::token_server::TokenServer;

const REPOSITORY: &str = "team/app";
const NAME: &str = "team/app:v1";

/// Right user, wrong password, and a user without rights, through the agent alone: what the agent refuses, nobody serves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containerd_pulls_a_private_image() {
    let accounts: &[(&str, &str, &[&str])] =
        &[("anna", "right-password", &[REPOSITORY]), ("eve", "eves-password", &[])];
    let tokens = TokenServer::start(accounts, Duration::from_secs(300)).await;
    let registry = DockerRegistry::start_with_tokens(&tokens).await;
    let image = Image::small(590);
    registry.push_as(&tokens, "anna", REPOSITORY, "v1", &image).await;
    let agent = Setup::new(&registry.url())
        .registry(REGISTRY, &registry.url())
        .registry_key(REGISTRY, "access", "verify")
        .registry_key(REGISTRY, "trusted_realms", vec![tokens.address().to_string()])
        .set("log.level", "debug")
        .start()
        .await;
    for version in containerd::at_hand() {
        // Whom the agent refuses is refused, whether the image is stored by then or not.
        let containerd = Containerd::start(version, None).await;
        containerd.mirror(&agent.url(), "http://127.0.0.1:1");
        for user in ["anna:wrong-password", "eve:eves-password"] {
            let refused = containerd.pull_as(user, NAME).await;
            assert!(!refused.ok, "containerd {}: {user} has pulled", version.line());
            assert_eq!(containerd.content().await, Vec::<String>::new(), "{user} has got content");
        }
        let pulled = containerd.pull_as("anna:right-password", NAME).await.expect_ok("the pull");
        containerd.expect_image(&image).await;
        eprintln!("containerd {}: pulled by a verified user in {:?}", version.line(), pulled.took);
    }
    agent.until_idle().await;
    registry.until_calm().await;
    for blob in image.blobs() {
        assert_eq!(registry.blob_gets(&blob.digest), 1, "{}", blob.digest);
    }
    let seen = tokens.seen();
    assert!(seen.contains(&"anna".to_owned()) && seen.contains(&"(refused)".to_owned()), "{seen:?}");
    let log = agent.log();
    for secret in ["right-password", "wrong-password", "eves-password", "YW5uYTp", "eyJ0eXAi", "eyJhbGci"] {
        assert!(!log.contains(secret), "{secret} is in the agent's log");
    }
}
