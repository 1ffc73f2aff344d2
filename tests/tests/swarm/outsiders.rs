//! Those who do not have the secret, at the ports that are for members: curl, whatever it asks for and whatever it shows, and a client that
//! speaks libp2p as members do. They learn nothing and get nothing.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use serde_json::json;
use shoal_agent::admin::client::AdminClient;
use shoal_net::{Admission, Class, Identity, Loss, Net, NetConfig, NetEvent, NetLimits, Secret};
use shoal_tests::agent::{REGISTRY, Setup};
use shoal_tests::cluster::{Cluster, DATA_PORT, PORT};
use shoal_tests::control::name_of;
use shoal_tests::image::Image;
use shoal_tests::process::run;
use shoal_tests::tls::Authority;
use shoal_tests::{place, wait};

use super::admission::admission;
use super::{HEARD_MAX, REPOSITORY, one_layer};

/// A zone that members would be known by.
const ZONE: &str = "the-zone-of-this-test";
/// What curl says of a request that was never answered.
const NO_ANSWER: &str = "status=000 bytes=0";
/// What every member answers at once: version 1 and the number of Hail (docs/WIRE.md).
const HAIL: [u8; 2] = [1, 33];
/// What an agent's log says of those who do not have the secret.
const SENT_AWAY: &str = "somebody who does not belong to this cluster was sent away";

/// What members ask each other for, by the last part of the path.
fn questions(image: &Image) -> Vec<(&'static str, String)> {
    let (layer, name) = (&image.layers[0].digest, format!("{REGISTRY}/{REPOSITORY}:v1"));
    let manifest = json!({
        "registry": REGISTRY, "repository": REPOSITORY, "tag": "v1", "digest": null, "body": true, "stored": false
    });
    let told = json!({
        "digest": image.manifest.digest, "media_type": image.manifest.media_type,
        "size": image.manifest.len(), "ttl_ms": 60_000, "visibility": "public", "mirror": null
    });
    let tag = json!({"registry": REGISTRY, "repository": REPOSITORY, "tag": "v1", "answer": told});
    let size = json!({"registry": REGISTRY, "repository": REPOSITORY, "digest": layer});
    let stock = json!({"deed": "evict", "names": [name], "also": [[]], "until": null});
    [
        ("manifest", manifest),
        ("tag", tag),
        ("size", size),
        ("held", json!({"digests": [layer], "age_ms": 60_000, "room": true})),
        ("book", json!({"digest": layer, "brief": true})),
        ("stock", stock),
        ("order", json!({})),
        ("warm", json!({})),
        ("stream", json!({})),
    ]
    .into_iter()
    .map(|(path, question)| (path, question.to_string()))
    .collect()
}

/// Two files with a certificate and its key, as options of curl.
fn shown(folder: &Path, name: &str, (certificate, key): (String, String)) -> Vec<String> {
    let [certificate_file, key_file] = ["crt", "key"].map(|end| folder.join(format!("{name}.{end}")));
    std::fs::write(&certificate_file, certificate).expect("the folder is ours");
    std::fs::write(&key_file, key).expect("the folder is ours");
    let path = |file: &Path| file.display().to_string();
    vec![
        "--insecure".to_owned(),
        "--cert".to_owned(),
        path(&certificate_file),
        "--key".to_owned(),
        path(&key_file),
    ]
}

/// A certificate that nobody else has signed, of the kind of key that members have.
fn self_made() -> (String, String) {
    let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key can be made");
    let params = CertificateParams::new(vec!["client.test".to_owned()]).expect("the name is valid");
    let certificate = params.self_signed(&key).expect("parameters are valid");
    (certificate.pem(), key.serialize_pem())
}

/// Ways to ask: what the URL begins with, and options of curl. `proof` is one of a member.
fn ways(folder: &Path, proof: &str) -> Vec<(&'static str, Vec<String>)> {
    let insecure = |more: &[&str]| -> Vec<String> {
        [&["--insecure"], more].concat().into_iter().map(str::to_owned).collect()
    };
    let header = format!("shoal-proof: {proof}");
    vec![
        ("https", Vec::new()),
        ("https", insecure(&[])),
        ("https", insecure(&["--no-alpn"])),
        ("https", insecure(&["--tls-max", "1.2"])),
        ("https", shown(folder, "of-an-authority", Authority::new().client())),
        ("https", shown(folder, "self-made", self_made())),
        ("https", insecure(&["--header", header.as_str()])),
        ("http", Vec::new()),
        ("http", vec!["--header".to_owned(), header]),
    ]
}

/// Everything that would tell an outsider what is in the cluster.
async fn secrets(cluster: &Cluster, image: &Image) -> Vec<String> {
    let digests = image.blobs().chain([&image.manifest]).map(|blob| blob.digest.as_str());
    let mut secrets: Vec<String> =
        digests.map(|digest| digest.trim_start_matches("sha256:").to_owned()).collect();
    secrets.extend([REPOSITORY, REGISTRY, ZONE].map(str::to_owned));
    let peers = AdminClient::new(&cluster.agents[0].setup().socket()).peers().await;
    let members = peers.expect("the agent runs").members;
    assert_eq!(members.len(), cluster.agents.len());
    // As members are called in logs.
    secrets.extend(members.iter().map(|member| member.peer[..12].to_owned()));
    secrets
}

/// GET and POST of every path at both ports: with the system's authorities and without, by older TLS, with a certificate that
/// somebody has signed or nobody, and in the clear; also with the proof of a member, which is worth nothing without its key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_learns_nothing() {
    let curl = place::program("curl", "curl");
    let (origin, image) = one_layer(1500, 1000).await;
    let zoned = |_, setup: Setup| setup.set("swarm.zone", ZONE);
    let cluster = Cluster::start_with(&origin.url(), 2, zoned).await;
    cluster.pull(0..2, REPOSITORY, &image).await;
    let agent = &cluster.agents[0];
    agent.until_idle().await;
    let folder = place::scratch();
    let (questions, secrets) = (questions(&image), secrets(&cluster, &image).await);
    let proof = admission().proof(&name_of(&cluster.agents[1]));
    let sent = agent.sent_bytes().await;

    for (scheme, options) in &ways(folder.path(), &proof) {
        for (port, method) in [(PORT, "GET"), (PORT, "POST"), (DATA_PORT, "GET"), (DATA_PORT, "POST")] {
            let at = SocketAddr::new(agent.address().ip(), port);
            let mut command = Command::new(&curl);
            for (number, (path, question)) in questions.iter().enumerate() {
                if number > 0 {
                    command.arg("--next");
                }
                command.args(["--silent", "--show-error", "--verbose", "--noproxy", "*", "--max-time", "20"]);
                command.args(["--write-out", "\nstatus=%{http_code} bytes=%{size_download}\n"]);
                command.args(options).args(["--request", method]);
                if method == "POST" {
                    command.args(["--header", "content-type: application/json", "--data-raw", question]);
                }
                command.arg(format!("{scheme}://{at}/shoal/1/{path}"));
            }
            let told = run(&mut command, Duration::from_secs(60)).await;
            let asked = format!("{method} by {scheme} at port {port} with {options:?}:\n{}", told.output);
            assert!(!told.ok, "{asked}");
            assert_eq!(told.output.matches(NO_ANSWER).count(), questions.len(), "{asked}");
            for secret in &secrets {
                assert!(!told.output.contains(secret), "{secret} is told. {asked}");
            }
        }
    }

    cluster.until_met(2).await;
    assert_eq!(agent.sent_bytes().await, sent, "nothing was sent to anybody");
    agent.get_blob(REPOSITORY, &image.layers[0].digest).await.expect(200, &image.layers[0].bytes);
    let log = agent.log();
    assert!(!log.contains("panicked") && !log.contains(&proof), "{log}");
}

/// What an agent speaks, spoken with another secret: it dials an agent and has something to say. Nothing comes back, and the cluster is
/// what it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_libp2p_client_learns_nothing() {
    let (origin, image) = one_layer(1501, 1000).await;
    let cluster = Cluster::start(&origin.url(), 2).await;
    cluster.pull(0..2, REPOSITORY, &image).await;
    let agent = &cluster.agents[0];
    agent.until_idle().await;
    let sent = agent.sent_bytes().await;

    let (name, at) = (name_of(agent), SocketAddr::new(agent.address().ip(), PORT));
    let secret = Secret::new(b"the secret of somebody else").expect("it is long enough");
    let (client, mut events) = Net::start(NetConfig {
        identity: Identity::ephemeral().expect("a key"),
        admission: Arc::new(Admission::new(secret, None)),
        listen: Vec::new(),
        mdns: false,
        limits: NetLimits::default(),
    })
    .await
    .expect("it listens nowhere");
    let ask = || client.send(name, &[at], Class::Ordered, HAIL.to_vec()).expect("it may be said");
    let refused = async {
        ask();
        loop {
            match events.recv().await.expect("the client runs") {
                NetEvent::Lost { why: Loss::NotAccepted, .. } => break,
                // One of the two has stood still for seconds before it was known who calls.
                NetEvent::Lost { why, .. } => {
                    println!("lost: {why}");
                    ask();
                }
                event @ (NetEvent::Met { .. } | NetEvent::Frame { .. }) => panic!("{event:?}"),
                _ => {}
            }
        }
    };
    tokio::time::timeout(HEARD_MAX, refused).await.expect("it is refused");

    wait::until_true("the agent to log it", HEARD_MAX, || agent.log().contains(SENT_AWAY)).await;
    let admin = AdminClient::new(&agent.setup().socket());
    wait::until("the agent to say why", HEARD_MAX, || async {
        admin.peers().await.is_ok_and(|peers| !peers.lately.other_secrets().is_empty())
    })
    .await;
    cluster.until_met(2).await;
    assert_eq!(agent.sent_bytes().await, sent, "nothing was sent to anybody");
    agent.get_blob(REPOSITORY, &image.layers[0].digest).await.expect(200, &image.layers[0].bytes);
    assert!(!agent.log().contains("panicked"), "{}", agent.log());
}
