//! What a service manager is told (sd_notify(3)): with it, `systemctl restart shoal` comes back when the agent answers.

use std::os::unix::net::UnixDatagram;

use super::*;

/// A bound for a test that has gone wrong.
const TOLD_MAX: Duration = Duration::from_secs(20);

/// What the agent says next.
fn told(socket: &UnixDatagram) -> String {
    let mut text = [0; 256];
    let bytes = socket.recv(&mut text).expect("the agent says something");
    String::from_utf8_lossy(&text[..bytes]).trim_end().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_manager_is_told_when_the_agent_answers_and_when_it_ends() {
    let setup = Setup::new(NOWHERE);
    let path = setup.folder().join("notify");
    let socket = UnixDatagram::bind(&path).expect("the folder is ours");
    socket.set_read_timeout(Some(TOLD_MAX)).expect("it is a time");
    let mut agent = setup.env("NOTIFY_SOCKET", &path.display().to_string()).start().await;
    assert_eq!(told(&socket), "READY=1");
    agent.terminate();
    assert_eq!(told(&socket), "STOPPING=1");
    assert!(agent.exit().await.success());

    // One that is gone is no reason to end.
    drop(socket);
    let nobody = Setup::new(NOWHERE).env("NOTIFY_SOCKET", &path.display().to_string()).start().await;
    wait::until_true("the agent to say so", TOLD_MAX, || {
        nobody.log().contains("the service manager could not be told")
    })
    .await;
}
