//! What an operator meets: configuration that is wrong, addresses and directories that are taken, signals, requests
//! that are no HTTP, and the command line.

mod commands;
mod manager;
mod manual;
mod wire;

use std::os::unix::fs::chown;
use std::time::Duration;

use shoal_agent::admin::client::AdminClient;
use shoal_tests::agent::{Agent, Setup, shoal};
use shoal_tests::http::{Client, finish, read_some};
use shoal_tests::image::{Blob, Image};
use shoal_tests::origin::{Gate, Match, Origin, Plan};
use shoal_tests::place;
use shoal_tests::process::Finished;
use shoal_tests::wait;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UnixStream};

const REPOSITORY: &str = "team/app";

/// An upstream that nobody will ask.
const NOWHERE: &str = "http://127.0.0.1:1";

#[track_caller]
fn expect_refusal(finished: &Finished, words: &[&str]) {
    assert!(!finished.ok, "the agent ended well: {}", finished.output);
    assert!(finished.code.is_some(), "the agent was ended by a signal: {}", finished.output);
    assert!(!finished.output.contains("panicked"), "{}", finished.output);
    for word in words {
        assert!(finished.output.contains(word), "{word:?} is not said: {}", finished.output);
    }
}

/// Every mistake is reported, at once, with its key, its value and what would be right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_mistakes_of_a_configuration_at_once() {
    let setup = Setup::new("ftp://registry.test")
        .set("upstream.idle_timeout", "soon")
        .set("store.capacity", "-5")
        .set("store.high_watermark", 1.5)
        .set("tags.ttl", "-1s");
    let finished = setup.run_to_end().await;
    let words = ["idle_timeout", "soon", "capacity", "high_watermark", "1.5", "ttl", "endpoint", "ftp"];
    expect_refusal(&finished, &words);
    let checked = shoal(&["config", "check", "--config", setup.write().to_str().expect("text")]).await;
    expect_refusal(&checked, &words);
}

/// A key that does not exist is a mistake, not a comment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_keys_are_refused() {
    let finished = Setup::new(NOWHERE).set("store.capasity", "20GB").run_to_end().await;
    expect_refusal(&finished, &["capasity"]);
    let finished = Setup::new(NOWHERE).set("stoer.capacity", "20GB").run_to_end().await;
    expect_refusal(&finished, &["stoer"]);
}

/// A configuration file that is not there, not TOML, or names files that are not there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreadable_files_are_named() {
    let finished = shoal(&["agent", "--config", "/nonexistent/shoal.toml"]).await;
    expect_refusal(&finished, &["/nonexistent/shoal.toml"]);
    let folder = place::scratch();
    let file = folder.path().join("shoal.toml");
    std::fs::write(&file, "[store\npath = 3").expect("ours");
    let finished = shoal(&["agent", "--config", file.to_str().expect("text")]).await;
    expect_refusal(&finished, &["shoal.toml", "1"]);
    let setup = Setup::new("https://registry.test").registry_key(
        shoal_tests::agent::REGISTRY,
        "ca",
        "/nonexistent/ca.pem",
    );
    expect_refusal(&setup.run_to_end().await, &["/nonexistent/ca.pem"]);
}

/// A port in use is named, with its address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use() {
    for observe in [false, true] {
        let setup = Setup::new(NOWHERE);
        let address = if observe { setup.observe_address() } else { setup.registry_address() };
        let _taken = std::net::TcpListener::bind(address).expect("nobody else uses this address");
        expect_refusal(&setup.run_to_end().await, &[&address.to_string(), "in use"]);
    }
}

/// Two agents on one data directory: the second one ends, and says who has it; the first one is not disturbed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_in_use() {
    let origin = Origin::start().await;
    let blob = Blob::noise(500, 2_000_000);
    origin.add_blob(&blob);
    let mut first = Agent::start(&origin.url()).await;
    first.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
    let data = first.setup().data_dir().to_owned();
    let second = Setup::new(NOWHERE).data(&data).run_to_end().await;
    expect_refusal(&second, &[data.to_str().expect("text")]);
    first.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
    first.until_idle().await;
    // The lock is the process's, not a file's: it does not outlive a kill.
    first.kill();
    first.restart().await;
    first.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
    assert_eq!(origin.blob_gets(&blob.digest), 1);
}

/// A data directory of another format version is left alone and named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_of_another_version() {
    let mut agent = Agent::start(NOWHERE).await;
    agent.kill();
    let data = agent.setup().data_dir().to_owned();
    let entries = std::fs::read_dir(&data).expect("the agent has made it").flatten();
    let version = entries
        .map(|entry| entry.path())
        .find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
            path.is_file() && (name.contains("version") || name.contains("format"))
        })
        .expect("a file that says the version");
    let before = std::fs::read_to_string(&version).expect("the version is text");
    let digits: String = before.chars().filter(char::is_ascii_digit).collect();
    let later = before.replace(&digits, "9999");
    assert_ne!(before, later);
    std::fs::write(&version, &later).expect("ours");
    let finished = Setup::new(NOWHERE).data(&data).run_to_end().await;
    expect_refusal(&finished, &[data.to_str().expect("text"), "9999"]);
    assert_eq!(
        std::fs::read_to_string(&version).expect("it is still there"),
        later,
        "the directory was touched"
    );
}

/// A data directory of another user.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_of_another_owner() {
    place::needs_root();
    let setup = Setup::new(NOWHERE);
    std::fs::create_dir(setup.data_dir()).expect("ours");
    chown(setup.data_dir(), Some(12_345), None).expect("root may");
    expect_refusal(&setup.run_to_end().await, &[setup.data_dir().to_str().expect("text"), "12345"]);
}

/// A data directory that is somebody else's folder of other things.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_that_is_a_file() {
    let setup = Setup::new(NOWHERE);
    std::fs::write(setup.data_dir(), "not a directory").expect("ours");
    expect_refusal(&setup.run_to_end().await, &[setup.data_dir().to_str().expect("text")]);
}

/// SIGTERM: the port closes, `/readyz` says no, the transfer under way ends well, the exit code is 0.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_drains() {
    let origin = Origin::start().await;
    let blob = Blob::noise(501, 12_000_000);
    origin.add_blob(&blob);
    let gate = Gate::closed();
    origin.script(Match::blob(&blob.digest), Plan::pause_after(6_000_000, &gate));
    let mut agent = Agent::start(&origin.url()).await;
    let mut response = Client::new().open(&agent.blob(REPOSITORY, &blob.digest)).await;
    let first = read_some(&mut response, 1_000_000).await;
    let idle = Client::new();
    assert_eq!(idle.get(&format!("{}/v2/", agent.url())).await.status, 200);
    agent.terminate();
    let address = agent.address();
    wait::until("the port to be closed", Duration::from_secs(10), || async move {
        tokio::net::TcpStream::connect(address).await.is_err()
    })
    .await;
    // Whoever watches readiness sees it, while the transfer goes on.
    let readyz = format!("http://{}/readyz", agent.setup().observe_address());
    let ready = Client::new().request("GET", &readyz).send().await;
    assert!(ready.is_err() || ready.is_ok_and(|answer| answer.status() == 503));
    gate.open();
    finish(response).await.expect(200, &blob.bytes[first.len()..]);
    assert!(agent.exit().await.success());
    // What came while draining is there after the restart.
    agent.restart().await;
    origin.refuse().await;
    agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
}

/// A transfer that does not end does not keep the agent for longer than the deadline; it is cut, not padded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_drain_has_a_deadline() {
    let origin = Origin::start().await;
    let blob = Blob::noise(502, 12_000_000);
    origin.add_blob(&blob);
    let never = Gate::closed();
    origin.script(Match::blob(&blob.digest), Plan::pause_after(6_000_000, &never));
    let mut agent = Setup::new(&origin.url()).set("shutdown.drain_deadline", "1s").start().await;
    let mut response = Client::new().open(&agent.blob(REPOSITORY, &blob.digest)).await;
    read_some(&mut response, 1_000_000).await;
    let start = std::time::Instant::now();
    agent.terminate();
    assert!(agent.exit().await.success());
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    assert!(finish(response).await.cut.is_some());
}

/// Whoever has said half of what it wants of the port for watchers, or of the admin socket, does not keep the agent at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_request_does_not_keep_the_agent() {
    let mut agent = Agent::start(NOWHERE).await;
    let half = b"GET /metrics HTTP/1.1\r\nhost:";
    let mut watcher = TcpStream::connect(agent.setup().observe_address()).await.expect("it listens");
    watcher.write_all(half).await.expect("sent");
    let mut caller = UnixStream::connect(agent.setup().socket()).await.expect("it listens");
    caller.write_all(half).await.expect("sent");
    // Those who come later are answered, so these have been let in.
    agent.metrics().await;
    AdminClient::new(&agent.setup().socket()).status().await.expect("it answers");
    let start = std::time::Instant::now();
    agent.terminate();
    assert!(agent.exit().await.success());
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    drop((watcher, caller));
}

/// A second signal does not wait for the deadline.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_at_once() {
    let origin = Origin::start().await;
    let blob = Blob::noise(504, 12_000_000);
    origin.add_blob(&blob);
    let never = Gate::closed();
    origin.script(Match::blob(&blob.digest), Plan::pause_after(6_000_000, &never));
    let mut agent = Setup::new(&origin.url()).set("shutdown.drain_deadline", "10m").start().await;
    let mut response = Client::new().open(&agent.blob(REPOSITORY, &blob.digest)).await;
    read_some(&mut response, 1_000_000).await;
    agent.terminate();
    let address = agent.address();
    wait::until("the port to be closed", Duration::from_secs(10), || async move {
        tokio::net::TcpStream::connect(address).await.is_err()
    })
    .await;
    agent.terminate();
    agent.exit().await;
    assert!(finish(response).await.cut.is_some());
}

/// The log has one line for each request, which says where the bytes came from; as JSON it is JSON.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_says_where_bytes_came_from() {
    for format in ["text", "json"] {
        let origin = Origin::start().await;
        let image = Image::new(503, &[200_000]);
        origin.add_image(REPOSITORY, "v1", &image);
        let agent =
            Setup::new(&origin.url()).set("log.format", format).set("prefetch.layers", false).start().await;
        let digest = &image.layers[0].digest;
        for _ in 0..2 {
            assert_eq!(agent.get_blob(REPOSITORY, digest).await.status, 200);
            agent.until_idle().await;
        }
        // The log shortens digests: twelve digits tell them apart.
        let wanted = |line: &&str| line.contains(&digest[..19]) && line.contains("GET");
        wait::until_true("both lines to be written", Duration::from_secs(10), || {
            agent.log().lines().filter(wanted).count() >= 2
        })
        .await;
        let log = agent.log();
        let lines: Vec<&str> = log.lines().filter(wanted).collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains("upstream") && lines[1].contains("store"), "{lines:?}");
        assert!(lines.iter().all(|line| line.contains("team/app") && line.contains("200")), "{lines:?}");
        if format == "json" {
            for line in log.lines() {
                serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|e| panic!("{e}: {line}"));
            }
        }
    }
}
