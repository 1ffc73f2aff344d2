//! Who is let in: those who have the secret, and nobody else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use shoal_net::{Admission, Identity, Secret, client_tls, key_of};
use shoal_tests::agent::Setup;
use shoal_tests::cluster::{Cluster, DATA_PORT, PORT};
use shoal_tests::control::{Control, name_of};
use shoal_tests::origin::Origin;
use shoal_tests::{place, wait};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::{HEARD_MAX, REPOSITORY, one_layer};

/// The secret of [`Cluster`].
const SECRET: &[u8] = b"a secret of this test alone";

/// What members of [`Cluster`] show and accept.
pub(super) fn admission() -> Admission {
    Admission::new(Secret::new(SECRET).expect("it is long enough"), None)
}

/// Agents with another secret form a swarm of their own, although they were told where these are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_secret_is_another_swarm() {
    let origin = Origin::start().await;
    let cluster = Cluster::start(&origin.url(), 2).await;
    let folder = place::scratch();
    let other = folder.path().join("secret");
    std::fs::write(&other, "the secret of somebody else").expect("the folder is ours");
    let join = [cluster.agents[0].address().ip(), cluster.agents[1].address().ip()];
    let stranger = Setup::new(&origin.url()).swarm(&other, &join).start().await;
    // It has called and was sent away, as the one that it called says.
    wait::until_true("the stranger to be sent away", Duration::from_secs(20), || {
        cluster.agents.iter().any(|agent| agent.log().contains("does not belong to this cluster"))
            || stranger.log().contains("does not belong to this cluster")
    })
    .await;
    assert_eq!(stranger.metric("members", &[]).await, 1.0);
    assert_eq!(cluster.agents[0].metric("members", &[]).await, 2.0);
    assert!(!stranger.log().contains("somebody else"), "no secret is in the log");
}

/// The secret is changed while the agents run: the new one is accepted everywhere first, then shown, then the old one goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_rotated() {
    let origin = Origin::start().await;
    let mut cluster = Cluster::start(&origin.url(), 3).await;
    let folder = place::scratch();
    let new = folder.path().join("new");
    std::fs::write(&new, "the secret that comes after it").expect("the folder is ours");
    let (old_path, new_path) = (cluster.secret_file().display().to_string(), new.display().to_string());
    for step in [[&old_path, &new_path], [&new_path, &old_path], [&new_path, &new_path]] {
        for node in 0..3 {
            let agent = cluster.agents.remove(node);
            let agent = agent
                .restart_with(|setup| {
                    setup
                        .set("swarm.secret_file", step[0].clone())
                        .set("swarm.other_secret_file", step[1].clone())
                })
                .await;
            cluster.agents.insert(node, agent);
            cluster.until_met(3).await;
        }
    }
}

/// Sends a request to the data port of an agent as somebody with this key; what comes back.
async fn ask(identity: &Identity, to: SocketAddr, agent: [u8; 32], proof: Option<&str>) -> String {
    let tls = TlsConnector::from(Arc::new(client_tls(identity, agent)));
    let tcp = TcpStream::connect(to).await.expect("the port is open");
    let name = ServerName::from(to.ip());
    let mut stream = tls.connect(name, tcp).await.expect("any key is good for TLS");
    let proof = proof.map(|proof| format!("shoal-proof: {proof}\r\n")).unwrap_or_default();
    let body = r#"{"registry":"registry.test:5001","repository":"team/app","tag":"v1","digest":null,"body":true,"stored":false}"#;
    let request = format!(
        "POST /shoal/1/manifest HTTP/1.1\r\nhost: x\r\n{proof}content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// The data port tells nothing to whoever has no proof, shows one of another key, or says something else altogether.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_data_port_is_for_members() {
    let (origin, image) = one_layer(900, 1000).await;
    let cluster = Cluster::start(&origin.url(), 2).await;
    cluster.pull(0..2, REPOSITORY, &image).await;
    let agent = &cluster.agents[0];
    let (key, admission) = (name_of(agent), admission());
    let to = SocketAddr::new(agent.address().ip(), DATA_PORT);
    let stranger = Identity::ephemeral().expect("a key");
    let member = Identity::ephemeral().expect("a key");

    let right = ask(&member, to, key, Some(&admission.proof(&member.peer()))).await;
    assert!(right.starts_with("HTTP/1.1 200"), "whoever has the secret is a member: {right}");
    let of_another = admission.proof(&member.peer());
    for proof in [None, Some(""), Some("00"), Some(&*of_another), Some(&*admission.proof(&key))] {
        let answer = ask(&stranger, to, key, proof).await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        assert!(head.starts_with("HTTP/1.1 403"), "{proof:?}: {answer}");
        assert_eq!(body, "", "and not a word");
    }
    for port in [PORT, DATA_PORT] {
        let at = SocketAddr::new(to.ip(), port);
        let mut plain = TcpStream::connect(at).await.expect("the port is open");
        plain.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(20), plain.read_to_end(&mut answer)).await;
        assert!(!String::from_utf8_lossy(&answer).contains("HTTP"), "no word in the clear");
    }
    assert!(!agent.log().contains(&of_another), "no proof is in the log");
}

/// Lets an agent call, as if there were a member with this key. The proof that it shows.
async fn lure(listener: TcpListener, identity: Identity) -> Vec<u8> {
    loop {
        // An agent that stands still for seconds gives this up, and calls again.
        let Ok(mut control) = Control::accept(&listener, &identity).await else { continue };
        if let Some(proof) = control.frame().await {
            return proof;
        }
    }
}

/// A member that is told of a thief calls it, and shows it a proof. That is worth nothing: not at the member that it is of, not at
/// another one, and not at the ports for pieces.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_of_an_agent_is_worth_nothing() {
    let origin = Origin::start().await;
    let thief = Identity::ephemeral().expect("a key");
    let at = SocketAddr::from((place::loopback(), PORT));
    let listener = TcpListener::bind(at).await.expect("the address is ours");
    let lured = tokio::spawn(lure(listener, thief.clone()));
    // The second one is told of the first one alone.
    let told = |node: usize, setup: Setup| match node {
        0 => setup.set("swarm.join", vec![at.to_string()]),
        _ => setup,
    };
    let cluster = Cluster::start_with(&origin.url(), 2, told).await;
    let stolen = tokio::time::timeout(HEARD_MAX, lured).await.expect("it calls").expect("it shows its proof");
    let names: Vec<_> = cluster.agents.iter().map(name_of).collect();
    let proof = admission().proof(&names[0]);
    assert_eq!(stolen, key_of(&proof).expect("64 digits"), "it is the one that members accept");

    for (agent, name) in cluster.agents.iter().zip(&names) {
        let ip = agent.address().ip();
        let mut control = Control::reach(SocketAddr::new(ip, PORT), &thief, *name).await;
        control.tell(&stolen).await;
        let said = tokio::time::timeout(HEARD_MAX, control.rest()).await.expect("it hangs up");
        assert_eq!(said, Vec::<u8>::new(), "not a word");
        let answer = ask(&thief, SocketAddr::new(ip, DATA_PORT), *name, Some(&proof)).await;
        assert!(answer.starts_with("HTTP/1.1 403") && answer.ends_with("\r\n\r\n"), "{answer}");
    }

    // What this relies on: whoever has the secret is answered on the very same way, also by the one that was robbed.
    let (member, ip) = (Identity::ephemeral().expect("a key"), cluster.agents[0].address().ip());
    let own = key_of(&admission().proof(&member.peer())).expect("64 digits");
    wait::until("an answer to a member", HEARD_MAX, || async {
        let mut control = Control::reach(SocketAddr::new(ip, PORT), &member, names[0]).await;
        control.tell(&own).await;
        // Nothing, if one of the two has stood still for seconds.
        control.frame().await.is_some_and(|shown| shown == stolen)
    })
    .await;
    cluster.until_met(2).await;
    for agent in &cluster.agents {
        assert!(!agent.log().contains(&proof), "no proof is in the log");
    }
}
