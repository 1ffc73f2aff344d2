//! The registry front over HTTP: a real agent, an upstream that is scripted to the byte, and a client that sees what
//! comes over the wire. The names of the rows (C3, D5, L4, ...) are those of the contract.

mod contract;
mod credentials;
mod flights;
mod identity;
mod ranges;
mod tags;
mod transfers;

use shoal_tests::agent::Agent;
use shoal_tests::http::Client;
use shoal_tests::origin::Origin;

/// The repository that most tests use.
const REPOSITORY: &str = "team/app";

/// Bytes that may be received twice for each interruption: what had left the origin and was still on its way.
const WINDOW_BYTES: u64 = 6 << 20;

/// An origin, an agent in front of it, and a client.
struct Stand {
    origin: Origin,
    agent: Agent,
    client: Client,
}

impl Stand {
    async fn new() -> Self {
        let origin = Origin::start().await;
        let agent = Agent::start(&origin.url()).await;
        Stand { origin, agent, client: Client::new() }
    }

    /// With more settings than the origin's address.
    async fn with(change: impl FnOnce(shoal_tests::agent::Setup) -> shoal_tests::agent::Setup) -> Self {
        let origin = Origin::start().await;
        let agent = change(shoal_tests::agent::Setup::new(&origin.url())).start().await;
        Stand { origin, agent, client: Client::new() }
    }
}
