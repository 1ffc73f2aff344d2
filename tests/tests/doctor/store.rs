//! The data directory and its disk.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directories_that_are_none() {
    let setup = Setup::new(NOWHERE);
    std::fs::write(setup.data_dir(), "not a directory").expect("ours");
    doctor(&setup).await.expect("store-unusable", "problem", &["data"]);
    let setup = Setup::new(NOWHERE);
    std::fs::create_dir_all(setup.data_dir().join("blobs")).expect("ours");
    std::fs::write(setup.data_dir().join("FORMAT"), "shoal-store 9999\n").expect("ours");
    doctor(&setup).await.expect("store-foreign", "problem", &["9999"]);
}

/// Another agent has the directory, and answers elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_of_another_agent() {
    let agent = Agent::start(NOWHERE).await;
    let setup = Setup::new(NOWHERE).data(agent.setup().data_dir());
    let found = doctor(&setup).await;
    found.expect("store-locked", "problem", &[&format!("process {}", agent.pid())]);
    found.expect("agent-down", "problem", &[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_little_room() {
    let setup = Setup::new(NOWHERE).set("store.disk_free_min", "900TB").set("store.capacity", "900TB");
    let found = doctor(&setup).await;
    found.expect("disk-full", "problem", &["disk_free_min"]);
    found.expect("capacity-too-large", "warning", &["900"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_takes_memory() {
    let shared = tempfile::Builder::new().prefix("shoal-test-").tempdir_in("/dev/shm").expect("a tmpfs");
    let found = doctor(&Setup::new(NOWHERE).data(shared.path())).await;
    found.expect("store-in-memory", "warning", &["/dev/shm"]);
}

/// An index that is broken, and one that was made anew because of that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_broke() {
    let mut agent = Agent::start(NOWHERE).await;
    agent.kill();
    let data = agent.setup().data_dir().to_owned();
    doctor(agent.setup()).await.expect_no("index-broken");
    std::fs::remove_file(data.join("index/CURRENT")).expect("an index has this file");
    doctor(agent.setup()).await.expect("index-broken", "problem", &["data"]);
    agent.restart().await;
    let found = doctor(agent.setup()).await;
    found.expect_no("index-broken");
    found.expect("index-rebuilt", "warning", &["index.broken-"]);
}
