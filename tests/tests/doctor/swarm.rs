//! The other agents.

use shoal_tests::cluster::Cluster;
use shoal_tests::wait;

use super::*;

/// How long the findings of a swarm may take to show.
const SHOWN_WITHIN: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_are_well() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(&origin.url(), 3).await;
    let found = doctor(cluster.agents[0].setup()).await;
    assert_eq!(&found.report["problems"], &0, "{:#}", found.report);
    for id in ["peers-none", "zone-unset", "peer-versions", "pieces-unreachable", "peer-clock", "swarm-off"] {
        found.expect_no(id);
    }
    assert!(found.report.to_string().contains("other members: 2, pieces can pass"), "{:#}", found.report);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_to_be_found() {
    let folder = place::scratch();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "4a50c8f0b7d24f0e9a6d8f3c1b2e7f90").expect("ours");
    let found = doctor(&Setup::new(NOWHERE).swarm(&secret, &[])).await;
    found.expect("join-missing", "warning", &[]);
    let named = Setup::new(NOWHERE)
        .swarm(&secret, &[])
        .set("swarm.join", vec![toml::Value::from("shoal.shoal-test.invalid")]);
    let agent = named.start().await;
    let found = doctor(agent.setup()).await;
    found.expect("discovery-failed", "problem", &["shoal.shoal-test.invalid"]);
    found.expect("peers-none", "warning", &[]);
    doctor(&Setup::new(NOWHERE)).await.expect("swarm-off", "hint", &[]);
}

/// Agents with another secret, and zones that one has and the other has not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_with_another_secret() {
    let origin = Origin::start().await;
    let cluster = Cluster::start_with(&origin.url(), 2, |node, setup| match node {
        0 => setup,
        _ => setup.set("swarm.zone", "zone-b"),
    })
    .await;
    doctor(cluster.agents[0].setup()).await.expect("zone-unset", "warning", &["zone-b"]);
    let folder = place::scratch();
    let other = folder.path().join("secret");
    std::fs::write(&other, "9d3c5a17e8b94d6fa2c07b5e4f1d8c63").expect("ours");
    let join = [cluster.agents[0].address().ip(), cluster.agents[1].address().ip()];
    let stranger = Setup::new(&origin.url()).swarm(&other, &join).start().await;
    wait::until("the refusal to be told", SHOWN_WITHIN, || async {
        !doctor(stranger.setup()).await.texts("peer-refused").is_empty()
    })
    .await;
    doctor(stranger.setup()).await.expect("peer-refused", "problem", &["another secret"]);
}

/// With the agent down, whoever should be there is tried.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_where_nobody_is() {
    let folder = place::scratch();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "4a50c8f0b7d24f0e9a6d8f3c1b2e7f90").expect("ours");
    let nobody = std::net::IpAddr::from(place::loopback());
    let found = doctor(&Setup::new(NOWHERE).swarm(&secret, &[nobody])).await;
    found.expect("peer-unreachable", "warning", &[&nobody.to_string()]);
}
