//! The configuration and the files it names.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::time::SystemTime;

use shoal_tests::tls::Authority;

use super::*;

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("the file is ours");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_that_is_wrong_or_not_there() {
    let setup = Setup::new(NOWHERE).set("store.capasity", "20GB").set("tags.ttl", "soon");
    let found = doctor(&setup).await;
    found.expect("config-wrong", "problem", &["capasity", "soon"]);
    assert_eq!(found.texts("config-wrong").len(), 2, "each mistake is told by itself");
    let nowhere = setup.folder().join("none.toml");
    look(&nowhere, setup.folder(), |_| {}).await.expect("config-unreadable", "problem", &["none.toml"]);
}

/// Files that others can read, and what should be in them; none of it is shown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_others_can_read() {
    let setup = Setup::new(NOWHERE).credentials(REGISTRY, "puller", "a-password-of-this-test");
    let password = setup.folder().join("password-of-puller");
    mode(&password, 0o644);
    let config = setup.write();
    mode(&config, 0o666);
    let found = doctor(&setup).await;
    found.expect("secret-exposed", "warning", &["password-of-puller", "0644", "password_file"]);
    found.expect("config-writable", "warning", &["shoal.toml"]);
    assert!(!found.report.to_string().contains("a-password-of-this-test"));
    mode(&password, 0o600);
    mode(&config, 0o644);
    std::fs::write(&password, "\n").expect("the file is ours");
    let found = doctor(&setup).await;
    found.expect_no("secret-exposed");
    found.expect_no("config-writable");
    found.expect("password-empty", "problem", &["password-of-puller"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_can_be_guessed() {
    let setup = Setup::new(NOWHERE);
    let secret = setup.folder().join("cluster");
    std::fs::write(&secret, "changeme-changeme").expect("the folder is ours");
    mode(&secret, 0o600);
    let setup = setup.swarm(&secret, &[]);
    let found = doctor(&setup).await;
    found.expect("secret-weak", "warning", &["cluster"]);
    assert!(!found.report.to_string().contains("changeme"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_end_or_do_not_fit() {
    let setup = Setup::new("https://registry.test");
    let file = |name: &str, text: &str| {
        let path = setup.folder().join(name);
        std::fs::write(&path, text).expect("the folder is ours");
        path.display().to_string()
    };
    let authority = Authority::new();
    let ca = file("ca.pem", &Authority::ending(2020).pem());
    let ((certificate, _), (_, other_key)) = (authority.client(), authority.client());
    let (certificate, key) = (file("client.pem", &certificate), file("client-key.pem", &other_key));
    mode(Path::new(&key), 0o600);
    let setup = setup
        .registry_key(REGISTRY, "ca", ca)
        .registry_key(REGISTRY, "client_certificate", certificate)
        .registry_key(REGISTRY, "client_key", key);
    let found = doctor(&setup).await;
    found.expect("certificate-expired", "problem", &["ca.pem", "2020-"]);
    found.expect("certificate-mismatch", "problem", &[REGISTRY]);
}

/// The agent reads its configuration at its start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_that_was_changed_since() {
    let agent = Agent::start(NOWHERE).await;
    let config = agent.setup().write();
    let root = agent.setup().folder().join("root");
    let later = SystemTime::now() + Duration::from_secs(60);
    std::fs::File::options()
        .write(true)
        .open(&config)
        .and_then(|file| file.set_modified(later))
        .expect("ours");
    look(&config, &root, |_| {}).await.expect("config-changed", "warning", &["shoal.toml"]);
}
