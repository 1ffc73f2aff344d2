//! The OpenAPI document, and a program that reads it and then tries everything that it allows, and much that it does not.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use shoal_tests::http::{Client, read};
use shoal_tests::image::Blob;
use shoal_tests::origin::Origin;
use shoal_tests::process::run;
use shoal_tests::{agent::shoal, place};

use super::{Api, TOKEN};

/// The version of schemathesis that `cargo xtask` installs.
const SCHEMATHESIS: &str = include_str!("schemathesis.version");
/// What it is told, and why.
const SETTINGS: &str = include_str!("schemathesis.toml");
/// Longest time that it may take on two busy cores; it is told to begin nothing new much earlier.
const RUN_MAX: Duration = Duration::from_secs(300);
/// Requests that it makes at least, three for each operation. It is thousands on an idle machine.
const CASES_MIN: u32 = 50;

fn schemathesis() -> PathBuf {
    let folder = place::cache().join(format!("schemathesis-{}", SCHEMATHESIS.trim()));
    let program = folder.join("bin").join("schemathesis");
    assert!(program.is_file(), "{} is missing; install it with `cargo xtask setup`", program.display());
    program
}

/// The agent serves the document that the command prints.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_document_is_the_same_everywhere() {
    let api = Api::start("http://127.0.0.1:1").await;
    let printed = shoal(&["api", "openapi"]).await.expect_ok("shoal api openapi").output;
    let ca =
        reqwest::Certificate::from_pem(&std::fs::read(&api.ca).expect("it is there")).expect("a certificate");
    let _ = Client::new();
    let client = reqwest::Client::builder().tls_certs_only([ca]).no_proxy().build().expect("valid settings");
    let url = format!("{}/v1/openapi.json", api.url);
    assert_eq!(client.get(&url).send().await.expect("an answer").status(), 401);
    let served = read(client.get(&url).bearer_auth(TOKEN)).await;
    served.expect(200, printed.as_bytes());
}

/// Nothing that schemathesis tries gets an answer that the document does not foresee.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schemathesis_finds_nothing() {
    let origin = Origin::start().await;
    let blob = Blob::noise(771, 100_000);
    origin.add_blob(&blob);
    let api = Api::start(&origin.url()).await;
    api.agent.get_blob("team/app", &blob.digest).await.expect(200, &blob.bytes);
    let folder = api.agent.setup().folder();
    let document = shoal(&["api", "openapi"]).await.expect_ok("shoal api openapi").output;
    let (path, settings) = (folder.join("openapi.json"), folder.join("schemathesis.toml"));
    std::fs::write(&path, document).expect("the folder is ours");
    std::fs::write(&settings, SETTINGS).expect("the folder is ours");
    let mut command = Command::new(schemathesis());
    command.current_dir(folder).arg("--config-file").arg(&settings).arg("run").arg(&path);
    command.args(["--url", &api.url, "--header", &format!("Authorization: Bearer {TOKEN}")]);
    command.arg("--tls-verify").arg(&api.ca).arg("--no-color");
    let finished = run(&mut command, RUN_MAX).await.expect_ok("schemathesis");
    println!("{}", finished.output);
    let cases =
        finished.output.lines().find_map(|line| line.trim().split_once(" generated, ")?.0.parse().ok());
    assert!(cases > Some(CASES_MIN), "it has hardly tried anything:\n{}", finished.output);
    // It has tried to remove everything and to break everything: the agent still answers.
    api.shoal(&["status"]).await.expect_ok("shoal status");
}
